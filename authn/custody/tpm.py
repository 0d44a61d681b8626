"""Keep keys in a TPM 2.0, and have it say so.

A key is made in the TPM and leaves it only encrypted for itself (`authn.custody.tpm_file`), so the file
can lie anywhere and its loss is no theft. A TPM has room for three keys at a time: whatever is
loaded for one command is unloaded after it, and only the key that signs stays, one per open provider.
A TPM that was restarted, or whose room another program took, gets the key again.

One command at a time goes to the TPM of a machine, whatever the number of threads. On a machine with
other users of the TPM, reach it through the kernel's resource manager (device:/dev/tpmrm0).
A fork waits until the command under way has ended, and the child connects by itself. That takes a
TPM that can be reached twice: the resource manager, not /dev/tpm0; and no tabrmd, whose own library
does not outlive a fork.

A PIN protects a key against whoever has the file and the machine; the TPM locks itself after too many
wrong ones, so none is tried twice by one process. The PIN crosses the bus to the TPM in the clear: a
probe on the wires reads it. The owner and endorsement hierarchies must have no password, as TPMs come.
What the TPM states is judged in `authn.attestation.tpm`, by somebody else and without a TPM.
"""

import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import Any, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from authn.attestation.tpm import CounterReading, Statement
from authn.attestation.tpm_credential import Credential
from authn.custody import tpm_commands as commands
from authn.custody.tpm_commands import Endorsement, EndorsementKind, Refusal
from authn.custody.tpm_fault import Fault, fault_of, refusal
from authn.custody.tpm_file import WrappedKey, read_wrapped
from authn.custody.uri import TpmAddress
from authn.errors import (
    KeyAddressError,
    KeyFileError,
    KeyLockedError,
    KeyNotOursError,
    PinWrongError,
    SelfCheckError,
)
from authn.keys import Algorithm, Keeping, PublicKey, read_secret, signature_holds

COUNTERS = range(0x01800000, 0x01C00000)
"""Where a TPM's owner may put counters (TCG Registry of Reserved TPM 2.0 Handles, 2.2)."""

_MAX_PIN = 32  # the size of the name's digest (TPM 2.0 Library, Part 1, 19.6.4.2)
_MAX_EXPECTED = 64  # TPM2B_DATA holds no more than the longest digest (Part 2, 10.4.3)
_MAX_BLOB = 130  # TPM2B_ID_OBJECT: two of these with their lengths, less than the library's own limit
_MAX_SEED = 256  # TPM2B_ENCRYPTED_SECRET, for RSA of 2048 bits
_RESOURCE_MANAGERS = ("tpmrm", "tabrmd")  # each program sees its own keys alone
_ONE_AT_A_TIME = threading.RLock()
_REFUSED: set[tuple[bytes, bytes]] = set()  # a key's name, and the SHA-256 of a PIN that does not open it

T = TypeVar("T")


