"""Sign with keys in a PKCS#11 token.

A login holds for a whole process, and closing the session that gave the PIN logs everybody out
(PKCS#11 2.40, 5.6); so each process logs in once to a token and stays so. A library is used by one
thread at a time, under a lock. A forked child starts the library anew and logs in itself. Processes log
in one after the other (a lock on the PIN file), since a token may be unreadable while one does.

The hash is made here and the token signs it (CKM_ECDSA; CKM_EDDSA takes the message), which every
token offers. A token that has gone raises `KeyGoneError`, and the next call starts the library anew,
in case it is back; the key must then be the same one.

A PIN that a token refused is not given to it again by this process, nor is its last try spent.
Not verified: that a "token" is hardware. What its attributes say is what it says of itself.
A library that never returns keeps us waiting: PKCS#11 has no time limit.
"""

import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from authn.custody.executable import own_code
from authn.custody.uri import TokenAddress
from authn.errors import (
    KeyAddressError,
    KeyBusyError,
    KeyExposedError,
    KeyFileError,
    KeyGoneError,
    KeyLockedError,
    KeyNotOursError,
    PinWrongError,
    ProviderMissingError,
    SelfCheckError,
)
from authn.keys import Algorithm, Keeping, PublicKey, algorithm_of, read_secret, signature_holds

try:
    import pkcs11
    from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, TokenFlag
    from pkcs11 import exceptions as failures
except ImportError as missing:
    raise ProviderMissingError("python-pkcs11 is not installed; it comes with lightseal[hsm]") from missing

_LOOKS, _PAUSE = 1200, 0.025

Load = Callable[[str], Any]
"""Opens a library by its path; what it gives back behaves as `pkcs11.lib` does."""


class LastTryError(PinWrongError):
    """One more wrong PIN would lock the token, so none is tried."""

    code = "pin-last-try"
    remedy = "Log in once with the tool of the token's maker, which sets its counter back; then try again."


class CopyableKeyError(KeyExposedError):
    """The token would hand the key out."""

    code = "key-copyable"
    remedy = "Make a new key in the token, with CKA_PRIVATE and CKA_SENSITIVE true and CKA_EXTRACTABLE false."


class AlwaysAuthenticateError(KeyFileError):
    """The key wants the PIN again for each signature."""

    code = "key-always-authenticate"
    remedy = "Make a key with CKA_ALWAYS_AUTHENTICATE false; asking a person each time cannot be automated."


