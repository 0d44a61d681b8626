"""The command: parse, call, print, exit.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

import contextlib
import dataclasses
import errno
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import authn.errors
import detector.errors
import storage.errors
import tools.errors
from tools.cli_ca import ca
from tools.cli_capture import capture, upload
from tools.cli_device import device
from tools.cli_enrolment import product, ra
from tools.cli_ledger import ledger
from tools.cli_revoke import operator, revoke
from tools.cli_serve import serve
from tools.cli_stamp import stamp
from tools.cli_tsa import tsa
from tools.cli_witness import witness
from tools.invocation import FILE, Moment, home_if_any, home_of, home_path, now, say_error
from tools.version import VERSION

if TYPE_CHECKING:
    from tools.archive import Telling
    from tools.check import Chosen

_OURS = (authn.errors.Error, detector.errors.Error, storage.errors.Error, tools.errors.Error)


def main() -> None:
    """Run the command; any error of ours is two lines, never a stack trace."""
    if sys.stdout is None:
        closed = "standard output is closed, so nothing was done; use /dev/null if nobody is to read it"
        say_error(tools.errors.SystemRefusedError(closed))
        sys.exit(1)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # a file's name must not be able to stop the report
    signal.signal(signal.SIGTERM, _end)
    try:
        lightseal.main(standalone_mode=False, prog_name="lightseal")
    except _OURS as error:
        say_error(error)
        sys.exit(2 if isinstance(error, tools.errors.UsageError) else 1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        say_error(_from_system(error))
        sys.exit(1)


def _end(number: int, _: object) -> None:
    """End as if by an exception, so that partial files go with us."""
    sys.exit(128 + number)


def _from_system(error: OSError) -> tools.errors.Error:
    """What the system refused, by whose fault it was."""
    reason = error.strerror or "unknown reason"
    place = f" for {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return tools.errors.DiskFullError(f"there was no room to write{place} ({reason})")
    return tools.errors.SystemRefusedError(f"the system refused{place} ({reason})")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="lightseal")
@click.option(
    "--home",
    type=FILE,
    help="Folder with ledger, keys and lists (default: LIGHTSEAL_HOME, else the user data folder).",
)
@click.pass_context
def lightseal(context: click.Context, home: Path | None) -> None:
    """Sign captured media, record every signature, and verify files against that evidence.

    A signature proves who signed which bytes and by when. It never proves that a scene is true.
    """
    context.obj = home


@lightseal.command()
@click.option(
    "--organisation",
    default="Private Lightseal Home",
    show_default=True,
    help="The name in the certificates (ASCII).",
)
@click.option(
    "--ocsp-url",
    default="http://localhost:8461/ocsp/",
    show_default=True,
    help="Where certificates say their status is asked; ends in '/'.",
)
@click.option(
    "--ledger", "database", help="PostgreSQL database for the ledger: postgresql://HOST/NAME, no password."
)
@click.option("--guard", type=FILE, help="Where the guard of the ledger lies; best on another disk.")
@click.option(
    "--ml-dsa", "post_quantum", is_flag=True, help="Sign checkpoints with an ML-DSA-44 key as well."
)
@click.option("--after", type=FILE, help="The last checkpoint of a frozen ledger, which this one follows.")
@click.pass_context
def init(
    context: click.Context,
    organisation: str,
    ocsp_url: str,
    *,
    database: str | None,
    guard: Path | None,
    post_quantum: bool,
    after: Path | None,
) -> None:
    """Make a home: ledger, keys, private CA, time-stamp unit and trust lists. Twice changes nothing."""
    from storage.note import MAX_NOTE_BYTES, Algorithm
    from tools.check import bounded
    from tools.founding import LogPlan, create_home
    from tools.home import open_home

    path = home_path(context)
    if (path / "home.json").exists():
        home = open_home(path)
        click.echo(f"{path} is a home already; nothing was changed.")
    else:
        plan = LogPlan(
            (Algorithm.ED25519, Algorithm.ML_DSA_44) if post_quantum else (Algorithm.ED25519,),
            database,
            None if guard is None else str(guard.absolute()),
            None if after is None else bounded(after, MAX_NOTE_BYTES, "checkpoint"),
        )
        home = create_home(path, organisation, ocsp_url, now(), plan)
        click.echo(f"Made a home at {path}.")
    click.echo(f"  ledger key     {home.log}")
    click.echo(f"  trust lists    {path / 'trust'}")
    click.echo("  next           lightseal device enrol NAME, then lightseal sign FILE --device NAME")


@lightseal.command()
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option(
    "--out", type=FILE, help="Folder for the signed copies (default: beside the file, as NAME.signed.EXT)."
)
@click.option(
    "--device",
    "name",
    help="Sign as this device, which then says that it captured the file; without it the signing service signs.",
)
@click.option(
    "--no-timestamp",
    "untimed",
    is_flag=True,
    help="Take no time-stamp token; readers will see 'no proven time'.",
)
@click.option(
    "--authority",
    "authorities",
    multiple=True,
    metavar="URL",
    help="A time-stamp authority of your lists, asked instead of the home's own unit; several are asked at once.",
)
@click.option(
    "--timestamps",
    "need",
    type=click.Choice(["require", "later", "2"]),
    help="What is enough: one token (require, the default); one if it can be had now, else 'lightseal stamp' later"
    " (later); or those of two authorities that are independent of each other (2).",
)
@click.option(
    "--with-trailing-bytes",
    "tailed",
    is_flag=True,
    help="Sign a file although bytes follow the picture's end, as some cameras leave them; they are covered too.",
)
@click.pass_context
def sign(
    context: click.Context,
    files: tuple[Path, ...],
    out: Path | None,
    name: str | None,
    authorities: tuple[str, ...],
    need: str | None,
    *,
    untimed: bool,
    tailed: bool,
) -> None:
    """Sign FILES, record the signatures in the ledger, and write receipts beside the copies."""
    from authn.timestamp.relay import Need
    from tools.examine import Tail
    from tools.signing import Timestamps, sign_files

    if untimed and (authorities or need):
        raise tools.errors.UsageError("--no-timestamp asks nobody; give it, or --authority and --timestamps")
    failed = False
    tail = Tail.SIGNED if tailed else Tail.REFUSED
    asked = Timestamps(authorities, Need.TWO if need == "2" else Need(need or Need.REQUIRE))
    timed = False if untimed else asked
    for outcome in sign_files(home_of(context), files, out, name, now, timed=timed, tail=tail):
        if isinstance(outcome, Exception):
            failed = True
            say_error(outcome)
            continue
        click.echo(outcome)
    sys.exit(1 if failed else 0)


_LISTS = [
    click.option("--signers", type=FILE, help="PEM file of anchors for signers, instead of the home's list."),
    click.option(
        "--time-stampers",
        type=FILE,
        help="PEM file of anchors for authorities, instead of the home's.",
    ),
    click.option(
        "--profile",
        type=click.Choice(["specification", "strict"]),
        help="What --signers asks of a certificate: the C2PA specification (the default of a file that does not say),"
        " or the strict certificate policy.",
    ),
    click.option(
        "--identities", type=FILE, help="PEM file of anchors for CAWG identities, instead of the home's."
    ),
    click.option(
        "--revocations",
        type=FILE,
        multiple=True,
        help="A CRL or an OCSP answer (DER, or PEM for a CRL); may be given several times.",
    ),
    click.option("--at", type=Moment(), help="Judge as of this time (default: now)."),
    click.option(
        "--policy",
        type=FILE,
        help="TOML file that says what you require: a proven time, the ledger, revocation, custody.",
    ),
]


def _with_lists(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say whom to believe, and hand them to it as one `chosen`."""

    @functools.wraps(command)
    def gathered(*arguments: Any, **options: Any) -> None:
        from authn.profile import Profile
        from tools.check import Chosen

        profile = {None: None, "strict": Profile.POLICY, "specification": Profile.SPECIFICATION}[
            options.pop("profile")
        ]
        names = ("signers", "time_stampers", "identities", "revocations", "at", "policy")
        chosen = Chosen(profile=profile, **{name: options.pop(name) for name in names})
        command(*arguments, chosen=chosen, **options)

    for option in reversed(_LISTS):
        gathered = option(gathered)
    return gathered


