"""Give the home's time-stamp unit a new key and certificate; the old key is gone afterwards.

A key stamps for a few years inside a longer certificate and is destroyed then (EN 319 421, 7.6),
so that tokens it made are worth what they were. They stay good: each carries its certificate and
is judged at its own time. So each unit's certificate is kept, as `time-stamping-NUMBER.pem`, and
spoken of in lists and answers for ever. A server that runs goes on with the old key until it is
started again.
"""

import hashlib
import re
from datetime import datetime

from authn.device import Certificate, read_chain
from authn.errors import CertificateError
from authn.identity import Subject, pem_chain, plan_time_stamping, spki_of
from authn.keys import generate_p256, store_key
from authn.signer import certificate_facts
from authn.timestamp.authority import stamping_period
from storage import durable
from storage.entry import Kind
from tools.ceremony import fresh_serial
from tools.errors import UsageError
from tools.home import Home, content_of
from tools.output import put_whole

UNIT, ROOT = "time-stamping", "time-root"
_MOST_DAYS = 4110
_NUMBER = re.compile(r"Unit ([1-9][0-9]{0,3})\Z")


def renew(home: Home, at: datetime) -> tuple[Certificate, datetime]:
    """Replace key and certificate; return the certificate, and until when its key stamps.

    1. What an earlier attempt left half done is finished instead.
    2. A new key, beside the old one.
    3. The plan of its certificate is in the ledger before it is signed.
    4. The key takes its place, the old certificate another one, and the new certificate its own.
       In between nothing can be stamped, and calling this again goes on at 1.
    """
    if UNIT in home.keys:
        raise UsageError("the time-stamping key is kept elsewhere; certify a new one where it is kept")
    key_place, certificate_place = (
        home.path / "keys" / f"{UNIT}.pem",
        home.path / "certificates" / f"{UNIT}.pem",
    )
    next_key, next_certificate = (
        place.with_name(f"{UNIT}.next.pem") for place in (key_place, certificate_place)
    )
    # 1.
    waiting = _waiting(home)
    if waiting is None:
        # 2.
        next_key.unlink(missing_ok=True)
        key = generate_p256()
        store_key(next_key, key, None)
        # 3.
        root = home.certificate(ROOT)
        plan = plan_time_stamping(
            Subject("XX", home.organisation, f"{home.organisation} Time-Stamp Unit {_number(home) + 1}"),
            key.public_key,
            fresh_serial(),
            at,
            issuer=root,
            ocsp_url=home.ocsp_url,
            days=min(_MOST_DAYS, (root.not_valid_after_utc - at).days),
        )
        fields = {
            "certificate_plan": plan.digest.hex(),
            "custody": "E0",
            "serial": f"{plan.serial:x}",
            "spki": hashlib.sha256(plan.spki).hexdigest(),
        }
        root_key = home.key(ROOT)
        home.own.record(Kind.ISSUE, fields, at)
        waiting = plan.sign(root_key)
        put_whole(next_certificate, pem_chain(waiting))
        # 4.
        next_key.replace(key_place)
        durable.sync_folder(key_place)
    put_whole(certificate_place.with_stem(f"{UNIT}-{_number(home)}"), content_of(certificate_place))
    durable.sync_folder(certificate_place)
    next_certificate.replace(certificate_place)
    durable.sync_folder(certificate_place)
    return waiting, stamping_period(waiting)[1]


def units(home: Home) -> tuple[str, ...]:
    """The names of the certificates of all time-stamp units that this home had, oldest first; the last one stamps."""
    found = (home.path / "certificates").glob(f"{UNIT}-*.pem")
    numbers = sorted(
        int(number) for path in found if (number := path.stem.removeprefix(f"{UNIT}-")).isdigit()
    )
    return (*(f"{UNIT}-{number}" for number in numbers), UNIT)


def _waiting(home: Home) -> Certificate | None:
    """The certificate that waits for its place, if its key has taken its own already."""
    try:
        waiting = read_chain(content_of(home.path / "certificates" / f"{UNIT}.next.pem"))[0]
    except (FileNotFoundError, CertificateError):
        return None
    own = spki_of(home.key(UNIT).public_key)
    return waiting if certificate_facts(waiting).key_sha256 == hashlib.sha256(own).hexdigest() else None


def _number(home: Home) -> int:
    found = _NUMBER.search(certificate_facts(home.certificate(UNIT)).name)
    return int(found[1]) if found else 1
