"""The folder of a device that captures: who it is, where its keys are, and whom it reports to.

    device.json   name, URI of the key, lifetime, address of the service, keys of its ledger
    chain.pem     the certificate of that key, and the authority's above it; after a renewal under
                  the name that device.json says, so that key and certificate change as one
    key.pem       the key itself, where it is a file
    pool/         for one-time devices: NNNNNN.json names a key, NNNNNN.pem its chain; used up in order
    checkpoint    the newest one of the ledger that the device was shown
    chain/        the last number and link (`tools.camera.chain`)
    queue/        one folder per capture (`tools.camera.queue`)

Readable by its owner alone. A key named by a relative `file:` or `tpm:` address lies in the
folder itself, so that the folder can be moved. Files are written whole or not at all.
"""

import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from authn.device import Device, read_chain
from authn.errors import CertificateError
from storage import durable
from storage.errors import MalformedKeyError
from storage.note import VerifierKey
from tools.errors import Error, OutputExistsError, UnwritableError
from tools.home import chain_file, content_of, open_key_in
from tools.output import put_whole

SCHEMA = "lightseal-camera/1"
ONE_TIME = "one-time"
CHECKPOINT = "checkpoint"
OWNER_ONLY = 0o700
_SUPERSEDED = re.compile(r"(key-[0-9a-f]{8}\.(pem|tss)|key\.pem|chain(-[0-9a-f]{8})?\.pem)")
_POOLED = re.compile(r"([0-9]{6})\.json", re.ASCII)
_MAX_POOL = 999_999
_SALT_BYTES = 32


class CameraMissingError(Error):
    """There is no camera folder where one was named."""

    code: ClassVar[str] = "camera-missing"
    remedy: ClassVar[str] = "Name the device's folder, or enrol it with 'lightseal device join'."


class CameraDamagedError(Error):
    """A part of the camera folder is missing or cannot be read."""

    code: ClassVar[str] = "camera-damaged"
    remedy: ClassVar[str] = "Keep a copy of the folder; enrol the device again under a new name."


class CameraBusyError(Error):
    """Another process makes keys for the same folder."""

    code: ClassVar[str] = "camera-busy"
    remedy: ClassVar[str] = "Wait until the other 'lightseal device join' or 'device renew' ended."


class PoolEmptyError(Error):
    """Every one-time certificate was used."""

    code: ClassVar[str] = "pool-empty"
    remedy: ClassVar[str] = "Connect the device to its service and fetch new one-time certificates."


@dataclass(frozen=True, slots=True)
class Camera:
    """A device's folder as `device.json` describes it. `salt` keeps strangers from linking its entries."""

    path: Path
    name: str
    key: str
    salt: bytes
    lifetime: str = "standard"
    service: str | None = None
    log_keys: tuple[VerifierKey, ...] = ()
    entry: int | None = None
    chain: str = "chain.pem"

    @property
    def one_time(self) -> bool:
        """Whether every capture has a key and a certificate of its own."""
        return self.lifetime == ONE_TIME

    def device(self) -> Device:
        """The device with its lasting key as it is now: it may have been renewed since the folder was read.

        A one-time device signs nothing with it but enrolments.
        """
        present = read_camera(self.path)
        return _device(self, present.key, self.path / present.chain)

    def pooled(self, number: int) -> Device:
        """The device with the key of one place of its pool."""
        place = self.path / "pool" / f"{number:06}.json"
        try:
            key = json.loads(content_of(place))["key"]
        except FileNotFoundError as error:
            raise PoolEmptyError(f"the pool of {self.name} has no certificate {number}") from error
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise CameraDamagedError(f"{place} cannot be read") from error
        return _device(self, str(key), place.with_suffix(".pem"))

    def pool(self) -> tuple[int, ...]:
        """The numbers of the one-time certificates that are there, used or not."""
        folder = self.path / "pool"
        found = (_POOLED.fullmatch(each.name) for each in folder.iterdir()) if folder.is_dir() else ()
        return tuple(sorted(int(each[1]) for each in found if each is not None))

    def drop(self, number: int) -> None:
        """Forget a key that signed and dated its one capture; a key that is no file is its keeper's to forget."""
        for place in (self.path / "pool").glob(f"{number:06}.*"):
            place.unlink(missing_ok=True)


