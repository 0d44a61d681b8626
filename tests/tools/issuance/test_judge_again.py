"""What evidence proves by now, key by key: in the label of a file, and in that of the device."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from authn.attestation.judgement import Kind
from authn.attestation.status_list import MAX_BYTES, StatusList
from authn.evidence import Custody
from authn.identity import Lifetime
from authn.keys import Keeping
from storage.registry.registry import Registry
from storage.registry.rows import IssuedCertificate, Product, Status, Target
from tools.cli_enrolment import device_judge
from tools.errors import UnreadableError, UsageError
from tools.founding import create_home
from tools.home import Home
from tools.issuance.client import Joining, join
from tools.issuance.desk import own_desk
from tools.issuance.enrolment import Statement
from tools.issuance.judge_again import (
    FutureListError,
    OlderListError,
    UndatedListError,
    judge_again,
    read_status_list,
    require_not_older,
    use_status_list,
)
from tools.issuance.judging import STATUS_LIST, Judging, claim_of
from tools.recorded import Standing, _rejudged, _standing


def shown(registry: Registry, certificate: IssuedCertificate, logged: Custody = Custody.E3) -> Custody | None:
    """The label of a verdict on this certificate, which was logged as `logged`."""
    standing = _standing(registry, certificate.sha256.hex(), {})
    assert standing is not None
    return _rejudged(standing, logged)


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return create_home(tmp_path / "h", "Test Newsroom", "http://127.0.0.1:8461/ocsp/", now())


def joined(home: Home, lifetime: str, folder: Path) -> tuple[IssuedCertificate, ...]:
    product = Product("Pool Camera", home.organisation, lifetime, "E0", b"{}", now())
    with home.registry() as registry:
        registry.add_product(product)
    with own_desk(home, now) as desk:
        token = desk.registration.give_token(product.name, now().replace(year=now().year + 1))
        camera = join(Joining(folder, product.name, token, "cam", None, Lifetime(lifetime), None, 3), desk)
    with home.registry() as registry:
        return tuple(registry.certificates(Target.of_device(camera.name)))


def test_every_key_of_a_pool_has_its_own_evidence_and_falls_alone(home: Home, tmp_path: Path) -> None:
    certificates = joined(home, "one-time", tmp_path / "cam")
    with home.registry() as registry:
        pieces = [registry.evidence_of(each) for each in certificates]
        assert len({piece.id for piece in pieces if piece is not None}) == len(certificates) >= 3
        for certificate, piece in zip(certificates, pieces, strict=True):
            assert piece is not None
            question = Statement.read(piece.data, b"{}").question
            assert hashlib.sha256(question.spki).digest() == certificate.spki_sha256
            registry.rejudge(piece.id, "E3", now(), piece.broken)  # as if all of it had proven more
        first, second, *_ = certificates
        assert pieces[0] is not None
        assert pieces[-1] is not None
        registry.rejudge(pieces[0].id, "E0", now(), b'{"broken":{"revoked":"x"}}')
        assert shown(registry, first) is Custody.E0
        assert shown(registry, second) is Custody.E3
        # The last piece of the device speaks for no other key.
        registry.rejudge(pieces[-1].id, "E0", now(), b'{"broken":{"revoked":"x"}}')
        assert shown(registry, second) is Custody.E3
        assert shown(registry, second, Custody.E2) is Custody.E2, "it never gains by ageing"
        assert _rejudged(Standing("cam", None, None), Custody.E1) is Custody.E1, (
            "what nobody showed does not fall"
        )


def test_the_device_s_own_label_falls_with_its_evidence(home: Home, tmp_path: Path) -> None:
    (certificate,) = joined(home, "standard", tmp_path / "cam")
    with home.registry() as registry:
        # Another key of the device, of which more was believed than its evidence says.
        shown = registry.evidence_of(certificate)
        assert shown is not None
        statement = Statement.read(shown.data, b"{}")
        claimed = replace(statement.evidence, data=claim_of(Keeping.SOFTWARE))
        assert claimed.kind is Kind.NONE
        registry.pin_device("cam", bytes(32), "E2")
        registry.add_evidence(
            "cam", bytes(32), "none", replace(statement, evidence=claimed).encode(), "E2", now(), shown.broken
        )
        assert registry.device("cam").custody == "E2"
    (change,) = judge_again(home, now())
    assert (change.before, change.after) == ("E2", "E0")
    with home.registry() as registry:
        device = registry.device("cam")
        assert (device.custody, device.status) == ("E0", Status.SUSPECT)
    assert judge_again(home, now()) == ()


AT = datetime(2026, 11, 25, 12, tzinfo=UTC)


def published(place: Path, **entries: object) -> Path:
    place.write_text(json.dumps({"entries": entries}))
    return place


def test_a_list_is_of_when_it_was_fetched_and_never_of_when_it_is_used(tmp_path: Path) -> None:
    place = published(tmp_path / "list.json", ab={"status": "REVOKED"})
    fetched = AT - timedelta(days=20, microseconds=1)
    status = read_status_list(place, fetched, AT)
    assert status.dated == fetched.replace(microsecond=0)
    assert status.entries.keys() == {"ab"}
    with pytest.raises(UndatedListError):
        read_status_list(place, None, AT)
    with pytest.raises(FutureListError, match="2026-11-25 12:00:01 UTC is still to come"):
        read_status_list(place, AT + timedelta(seconds=1), AT)


def test_a_list_with_a_date_of_its_own_needs_no_other_and_is_given_none(tmp_path: Path) -> None:
    place = tmp_path / "list.json"
    place.write_bytes(StatusList(AT - timedelta(days=3)).encode())
    assert read_status_list(place, None, AT).dated == AT - timedelta(days=3)
    assert read_status_list(place, AT - timedelta(days=3), AT).dated == AT - timedelta(days=3)
    with pytest.raises(UndatedListError, match="says itself that it is of 2026-11-22 12:00:00 UTC"):
        read_status_list(place, AT, AT)
    place.write_bytes(StatusList(AT + timedelta(days=1)).encode())
    with pytest.raises(FutureListError):
        read_status_list(place, None, AT)


def test_a_list_that_is_too_large_or_gone_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError):
        read_status_list(tmp_path / "nowhere", AT, AT)
    (tmp_path / "large").write_bytes(bytes(MAX_BYTES + 1))
    with pytest.raises(UsageError, match="too large"):
        read_status_list(tmp_path / "large", AT, AT)


def test_a_list_longer_than_other_parts_of_a_home_is_used(home: Home, tmp_path: Path) -> None:
    long = {f"{number + (1 << 100):x}": {"status": "REVOKED"} for number in range(30_000)}
    status = read_status_list(published(tmp_path / "list.json", **long), AT, AT)
    use_status_list(home, status)
    assert (home.path / STATUS_LIST).stat().st_size > 1 << 20
    assert Judging.of_home(home).status == status


def judged(home: Home, *arguments: object) -> Result:
    return CliRunner().invoke(device_judge, [str(each) for each in arguments], obj=home.path)


def test_nobody_goes_back_behind_the_list_in_use_without_saying_so(home: Home, tmp_path: Path) -> None:
    place, today = tmp_path / "list.json", now().replace(microsecond=0)
    withdrawn = published(tmp_path / "new.json", ab={"status": "REVOKED"})
    published(place)
    assert judged(home, "--status-list", withdrawn, "--fetched", today.isoformat()).exit_code == 0
    earlier = (today - timedelta(days=1)).isoformat()
    refused = judged(home, "--status-list", place, "--fetched", earlier)
    assert isinstance(refused.exception, OlderListError)
    assert Judging.of_home(home).status.of("ab") is not None
    with pytest.raises(OlderListError):
        require_not_older(home, StatusList(today - timedelta(seconds=1)))
    require_not_older(home, StatusList(today))
    assert isinstance(judged(home, "--status-list", place).exception, UndatedListError)
    assert judged(home, "--status-list", place, "--fetched", earlier, "--older").exit_code == 0
    assert Judging.of_home(home).status == StatusList(today - timedelta(days=1))
    for alone in (("--older",), ("--fetched", earlier)):
        assert isinstance(judged(home, *alone).exception, UsageError)


def test_a_secret_whose_making_was_cut_short_blocks_no_enrolment(home: Home, tmp_path: Path) -> None:
    """The flaw would be to call an empty file damage for ever: nothing was ever made with it."""
    place = home.path / "keys" / "activation.secret"
    place.write_bytes(b"")
    assert joined(home, "standard", tmp_path / "cam")
    assert len(place.read_bytes()) == 32
    assert place.stat().st_mode & 0o077 == 0
