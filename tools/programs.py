"""The programs that tests call and Python packages cannot bring; standard library only."""

import shutil
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Program:
    """One program, by whichever name it is installed, and where Debian keeps it."""

    name: str
    executables: tuple[str, ...]
    package: str
    purpose: str

    @property
    def path(self) -> str | None:
        """Where it is, or None. Says nothing about its version or whether it works."""
        found = (shutil.which(executable) for executable in self.executables)
        return next((path for path in found if path), None)

    @property
    def remedy(self) -> str:
        """The exact line that installs it."""
        return f"apt-get install -y {self.package}"


# One row per program; a test asks for a row with @pytest.mark.needs("NAME").
PROGRAMS = (
    Program(
        "openssl", ("openssl",), "openssl", "checks our certificates and time-stamp tokens independently"
    ),
    Program(
        "chromium",
        ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
        "chromium",
        "opens the report page as a reader would",
    ),
)


def named(name: str) -> Program:
    """The row of that name; a KeyError means that the table lacks it."""
    return {program.name: program for program in PROGRAMS}[name]


def missing() -> tuple[Program, ...]:
    """The rows this machine cannot run."""
    return tuple(program for program in PROGRAMS if program.path is None)
