"""The command as its users meet it: a process, its exit status and two streams."""

import base64
import ctypes
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from PIL import Image

from tools.founding import create_home
from tools.home import Home

Command = Callable[..., "subprocess.CompletedProcess[str]"]
ROOT = Path(__file__).parents[2]
ERROR = re.compile(r"error\[[a-z0-9-]+\]: .+\n  next: .+")


def black_png(width: int, height: int) -> bytes:
    """A picture of that size in a few hundred kilobytes."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def half_a_record(jpeg: bytes) -> bytes:
    at = jpeg.index(b"\xff\xeb")
    length = int.from_bytes(jpeg[at + 2 : at + 4], "big")
    head = jpeg[: at + 2] + (length // 2).to_bytes(2, "big")
    return head + jpeg[at + 4 : at + 2 + length // 2] + jpeg[at + 2 + length :]


def no_trace(done: "subprocess.CompletedProcess[str]") -> None:
    for text in (done.stdout, done.stderr):
        assert "Traceback" not in text
        assert "Exception ignored" not in text
        assert "PRIVATE KEY" not in text


def refusal(done: "subprocess.CompletedProcess[str]", code: str) -> str:
    """The one error that was told: a line with a code, and a line that says what to do."""
    no_trace(done)
    assert done.returncode == 1
    assert ERROR.fullmatch(done.stderr.strip()), done.stderr
    assert done.stderr.startswith(f"error[{code}]: "), done.stderr
    return done.stderr


def nothing_left(folder: Path) -> None:
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    assert left == []


def keys_of(home: Home) -> list[bytes]:
    """Every private key alone (the files hold the public half too), in each form it could slip out in."""
    forms: list[bytes] = []
    for path in home.path.rglob("*.pem"):
        if "PRIVATE KEY" not in path.read_text():
            continue
        key = load_pem_private_key(path.read_bytes(), None)
        if isinstance(key, ed25519.Ed25519PrivateKey):
            secret = key.private_bytes_raw()
        else:
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            secret = key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8, "big")
        # Base64 of bytes inside a longer string depends on where they fall; its middle is one of three.
        middles = [base64.b64encode(bytes(shift) + secret)[4:-8] for shift in range(3)]
        forms += [secret, secret.hex().encode(), *middles]
    assert len(forms) >= 6 * 5
    return forms


# --- Bad input


@pytest.fixture
def bad(tmp_path: Path, signed: Path, own_samples: Path) -> dict[str, Path]:
    """Files nobody should sign, by what is wrong with them."""
    folder = tmp_path / "bad"
    folder.mkdir()
    whole = (own_samples / "hills.jpg").read_bytes()
    contents = {
        "empty.jpg": b"",
        "text.jpg": b"this is not a picture\n" * 40,
        "huge.png": black_png(20_000, 20_000),
        "truncated.jpg": whole[: len(whole) // 2],
        "half-a-record.jpg": half_a_record(signed.read_bytes()),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    assert len(contents["huge.png"]) < 1_000_000
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    return {path.name: path for path in folder.iterdir()} | {"missing.jpg": folder / "missing.jpg"}


SIGN_CODES = {
    "empty.jpg": "media-empty",
    "text.jpg": "media-type-unknown",
    "huge.png": "media-too-many-pixels",
    "truncated.jpg": "media-truncated",
    "half-a-record.jpg": "signing-failed",
    "folder.jpg": "not-a-file",
    "pipe.jpg": "not-a-file",
    "missing.jpg": "file-unreadable",
}
VERIFY_ANSWERS = {
    "empty.jpg": ("NOT_CHECKED", 15),
    "text.jpg": ("NOT_CHECKED", 15),
    "huge.png": ("NO_CREDENTIALS", 10),
    "truncated.jpg": ("NO_CREDENTIALS", 10),
    "half-a-record.jpg": ("CREDENTIALS_UNREADABLE", 14),
    "folder.jpg": ("NOT_CHECKED", 15),
    "pipe.jpg": ("NOT_CHECKED", 15),
    "missing.jpg": ("NOT_CHECKED", 15),
}


def test_no_bad_file_is_signed_and_each_gets_its_own_line(
    lightseal: Command, home: Home, bad: dict[str, Path], tmp_path: Path
) -> None:
    entries = lightseal("ledger", "audit", home=home).stdout.split()[0]
    names = sorted(SIGN_CODES)
    done = lightseal("sign", *(bad[name] for name in names), "--out", tmp_path / "out", home=home)
    no_trace(done)
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 2 * len(names)
    for name, said, following in zip(names, lines[::2], lines[1::2], strict=True):
        assert said.startswith(f"error[{SIGN_CODES[name]}]: "), said
        assert name in said
        assert following.startswith("  next: ")
    nothing_left(tmp_path / "out")
    assert lightseal("ledger", "audit", home=home).stdout.split()[0] == entries


def test_every_bad_file_gets_an_answer_and_the_highest_status_is_returned(
    lightseal: Command, home: Home, bad: dict[str, Path]
) -> None:
    names = sorted(VERIFY_ANSWERS)
    done = lightseal("verify", "--json", *(bad[name] for name in names), home=home)
    no_trace(done)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {Path(row["file"]).name: row["headline"] for row in rows} == {
        name: head for name, (head, _) in VERIFY_ANSWERS.items()
    }
    for row in rows:
        if row["headline"] == "NOT_CHECKED":
            assert row["problem"]["remedy"]
    assert done.returncode == max(status for _, status in VERIFY_ANSWERS.values())
    truncated = next(row for row in rows if row["file"].endswith("truncated.jpg"))
    whole = [finding for finding in truncated["findings"] if finding["code"] == "media.whole"]
    assert [finding["passed"] for finding in whole] == [False]


@pytest.mark.parametrize("name", ["half-a-record.jpg", "huge.png", "empty.jpg"])
def test_one_bad_file_gives_its_own_status(
    lightseal: Command, home: Home, bad: dict[str, Path], name: str
) -> None:
    done = lightseal("verify", bad[name], home=home)
    no_trace(done)
    head, status = VERIFY_ANSWERS[name]
    assert done.returncode == status
    assert head in done.stdout.splitlines()[0]


def test_a_batch_of_bad_files_has_a_row_for_each(
    lightseal: Command, home: Home, bad: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    done = lightseal(
        "batch", bad["empty.jpg"].parent, "--run", "bad", "--out", out, "--workers", "1", home=home
    )
    no_trace(done)
    assert done.returncode == 21
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    found = {Path(row["path"]).name: row["report"]["headline"] for row in rows}
    wanted = {name: head for name, (head, _) in VERIFY_ANSWERS.items()}
    del wanted["missing.jpg"], wanted["folder.jpg"]
    assert found == wanted


def as_anybody() -> None:
    """Before the command starts: give up, for good, the superuser's right to read every file."""
    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH leave the bounding set
            assert ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0