class _Module:
    """One library in one process: the lock it is used under, and the logins that it holds."""

    def __init__(self, load: Load, path: str, *, inherited: bool) -> None:
        self.lock = Lock()
        self.epoch = 0
        self.stale = inherited
        self._load, self._path = load, path
        self._library: Any = None
        self._sessions: dict[bytes, Any] = {}
        self._named: dict[tuple[str | None, str | None], Any] = {}

    @contextmanager
    def session(self, address: TokenAddress) -> Iterator[Any]:
        """Use the library alone, logged in to the address's token, and translate its complaints."""
        name = address.token, address.serial
        with self.lock:
            try:
                if self.stale or name not in self._named:
                    with _alone(address.pin_source):
                        self._start()
                        self._named[name] = self._login(address)
                yield self._named[name]
            except failures.PKCS11Error as error:
                raise self._judged(error) from error

    def _login(self, address: TokenAddress) -> Any:
        """Find the token, and log in unless this process is; a login by another name is the same one."""
        wanted = None if address.serial is None else address.serial.encode()
        tokens = [
            token
            for token in self._library.get_tokens()
            if address.token in (None, token.label) and wanted in (None, token.serial)
        ]
        if not tokens:
            raise KeyGoneError("no token of that name is plugged in")
        if len(tokens) > 1:
            raise KeyAddressError("several tokens bear that name; add serial= to the key's URI")
        serial = bytes(tokens[0].serial)
        if serial not in self._sessions:
            self._sessions[serial] = _login(tokens[0], self._path, address.pin_source)
        return self._sessions[serial]

    def release(self) -> None:
        """Log out everywhere and end the library; the next use starts it anew."""
        with self.lock:
            for session in self._sessions.values():
                with suppress(failures.PKCS11Error):
                    session.close()
            if self._library is not None:
                with suppress(failures.PKCS11Error):
                    self._library.finalize()
            self._forget()

    def _start(self) -> None:
        """Load the library, or end it and begin again if it was inherited or has failed."""
        if self._library is None:
            try:
                self._library = self._load(self._path)
            except failures.PKCS11Error as error:
                if type(error) is not failures.PKCS11Error:
                    raise
                raise ProviderMissingError("the library of a token cannot be loaded") from error
        if self.stale:
            with suppress(failures.PKCS11Error):
                self._library.finalize()
            self._library.initialize()
            self.stale = False

    def _forget(self) -> None:
        self._sessions.clear()
        self._named.clear()
        self.epoch += 1
        self.stale = True

    def _judged(self, error: failures.PKCS11Error) -> KeyFileError:
        """Say whose fault it was. Library texts are left out: they are not ours to vouch for."""
        name = type(error).__name__
        match error:
            case failures.PinIncorrect() | failures.PinInvalid() | failures.PinLenRange():
                return PinWrongError("the token refused the PIN; it was tried once")
            case failures.PinLocked() | failures.PinExpired() | failures.UserPinNotInitialized():
                return KeyLockedError(f"the token lets nobody in: {name}")
            case failures.SessionCount() | failures.HostMemory() | failures.DeviceMemory():
                return KeyBusyError(f"the token has no room for us: {name}")
            case failures.OperationActive() | failures.FunctionCancelled() | failures.FunctionRejected():
                return KeyBusyError(f"the token did not finish: {name}")
            case failures.MechanismInvalid() | failures.KeyTypeInconsistent() | failures.KeySizeRange():
                return KeyNotOursError(f"the token cannot sign with this key as we do: {name}")
            case _:
                self._forget()
                return KeyGoneError(f"the token, or the key in it, is gone: {name}")


class TokenKey:
    """A private key that stays in its token."""

    __slots__ = ("_address", "_found", "_load", "algorithm", "public_key")

    def __init__(self, address: TokenAddress, load: Load) -> None:
        """Log in, find the key, check it; use `open_token_key`."""
        self._address, self._load = address, load
        module = _module(address.module, load)
        with module.session(address) as session:
            private, point = _find(session, address)
            self._found = (module, module.epoch, private)
            self.public_key = _public_key(point)
        self.algorithm = algorithm_of(self.public_key)

    def __repr__(self) -> str:
        return f"TokenKey(algorithm={self.algorithm!r})"

    def __reduce__(self) -> tuple[object, ...]:
        """What travels to another process is the address; it opens the key itself."""
        return open_token_key, (self._address, self._load)

    @property
    def address(self) -> TokenAddress:
        """Where the key is."""
        return self._address

    @property
    def keeping(self) -> Keeping:
        """In a token, as its operator says."""
        return Keeping.TOKEN

    def sign(self, data: bytes) -> bytes:
        """Sign `data` in the token; a signature that does not verify raises and is thrown away."""
        mechanism, message = _MECHANISMS[self.algorithm], _hashed(self.algorithm, data)
        module = _module(self._address.module, self._load)
        with module.session(self._address) as session:
            signature = bytes(self._private(module, session).sign(message, mechanism=mechanism))
        if not signature_holds(self.public_key, self.algorithm, signature, data):
            raise SelfCheckError("a token's signature did not verify under the key that stands beside it")
        return signature

    def close(self) -> None:
        """Nothing to let go of: the login is the process's, and others may sign with it."""

    def _private(self, module: _Module, session: Any) -> Any:
        """The handle, found again if the library was started anew or this is another process."""
        known, epoch, private = self._found
        if known is not module or epoch != module.epoch:
            private, point = _find(session, self._address)
            if _public_key(point) != self.public_key:
                raise KeyGoneError("the token came back with another key under the same name")
            self._found = (module, module.epoch, private)
        return private


