"""The root signs what was logged, before two people, and not by a wrong clock."""

import dataclasses
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authn.device import Certificate, read_chain
from authn.errors import Error as AuthnError
from authn.errors import IssuanceError
from authn.identity import Subject, plan_digest, plan_issuing_ca
from authn.keys import generate_p384
from authn.profile import Role, check_role
from authn.revocation import Statuses, check_revocation
from authn.timestamp.clock import Reading
from authn.withdrawal import Reason, Withdrawn, read_crl
from tools.ceremony import (
    AuthorityRequest,
    Ceremony,
    CeremonyClockError,
    CeremonyError,
    RequestUnusableError,
    fresh_serial,
    hold_ceremony,
    read_withdrawal,
    request_for,
)
from tools.errors import OutputExistsError

NOW = datetime.now(UTC).replace(microsecond=0)
PEOPLE = ("Ada Byron", "Grace Hopper")
OCSP = "http://127.0.0.1:8461/ocsp/"


class Watch:
    """Two clocks; the second reading may show that the first one was set."""

    def __init__(self, jump: timedelta = timedelta(0)) -> None:
        self.read, self.jump = 0, jump

    def __call__(self) -> Reading:
        self.read += 1
        passed = timedelta(seconds=self.read)
        return Reading(NOW + passed + (self.jump if self.read > 1 else timedelta(0)), passed.total_seconds())


def agreed(_: str, __: str) -> bool:
    return True


def held(ceremony: Ceremony, place: Path, clock: Callable[[], Reading] | None = None, confirm=agreed) -> str:
    return hold_ceremony(ceremony, place, clock or Watch(), confirm)


def only(path: Path) -> Certificate:
    (certificate,) = read_chain(path.read_bytes())
    return certificate


@pytest.fixture
def first(tmp_path: Path) -> Ceremony:
    return Ceremony(f"file:{tmp_path / 'root-key.pem'}", PEOPLE, NOW, "Test Newsroom")


@pytest.fixture
def later(first: Ceremony, tmp_path: Path) -> Ceremony:
    """A ceremony with the root that the first one made."""
    held(first, tmp_path / "first")
    return dataclasses.replace(
        first,
        organisation=None,
        root=only(tmp_path / "first" / "root.pem"),
        previous=(tmp_path / "first" / "root.crl").read_bytes(),
    )


def asked(root: Certificate, number: int = 2, at: datetime = NOW) -> AuthorityRequest:
    key = generate_p384()
    name = Subject("XX", "Test Newsroom", f"Test Newsroom Claim Signing CA {number}")
    plan = plan_issuing_ca(name, key.public_key, fresh_serial(), at, issuer=root, ocsp_url=OCSP)
    return request_for(key, plan, f"issuing-{number}", at, 12)


def test_a_first_ceremony_makes_a_root_and_its_first_list(first: Ceremony, tmp_path: Path) -> None:
    transcript = held(first, tmp_path / "out")
    root = only(tmp_path / "out" / "root.pem")
    assert check_role(root, Role.ROOT) == ()
    assert read_crl((tmp_path / "out" / "root.crl").read_bytes(), root).number == 1
    assert (tmp_path / "out" / "transcript.txt").read_text() == transcript
    assert (tmp_path / "root-key.pem").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "root.crl",
        "root.pem",
        "transcript.txt",
    ]


def test_what_is_signed_is_what_was_logged(later: Ceremony, tmp_path: Path) -> None:
    assert later.root is not None
    request = asked(later.root)
    held(dataclasses.replace(later, requests=(bytes(request),)), tmp_path / "out")
    made = only(tmp_path / "out" / "issuing-2.pem")
    assert plan_digest(made) == request.plan
    assert check_role(made, Role.ISSUING) == ()
    made.verify_directly_issued_by(later.root)


