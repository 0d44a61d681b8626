"""`lightseal device`: the devices that sign."""

import click

from tools.cli_capture import captures
from tools.cli_enrolment import (
    device_activate,
    device_join,
    device_judge,
    device_renew,
    device_suspend,
    device_token,
)
from tools.invocation import home_of, now


@click.group()
def device() -> None:
    """Enrol the devices that sign."""


@device.command()
@click.argument("name")
@click.option(
    "--product",
    default="Lightseal Capture Client",
    show_default=True,
    help="What the certificate names; a product, never one unit.",
)
@click.option("--key", "address", help="The key's URI; a tpm: key is made. Without it a file is made.")
@click.option(
    "--lifetime",
    type=click.Choice(["standard", "session", "one-time"]),
    default="standard",
    show_default=True,
    help="30 days, a day, or certificates for one capture each.",
)
@click.option(
    "--pool", type=click.IntRange(1, 99), default=50, show_default=True, help="One-time keys to make."
)
@click.pass_context
def enrol(
    context: click.Context, name: str, product: str, address: str | None, lifetime: str, pool: int
) -> None:
    """Make a key and a certificate for a device of this home; the issuance is logged first."""
    from authn.identity import Lifetime
    from tools.issuance.own import enrol as enrol_device

    enrolled, index = enrol_device(
        home_of(context), name, product, now(), key=address, lifetime=Lifetime(lifetime), pool=pool
    )
    click.echo(f"Enrolled {enrolled.name} as {product}; its issuance is entry {index} of the ledger.")


@device.command("list")
@click.pass_context
def list_devices(context: click.Context) -> None:
    """List the enrolled devices, how long their certificates last, and the pseudonyms of their keys."""
    home = home_of(context)
    for name in home.devices():
        device = home.enrolled(name)
        leaf = device.chain[0]
        until, key = f"{leaf.not_valid_after_utc:%Y-%m-%d}", device.pseudonym.hex()
        click.echo(f"{name}\tvalid until {until}\tserial {leaf.serial_number:x}\tkey {key}")


for _command in (
    captures,
    device_activate,
    device_join,
    device_judge,
    device_renew,
    device_suspend,
    device_token,
):
    device.add_command(_command)
