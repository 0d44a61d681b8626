"""Evidence of a key as it was sent, and every judgement of it; neither is ever changed."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from storage.registry import devices, row
from storage.registry.errors import EvidenceUnknownError, KeyReusedError
from storage.registry.rows import IssuedCertificate, StoredEvidence
from storage.registry.tables import evidence as table
from storage.registry.tables import judgement
from storage.registry.tables import key as keys


def add(connection: sa.Connection, device: str, spki_sha256: bytes, kind: str, data: bytes) -> int:
    """Keep what a device showed of a key, and return its number; the first judgement is the caller's.

    Of a key that was certified nothing more is kept: what came last is what it was certified for.
    """
    devices.get(connection, device)
    if connection.scalar(sa.select(keys.c.device).where(keys.c.spki_sha256 == spki_sha256)) is not None:
        raise KeyReusedError("The public key was certified before, or was to be.")
    number = row.following(connection, table.c.id)
    added = {"id": number, "device": device, "spki_sha256": spki_sha256, "kind": kind, "data": data}
    connection.execute(sa.insert(table).values(added))
    return number


def rejudge(
    connection: sa.Connection, number: int, custody: str, judged_at: datetime, broken: bytes
) -> StoredEvidence:
    """Keep another judgement, which counts from then on; a lesser one lowers the device's label, a better does not."""
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
    devices.lower_custody(connection, found.device, custody)
    return StoredEvidence(
        found.id, found.device, found.spki_sha256, found.kind, found.data, custody, judged_at, broken
    )


def of_device(connection: sa.Connection, device: str) -> Sequence[StoredEvidence]:
    """Return a device's evidence with the newest judgements, oldest first."""
    devices.get(connection, device)
    return _asked(connection, _newest().where(table.c.device == device))


def of_certificate(connection: sa.Connection, certificate: IssuedCertificate) -> StoredEvidence | None:
    """Return what the device showed of the certificate's own key, with the newest judgement."""
    of_key = (table.c.device == certificate.device, table.c.spki_sha256 == certificate.spki_sha256)
    found = _asked(connection, _newest().where(*of_key))
    return found[-1] if found else None


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