def test_a_file_that_may_not_be_read_says_so(
    lightseal: Command, home: Home, plain_jpeg: Path, signed: Path, tmp_path: Path
) -> None:
    plain_jpeg.chmod(0)
    refusal(lightseal("sign", plain_jpeg, home=home, preexec_fn=as_anybody), "file-unreadable")
    done = lightseal("verify", "--json", plain_jpeg, signed, home=home, preexec_fn=as_anybody)
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert (done.returncode, first["problem"]["code"]) == (15, "file-unreadable")
    assert second["headline"] == "INTACT_SIGNER_RECOGNISED"
    rows = tmp_path / "rows.jsonl"
    done = lightseal(
        "batch", plain_jpeg, signed, "--run", "x", "--out", rows, home=home, preexec_fn=as_anybody
    )
    assert (done.returncode, len(rows.read_text().splitlines())) == (21, 2)


HOSTILE_NAMES = [
    b"new\nline.jpg",
    b"not-utf8-\xff\xfe.jpg",
    "rtl-\u202egpj.exe".encode(),
    b"esc-\x1b[2J.jpg",
    b"-dash.jpg",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_name_is_signed_and_shown_on_one_line(
    lightseal: Command, home: Home, plain_jpeg: Path, tmp_path: Path, name: bytes
) -> None:
    folder = tmp_path / "hostile"
    folder.mkdir()
    path = folder / os.fsdecode(name)
    shutil.copy(plain_jpeg, path)
    out = tmp_path / "out"
    done = lightseal("sign", "--out", out, "--", path, home=home)
    no_trace(done)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    checked = lightseal("verify", "--", out / path.name, home=home)
    assert checked.returncode == 0
    lines = lightseal("verify", "--json", "--", out / path.name, home=home).stdout.splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["file"] == str(out / path.name)
    again = lightseal("sign", "--out", out, "--", path, home=home)
    refusal(again, "output-exists")
    for text in (done.stdout, checked.stdout, again.stderr):
        assert "\x1b" not in text
        assert "\u202e" not in text


# --- Where it is written


def small_disk(place: Path) -> None:
    """A file system of 48 KiB; only the superuser may make one."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48k", "lightseal-test", place], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("a small file system can be mounted by the superuser only")


def test_a_full_disk_is_said_and_leaves_nothing(
    lightseal: Command, home: Home, plain_jpeg: Path, tmp_path: Path
) -> None:
    out = tmp_path / "disk"
    out.mkdir()
    small_disk(out)
    try:
        refusal(lightseal("sign", plain_jpeg, "--out", out, home=home), "disk-full")
        nothing_left(out)
    finally:
        subprocess.run(["umount", out], check=True)


def test_a_file_size_limit_is_said_and_leaves_nothing(
    lightseal: Command, fresh_home: Home, tmp_path: Path
) -> None:
    """The ledger of a fresh home is below the limit, the picture above it."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))

    large = tmp_path / "large.png"
    Image.frombytes("RGB", (600, 600), random.Random(1).randbytes(600 * 600 * 3)).save(large)  # noqa: S311
    done = lightseal("sign", large, "--out", tmp_path / "out", home=fresh_home, preexec_fn=limited)
    refusal(done, "disk-full")
    nothing_left(tmp_path / "out")


def test_an_existing_file_is_never_replaced(
    lightseal: Command, home: Home, plain_jpeg: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "plain.jpg").write_text("mine")
    refusal(lightseal("sign", plain_jpeg, "--out", out, home=home), "output-exists")
    assert (out / "plain.jpg").read_text() == "mine"
    assert [path.name for path in out.iterdir()] == ["plain.jpg"]
    refusal(lightseal("sign", plain_jpeg, "--out", plain_jpeg.parent, home=home), "output-exists")


def test_an_output_folder_that_is_a_file_is_refused(
    lightseal: Command, home: Home, plain_jpeg: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    refusal(lightseal("sign", plain_jpeg, "--out", tmp_path / "file", home=home), "file-unwritable")
    refusal(lightseal("sign", plain_jpeg, "--out", tmp_path / "file" / "below", home=home), "file-unwritable")


def test_a_folder_that_cannot_be_written_is_said(
    lightseal: Command, home: Home, plain_jpeg: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o500)
    if os.access(out, os.W_OK):
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "ro", "lightseal-test", out], capture_output=True, check=False
        )
        if mounted.returncode != 0:
            pytest.skip("the superuser may write everywhere, and a read-only file system cannot be mounted")
        try:
            refusal(lightseal("sign", plain_jpeg, "--out", out, home=home), "file-unwritable")
            nothing_left(out)
        finally:
            subprocess.run(["umount", out], check=True)
        return
    refusal(lightseal("sign", plain_jpeg, "--out", out, home=home), "file-unwritable")
    nothing_left(out)


