"""Check many files in workers and report on each; what `verify`, `batch` and `demo` share."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Self

from authn.crl import MAX_CRL
from authn.evidence import Code, Credentials, Finding, Panel, Revocation
from authn.jumbf import MAX_STORE
from authn.plain import plain
from authn.profile import Profile
from authn.revocation import NO_STATUSES, Statuses
from authn.signer import Lists
from authn.trust import MAX_LIST_BYTES, Purpose, TrustList
from storage.note import VerifierKey
from storage.receipt import Receipt
from storage.registry.errors import RegistryError
from tools.acceptance import MAX_POLICY_BYTES, AcceptancePolicy, unmet
from tools.confine import Limits
from tools.contradictions import Contradiction, contradictions
from tools.errors import (
    Error,
    HomeOutdatedError,
    UnreadableError,
    UsageError,
    WorkerDiedError,
    WorkerTimeoutError,
)
from tools.examine import Examined, Policy, obstacle
from tools.home import Home
from tools.online import Asked, Cache, Inquiry, Outcome, UnansweredError, ask, fetch
from tools.recorded import Book, weigh
from tools.report import Acceptance, Engine, Report
from tools.supervisor import Supervisor, Task
from tools.trust import ListFile
from tools.verdict import Headline, Ledger, Verdict, decide, exit_status
from tools.version import VERSION

MAX_RECEIPT_BYTES = 256 << 10
MAX_LOG_KEYS = 64
LIMITS = Limits(seconds=60.0, memory=4 << 30)


@dataclass(frozen=True, slots=True)
class Beliefs:
    """Lists, the ledger and its key: everything a verdict is relative to."""

    policy: Policy
    book: Book | None
    keys: tuple[VerifierKey, ...]
    engine: Engine
    acceptance: AcceptancePolicy | None
    online: "Asking | None"
    notes: tuple[Finding, ...]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.book is not None:
            self.book.close()


@dataclass(frozen=True, slots=True)
class Chosen:
    """What somebody asked for on a command line; what is missing comes from the home."""

    signers: Path | None = None
    time_stampers: Path | None = None
    identities: Path | None = None
    profile: Profile | None = None
    revocations: tuple[Path, ...] = ()
    log_key: str | None = None
    at: datetime | None = None
    policy: Path | None = None
    sidecar: Path | None = None
    online: bool = False


def beliefs(home: Home | None, chosen: Chosen, now: datetime) -> Beliefs:
    """Lists that were chosen, else the home's, purpose by purpose; the ledger is always the home's."""
    at = chosen.at or now
    files = [
        *_chosen(home, chosen.signers, Purpose.SIGNING, chosen.profile or Profile.SPECIFICATION),
        *_chosen(home, chosen.time_stampers, Purpose.TIME_STAMPING, Profile.TIME_STAMPING),
        *_chosen(home, chosen.identities, Purpose.IDENTITY, Profile.SPECIFICATION),
    ]
    sidecar = bounded(chosen.sidecar, MAX_STORE, "sidecar") if chosen.sidecar else None
    if sidecar is not None and not sidecar:
        raise UsageError(f"the sidecar {chosen.sidecar} is empty")
    cache = Cache(home.path / "status") if home else None
    kept, damaged = _kept(cache)
    policy = Policy(
        tuple(files),
        at,
        _statuses(chosen.revocations).merged(kept),
        sidecar,
        token_folder=home.path / "tokens" if home else None,
    )
    lists = policy.lists()  # a list that does not parse is an error now, not once per file
    if chosen.signers is not None and chosen.profile not in (None, lists.signers[0].profile):
        raise UsageError(
            f"the list {lists.signers[0].name} says itself that it asks for {lists.signers[0].profile}"
        )
    keys = log_keys(chosen.log_key) if chosen.log_key is not None else home.own.keys if home else ()
    described = tuple(
        (trusted.name, f"{trusted.purpose}, {trusted.profile.value}", trusted.sha256.hex())
        for trusted in (*lists.signers, *lists.time_stampers, *lists.identities)
    )
    engine = Engine(
        VERSION,
        metadata.version("c2pa-python"),
        described,
        now,
        at,
        None if policy.statuses == NO_STATUSES else policy.statuses.digest.hex(),
        None if sidecar is None else hashlib.sha256(sidecar).hexdigest(),
    )
    book, aside = _book(home) if home else (None, ())
    return Beliefs(
        policy,
        book,
        keys,
        engine,
        _acceptance(chosen.policy),
        Asking((*lists.signers, *lists.time_stampers), cache) if chosen.online else None,
        (*_aside(chosen.sidecar), *_staleness(lists, at), *damaged, *aside),
    )


def _book(home: Home) -> tuple[Book, tuple[Finding, ...]]:
    """The home's ledger and registry; that the second cannot be asked is told, and keeps nobody from the first."""
    ledger = home.ledger_to_read()
    try:
        return Book(ledger, home.own.keys, home.registry(), home.witnesses()), ()
    except (HomeOutdatedError, RegistryError) as error:
        said = f"what this home knows of its devices and of withdrawals was not asked: {error}"
        return Book(ledger, home.own.keys, None, home.witnesses()), (
            Finding.fails(Code.REVOCATION_CHECKED, said),
        )
    except BaseException:
        ledger.close()
        raise


