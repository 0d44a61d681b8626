"""The registry's tables, the same on SQLite and PostgreSQL.

Their names begin with `registry_`, so that they may lie in the ledger's database. Columns are
named as the fields of `storage.registry.rows`. Triggers refuse what no row may undergo; they
stop mistakes, not the owner of the database.
"""

from datetime import UTC, datetime, timedelta
from enum import StrEnum

import sqlalchemy as sa

from storage.registry.rows import Contradiction, Role, Status, TargetKind

REVISION = 1
"""The only revision that may be used."""
PREFIX = "registry_"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

metadata = sa.MetaData()
_Integer = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


class Moment(sa.TypeDecorator[datetime]):
    """A moment, stored as whole microseconds since 1970."""

    impl = _Integer
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:  # noqa: ARG002
        """Return the number for a moment."""
        return None if value is None else (value - EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        """Return the moment for a number."""
        return None if value is None else EPOCH + value * _MICROSECOND


class Word(sa.TypeDecorator[StrEnum]):
    """A word of a list, stored as it is written."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, words: type[StrEnum]) -> None:
        super().__init__()
        self.words = words

    def process_bind_param(self, value: StrEnum | None, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        """Return the text of a word."""
        return None if value is None else self.words(value).value

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> StrEnum | None:  # noqa: ARG002
        """Return the word of a text."""
        return None if value is None else self.words(value)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _data(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=False)


def _digest(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, sa.CheckConstraint(f"length({name}) = 32"), nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, _Integer, nullable=False)


def _moment(name: str) -> sa.Column[datetime]:
    return sa.Column(name, Moment, nullable=False)


def _table(name: str, *items: sa.schema.SchemaItem) -> sa.Table:
    return sa.Table(PREFIX + name, metadata, *items, sqlite_strict=True)


revision = _table("revision", _number("id"), _number("number"), sa.PrimaryKeyConstraint("id"))
product = _table(
    "product",
    _text("name"),
    _text("organisation"),
    _text("lifetime"),
    _text("minimum"),
    _data("rules"),
    _moment("since"),
    sa.PrimaryKeyConstraint("name"),
)
bootstrap = _table(
    "bootstrap",
    _digest("sha256"),
    _text("product"),
    _moment("expires"),
    sa.Column("used_at", Moment),
    sa.PrimaryKeyConstraint("sha256"),
)
challenge = _table(
    "challenge",
    _digest("sha256"),
    _text("purpose"),
    _text("subject"),
    _moment("expires"),
    sa.Column("used_at", Moment),
    sa.PrimaryKeyConstraint("sha256"),
    sa.Index("registry_challenge_expires", "expires"),
)
device = _table(
    "device",
    _text("name"),
    _text("product"),
    _digest("salt"),
    sa.Column("status", Word(Status), nullable=False),
    sa.Column("pin", sa.LargeBinary),
    _text("custody"),
    _moment("enrolled"),
    sa.PrimaryKeyConstraint("name"),
    sa.UniqueConstraint("salt"),
)
# What was burned; a row may go once its nonce is too old to be shown again.
nonce = _table(
    "nonce",
    sa.Column("device", sa.ForeignKey(device.c.name), nullable=False),
    _digest("sha256"),
    _moment("expires"),
    sa.PrimaryKeyConstraint("device", "sha256"),
    sa.Index("registry_nonce_expires", "expires"),
)
# One row: no nonce that expires by then can be told from one that was burned and is gone.
forgotten = _table("forgotten", _number("id"), _moment("until"), sa.PrimaryKeyConstraint("id"))
status = _table(
    "status",
    sa.Column("device", sa.ForeignKey(device.c.name), nullable=False),
    _number("number"),
    sa.Column("before", Word(Status), nullable=False),
    sa.Column("after", Word(Status), nullable=False),
    _moment("at"),
    _text("why"),
    sa.PrimaryKeyConstraint("device", "number"),
)
evidence = _table(
    "evidence",
    _number("id"),
    sa.Column("device", sa.ForeignKey(device.c.name), nullable=False),
    _digest("spki_sha256"),
    _text("kind"),
    _data("data"),
    sa.PrimaryKeyConstraint("id"),
    sa.Index("registry_evidence_device", "device"),
    sa.Index("registry_evidence_key", "spki_sha256"),
)
judgement = _table(
    "judgement",
    sa.Column("evidence", sa.ForeignKey(evidence.c.id), nullable=False),
    _number("number"),
    _text("custody"),
    _moment("judged_at"),
    _data("broken"),
    sa.PrimaryKeyConstraint("evidence", "number"),
)
# Every public key that was ever certified or was about to be.
key = _table(
    "key",
    _digest("spki_sha256"),
    sa.Column("device", sa.ForeignKey(device.c.name), nullable=False),
    _moment("at"),
    sa.PrimaryKeyConstraint("spki_sha256"),
)
certificate = _table(
    "certificate",
    _digest("sha256"),
    _data("der"),
    _text("serial"),
    sa.Column("spki_sha256", sa.ForeignKey(key.c.spki_sha256), nullable=False),
    sa.Column("device", sa.ForeignKey(device.c.name), nullable=False),
    _text("product"),
    _text("lifetime"),
    _data("issuer_key_id"),
    _moment("not_before"),
    _moment("not_after"),
    _number("entry"),
    sa.PrimaryKeyConstraint("sha256"),
    sa.UniqueConstraint("spki_sha256"),
    sa.UniqueConstraint("issuer_key_id", "serial"),
    sa.Index("registry_certificate_device", "device"),
    sa.Index("registry_certificate_product", "product"),
)
# `digest` is the name's bytes where it is a digest: what the certificates are joined with.
withdrawal = _table(
    "withdrawal",
    _number("number"),
    sa.Column("kind", Word(TargetKind), nullable=False),
    _text("name"),
    sa.Column("digest", sa.LargeBinary),
    _text("reason"),
    _moment("revoked_at"),
    sa.Column("compromised_since", Moment),
    _text("by"),
    _number("entry"),
    sa.PrimaryKeyConstraint("number"),
    sa.Index("registry_withdrawal_name", "kind", "name"),
)
operator = _table(
    "operator",
    _text("name"),
    _data("spki"),
    sa.Column("role", Word(Role), nullable=False),
    _moment("since"),
    sa.Column("until", Moment),
    sa.PrimaryKeyConstraint("name"),
    sa.UniqueConstraint("spki"),
)
_LINK = ("link", "previous", "claim", "media", "binding", "signature", "commitment", "certificate")
capture = _table(
    "capture",
    sa.Column("device", sa.ForeignKey(device.c.name), nullable=False),
    _number("counter"),
    *(_digest(name) for name in _LINK),
    _moment("at"),
    sa.Column("entry", _Integer),
    _number("gap"),
    sa.PrimaryKeyConstraint("claim"),
    sa.UniqueConstraint("device", "counter"),
    sa.UniqueConstraint("device", "previous"),
    sa.UniqueConstraint("device", "link"),
    sa.Index("registry_capture_certificate", "certificate"),
    sa.Index(
        "registry_capture_unlogged",
        "at",
        sqlite_where=sa.text("entry IS NULL"),
        postgresql_where=sa.text("entry IS NULL"),
    ),
)
fork = _table(
    "fork",
    sa.Column("device", sa.ForeignKey(device.c.name), nullable=False),
    _number("number"),
    _number("counter"),
    *(_digest(name) for name in _LINK),
    _moment("at"),
    sa.Column("against", sa.ForeignKey(capture.c.claim), nullable=False),
    sa.Column("about", Word(Contradiction), nullable=False),
    sa.PrimaryKeyConstraint("device", "number"),
)

EXPIRING = (challenge, nonce)
"""What may be deleted, once it has expired."""
SET_ONCE = {bootstrap: "used_at", challenge: "used_at", device: "pin", operator: "until", capture: "entry"}
"""The column that is empty at first, and keeps what it is given."""
MUTABLE = {device: ("status", "custody"), forgotten: ("until",)}
"""The columns that change."""