# --- Killed, crowded, late


def test_killed_at_any_moment_signing_leaves_no_half_file(
    fresh_home: Home, own_samples: Path, tmp_path: Path, environment: dict[str, str], lightseal: Command
) -> None:
    out, chance = tmp_path / "out", random.Random(7)  # noqa: S311 - moments, not keys
    files = []
    for number in range(40):
        files.append(tmp_path / f"{number}.jpg")
        shutil.copy(own_samples / "hills.jpg", files[-1])
    killed = 0
    for number in range(8):
        command = [sys.executable, "-c", "from tools.cli import main; main()", "--home", fresh_home.path]
        command += ["sign", "--device", "cam", "--out", out / str(number), *files]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0.0, 0.15))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        process.stdout.close()
    assert killed >= 6
    audited = lightseal("ledger", "audit", home=fresh_home)
    assert audited.returncode == 0, audited.stdout
    visible = sorted(path for path in out.rglob("*") if path.is_file() and not path.name.startswith("."))
    media = [path for path in visible if path.suffix == ".jpg"]
    assert len(media) > 8
    assert lightseal("verify", *media, home=fresh_home).returncode == 0
    receipts = {path.with_suffix("") for path in visible if path.suffix == ".receipt"}
    assert set(media) <= receipts
    for path in media[:3]:
        receipt = path.with_name(path.name + ".receipt")
        assert lightseal("verify", path, "--receipt", receipt, home=fresh_home).returncode == 0