class Tpm:
    """A TPM that is asked, one command at a time."""

    def __init__(self, tcti: str) -> None:
        _let_forks_wait()
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
                with suppress(Refusal):
                    self._unload(self._esapi)
            self._drop()

    def make_claim_key(self, pin: bytes | None = None) -> WrappedKey:
        """Make a key for claims: P-256, never leaves the TPM, signs whatever it is given."""
        _check_pin(pin)
        # Without a PIN there is nothing to guess, so no lock against guessing.
        attributes = commands.CLAIM if pin else commands.CLAIM + "|noda"
        return self._run(lambda esapi: commands.create(esapi, attributes, pin))

    def make_attestation_key(self) -> WrappedKey:
        """Make a key that signs only what the TPM itself states (an AK)."""
        return self._run(lambda esapi: commands.create(esapi, commands.ATTESTATION, None))

    def endorsement(self, kind: EndorsementKind) -> Endorsement:
        """The TPM's own key of that kind. Derived anew, which takes some chips half a minute for RSA."""

        def ask(esapi: Any) -> Endorsement:
            self._unload(esapi)
            return commands.endorsement(esapi, kind)

        return self._run(ask)

    def find_endorsement(self) -> Endorsement:
        """The first of the TPM's own keys that has a certificate; the RSA one if none has."""
        found = [self._run(partial(commands.certificate_of, kind=kind)) for kind in EndorsementKind]
        kinds = [kind for kind, certificate in zip(EndorsementKind, found, strict=True) if certificate]
        return self.endorsement(kinds[0] if kinds else EndorsementKind.RSA_2048)

    def activate(self, ak: WrappedKey, endorsement: Endorsement, credential: Credential) -> bytes:
        """Answer a challenge: the secret comes back only if both keys are in this TPM (Part 1, clause 24)."""
        if len(credential.blob) > _MAX_BLOB or len(credential.seed) > _MAX_SEED:
            raise KeyFileError("the challenge is longer than a TPM takes")

        def ask(esapi: Any) -> bytes:
            self._unload(esapi)
            return commands.activate(esapi, ak, endorsement.kind, credential)

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
            return commands.certify(esapi, ak, claim, pin, expected)

        attested, signature = self._run_with_pin(claim, pin, ask)
        ek = endorsement.public if endorsement else b""
        certificates = (endorsement.certificate,) if endorsement and endorsement.certificate else ()
        return Statement(ak.public, claim.public, attested, signature, ek, certificates, secret)

    def define_counter(self, index: int) -> int:
        """Make a counter that only goes up, if it is not there yet, and return its value.

        A counter starts above every value that any deleted counter of this TPM ever had (Part 1, 37.2.4).
        """
        if index not in COUNTERS:
            raise ValueError("a counter lies where the owner's do")
        return self._run(lambda esapi: commands.define_counter(esapi, index))

    def increment(self, index: int) -> int:
        """Count one up and return the new value. A crash right after it leaves a gap, never the same value twice.

        Counting and reading are two commands: programs that share a counter need a lock of their own.
        """
        return self._run(lambda esapi: commands.increment(esapi, index))

    def read_counter(self, index: int) -> int:
        """The counter's value now, as whoever stands between us and the TPM says; see `certify_counter`."""
        return self._run(lambda esapi: commands.read_counter(esapi, index))

    def certify_counter(self, index: int, ak: WrappedKey, expected: bytes) -> CounterReading:
        """Have `ak` certify the counter's value now, bound to `expected` (TPM2_NV_Certify, Part 3, 31.16).

        `authn.attestation.tpm.judge_counter` reads it. Captures are sent without one, so far: no
        service asks for it, and none is told what the counter showed.
        """
        _check_expected(expected)

        def ask(esapi: Any) -> CounterReading:
            self._unload(esapi)
            return commands.certify_counter(esapi, index, ak, expected)

        return self._run(ask)

    def remove_counter(self, index: int) -> None:
        """Delete the counter; one that is made after it goes on above its value."""
        self._run(lambda esapi: commands.remove_counter(esapi, index))

    def sign(self, key: WrappedKey, pin: bytes | None, digest: bytes) -> bytes:
        """Sign a SHA-256 with a claim key, which stays loaded: r and s, unverified."""
        return self._run_with_pin(
            key, pin, lambda esapi: commands.sign(esapi, self._hold(esapi, key, pin), digest)
        )

    def hold(self, key: WrappedKey, pin: bytes | None) -> None:
        """Load a claim key to sign with; whether the PIN is right, the first signature shows."""
        self._run(lambda esapi: self._hold(esapi, key, pin))

    def forget(self) -> None:
        """Take the held key for lost, without unloading what may be another program's by now."""
        with _ONE_AT_A_TIME:
            self._held = None

    def _hold(self, esapi: Any, key: WrappedKey, pin: bytes | None) -> Any:
        if self._held is not None and self._held[0] != key.public:
            self._unload(esapi)
        held = self._held
        # Another program's key in our place would sign for us, or count our use as a wrong PIN.
        if held is not None and not self._managed and commands.public_of(esapi, held[1]) != key.public:
            self._held = None
        if self._held is None:
            self._held = key.public, commands.load(esapi, key, pin)
        esapi.tr_set_auth(self._held[1], pin)  # of this caller, whoever had the key loaded
        return self._held[1]

    def _unload(self, esapi: Any) -> None:
        held, self._held = self._held, None
        if held is not None:
            with suppress(Refusal):  # not there any more
                esapi.flush_context(held[1])

    def _run_with_pin(self, key: WrappedKey, pin: bytes | None, ask: Callable[[Any], T]) -> T:
        """Ask what takes the key's PIN, unless this process knows that it is wrong: the TPM counts every try."""
        tried = key.area.name, hashlib.sha256(pin or b"").digest()
        with _ONE_AT_A_TIME:
            if tried in _REFUSED:
                raise PinWrongError(
                    "the TPM refused this PIN before, and is not given it again by this process"
                )
            try:
                return self._run(ask)
            except PinWrongError:
                _REFUSED.add(tried)
                raise

    def _run(self, ask: Callable[[Any], T]) -> T:
        """Ask the TPM; once more if a key was gone or its room was taken, since nothing has happened then."""
        with _ONE_AT_A_TIME:
            again = True
            while True:
                try:
                    return ask(self._connection())
                except Refusal as error:
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
            self._esapi = commands.connect(self._tcti)
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
        commands.unload_all(esapi)


class TpmKey:
    """A claim key in a TPM; `address` says where it was opened, if it was opened by one."""

    def __init__(
        self, tpm: Tpm, key: WrappedKey, pin: bytes | None, address: TpmAddress | None = None
    ) -> None:
        _check_pin(pin)
        if key.protected and pin is None:
            raise KeyLockedError("the key in the TPM has a PIN and none was given")
        if pin is not None and not key.protected:
            raise KeyLockedError("the key in the TPM has no PIN, though one was given")
        public = key.area.key
        if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != "secp256r1":
            raise KeyNotOursError("the key in the TPM is not on P-256")
        self._tpm, self._key, self._pin, self._public = tpm, key, pin, public
        self._address = address

    def __repr__(self) -> str:
        return f"TpmKey({self._key.area.name.hex()})"

    def __reduce__(self) -> tuple[object, ...]:
        """What travels to another process is the address; it opens the key itself, and reads the PIN."""
        if self._address is None:
            raise KeyAddressError("a key in a TPM that was not opened by its address cannot be sent")
        return open_tpm_key, (self._address,)

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
            signature = self._tpm.sign(self._key, self._pin, digest)
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
        opened = TpmKey(tpm, key, pin, address)
        tpm.hold(key, pin)
    except BaseException:
        tpm.close()
        raise
    return opened


@cache
def _let_forks_wait() -> None:
    """From now on, no child begins with a command of its parent's half done, and the lock held for ever.

    Asked for by the first use of a TPM, and not when this module is imported.
    """
    os.register_at_fork(
        before=_ONE_AT_A_TIME.acquire,
        after_in_parent=_ONE_AT_A_TIME.release,
        after_in_child=_ONE_AT_A_TIME.release,
    )


def _check_pin(pin: bytes | None) -> None:
    if pin is not None and (not 1 <= len(pin) <= _MAX_PIN or pin.endswith(b"\0")):
        raise KeyFileError(f"a PIN for a TPM has 1 to {_MAX_PIN} bytes, and no zero at its end")


def _check_expected(expected: bytes) -> None:
    if len(expected) > _MAX_EXPECTED:
        raise ValueError(f"a TPM signs no more than {_MAX_EXPECTED} bytes of its caller's")
