"""`lightseal product`, `device`, `ca serve` and `ra serve`: let devices enrol, and keep an eye on them."""

import json
import os
import sys
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import click

from tools.invocation import FILE, Moment, home_of, now

_MAX_RULES = 1 << 20
_MAX_TOKEN = 1 << 10
_MAX_KEY = 64 << 10
_LIFETIMES = ["standard", "session", "one-time"]


@click.group()
def product() -> None:
    """Say which kinds of devices there are, and what one must prove to be certified as such."""


@product.command("add")
@click.argument("name")
@click.option("--lifetime", type=click.Choice(_LIFETIMES), default="standard", show_default=True)
@click.option(
    "--minimum",
    type=click.Choice(["E0", "E1", "E2", "E3"]),
    default="E0",
    show_default=True,
    help="The least evidence of where the key is kept.",
)
@click.option(
    "--rules",
    type=FILE,
    help="JSON with what evidence must show: parts 'android', 'app-attest', 'tpm'. With "
    '"operator-vouches": true the operator vouches for where a device with a token says that its '
    "key is (E1); a device enrolled here he vouches for anyway.",
)
@click.pass_context
def add_product(context: click.Context, name: str, lifetime: str, minimum: str, rules: Path | None) -> None:
    """Add the product NAME, which its certificates name; a version with a fault is revoked by this name."""
    from authn.identity import Subject
    from storage.payload import canonical
    from storage.registry.rows import Product
    from tools.check import bounded
    from tools.issuance.judging import require_rules
    from tools.issuance.registration import require_for_devices

    home = home_of(context)
    require_for_devices(name)
    Subject("XX", home.organisation, name)  # what no certificate could name is refused now
    data = b"{}" if rules is None else canonical(_parsed(bounded(rules, _MAX_RULES, "file of rules")))
    require_rules(data)
    at = now().replace(microsecond=0)
    with home.registry() as registry:
        registry.add_product(Product(name, home.organisation, lifetime, minimum, data, at))
    click.echo(f"Added {name}: {lifetime} certificates, for evidence of {minimum} or better.")


@product.command("list")
@click.pass_context
def list_products(context: click.Context) -> None:
    """List the products: name, lifetime, least evidence, since when."""
    with home_of(context).registry() as registry:
        for each in registry.products():
            click.echo(f"{each.name}\t{each.lifetime}\t{each.minimum}\t{each.since:%Y-%m-%d}")


@click.command("token")
@click.argument("product_name", metavar="PRODUCT")
@click.option("--out", type=FILE, required=True, help="A new file for the token, closed to others.")
@click.option("--hours", type=click.IntRange(1, 24 * 30), default=24, show_default=True)
@click.pass_context
def device_token(context: click.Context, product_name: str, out: Path, hours: int) -> None:
    """Make a token that enrols one device of PRODUCT; it is written to a file and shown nowhere."""
    import hashlib
    import secrets

    from tools.issuance.registration import TOKEN_BYTES, require_for_devices

    require_for_devices(product_name)
    token, expires = secrets.token_bytes(TOKEN_BYTES), now() + timedelta(hours=hours)
    with home_of(context).registry() as registry:
        registry.product(product_name)
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(token.hex() + "\n")
        registry.add_bootstrap(hashlib.sha256(token).digest(), product_name, expires)
    click.echo(f"Wrote {out}: enrols one device as {product_name} until {expires:%Y-%m-%d %H:%M} UTC.")


@click.command("join")
@click.option(
    "--service", "url", help="The service's address; without it the home is enrolled with directly."
)
@click.option("--token-file", type=FILE, required=True, help="The token that the operator gave out.")
@click.option("--product", "product_name", required=True, help="What the token is for.")
@click.option("--folder", type=FILE, required=True, help="A new folder for the device.")
@click.option("--name", help="The device's name with the service; without it the service chooses one.")
@click.option("--key", "address", help="The key's URI; a tpm: key is made. Without it a file is made.")
@click.option("--lifetime", type=click.Choice(_LIFETIMES), help="As the product has it.")
@click.option(
    "--pool", type=click.IntRange(1, 99), default=50, show_default=True, help="One-time keys to make."
)
@click.pass_context
def device_join(
    context: click.Context,
    url: str | None,
    token_file: Path,
    product_name: str,
    folder: Path,
    name: str | None,
    address: str | None,
    lifetime: str | None,
    pool: int,
) -> None:
    """Enrol this device: prove where its key is, and get certificates for it."""
    from authn.identity import Lifetime
    from tools.issuance.client import HttpService, Joining, join
    from tools.issuance.desk import own_desk

    wanted = None if lifetime is None else Lifetime(lifetime)
    joining = Joining(folder, product_name, _token(token_file), name, address, wanted, url, pool)
    if url is not None:
        camera = join(joining, HttpService(url))
    else:
        with own_desk(home_of(context), now) as desk:
            camera = join(joining, desk)
    token_file.unlink()
    click.echo(f"Enrolled {camera.name} as {product_name} in {folder}; its issuance is entry {camera.entry}.")
    if camera.one_time:
        click.echo(f"  {len(camera.pool())} certificates for one capture each")


@click.command("renew")
@click.option("--folder", type=FILE, required=True, help="The device's folder.")
@click.option("--key", "address", help="The new key's URI, where it cannot be made here.")
@click.option(
    "--pool", type=click.IntRange(1, 99), default=50, show_default=True, help="One-time keys to make."
)
@click.pass_context
def device_renew(context: click.Context, folder: Path, address: str | None, pool: int) -> None:
    """Have a new key certified on the word of the present one; fills up the pool of a one-time device."""
    from tools.camera.folder import read_camera
    from tools.issuance.client import HttpService, renew
    from tools.issuance.desk import own_desk

    camera = read_camera(folder)
    if camera.service is not None:
        renewed = renew(camera, HttpService(camera.service), address, pool)
    else:
        with own_desk(home_of(context), now) as desk:
            renewed = renew(camera, desk, address, pool)
    click.echo(f"Renewed {renewed.name}.")


