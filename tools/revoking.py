"""Withdraw certificates, devices, products and authorities, and say so where verifiers look.

A withdrawal is in the ledger first, then in the registry, then in the lists that are published:
whatever a crash leaves undone is made good, since `catch_up` makes the registry from the ledger and
the lists are made from the registry each time. Others may add entries that look like a withdrawal:
only those count that the log's own key signed for.

What concerns more than one device is decided by two people, each with a key. The first two are named
by whoever has the home, and every further one by an operator beside him. Whoever may write this
home's files could still name operators of his own, or write rows; the ledger shows the former.
"""

import base64
import json
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

from authn.chain import read_certificate
from authn.device import pseudonym, spki
from authn.identity import key_id_of, spki_of
from authn.keys import KeyProvider, algorithm_of, signature_holds, verify_note
from authn.public_key import read_public_key
from authn.signer import certificate_facts
from authn.withdrawal import Reason
from storage.entry import Kind
from storage.errors import Error as StorageError
from storage.ledger import Ledger
from storage.note import open_note, signed_note
from storage.payload import canonical
from storage.payload import parse as parse_payload
from storage.record import Record
from storage.registry.errors import CertificateUnknownError, UnknownError
from storage.registry.registry import Registry
from storage.registry.rows import IssuedCertificate, Operator, Role, Target, TargetKind, Withdrawal
from tools.errors import Error, UsageError
from tools.home import Home, content_of
from tools.renewal import units
from tools.status_lists import Published, publish, withdrawn_of

CONSOLE = "console"
"""Who decides where no operator was named: whoever works on the home itself."""
PROPOSAL_LIFE = timedelta(days=7)
_CONTEXT = b"lightseal/revocation/v1\0"
_SCHEMA = "lightseal-revocation/1"
_NAMING = b"lightseal/operator/v1\0"
_WORD = "word"
_MAX_PROPOSAL = 64 << 10
_TWO = frozenset({TargetKind.PRODUCT, TargetKind.CA})
_ROLES = frozenset({Role.REVOKER, Role.CA_OPERATOR})
_FIRST = 2
_log = logging.getLogger(__name__)


class ProposalError(Error):
    """A proposal cannot be read, is too old, or was changed since it was signed."""

    code: ClassVar[str] = "proposal-unusable"
    remedy: ClassVar[str] = "Make a new proposal with 'lightseal revoke'; one holds for seven days."


class OperatorRefusedError(Error):
    """Somebody signed who may not, twice, or not with the key that is known."""

    code: ClassVar[str] = "operator-refused"
    remedy: ClassVar[str] = "Sign with the key of an operator who may revoke; two people are two operators."


class ListUnpublishedError(Error):
    """A withdrawal is recorded, and the list that should name it could not be signed."""

    code: ClassVar[str] = "list-unpublished"
    remedy: ClassVar[str] = "Bring the authority's key, then run 'lightseal revoke publish'."


@dataclass(frozen=True, slots=True)
class Proposal:
    """What is to be withdrawn, why, and since when it must have been in wrong hands."""

    origin: str
    """The log of the home that it is about: a signature for one home is none for another."""
    target: Target
    reason: Reason
    since: datetime | None
    proposed_at: datetime
    nonce: str

    def __post_init__(self) -> None:
        for moment in (self.proposed_at, *([] if self.since is None else [self.since])):
            if moment.tzinfo is None or moment.microsecond:
                raise ProposalError("a moment of the proposal is not a whole second with a time zone")
        if self.since is not None and self.since > self.proposed_at:
            raise ProposalError("the proposal says since when, and that is after it was made")

    def fields(self) -> dict[str, Any]:
        """The proposal as JSON has it."""
        return {
            "kind": self.target.kind.value,
            "name": self.target.name,
            "nonce": self.nonce,
            "origin": self.origin,
            "proposed_at": self.proposed_at.isoformat(),
            "reason": self.reason.value,
            "schema": _SCHEMA,
            "since": None if self.since is None else self.since.isoformat(),
        }

    @classmethod
    def of(cls, fields: Any) -> "Proposal":
        """Read what `fields` wrote; raises KeyError, TypeError, ValueError or an error of ours."""
        since = fields["since"]
        return cls(
            str(fields["origin"]),
            Target(TargetKind(fields["kind"]), str(fields["name"])),
            Reason(fields["reason"]),
            None if since is None else datetime.fromisoformat(since),
            datetime.fromisoformat(fields["proposed_at"]),
            str(fields["nonce"]),
        )

    @property
    def text(self) -> bytes:
        """What each operator signs: all of it, in canonical form."""
        return _CONTEXT + canonical(self.fields())


