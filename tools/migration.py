"""Bring a home of an earlier version up to date: its ledger's database, and the files beside it.

Every step can be repeated: a run that was interrupted is finished by the next one, and
`ledger.json`, which makes the home a new one, is written last.
"""

import json
import secrets
from contextlib import suppress
from pathlib import Path

from authn.errors import KeyFileError
from authn.keys import open_key, store_key
from storage.checkpoint import Checkpoint
from storage.errors import MalformedKeyError
from storage.guard import Guard, GuardExistsError
from storage.keyring import Keyring, KeyringExistsError
from storage.migrations import Migrated, migrate
from storage.note import VerifierKey
from tools.errors import HomeDamagedError, HomeMissingError
from tools.home import open_home
from tools.own_log import FILE, OwnLog


def migrate_home(path: Path) -> Migrated:
    """Bring the home at `path` up to date; where it is, only the database is looked at."""
    if not (path / "home.json").is_file():
        raise HomeMissingError(f"there is no home at {path}")
    if not (path / FILE).exists():
        return _from_first(path)
    own = open_home(path).own
    migrated = migrate(own.url, own.sealer())
    if _new_key(own).exists():
        _old_key(path).unlink(missing_ok=True)  # where a crash came just before that
    return migrated


def _from_first(path: Path) -> Migrated:
    """Version 0001 kept one log key, payloads in clear, and neither keyring nor guard."""
    try:
        key = VerifierKey.parse_log(json.loads((path / "home.json").read_bytes())["log"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, MalformedKeyError) as error:
        raise HomeDamagedError(f"the home at {path} cannot be read") from error
    own = OwnLog(path, (key,), (key,))
    old, new = _old_key(path), _new_key(own)
    if not old.exists():
        raise KeyFileError(f"{old} is missing")
    if not new.exists():
        store_key(new, open_key(f"file:{old}"), None)
    with suppress(KeyringExistsError):
        Keyring.create(own.keyring_path, secrets.token_bytes(32))
    migrated = migrate(own.url, own.sealer())
    _remember(own)
    own.save()
    old.unlink()
    return migrated


def _old_key(path: Path) -> Path:
    return path / "keys" / "log.pem"


def _new_key(own: OwnLog) -> Path:
    return own.home / "keys" / f"log-{own.keys[0].key_id.hex()}.pem"


def _remember(own: OwnLog) -> None:
    """Make the guard, and tell it what the database acknowledged so far."""
    with suppress(GuardExistsError):
        Guard.create(own.guard_path, own.origin, own.open_note)
    guard = own.guard()
    with own.reader() as ledger:
        if ledger.size:
            known: Checkpoint | None = guard.newest()
            if known is None or known.size < ledger.size:
                guard.remember(ledger.checkpoint().encode())
