"""`lightseal capture`, `lightseal upload` and `lightseal device captures`: device mode, offline for as long as needed."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tools.invocation import FILE, home_of, now, say_error

if TYPE_CHECKING:
    from tools.camera.folder import Camera
    from tools.camera.take import Camerawork
    from tools.camera.upload import Uploader

_POLL_SECONDS = 1.0
_RETRY_SECONDS = 60.0
_FOLDER = click.option("--folder", type=FILE, help="The device's folder, as 'lightseal device join' made it.")
_DEVICE = click.option("--device", "name", help="A device of this home, instead of a folder.")
_HASH_ONLY = click.option(
    "--hash-only",
    "hashed",
    is_flag=True,
    help="Hand in the signed record and hashes alone; the media stays here.",
)


@click.command()
@click.argument("files", nargs=-1, type=FILE)
@click.option("--watch", type=FILE, help="Capture every new file of this folder, until interrupted.")
@click.option(
    "--settle",
    type=click.FloatRange(0),
    default=2.0,
    show_default=True,
    help="Seconds for which a watched file must not change.",
)
@_FOLDER
@_DEVICE
@click.option(
    "--offline", is_flag=True, help="Do not look for the service; 'lightseal upload' hands captures in later."
)
@_HASH_ONLY
@click.pass_context
def capture(
    context: click.Context,
    files: tuple[Path, ...],
    watch: Path | None,
    settle: float,
    folder: Path | None,
    name: str | None,
    *,
    offline: bool,
    hashed: bool,
) -> None:
    """Sign FILES that this device captured, in its own name, and hand them in to its service.

    Only files as the camera wrote them: whole, decodable, and without any signed record. Each gets the next
    number of the device's chain; without a network everything waits in the device's folder.
    """
    from tools.camera.hardware import counter_of
    from tools.camera.take import camerawork
    from tools.errors import UsageError

    if bool(files) == (watch is not None):
        raise UsageError("give the files to be captured, or a folder with --watch, and not both")
    camera = _camera(context, folder, name)
    with contextlib.ExitStack() as stack:
        uploader = None if offline else stack.enter_context(_uploader(context, camera, name, hashed=hashed))
        if uploader is not None:
            _quietly(uploader.refresh)  # before: what is captured now is then no older than this checkpoint
        counter = stack.enter_context(counter_of(camera))
        work = stack.enter_context(camerawork(camera, now, counter=counter))
        if watch is not None:
            _keep_watch(work, watch, settle, uploader)
        failed = _take_all(work, files)
        sys.exit(1 if _hand_in(uploader) or failed else 0)


@click.command()
@_FOLDER
@_DEVICE
@_HASH_ONLY
@click.pass_context
def upload(context: click.Context, folder: Path | None, name: str | None, *, hashed: bool) -> None:
    """Hand in what the device captured, and keep the service's receipts beside the files."""
    camera = _camera(context, folder, name)
    with _uploader(context, camera, name, hashed=hashed) as uploader:
        sys.exit(1 if _hand_in(uploader) else 0)


@click.command()
@click.argument("name")
@click.pass_context
def captures(context: click.Context, name: str) -> None:
    """Show the chain of captures that the device NAME handed in: entries, gaps by number, and forks."""
    from tools.captures import describe

    with home_of(context).registry() as registry:
        for line in describe(registry, name):
            click.echo(line)


def _camera(context: click.Context, folder: Path | None, name: str | None) -> "Camera":
    from tools.camera.folder import read_camera
    from tools.camera.home_device import camera_of
    from tools.errors import UsageError

    if (folder is None) == (name is None):
        raise UsageError("name the device: its folder with --folder, or a device of this home with --device")
    return read_camera(folder) if folder is not None else camera_of(home_of(context), name or "")


