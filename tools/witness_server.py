"""A witness of one's own: a folder with its key and its memory, and the service that cosigns.

It belongs on another machine than the log, in other hands, or it witnesses nothing. Its
name is part of its key; `witness.db` is its memory, and a witness that lost it must
retire its key.
"""

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from authn.keys import LogKey, generate_ed25519, open_key, store_key, verify_note
from storage.errors import MalformedKeyError
from storage.note import Algorithm, VerifierKey, is_key_name
from storage.witness.memory import CosigningKey, Fork, Witness, WitnessKeyOtherError
from tools.errors import OutputExistsError, UsageError, WitnessMissingError
from tools.output import put_whole
from tools.serving import App


@dataclass(frozen=True, slots=True)
class WitnessFolder:
    """Where a witness lives."""

    path: Path
    key: VerifierKey

    @classmethod
    def create(cls, path: Path, name: str) -> Self:
        """Make the key and the empty memory of a new witness."""
        if not is_key_name(name):
            raise UsageError(
                "a witness's name is one printable word without plus signs, like a host and path"
            )
        try:
            path.mkdir(mode=0o700, parents=True)
        except FileExistsError as error:
            raise OutputExistsError(f"something stands at {path} already") from error
        private = generate_ed25519()
        key = VerifierKey(name, LogKey(private).public, Algorithm.COSIGNATURE_ED25519)
        store_key(path / "witness.pem", private, None)
        folder = cls(path, key)
        Witness.create(folder._memory, folder._keys(), {}, verify_note).close()
        put_whole(path / "witness.vkey", f"{key}\n".encode())
        return folder

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read which key the witness has."""
        try:
            return cls(
                path, VerifierKey.parse_cosigner((path / "witness.vkey").read_text(encoding="utf-8").strip())
            )
        except (OSError, UnicodeDecodeError, MalformedKeyError) as error:
            raise WitnessMissingError(f"there is no witness at {path}") from error

    @contextmanager
    def service(self, logs: Sequence[VerifierKey]) -> Iterator[App]:
        """Open the memory, and cosign for these logs."""
        from storage.witness.app import witness_app  # noqa: PLC0415 - only who serves pays for it

        known: dict[str, list[VerifierKey]] = {}
        for key in logs:
            known.setdefault(key.name, []).append(key)
        with Witness.open(self._memory, self._keys(), known, verify_note) as witness:
            yield witness_app(witness, lambda: dt.datetime.now(dt.UTC))

    def evidence(self) -> "Evidence":
        """What the witness kept of logs that did not follow from what it saw."""
        with Witness.open(self._memory, self._keys(), {}, verify_note) as witness:
            return Evidence(witness.forks(), witness.unproven())

    @property
    def _memory(self) -> Path:
        return self.path / "witness.db"

    def _keys(self) -> tuple[CosigningKey, ...]:
        private = LogKey(open_key(f"file:{self.path / 'witness.pem'}"))
        if private.public != self.key.public:
            raise WitnessKeyOtherError(
                f"The key in {self.path / 'witness.pem'} is not the one that witness.vkey names."
            )
        return (CosigningKey(self.key, private.sign),)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Forks, which prove that a log lied to somebody, and what only lacked a proof."""

    forks: tuple[Fork, ...]
    unproven: tuple[Fork, ...]
