"""A request is signed for one body, one address and one minute; everything else is refused by its own code."""

import base64
import hashlib
import string
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from authn.errors import Error
from authn.http_signature import (
    COVERED,
    TAG,
    AlgorithmError,
    CoverageError,
    DigestUnsupportedError,
    FutureError,
    HeaderError,
    KeyUnknownError,
    MissingSignatureError,
    Request,
    RequestSignatureError,
    StaleError,
    TargetError,
    claimed_key,
    content_digest,
    content_digest_header,
    sign_request,
    verify_request,
)
from authn.keys import PublicKey, SigningKey, generate_ed25519, generate_p256, generate_p384

AT = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)
URL = "https://service.example/v1/captures?x=1"
BODY = b"\xff\xd8 a capture"
KEY_ID = hashlib.sha256(b"certificate").hexdigest()
NONCE = "n" * 22
KEY = generate_p256()


def request(url: str = URL, **headers: str) -> Request:
    lines = {
        "Host": "service.example",
        "Content-Type": "image/jpeg",
        "Content-Digest": content_digest_header(hashlib.sha256(BODY).digest()),
        "Lightseal-Opening": "counter=1",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return Request("POST", url, tuple(lines.items()))


def signed(key: SigningKey = KEY, at: datetime = AT, sent: Request | None = None) -> Request:
    return sign_request(sent or request(), key, KEY_ID, NONCE, at, ("lightseal-opening",))


def known(key: SigningKey = KEY) -> Callable[[str], PublicKey | None]:
    return lambda key_id: key.public_key if key_id == KEY_ID else None


def verify(sent: Request, key: SigningKey = KEY, at: datetime = AT) -> None:
    found = verify_request(sent, known(key), at, ("lightseal-opening",))
    assert (found.key_id, found.nonce, found.created) == (KEY_ID, NONCE, AT)
    assert found.content == hashlib.sha256(BODY).digest()


def changed(sent: Request, name: str, old: str, new: str) -> Request:
    assert old in (sent.header(name) or "")
    lines = ((key, value.replace(old, new) if key.lower() == name else value) for key, value in sent.headers)
    return replace(sent, headers=tuple(lines))


def forged(parameters: str, components: tuple[str, ...] = (*COVERED, "lightseal-opening")) -> Request:
    """A request with any parameters, signed by our own reading of RFC 9421, 2.5, without the package."""
    values = {
        "@method": "POST",
        "@authority": "service.example",
        "@target-uri": URL,
        "content-digest": request().header("content-digest"),
        "content-type": "image/jpeg",
        "lightseal-opening": "counter=1",
    }
    inner = "(" + " ".join(f'"{name}"' for name in components) + ")" + parameters
    base = "".join(f'"{name}": {values[name]}\n' for name in components) + f'"@signature-params": {inner}'
    signature = base64.b64encode(KEY.sign(base.encode())).decode()
    lines = (("Signature-Input", f"sig1={inner}"), ("Signature", f"sig1=:{signature}:"))
    return replace(request(), headers=(*request().headers, *lines))


GOOD = f';created={int(AT.timestamp())};keyid="{KEY_ID}";alg="ecdsa-p256-sha256";nonce="{NONCE}";tag="{TAG}"'


@pytest.mark.parametrize("make", [generate_p256, generate_p384, generate_ed25519])
def test_what_was_signed_is_accepted(make: Callable[[], SigningKey]) -> None:
    key = make()
    verify(signed(key), key)


def test_a_signature_by_the_letter_of_the_rfc_is_accepted() -> None:
    verify(forged(GOOD))


def test_what_we_sign_verifies_by_the_letter_of_the_rfc() -> None:
    sent = signed()
    inner = (sent.header("signature-input") or "").partition("=")[2]
    lines = ["POST", "service.example", URL, sent.header("content-digest"), "image/jpeg", "counter=1"]
    names = (*COVERED, "lightseal-opening")
    base = "".join(f'"{name}": {value}\n' for name, value in zip(names, lines, strict=True))
    raw = base64.b64decode((sent.header("signature") or "").partition("=:")[2][:-1])
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    public = KEY.public_key
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(
        encode_dss_signature(r, s), f'{base}"@signature-params": {inner}'.encode(), ec.ECDSA(hashes.SHA256())
    )


@pytest.mark.parametrize(
    ("missing", "error"),
    [(each, CoverageError) for each in (*COVERED, "lightseal-opening")],
)
def test_each_component_must_be_covered(missing: str, error: type[Error]) -> None:
    components = tuple(each for each in (*COVERED, "lightseal-opening") if each != missing)
    with pytest.raises(error, match=missing):
        verify(forged(GOOD, components))


def test_a_signature_over_the_method_alone_is_refused() -> None:
    with pytest.raises(CoverageError):
        verify(forged(GOOD, ("@method",)))


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (f';tag="{TAG}"', "", CoverageError),
        (f'tag="{TAG}"', 'tag="another-purpose"', CoverageError),
        (f';nonce="{NONCE}"', "", CoverageError),
        (f'nonce="{NONCE}"', 'nonce="short"', CoverageError),
        (f';keyid="{KEY_ID}"', "", CoverageError),
        (f'keyid="{KEY_ID}"', 'keyid="../../x"', CoverageError),
        (f";created={int(AT.timestamp())}", "", CoverageError),
        (f"created={int(AT.timestamp())}", "created=999999999999", FutureError),
        (';alg="ecdsa-p256-sha256"', "", AlgorithmError),
        ('alg="ecdsa-p256-sha256"', 'alg="none"', AlgorithmError),
        ('alg="ecdsa-p256-sha256"', 'alg="ed25519"', AlgorithmError),
        ('alg="ecdsa-p256-sha256"', 'alg="ecdsa-p384-sha384"', AlgorithmError),
        (";tag", ';x="y";tag', MissingSignatureError),
        (";tag", f";created={int(AT.timestamp())};tag", MissingSignatureError),
    ],
)
def test_parameters_are_not_the_messages_to_choose(old: str, new: str, error: type[Error]) -> None:
    """Each of these is signed by the true key; only its parameters are not what they must be."""
    assert old in GOOD
    with pytest.raises(error):
        verify(forged(GOOD.replace(old, new)))


