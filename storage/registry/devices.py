"""Devices: their status goes only where it may, and says why; their first pin stays."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa

from storage.registry import products, row
from storage.registry.errors import (
    DeviceKnownError,
    DevicePendingError,
    DeviceRetiredError,
    DeviceRevokedError,
    DeviceSuspendedError,
    DeviceUnknownError,
    PinConflictError,
    StatusError,
)
from storage.registry.rows import TRANSITIONS, Device, Status, StatusChange
from storage.registry.tables import device as table
from storage.registry.tables import status as changes

_SILENT: dict[Status, type[StatusError]] = {
    Status.PENDING: DevicePendingError,
    Status.SUSPENDED: DeviceSuspendedError,
    Status.REVOKED: DeviceRevokedError,
    Status.RETIRED: DeviceRetiredError,
}
_BEGINNINGS = (Status.PENDING, Status.ACTIVE)


def add(connection: sa.Connection, device: Device) -> None:
    """Record a new device; the same again changes nothing."""
    products.get(connection, device.product)
    found = connection.execute(
        row.columns(table, Device).where((table.c.name == device.name) | (table.c.salt == device.salt))
    ).all()
    if [Device(*known) for known in found] == [device]:
        return
    if found:
        raise DeviceKnownError(f"There is another device {device.name}, or one with its salt.")
    if device.status not in _BEGINNINGS:
        raise StatusError(f"A device does not begin as {device.status}.")
    connection.execute(sa.insert(table).values(row.values(device)))


def get(connection: sa.Connection, name: str) -> Device:
    """Return a device."""
    found = connection.execute(row.columns(table, Device).where(table.c.name == name)).one_or_none()
    if found is None:
        raise DeviceUnknownError(f"There is no device {name}.")
    return Device(*found)


def every(connection: sa.Connection) -> Sequence[Device]:
    """Return all devices, by name."""
    return tuple(
        Device(*found) for found in connection.execute(row.columns(table, Device).order_by(table.c.name))
    )


def require_heard(device: Device) -> None:
    """Refuse a device whose captures are not taken; a suspect's are."""
    if (refusal := _SILENT.get(device.status)) is not None:
        raise refusal(f"The device {device.name} is {device.status}.")


def set_status(connection: sa.Connection, name: str, status: Status, at: datetime, why: str) -> Device:
    """Let a device go to another status, and keep that it did; the same status changes nothing."""
    device = get(connection, name)
    if device.status is status:
        return device
    if status not in TRANSITIONS[device.status]:
        raise StatusError(f"The device {name} is {device.status} and does not become {status}.")
    change = StatusChange(name, device.status, status, at, why)
    number = row.following(connection, changes.c.number, changes.c.device == name)
    connection.execute(sa.insert(changes).values(number=number, **row.values(change)))
    connection.execute(sa.update(table).where(table.c.name == name).values(status=status))
    return replace(device, status=status)


def status_changes(connection: sa.Connection, name: str) -> Sequence[StatusChange]:
    """Return every change of a device's status, oldest first."""
    get(connection, name)
    asked = row.columns(changes, StatusChange).where(changes.c.device == name).order_by(changes.c.number)
    return tuple(StatusChange(*found) for found in connection.execute(asked))


def lower_custody(connection: sa.Connection, name: str, custody: str) -> None:
    """Let a device's label be no more than this; labels go up with their letters."""
    lower = (table.c.name == name, table.c.custody > custody)
    connection.execute(sa.update(table).where(*lower).values(custody=custody))


def pin(connection: sa.Connection, name: str, pin: bytes, custody: str) -> Device:
    """Keep what a device's first attestation showed, and its label; another pin is refused for ever."""
    device = get(connection, name)
    if device.pin not in (None, pin):
        raise PinConflictError(f"The attestation of {name} is by another key than its first.")
    values = {"custody": custody} if device.pin is not None else {"custody": custody, "pin": pin}
    connection.execute(sa.update(table).where(table.c.name == name).values(values))
    return replace(device, pin=pin, custody=custody)
