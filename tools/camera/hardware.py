"""The number of a capture as hardware counts it: an NV counter of the TPM that keeps the device's key.

Which of the TPM's counters follows from the device's salt, so that it needs no record that
could be lost or put back, and two devices on one TPM do not share one. A TPM begins a new
counter above every value that it ever showed: to delete it gains nobody a number again.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from authn.custody import uri
from tools.camera.chain import Counter
from tools.camera.folder import Camera, key_address

if TYPE_CHECKING:
    from authn.custody.tpm import Tpm

_DOMAIN = b"lightseal/capture-counter/v1\0"


@dataclass(frozen=True, slots=True)
class TpmCounter:
    """One counter of one TPM."""

    tpm: "Tpm"
    index: int

    def read(self) -> int:
        """What it shows; it is made where it is not there yet."""
        return self.tpm.define_counter(self.index)

    def advance(self) -> int:
        """Make it greater by one."""
        return self.tpm.increment(self.index)


@contextmanager
def counter_of(camera: Camera) -> Iterator[Counter | None]:
    """The counter of a device whose key is in a TPM, open; None for every other device."""
    address = uri.parse(key_address(camera.path, camera.key))
    if not isinstance(address, uri.TpmAddress):
        yield None
        return
    from authn.custody.tpm import COUNTERS, Tpm  # noqa: PLC0415 - only who has a TPM needs its package

    digest = hashlib.sha256(_DOMAIN + camera.salt).digest()
    index = COUNTERS.start + int.from_bytes(digest, "big") % len(COUNTERS)
    with Tpm(address.tcti) as tpm:
        yield TpmCounter(tpm, index)
