"""Sign with a program of the operator's own, over a small JSON protocol.

The program is started for each question and ends with its answer: nothing hangs over from one call to
the next, threads need no lock, and a program that dies spoils one call. It gets no arguments, no shell,
an empty environment but for PATH and LC_ALL, and one line of JSON on its standard input, which then ends:

    {"lightseal": 1, "ask": "public-key", "key": NAME-or-null}
    {"lightseal": 1, "ask": "sign", "key": NAME-or-null, "algorithm": "es256", "hash": BASE64}
    {"lightseal": 1, "ask": "sign", "key": NAME-or-null, "algorithm": "ed25519", "message": BASE64}

"algorithm" is es256 (P-256; "hash" is SHA-256), es384 (P-384; SHA-384) or ed25519 (the message itself).
It answers with exactly one JSON object on its standard output, and status 0:

    {"public-key": BASE64}      a SubjectPublicKeyInfo in DER
    {"signature": BASE64}       r and s side by side (64 or 96 bytes), or the 64 bytes of Ed25519
    {"error": CODE}             gone | disabled | locked | pin | busy | kind

Base64 is the standard one, with padding. Its standard error is thrown away: it keeps a log of its own.
After ten seconds it is killed, with the processes it started. It must belong to us or root, and nobody
else may be able to write it or a folder above it. What it says is verified: a signature under another
key never leaves. Not verified: where it keeps the key, or that it asks anybody before it signs.
"""

import base64
import hashlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_der_public_key

from authn.custody.executable import own_code
from authn.custody.uri import ProgramAddress
from authn.errors import (
    KeyBusyError,
    KeyDisabledError,
    KeyFileError,
    KeyGoneError,
    KeyLockedError,
    KeyNotOursError,
    PinWrongError,
    SelfCheckError,
)
from authn.keys import Algorithm, Keeping, PublicKey, algorithm_of, signature_holds

PATIENCE = 10.0
_MAX_ANSWER = 64 << 10
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
_DIGESTS = {Algorithm.ES256: hashlib.sha256, Algorithm.ES384: hashlib.sha384}
_ERRORS: dict[str, tuple[type[KeyFileError], str]] = {
    "gone": (KeyGoneError, "the program says that the key is gone"),
    "disabled": (KeyDisabledError, "the program does not let the key sign"),
    "locked": (KeyLockedError, "the program says that the key is locked"),
    "pin": (PinWrongError, "the program says that its PIN is wrong; it was asked once"),
    "busy": (KeyBusyError, "the program has too much to do"),
    "kind": (KeyNotOursError, "the program's key cannot sign as it was asked to"),
}


class ProgramAnswerError(KeyGoneError):
    """The program did not answer as the protocol has it."""

    code = "key-program"
    remedy = "Run the program by hand with one request on its standard input, and mend its answer."


class ProgramKey:
    """A private key that a program signs with."""

    __slots__ = ("_address", "_patience", "algorithm", "public_key")

    def __init__(self, address: ProgramAddress, patience: float) -> None:
        """Ask for the public key; use `open_program_key`."""
        self._address, self._patience = address, patience
        self.public_key = _public_key(self._ask("public-key", "public-key", {}))
        self.algorithm = algorithm_of(self.public_key)

    def __repr__(self) -> str:
        return f"ProgramKey(algorithm={self.algorithm!r})"

    def __reduce__(self) -> tuple[object, ...]:
        """What travels to another process is the address; it opens the key itself."""
        return open_program_key, (self._address, self._patience)

    @property
    def keeping(self) -> Keeping:
        """With a program, as its operator says."""
        return Keeping.EXTERNAL

    def sign(self, data: bytes) -> bytes:
        """Have the program sign `data`; a signature that does not verify raises and is thrown away."""
        digest = _DIGESTS.get(self.algorithm)
        name, value = ("message", data) if digest is None else ("hash", digest(data).digest())
        asked = {"algorithm": self.algorithm.value, name: base64.b64encode(value).decode()}
        signature = self._ask("sign", "signature", asked)
        if not signature_holds(self.public_key, self.algorithm, signature, data):
            raise SelfCheckError("the program's signature did not verify under the key that it named")
        return signature

    def close(self) -> None:
        """Nothing is open between two calls."""

    def _ask(self, ask: str, expected: str, more: dict[str, str]) -> bytes:
        request = {"lightseal": 1, "ask": ask, "key": self._address.key, **more}
        program = own_code(self._address.path, "program")
        return _value(_run(program, json.dumps(request).encode() + b"\n", self._patience), expected)


def open_program_key(address: ProgramAddress, patience: float = PATIENCE) -> ProgramKey:
    """Ask a program for its public key; each of its answers may take `patience` seconds."""
    return ProgramKey(address, patience)


def _run(program: Path, request: bytes, patience: float) -> bytes:
    """Run the program once, for at most `patience` seconds and 64 KiB."""
    with _question(request) as question, _started(program, question) as process:
        try:
            return _answer(process, patience)
        finally:
            if process.returncode is None:  # not yet waited for, so the number is still its own
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)


def _question(request: bytes) -> BinaryIO:
    """The request in a file without a name, so that writing it never waits for the program."""
    try:
        with ExitStack() as opened:
            question = opened.enter_context(tempfile.TemporaryFile())
            question.write(request)
            question.seek(0)
            opened.pop_all()
    except OSError as error:  # no folder, no descriptor, or no room
        raise KeyBusyError(f"a program's question cannot be put in a file: {error.strerror}") from error
    return question


def _started(program: Path, question: BinaryIO) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(  # noqa: S603 - only we or root can change it, and no arguments
            [program],
            stdin=question,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise KeyGoneError(f"the program of a key cannot be started: {error.strerror}") from error


def _answer(process: "subprocess.Popen[bytes]", patience: float) -> bytes:
    """All that the program wrote until it ended, with status 0."""
    late = KeyBusyError(f"the program of a key did not answer within {patience:g} seconds")
    deadline = time.monotonic() + patience
    output = process.stdout.fileno() if process.stdout else -1
    readable = select.poll()
    readable.register(output, select.POLLIN)
    answer = bytearray()
    while True:
        if not readable.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise late
        part = os.read(output, _MAX_ANSWER)
        if not part:
            break
        answer += part
        if len(answer) > _MAX_ANSWER:
            raise ProgramAnswerError("the program of a key answered with more than 64 KiB")
    try:
        status = process.wait(max(0.01, deadline - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise late from error
    if status != 0:
        raise ProgramAnswerError(f"the program of a key ended with status {status}")
    return bytes(answer)


def _value(answer: bytes, expected: str) -> bytes:
    """Read the one object of an answer. Nothing of its text goes into an error."""
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise ProgramAnswerError("the program of a key did not answer in JSON") from error
    if not isinstance(found, dict) or len(found) != 1:
        raise ProgramAnswerError("the program of a key did not answer with one name and one value")
    code = found.get("error")
    if isinstance(code, str) and code in _ERRORS:
        kind, sentence = _ERRORS[code]
        raise kind(sentence)
    value = found.get(expected)
    if not isinstance(value, str):
        raise ProgramAnswerError(f"the program of a key did not answer with a {expected}")
    try:
        return base64.b64decode(value, validate=True)
    except ValueError as error:
        raise ProgramAnswerError(f"the {expected} in a program's answer is not base64") from error


def _public_key(der: bytes) -> PublicKey:
    try:
        public_key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ProgramAnswerError("the public key in a program's answer cannot be read") from error
    if not isinstance(public_key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise KeyNotOursError("a program's key is neither on P-256 nor P-384 nor Ed25519")
    return public_key
