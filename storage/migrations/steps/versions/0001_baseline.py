"""The schema of the first ledgers: no revision in it but the head's own number."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_Integer = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables, empty."""

    def number(name: str, *more: sa.Constraint | sa.ForeignKey, key: bool = False) -> sa.Column[int]:
        return sa.Column(name, _Integer, *more, primary_key=key, nullable=False, autoincrement=False)

    def data(name: str, check: str | None = None, *, unique: bool = False) -> sa.Column[bytes]:
        checks = () if check is None else (sa.CheckConstraint(check),)
        return sa.Column(name, sa.LargeBinary, *checks, nullable=False, unique=unique)

    op.create_table(
        "entry",
        number("idx", key=True),
        data("leaf", "length(leaf) = 32", unique=True),
        data("body", "length(body) <= 65535"),
        sqlite_strict=True,
    )
    op.create_table(
        "tile",
        number("level", key=True),
        number("number", key=True),
        data("data", "length(data) <= 8192"),
        sqlite_strict=True,
    )
    op.create_table(
        "head",
        number("id", sa.CheckConstraint("id = 1"), key=True),
        number("revision"),
        sa.Column("origin", sa.Text, nullable=False),
        number("size"),
        data("root", "length(root) = 32"),
        data("frontier"),
        number("time"),
        sqlite_strict=True,
    )
    op.create_table("checkpoint", number("size", key=True), data("note"), number("time"), sqlite_strict=True)
    op.create_table(
        "secret",
        number("idx", sa.ForeignKey("entry.idx"), key=True),
        data("salt", "length(salt) = 32"),
        data("payload"),
        sqlite_strict=True,
    )
    op.create_table(
        "lookup",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("key", sa.LargeBinary, primary_key=True),
        number("idx", sa.ForeignKey("entry.idx"), key=True),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index("ix_lookup_idx", "lookup", ["idx"])
