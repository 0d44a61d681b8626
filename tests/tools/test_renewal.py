import hashlib
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authn.errors import CertificateError, IssuanceError
from authn.timestamp.authority import KEY_USE
from authn.timestamp.relay import token_of
from authn.timestamp.request import TimeStampRequest
from authn.timestamp.token import TimeEvidence, check_token
from authn.trust import Purpose
from tools.errors import UsageError
from tools.home import Home, open_home
from tools.renewal import renew, units

QUERY = TimeStampRequest(hashlib.sha256(b"claim").digest(), nonce=7).encode()


def now() -> datetime:
    return datetime.now(UTC)


def stamped(home: Home) -> bytes:
    with home.ledger_to_read() as ledger:
        return token_of(home.authority(now, ledger).respond(QUERY))


def judged(home: Home, token: bytes) -> TimeEvidence:
    lists = tuple(each.parse() for each in home.lists() if each.purpose is Purpose.TIME_STAMPING)
    return check_token(token, b"claim", lists, now())


def test_old_and_new_tokens_stand_and_the_new_certificate_was_logged_first(fresh_home: Home) -> None:
    old_key = (fresh_home.path / "keys" / "time-stamping.pem").read_bytes()
    before = stamped(fresh_home)
    at = now()
    certificate, until = renew(fresh_home, at)
    assert until - KEY_USE - at < timedelta(days=1)
    after = stamped(fresh_home)
    old, new = judged(fresh_home, before), judged(fresh_home, after)
    assert old.proven, old.reason
    assert new.proven, new.reason
    assert (old.authority[-6:], new.authority[-6:]) == ("Unit 1", "Unit 2")
    der = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with fresh_home.ledger_to_read() as ledger:
        assert len(ledger.find("spki", hashlib.sha256(der).digest())) == 1
    kept = [path.read_bytes() for path in (fresh_home.path / "keys").iterdir()]
    assert old_key not in kept
    assert (fresh_home.path / "keys" / "time-stamping.pem").stat().st_mode & 0o777 == 0o600
    assert not list(fresh_home.path.rglob("*.next.pem"))
    assert not fresh_home.own.audit().findings


def test_it_can_be_renewed_again_and_again(fresh_home: Home) -> None:
    for number in (2, 3, 4):
        renew(fresh_home, now())
        assert judged(fresh_home, stamped(fresh_home)).authority.endswith(f"Unit {number}")
    assert units(fresh_home) == ("time-stamping-1", "time-stamping-2", "time-stamping-3", "time-stamping")
    subjects = [fresh_home.certificate(name).subject.rfc4514_string() for name in units(fresh_home)]
    assert [f"Unit {number}" in subject for number, subject in enumerate(subjects, 1)] == [True] * 4


@pytest.mark.parametrize("crash", ["a key is made", "a certificate is made", "the key took its place"])
def test_after_a_crash_the_unit_stamps_or_one_more_call_lets_it(
    fresh_home: Home, tmp_path: Path, crash: str
) -> None:
    # What a crash leaves: the files of before, and those of after that were there by then.
    later = open_home(Path(shutil.copytree(fresh_home.path, tmp_path / "later")))
    renew(later, now())
    key, certificate = Path("keys") / "time-stamping.pem", Path("certificates") / "time-stamping.pem"
    took_place = crash == "the key took its place"
    shutil.copy2(
        later.path / key,
        fresh_home.path / key.with_stem("time-stamping" if took_place else "time-stamping.next"),
    )
    if crash != "a key is made":
        shutil.copy2(later.path / certificate, fresh_home.path / certificate.with_stem("time-stamping.next"))
    if took_place:
        with pytest.raises(CertificateError):
            stamped(fresh_home)
    else:
        assert judged(fresh_home, stamped(fresh_home)).authority.endswith("Unit 1")
    made, _ = renew(fresh_home, now())
    assert (made == later.certificate("time-stamping")) == took_place
    found = judged(fresh_home, stamped(fresh_home))
    assert found.proven, found.reason
    assert found.authority.endswith("Unit 2")
    assert units(fresh_home) == ("time-stamping-1", "time-stamping"), "the old one's certificate is kept"
    assert not list(fresh_home.path.rglob("*.next.pem"))


def test_nothing_is_replaced_where_the_root_is_not_at_hand_or_over(fresh_home: Home) -> None:
    before = stamped(fresh_home)
    with pytest.raises(IssuanceError):
        renew(fresh_home, now() + timedelta(days=7301))
    with pytest.raises(UsageError):
        renew(replace(fresh_home, keys={"time-stamping": "exec:/nowhere"}), now())
    assert judged(fresh_home, stamped(fresh_home)).authority == judged(fresh_home, before).authority


def test_the_command_says_until_when_the_new_key_stamps(
    fresh_home: Home, lightseal: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    done = lightseal("tsa", "renew", home=fresh_home)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Fresh Newsroom Time-Stamp Unit 2 stamps until {now() + KEY_USE:%Y-%m-%d}.\n"
