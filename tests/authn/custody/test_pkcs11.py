import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authn import keys
from authn.custody.executable import CodeExposedError
from authn.custody.opening import open_provider
from authn.custody.uri import TokenAddress
from authn.errors import (
    KeyAddressError,
    KeyBusyError,
    KeyExposedError,
    KeyGoneError,
    KeyLockedError,
    KeyNotOursError,
    PinWrongError,
    ProviderMissingError,
    SelfCheckError,
)
from tools.softhsm import SoftHsm

pkcs11 = pytest.importorskip("pkcs11", reason="needs python-pkcs11: pip install lightseal[hsm]")
token_keys = pytest.importorskip("authn.custody.pkcs11", reason="needs python-pkcs11")

Attribute, KeyType, Mechanism, ObjectClass = (
    pkcs11.Attribute,
    pkcs11.KeyType,
    pkcs11.Mechanism,
    pkcs11.ObjectClass,
)
P256 = bytes.fromhex("06082a8648ce3d030107")
SAFE = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.SIGN: True,
}


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    with SoftHsm(tmp_path_factory.mktemp("token")) as running:
        for algorithm in keys.Algorithm:
            running.generate(algorithm.value, algorithm)
        yield running


@pytest.fixture
def own(tmp_path: Path) -> Iterator[SoftHsm]:
    """A token that a test may break."""
    with SoftHsm(tmp_path / "token") as running:
        running.generate("claim")
        yield running


def make(token: SoftHsm, label: str, **attributes: object) -> None:
    """Make a key as a careless operator would."""
    open_provider(token.uri("es256"))  # logs this process in
    library = pkcs11.lib(str(token.module.resolve()))
    session = library.get_token(token_label=token.label).open(rw=True)
    template = {**SAFE, **{getattr(Attribute, name): value for name, value in attributes.items()}}
    session.create_domain_parameters(KeyType.EC, {Attribute.EC_PARAMS: P256}, local=True).generate_keypair(
        mechanism=Mechanism.EC_KEY_PAIR_GEN,
        store=True,
        label=label,
        id=os.urandom(4),
        private_template=template,
    )
    session.close()


@pytest.mark.needs("softhsm2")
@pytest.mark.parametrize("algorithm", list(keys.Algorithm))
def test_a_token_signs_as_a_key_in_memory_would(token: SoftHsm, algorithm: keys.Algorithm) -> None:
    key = open_provider(token.uri(algorithm.value))
    assert key.algorithm is algorithm
    assert key.keeping is keys.Keeping.TOKEN
    for data in (b"", b"claim", b"x" * 100_000):
        assert keys.signature_holds(key.public_key, algorithm, key.sign(data), data)
    key.close()
    key.close()


@pytest.mark.needs("softhsm2", "openssl")
def test_openssl_accepts_a_signature_of_the_token(token: SoftHsm, tmp_path: Path) -> None:
    key = open_provider(token.uri("es384"))
    raw = key.sign(b"claim")
    der = utils.encode_dss_signature(int.from_bytes(raw[:48], "big"), int.from_bytes(raw[48:], "big"))
    (tmp_path / "sig").write_bytes(der)
    (tmp_path / "data").write_bytes(b"claim")
    pem = key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "pub").write_bytes(pem)
    command = ["openssl", "dgst", "-sha384", "-verify", "pub", "-signature", "sig", "data"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=30, check=False)
    assert done.stdout == b"Verified OK\n"


@pytest.mark.needs("softhsm2")
def test_eight_threads_sign_1600_times_and_each_signature_is_right(token: SoftHsm) -> None:
    made: dict[bytes, bytes] = {}
    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            key = open_provider(token.uri("es256"))
            for turn in range(200):
                data = f"{number}/{turn}".encode()
                made[data] = key.sign(data)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must see it
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(made) == 1600
    assert len(set(made.values())) == 1600
    public = open_provider(token.uri("es256")).public_key
    assert isinstance(public, ec.EllipticCurvePublicKey)
    for data, raw in made.items():
        r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
        public.verify(utils.encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))


