"""The programs that tests call and Python packages cannot bring; standard library only."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Program:
    """One program, by whichever name it is installed, and what Debian keeps it in."""

    name: str
    executables: tuple[str, ...]
    packages: tuple[str, ...]
    purpose: str
    folders: str = ""
    """Where Debian keeps it off the PATH, as a pattern of absolute folders."""
    needs: str = ""
    """A folder without which it is of no use to our tests."""
    module: str = ""
    """The Python package that speaks to it, which the tests need as well."""

    @property
    def path(self) -> str | None:
        """Where it is, or None; of several versions off the PATH, the newest.

        Says nothing of its version otherwise, nor whether it works.
        """
        if self.needs and not Path(self.needs).is_dir():
            return None
        places = [None, *_newest_first(self.folders)]  # None is the PATH
        found = (shutil.which(name, path=place) for place in places for name in self.executables)
        return next((path for path in found if path), None)

    @property
    def remedy(self) -> str:
        """The exact line that installs it."""
        return f"apt-get install -y {' '.join(self.packages)}"


# One row per program; a test asks for a row with @pytest.mark.needs("NAME").
PROGRAMS = (
    Program(
        "openssl", ("openssl",), ("openssl",), "checks our certificates and time-stamp tokens independently"
    ),
    Program(
        "chromium",
        ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
        ("chromium",),
        "opens the report page as a reader would",
    ),
    Program(
        "go",
        ("go",),
        ("golang-go", "golang-golang-x-mod-dev"),
        "checks our ledger with the code of Go's own checksum database",
        needs="/usr/share/gocode/src/golang.org/x/mod/sumdb",
    ),
    Program(
        "postgresql",
        ("postgres",),
        ("postgresql",),
        "keeps a ledger in a server of the tests' own",
        folders="/usr/lib/postgresql/*/bin",
    ),
    Program(
        "softhsm2",
        ("softhsm2-util",),
        ("softhsm2",),
        "keeps keys in a token that speaks PKCS#11, as a hardware module does",
        module="pkcs11",
    ),
    Program(
        "swtpm",
        ("swtpm",),
        ("swtpm", "swtpm-tools", "gnutls-bin", "libtss2-dev", "gcc", "pkg-config", "python3-dev"),
        "keeps keys in a TPM 2.0 of the tests' own; the rest builds tpm2-pytss, which is source only",
        needs="/usr/include/tss2",
        module="tpm2_pytss",
    ),
    Program("strace", ("strace",), ("strace",), "makes one system call after the other fail"),
)


def named(name: str) -> Program:
    """The row of that name; a KeyError means that the table lacks it."""
    return {program.name: program for program in PROGRAMS}[name]


def missing() -> tuple[Program, ...]:
    """The rows this machine cannot run."""
    return tuple(program for program in PROGRAMS if program.path is None)


def _newest_first(pattern: str) -> list[str]:
    """The folders that match, by the numbers in their names, so that 15 comes before 9."""
    found = Path("/").glob(pattern.lstrip("/")) if pattern else ()
    return sorted(map(os.fspath, found), key=lambda path: [*map(int, re.findall(r"\d+", path))], reverse=True)
