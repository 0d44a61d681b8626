"""What was found, in plain words: the lines that the text and the page of a report share.

What somebody else wrote stands between isolates (Unicode UAX 9), after everything
that could hide or reorder text was taken out of it and it was cut to a length: no
name can change how the words around it read, or pass for one of them. Does not
escape; the page does.
"""

from collections.abc import Iterator

from authn.evidence import (
    Claims,
    Code,
    Content,
    Credentials,
    Custody,
    Finding,
    History,
    Identity,
    Panel,
    Provenance,
    Revocation,
    RevocationFacts,
    Signature,
    Signer,
    Step,
)
from authn.plain import plain
from tools.report import NO_ESTIMATE, Acceptance, Estimate, Report, iso, iso_no_later, signer_name, speaker
from tools.verdict import Ledger

Line = tuple[str, str]
"""A label, or none where the line continues the one before, and a sentence."""

MAX_LISTED = 20
"""Of one kind, in one place; the JSON has them all."""
ISOLATE, END = "\u2068", "\u2069"


def theirs(text: str | None, limit: int = 300) -> str:
    """Somebody else's words on one line, set apart from ours."""
    return f"{ISOLATE}{plain(text or '', limit)}{END}"


# --- Proven


def proven_lines(report: Report) -> tuple[Line, ...]:
    """Label and sentence of each proven fact, best evidence first."""
    found, recorded = report.verdict.provenance, report.verdict.recorded
    if found is None:
        return ()
    lines: list[Line] = []
    if found.credentials is Credentials.PRESENT:
        lines.append(("content", found.content.value if found.content else "not known"))
        lines.append(("signature", found.signature.value if found.signature else "not known"))
        lines.append(("signer", _signer_line(report)))
        lines.append(("time", _time_line(report)))
        if found.claim_time.not_after is not None:
            lines.append(("claim time", _claim_time_line(report)))
        lines.append(("history", _history_line(found)))
        if found.redacted:
            lines.append(("", f"taken out of the record later: {_listed(found.redacted)}"))
        lines.append(("revocation", revocation_line(found.revocation)))
    lines += [("", theirs(finding.explanation, 1000)) for finding in found.findings if _worth_a_line(finding)]
    if recorded.state is not Ledger.NOT_CHECKED:
        why = "".join(f": {theirs(finding.explanation, 1000)}" for finding in recorded.findings[:1])
        logged = f", logged {iso(recorded.logged_at)}" if recorded.logged_at else ""
        lines.append(("ledger", f"{recorded.state.value}{why}{logged}"))
    if recorded.place is not None:
        lines.append(("chain", theirs(recorded.place, 1000)))
    if found.credentials is Credentials.PRESENT:
        lines.append(("custody", _CUSTODY[recorded.custody]))
    return tuple(lines)


_CUSTODY = {
    None: "no evidence of where the key is kept",
    Custody.E0: "E0: a key in software, which can be copied",
    Custody.E1: "E1: a key in hardware, by the operator's word alone",
    Custody.E2: "E2: a key proven to be in hardware",
    Custody.E3: "E3: a key proven to be in hardware, used by a known application on a locked system",
}
_SAID_ALREADY = frozenset(
    {
        Code.CREDENTIALS_PRESENT,
        Code.HISTORY_INTACT,
        Code.REVOCATION_CHECKED,
        Code.SIGNATURE_VALID,
        Code.TIME_PROVEN,
    }
)


def _worth_a_line(finding: Finding) -> bool:
    """Findings that the lines above, or the headline, already state are not said twice."""
    return not finding.passed and finding.panel is Panel.PROVEN and finding.code not in _SAID_ALREADY


def _history_line(found: Provenance) -> str:
    """The finding's own sentence, which alone says why a history is not complete."""
    if found.history is History.PROBLEM:  # the steps below name what is wrong, and of which version
        return "an earlier version does not check out"
    said = next((each.explanation for each in found.findings if each.code is Code.HISTORY_INTACT), None)
    return found.history.value if said is None else theirs(said, 1000)