@pytest.mark.needs("softhsm2")
def test_a_forked_child_signs_with_the_key_that_was_open(token: SoftHsm) -> None:
    key = open_provider(token.uri("es256"))
    key.sign(b"before")
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    children = [
        context.Process(target=lambda n=number: answers.put(key.sign(b"child %d" % n)))
        for number in range(10)
    ]
    for child in children:
        child.start()
    mine = [key.sign(b"parent") for _ in range(50)]
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    signatures = [answers.get() for _ in children]
    for signature in mine:
        assert keys.signature_holds(key.public_key, key.algorithm, signature, b"parent")
    said = [b"child %d" % number for number in range(10)]
    assert all(
        any(keys.signature_holds(key.public_key, key.algorithm, signature, data) for data in said)
        for signature in signatures
    )
    assert keys.signature_holds(key.public_key, key.algorithm, key.sign(b"after"), b"after")


@pytest.mark.needs("softhsm2")
def test_a_spawned_process_opens_the_key_itself(token: SoftHsm) -> None:
    key = open_provider(token.uri("es256"))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        signature = pool.submit(key.sign, b"spawned").result(60)
    assert keys.signature_holds(key.public_key, key.algorithm, signature, b"spawned")


@pytest.mark.needs("softhsm2")
def test_a_wrong_pin_is_given_to_the_token_once(own: SoftHsm) -> None:
    """SoftHSM2 raises a flag at a wrong PIN and lowers it at a right one; another process lowers it."""
    token_keys.release(own.module)
    right, wrong = own.pin_file.read_text(), "0000000000\n"
    own.pin_file.write_text(wrong)
    with pytest.raises(PinWrongError) as caught:
        open_provider(own.uri("claim"))
    assert "0000" not in str(caught.value)
    assert flag(own, "USER_PIN_COUNT_LOW")
    own.pin_file.write_text(right)
    script = "import sys; from authn.custody.opening import open_provider; open_provider(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, own.uri("claim")], check=True, timeout=60)
    assert not flag(own, "USER_PIN_COUNT_LOW")
    own.pin_file.write_text(wrong)
    for _ in range(5):
        with pytest.raises(PinWrongError, match="before"):
            open_provider(own.uri("claim"))
    assert not flag(own, "USER_PIN_COUNT_LOW")
    own.pin_file.write_text(right)
    assert len(open_provider(own.uri("claim")).sign(b"x")) == 64


def flag(token: SoftHsm, name: str) -> bool:
    """What the token says of its PIN now."""
    token_keys.release(token.module)
    library = pkcs11.lib(str(token.module.resolve()))
    return bool(library.get_token(token_label=token.label).flags & getattr(pkcs11.TokenFlag, name))


@pytest.mark.needs("softhsm2")
def test_a_token_pulled_out_makes_no_signature_and_signs_again_when_it_is_back(own: SoftHsm) -> None:
    key = open_provider(own.uri("claim"))
    key.sign(b"before")
    away = own.tokens.with_name("away")
    own.tokens.rename(away)
    for _ in range(3):
        with pytest.raises(KeyGoneError):
            key.sign(b"meanwhile")
    with pytest.raises(KeyGoneError):
        open_provider(own.uri("claim"))
    away.rename(own.tokens)
    assert keys.signature_holds(key.public_key, key.algorithm, key.sign(b"again"), b"again")


@pytest.mark.needs("softhsm2")
def test_a_token_pulled_out_while_threads_sign_gives_right_signatures_or_none(own: SoftHsm) -> None:
    key = open_provider(own.uri("claim"))
    made: list[bytes] = []
    gone: list[Exception] = []
    under_way = threading.Event()

    def work() -> None:
        for turn in range(2000):
            try:
                made.append(key.sign(b"claim"))
            except KeyGoneError as error:
                gone.append(error)
                return
            if turn == 20:
                under_way.set()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert under_way.wait(30)
    own.tokens.rename(own.tokens.with_name("away"))
    for thread in threads:
        thread.join()
    assert len(gone) == 4
    assert made
    assert all(keys.signature_holds(key.public_key, key.algorithm, each, b"claim") for each in made)


