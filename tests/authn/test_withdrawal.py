"""Lists and answers: written here, read by our own reading side and by two programs of others."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from authn import der, identity, keys
from authn.errors import IssuanceError
from authn.evidence import Revocation
from authn.ocsp import ocsp_request
from authn.revocation import Statuses, check_revocation
from authn.withdrawal import (
    ANSWER_LIFE,
    MALFORMED,
    MAX_ASKED,
    MAX_REQUEST,
    UNAUTHORIZED,
    Listed,
    Reason,
    Responder,
    ResponderError,
    Standing,
    Withdrawn,
    answer,
    build_crl,
    read_crl,
)

SHA1 = hashes.SHA1()  # noqa: S303 - names certificates, secures nothing
DAY = timedelta(days=1)


def serial() -> int:
    return x509.random_serial_number() | 1 << 64


@dataclass(frozen=True)
class Desk:
    """An issuer with a responder, and a second issuer with another."""

    at: datetime
    leaf: x509.Certificate
    issuing: x509.Certificate
    root: x509.Certificate
    issuing_key: keys.SigningKey
    responders: tuple[Responder, ...]

    @property
    def path(self) -> tuple[x509.Certificate, ...]:
        return (self.leaf, self.issuing, self.root)

    def withdrawn(self, reason: Reason = Reason.KEY_COMPROMISE) -> Withdrawn:
        return Withdrawn(self.leaf.serial_number, reason, self.at - DAY, self.at - 3 * DAY)

    def reply(self, question: bytes, found: Standing | Withdrawn = Standing.GOOD) -> bytes:
        return answer(question, self.responders, lambda _, __: found, self.at)

    def question(self, digest: hashes.HashAlgorithm = SHA1, nonce: bytes | None = None) -> bytes:
        builder = ocsp.OCSPRequestBuilder().add_certificate(self.leaf, self.issuing, digest)
        if nonce is not None:
            builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
        return builder.build().public_bytes(Encoding.DER)


def responder(issuer: x509.Certificate, issuer_key: keys.SigningKey, at: datetime, number: int) -> Responder:
    key = (keys.generate_p256, keys.generate_p384)[number % 2]()
    plan = identity.plan_responder(
        identity.Subject("DE", "Lightseal Lab", f"Lab Answers {number}"),
        key.public_key,
        serial(),
        at,
        issuer=issuer,
    )
    return Responder(issuer, key, plan.sign(issuer_key))


@pytest.fixture(scope="module")
def desk(signer_kit) -> Desk:
    at = signer_kit.at
    return Desk(
        at,
        signer_kit.leaf,
        signer_kit.issuing,
        signer_kit.root,
        signer_kit.issuing_key,
        (
            responder(signer_kit.root, signer_kit.root_key, at, 1),
            responder(signer_kit.issuing, signer_kit.issuing_key, at, 2),
        ),
    )


def judged(desk: Desk, *answers: bytes, crls: tuple[bytes, ...] = (), signed_at: datetime | None = None):
    return check_revocation(desk.path, Statuses(crls, answers), signed_at, desk.at)


# --- Answers


@pytest.mark.parametrize("digest", [SHA1, hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_our_reading_side_believes_every_answer(desk: Desk, digest) -> None:
    question = desk.question(digest)
    assert judged(desk, desk.reply(question)).state is Revocation.GOOD
    assert judged(desk, desk.reply(question, Standing.UNKNOWN)).state is Revocation.DISOWNED
    found = judged(desk, desk.reply(question, desk.withdrawn()), signed_at=desk.at - 2 * DAY)
    assert (found.state, found.since, found.reason) == (
        Revocation.REVOKED,
        desk.at - 3 * DAY,
        "keyCompromise",
    )
    found = judged(desk, desk.reply(question, desk.withdrawn()), signed_at=desk.at - 4 * DAY)
    assert found.state is Revocation.SIGNED_BEFORE


@pytest.mark.parametrize("reason", list(Reason))
def test_the_one_date_of_an_answer_is_since_when_and_a_reason_is_always_there(
    desk: Desk, reason: Reason
) -> None:
    read = ocsp.load_der_ocsp_response(desk.reply(desk.question(), desk.withdrawn(reason)))
    assert read.revocation_time_utc == desk.at - 3 * DAY
    assert read.revocation_reason is x509.ReasonFlags(reason.value)
    late = Withdrawn(desk.leaf.serial_number, reason, desk.at - 3 * DAY, desk.at - DAY)
    assert late.since == desk.at - 3 * DAY
    assert Withdrawn(1, reason, desk.at).since == desk.at


def test_an_answer_names_its_responder_and_holds_for_half_a_day(desk: Desk) -> None:
    read = ocsp.load_der_ocsp_response(desk.reply(desk.question()))
    (certificate,) = read.certificates
    assert certificate == desk.responders[1].certificate
    own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert read.responder_key_hash == own
    assert (read.this_update_utc, read.produced_at_utc) == (desk.at, desk.at)
    assert timedelta(0) < read.next_update_utc - read.this_update_utc <= timedelta(hours=12)


def test_an_answer_holds_no_longer_than_its_responder(desk: Desk) -> None:
    end = desk.responders[1].certificate.not_valid_after_utc
    read = ocsp.load_der_ocsp_response(
        answer(desk.question(), desk.responders, lambda _, __: Standing.GOOD, end - timedelta(hours=1))
    )
    assert read.next_update_utc == end < end - timedelta(hours=1) + ANSWER_LIFE
    for at in (end, desk.at - 2 * DAY):
        with pytest.raises(ResponderError):
            answer(desk.question(), desk.responders, lambda _, __: Standing.GOOD, at)


@pytest.mark.parametrize("size", [1, 16, 32, 128])
def test_a_nonce_comes_back(desk: Desk, size: int) -> None:
    nonce = bytes(range(size))
    read = ocsp.load_der_ocsp_response(desk.reply(desk.question(nonce=nonce)))
    assert read.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == nonce
    bare = ocsp.load_der_ocsp_response(desk.reply(desk.question()))
    assert len(bare.extensions) == 0


@pytest.mark.parametrize("size", [0, 129, 1000])
def test_a_nonce_of_another_size_is_malformed(desk: Desk, size: int) -> None:
    assert desk.reply(desk.question(nonce=bytes(size))) == MALFORMED


def test_the_answer_comes_from_whoever_answers_for_that_issuer(desk: Desk) -> None:
    asked = []

    def look(issuer: x509.Certificate, number: int) -> Standing:
        asked.append((issuer, number))
        return Standing.GOOD

    about_issuing = ocsp_request(
        desk.issuing.public_bytes(Encoding.DER), desk.root.public_bytes(Encoding.DER)
    )
    both = [answer(question, desk.responders, look, desk.at) for question in (desk.question(), about_issuing)]
    assert asked == [(desk.issuing, desk.leaf.serial_number), (desk.root, desk.issuing.serial_number)]
    found = judged(desk, *both)
    assert (found.state, found.complete) == (Revocation.GOOD, True)


def test_nobody_answers_for_others(desk: Desk, stamp_kit) -> None:
    foreign = ocsp_request(
        stamp_kit.leaf.public_bytes(Encoding.DER), stamp_kit.root.public_bytes(Encoding.DER)
    )
    assert desk.reply(foreign) == UNAUTHORIZED
    assert answer(desk.question(), desk.responders[:1], lambda _, __: Standing.GOOD, desk.at) == UNAUTHORIZED
    read = ocsp.load_der_ocsp_response(UNAUTHORIZED)
    assert read.response_status is ocsp.OCSPResponseStatus.UNAUTHORIZED
    assert ocsp.load_der_ocsp_response(MALFORMED).response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


def several(*questions: bytes) -> bytes:
    """One question about all that these ask."""
    items = [
        item
        for question in questions
        for item in der.parse(question).fields().take().fields().take(der.SEQUENCE).children()
    ]
    return der.sequence(der.sequence(der.sequence(*(item.encoded for item in items))))


def test_several_certificates_are_asked_for_at_once_within_bounds(desk: Desk) -> None:
    question = desk.question()
    read = ocsp.load_der_ocsp_response(desk.reply(several(*[question] * 3), desk.withdrawn()))
    assert [single.certificate_status for single in read.responses] == [ocsp.OCSPCertStatus.REVOKED] * 3
    assert desk.reply(several(*[question] * MAX_ASKED)) not in (MALFORMED, UNAUTHORIZED)
    assert desk.reply(several(*[question] * (MAX_ASKED + 1))) == MALFORMED
    assert desk.reply(several()) == MALFORMED
    other = ocsp_request(desk.issuing.public_bytes(Encoding.DER), desk.root.public_bytes(Encoding.DER))
    assert desk.reply(several(question, other)) == UNAUTHORIZED


def test_what_cannot_be_read_is_malformed_and_told_so(desk: Desk) -> None:
    question = desk.question()
    for bad in (b"", b"\0", question[:-1], question + b"\0", bytes(MAX_REQUEST + 1), b"\x30\x80\0\0"):
        assert desk.reply(bad) == MALFORMED
    critical = (
        ocsp.OCSPRequestBuilder()
        .add_certificate(desk.leaf, desk.issuing, SHA1)
        .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\0"), critical=True)
        .build()
        .public_bytes(Encoding.DER)
    )
    assert desk.reply(critical) == MALFORMED
    md5 = question.replace(der.oid("1.3.14.3.2.26"), der.oid("1.3.14.3.2.18"))
    assert desk.reply(md5) == MALFORMED


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_whatever_comes_in_an_answer_goes_out(desk: Desk, data: st.DataObject) -> None:
    made = bytearray(desk.question(nonce=bytes(16)))
    for _ in range(data.draw(st.integers(1, 4))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    reply = desk.reply(bytes(made[: data.draw(st.integers(0, len(made)))]))
    assert reply in (MALFORMED, UNAUTHORIZED) or ocsp.load_der_ocsp_response(reply).certificates


def test_only_a_delegate_of_the_issuer_becomes_its_responder(desk: Desk, signer_kit, remake) -> None:
    sound = desk.responders[1]
    for wrong in (
        (desk.root, sound.key, sound.certificate),
        (desk.issuing, keys.generate_p256(), sound.certificate),
        (desk.issuing, signer_kit.key, signer_kit.leaf),
        (desk.root, signer_kit.issuing_key, signer_kit.issuing),
        (
            desk.issuing,
            sound.key,
            remake(sound.certificate, signer_kit.issuing_key, drop=[x509.OCSPNoCheck.oid]),
        ),
    ):
        with pytest.raises(ResponderError):
            Responder(*wrong)


# --- Lists


def listed(desk: Desk, *entries: Withdrawn, number: int = 7) -> bytes:
    return build_crl(entries, issuer=desk.issuing, key=desk.issuing_key, number=number, at=desk.at)


@pytest.mark.parametrize("reason", list(Reason))
def test_our_reading_side_believes_a_list(desk: Desk, reason: Reason) -> None:
    assert judged(desk, crls=(listed(desk),)).state is Revocation.GOOD
    found = judged(desk, crls=(listed(desk, desk.withdrawn(reason)),), signed_at=desk.at - 2 * DAY)
    assert (found.state, found.since, found.reason) == (Revocation.REVOKED, desk.at - 3 * DAY, reason.value)


def test_list_and_answer_name_the_same_date(desk: Desk) -> None:
    for entry in (desk.withdrawn(), Withdrawn(desk.leaf.serial_number, Reason.SUPERSEDED, desk.at - DAY)):
        by_list = judged(desk, crls=(listed(desk, entry),))
        by_answer = judged(desk, desk.reply(desk.question(), entry))
        assert (by_list.state, by_list.since, by_list.reason) == (
            by_answer.state,
            by_answer.since,
            by_answer.reason,
        )


def test_a_list_says_its_number_and_how_far_back_it_goes(desk: Desk) -> None:
    made = x509.load_der_x509_crl(listed(desk, desk.withdrawn()))
    assert made.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 7
    (entry,) = made
    assert {type(item.value) for item in entry.extensions} == {x509.CRLReason, x509.InvalidityDate}
    assert entry.revocation_date_utc == desk.at - DAY
    over = desk.leaf.not_valid_after_utc + DAY
    later = build_crl((), issuer=desk.issuing, key=desk.issuing_key, number=8, at=over)
    found = check_revocation(desk.path, Statuses((later,)), desk.at, over)
    assert found.state is Revocation.GOOD, "an expired certificate is still spoken of"


def test_the_next_list_goes_on_from_the_last(desk: Desk) -> None:
    entries = [desk.withdrawn(), Withdrawn(5, Reason.SUPERSEDED, desk.at - DAY)]
    data = listed(desk, *entries)
    expected = tuple(sorted(entries, key=lambda entry: entry.serial))
    assert read_crl(data, desk.issuing) == Listed(7, desk.at, expected)
    with pytest.raises(IssuanceError):
        read_crl(data, desk.root)
    for bad in (b"", data[:-1], data[:-1] + bytes([data[-1] ^ 1])):
        with pytest.raises(IssuanceError):
            read_crl(bad, desk.issuing)


def test_what_is_no_list_is_not_signed(desk: Desk, signer_kit) -> None:
    sound = {"issuer": desk.issuing, "key": desk.issuing_key, "number": 1, "at": desk.at}
    for change in (
        {"key": signer_kit.root_key},
        {"number": -1},
        {"at": desk.issuing.not_valid_after_utc + DAY},
        {"life": timedelta(0)},
    ):
        with pytest.raises(IssuanceError):
            build_crl((), **(sound | change))
    with pytest.raises(IssuanceError, match="once"):
        build_crl([desk.withdrawn(), desk.withdrawn()], **sound)


def test_ten_thousand_withdrawals_are_a_list(desk: Desk) -> None:
    entries = [Withdrawn(serial(), Reason.KEY_COMPROMISE, desk.at, desk.at - DAY) for _ in range(10_000)]
    data = listed(desk, *entries)
    assert len(data) < 1 << 20
    assert set(read_crl(data, desk.issuing).entries) == set(entries)


# --- What others say of both


def run(*command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@contextmanager
def answering(reply: Callable[[bytes], bytes]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = reply(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "application/ocsp-response")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is given
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        thread.join(60)


@pytest.fixture
def folder(desk: Desk, tmp_path: Path) -> Path:
    for name, certificate in (("root", desk.root), ("issuing", desk.issuing), ("leaf", desk.leaf)):
        (tmp_path / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    return tmp_path


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("found", ["good", "revoked", "unknown"])
def test_openssl_verifies_an_answer(desk: Desk, folder: Path, found: str) -> None:
    says = {"good": Standing.GOOD, "unknown": Standing.UNKNOWN, "revoked": desk.withdrawn()}[found]
    chain = ("-issuer", folder / "issuing.pem", "-cert", folder / "leaf.pem", "-CAfile", folder / "root.pem")
    with answering(lambda question: desk.reply(question, says)) as url:
        said = run("openssl", "ocsp", *chain, "-verify_other", folder / "issuing.pem", "-url", url)
    assert "Response verify OK" in said
    assert f"leaf.pem: {found}" in said
    assert "WARNING" not in said, "the nonce of the question came back"
    assert ("Reason: keyCompromise" in said) is (found == "revoked")


@pytest.mark.needs("openssl")
def test_openssl_verifies_a_list(desk: Desk, folder: Path) -> None:
    (folder / "list.der").write_bytes(listed(desk, desk.withdrawn()))
    issuer = folder / "issuing.pem"
    said = run(
        "openssl", "crl", "-inform", "DER", "-in", folder / "list.der", "-CAfile", issuer, "-noout", "-text"
    )
    assert "verify OK" in said
    assert "Key Compromise" in said


def lint(program: str, path: Path, *options: str) -> list[object]:
    assert find_spec("pkilint"), "the test extra is not installed: pip install pkilint"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            f"pkilint.bin.{program}",
            "lint",
            *options,
            "-f",
            "JSON",
            "-s",
            "WARNING",
            path,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)["results"]


def test_an_independent_linter_finds_nothing_in_either(desk: Desk, tmp_path: Path) -> None:
    for found in (Standing.GOOD, Standing.UNKNOWN, desk.withdrawn()):
        path = tmp_path / "answer.der"
        path.write_bytes(desk.reply(desk.question(nonce=bytes(32)), found))
        assert lint("lint_ocsp_response", path) == []
    for entries in ((), (desk.withdrawn(), Withdrawn(5, Reason.SUPERSEDED, desk.at))):
        path = tmp_path / "list.der"
        path.write_bytes(listed(desk, *entries))
        assert lint("lint_crl", path, "-t", "CRL", "-p", "PKIX") == []


def test_the_linter_would_have_found_something(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "list.der"
    bare = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(desk.issuing.subject)
        .last_update(desk.at)
        .next_update(desk.at + DAY)
        .sign(desk.issuing_key.private, hashes.SHA384())
    )
    path.write_bytes(bare.public_bytes(Encoding.DER))
    assert lint("lint_crl", path, "-t", "CRL", "-p", "PKIX") != []
