"""Captures: compared with what has arrived, and added, in one transaction."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from storage.registry import certificates, chain, devices, row
from storage.registry.errors import (
    CaptureKnownError,
    CaptureUnknownError,
    ChainBeginningError,
    CounterReusedError,
)
from storage.registry.rows import GENESIS, ONE_TIME, Capture, Contradiction, Fork, Head, Status
from storage.registry.tables import capture as table
from storage.registry.tables import fork as forks_table

MAX_FORKS = 256
"""A device that forks again and again proves no more by it, and must not fill the disk."""
_SAID = {
    Contradiction.PLACE: "contradicts",
    Contradiction.CERTIFICATE: "has the one-time certificate of",
}


def add(connection: sa.Connection, capture: Capture) -> Capture | Fork:
    """Add a capture to its device's chain, or return the fork that it is: commit then, too.

    1. The same capture again is answered as the first time.
    2. The device's captures are taken.
    3. Nothing that has arrived contradicts it, else it is kept apart and the device is suspect.
    4. No other capture has its certificate, where that is for one; else the same.
    5. Its number is free.
    6. It is recorded with what is missing before it.
    """
    # 1.
    device = devices.get(connection, capture.device)
    if (known := by_claim(connection, capture.claim)) is not None:
        if not _same(known, capture):
            raise CaptureKnownError("The claim was recorded before, as something else.")
        return known
    # 2.
    devices.require_heard(device)
    if capture.counter == 1 and capture.previous != GENESIS:
        raise ChainBeginningError(f"The capture 1 of {device.name} names a predecessor.")
    # 3.
    around = _neighbours(connection, capture)
    if (against := chain.contradicting(capture, around)) is not None:
        return _keep_apart(connection, capture, against, Contradiction.PLACE)
    # 4.
    if (against := _with_its_certificate(connection, capture)) is not None:
        return _keep_apart(connection, capture, against, Contradiction.CERTIFICATE)
    # 5.
    if around.twin is not None:
        raise CounterReusedError(f"Another capture of {device.name} is numbered {capture.counter}.")
    # 6.
    recorded = replace(capture, gap=chain.gap(capture, around.below))
    values = row.values(recorded) | {"gap": len(recorded.gap)}
    connection.execute(sa.insert(table).values(values))
    return recorded


def set_entry(connection: sa.Connection, claim: bytes, entry: int) -> Capture:
    """Record where the ledger has a capture; once, and the same again changes nothing."""
    found = by_claim(connection, claim)
    if found is None:
        raise CaptureUnknownError("No capture with this claim was recorded.")
    if found.entry not in (None, entry):
        raise CaptureKnownError(f"The capture has the entry {found.entry} already.")
    if found.entry is None:
        connection.execute(sa.update(table).where(table.c.claim == claim).values(entry=entry))
    return replace(found, entry=entry)


def head(connection: sa.Connection, device: str) -> Head | None:
    """Return the newest link that has arrived."""
    asked = sa.select(table.c.counter, table.c.link).where(table.c.device == device)
    found = connection.execute(asked.order_by(table.c.counter.desc()).limit(1)).one_or_none()
    return None if found is None else Head(*found)


def of_device(connection: sa.Connection, device: str) -> Sequence[Capture]:
    """Return a device's captures, by counter."""
    return _all(
        connection, row.columns(table, Capture).where(table.c.device == device).order_by(table.c.counter)
    )


def by_claim(connection: sa.Connection, claim: bytes) -> Capture | None:
    """Return the capture with this claim."""
    return _one(connection, table.c.claim == claim)


def unlogged(connection: sa.Connection, limit: int) -> Sequence[Capture]:
    """Return the captures that have no entry yet, oldest first."""
    asked = row.columns(table, Capture).where(table.c.entry.is_(None)).order_by(table.c.at, table.c.counter)
    return _all(connection, asked.limit(limit))