def log_keys(text: str) -> tuple[VerifierKey, ...]:
    """The keys of one log, one a line: those of its key file, if its key was ever rotated."""
    keys = tuple(map(VerifierKey.parse_log, text.split()[:MAX_LOG_KEYS]))
    if len({key.name for key in keys}) != 1:
        raise UsageError("give the verifier keys of exactly one log")
    return keys


def _aside(sidecar: Path | None) -> Iterator[Finding]:
    if sidecar is not None:
        said = f"the signed record was read from {plain(sidecar.name, 100)}; one inside the media, if any, was not"
        yield Finding.holds(Code.CREDENTIALS_PRESENT, said)


def _acceptance(path: Path | None) -> AcceptancePolicy | None:
    if path is None:
        return None
    return AcceptancePolicy.parse(bounded(path, MAX_POLICY_BYTES, "policy"), path.stem)


def _staleness(lists: Lists, at: datetime) -> Iterator[Finding]:
    """A list that nobody refreshed may miss who joined it, and still hold who left."""
    for trusted in (*lists.signers, *lists.time_stampers, *lists.identities):
        if trusted.stale(at):
            yield Finding.fails(
                Code.LISTS_CURRENT,
                f"the list {trusted.name} is of {trusted.dated} and was due to be refreshed",
            )


def _chosen(home: Home | None, path: Path | None, purpose: Purpose, profile: Profile) -> Iterator[ListFile]:
    """The list at `path`, else those of the home for the same purpose."""
    if path is not None:
        yield ListFile(path.stem, bounded(path, MAX_LIST_BYTES, "trust list"), purpose, profile)
    elif home is not None:
        yield from (file for file in home.lists() if file.purpose is purpose)


def _statuses(paths: tuple[Path, ...]) -> Statuses:
    """What the files say of withdrawals: CRLs and OCSP answers."""
    found = NO_STATUSES
    for path in paths:
        found = found.merged(Statuses.parse_file(bounded(path, 2 * MAX_CRL, "CRL or OCSP answer")))
    return found


def _kept(cache: Cache | None) -> tuple[Statuses, list[Finding]]:
    """What earlier questions left, and what of it cannot be read: a withdrawal may stand there."""
    if cache is None:
        return NO_STATUSES, []
    try:
        inquiry = cache.read()
    except Error as error:
        return NO_STATUSES, [Finding.fails(Code.REVOCATION_CHECKED, str(error))]
    return inquiry.statuses, [_asked_finding(outcome) for outcome in inquiry.outcomes]


@dataclass(frozen=True, slots=True)
class Asking:
    """Who may be asked about withdrawals, and where answers are kept for later."""

    lists: tuple[TrustList, ...]
    cache: Cache | None
    silent: set[str] = field(default_factory=set)
    """Addresses that did not answer; they are not waited for again in the same run."""

    def hosts(self, path: tuple[bytes, ...]) -> frozenset[str]:
        """Those that the lists name which hold the path's anchor: no list speaks for another's authorities."""
        return frozenset(host for trusted in self.lists if trusted.holds(path[-1]) for host in trusted.hosts)

    def ask(self, found: Examined, now: datetime) -> Inquiry:
        """Ask about every certificate that the verdict on `found` rests on."""
        inquiry = Inquiry()
        for path in found.provenance.paths if found.provenance else ():
            more = ask(path, self.hosts(path), self._fetch, now)
            inquiry = Inquiry(
                inquiry.statuses.merged(more.statuses),
                (*inquiry.outcomes, *more.outcomes),
                (*inquiry.answers, *more.answers),
            )
        try:
            if self.cache is not None:
                self.cache.keep(inquiry)
        except Error as error:  # the verdict needs what was heard, not that it is kept
            lost = Outcome("", Asked.USELESS, f"{error}; it will have to be asked again")
            inquiry = replace(inquiry, outcomes=(*inquiry.outcomes, lost))
        return inquiry

    def _fetch(self, url: str, question: bytes | None, limit: int) -> bytes:
        if url in self.silent:
            raise UnansweredError("did not answer before, and was not asked again")
        try:
            return fetch(url, question, limit)
        except UnansweredError:
            self.silent.add(url)
            raise


def read_receipt(path: Path) -> Receipt:
    """A receipt file, parsed; not yet checked."""
    try:
        return Receipt.parse(bounded(path, MAX_RECEIPT_BYTES, "receipt").decode("ascii"))
    except UnicodeDecodeError as error:
        raise UnreadableError(f"the receipt {path} is not ASCII text") from error