@pytest.mark.needs("softhsm2")
def test_a_library_ended_behind_our_back_costs_one_call(own: SoftHsm) -> None:
    key = open_provider(own.uri("claim"))
    pkcs11.lib(str(own.module.resolve())).finalize()  # C_Finalize
    with pytest.raises(KeyGoneError):
        key.sign(b"x")
    assert keys.signature_holds(key.public_key, key.algorithm, key.sign(b"x"), b"x")


@pytest.mark.needs("softhsm2")
def test_a_token_that_comes_back_with_another_key_does_not_sign(own: SoftHsm, tmp_path: Path) -> None:
    key = open_provider(own.uri("claim"))
    own.stop()
    with SoftHsm(tmp_path / "other") as impostor:
        impostor.generate("claim")
        impostor.pin_file.replace(own.pin_file)
        with pytest.raises(KeyGoneError, match="another key"):
            key.sign(b"x")


@pytest.mark.needs("softhsm2")
@pytest.mark.parametrize(
    "attributes", [{"EXTRACTABLE": True}, {"SENSITIVE": False}, {"PRIVATE": False}], ids=str
)
def test_a_key_that_the_token_would_hand_out_is_refused(token: SoftHsm, attributes: dict[str, bool]) -> None:
    label = f"copy {attributes}"
    make(token, label, **attributes)
    with pytest.raises(KeyExposedError, match="read out") as caught:
        open_provider(token.uri(label))
    assert "CKA_EXTRACTABLE" in caught.value.remedy


@pytest.mark.needs("softhsm2")
def test_a_key_that_wants_its_pin_each_time_is_refused(token: SoftHsm) -> None:
    make(token, "each time", ALWAYS_AUTHENTICATE=True)
    with pytest.raises(token_keys.AlwaysAuthenticateError):
        open_provider(token.uri("each time"))


@pytest.mark.needs("softhsm2")
def test_a_key_that_may_not_sign_is_refused(token: SoftHsm) -> None:
    make(token, "silent", SIGN=False)
    with pytest.raises(KeyNotOursError):
        open_provider(token.uri("silent"))


@pytest.mark.needs("softhsm2")
def test_a_name_that_two_keys_bear_is_refused(token: SoftHsm) -> None:
    make(token, "twin")
    make(token, "twin")
    with pytest.raises(KeyAddressError, match="several"):
        open_provider(token.uri("twin"))


@pytest.mark.needs("softhsm2")
def test_a_taken_name_gets_no_second_key(token: SoftHsm) -> None:
    with pytest.raises(KeyAddressError, match="already"):
        token.generate("es256")


@pytest.mark.needs("softhsm2")
def test_a_key_or_token_that_is_not_there_is_gone(token: SoftHsm) -> None:
    with pytest.raises(KeyGoneError):
        open_provider(token.uri("nobody"))
    with pytest.raises(KeyGoneError):
        open_provider(token.uri("es256").replace(f"token={token.label}", "token=elsewhere"))


@pytest.mark.needs("softhsm2")
def test_a_key_is_found_by_id_and_serial_as_well(token: SoftHsm) -> None:
    key = open_provider(token.uri("es256"))
    library = pkcs11.lib(str(token.module.resolve()))
    found = library.get_token(token_label=token.label)
    object_ = next(
        iter(found.open().get_objects({Attribute.LABEL: "es256", Attribute.CLASS: ObjectClass.PRIVATE_KEY}))
    )
    address = TokenAddress(
        None, found.serial.decode(), None, object_[Attribute.ID], token.module, token.pin_file
    )
    assert open_provider(str(address)).public_key == key.public_key


@pytest.mark.needs("softhsm2")
def test_an_rsa_key_is_refused(token: SoftHsm) -> None:
    open_provider(token.uri("es256"))
    session = pkcs11.lib(str(token.module.resolve())).get_token(token_label=token.label).open(rw=True)
    session.generate_keypair(KeyType.RSA, 2048, store=True, label="rsa")
    session.close()
    with pytest.raises(KeyNotOursError):
        open_provider(token.uri("rsa"))


