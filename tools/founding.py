"""Found a home: its ledger, its keys, its private CA, and the first certificates.

Made whole or not at all: it is built beside its place and moved there in one step. Each
certificate is an entry of the ledger before it exists. Founding puts all keys in files;
roots belong elsewhere afterwards (`tools.ceremony`), and so may any other key of the home.
"""

import contextlib
import dataclasses
import hashlib
import json
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from authn.device import Certificate, encoded, issuer_key_id, pseudonym
from authn.errors import CertificateError, KeyFileError
from authn.identity import (
    CertificatePlan,
    Subject,
    pem_chain,
    plan_claim_signing,
    plan_issuing_ca,
    plan_root,
    plan_time_stamping,
    plan_time_stamping_root,
)
from authn.keys import KeyProvider, generate_p256, generate_p384, store_key
from authn.plain import plain
from authn.profile import Profile
from authn.revocation import host_of
from authn.signer import certificate_facts
from authn.trust import Purpose, TrustList
from storage.checkpoint import Checkpoint
from storage.entry import Kind
from storage.ledger import Ledger
from storage.note import Algorithm, Note
from storage.payload import canonical
from storage.record import Record
from storage.registry.errors import ProductUnknownError
from storage.registry.registry import Registry
from storage.registry.rows import Device as DeviceRow
from storage.registry.rows import IssuedCertificate, Product, Status
from tools.ceremony import fresh_serial
from tools.errors import UsageError
from tools.home import SCHEMA, SERVICE, SERVICE_PRODUCT, Home, content_of, open_home, require_valid
from tools.output import built_beside
from tools.own_log import OwnLog

SOFTWARE_KEY = "E0"
_OWN_KEYS = ("ra", "status")


@dataclass(frozen=True, slots=True)
class LogPlan:
    """How a new home's log is kept: what signs it, where its database and its guard are, what it follows."""

    algorithms: tuple[Algorithm, ...] = (Algorithm.ED25519,)
    database: str | None = None
    guard: str | None = None
    after: bytes | None = None


def create_home(
    path: Path, organisation: str, ocsp_url: str, at: datetime, plan: LogPlan = LogPlan()
) -> Home:
    """Make a home with everything it takes to sign and verify.

    The private CA's root, its issuing CA, the time-stamp root and unit, and the
    signing service are each an entry of the ledger before their certificate exists.
    """
    host = _status_host(ocsp_url)
    origin = f"lightseal.local/{secrets.token_hex(8)}"
    with built_beside(path) as building:
        for name in ("keys", "certificates", "trust", "devices"):
            (building / name).mkdir(mode=0o700)
        own = OwnLog.create(building, origin, plan.algorithms, plan.database, plan.guard)
        home = Home(building, own, organisation, ocsp_url)
        try:
            _furnish(home, plan, host, at)
            about = {"schema": SCHEMA, "organisation": organisation, "ocsp_url": ocsp_url}
            (building / "home.json").write_text(json.dumps(about, indent=1) + "\n")
        except BaseException:
            own.remove()
            raise
    return open_home(path)


def complete_home(home: Home, at: datetime) -> bool:
    """Give a home of an earlier version its registry, with the devices it enrolled; whether any was missing.

    Goes on where an earlier run was interrupted.
    """
    for name in _OWN_KEYS:
        with contextlib.suppress(KeyFileError):  # a file that an interrupted run left is as good
            store_key(home.path / "keys" / f"{name}.pem", generate_p256(), None)
    added = False
    with home.registry_if_any() or Registry.create(home.registry_url) as registry:
        known = {each.name for each in registry.devices()}
        for name in (SERVICE, *home.devices()):
            device = home.enrolled(name)
            leaf = device.chain[0]
            if registry.certificate(issuer_key_id(leaf), f"{leaf.serial_number:x}") is not None:
                continue
            product, begun = certificate_facts(leaf).name, leaf.not_valid_before_utc
            if name not in known:
                _know_product(home, registry, product, at)
                registry.add_device(
                    DeviceRow(name, product, device.salt, Status.ACTIVE, None, SOFTWARE_KEY, begun)
                )
            entry = json.loads(content_of(home.device_folder(name) / "device.json"))["entry"]
            registry.add_certificates([certificate_row(leaf, name, product, "standard", int(entry))])
            added = True
    return added


def _furnish(home: Home, plan: LogPlan, host: str, at: datetime) -> None:
    with home.ledger() as ledger:
        if plan.after is not None:
            _follow(home, ledger, plan.after, at)
        _authorities(home, ledger, host, at)
        (home.path / SERVICE).mkdir(mode=0o700)
        for name in _OWN_KEYS:
            store_key(home.path / "keys" / f"{name}.pem", generate_p256(), None)
        with Registry.create(home.registry_url) as registry:
            _furnished(home, ledger, registry, home.path / SERVICE, SERVICE, SERVICE_PRODUCT, at)


def _follow(home: Home, ledger: Ledger, note: bytes, at: datetime) -> None:
    """Say in the first entry which log this one goes on from: the last checkpoint that is believed."""
    followed = Checkpoint.parse(Note.parse(note).text)
    fields = {"change": "follow", "checkpoint": str(followed), "note": note.decode()}
    ledger.append([home.own.own_record(Kind.POLICY, fields)], at, home.sign_note)