def open_token_key(address: TokenAddress, load: Load = pkcs11.lib) -> TokenKey:
    """Open a token's key: logs in if this process has not, and gives the PIN once.

    A key that the token would hand out, or that wants its PIN each time, is refused.
    """
    return TokenKey(address, load)


def make_token_key(address: TokenAddress, algorithm: Algorithm) -> TokenKey:
    """Make a new key pair inside the token, under the address's label and id, and open it.

    Private, sensitive and not extractable; a name that is taken is refused. The token takes the key's
    chance from itself; an id that the address does not give is from this machine's, and no secret.
    """
    module = _module(address.module, pkcs11.lib)
    identity = address.id or secrets.token_bytes(8)
    label = {} if address.label is None else {Attribute.LABEL: address.label}
    with module.session(address) as session:
        for taken in (label, {Attribute.ID: identity}):
            if taken and any(session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY, **taken})):
                raise KeyAddressError("the token holds a key of that name already")
        writing = session.token.open(rw=True)  # the process is logged in, so this session is as well
        try:
            kind, parameters, mechanism = _NEW[algorithm]
            writing.create_domain_parameters(
                kind, {Attribute.EC_PARAMS: parameters}, local=True
            ).generate_keypair(
                mechanism=mechanism,
                store=True,
                label=address.label,
                id=identity,
                private_template={
                    Attribute.PRIVATE: True,
                    Attribute.SENSITIVE: True,
                    Attribute.EXTRACTABLE: False,
                    Attribute.SIGN: True,
                },
            )
        finally:
            writing.close()
    return open_token_key(replace(address, id=identity))


def release(module: Path) -> None:
    """Log this process out of every token of a library, and end it; keys opened before log in again when used."""
    found = _MODULES.get((os.getpid(), str(module.resolve())))
    if found is not None:
        found.release()


def _module(path: Path, load: Load) -> _Module:
    """The library as this process has it: `setdefault` gives every thread the same one."""
    process, name = os.getpid(), str(path.resolve())
    if (process, name) not in _MODULES:
        own_code(path, "library")
        inherited = any(name == other for _, other in list(_MODULES))
        _MODULES.setdefault((process, name), _Module(load, name, inherited=inherited))
    return _MODULES[process, name]


@contextmanager
def _alone(pin_source: Path) -> Iterator[None]:
    """Keep other processes of ours from logging in meanwhile: they would use the same PIN file.

    Some tokens write down each login, and a library that starts at that moment does not see them.
    """
    try:
        file = os.open(pin_source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield  # reading the PIN will say what is wrong with its file
        return
    try:
        for _ in range(_LOOKS):
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(_PAUSE)
        else:
            raise KeyBusyError("another process has been logging in to the token for too long")
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # a child forked meanwhile holds the same lock
        os.close(file)


def _login(token: Any, library: str, pin_source: Path) -> Any:
    if token.flags & TokenFlag.USER_PIN_LOCKED:
        raise KeyLockedError("the token has locked its PIN after too many wrong ones")
    if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
        raise LastTryError("the token has one try left, and it is not spent here")
    secret = read_secret(pin_source)
    tried = hashlib.sha256(b"\0".join((library.encode(), bytes(token.serial), secret))).digest()
    if tried in _REFUSED:
        raise PinWrongError("the token refused this PIN before, and is not given it again by this process")
    try:
        return token.open(user_pin=secret.decode())
    except UnicodeDecodeError as error:
        raise KeyFileError("the PIN file does not hold UTF-8") from error
    except (failures.PinIncorrect, failures.PinInvalid, failures.PinLenRange):
        _REFUSED.add(tried)
        raise
    except failures.UserAlreadyLoggedIn:
        return token.open()  # somebody else in this process gave the PIN; private keys are seen


def _find(session: Any, address: TokenAddress) -> tuple[Any, bytes]:
    """The private key, and the point that its public half has in the same token."""
    named = {Attribute.LABEL: address.label, Attribute.ID: address.id}
    wanted = {name: value for name, value in named.items() if value is not None}
    keys = list(session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY, **wanted}))
    if not keys:
        raise KeyGoneError("the token holds no private key of that name")
    if len(keys) > 1:
        raise KeyAddressError("several keys in the token bear that name; add id= to the key's URI")
    private = keys[0]
    _check(private)
    identity = _attribute(private, Attribute.ID)
    same = {Attribute.ID: identity} if identity else wanted
    points = {
        bytes(point)
        for public in session.get_objects({Attribute.CLASS: ObjectClass.PUBLIC_KEY, **same})
        if (point := _attribute(public, Attribute.EC_POINT))
    }
    if len(points) != 1:
        raise KeyGoneError("the token holds no public key, or several, beside the private one")
    return private, points.pop()