@pytest.mark.needs("softhsm2")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_pin_that_others_may_read_is_refused(own: SoftHsm, mode: int) -> None:
    token_keys.release(own.module)
    own.pin_file.chmod(mode)
    with pytest.raises(KeyExposedError):
        open_provider(own.uri("claim"))


@pytest.mark.needs("softhsm2")
def test_no_secret_shows(token: SoftHsm) -> None:
    pin = token.pin_file.read_text().strip()
    key = open_provider(token.uri("es256"))
    assert pin not in repr(key) + repr(token) + token.uri("es256")
    assert (
        pin.encode() not in Path("/proc/self/environ").read_bytes() + Path("/proc/self/cmdline").read_bytes()
    )


def test_a_library_that_is_not_one_is_missing(tmp_path: Path) -> None:
    source = tmp_path / "pin"
    for content in (None, b"no library"):
        module = tmp_path / "module.so"
        if content is not None:
            module.write_bytes(content)
        with pytest.raises(ProviderMissingError) as caught:
            open_provider(f"pkcs11:token=T;object=O?module-path={module}&pin-source=file:{source}")
        assert "lightseal[hsm]" in caught.value.remedy


def test_a_library_that_others_could_replace_is_refused(tmp_path: Path) -> None:
    module = tmp_path / "module.so"
    module.write_bytes(b"")
    module.chmod(0o666)
    with pytest.raises(CodeExposedError):
        open_provider(f"pkcs11:token=T;object=O?module-path={module}&pin-source=file:/pin")


@dataclass
class FakeToken:
    """A token with the counter that SoftHSM2 lacks, and with faults."""

    tries: int = 3
    signs_with: keys.SigningKey | None = None
    fails_with: str = ""
    missing: tuple[str, ...] = ()
    logins: int = 0
    label: str = "T"
    serial: bytes = b"01"
    key: keys.SigningKey = field(default_factory=keys.generate_p256)
    initialized: bool = True

    @property
    def flags(self) -> object:
        named = {0: "USER_PIN_LOCKED", 1: "USER_PIN_FINAL_TRY"}.get(self.tries, "TOKEN_INITIALIZED")
        return getattr(pkcs11.TokenFlag, named)

    def get_tokens(self) -> list["FakeToken"]:
        return [self]

    def initialize(self) -> None:
        self.initialized = True

    def finalize(self) -> None:
        self.initialized = False

    def open(self, user_pin: str) -> "FakeToken":
        self.logins += 1
        if user_pin != "right":
            self.tries -= 1
            raise pkcs11.exceptions.PinIncorrect
        self.tries = 3
        return self

    def get_objects(self, template: dict[object, object]) -> list["FakeObject"]:
        kind = "public" if template[Attribute.CLASS] == ObjectClass.PUBLIC_KEY else "private"
        return [] if kind in self.missing else [FakeObject(self)]


@dataclass
class FakeObject:
    token: FakeToken

    def __getitem__(self, name: object) -> object:
        point = self.token.key.public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        known = {**SAFE, Attribute.KEY_TYPE: KeyType.EC, Attribute.EC_POINT: point, Attribute.ID: b"\x01"}
        if name not in known or name.name in self.token.missing:
            raise pkcs11.exceptions.AttributeTypeInvalid
        return known[name]

    def sign(self, digest: bytes, mechanism: object) -> bytes:
        assert mechanism == Mechanism.ECDSA
        if self.token.fails_with:
            raise getattr(pkcs11.exceptions, self.token.fails_with)
        private = (self.token.signs_with or self.token.key).private
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        r, s = utils.decode_dss_signature(private.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256()))))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def opened(token: FakeToken, folder: Path, pin: str = "right") -> keys.KeyProvider:
    folder.joinpath("module.so").touch(0o600)
    folder.joinpath("pin").touch(0o600)
    folder.joinpath("pin").write_text(pin)
    address = TokenAddress("T", None, "O", None, folder / "module.so", folder / "pin")
    return token_keys.open_token_key(address, lambda _: token)


