"""Keep keys in a TPM 2.0, and have it say so.

A key is made in the TPM and leaves it only encrypted for itself (`authn.custody.tpm_file`), so the file
can lie anywhere and its loss is no theft. A TPM has room for three keys at a time: whatever is
loaded for one command is unloaded after it, and only the key that signs stays, one per open provider.
A TPM that was restarted, or whose room another program took, gets the key again.

One command at a time goes to the TPM of a machine, whatever the number of threads. On a machine with
other users of the TPM, reach it through the kernel's resource manager (device:/dev/tpmrm0).

A PIN protects a key against whoever has the file and the machine; the TPM locks itself after too many
wrong ones, so none is tried twice. The PIN crosses the bus to the TPM in the clear: a probe on the wires
reads it. The owner and endorsement hierarchies must have no password, as TPMs come.
What the TPM states is judged in `authn.attestation.tpm`, by somebody else and without a TPM.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from authn.attestation.tpm import CounterReading, Statement
from authn.attestation.tpm_credential import Credential
from authn.custody.tpm_fault import Fault, fault_of, refusal
from authn.custody.tpm_file import OWNER, WrappedKey, read_wrapped
from authn.custody.uri import TpmAddress
from authn.errors import (
    KeyFileError,
    KeyGoneError,
    KeyLockedError,
    KeyNotOursError,
    PinWrongError,
    ProviderMissingError,
    SelfCheckError,
)
from authn.keys import Algorithm, Keeping, PublicKey, read_secret, signature_holds

# The TPM library writes its own view of every error to the terminal unless it is told not to; ours is raised.
os.environ.setdefault("TSS2_LOG", "all+none")
try:
    import tpm2_pytss as tss
    from tpm2_pytss import utils as tss_utils
except ImportError as missing:
    raise ProviderMissingError("tpm2-pytss is not installed; it comes with lightseal[tpm]") from missing

COUNTERS = range(0x01800000, 0x01C00000)
"""Where a TPM's owner may put counters (TCG Registry of Reserved TPM 2.0 Handles, 2.2)."""

_MAX_PIN = 32  # the size of the name's digest (TPM 2.0 Library, Part 1, 19.6.4.2)
_MAX_EXPECTED = 64  # TPM2B_DATA holds no more than the longest digest (Part 2, 10.4.3)
_MAX_BLOB = 130  # TPM2B_ID_OBJECT: two of these with their lengths, less than the library's own limit
_MAX_SEED = 256  # TPM2B_ENCRYPTED_SECRET, for RSA of 2048 bits
_PARENT = "restricted|decrypt|fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda"
_CLAIM = "sign|fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
_ATTESTATION = "restricted|" + _CLAIM + "|noda"
_RESOURCE_MANAGERS = ("tpmrm", "tabrmd")  # each program sees its own keys alone
_TRANSIENT = 0x80000000
_ONE_AT_A_TIME = threading.RLock()

T = TypeVar("T")


class EndorsementKind(StrEnum):
    """Which of the keys that a TPM's maker may have certified (TCG EK Credential Profile 2.5, Annex B)."""

    RSA_2048 = "EK-RSA2048"
    P256 = "EK-ECC256"
    P384 = "EK-HIGH-ECC384"


@dataclass(frozen=True, slots=True)
class Endorsement:
    """A TPM's own key, a TPMT_PUBLIC, with its maker's certificate in DER; empty if the TPM keeps none."""

    kind: EndorsementKind
    public: bytes
    certificate: bytes


