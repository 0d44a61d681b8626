"""A log key, records to append, and other people's vectors."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from storage import payload
from storage.entry import Kind
from storage.ledger import Lookup, Record
from storage.note import VerifierKey, signed_note


@dataclass(frozen=True)
class Log:
    """The key of a log, and what is handed to `storage` in its place."""

    private: Ed25519PrivateKey
    name: str

    @classmethod
    def named(cls, name: str, secret: bytes) -> "Log":
        return cls(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(secret).digest()), name)

    @property
    def key(self) -> VerifierKey:
        return VerifierKey(self.name, self.private.public_key().public_bytes_raw())

    def sign(self, text: str) -> bytes:
        return signed_note(text, self.key, self.private.sign(text.encode()))

    @staticmethod
    def verify(public: bytes, signature: bytes, message: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        except InvalidSignature:
            return False
        return True


def record(number: int, *lookups: Lookup, kind: Kind = Kind.SIGN) -> Record:
    return Record(
        kind,
        payload.canonical({"claim": f"claim {number}"}),
        hashlib.sha256(b"salt %d" % number).digest(),
        hashlib.sha256(b"key").digest(),
        lookups or (Lookup("claim", b"%d" % number),),
    )


@pytest.fixture(scope="session")
def log() -> Log:
    return Log.named("log.example", b"a key for tests")


@pytest.fixture(scope="session")
def other_log() -> Log:
    return Log.named("log.example", b"another key for tests")


@pytest.fixture(scope="session")
def make_record() -> Callable[..., Record]:
    return record


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Any]:
    """Read one of other people's vectors, or skip and say so."""
    beside = Path(__file__).parents[2].parent / "shared"
    folder = Path(os.environ.get("LIGHTSEAL_SHARED", beside)) / "vectors" / "tlog"

    def read(name: str) -> Any:
        if not (folder / name).is_file():
            pytest.skip(f"NOT CHECKED against other people's vectors: {name} is not beside the checkout")
        return json.loads((folder / name).read_text(encoding="utf-8"))

    return read