def test_the_transcript_names_people_plans_and_files_by_their_digests(
    later: Ceremony, tmp_path: Path
) -> None:
    assert later.root is not None
    request = asked(later.root)
    transcript = held(dataclasses.replace(later, requests=(bytes(request),)), tmp_path / "out")
    for name in ("root.pem", "root.crl", "issuing-2.pem"):
        digest = hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest()
        assert any(name in line and digest in line for line in transcript.splitlines())
    assert request.plan.hex() in transcript
    assert "logged as entry 12" in transcript
    body, rest = transcript.split("SHA-256 of the lines above: ")
    assert rest.splitlines()[0] == hashlib.sha256(body.encode()).hexdigest()
    assert all(f"Confirmed: {name}" in body and f"({name})" in rest for name in PEOPLE)


def test_the_list_goes_on_and_withdraws_an_authority(later: Ceremony, tmp_path: Path) -> None:
    assert later.root is not None
    held(dataclasses.replace(later, requests=(bytes(asked(later.root)),)), tmp_path / "second")
    made = only(tmp_path / "second" / "issuing-2.pem")
    gone = Withdrawn(made.serial_number, Reason.CA_COMPROMISE, NOW, NOW - timedelta(days=1))
    previous = (tmp_path / "second" / "root.crl").read_bytes()
    held(dataclasses.replace(later, previous=previous, withdrawals=(gone,)), tmp_path / "third")
    data = (tmp_path / "third" / "root.crl").read_bytes()
    assert (read_crl(data, later.root).number, read_crl(data, later.root).entries) == (3, (gone,))
    found = check_revocation((made, later.root), Statuses((data,)), None, NOW + timedelta(minutes=1))
    assert found.reason == "cACompromise"
    again = dataclasses.replace(later, previous=data, withdrawals=(gone,))
    with pytest.raises(AuthnError, match="once"):
        held(again, tmp_path / "fourth")


@pytest.mark.parametrize(
    "names", [(), ("Ada",), ("Ada", "ada"), ("Ada", "Ada"), ("A", "B", "C"), ("Ada", "B\nC")]
)
def test_two_named_people_hold_a_ceremony(first: Ceremony, tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(CeremonyError):
        held(dataclasses.replace(first, operators=names), tmp_path / "out")
    assert not (tmp_path / "root-key.pem").exists()


@pytest.mark.parametrize("refuser", PEOPLE)
def test_nothing_is_kept_if_one_of_them_refuses(first: Ceremony, tmp_path: Path, refuser: str) -> None:
    with pytest.raises(CeremonyError, match="did not confirm"):
        held(first, tmp_path / "out", confirm=lambda name, _: name != refuser)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "root-key.pem").exists()


def test_no_new_key_is_kept_of_a_ceremony_whose_clock_was_set(first: Ceremony, tmp_path: Path) -> None:
    with pytest.raises(CeremonyClockError):
        held(first, tmp_path / "out", Watch(timedelta(hours=1)))
    assert not (tmp_path / "root-key.pem").exists()
    held(first, tmp_path / "out")
    assert (tmp_path / "root-key.pem").exists()


def test_a_clock_that_cannot_be_right_stops_it(later: Ceremony, tmp_path: Path) -> None:
    assert later.root is not None
    for wrong in (timedelta(minutes=6), timedelta(days=-1)):
        with pytest.raises(CeremonyClockError, match="away from"):
            held(dataclasses.replace(later, shown=NOW + wrong), tmp_path / "out")
    tomorrow = asked(later.root, at=NOW + timedelta(days=1))
    with pytest.raises(CeremonyClockError, match="behind"):
        held(dataclasses.replace(later, requests=(bytes(tomorrow),)), tmp_path / "out")
    for jump in (timedelta(hours=1), timedelta(hours=-1)):
        with pytest.raises(CeremonyClockError, match="was set"):
            held(later, tmp_path / "out", Watch(jump))
    assert not (tmp_path / "out").exists()


def test_a_machine_from_before_the_last_list_has_the_wrong_time(later: Ceremony, tmp_path: Path) -> None:
    before = timedelta(minutes=4)
    clock = lambda: Reading(NOW - before, 1.0)  # noqa: E731 - a clock that stands
    with pytest.raises(CeremonyClockError, match="behind"):
        held(later, tmp_path / "out", clock)


