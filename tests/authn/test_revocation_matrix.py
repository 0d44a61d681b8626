"""Table 3.5, whole: what a withdrawal does to a signature, whoever is reachable, and what another verifier says.

Rows: a token from before, a token from after, only a ledger entry from before, neither, and nobody to ask.
Each with and without a reason, with the responder up and down, in JPEG and PNG, signed by the SDK with our
own authority's certificate and stamped by our own time-stamp authority.
"""

import base64
import dataclasses
import importlib.util
import io
import itertools
import json
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import c2pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from authn import identity, keys
from authn.evidence import Revocation, Signer
from authn.manifest import Sdk
from authn.media import Media
from authn.ocsp import ocsp_request
from authn.revocation import Statuses
from authn.timestamp.loopback import serving
from authn.verify import verify_media
from authn.withdrawal import TRY_LATER, Reason, Responder, Standing, Withdrawn, answer
from tools.verdict import Headline, Ledger, Recorded, decide

_SPEC = importlib.util.spec_from_file_location("forge", Path(__file__).parent / "vectors" / "forge.py")
assert _SPEC is not None
assert _SPEC.loader is not None
forge: Any = sys.modules.setdefault("forge", importlib.util.module_from_spec(_SPEC))
if not hasattr(forge, "Draft"):
    _SPEC.loader.exec_module(forge)

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
SINCE = NOW - 10 * DAY
NOTICED = NOW - 2 * DAY
BEFORE, AFTER = SINCE - DAY, SINCE + DAY
FORMS = {"JPEG": forge.JPEG, "PNG": "image/png"}
GOOD, WITH_REASON, WITHOUT_REASON, DOWN = "good", "with reason", "without reason", "down"


def judged_at() -> datetime:
    """After the answers were made: their builder dates them by the clock, whatever moment they speak of."""
    return datetime.now(UTC) + timedelta(minutes=1)


class Desk:
    """An OCSP responder on a port of its own, which says what the test wants."""

    def __init__(self) -> None:
        self.mode, self.asked = GOOD, 0
        desk = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                desk.asked += 1
                question = base64.b64decode(unquote(self.path.removeprefix("/ocsp/")))
                reply = desk.reply(question, NOW)
                self.send_response(503 if desk.mode == DOWN else 200)
                self.send_header("Content-Type", "application/ocsp-response")
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is given
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/ocsp/"
        self.lab = forge.house(NOW - 40 * DAY, ocsp_url=self.url)
        key = keys.generate_p256()
        self.responder = Responder(
            self.lab.issuing,
            key,
            identity.plan_responder(
                identity.Subject("DE", "Lab", "Lab Answers"),
                key.public_key,
                forge.serial(),
                NOW,
                issuer=self.lab.issuing,
            ).sign(self.lab.issuing_key),
        )

    def reply(self, question: bytes, at: datetime) -> bytes:
        if self.mode == DOWN:
            return TRY_LATER
        if self.mode == WITHOUT_REASON:
            return self._unreasoned(question)
        return answer(question, [self.responder], self._standing, at)

    def _standing(self, _: x509.Certificate, serial: int) -> Standing | Withdrawn:
        leaf = self.lab.camera.chain[0]
        if serial != leaf.serial_number:
            return Standing.UNKNOWN
        if self.mode == GOOD:
            return Standing.GOOD
        return Withdrawn(serial, Reason.KEY_COMPROMISE, NOTICED, SINCE)

    def _unreasoned(self, question: bytes) -> bytes:
        """What our responder never sends, and others do."""
        asked = ocsp.load_der_ocsp_request(question)
        certificate = self.responder.certificate
        return (
            ocsp.OCSPResponseBuilder()
            .add_response_by_hash(
                asked.issuer_name_hash,
                asked.issuer_key_hash,
                asked.serial_number,
                asked.hash_algorithm,
                ocsp.OCSPCertStatus.REVOKED,
                NOW,
                NOW + DAY / 2,
                SINCE,
                None,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, certificate)
            .certificates([certificate])
            .sign(self.responder.key.private, hashes.SHA256())
            .public_bytes(Encoding.DER)
        )


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    made = Desk()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture(scope="module")
def dial() -> Any:
    return forge.clock(NOW - 40 * DAY)


@pytest.fixture(scope="module")
def files(desk: Desk, dial: Any) -> dict[tuple[str, datetime | None], bytes]:
    made: dict[tuple[str, datetime | None], bytes] = {}
    for kind, stamp in itertools.product(FORMS, (None, BEFORE, AFTER)):
        picture = forge.picture(kind)
        if stamp is None:
            made[kind, stamp] = forge.sdk_signed(picture, desk.lab.camera, FORMS[kind])
            continue
        with serving(dial.authority(stamp)) as url:
            made[kind, stamp] = forge.sdk_signed(picture, desk.lab.camera, FORMS[kind], url=url)
    return made


@pytest.fixture(scope="module")
def sdk() -> Iterator[Sdk]:
    with Sdk() as opened:
        yield opened


