"""The trust lists of a home: one file each, in the folder `trust`.

A list that is added is read whole before anything is written, appears under its
name in one step, and never replaces another. `signers.pem` and `time-stampers.pem`,
which every home has, may be bare certificates; every other file says of itself
what it is for. Nothing here says whom to believe: adding a list is that decision.
"""

import errno
import os
import re
import stat
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

from authn.errors import CertificateError
from authn.plain import plain
from authn.profile import Profile
from authn.trust import MAX_LIST_BYTES, Purpose, TrustList
from tools.errors import (
    DiskFullError,
    Error,
    NotAFileError,
    UnreadableError,
    UnwritableError,
    UsageError,
)

SHIPPED = Path(__file__).with_name("lists")

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_BARE = {
    "signers": (Purpose.SIGNING, Profile.POLICY),
    "time-stampers": (Purpose.TIME_STAMPING, Profile.TIME_STAMPING),
}
_USUAL = {
    Purpose.SIGNING: Profile.SPECIFICATION,
    Purpose.TIME_STAMPING: Profile.TIME_STAMPING,
    Purpose.IDENTITY: Profile.SPECIFICATION,
}


class ListUnknownError(Error):
    """No trust list has this name."""

    code: ClassVar[str] = "list-unknown"
    remedy: ClassVar[str] = "See the names with 'lightseal trust list'."


class ListExistsError(Error):
    """A trust list of this name is already there."""

    code: ClassVar[str] = "list-exists"
    remedy: ClassVar[str] = "Choose another name, or remove the old list with 'lightseal trust remove'."


class ListRefusedError(Error):
    """What was to be added cannot be a trust list of the kind that was asked for; nothing was written."""

    code: ClassVar[str] = "list-refused"
    remedy: ClassVar[str] = "Get the list from its publisher again, and say with --purpose what it is for."


class ListDamagedError(Error):
    """A trust list of this home cannot be read, so nobody can say whom this home believes."""

    code: ClassVar[str] = "list-damaged"
    remedy: ClassVar[str] = "Put the file back from a backup, or remove it with 'lightseal trust remove'."


class ListStrayError(ListDamagedError):
    """What stands among the trust lists can be no list, and no command would delete it."""

    remedy: ClassVar[str] = "Move it out of the home's folder 'trust' by hand; no list can stand there so."


class ListFolderError(ListDamagedError):
    """The folder of the trust lists is not there or may not be read."""

    remedy: ClassVar[str] = (
        "Put the home's folder 'trust' back from a backup, or put right who may read and search it."
    )


@dataclass(frozen=True, slots=True)
class ListFile:
    """A trust list as it travels to a worker: a name, PEM bytes, what it is for, and the profile it asks."""

    name: str
    pem: bytes
    purpose: Purpose
    profile: Profile

    def parse(self) -> TrustList:
        """The list itself, under the name it has here: what its publisher calls it decides nothing."""
        listed = TrustList.parse(self.pem, self.name, self.purpose, self.profile)
        return replace(listed, name=self.name)


