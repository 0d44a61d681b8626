"""Bootstrap tokens, challenges and nonces: each is good for one use, whoever asks at once.

Only SHA-256 of them is kept. The caller is alone with the registry from its first statement
on, so that looking and using up cannot be parted.
"""

from datetime import datetime

import sqlalchemy as sa

from storage.registry import devices, products, tables
from storage.registry.errors import (
    KnownError,
    NonceExpiredError,
    NonceReplayedError,
    NonceUnknownError,
    NonceWrongDeviceError,
    TokenExpiredError,
    TokenUnknownError,
    TokenUsedError,
)
from storage.registry.rows import Product


def add_bootstrap(connection: sa.Connection, token: bytes, product: str, expires: datetime) -> None:
    """Let a token enrol one device of a product."""
    products.get(connection, product)
    table = tables.bootstrap
    if connection.scalar(sa.select(table.c.sha256).where(table.c.sha256 == token)) is not None:
        raise KnownError("This bootstrap token was issued before.")
    connection.execute(sa.insert(table).values(sha256=token, product=product, expires=expires))


def use_bootstrap(connection: sa.Connection, token: bytes, at: datetime) -> Product:
    """Use a token up and return what it enrols."""
    table = tables.bootstrap
    found = connection.execute(sa.select(table).where(table.c.sha256 == token)).one_or_none()
    if found is None:
        raise TokenUnknownError("The bootstrap token was not issued here.")
    if found.used_at is not None:
        raise TokenUsedError("The bootstrap token was used before.")
    if at >= found.expires:
        raise TokenExpiredError("The bootstrap token has expired.")
    connection.execute(sa.update(table).where(table.c.sha256 == token).values(used_at=at))
    return products.get(connection, found.product)


def add_challenge(
    connection: sa.Connection, sha256: bytes, purpose: str, subject: str, expires: datetime
) -> None:
    """Let a challenge be answered once, by one subject, for one purpose."""
    table = tables.challenge
    if connection.scalar(sa.select(table.c.sha256).where(table.c.sha256 == sha256)) is not None:
        raise KnownError("This challenge was given out before.")
    row = {"sha256": sha256, "purpose": purpose, "subject": subject, "expires": expires}
    connection.execute(sa.insert(table).values(row))


def use_challenge(connection: sa.Connection, sha256: bytes, purpose: str, subject: str, at: datetime) -> None:
    """Use a challenge up."""
    table = tables.challenge
    found = connection.execute(sa.select(table).where(table.c.sha256 == sha256)).one_or_none()
    if found is None:
        raise NonceUnknownError("The challenge was not given out here.")
    if (found.purpose, found.subject) != (purpose, subject):
        raise NonceWrongDeviceError("The challenge was given to somebody else, or for something else.")
    if found.used_at is not None:
        raise NonceReplayedError("The challenge was answered before.")
    if at >= found.expires:
        raise NonceExpiredError("The challenge has expired.")
    connection.execute(sa.update(table).where(table.c.sha256 == sha256).values(used_at=at))


def use_nonce(connection: sa.Connection, sha256: bytes, device: str, at: datetime, expires: datetime) -> None:
    """Burn a nonce that the device itself chose.

    `expires` must follow from what the device signed: a nonce that was purged is refused
    as expired, and only so; whatever the clock says by then.
    """
    devices.get(connection, device)
    if at >= expires:
        raise NonceExpiredError("The nonce has expired.")
    if expires <= connection.execute(sa.select(tables.forgotten.c.until)).scalar_one():
        raise NonceExpiredError("The nonce is no newer than others that were forgotten.")
    table = tables.nonce
    if connection.execute(
        sa.select(table.c.sha256).where(table.c.device == device, table.c.sha256 == sha256)
    ).first():
        raise NonceReplayedError("The nonce was used before.")
    connection.execute(sa.insert(table).values(sha256=sha256, device=device, expires=expires))


def purge(connection: sa.Connection, before: datetime, limit: int) -> int:
    """Forget at most `limit` challenges and nonces that expired before a moment; return how many.

    Until when nonces are forgotten stays known: a clock that goes back makes none of them new.
    """
    gone = 0
    for table in tables.EXPIRING:
        expired = table.c.expires < before
        oldest = sa.select(table.c.sha256).where(expired).order_by(table.c.expires).limit(limit - gone)
        asked = sa.delete(table).where(expired, table.c.sha256.in_(oldest)).returning(table.c.expires)
        ends = connection.scalars(asked).all()
        gone += len(ends)
        if table is tables.nonce and ends:
            mark = tables.forgotten
            connection.execute(sa.update(mark).where(mark.c.until < max(ends)).values(until=max(ends)))
    return gone