class Tpm:
    """A TPM that is asked, one command at a time."""

    def __init__(self, tcti: str) -> None:
        self._tcti = tcti
        self._managed = any(name in tcti for name in _RESOURCE_MANAGERS)
        self._esapi: Any = None
        self._process = 0
        self._held: tuple[bytes, Any] | None = None
        self._run(lambda esapi: esapi.get_random(1))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unload what is loaded and let go of the TPM; the next command connects anew."""
        with _ONE_AT_A_TIME:
            if self._esapi is not None and self._process == os.getpid():
                with suppress(tss.TSS2_Exception):
                    self._unload(self._esapi)
            self._drop()

    def make_claim_key(self, pin: bytes | None = None) -> WrappedKey:
        """Make a key for claims: P-256, never leaves the TPM, signs whatever it is given."""
        _check_pin(pin)
        attributes = _CLAIM if pin else _CLAIM + "|noda"  # nothing to guess, so no lock against guessing
        return self._run(lambda esapi: _create(esapi, attributes, pin))

    def make_attestation_key(self) -> WrappedKey:
        """Make a key that signs only what the TPM itself states (an AK)."""
        return self._run(lambda esapi: _create(esapi, _ATTESTATION, None))

    def endorsement(self, kind: EndorsementKind) -> Endorsement:
        """The TPM's own key of that kind. Derived anew, which takes some chips half a minute for RSA."""

        def ask(esapi: Any) -> Endorsement:
            self._unload(esapi)
            certificate, template = _endorsement_template(esapi, kind)
            with _endorsement_key(esapi, template) as (_, public):
                return Endorsement(kind, public, certificate)

        return self._run(ask)

    def find_endorsement(self) -> Endorsement:
        """The first of the TPM's own keys that has a certificate; the RSA one if none has."""
        found = [self._run(partial(_certificate_of, kind)) for kind in EndorsementKind]
        kinds = [kind for kind, certificate in zip(EndorsementKind, found, strict=True) if certificate]
        return self.endorsement(kinds[0] if kinds else EndorsementKind.RSA_2048)

    def activate(self, ak: WrappedKey, endorsement: Endorsement, credential: Credential) -> bytes:
        """Answer a challenge: the secret comes back only if both keys are in this TPM (Part 1, clause 24)."""

        if len(credential.blob) > _MAX_BLOB or len(credential.seed) > _MAX_SEED:
            raise KeyFileError("the challenge is longer than a TPM takes")

        def ask(esapi: Any) -> bytes:
            self._unload(esapi)
            _, template = _endorsement_template(esapi, endorsement.kind)
            blob = tss.TPM2B_ID_OBJECT(credential=credential.blob)
            seed = tss.TPM2B_ENCRYPTED_SECRET(secret=credential.seed)
            with (
                _loaded(esapi, ak, None) as key,
                _endorsement_key(esapi, template) as (own, _),
                _right(esapi, endorsement.kind) as session,
            ):
                return bytes(esapi.activate_credential(key, own, blob, seed, session2=session))

        return self._run(ask)

    def attest(
        self,
        claim: WrappedKey,
        ak: WrappedKey,
        expected: bytes,
        pin: bytes | None = None,
        endorsement: Endorsement | None = None,
        secret: bytes = b"",
    ) -> Statement:
        """Have `ak` certify `claim`, bound to `expected`, and put with it what else shows that this is a TPM."""
        _check_expected(expected)

        def ask(esapi: Any) -> tuple[bytes, bytes]:
            self._unload(esapi)
            with _loaded(esapi, ak, None) as signer, _loaded(esapi, claim, pin) as key:
                attested, signature = esapi.certify(key, signer, expected, _ecdsa())
                return _unsized(attested), _raw(signature)

        attested, signature = self._run(ask)
        ek = endorsement.public if endorsement else b""
        certificates = (endorsement.certificate,) if endorsement and endorsement.certificate else ()
        return Statement(ak.public, claim.public, attested, signature, ek, certificates, secret)

    def define_counter(self, index: int) -> int:
        """Make a counter that only goes up, if it is not there yet, and return its value.

        A counter starts above every value that any counter of this TPM ever had (Part 1, 37.2.4).
        """
        if index not in COUNTERS:
            raise ValueError("a counter lies where the owner's do")

        def ask(esapi: Any) -> int:
            public = tss.TPM2B_NV_PUBLIC(
                nvPublic=tss.TPMS_NV_PUBLIC(
                    nvIndex=index,
                    nameAlg=tss.TPM2_ALG.SHA256,
                    dataSize=8,
                    attributes=tss.TPMA_NV(
                        tss.TPMA_NV.AUTHREAD
                        | tss.TPMA_NV.AUTHWRITE
                        | tss.TPMA_NV.OWNERREAD
                        | tss.TPMA_NV.NO_DA
                        | (tss.TPM2_NT.COUNTER << tss.TPMA_NV.TPM2_NT_SHIFT)
                    ),
                )
            )
            if not _defined(esapi, index):
                esapi.tr_close(esapi.nv_define_space(None, public, tss.ESYS_TR.OWNER))
            with _counter(esapi, index) as handle:
                if not _counter_attributes(esapi, handle) & tss.TPMA_NV.WRITTEN:
                    esapi.nv_increment(handle, handle)
                return _value(esapi, handle)

        return self._run(ask)

    def increment(self, index: int) -> int:
        """Count one up and return the new value. A crash right after it leaves a gap, never the same value twice.

        Counting and reading are two commands: programs that share a counter need a lock of their own.
        """

        def ask(esapi: Any) -> int:
            with _counter(esapi, index) as handle:
                esapi.nv_increment(handle, handle)
                return _value(esapi, handle)

        return self._run(ask)

    def read_counter(self, index: int) -> int:
        """The counter's value now."""

        def ask(esapi: Any) -> int:
            with _counter(esapi, index) as handle:
                return _value(esapi, handle)

        return self._run(ask)

    def certify_counter(self, index: int, ak: WrappedKey, expected: bytes) -> CounterReading:
        """Have `ak` certify the counter's value now, bound to `expected` (TPM2_NV_Certify, Part 3, 31.16)."""
        _check_expected(expected)

        def ask(esapi: Any) -> CounterReading:
            self._unload(esapi)
            with _loaded(esapi, ak, None) as signer, _counter(esapi, index) as handle:
                area, _name = esapi.nv_read_public(handle)
                attested, signature = esapi.nv_certify(signer, handle, expected, _ecdsa(), 8, 0, handle)
                return CounterReading(_unsized(area), _unsized(attested), _raw(signature))

        return self._run(ask)

    def remove_counter(self, index: int) -> None:
        """Delete the counter; one that is made after it goes on above its value."""

        def ask(esapi: Any) -> None:
            if _defined(esapi, index):
                esapi.nv_undefine_space(esapi.tr_from_tpmpublic(index))

        self._run(ask)

    def sign(self, key: WrappedKey, pin: bytes | None, digest: bytes) -> bytes:
        """Sign a SHA-256 with a claim key, which stays loaded: r and s, unverified."""

        def ask(esapi: Any) -> bytes:
            handle = self._hold(esapi, key, pin)
            return _raw(esapi.sign(handle, digest, _ecdsa()))

        return self._run(ask)

    def forget(self) -> None:
        """Take the held key for lost, without unloading what may be another program's by now."""
        with _ONE_AT_A_TIME:
            self._held = None

    def _hold(self, esapi: Any, key: WrappedKey, pin: bytes | None) -> Any:
        if self._held is not None and self._held[0] != key.public:
            self._unload(esapi)
        if self._held is not None and not self._managed:
            # Another program's key in our place would sign for us, or count our use as a wrong PIN.
            public, *_ = esapi.read_public(self._held[1])
            if _unsized(public) != key.public:
                self._held = None
        if self._held is None:
            self._held = key.public, _load(esapi, key, pin)
        esapi.tr_set_auth(self._held[1], pin)  # of this caller, whoever had the key loaded
        return self._held[1]

    def _unload(self, esapi: Any) -> None:
        held, self._held = self._held, None
        if held is not None:
            with suppress(tss.TSS2_Exception):  # not there any more
                esapi.flush_context(held[1])

    def _run(self, ask: Callable[[Any], T]) -> T:
        """Ask the TPM; once more if a key was gone or its room was taken, since nothing has happened then."""
        with _ONE_AT_A_TIME:
            again = True
            while True:
                try:
                    return ask(self._connection())
                except tss.TSS2_Exception as error:
                    fault = fault_of(int(error.rc), int(error.error))
                    if again and fault is Fault.NO_ROOM:
                        self._sweep()
                    elif again and fault is Fault.ABSENT and (self._held or not self._managed):
                        self._held = None
                    else:
                        if fault is Fault.SILENT:
                            self._drop()
                        raise refusal(fault, f"the TPM at {self._tcti}", str(error)) from None
                    again = False

    def _connection(self) -> Any:
        if self._process != os.getpid():
            self._esapi, self._held = None, None  # the parent's connection, not this process's
        if self._esapi is None:
            self._esapi = tss.ESAPI(self._tcti)
            self._process = os.getpid()
        return self._esapi

    def _drop(self) -> None:
        esapi, self._esapi, self._held = self._esapi, None, None
        if esapi is not None and self._process == os.getpid():
            esapi.close()

    def _sweep(self) -> None:
        """Unload every key: what crashed programs left, or, with no resource manager, what others use.

        Those load theirs again, as we do.
        """
        esapi = self._connection()
        self._held = None
        _more, capability = esapi.get_capability(tss.TPM2_CAP.HANDLES, _TRANSIENT, 32)
        handles = capability.data.handles  # a view: `capability` must live as long
        for handle in [int(handles[place]) for place in range(handles.count)]:
            with suppress(tss.TSS2_Exception):
                esapi.flush_context(esapi.tr_from_tpmpublic(handle))


