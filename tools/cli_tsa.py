"""`lightseal tsa`: serve the home's time-stamp unit, and check tokens of any authority."""

import sys
from pathlib import Path

import click

from tools.invocation import FILE, home_of, now

NOT_PROVEN = 15


@click.group()
def tsa() -> None:
    """Give times to others, and check the tokens that others gave (RFC 3161)."""


@tsa.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8464, show_default=True)
@click.option(
    "--peer", "peers", multiple=True, help="An http or https address whose Date must agree; repeatable."
)
@click.option(
    "--agreeing", type=click.IntRange(1), help="How many peers must agree (default: more than half)."
)
@click.option(
    "--witnesses",
    type=FILE,
    help="A C2SP tlog-policy, instead of the home's: no token is dated before what these witnessed.",
)
@click.option(
    "--per-second",
    type=click.FloatRange(0.01, 10_000),
    default=50.0,
    show_default=True,
    help="Tokens that are given to all together, in the long run; at once ten times as many. Each stays in the ledger.",
)
@click.pass_context
def serve_tsa(
    context: click.Context,
    host: str,
    port: int,
    peers: tuple[str, ...],
    agreeing: int | None,
    witnesses: Path | None,
    per_second: float,
) -> None:
    """Answer time-stamp queries over HTTP with the home's unit; each token is in the ledger before it leaves.

    Nobody is asked for the time unless --peer names them. While the clock cannot be relied on,
    every answer is a refusal that says why. Who asks too often is answered 429 with Retry-After.
    """
    from storage.policy import MAX_POLICY_BYTES, Policy
    from tools.check import bounded
    from tools.serving import serve
    from tools.time_app import time_app
    from tools.time_server import TimeService, time_unit

    home = home_of(context)
    policy = home.witnesses()
    if witnesses is not None:
        text = bounded(witnesses, MAX_POLICY_BYTES, "policy")
        policy = Policy.parse(text.decode("utf-8", "replace"))  # what is no UTF-8 is no key or name either
    service = TimeService(peers, agreeing, policy)
    with time_unit(home, service, now) as unit:
        serve(time_app(unit, per_second), host, port, click.echo)


@tsa.command("renew")
@click.pass_context
def renew_tsa(context: click.Context) -> None:
    """Give the home's time-stamp unit a new key; its certificate is logged first, and the old key is destroyed.

    Tokens that were given stay good. Start servers again afterwards.
    """
    from authn.signer import certificate_facts
    from tools.renewal import renew

    certificate, until = renew(home_of(context), now())
    click.echo(f"{certificate_facts(certificate).name} stamps until {until:%Y-%m-%d}.")


@tsa.command("check")
@click.argument("file", type=FILE)
@click.argument("token", type=FILE)
@click.pass_context
def check_tsa(context: click.Context, file: Path, token: Path) -> None:
    """Check that TOKEN, a token or a whole reply, proves when FILE existed. Exit status 0 if it does, else 15.

    It counts only if its authority is in the home's lists of time-stampers; whether that one's
    certificate was withdrawn is not asked.
    """
    from tools.token_check import checked

    lines, proven = checked(file, token, home_of(context), now())
    for line in lines:
        click.echo(line)
    sys.exit(0 if proven else NOT_PROVEN)