def test_the_counter_of_tries_goes_down_by_one_only(tmp_path: Path) -> None:
    token = FakeToken()
    for _ in range(10):
        with pytest.raises(PinWrongError):
            opened(token, tmp_path, "wrong")
    assert (token.tries, token.logins) == (2, 1)
    assert len(opened(token, tmp_path).sign(b"x")) == 64
    assert (token.tries, token.logins) == (3, 2)


def test_the_last_try_is_not_spent(tmp_path: Path) -> None:
    token = FakeToken(tries=1)
    with pytest.raises(token_keys.LastTryError):
        opened(token, tmp_path)
    assert (token.tries, token.logins) == (1, 0)


def test_a_locked_token_is_not_tried(tmp_path: Path) -> None:
    token = FakeToken(tries=0)
    with pytest.raises(KeyLockedError):
        opened(token, tmp_path)
    assert token.logins == 0


def test_one_login_serves_every_key_of_a_token(tmp_path: Path) -> None:
    token = FakeToken()
    for _ in range(5):
        opened(token, tmp_path).sign(b"x")
    assert token.logins == 1


def test_a_bare_point_is_read_as_well(tmp_path: Path) -> None:
    token = FakeToken()
    assert opened(token, tmp_path).public_key == token.key.public_key


def test_a_bare_point_that_begins_as_an_octet_string_is_a_point() -> None:
    """One in 256: its first two bytes are those of an OCTET STRING of just its length."""
    for make, first in ((keys.generate_p256, 65 - 2), (keys.generate_p384, 97 - 2)):
        while True:
            token = FakeToken(key=make())
            point = token.key.public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            if point[1] == first:
                break
        assert point[:2] == bytes((4, len(point) - 2))
        assert token_keys._public_key(point) == token.key.public_key
        assert token_keys._public_key(bytes((4, len(point))) + point) == token.key.public_key
        for odd in (b"", b"\x04", point[2:], bytes((5, len(point))) + point, bytes((4, 0)) + point):
            with pytest.raises(KeyNotOursError):
                token_keys._public_key(odd)


def test_an_edwards_key_that_begins_as_an_octet_string_is_a_key() -> None:
    bare = bytes((4, 30)) + bytes(30)
    for written in (bare, b"\x04\x20" + bare):
        found = token_keys._public_key(written)
        assert found.public_bytes(Encoding.Raw, PublicFormat.Raw) == bare


def test_a_faulty_signature_never_leaves(tmp_path: Path) -> None:
    key = opened(FakeToken(signs_with=keys.generate_p256()), tmp_path)
    with pytest.raises(SelfCheckError):
        key.sign(b"x")


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        ("DeviceRemoved", KeyGoneError),
        ("TokenNotPresent", KeyGoneError),
        ("SessionHandleInvalid", KeyGoneError),
        ("UserNotLoggedIn", KeyGoneError),
        ("GeneralError", KeyGoneError),
        ("PinLocked", KeyLockedError),
        ("PinExpired", KeyLockedError),
        ("SessionCount", KeyBusyError),
        ("DeviceMemory", KeyBusyError),
        ("OperationActive", KeyBusyError),
        ("MechanismInvalid", KeyNotOursError),
        ("KeyTypeInconsistent", KeyNotOursError),
    ],
)
def test_what_a_token_complains_of_is_named(tmp_path: Path, failure: str, expected: type[Exception]) -> None:
    token = FakeToken()
    key = opened(token, tmp_path)
    token.fails_with = failure
    with pytest.raises(expected, match=failure):
        key.sign(b"x")
    token.fails_with = ""
    assert keys.signature_holds(key.public_key, key.algorithm, key.sign(b"x"), b"x")


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("private", KeyGoneError),
        ("public", KeyGoneError),
        ("EC_POINT", KeyGoneError),
        ("SENSITIVE", KeyExposedError),
        ("EXTRACTABLE", KeyExposedError),
        ("SIGN", KeyNotOursError),
        ("KEY_TYPE", KeyNotOursError),
    ],
)
def test_a_key_that_says_too_little_of_itself_is_refused(
    tmp_path: Path, missing: str, expected: type[Exception]
) -> None:
    with pytest.raises(expected):
        opened(FakeToken(missing=(missing,)), tmp_path)