class TpmKey:
    """A claim key in a TPM."""

    def __init__(self, tpm: Tpm, key: WrappedKey, pin: bytes | None) -> None:
        _check_pin(pin)
        if key.protected and pin is None:
            raise KeyLockedError("the key in the TPM has a PIN and none was given")
        if pin is not None and not key.protected:
            raise KeyLockedError("the key in the TPM has no PIN, though one was given")
        public = key.area.key
        if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != "secp256r1":
            raise KeyNotOursError("the key in the TPM is not on P-256")
        self._tpm, self._key, self._pin, self._public = tpm, key, pin, public
        self._refused = False

    def __repr__(self) -> str:
        return f"TpmKey({self._key.area.name.hex()})"

    @property
    def keeping(self) -> Keeping:
        """In a TPM, by the file's word."""
        return Keeping.TPM

    @property
    def algorithm(self) -> Algorithm:
        """P-256 with SHA-256, which every TPM has."""
        return Algorithm.ES256

    @property
    def public_key(self) -> PublicKey:
        """The key that verifies."""
        return self._public

    def sign(self, data: bytes) -> bytes:
        """Sign `data`; a signature that does not verify raises and is thrown away."""
        digest = hashlib.sha256(data).digest()
        for _ in range(2):
            if self._refused:
                raise PinWrongError("the TPM refused this PIN before, and it is not tried again")
            try:
                signature = self._tpm.sign(self._key, self._pin, digest)
            except PinWrongError:
                self._refused = True
                raise
            if signature_holds(self._public, Algorithm.ES256, signature, data):
                return signature
            self._tpm.forget()  # with no resource manager, another program's key may have come in its place
        raise SelfCheckError("a signature of the TPM did not verify under its own key")

    def close(self) -> None:
        """Unload the key and let go of the TPM."""
        self._tpm.close()


