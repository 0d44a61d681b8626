"""Check a receipt as a stranger would, years later: with the log's key, and no home and no network.

What holds is said line by line, with what it rests on. The time by which enough witnesses
cosigned counts, since they are in the policy one chose; the log's own time is the operator's
word. A time-stamp token that lies in the receipt is not judged here.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from authn.evidence import Content, Credentials, Signature
from authn.keys import verify_note
from authn.plain import plain
from storage import base64text
from storage.entry import Entry
from storage.errors import MalformedError, MalformedReceiptError, ProofError
from storage.note import Algorithm, VerifierKey
from storage.payload import parse
from storage.policy import Policy, open_witnessed
from storage.receipt import Receipt
from storage.receipt_cose import MAX_COSE_BYTES, CoseReceipt
from storage.tile import MAX_ENTRY_BYTES
from tools.check import Chosen, beliefs, bounded, check_files, log_keys, read_receipt
from tools.errors import MediaRefusedError, UsageError
from tools.verdict import Headline, Ledger, Verdict, exit_status, sentence

NOT_HELD = exit_status(Headline.NOT_CHECKED)
MAX_SHOWN_TIME = 253_402_300_799  # 9999-12-31T23:59:59Z
MAX_AHEAD = timedelta(hours=1)
"""How far a witness's clock may be ahead of ours and still be believed."""


def checked(
    path: Path, key: str, media: Path | None, policy: Policy | None, now: datetime
) -> tuple[list[str], int]:
    """Return what to say of the receipt at `path`, and the exit status: 0 if all that was asked holds.

    Media that nobody could read is an error, and no statement about the receipt.
    """
    keys, receipt = log_keys(key), read_receipt(path)
    lines: list[str] = []
    try:
        lines += _recorded(receipt, keys)
        lines += _witnessed(receipt, keys, policy, now)
    except (ProofError, MalformedError) as error:
        return [*lines, f"does not hold  {error} ({error.code})", f"next           {error.remedy}"], NOT_HELD
    if media is None:
        return [*lines, "media          not compared: none was given"], 0
    with beliefs(None, Chosen(log_key=key), now) as held:
        ((report, _),) = check_files([str(media)], held, receipt)
    verdict = report.verdict
    if verdict.obstacle is not None:
        raise MediaRefusedError(verdict.obstacle.reason, verdict.obstacle.code, verdict.obstacle.remedy)
    said = "; ".join(finding.explanation for finding in verdict.recorded.findings)
    if verdict.recorded.state not in (Ledger.INCLUDED, Ledger.SIMILAR):
        return [
            *lines,
            f"does not hold  {said or 'the media could not be compared with the receipt'}",
        ], NOT_HELD
    if not _unchanged(verdict):
        changed = f"{sentence(verdict.headline)} [{verdict.headline.value}]"
        return [*lines, f"media          {said}", f"does not hold  {changed}"], NOT_HELD
    return [*lines, f"media          {said}"], 0


def checked_cose(path: Path, key: str, entry: Path) -> tuple[list[str], int]:
    """Return what to say of a COSE receipt in base64, for the entry whose body is in a file; status as above."""
    # An ML-DSA-44 key signs none of these, so a log's other key may be given beside it.
    keys = [each for each in log_keys(key) if each.algorithm is Algorithm.ED25519]
    if not keys:
        raise UsageError("a COSE receipt is checked with the log's Ed25519 key")
    text, body = bounded(path, 2 * MAX_COSE_BYTES, "COSE receipt"), bounded(entry, MAX_ENTRY_BYTES, "entry")
    receipt = CoseReceipt.parse(_decoded(text.removesuffix(b"\n")))
    recorded = Entry.parse(body.removesuffix(b"\n"))
    signer = next((each for each in keys if each.key_id == receipt.key_id), keys[0])
    try:
        root = receipt.check(recorded, signer, verify_note)
    except ProofError as error:
        return [f"does not hold  {error} ({error.code})", f"next           {error.remedy}"], NOT_HELD
    return [
        f"recorded       in the tree of {receipt.origin} with the root {root.hex()}: proven",
        *_of_entry(recorded),
        f"index          {receipt.index} in a tree of {receipt.size}, by the word of whoever made the receipt",
        "payload        not in a COSE receipt, nor the salt that opens the entry",
        "token          none: a COSE receipt holds none",
        "witnesses      not in a COSE receipt; others may be shown another log",
    ], 0


def _decoded(text: bytes) -> bytes:
    try:
        return base64text.decode(text.decode("ascii"))
    except ValueError as error:
        raise MalformedReceiptError("The text is not a COSE receipt in base64.") from error


def _of_entry(entry: Entry) -> Iterator[str]:
    yield f"kind           {entry.kind.value}"
    yield f"logged         {entry.logged_at:%Y-%m-%dT%H:%M:%SZ}, by the operator's own clock"


def _unchanged(verdict: Verdict) -> bool:
    """Whether the media is what was signed: an entry names a signature, which goes along when content is changed."""
    found = verdict.provenance
    if found is None or found.credentials is not Credentials.PRESENT:
        return found is not None  # then the entry names the very bytes
    return (found.content, found.signature) == (Content.INTACT, Signature.VALID)


def _recorded(receipt: Receipt, keys: tuple[VerifierKey, ...]) -> Iterator[str]:
    checkpoint = receipt.check(keys, verify_note)
    yield f"recorded       entry {receipt.proof.index} of {checkpoint.origin}, in a tree of {checkpoint.size}: proven"
    yield from _of_entry(receipt.entry)
    for field, value in sorted(parse(receipt.payload).items()):
        yield f"payload        {plain(field, 100)} {plain(str(value), 300)}"
    yield f"token          {'kept with it, not judged here' if receipt.token else 'none'}"


def _witnessed(
    receipt: Receipt, keys: tuple[VerifierKey, ...], policy: Policy | None, now: datetime
) -> Iterator[str]:
    if policy is None:
        yield "witnesses      not checked: no policy was given; others may be shown another log"
        return
    about = policy.about(keys)
    witnessed = open_witnessed(receipt.proof.note, about, verify_note)
    names = {witness.key: witness.name for witness in about.witnesses}
    latest = int((now + MAX_AHEAD).timestamp())
    for cosigner in witnessed.cosigners:
        stated = _moment(cosigner.at) if cosigner.at else "no time stated"
        ahead = ", ahead of the clock here and left out of the time" if cosigner.at > latest else ""
        yield f"witnessed      by {plain(names[cosigner.key], 300)}, {stated}{ahead}"
    if about.quorum is None:
        yield "witnesses      the policy asks for none; others may be shown another log"
        return
    at = about.satisfied_at([cosigner for cosigner in witnessed.cosigners if cosigner.at <= latest])
    if at is None:
        yield "not after      unknown: too few of these witnesses state a time that can be believed"
    else:
        yield f"not after      {_moment(at)}, when enough of these witnesses had cosigned"


def _moment(at: int) -> str:
    """A witness may state any time up to 2^63 - 1, and a calendar ends before that."""
    if at > MAX_SHOWN_TIME:
        return f"{at} seconds after 1970"
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"
