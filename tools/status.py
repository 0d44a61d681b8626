"""Answer whether a certificate of this home was withdrawn (RFC 6960), from the registry as it is now.

An answer is signed once for a window of minutes and given again until the window or the
registry's state is over: what was withdrawn is withdrawn for the next question. Whoever kept an
earlier answer may believe it until its end.

Opens the key that signs answers, and no authority's: whoever takes this process over can lie about
what was withdrawn, for days, and certify nothing. Certificates are read again when they change.
"""

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from authn.device import Certificate
from authn.errors import KeyFileError
from authn.identity import key_id_of
from authn.keys import KeyProvider
from authn.withdrawal import (
    MALFORMED,
    TRY_LATER,
    UNAUTHORIZED,
    Lookup,
    Responder,
    ResponderError,
    Standing,
    Withdrawn,
    answer,
)
from storage.registry.errors import RegistryError
from storage.registry.registry import Registry
from tools.errors import HomeDamagedError
from tools.home import Home
from tools.status_lists import (
    STATUS,
    authorities,
    children,
    responder_of,
    withdrawal_fields,
    withdrawn_child,
)

WINDOW = timedelta(minutes=10)
MOST_KEPT = 4096
MAX_CACHED_REQUEST = 512
RENEWAL = timedelta(hours=1)
_Seen = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class _Window:
    number: int
    withdrawals: int
    certificates: _Seen


class StatusDesk:
    """Answers for all authorities of a home that have a responder's certificate. Safe between threads."""

    def __init__(self, home: Home, registry: Registry, key: KeyProvider, now: Callable[[], datetime]) -> None:
        self._home, self._registry, self._key, self._now = home, registry, key, now
        self._alone = threading.Lock()
        self._kept: OrderedDict[tuple[bytes, _Window], bytes] = OrderedDict()
        self._responders: tuple[Responder, ...] = ()
        self._children: dict[tuple[bytes, int], Certificate] = {}
        self._looked: datetime | None = None
        self._seen: _Seen = ()
        self._silent = False
        self.signed = 0
        """How many answers were signed, and not given again."""

    def answer(self, request: bytes) -> bytes:
        """The OCSPResponse to a request, both in DER; what cannot be answered is told so, unsigned."""
        try:
            at = self._now()
            seen = _seen(self._home)
            number = int(at.timestamp() // WINDOW.total_seconds())
            window = _Window(number, len(self._registry.withdrawals()), seen)
            key = (hashlib.sha256(request).digest(), window)
            with self._alone:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
                self._look(at, seen)
                made = answer(request, self._responders, self._lookup(), at.replace(microsecond=0))
                if made == UNAUTHORIZED and self._silent:
                    return TRY_LATER  # perhaps of an authority for which nobody may answer now
                if len(request) <= MAX_CACHED_REQUEST:
                    self._kept[key] = made
                    if len(self._kept) > MOST_KEPT:
                        self._kept.popitem(last=False)
                self.signed += 1
        except (ResponderError, KeyFileError, RegistryError, HomeDamagedError, OSError):
            return TRY_LATER
        return made

    @staticmethod
    def malformed() -> bytes:
        """What is said to that which is no request."""
        return MALFORMED

    def _look(self, at: datetime, seen: _Seen) -> None:
        """Read the certificates again when one changed or came, and once an hour."""
        if self._looked is not None and at - self._looked < RENEWAL and seen == self._seen:
            return
        responders, found = [], {}
        for name in authorities(self._home):
            authority = self._home.certificate(name)
            for child in children(self._home, authority):
                found[key_id_of(authority), child.serial_number] = child
            if not (self._home.path / "certificates" / f"{responder_of(name)}.pem").exists():
                continue
            try:
                responders.append(Responder(authority, self._key, self._home.certificate(responder_of(name))))
            except (ResponderError, HomeDamagedError):
                continue  # another authority's may stand; this one's clients are told that nobody answers
        self._responders, self._children = tuple(responders), found
        self._silent = len(responders) < len(authorities(self._home))
        self._looked, self._seen = at, seen

    def _lookup(self) -> Lookup:
        def look(issuer: Certificate, serial: int) -> Standing | Withdrawn:
            key_id = key_id_of(issuer)
            child = self._children.get((key_id, serial))
            if child is not None:
                return withdrawn_child(self._registry, child) or Standing.GOOD
            if serial <= 0:
                return Standing.UNKNOWN
            row = self._registry.certificate(key_id, f"{serial:x}")
            if row is None:
                return Standing.UNKNOWN
            withdrawal = self._registry.withdrawal_of(row)
            return Standing.GOOD if withdrawal is None else withdrawal_fields(serial, withdrawal)

        return look


def _seen(home: Home) -> _Seen:
    """Which certificates lie in the home, and which file each one is."""
    with os.scandir(home.path / "certificates") as found:
        each = ((entry.name, entry.stat()) for entry in found if entry.name.endswith(".pem"))
        return tuple(sorted((name, state.st_ino, state.st_mtime_ns) for name, state in each))


@contextmanager
def status_desk(home: Home, now: Callable[[], datetime]) -> Iterator[StatusDesk]:
    """Open what answers need: the registry, and the key that signs answers and nothing else."""
    with home.registry() as registry, closing(home.key(STATUS)) as key:
        yield StatusDesk(home, registry, key, now)