def open_tpm_key(address: TpmAddress) -> TpmKey:
    """Open a claim key. Loads it once, so that a foreign key file or a missing TPM shows here."""
    key = read_wrapped(address.path)
    pin = None if address.pin_source is None else read_secret(address.pin_source)
    tpm = Tpm(address.tcti)
    try:
        opened = TpmKey(tpm, key, pin)
        tpm._run(lambda esapi: tpm._hold(esapi, key, pin))  # noqa: SLF001 - the same module
    except BaseException:
        tpm.close()
        raise
    return opened


def _check_pin(pin: bytes | None) -> None:
    if pin is not None and (not 1 <= len(pin) <= _MAX_PIN or pin.endswith(b"\0")):
        raise KeyFileError(f"a PIN for a TPM has 1 to {_MAX_PIN} bytes, and no zero at its end")


def _check_expected(expected: bytes) -> None:
    if len(expected) > _MAX_EXPECTED:
        raise ValueError(f"a TPM signs no more than {_MAX_EXPECTED} bytes of its caller's")


def _create(esapi: Any, attributes: str, pin: bytes | None) -> WrappedKey:
    template = tss.TPM2B_PUBLIC.parse("ecc256:ecdsa-sha256:null", attributes, "sha256")
    sensitive = tss.TPM2B_SENSITIVE_CREATE()
    if pin is not None:
        sensitive.sensitive.userAuth = pin
    with _parent(esapi, OWNER) as parent:
        private, public, *_ = esapi.create(parent, sensitive, template)
    return WrappedKey(_unsized(public), _unsized(private), pin is not None)


@contextmanager
def _parent(esapi: Any, parent: int) -> Iterator[Any]:
    """The key under which others lie: derived for the moment, or one that is kept in the TPM."""
    if parent != OWNER:
        handle = esapi.tr_from_tpmpublic(parent)
        try:
            yield handle
        finally:
            esapi.tr_close(handle)
        return
    template = tss.TPM2B_PUBLIC.parse("ecc256:aes128cfb", _PARENT, "sha256")
    handle, *_ = esapi.create_primary(None, template, tss.ESYS_TR.OWNER)
    with _flushed(esapi, handle):
        yield handle


@contextmanager
def _loaded(esapi: Any, key: WrappedKey, pin: bytes | None) -> Iterator[Any]:
    handle = _load(esapi, key, pin)
    with _flushed(esapi, handle):
        yield handle


def _load(esapi: Any, key: WrappedKey, pin: bytes | None) -> Any:
    private, _ = tss.TPM2B_PRIVATE.unmarshal(_prefixed(key.private))
    public, _ = tss.TPM2B_PUBLIC.unmarshal(_prefixed(key.public))
    with _parent(esapi, key.parent) as parent:
        handle = esapi.load(parent, private, public)
    esapi.tr_set_auth(handle, pin)
    return handle


