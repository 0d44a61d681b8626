"""`lightseal ledger`: look at the log, prove from it, audit, serve and keep it.

`check`, and `audit` and `watch` with a URL, need no home: they are for those who do not
trust the one who keeps the log.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

import tools.errors
from tools.invocation import FILE, home_of, home_path, now, say_error

if TYPE_CHECKING:
    from storage.audit import AuditReport
    from storage.policy import Policy
    from tools.home import Home

DIVERGES = 4
"""The exit status of an audit that found what contradicts the log, apart from one that could not be made."""

_URL = click.option("--url", help="A log over HTTP, instead of the home's; needs --log-key.")
_LOG_KEY = click.option(
    "--log-key", help="The log's verifier key, as published; all of them if it was rotated."
)
_WITNESSES = click.option("--witnesses", type=FILE, help="A C2SP tlog-policy: which witnesses are enough.")


@click.group()
def ledger() -> None:
    """Look at the ledger, prove an entry, audit everything, serve and keep it."""


@ledger.command()
@click.option("--witnessed", is_flag=True, help="The newest one that enough witnesses cosigned.")
@click.pass_context
def checkpoint(context: click.Context, *, witnessed: bool) -> None:
    """Print the newest signed checkpoint."""
    with home_of(context).ledger_to_read() as held:
        click.echo(held.witnessed() if witnessed else held.checkpoint(), nl=False)


@ledger.command()
@click.argument("index", type=click.IntRange(min=0))
@click.pass_context
def show(context: click.Context, index: int) -> None:
    """Print one entry, and what it commits to."""
    with home_of(context).ledger_to_read() as held:
        click.echo(held.entry(index).body.decode())
        payload = held.payload(index)
        click.echo("erased" if payload is None else payload.decode())


@ledger.command()
@click.argument("index", type=click.IntRange(min=0))
@click.option(
    "--format",
    "form",
    type=click.Choice(["receipt", "proof", "cose"]),
    default="receipt",
    show_default=True,
    help="A receipt with the payload, the C2SP tlog-proof alone, or an RFC 9942 COSE receipt in base64.",
)
@click.pass_context
def prove(context: click.Context, index: int, form: str) -> None:
    """Print a receipt: entry, inclusion proof and checkpoint, checkable without us."""
    home = home_of(context)
    with home.ledger_to_read() as held:
        match form:
            case "proof":
                click.echo(str(held.inclusion(index)), nl=False)
            case "cose":
                from storage.base64text import encode

                click.echo(encode(home.own.cose_receipt(held.prove(index))))
            case _:
                click.echo(str(held.prove(index)), nl=False)


@ledger.command("check")
@click.argument("receipt", type=FILE)
@click.option(
    "--log-key", required=True, help="The log's verifier key, as published; all of them if it was rotated."
)
@click.option("--media", type=FILE, help="The file that the receipt is to be about.")
@_WITNESSES
@click.option(
    "--format",
    "form",
    type=click.Choice(["receipt", "cose"]),
    default="receipt",
    show_default=True,
    help="A receipt, or an RFC 9942 COSE receipt in base64; both as 'prove' prints them.",
)
@click.option(
    "--entry", type=FILE, help="With --format cose: a file with the entry's body, as 'show' prints it."
)
def check_receipt(
    receipt: Path, log_key: str, media: Path | None, witnesses: Path | None, form: str, entry: Path | None
) -> None:
    """Check RECEIPT offline: no home, no network. Exit status 0 if all of it holds, else 15.

    Without --witnesses it shows what this log signed, not that others are shown the same log.
    """
    from tools.receipt_check import checked, checked_cose

    if form == "cose":
        if entry is None or media is not None or witnesses is not None:
            raise tools.errors.UsageError(
                "a COSE receipt is checked with --entry, for neither media nor witnesses"
            )
        lines, status = checked_cose(receipt, log_key, entry)
    elif entry is not None:
        raise tools.errors.UsageError("a receipt holds its entry; --entry is for --format cose")
    else:
        policy = None if witnesses is None else _policy(witnesses)
        lines, status = checked(receipt, log_key, media, policy, now())
    for line in lines:
        click.echo(line)
    sys.exit(status)


@ledger.command("audit")
@_URL
@_LOG_KEY
@click.option(
    "--state", type=FILE, help="Go on where the last audit that used this file ended, and note the end there."
)
@click.option(
    "--opaque", is_flag=True, help="With --url: the log's entries are not Lightseal's; hash them unread."
)
@click.pass_context
def audit_ledger(
    context: click.Context, url: str | None, log_key: str | None, state: Path | None, *, opaque: bool
) -> None:
    """Derive the whole ledger again from its entries and name the first divergence.

    Exit status 0 if nothing diverges, 4 if something does; 1 and 2 say that the audit could not be made.
    """
    from storage.errors import ProofError
    from storage.foreign.audit import Bodies
    from tools.auditing import audit_foreign, audit_home

    if url is None:
        if log_key is not None or opaque:
            raise tools.errors.UsageError("--log-key and --opaque are about a log over HTTP; add --url")
        report = audit_home(home_of(context), state)
    else:
        bodies = Bodies.OPAQUE if opaque else Bodies.OURS
        try:
            report = audit_foreign(url, _require_key(log_key), state, bodies)
        except ProofError as error:  # what the log serves contradicts what it signed, now or before
            say_error(error)
            sys.exit(DIVERGES)
    _print(report)
    sys.exit(DIVERGES if report.findings else 0)


@ledger.command()
@_URL
@_LOG_KEY
@click.option(
    "--state",
    type=FILE,
    required=True,
    help="Remembers how far the log was watched; made if it is not there.",
)
@click.option("--device", "devices", multiple=True, help="A device of this home whose key is to be watched.")
@click.option(
    "--key", "keys", multiple=True, help="A pseudonym, as 64 hex digits; 'device list' prints them."
)
@click.pass_context
def watch(
    context: click.Context,
    url: str | None,
    log_key: str | None,
    state: Path,
    devices: tuple[str, ...],
    keys: tuple[str, ...],
) -> None:
    """Print every use of your keys that the log gained since the last time. Exit status 3 if there was one.

    An entry that cannot be read is printed too, and ends in status 3, as it could hide a use.
    """
    from tools.auditing import counted, told, uses

    if url is None and log_key is not None:
        raise tools.errors.UsageError("--log-key is about a log over HTTP; add --url")
    watched = [_pseudonym(key) for key in keys]
    watched += [home_of(context).enrolled(name).pseudonym for name in devices]
    if not watched:
        raise tools.errors.UsageError("name at least one --device or --key to watch")
    home = None if url is not None else home_of(context)
    found = []
    for each in uses(home, url, None if url is None else _require_key(log_key), state, watched):
        found.append(each)
        click.echo(told(each))
    click.echo(counted(found, watched), err=True)
    sys.exit(3 if found else 0)


@ledger.command()
@click.argument("index", type=click.IntRange(min=0))
@click.pass_context
def erase(context: click.Context, index: int) -> None:
    """Forget what an entry hides, for ever, and log that; every proof stays valid."""
    home = home_of(context)
    logged = home.own.erase(index, now())
    if logged is None:
        with home.ledger_to_read() as held:
            why = "the ledger is frozen, so no entry says so" if held.frozen else "it had been erased before"
        click.echo(f"Payload and salt of entry {index} are gone, and so is their key; {why}.")
    else:
        click.echo(
            f"Erased payload and salt of entry {index}, and destroyed its key; entry {logged} says so."
        )
        click.echo("Receipts that others hold still show it, and so do older copies of the keyring.")


@ledger.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8462, show_default=True)
@click.option("--adding", is_flag=True, help="Take entries too, from the writers that 'ledger writer' made.")
@_WITNESSES
@click.pass_context
def serve(context: click.Context, host: str, port: int, *, adding: bool, witnesses: Path | None) -> None:
    """Serve checkpoints, tiles, entries and proofs over HTTP (C2SP tlog-tiles)."""
    from tools.log_server import Service, log_service
    from tools.serving import serve as run

    home = home_of(context)
    trusting = None if witnesses is None else _own_policy(witnesses, home)
    with log_service(home, Service(trusting, adding)) as app:
        run(app, host, port, click.echo)


@ledger.command()
@click.argument("name")
@click.option("--remove", is_flag=True, help="Take the right away; a running server learns of it at once.")
@click.option("--replace", is_flag=True, help="Give NAME a new token; the old one counts no longer.")
@click.pass_context
def writer(context: click.Context, name: str, *, remove: bool, replace: bool) -> None:
    """Make a token with which NAME may add entries over HTTP, and print it once."""
    import secrets

    from tools.log_server import (
        WRITERS,
        add_writer,
        remove_writer,
        replace_writer,
        require_writer_name,
        take_back,
    )

    writers = home_of(context).path / WRITERS
    require_writer_name(name)
    if remove:
        remove_writer(writers, name)
        click.echo(f"Removed the writer {name}.")
        return
    token, before = secrets.token_urlsafe(32), None
    if replace:
        before = replace_writer(writers, name, token)
    else:
        add_writer(writers, name, token)
    try:
        click.echo(token)
    except OSError:  # nobody read it, and it is shown only once
        take_back(writers, name, token, before)
        raise


@ledger.command()
@click.option("--witnesses", type=FILE, required=True, help="A C2SP tlog-policy: which witnesses are enough.")
@click.pass_context
def cosign(context: click.Context, witnesses: Path) -> None:
    """Have the newest checkpoint cosigned by the policy's witnesses, and keep it."""
    from tools.log_server import require_not_behind, witness_once

    home = home_of(context)
    trusting = _own_policy(witnesses, home)
    with home.ledger() as held:
        require_not_behind(held, trusting)
        collected = witness_once(held, trusting)
    if collected is None:
        click.echo("The newest checkpoint was witnessed before.")
        return
    click.echo(f"Cosigned by {', '.join(each.key.name for each in collected.cosigners)}.")
    for failure in collected.failures:
        click.echo(f"  not by {failure.witness}: {failure.reason}")


