import hashlib
import os
import stat
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from authn import keys
from authn.errors import KeyExposedError, KeyFileError, KeyLockedError, KeyNotOursError, SelfCheckError
from authn.public_key import read_public_key

PASSPHRASE = b"sixteen or more bytes"


@pytest.mark.parametrize(
    ("make", "digest", "size"),
    [(keys.generate_p256, hashes.SHA256(), 32), (keys.generate_p384, hashes.SHA384(), 48)],
)
def test_an_ecdsa_signature_is_r_and_s_side_by_side(make, digest, size) -> None:
    key = make()
    signature = key.sign(b"claim")
    r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
    assert len(signature) == 2 * size
    key.public_key.verify(utils.encode_dss_signature(r, s), b"claim", ec.ECDSA(digest))
    assert keys.signature_holds(key.public_key, key.algorithm, signature, b"claim")
    assert not keys.signature_holds(key.public_key, key.algorithm, signature, b"other")
    assert not keys.signature_holds(key.public_key, key.algorithm, signature[:-1], b"claim")


def test_an_ed25519_signature_verifies() -> None:
    key = keys.generate_ed25519()
    key.public_key.verify(key.sign(b"x"), b"x")
    with pytest.raises(InvalidSignature):
        key.public_key.verify(key.sign(b"x"), b"y")


def test_the_algorithms_have_the_names_of_the_sdk() -> None:
    made = (keys.generate_p256(), keys.generate_p384(), keys.generate_ed25519())
    assert [key.algorithm.value for key in made] == ["es256", "es384", "ed25519"]


def test_a_signature_that_does_not_verify_never_leaves() -> None:
    key, other = keys.generate_p256(), keys.generate_p256()
    faulty = keys.SigningKey(key.private, other.public_key, keys.Algorithm.ES256)
    with pytest.raises(SelfCheckError):
        faulty.sign(b"claim")


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
@pytest.mark.parametrize("make", [keys.generate_p256, keys.generate_p384, keys.generate_ed25519])
def test_a_stored_key_comes_back(tmp_path: Path, make, passphrase) -> None:
    key, path = make(), tmp_path / "device.pem"
    keys.store_key(path, key, passphrase)
    opened = keys.open_key(f"file:{path}", passphrase)
    assert opened.public_key == key.public_key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (b"ENCRYPTED" in path.read_bytes()) is (passphrase is not None)


def test_a_key_file_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "device.pem"
    keys.store_key(path, keys.generate_p256(), None)
    before = path.read_bytes()
    with pytest.raises(KeyFileError):
        keys.store_key(path, keys.generate_p256(), None)
    assert path.read_bytes() == before


def test_a_link_is_never_written_through(tmp_path: Path) -> None:
    (tmp_path / "link.pem").symlink_to(tmp_path / "elsewhere.pem")
    with pytest.raises(KeyFileError):
        keys.store_key(tmp_path / "link.pem", keys.generate_p256(), None)
    assert not (tmp_path / "elsewhere.pem").exists()


def test_a_memorable_passphrase_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError):
        keys.store_key(tmp_path / "device.pem", keys.generate_p256(), b"hunter2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "device.pem"
    keys.store_key(path, keys.generate_p256(), None)
    path.chmod(mode)
    with pytest.raises(KeyExposedError):
        keys.open_key(f"file:{path}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "device.pem"
    keys.store_key(path, keys.generate_p256(), None)
    os.chown(path, 12345, 12345)
    with pytest.raises(KeyExposedError):
        keys.open_key(f"file:{path}")


@pytest.mark.parametrize(
    ("stored", "given"), [(PASSPHRASE, None), (PASSPHRASE, b"another passphrase"), (None, PASSPHRASE)]
)
def test_a_passphrase_must_fit(tmp_path: Path, stored, given) -> None:
    path = tmp_path / "device.pem"
    keys.store_key(path, keys.generate_p256(), stored)
    with pytest.raises(KeyLockedError):
        keys.open_key(f"file:{path}", given)


@pytest.mark.parametrize("uri", ["device.pem", "pkcs11:token=x", "file:", "", "http://x/y"])
def test_a_key_is_named_by_a_file_uri_only(uri: str) -> None:
    with pytest.raises(KeyFileError):
        keys.open_key(uri)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError):
        keys.open_key(f"file:{tmp_path}")
    with pytest.raises(KeyFileError):
        keys.open_key(f"file:{tmp_path}/missing")


@pytest.mark.parametrize(
    "private", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256K1())]
)
def test_a_key_of_another_kind_is_refused(tmp_path: Path, private) -> None:
    path = tmp_path / "device.pem"
    path.touch(0o600)
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(KeyNotOursError):
        keys.open_key(f"file:{path}")