def test_the_public_key_is_no_secret_to_sign_with() -> None:
    sent = changed(signed(), "signature-input", "ecdsa-p256-sha256", "hmac-sha256")
    mac = hmac.HMAC(
        KEY.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), hashes.SHA256()
    )
    mac.update(b"anything")
    lines = [line for line in sent.headers if line[0] != "Signature"]
    value = f"device=:{base64.b64encode(mac.finalize()).decode()}:"
    with pytest.raises(AlgorithmError):
        verify(replace(sent, headers=(*lines, ("Signature", value))))


@pytest.mark.parametrize("registered", [generate_p384(), generate_ed25519()])
def test_a_key_of_another_kind_is_refused(registered: SigningKey) -> None:
    with pytest.raises(AlgorithmError):
        verify(signed(), registered)


def test_ed25519_bytes_are_no_ecdsa_signature() -> None:
    other = generate_ed25519()
    sent = changed(signed(other), "signature-input", 'alg="ed25519"', 'alg="ecdsa-p256-sha256"')
    with pytest.raises(RequestSignatureError):
        verify(sent)


@pytest.mark.parametrize(
    ("away", "error"),
    [(-600, StaleError), (-61, StaleError), (6, FutureError), (600, FutureError)],
)
def test_a_signature_counts_for_a_minute(away: int, error: type[Error]) -> None:
    with pytest.raises(error):
        verify(signed(at=AT + timedelta(seconds=away)))


def test_a_signature_that_expired_is_refused_within_the_minute() -> None:
    with pytest.raises(StaleError):
        verify(forged(GOOD.replace(";keyid", f";expires={int(AT.timestamp()) - 10};keyid")))


def test_another_host_is_named_and_another_path_does_not_verify() -> None:
    with pytest.raises(TargetError):
        verify(changed(signed(), "host", "service.example", "evil.example"))
    with pytest.raises(RequestSignatureError):
        verify(replace(signed(), url="https://service.example/v1/other"))
    with pytest.raises(RequestSignatureError):
        verify(replace(signed(), method="PUT"))
    elsewhere = signed(sent=request("https://evil.example/v1/captures?x=1", Host="evil.example"))
    with pytest.raises(RequestSignatureError):
        verify(replace(changed(elsewhere, "host", "evil.example", "service.example"), url=URL))


@pytest.mark.parametrize("name", ["content-type", "content-digest", "lightseal-opening"])
def test_a_header_that_was_changed_does_not_verify(name: str) -> None:
    sent = signed()
    other = {
        "content-digest": content_digest_header(bytes(32)),
        "content-type": "image/png",
        "lightseal-opening": "counter=2",
    }
    lines = tuple((key, other[name] if key.lower() == name else value) for key, value in sent.headers)
    with pytest.raises(RequestSignatureError):
        verify(replace(sent, headers=lines))


