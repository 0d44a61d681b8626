"""One way to write a file of ours: whole or not at all, and over nothing but an earlier one of ours.

What stands at the place is judged by its first and last bytes, of which a bounded number
is read. It is not looked at again at the moment it is replaced: whoever puts a file there
in between loses it.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from authn.errors import KeyFileError
from storage import durable
from tools.errors import DiskFullError, HomeDamagedError, OutputExistsError, UnwritableError

_LOOK = 4096
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Form:
    """What a file of ours is called, and how it begins and ends, of at most 4096 bytes each."""

    name: str
    head: re.Pattern[bytes]
    tail: re.Pattern[bytes]


def require_writable(path: Path, form: Form) -> None:
    """Refuse now what `write_whole` would refuse later; what the disk holds by then is not known."""
    _require_ours(path, form)
    try:
        with _draft(path.parent):
            pass
    except OSError as error:
        raise _unwritten(path, error) from error


def write_whole(path: Path, data: bytes, form: Form) -> None:
    """Write the file whole or not at all; only an earlier one of this form is replaced."""
    _require_ours(path, form)
    try:
        put_whole(path, data)
    except OSError as error:
        raise _unwritten(path, error) from error


def put_whole(path: Path, data: bytes) -> None:
    """Put `data` at `path`, on the disk, over whatever file stands there; failures are the system's own."""
    with _draft(path.parent) as (descriptor, draft):
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
        draft.replace(path)


def made_once(path: Path, length: int) -> bytes:
    """The secret of `length` bytes in a file that is made once, whichever process comes first.

    An empty file is a making that a crash cut short: nobody was given anything made with it. Any
    other length is damage; it is never replaced, for what was made with the secret would be lost.
    """
    try:
        found = _bytes_of(path, length)
        if not found:
            with contextlib.suppress(FileExistsError), durable.creating(path):
                durable.replace(path, secrets.token_bytes(length))
            found = _bytes_of(path, length)
    except OSError as error:
        raise _unwritten(path, error) from error
    if len(found) != length:
        raise HomeDamagedError(f"{path} does not hold {length} bytes")
    return found


def require_plain(path: Path) -> os.stat_result | None:
    """What stands at `path`, which is a file or nothing; opens nothing, so no pipe or device is woken."""
    try:
        found = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise OutputExistsError(f"{path} is a link that leads nowhere") from None
        return None
    except OSError as error:
        raise _unwritten(path, error) from error
    if stat.S_ISDIR(found.st_mode):
        raise OutputExistsError(f"{path} is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise OutputExistsError(f"{path} is already there, and is no file")
    return found


def _bytes_of(path: Path, length: int) -> bytes:
    """What the file holds, and of one that is too long a little more than `length`; nothing where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise HomeDamagedError(f"{path} is not a file")
        return os.pread(descriptor, length + 1, 0)
    finally:
        os.close(descriptor)


def _require_ours(path: Path, form: Form) -> None:
    if require_plain(path) is None:
        return
    try:
        head, tail = _ends(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unwritten(path, error) from error
    if form.head.match(head) is None or form.tail.search(tail) is None:
        raise OutputExistsError(f"{path} is already there, and is no {form.name} of ours")


def _ends(path: Path) -> tuple[bytes, bytes]:
    """The first and the last bytes; what became a pipe or a device since it was looked at has none."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return b"", b""
        return os.pread(descriptor, _LOOK, 0), os.pread(descriptor, _LOOK, max(0, found.st_size - _LOOK))
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _draft(folder: Path) -> Iterator[tuple[int, Path]]:
    """A new file beside the place, under a name nobody can foresee; gone afterwards, whatever happens.

    Named before it is made, so that no signal finds it made and unnamed. The kernel applies
    the umask, which a process cannot read without changing it.
    """
    draft = folder / f".lightseal-{secrets.token_hex(8)}.partial"
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            yield descriptor, draft
        finally:
            os.close(descriptor)
    finally:
        # After the draft took its place there is nothing to remove; a failure here must not hide the first.
        with contextlib.suppress(OSError):
            draft.unlink()


def _unwritten(path: Path, error: OSError) -> DiskFullError | UnwritableError:
    if error.errno in _NO_ROOM:
        return DiskFullError(f"no space is left for {path}")
    return UnwritableError(f"{path} cannot be written ({error.strerror or 'unknown reason'})")


def _take(building: Path, place: Path) -> None:
    try:
        building.rename(place)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise OutputExistsError(f"something else stands at {place}") from error
        raise


@contextlib.contextmanager
def built_beside(place: Path) -> Iterator[Path]:
    """A new folder that takes its place only when it is complete, and is gone otherwise."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    except OSError as error:
        if _ran_full(error):
            raise DiskFullError(f"no space is left for {place}") from error
        raise UnwritableError(f"{place} cannot be made ({error.strerror})") from error
    try:
        yield building
        _take(building, place)
    except BaseException as error:
        shutil.rmtree(building, ignore_errors=True)
        if _ran_full(error):
            raise DiskFullError(f"no space is left for {place}") from error
        raise


def _ran_full(error: BaseException) -> bool:
    """Whether there was no room; a key that could not be written has the system's reason as its cause."""
    reason = error.__cause__ if isinstance(error, KeyFileError) else error
    return isinstance(reason, OSError) and reason.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
