"""A process that records until it is killed, in one of three ways.

It writes down each index and claim once it is acknowledged, and not before. It ends with
status 3 when the ledger answers with an error of its own, or the server with none at all.
"""

import base64
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import subject

from storage.errors import Error
from storage.record import Record
from storage.sequencer import Sequencer

REFUSED = 3

Submit = Callable[[Sequence[Record]], tuple[int, ...]]
Acknowledge = Callable[[tuple[int, ...], list[str]], None]


def write(drilled: subject.Subject, name: str, way: str, said: Path) -> None:
    """Record under `name`; a server's `drilled.url` is its own, and its folder is not looked into."""
    output = os.open(said, os.O_WRONLY | os.O_APPEND)

    def acknowledge(indices: tuple[int, ...], claims: list[str]) -> None:
        os.write(output, subject.acknowledgement(indices, claims).encode("ascii"))

    work = {"append": append, "sequencer": sequence, "server": post}[way]
    refusals = (HTTPException, OSError) if way == "server" else (Error,)
    try:
        work(drilled, subject.tags(name, way), acknowledge)
    except refusals as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(REFUSED)


def append(drilled: subject.Subject, tags: list[str], acknowledge: Acknowledge) -> None:
    with drilled.reopen() as ledger:
        submit_for_ever(
            tags, acknowledge, lambda records: ledger.append(records, subject.now(), subject.sign)
        )


def sequence(drilled: subject.Subject, tags: list[str], acknowledge: Acknowledge) -> None:
    with (
        drilled.reopen() as ledger,
        Sequencer(lambda records: ledger.append(records, subject.now(), subject.sign)) as sequencer,
    ):
        submit_for_ever(tags, acknowledge, lambda records: sequencer.submit(records).result())


def post(served: subject.Subject, tags: list[str], acknowledge: Acknowledge) -> None:
    address = urlsplit(served.url)

    def work(tag: str) -> None:
        connection = HTTPConnection(str(address.hostname), address.port, timeout=60)
        for claim in (claim for claims in subject.batches(tag) for claim in claims):
            connection.request(
                "POST", "/add", _body(subject.record(claim)), {"Authorization": "Bearer drill"}
            )
            with connection.getresponse() as response:
                answer = json.loads(response.read())
            if response.status not in {200, 201}:
                raise HTTPException(f"{response.status}: {answer}")
            acknowledge((answer["index"],), [claim])

    at_once(work, tags)


def submit_for_ever(tags: list[str], acknowledge: Acknowledge, submit: Submit) -> None:
    """Submit under each tag at once; the first error ends it all."""

    def work(tag: str) -> None:
        for claims in subject.batches(tag):
            acknowledge(submit([subject.record(claim) for claim in claims]), claims)

    at_once(work, tags)


def at_once(work: Callable[[str], None], tags: list[str]) -> None:
    with ThreadPoolExecutor(len(tags)) as pool:
        for running in [pool.submit(work, tag) for tag in tags]:
            running.result()


def _body(record: Record) -> bytes:
    texts = {"salt": record.salt, "key": record.key}
    fields = {name: base64.b64encode(value).decode() for name, value in texts.items()}
    return json.dumps({"kind": record.kind, "payload": json.loads(record.payload), **fields}).encode()
