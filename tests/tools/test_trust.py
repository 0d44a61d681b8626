import contextlib
import dataclasses
import os
import resource
import shutil
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from authn.errors import CertificateError
from authn.identity import pem_chain
from authn.profile import Profile
from authn.trust import MAX_LIST_BYTES, Purpose, TrustList
from tools.errors import (
    DiskFullError,
    Error,
    NotAFileError,
    UnreadableError,
    UnwritableError,
    UsageError,
)
from tools.snapshot import FRESH_DAYS, snapshot
from tools.trust import (
    SHIPPED,
    ListDamagedError,
    ListExistsError,
    ListFolderError,
    ListRefusedError,
    ListStrayError,
    ListUnknownError,
    add,
    installed,
    remove,
    shipped,
    show,
)

# The library warns of names and numbers that break RFC 5280; for us they are an answer.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
SIGNERS = TrustList.read((SHIPPED / "c2pa-signers.pem").read_bytes())
STAMPERS = TrustList.read((SHIPPED / "c2pa-time-stampers.pem").read_bytes())
BARE = pem_chain(*SIGNERS.anchors[:3])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "trust"
    made.mkdir()
    return made


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    path = tmp_path / "anchors.pem"
    path.write_bytes(BARE)
    return path


def names(folder: Path) -> list[str]:
    return [name for name, _ in installed(folder)]


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Where permissions count: root is another user for a while, anybody else is himself."""
    if os.geteuid():
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def sentence(error: Error) -> str:
    text = str(error)
    assert text.isprintable(), "what is printed is one plain line"
    assert error.code.startswith(("list-", "file-", "not-a-file", "usage", "disk-full"))
    assert error.remedy.endswith(".")
    return text


# --- The lists that come with Lightseal


def test_the_shipped_lists_are_those_of_the_folder() -> None:
    assert shipped() == ("c2pa-signers", "c2pa-time-stampers")
    assert {path.name for path in SHIPPED.iterdir()} == {
        "README.md",
        "O-UDA-1.0.txt",
        *(f"{name}.pem" for name in shipped()),
    }


@pytest.mark.parametrize(
    ("name", "purpose", "profile"),
    [
        ("c2pa-signers", Purpose.SIGNING, Profile.POLICY),
        ("c2pa-time-stampers", Purpose.TIME_STAMPING, Profile.TIME_STAMPING),
    ],
)
def test_a_shipped_list_is_for_one_purpose_dated_and_whole(name, purpose, profile) -> None:
    data = (SHIPPED / f"{name}.pem").read_bytes()
    listed = TrustList.read(data)
    assert (listed.purpose, listed.profile) == (purpose, profile)
    assert listed.source is not None
    assert listed.version is not None
    assert listed.dated is not None
    assert listed.fresh_days == FRESH_DAYS
    assert listed.hosts == listed.status_hosts()
    assert listed.described() == data
    made = datetime(listed.dated.year, listed.dated.month, listed.dated.day, tzinfo=UTC)
    for anchor in listed.anchor_facts():
        assert anchor.subject.isprintable()
        assert anchor.not_before < made < anchor.not_after, anchor.subject
    assert not listed.stale(made)
    assert listed.stale(made + timedelta(days=FRESH_DAYS))


@pytest.mark.parametrize("listed", [SIGNERS, STAMPERS], ids=["signers", "time-stampers"])
def test_no_letter_of_a_shipped_list_was_lost(listed) -> None:
    """A certificate vouches for its own bytes wherever its issuer is listed too."""
    by_name = {anchor.subject: anchor for anchor in listed.anchors}
    unproven = []
    for anchor in listed.anchors:
        if anchor.issuer in by_name:
            anchor.verify_directly_issued_by(by_name[anchor.issuer])
        else:
            unproven.append(anchor.subject.rfc4514_string())
    # Its issuer is Adobe's own and not on the publisher's list.
    assert all("CN=Adobe Product Issuing CA" in subject for subject in unproven)


def test_a_snapshot_keeps_the_certificates_of_the_publisher_and_only_them() -> None:
    published = b"".join(
        b"Subject\tCN=Somebody, C=US\n" + pem_chain(anchor) + b"\n" for anchor in STAMPERS.anchors
    )
    made = TrustList.read(
        snapshot(
            published,
            "Ours",
            Purpose.TIME_STAMPING,
            Profile.TIME_STAMPING,
            date(2026, 9, 24),
            "https://a.example/b.pem",
        )
    )
    assert made.anchors == STAMPERS.anchors
    assert (made.name, made.version, made.dated) == ("Ours", "2026-09-24", date(2026, 9, 24))
    assert made.hosts == STAMPERS.hosts
    with pytest.raises(CertificateError):
        snapshot(
            b"<html>not found</html>",
            "Ours",
            Purpose.SIGNING,
            Profile.POLICY,
            date(2026, 9, 24),
            "https://a.example",
        )


# --- Adding


def test_a_shipped_list_is_added_as_it_is(folder: Path) -> None:
    added = add(folder, "c2pa-signers", "c2pa", None, None, NOW)
    assert added == dataclasses.replace(SIGNERS, name="c2pa"), "the name it has here, not its publisher's"
    assert (folder / "c2pa.pem").read_bytes() == (SHIPPED / "c2pa-signers.pem").read_bytes()
    assert installed(folder) == (("c2pa", dataclasses.replace(SIGNERS, name="c2pa")),)
    assert stat.S_IMODE((folder / "c2pa.pem").stat().st_mode) == 0o644
    assert [path.name for path in folder.iterdir()] == ["c2pa.pem"]


@pytest.mark.parametrize(
    ("purpose", "asked", "profile"),
    [
        (Purpose.SIGNING, None, Profile.SPECIFICATION),
        (Purpose.SIGNING, Profile.POLICY, Profile.POLICY),
        (Purpose.TIME_STAMPING, None, Profile.TIME_STAMPING),
        (Purpose.IDENTITY, None, Profile.SPECIFICATION),
    ],
)
def test_bare_certificates_get_a_header_when_they_are_added(folder, bare, purpose, asked, profile) -> None:
    added = add(folder, bare, "wire", purpose, asked, NOW)
    assert (added.name, added.purpose, added.profile) == ("wire", purpose, profile)
    assert added.anchors == SIGNERS.anchors[:3]
    assert added.dated is None
    assert TrustList.read((folder / "wire.pem").read_bytes()) == added
    assert installed(folder) == (("wire", added),)


def test_bare_certificates_are_not_added_without_saying_what_for(folder, bare) -> None:
    with pytest.raises(ListRefusedError) as refused:
        add(folder, bare, "wire", None, None, NOW)
    assert "no header" in sentence(refused.value)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("purpose", [Purpose.SIGNING, Purpose.IDENTITY])
def test_a_list_of_time_stampers_cannot_be_added_to_recognise_signers(folder, purpose) -> None:
    with pytest.raises(ListRefusedError) as refused:
        add(folder, "c2pa-time-stampers", "stampers", purpose, None, NOW)
    assert sentence(refused.value) == f"the list is for time-stamping, not for {purpose}"
    assert list(folder.iterdir()) == []


def test_what_a_list_says_of_its_profile_is_not_overruled(folder, bare) -> None:
    with pytest.raises(ListRefusedError) as refused:
        add(folder, "c2pa-signers", "c2pa", Purpose.SIGNING, Profile.SPECIFICATION, NOW)
    assert "profile" in sentence(refused.value)
    with pytest.raises(ListRefusedError):
        add(folder, bare, "wire", Purpose.IDENTITY, Profile.POLICY, NOW)
    assert list(folder.iterdir()) == []


def test_a_name_is_used_once(folder, bare) -> None:
    add(folder, bare, "wire", Purpose.SIGNING, None, NOW)
    before = (folder / "wire.pem").read_bytes()
    with pytest.raises(ListExistsError) as refused:
        add(folder, "c2pa-time-stampers", "wire", None, None, NOW)
    assert sentence(refused.value) == "this home already has a trust list named wire"
    (folder / "gone.pem").symlink_to("nowhere")
    with pytest.raises(ListExistsError):
        add(folder, bare, "gone", Purpose.SIGNING, None, NOW)
    assert (folder / "wire.pem").read_bytes() == before


def test_of_many_who_add_the_same_name_at_once_one_succeeds(folder) -> None:
    def attempt(number: int) -> str:
        try:
            add(folder, shipped()[number % 2], "one", None, None, NOW)
        except ListExistsError:
            return "exists"
        return shipped()[number % 2]

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(attempt, range(16)))
    (winner,) = [outcome for outcome in outcomes if outcome != "exists"]
    assert (folder / "one.pem").read_bytes() == (SHIPPED / f"{winner}.pem").read_bytes()
    assert [path.name for path in folder.iterdir()] == ["one.pem"]


@pytest.mark.parametrize("name", ["", "Wire", "-a", ".a", "a/b", "../a", "a b", "a" * 65, "a\n", "ä"])
def test_a_name_that_could_be_a_path_or_a_trick_is_refused(folder, bare, name) -> None:
    with pytest.raises(UsageError):
        add(folder, bare, name, Purpose.SIGNING, None, NOW)
    for use in (lambda: remove(folder, name), lambda: show(folder, name, NOW)):
        with pytest.raises(ListUnknownError) as refused:
            use()
        sentence(refused.value)
    assert list(folder.iterdir()) == []
    assert bare.exists()


def test_the_names_every_home_has_keep_their_purpose(folder, bare) -> None:
    for name, purpose in (("signers", Purpose.IDENTITY), ("time-stampers", Purpose.SIGNING)):
        with pytest.raises(ListRefusedError) as refused:
            add(folder, bare, name, purpose, None, NOW)
        assert name in sentence(refused.value)
    add(folder, bare, "signers", Purpose.SIGNING, None, NOW)
    assert names(folder) == ["signers"]


def test_a_list_from_the_future_is_refused(folder, tmp_path) -> None:
    path = tmp_path / "late.pem"
    for days, accepted in ((0, True), (1, True), (2, False), (365, False)):
        day = (NOW + timedelta(days=days)).date()
        path.write_bytes(
            (SHIPPED / "c2pa-signers.pem")
            .read_bytes()
            .replace(b"dated: 2026-08-11", f"dated: {day}".encode())
        )
        if accepted:
            add(folder, path, f"d{days}", None, None, NOW)
            continue
        with pytest.raises(ListRefusedError) as refused:
            add(folder, path, f"d{days}", None, None, NOW)
        assert "still to come" in sentence(refused.value)
    assert names(folder) == ["d0", "d1"]


@pytest.mark.parametrize(
    ("flaw", "data"),
    [
        ("empty", b""),
        ("garbage", bytes(range(256)) * 20),
        ("a page", b"<!doctype html><title>404</title>"),
        ("a remark", b"# nobody\n"),
        ("cut", BARE[:-40]),
        ("twice", BARE + BARE),
        ("text between", b"hello\n" + BARE),
        ("a key", BARE.replace(b"CERTIFICATE", b"PRIVATE KEY")),
        ("header with a flaw", b"# lightseal trust list 1\n# name: x\n\n" + BARE),
        ("too large", b"#" * (MAX_LIST_BYTES + 1)),
    ],
)
def test_what_is_no_list_is_not_added(folder, tmp_path, flaw, data) -> None:
    path = tmp_path / "source"
    path.write_bytes(data)
    for purpose in (None, *Purpose):
        with pytest.raises(ListRefusedError) as refused:
            add(folder, path, "wire", purpose, None, NOW)
        sentence(refused.value)
    assert list(folder.iterdir()) == [], flaw


def test_a_source_that_is_no_readable_file_is_named(folder, tmp_path, bare) -> None:
    (tmp_path / "link").symlink_to("anchors.pem")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for path, error in (
        (folder, NotAFileError),
        (tmp_path / "pipe", NotAFileError),
        (Path("/dev/zero"), NotAFileError),
        (tmp_path / "nowhere", UnreadableError),
        (tmp_path / "dangling", UnreadableError),
        (bare / "inside", UnreadableError),
        (tmp_path / ("n" * 300), UnreadableError),
        (tmp_path / "a\0b", UnreadableError),
        (tmp_path / "\x1b[31m\u202e.pem", UnreadableError),
    ):
        with pytest.raises(error) as refused:
            add(folder, path, "wire", Purpose.SIGNING, None, NOW)
        sentence(refused.value)
    assert list(folder.iterdir()) == []
    add(folder, tmp_path / "link", "wire", Purpose.SIGNING, None, NOW)
    assert not (folder / "wire.pem").is_symlink()


def test_a_shipped_list_that_does_not_exist_is_unknown(folder) -> None:
    for name in ("nobody", "../lists/c2pa-signers", "README", ""):
        with pytest.raises(ListUnknownError) as refused:
            add(folder, name, "wire", None, None, NOW)
        assert "c2pa-signers, c2pa-time-stampers" in sentence(refused.value)


def test_nothing_is_left_when_a_list_cannot_be_written(folder, tmp_path) -> None:
    with pytest.raises(UnwritableError) as refused:
        add(tmp_path / "nowhere", "c2pa-signers", "c2pa", None, None, NOW)
    sentence(refused.value)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(DiskFullError):
            add(folder, "c2pa-signers", "c2pa", None, None, NOW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(folder.iterdir()) == []


# --- What a home has


def test_the_two_lists_every_home_has_may_be_bare(folder) -> None:
    (folder / "signers.pem").write_bytes(BARE)
    (folder / "time-stampers.pem").write_bytes(pem_chain(STAMPERS.anchors[0]))
    (first, signers), (second, stampers) = installed(folder)
    assert (first, signers.purpose, signers.profile) == ("signers", Purpose.SIGNING, Profile.POLICY)
    assert (second, stampers.purpose) == ("time-stampers", Purpose.TIME_STAMPING)


def test_lists_are_named_in_order_and_other_files_are_left_alone(folder, bare) -> None:
    add(folder, "c2pa-time-stampers", "zeit", None, None, NOW)
    add(folder, bare, "wire", Purpose.SIGNING, None, NOW)
    add(folder, bare, "authors", Purpose.IDENTITY, None, NOW)
    # A crash while a list was being written, and somebody's notes.
    (folder / ".wire.abcd.partial").write_bytes(BARE[:100])
    (folder / ".hidden.pem").write_bytes(b"half")
    (folder / "NOTES.txt").write_text("hello")
    assert names(folder) == ["authors", "wire", "zeit"]
    kinds = {name: listed.purpose for name, listed in installed(folder)}
    assert kinds == {
        "authors": Purpose.IDENTITY,
        "wire": Purpose.SIGNING,
        "zeit": Purpose.TIME_STAMPING,
    }


@pytest.mark.parametrize(
    ("flaw", "name", "data"),
    [
        ("empty", "wire.pem", b""),
        ("garbage", "wire.pem", b"\xff\x00\x1b[2J"),
        ("bare, so for no known purpose", "wire.pem", BARE),
        ("for another purpose", "signers.pem", (SHIPPED / "c2pa-time-stampers.pem").read_bytes()),
        ("for another purpose", "time-stampers.pem", (SHIPPED / "c2pa-signers.pem").read_bytes()),
        ("too large", "signers.pem", b"#" * (MAX_LIST_BYTES + 1)),
        ("cut", "signers.pem", BARE[:-1000]),
        ("a name no list can have", "Wire.pem", BARE),
    ],
)
def test_a_damaged_list_is_named_and_keeps_the_others_from_being_used(folder, flaw, name, data) -> None:
    add(folder, "c2pa-signers", "c2pa", None, None, NOW)
    (folder / name).write_bytes(data)
    with pytest.raises(ListDamagedError) as refused:
        installed(folder)
    assert name in sentence(refused.value), flaw
    # The others can still be looked at, and the damaged one removed.
    assert show(folder, "c2pa", NOW)
    if name.islower():
        with pytest.raises(ListDamagedError):
            show(folder, Path(name).stem, NOW)
        remove(folder, Path(name).stem)
        assert names(folder) == ["c2pa"]


def test_what_is_no_file_among_the_lists_is_a_damaged_list(folder, tmp_path) -> None:
    place = folder / "wire.pem"
    for make, undo in (
        (place.mkdir, place.rmdir),
        (lambda: place.symlink_to("nowhere"), place.unlink),
        (lambda: os.mkfifo(place), place.unlink),
    ):
        make()
        with pytest.raises(ListDamagedError) as refused:
            installed(folder)
        assert "wire.pem" in sentence(refused.value)
        undo()
    assert installed(folder) == ()
    for missing in (tmp_path / "nowhere", SHIPPED / "README.md"):
        with pytest.raises(ListDamagedError) as refused:
            installed(missing)
        sentence(refused.value)


@pytest.mark.parametrize("name", ["Upper.pem", "a\nb.pem", "evil.pem"])
def test_what_no_command_would_remove_is_to_be_moved_away_by_hand(folder, name) -> None:
    """The flaw it would catch: advice to run a command that then knows no such list."""
    if name == "evil.pem":
        (folder / name).mkdir()
    else:
        (folder / name).write_bytes(BARE)
    with pytest.raises(Error):
        remove(folder, name.removesuffix(".pem"))
    with pytest.raises(ListStrayError) as refused:
        installed(folder)
    sentence(refused.value)
    assert "by hand" in refused.value.remedy
    assert "trust remove" not in refused.value.remedy


def test_what_a_command_does_remove_is_left_to_it(folder, tmp_path) -> None:
    for make in (lambda path: path.symlink_to(tmp_path), os.mkfifo, lambda path: path.write_bytes(b"junk")):
        make(folder / "wire.pem")
        with pytest.raises(ListDamagedError) as refused:
            installed(folder)
        assert "trust remove" in refused.value.remedy
        remove(folder, "wire")


def test_without_the_folder_no_list_is_called_unknown(tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "nowhere", tmp_path / "file"):
        for use in (lambda at=place: installed(at), lambda at=place: show(at, "signers", NOW)):
            with pytest.raises(ListFolderError) as refused:
                use()
            sentence(refused.value)
            assert "folder 'trust'" in refused.value.remedy
    with pytest.raises(ListFolderError):
        remove(tmp_path / "nowhere", "signers")


def test_a_folder_that_may_not_be_read_hides_no_list(folder, tmp_path, monkeypatch) -> None:
    """The flaw it would catch: `list-unknown` for a list that is there."""
    add(folder, "c2pa-signers", "signers", None, None, NOW)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    folder.chmod(0o000)
    try:
        with nobody():
            for use in (lambda: installed(Path("trust")), lambda: show(Path("trust"), "signers", NOW)):
                with pytest.raises(ListFolderError, match="Permission denied"):
                    use()
    finally:
        folder.chmod(0o700)
    assert names(folder) == ["signers"]


def test_a_link_to_a_list_is_a_list_and_removing_it_spares_the_target(folder, tmp_path) -> None:
    target = tmp_path / "kept.pem"
    shutil.copy(SHIPPED / "c2pa-signers.pem", target)
    (folder / "c2pa.pem").symlink_to(target)
    assert installed(folder) == (("c2pa", dataclasses.replace(SIGNERS, name="c2pa")),)
    remove(folder, "c2pa")
    assert installed(folder) == ()
    assert target.exists()


def test_removing_deletes_one_list_and_knows_the_others(folder, bare) -> None:
    for name in ("a", "a.b", "b"):
        add(folder, bare, name, Purpose.SIGNING, None, NOW)
    remove(folder, "a")
    assert names(folder) == ["a.b", "b"]
    with pytest.raises(ListUnknownError) as refused:
        remove(folder, "a")
    assert sentence(refused.value) == "this home has no trust list named a"
    (folder / "d.pem").mkdir()
    with pytest.raises(UnwritableError) as unwritable:
        remove(folder, "d")
    sentence(unwritable.value)
    (folder / "d.pem").rmdir()
    for name in ("a.b", "b"):
        remove(folder, name)
    assert installed(folder) == ()


# --- Showing


def test_a_list_is_shown_with_all_that_decides_and_every_anchor(folder) -> None:
    add(folder, "c2pa-signers", "c2pa", None, None, NOW)
    text = show(folder, "c2pa", NOW)
    lines = text.splitlines()
    assert lines[0] == "c2pa: C2PA Trust List"
    assert all(line.isprintable() for line in lines)
    for expected in (
        "signing",
        "c2pa-certificate-policy-0.2",
        "2026-08-11",
        "ocsp.one.digicert.com",
        SIGNERS.sha256.hex(),
        str(SIGNERS.source),
    ):
        assert expected in text
    assert len([line for line in lines if "SHA-256" in line]) == len(SIGNERS.anchors)
    for facts in SIGNERS.anchor_facts():
        (line,) = [line for line in lines if facts.sha256 in line]
        assert facts.subject in line
        assert f"until {facts.not_after:%Y-%m-%d}" in line


def test_a_stale_list_and_an_expired_anchor_are_called_so(folder) -> None:
    add(folder, "c2pa-signers", "c2pa", None, None, NOW)
    end = datetime(2026, 8, 11, tzinfo=UTC) + timedelta(days=FRESH_DAYS)
    assert "STALE" not in show(folder, "c2pa", end - timedelta(seconds=1))
    assert "STALE" in show(folder, "c2pa", end)
    assert "expired" not in show(folder, "c2pa", NOW)
    assert "expired 2030-05-08" in show(folder, "c2pa", datetime(2031, 1, 1, tzinfo=UTC))


def test_what_a_list_does_not_say_is_shown_as_not_said(folder, bare) -> None:
    add(folder, bare, "wire", Purpose.SIGNING, None, NOW)
    text = show(folder, "wire", NOW)
    assert text.count("not stated") == 3
    assert "none may be asked" in text
    with pytest.raises(ListUnknownError) as refused:
        show(folder, "wires", NOW)
    sentence(refused.value)