def _explain(_context: click.Context, _parameter: click.Parameter, code: str | None) -> None:
    if code is not None:
        from tools.explain import explain

        click.echo(explain(code))
        sys.exit(0)


@lightseal.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(readable=False))
@_with_lists
@click.option(
    "--sidecar", type=FILE, help="Read the signed record from this file (.c2pa) instead of from the media."
)
@click.option("--receipt", type=FILE, help="Check this receipt instead of asking the home's ledger.")
@click.option("--log-key", help="The ledger's verifier key, to check a receipt without a home.")
@click.option(
    "--online",
    is_flag=True,
    help="Ask the authorities whether certificates were withdrawn, at the hosts that the trust list names.",
)
@click.option("--json", "as_lines", is_flag=True, help="One JSON object per line.")
@click.option("--html", type=FILE, help="Also write a self-contained page here.")
@click.option(
    "--bundle", type=FILE, help="Also write the evidence on one file here (.zip), for others to check."
)
@click.option(
    "--explain",
    metavar="CODE",
    is_eager=True,
    expose_value=False,
    callback=_explain,
    help="Say what a headline, a finding or an error code means and what to do, and check nothing.",
)
@click.pass_context
def verify(
    context: click.Context,
    files: tuple[str, ...],
    chosen: "Chosen",
    sidecar: Path | None,
    receipt: Path | None,
    log_key: str | None,
    html: Path | None,
    bundle: Path | None,
    *,
    online: bool,
    as_lines: bool,
) -> None:
    """Say what is proven about FILES, what their signers say, and what nobody knows. '-' reads standard input.

    Offline unless --online is given: no address is contacted, whatever a file names.
    """
    from tools.check import Entry, beliefs, check_files, outcome, read_receipt, renamed
    from tools.report import as_json
    from tools.report_text import as_text

    for option, given in (("receipt", receipt), ("sidecar", sidecar), ("bundle", bundle)):
        if given is not None and len(files) > 1:
            raise tools.errors.UsageError(f"--{option} is about one file; give one file with it")
    if html:
        from tools.report_page import require_writable_page

        require_writable_page(html)
    if bundle:
        from tools.bundle import require_writable_bundle

        require_writable_bundle(bundle)
    home = home_if_any(context)
    if home is None and chosen.signers is None:
        click.echo(
            "note: no home and no --signers, so no signer can be recognised (see 'lightseal init').", err=True
        )
    at = now()
    parsed = read_receipt(receipt) if receipt else None
    entry = Entry.BUNDLED if bundle else Entry.ILLUSTRATED if html else Entry.PLAIN
    chosen = dataclasses.replace(chosen, sidecar=sidecar, log_key=log_key, online=online)
    worst, shown = 0, []
    with _standard_input(files) as paths, beliefs(home, chosen, at) as held:
        for name, (nameless, found) in zip(files, check_files(paths, held, parsed, entry), strict=True):
            report = renamed(nameless, name)
            click.echo(as_json(report) if as_lines else as_text(report))
            worst = max(worst, outcome(report, parsed))
            shown.append((report, found.thumbnail))
            if bundle:
                from tools.bundling import bundle_up

                bundle_up(bundle, report, found, held, parsed, home)
    if html:
        from tools.report_page import as_html, write_page

        write_page(html, as_html(shown))
    sys.exit(worst)


