"""Fill the disk under a ledger; it must refuse by name, keep its word, and go on once there is room.

    PYTHONPATH=. python tests/storage/drills/full.py --engine postgres

The disk is a small one of memory, in a mount namespace of our own (unshare(1)), which a
user needs no rights for where the system allows user namespaces. Prints one line of
JSON, or the broken word and status 1.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import subject

from storage.errors import DiskFullError, LedgerUnreachableError
from tools import postgres

_MEBIBYTES = {"sqlite": 2, "postgres": 128}
_ROOM = 512 << 10
"""How much the ballast leaves. It is put there so that it can be taken away."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--disk", type=Path, help="a small disk, already mounted")
    arguments = parser.parse_args()
    if arguments.disk is None:
        with tempfile.TemporaryDirectory(prefix="drill-") as folder:
            Path(folder).chmod(0o755)  # PostgreSQL's user passes through
            sys.exit(mounted(arguments.engine, folder))
    began = time.monotonic()
    try:
        result = drill(arguments.engine, arguments.disk)
    except subject.LostError as error:
        sys.exit(str(error))
    subject.report(began, drill="full", engine=arguments.engine, **result)


def mounted(engine: str, folder: str) -> int:
    """Run this program again with a small disk at `folder` that nobody else sees."""
    mount = f'mount -t tmpfs -o size={_MEBIBYTES[engine]}m,mode=755 drill "$1" && shift && exec "$@"'
    again = [sys.executable, __file__, "--engine", engine, "--disk", folder]
    namespaces = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
    return subprocess.run(
        ["unshare", *namespaces, "sh", "-c", mount, "drill", folder, *again], check=False
    ).returncode


def drill(engine: str, disk: Path) -> dict[str, object]:
    # 1. A ledger with its guard and keyring on the disk; then hardly any room is left.
    # 2. Append until it is refused, and by what name.
    # 3. Refused again, it is still there for reading, and has what was acknowledged.
    # 4. Room again: everything is as it was said, and the log goes on.
    with ExitStack() as stack:
        server = stack.enter_context(postgres.running(disk / "postgres")) if engine == "postgres" else None
        if server is not None and disk not in server.data.parents:
            raise subject.LostError(
                f"PostgreSQL keeps its data at {server.data}, which is not the small disk."
            )
        url = server.url if server is not None else f"sqlite:///{disk}/ledger.db"
        drilled = subject.Subject(url, disk)
        drilled.create().close()
        ballast = disk / "ballast"
        fill(ballast, disk)  # 1
        acknowledged, unanswered, refused = append_until_full(drilled)  # 2
        if engine == "sqlite":
            with drilled.reopen() as ledger:
                if ledger.size < len(acknowledged):  # 3
                    raise subject.LostError(
                        f"{len(acknowledged)} were acknowledged, {ledger.size} are there."
                    )
        ballast.unlink()
        if server is not None:
            server.stop("immediate")  # it may have ended by itself: its own journal had no room either
            server.start()
        settled = drilled.require(acknowledged, unanswered)  # 4
        return {"acknowledged": len(acknowledged), "refused": refused, "unanswered_kept": settled.kept}


def fill(ballast: Path, disk: Path) -> None:
    free = os.statvfs(disk)
    with ballast.open("wb") as file:
        file.write(bytes(max(0, free.f_bavail * free.f_frsize - _ROOM)))


def append_until_full(drilled: subject.Subject) -> tuple[dict[str, int], list[str], str]:
    """Return what was acknowledged, what was not, and the name of the refusal."""
    acknowledged: dict[str, int] = {}
    with drilled.reopen() as ledger:
        for claims in subject.batches("full"):
            records = [subject.record(claim) for claim in claims]
            try:
                indices = ledger.append(records, subject.now(), subject.sign)
            except (DiskFullError, LedgerUnreachableError) as error:
                return acknowledged, claims, error.code
            acknowledged.update(zip(claims, indices, strict=True))
            if len(acknowledged) > 1_000_000:
                break
    raise subject.LostError("The disk does not get full.")


if __name__ == "__main__":
    main()
