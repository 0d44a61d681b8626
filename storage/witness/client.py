"""Collecting cosignatures (c2sp.org/tlog-witness, the client's side) until a policy is satisfied.

All witnesses are asked at once, and none is believed: a cosignature counts when the
policy's own key verifies it, and a witness that says it has seen more than we have must
show what our log signed. What a quorum proves is in `storage.policy`; that the witnesses
are independent of each other is not checked and cannot be.

This is also where a restored snapshot comes to light: see `RolledBackError`.
"""

import http.client
import ipaddress
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import ClassVar
from urllib.parse import SplitResult, urlsplit

from storage.checkpoint import MAX_SIZE, Checkpoint, open_checkpoint
from storage.cosignature import Cosigner, cosigners
from storage.errors import Error, LedgerError, MalformedError, ProofError
from storage.merkle import verify_consistency
from storage.note import Note, Signature, Verify
from storage.policy import Policy, WitnessKey
from storage.witness.memory import SIZE, Request

# A note with sixteen signatures of nearly 5 kB each (signed-note) fits into it.
MAX_ANSWER_BYTES = 1 << 17
MAX_AHEAD_SECONDS = 3600

_SIZE_ANSWER = re.compile(rb"(0|[1-9][0-9]{0,18})\n")


class RolledBackError(LedgerError):
    """Witnesses have seen more of this log, or another log of this name, than is here.

    `size` is what was seen. Where several processes publish, a note that a faster
    one overtook looks the same: compare `size` with the ledger's before despairing.
    """

    code: ClassVar[str] = "witness-saw-more"
    remedy: ClassVar[str] = (
        "Record nothing more, and ask that witness for the checkpoint it saw: if this log signed it, this database"
        " is older than what was published, so restore the newest backup, or freeze this origin and begin a new one."
    )

    def __init__(self, reason: str, size: int, evidence: bytes) -> None:
        super().__init__(reason)
        self.size = size
        # What the log itself signed, where the witness could show it; otherwise empty.
        self.evidence = evidence


class WitnessesMissingError(Error):
    """Too few witnesses cosigned just now; `failures` says which did not, and why."""

    code = "witnesses-missing"
    remedy = "Try again later; if a witness stays away, ask its operator or change the policy."

    def __init__(self, failures: "tuple[Failure, ...]") -> None:
        reasons = "; ".join(f"{failure.witness}: {failure.reason}" for failure in failures)
        super().__init__(f"The witnesses that cosigned are no quorum. {reasons or 'No witness has a URL.'}")
        self.failures = failures


class WitnessAddressError(Error):
    """A witness's URL is not one we would ask."""

    code = "witness-address"
    remedy = "Give an https URL without user, query and fragment; http only for this machine itself."


class WitnessFailedError(Error):
    """A witness gave no answer, or none that counts."""

    code = "witness-failed"
    remedy = "Ask the witness's operator; other witnesses can make up the quorum meanwhile."


class WitnessAheadError(WitnessFailedError):
    """A witness says, without showing it, that it has seen another tree than ours."""

    code = "witness-ahead"

    def __init__(self, reason: str, size: int) -> None:
        super().__init__(reason)
        self.size = size