def test_an_older_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "device.pem"
    path.touch(0o600)
    private = keys.generate_p256().private
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    with pytest.raises(KeyFileError):
        keys.open_key(f"file:{path}")


@given(st.binary(max_size=200))
def test_hostile_key_files_raise_only_our_own_error(tmp_path_factory, body: bytes) -> None:
    path = tmp_path_factory.mktemp("key") / "device.pem"
    path.touch(0o600)
    for data in (body, b"-----BEGIN PRIVATE KEY-----\n" + body + b"\n-----END PRIVATE KEY-----\n"):
        path.write_bytes(data)
        with pytest.raises(KeyFileError):
            keys.open_key(f"file:{path}")


def test_a_key_does_not_print_itself() -> None:
    key = keys.generate_ed25519()
    secret = key.private.private_bytes_raw().hex()
    assert repr(key) == "SigningKey(algorithm=<Algorithm.EDDSA: 'ed25519'>)"
    assert secret not in repr(keys.LogKey(key))


def test_a_log_signs_with_ed25519_alone() -> None:
    log = keys.LogKey(keys.generate_ed25519())
    assert keys.verify_ed25519(log.public, log.sign(b"checkpoint"), b"checkpoint")
    assert not keys.verify_ed25519(log.public, log.sign(b"checkpoint"), b"another")
    with pytest.raises(KeyNotOursError):
        keys.LogKey(keys.generate_p256())


@pytest.mark.parametrize(
    ("public", "signature", "message", "holds"),
    [  # RFC 8032, 7.1, tests 1 to 3
        (
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            "",
            True,
        ),
        (
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
            "72",
            True,
        ),
        (
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
            "73",
            False,
        ),
    ],
)
def test_published_signatures_are_judged_rightly(public, signature, message, holds) -> None:
    assert (
        keys.verify_ed25519(bytes.fromhex(public), bytes.fromhex(signature), bytes.fromhex(message)) is holds
    )


@pytest.mark.parametrize(
    "public",
    [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    ],
)
def test_a_key_under_which_anything_verifies_is_refused(public: str) -> None:
    # Under the identity as key, R = identity and S = 0 verify over every message.
    forged = bytes.fromhex("01" + "00" * 63)
    assert not keys.verify_ed25519(bytes.fromhex(public), forged, b"whatever")


def test_the_identity_key_would_have_been_accepted_by_the_library() -> None:
    identity = bytes.fromhex("01" + "00" * 31)
    ed25519.Ed25519PublicKey.from_public_bytes(identity).verify(bytes.fromhex("01" + "00" * 63), b"whatever")


@given(st.binary(max_size=40), st.binary(max_size=70), st.binary(max_size=8))
def test_hostile_signatures_are_an_answer(public: bytes, signature: bytes, message: bytes) -> None:
    assert keys.verify_ed25519(public, signature, message) is False
    assert keys.verify_note(public, signature, message) is False


def test_a_note_is_verified_by_the_kind_of_its_key() -> None:
    log, note = keys.LogKey(keys.generate_ed25519()), keys.generate_ml_dsa_44()
    assert (len(note.public), len(note.sign(b"checkpoint"))) == (1312, 2420)
    for key, other in ((log, note), (note, log)):
        signature = key.sign(b"checkpoint")
        assert keys.verify_note(key.public, signature, b"checkpoint")
        assert not keys.verify_note(key.public, signature, b"another")
        assert not keys.verify_note(key.public, signature[:-1], b"checkpoint")
        assert not keys.verify_note(key.public, signature + bytes(1), b"checkpoint")
        assert not keys.verify_note(key.public[:-1], signature, b"checkpoint")
        assert not keys.verify_note(key.public, other.sign(b"checkpoint"), b"checkpoint")
        assert not keys.verify_note(other.public, signature, b"checkpoint")


@pytest.mark.parametrize("at", [0, 31, 32, 2000, 2419])
def test_an_ml_dsa_signature_with_one_bit_turned_is_wrong(at: int) -> None:
    key = keys.generate_ml_dsa_44()
    signature = bytearray(key.sign(b"checkpoint"))
    signature[at] ^= 1
    assert not keys.verify_note(key.public, bytes(signature), b"checkpoint")


def test_an_ml_dsa_signature_made_for_a_context_is_none_over_a_note() -> None:
    key = keys.generate_ml_dsa_44()
    assert not keys.verify_note(key.public, key.private.sign(b"checkpoint", b"context"), b"checkpoint")


def test_an_ml_dsa_signature_that_does_not_verify_never_leaves() -> None:
    faulty = keys.NoteKey(keys.generate_ml_dsa_44().private, keys.generate_ml_dsa_44().public)
    with pytest.raises(SelfCheckError):
        faulty.sign(b"checkpoint")


