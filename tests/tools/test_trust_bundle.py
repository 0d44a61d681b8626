"""A bundle is what the log signed and recorded, or it is refused."""

import dataclasses
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authn.profile import Profile
from authn.trust import Purpose
from storage.entry import Kind
from storage.payload import parse
from tools import trust
from tools.errors import OutputExistsError
from tools.home import Home
from tools.trust_bundle import (
    NOTE,
    RECEIPT,
    Bundle,
    BundleError,
    NamedList,
    check_bundle,
    publish_bundle,
)

NOW = datetime.now(UTC).replace(microsecond=0)


def now() -> datetime:
    return datetime.now(UTC)


def published(home: Home, place: Path) -> Bundle:
    return publish_bundle(home, place, datetime.now(UTC), home.own.sign_text)


def test_what_is_published_is_what_is_believed(fresh_home: Home, tmp_path: Path) -> None:
    made = published(fresh_home, tmp_path / "one")
    found, files = check_bundle(tmp_path / "one", fresh_home.own.keys)
    assert found == made
    assert files == fresh_home.lists()
    assert made.version == 1


def test_every_version_is_an_entry_of_the_ledger(fresh_home: Home, tmp_path: Path) -> None:
    with fresh_home.ledger_to_read() as ledger:
        before = ledger.size
    versions = [published(fresh_home, tmp_path / str(number)) for number in range(3)]
    assert [bundle.version for bundle in versions] == [1, 2, 3]
    with fresh_home.ledger_to_read() as ledger:
        assert ledger.size == before + 3
        assert [entry.kind for entry in ledger.entries(before, before + 3)] == [Kind.POLICY] * 3
        recorded = [parse(ledger.payload(before + number) or b"") for number in range(3)]
    assert recorded == [bundle.recorded() for bundle in versions]


@pytest.mark.parametrize("name", ["strangers.pem", "signers.PEM", ".hidden.pem", "notes.txt"])
def test_a_file_that_nobody_signed_is_not_passed_over(fresh_home: Home, tmp_path: Path, name: str) -> None:
    published(fresh_home, tmp_path / "one")
    (tmp_path / "one" / name).write_bytes(fresh_home.lists()[0].pem)
    with pytest.raises(BundleError, match=f"holds {name}, which the bundle does not name"):
        check_bundle(tmp_path / "one", fresh_home.own.keys)
    (tmp_path / "one" / name).unlink()
    assert check_bundle(tmp_path / "one", fresh_home.own.keys)[0].version == 1


