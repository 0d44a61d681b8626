import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

import storage.errors
import tools.errors
from authn.keys import LogKey, generate_ed25519
from storage.cosignature import cosign
from storage.entry import Kind
from storage.note import Algorithm, Note, VerifierKey
from storage.policy import Policy
from tools.check import MAX_RECEIPT_BYTES, read_receipt
from tools.founding import create_home
from tools.home import Home
from tools.receipt_check import NOT_HELD, checked

REFUSED = (storage.errors.Error, tools.errors.Error)
# The command, where any look at the network or at a home ends the process with a trace.
ALONE = """
import sys
def heard(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}:
        raise AssertionError(event, arguments)
    if event == "open" and str(arguments[0]).endswith((".db", ".json", ".keyring", ".guard", ".pem")):
        raise AssertionError(event, arguments)
sys.addaudithook(heard)
from tools.cli import main
main()
"""


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def receipt(signed: Path) -> Path:
    """The receipt of harbour.jpg, as it was written when that was signed."""
    return signed.with_name("harbour.jpg.receipt")


@pytest.fixture
def key(home: Home) -> str:
    return str(home.log)


def said(lines: list[str]) -> str:
    return "\n".join(lines)


def test_it_says_what_is_proven_and_on_whose_word(receipt: Path, key: str, signed: Path) -> None:
    lines, status = checked(receipt, key, signed, None, now())
    assert status == 0
    assert "proven" in lines[0]
    assert "kind           sign" in lines
    assert "by the operator's own clock" in said(lines)
    assert lines[-1].startswith("media          entry ")
    assert "not after" not in said(lines)  # nobody witnessed it


@pytest.mark.parametrize("name", ["other_signed", "altered"])
def test_other_media_does_not_hold(
    receipt: Path, key: str, name: str, request: pytest.FixtureRequest
) -> None:
    lines, status = checked(receipt, key, request.getfixturevalue(name), None, now())
    assert status == NOT_HELD
    assert lines[-1].startswith("does not hold  ")


def test_a_receipt_about_no_media_does_not_hold_for_any(
    home: Home, key: str, signed: Path, tmp_path: Path
) -> None:
    with home.ledger_to_read() as ledger:
        (tmp_path / "issue.receipt").write_text(str(ledger.prove(0)))
    lines, status = checked(tmp_path / "issue.receipt", key, None, None, now())
    assert (status, lines[-1]) == (0, "media          not compared: none was given")
    assert checked(tmp_path / "issue.receipt", key, signed, None, now())[1] == NOT_HELD


