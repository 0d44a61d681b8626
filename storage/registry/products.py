"""Products: a name keeps every wording it had, and the newest counts."""

from collections.abc import Sequence

import sqlalchemy as sa

from storage.registry import row
from storage.registry.errors import ProductKnownError, ProductUnknownError
from storage.registry.rows import Product
from storage.registry.tables import product as table


def add(connection: sa.Connection, product: Product) -> None:
    """Record a new product; the same again changes nothing."""
    known = _newest(connection, product.name)
    if known is None:
        connection.execute(sa.insert(table).values(number=1, **row.values(product)))
    elif known != product:
        raise ProductKnownError(f"There is another product {product.name}.")


def amend(connection: sa.Connection, product: Product) -> None:
    """Record a new wording of a product; the same as the newest changes nothing."""
    if get(connection, product.name) == product:
        return
    number = row.following(connection, table.c.number, table.c.name == product.name)
    connection.execute(sa.insert(table).values(number=number, **row.values(product)))


def get(connection: sa.Connection, name: str) -> Product:
    """Return the newest wording."""
    found = _newest(connection, name)
    if found is None:
        raise ProductUnknownError(f"There is no product {name}.")
    return found


def every(connection: sa.Connection) -> Sequence[Product]:
    """Return the newest wording of each, by name."""
    asked = row.columns(table, Product).order_by(table.c.name, table.c.number)
    newest = {found.name: Product(*found) for found in connection.execute(asked)}
    return tuple(newest.values())


def _newest(connection: sa.Connection, name: str) -> Product | None:
    asked = row.columns(table, Product).where(table.c.name == name).order_by(table.c.number.desc()).limit(1)
    found = connection.execute(asked).one_or_none()
    return None if found is None else Product(*found)
