"""Operators: one name and one key for each person, and when they ceased to be one."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa

from storage.registry import row
from storage.registry.errors import OperatorKnownError, OperatorUnknownError
from storage.registry.rows import Operator
from storage.registry.tables import operator as table


def add(connection: sa.Connection, operator: Operator) -> None:
    """Record an operator; the same again changes nothing. Nobody comes back under an old name or key."""
    found = connection.execute(
        row.columns(table, Operator).where((table.c.name == operator.name) | (table.c.spki == operator.spki))
    ).all()
    if [Operator(*known) for known in found] == [operator]:
        return
    if found:
        raise OperatorKnownError(f"There is another operator {operator.name}, or one with this key.")
    connection.execute(sa.insert(table).values(row.values(operator)))


def dismiss(connection: sa.Connection, name: str, at: datetime) -> Operator:
    """Record when an operator ceased to be one; the first such moment stays."""
    operator = get(connection, name)
    if operator.until is not None:
        return operator
    connection.execute(sa.update(table).where(table.c.name == name).values(until=at))
    return replace(operator, until=at)


def get(connection: sa.Connection, name: str) -> Operator:
    """Return an operator, one who ceased to be one as well."""
    found = connection.execute(row.columns(table, Operator).where(table.c.name == name)).one_or_none()
    if found is None:
        raise OperatorUnknownError(f"There is no operator {name}.")
    return Operator(*found)


def every(connection: sa.Connection) -> Sequence[Operator]:
    """Return all operators, by name."""
    asked = row.columns(table, Operator).order_by(table.c.name)
    return tuple(Operator(*found) for found in connection.execute(asked))