def _signer_line(report: Report) -> str:
    found = report.verdict.provenance
    if found is None or found.signer is None or found.certificate is None:
        return "not known"
    name, organisation = found.certificate.name, found.certificate.organisation
    named = f"{theirs(name or 'no name')} of {theirs(organisation or 'no organisation')}"
    if found.signer is Signer.RECOGNISED:
        return f"{named}, on the list {theirs(found.signer_list)}"
    # A time may well be proven, and lie after the certificate's end.
    state = (
        "out of date, and no time is proven at which the certificate was valid"
        if found.signer is Signer.EXPIRED_TIME_UNPROVEN
        else found.signer.value
    )
    return f"{state} (calls itself {named})"


def _time_line(report: Report) -> str:
    found = report.verdict.provenance
    if found is None or (found.time.not_after is None and found.time.not_before is None):
        return "no proven time"
    window = found.time
    since = (
        f"not before {iso(window.not_before)} ({theirs(window.source_before)})" if window.not_before else ""
    )
    until = (
        f"no later than {iso_no_later(window.not_after)} ({theirs(window.source)})"
        if window.not_after
        else ""
    )
    return "signed " + " and ".join(side for side in (since, until) if side)


def _claim_time_line(report: Report) -> str:
    """The older kind of token is over the claim, not the signature (C2PA 2.2, 10.3.2.5).

    The claim holds the content's hash: only of content that has that hash is anything said.
    """
    found = report.verdict.provenance
    window = found.claim_time if found else None
    if found is None or window is None or window.not_after is None:
        return "no proven time"
    held = found.content is Content.INTACT and found.signature is Signature.VALID
    what = "the claim, and so the content," if held else "the claim"
    source = f"token over the claim, {theirs(window.source)}" if window.source else "token over the claim"
    return (
        f"{what} existed no later than {iso_no_later(window.not_after)} ({source});"
        " when it was signed is not proven by it"
    )


def revocation_line(facts: RevocationFacts) -> str:
    """Whether a certificate was withdrawn, and whose word that is; where nobody was asked, no more than that."""
    if facts.state is Revocation.NOT_CHECKED and facts.explanation == RevocationFacts().explanation:
        return facts.state.value
    unasked = facts.state is Revocation.GOOD and not facts.complete and _UNKNOWN not in facts.explanation
    return f"{facts.state.value}: {theirs(facts.explanation, 1000)}{_ABOVE if unasked else ''}"


_UNKNOWN = "nothing is known about"
_ABOVE = "; not everything is known about the authorities above it"


def _listed(texts: tuple[str, ...]) -> str:
    return ", ".join([*(theirs(text, 120) for text in texts[:MAX_LISTED]), *_more(len(texts))])


def _more(number: int) -> list[str]:
    return [f"and {number - MAX_LISTED} more"] if number > MAX_LISTED else []


# --- Earlier versions


def relationship(step: Step) -> str:
    """How a file was used, in plain words."""
    return _RELATIONSHIPS.get(step.relationship, theirs(step.relationship, 60))


def step_state(step: Step) -> str:
    """One of four: what has no record, or is not told, is a gap and never an accusation."""
    if step.problems:
        return "does not check out"
    if step.credentials is Credentials.NONE:
        return "carried no credentials"
    return "not fully known" if step.notes else "checks out"


def step_signer(step: Step) -> str:
    """Who signed an earlier version; a name only where a list recognises it."""
    if step.signer is None:
        return ""
    if not step.recognised:
        return "signed by an unrecognised signer"
    return f"signed by {theirs(signer_name(step.signer))}, on the list {theirs(step.signer_list)}"


def step_time(step: Step) -> str:
    """By when an earlier version was signed, if that is proven."""
    if step.time.not_after is None:
        return ""
    return f"signed no later than {iso_no_later(step.time.not_after)} ({theirs(step.time.source)})"


def step_details(step: Step) -> tuple[str, ...]:
    """What else is known of an earlier version; no word of revocation where nobody was asked."""
    lines = [step_signer(step), step_time(step)]
    if step.signer is not None and step.revocation != RevocationFacts():
        lines.append(f"revocation: {revocation_line(step.revocation)}")
    if step.redacted:
        lines.append(f"taken out of its record later: {_listed(step.redacted)}")
    lines += [in_words(note) for note in step.notes]
    return tuple(line for line in lines if line)