@dataclass(frozen=True, slots=True)
class Submission:
    """A checkpoint to be cosigned, signed by its log.

    `old` is the size that the witnesses probably saw last; `proof_from(size)` is the
    consistency proof from any smaller size, and is called from several threads.
    """

    note: bytes
    old: int
    proof_from: Callable[[int], Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered, at most `MAX_ANSWER_BYTES` of it."""

    status: int
    content_type: str
    body: bytes


# Asks a URL: POST with a body, GET without; raises `WitnessFailedError` where no answer came.
Exchange = Callable[[str, bytes | None], Reply]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a witness did not count."""

    witness: str
    reason: str


@dataclass(frozen=True, slots=True)
class Collected:
    """The note with the cosignatures that satisfy the policy, and who had none to give by then."""

    note: bytes
    cosigners: tuple[Cosigner, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class _Cosigned:
    signature: Signature
    by: Cosigner


def collect(
    submission: Submission,
    policy: Policy,
    exchange: Exchange,
    verify: Verify,
    at: datetime,
    seconds: float,
) -> Collected:
    """Ask every witness of `policy` that has a URL, and return as soon as the quorum is reached.

    Waits at most `seconds`, however the witnesses behave. Raises `RolledBackError` at once
    when a witness shows what our log signed and we do not have, and in the end when one
    only says so and there is no quorum; otherwise `WitnessesMissingError`. A quorum that is
    reached before such a witness spoke is returned: at the start of a log, ask `newest` of each.
    """
    checkpoint = open_checkpoint(submission.note, policy.logs, verify)
    if policy.satisfied(()):
        return Collected(submission.note, (), ())
    asked = [witness for witness in policy.witnesses if witness.url is not None]
    call = _Call(submission, Note.parse(submission.note), checkpoint, policy, exchange, verify, at)
    answers: queue.SimpleQueue[tuple[str, _Cosigned | Error]] = queue.SimpleQueue()
    for witness in asked:
        # Daemons: one that hangs keeps neither us nor the end of the program waiting.
        threading.Thread(target=_ask, args=(call, witness, answers), daemon=True).start()
    deadline = time.monotonic() + seconds
    good: dict[str, _Cosigned] = {}
    failures: dict[str, Error] = {}
    while not policy.satisfied(good.keys()) and len(good) + len(failures) < len(asked):
        try:
            name, answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        match answer:
            case _Cosigned():
                good[name] = answer
            case WitnessFailedError() | WitnessAddressError():
                failures[name] = answer
            case _:
                # Proven to be our fault: rolled back, or we could not make a proof.
                raise answer
    told = tuple(
        Failure(item.name, str(failures.get(item.name, "It did not answer in time.")))
        for item in asked
        if item.name not in good
    )
    if not policy.satisfied(good.keys()):
        ahead = [error for error in failures.values() if isinstance(error, WitnessAheadError)]
        if ahead:
            worst = max(ahead, key=lambda error: error.size)
            raise RolledBackError(str(worst), worst.size, b"")
        raise WitnessesMissingError(told)
    note = Note(call.note.text, (*call.note.signatures, *(item.signature for item in good.values())))
    return Collected(bytes(note), tuple(item.by for item in good.values()), told)


def newest(
    witness: WitnessKey, origin: str, policy: Policy, exchange: Exchange, verify: Verify
) -> Checkpoint | None:
    """Ask a witness for the newest checkpoint it cosigned of `origin`; None where it has none.

    The log's signature was checked with the policy's keys, and the witness's with its own. It is
    not proved that the witness has seen no newer one.
    """
    opened = _newest(witness, origin, policy, exchange, verify)
    return None if opened is None else opened[0]


def over_http(seconds: float) -> Exchange:
    """Ask over HTTPS, or plain HTTP on this machine; no redirects, no proxies, and an end after `seconds`."""

    def exchange(url: str, body: bytes | None) -> Reply:
        address = _address(url)
        connection = _connection(address, seconds)
        deadline = time.monotonic() + seconds
        headers = {"Connection": "close", "Accept": "text/plain, text/x.tlog.size"}
        if body is not None:
            headers["Content-Type"] = "text/plain; charset=utf-8"
        try:
            connection.connect()
            # A socket's own time-out begins anew with each byte that trickles in.
            with _hanging_up(connection.sock, deadline):
                connection.request("GET" if body is None else "POST", address.path, body, headers)
                with connection.getresponse() as response:
                    data = response.read(MAX_ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise WitnessFailedError(f"It did not answer: {type(error).__name__}.") from error
        finally:
            connection.close()
        if len(data) > MAX_ANSWER_BYTES:
            raise WitnessFailedError(f"Its answer is larger than {MAX_ANSWER_BYTES} bytes.")
        # What is cut off in its head or body, `http.client` takes for whole.
        if response.length or time.monotonic() >= deadline:
            raise WitnessFailedError("It did not answer to the end.")
        return Reply(response.status, response.headers.get_content_type(), data)

    return exchange


@dataclass(frozen=True, slots=True)
class _Call:
    submission: Submission
    note: Note
    checkpoint: Checkpoint
    policy: Policy
    exchange: Exchange
    verify: Verify
    at: datetime


def _ask(
    call: _Call, witness: WitnessKey, answers: "queue.SimpleQueue[tuple[str, _Cosigned | Error]]"
) -> None:
    try:
        answers.put((witness.name, _cosignature(call, witness)))
    except Error as error:
        answers.put((witness.name, error))


def _cosignature(call: _Call, witness: WitnessKey) -> _Cosigned:
    """Get one witness's cosignature:

    1. submit with the size we believe it saw last
    2. told another size by 409, submit once more from there, if our tree was ever of that size
    3. told of a fork, or that our proof is wrong: let it show what our log signed
    4. take the one line that is its, and verify it
    """
    size = call.checkpoint.size
    # 1.
    old = min(call.submission.old, size)
    reply = _submit(call, witness, old)
    told = _told_size(reply)
    # 2.
    if told is not None and told != old and told <= size:
        old = told
        reply = _submit(call, witness, old)
        told = _told_size(reply)
    # 3. Naming the size that we named, a witness says that it saw another root (tlog-witness 1.0).
    if reply.status in {409, 422}:
        _require_no_proof_of_more(call, witness)
        if told is None or told == old:
            raise WitnessAheadError(
                f"It says that our tree of {size} entries does not follow from its own.", size
            )
        if told > size:
            raise WitnessAheadError(f"It says that it has seen {told} entries, and here are {size}.", told)
        raise WitnessFailedError("It answered with one size and then with another.")
    if reply.status != 200:
        raise WitnessFailedError(f"It answered with status {reply.status}.")
    # 4.
    return _counted(call, witness, reply.body)


def _submit(call: _Call, witness: WitnessKey, old: int) -> Reply:
    proof = () if old in {0, call.checkpoint.size} else tuple(call.submission.proof_from(old))
    return call.exchange(f"{_prefix(witness)}/add-checkpoint", bytes(Request(old, proof, call.note)))


def _told_size(reply: Reply) -> int | None:
    if reply.status != 409 or reply.content_type != SIZE:
        return None
    matched = _SIZE_ANSWER.fullmatch(reply.body)
    if matched is None or int(matched[1]) >= MAX_SIZE:
        raise WitnessFailedError("It answered with a size that is none.")
    return int(matched[1])


def _counted(call: _Call, witness: WitnessKey, body: bytes) -> _Cosigned:
    try:
        told = Note.parse(f"{call.note.text}\n".encode() + body)
        if told.text != call.note.text:
            raise WitnessFailedError("Its answer is not made of signature lines.")
        known = (witness.key.name, witness.key.key_id)
        meant = [line for line in told.signatures if (line.name, line.key_id) == known]
        # Of several by one key, the first one counts.
        found = (
            cosigners(bytes(Note(told.text, tuple(meant[:1]))), [witness.key], call.verify) if meant else ()
        )
    except MalformedError as error:
        raise WitnessFailedError(f"Its answer is malformed: {error}") from error
    except ProofError as error:
        raise WitnessFailedError("Its cosignature is wrong.") from error
    if not found:
        raise WitnessFailedError("Its answer holds no cosignature by the key that the policy names.")
    (by,) = found
    ahead = by.at - int(call.at.timestamp())
    if ahead > MAX_AHEAD_SECONDS:
        raise WitnessFailedError(f"Its cosignature is dated {ahead} seconds ahead of our clock.")
    if by.at == 0:
        raise WitnessFailedError(
            "Its cosignature has no time, so it does not say that it saw no larger tree."
        )
    return _Cosigned(meant[0], by)


def _require_no_proof_of_more(call: _Call, witness: WitnessKey) -> None:
    """Raise `RolledBackError` if the witness shows a checkpoint by our log that our tree does not lead to."""
    try:
        opened = _newest(witness, call.checkpoint.origin, call.policy, call.exchange, call.verify)
    except WitnessFailedError:
        return
    if opened is None:
        return
    seen, evidence = opened
    ours = call.checkpoint
    if seen.size <= ours.size:
        proof = () if seen.size in {0, ours.size} else call.submission.proof_from(seen.size)
        try:
            verify_consistency(seen.size, ours.size, proof, seen.root, ours.root)
        except ProofError:
            pass
        else:
            return
    raise RolledBackError(
        f"The witness {witness.name} holds a checkpoint of {seen.size} entries, signed by this log, that the tree"
        f" of {ours.size} entries here does not agree with.",
        seen.size,
        evidence,
    )


def _newest(
    witness: WitnessKey, origin: str, policy: Policy, exchange: Exchange, verify: Verify
) -> tuple[Checkpoint, bytes] | None:
    reply = exchange(f"{_prefix(witness)}/{sha256(origin.encode()).hexdigest()}/checkpoint", None)
    if reply.status == 404:
        return None
    if reply.status != 200:
        raise WitnessFailedError(f"It answered with status {reply.status}.")
    try:
        checkpoint = open_checkpoint(reply.body, policy.logs, verify)
        signed = cosigners(reply.body, [witness.key], verify)
    except (MalformedError, ProofError) as error:
        raise WitnessFailedError(f"The checkpoint that it serves is not good: {error}") from error
    if checkpoint.origin != origin or not signed:
        raise WitnessFailedError("The checkpoint that it serves is of another log, or not cosigned by it.")
    return checkpoint, reply.body


def _prefix(witness: WitnessKey) -> str:
    if witness.url is None:
        raise WitnessAddressError(f"The policy names no URL for the witness {witness.name}.")
    return witness.url.removesuffix("/")


def _address(url: str) -> SplitResult:
    try:
        address = urlsplit(url)
        # What the resolver would do, and fail at: labels that are empty or too long.
        (address.hostname or "").encode("idna")
        # Reading the port checks it.
        plain = url.isascii() and url.isprintable() and " " not in url and address.port != 0
    except ValueError as error:
        raise WitnessAddressError("The witness's URL cannot be read.") from error
    if not plain or "@" in address.netloc or not address.hostname or "?" in url or "#" in url:
        raise WitnessAddressError("The witness's URL has parts that it must not have.")
    if address.scheme != "https" and (address.scheme != "http" or not _is_loopback(address.hostname)):
        raise WitnessAddressError("The witness's URL is neither https nor on this machine.")
    return address


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _connection(address: SplitResult, seconds: float) -> http.client.HTTPConnection:
    host = address.hostname or ""
    if address.scheme == "https":
        return http.client.HTTPSConnection(
            host, address.port, timeout=seconds, context=ssl.create_default_context()
        )
    return http.client.HTTPConnection(host, address.port, timeout=seconds)


@contextmanager
def _hanging_up(connected: socket.socket, deadline: float) -> Iterator[None]:
    """End the conversation at the deadline, whatever the other side is saying."""

    def hang_up() -> None:
        # It may have been closed meanwhile, which is all we want.
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)

    watchdog = threading.Timer(max(0.0, deadline - time.monotonic()), hang_up)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()
