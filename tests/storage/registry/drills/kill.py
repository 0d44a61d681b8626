"""Kill a process that writes to a registry, at random moments; nothing acknowledged may be lost.

    PYTHONPATH=. python tests/storage/registry/drills/kill.py sqlite:////tmp/registry.db

The writer adds captures, burns a nonce and a token for each, and says so on a line after each
answer. After every kill the registry is opened again and compared with what was said. Prints
one line of JSON, or the broken word and status 1.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from storage.registry.errors import NonceReplayedError, TokenUsedError
from storage.registry.registry import Registry
from storage.registry.rows import GENESIS, Capture, Device, Product, Status

AT = datetime(2026, 11, 25, tzinfo=UTC)
DEVICE, PRODUCT = "camera", "Camera 1"


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def capture(number: int) -> Capture:
    previous = GENESIS if number == 1 else digest(f"link {number - 1}")
    names = ("claim", "media", "binding", "signature", "commitment", "certificate")
    rest = [digest(f"{name} {number}") for name in names]
    return Capture(DEVICE, number, digest(f"link {number}"), previous, *rest, AT)


def write(url: str, run: int) -> None:
    with Registry.open(url) as registry:
        head = registry.chain_head(DEVICE)
        number = 0 if head is None else head.counter
        while True:
            number += 1
            registry.add_bootstrap(digest(f"token {run} {number}"), PRODUCT, AT + timedelta(days=1))
            registry.use_bootstrap(digest(f"token {run} {number}"), AT)
            registry.use_nonce(digest(f"nonce {run} {number}"), DEVICE, AT, AT + timedelta(days=1))
            registry.add_capture(capture(number))
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()


def require(url: str, run: int, first: int, acknowledged: int) -> int:
    """Return how many captures are there, all of those that were acknowledged among them."""
    with Registry.open(url) as registry:
        captures = registry.captures(DEVICE)
        if [each.counter for each in captures] != list(range(1, len(captures) + 1)):
            sys.exit("The chain has a hole.")
        if any(after.previous != before.link for before, after in pairwise(captures)):
            sys.exit("The chain is broken.")
        if not acknowledged <= len(captures) <= acknowledged + 1:
            sys.exit(f"{acknowledged} were acknowledged, {len(captures)} are there.")
        for number in range(max(first, acknowledged - 5), acknowledged + 1):
            try:
                registry.use_nonce(digest(f"nonce {run} {number}"), DEVICE, AT, AT + timedelta(days=1))
            except NonceReplayedError:
                pass
            else:
                sys.exit(f"The nonce {number} was used twice.")
            try:
                registry.use_bootstrap(digest(f"token {run} {number}"), AT)
            except TokenUsedError:
                pass
            else:
                sys.exit(f"The token {number} was used twice.")
        return len(captures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--write", type=int, metavar="ROUND")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.write is not None:
        write(arguments.url, arguments.write)
    chance = random.Random(arguments.seed)  # noqa: S311 - moments, no secrets
    with Registry.create(arguments.url) as registry:
        registry.add_product(Product(PRODUCT, "Example", "standard", "E0", b"{}", AT))
        registry.add_device(Device(DEVICE, PRODUCT, digest("salt"), Status.ACTIVE, None, "E0", AT))
    kept = 0
    for run in range(arguments.rounds):
        writer = subprocess.Popen(
            [sys.executable, __file__, arguments.url, "--write", str(run)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(chance.random() * 0.2)
        os.kill(writer.pid, signal.SIGKILL)
        lines = [first, *writer.stdout.read().splitlines()]
        writer.stdout.close()
        if writer.wait() != -signal.SIGKILL:
            sys.exit("The writer ended before it was killed.")
        kept = require(arguments.url, run, int(first), int(lines[-1]))
    sys.stdout.write(json.dumps({"rounds": arguments.rounds, "captures": kept}) + "\n")


if __name__ == "__main__":
    main()