def forged_with_t1_zero(public: bytes, message: bytes) -> bytes:
    """FIPS 204, Algorithm 8 run backwards: with t1 = 0, z = 0 and no hint, w1 is 0 whatever the challenge."""
    tr = hashlib.shake_256(public).digest(64)
    mu = hashlib.shake_256(tr + b"\0\0" + message).digest(64)
    challenge = hashlib.shake_256(mu + bytes(4 * 192)).digest(32)
    # Four polynomials of 256 zeros, each packed as gamma1 - 0 = 2^17 in 18 bits.
    zero = sum(1 << 17 + 18 * index for index in range(4 * 256)).to_bytes(4 * 576, "little")
    return challenge + zero + bytes(84)


def test_an_ml_dsa_key_under_which_anybody_signs_is_refused() -> None:
    public = hashlib.sha256(b"rho").digest() + bytes(1280)
    forged = forged_with_t1_zero(public, b"whatever")
    # The library accepts it.
    mldsa.MLDSA44PublicKey.from_public_bytes(public).verify(forged, b"whatever")
    assert not keys.verify_note(public, forged, b"whatever")


def test_a_published_ml_dsa_key_comes_of_its_seed() -> None:
    # RFC 9881, appendix C: the seed of the examples is 00 to 1f, and this is how its public key begins.
    key = keys.NoteKey.of(mldsa.MLDSA44PrivateKey.from_seed_bytes(bytes(range(32))))
    assert key.public[:32].hex() == "d7b2b47254aae0db45e7930d4a98d2c97d8f1397d1789dafa17024b316e9bec9"


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_a_stored_note_key_comes_back(tmp_path: Path, passphrase) -> None:
    key, path = keys.generate_ml_dsa_44(), tmp_path / "log-ml-dsa-44.pem"
    keys.store_key(path, key, passphrase)
    assert keys.open_note_key(f"file:{path}", passphrase).public == key.public
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (b"ENCRYPTED" in path.read_bytes()) is (passphrase is not None)
    path.chmod(0o640)
    with pytest.raises(KeyExposedError):
        keys.open_note_key(f"file:{path}", passphrase)


def test_a_note_key_signs_no_capture_and_a_signing_key_no_ml_dsa_note(tmp_path: Path) -> None:
    keys.store_key(tmp_path / "note.pem", keys.generate_ml_dsa_44(), None)
    keys.store_key(tmp_path / "log.pem", keys.generate_ed25519(), None)
    with pytest.raises(KeyNotOursError):
        keys.open_key(f"file:{tmp_path / 'note.pem'}")
    with pytest.raises(KeyNotOursError):
        keys.open_note_key(f"file:{tmp_path / 'log.pem'}")


def test_a_note_key_does_not_print_itself() -> None:
    assert repr(keys.generate_ml_dsa_44()) == "NoteKey()"


_P = 2**255 - 19


def _weak_points() -> list[bytes]:
    """Every encoding, canonical or not, of the eight points of small order on edwards25519 (RFC 8032, 5.1), and
    of others that are not in canonical form; found by the curve's own equation."""
    d = -121665 * pow(121666, -1, _P) % _P
    eight = int.from_bytes(
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
    )

    def x_squared(y: int) -> int:
        return (y * y - 1) * pow(d * y * y + 1, -1, _P) % _P

    # Twice a point of order 8 has order 4, that is y = 0: x^2 = -y^2 for such a point (RFC 8032, 5.1.4).
    assert x_squared(eight) == -eight * eight % _P
    ys = {0, 1, _P - 1, eight, _P - eight, _P, _P + 1, *range(_P + 2, 2**255)}
    return [(y | sign << 255).to_bytes(32, "little") for y in ys for sign in (0, 1)]


def test_an_ed25519_key_that_needs_no_private_key_is_refused_at_every_door() -> None:
    """With the identity as key, R = A and s = 0 sign every message."""
    taken = 0
    for public in _weak_points():
        try:
            key = ed25519.Ed25519PublicKey.from_public_bytes(public)
        except ValueError:
            continue
        taken += 1
        with pytest.raises(KeyNotOursError, match="small order"):
            keys.algorithm_of(key)
        signature = (1).to_bytes(32, "little") + bytes(32)
        assert not keys.signature_holds(key, keys.Algorithm.EDDSA, signature, b"any message")
        assert not keys.verify_ed25519(public, signature, b"any message")
        with pytest.raises(KeyNotOursError, match="small order"):
            read_public_key(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    assert taken >= 8


def test_no_message_is_signed_by_the_identity() -> None:
    identity = ed25519.Ed25519PublicKey.from_public_bytes((1).to_bytes(32, "little"))
    signature = (1).to_bytes(32, "little") + bytes(32)
    identity.verify(signature, b"one message")
    identity.verify(signature, b"and another")
    assert not keys.signature_holds(identity, keys.Algorithm.EDDSA, signature, b"one message")
