"""The registry, opened: every method is one transaction.

What a method does is said where its rows are: `products`, `single_use`, `devices`,
`evidence`, `certificates`, `withdrawals`, `operators` and `captures`.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from storage.registry import (
    captures,
    certificates,
    database,
    devices,
    evidence,
    operators,
    products,
    single_use,
    withdrawals,
)
from storage.registry.errors import CertificateReusedError, ForkError
from storage.registry.rows import (
    Capture,
    Contradiction,
    Device,
    Fork,
    Head,
    IssuedCertificate,
    Operator,
    Product,
    Status,
    StatusChange,
    StoredEvidence,
    Target,
    Withdrawal,
    Withdrawn,
    require_data,
    require_digests,
    require_names,
    require_time,
)


class Registry:
    """Who may speak for a device, and what each said. Safe to use from several threads and processes."""

    def __init__(self, url: str) -> None:
        """Use `create` or `open`."""
        self._url = url
        self._turn = threading.Lock()
        self._writer: sa.Engine | None = None
        self._reader = database.open_reader(url)

    @classmethod
    def create(cls, url: str) -> Self:
        """Make a registry where there is none, and open it."""
        database.create(url)
        return cls.open(url)

    @classmethod
    def open(cls, url: str) -> Self:
        """Open a registry; asks for no right to write until something is to be written."""
        registry = cls(url)
        try:
            database.require(registry._reader)
        except BaseException:
            registry.close()
            raise
        return registry

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        with self._turn:
            self._reader.dispose()
            if self._writer is not None:
                self._writer.dispose()

    # Products

    def add_product(self, product: Product) -> None:
        """Record a new product; the same again changes nothing."""
        with self._writing() as connection:
            products.add(connection, product)

    def product(self, name: str) -> Product:
        """Return a product."""
        with self._reading() as connection:
            return products.get(connection, name)

    def products(self) -> Sequence[Product]:
        """Return all products, by name."""
        with self._reading() as connection:
            return products.every(connection)

    # Single use

    def add_bootstrap(self, token_sha256: bytes, product: str, expires: datetime) -> None:
        """Let a token enrol one device of a product."""
        require_digests(token_sha256)
        require_time(expires)
        with self._writing() as connection:
            single_use.add_bootstrap(connection, token_sha256, product, expires)

    def use_bootstrap(self, token_sha256: bytes, at: datetime) -> Product:
        """Use a token up and return what it enrols."""
        require_time(at)
        with self._writing() as connection:
            return single_use.use_bootstrap(connection, token_sha256, at)

    def add_challenge(self, sha256: bytes, purpose: str, subject: str, expires: datetime) -> None:
        """Let a challenge be answered once, by one subject, for one purpose."""
        require_digests(sha256)
        require_names(purpose, subject)
        require_time(expires)
        with self._writing() as connection:
            single_use.add_challenge(connection, sha256, purpose, subject, expires)

    def use_challenge(self, sha256: bytes, purpose: str, subject: str, at: datetime) -> None:
        """Use a challenge up."""
        require_time(at)
        with self._writing() as connection:
            single_use.use_challenge(connection, sha256, purpose, subject, at)

    def use_nonce(self, sha256: bytes, device: str, at: datetime, expires: datetime) -> None:
        """Burn a nonce that the device chose; `expires` must follow from what the device signed."""
        require_digests(sha256)
        require_time(at, expires)
        with self._writing() as connection:
            single_use.use_nonce(connection, sha256, device, at, expires)

    def purge(self, before: datetime, limit: int = 1000) -> int:
        """Forget at most `limit` challenges and nonces that expired before a moment; return how many."""
        require_time(before)
        with self._writing() as connection:
            return single_use.purge(connection, before, limit)

    # Devices

    def add_device(self, device: Device) -> None:
        """Record a new device; the same again changes nothing."""
        with self._writing() as connection:
            devices.add(connection, device)

    def device(self, name: str) -> Device:
        """Return a device."""
        with self._reading() as connection:
            return devices.get(connection, name)

    def devices(self) -> Sequence[Device]:
        """Return all devices, by name."""
        with self._reading() as connection:
            return devices.every(connection)

    def set_status(self, name: str, status: Status, at: datetime, why: str) -> Device:
        """Let a device go to another status, where it may."""
        require_names(why)
        require_time(at)
        with self._writing() as connection:
            return devices.set_status(connection, name, status, at, why)

    def status_changes(self, name: str) -> Sequence[StatusChange]:
        """Return every change of a device's status, oldest first."""
        with self._reading() as connection:
            return devices.status_changes(connection, name)

    def pin_device(self, name: str, pin: bytes, custody: str) -> Device:
        """Keep what a device's first attestation showed; another is refused for ever."""
        require_digests(pin)
        require_names(custody)
        with self._writing() as connection:
            return devices.pin(connection, name, pin, custody)

    # Evidence

    def add_evidence(
        self,
        device: str,
        spki_sha256: bytes,
        kind: str,
        data: bytes,
        custody: str,
        judged_at: datetime,
        broken: bytes,
    ) -> StoredEvidence:
        """Keep what a device showed of a key that was not certified yet, with its first judgement."""
        require_digests(spki_sha256)
        require_names(kind, custody)
        require_data(data, broken)
        require_time(judged_at)
        with self._writing() as connection:
            number = evidence.add(connection, device, spki_sha256, kind, data)
            return evidence.rejudge(connection, number, custody, judged_at, broken)

    def evidence(self, device: str) -> Sequence[StoredEvidence]:
        """Return a device's evidence with the newest judgements, oldest first."""
        with self._reading() as connection:
            return evidence.of_device(connection, device)

    def evidence_of(self, certificate: IssuedCertificate) -> StoredEvidence | None:
        """Return the evidence of a certificate's own key with its newest judgement; None where nobody gave any."""
        with self._reading() as connection:
            return evidence.of_certificate(connection, certificate)

    def evidence_after(self, number: int, limit: int) -> Sequence[StoredEvidence]:
        """Return the next pieces of evidence after a number, of all devices; begin with 0."""
        with self._reading() as connection:
            return evidence.after(connection, number, limit)

    def rejudge(self, number: int, custody: str, judged_at: datetime, broken: bytes) -> StoredEvidence:
        """Keep another judgement, which counts from then on; a lesser one lowers the device's label too."""
        require_names(custody)
        require_data(broken)
        require_time(judged_at)
        with self._writing() as connection:
            return evidence.rejudge(connection, number, custody, judged_at, broken)

    def judgements(self, number: int) -> Sequence[StoredEvidence]:
        """Return every judgement of one piece of evidence, oldest first."""
        with self._reading() as connection:
            return evidence.judgements(connection, number)

    # Keys and certificates

    def reserve_key(self, spki_sha256: bytes, device: str, at: datetime) -> None:
        """Let a device have a key certified; nobody else ever may, nor the device again."""
        self.reserve_keys((spki_sha256,), device, at)

    def reserve_keys(self, spki_sha256s: Sequence[bytes], device: str, at: datetime) -> None:
        """Let a device have these keys certified; all of them or none."""
        require_digests(*spki_sha256s)
        require_time(at)
        with self._writing() as connection:
            certificates.reserve(connection, spki_sha256s, device, at)

    def add_certificates(self, issued: Sequence[IssuedCertificate]) -> None:
        """Record what was issued, all of it or nothing; the same again changes nothing."""
        with self._writing() as connection:
            certificates.add(connection, issued)

    def certificate(self, issuer_key_id: bytes, serial: str) -> IssuedCertificate | None:
        """Return the certificate by what a CRL or an OCSP request calls it."""
        with self._reading() as connection:
            return certificates.by_serial(connection, issuer_key_id, serial)

    def certificate_by_digest(self, sha256: bytes) -> IssuedCertificate | None:
        """Return the certificate whose DER has this SHA-256."""
        with self._reading() as connection:
            return certificates.by_digest(connection, sha256)

    def certificates(self, target: Target) -> Sequence[IssuedCertificate]:
        """Return every certificate that a withdrawal of the target would concern."""
        with self._reading() as connection:
            return certificates.of(connection, target)

    # Withdrawals

    def add_withdrawal(self, withdrawal: Withdrawal) -> None:
        """Record a withdrawal; a withdrawn device is revoked by the same transaction."""
        with self._writing() as connection:
            withdrawals.add(connection, withdrawal)

    def withdrawals(self) -> Sequence[Withdrawal]:
        """Return all withdrawals in the order of recording."""
        with self._reading() as connection:
            return withdrawals.every(connection)

    def withdrawal_of(self, certificate: IssuedCertificate) -> Withdrawal | None:
        """Return what counts of the withdrawals of the certificate, its device, its product and its issuer."""
        with self._reading() as connection:
            return withdrawals.of(connection, certificate)

    def withdrawn(self, issuer_key_id: bytes, at: datetime) -> Sequence[Withdrawn]:
        """Return what a CRL of the issuer lists: withdrawn, and not expired at that moment."""
        require_time(at)
        with self._reading() as connection:
            return withdrawals.listed(connection, issuer_key_id, at)

    # Operators

    def add_operator(self, operator: Operator) -> None:
        """Record an operator; the same again changes nothing."""
        with self._writing() as connection:
            operators.add(connection, operator)

    def dismiss_operator(self, name: str, at: datetime) -> Operator:
        """Record when an operator ceased to be one."""
        require_time(at)
        with self._writing() as connection:
            return operators.dismiss(connection, name, at)

    def operator(self, name: str) -> Operator:
        """Return an operator, one who ceased to be one as well."""
        with self._reading() as connection:
            return operators.get(connection, name)

    def operators(self) -> Sequence[Operator]:
        """Return all operators, by name."""
        with self._reading() as connection:
            return operators.every(connection)

    # Captures

    def add_capture(self, capture: Capture) -> Capture:
        """Add a capture to its device's chain and return it with its gap; a fork makes the device suspect."""
        with self._writing() as connection:
            recorded = captures.add(connection, capture)
        # Committed: the evidence of a fork and the device's new status outlive the refusal.
        if not isinstance(recorded, Fork):
            return recorded
        match recorded.about:
            case Contradiction.PLACE:
                raise ForkError(f"The capture {capture.counter} of {capture.device} contradicts its chain.")
            case Contradiction.CERTIFICATE:
                raise CertificateReusedError(
                    f"The capture {capture.counter} of {capture.device} was signed with a certificate that is for"
                    " one capture, and another has it."
                )

    def set_entry(self, claim: bytes, entry: int) -> Capture:
        """Record where the ledger has a capture; once."""
        with self._writing() as connection:
            return captures.set_entry(connection, claim, entry)

    def chain_head(self, device: str) -> Head | None:
        """Return the newest link of a device's chain that has arrived."""
        with self._reading() as connection:
            return captures.head(connection, device)

    def captures(self, device: str) -> Sequence[Capture]:
        """Return a device's captures, by counter."""
        with self._reading() as connection:
            return captures.of_device(connection, device)

    def capture_by_claim(self, claim: bytes) -> Capture | None:
        """Return the capture with this claim."""
        with self._reading() as connection:
            return captures.by_claim(connection, claim)

    def missing(self, device: str) -> Sequence[range]:
        """Return the numbers that have not arrived, up to the newest that has."""
        with self._reading() as connection:
            return captures.missing(connection, device)

    def chain_beginning(self, device: str) -> int | None:
        """Return the number that a device's chain begins with; None where its beginning has not arrived."""
        with self._reading() as connection:
            return captures.beginning(connection, device)

    def forks(self, device: str) -> Sequence[Fork]:
        """Return the evidence against a device, oldest first."""
        with self._reading() as connection:
            return captures.forks(connection, device)

    def unlogged(self, limit: int) -> Sequence[Capture]:
        """Return captures that were accepted and have no entry yet, oldest first."""
        with self._reading() as connection:
            return captures.unlogged(connection, limit)

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """One writer of this process at a time: threads queue here, where waiting is fair."""
        with self._turn:
            if self._writer is None:
                self._writer = database.open_writer(self._url)
            with database.writing(self._writer) as connection:
                yield connection

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with database.reading(self._reader) as connection:
            yield connection
