"""`lightseal revoke` and `lightseal operator`: withdraw what is no longer to be believed, and who may."""

import re
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from authn.plain import plain
from tools.invocation import FILE, Moment, home_of, now

if TYPE_CHECKING:
    from tools.home import Home
    from tools.revoking import Signed

_REASONS = {
    "key-compromise": "keyCompromise",
    "ca-compromise": "cACompromise",
    "affiliation-changed": "affiliationChanged",
    "superseded": "superseded",
    "cessation": "cessationOfOperation",
    "privilege-withdrawn": "privilegeWithdrawn",
}
_BY = click.option(
    "--by", "people", multiple=True, metavar="NAME=KEY-URI", help="An operator, and the key to sign with."
)


@click.group()
def revoke() -> None:
    """Withdraw a certificate, a device, a product or an authority; files are judged by it at once.

    What was provably signed before --since stays good. Products and authorities take two people:
    --by twice, or once for a proposal that the other completes with 'revoke approve'.
    """


def _make(kind: str, explained: str) -> None:
    @revoke.command(kind, help=explained)
    @click.argument("name")
    @click.option("--reason", required=True, type=click.Choice(list(_REASONS)), help="Why; always published.")
    @click.option(
        "--since",
        type=Moment(),
        help="Since when it may have been in wrong hands; signatures before then stay good.",
    )
    @_BY
    @click.option(
        "--proposal", type=FILE, help="Where the proposal goes that a second person has to complete."
    )
    @click.pass_context
    def command(
        context: click.Context,
        name: str,
        reason: str,
        since: datetime | None,
        people: tuple[str, ...],
        proposal: Path | None,
    ) -> None:
        from authn.withdrawal import Reason
        from storage.registry.rows import TargetKind
        from tools.errors import UsageError
        from tools.revoking import Signed, enough, propose, target_of

        home = home_of(context)
        target = target_of(home, TargetKind(kind), name)
        place = proposal or Path(f"revoke-{kind}-{target.name[:40].replace('/', '-')}.json")
        if proposal is not None or (kind in ("product", "ca") and len(people) == 1):
            _require_new(place)
        made = Signed(propose(home, target, Reason(_REASONS[reason]), since, now()), ())
        signed = _signed(made, people)
        if enough(signed):
            _carry_out(home, signed)
            return
        if not people:
            raise UsageError(f"a {kind} is withdrawn by two people: add --by NAME=KEY-URI, once or twice")
        _write_new(place, signed.encode())
        click.echo(
            f"Nothing is withdrawn yet. A second operator runs: lightseal revoke approve {place} --by ..."
        )


for _kind, _explained in {
    "certificate": "Withdraw one certificate, named by its SHA-256 or its serial number.",
    "device": "Withdraw a device with all its certificates; it never comes back.",
    "product": "Withdraw every certificate of every device of a product. Takes two people.",
    "ca": "Withdraw an issuing authority, by its name in this home, or 'time-stamping'. Takes two people.",
}.items():
    _make(_kind, _explained)


@revoke.command()
@click.argument("file", type=FILE)
@_BY
@click.option("--yes", "agreed", is_flag=True, help="Do not ask; for scripts.")
@click.pass_context
def approve(context: click.Context, file: Path, people: tuple[str, ...], *, agreed: bool) -> None:
    """Complete the proposal in FILE: what it takes with it is shown, and asked about before a key is opened."""
    from tools.errors import UsageError
    from tools.revoking import describe, enough, read_proposal

    if not people:
        raise UsageError("name yourself with --by NAME=KEY-URI")
    home = home_of(context)
    signed = read_proposal(file)
    proposal = signed.proposal
    since = "now" if proposal.since is None else f"{proposal.since:%Y-%m-%d %H:%M:%S} UTC"
    names = ", ".join(each.operator for each in signed.signatures) or "nobody yet"
    click.echo(f"To withdraw: {plain(describe(home, proposal.target), 600)}")
    click.echo(f"  {proposal.target.kind.value} {plain(proposal.target.name, 200)}")
    click.echo(f"  for {proposal.reason.value}, not believed since {since}")
    click.echo(f"  proposed {proposal.proposed_at:%Y-%m-%d %H:%M} UTC, signed by {plain(names, 400)}")
    if not agreed:
        click.confirm("Is this to be withdrawn?", abort=True)
    completed = _signed(signed, people)
    if not enough(completed):
        raise UsageError("another person has to sign as well")
    _carry_out(home, completed)


@revoke.command("publish")
@click.pass_context
def publish_lists(context: click.Context) -> None:
    """Make all revocation lists and responder certificates anew, and finish what an interrupted revoke began.

    'ca serve' does so for the authorities whose keys it has. Run this once a day where none runs, and
    where the key of a root is kept elsewhere.
    """
    from tools.revoking import catch_up, require_published
    from tools.status_lists import publish, renew_responders

    home, at = home_of(context), now()
    for entry in catch_up(home):
        click.echo(f"entry {entry}\twithdrawn, as the ledger has it")
    for name in renew_responders(home, at):
        click.echo(f"{name}\tresponder certified")
    published = publish(home, at)
    for each in published:
        click.echo(f"{each.authority}\t{each.path if each.fault is None else f'not made: {each.fault}'}")
    require_published(published, home)