def step_problems(step: Step) -> tuple[str, ...]:
    """In plain words, each with who found it: the signer who used the file, or this check."""
    told = [f"{in_words(code)}, {_finder(step, code)}" for code in step.problems[:MAX_LISTED]]
    return (*told, *_more(len(step.problems)))


def _finder(step: Step, code: str) -> str:
    if code not in step.recomputed:
        return "noted by whoever used it"
    return "noted by whoever used it and found again" if code in step.recorded else "found by this check"


def step_lines(steps: tuple[Step, ...], depth: int = 0) -> Iterator[str]:
    """One line for each earlier version, indented by generation."""
    for step in steps:
        problems = [in_words(code) for code in step.problems[:MAX_LISTED]] + _more(len(step.problems))
        state = ": ".join(filter(None, (step_state(step), ", ".join(problems))))
        told = "; ".join((state, *step_details(step)))
        yield f"{'  ' * depth}- {theirs(step.title)} ({relationship(step)}) {told}"
        yield from step_lines(step.steps, depth + 1)


_RELATIONSHIPS = {
    "parentOf": "the version before",
    "componentOf": "a part placed into it",
    "inputTo": "an input to making it",
}


# --- The signer says


def claimed_lines(report: Report) -> tuple[Line, ...]:
    """What the signer says, in the signer's name, and where it does not go together."""
    found = report.verdict.provenance
    if found is None or found.credentials is not Credentials.PRESENT:
        return ()
    said = _terms((*found.claims.actions, *found.claims.source_types)) or "nothing about how it was made"
    return (
        ("claimed", f"{theirs(speaker(report.verdict))} says: {said}"),
        *(("", f"{label}: {text}") for label, text in _besides(found.claims)),
        *(("at odds", theirs(each.sentence, 1000)) for each in report.contradictions),
        *(("identity", identity_line(identity)) for identity in found.identities),
    )


def said_lines(report: Report) -> Iterator[Line]:
    """What the signer says, one subject a line: how the file was made, then only what else there is."""
    found = report.verdict.provenance
    if found is None:
        return
    claims = found.claims
    yield "actions", _terms(claims.actions) or "no action is stated"
    yield "source", _terms(claims.source_types) or "not stated"
    for label, text in (
        ("title", claims.title),
        ("when", claims.claimed_at),
        ("written with", claims.generator),
    ):
        if text is not None:
            yield label, theirs(text)
    yield from _besides(claims)


def _besides(claims: Claims) -> Iterator[Line]:
    """What else the signer says than how the file was made: only what there is."""
    for label, text in (("device", claims.device), ("place", claims.place), ("author", claims.author)):
        if text is not None:
            yield label, theirs(text)
    for label, texts in (
        ("captured", claims.capture_times),
        ("training", claims.training),
        ("passed on, not made by the signer", claims.gathered),
    ):
        if texts:
            yield label, _listed(texts)
    if claims.left_out:
        yield "not repeated here", f"{claims.left_out} statements, too many, too long or not readable"


def identity_line(identity: Identity) -> str:
    """Somebody who signed beside the claim's signer, and for what; a name counts only on a list."""
    name = identity.name or identity.organisation
    of = f" of {theirs(identity.organisation)}" if identity.name and identity.organisation else ""
    if identity.list is not None and identity.problem is None:
        who = f"{theirs(name or 'a holder without a name')}{of}, on the list {theirs(identity.list)}"
        return f"also signed by {who}, {_covered(identity)}"
    who = f"somebody who goes by the name {theirs(name)}{of}" if name else "somebody who is not named"
    return f"{who}: not recognised{f' ({theirs(identity.problem)})' if identity.problem else ''}"


def _covered(identity: Identity) -> str:
    """An identity is nobody's word for a statement that it does not refer to."""
    others = sum(not label.startswith("c2pa.hash.") for label in identity.covers)
    if not others:
        return "for the media's hash alone, not for what is said of it"
    return f"for the media's hash and {others} of the record's statements"


# --- Estimates


def estimate_line(estimate: Estimate) -> str:
    """What a detector says, and that it changes nothing."""
    if estimate == NO_ESTIMATE:
        return "no detector was run; an estimate could not change what is proven"
    return f"{estimate.state.value} ({theirs(estimate.reason)}); it changes nothing of what is proven"


# --- The policy and the examination itself


