"""Fill the disk under a registry; it must refuse by name, keep its word, and go on once there is room.

    PYTHONPATH=. unshare --mount sh -c 'mount -t tmpfs -o size=2m drill /mnt && \
        python tests/storage/registry/drills/full.py /mnt'

Prints one line of JSON, or the broken word and status 1.
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from storage.registry.errors import RegistryFullError
from storage.registry.registry import Registry
from storage.registry.rows import Device, Product, Status

AT = datetime(2026, 11, 25, tzinfo=UTC)


def main() -> None:
    disk = Path(sys.argv[1])
    url = f"sqlite:///{disk / 'registry.db'}"
    ballast = disk / "ballast"
    acknowledged = 0
    with Registry.create(url) as registry:
        registry.add_product(Product("Camera 1", "Example", "standard", "E0", b"{}", AT))
        registry.add_device(Device("camera", "Camera 1", bytes(32), Status.ACTIVE, None, "E0", AT))
        ballast.write_bytes(bytes(256 << 10))
        try:
            while acknowledged < 10_000:
                registry.add_evidence("camera", bytes(32), "tpm", bytes(20_000), "E2", AT, b"[]")
                acknowledged += 1
        except RegistryFullError as error:
            refused = error.code
        else:
            sys.exit("The disk does not get full.")
        if len(registry.evidence("camera")) != acknowledged:
            sys.exit("What was acknowledged cannot be read while the disk is full.")
        ballast.unlink()
        registry.add_evidence("camera", bytes(32), "tpm", bytes(20_000), "E2", AT, b"[]")
    with Registry.open(url) as registry:
        if len(registry.evidence("camera")) != acknowledged + 1:
            sys.exit(f"{acknowledged + 1} were acknowledged and are not there.")
    sys.stdout.write(json.dumps({"refused": refused, "acknowledged": acknowledged + 1}) + "\n")


if __name__ == "__main__":
    main()
