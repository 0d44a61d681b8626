"""What a code means, for a person who has to act on it.

Every finding, headline and error has its own text. A text says what a code stands
for, never more than the check behind it proves.
"""

import contextlib
import difflib
import importlib
import inspect
from collections.abc import Iterator

import authn.errors
import detector.errors
import storage.errors
import tools.errors
from authn.evidence import Code
from authn.plain import plain
from tools.verdict import Headline, exit_status, not_proven, sentence

# Where errors live; those that speak to tokens and services need a package that may not be installed.
_RAISING = (
    "authn.approval",
    "authn.attestation.status_list",
    "authn.capture_chain",
    "authn.cbor",
    "authn.cose",
    "authn.csr",
    "authn.custody.executable",
    "authn.custody.external",
    "authn.custody.kms",
    "authn.custody.pkcs11",
    "authn.errors",
    "authn.http_signature",
    "authn.jumbf",
    "authn.locate",
    "authn.sealing",
    "authn.timestamp.authority",
    "authn.timestamp.relay",
    "authn.timestamp.request",
    "authn.withdrawal",
    "detector.errors",
    "storage.backup.read",
    "storage.backup.write",
    "storage.cosignature",
    "storage.errors",
    "storage.foreign.follow",
    "storage.foreign.proven",
    "storage.foreign.source",
    "storage.guard",
    "storage.keyring",
    "storage.log_add",
    "storage.log_app",
    "storage.policy",
    "storage.registry.errors",
    "storage.sequencer",
    "storage.tile",
    "storage.witness.client",
    "storage.witness.memory",
    "tools.acceptance",
    "tools.camera.folder",
    "tools.camera.queue",
    "tools.camera.take",
    "tools.camera.upload",
    "tools.ceremony",
    "tools.errors",
    "tools.intake",
    "tools.intake_app",
    "tools.intake_errors",
    "tools.issuance.errors",
    "tools.issuance.judge_again",
    "tools.log_server",
    "tools.online",
    "tools.postgres",
    "tools.publisher",
    "tools.revoking",
    "tools.rotation",
    "tools.softhsm",
    "tools.stamping",
    "tools.swtpm",
    "tools.time_app",
    "tools.time_server",
    "tools.trust",
    "tools.trust_bundle",
)
_Kind = type[authn.errors.Error | detector.errors.Error | storage.errors.Error | tools.errors.Error]
_BASES: tuple[_Kind, ...] = (
    authn.errors.Error,
    detector.errors.Error,
    storage.errors.Error,
    tools.errors.Error,
)
_NEAREST = 3


class UnknownCodeError(tools.errors.UsageError):
    """No finding, headline or error has this code."""

    code = "code-unknown"
    remedy = "Copy the code as the report prints it, such as time.proven, NO_CREDENTIALS or home-missing."


def explain(code: str) -> str:
    """What `code` means when it holds, when it does not, and what to do."""
    texts = _texts()
    if code not in texts:
        raise UnknownCodeError(f"there is no code {plain(code, 80)!r}{_instead(code, list(texts))}")
    return texts[code]


def codes() -> tuple[str, ...]:
    """Every code that can be explained, sorted."""
    return tuple(sorted(_texts()))


def _instead(code: str, known: list[str]) -> str:
    by_shape = {name.lower().replace("_", "-"): name for name in known}
    near = difflib.get_close_matches(code[:80].lower().replace("_", "-"), by_shape, _NEAREST, 0.6)
    return f"; did you mean {' or '.join(by_shape[name] for name in near)}?" if near else ""


def _texts() -> dict[str, str]:
    for name in _RAISING:
        with contextlib.suppress(ImportError, authn.errors.ProviderMissingError):
            importlib.import_module(name)
    return (
        _errors()
        | {head.value: _headline(head) for head in Headline}
        | {code.value: _FINDINGS[code] for code in Code}
    )


