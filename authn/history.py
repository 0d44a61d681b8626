"""The files this one was made from: what was recorded then, and what we find now.

C2PA 2.2, 15.11. The SDK reports a tampered parent only inside the ingredient's
own record; here it is a problem of the whole history.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from authn import cose, jumbf
from authn.attached import later_tokens
from authn.binding import CONTENT_MATCHES, CONTENT_MISMATCHES
from authn.claim import mismatches, redactions, taken_out
from authn.errors import Error
from authn.evidence import Code, Credentials, Finding, History, Signer, Step, Window
from authn.manifest import Reading, UnverifiedIngredient, UnverifiedManifest
from authn.plain import plain
from authn.signer import Lists, certificate_facts, check_signer, check_time, nobody

_SIGNER_CODES = ("signingCredential.", "cawg.", "timeStamp.")

MAX_STEPS = 500
MAX_GENERATIONS = 30
MAX_THUMBNAIL = 1 << 20
UNTOLD = "content-check-not-recorded"


def is_fault(code: str) -> bool:
    """Every code but those we judge ourselves: who signed, when, and whether the content matches."""
    return not code.startswith(_SIGNER_CODES) and code not in CONTENT_MISMATCHES


@dataclass(slots=True)
class _Past:
    """What is needed to judge ingredients, however deep; `left` bounds the work over the whole tree."""

    boxes: dict[str, jumbf.ManifestBoxes]
    manifests: dict[str, UnverifiedManifest]
    redacted: frozenset[str]
    lists: Lists
    at: datetime
    recognised: set[str]
    """The manifests whose signers are on a list, and whose pictures may be shown."""
    left: int = MAX_STEPS


def check_history(
    reading: Reading, boxes: tuple[jumbf.ManifestBoxes, ...], lists: Lists, at: datetime, signer: Signer
) -> tuple[History, tuple[Step, ...], Finding]:
    """State, tree and finding of the history of the active manifest, whose own signer is as `signer` says."""
    past = _Past(
        {box.label: box for box in boxes},
        {manifest.label: manifest for manifest in reading.manifests},
        redactions(boxes),
        lists,
        at,
        {reading.active or ""} if signer is Signer.RECOGNISED else set(),
    )
    steps = _steps(past, reading.active or "", ())
    every = tuple(_flatten(steps))
    recomputed = [status.code for status in reading.history_failures if _is_problem(status.code)]
    problems = [problem for step in every for problem in step.problems] + recomputed
    state, finding = _state(every, problems)
    return state, steps, finding


def _state(every: tuple[Step, ...], problems: list[str]) -> tuple[History, Finding]:
    if problems:
        named = plain(", ".join(sorted(set(problems))), 160)
        return History.PROBLEM, Finding.fails(
            Code.HISTORY_INTACT, f"an earlier version does not check out ({named})"
        )
    without = sum(step.credentials is Credentials.NONE for step in every)
    untold = sum(UNTOLD in step.notes for step in every)
    match without, len(every):
        case _, all_ if untold:
            said = (
                f"of {untold} of {all_} earlier versions nobody recorded whether they matched their records"
            )
            return History.PARTIAL, Finding.holds(Code.HISTORY_INTACT, said)
        case 0, 0:
            state, text = History.NONE, "no earlier version is recorded"
        case 0, _:
            state, text = History.COMPLETE, "every earlier version carries a record that checks out"
        case some, all_ if some == all_:
            state, text = History.STARTS_WITHOUT, "the record starts with a file that carried no credentials"
        case _:
            state, text = History.PARTIAL, "some earlier versions carried no credentials"
    return state, Finding.holds(Code.HISTORY_INTACT, text)


def _flatten(steps: tuple[Step, ...]) -> Iterable[Step]:
    for step in steps:
        yield step
        yield from _flatten(step.steps)


def _is_problem(code: str) -> bool:
    return is_fault(code) or code in CONTENT_MISMATCHES


def _steps(past: _Past, label: str, below: tuple[str, ...]) -> tuple[Step, ...]:
    manifest = past.manifests.get(label)
    if manifest is None or not manifest.ingredients:
        return ()
    if label in below:
        return (_unfollowed("the record's own beginning", "history-goes-in-circles"),)
    if len(below) >= MAX_GENERATIONS:
        return (_unfollowed("earlier versions", "history-too-deep"),)
    found: list[Step] = []
    for item in manifest.ingredients:
        past.left -= 1
        if past.left < 0:
            found.append(_unfollowed("more files", "history-too-long"))
            break
        found.append(_step(past, item, (*below, label)))
    return tuple(found)


def _unfollowed(title: str, problem: str) -> Step:
    """A part of the tree that is there and was not looked at, which is never the same as sound."""
    return Step(title, "unknown", Credentials.UNREADABLE, recomputed=(problem,))


def _step(past: _Past, ingredient: UnverifiedIngredient, below: tuple[str, ...]) -> Step:
    step = Step(
        ingredient.title,
        ingredient.relationship,
        Credentials.NONE,
        tuple(dict.fromkeys(code for code in ingredient.recorded_failures if _is_problem(code))),
        thumbnail=_thumbnail(past, below[-1], ingredient),
    )
    if ingredient.manifest is None:
        return step
    # C2PA 2.2, 10.3.2.2: whoever opened the file had to check it; without a recorded match nobody did.
    found: list[str] = []
    if not any(code in CONTENT_MATCHES for code in ingredient.recorded_passes):
        if not ingredient.told and _records_failures_only(past, below[-1]):
            step = replace(step, notes=(UNTOLD,))
        else:
            found.append("content-never-checked")
    boxes = past.boxes.get(ingredient.manifest)
    if boxes is None:
        return replace(step, credentials=Credentials.ELSEWHERE, recomputed=(*found, "record-missing"))
    try:
        signed = cose.parse(boxes.signature, boxes.claim)
    except Error:
        return replace(step, credentials=Credentials.UNREADABLE, recomputed=(*found, "record-unreadable"))
    valid = signed.verifies(boxes.claim)
    lists = past.lists.with_answers(signed.answers)
    time = check_time(signed, later_tokens(tuple(past.boxes.values()), boxes.label), lists, past.at)
    signer = check_signer(signed.chain, lists, time.signature.not_after, past.at) if valid else nobody()
    found += sorted(set(mismatches(boxes, past.redacted)))
    if not valid:
        found.append("signature-broken")
    if signer.state is Signer.REVOKED:
        found.append("signer-revoked")
    elif signer.state is not Signer.RECOGNISED:
        found.append("signer-not-recognised")
    elif not found:
        past.recognised.add(boxes.label)
    return replace(
        step,
        credentials=Credentials.PRESENT,
        recomputed=tuple(found),
        signer=certificate_facts(signed.chain[0]),
        recognised=signer.state is Signer.RECOGNISED,
        signer_list=signer.list,
        time=time.signature if valid else Window(),
        revocation=signer.revocation,
        redacted=taken_out(tuple(past.boxes.values()), boxes.label),
        steps=_steps(past, boxes.label, below),
    )


def _records_failures_only(past: _Past, owner: str) -> bool:
    """Whether the ingredients of `owner` have a place for what failed and none for what held (C2PA 1.x).

    Such a record is silent where all was well. Silence is not taken for a check: the history is then partial.
    """
    return owner in past.boxes and past.boxes[owner].claim_label == "c2pa.claim"


def _thumbnail(past: _Past, owner: str, ingredient: UnverifiedIngredient) -> bytes | None:
    """The picture that the manifest `owner` keeps of an ingredient, if its signer is recognised."""
    if ingredient.thumbnail is None or owner not in past.recognised or owner not in past.boxes:
        return None
    return past.boxes[owner].embedded(ingredient.thumbnail, MAX_THUMBNAIL)
