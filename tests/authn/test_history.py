"""The tree of earlier versions: every branch is judged, and what is not looked at is a problem."""

import dataclasses
import itertools
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from authn import jumbf
from authn.evidence import Code, Credentials, Finding, History, Signer, Step
from authn.history import MAX_GENERATIONS, MAX_STEPS, check_history, is_fault
from authn.jumbf import ManifestBoxes
from authn.manifest import Reading, Status, UnverifiedIngredient, UnverifiedManifest
from authn.profile import Profile
from authn.signer import Lists
from authn.trust import Purpose, TrustList

VECTORS = Path(__file__).parent / "vectors"
AT = datetime.fromisoformat((VECTORS / "signed_at.txt").read_text().strip()) + timedelta(days=1)
MATCH = ("assertion.dataHash.match",)


def sound_boxes() -> ManifestBoxes:
    data = (VECTORS / "sound.jpg").read_bytes()
    start = data.index(b"\xff\xeb") + 12
    (found,) = jumbf.parse(data[start : start + int.from_bytes(data[start : start + 4], "big")])
    return found


SOUND = sound_boxes()


@pytest.fixture(scope="module")
def lists() -> Lists:
    signers = TrustList.parse((VECTORS / "signers.pem").read_bytes(), "lab", Purpose.SIGNING, Profile.POLICY)
    clocks = TrustList.parse(
        (VECTORS / "clocks.pem").read_bytes(), "clocks", Purpose.TIME_STAMPING, Profile.TIME_STAMPING
    )
    return Lists((signers,), (clocks,))


def ingredient(
    manifest: str | None, passes: tuple[str, ...] = MATCH, failures: tuple[str, ...] = ()
) -> UnverifiedIngredient:
    return UnverifiedIngredient("a file", "parentOf", manifest, passes, failures)


def judged(
    lists: Lists, tree: dict[str, list[UnverifiedIngredient]], *failures: str
) -> tuple[History, tuple[Step, ...], Finding]:
    """Judge the tree under `active`, with the same sound record under every label."""
    manifests = tuple(UnverifiedManifest(label, tuple(items)) for label, items in tree.items())
    boxes = tuple(dataclasses.replace(SOUND, label=label) for label in tree)
    reading = Reading(
        Credentials.PRESENT,
        "",
        "active",
        history_failures=tuple(Status(code, "") for code in failures),
        manifests=manifests,
    )
    return check_history(reading, boxes, lists, AT, Signer.RECOGNISED)


def test_the_five_states_follow_from_the_tree(lists: Lists) -> None:
    bare, signed = ingredient(None, ()), ingredient("p")
    for items, state in (
        ([], History.NONE),
        ([bare], History.STARTS_WITHOUT),
        ([signed], History.COMPLETE),
        ([signed, bare], History.PARTIAL),
        ([signed, ingredient("p", ())], History.PROBLEM),
    ):
        found, steps, finding = judged(lists, {"active": items, "p": []})
        assert (found, len(steps)) == (state, len(items))
        assert finding.passed is (state is not History.PROBLEM)
        assert finding.code is Code.HISTORY_INTACT


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (ingredient("p", ()), "content-never-checked"),
        (ingredient("p", ("assertion.hashedURI.match",)), "content-never-checked"),
        (ingredient("p", MATCH, ("assertion.dataHash.mismatch",)), "assertion.dataHash.mismatch"),
        (ingredient("p", MATCH, ("assertion.bmffHash.mismatch",)), "assertion.bmffHash.mismatch"),
        (ingredient("p", MATCH, ("claimSignature.mismatch",)), "claimSignature.mismatch"),
        (ingredient("p", MATCH, ("code.of.the.future",)), "code.of.the.future"),
        (ingredient("gone"), "record-missing"),
        (ingredient(None, (), ("assertion.dataHash.mismatch",)), "assertion.dataHash.mismatch"),
        (ingredient(None, (), ("claim.missing",)), "claim.missing"),
    ],
)
def test_what_the_editor_recorded_counts(lists: Lists, item: UnverifiedIngredient, problem: str) -> None:
    state, (step,), _ = judged(lists, {"active": [item], "p": []})
    assert state is History.PROBLEM
    assert problem in step.problems


def test_an_editor_who_knew_fewer_signers_than_we_do_recorded_no_problem(lists: Lists) -> None:
    item = ingredient("p", MATCH, ("signingCredential.untrusted",))
    assert judged(lists, {"active": [item], "p": []})[0] is History.COMPLETE