@contextlib.contextmanager
def _standard_input(files: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Replace '-' by a file that holds what standard input gave, up to the limit."""
    from tools.examine import spooled

    if files.count("-") > 1:
        raise tools.errors.UsageError("'-' can stand for standard input once only")
    if "-" not in files:
        yield files
        return
    if sys.stdin is None:
        raise tools.errors.UnreadableError("standard input is closed")
    with spooled(sys.stdin.buffer) as path:
        yield tuple(path if name == "-" else name for name in files)


@lightseal.group()
def trust() -> None:
    """Say whom to believe: lists of signers, of time-stampers and of identities, each apart."""


_PURPOSES = click.Choice(["signing", "time-stamping", "identity"])


@trust.command("add")
@click.argument("source")
@click.option("--name", help="What the list is called here (default: the file's or the shipped list's name).")
@click.option("--purpose", type=_PURPOSES, help="What its certificates may do, where the file does not say.")
@click.option(
    "--profile",
    type=click.Choice(["specification", "strict"]),
    help="What it asks of signers, where the file does not say (default: the C2PA specification).",
)
@click.pass_context
def add_list(
    context: click.Context, source: str, name: str | None, purpose: str | None, profile: str | None
) -> None:
    """Believe the list SOURCE: a PEM file, or the name of a list that comes with Lightseal."""
    from authn.profile import Profile
    from authn.trust import Purpose
    from storage.entry import Kind
    from tools.trust import add, remove, shipped

    chosen = {None: None, "specification": Profile.SPECIFICATION, "strict": Profile.POLICY}[profile]
    home = home_of(context)
    added = add(
        home.path / "trust",
        source if source in shipped() else Path(source),
        name or Path(source).stem,
        None if purpose is None else Purpose(purpose),
        chosen,
        now(),
    )
    about = {"change": "believe", "list": added.name, "sha256": added.sha256.hex()}
    try:
        home.own.record(Kind.POLICY, about, now())
    except BaseException:
        remove(home.path / "trust", added.name)  # nobody is believed in silence
        raise
    click.echo(f"Added {added.name}: {len(added.anchors)} anchors for {added.purpose}, {added.profile}.")


@trust.command("list")
@click.pass_context
def list_lists(context: click.Context) -> None:
    """List whom this home believes, and the lists that come with Lightseal and may be added."""
    from tools.trust import installed, shipped

    at = now()
    held = installed(home_of(context).path / "trust")
    for name, listed in held:
        age = "stale" if listed.stale(at) else listed.dated or "not dated"
        click.echo(f"{name}\t{listed.purpose}\t{len(listed.anchors)} anchors\t{age}\t{listed.sha256.hex()}")
    for name in sorted(set(shipped()) - {name for name, _ in held}):
        click.echo(f"({name} comes with Lightseal and is not believed; see 'lightseal trust add')")


@trust.command("show")
@click.argument("name")
@click.pass_context
def show_list(context: click.Context, name: str) -> None:
    """Print what the list NAME says of itself, and every anchor."""
    from tools.trust import show as shown

    click.echo(shown(home_of(context).path / "trust", name, now()), nl=False)


@trust.command("remove")
@click.argument("name")
@click.pass_context
def remove_list(context: click.Context, name: str) -> None:
    """Believe the list NAME no longer."""
    from storage.entry import Kind
    from tools.trust import remove, require_installed

    home = home_of(context)
    require_installed(home.path / "trust", name)
    home.own.record(Kind.POLICY, {"change": "believe-no-longer", "list": name}, now())
    remove(home.path / "trust", name)
    click.echo(f"Removed {name}.")


@lightseal.command()
@click.argument("paths", nargs=-1, required=True, type=FILE)
@click.option("--run", "run", required=True, help="Name of the run; the same name goes on where it stopped.")
@click.option("--out", type=FILE, help="Where the JSON lines go (default: in the home, under runs/).")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=os.cpu_count() or 1, show_default="one per core"
)
@_with_lists
@click.pass_context
def batch(
    context: click.Context,
    paths: tuple[Path, ...],
    run: str,
    out: Path | None,
    workers: int,
    chosen: "Chosen",
) -> None:
    """Check every file under PATHS, one JSON line each; kill it and run it again to go on."""
    from tools.archive import check_archive
    from tools.check import beliefs

    home = home_if_any(context)
    with beliefs(home, chosen, now()) as held:
        summary = check_archive(
            paths, run, out or home_of(context).run_results(run), held, workers, _progress()
        )
    click.echo(summary.text)
    sys.exit(summary.exit_status)


def _progress() -> "Telling":
    from tools.archive import on_terminal, piped

    return on_terminal(sys.stderr) if sys.stderr.isatty() else piped(sys.stderr)


@lightseal.command()
@click.option("--keep", type=FILE, help="Keep the demonstration's files in this new folder.")
def demo(keep: Path | None) -> None:
    """Enrol, sign, alter, strip, transplant, verify and batch in a temporary home; leaves report.html."""
    from tools.demo import run_demo

    for line in run_demo(keep, now):
        click.echo(line)


@lightseal.command()
@click.pass_context
def doctor(context: click.Context) -> None:
    """One line per capability: ok, missing, how to get it."""
    from tools.doctor import capabilities, render

    path = home_path(context)
    click.echo(render(capabilities(path if path.exists() else None)))


@lightseal.group(invoke_without_command=True)
@click.option("--json", "as_lines", is_flag=True, help="One JSON object.")
@click.option("--quick", is_flag=True, help="Fewer repetitions and smaller files.")
@click.pass_context
def bench(context: click.Context, *, as_lines: bool, quick: bool) -> None:
    """Measure verify, sign and the ledger against their floors in one run."""
    if context.invoked_subcommand is not None:
        if as_lines or quick:
            raise tools.errors.UsageError("give --json and --quick after the part that is to be measured")
        return
    from tools.bench import QUICK, THOROUGH, measure

    report = measure(QUICK if quick else THOROUGH)
    click.echo(report.as_json() if as_lines else report.as_text())


@bench.command("ledger")
@click.option("--json", "as_lines", is_flag=True, help="One JSON object.")
@click.option("--quick", is_flag=True, help="Up to 20,000 entries, not a million; some 30 seconds.")
@click.option("--plot", type=FILE, help="Also draw rate and proof time against the log's size here (.svg).")
def bench_ledger(*, as_lines: bool, quick: bool, plot: Path | None) -> None:
    """Measure the ledger on SQLite and PostgreSQL: appending, proofs, HTTP, overload, a million entries."""
    from tools.bench import measure_ledger
    from tools.bench_ledger import QUICK, THOROUGH
    from tools.output import require_writable, write_whole
    from tools.plot import FORM

    if plot is not None:
        require_writable(plot, FORM)
    report, chart = measure_ledger(QUICK if quick else THOROUGH)
    if plot is not None:
        write_whole(plot, chart.encode(), FORM)
    click.echo(report.as_json() if as_lines else report.as_text())


for _command in (
    ca,
    capture,
    device,
    ledger,
    operator,
    product,
    ra,
    revoke,
    serve,
    stamp,
    tsa,
    upload,
    witness,
):
    lightseal.add_command(_command)

if __name__ == "__main__":
    main()