def test_an_ended_signing_takes_its_partial_file_along(
    fresh_home: Home, own_samples: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    files = []
    for number in range(60):
        files.append(tmp_path / f"{number}.jpg")
        shutil.copy(own_samples / "hills.jpg", files[-1])
    command = [sys.executable, "-c", "from tools.cli import main; main()", "--home", fresh_home.path, "sign"]
    process = subprocess.Popen(
        [*command, "--out", tmp_path / "out", *files], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    process.stdout.read()
    process.stdout.close()
    assert process.wait() in (143, -signal.SIGTERM)
    assert [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []


def test_two_signers_at_once_both_succeed(
    fresh_home: Home, own_samples: Path, tmp_path: Path, environment: dict[str, str], lightseal: Command
) -> None:
    files = []
    for number in range(12):
        files.append(tmp_path / f"{number}.jpg")
        shutil.copy(own_samples / "hills.jpg", files[-1])
    command = [sys.executable, "-c", "from tools.cli import main; main()", "--home", fresh_home.path, "sign"]
    running = [
        subprocess.Popen(
            [*command, "--out", tmp_path / name, *files],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    for process in running:
        _, said = process.communicate(timeout=120)
        assert (process.returncode, said) == (0, "")
    audited = lightseal("ledger", "audit", home=fresh_home)
    assert audited.returncode == 0
    assert audited.stdout.startswith("54 entries")
    assert lightseal("verify", *(tmp_path / "two").glob("*.jpg"), home=fresh_home).returncode == 0


def test_two_signers_of_one_output_leave_one_whole_file(
    fresh_home: Home, plain_jpeg: Path, tmp_path: Path, environment: dict[str, str], lightseal: Command
) -> None:
    command = [sys.executable, "-c", "from tools.cli import main; main()", "--home", fresh_home.path, "sign"]
    running = [
        subprocess.Popen(
            [*command, "--out", tmp_path / "out", plain_jpeg],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(3)
    ]
    assert min(process.wait(timeout=120) for process in running) == 0
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == ["plain.jpg", "plain.jpg.receipt"]
    checked = lightseal(
        "verify",
        "--json",
        "--receipt",
        tmp_path / "out" / "plain.jpg.receipt",
        tmp_path / "out" / "plain.jpg",
        home=fresh_home,
    )
    assert json.loads(checked.stdout)["proven"]["ledger"]["state"] == "included"


def test_a_clock_behind_the_ledger_is_one_clear_line(
    lightseal: Command, plain_jpeg: Path, tmp_path: Path
) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    made = create_home(tmp_path / "tomorrow", "Tomorrow", "http://localhost:8461/ocsp/", tomorrow)
    done = lightseal("sign", plain_jpeg, "--out", tmp_path / "out", home=made)
    refusal(done, "clock-unsafe")
    refusal(lightseal("device", "enrol", "late", home=made), "clock-unsafe")
    assert [path.name for path in (made.path / "devices").iterdir()] == []


# --- Surroundings


@pytest.mark.parametrize(
    "setting",
    [
        {"LC_ALL": "C"},
        {"PYTHONUTF8": "0", "LC_ALL": "C"},
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
def test_any_locale_will_do(
    lightseal: Command,
    home: Home,
    plain_jpeg: Path,
    tmp_path: Path,
    environment: dict[str, str],
    setting: dict[str, str],
) -> None:
    path = tmp_path / "caf\u00e9-\u6d77.jpg"
    shutil.copy(plain_jpeg, path)
    used = {**environment, **setting}
    done = lightseal("sign", path, "--out", tmp_path / "out", home=home, env=used)
    no_trace(done)
    assert done.returncode == 0, done.stderr
    checked = lightseal("verify", tmp_path / "out" / path.name, home=home, env=used)
    no_trace(checked)
    assert checked.returncode == 0, checked.stderr
    page = tmp_path / "page.html"
    assert lightseal("verify", "--html", page, path, home=home, env=used).returncode == 10
    assert page.read_text("utf-8").startswith("<!doctype html>")


def test_a_reader_that_stops_early_gets_no_trace(
    home: Home, signed: Path, environment: dict[str, str]
) -> None:
    command = [sys.executable, "-c", "from tools.cli import main; main()", "--home", home.path, "verify"]
    process = subprocess.Popen(
        [*command, *[signed] * 40], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert "INTACT_SIGNER_RECOGNISED" in process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) in (0, 1)
    assert said == ""


def test_standard_input_is_a_file_like_any_other(lightseal: Command, home: Home, signed: Path) -> None:
    def given(content: bytes) -> "subprocess.CompletedProcess[bytes]":
        done = lightseal("verify", "-", home=home, input=content, text=False, errors=None)
        assert b"Traceback" not in done.stdout + done.stderr  # type: ignore[operator]
        return done  # type: ignore[return-value]

    found = given(signed.read_bytes())
    assert found.returncode == 0
    assert found.stdout.startswith(b"-: Unchanged")
    assert given(b"").returncode == 15
    assert given(b"text\n" * 100).returncode == 15
    twice = lightseal("verify", "-", "-", home=home, input="")
    assert twice.returncode == 2
    assert ERROR.fullmatch(twice.stderr.strip())


def test_a_closed_standard_input_is_said(home: Home, lightseal: Command) -> None:
    done = lightseal("verify", "-", home=home, preexec_fn=lambda: os.close(0))
    refusal(done, "file-unreadable")


def test_wrong_use_is_status_2(lightseal: Command, home: Home, signed: Path) -> None:
    for arguments in (
        ["verify"],
        ["verify", "--at", "2026-01-01", signed],
        ["sign"],
        ["nonsense"],
        ["ledger", "show", "-1"],
        ["batch", "--run", "../x", signed],
        ["device", "enrol", "../x"],
    ):
        done = lightseal(*arguments, home=home)
        no_trace(done)
        assert done.returncode == 2, (arguments, done.stderr)


# --- Verify


def test_a_receipt_is_checked_without_a_home_or_a_network(
    lightseal: Command, home: Home, signed: Path, tmp_path: Path
) -> None:
    lists = [
        "--signers",
        home.path / "trust" / "signers.pem",
        "--time-stampers",
        home.path / "trust" / "time-stampers.pem",
    ]
    receipt = signed.with_name(signed.name + ".receipt")
    done = lightseal("verify", "--json", *lists, "--receipt", receipt, "--log-key", str(home.log), signed)
    no_trace(done)
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)
    assert found["proven"]["ledger"]["state"] == "included"
    assert not (tmp_path / ".local").exists()
    without = json.loads(lightseal("verify", "--json", *lists, "--receipt", receipt, signed).stdout)
    assert without["proven"]["ledger"]["state"] == "not checked"
    assert not next(each for each in without["findings"] if each["code"] == "ledger.included")["passed"]


def test_the_home_s_own_list_recognises_under_either_profile(
    lightseal: Command, home: Home, signed: Path
) -> None:
    lists = ["--signers", home.path / "trust" / "signers.pem"]
    for profile in ([], ["--profile", "strict"]):
        done = lightseal("verify", *lists, *profile, signed, home=home)
        assert (done.returncode, "RECOGNISED" in done.stdout) == (0, True), done.stdout


def test_another_file_s_receipt_is_a_conflicting_entry(
    lightseal: Command, home: Home, signed: Path, other_signed: Path
) -> None:
    receipt = other_signed.with_name(other_signed.name + ".receipt")
    found = json.loads(lightseal("verify", "--json", "--receipt", receipt, signed, home=home).stdout)
    assert found["proven"]["ledger"]["state"] == "conflicting entry"
    assert found["headline"] == "INTACT_SIGNER_RECOGNISED"


def test_a_changed_receipt_is_refused_or_does_not_hold(
    lightseal: Command, home: Home, signed: Path, tmp_path: Path
) -> None:
    text = signed.with_name(signed.name + ".receipt").read_text()
    (tmp_path / "odd.receipt").write_text(text.replace('"media"', '"medib"'))
    done = lightseal("verify", "--json", "--receipt", tmp_path / "odd.receipt", signed, home=home)
    no_trace(done)
    assert json.loads(done.stdout)["proven"]["ledger"]["state"] == "conflicting entry"
    (tmp_path / "no.receipt").write_text("{}")
    refusal(lightseal("verify", "--receipt", tmp_path / "no.receipt", signed, home=home), "receipt-malformed")
    refusal(lightseal("verify", "--receipt", tmp_path / "gone", signed, home=home), "file-unreadable")


def test_several_files_return_the_highest_status(
    lightseal: Command, home: Home, signed: Path, altered: Path, own_samples: Path
) -> None:
    assert lightseal("verify", signed, signed, home=home).returncode == 0
    assert lightseal("verify", signed, own_samples / "harbour.jpg", home=home).returncode == 10
    assert lightseal("verify", altered, own_samples / "harbour.jpg", signed, home=home).returncode == 12


def test_a_file_is_judged_as_of_the_time_that_was_asked_for(
    lightseal: Command, home: Home, signed: Path
) -> None:
    later = lightseal("verify", "--json", "--at", "2036-01-01T00:00:00Z", signed, home=home)
    assert json.loads(later.stdout)["engine"]["judged_at"] == "2036-01-01T00:00:00Z"
    assert later.returncode == 0, "a proven time outlives the certificate"
    earlier = lightseal("verify", "--json", "--at", "2001-01-01T00:00:00Z", signed, home=home)
    assert earlier.returncode != 0
    assert json.loads(earlier.stdout)["headline"] != "INTACT_SIGNER_RECOGNISED"


def test_a_list_that_cannot_be_read_is_an_error_before_any_answer(
    lightseal: Command, home: Home, signed: Path, tmp_path: Path
) -> None:
    (tmp_path / "list.pem").write_text("no certificates")
    refusal(
        lightseal("verify", "--signers", tmp_path / "list.pem", signed, home=home), "certificate-malformed"
    )
    refusal(lightseal("verify", "--signers", tmp_path / "gone.pem", signed, home=home), "file-unreadable")


def test_without_a_home_nobody_is_recognised_and_it_is_said(lightseal: Command, signed: Path) -> None:
    done = lightseal("verify", signed)
    no_trace(done)
    assert done.returncode == 11
    assert done.stderr.startswith("note: ")
    assert lightseal("verify", signed, "--html", "report.html").returncode == 11


def test_a_home_that_was_named_must_exist(lightseal: Command, signed: Path, tmp_path: Path) -> None:
    refusal(lightseal("--home", tmp_path / "gone", "verify", signed), "home-missing")
    refusal(lightseal("--home", tmp_path / "gone", "sign", signed), "home-missing")
    refusal(lightseal("--home", tmp_path / "gone", "ledger", "audit"), "home-missing")


def test_json_of_the_command_is_as_the_schema_says(
    lightseal: Command, home: Home, signed: Path, altered: Path, own_samples: Path, tmp_path: Path
) -> None:
    schema = json.loads((ROOT / "tools" / "report.schema.json").read_text("utf-8"))
    done = lightseal("verify", "--json", signed, altered, own_samples / "hills.jpg", tmp_path, home=home)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 4
    for row in rows:
        jsonschema.validate(row, schema, cls=jsonschema.Draft202012Validator)


# --- Init, devices, ledger


def digest_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_init_twice_changes_nothing_and_prints_no_key(lightseal: Command, tmp_path: Path) -> None:
    place = tmp_path / "place"
    first = lightseal("--home", place, "init")
    no_trace(first)
    assert first.returncode == 0
    before = digest_of(place)
    second = lightseal("--home", place, "init", "--organisation", "Another")
    assert second.returncode == 0
    assert "nothing was changed" in second.stdout
    assert digest_of(place) == before


def test_init_leaves_other_things_where_they_are(lightseal: Command, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    refusal(lightseal("--home", tmp_path / "full", "init"), "output-exists")
    (tmp_path / "file").write_text("mine")
    refusal(lightseal("--home", tmp_path / "file", "init"), "output-exists")
    refusal(lightseal("--home", tmp_path / "file" / "below", "init"), "file-unwritable")
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["file", "full"]


def test_init_killed_at_any_moment_leaves_a_whole_home_or_none(
    environment: dict[str, str], tmp_path: Path, lightseal: Command
) -> None:
    program = "from tools.cli import main; main()"
    for number in range(8):
        place = tmp_path / str(number)
        process = subprocess.Popen(
            [sys.executable, "-c", program, "--home", place, "init"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.15 + 0.05 * number)
        process.kill()
        process.wait()
        if place.exists():
            assert lightseal("--home", place, "ledger", "audit").returncode == 0
            continue
        assert lightseal("--home", place, "init").returncode == 0


def test_no_output_holds_a_key(
    lightseal: Command, fresh_home: Home, plain_jpeg: Path, tmp_path: Path
) -> None:
    secret = keys_of(fresh_home)
    runs = [
        lightseal("init", home=fresh_home),
        lightseal("device", "enrol", "two", home=fresh_home),
        lightseal("device", "list", home=fresh_home),
        lightseal("sign", plain_jpeg, "--out", tmp_path / "out", home=fresh_home),
        lightseal(
            "verify", "--json", "--html", tmp_path / "p.html", tmp_path / "out" / "plain.jpg", home=fresh_home
        ),
        lightseal("ledger", "show", "5", home=fresh_home),
        lightseal("ledger", "prove", "5", home=fresh_home),
        lightseal("doctor", home=fresh_home),
    ]
    said = "".join(done.stdout + done.stderr for done in runs) + (tmp_path / "p.html").read_text()
    said += (tmp_path / "out" / "plain.jpg.receipt").read_text()
    written = (tmp_path / "out" / "plain.jpg").read_bytes()
    for form in secret:
        assert form not in said.encode()
        assert form not in written


def test_every_ledger_command_answers(lightseal: Command, fresh_home: Home) -> None:
    checkpoint = lightseal("ledger", "checkpoint", home=fresh_home)
    assert checkpoint.stdout.splitlines()[:2] == [fresh_home.log.name, "6"]
    shown = lightseal("ledger", "show", "5", home=fresh_home)
    assert json.loads(shown.stdout.splitlines()[1])["custody"] == "E0"
    proved = lightseal("ledger", "prove", "5", home=fresh_home)
    assert json.loads(proved.stdout)["schema"] == "lightseal-receipt/1"
    audited = lightseal("ledger", "audit", home=fresh_home)
    assert (audited.returncode, "nothing diverges" in audited.stdout) == (0, True)
    refusal(lightseal("ledger", "show", "99", home=fresh_home), "entry-unknown")
    refusal(lightseal("ledger", "prove", "99", home=fresh_home), "entry-unknown")
    for database in fresh_home.path.glob("ledger.db*"):
        database.unlink()
    for command in ("checkpoint", "audit"):
        done = lightseal("ledger", command, home=fresh_home)
        refusal(done, "ledger-missing")


def test_a_device_is_enrolled_once(lightseal: Command, fresh_home: Home) -> None:
    assert lightseal("device", "enrol", "two", home=fresh_home).returncode == 0
    refusal(lightseal("device", "enrol", "two", home=fresh_home), "device-exists")
    listed = lightseal("device", "list", home=fresh_home).stdout.splitlines()
    assert [line.split("\t")[0] for line in listed] == ["cam", "two"]
    refusal(lightseal("sign", "--device", "three", ROOT / "LICENSE", home=fresh_home), "device-unknown")


def test_a_device_does_not_capture_what_is_signed_already(
    lightseal: Command, home: Home, signed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    refusal(lightseal("sign", "--device", "cam", "--out", out, signed, home=home), "already-signed")
    nothing_left(out)
    assert lightseal("sign", "--out", out, signed, home=home).returncode == 0
    found = json.loads(lightseal("verify", "--json", out / signed.name, home=home).stdout)
    assert found["headline"] == "INTACT_SIGNER_RECOGNISED"
    assert found["proven"]["history"]["state"] == "complete"
    assert found["claims"]["source_types"] == []


# --- Batch


def test_a_killed_batch_goes_on_and_answers_every_file_once(
    environment: dict[str, str],
    home: Home,
    signed: Path,
    own_samples: Path,
    tmp_path: Path,
    lightseal: Command,
) -> None:
    tree, out = tmp_path / "tree", tmp_path / "rows.jsonl"
    for number in range(300):
        place = tree / str(number % 7)
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(signed if number % 3 else own_samples / "hills.jpg", place / f"{number}.jpg")
    arguments = ["batch", tree, "--run", "night", "--out", out, "--workers", "2"]
    program = [sys.executable, "-c", "from tools.cli import main; main()", "--home", home.path]
    for wanted in (20, 120):
        process = subprocess.Popen(
            [*program, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < until:
            if out.exists() and out.read_bytes().count(b"\n") >= wanted:
                break
            time.sleep(0.005)
        process.kill()
        process.wait()
    before = out.read_bytes().count(b"\n")
    done = lightseal(*arguments, home=home)
    no_trace(done)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    names = sorted(row["path"] for row in rows)
    assert names == sorted(str(path) for path in tree.rglob("*.jpg"))
    assert before >= 20
    assert {row["headline"] for row in rows} <= {
        "INTACT_SIGNER_RECOGNISED",
        "NO_CREDENTIALS",
        "MATCHES_RECORDED_CAPTURE",
    }
    again = lightseal(*arguments, home=home)
    assert "300 answered earlier, 0 now" in again.stdout


@pytest.mark.parametrize("command", [["--version"], ["init"], ["ledger", "checkpoint"]])
def test_without_a_standard_output_nothing_is_done_and_that_is_said(
    command: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    program = f'exec "{sys.executable}" -c "from tools.cli import main; main()" --home "$0" "$@" >&-'
    done = subprocess.run(
        ["/bin/sh", "-c", program, tmp_path / "home", *command],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "/dev/null" in refusal(done, "system-refused")
    nothing_left(tmp_path)