def _status_host(url: str) -> str:
    """Whom to ask about withdrawals, known to be one that a trust list can name."""
    host = host_of(url)
    if host is None:
        raise UsageError(
            f"{plain(url, 200)} is no http address at which a certificate's status could be asked"
        )
    try:
        dataclasses.replace(TrustList.empty(Purpose.SIGNING), hosts=(host,)).described()
    except CertificateError as error:
        raise UsageError(f"a trust list cannot name the host {plain(host, 200)}; give one by name") from error
    return host


def _authorities(home: Home, ledger: Ledger, host: str, at: datetime) -> None:
    """Two roots that share nothing: an anchor for signers must never vouch for time."""
    root_key, issuing_key = generate_p384(), generate_p384()
    time_root_key, time_key = generate_p384(), generate_p256()
    who, ocsp = home.organisation, home.ocsp_url

    def issued(plan: CertificatePlan, issuer_key: KeyProvider) -> Certificate:
        return _issue(home, ledger, plan, issuer_key, secrets.token_bytes(32), at)[1]

    def called(name: str) -> Subject:
        return Subject("XX", who, f"{who} {name}")

    root = issued(plan_root(called("Root CA"), root_key.public_key, fresh_serial(), at), root_key)
    issuing = issued(
        plan_issuing_ca(
            called("Claim Signing CA"), issuing_key.public_key, fresh_serial(), at, issuer=root, ocsp_url=ocsp
        ),
        root_key,
    )
    time_root = issued(
        plan_time_stamping_root(called("Time-Stamp Root"), time_root_key.public_key, fresh_serial(), at),
        time_root_key,
    )
    time_unit = issued(
        plan_time_stamping(
            called("Time-Stamp Unit 1"),
            time_key.public_key,
            fresh_serial(),
            at,
            issuer=time_root,
            ocsp_url=ocsp,
        ),
        time_root_key,
    )
    for name, key, certificate in (
        ("root", root_key, root),
        ("issuing", issuing_key, issuing),
        ("time-root", time_root_key, time_root),
        ("time-stamping", time_key, time_unit),
    ):
        store_key(home.path / "keys" / f"{name}.pem", key, None)
        (home.path / "certificates" / f"{name}.pem").write_bytes(pem_chain(certificate))
    for stem, anchor, purpose, profile in (
        ("signers", root, Purpose.SIGNING, Profile.POLICY),
        ("time-stampers", time_root, Purpose.TIME_STAMPING, Profile.TIME_STAMPING),
    ):
        bare = TrustList.parse(pem_chain(anchor), stem, purpose, profile)
        described = dataclasses.replace(bare, hosts=(host,)).described()
        (home.path / "trust" / f"{stem}.pem").write_bytes(described)


def _furnished(
    home: Home, ledger: Ledger, registry: Registry, folder: Path, name: str, product: str, at: datetime
) -> int:
    """Fill a device's folder: key, chain, and what its owner must know to find it in the ledger."""
    key, salt, issuer = generate_p256(), secrets.token_bytes(32), home.issuers()[-1]
    issuing = home.certificate(issuer)
    require_valid([issuing], at)
    plan = plan_claim_signing(
        Subject("XX", home.organisation, product),
        key.public_key,
        fresh_serial(),
        at,
        issuer=issuing,
        days=366,
        ocsp_url=home.ocsp_url,
    )
    _know_product(home, registry, product, at)
    registry.add_device(DeviceRow(name, product, salt, Status.ACTIVE, None, SOFTWARE_KEY, at))
    registry.reserve_key(hashlib.sha256(plan.spki).digest(), name, at)
    index, certificate = _issue(home, ledger, plan, home.key(issuer), salt, at)
    registry.add_certificates([certificate_row(certificate, name, product, "standard", index)])
    store_key(folder / "key.pem", key, None)
    (folder / "chain.pem").write_bytes(pem_chain(certificate, issuing))
    (folder / "device.json").write_text(json.dumps({"salt": salt.hex(), "entry": index}) + "\n")
    (folder / "device.json").chmod(0o600)
    return index


def _know_product(home: Home, registry: Registry, name: str, at: datetime) -> None:
    """Devices of this home's own may be of any product; what strangers need for one is set with 'product add'."""
    try:
        registry.product(name)
    except ProductUnknownError:
        registry.add_product(Product(name, home.organisation, "standard", SOFTWARE_KEY, b"{}", at))


def _issue(
    home: Home, ledger: Ledger, plan: CertificatePlan, issuer_key: KeyProvider, salt: bytes, at: datetime
) -> tuple[int, Certificate]:
    """Log first: a certificate that nobody logged must not come into the world."""
    payload = {
        "certificate_plan": plan.digest.hex(),
        "custody": SOFTWARE_KEY,
        "serial": f"{plan.serial:x}",
        "spki": hashlib.sha256(plan.spki).hexdigest(),
    }
    record = Record(
        Kind.ISSUE,
        canonical(payload),
        secrets.token_bytes(32),
        pseudonym(salt, plan.spki),
    )
    (index,) = ledger.append([record], at, home.sign_note)
    # The entry is durable. A crash from here on leaves an issuance logged that never
    # took place, which harms nobody; the other order would leave one nobody logged.
    return index, plan.sign(issuer_key)


def certificate_row(
    certificate: Certificate, device: str, product: str, lifetime: str, entry: int
) -> IssuedCertificate:
    """A certificate as the registry remembers it."""
    facts = certificate_facts(certificate)
    return IssuedCertificate(
        bytes.fromhex(facts.sha256),
        encoded(certificate),
        f"{certificate.serial_number:x}",
        bytes.fromhex(facts.key_sha256),
        device,
        product,
        lifetime,
        issuer_key_id(certificate),
        facts.not_before,
        facts.not_after,
        entry,
    )
