"""The ledger's tables, the same on SQLite and PostgreSQL.

`entry` and `checkpoint` only ever grow, and `head` never shrinks: triggers
refuse anything else, and on PostgreSQL the roles that work with them have no right to.
They stop mistakes, not someone who owns the database; `storage.audit`, the guard and
witnesses are for that one.
"""

import sqlalchemy as sa

REVISION = "0002"
"""The newest step of `storage.migrations`, and the only one that may be used."""

metadata = sa.MetaData()
_Integer = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _hash(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, sa.CheckConstraint(f"length({name}) = 32"), nullable=False)


# The one row that says which revision this is; Alembic reads and writes the same.
version = sa.Table(
    "alembic_version",
    metadata,
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
# One row per entry, dense from 0.
entry = sa.Table(
    "entry",
    metadata,
    sa.Column("idx", _Integer, primary_key=True, autoincrement=False),
    _hash("leaf"),
    sa.Column("body", sa.LargeBinary, sa.CheckConstraint("length(body) <= 65535"), nullable=False),
    sqlite_strict=True,
)
# Where a commitment was recorded: the same record has one index (I9). Made again from the bodies if
# need be; past what one unique index of chance can carry, this is the table to shorten or to split.
submission = sa.Table(
    "submission",
    metadata,
    sa.Column("commitment", sa.LargeBinary, primary_key=True),
    sa.Column("idx", _Integer, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
# Hashes in tiles of 256. Level 0 is stored when full; higher levels grow by a hash at a time.
tile = sa.Table(
    "tile",
    metadata,
    sa.Column("level", _Integer, primary_key=True, autoincrement=False),
    sa.Column("number", _Integer, primary_key=True, autoincrement=False),
    sa.Column("data", sa.LargeBinary, sa.CheckConstraint("length(data) <= 8192"), nullable=False),
    sqlite_strict=True,
)
# The one row that a writer locks, and all that it needs to go on.
head = sa.Table(
    "head",
    metadata,
    sa.Column("id", _Integer, sa.CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("size", _Integer, nullable=False),
    _hash("root"),
    sa.Column("frontier", sa.LargeBinary, nullable=False),
    sa.Column("time", _Integer, nullable=False),
    sa.Column(
        "frozen",
        _Integer,
        sa.CheckConstraint("frozen IN (0, 1)"),
        nullable=False,
        server_default=sa.text("0"),
    ),
    sqlite_strict=True,
)
# Every note that was ever signed, as it was signed.
checkpoint = sa.Table(
    "checkpoint",
    metadata,
    sa.Column("size", _Integer, primary_key=True, autoincrement=False),
    sa.Column("note", sa.LargeBinary, nullable=False),
    sa.Column("time", _Integer, nullable=False),
    sqlite_strict=True,
)
# The same notes with the cosignatures of enough witnesses, where there were.
witnessed = sa.Table(
    "witnessed",
    metadata,
    sa.Column("size", _Integer, primary_key=True, autoincrement=False),
    sa.Column("note", sa.LargeBinary, nullable=False),
    sa.Column("time", _Integer, nullable=False),
    sqlite_strict=True,
)
# Salt and payload behind a commitment, sealed with a key that lies elsewhere. Erasable, and never
# hashed into the tree.
secret = sa.Table(
    "secret",
    metadata,
    sa.Column("idx", _Integer, sa.ForeignKey(entry.c.idx), primary_key=True, autoincrement=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sqlite_strict=True,
)
# Private ways to find an entry: keyed hashes, so that the database alone does not tell whether a
# picture is in it. They can be made again from the payloads.
lookup = sa.Table(
    "lookup",
    metadata,
    sa.Column("tag", sa.LargeBinary, sa.CheckConstraint("length(tag) = 16"), primary_key=True),
    sa.Column("idx", _Integer, sa.ForeignKey(entry.c.idx), primary_key=True, autoincrement=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

APPEND_ONLY = (entry, checkpoint)
"""What nobody may change or delete."""
KEPT = (*APPEND_ONLY, witnessed, head)
"""What nobody may delete; a witnessed note may gain cosignatures."""
