"""`lightseal stamp`: a time for what was signed without one."""

import sys
from pathlib import Path

import click

from tools.invocation import FILE, home_of, now, say_error


@click.command()
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option(
    "--authority",
    "authorities",
    multiple=True,
    metavar="URL",
    help="A time-stamp authority of your lists, asked instead of the home's own unit; several are asked at once.",
)
@click.pass_context
def stamp(context: click.Context, files: tuple[Path, ...], authorities: tuple[str, ...]) -> None:
    """Take a time-stamp token for signed FILES that have no proven time, and keep it in the home.

    The files stay as they are; 'lightseal verify' with this home finds the token. It proves that the
    signature was there when the token was taken, and nothing of when before that it was made.
    """
    from tools.stamping import stamp_files

    failed = False
    for outcome in stamp_files(home_of(context), files, authorities, now):
        if isinstance(outcome, Exception):
            failed = True
            say_error(outcome)
            continue
        click.echo(outcome)
    sys.exit(1 if failed else 0)