def _headline(head: Headline) -> str:
    return (
        f"{sentence(head)}. {_HEADLINES[head]}"
        f" It does not say: {'; '.join(not_proven(head))}."
        f" The exit status of 'verify' is {exit_status(head)}."
    )


def _errors() -> dict[str, str]:
    """Errors explain themselves, by the docstring and the remedy beside their code."""
    found: dict[str, list[str]] = {}
    for kind in (kind for base in _BASES for kind in _kinds(base)):
        text = f"{_first_paragraph(kind)} What to do: {kind.remedy}"
        if text not in found.setdefault(kind.code, []):
            found[kind.code].append(text)
    return {
        code: f"This is an error, not a finding: it says nothing about what a file is. {' Or: '.join(texts)}"
        for code, texts in found.items()
    }


def _kinds(base: _Kind) -> Iterator[_Kind]:
    if "code" in base.__dict__:
        yield base
    for kind in base.__subclasses__():
        yield from _kinds(kind)


def _first_paragraph(kind: _Kind) -> str:
    return " ".join(inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].split())


_FINDINGS = {
    Code.CREDENTIALS_PRESENT: (
        "The file carries a signed record (a C2PA manifest store). "
        "When this fails, there is none in the file, or it is kept at an address that was not contacted. "
        "A missing record says nothing about the picture: most files have none, and many sites remove it. "
        "Ask the sender for the file as it left the camera or the editor."
    ),
    Code.CREDENTIALS_READABLE: (
        "Two independent readers could take the signed record apart and agree on its parts. "
        "When this fails, the record is damaged, over a limit, or built so that readers disagree,"
        " and none of its statements is repeated. "
        "Ask for the original file; if it fails again, treat the file as hostile."
    ),
    Code.ASSERTIONS_MATCH: (
        "Every statement in the record is byte for byte the one that the signed claim names. "
        "When this fails, a statement was exchanged, added or removed after signing,"
        " or a mandatory one is missing, and the signature counts as broken. "
        "Do not repeat anything that the record says; ask for the original."
    ),
    Code.CONTENT_MATCHES: (
        "The media is, as far as the binding reaches, the one that was signed: its hash was computed again and fits. "
        "When this fails, the media was edited, saved anew, damaged, or paired with a foreign record. "
        "The check cannot tell which, nor whether it matters. "
        "Compare the file with the sender's original."
    ),
    Code.CONTENT_COVERED: (
        "The signature's hash leaves out nothing but the record itself. "
        "When this fails, parts of the file may be exchanged without breaking the signature,"
        " so what stands there is nobody's word. "
        "Read the sentence beside the finding for where the gap is, and rely on nothing inside it."
    ),
    Code.SIGNATURE_VALID: (
        "The signature over the claim fits the key in the certificate that came with it. "
        "It shows that the key signed, not who holds the key; signer.chain is about that. "
        "When this fails, the claim was altered or the signature was taken from elsewhere. "
        "Nothing the record says may then be put in the signer's name."
    ),
    Code.SIGNATURE_PADDING_EMPTY: (
        "The spare room beside the signature holds only zeros. "
        "When this fails, somebody stored bytes where no signature protects them;"
        " the rest of the record is not touched by that. "
        "Do not read anything from there; keep the file as it is if you want to find out who put them in."
    ),
    Code.TIME_PROVEN: (
        "A time-stamp token by an authority on the time-stampers' list dates the signature:"
        " it was made no later than the time shown. "
        "When this fails, no time is proven, and any time the file names is only its signer's statement. "
        "The sentence says what is wrong with the token. "
        "If you know its authority, put its certificate on the time-stampers' list and check again."
    ),
    Code.TIME_NOT_BEFORE: (
        "The claim holds a checkpoint of a log, which nobody could know before it was made:"
        " the signature is younger than that. "
        "When this fails, the checkpoint proves nothing, or contradicts another time;"
        " the other side of the window stands without it. "
        "A checkpoint that a log signed and never published means that the log, or its key, showed two histories:"
        " keep the file, and run 'lightseal ledger audit'."
    ),
    Code.SIGNER_CHAIN: (
        "The certificate was issued, step by step, by somebody on your list of signers. "
        "When this fails, we do not know the signer, and the name in the certificate is whatever its maker wrote. "
        "That is no sign of bad intent. "
        "If you know the issuer from a source of your own, add it with 'lightseal trust add'."
    ),
    Code.SIGNER_PROFILE: (
        "The certificate is of the kind that may sign media, by the profile its list asks for. "
        "When this fails, it was made for another purpose or breaks a rule, so the signature is rejected. "
        "The sentence names the rule. "
        "Ask the signer to sign with a certificate for claims; never relax the profile to make one file pass."
    ),
    Code.SIGNER_VALID_AT: (
        "The certificate was within its dates at the proven time, or at the moment of the check where none is proven. "
        "When this fails with a proven time, that time lies outside its dates; the signature may be older,"
        " but nothing proves that it was made within them. "
        "When it fails without one, nobody can say whether the signature is older than the certificate's end. "
        "Look for a time-stamp or a ledger receipt that dates the signature within them."
    ),
    Code.REVOCATION_CHECKED: (
        "The issuer's own word was found on whether the certificate was withdrawn,"
        " and the signature stands by it. "
        "When this fails, it was withdrawn, or nobody was asked, or the answer could not be used;"
        " the sentence says which. "
        "'Not checked' is not 'good': add the issuer's CRL or OCSP answer, or check again with --online."
    ),
    Code.HISTORY_INTACT: (
        "Every earlier version recorded in the file was judged again and nothing was found against it. "
        "When this fails, an earlier version was altered, its signer is not recognised, or it was never checked"
        " by whoever used it, however sound the latest signature is. "
        "Read the history tree for the step, and ask for that version."
    ),
    Code.HISTORY_CONNECTED: (
        "No record lies in the file beside those of its own history. "
        "When this fails, there are records that belong to nothing this file was made from;"
        " they were not judged and count for nothing. "
        "They may be left-overs of an editor; do not quote from them."
    ),
    Code.CAPTURE_CHAIN: (
        "Each device numbers its captures and links each to the one before, behind a commitment in the claim. "
        "Only the service that received them can open it; it then says which number this one has"
        " and which numbers never arrived. "
        "When this fails, captures are missing before or after it, or two contradict each other:"
        " see 'lightseal device captures NAME', and ask whoever held the device."
    ),
    Code.CUSTODY_STANDS: (
        "What the device showed about where its key is kept was judged again with the newest status lists. "
        "When this fails, it proves less than it did when the certificate was issued:"
        " its maker withdrew a certificate that the evidence rests on. "
        "The label shown is the lower one."
    ),
    Code.LEDGER_INCLUDED: (
        "A ledger entry about this signature, or about exactly these bytes, was proven to be in the log by its"
        " signed checkpoint. "
        "Its time is the log operator's word. "
        "When this fails, there is no such entry, its proof does not hold, or it is about something else;"
        " the sentence says which. "
        "Ask whoever signed for the receipt; if a proof does not hold, keep it and ask the log's operator."
    ),
    Code.MEDIA_WHOLE: (
        "The file ends where its format says, with nothing after the end. "
        "When this fails, bytes are missing or follow the end, where viewers do not look and other programs may. "
        "Some cameras leave such bytes; an attacker may too. "
        "Ask for the original, and do not open the remainder with other programs."
    ),
    Code.LISTS_CURRENT: (
        "The trust lists that were used are recent by their own date. "
        "When this fails, a list is old: a signer may be missing from it, or may have been taken off since. "
        "The verdict is as good as the list. "
        "Bring the lists up to date with 'lightseal trust' and check again."
    ),
    Code.CLAIMS_CONSISTENT: (
        "What the signer says agrees with itself, with the file's other metadata, and with the proven time. "
        "When this fails, two statements cannot both hold; that is no proof of deceit, since clocks and editors err. "
        "Neither statement is proven. "
        "Ask the signer which one is meant before you repeat either."
    ),
    Code.IDENTITY_RECOGNISED: (
        "A credential apart from the signer's also signed for the media's hash and for as many of the record's"
        " statements as the sentence counts, and its issuer is on your identity list. "
        "It is nobody's word for the other statements, which somebody else may have put beside it. "
        "When this fails, its issuer is not on the list or withdrew it, or it does not fit the record;"
        " the name in it is not repeated as a fact. "
        "The file's own signature is not touched by that. "
        "If you know the issuer, add it to the identity list with 'lightseal trust add'."
    ),
    Code.POLICY_MET: (
        "Every requirement of the policy file given with --policy is met. "
        "When this fails, one requirement is not; the sentence names it and what was found instead. "
        "The headline is the same with and without a policy. "
        "Get the missing evidence, or decide as your policy says; do not lower it for one file."
    ),
}

