"""A new authority issues; the old ones answer; and nothing is installed that was not logged."""

import dataclasses
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from authn.chain import build_chain
from authn.device import spki
from authn.errors import Error as AuthnError
from authn.identity import Subject, plan_digest, plan_issuing_ca, plan_root, spki_of
from authn.keys import generate_p256, generate_p384, store_key
from authn.profile import Profile, Role, check_profile, check_role
from storage.payload import parse
from tools.ceremony import fresh_serial
from tools.home import Home, open_home
from tools.issuance.own import enrol
from tools.rotation import (
    DUE,
    RotationRefusedError,
    authorities,
    install_successor,
    request_successor,
    rotate,
)


def now() -> datetime:
    return datetime.now(UTC)


def plans(home: Home, key: bytes) -> list[str]:
    with home.ledger_to_read() as ledger:
        found = ledger.find("spki", hashlib.sha256(key).digest())
        payloads = [ledger.payload(index) for index in found]
    return [parse(data)["certificate_plan"] for data in payloads if data is not None]


def test_issuance_moves_to_the_new_authority_and_the_old_chain_stands(fresh_home: Home) -> None:
    at = now()
    old = fresh_home.device("cam").chain
    assert rotate(fresh_home, None, at) == "issuing-2"
    assert fresh_home.issuers() == ("issuing", "issuing-2")
    made, _ = enrol(fresh_home, "cam-2", "Second Camera", at)
    new = made.chain
    assert new[1] == fresh_home.certificate("issuing-2") != old[1]
    root = fresh_home.certificate("root")
    for chain in (old, new):
        path = build_chain(chain[0], chain[1:], (root,), at).path
        assert path == (*chain, root)
        assert check_profile(path, Profile.POLICY, at) == ()
    assert check_role(new[1], Role.ISSUING) == ()
    assert new[1].subject != old[1].subject


def test_the_plan_is_in_the_ledger_before_the_authority_is(fresh_home: Home) -> None:
    request = request_successor(fresh_home, None, now())
    assert fresh_home.issuers() == ("issuing",)
    key = fresh_home.key("issuing-2").public_key
    name = rotate(fresh_home, None, now())
    made = fresh_home.certificate(name)
    assert spki(made) == spki_of(key)
    logged = plans(fresh_home, spki(made))
    assert request.plan.hex() in logged
    assert plan_digest(made).hex() in logged


def test_the_old_key_is_needed_until_its_last_certificate_is_over(fresh_home: Home) -> None:
    at = now()
    rotate(fresh_home, None, at)
    old, new = authorities(fresh_home, at)
    last = max(fresh_home.device(name).chain[0].not_valid_after_utc for name in ("cam", "service"))
    assert (old.issues, old.answers_until) == (False, last)
    assert (new.issues, new.answers_until) == (True, fresh_home.certificate("issuing-2").not_valid_after_utc)
    assert not new.due(at)
    assert new.due(at + DUE + timedelta(days=1))
    assert not old.due(at + DUE + timedelta(days=1))


def test_a_root_that_is_elsewhere_signs_a_request(fresh_home: Home) -> None:
    at = now()
    root_key = fresh_home.key("root")
    request = request_successor(fresh_home, None, at)
    certificate = request.planned(fresh_home.certificate("root"), [fresh_home.certificate("issuing")]).sign(
        root_key
    )
    assert install_successor(fresh_home, certificate, at) == "issuing-2"
    with pytest.raises(RotationRefusedError):
        install_successor(fresh_home, certificate, at)


def test_what_was_not_planned_here_is_not_installed(fresh_home: Home) -> None:
    at = now()
    root, root_key = fresh_home.certificate("root"), fresh_home.key("root")
    request = request_successor(fresh_home, None, at)
    own = fresh_home.key("issuing-2")

    def planned(key, issuer=root, number=2):
        name = Subject("XX", fresh_home.organisation, f"{fresh_home.organisation} Claim Signing CA {number}")
        return plan_issuing_ca(
            name, key.public_key, fresh_serial(), at, issuer=issuer, ocsp_url=fresh_home.ocsp_url
        )

    unlogged = planned(own).sign(root_key)
    with pytest.raises(RotationRefusedError, match="not in the ledger"):
        install_successor(fresh_home, unlogged, at)
    for other in (fresh_home.certificate("issuing"), planned(generate_p384()).sign(root_key)):
        with pytest.raises(RotationRefusedError, match="not for the key"):
            install_successor(fresh_home, other, at)
    with pytest.raises(RotationRefusedError):
        install_successor(fresh_home, fresh_home.device("cam").chain[0], at)
    stranger = generate_p384()
    foreign = plan_root(Subject("XX", "Other", "Other Root"), stranger.public_key, fresh_serial(), at).sign(
        stranger
    )
    with pytest.raises(RotationRefusedError, match="root of this home"):
        install_successor(fresh_home, planned(own, foreign).sign(stranger), at)
    assert fresh_home.issuers() == ("issuing",)
    right = request.planned(root, [fresh_home.certificate("issuing")]).sign(root_key)
    assert install_successor(fresh_home, right, at) == "issuing-2"


def test_a_key_may_lie_elsewhere_and_home_json_says_where(fresh_home: Home, tmp_path) -> None:
    place = tmp_path / "token.pem"
    store_key(place, generate_p384(), None)
    name = rotate(fresh_home, f"file:{place}", now())
    home = open_home(fresh_home.path)
    assert json.loads((home.path / "home.json").read_text())["keys"] == {name: f"file:{place}"}
    assert not (home.path / "keys" / f"{name}.pem").exists()
    made, _ = enrol(home, "cam-2", "Second Camera", now())
    made.chain[0].verify_directly_issued_by(home.certificate(name))


def test_an_interrupted_rotation_is_done_again(fresh_home: Home) -> None:
    first = request_successor(fresh_home, None, now())
    second = request_successor(fresh_home, None, now())
    assert first.name == second.name == "issuing-2"
    assert first.serial != second.serial
    assert rotate(fresh_home, None, now()) == "issuing-2"
    assert rotate(fresh_home, None, now()) == "issuing-3"
    assert dataclasses.asdict(first) != dataclasses.asdict(second)


def test_a_key_named_by_a_relative_path_is_found_from_elsewhere(
    fresh_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "card" / "token.pem"
    place.parent.mkdir()
    store_key(place, generate_p384(), None)
    monkeypatch.chdir(place.parent)
    name = rotate(fresh_home, "file:token.pem", now())
    monkeypatch.chdir(tmp_path)
    home = open_home(fresh_home.path)
    assert home.keys == {name: f"file:{place}"}
    assert spki_of(home.key(name).public_key) == spki(home.certificate(name))
    enrol(home, "cam-2", "Second Camera", now())


def test_a_key_that_may_not_certify_or_does_not_open_leaves_the_home_as_it_was(
    fresh_home: Home, tmp_path: Path
) -> None:
    store_key(tmp_path / "small.pem", generate_p256(), None)
    before = (fresh_home.path / "home.json").read_bytes()
    for address in (f"file:{tmp_path / 'small.pem'}", f"file:{tmp_path / 'nothing.pem'}", "nonsense:"):
        with pytest.raises(AuthnError):
            request_successor(fresh_home, address, now())
        assert (fresh_home.path / "home.json").read_bytes() == before
    assert rotate(fresh_home, None, now()) == "issuing-2"