@ledger.command()
@click.argument("out", type=FILE)
@click.pass_context
def backup(context: click.Context, out: Path) -> None:
    """Write the whole ledger into one file that any auditor can read; payloads stay sealed."""
    from tools.keeping import back_up

    facts = back_up(home_of(context), out)
    click.echo(
        f"Wrote {facts.size} entries, {facts.notes} checkpoints and {facts.secrets} sealed payloads to {out}."
    )
    click.echo(f"  root {facts.root.hex()}")
    click.echo(
        "  The keys lie in the home, not in the backup: keep keys/ apart, and replace old copies after an erasure."
    )


@ledger.command()
@click.argument("source", type=FILE)
@click.option(
    "--check", "only_check", is_flag=True, help="Check the backup against keys and guard; write nothing."
)
@_WITNESSES
@click.pass_context
def restore(context: click.Context, source: Path, *, only_check: bool, witnesses: Path | None) -> None:
    """Put the ledger back from a backup, where the home's own is missing; an older one than the guard is refused."""
    from tools.keeping import WITNESSED_LEFT_OUT, check_backup, put_back

    home = home_of(context)
    policy = None if witnesses is None else _policy(witnesses)
    facts = (check_backup if only_check else put_back)(home, source, policy)
    if facts.witnessed and policy is None:
        click.echo(WITNESSED_LEFT_OUT)
    click.echo(f"{facts.size} entries, {facts.notes} checkpoints, root {facts.root.hex()}")
    click.echo(
        "The backup holds; nothing was written." if only_check else "Restored, and audited: nothing diverges."
    )


