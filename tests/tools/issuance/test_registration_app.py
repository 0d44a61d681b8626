"""What strangers send to the registration authority over HTTP is answered and logged, whatever stands in it."""

import base64
import copy
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from authn.csr import make_request
from authn.keys import generate_p256

ODD: tuple[object, ...] = (
    *("\ud800", "a\ud800", "a\0", "\0", "\n", "x" * 5001),
    *(7, -1, 1e300, None, True, [], {}, ["\ud800"]),
)


def places(fields: object, at: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """The way to every value of a JSON document, itself left out."""
    pairs = (
        fields.items() if isinstance(fields, dict) else enumerate(fields) if isinstance(fields, list) else ()
    )
    for name, value in pairs:
        yield (*at, name)
        yield from places(value, (*at, name))


def put(fields: Any, at: tuple[object, ...], value: object) -> Any:
    changed = copy.deepcopy(fields)
    inner = changed
    for name in at[:-1]:
        inner = inner[name]
    inner[at[-1]] = value
    return changed


def named(fields: Any, at: tuple[object, ...], name: str) -> Any:
    """The document with the value under another name."""
    changed = copy.deepcopy(fields)
    inner = changed
    for step in at[:-1]:
        inner = inner[step]
    inner[name] = inner.pop(at[-1])
    return changed


@pytest.fixture
def service(own_office) -> Iterator[Any]:  # type: ignore[no-untyped-def]
    """Both authorities, and what they say in the end: no traceback."""
    with ExitStack() as stack:
        stack.enter_context(own_office.running("ca", "serve"))
        own_office.url, _ = stack.enter_context(own_office.running("ra", "serve", "--port", "0"))
        yield own_office
    for command in ("ca", "ra"):
        assert "Traceback" not in own_office.said(command, "serve")


def test_no_string_of_an_opening_ends_in_a_failure(service) -> None:  # type: ignore[no-untyped-def]
    fields: dict[str, Any] = {
        "token": "ab" * 32,
        "product": "Test Camera",
        "device": "cam",
        "lifetime": "standard",
        "kinds": ["none", "tpm"],
        "tpm": {"ek": "00", "ak": "00"},
    }
    for at in places(fields):
        for value in ("\ud800", "a\ud800", "a\0"):
            for odd in (put(fields, at, value), put(fields, at, [value]), put(fields, at, {value: value})):
                reply = service.post("/v1/enrolments", odd)
                assert (reply.status, reply.code) == (400, "request-malformed"), (odd, reply)
    for odd in (
        "\ud800",
        ["\ud800"],
        {"\ud800": "\ud800"},
        None,
        7,
        b'{"product":"\xed\xa0\x80"}',
        b"\xff\xfe",
        b"[" * 60000,
    ):
        assert service.post("/v1/enrolments", odd).status == 400
    # Names that are not looked at, and what may be anything.
    for at in places(fields):
        if isinstance(at[-1], str):
            assert service.post("/v1/enrolments", named(fields, at, "\ud800")).status in (400, 401)


def test_no_string_of_a_completion_ends_in_a_failure(service) -> None:  # type: ignore[no-untyped-def]
    offer = service.begin("Test Camera")
    said = {"kind": "none", "data": base64.b64encode(b'{"keeping":"software"}').decode()}
    fields = {
        "challenge": offer.body["challenge"],
        "terms": offer.body["terms"],
        "keys": [{"request": base64.b64encode(make_request(generate_p256())).decode(), "evidence": said}],
        "proof": {"certificate": "ab" * 32, "signature": "AAAA"},
    }
    place = f"/v1/enrolments/{offer.body['id']}"
    for at in places(fields):
        for value in ODD:
            if at == ("proof",) and value is None:
                continue  # a proof is not needed
            reply = service.post(place, put(fields, at, value))
            assert reply.status == 400, (at, value, reply)
            assert reply.body["remedy"]
    for path in ("/v1/enrolments/%ED%A0%80", "/v1/enrolments/%00", "/v1/enrolments/%0A"):
        assert service.post(path, fields).status == 400
    finished = service.post(place, fields)
    assert finished.status == 201, "nothing of all that used the challenge up"


@pytest.mark.parametrize("kind", ["none", "tpm", "android-key", "app-attest"])
def test_no_text_within_evidence_ends_in_a_failure(service, kind: str) -> None:  # type: ignore[no-untyped-def]
    for data in (
        b'{"keeping":"\\ud800"}',
        b'"\\ud800"',
        b"\xed\xa0\x80",
        b"\0",
        b'{"\\ud800":"\\u0000"}',
        b"\xa1\x63\xed\xa0\x80\x00",
    ):
        offer = service.begin("Test Camera", kinds=[kind])
        evidence = {"kind": kind, "data": base64.b64encode(data).decode()}
        refused = service.complete(offer, make_request(generate_p256()), evidence=evidence)
        assert (refused.status, refused.code) == (403, "attestation:unreadable"), (data, refused)


def test_every_decision_is_one_line_of_json_on_standard_error(service) -> None:  # type: ignore[no-untyped-def]
    offer = service.begin("Test Camera", device="field-7")
    request = make_request(generate_p256())
    assert service.complete(offer, request).status == 201
    token = "cd" * 32
    assert service.begin("Test Camera", token=token).status == 401
    assert service.post("/v1/enrolments/%0A%22", {}).status == 400
    lines = [json.loads(line) for line in service.said("ra", "serve").splitlines()]
    assert [each["event"] for each in lines] == ["enrolled", "refused", "refused"]
    assert (lines[0]["device"], lines[0]["custody"], lines[0]["level"]) == ("field-7", "E0", "info")
    assert (lines[1]["code"], lines[1]["level"]) == ("token-unknown", "warning")
    assert token not in service.said("ra", "serve")
