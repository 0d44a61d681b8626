"""The distributions that Lightseal needs, by name; standard library only."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"

# One of these is enough, and only one may be there: they overwrite each other's files.
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
OPENCVS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


def required() -> tuple[str, ...]:
    """Read the names from the checkout, or from the installation; the alternatives above are left out."""
    if PYPROJECT.is_file():
        lines = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]["dependencies"]
    else:
        lines = [line for line in metadata.requires("lightseal") or () if "extra ==" not in line]
    names = (re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in lines)
    return tuple(name for name in names if name not in RUNTIMES + OPENCVS)


def version(distribution: str) -> str | None:
    """The installed version, or None. Does not try whether the package starts."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
