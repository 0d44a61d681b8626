"""Evidence as it was sent, and every judgement of it; neither is ever changed."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from storage.registry import devices, row
from storage.registry.errors import EvidenceUnknownError
from storage.registry.rows import StoredEvidence
from storage.registry.tables import evidence as table
from storage.registry.tables import judgement


def add(
    connection: sa.Connection,
    device: str,
    kind: str,
    data: bytes,
    custody: str,
    judged_at: datetime,
    broken: bytes,
) -> StoredEvidence:
    """Keep what a device showed, with its first judgement."""
    devices.get(connection, device)
    number = row.following(connection, table.c.id)
    connection.execute(sa.insert(table).values(id=number, device=device, kind=kind, data=data))
    return rejudge(connection, number, custody, judged_at, broken)


def rejudge(
    connection: sa.Connection, number: int, custody: str, judged_at: datetime, broken: bytes
) -> StoredEvidence:
    """Keep another judgement, which counts from then on."""
    found = connection.execute(sa.select(table).where(table.c.id == number)).one_or_none()
    if found is None:
        raise EvidenceUnknownError(f"There is no evidence {number}.")
    added = {
        "evidence": number,
        "number": row.following(connection, judgement.c.number, judgement.c.evidence == number),
        "custody": custody,
        "judged_at": judged_at,
        "broken": broken,
    }
    connection.execute(sa.insert(judgement).values(added))
    return StoredEvidence(found.id, found.device, found.kind, found.data, custody, judged_at, broken)


def of_device(connection: sa.Connection, device: str) -> Sequence[StoredEvidence]:
    """Return a device's evidence with the newest judgements, oldest first."""
    devices.get(connection, device)
    return _asked(connection, _newest().where(table.c.device == device))


def after(connection: sa.Connection, number: int, limit: int) -> Sequence[StoredEvidence]:
    """Return the next pieces of evidence after a number, with the newest judgements."""
    return _asked(connection, _newest().where(table.c.id > number).limit(limit))


def judgements(connection: sa.Connection, number: int) -> Sequence[StoredEvidence]:
    """Return every judgement of one piece, oldest first."""
    found = _asked(connection, _judged().where(table.c.id == number).order_by(judgement.c.number))
    if not found:
        raise EvidenceUnknownError(f"There is no evidence {number}.")
    return found


def _judged() -> sa.Select[Any]:
    judged = (judgement.c.custody, judgement.c.judged_at, judgement.c.broken)
    return sa.select(table, *judged).join(judgement, judgement.c.evidence == table.c.id)


def _newest() -> sa.Select[Any]:
    other = judgement.alias()
    newest = sa.select(sa.func.max(other.c.number)).where(other.c.evidence == table.c.id).scalar_subquery()
    return _judged().where(judgement.c.number == newest).order_by(table.c.id)


def _asked(connection: sa.Connection, asked: sa.Select[Any]) -> Sequence[StoredEvidence]:
    return tuple(StoredEvidence(*found) for found in connection.execute(asked))
