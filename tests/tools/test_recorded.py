"""What a ledger or a receipt may say of a file, and what nobody may make it say."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage.entry import Kind
from storage.payload import canonical
from storage.record import Record
from tools.home import Home, open_home


def tamper(home: Home, script: str, *values: object) -> None:
    """Do what only the owner of the database can."""
    with closing(sqlite3.connect(home.path / "ledger.db")) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(script, values)
        connection.commit()


def reseal(home: Home, change: Callable[[bytes], bytes]) -> None:
    """Replace what entries hide, as somebody who has the keyring as well."""
    sealer = home.own.sealer()
    with closing(sqlite3.connect(home.path / "ledger.db")) as connection:
        rows = connection.execute("SELECT idx, sealed FROM secret").fetchall()
    for idx, sealed in rows:
        opened = change(sealer.unseal(idx, sealed, home.log.name))
        again = sealer.seal(idx, opened, home.log.name)
        tamper(home, "UPDATE secret SET sealed = ? WHERE idx = ?", again, idx)


def report(lightseal, home: Home, *arguments: object) -> dict:
    return json.loads(lightseal("verify", "--json", *arguments, home=home).stdout)


@pytest.fixture
def pair(lightseal, fresh_home: Home, plain_jpeg: Path, tmp_path: Path) -> tuple[Path, Path]:
    """An original, and what signing made of it."""
    done = lightseal("sign", plain_jpeg, "--out", tmp_path / "out", home=fresh_home)
    assert done.returncode == 0, done.stderr
    return plain_jpeg, tmp_path / "out" / plain_jpeg.name


def test_an_index_that_points_elsewhere_proves_nothing(lightseal, fresh_home: Home, pair) -> None:
    original, signed = pair
    tamper(fresh_home, "UPDATE lookup SET idx = 0 WHERE idx >= 6")
    assert report(lightseal, fresh_home, original)["headline"] == "NO_CREDENTIALS"
    assert report(lightseal, fresh_home, signed)["proven"]["ledger"]["state"] == "unknown"
    assert lightseal("ledger", "audit", home=fresh_home).returncode == 4


def test_custody_counts_only_as_it_was_recorded(lightseal, fresh_home: Home, pair) -> None:
    reseal(fresh_home, lambda opened: opened.replace(b'"E0"', b'"E3"'))
    assert report(lightseal, fresh_home, pair[1])["proven"]["custody"] is None


def test_a_damaged_entry_is_an_answer_and_not_an_end(
    lightseal, fresh_home: Home, pair, tmp_path: Path
) -> None:
    reseal(fresh_home, lambda opened: bytes(32) + opened[32:])
    found = report(lightseal, fresh_home, pair[1])
    assert (found["headline"], found["proven"]["ledger"]["state"]) == (
        "INTACT_SIGNER_RECOGNISED",
        "not checked",
    )
    done = lightseal("batch", *pair, "--run", "x", "--out", tmp_path / "rows.jsonl", home=fresh_home)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2


def test_a_receipt_speaks_for_the_original_too(lightseal, fresh_home: Home, pair) -> None:
    original, signed = pair
    receipt = signed.with_name(f"{signed.name}.receipt")
    assert (
        report(lightseal, fresh_home, original, "--receipt", receipt)["headline"]
        == "MATCHES_RECORDED_CAPTURE"
    )
    found = report(lightseal, fresh_home, signed, "--receipt", receipt)["proven"]
    assert (found["ledger"]["state"], found["custody"]) == ("included", "E0")


@pytest.mark.parametrize("field", ["salt", "token"])
def test_a_receipt_that_does_not_hold_is_no_success(
    lightseal, fresh_home: Home, pair, tmp_path: Path, field
) -> None:
    """A script that asked for the receipt's check must not read 0 where it failed."""
    receipt = json.loads(pair[1].with_name(f"{pair[1].name}.receipt").read_text())
    if field == "token":
        receipt["payload"]["media"] = "0" * 64
    else:
        receipt["salt"] = "A" * 43 + "="
    altered = tmp_path / "altered.receipt"
    altered.write_text(json.dumps(receipt))
    done = lightseal("verify", pair[1], "--receipt", altered, home=fresh_home)
    assert done.returncode != 0


def test_one_receipt_is_not_asked_about_two_files(lightseal, fresh_home: Home, pair) -> None:
    receipt = pair[1].with_name(f"{pair[1].name}.receipt")
    done = lightseal("verify", *pair, "--receipt", receipt, home=fresh_home)
    assert (done.returncode, "error[usage]" in done.stderr) == (2, True)


def test_rows_judged_as_of_another_day_are_not_mixed(
    lightseal, fresh_home: Home, pair, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    assert lightseal("batch", *pair, "--run", "x", "--out", rows, home=fresh_home).returncode == 0
    done = lightseal(
        "batch", *pair, "--run", "x", "--out", rows, "--at", "2020-01-01T00:00:00Z", home=fresh_home
    )
    assert "error[run-foreign]" in done.stderr
    done = lightseal("batch", *pair, "--run", "y", "--out", rows, home=fresh_home)
    assert "error[run-foreign]" in done.stderr


def test_a_page_never_takes_the_place_of_evidence(lightseal, fresh_home: Home, pair) -> None:
    original, signed = pair
    before = original.read_bytes()
    done = lightseal("verify", signed, "--html", original, home=fresh_home)
    assert "error[output-exists]" in done.stderr
    assert original.read_bytes() == before


@pytest.mark.parametrize("content", [b"\xff\xd8\xff not a picture", b"GIF89a garbage", b"%PDF-1.4 garbage"])
def test_a_file_without_a_record_is_not_said_to_have_a_damaged_one(
    lightseal, fresh_home: Home, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    found = report(lightseal, fresh_home, path)
    assert (found["headline"], found["problem"]["code"]) == ("NOT_CHECKED", "media-unreadable")


@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59Z"]
)
def test_an_absurd_moment_is_a_usage_error(
    lightseal, fresh_home: Home, plain_jpeg: Path, moment: str
) -> None:
    done = lightseal("verify", plain_jpeg, "--at", moment, home=fresh_home)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)


def record_sign(home: Home, payload: dict, salt: bytes) -> int:
    with home.ledger() as ledger:
        entry = Record(Kind.SIGN, canonical(payload), salt, bytes(32))
        return ledger.append([entry], datetime.now(UTC), home.sign_note)[0]


def test_a_lie_that_was_recorded_first_does_not_win_over_the_truth(
    lightseal, fresh_home: Home, plain_jpeg: Path, tmp_path: Path
) -> None:
    # Signed by a twin of the home, so that somebody who adds to this home's ledger can be faster.
    twin = open_home(Path(shutil.copytree(fresh_home.path, tmp_path / "twin")))
    done = lightseal("sign", plain_jpeg, "--out", tmp_path / "out", home=twin)
    assert done.returncode == 0, done.stderr
    signed = tmp_path / "out" / plain_jpeg.name
    truth = json.loads(signed.with_name(f"{signed.name}.receipt").read_text())["payload"]
    for number in range(20):
        record_sign(fresh_home, truth | {"signature": f"{number:0128x}"}, bytes([number]) * 32)
    assert report(lightseal, fresh_home, signed)["proven"]["ledger"]["state"] == "conflicting entry"
    index = record_sign(fresh_home, truth, b"t" * 32)
    found = report(lightseal, fresh_home, signed)["proven"]["ledger"]
    assert (found["state"], found["entry"]) == ("included", index)