def read_camera(path: Path) -> Camera:
    """The camera in a folder; opens no key."""
    try:
        about = json.loads(content_of(path / "device.json"))
        salt = bytes.fromhex(about["salt"])
        keys = tuple(map(VerifierKey.parse_log, about.get("log_keys", [])))
        camera = Camera(
            path,
            str(about.get("name", path.absolute().name)),
            str(about.get("key", "file:key.pem")),
            salt,
            str(about.get("lifetime", "standard")),
            about.get("service"),
            keys,
            about.get("entry"),
            chain_file(about),
        )
        whole = (
            about.get("schema", SCHEMA) == SCHEMA
            and len(salt) == _SALT_BYTES
            and isinstance(about.get("service"), str | None)
            and isinstance(about.get("entry"), int | None)
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CameraMissingError(f"there is no device at {path}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CameraDamagedError(f"{path / 'device.json'} cannot be read") from error
    except MalformedKeyError as error:
        raise CameraDamagedError(f"{path / 'device.json'} names a ledger key that is none") from error
    if not whole:
        raise CameraDamagedError(f"{path / 'device.json'} was made by another version, or is damaged")
    return camera


def create_camera(camera: Camera, chain_pem: bytes, files: Sequence[tuple[str, bytes]] = ()) -> None:
    """Make the folder with everything in it, or nothing; `files` are others of it, such as key.pem."""
    with workplace(camera.path.with_name(f".{camera.path.name}.new")) as place:
        building = place / "camera"
        building.mkdir(mode=OWNER_ONLY)
        for file, content in (*files, (camera.chain, chain_pem), ("device.json", _described(camera))):
            put_private(building / file, content)
        if camera.path.exists() and any(camera.path.iterdir()):
            raise OutputExistsError(f"something else stands at {camera.path}")
        building.rename(camera.path)


def update_camera(camera: Camera, chain_pem: bytes) -> Camera:
    """Let the folder be as `camera` says, with a new chain: one rename replaces key and chain together."""
    renewed = replace(camera, chain=f"chain-{secrets.token_hex(4)}.pem")
    put_private(camera.path / renewed.chain, chain_pem)
    # The point of no return: before it, the old key goes with the old chain; after it, the new with the new.
    put_private(camera.path / "device.json", _described(renewed))
    durable.sync_folder(camera.path / "device.json")
    return renewed


def clear_superseded(camera: Camera) -> None:
    """Forget the keys and chains of the folder that were made for a renewal and are not, or no longer, in use."""
    used = {
        camera.chain,
        camera.key.partition("?")[0].rpartition("/")[2].removeprefix("file:").removeprefix("tpm:"),
    }
    for place in camera.path.iterdir():
        if _SUPERSEDED.fullmatch(place.name) is not None and place.name not in used:
            place.unlink(missing_ok=True)


@contextmanager
def workplace(path: Path) -> Iterator[Path]:
    """A folder for its owner alone, empty and nobody else's while the block lasts; gone afterwards.

    What a killed process left in it is gone at the next beginning.
    """
    with ExitStack() as stack:
        descriptor = _claimed(path)
        stack.callback(os.close, descriptor)
        stack.callback(shutil.rmtree, path, ignore_errors=True)
        _empty(path)
        yield path


def _claimed(path: Path) -> int:
    """The descriptor of the folder, which is locked and still stands at its place."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=OWNER_ONLY, exist_ok=True)
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:  # its last user took it away in between
            continue
        except OSError as error:
            raise UnwritableError(f"{path} cannot be used ({error.strerror or 'unknown reason'})") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                _require_own(path, descriptor)
                return descriptor
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(descriptor)
            raise CameraBusyError(f"another process makes keys in {path.parent} at this moment") from error
        os.close(descriptor)


def _require_own(path: Path, descriptor: int) -> None:
    """Whoever made the folder before us could keep it open to others."""
    if os.fstat(descriptor).st_uid != os.geteuid():
        os.close(descriptor)
        raise UnwritableError(f"{path} belongs to another user")
    os.fchmod(descriptor, OWNER_ONLY)


def _empty(folder: Path) -> None:
    for place in folder.iterdir():
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink()


def add_pool(camera: Camera, certificates: Sequence[tuple[str, bytes]]) -> tuple[int, ...]:
    """Put one-time certificates behind those that are there: for each, the key's URI and its chain in PEM."""
    folder = camera.path / "pool"
    folder.mkdir(mode=OWNER_ONLY, exist_ok=True)
    counted = folder / "last"
    last = max(*camera.pool(), int(content_of(counted)) if counted.exists() else 0, 0)
    numbers = tuple(range(last + 1, last + 1 + len(certificates)))
    if numbers and numbers[-1] > _MAX_POOL:
        raise CameraDamagedError("the pool's numbers are used up; enrol the device under a new name")
    if numbers:  # first: a number is never given twice, whatever is dropped meanwhile
        put_private(counted, str(numbers[-1]).encode())
    for number, (key, chain_pem) in zip(numbers, certificates, strict=True):
        put_private(folder / f"{number:06}.pem", chain_pem)
        put_private(folder / f"{number:06}.json", json.dumps({"key": key}).encode() + b"\n")
    return numbers


def key_address(path: Path, address: str) -> str:
    """The key's URI, where a relative path of a key's file is taken as one in the camera folder."""
    scheme, colon, rest = address.partition(":")
    if scheme in ("file", "tpm") and colon and not rest.startswith("/"):
        return f"{scheme}:{path.absolute() / rest}"
    return address


def put_private(path: Path, data: bytes) -> None:
    """Write a file whole, for its owner alone; the folder around it already keeps others out."""
    put_whole(path, data)
    path.chmod(0o600)


def _device(camera: Camera, key: str, chain: Path) -> Device:
    try:
        certificates = read_chain(content_of(chain))
    except (OSError, CertificateError) as error:
        raise CameraDamagedError(f"{chain} cannot be read") from error
    if not certificates:
        raise CameraDamagedError(f"{chain} holds no certificate")
    return Device(camera.name, open_key_in(camera.path, key), certificates, camera.salt)


def _described(camera: Camera) -> bytes:
    about = {
        "chain": camera.chain,
        "entry": camera.entry,
        "key": camera.key,
        "lifetime": camera.lifetime,
        "log_keys": [str(key) for key in camera.log_keys],
        "name": camera.name,
        "salt": camera.salt.hex(),
        "schema": SCHEMA,
        "service": camera.service,
    }
    return json.dumps(about, indent=1, sort_keys=True).encode() + b"\n"
