"""The files this one was made from: what was recorded then, and what we find now.

C2PA 2.2, 15.11. The SDK reports a tampered parent only inside the ingredient's
own record; here it is a problem of the whole history.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from authn import cose, jumbf
from authn.errors import Error
from authn.evidence import Code, Credentials, Finding, History, Signer, Step
from authn.manifest import Reading, UnverifiedIngredient, UnverifiedManifest
from authn.plain import plain
from authn.signer import Lists, certificate_facts, check_signer, check_time

_SIGNER_CODES = ("signingCredential.", "cawg.", "timeStamp.")


def is_fault(code: str) -> bool:
    """Codes about who signed, or when, are ours to judge; a hash mismatch is judged as content."""
    return not code.startswith(_SIGNER_CODES) and not code.endswith("Hash.mismatch")


@dataclass(frozen=True, slots=True)
class _Past:
    """What is needed to judge ingredients, however deep."""

    boxes: dict[str, jumbf.ManifestBoxes]
    manifests: dict[str, UnverifiedManifest]
    lists: Lists
    at: datetime


_MAX_STEPS = 200
_MAX_GENERATIONS = 30


def check_history(
    reading: Reading, boxes: tuple[jumbf.ManifestBoxes, ...], lists: Lists, at: datetime
) -> tuple[History, tuple[Step, ...], Finding]:
    """State, tree and finding of the history of the active manifest."""
    past = _Past(
        {box.label: box for box in boxes},
        {manifest.label: manifest for manifest in reading.manifests},
        lists,
        at,
    )
    steps = _steps(past, reading.active or "", frozenset())
    every = tuple(_flatten(steps))
    recomputed = [
        status.code
        for status in reading.history_failures
        if is_fault(status.code) or status.code.endswith("mismatch")
    ]
    problems = [problem for step in every for problem in step.problems] + recomputed
    if problems:
        return (
            History.PROBLEM,
            steps,
            Finding.fails(
                Code.HISTORY_INTACT,
                f"an earlier version does not check out ({plain(', '.join(sorted(set(problems))), 160)})",
            ),
        )
    if not every:
        return History.NONE, steps, Finding.holds(Code.HISTORY_INTACT, "no earlier version is recorded")
    without = [step for step in every if step.credentials is Credentials.NONE]
    if not without:
        return (
            History.COMPLETE,
            steps,
            Finding.holds(Code.HISTORY_INTACT, "every earlier version carries a record that checks out"),
        )
    if len(without) == len(every):
        return (
            History.STARTS_WITHOUT,
            steps,
            Finding.holds(Code.HISTORY_INTACT, "the record starts with a file that carried no credentials"),
        )
    return (
        History.PARTIAL,
        steps,
        Finding.holds(Code.HISTORY_INTACT, "some earlier versions carried no credentials"),
    )


def _flatten(steps: tuple[Step, ...]) -> Iterable[Step]:
    for step in steps:
        yield step
        yield from _flatten(step.steps)


def _steps(past: _Past, label: str, seen: frozenset[str]) -> tuple[Step, ...]:
    manifest = past.manifests.get(label)
    if manifest is None or label in seen or len(seen) >= _MAX_GENERATIONS:
        return ()
    return tuple(_step(past, item, seen | {label}) for item in manifest.ingredients[:_MAX_STEPS])


def _step(past: _Past, ingredient: UnverifiedIngredient, seen: frozenset[str]) -> Step:
    if ingredient.manifest is None:
        problems = tuple(code for code in ingredient.recorded_failures if is_fault(code))
        return Step(ingredient.title, ingredient.relationship, Credentials.NONE, problems)
    problems_found = [
        code for code in ingredient.recorded_failures if is_fault(code) or code.endswith("Hash.mismatch")
    ]
    if not any(code.endswith("Hash.match") for code in ingredient.recorded_passes):
        problems_found.append("content-never-checked")
    boxes = past.boxes.get(ingredient.manifest)
    if boxes is None:
        return Step(
            ingredient.title,
            ingredient.relationship,
            Credentials.ELSEWHERE,
            (*problems_found, "record-missing"),
        )
    try:
        signed = cose.parse(boxes.signature, boxes.claim)
    except Error:
        return Step(
            ingredient.title,
            ingredient.relationship,
            Credentials.UNREADABLE,
            (*problems_found, "record-unreadable"),
        )
    window, _, _ = check_time(signed, past.lists.time_stampers, past.at)
    signer, _ = check_signer(signed.chain, past.lists.signers, window.not_after, past.at)
    if not signed.verifies(boxes.claim):
        problems_found.append("signature-broken")
    if signer is not Signer.RECOGNISED:
        problems_found.append("signer-not-recognised")
    return Step(
        ingredient.title,
        ingredient.relationship,
        Credentials.PRESENT,
        tuple(problems_found),
        certificate_facts(signed.chain[0]),
        signer is Signer.RECOGNISED,
        _steps(past, ingredient.manifest, seen),
    )