def shipped() -> tuple[str, ...]:
    """The names of the lists that come with Lightseal. None is believed until it is added."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.pem")))


def add(
    folder: Path,
    source: Path | str,
    name: str,
    purpose: Purpose | None,
    profile: Profile | None,
    now: datetime,
) -> TrustList:
    """Put a list into the folder under `name`: the file `source`, or the shipped list of that name.

    `purpose` and `profile` are for certificates that do not say; a list that says
    something else is refused. It is copied as it is; bare certificates get a header.
    Returned is the list under the name it has here, whatever its publisher calls it.
    """
    # 1. The name, before anything is read.
    if _NAME.fullmatch(name) is None:
        raise UsageError("a list's name is 1 to 64 of a-z, 0-9, dot, dash and underscore")
    place = folder / f"{name}.pem"
    if os.path.lexists(place):
        raise ListExistsError(f"this home already has a trust list named {name}")
    # 2. The whole list, and whether it is what was asked for.
    data = _source(source)
    try:
        listed, data = _described(data, name, purpose, profile)
    except CertificateError as error:
        raise ListRefusedError(str(error)) from error
    _require(listed, name, profile, now)
    # 3. The file: written beside its place, and named only when it is complete.
    _place(data, place)
    return replace(listed, name=name)


def installed(folder: Path) -> tuple[tuple[str, TrustList], ...]:
    """Every list of the folder with its name, in the order of the names."""
    return tuple((file.name, file.parse()) for file in list_files(folder))


def list_files(folder: Path) -> tuple[ListFile, ...]:
    """As `installed`, in the form that travels; each is known to parse.

    One that cannot be read keeps all from being used: a list left out in silence
    would make a signer look unknown.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".pem" and path.name[0] != ".")
    except OSError as error:
        raise _unread(error) from error
    return tuple(_installed(path) for path in paths)


def require_installed(folder: Path, name: str) -> None:
    """Refuse a name under which nothing is installed."""
    if not os.path.lexists(_place_of(folder, name)):
        raise _absent(folder, name)


def remove(folder: Path, name: str) -> None:
    """Delete the file of exactly this list, whether or not it can be read; a link is deleted, not its target."""
    place = _place_of(folder, name)
    try:
        place.unlink()
        _sync(folder)
    except FileNotFoundError as error:
        raise _absent(folder, name) from error
    except OSError as error:
        raise UnwritableError(f"{place.name} cannot be removed ({error.strerror})") from error


def show(folder: Path, name: str, now: datetime) -> str:
    """What a list says of itself, whether it is stale at `now`, and whom it names; a line for each anchor."""
    place = _place_of(folder, name)
    try:
        place.lstat()
    except FileNotFoundError as error:
        raise _absent(folder, name) from error
    except OSError as error:
        raise _unread(error) from error
    file = _installed(place)
    listed = TrustList.parse(file.pem, file.name, file.purpose, file.profile)
    lines = [
        f"{name}: {listed.name}",
        f"  purpose  {listed.purpose}",
        f"  profile  {listed.profile}",
        f"  version  {listed.version or 'not stated'}",
        f"  dated    {_age(listed, now)}",
        f"  source   {listed.source or 'not stated'}",
        f"  hosts    {' '.join(listed.hosts) or 'none may be asked about withdrawal'}",
        f"  sha256   {listed.sha256.hex()}",
        f"  anchors  {len(listed.anchors)}",
    ]
    for anchor in listed.anchor_facts():
        over = "expired" if anchor.not_after < now else "until"
        lines.append(f"    {anchor.subject}, {over} {anchor.not_after:%Y-%m-%d}, SHA-256 {anchor.sha256}")
    return "\n".join(lines) + "\n"


def _age(listed: TrustList, now: datetime) -> str:
    if listed.dated is None:
        return "not stated, so it is not known whether the list is current"
    if listed.fresh_days is None:
        return f"{listed.dated}, and not stated for how long"
    if listed.stale(now):
        return f"{listed.dated}, for {listed.fresh_days} days: STALE, get a newer one from its publisher"
    return f"{listed.dated}, for {listed.fresh_days} days"


def _described(
    data: bytes, name: str, purpose: Purpose | None, profile: Profile | None
) -> tuple[TrustList, bytes]:
    """The list in `data` with the bytes to keep: its own, or with a header if it has none."""
    try:
        listed = TrustList.read(data)
    except CertificateError:
        if purpose is None:
            raise
    else:
        if purpose is not None and listed.purpose is not purpose:
            raise CertificateError(f"the list is for {listed.purpose}, not for {purpose}")
        return listed, data
    described = TrustList.parse(data, name, purpose, profile or _USUAL[purpose]).described()
    return TrustList.read(described), described


