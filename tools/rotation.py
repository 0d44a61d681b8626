"""Give a home a new issuing authority beside the old ones.

Issuance moves to the newest; the older ones still sign lists and answers, until the last
certificate that they issued is over. The root may be in this home or far away: then the
first half makes a request for a ceremony, and the second takes what came back.
"""

import hashlib
import json
import secrets
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import ClassVar

from authn.chain import build_chain
from authn.custody import uri
from authn.custody.opening import open_provider
from authn.device import Certificate, pseudonym, spki
from authn.identity import (
    CertificatePlan,
    Subject,
    key_id_of,
    pem_chain,
    plan_digest,
    plan_issuing_ca,
    spki_of,
)
from authn.keys import Keeping, KeyProvider, generate_p384, store_key
from authn.profile import Role, check_role
from authn.signer import certificate_facts
from storage.entry import Kind
from storage.payload import canonical
from storage.payload import parse as parse_payload
from storage.record import Record
from storage.registry.rows import Target
from tools.ceremony import AuthorityRequest, fresh_serial, request_for
from tools.errors import Error
from tools.home import Home, content_of, open_home
from tools.output import put_whole

DUE = timedelta(days=2 * 365)
"""After so long an authority should have a successor; it lives for five years."""


class RotationRefusedError(Error):
    """The certificate that was to become an issuing authority's is not the one that was planned here."""

    code: ClassVar[str] = "ca-certificate-refused"
    remedy: ClassVar[str] = "Install the certificate that the ceremony made from this home's newest request."


@dataclass(frozen=True, slots=True)
class Authority:
    """An issuing authority of a home, at a moment."""

    name: str
    subject: str
    not_before: datetime
    not_after: datetime
    issues: bool
    """Whether new certificates come from it."""
    answers_until: datetime
    """Until when its key is needed for lists and answers."""

    def due(self, at: datetime) -> bool:
        """Whether it has issued for so long that it should have a successor."""
        return self.issues and at - self.not_before > DUE


def authorities(home: Home, at: datetime) -> tuple[Authority, ...]:
    """All of them, oldest first; the last one issues."""
    names = home.issuers()
    found = []
    with home.registry() as registry:
        for name in names:
            certificate = home.certificate(name)
            issued = registry.certificates(Target.of_ca(key_id_of(certificate)))
            last = max((each.not_after for each in issued), default=certificate.not_valid_before_utc)
            issues = name == names[-1]
            found.append(
                Authority(
                    name,
                    certificate_facts(certificate).name,
                    certificate.not_valid_before_utc,
                    certificate.not_valid_after_utc,
                    issues,
                    certificate.not_valid_after_utc if issues else max(last, at),
                )
            )
    return tuple(found)


def request_successor(home: Home, key_uri: str | None, at: datetime) -> AuthorityRequest:
    """Make or open a key, log the plan of its certificate, and return the request for a ceremony.

    Without a URI the key is a file of the home. A key that an earlier request made and
    nobody has installed yet is used again: it was never certified, as far as this home knows.
    """
    # 1. The key, which opens and is of a kind that may certify.
    name, address = _next_name(home), None if key_uri is None else _absolute(key_uri)
    key = _key_at(home, name, address)
    plan = plan_issuing_ca(
        Subject("XX", home.organisation, f"{home.organisation} Claim Signing CA {_number(name)}"),
        key.public_key,
        fresh_serial(),
        at,
        issuer=home.certificate("root"),
        ocsp_url=home.ocsp_url,
        predecessors=[home.certificate(each) for each in home.issuers()],
    )
    # 2. Where it is, and then the plan in the ledger, before anybody can sign it.
    home = _placed(home, name, address)
    entry = _log(home, plan, key, at)
    # 3. The request.
    return request_for(key, plan, name, at, entry)


def install_successor(home: Home, certificate: Certificate, at: datetime) -> str:
    """Take a new authority's certificate into the home; from then on it issues. Returns its name.

    1. It is an authority's, under the root of this home, and for the key that waits here.
    2. It is the one whose plan was logged: every byte of it but the signature.
    3. It takes its place beside the others. A crash before this line changes nothing.
    """
    # 1
    name = _next_name(home)
    if broken := check_role(certificate, Role.ISSUING):
        raise RotationRefusedError(broken[0].explanation)
    if len(build_chain(certificate, (), (home.certificate("root"),), at).path or ()) != 2:
        raise RotationRefusedError("the certificate was not signed by the root of this home")
    if spki(certificate) != spki_of(_key(home, name).public_key):
        raise RotationRefusedError("the certificate is not for the key that this home made")
    # 2
    if not _logged(home, certificate):
        raise RotationRefusedError("the certificate's plan is not in the ledger of this home")
    # 3
    put_whole(home.path / "certificates" / f"{name}.pem", pem_chain(certificate))
    return name


def rotate(home: Home, key_uri: str | None, at: datetime) -> str:
    """Both halves at once, where the root's key is at hand; returns the new authority's name."""
    root_key = home.key("root")
    request = request_successor(home, key_uri, at)
    home = open_home(home.path)
    predecessors = [home.certificate(name) for name in home.issuers()]
    plan = request.planned(home.certificate("root"), predecessors)
    return install_successor(home, plan.sign(root_key), at)


def _next_name(home: Home) -> str:
    return f"issuing-{_number(home.issuers()[-1]) + 1}"


def _number(name: str) -> int:
    return int(name.partition("-")[2] or 1)


def _key(home: Home, name: str) -> KeyProvider:
    """The key that is to have this name: where `home.json` says, or a file, which is made if it is not there."""
    place = home.path / "keys" / f"{name}.pem"
    if name not in home.keys and not place.exists():
        store_key(place, generate_p384(), None)
    return home.key(name)


def _key_at(home: Home, name: str, address: str | None) -> KeyProvider:
    """The key that is to have this name: the one that was asked for, or that of `_key`."""
    return _key(home, name) if address is None else open_provider(address)


def _absolute(key_uri: str) -> str:
    """The URI as it stays true from wherever the home is opened: a file is named by its whole path."""
    address = uri.parse(key_uri)
    return str(
        replace(address, path=address.path.absolute()) if isinstance(address, uri.FileAddress) else address
    )


def _placed(home: Home, name: str, address: str | None) -> Home:
    """The home with the key's place written down."""
    if address is None or home.keys.get(name) == address:
        return home
    about = json.loads(content_of(home.path / "home.json"))
    about["keys"] = {**home.keys, name: address}
    put_whole(home.path / "home.json", json.dumps(about, indent=1).encode() + b"\n")
    return replace(home, keys=about["keys"])


def _log(home: Home, plan: CertificatePlan, key: KeyProvider, at: datetime) -> int:
    fields = {
        "certificate_plan": plan.digest.hex(),
        "custody": "E0" if key.keeping is Keeping.SOFTWARE else "E1",
        "serial": f"{plan.serial:x}",
        "spki": hashlib.sha256(plan.spki).hexdigest(),
    }
    record = Record(
        Kind.ISSUE,
        canonical(fields),
        secrets.token_bytes(32),
        pseudonym(secrets.token_bytes(32), plan.spki),
    )
    with home.ledger() as ledger:
        (index,) = ledger.append([record], at, home.sign_note)
    return index


def _logged(home: Home, certificate: Certificate) -> bool:
    planned = plan_digest(certificate).hex()
    with home.ledger_to_read() as ledger:
        found = ledger.find("spki", hashlib.sha256(spki(certificate)).digest())
        payloads = [ledger.payload(index) for index in found]
    return any(
        data is not None and parse_payload(data).get("certificate_plan") == planned for data in payloads
    )