def bounded(path: Path, limit: int, what: str) -> bytes:
    """The bytes of a regular file, if they are not too many; a pipe would never end."""
    try:
        if not path.is_file():
            raise UnreadableError(f"the {what} {path} is not a file that can be read")
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise UnreadableError(f"the {what} {path} cannot be read ({error.strerror})") from error
    if len(data) > limit:
        raise UsageError(f"{path} is too large to be a {what}")
    return data


class Entry(StrEnum):
    """What a worker hands back besides what it found: the function of `tools.examine` that it runs."""

    PLAIN = "start"
    ILLUSTRATED = "start_illustrated"
    BUNDLED = "start_bundled"


def task(entry: Entry, policy: Policy) -> Task[str, Examined]:
    """The worker's part of a check."""
    return Task(f"tools.examine:{entry}", policy)


def check_files(
    paths: Iterable[str], held: Beliefs, receipt: Receipt | None, entry: Entry = Entry.PLAIN
) -> Iterator[tuple[Report, Examined]]:
    """Report on each path, in order, beside what the worker found."""
    if receipt is not None and receipt.token is not None:
        held = replace(held, policy=replace(held.policy, tokens=(receipt.token,)))
    with Supervisor(task(entry, held.policy), 1, LIMITS) as supervisor:
        for path in paths:
            found = _asked(supervisor, path)
            inquiry = Inquiry() if held.online is None else held.online.ask(found, held.engine.checked_at)
            if inquiry.statuses != NO_STATUSES:
                # What was learnt is judged where everything is judged: in a worker, which asks nobody.
                policy = replace(held.policy, statuses=inquiry.statuses.merged(held.policy.statuses))
                with Supervisor(task(entry, policy), 1, LIMITS) as again:
                    found = _asked(again, path)
            yield reported(found, held, receipt, inquiry), found


def _asked(supervisor: Supervisor[str, Examined], path: str) -> Examined:
    try:
        return supervisor.ask(path)
    except (WorkerDiedError, WorkerTimeoutError) as error:
        return died(path, error)


def died(path: str, error: Error) -> Examined:
    """A worker's death on a file, as what was found in it."""
    return Examined(path, None, None, None, None, obstacle(error))


def reported(
    found: Examined, held: Beliefs, receipt: Receipt | None, inquiry: Inquiry | None = None
) -> Report:
    """Add what the ledger knows, and what came of asking, and decide."""
    recorded = weigh(found, held.book, receipt, held.keys)
    verdict = decide(found.provenance, recorded, found.obstacle)
    provenance = verdict.provenance
    notes = (*held.notes, *(map(_asked_finding, inquiry.outcomes) if inquiry else ()))
    said: tuple[Contradiction, ...] = ()
    if provenance is not None and provenance.credentials is Credentials.PRESENT:
        said = contradictions(provenance.claims, found.metadata, provenance.time, provenance.certificate)
        notes = (*notes, _consistency(said))
    return Report(
        found.path,
        found.sha256,
        found.size,
        found.kind,
        verdict,
        held.engine,
        said,
        None if held.acceptance is None else accepted(held.acceptance, verdict),
        notes,
    )


def _asked_finding(came: Outcome) -> Finding:
    fine = came.asked is Asked.ANSWERED and came.state in (Revocation.GOOD, Revocation.SIGNED_BEFORE)
    return Finding(Code.REVOCATION_CHECKED, fine, came.explanation)


def _consistency(said: tuple[Contradiction, ...]) -> Finding:
    if said:
        text = "; ".join(contradiction.sentence for contradiction in said)
        return Finding(Code.CLAIMS_CONSISTENT, passed=False, explanation=text, panel=Panel.CLAIMED)
    text = "nothing that was compared contradicts what the signer says"
    return Finding(Code.CLAIMS_CONSISTENT, passed=True, explanation=text, panel=Panel.CLAIMED)


def accepted(policy: AcceptancePolicy, verdict: Verdict) -> Acceptance:
    """Hold a verdict against what somebody requires."""
    return Acceptance(policy.name, policy.sha256, unmet(policy, verdict.provenance, verdict.recorded))


def outcome(report: Report, receipt: Receipt | None) -> int:
    """The exit status: the headline's, or that of a file nobody checked where a receipt or a policy is not met.

    A policy hides nothing: what is wrong with a file says more than what is missing.
    """
    status = exit_status(report.verdict.headline)
    kept = receipt is None or report.verdict.recorded.state in (Ledger.INCLUDED, Ledger.SIMILAR)
    if not kept:
        return max(status, exit_status(Headline.NOT_CHECKED))
    met = report.acceptance is None or report.acceptance.met
    return status if met else status or exit_status(Headline.NOT_CHECKED)


def renamed(report: Report, name: str) -> Report:
    """The same report under the name the user gave."""
    return replace(report, file=name)