@dataclass(frozen=True, slots=True)
class Signature:
    """One operator's word for a proposal."""

    operator: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class Signed:
    """A proposal, with those who are for it."""

    proposal: Proposal
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """The proposal as a file, to be handed to the second person."""
        signatures = [
            {"operator": each.operator, "signature": base64.b64encode(each.signature).decode()}
            for each in self.signatures
        ]
        about = {"proposal": self.proposal.fields(), "signatures": signatures}
        return json.dumps(about, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> "Signed":
        """Read a proposal's file. Verifies no signature."""
        if len(data) > _MAX_PROPOSAL:
            raise ProposalError("the file is too large for a proposal")
        try:
            about = json.loads(data)
            fields = about["proposal"]
            proposal = Proposal.of(fields)
            signatures = tuple(
                Signature(str(each["operator"]), base64.b64decode(each["signature"], validate=True))
                for each in about["signatures"]
            )
            same = proposal.fields() == fields and bool(proposal.text)
        except ProposalError:
            raise
        except (KeyError, TypeError, ValueError, RecursionError, Error, StorageError) as error:
            raise ProposalError("the proposal cannot be read") from error
        if not same:
            raise ProposalError("the proposal is not written as we write it")
        return cls(proposal, signatures)


def target_of(home: Home, kind: TargetKind, name: str) -> Target:
    """What a person means by a name: a certificate by its SHA-256 or serial, an authority by its name here."""
    with home.registry() as registry:
        match kind:
            case TargetKind.CERTIFICATE:
                return Target.of_certificate(_certificate(home, registry, name).sha256)
            case TargetKind.DEVICE:
                return Target.of_device(registry.device(name).name)
            case TargetKind.PRODUCT:
                return Target.of_product(registry.product(name).name)
            case TargetKind.CA:
                known = (*home.issuers(), *units(home))
                if name not in known:
                    raise UsageError(f"the authorities here are {', '.join(known)}")
                return Target.of_ca(key_id_of(home.certificate(name)))


def propose(home: Home, target: Target, reason: Reason, since: datetime | None, at: datetime) -> Proposal:
    """Say what is to be withdrawn; nothing happens yet."""
    if since is not None and since > at:
        raise UsageError("--since lies in the future")
    moment = None if since is None else since.replace(microsecond=0)
    return Proposal(home.own.origin, target, reason, moment, at.replace(microsecond=0), secrets.token_hex(16))


def sign(signed: Signed, operator: str, key: KeyProvider) -> Signed:
    """Add one operator's word."""
    if any(each.operator == operator for each in signed.signatures):
        raise OperatorRefusedError(f"{operator} signed this already; another person has to")
    added = Signature(operator, key.sign(signed.proposal.text))
    return Signed(signed.proposal, (*signed.signatures, added))


def enough(signed: Signed) -> bool:
    """Whether as many signed as it takes; whether they may is found out when it is carried out."""
    return len(signed.signatures) >= (2 if signed.proposal.target.kind in _TWO else 0)


def carry_out(home: Home, signed: Signed, at: datetime) -> tuple[int, tuple[Published, ...]]:
    """Withdraw: the ledger first, then the registry, then the lists. Returns the entry, and the lists."""
    # 1. Those who signed may, and are as many people as it takes.
    # 2. The entry: from here on the withdrawal is known, whatever happens to us.
    # 3. The registry, by which answers are given.
    # 4. The lists, by which files are judged.
    proposal, target = signed.proposal, signed.proposal.target
    with home.registry() as registry:
        by = _require_entitled(home, registry, signed, at)  # 1
        fields = {**proposal.fields(), "by": list(by)}
        record = _record(home, registry, target, _signed_for(home, fields))
        with home.ledger() as ledger:
            (entry,) = ledger.append([record], at, home.sign_note)  # 2
            logged_at = ledger.entry(entry).logged_at
        registry.add_withdrawal(_row(proposal, by, logged_at, entry))  # 3
    return entry, publish(home, at)  # 4


def catch_up(home: Home) -> tuple[int, ...]:
    """Carry out what the ledger says was withdrawn and the registry does not know; returns the entries.

    That happens after a crash between the two, and where the registry was put back from an old
    copy. Reads the whole ledger. An erased entry says nothing any more, and one of another's is not
    obeyed; one about what the registry does not know at all is said in the log, and left.
    """
    done = []
    with home.ledger_to_read() as ledger, home.registry() as registry:
        known = {each.entry for each in registry.withdrawals()}
        for index, entry in enumerate(ledger.entries(0, ledger.size)):
            if entry.kind is not Kind.REVOKE or index in known:
                continue
            found = _own_words(home, ledger, index)
            if found is None:
                continue
            proposal, by = found
            try:
                registry.add_withdrawal(_row(proposal, by, entry.logged_at, index))
            except UnknownError as error:
                _log.warning("entry %d withdraws what is not in the registry: %s", index, error)
            else:
                done.append(index)
    return tuple(done)


def describe(home: Home, target: Target) -> str:
    """What a target is, in one sentence for whoever is to decide: names, and how much it takes with it."""
    with home.registry() as registry:
        certificates = registry.certificates(target)
        devices = sorted({each.device for each in certificates})
        extent = f"{len(certificates)} certificates of {len(devices)} devices"
        match target.kind:
            case TargetKind.CERTIFICATE:
                each = registry.certificate_by_digest(target.digest or b"")
                if each is None:
                    raise CertificateUnknownError(f"No certificate {target.name} was issued here.")
                return f"one certificate of device {each.device} ({each.product}), serial {each.serial}"
            case TargetKind.DEVICE:
                device = registry.device(target.name)
                return f"device {device.name} ({device.product}): {len(certificates)} certificates"
            case TargetKind.PRODUCT:
                return f"product {registry.product(target.name).name}: {extent}"
            case TargetKind.CA:
                for name in (*home.issuers(), *units(home)):
                    certificate = home.certificate(name)
                    if key_id_of(certificate) == target.digest:
                        return f"authority {name}, {certificate_facts(certificate).name}: {extent}"
                return f"an authority whose certificate is not here: {extent}"


def naming_text(home: Home, name: str, public_key: bytes, role: Role) -> bytes:
    """What an operator signs who lets another person decide."""
    return _NAMING + canonical({**_naming(name, public_key, role), "origin": home.own.origin})


def add_operator(
    home: Home, name: str, public_key: bytes, role: Role, at: datetime, by: Signature | None = None
) -> int:
    """Let a person decide with this key; the ledger shows it to everybody.

    The first two are named by whoever has the home. After that, as long as one of them still is
    an operator, it takes one: `by` is the signature over `naming_text`. Who may withdraw
    authorities is named by one who may, if there is one.
    """
    spki_der = spki_of(read_public_key(public_key))
    with home.registry() as registry:
        operators = registry.operators()
        if name in {CONSOLE, *(each.name for each in operators)} or any(
            each.spki == spki_der for each in operators
        ):
            raise UsageError(f"there is an operator named {name}, or one with this key")
        fields: dict[str, Any] = _naming(name, public_key, role)
        if by is not None or len(operators) >= _FIRST:
            _require_named(home, operators, by, naming_text(home, name, public_key, role), role)
        if by is not None:
            fields |= {"by": by.operator, "signature": by.signature.hex()}
        entry = home.own.record(Kind.POLICY, fields, at)
        registry.add_operator(Operator(name, spki_der, role, at.replace(microsecond=0)))
    return entry


def dismiss_operator(home: Home, name: str, at: datetime) -> int:
    """Take a person's say away; the ledger shows it."""
    with home.registry() as registry:
        registry.operator(name)
        entry = home.own.record(Kind.POLICY, {"change": "dismiss-operator", "name": name}, at)
        registry.dismiss_operator(name, at.replace(microsecond=0))
    return entry


def _naming(name: str, public_key: bytes, role: Role) -> dict[str, Any]:
    spki_der = spki_of(read_public_key(public_key))
    return {"change": "add-operator", "name": name, "role": role.value, "spki": spki_der.hex()}


def _require_named(
    home: Home, operators: Sequence[Operator], by: Signature | None, text: bytes, role: Role
) -> None:
    able = [each for each in operators if each.until is None and each.role in _ROLES]
    if role is Role.CA_OPERATOR and any(each.role is Role.CA_OPERATOR for each in able):
        able = [each for each in able if each.role is Role.CA_OPERATOR]
    if by is None and not able:
        return  # nobody is left who could: whoever has the home begins again, and the ledger shows it
    if by is None:
        raise OperatorRefusedError(
            f"there are operators: one of {', '.join(each.name for each in able)} has to name another"
        )
    for each in able:
        key = read_public_key(each.spki)
        if each.name == by.operator and signature_holds(key, algorithm_of(key), by.signature, text):
            return
    raise OperatorRefusedError(
        f"{by.operator} may not name a {role.value} at {home.own.origin}, or signed with another key"
    )


def _require_entitled(home: Home, registry: Registry, signed: Signed, at: datetime) -> tuple[str, ...]:
    """The names of those who decided, if they may."""
    proposal = signed.proposal
    if proposal.origin != home.own.origin:
        raise ProposalError("the proposal is about another home")
    if not timedelta() <= at - proposal.proposed_at <= PROPOSAL_LIFE:
        raise ProposalError("the proposal is older than seven days, or dated in the future")
    names = [each.operator for each in signed.signatures]
    if len(set(names)) != len(names):
        raise OperatorRefusedError("one person signed twice")
    for each in signed.signatures:
        operator = registry.operator(each.operator)
        key = read_public_key(operator.spki)
        if operator.until is not None:
            raise OperatorRefusedError(f"{operator.name} is no operator any more")
        if operator.role not in _ROLES or (
            proposal.target.kind is TargetKind.CA and operator.role is not Role.CA_OPERATOR
        ):
            raise OperatorRefusedError(f"{operator.name} may not revoke this, being a {operator.role.value}")
        if not signature_holds(key, algorithm_of(key), each.signature, proposal.text):
            raise OperatorRefusedError(f"the signature is not by the key that {operator.name} is known by")
    if not enough(signed):
        raise OperatorRefusedError(f"a {proposal.target.kind.value} is withdrawn by two people, never by one")
    return tuple(names) or (CONSOLE,)


def _row(proposal: Proposal, by: tuple[str, ...], logged_at: datetime, entry: int) -> Withdrawal:
    """A withdrawal as the registry has it; the same, whoever makes it from the entry."""
    return Withdrawal(proposal.target, proposal.reason.value, logged_at, proposal.since, by, entry)


def _signed_for(home: Home, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields, with the log's signature over them: by that the home knows its own entry again."""
    text = _note_text(fields)
    own = home.own.as_saved()
    note = signed_note(text, own.newest, own.sign_text(text))
    return {**fields, _WORD: note.decode()[len(text) + 1 :]}


def _own_words(home: Home, ledger: Ledger, index: int) -> tuple[Proposal, tuple[str, ...]] | None:
    """What an entry withdraws, and who decided it; None where its words are erased, or are not this home's."""
    payload = ledger.payload(index)
    fields = {} if payload is None else parse_payload(payload)
    word = fields.pop(_WORD, None)
    if not isinstance(word, str) or fields.get("schema") != _SCHEMA:
        return None
    try:
        open_note(f"{_note_text(fields)}\n{word}".encode(), home.own.as_saved().keys, verify_note)
        proposal = Proposal.of(fields)
        by = tuple(map(str, fields["by"]))
    except (KeyError, TypeError, ValueError, Error, StorageError):
        return None
    return (proposal, by) if proposal.origin == home.own.origin else None


def _note_text(fields: dict[str, Any]) -> str:
    return f"lightseal withdrawal\n{canonical(fields).decode()}\n"


def _record(home: Home, registry: Registry, target: Target, fields: dict[str, Any]) -> Record:
    """The entry, under the pseudonym of the key concerned where there is one, so that its owner sees it."""
    concerned: Sequence[IssuedCertificate] = ()
    if target.kind in (TargetKind.CERTIFICATE, TargetKind.DEVICE):
        concerned = registry.certificates(target)
    if not concerned:
        return home.own.own_record(Kind.REVOKE, fields)
    newest = max(concerned, key=lambda each: each.entry)
    salt = registry.device(newest.device).salt
    key = spki(read_certificate(newest.der))
    return Record(Kind.REVOKE, canonical(fields), secrets.token_bytes(32), pseudonym(salt, key))


def _certificate(home: Home, registry: Registry, name: str) -> IssuedCertificate:
    text = name.lower().replace(":", "").lstrip("0") if len(name) != 64 else name.lower()
    with suppress(ValueError):
        found = registry.certificate_by_digest(bytes.fromhex(text)) if len(text) == 64 else None
        if found is not None:
            return found
    for issuer in home.issuers():
        found = registry.certificate(key_id_of(home.certificate(issuer)), text)
        if found is not None:
            return found
    raise CertificateUnknownError(f"No certificate {name} was issued here.")


def require_published(published: Sequence[Published], home: Home) -> None:
    """Say aloud where a list that names something withdrawn could not be made anew."""
    with home.registry() as registry:
        silent = [
            each.authority
            for each in published
            if each.fault is not None and withdrawn_of(home, registry, each.authority)
        ]
    if silent:
        raise ListUnpublishedError(
            f"the lists of {', '.join(silent)} are not published anew, for their keys are not here"
        )


def read_proposal(path: Path) -> Signed:
    """The proposal in a file."""
    try:
        return Signed.parse(content_of(path))
    except OSError as error:
        raise ProposalError(f"{path} cannot be read ({error.strerror})") from error
