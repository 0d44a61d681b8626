"""Ask issuers over the network whether they withdrew a certificate; only for `verify --online`.

A certificate names the address, and anybody can write a certificate: so only
hosts that a trust list names are contacted. Answers are believed for their
signature, not for the way they came. Nothing here follows a redirect, uses a
proxy, or waits longer than ten seconds for one answer.
"""

import contextlib
import errno
import hashlib
import http.client
import itertools
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import ClassVar
from urllib.parse import SplitResult, urlsplit

from authn.answer import MAX_ANSWER
from authn.chain import read_certificate
from authn.crl import MAX_CRL
from authn.errors import StatusError
from authn.evidence import Revocation, RevocationFacts
from authn.ocsp import ocsp_request
from authn.plain import plain
from authn.revocation import NO_STATUSES, Statuses, check_revocation, host_of, status_addresses
from tools.errors import DiskFullError, Error, UnreadableError, UnwritableError

MAX_FETCHES = 8
MAX_FETCHED_CRL = 8 << 20
SECONDS = 10.0

_MAX_KEPT = 1000
_MAX_KEPT_BYTES = 2 * MAX_CRL
_SUFFIX = ".status"


class UnansweredError(Error):
    """A host that tells of withdrawn certificates gave no answer."""

    code: ClassVar[str] = "status-unanswered"
    remedy: ClassVar[str] = "Try again later, or give the issuer's revocation list as a file."


class Asked(StrEnum):
    """What came of one question."""

    ANSWERED = "answered"
    USELESS = "answered, but with nothing that counts"
    UNREACHABLE = "not reached"
    REFUSED = "not asked"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one question, in a sentence."""

    where: str
    asked: Asked
    explanation: str
    state: Revocation | None = None
    """What was answered; None where nothing was that counts."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes that an issuer signed, and the question that they answer."""

    url: str
    question: bytes
    content: bytes


@dataclass(frozen=True, slots=True)
class Inquiry:
    """All that was answered, and what came of every question. `answers` are those worth keeping."""

    statuses: Statuses = NO_STATUSES
    outcomes: tuple[Outcome, ...] = ()
    answers: tuple[Answer, ...] = ()


# Takes an address, a question (None for a list, which is just fetched) and the most bytes to take.
Fetch = Callable[[str, bytes | None, int], bytes]


def ask(path: tuple[bytes, ...], hosts: frozenset[str], fetch: Fetch, at: datetime) -> Inquiry:
    """Ask about every certificate of `path` (DER, leaf first) below the anchor, at most 8 questions in all.

    `hosts` are names in small letters, or name:port where the port is not the scheme's own.
    """
    statuses, outcomes, answers = NO_STATUSES, list[Outcome](), list[Answer]()
    asked = 0
    for question in _questions(path):
        where = plain(question.url, 200)
        if host_of(question.url) not in hosts:
            outcomes.append(Outcome(where, Asked.REFUSED, f"{where} was not asked: no trust list names it"))
            continue
        if asked == MAX_FETCHES:
            reason = f"{MAX_FETCHES} other addresses were asked already"
            outcomes.append(Outcome(where, Asked.REFUSED, f"{where} was not asked: {reason}"))
            continue
        asked += 1
        try:
            content = fetch(question.url, question.request, question.limit)
            heard = Statuses.parse_file(content)
        except UnansweredError as error:
            outcomes.append(Outcome(where, Asked.UNREACHABLE, f"{where} {error}"))
            continue
        except StatusError as error:
            outcomes.append(Outcome(where, Asked.USELESS, f"{where} answered, but {error}"))
            continue
        statuses = statuses.merged(heard)
        facts = _told(question, heard, at)
        if facts.state is Revocation.NOT_CHECKED:
            outcomes.append(Outcome(where, Asked.USELESS, f"{where} answered, but {facts.explanation}"))
            continue
        sentence = f"{where} answered: {facts.explanation}"
        outcomes.append(Outcome(where, Asked.ANSWERED, sentence, facts.state))
        answers.append(Answer(question.url, question.request or b"", content))
    return Inquiry(statuses, tuple(outcomes), tuple(answers))


def _told(question: "_Question", heard: Statuses, at: datetime) -> RevocationFacts:
    """What an answer tells of the certificates that it was asked for: bad news before good."""
    told = [
        check_revocation((read_certificate(certificate), read_certificate(issuer)), heard, None, at)
        for certificate, issuer in question.pairs
    ]
    quiet = (Revocation.NOT_CHECKED, Revocation.GOOD)
    return max(told, key=lambda facts: quiet.index(facts.state) if facts.state in quiet else len(quiet))


def fetch(url: str, question: bytes | None, limit: int) -> bytes:
    """What the address answers within ten seconds, if that is a 200 of at most `limit` bytes."""
    return fetch_within(SECONDS, url, question, limit)