@contextmanager
def _flushed(esapi: Any, handle: Any) -> Iterator[None]:
    """Unload at the end, whatever happens; a TPM that is gone has unloaded everything."""
    try:
        yield
    finally:
        with suppress(tss.TSS2_Exception):
            esapi.flush_context(handle)


def _endorsement_template(esapi: Any, kind: EndorsementKind) -> tuple[bytes, Any]:
    """The certificate in the TPM's memory, or nothing, and the template that gives its key."""
    try:
        certificate, template = tss_utils.create_ek_template(kind.value, tss_utils.NVReadEK(esapi))
    except ValueError:  # as the library says that a key of the high range has no certificate
        return b"", tss_utils.ek_template.lookup(kind.value).template
    return _one_element(bytes(certificate or b"")), template


def _certificate_of(kind: EndorsementKind, esapi: Any) -> bytes:
    certificate, _template = _endorsement_template(esapi, kind)
    return certificate


def _one_element(data: bytes) -> bytes:
    """The certificate without what fills up its place in the TPM's memory."""
    if data[:2] != b"\x30\x82" or len(data) < 4:
        return b""
    return data[: 4 + int.from_bytes(data[2:4], "big")]


@contextmanager
def _endorsement_key(esapi: Any, template: Any) -> Iterator[tuple[Any, bytes]]:
    handle, public, *_ = esapi.create_primary(None, template, tss.ESYS_TR.ENDORSEMENT)
    with _flushed(esapi, handle):
        yield handle, _unsized(public)


@contextmanager
def _right(esapi: Any, kind: EndorsementKind) -> Iterator[Any]:
    """The right to use an endorsement key: its empty password in the high range, else a policy (EK Profile, B.6)."""
    if kind is EndorsementKind.P384:
        yield tss.ESYS_TR.PASSWORD
        return
    symmetric = tss.TPMT_SYM_DEF(algorithm=tss.TPM2_ALG.NULL)
    session = esapi.start_auth_session(
        tss.ESYS_TR.NONE, tss.ESYS_TR.NONE, tss.TPM2_SE.POLICY, symmetric, tss.TPM2_ALG.SHA256
    )
    with _flushed(esapi, session):
        esapi.policy_secret(tss.ESYS_TR.ENDORSEMENT, session, b"", b"", b"", 0)
        yield session


def _defined(esapi: Any, index: int) -> bool:
    _more, capability = esapi.get_capability(tss.TPM2_CAP.HANDLES, index, 1)
    handles = capability.data.handles  # a view: `capability` must live as long
    return bool(handles.count and int(handles[0]) == index)


@contextmanager
def _counter(esapi: Any, index: int) -> Iterator[Any]:
    if not _defined(esapi, index):
        raise KeyGoneError(f"the TPM has no counter at {index:#010x}")
    handle = esapi.tr_from_tpmpublic(index)
    try:
        kind = (_counter_attributes(esapi, handle) & tss.TPMA_NV.TPM2_NT_MASK) >> tss.TPMA_NV.TPM2_NT_SHIFT
        if kind != tss.TPM2_NT.COUNTER:
            raise KeyNotOursError(f"what the TPM has at {index:#010x} is no counter")
        yield handle
    finally:
        esapi.tr_close(handle)


def _counter_attributes(esapi: Any, handle: Any) -> int:
    area, _name = esapi.nv_read_public(handle)
    return int(area.nvPublic.attributes)  # read while `area` lives


def _value(esapi: Any, handle: Any) -> int:
    return int.from_bytes(bytes(esapi.nv_read(handle, 8, 0, handle)), "big")


def _ecdsa() -> Any:
    scheme = tss.TPMT_SIG_SCHEME(scheme=tss.TPM2_ALG.ECDSA)
    scheme.details.any.hashAlg = tss.TPM2_ALG.SHA256
    return scheme


def _raw(signature: Any) -> bytes:
    """R and s side by side; a TPM may leave out leading zeros."""
    ecdsa = signature.signature.ecdsa  # a view: `signature` lives as long
    return bytes(ecdsa.signatureR).rjust(32, b"\0") + bytes(ecdsa.signatureS).rjust(32, b"\0")


def _unsized(structure: Any) -> bytes:
    """The content of a TPM2B, without its length."""
    return bytes(structure.marshal())[2:]


def _prefixed(content: bytes) -> bytes:
    return len(content).to_bytes(2, "big") + content
