"""The folder of a device that captures: who it is, where its keys are, and whom it reports to.

    device.json   name, URI of the key, lifetime, address of the service, keys of its ledger
    chain.pem     the certificate of that key, and the authority's above it
    key.pem       the key itself, where it is a file
    pool/         for one-time devices: NNNNNN.json names a key, NNNNNN.pem its chain; used up in order
    chain/        the last number and link (`tools.camera.chain`)
    queue/        one folder per capture (`tools.camera.queue`)

Readable by its owner alone. A key named by a relative `file:` or `tpm:` address lies in the
folder itself, so that the folder can be moved. Files are written whole or not at all.
"""

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from authn.device import Device, read_chain
from authn.errors import CertificateError
from storage.errors import MalformedKeyError
from storage.note import VerifierKey
from tools.errors import Error, OutputExistsError
from tools.home import content_of, open_key_in
from tools.output import put_whole

SCHEMA = "lightseal-camera/1"
ONE_TIME = "one-time"
OWNER_ONLY = 0o700
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

    @property
    def one_time(self) -> bool:
        """Whether every capture has a key and a certificate of its own."""
        return self.lifetime == ONE_TIME

    def device(self) -> Device:
        """The device with its lasting key; a one-time device signs nothing with it but enrolments."""
        return _device(self, self.key, self.path / "chain.pem")

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
    camera.path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{camera.path.name}.", dir=camera.path.parent, ignore_cleanup_errors=True
    ) as name:
        building = Path(name) / "camera"
        building.mkdir(mode=OWNER_ONLY)
        for file, content in (*files, ("chain.pem", chain_pem), ("device.json", _described(camera))):
            put_private(building / file, content)
        if camera.path.exists() and any(camera.path.iterdir()):
            raise OutputExistsError(f"something else stands at {camera.path}")
        building.rename(camera.path)


def update_camera(camera: Camera, chain_pem: bytes | None = None) -> None:
    """Replace `device.json`, and the chain where it is given, each as a whole file."""
    if chain_pem is not None:
        put_private(camera.path / "chain.pem", chain_pem)
    put_private(camera.path / "device.json", _described(camera))


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