def test_another_key_and_an_unknown_key_are_told_apart() -> None:
    with pytest.raises(RequestSignatureError) as caught:
        verify(signed(), generate_p256())
    assert caught.value.code == "signature-invalid"
    with pytest.raises(KeyUnknownError):
        verify_request(signed(), lambda _: None, AT)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "sha-512=:AAAA:",
        "sha-1=:AAAA:",
        "md5=:AAAA:",
        "sha-256=:AAAA:",
        f"{content_digest_header(bytes(32))}, sha-512=:AAAA:",
        f"{content_digest_header(bytes(32))}, {content_digest_header(bytes(32))}",
        content_digest_header(bytes(32)) + ";x=1",
    ],
)
def test_only_one_sha_256_is_a_content_digest(header: str | None) -> None:
    with pytest.raises(DigestUnsupportedError):
        content_digest(header)


@pytest.mark.parametrize("name", ["Signature", "Signature-Input", "Content-Digest", "Content-Type", "Host"])
def test_a_header_that_decides_stands_there_once(name: str) -> None:
    sent = signed()
    value = sent.header(name.lower())
    assert value is not None
    with pytest.raises(HeaderError):
        verify(replace(sent, headers=(*sent.headers, (name.upper(), value))))


@pytest.mark.parametrize(
    "extra",
    [
        (("X", "y" * 5000),),
        tuple((f"X{number}", "y" * 2000) for number in range(10)),
        tuple((f"X{number}", "") for number in range(100)),
        (("X", "a\nb"),),
        (("X", "ä"),),
    ],
)
def test_headers_have_limits(extra: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(HeaderError):
        verify(replace(signed(), headers=(*signed().headers, *extra)))


_ALPHABET = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"


def test_a_signature_is_base64_in_one_form_only() -> None:
    """The last of 86 digits holds two bits of the signature; four more say nothing and must be zero."""
    sent = signed()
    value = sent.header("signature") or ""
    end = value.index("==:") - 1
    place = _ALPHABET.index(value[end])
    assert place % 16 == 0
    raw = base64.b64decode(value.partition("=:")[2][:-1])
    for other in range(place + 1, place + 16):
        mutated = value[:end] + _ALPHABET[other] + value[end + 1 :]
        assert base64.b64decode(mutated.partition("=:")[2][:-1]) == raw, (
            "the same signature, for many readers"
        )
        with pytest.raises(RequestSignatureError, match="canonical"):
            verify(changed(sent, "signature", value, mutated))


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.replace("==:", ":"),
        lambda value: value.replace("==:", "===:"),
        lambda value: value + ";x=1",
        lambda value: value.replace("device=", "other="),
        lambda value: value + ", " + value.replace("device=", "other="),
        lambda value: value[:-1],
        lambda value: value.replace(":", '"'),
        lambda _: "device=::",
    ],
)
def test_the_signature_header_holds_the_one_signature_and_nothing_else(change) -> None:  # type: ignore[no-untyped-def]
    sent = signed()
    value = sent.header("signature") or ""
    with pytest.raises(RequestSignatureError):
        verify(changed(sent, "signature", value, change(value)))


def test_a_content_digest_is_base64_in_one_form_only() -> None:
    for other in "BCD":
        text = "A" * 42 + other + "="
        assert base64.b64decode(text) == bytes(32)
        with pytest.raises(DigestUnsupportedError):
            content_digest(f"sha-256=:{text}:")


def test_two_signatures_are_refused() -> None:
    sent = signed()
    for name in ("signature-input", "signature"):
        value = sent.header(name) or ""
        sent = changed(sent, name, value, f"{value}, other{value.removeprefix('device')}")
    with pytest.raises(MissingSignatureError):
        verify(sent)
    with pytest.raises(MissingSignatureError):
        verify(request())


def test_the_key_that_is_claimed_is_not_verified() -> None:
    assert claimed_key(changed(signed(), "signature", "device", "x")) == KEY_ID


@given(st.text(max_size=200), st.text(max_size=100))
def test_no_header_makes_anything_else_leave(given_input: str, signature: str) -> None:
    lines = (("Signature-Input", given_input), ("Signature", signature))
    with pytest.raises(RequestSignatureError):
        verify_request(replace(request(), headers=(*request().headers, *lines)), known(), AT)


@given(st.integers(0, 10_000), st.characters(max_codepoint=127))
def test_a_mutated_signature_never_verifies_as_something_else(place: int, other: str) -> None:
    sent = signed()
    for name in ("signature-input", "signature"):
        value = sent.header(name) or ""
        at = place % len(value)
        mutated = changed(sent, name, value, value[:at] + other + value[at + 1 :])
        try:
            verify(mutated)
        except RequestSignatureError:
            continue
        assert value[at] == other
