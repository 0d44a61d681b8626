"""Keys and certificates: a public key is certified at most once, ever."""

from collections.abc import Iterator, Sequence
from datetime import datetime

import sqlalchemy as sa

from storage.registry import devices, row
from storage.registry.errors import CertificateKnownError, KeyReusedError
from storage.registry.rows import IssuedCertificate, Target, TargetKind
from storage.registry.tables import certificate as table
from storage.registry.tables import key as keys

_PART = 256


def reserve(connection: sa.Connection, spki_sha256s: Sequence[bytes], device: str, at: datetime) -> None:
    """Let a device have these keys certified; all of them or none, and none of them twice."""
    devices.get(connection, device)
    if len(set(spki_sha256s)) != len(spki_sha256s):
        raise KeyReusedError("The same public key is asked for twice.")
    for part in _parts(spki_sha256s):
        if connection.execute(sa.select(keys.c.device).where(keys.c.spki_sha256.in_(part))).first():
            raise KeyReusedError("The public key was certified before, or was to be.")
    if spki_sha256s:
        rows = [{"spki_sha256": digest, "device": device, "at": at} for digest in spki_sha256s]
        connection.execute(sa.insert(keys), rows)


def add(connection: sa.Connection, certificates: Sequence[IssuedCertificate]) -> None:
    """Record what was issued, all of it or nothing; the same again changes nothing.

    A key that nobody reserved is taken by this.
    """
    for certificate in certificates:
        if (known := by_digest(connection, certificate.sha256)) is not None:
            if known != certificate:
                raise CertificateKnownError("The certificate is recorded with other words.")
            continue
        owner = connection.scalar(
            sa.select(keys.c.device).where(keys.c.spki_sha256 == certificate.spki_sha256)
        )
        if owner is None:
            reserve(connection, [certificate.spki_sha256], certificate.device, certificate.not_before)
        elif owner != certificate.device:
            raise KeyReusedError("The public key is another device's.")
        if _one(connection, table.c.spki_sha256 == certificate.spki_sha256) is not None:
            raise KeyReusedError("The public key was certified before.")
        if by_serial(connection, certificate.issuer_key_id, certificate.serial) is not None:
            raise CertificateKnownError(f"The issuer used the serial {certificate.serial} before.")
        connection.execute(sa.insert(table).values(row.values(certificate)))


def by_digest(connection: sa.Connection, sha256: bytes) -> IssuedCertificate | None:
    """Return the certificate whose DER has this SHA-256."""
    return _one(connection, table.c.sha256 == sha256)


def by_serial(connection: sa.Connection, issuer_key_id: bytes, serial: str) -> IssuedCertificate | None:
    """Return the certificate by what a CRL or an OCSP request calls it."""
    return _one(connection, table.c.issuer_key_id == issuer_key_id, table.c.serial == serial)


def of(connection: sa.Connection, target: Target) -> Sequence[IssuedCertificate]:
    """Return every certificate that a withdrawal of the target would concern, by its entry."""
    where = {
        TargetKind.CERTIFICATE: table.c.sha256,
        TargetKind.DEVICE: table.c.device,
        TargetKind.PRODUCT: table.c.product,
        TargetKind.CA: table.c.issuer_key_id,
    }[target.kind]
    name = target.name if target.digest is None else target.digest
    asked = row.columns(table, IssuedCertificate).where(where == name)
    return tuple(
        IssuedCertificate(*found)
        for found in connection.execute(asked.order_by(table.c.entry, table.c.sha256))
    )


def _one(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> IssuedCertificate | None:
    found = connection.execute(row.columns(table, IssuedCertificate).where(*where)).one_or_none()
    return None if found is None else IssuedCertificate(*found)


def _parts(digests: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (digests[at : at + _PART] for at in range(0, len(digests), _PART))