@contextlib.contextmanager
def _uploader(
    context: click.Context, camera: "Camera", name: str | None, *, hashed: bool
) -> "Iterator[Uploader]":
    """Hands in over the network, or straight to the home that the device belongs to."""
    from tools.camera.exchange import over_http
    from tools.camera.handing import Handing
    from tools.camera.inside import ADDRESS, inside
    from tools.camera.upload import Uploader, require_service
    from tools.intake import Intake

    handing: Handing = Handing.HASH_ONLY if hashed else Handing.WHOLE
    require_service(camera)
    if name is None:
        yield Uploader(camera, over_http(), now, time.sleep, handing)
        return
    with Intake(home_of(context), ADDRESS, now) as intake:
        yield Uploader(camera, inside(intake), now, time.sleep, handing)


def _take_all(work: "Camerawork", files: tuple[Path, ...]) -> bool:
    """Take each file; whether one could not be."""
    from tools.camera.take import AlreadyTakenError, DeviceStoppedError
    from tools.examine import OURS
    from tools.report import shown

    failed = False
    for source in files:
        try:
            taken = work.take(source)
        except DeviceStoppedError:
            raise
        except AlreadyTakenError as error:
            say_error(error)
        except OURS as error:
            failed = True
            error.args = (f"{shown(source)}: {error}", *error.args[1:])
            say_error(error)
        else:
            click.echo(f"{shown(source)} -> {shown(taken.media)}  capture {taken.opening.counter}")
    return failed


def _hand_in(uploader: "Uploader | None") -> bool:
    """Hand in what waits; whether anything of it was refused or is not what it was."""
    from tools.camera.upload import Delivered, Outcome
    from tools.report import shown

    failed = False
    for each in () if uploader is None else uploader.deliver():
        if not isinstance(each, Delivered):
            failed = True
            say_error(each)
            continue
        number = each.waiting.opening.counter
        if each.gap:
            missing = _numbers(each.gap)
            click.echo(f"missing before capture {number}: {missing}")
        match each.outcome:
            case Outcome.RECEIVED:
                click.echo(
                    f"capture {number} received, entry {each.entry}, receipt {shown(each.waiting.receipt)}"
                )
            case Outcome.CHANGED:
                failed = True
                click.echo(f"capture {number} CHANGED since it was signed; its record is entry {each.entry}")
            case Outcome.REFUSED:
                failed = True
                click.echo(f"capture {number} refused ({each.reason})")
    return failed


def _numbers(missing: range) -> str:
    last = missing.stop - 1
    return str(missing.start) if missing.start == last else f"{missing.start} to {last}"


def _keep_watch(work: "Camerawork", folder: Path, settle: float, uploader: "Uploader | None") -> None:
    """Take what comes, and hand it in when the service can be reached; ends by a signal."""
    from tools.camera.watch import Watch, digest_of
    from tools.errors import UnreadableError
    from tools.report import shown

    watching, next_try, reached = Watch(folder, settle), 0.0, False
    click.echo(f"watching {folder}; interrupt to end")
    while True:
        new = []
        for path in watching.look(time.monotonic()):
            with contextlib.suppress(UnreadableError):  # gone again; it is looked for at the next look
                if digest_of(path) not in work.taken():
                    new.append(path)
        _take_all(work, tuple(new))
        for path, why in watching.passed_over(time.monotonic()):
            click.echo(f"{shown(path)} is passed over: {why}", err=True)
        if uploader is not None and ((new and reached) or time.monotonic() >= next_try):
            reached = _quietly(lambda: _hand_in(uploader))
            next_try = time.monotonic() + _RETRY_SECONDS
        sys.stdout.flush()
        time.sleep(_POLL_SECONDS)


def _quietly(do: Callable[[], object]) -> bool:
    """Without a network, or with one where somebody else answers, the work goes on; whether the service was reached."""
    from tools.camera.exchange import ServiceAnswerError
    from tools.errors import ServiceUnreachableError

    try:
        do()
    except (ServiceUnreachableError, ServiceAnswerError) as error:
        say_error(error)
        return False
    return True
