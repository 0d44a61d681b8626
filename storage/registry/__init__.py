"""Who may speak for a device, and what each device said.

`storage.registry` remembers products, devices, their evidence, certificates, withdrawals
and chains of captures, in a database beside the ledger's or within it. The ledger proves
what was recorded; the registry decides what may happen next. It holds what never stands in
a file: which certificates belong to one device.

    from storage.registry.registry import Registry
    from storage.registry.rows import Capture, Device, Product, Status, Target, Withdrawal, ...
    from storage.registry import errors

    with Registry.create("sqlite:///registry.db") as registry: ...     # or open(url)

Opening
    Registry.create(url) -> Registry          makes it where there is none, and opens it
    Registry.open(url) -> Registry            close(); context manager; open it after a fork, not before
Products
    add_product(product) -> None              the same again changes nothing; ProductKnownError
    product(name) -> Product                  ProductUnknownError
    products() -> tuple[Product, ...]
Single use; secrets come as SHA-256. Every refusal changes nothing.
    add_bootstrap(token_sha256, product: str, expires) -> None
    use_bootstrap(token_sha256, at) -> Product           token-unknown, token-expired, token-used
    add_challenge(sha256, purpose: str, subject: str, expires) -> None
    use_challenge(sha256, purpose, subject, at) -> None  nonce-unknown, nonce-expired, nonce-wrong-device,
                                                         replayed-nonce
    use_nonce(sha256, device: str, at, expires) -> None  nonce-expired, replayed-nonce
    purge(before, limit=1000) -> int                     forget what expired before that moment, a step at a time
Devices
    add_device(device) -> None                the same again changes nothing; DeviceKnownError
    device(name) -> Device                    DeviceUnknownError
    devices() -> tuple[Device, ...]
    set_status(name, status, at, why: str) -> Device     StatusError
    status_changes(name) -> tuple[StatusChange, ...]
    pin_device(name, pin: bytes, custody: str) -> Device the first pin stays: PinConflictError
Evidence
    add_evidence(device: str, spki_sha256, kind: str, data, custody: str, judged_at, broken: bytes)
        -> StoredEvidence                                KeyReusedError for a key that is certified
    evidence_of(certificate) -> StoredEvidence | None    that of its own key, with its newest judgement
    evidence(device) -> tuple[StoredEvidence, ...]       each with its newest judgement, oldest first
    evidence_after(id, limit) -> tuple[StoredEvidence, ...]   all devices', by number; begin with 0
    rejudge(id, custody, judged_at, broken) -> StoredEvidence   lowers the device's custody, and never raises it
    judgements(id) -> tuple[StoredEvidence, ...]         every judgement of one piece, oldest first
Keys and certificates
    reserve_key(spki_sha256, device: str, at) -> None    KeyReusedError, for the same device too
    reserve_keys(spki_sha256s, device, at) -> None       all of them or none
    add_certificates(issued) -> None                     all or none; the same again changes nothing.
                                                         Keys not reserved are by this; KeyReusedError
    certificate(issuer_key_id, serial: hex) -> IssuedCertificate | None
    certificate_by_digest(sha256) -> IssuedCertificate | None
    certificates(target) -> tuple[IssuedCertificate, ...]
Withdrawals
    add_withdrawal(withdrawal) -> None        a device's revokes it in the same transaction; TwoPeopleError
    withdrawals() -> tuple[Withdrawal, ...]   in the order of recording
    withdrawal_of(certificate) -> Withdrawal | None      the gravest that concerns it, with the earliest
                                                         moments of all: gravity.gravest
    withdrawn(issuer_key_id, at) -> tuple[Withdrawn, ...]  what a CRL lists: not expired at that moment
Operators
    add_operator(operator) -> None            OperatorKnownError, for a key in use as well
    dismiss_operator(name, at) -> Operator
    operator(name) -> Operator, operators() -> tuple[Operator, ...]
Captures
    add_capture(capture) -> Capture           as recorded: with its gap, and the first arrival's time and entry
                                              CounterReusedError; ForkError; CertificateReusedError, which is one;
                                              DevicePendingError and its like
    set_entry(claim, entry: int) -> Capture   once; the same again changes nothing
    chain_head(device) -> Head | None
    chain_beginning(device) -> int | None     the number of the capture that names no predecessor
    captures(device) -> tuple[Capture, ...]   by counter
    capture_by_claim(claim) -> Capture | None
    missing(device) -> tuple[range, ...]      the numbers that are missing now
    forks(device) -> tuple[Fork, ...]         the evidence
    unlogged(limit) -> tuple[Capture, ...]    accepted, and without an entry yet: a crash came between

The modules

    rows errors                   what is recorded, and what is refused
    tables database row           the same in SQL, on two engines, and guarded
    products devices evidence certificates withdrawals operators single_use
    chain captures                where a capture stands, purely; and kept
    gravity                       which of several withdrawals counts, purely
    registry                      all of it, opened: every method is one transaction

The invariants, and what holds them:

R1  A token, a challenge and a nonce are used      looked up and used up by one transaction, which is alone from
    once, whoever asks at once.                    its first statement: BEGIN IMMEDIATE, or an advisory lock
R2  A public key is certified at most once, ever.  the table of keys, and UNIQUE; a key is burned by being reserved
R3  What has arrived of a device's captures is a   `chain.contradicting`, in the transaction that adds; UNIQUE over
    part of one chain, in whatever order it came.  device and counter, predecessor, link
R4  Two captures that contradict each other, or    by the same transaction, which keeps the refused one as evidence
    have one one-time certificate, make the
    device suspect, and both stay.
R5  A number that has not arrived is named.        `missing` is derived from what is there; `gap` is what was
                                                   missing when a capture arrived, and stays as it was logged
R6  Certificates, evidence, judgements, captures,  triggers, and on PostgreSQL a role without the right to;
    withdrawals, changes of status and forks       a column that is filled later is filled once
    only ever grow.
R7  Of several withdrawals nothing is lost.        `gravity.gravest`: the reason that leaves the key in doubt, with
                                                   the earliest moment from which a signature counts for nothing
R8  A device's status goes only where it may;      `rows.TRANSITIONS`; a trigger
    revoked is for ever.
R9  What was answered is durable.                  synchronous=FULL, or synchronous_commit with fsync on

Two captures with the same predecessor are a fork, also where they have the same number: a copied
key looks like that. The same number alone is refused as `counter-reused`, without suspicion: a
device that lost its counter looks like that. A number that the links go over stays missing.

What it does not do:

- It verifies nothing: no signature, certificate, attestation, or link's hash; nor that those named
  in a withdrawal are operators and agreed. It is told, by those who did.
- It is not the ledger. Whoever owns the database can rewrite it; the ledger's entries, which rows
  name, are what a stranger compares it with.
- A clock that ran far ahead, while nonces were burned and then forgotten, has the registry
  refuse all nonces until then: it cannot tell them from those.
- A registry that was put back from an old copy has forgotten tokens, nonces and keys that were used
  since. Expired ones do not come back by it.
- The newest captures of a device, where nothing after them has arrived, are not missed here. Nor are
  those before one that names no predecessor and is not numbered 1: some counters begin higher, and a
  device that lost its memory looks the same.
- It forgets nothing about people: which certificates belong to a device stays, and whoever reads
  the database can link even one-time certificates.
"""
