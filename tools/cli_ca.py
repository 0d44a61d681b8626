"""`lightseal ca`: the authorities of a home, and the root that stands behind them."""

import time
from datetime import UTC, datetime
from pathlib import Path

import click

from tools.cli_enrolment import ca_serve
from tools.invocation import FILE, Moment, home_of, now


@click.group()
def ca() -> None:
    """Keep the certificate authorities: the root, those that issue, and whom the home believes."""


@ca.command("list")
@click.pass_context
def list_authorities(context: click.Context) -> None:
    """Print the issuing authorities: which one issues, and until when the others' keys are needed."""
    from tools.rotation import authorities

    at = now()
    for each in authorities(home_of(context), at):
        role = "issues" if each.issues else f"answers until {each.answers_until:%Y-%m-%d}"
        due = ", and should have a successor" if each.due(at) else ""
        click.echo(f"{each.name:12} {role}{due}; {each.subject}, until {each.not_after:%Y-%m-%d}")


@ca.command()
@click.option("--key", "key_uri", help="Where the new authority's key is, by URI; else a file of the home.")
@click.option(
    "--request", type=FILE, help="Write a request for a ceremony, and do not ask for the root's key."
)
@click.option("--install", type=FILE, help="Take the certificate that a ceremony made from such a request.")
@click.pass_context
def rotate(context: click.Context, key_uri: str | None, request: Path | None, install: Path | None) -> None:
    """Begin to issue from a new authority; the old one goes on signing lists and answers."""
    from authn.device import read_chain
    from tools.errors import OutputExistsError, UsageError
    from tools.home import content_of, open_home
    from tools.rotation import install_successor, request_successor
    from tools.rotation import rotate as rotate_both
    from tools.status_lists import look_after

    home = home_of(context)
    if install is not None:
        if key_uri is not None or request is not None:
            raise UsageError("--install goes with neither --key nor --request")
        name = install_successor(home, read_chain(content_of(install))[0], now())
    elif request is not None:
        if request.exists():
            raise OutputExistsError(f"{request} is already there")
        asked = request_successor(home, key_uri, now())
        request.write_bytes(bytes(asked))
        click.echo(f"Request for {asked.name}, plan {asked.plan.hex()}, entry {asked.entry}.")
        return
    else:
        name = rotate_both(home, key_uri, now())
    look_after(open_home(home.path), now())
    click.echo(f"{name} issues from now on.")


@ca.command()
@click.argument("folder", type=FILE)
@click.option(
    "--root", "root_uri", required=True, help="The root's key by URI; a file that is not there is made."
)
@click.option("--operator", "operators", multiple=True, required=True, help="Who is present; twice.")
@click.option("--clock", "shown", type=Moment(), required=True, help="What another clock shows now.")
@click.option("--organisation", help="Make a new root with this name.")
@click.option("--certificate", type=FILE, help="The certificate of the root that there is.")
@click.option("--request", "requests", type=FILE, multiple=True, help="A request by 'ca rotate --request'.")
@click.option(
    "--authority", "known", type=FILE, multiple=True, help="An authority that the root signed before."
)
@click.option("--list", "previous", type=FILE, help="The root's last revocation list.")
@click.option(
    "--withdraw", multiple=True, help="SERIAL,REASON,REVOKED-AT[,COMPROMISED-SINCE] of an authority."
)
def ceremony(
    folder: Path,
    *,
    root_uri: str,
    operators: tuple[str, ...],
    shown: datetime,
    organisation: str | None,
    certificate: Path | None,
    requests: tuple[Path, ...],
    known: tuple[Path, ...],
    previous: Path | None,
    withdraw: tuple[str, ...],
) -> None:
    """Use the root's key, on a machine without a network: sign authorities and the root's list into FOLDER.

    Two people confirm what they see. The transcript is printed, and kept in FOLDER.
    """
    from authn.device import read_chain
    from authn.timestamp.clock import Reading
    from tools.ceremony import Ceremony, hold_ceremony, read_withdrawal
    from tools.home import content_of

    plan = Ceremony(
        root_uri,
        operators,
        shown.astimezone(UTC),
        organisation,
        None if certificate is None else read_chain(content_of(certificate))[0],
        tuple(map(content_of, requests)),
        tuple(read_chain(content_of(path))[0] for path in known),
        None if previous is None else content_of(previous),
        tuple(map(read_withdrawal, withdraw)),
    )

    def confirm(name: str, said: str) -> bool:
        click.echo(f"\n{said}", err=True)
        return click.confirm(f"{name}, is this what is to be done?", err=True)

    transcript = hold_ceremony(plan, folder, lambda: Reading(now(), time.monotonic()), confirm)
    click.echo(transcript, nl=False)


@ca.command()
@click.argument("folder", type=FILE)
@click.option("--check", "log_key", help="Check the bundle in FOLDER by this log's verifier key.")
@click.option("--after", type=click.IntRange(0), default=0, help="With --check: the version already known.")
@click.pass_context
def bundle(context: click.Context, folder: Path, log_key: str | None, after: int) -> None:
    """Publish the home's trust lists as a signed version of the ledger, in the new FOLDER; or check one."""
    from tools.check import log_keys
    from tools.trust_bundle import check_bundle, publish_bundle

    if log_key is not None:
        found, _ = check_bundle(folder, log_keys(log_key), after)
    else:
        home = home_of(context)
        found = publish_bundle(home, folder, now(), home.own.sign_text)
    click.echo(f"version {found.version} of {found.dated:%Y-%m-%d %H:%M:%S} UTC, {found.origin}")
    for item in found.lists:
        click.echo(f"  {item.name:20} {item.purpose:15} {item.sha256}")


ca.add_command(ca_serve)