_HEADLINES = {
    Headline.INTACT_SIGNER_RECOGNISED: (
        "The media is the one that was signed, and the signer's certificate leads to your list. "
        "Name the signer and the list when you hand the file on."
    ),
    Headline.INTACT_SIGNER_UNKNOWN: (
        "The record holds, but anybody can make a certificate like this one. "
        "Do not repeat the signer's name as a fact; add the issuer to your list only if you know it otherwise."
    ),
    Headline.SIGNED_PARTLY_COVERED: (
        "Some bytes of the file could be exchanged without breaking the signature. "
        "Read the finding content.covered, and ask for a copy that is signed as a whole."
    ),
    Headline.SIGNED_HISTORY_PROBLEM: (
        "The last signature holds, but a version that this one was made from was altered or cannot be judged. "
        "Look at the history for the step, and ask for that version before you rely on the picture."
    ),
    Headline.SIGNER_EXPIRED_TIME_UNPROVEN: (
        "The certificate led to your list while it was in date, and nothing proves that the signature is that old. "
        "A time that is proven but lies after the certificate's end does not help. "
        "Look for a time-stamp or a receipt from before that; without one, treat the signer as unknown."
    ),
    Headline.SIGNER_REVOKED: (
        "The issuer withdrew the certificate, and nothing proves that the signature was made before that. "
        "Whoever stole the key could have signed this; ask the issuer for the reason and the date."
    ),
    Headline.SIGNER_REJECTED: (
        "The certificate was made for another purpose, or breaks a rule of the profile that your list asks for. "
        "Read the finding signer.profile for the rule, and ask for a copy signed as it should be."
    ),
    Headline.CHANGED_AFTER_SIGNING: (
        "The media or its record is no longer what was signed. "
        "Compare it with the sender's original to see what differs."
    ),
    Headline.MATCHES_RECORDED_CAPTURE: (
        "The record was taken out of this copy, but exactly these bytes were recorded when they were signed. "
        "Look up the entry, and ask its signer for the copy with the record."
    ),
    Headline.CREDENTIALS_ELSEWHERE: (
        "The file names an address where its record may be, and we contact no address that a file names. "
        "Ask the sender for the record itself, as a file."
    ),
    Headline.CREDENTIALS_UNREADABLE: (
        "There is a record, but it is damaged, over a limit, or built to confuse its readers. "
        "Ask for the original; a second damaged copy is reason for care."
    ),
    Headline.NO_CREDENTIALS: (
        "Most files were never signed, and many sites remove the record. "
        "Judge the picture by your other means, and ask the sender for the original."
    ),
    Headline.NOT_CHECKED: (
        "Something kept us from looking, and the report says what and how to mend it. "
        "Nothing was found for or against the file; mend it and check again."
    ),
}