@ledger.command("rotate-key")
@click.option("--finish", is_flag=True, help="End a rotation: from now on only the new key signs.")
@click.pass_context
def rotate_key(context: click.Context, *, finish: bool) -> None:
    """Give the log a new key; old and new sign together until --finish, and old checkpoints stay valid."""
    own = home_of(context).own
    rotated = own.end_rotation(now()) if finish else own.begin_rotation(now())
    click.echo(
        "The new key signs alone." if finish else "Both keys sign. Publish log.vkey, then use --finish."
    )
    for key in rotated.keys:
        click.echo(f"  {'signs  ' if key in rotated.signing else 'retired'}  {key}")


@ledger.command()
@click.option("--reason", required=True, help="Why; it becomes part of the last entry.")
@click.option("--yes", is_flag=True, help="Do it; a frozen ledger never takes another entry.")
@click.pass_context
def freeze(context: click.Context, reason: str, *, yes: bool) -> None:
    """End the ledger for ever: a last entry says why, and every proof stays valid."""
    try:
        reason.encode()
    except UnicodeEncodeError as error:
        raise tools.errors.UsageError("the reason is not UTF-8 text") from error
    if not yes:
        raise tools.errors.UsageError("a frozen ledger never takes another entry; add --yes if that is meant")
    home = home_of(context)
    index = home.own.freeze(reason, now())
    click.echo(
        f"Frozen; entry {index} is the last. 'lightseal init --after CHECKPOINT' begins its successor."
    )


@ledger.command()
@click.pass_context
def migrate(context: click.Context) -> None:
    """Bring a home of an earlier version up to date: its ledger, of which no entry is changed, and its registry."""
    from tools.founding import complete_home
    from tools.migration import migrate_home

    done = migrate_home(home_path(context))
    if done.before == done.after:
        click.echo(f"The ledger is at revision {done.after} already.")
    else:
        click.echo(f"Migrated from revision {done.before} to {done.after}.")
    click.echo(f"  {done.size} entries, root {done.root.hex()}")
    if complete_home(home_of(context), now()):
        click.echo("  a registry was made, with the devices of this home")


def _print(report: "AuditReport") -> None:
    begun = f" from {report.start} on" if report.start else ""
    click.echo(f"{report.size} entries derived again{begun}, root {report.root.hex()}")
    for finding in report.findings:
        click.echo(f"  {finding.code.value}: {finding.explanation}")
    if report.omitted:
        click.echo(f"  and {report.omitted} more")
    click.echo(
        "nothing diverges" if not report.findings else f"first divergence: {report.findings[0].explanation}"
    )


def _own_policy(path: Path, home: "Home") -> "Policy":
    """A policy for the home's own log: one that asks for somebody, and names no other log instead."""
    policy = _policy(path)
    if policy.quorum is None:
        raise tools.errors.UsageError("the policy asks for no witness")
    policy.about(home.own.keys)
    # What witnesses saw before a rotation was signed with a key that the policy need not name any more.
    return policy.trusting(home.own.keys)


def _policy(path: Path) -> "Policy":
    from storage.policy import MAX_POLICY_BYTES, Policy
    from tools.check import bounded

    try:
        return Policy.parse(bounded(path, MAX_POLICY_BYTES, "policy").decode())
    except UnicodeDecodeError as error:
        raise tools.errors.UnreadableError(f"the policy {path} is not UTF-8 text") from error


def _require_key(log_key: str | None) -> str:
    if log_key is None:
        raise tools.errors.UsageError("a log over HTTP is checked with --log-key, from a source you trust")
    return log_key


def _pseudonym(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise tools.errors.UsageError("a pseudonym is 64 hex digits")
    return key