def table(stamp: datetime | None, logged: datetime | None, mode: str) -> Revocation:
    """3.5, row by row, with one more word than it has: without a reason nothing is believed."""
    if mode == DOWN:
        return Revocation.NOT_CHECKED
    if mode == WITHOUT_REASON:
        return Revocation.REVOKED
    if stamp is not None:
        return Revocation.SIGNED_BEFORE if stamp < SINCE else Revocation.REVOKED
    if logged is not None and logged < SINCE:
        return Revocation.SIGNED_BEFORE_BY_LEDGER
    return Revocation.REVOKED_TIME_UNKNOWN


BELIEVED = (Revocation.SIGNED_BEFORE, Revocation.SIGNED_BEFORE_BY_LEDGER)


@pytest.mark.parametrize("mode", [WITH_REASON, WITHOUT_REASON, DOWN])
@pytest.mark.parametrize("logged", [None, BEFORE, AFTER], ids=["unlogged", "logged before", "logged after"])
@pytest.mark.parametrize("stamp", [None, BEFORE, AFTER], ids=["unstamped", "stamped before", "stamped after"])
@pytest.mark.parametrize("kind", list(FORMS))
def test_the_table_is_kept_row_by_row(
    desk: Desk, dial: Any, files: Any, sdk: Sdk, kind: str, stamp: Any, logged: Any, mode: str
) -> None:
    desk.mode = mode
    leaf, issuing = desk.lab.camera.chain
    question = ocsp_request(leaf.public_bytes(Encoding.DER), issuing.public_bytes(Encoding.DER))
    lists = dataclasses.replace(
        forge.lists([desk.lab.root], [dial.root]), statuses=Statuses(answers=(desk.reply(question, NOW),))
    )
    media = Media.of(io.BytesIO(files[kind, stamp]), "file", 1 << 30)
    recorded = Recorded(Ledger.UNKNOWN if logged is None else Ledger.INCLUDED, 1, logged)
    verdict = decide(verify_media(media, sdk, lists, judged_at()), recorded, None)
    assert verdict.provenance is not None
    found = verdict.provenance.revocation
    assert found.state is table(stamp, logged, mode)
    if mode == WITH_REASON:
        assert (found.since, found.reason) == (SINCE, "keyCompromise")
    if mode != DOWN:
        believed = found.state in BELIEVED
        assert (verdict.provenance.signer is Signer.RECOGNISED) is believed
        assert (verdict.headline is Headline.SIGNER_REVOKED) is not believed
    else:
        assert not found.complete


@pytest.mark.parametrize("age", [timedelta(0), 3 * DAY], ids=["fresh", "expired"])
@pytest.mark.parametrize("stamp", [None, AFTER], ids=["unstamped", "stamped"])
def test_an_expired_good_answer_is_as_good_as_none(
    desk: Desk, dial: Any, files: Any, sdk: Sdk, stamp: Any, age: timedelta
) -> None:
    """It still serves a signature that is proven to be older than its end."""
    desk.mode = GOOD
    leaf, issuing = desk.lab.camera.chain
    question = ocsp_request(leaf.public_bytes(Encoding.DER), issuing.public_bytes(Encoding.DER))
    lists = dataclasses.replace(
        forge.lists([desk.lab.root], [dial.root]), statuses=Statuses(answers=(desk.reply(question, NOW),))
    )
    media = Media.of(io.BytesIO(files["JPEG", stamp]), "file", 1 << 30)
    found = verify_media(media, sdk, lists, judged_at() + age).revocation
    usable = stamp is not None or not age
    assert found.state is (Revocation.GOOD if usable else Revocation.NOT_CHECKED)


def other_state(data: bytes, form: str, anchors: bytes, *, asks: bool) -> str:
    settings = {
        "trust": {
            "trust_anchors": anchors.decode(),
            "trust_config": "1.3.6.1.4.1.62558.2.1\n1.3.6.1.5.5.7.3.4\n1.3.6.1.5.5.7.3.36\n",
        },
        "verify": {"verify_trust": True, "ocsp_fetch": asks, "remote_manifest_fetch": False},
    }
    with (
        c2pa.Context.from_dict(settings) as context,
        c2pa.Reader(form, io.BytesIO(data), context=context) as reader,
    ):
        return str(json.loads(reader.json())["validation_state"])


@pytest.mark.parametrize("kind", list(FORMS))
def test_the_other_verifier_says_otherwise_where_this_is_known(
    desk: Desk, dial: Any, files: Any, kind: str
) -> None:
    """The C2PA library does not ask unless told to, takes silence for trust, and knows no ledger."""
    anchors = identity.pem_chain(desk.lab.root, dial.root)
    for mode, stamp in itertools.product((GOOD, WITH_REASON, WITHOUT_REASON, DOWN), (None, BEFORE, AFTER)):
        desk.mode, desk.asked = mode, 0
        data = files[kind, stamp]
        assert other_state(data, FORMS[kind], anchors, asks=False) == "Trusted"
        assert desk.asked == 0
        trusted = mode in (GOOD, DOWN) or (mode == WITH_REASON and stamp == BEFORE)
        expected = "Trusted" if trusted else "Invalid"
        assert other_state(data, FORMS[kind], anchors, asks=True) == expected
        assert desk.asked > 0