def test_media_that_is_not_there_says_nothing_of_the_receipt(receipt: Path, key: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for media, code in (
        (tmp_path / "nothing.jpg", "file-unreadable"),
        (tmp_path, "not-a-file"),
        (tmp_path / "pipe.jpg", "not-a-file"),
    ):
        with pytest.raises(tools.errors.Error) as caught:
            checked(receipt, key, media, None, now())
        assert caught.value.code == code
        assert caught.value.remedy.endswith(".")


def test_what_does_not_hold_is_said_even_where_the_media_is_not_there(receipt: Path, tmp_path: Path) -> None:
    other = VerifierKey("elsewhere.example/log", LogKey(generate_ed25519()).public)
    lines, status = checked(receipt, str(other), tmp_path / "nothing.jpg", None, now())
    assert status == NOT_HELD
    assert "does not hold" in said(lines)


def test_the_token_is_said_to_be_judged_by_nobody_here(receipt: Path, key: str, tmp_path: Path) -> None:
    held = read_receipt(receipt)
    for token, line in (
        (b"no token at all", "token          kept with it, not judged here"),
        (None, "token          none"),
    ):
        (tmp_path / "token.receipt").write_text(str(replace(held, token=token)))
        lines, status = checked(tmp_path / "token.receipt", key, None, None, now())
        assert (status, [each for each in lines if each.startswith("token ")]) == (0, [line])


def test_without_witnesses_it_says_what_that_leaves_open(receipt: Path, key: str) -> None:
    line = "witnesses      not checked: no policy was given; others may be shown another log"
    assert line in checked(receipt, key, None, None, now())[0]
    lines, status = checked(receipt, key, None, Policy.parse("quorum none\n"), now())
    assert status == 0
    assert "witnesses      the policy asks for none; others may be shown another log" in lines
    assert "not after" not in said(lines)


def test_another_key_of_the_same_name_does_not_hold(receipt: Path, home: Home) -> None:
    other = VerifierKey(home.log.name, LogKey(generate_ed25519()).public)
    lines, status = checked(receipt, str(other), None, None, now())
    assert status == NOT_HELD
    assert said(lines).count("does not hold") == 1
    assert "next           " in lines[-1]
    # Among the keys of a rotated log, any one that signed is enough.
    assert checked(receipt, f"{other}\n{home.log}\n", None, None, now())[1] == 0


def test_keys_of_two_logs_are_not_one_logs_keys(receipt: Path, key: str) -> None:
    other = VerifierKey("elsewhere.example/log", LogKey(generate_ed25519()).public)
    for text in (f"{key} {other}", "", "nonsense", f"{key}x", "é" * 40):
        with pytest.raises(REFUSED):
            checked(receipt, text, None, None, now())


def test_no_field_of_a_receipt_can_be_changed(receipt: Path, key: str, tmp_path: Path) -> None:
    text = receipt.read_text()
    changed = tmp_path / "changed.receipt"
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if len(line) < 8:
            continue
        middle = len(line) // 2
        other = "A" if line[middle] != "A" else "B"
        changed.write_text(
            "".join([*lines[:number], line[:middle] + other + line[middle + 1 :], *lines[number + 1 :]])
        )
        try:
            said_of_it, status = checked(changed, key, None, None, now())
        except REFUSED:
            continue
        # The token is another's statement, which 'verify' judges; everything else is proven.
        assert status == NOT_HELD or _same_but_token(said_of_it, receipt, key), line


def _same_but_token(lines: list[str], receipt: Path, key: str) -> bool:
    return lines == checked(receipt, key, None, None, now())[0]


def test_a_receipt_cut_short_is_refused(receipt: Path, key: str, tmp_path: Path) -> None:
    text = receipt.read_text()
    short = tmp_path / "short.receipt"
    for length in range(0, len(text), max(1, len(text) // 80)):
        short.write_text(text[:length])
        with pytest.raises(REFUSED):
            checked(short, key, None, None, now())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 100,
        b"\xff\xfe",
        b"x" * (MAX_RECEIPT_BYTES + 1),
        b"\n" * MAX_RECEIPT_BYTES,
        b"[" * 100_000,
        "é".encode(),
    ],
)
def test_what_is_no_receipt_is_refused(key: str, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.receipt").write_bytes(content)
    with pytest.raises(REFUSED) as caught:
        checked(tmp_path / "bad.receipt", key, None, None, now())
    assert caught.value.code
    assert caught.value.remedy


def test_what_is_no_file_is_refused(key: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "link")
    for place in (tmp_path, tmp_path / "pipe", tmp_path / "link", tmp_path / "nothing"):
        with pytest.raises(tools.errors.UnreadableError):
            checked(place, key, None, None, now())


WITNESSES = [LogKey(generate_ed25519()) for _ in range(2)]
KEYS = [
    VerifierKey(f"witness{number}.example/w", private.public, Algorithm.COSIGNATURE_ED25519)
    for number, private in enumerate(WITNESSES)
]


def policy(threshold: int) -> Policy:
    lines = [f"witness w{number} {key}" for number, key in enumerate(KEYS)]
    return Policy.parse("\n".join([*lines, f"group both {threshold} w0 w1", "quorum both", ""]))


def cosigned(receipt: Path, to: Path, *times: int) -> Path:
    """The receipt with its checkpoint cosigned by the first witnesses, at these times."""
    held = read_receipt(receipt)
    note = Note.parse(held.proof.note)
    lines = [
        cosign(note.text, key, at, private.sign)
        for at, key, private in zip(times, KEYS, WITNESSES, strict=False)
    ]
    note = Note(note.text, (*note.signatures, *lines))
    to.write_text(str(replace(held, proof=replace(held.proof, note=bytes(note)))))
    return to


def test_it_is_dated_by_when_enough_witnesses_had_cosigned(receipt: Path, key: str, tmp_path: Path) -> None:
    both = cosigned(receipt, tmp_path / "both.receipt", 1_700_000_060, 1_700_000_000)
    lines, status = checked(both, key, None, policy(2), now())
    assert status == 0
    assert "witnessed      by w0, 2023-11-14T22:14:20Z" in lines
    assert "witnessed      by w1, 2023-11-14T22:13:20Z" in lines
    # One clock alone dates nothing where two are asked for: it could be set back.
    assert "not after      2023-11-14T22:14:20Z, when enough of these witnesses had cosigned" in lines
    assert (
        "not after      2023-11-14T22:13:20Z, when enough of these witnesses had cosigned"
        in (checked(both, key, None, policy(1), now())[0])
    )


def test_a_time_ahead_of_the_clock_is_marked_and_left_out(receipt: Path, key: str, tmp_path: Path) -> None:
    at = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    mark = ", ahead of the clock here and left out of the time"
    for ahead, marked in ((3600, ""), (3601, mark)):
        both = cosigned(receipt, tmp_path / "both.receipt", 1_700_000_000 + ahead, 1_700_000_000)
        lines, status = checked(both, key, None, policy(1), at)
        assert status == 0
        (first,) = [line for line in lines if line.startswith("witnessed      by w0, ")]
        assert first.endswith(f"Z{marked}")
        assert "not after      2023-11-14T22:13:20Z, when enough of these witnesses had cosigned" in lines
    lines, status = checked(both, key, None, policy(2), at)
    assert status == 0
    assert "not after      unknown: too few of these witnesses state a time that can be believed" in lines


def test_a_policy_about_another_log_does_not_hold(
    receipt: Path, key: str, home: Home, tmp_path: Path
) -> None:
    one = cosigned(receipt, tmp_path / "one.receipt", 1_700_000_000)
    other = VerifierKey(home.log.name, LogKey(generate_ed25519()).public)
    lines, status = checked(one, key, None, Policy.parse(f"log {other}\n{policy(1)}"), now())
    assert status == NOT_HELD
    assert "does not hold  This log is not in the policy" in said(lines)
    assert "(policy-other-log)" in said(lines)
    assert checked(one, key, None, Policy.parse(f"log {other}\nlog {key}\n{policy(1)}"), now())[1] == 0
    # Of several keys given, those alone count that the policy names: here, the one that did not sign.
    both_given = checked(one, f"{key} {other}", None, Policy.parse(f"log {other}\n{policy(1)}"), now())
    assert both_given[1] == NOT_HELD


def test_too_few_witnesses_do_not_hold(receipt: Path, key: str, tmp_path: Path) -> None:
    one = cosigned(receipt, tmp_path / "one.receipt", 1_700_000_000)
    assert checked(one, key, None, policy(1), now())[1] == 0
    lines, status = checked(one, key, None, policy(2), now())
    assert status == NOT_HELD
    assert "(quorum-missing)" in said(lines)
    assert lines[-1].startswith("next           ")
    assert checked(receipt, key, None, policy(1), now())[1] == NOT_HELD


def test_a_witness_of_the_same_name_with_another_key_counts_for_nothing(
    receipt: Path, key: str, tmp_path: Path
) -> None:
    held = read_receipt(receipt)
    note = Note.parse(held.proof.note)
    other = LogKey(generate_ed25519())
    forged = VerifierKey(KEYS[0].name, other.public, Algorithm.COSIGNATURE_ED25519)
    line = cosign(note.text, forged, 1_700_000_000, other.sign)
    proof = replace(held.proof, note=bytes(Note(note.text, (*note.signatures, line))))
    (tmp_path / "forged.receipt").write_text(str(replace(held, proof=proof)))
    assert checked(tmp_path / "forged.receipt", key, None, policy(1), now())[1] == NOT_HELD


def test_a_wrong_cosignature_does_not_hold(receipt: Path, key: str, tmp_path: Path) -> None:
    held = read_receipt(receipt)
    note = Note.parse(held.proof.note)
    line = cosign(note.text.replace("\n", " \n", 1), KEYS[0], 1_700_000_000, WITNESSES[0].sign)
    proof = replace(held.proof, note=bytes(Note(note.text, (*note.signatures, line))))
    (tmp_path / "wrong.receipt").write_text(str(replace(held, proof=proof)))
    lines, status = checked(tmp_path / "wrong.receipt", key, None, policy(1), now())
    assert status == NOT_HELD
    assert "(note-unverified)" in said(lines)


def test_a_time_that_no_calendar_has_stops_nothing(receipt: Path, key: str, tmp_path: Path) -> None:
    far = cosigned(receipt, tmp_path / "far.receipt", 2**63 - 1, 1_700_000_000)
    lines, status = checked(far, key, None, policy(1), now())
    assert status == 0
    assert f"witnessed      by w0, {2**63 - 1} seconds after 1970, ahead of the clock here" in said(lines)
    assert "not after      2023-11-14T22:13:20Z, when enough of these witnesses had cosigned" in lines
    far = cosigned(receipt, tmp_path / "farther.receipt", 2**63 - 1, 2**62)
    assert checked(far, key, None, policy(2), now())[1] == 0


def test_what_was_recorded_cannot_write_lines_of_the_answer(tmp_path: Path) -> None:
    home = create_home(tmp_path / "home", "Own", "http://localhost:8461/ocsp/", now())
    hostile = "x\nwitnessed      by everybody\x1b[2J"
    index = home.own.record(Kind.POLICY, {"change": hostile, "x\nmedia          entry 1": 1}, now())
    with home.ledger_to_read() as ledger:
        (tmp_path / "hostile.receipt").write_text(str(ledger.prove(index)))
    lines, status = checked(tmp_path / "hostile.receipt", str(home.log), None, None, now())
    assert status == 0
    assert not [line for line in lines if "\n" in line or "\x1b" in line]


def test_it_needs_no_home_and_no_network(
    receipt: Path, key: str, signed: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    both = cosigned(receipt, tmp_path / "both.receipt", 1_700_000_060, 1_700_000_000)
    (tmp_path / "policy").write_text(str(policy(2)))
    shutil.copy(signed, tmp_path / "picture.jpg")
    (tmp_path / "elsewhere").mkdir()
    arguments = ["ledger", "check", str(both), "--log-key", key]
    arguments += ["--media", str(tmp_path / "picture.jpg"), "--witnesses", str(tmp_path / "policy")]
    asked = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE, *arguments],
        env={name: value for name, value in environment.items() if name != "HOME"},
        cwd=tmp_path / "elsewhere",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (asked.returncode, asked.stderr) == (0, "")
    assert "media          entry " in asked.stdout
    assert "not after      2023-11-14T22:14:20Z" in asked.stdout
    assert list((tmp_path / "elsewhere").iterdir()) == []