@revoke.command("list")
@click.pass_context
def list_withdrawals(context: click.Context) -> None:
    """List what was withdrawn: kind, name, reason, since when, by whom, entry."""
    with home_of(context).registry() as registry:
        for each in registry.withdrawals():
            target, by = each.target, ",".join(each.by)
            click.echo(
                f"{target.kind.value}\t{target.name}\t{each.reason}\t{each.since:%Y-%m-%dT%H:%M:%SZ}\t{by}\t{each.entry}"
            )


@click.group()
def operator() -> None:
    """Name the people who decide on withdrawals, each with a key of their own."""


@operator.command("add")
@click.argument("name")
@click.argument("public_key", type=FILE)
@click.option("--role", type=click.Choice(["revoker", "ca-operator"]), default="revoker", show_default=True)
@click.option(
    "--by", metavar="NAME=KEY-URI", help="An operator who names this one, and the key to sign with."
)
@click.pass_context
def add(context: click.Context, name: str, public_key: Path, role: str, by: str | None) -> None:
    """Let NAME decide with the key whose public half is in the PUBLIC_KEY file; an entry says so.

    The first two are named by whoever has this home. From then on it takes an operator, with --by.
    """
    from authn.custody.opening import open_provider
    from storage.registry.rows import Role
    from tools.home import content_of
    from tools.revoking import Signature, add_operator, naming_text

    home, public = home_of(context), content_of(public_key)
    vouched = None
    if by is not None:
        person, address = _named(by)
        with closing(open_provider(address)) as key:
            vouched = Signature(person, key.sign(naming_text(home, name, public, Role(role))))
    entry = add_operator(home, name, public, Role(role), now(), vouched)
    click.echo(f"{name} is an operator; entry {entry} of the ledger says so.")


@operator.command("dismiss")
@click.argument("name")
@click.pass_context
def dismiss(context: click.Context, name: str) -> None:
    """Take NAME's say away; an entry says so."""
    from tools.revoking import dismiss_operator

    entry = dismiss_operator(home_of(context), name, now())
    click.echo(f"{name} is no operator any more; entry {entry} of the ledger says so.")


@operator.command("list")
@click.pass_context
def list_operators(context: click.Context) -> None:
    """List the operators: name, role, since when, until when."""
    with home_of(context).registry() as registry:
        for each in registry.operators():
            until = "" if each.until is None else f"{each.until:%Y-%m-%d}"
            click.echo(f"{each.name}\t{each.role.value}\t{each.since:%Y-%m-%d}\t{until}")


@operator.command("key")
@click.argument("address", metavar="KEY-URI")
@click.option("--out", type=FILE, required=True, help="Where the public key goes.")
def key_file(address: str, out: Path) -> None:
    """Write the public half of the key at KEY-URI, to be handed to whoever runs 'operator add'."""
    from authn.custody.opening import open_provider
    from authn.public_key import public_pem

    _require_new(out)
    with closing(open_provider(address)) as key:
        _write_new(out, public_pem(key.public_key))
    click.echo(f"Wrote {out}.")


def _signed(signed: "Signed", people: tuple[str, ...]) -> "Signed":
    from authn.custody.opening import open_provider
    from tools.revoking import sign

    for each in people:
        name, address = _named(each)
        with closing(open_provider(address)) as key:
            signed = sign(signed, name, key)
    return signed


def _named(text: str) -> tuple[str, str]:
    from tools.errors import UsageError

    name, equals, address = text.partition("=")
    if not equals or not name or not address:
        raise UsageError("an operator is named as NAME=KEY-URI")
    return name, address


def _require_new(path: Path) -> None:
    from tools.errors import OutputExistsError
    from tools.output import require_plain

    if require_plain(path) is not None:
        raise OutputExistsError(f"{path} is already there")


def _write_new(path: Path, data: bytes) -> None:
    from tools.output import Form, write_whole

    nothing = re.compile(rb"(?!)")
    write_whole(path, data, Form("new file", nothing, nothing))


def _carry_out(home: "Home", signed: "Signed") -> None:
    from tools.revoking import carry_out, require_published
    from tools.status_lists import renew_responders

    target = signed.proposal.target
    entry, published = carry_out(home, signed, now())
    renew_responders(home, now())
    click.echo(f"{target.kind.value} {target.name} is withdrawn; entry {entry} of the ledger says so.")
    for each in published:
        if each.fault is None:
            click.echo(f"  list of {each.authority}: {each.path}")
    require_published(published, home)
