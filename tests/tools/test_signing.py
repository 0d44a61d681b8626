"""Several files under one opened home; each succeeds or fails alone."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from authn.identity import Lifetime
from authn.keys import verify_ed25519
from authn.timestamp.relay import Need
from storage.receipt import Receipt
from tools.capture import Signed
from tools.errors import CertificateOverError, MediaRefusedError, OutputExistsError, UsageError
from tools.home import Home
from tools.issuance.own import enrol
from tools.serials import SERIALS
from tools.signing import Timestamps, sign_files, signed_files


def now() -> datetime:
    return datetime.now(UTC)


def test_one_bad_file_does_not_keep_the_others_from_being_signed(
    home: Home, own_samples: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"")
    files = [own_samples / "hills.jpg", tmp_path / "bad.jpg", own_samples / "street.jpg"]
    first, second, third = sign_files(home, files, tmp_path / "out", "cam", now, timed=True)
    assert isinstance(first, str)
    assert isinstance(second, MediaRefusedError)
    assert second.code == "media-empty"
    assert str(second).startswith(str(tmp_path / "bad.jpg"))
    assert isinstance(third, str)
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == ["hills.jpg", "hills.jpg.receipt", "street.jpg", "street.jpg.receipt"]


def test_without_a_folder_the_copy_lies_beside_the_file(home: Home, plain_jpeg: Path) -> None:
    before = plain_jpeg.read_bytes()
    (outcome,) = signed_files(home, [plain_jpeg], None, None, now, timed=False)
    assert isinstance(outcome, Signed)
    assert outcome.media == plain_jpeg.with_name("plain.signed.jpg")
    assert outcome.receipt.name == "plain.signed.jpg.receipt"
    assert outcome.provenance.time.not_after is None
    assert plain_jpeg.read_bytes() == before


def test_the_receipt_proves_the_entry_to_a_stranger(home: Home, signed: Path) -> None:
    receipt = Receipt.parse(signed.with_name(signed.name + ".receipt").read_text())
    assert receipt.check((home.log,), verify_ed25519).size > receipt.proof.index
    assert receipt.token is not None


def test_the_service_says_that_it_received_and_a_device_that_it_captured(
    home: Home, plain_jpeg: Path, tmp_path: Path
) -> None:
    (served,) = signed_files(home, [plain_jpeg], tmp_path / "service", None, now, timed=True)
    (taken,) = signed_files(home, [plain_jpeg], tmp_path / "device", "cam", now, timed=True)
    assert isinstance(served, Signed)
    assert isinstance(taken, Signed)
    assert served.provenance.claims.source_types == ()
    assert "c2pa.created" not in served.provenance.claims.actions
    assert served.provenance.steps[0].relationship == "parentOf"
    assert taken.provenance.claims.source_types == ("digitalCapture",)
    assert taken.provenance.steps == ()


def test_a_file_is_never_signed_onto_itself(home: Home, plain_jpeg: Path) -> None:
    before = plain_jpeg.read_bytes()
    (outcome,) = signed_files(home, [plain_jpeg], plain_jpeg.parent, "cam", now, timed=False)
    assert isinstance(outcome, OutputExistsError)
    assert plain_jpeg.read_bytes() == before


def test_a_link_to_the_output_does_not_make_it_replaceable(
    home: Home, own_samples: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    shutil.copy(own_samples / "hills.jpg", tmp_path / "real.jpg")
    (tmp_path / "out" / "hills.jpg").symlink_to(tmp_path / "real.jpg")
    before = (tmp_path / "real.jpg").read_bytes()
    (outcome,) = signed_files(home, [own_samples / "hills.jpg"], tmp_path / "out", "cam", now, timed=False)
    assert isinstance(outcome, OutputExistsError)
    assert (tmp_path / "real.jpg").read_bytes() == before


def test_a_certificate_past_its_time_signs_nothing(home: Home, plain_jpeg: Path, tmp_path: Path) -> None:
    with pytest.raises(CertificateOverError):
        list(
            signed_files(
                home, [plain_jpeg], tmp_path / "out", "cam", lambda: now() + timedelta(400), timed=True
            )
        )
    assert not (tmp_path / "out").exists()


def test_where_later_will_do_a_unit_that_refuses_owes_a_token_and_keeps_nothing_from_being_signed(
    fresh_home: Home, plain_jpeg: Path, tmp_path: Path
) -> None:
    (fresh_home.path / SERIALS).write_text("damaged\n")
    refused, owed = (
        next(sign_files(fresh_home, [plain_jpeg], tmp_path / name, "cam", now, timed=timed))
        for name, timed in (("required", True), ("later", Timestamps(need=Need.LATER)))
    )
    assert isinstance(refused, Exception)
    assert list((tmp_path / "required").iterdir()) == []
    assert isinstance(owed, str), owed
    assert "no proven time" in owed
    assert f"a token is owed: run lightseal stamp {tmp_path / 'later' / 'plain.jpg'} later" in owed


def test_where_later_will_do_a_unit_that_answers_dates_the_signature_now(
    home: Home, plain_jpeg: Path, tmp_path: Path
) -> None:
    asked = Timestamps(need=Need.LATER)
    (done,) = signed_files(home, [plain_jpeg], tmp_path / "out", "cam", now, timed=asked)
    assert isinstance(done, Signed), done
    assert done.provenance.time.not_after is not None
    assert not done.owed


def test_a_one_time_device_does_not_sign_with_the_key_that_would_link_its_captures(
    fresh_home: Home, own_samples: Path, tmp_path: Path
) -> None:
    enrol(fresh_home, "quiet", "Quiet Camera", now(), lifetime=Lifetime.ONE_TIME, pool=1)
    with pytest.raises(UsageError, match="lightseal capture"):
        list(sign_files(fresh_home, [own_samples / "hills.jpg"], tmp_path, "quiet", now, timed=True))
    assert list(tmp_path.glob("*.jpg*")) == []
