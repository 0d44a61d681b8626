"""A small file that outlives a crash: locked, and replaced whole or not at all.

Replacing a file makes a new inode, so a lock counts only while the path still
names the inode that was locked; the functions here look again until it does.
`flock` binds those who ask for it, and on a network file system only where that
file system says so. Whether a disk keeps what it said it kept is not verified.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from storage.errors import DiskFullError, FileFailedError, LedgerError, ReadOnlyError

OWNER_ONLY = 0o600
MAX_BYTES = 256 << 20
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def reading(path: Path) -> AbstractContextManager[int]:
    """Open `path` for reading while nobody changes it."""
    return _locked(path, os.O_RDONLY, fcntl.LOCK_SH)


def changing(path: Path) -> AbstractContextManager[int]:
    """Open `path` while nobody else reads or changes it."""
    return _locked(path, os.O_RDWR, fcntl.LOCK_EX)


def appending(path: Path) -> AbstractContextManager[int]:
    """Open `path` as `changing` does; every write lands at its end."""
    return _locked(path, os.O_RDWR | os.O_APPEND, fcntl.LOCK_EX)


@contextmanager
def creating(path: Path) -> Iterator[None]:
    """Claim `path` for its first `replace`; raise FileExistsError if it holds anything.

    An empty file is a creation that a crash cut short: nobody was told of it.
    """
    with _locked(path, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX) as descriptor:
        if os.fstat(descriptor).st_size:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        yield


def replace(path: Path, data: bytes) -> None:
    """Let `path` hold `data`, durably, or leave it as it was. The caller holds the lock on `path`."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_ONLY)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    except OSError:
        new.unlink()
        raise
    finally:
        os.close(descriptor)
    new.replace(path)
    sync_folder(path)


def sync_folder(path: Path) -> None:
    """Make durable which inode `path` names."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(descriptor: int, start: int = 0) -> bytes:
    """Return what the file holds from `start` to its end; one larger than `MAX_BYTES` is not read."""
    parts, size = [], os.fstat(descriptor).st_size
    if size > MAX_BYTES:
        raise OSError(errno.EOVERFLOW, "it is larger than anything we write")
    while start < size and (part := os.pread(descriptor, size - start, start)):
        parts.append(part)
        start += len(part)
    return b"".join(parts)


@contextmanager
def explaining(path: Path, missing: type[LedgerError]) -> Iterator[None]:
    """Name in our words what the system refused: no file, no permission, no room."""
    try:
        yield
    except FileExistsError:
        raise  # the caller knows what was to be made
    except FileNotFoundError as error:
        raise missing(f"There is no file {path}.") from error
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFullError(f"There is no room to write {path}.") from error
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise ReadOnlyError(f"The system does not let us use {path}: {error.strerror}.") from error
        raise FileFailedError(f"The system failed on {path}: {error.strerror}.") from error


@contextmanager
def _locked(path: Path, flags: int, lock: int) -> Iterator[int]:
    while True:
        # Without waiting: a pipe in the place of a file would never open.
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, OWNER_ONLY)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is not a file")
            fcntl.flock(descriptor, lock)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                yield descriptor
                return
        finally:
            # Said aloud, for a duplicate of the descriptor would hold the lock as well.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)