@pytest.mark.parametrize(
    "code", ["ingredient.manifest.mismatch", "assertion.dataHash.mismatch", "code.of.the.future"]
)
def test_what_the_sdk_finds_anew_counts(lists: Lists, code: str) -> None:
    state, _, finding = judged(lists, {"active": [ingredient("p")], "p": []}, code)
    assert state is History.PROBLEM
    assert code in finding.explanation


def test_a_stranger_s_parent_is_a_problem(lists: Lists) -> None:
    nobody = Lists((), lists.time_stampers)
    state, (step,), _ = judged(nobody, {"active": [ingredient("p")], "p": []})
    assert (state, step.problems, step.recognised) == (
        History.PROBLEM,
        ("signer-not-recognised",),
        False,
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"claim": SOUND.claim[:-1] + b"\x00"}, "signature-broken"),
        ({"signature": b"\xff"}, "record-unreadable"),
        ({"assertions": SOUND.assertions[:1]}, "assertion-missing"),
        (
            {"assertions": tuple(dataclasses.replace(item, box=b"") for item in SOUND.assertions)},
            "assertion-differs",
        ),
    ],
)
def test_a_parent_s_own_record_is_checked_anew(lists: Lists, changes: dict[str, bytes], problem: str) -> None:
    parent = dataclasses.replace(SOUND, **changes)  # type: ignore[arg-type]
    manifests = (
        UnverifiedManifest("active", (ingredient(parent.label),)),
        UnverifiedManifest(parent.label, ()),
    )
    reading = Reading(Credentials.PRESENT, "", "active", manifests=manifests)
    boxes = (parent, dataclasses.replace(SOUND, label="active"))
    state, (step,), _ = check_history(reading, boxes, lists, AT, Signer.RECOGNISED)
    assert state is History.PROBLEM
    assert problem in step.problems


@pytest.mark.parametrize(
    "tree",
    [
        {"active": [ingredient("active")]},
        {"active": [ingredient("p")], "p": [ingredient("active")]},
        {"active": [ingredient("p")], "p": [ingredient("q")], "q": [ingredient("p")]},
    ],
)
def test_a_circle_is_a_problem_and_ends(lists: Lists, tree: dict[str, list[UnverifiedIngredient]]) -> None:
    state, _, finding = judged(lists, tree)
    assert state is History.PROBLEM
    assert "history-goes-in-circles" in finding.explanation


def test_what_lies_too_deep_to_be_judged_is_a_problem(lists: Lists) -> None:
    def chain(length: int) -> dict[str, list[UnverifiedIngredient]]:
        names = ["active", *map(str, range(length))]
        return {name: [ingredient(after)] for name, after in itertools.pairwise(names)} | {names[-1]: []}

    assert judged(lists, chain(MAX_GENERATIONS))[0] is History.COMPLETE
    state, _, finding = judged(lists, chain(MAX_GENERATIONS + 1))
    assert state is History.PROBLEM
    assert "history-too-deep" in finding.explanation


def test_a_tree_that_doubles_with_every_generation_is_cut_and_a_problem(lists: Lists) -> None:
    names = ["active", *map(str, range(25))]
    tree = {name: [ingredient(after), ingredient(after)] for name, after in itertools.pairwise(names)}
    state, steps, finding = judged(lists, tree | {names[-1]: []})

    def count(some: tuple[Step, ...]) -> int:
        return sum(1 + count(step.steps) for step in some)

    assert count(steps) <= MAX_STEPS + 100
    assert state is History.PROBLEM
    assert "history-too-long" in finding.explanation


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("assertion.hashedURI.mismatch", True),
        ("assertion.missing", True),
        ("assertion.multipleHardBindings", True),
        ("assertion.dataHash.malformed", True),
        ("assertion.bmffHash.malformed", True),
        ("assertion.boxesHash.malformed", True),
        ("claim.multiple", True),
        ("claim.hardBindings.missing", True),
        ("claimSignature.mismatch", True),
        ("ingredient.manifest.mismatch", True),
        ("some.futureHash.mismatch", True),
        ("code.of.the.future", True),
        ("", True),
        ("assertion.dataHash.mismatch", False),
        ("assertion.boxesHash.mismatch", False),
        ("signingCredential.expired", False),
        ("timeStamp.mismatch", False),
    ],
)
def test_an_unknown_code_is_a_fault(code: str, *, fault: bool) -> None:
    assert is_fault(code) is fault
