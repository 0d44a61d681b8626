"""Lists, receipts and workers: what stands between a path and its report."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from authn.errors import CertificateError
from authn.evidence import Code
from authn.profile import Profile
from storage.errors import MalformedKeyError, MalformedReceiptError
from tools.check import Chosen, Entry, beliefs, check_files, died, outcome, read_receipt, renamed, reported
from tools.errors import UnreadableError, UsageError, WorkerDiedError
from tools.home import Home
from tools.report_text import as_text
from tools.verdict import Headline, Ledger


def now() -> datetime:
    return datetime.now(UTC)


def test_a_report_names_what_it_rests_on(home: Home, signed: Path) -> None:
    with beliefs(home, Chosen(), now()) as held:
        ((report, found),) = check_files([str(signed)], held, None)
    assert report.verdict.headline is Headline.INTACT_SIGNER_RECOGNISED
    assert [name for name, _, _ in report.engine.lists] == ["signers", "time-stampers"]
    assert all(len(digest) == 64 for _, _, digest in report.engine.lists)
    assert found.thumbnail is None
    assert renamed(report, "other.jpg").verdict == report.verdict


def test_a_thumbnail_is_our_own_rendering(home: Home, signed: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    with beliefs(home, Chosen(), now()) as held:
        paths = [str(signed), str(tmp_path / "text.jpg")]
        (_, found), (_, text) = check_files(paths, held, None, Entry.ILLUSTRATED)
    assert found.thumbnail is not None
    assert found.thumbnail.startswith(b"\xff\xd8")
    assert b"c2pa" not in found.thumbnail
    assert text.thumbnail is None


def test_without_a_home_or_lists_nobody_is_recognised(signed: Path) -> None:
    with beliefs(None, Chosen(), now()) as held:
        ((report, _),) = check_files([str(signed)], held, None)
    assert report.verdict.headline is Headline.INTACT_SIGNER_UNKNOWN
    assert report.verdict.recorded.state is Ledger.NOT_CHECKED
    assert report.verdict.provenance is not None
    assert report.verdict.provenance.time.not_after is None


def test_an_anchor_for_time_recognises_no_signer(home: Home, signed: Path, tmp_path: Path) -> None:
    stampers = home.path / "trust" / "time-stampers.pem"
    with pytest.raises(CertificateError, match="time-stamping"):
        beliefs(home, Chosen(signers=stampers), now())
    bare = tmp_path / "bare.pem"
    bare.write_bytes(home.own_lists()[1].pem)
    with beliefs(home, Chosen(signers=bare), now()) as held:
        ((report, _),) = check_files([str(signed)], held, None)
    assert report.verdict.headline is Headline.INTACT_SIGNER_UNKNOWN


def test_a_worker_that_died_is_an_answer_about_the_file(home: Home) -> None:
    found = died("bomb.jpg", WorkerDiedError("it ended badly"))
    with beliefs(home, Chosen(), now()) as held:
        report = reported(found, held, None)
    assert report.verdict.headline is Headline.NOT_CHECKED
    assert report.verdict.obstacle is not None
    assert report.verdict.obstacle.code == "worker-died"


def test_bad_lists_keys_and_receipts_are_errors_before_any_file_is_read(home: Home, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("nothing of the kind")
    with pytest.raises(CertificateError):
        beliefs(home, Chosen(signers=bad), now())
    with pytest.raises(UnreadableError):
        beliefs(home, Chosen(time_stampers=tmp_path / "gone"), now())
    with pytest.raises(MalformedKeyError):
        beliefs(home, Chosen(log_key="no key"), now())
    with pytest.raises(MalformedReceiptError):
        read_receipt(bad)
    with pytest.raises(UnreadableError):
        read_receipt(tmp_path / "gone")
    bad.write_bytes(b"\xff")
    with pytest.raises(UnreadableError):
        read_receipt(bad)
    bad.write_bytes(bytes(2 << 20))
    with pytest.raises(UsageError):
        read_receipt(bad)


@pytest.mark.parametrize(
    ("name", "required", "status", "met"),
    [
        ("signed", "time = true", 0, True),
        ("signed", 'custody = "E1"', 15, False),
        ("altered", "time = true", 12, False),
    ],
)
def test_a_policy_changes_no_headline_and_hides_no_fault(
    home: Home,
    signed: Path,
    altered: Path,
    tmp_path: Path,
    name: str,
    required: str,
    status: int,
    met: object,
) -> None:
    policy = tmp_path / "desk.toml"
    policy.write_text(f"[require]\n{required}\n")
    path = {"signed": signed, "altered": altered}[name]
    with beliefs(home, Chosen(policy=policy), now()) as held, beliefs(home, Chosen(), now()) as free:
        ((report, _),) = check_files([str(path)], held, None)
        ((plain, _),) = check_files([str(path)], free, None)
    assert report.verdict.headline is plain.verdict.headline
    assert (outcome(report, None), outcome(plain, None)) == (status, 0 if name == "signed" else 12)
    assert report.acceptance is not None
    assert (report.acceptance.met, report.acceptance.name) == (met, "desk")
    assert report.acceptance.sha256 == hashlib.sha256(policy.read_bytes()).digest()


def test_what_was_kept_and_cannot_be_read_is_said(fresh_home: Home, plain_jpeg: Path) -> None:
    """A withdrawal may have stood there."""
    (fresh_home.path / "status").mkdir()
    (fresh_home.path / "status" / f"{'a' * 64}.status").write_bytes(b"")
    with beliefs(fresh_home, Chosen(), now()) as held:
        ((report, _),) = check_files([str(plain_jpeg)], held, None)
    (note,) = report.notes
    assert (note.passed, note.code) == (False, Code.REVOCATION_CHECKED)


def test_a_sidecar_is_named_and_an_empty_one_refused(home: Home, signed: Path, tmp_path: Path) -> None:
    record = tmp_path / "other.c2pa"
    record.write_bytes(b"junk")
    with beliefs(home, Chosen(sidecar=record), now()) as held:
        ((report, _),) = check_files([str(signed)], held, None)
    assert report.verdict.headline is Headline.CREDENTIALS_UNREADABLE
    assert "other.c2pa" in as_text(report)
    record.write_bytes(b"")
    with pytest.raises(UsageError, match="empty"):
        beliefs(home, Chosen(sidecar=record), now())


def test_a_list_that_asks_for_something_else_is_not_bent(home: Home) -> None:
    own = home.path / "trust" / "signers.pem"
    with pytest.raises(UsageError, match="says itself"):
        beliefs(home, Chosen(signers=own, profile=Profile.SPECIFICATION), now())