def fetch_within(seconds: float, url: str, question: bytes | None, limit: int) -> bytes:
    """What the address answers, the whole of it within so many seconds: names, connection, every byte."""
    exchange = _Exchange(urlsplit(url), question, limit, seconds)
    # A thread, because no timeout of a socket bounds a whole exchange, nor the look-up of a name.
    thread = threading.Thread(target=exchange.run, name="lightseal-fetch", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        exchange.abandon()
        thread.join(1)
        raise UnansweredError(f"did not answer within {seconds:g} seconds")
    if exchange.fault is not None:
        raise UnansweredError(exchange.fault)
    return exchange.content


class Cache:
    """A folder of answers: the newest to each question, and every list. As unverified as any file.

    A list stays beside a newer one, which may no longer name a certificate that this one names.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, inquiry: Inquiry) -> None:
        """Write every answer beside its place, then put it there; an answer never displaces a newer one."""
        for answer in inquiry.answers:
            key = hashlib.sha256(answer.url.encode() + b"\0" + answer.question).hexdigest()
            if Statuses.parse_file(answer.content).crls:
                key = f"{key}-{hashlib.sha256(answer.content).hexdigest()}"
            self._put(self._folder / f"{key}{_SUFFIX}", answer.content)

    def read(self) -> Inquiry:
        """All that is kept, newest first and within limits; `outcomes` says what was left out, and why."""
        statuses, outcomes = NO_STATUSES, list[Outcome]()
        total = 0
        for path in self._kept():
            try:
                content = _content(path)
                total += len(content)
                if total > _MAX_KEPT_BYTES:
                    outcomes.append(_left_out(path.name, "too much is kept already"))
                    break
                statuses = statuses.merged(Statuses.parse_file(content))
            except (StatusError, UnreadableError) as error:
                outcomes.append(_left_out(path.name, str(error)))
        return Inquiry(statuses, tuple(outcomes))

    def _kept(self) -> list[Path]:
        try:
            with os.scandir(self._folder) as entries:
                found = [
                    (entry.stat(follow_symlinks=False).st_mtime_ns, entry.name)
                    for entry in entries
                    if entry.name.endswith(_SUFFIX) and entry.is_file(follow_symlinks=False)
                ]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UnreadableError(
                f"the kept answers cannot be read ({error.strerror or 'unknown reason'})"
            ) from error
        return [self._folder / name for _, name in sorted(found, reverse=True)[:_MAX_KEPT]]

    def _put(self, place: Path, content: bytes) -> None:
        new, old = Statuses.parse_file(content).dated, _dated(place)
        if new is None or (old is not None and new < old):
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=".", suffix=".partial", dir=self._folder)
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(content)
                Path(name).replace(place)
            finally:
                Path(name).unlink(missing_ok=True)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError("no space is left for an answer that would be kept") from error
            reason = error.strerror or "unknown reason"
            raise UnwritableError(f"an answer cannot be kept ({reason})") from error


def _left_out(name: str, reason: str) -> Outcome:
    return Outcome(name, Asked.USELESS, f"the kept answer {name} was not used: {reason}")


def _dated(place: Path) -> datetime | None:
    """The moment that a kept answer claims to speak of; None if there is none that can be read."""
    with contextlib.suppress(StatusError, UnreadableError):
        return Statuses.parse_file(_content(place)).dated
    return None


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_CRL + 1)
    except OSError as error:
        raise UnreadableError(f"it cannot be read ({error.strerror or 'unknown reason'})") from error
    if len(content) > MAX_CRL:
        raise UnreadableError(f"it is larger than {MAX_CRL >> 20} MiB")
    return content


# --- Whom to ask


@dataclass(frozen=True, slots=True)
class _Question:
    url: str
    request: bytes | None
    limit: int
    pairs: tuple[tuple[bytes, bytes], ...]


def _questions(path: tuple[bytes, ...]) -> Iterator[_Question]:
    """Every question once, the responders before the lists."""
    pairs = tuple(itertools.pairwise(path))
    addresses = [status_addresses(certificate) for certificate, _ in pairs]
    asked: dict[tuple[str, bytes | None], list[tuple[bytes, bytes]]] = {}
    for pair, found in zip(pairs, addresses, strict=True):
        for url in found.ocsp:
            asked.setdefault((url, ocsp_request(*pair)), []).append(pair)
    for pair, found in zip(pairs, addresses, strict=True):
        for url in found.crls:
            asked.setdefault((url, None), []).append(pair)
    for (url, request), about in asked.items():
        limit = MAX_FETCHED_CRL if request is None else MAX_ANSWER
        yield _Question(url, request, limit, tuple(dict.fromkeys(about)))


# --- One exchange


class _Exchange:
    """One question and its answer, in a thread that can be left behind."""

    def __init__(self, url: SplitResult, question: bytes | None, limit: int, seconds: float) -> None:
        self.content = b""
        self.fault: str | None = None
        self._url, self._question, self._limit, self._seconds = url, question, limit, seconds
        self._socket: socket.socket | None = None
        self._abandoned = threading.Event()

    def run(self) -> None:
        """Ask, and note the content or the fault."""
        try:
            self._ask()
        except TimeoutError:
            self.fault = f"did not answer within {self._seconds:g} seconds"
        except (OSError, http.client.HTTPException, ValueError):
            self.fault = "could not be reached, or broke off"

    def abandon(self) -> None:
        """Nobody waits any more: end the connection, or have it end as soon as it stands."""
        self._abandoned.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _ask(self) -> None:
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._url.hostname or "", self._url.port, timeout=self._seconds)
        try:
            connection.connect()
            self._socket = connection.sock
            if self._abandoned.is_set():
                return
            target = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
            headers = {"Connection": "close", "User-Agent": "lightseal"}
            if self._question is None:
                connection.request("GET", target, headers=headers)
            else:
                headers |= {"Content-Type": "application/ocsp-request", "Accept": "application/ocsp-response"}
                connection.request("POST", target, self._question, headers)
            self._read(connection.getresponse())
        finally:
            connection.close()

    def _read(self, response: http.client.HTTPResponse) -> None:
        with response:
            if response.status != http.HTTPStatus.OK:
                self.fault = f"answered with the HTTP status {response.status}"
                return
            content = response.read(self._limit + 1)
            if len(content) > self._limit:
                self.fault = f"sent more than {self._limit >> 10} KiB"
                return
            self.content = content
