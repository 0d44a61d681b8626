"""Rows to evidence, and evidence to rows, where columns and fields have the same names."""

from dataclasses import fields
from typing import Any

import sqlalchemy as sa


def columns(table: sa.Table, kind: type) -> sa.Select[Any]:
    """Ask for the columns that a dataclass is made of, in its order."""
    return sa.select(*(table.c[field.name] for field in fields(kind)))


def values(evidence: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by their names."""
    return {field.name: getattr(evidence, field.name) for field in fields(evidence)}


def following(connection: sa.Connection, number: sa.Column[int], *where: sa.ColumnElement[bool]) -> int:
    """Return the number after the largest one that is there; the caller is alone."""
    return (connection.scalar(sa.select(sa.func.max(number)).where(*where)) or 0) + 1