def _check(private: Any) -> None:
    """Whether the token keeps the key as we were told, by its attributes (PKCS#11 2.40, 4.9)."""
    if _attribute(private, Attribute.KEY_TYPE) not in (KeyType.EC, KeyType.EC_EDWARDS):
        raise KeyNotOursError("a token's key is neither on P-256 nor P-384 nor Ed25519")
    if _attribute(private, Attribute.ALWAYS_AUTHENTICATE):
        raise AlwaysAuthenticateError("a token's key wants the PIN again for each signature")
    private_ = _attribute(private, Attribute.PRIVATE), _attribute(private, Attribute.SENSITIVE)
    if private_ != (True, True) or _attribute(private, Attribute.EXTRACTABLE) is not False:
        raise CopyableKeyError("a token's key can be read out of it, or used without a PIN")
    if not _attribute(private, Attribute.SIGN):
        raise KeyNotOursError("a token's key is not one that may sign")


def _attribute(thing: Any, name: Attribute) -> Any:
    """One attribute, or None where the token does not have it."""
    try:
        return thing[name]
    except (failures.AttributeTypeInvalid, failures.AttributeSensitive):
        return None


def _public_key(point: bytes) -> PublicKey:
    """Read CKA_EC_POINT: an OCTET STRING with the point, or, from some tokens, the bare point.

    The length says which, and nothing else does: one bare point in 256 begins as an OCTET STRING would.
    """
    bare = point if len(point) in (_ED25519, *_CURVES) else point[2:]
    if bare is not point and point[:2] != bytes((4, len(bare) & 0xFF)):
        raise KeyNotOursError("a token's public key is neither a point nor one in an OCTET STRING")
    try:
        if len(bare) == _ED25519:
            return ed25519.Ed25519PublicKey.from_public_bytes(bare)
        if len(bare) in _CURVES:
            return ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[len(bare)], bare)
    except ValueError as error:
        raise KeyNotOursError("a token's public key is not a point of its curve") from error
    raise KeyNotOursError("a token's key is neither on P-256 nor P-384 nor Ed25519")


def _hashed(algorithm: Algorithm, data: bytes) -> bytes:
    match algorithm:
        case Algorithm.ES256:
            return hashlib.sha256(data).digest()
        case Algorithm.ES384:
            return hashlib.sha384(data).digest()
        case Algorithm.EDDSA:
            return data


_ED25519 = 32
_CURVES: dict[int, ec.EllipticCurve] = {65: ec.SECP256R1(), 97: ec.SECP384R1()}  # by an uncompressed point
_MECHANISMS = {
    Algorithm.ES256: Mechanism.ECDSA,
    Algorithm.ES384: Mechanism.ECDSA,
    Algorithm.EDDSA: Mechanism.EDDSA,
}
_NEW = {  # CKA_EC_PARAMS: the curve's OID in DER (RFC 5480, 2.1.1.1; RFC 8410, 3)
    Algorithm.ES256: (KeyType.EC, bytes.fromhex("06082a8648ce3d030107"), Mechanism.EC_KEY_PAIR_GEN),
    Algorithm.ES384: (KeyType.EC, bytes.fromhex("06052b81040022"), Mechanism.EC_KEY_PAIR_GEN),
    Algorithm.EDDSA: (KeyType.EC_EDWARDS, bytes.fromhex("06032b6570"), Mechanism.EC_EDWARDS_KEY_PAIR_GEN),
}
_MODULES: dict[tuple[int, str], _Module] = {}
_REFUSED: set[bytes] = set()