def _require(listed: TrustList, name: str, profile: Profile | None, now: datetime) -> None:
    if profile is not None and listed.profile is not profile:
        raise ListRefusedError(f"the list is for the profile {listed.profile}, not for {profile}")
    if name in _BARE and listed.purpose is not _BARE[name][0]:
        raise ListRefusedError(f"the name {name} is kept for a list for {_BARE[name][0]}")
    # A list from tomorrow would not grow stale when it should; a day is left for time zones.
    if listed.dated is not None and listed.dated > (now.astimezone(UTC) + timedelta(days=1)).date():
        raise ListRefusedError(f"the list is dated {listed.dated}, which is still to come")


def _source(source: Path | str) -> bytes:
    if isinstance(source, Path):
        return _read(source)
    if source not in shipped():
        raise ListUnknownError(
            f"no list of this name comes with Lightseal; there are {', '.join(shipped()) or 'none'}"
        )
    return _read(SHIPPED / f"{source}.pem")


def _read(path: Path) -> bytes:
    """The bytes of a regular file, one more than a list may have at most; a pipe is not waited for."""
    name = plain(path.name, 100)
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NotAFileError(f"{name} is not a file")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(MAX_LIST_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UnreadableError(f"{name} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UnreadableError(f"{name} cannot be read (no file can have this name)") from error


def _installed(path: Path) -> ListFile:
    if _NAME.fullmatch(path.stem) is None:
        raise ListStrayError(f"the file {path.name!a} among the trust lists has a name that no list can have")
    try:
        data = _read(path)
        bare = _BARE.get(path.stem)
        listed = TrustList.read(data) if bare is None else TrustList.parse(data, path.stem, *bare)
    except (CertificateError, NotAFileError, UnreadableError) as error:
        if stat.S_ISDIR(_mode(path)):
            raise ListStrayError(f"{path.name} among the trust lists is a folder") from error
        raise ListDamagedError(f"the trust list {path.name} cannot be used: {error}") from error
    return ListFile(path.stem, data, listed.purpose, listed.profile)


def _place(data: bytes, place: Path) -> None:
    try:
        descriptor, temporary = tempfile.mkstemp(
            prefix=f".{place.stem}.", suffix=".partial", dir=place.parent
        )
        partial = Path(temporary)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 (a descriptor has no path)
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            partial.chmod(0o644)
            # A crash up to here leaves a hidden file that no reader looks at.
            _publish(partial, place)
        finally:
            partial.unlink(missing_ok=True)
        _sync(place.parent)
    except FileExistsError as error:
        raise ListExistsError(f"this home already has a trust list named {place.stem}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFullError(f"no space is left for {place.name}") from error
        raise UnwritableError(f"{place.name} cannot be written ({error.strerror})") from error


def _publish(partial: Path, place: Path) -> None:
    """Give a finished file its name without ever replacing another."""
    try:
        os.link(partial, place)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: reserve the name, then take it
        place.open("xb").close()
        try:
            partial.replace(place)
        except OSError:
            place.unlink(missing_ok=True)
            raise


def _place_of(folder: Path, name: str) -> Path:
    if _NAME.fullmatch(name) is None:
        raise ListUnknownError("a list's name is 1 to 64 of a-z, 0-9, dot, dash and underscore")
    return folder / f"{name}.pem"


def _absent(folder: Path, name: str) -> Error:
    """Without the folder nobody can say which lists there are."""
    if os.path.lexists(folder):
        return ListUnknownError(f"this home has no trust list named {name}")
    return ListFolderError("the folder of trust lists is missing")


def _unread(error: OSError) -> ListFolderError:
    return ListFolderError(f"the folder of trust lists cannot be read ({error.strerror})")


def _mode(path: Path) -> int:
    """What stands at `path`, a link being a link; 0 if that is not known."""
    try:
        return path.lstat().st_mode
    except OSError:
        return 0


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