def missing(connection: sa.Connection, device: str) -> Sequence[range]:
    """Return the numbers that have not arrived, up to the newest that has."""
    devices.get(connection, device)
    before = sa.func.lag(table.c.counter).over(order_by=table.c.counter).label("before")
    pairs = sa.select(table.c.counter, table.c.previous, before).where(table.c.device == device).subquery()
    asked = (
        sa.select(pairs)
        .where(pairs.c.before.is_(None) | (pairs.c.counter - pairs.c.before > 1))
        .order_by(pairs.c.counter)
    )
    holes = []
    for counter, previous, last in connection.execute(asked):
        first = counter if previous == GENESIS else 1
        holes.append(range(first if last is None else last + 1, counter))
    return tuple(hole for hole in holes if hole)


def beginning(connection: sa.Connection, device: str) -> int | None:
    """Return the number of the capture that names no predecessor; None where none has arrived."""
    devices.get(connection, device)
    first = _one(connection, table.c.device == device, table.c.previous == GENESIS)
    return None if first is None else first.counter


def forks(connection: sa.Connection, device: str) -> Sequence[Fork]:
    """Return the evidence against a device, oldest first; at most 256 of it are kept."""
    devices.get(connection, device)
    asked = sa.select(forks_table).where(forks_table.c.device == device).order_by(forks_table.c.number)
    return tuple(_fork(found) for found in connection.execute(asked))


def _keep_apart(connection: sa.Connection, refused: Capture, against: Capture, about: Contradiction) -> Fork:
    """Keep the evidence and suspect the device; not again for evidence a person may have looked at."""
    fork = Fork(replace(refused, entry=None, gap=range(0)), against.claim, about)
    of = forks_table.c.device == refused.device
    known = sa.select(forks_table).where(of, forks_table.c.claim == refused.claim)
    if any(_same(_fork(each).refused, refused) for each in connection.execute(known)):
        return fork
    number = row.following(connection, forks_table.c.number, of)
    if number <= MAX_FORKS:
        values = row.values(refused) | {"number": number, "against": against.claim, "about": about}
        del values["entry"], values["gap"]
        connection.execute(sa.insert(forks_table).values(values))
    why = f"the capture {refused.counter} {_SAID[about]} the capture {against.counter}"
    devices.set_status(connection, refused.device, Status.SUSPECT, refused.at, why)
    return fork


def _with_its_certificate(connection: sa.Connection, capture: Capture) -> Capture | None:
    """Return the capture that used the capture's one-time certificate up, whichever device handed it in."""
    issued = certificates.by_digest(connection, capture.certificate)
    if issued is None or issued.lifetime != ONE_TIME:
        return None
    return _one(connection, table.c.certificate == capture.certificate)


def _neighbours(connection: sa.Connection, capture: Capture) -> chain.Neighbours:
    of = table.c.device == capture.device
    counter = table.c.counter
    return chain.Neighbours(
        twin=_one(connection, of, counter == capture.counter),
        sibling=_one(connection, of, table.c.previous == capture.previous),
        double=_one(connection, of, table.c.link == capture.link),
        below=_next(connection, counter.desc(), of, counter < capture.counter),
        above=_next(connection, counter, of, counter > capture.counter),
        predecessor=_one(connection, of, table.c.link == capture.previous),
        successor=_one(connection, of, table.c.previous == capture.link),
    )


def _one(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> Capture | None:
    found = connection.execute(row.columns(table, Capture).where(*where)).one_or_none()
    return None if found is None else _capture(found)


def _next(
    connection: sa.Connection, order: sa.ColumnElement[int], *where: sa.ColumnElement[bool]
) -> Capture | None:
    found = connection.execute(
        row.columns(table, Capture).where(*where).order_by(order).limit(1)
    ).one_or_none()
    return None if found is None else _capture(found)


def _all(connection: sa.Connection, asked: sa.Select[Any]) -> Sequence[Capture]:
    return tuple(_capture(found) for found in connection.execute(asked))


def _capture(found: sa.Row[Any]) -> Capture:
    values = dict(found._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    return Capture(**values | {"gap": range(found.counter - found.gap, found.counter)})


def _fork(found: sa.Row[Any]) -> Fork:
    values = dict(found._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    against, about = values.pop("against"), values.pop("about")
    del values["number"]
    return Fork(Capture(**values), against, about)


def _same(one: Capture, other: Capture) -> bool:
    return (one.device, one.counter, one.contents) == (other.device, other.counter, other.contents)