@click.command("suspend")
@click.argument("name")
@click.option("--why", required=True, help="The reason, for whoever looks at it later.")
@click.pass_context
def device_suspend(context: click.Context, name: str, why: str) -> None:
    """Take nothing from the device NAME until it is activated again; its certificates stay good."""
    from storage.registry.rows import Status

    with home_of(context).registry() as registry:
        registry.set_status(name, Status.SUSPENDED, now(), why)
    click.echo(f"{name} is suspended.")


@click.command("activate")
@click.argument("name")
@click.option("--why", required=True, help="What was found out, for whoever looks at it later.")
@click.pass_context
def device_activate(context: click.Context, name: str, why: str) -> None:
    """Let the device NAME, which was suspended or suspect, work again."""
    from storage.registry.rows import Status

    with home_of(context).registry() as registry:
        registry.set_status(name, Status.ACTIVE, now(), why)
    click.echo(f"{name} is active.")


@click.command("judge")
@click.option(
    "--status-list", type=FILE, help="Google's list of withdrawn attestation certificates, as fetched."
)
@click.option(
    "--fetched", type=Moment(), help="When it was fetched; needed, for the list itself does not say."
)
@click.option("--older", is_flag=True, help="Use the list although the one in use is newer.")
@click.pass_context
def device_judge(
    context: click.Context, status_list: Path | None, fetched: datetime | None, *, older: bool
) -> None:
    """Judge all evidence again, by a new status list if one is given, and print what changed.

    Exit status 3 if something did. A device whose evidence fell is suspect.
    """
    from tools.errors import UsageError
    from tools.issuance.judge_again import judge_again, read_status_list, require_not_older, use_status_list

    home = home_of(context)
    if status_list is None and (fetched is not None or older):
        raise UsageError("--fetched and --older are about a --status-list")
    if status_list is not None:
        status = read_status_list(status_list, fetched, now())
        if not older:
            require_not_older(home, status)
        use_status_list(home, status)
        click.echo(f"The status list of {status.dated:%Y-%m-%d %H:%M} UTC is in use.")
    changes = judge_again(home, now())
    for change in changes:
        click.echo(f"{change.device}\t{change.kind}\t{change.before} -> {change.after}\t{change.why}")
    sys.exit(3 if changes else 0)


@click.group()
def ra() -> None:
    """Keep the registration authority: it speaks with devices, and cannot certify."""


@ra.command("serve")
@click.option(
    "--socket", "place", type=FILE, help="Where the issuing authority listens (default: in the home)."
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8464, show_default=True)
@click.pass_context
def serve_ra(context: click.Context, place: Path | None, host: str, port: int) -> None:
    """Take enrolments over HTTP; 'lightseal ca serve' runs beside it, as another user if possible."""
    from tools.decisions import decisions_told
    from tools.issuance.authority_server import RemoteAuthority, socket_of
    from tools.issuance.desk import desk_of
    from tools.registration_app import application
    from tools.serving import serve

    home = home_of(context)
    with decisions_told(), desk_of(home, RemoteAuthority(place or socket_of(home.path)), now) as desk:
        serve(application(desk), host, port, click.echo)


@click.command("serve")
@click.option("--socket", "place", type=FILE, help="Where to listen (default: in the home).")
@click.option("--key", "address", help="The issuing key's URI, where it is not the one the home names.")
@click.option(
    "--ra-key", type=FILE, help="The registration authority's public key, where its key is not here."
)
@click.pass_context
def ca_serve(context: click.Context, place: Path | None, address: str | None, ra_key: Path | None) -> None:
    """Certify what the registration authority approved, once the ledger has it; over a socket only.

    Meanwhile it renews lists and responders' certificates of the authorities whose keys are here. What
    an interrupted 'revoke' left undone is finished first. After 'ca rotate' it issues from the new one.
    """
    import secrets

    from authn.custody.opening import open_provider
    from authn.public_key import read_public_key
    from tools.check import bounded
    from tools.issuance.authority import Authority
    from tools.issuance.authority_server import run, socket_of
    from tools.issuance.desk import REGISTRATION_KEY
    from tools.revoking import catch_up
    from tools.status_lists import looking_after

    home = home_of(context)
    if ra_key is not None:
        public = read_public_key(bounded(ra_key, _MAX_KEY, "public key"))
    else:
        with closing(home.key(REGISTRATION_KEY)) as registration:
            public = registration.public_key
    key = home.key(home.issuers()[-1]) if address is None else open_provider(address)
    catch_up(home)
    with (
        closing(key),
        Authority(home, key, public, now, secrets.token_bytes) as authority,
        looking_after(home.path, now),
    ):
        run(authority, place or socket_of(home.path), click.echo)


def _token(path: Path) -> bytes:
    from tools.check import bounded
    from tools.errors import UsageError

    try:
        return bytes.fromhex(bounded(path, _MAX_TOKEN, "token file").decode("ascii").strip())
    except ValueError as error:
        raise UsageError(f"{path} holds no token") from error


def _parsed(data: bytes) -> dict[str, object]:
    from tools.issuance.errors import RulesError

    try:
        rules = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RulesError("the rules are not JSON") from error
    if not isinstance(rules, dict):
        raise RulesError("the rules are no JSON object")
    return rules
