"""The whole path in a temporary home: enrol, sign, alter, strip, transplant, verify, batch.

Uses the commands' own functions on the project's own pictures, so that what it
prints is what a user will see.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from importlib import resources
from pathlib import Path

from tools.archive import check_archive, silent
from tools.check import Chosen, Entry, beliefs, check_files, renamed
from tools.errors import OutputExistsError
from tools.founding import create_home
from tools.home import Home
from tools.issuance.own import enrol
from tools.report_page import as_html, write_page
from tools.report_text import as_text
from tools.signing import sign_files

_SAMPLES = ("harbour.jpg", "hills.jpg", "street.jpg")
_DEVICES = (("cam-north", "Northwind Camera M3"), ("cam-south", "Southwind Field Recorder"))


def run_demo(keep: Path | None, now: Callable[[], datetime]) -> Iterator[str]:
    """Yield what an examiner would read, and leave `report.html` in `keep` or here."""
    if keep is not None and keep.exists():
        raise OutputExistsError(f"{keep} is already there")
    with _folder(keep) as folder:
        originals = folder / "originals"
        originals.mkdir(parents=True)
        for name in _SAMPLES:
            with resources.as_file(resources.files("tools") / "samples" / name) as sample:
                shutil.copy(sample, originals / name)

        yield "1. A home: ledger, keys, a private CA, a time-stamp unit, trust lists"
        home = create_home(folder / "home", "Demonstration Newsroom", "http://localhost:8461/ocsp/", now())
        yield f"   {home.log}"

        yield "2. Two devices; each issuance is in the ledger before the certificate exists"
        for name, product in _DEVICES:
            _, index = enrol(home, name, product, now())
            yield f"   {name}: {product}, entry {index}"

        yield "3. Signing three pictures"
        signed = folder / "signed"
        yield from _signed(home, originals, signed, now)

        yield "4. Altering one, stripping one, moving one's credentials to another picture"
        suspects = folder / "suspects"
        suspects.mkdir()
        _make_suspects(originals, signed, suspects)

        yield "5. What an examiner reads"
        page = folder / "report.html" if keep else Path.cwd() / "report.html"
        with beliefs(home, Chosen(), now()) as held:
            paths = sorted(suspects.iterdir())
            shown = []
            for report, found in check_files([str(path) for path in paths], held, None, Entry.ILLUSTRATED):
                named = renamed(report, Path(report.file).name)
                shown.append((named, found.thumbnail))
                yield ""
                yield as_text(named)
            write_page(page, as_html(shown))

            yield ""
            yield "6. The same folder as a batch, and the ledger derived again"
            summary = check_archive((suspects,), "demo", folder / "results.jsonl", held, 2, silent())
            yield from (f"   {line}" for line in summary.text.splitlines())
        audited = home.audit()
        yield f"   audit: {audited.size} entries, {len(audited.findings)} divergences"
        yield ""
        yield f"The report with pictures: {page}"


def _signed(home: Home, originals: Path, signed: Path, now: Callable[[], datetime]) -> Iterator[str]:
    by_device = (("cam-north", ("harbour.jpg", "street.jpg")), ("cam-south", ("hills.jpg",)))
    for device, names in by_device:
        files = [originals / name for name in names]
        for outcome in sign_files(home, files, signed, device, now, timed=True):
            if isinstance(outcome, Exception):
                raise outcome
            yield f"   {outcome.splitlines()[1].strip()}"


def _make_suspects(originals: Path, signed: Path, suspects: Path) -> None:
    """What happens to pictures on their way: nothing, an edit, a careless site, a forger."""
    shutil.copy(signed / "harbour.jpg", suspects / "1-untouched.jpg")

    altered = bytearray((signed / "street.jpg").read_bytes())
    altered[-2000] ^= 1
    (suspects / "2-one-bit-altered.jpg").write_bytes(altered)

    shutil.copy(originals / "hills.jpg", suspects / "3-credentials-stripped.jpg")

    donor, victim = (signed / "harbour.jpg").read_bytes(), (originals / "street.jpg").read_bytes()
    (suspects / "4-credentials-of-another.jpg").write_bytes(victim[:2] + _app11(donor) + victim[2:])

    (suspects / "5-never-signed.jpg").write_bytes(
        (originals / "street.jpg").read_bytes()[:-2] + b"\0\xff\xd9"
    )


def _app11(jpeg: bytes) -> bytes:
    """The segments that carry C2PA credentials (JPEG XT, APP11)."""
    found, position = b"", 2
    while jpeg[position + 1] != 0xDA:
        length = 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
        if jpeg[position + 1] == 0xEB:
            found += jpeg[position : position + length]
        position += length
    return found


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="lightseal-demo-") as name:
        yield Path(name)