def policy_lines(acceptance: Acceptance | None) -> tuple[Line, ...]:
    """Whether somebody's policy is met, and what it lacks."""
    if acceptance is None:
        return ()
    met = "met" if acceptance.met else "not met"
    return (
        ("policy", f"{theirs(acceptance.name)}, SHA-256 {acceptance.sha256.hex()}: {met}"),
        *(("", theirs(finding.explanation, 1000)) for finding in acceptance.findings if not finding.passed),
    )


def note_lines(report: Report) -> tuple[Line, ...]:
    """What somebody must know of the examination itself, such as a list that is out of date."""
    return tuple(
        ("note", theirs(finding.explanation, 1000))
        for finding in report.notes
        if finding.panel is Panel.PROVEN and (not finding.passed or finding.code is Code.CREDENTIALS_PRESENT)
    )


# --- Terms


def _terms(terms: tuple[str, ...]) -> str:
    return ", ".join([*map(in_words, terms[:MAX_LISTED]), *_more(len(terms))])


def in_words(term: str) -> str:
    """A term of the standard, or a problem's code, in plain words with the term itself."""
    return f"{_WORDS[term]} ({term})" if term in _WORDS else theirs(term, 120)


# What signers say most, and what goes wrong with earlier versions
# (C2PA 2.2, 15.2.2 and 18.14; IPTC digital source types; the rest are our own codes).
_WORDS = {
    "c2pa.created": "created",
    "c2pa.opened": "opened",
    "c2pa.placed": "placed into another",
    "c2pa.edited": "edited",
    "c2pa.cropped": "cropped",
    "c2pa.color_adjustments": "colours adjusted",
    "c2pa.resized": "resized",
    "c2pa.published": "published",
    "digitalCapture": "captured with a camera or recorder",
    "trainedAlgorithmicMedia": "made by generative AI",
    "compositeWithTrainedAlgorithmicMedia": "partly made by generative AI",
    "content-never-checked": "nobody recorded that its content matched its record",
    "content-check-not-recorded": "its record is of a kind that does not say whether its content was checked",
    "record-missing": "its record is not in the file",
    "record-unreadable": "its record cannot be read",
    "signature-broken": "its signature does not hold",
    "signer-revoked": "its signer was withdrawn",
    "signer-not-recognised": "its signer is on no list",
    "assertion-missing": "a statement that it names is missing",
    "assertion-differs": "a statement is not the one that was signed",
    "assertion-elsewhere": "it names a statement outside its own record",
    "assertion-named-twice": "it names a statement twice",
    "assertion-undeclared": "it holds a statement that it does not name",
    "history-goes-in-circles": "the history leads back to itself",
    "history-too-deep": "older versions were not looked at",
    "history-too-long": "the rest was not looked at",
    "assertion.dataHash.mismatch": "its content was changed",
    "assertion.bmffHash.mismatch": "its content was changed",
    "assertion.boxesHash.mismatch": "its content was changed",
    "assertion.collectionHash.mismatch": "its content was changed",
    "assertion.hashedURI.mismatch": "a statement is not the one that was signed",
    "assertion.missing": "a statement that it names is missing",
    "assertion.undeclared": "it holds a statement that it does not name",
    "assertion.inaccessible": "a statement cannot be reached",
    "assertion.notRedacted": "a statement that was to be taken out is still there",
    "assertion.selfRedacted": "it takes out a statement of its own",
    "assertion.action.redacted": "the list of its edits was taken out",
    "claim.missing": "its claim is missing",
    "claim.multiple": "it has more than one claim",
    "claim.hardBindings.missing": "nothing binds its record to its content",
    "claimSignature.missing": "its signature is missing",
    "claimSignature.mismatch": "its signature does not hold",
    "ingredient.hashedURI.mismatch": "its record is not the one that was named",
    "ingredient.manifest.mismatch": "its record is not the one that was named",
    "ingredient.manifest.missing": "its record is not in the file",
    "ingredient.claimSignature.mismatch": "its signature is not the one that was named",
    "hashedURI.mismatch": "something is not what was named",
    "hashedURI.missing": "something that was named is missing",
    "algorithm.unsupported": "it uses an algorithm that is not known",
    "general.error": "it could not be judged",
}
