"""`lightseal witness`: keep a witness for other people's logs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tools.invocation import FILE

if TYPE_CHECKING:
    from storage.witness.memory import Fork


@click.group()
def witness() -> None:
    """Witness logs that others keep: cosign what follows from all you saw before."""


@witness.command("create")
@click.argument("folder", type=FILE)
@click.option("--name", required=True, help="The witness's name, like a host and path; part of its key.")
def create_witness(folder: Path, name: str) -> None:
    """Make a witness in the new FOLDER: a key, and a memory that must never be lost."""
    from tools.witness_server import WitnessFolder

    made = WitnessFolder.create(folder, name)
    click.echo(f"Made a witness at {folder}. Its line in a policy:")
    click.echo(f"  witness NAME {made.key} URL")


@witness.command("serve")
@click.argument("folder", type=FILE)
@click.option("--log", "logs", multiple=True, required=True, help="The verifier key of a log to cosign for.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8463, show_default=True)
def serve_witness(folder: Path, logs: tuple[str, ...], host: str, port: int) -> None:
    """Cosign the checkpoints of these logs over HTTP (C2SP tlog-witness)."""
    from storage.note import VerifierKey
    from tools.serving import serve
    from tools.witness_server import WitnessFolder

    keys = [VerifierKey.parse_log(line) for text in logs for line in text.split()]
    with WitnessFolder.open(folder).service(keys) as app:
        serve(app, host, port, click.echo)


@witness.command("forks")
@click.argument("folder", type=FILE)
def print_forks(folder: Path) -> None:
    """Print the evidence: each pair of notes in which a log contradicts itself. Exit status 4 if there is one.

    What a log could not prove to follow is printed too: perhaps a fork, perhaps only a wrong proof.
    """
    from tools.witness_server import WitnessFolder

    found = WitnessFolder.open(folder).evidence()
    for fork in found.forks:
        _print(f"fork: {fork.origin} signed both of these, for one size", fork)
    for pair in found.unproven:
        _print(f"unproven: {pair.origin} signed both of these, and did not show that one follows", pair)
    click.echo(f"forks: {len(found.forks)}, unproven: {len(found.unproven)}", err=True)
    sys.exit(4 if found.forks else 0)


def _print(said: str, pair: "Fork") -> None:
    click.echo(f"{said}\n")
    for note in (pair.seen, pair.refused):
        click.echo(f"{note.decode()}")
