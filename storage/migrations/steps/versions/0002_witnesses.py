"""Sealed payloads, blinded lookups, commitments found by themselves, witnessed notes, a head that can freeze."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import context, op

from storage.entry import Entry
from storage.record import lookups

revision = "0002"
down_revision = "0001"

_CHUNK = 512


def upgrade() -> None:
    """Keep every entry and note as it is, and make the rest anew from them."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    integer, blob = ("INTEGER", "BLOB") if sqlite else ("BIGINT", "BYTEA")
    strict, keyed = (" STRICT", " STRICT, WITHOUT ROWID") if sqlite else ("", "")
    # The secrets step aside, so that nothing points at the entries while they lose an index.
    op.execute("CREATE TABLE secret_0001 AS SELECT idx, salt, payload FROM secret")
    op.execute("DROP TABLE lookup")
    op.execute("DROP TABLE secret")
    if sqlite:
        op.execute(
            "CREATE TABLE entry_0002 (idx INTEGER NOT NULL, leaf BLOB NOT NULL CHECK (length(leaf) = 32), "
            "body BLOB NOT NULL CHECK (length(body) <= 65535), PRIMARY KEY (idx)) STRICT"
        )
        op.execute("INSERT INTO entry_0002 SELECT idx, leaf, body FROM entry ORDER BY idx")
        op.execute("DROP TABLE entry")
        op.execute("ALTER TABLE entry_0002 RENAME TO entry")
    else:
        op.execute("ALTER TABLE entry DROP CONSTRAINT entry_leaf_key")
    op.execute(
        f"CREATE TABLE submission (commitment {blob} NOT NULL, idx {integer} NOT NULL, "
        f"PRIMARY KEY (commitment)){keyed}"
    )
    op.execute(
        f"CREATE TABLE witnessed (size {integer} NOT NULL, note {blob} NOT NULL, time {integer} NOT NULL, "
        f"PRIMARY KEY (size)){strict}"
    )
    op.execute(
        f"CREATE TABLE secret (idx {integer} NOT NULL, sealed {blob} NOT NULL, PRIMARY KEY (idx), "
        f"FOREIGN KEY(idx) REFERENCES entry (idx)){strict}"
    )
    op.execute(
        f"CREATE TABLE lookup (tag {blob} NOT NULL CHECK (length(tag) = 16), idx {integer} NOT NULL, "
        f"PRIMARY KEY (tag, idx), FOREIGN KEY(idx) REFERENCES entry (idx)){keyed}"
    )
    op.execute("ALTER TABLE head DROP COLUMN revision")
    op.execute(f"ALTER TABLE head ADD COLUMN frozen {integer} NOT NULL DEFAULT 0 CHECK (frozen IN (0, 1))")
    _fill(op.get_bind(), context.config.attributes["sealer"])
    op.execute("DROP TABLE secret_0001")


def _fill(connection: sa.Connection, sealer: Any) -> None:
    origin = connection.scalar(sa.text("SELECT origin FROM head"))
    for row in _rows(connection, "SELECT idx, body FROM entry"):
        found = {"commitment": Entry.parse(bytes(row.body)).commitment, "idx": row.idx}
        # Revision 0001 recorded a payload and salt again at another time; the first entry is the record.
        first = "INSERT INTO submission VALUES (:commitment, :idx) ON CONFLICT DO NOTHING"
        connection.execute(sa.text(first), found)
    for row in _rows(connection, "SELECT idx, salt, payload FROM secret_0001"):
        salt, payload = bytes(row.salt), bytes(row.payload)
        sealed = {"idx": row.idx, "sealed": sealer.seal(row.idx, salt + payload, origin)}
        connection.execute(sa.text("INSERT INTO secret VALUES (:idx, :sealed)"), sealed)
        for each in set(lookups(payload)):
            tagged = {"tag": sealer.tag(*each), "idx": row.idx}
            connection.execute(sa.text("INSERT INTO lookup VALUES (:tag, :idx)"), tagged)
    # What was erased before there were keys has none now.
    gone = sa.text("SELECT idx FROM entry WHERE idx NOT IN (SELECT idx FROM secret_0001) ORDER BY idx")
    sealer.keyring.forget(*connection.scalars(gone).all())


def _rows(connection: sa.Connection, query: str) -> Iterator[sa.Row[Any]]:
    after = -1
    page = sa.text(f"{query} WHERE idx > :after ORDER BY idx LIMIT {_CHUNK}")
    while rows := connection.execute(page, {"after": after}).all():
        yield from rows
        after = rows[-1].idx
