"""The issuing authority as a process of its own, behind a socket in a folder of its user.

One request a connection: a line of JSON, answered by a line of JSON. What counts is the
registration authority's signature in it; that others cannot reach the socket only keeps them
from keeping the authority busy.
"""

import base64
import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tools.errors import SystemRefusedError, UsageError
from tools.issuance.authority import Authority
from tools.issuance.errors import AuthorityBusyError, AuthorityUnreachableError, MalformedError
from tools.issuance.order import Batch, Order, batch_fields, batch_of, order_fields, order_of
from tools.issuance.refusals import OURS, raise_refused, refusal

FOLDER = "ca"
SOCKET = "ca.sock"
MAX_REQUEST = 1 << 20
MAX_ANSWER = 1 << 20
SECONDS = 10.0
PATIENCE = 60.0
"""How long the other side waits: a pool of a hundred certificates on a slow token takes a while."""
MOST = 16
_MAX_PATH = 100


def socket_of(home: Path) -> Path:
    """Where the authority of a home listens, unless another place is named."""
    return home / FOLDER / SOCKET


@contextmanager
def listening(place: Path) -> Iterator[socket.socket]:
    """Listen at `place`, in a folder closed to others; one authority at a time.

    The folder is its owner's alone (0700), or lets one group through (0710): then the registration
    authority can be another user.
    """
    if len(os.fsencode(place)) > _MAX_PATH:
        raise UsageError(f"a socket's path has at most {_MAX_PATH} bytes; name a shorter one with --socket")
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = place.parent.stat()
    if stat.S_IMODE(found.st_mode) & 0o027 or found.st_uid != os.geteuid():
        raise SystemRefusedError(
            f"{place.parent} must belong to this user and be closed to others (mode 0700)"
        )
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with door:
        _bind(door, place)
        try:
            door.listen(MOST)
            yield door
        finally:
            if _is_socket(place):
                place.unlink(missing_ok=True)


def _is_socket(place: Path) -> bool:
    try:
        return stat.S_ISSOCK(place.lstat().st_mode)
    except FileNotFoundError:
        return False


def _bind(door: socket.socket, place: Path) -> None:
    """Take the place; what a killed process left there is taken away, what answers is not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(SECONDS)
        try:
            probe.connect(os.fspath(place))
        except FileNotFoundError:
            pass
        except ConnectionRefusedError as error:
            if not _is_socket(place):
                raise SystemRefusedError(f"{place} is there already, and is no socket") from error
            place.unlink(missing_ok=True)
        else:
            raise SystemRefusedError(f"another authority answers at {place}")
    try:
        door.bind(os.fspath(place))
    except OSError as error:
        raise SystemRefusedError(f"nothing can listen at {place} ({error.strerror})") from error
    place.chmod(0o660 if place.parent.stat().st_mode & 0o010 else 0o600)


def serve(authority: Authority, door: socket.socket) -> None:
    """Answer until the process is told to end; what is being issued is finished first."""
    turns = threading.BoundedSemaphore(MOST)
    working: set[threading.Thread] = set()
    try:
        while True:
            connection, _ = door.accept()
            if not turns.acquire(blocking=False):
                _hang_up(connection)
                continue
            thread = threading.Thread(target=_attend, args=(connection, authority, turns))
            working = {each for each in working if each.is_alive()} | {thread}
            thread.start()
    finally:
        for thread in working:
            thread.join(PATIENCE)


def _hang_up(connection: socket.socket) -> None:
    with connection, suppress(OSError):
        connection.settimeout(SECONDS)
        connection.sendall(_line(refusal(AuthorityBusyError(f"{MOST} requests are being answered"))))


def _attend(connection: socket.socket, authority: Authority, turns: threading.BoundedSemaphore) -> None:
    try:
        with connection:
            connection.settimeout(SECONDS)
            with suppress(OSError):
                connection.sendall(_line(answer(authority, _read_line(connection, MAX_REQUEST))))
    finally:
        turns.release()


def answer(authority: Authority, line: bytes) -> dict[str, Any]:
    """What the authority says to one request; a refusal is an answer too."""
    try:
        fields = _parsed(line)
        match fields.get("do"):
            case "issue":
                return {"batch": batch_fields(authority.issue(order_of(fields.get("order"))))}
            case "recall":
                found = authority.recall(*_recalled(fields))
                return {"batch": None if found is None else batch_fields(found)}
            case _:
                raise MalformedError("this is nothing that an authority does")
    except OURS as error:
        return refusal(error)


class RemoteAuthority:
    """The authority behind a socket, spoken to as if it were here."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def issue(self, order: Order) -> Batch:
        """Have the keys of an approved enrolment certified."""
        batch = self._ask({"do": "issue", "order": order_fields(order)})
        if batch is None:
            raise MalformedError("the authority answered without certificates")
        return batch

    def recall(self, enrolment: str, requests: tuple[bytes, ...]) -> Batch | None:
        """What an enrolment was given before, for the same requests."""
        sent = [base64.b64encode(each).decode() for each in requests]
        return self._ask({"do": "recall", "enrolment": enrolment, "requests": sent})

    def _ask(self, fields: dict[str, Any]) -> Batch | None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(PATIENCE)
                connection.connect(os.fspath(self._place))
                connection.sendall(_line(fields))
                line = _read_line(connection, MAX_ANSWER)
        except OSError as error:
            reason = error.strerror or "it did not answer in time"
            raise AuthorityUnreachableError(f"no authority answers at {self._place} ({reason})") from error
        if not line.endswith(b"\n"):
            raise AuthorityUnreachableError("the authority broke off in the middle of its answer")
        answered = _parsed(line)
        raise_refused(answered)
        batch = answered.get("batch")
        return None if batch is None else batch_of(batch)


def _recalled(fields: dict[str, Any]) -> tuple[str, tuple[bytes, ...]]:
    try:
        requests = tuple(base64.b64decode(each, validate=True) for each in fields["requests"])
        return str(fields["enrolment"]), requests
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedError("a recall names an enrolment and its requests") from error


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def _read_line(connection: socket.socket, limit: int) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n") and len(line) <= limit:
        part = connection.recv(1 << 16)
        if not part:
            break
        line += part
    return bytes(line[: limit + 1])


def _parsed(line: bytes) -> dict[str, Any]:
    if len(line) > max(MAX_REQUEST, MAX_ANSWER):
        raise MalformedError("the line is longer than is read")
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MalformedError("the line is not JSON") from error
    if not isinstance(fields, dict):
        raise MalformedError("the line is no JSON object")
    return fields


def run(authority: Authority, place: Path, tell: Callable[[str], None]) -> None:
    """Listen, say where, and serve."""
    with listening(place) as door:
        tell(os.fspath(place))
        serve(authority, door)