@pytest.mark.parametrize("name", [NOTE, RECEIPT, "signers.pem"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_part_that_is_no_file_is_refused_at_once(
    fresh_home: Home, tmp_path: Path, name: str, kind: str
) -> None:
    published(fresh_home, tmp_path / "one")
    part = tmp_path / "one" / name
    part.unlink()
    match kind:
        case "pipe":
            os.mkfifo(part)
        case "device":
            part.symlink_to("/dev/zero")
        case "folder":
            part.mkdir()
    with pytest.raises(BundleError, match="not a file that can be read"):
        check_bundle(tmp_path / "one", fresh_home.own.keys)


def test_an_older_version_than_is_known_is_refused(fresh_home: Home, tmp_path: Path) -> None:
    published(fresh_home, tmp_path / "one")
    published(fresh_home, tmp_path / "two")
    assert check_bundle(tmp_path / "two", fresh_home.own.keys, 1)[0].version == 2
    for place, known in (("one", 1), ("one", 2), ("two", 2)):
        with pytest.raises(BundleError, match="not newer"):
            check_bundle(tmp_path / place, fresh_home.own.keys, known)


def test_another_logs_key_proves_nothing(fresh_home: Home, home: Home, tmp_path: Path) -> None:
    published(fresh_home, tmp_path / "one")
    with pytest.raises(BundleError):
        check_bundle(tmp_path / "one", home.own.keys)


@pytest.mark.parametrize("name", [NOTE, RECEIPT, "signers.pem", "time-stampers.pem"])
def test_no_part_of_it_can_be_changed_left_out_or_taken_from_another(
    fresh_home: Home, tmp_path: Path, name: str
) -> None:
    published(fresh_home, tmp_path / "one")
    trust.remove(fresh_home.path / "trust", "signers")
    trust.add(fresh_home.path / "trust", trust.shipped()[0], "signers-2", None, None, now())
    published(fresh_home, tmp_path / "two")
    part = tmp_path / "one" / name
    whole = part.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        part.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(BundleError):
            check_bundle(tmp_path / "one", fresh_home.own.keys)
    part.write_bytes(b"")
    with pytest.raises(BundleError):
        check_bundle(tmp_path / "one", fresh_home.own.keys)
    part.unlink()
    with pytest.raises(BundleError, match="can be read"):
        check_bundle(tmp_path / "one", fresh_home.own.keys)
    other = tmp_path / "two" / name
    if name in (NOTE, RECEIPT):
        part.write_bytes(other.read_bytes())
        with pytest.raises(BundleError):
            check_bundle(tmp_path / "one", fresh_home.own.keys)
    part.write_bytes(whole)
    assert check_bundle(tmp_path / "one", fresh_home.own.keys)[0].version == 1


class Interrupted(Exception):  # noqa: N818 - it stands for a power cut
    """The machine stopped."""


def test_a_run_that_was_cut_short_is_finished_and_no_version_has_two_meanings(
    fresh_home: Home, tmp_path: Path
) -> None:
    def cut(_: str) -> bytes:
        raise Interrupted

    with pytest.raises(Interrupted):
        publish_bundle(fresh_home, tmp_path / "one", now(), cut)
    assert not (tmp_path / "one").exists()
    assert published(fresh_home, tmp_path / "one").version == 1
    with pytest.raises(Interrupted):
        publish_bundle(fresh_home, tmp_path / "two", now(), cut)
    trust.add(fresh_home.path / "trust", trust.shipped()[0], "others", None, None, now())
    changed = published(fresh_home, tmp_path / "three")
    assert changed.version == 3
    assert check_bundle(tmp_path / "three", fresh_home.own.keys, 1)[0] == changed
    with fresh_home.ledger_to_read() as ledger:
        said = [
            parse(ledger.payload(index) or b"")
            for index, entry in enumerate(ledger.entries(0, ledger.size))
            if entry.kind is Kind.POLICY
        ]
    bundles = {(fields["version"], fields["sha256"]) for fields in said if fields["change"] == "trust-bundle"}
    assert sorted(version for version, _ in bundles) == [1, 2, 3]


def test_nothing_is_written_over(fresh_home: Home, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(OutputExistsError):
        published(fresh_home, tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "kept"


names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,10}", fullmatch=True)
lists = st.lists(names, max_size=4, unique=True).map(
    lambda found: tuple(
        NamedList(name, Purpose.SIGNING, Profile.POLICY, f"{number:064x}")
        for number, name in enumerate(sorted(found))
    )
)


@given(st.integers(1, 1 << 40), lists)
@settings(max_examples=50, deadline=None)
def test_a_bundle_is_read_as_it_was_written(version: int, found: tuple[NamedList, ...]) -> None:
    bundle = Bundle("log.example/1", version, NOW, found)
    assert Bundle.parse(str(bundle)) == bundle


@given(st.text(max_size=100), st.integers(0, 200))
@settings(max_examples=150, deadline=None)
def test_nothing_but_its_own_error_leaves_it(noise: str, place: int) -> None:
    bundle = Bundle("log.example/1", 3, NOW, (NamedList("a", Purpose.SIGNING, Profile.POLICY, "0" * 64),))
    text = str(bundle)
    for mixed in (noise, text[:place] + noise + text[place:]):
        try:
            found = Bundle.parse(mixed)
        except BundleError:
            continue
        assert str(found) == mixed


@pytest.mark.parametrize("change", [{"version": 0}, {"version": -1}])
def test_versions_begin_with_one(change: dict[str, int]) -> None:
    bundle = dataclasses.replace(Bundle("log.example/1", 1, NOW, ()), **change)
    with pytest.raises(BundleError):
        Bundle.parse(str(bundle))
