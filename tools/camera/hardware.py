"""The number of a capture as hardware counts it: an NV counter of the TPM that keeps the device's key.

Where in the TPM the counter lies follows from the device's salt; where another's lies there already,
the next free place is taken, and `chain/counter.json` keeps which. Who loses that record is not
known again: its next counter is a new one, whose numbers begin above all that it passed by, its
own old one among them, so that only a gap is left. A TPM begins a counter above every one that
was deleted. What is not excluded: two devices that begin to count at the very same moment at
the very same place share one, and see gaps ever after.

It keeps this device's own program from giving a number twice, after a crash or when the folder
was put back from a copy. It is NOT a proof for anybody else: the reading is not certified, the
service is shown a number and not the counter, and whoever holds the key can sign any number with
another program. What the service can find out is a number that comes twice, or a gap.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from authn.custody import uri
from authn.errors import KeyFileError, KeyGoneError, KeyNotOursError
from tools.camera.chain import Counter, locked
from tools.camera.folder import Camera, CameraDamagedError, key_address, put_private
from tools.home import content_of

if TYPE_CHECKING:
    from authn.custody.tpm import Tpm

RECORD = "counter.json"
_MOST_TRIES = 256
_DOMAIN = b"lightseal/capture-counter/v1\0"


@dataclass(frozen=True, slots=True)
class TpmCounter:
    """One counter of one TPM, whose numbers begin above a number that others may have reached."""

    tpm: "Tpm"
    index: int
    above: int

    def read(self) -> int:
        """What it shows; it is made where it is not there yet."""
        return self.above + self.tpm.define_counter(self.index)

    def advance(self) -> int:
        """Make it greater by one."""
        return self.above + self.tpm.increment(self.index)


@contextmanager
def counter_of(camera: Camera) -> Iterator[Counter | None]:
    """The counter of a device whose key is in a TPM, open; None for every other device."""
    address = uri.parse(key_address(camera.path, camera.key))
    if not isinstance(address, uri.TpmAddress):
        yield None
        return
    from authn.custody.tpm import Tpm  # noqa: PLC0415 - only who has a TPM needs its package

    with Tpm(address.tcti) as tpm:
        with locked(camera) as folder:
            counter = _counter(camera, folder, tpm)
        yield counter


def _counter(camera: Camera, folder: Path, tpm: "Tpm") -> TpmCounter:
    """This device's counter; a place for it is chosen, made and written down where that was never done."""
    from authn.custody.tpm import COUNTERS  # noqa: PLC0415

    record = folder / RECORD
    try:
        about = json.loads(content_of(record))
        counter = TpmCounter(tpm, int(about["index"]), int(about["above"]))
    except FileNotFoundError:
        counter = _chosen(camera, tpm)
        counter.read()
        about = {"above": counter.above, "index": counter.index}
        put_private(record, json.dumps(about, sort_keys=True).encode() + b"\n")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CameraDamagedError(f"{record} cannot be read") from error
    if counter.index not in COUNTERS or counter.above < 0:
        raise CameraDamagedError(f"{record} names no place for a counter")
    return counter


def _chosen(camera: Camera, tpm: "Tpm") -> TpmCounter:
    """The first free place from where the salt points, and the sum of what those before it show.

    The sum, since one of them may be this device's own that it forgot, which had a sum itself.
    """
    from authn.custody.tpm import COUNTERS  # noqa: PLC0415

    digest = hashlib.sha256(_DOMAIN + camera.salt).digest()
    first, above = int.from_bytes(digest, "big") % len(COUNTERS), 0
    for step in range(_MOST_TRIES):
        index = COUNTERS[(first + step) % len(COUNTERS)]
        try:
            above += tpm.read_counter(index)
        except KeyGoneError:
            return TpmCounter(tpm, index, above)
        except KeyFileError as error:
            if type(error) not in (
                KeyFileError,
                KeyNotOursError,
            ):  # of any other kind: nothing is known of the place
                raise
    raise CameraDamagedError("the TPM has no free place for a counter where this device looks for one")
