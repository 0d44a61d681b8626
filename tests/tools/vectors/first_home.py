"""Make `home-0001.tar.gz`; runs in a checkout of commit d84466c only, see README.md."""

import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image

from tools.home import create_home
from tools.signing import sign_files

COLOURS = {"first": (10, 90, 200), "second": (200, 40, 30)}


def now() -> datetime:
    return datetime.now(UTC)


def make(folder: Path) -> None:
    home = create_home(folder / "home", "First Newsroom", "http://localhost:8461/ocsp/", now())
    for name, colour in COLOURS.items():
        home.enrol(name, f"{name.title()} Camera", now())
        picture = folder / f"{name}.png"
        Image.new("RGB", (48, 32), colour).save(picture)
        (signed,) = sign_files(home, [picture], folder / "signed", name, now, timed=True)
        if not isinstance(signed, str):
            raise signed
    with tarfile.open(folder / "home-0001.tar.gz", "w:gz") as archive:
        for part in ("home", "signed"):
            archive.add(folder / part, part, filter=_nobodys)


def _nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    make(Path(sys.argv[1]))
