"""Products: what one was recorded as, it stays."""

from collections.abc import Sequence

import sqlalchemy as sa

from storage.registry import row
from storage.registry.errors import ProductKnownError, ProductUnknownError
from storage.registry.rows import Product
from storage.registry.tables import product as table


def add(connection: sa.Connection, product: Product) -> None:
    """Record a new product; the same again changes nothing."""
    known = _named(connection, product.name)
    if known is None:
        connection.execute(sa.insert(table).values(row.values(product)))
    elif known != product:
        raise ProductKnownError(f"There is another product {product.name}.")


def get(connection: sa.Connection, name: str) -> Product:
    """Return a product."""
    found = _named(connection, name)
    if found is None:
        raise ProductUnknownError(f"There is no product {name}.")
    return found


def every(connection: sa.Connection) -> Sequence[Product]:
    """Return all products, by name."""
    asked = row.columns(table, Product).order_by(table.c.name)
    return tuple(Product(*found) for found in connection.execute(asked))


def _named(connection: sa.Connection, name: str) -> Product | None:
    found = connection.execute(row.columns(table, Product).where(table.c.name == name)).one_or_none()
    return None if found is None else Product(*found)
