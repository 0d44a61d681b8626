"""Approvals: what one process may tell another to certify."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authn import keys
from authn.approval import LIFE, MAX_APPROVAL, MAX_KEYS, Approval, ApprovalError
from authn.evidence import Custody
from authn.identity import Lifetime, spki_of

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
KEYS = [spki_of(keys.generate_p256().public_key) for _ in range(3)]
RA = keys.generate_p256()


def approval(**changed: object) -> Approval:
    count = len(changed.get("keys", KEYS[:1]))  # type: ignore[arg-type]
    fields: dict[str, object] = {
        "enrolment": "0123456789abcdef",
        "organisation": "Lightseal Lab",
        "product": "Lab Camera 2",
        "lifetime": Lifetime.STANDARD if count == 1 else Lifetime.ONE_TIME,
        "keys": tuple(KEYS[:1]),
        "pseudonyms": tuple(bytes([number]) * 32 for number in range(count)),
        "custody": Custody.E2,
        "evidence": bytes(range(32)),
        "at": NOW,
        "origin": "lightseal.example/lab",
    }
    return Approval(**(fields | changed))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [keys.generate_p256, keys.generate_p384, keys.generate_ed25519])
def test_what_was_signed_is_what_is_read(kind) -> None:
    ra = kind()
    for given_ in (approval(), approval(keys=tuple(KEYS)), approval(custody=Custody.E0)):
        assert Approval.parse(given_.sign(ra), ra.public_key, NOW) == given_


def test_another_key_approves_nothing() -> None:
    signed = approval().sign(RA)
    for other in (keys.generate_p256(), keys.generate_p384(), keys.generate_ed25519()):
        with pytest.raises(ApprovalError, match="not signed"):
            Approval.parse(signed, other.public_key, NOW)


def test_a_signature_over_the_same_words_for_another_purpose_is_none() -> None:
    body = approval().sign(RA).split(b"\n")[0]
    plain = body + b"\n" + base64.b64encode(RA.sign(body)) + b"\n"
    with pytest.raises(ApprovalError, match="not signed"):
        Approval.parse(plain, RA.public_key, NOW)


@pytest.mark.parametrize(
    ("seconds", "holds"), [(-61, False), (-60, True), (0, True), (300, True), (301, False), (86400, False)]
)
def test_it_holds_for_five_minutes(seconds: int, holds: bool) -> None:  # noqa: FBT001 - a table
    at = NOW + timedelta(seconds=seconds)
    assert timedelta(minutes=5) == LIFE
    if holds:
        assert Approval.parse(approval().sign(RA), RA.public_key, at).at == NOW
    else:
        with pytest.raises(ApprovalError, match="too old"):
            Approval.parse(approval().sign(RA), RA.public_key, at)


@pytest.mark.parametrize(
    "change",
    [
        {"enrolment": "0123"},
        {"enrolment": "0123456789ABCDEF"},
        {"product": "Caméra"},
        {"product": ""},
        {"organisation": "x" * 65},
        {"keys": ()},
        {"keys": (KEYS[0], KEYS[0])},
        {"keys": (b"",)},
        {"keys": tuple(number.to_bytes(2, "big") for number in range(MAX_KEYS + 1))},
        {"keys": tuple(KEYS), "lifetime": Lifetime.STANDARD},
        {"pseudonyms": ()},
        {"pseudonyms": (bytes(31),)},
        {"evidence": b""},
        {"at": NOW.replace(microsecond=1)},
        {"origin": ""},
        {"origin": "two words"},
        {"origin": "x" * 256},
    ],
)
def test_what_cannot_be_approved_is_not(change: dict[str, object]) -> None:
    with pytest.raises(ApprovalError):
        approval(**change)


def test_it_can_be_written_in_one_way_only() -> None:
    body = json.loads(approval().sign(RA).split(b"\n")[0])
    for other in (
        json.dumps(body).encode(),
        json.dumps(body | {"more": 1}, sort_keys=True, separators=(",", ":")).encode(),
        json.dumps({key: body[key] for key in body if key != "custody"}, separators=(",", ":")).encode(),
        json.dumps(body | {"custody": "E4"}, sort_keys=True, separators=(",", ":")).encode(),
        json.dumps(body | {"organisation": ""}, sort_keys=True, separators=(",", ":")).encode(),
        json.dumps(body | {"product": "Caméra"}, sort_keys=True, separators=(",", ":")).encode(),
        json.dumps(body | {"origin": "\ud800"}, sort_keys=True, separators=(",", ":")).encode(),
        b"[]",
        b"",
    ):
        signed = other + b"\n" + base64.b64encode(RA.sign(b"lightseal-approval-v1\n" + other)) + b"\n"
        with pytest.raises(ApprovalError):
            Approval.parse(signed, RA.public_key, NOW)


def test_size_is_looked_at_first() -> None:
    with pytest.raises(ApprovalError, match="too large"):
        Approval.parse(bytes(MAX_APPROVAL + 1), RA.public_key, NOW)
    most = tuple(spki_of(keys.generate_p256().public_key) for _ in range(MAX_KEYS))
    assert len(approval(keys=most).sign(RA)) < MAX_APPROVAL / 2


def test_every_field_is_signed() -> None:
    ours = approval()
    for change in (
        {"enrolment": "0" * 16},
        {"product": "Lab Camera 3"},
        {"lifetime": Lifetime.SESSION},
        {"keys": (KEYS[1],)},
        {"custody": Custody.E3},
        {"evidence": bytes(32)},
        {"at": NOW + timedelta(seconds=1)},
        {"origin": "lightseal.example/other"},
    ):
        assert replace(ours, **change).sign(RA).split(b"\n")[0] != ours.sign(RA).split(b"\n")[0]


@given(st.binary(max_size=300), st.integers(0, 600))
@settings(max_examples=200, deadline=None)
def test_nothing_but_its_own_error_leaves_it(noise: bytes, place: int) -> None:
    signed = approval().sign(RA)
    with pytest.raises(ApprovalError):
        Approval.parse(noise, RA.public_key, NOW)
    mixed = signed[:place] + noise + signed[place:]
    if mixed != signed:
        with pytest.raises(ApprovalError):
            Approval.parse(mixed, RA.public_key, NOW)
