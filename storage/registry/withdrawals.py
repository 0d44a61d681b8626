"""Withdrawals: only ever added, and of all that concern a certificate the gravest counts."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from storage.registry import certificates, devices, products, row
from storage.registry.errors import CertificateUnknownError, TwoPeopleError
from storage.registry.gravity import gravest
from storage.registry.rows import (
    TWO_PEOPLE,
    IssuedCertificate,
    Status,
    Target,
    TargetKind,
    Withdrawal,
    Withdrawn,
)
from storage.registry.tables import certificate as issued
from storage.registry.tables import withdrawal as table

_COLUMNS = (
    table.c.kind,
    table.c.name,
    table.c.reason,
    table.c.revoked_at,
    table.c.compromised_since,
    table.c.by,
    table.c.entry,
)


def add(connection: sa.Connection, withdrawal: Withdrawal) -> None:
    """Record a withdrawal, and that a withdrawn device is revoked; the same again changes nothing.

    That those named in `by` are operators, and agreed, is for the caller to know.
    """
    target = withdrawal.target
    if target.kind in (TargetKind.PRODUCT, TargetKind.CA) and len(set(withdrawal.by)) < TWO_PEOPLE:
        raise TwoPeopleError(f"One person does not withdraw a {target.kind}.")
    match target.kind:
        case TargetKind.CERTIFICATE:
            if certificates.by_digest(connection, bytes.fromhex(target.name)) is None:
                raise CertificateUnknownError(f"No certificate {target.name} was issued here.")
        case TargetKind.DEVICE:
            devices.get(connection, target.name)
        case TargetKind.PRODUCT:
            products.get(connection, target.name)
        case TargetKind.CA:
            pass  # the key of a CA that issued nothing yet may be lost as well
    if withdrawal in _asked(connection, table.c.kind == target.kind, table.c.name == target.name):
        return
    added = {
        "number": row.following(connection, table.c.number),
        "kind": target.kind,
        "name": target.name,
        "digest": target.digest,
        "reason": withdrawal.reason,
        "revoked_at": withdrawal.revoked_at,
        "compromised_since": withdrawal.compromised_since,
        "by": json.dumps(withdrawal.by, ensure_ascii=False),
        "entry": withdrawal.entry,
    }
    connection.execute(sa.insert(table).values(added))
    if target.kind is TargetKind.DEVICE:
        devices.set_status(connection, target.name, Status.REVOKED, withdrawal.revoked_at, withdrawal.reason)


def every(connection: sa.Connection) -> Sequence[Withdrawal]:
    """Return all withdrawals in the order of recording."""
    return _asked(connection)


def of(connection: sa.Connection, certificate: IssuedCertificate) -> Withdrawal | None:
    """Return what counts of the withdrawals of the certificate, its device, its product and its issuer."""
    concerned = (
        Target.of_certificate(certificate.sha256),
        Target.of_device(certificate.device),
        Target.of_product(certificate.product),
        Target.of_ca(certificate.issuer_key_id),
    )
    return gravest(
        _asked(
            connection,
            sa.or_(*((table.c.kind == target.kind) & (table.c.name == target.name) for target in concerned)),
        )
    )


def listed(connection: sa.Connection, issuer_key_id: bytes, at: datetime) -> Sequence[Withdrawn]:
    """Return the issuer's withdrawn certificates that have not expired at a moment, each with what counts."""
    found: dict[IssuedCertificate, list[Withdrawal]] = {}
    width = len(_COLUMNS)
    for kind, same in {
        TargetKind.CERTIFICATE: table.c.digest == issued.c.sha256,
        TargetKind.DEVICE: table.c.name == issued.c.device,
        TargetKind.PRODUCT: table.c.name == issued.c.product,
        TargetKind.CA: table.c.digest == issued.c.issuer_key_id,
    }.items():
        asked = (
            row.columns(issued, IssuedCertificate)
            .add_columns(*_COLUMNS)
            .join(table, same)
            .where(table.c.kind == kind, issued.c.issuer_key_id == issuer_key_id, issued.c.not_after >= at)
        )
        for joined in connection.execute(asked):
            found.setdefault(IssuedCertificate(*joined[:-width]), []).append(_withdrawal(joined[-width:]))
    withdrawn = (
        Withdrawn(each, worst) for each, all_ in found.items() if (worst := gravest(all_)) is not None
    )
    return tuple(sorted(withdrawn, key=lambda each: (each.certificate.entry, each.certificate.sha256)))


def _asked(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> Sequence[Withdrawal]:
    asked = sa.select(*_COLUMNS).where(*where).order_by(table.c.number)
    return tuple(_withdrawal(found) for found in connection.execute(asked))


def _withdrawal(found: Sequence[Any]) -> Withdrawal:
    kind, name, reason, revoked_at, compromised_since, by, entry = found
    return Withdrawal(Target(kind, name), reason, revoked_at, compromised_since, tuple(json.loads(by)), entry)