def test_nothing_is_written_over(first: Ceremony, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExistsError):
        held(first, tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputExistsError):
        held(first, tmp_path / "link")
    assert not (tmp_path / "root-key.pem").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"common_name": "Another CA"},
        {"organisation": "Another Newsroom"},
        {"serial": fresh_serial()},
        {"at": NOW - timedelta(hours=2)},
        {"ocsp_url": "http://127.0.0.1:1/ocsp/"},
        {"plan": bytes(32)},
    ],
)
def test_a_request_that_was_changed_is_not_signed(later: Ceremony, tmp_path: Path, change: dict) -> None:
    assert later.root is not None
    # The root begins on the hour, and so does whatever it signs within it: two hours more tell them apart.
    root = dataclasses.replace(later, shown=later.shown)
    forged = dataclasses.replace(asked(later.root), **change)
    with pytest.raises((RequestUnusableError, IssuanceError)):
        held(dataclasses.replace(root, requests=(bytes(forged),)), tmp_path / "out")


def test_the_key_and_the_certificate_of_the_root_belong_together(later: Ceremony, tmp_path: Path) -> None:
    other = dataclasses.replace(later, root_uri=f"file:{tmp_path / 'other.pem'}")
    with pytest.raises(CeremonyError, match="no key file"):
        held(other, tmp_path / "out")
    held(
        Ceremony(f"file:{tmp_path / 'other.pem'}", PEOPLE, NOW, "Other Newsroom"),
        tmp_path / "others",
    )
    with pytest.raises(CeremonyError, match="not the one of the root"):
        held(other, tmp_path / "out")
    with pytest.raises(CeremonyError, match="organisation"):
        held(dataclasses.replace(later, root=None, previous=None), tmp_path / "out")


def test_a_list_by_another_root_is_not_gone_on_from(later: Ceremony, tmp_path: Path) -> None:
    held(Ceremony(f"file:{tmp_path / 'other.pem'}", PEOPLE, NOW, "Other Newsroom"), tmp_path / "others")
    theirs = (tmp_path / "others" / "root.crl").read_bytes()
    with pytest.raises(AuthnError, match="not signed by the issuer"):
        held(dataclasses.replace(later, previous=theirs), tmp_path / "out")


def test_a_request_is_read_as_it_was_written(later: Ceremony) -> None:
    assert later.root is not None
    request = asked(later.root)
    assert AuthorityRequest.parse(bytes(request)) == request
    for bad in (
        b"",
        b"{}",
        bytes(request)[:-1],
        bytes(request) + b"\n",
        bytes(request).replace(b'":', b'": '),
    ):
        with pytest.raises(RequestUnusableError):
            AuthorityRequest.parse(bad)
    elsewhere = dataclasses.replace(request, name="../issuing-2")
    with pytest.raises(RequestUnusableError):
        AuthorityRequest.parse(bytes(elsewhere))


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_nothing_but_its_own_error_leaves_the_reading_of_a_request(noise: bytes) -> None:
    with pytest.raises(RequestUnusableError):
        AuthorityRequest.parse(noise)


def test_a_withdrawal_is_written_on_one_line() -> None:
    text = "1f,keyCompromise,2026-11-25T12:00:00Z,2026-11-20T00:00:00+00:00"
    found = read_withdrawal(text)
    assert (found.serial, found.reason) == (31, Reason.KEY_COMPROMISE)
    assert found.since == datetime(2026, 11, 20, tzinfo=UTC)
    for bad in (
        "",
        "1f",
        "1f,because,2026-11-25T12:00:00Z",
        "1f,superseded,2026-11-25T12:00:00",
        text + ",x",
    ):
        with pytest.raises(CeremonyError):
            read_withdrawal(bad)


def test_serials_do_not_repeat_in_a_hundred_thousand() -> None:
    drawn = {fresh_serial() for _ in range(100_000)}
    assert len(drawn) == 100_000
    assert all(1 << 64 <= number < 1 << 159 for number in drawn)
