"""Asking issuers, at a responder on this machine that can be honest, broken or hostile."""

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from authn.answer import MAX_ANSWER
from authn.chain import read_certificate
from authn.evidence import Revocation
from authn.revocation import NO_STATUSES, Statuses, check_revocation
from tools.errors import UnreadableError, UnwritableError
from tools.online import MAX_FETCHES, Answer, Asked, Cache, Inquiry, UnansweredError, ask, fetch, fetch_within

AT = datetime.now(UTC).replace(microsecond=0)
# The builder of answers reads the clock, which must not be ahead of the moment of judgment in a long run.
LATER = AT + timedelta(hours=1)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
SHA1 = hashes.SHA1()  # noqa: S303 - names certificates, secures nothing
Reply = Callable[[http.server.BaseHTTPRequestHandler, bytes], None]


def der_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


@dataclass
class Responder:
    """A server whose answer a test chooses, and what it was asked."""

    port: int = 0
    reply: Reply | None = None
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def hosts(self) -> frozenset[str]:
        return frozenset({self.host})


def send(handler: http.server.BaseHTTPRequestHandler, content: bytes, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


@pytest.fixture
def responder() -> Iterator[Responder]:
    state = Responder()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            state.asked.append((self.command, self.path, body))
            assert state.reply is not None
            try:
                state.reply(self, body)
            except OSError:  # whoever asked hung up
                self.close_connection = True

        do_POST = do_GET  # noqa: N815 (the name is given)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield state
        server.shutdown()
        thread.join()


@dataclass(frozen=True)
class House:
    key: ec.EllipticCurvePrivateKey
    issuer: x509.Certificate

    def leaf(self, *ocsp_urls: str, crl_urls: tuple[str, ...] = ()) -> x509.Certificate:
        uri = x509.UniformResourceIdentifier
        builder = self._builder("Lab Camera", ec.generate_private_key(ec.SECP256R1()))
        if ocsp_urls:
            entries = [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, uri(u)) for u in ocsp_urls]
            builder = builder.add_extension(x509.AuthorityInformationAccess(entries), critical=False)
        if crl_urls:
            points = [x509.DistributionPoint([uri(url)], None, None, None) for url in crl_urls]
            builder = builder.add_extension(x509.CRLDistributionPoints(points), critical=False)
        return builder.sign(self.key, hashes.SHA384())

    def path(self, leaf: x509.Certificate) -> tuple[bytes, ...]:
        return der_of(leaf), der_of(self.issuer)

    def answers(self, status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD, this: datetime = AT) -> Reply:
        """Answer the request that comes in, as the issuer."""

        def reply(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
            send(handler, self.answer(body, status, this))

        return reply

    def answer(self, request: bytes, status: ocsp.OCSPCertStatus, this: datetime) -> bytes:
        asked = ocsp.load_der_ocsp_request(request)
        revoked = status is ocsp.OCSPCertStatus.REVOKED
        return (
            ocsp.OCSPResponseBuilder()
            .add_response_by_hash(
                asked.issuer_name_hash,
                asked.issuer_key_hash,
                asked.serial_number,
                asked.hash_algorithm,
                status,
                this,
                this + DAY,
                AT - DAY if revoked else None,
                x509.ReasonFlags.key_compromise if revoked else None,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, self.issuer)
            .sign(self.key, hashes.SHA384())
            .public_bytes(Encoding.DER)
        )

    def crl(self, *serials: int, this: datetime = AT) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.issuer.subject)
            .last_update(this)
            .next_update(this + DAY)
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(AT - DAY)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, hashes.SHA384()).public_bytes(Encoding.DER)

    def _builder(self, name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Lab Issuer")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(AT - 30 * DAY)
            .not_valid_after(AT + 30 * DAY)
        )


@pytest.fixture(scope="module")
def house() -> House:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Lab Issuer")])
    issuer = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(AT - 30 * DAY)
        .not_valid_after(AT + 300 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA384())
    )
    return House(key, issuer)


def state_of(house: House, leaf: x509.Certificate, statuses: Statuses) -> Revocation:
    return check_revocation((leaf, house.issuer), statuses, None, LATER).state


# --- Answers


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (ocsp.OCSPCertStatus.GOOD, Revocation.GOOD),
        (ocsp.OCSPCertStatus.REVOKED, Revocation.REVOKED_TIME_UNKNOWN),
        (ocsp.OCSPCertStatus.UNKNOWN, Revocation.DISOWNED),
    ],
)
def test_what_the_responder_says_is_what_is_found(house, responder, status, state) -> None:
    responder.reply = house.answers(status)
    leaf = house.leaf(f"http://{responder.host}/ocsp/")
    inquiry = ask(house.path(leaf), responder.hosts, fetch, LATER)
    assert state_of(house, leaf, inquiry.statuses) is state
    assert [(outcome.asked, outcome.state) for outcome in inquiry.outcomes] == [(Asked.ANSWERED, state)]
    ((method, target, body),) = responder.asked
    assert (method, target) == ("POST", "/ocsp/")
    expected = ocsp.OCSPRequestBuilder().add_certificate(leaf, house.issuer, SHA1).build()
    assert body == expected.public_bytes(Encoding.DER)


def test_a_list_is_fetched_where_the_certificate_says(house, responder) -> None:
    leaf = house.leaf(crl_urls=(f"http://{responder.host}/lab.crl?x=1",))
    responder.reply = lambda handler, _: send(handler, house.crl(leaf.serial_number))
    inquiry = ask(house.path(leaf), responder.hosts, fetch, LATER)
    assert state_of(house, leaf, inquiry.statuses) is Revocation.REVOKED
    assert [asked[:2] for asked in responder.asked] == [("GET", "/lab.crl?x=1")]


def test_the_anchor_is_not_asked_about(house, responder) -> None:
    inquiry = ask((der_of(house.leaf(f"http://{responder.host}/")),), responder.hosts, fetch, LATER)
    assert inquiry == Inquiry()
    assert responder.asked == []


# --- No answers


@pytest.mark.parametrize("status", [301, 302, 307, 403, 500, 503])
def test_only_a_plain_success_is_an_answer_and_no_redirect_is_followed(house, responder, status) -> None:
    def reply(handler: http.server.BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(status)
        handler.send_header("Location", f"http://{responder.host}/elsewhere")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    responder.reply = reply
    leaf = house.leaf(f"http://{responder.host}/ocsp/")
    inquiry = ask(house.path(leaf), responder.hosts, fetch, LATER)
    assert inquiry.statuses == NO_STATUSES
    (outcome,) = inquiry.outcomes
    assert outcome.asked is Asked.UNREACHABLE
    assert str(status) in outcome.explanation
    assert [target for _, target, _ in responder.asked] == ["/ocsp/"]


def test_nobody_there_is_an_outcome(house) -> None:
    leaf = house.leaf("http://127.0.0.1:1/ocsp/")
    (outcome,) = ask(house.path(leaf), frozenset({"127.0.0.1:1"}), fetch, LATER).outcomes
    assert outcome.asked is Asked.UNREACHABLE


@pytest.mark.parametrize("part", ["status line", "headers", "body"])
def test_a_trickle_does_not_hold_longer_than_the_deadline(responder, part) -> None:
    def reply(handler: http.server.BaseHTTPRequestHandler, _: bytes) -> None:
        opening = {"status line": b"", "headers": b"HTTP/1.1 200 OK\r\n"}
        handler.wfile.write(opening.get(part, b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n"))
        for _ in range(200):
            handler.wfile.write(b"H")
            time.sleep(0.05)

    responder.reply = reply
    before = time.monotonic()
    with pytest.raises(UnansweredError, match=r"within 0\.3 seconds"):
        fetch_within(0.3, f"http://{responder.host}/", b"", MAX_ANSWER)
    assert time.monotonic() - before < 2
    assert not [thread for thread in threading.enumerate() if thread.name == "lightseal-fetch"]


@pytest.mark.parametrize("declared", [True, False])
def test_a_flood_is_cut_off_at_the_limit(responder, declared) -> None:
    sent = 0

    def reply(handler: http.server.BaseHTTPRequestHandler, _: bytes) -> None:
        nonlocal sent
        handler.send_response(200)
        if declared:
            handler.send_header("Content-Length", str(1 << 30))
        handler.end_headers()
        for _ in range(1 << 10):
            handler.wfile.write(bytes(1 << 20))
            sent += 1

    responder.reply = reply
    with pytest.raises(UnansweredError, match="more than 64 KiB"):
        fetch(f"http://{responder.host}/", b"", MAX_ANSWER)
    assert sent < 64


def test_exactly_the_limit_is_taken(responder) -> None:
    responder.reply = lambda handler, _: send(handler, bytes(100))
    assert fetch(f"http://{responder.host}/", None, 100) == bytes(100)
    with pytest.raises(UnansweredError):
        fetch(f"http://{responder.host}/", None, 99)


def test_something_else_than_a_status_is_not_used(house, responder) -> None:
    responder.reply = lambda handler, _: send(handler, b"<html>welcome to the hotel</html>")
    leaf = house.leaf(f"http://{responder.host}/ocsp/")
    inquiry = ask(house.path(leaf), responder.hosts, fetch, LATER)
    assert [outcome.asked for outcome in inquiry.outcomes] == [Asked.USELESS]
    assert inquiry.statuses == NO_STATUSES


def test_the_answer_of_a_stranger_is_reported_and_not_kept(house, responder) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    other = House(key, house.issuer)
    leaf = house.leaf(f"http://{responder.host}/ocsp/")
    responder.reply = lambda handler, _: send(handler, other.crl(leaf.serial_number))
    inquiry = ask(house.path(leaf), responder.hosts, fetch, LATER)
    assert [(outcome.asked, outcome.state) for outcome in inquiry.outcomes] == [(Asked.USELESS, None)]
    assert inquiry.answers == ()
    assert state_of(house, leaf, inquiry.statuses) is Revocation.NOT_CHECKED


# --- Whom we contact


def refuse(url: str, question: bytes | None, limit: int) -> bytes:
    raise AssertionError((url, question, limit))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.2/ocsp/",
        "http://127.0.0.1:81/ocsp/",
        "https://127.0.0.1:80/ocsp/",
        "http://127.0.0.1@127.0.0.2/ocsp/",
        "http://user@127.0.0.1/ocsp/",
        "http://127.0.0.2\\@127.0.0.1/ocsp/",
        "http://127.0.0.1.example/",
        "http://127.0.0.1./",
        "http://127.0.0.1:x/",
        "http://[127.0.0.1/",
        "http:///127.0.0.1/",
        "http://2130706433/",
    ],
)
def test_a_host_that_no_list_names_is_never_contacted(house, url) -> None:
    inquiry = ask(house.path(house.leaf(url)), frozenset({"127.0.0.1"}), refuse, LATER)
    (outcome,) = inquiry.outcomes
    assert outcome.asked is Asked.REFUSED
    assert "no trust list names it" in outcome.explanation


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/", "file:///etc/passwd", "ldap://127.0.0.1/", "http://a b/"]
)
def test_addresses_that_are_not_of_the_web_are_not_even_questions(house, url) -> None:
    assert ask(house.path(house.leaf(url)), frozenset({"127.0.0.1", "a b", ""}), refuse, LATER) == Inquiry()


def test_a_name_without_a_port_means_the_schemes_own(house) -> None:
    called: list[str] = []

    def note(url: str, question: bytes | None, limit: int) -> bytes:
        assert question is None or limit == MAX_ANSWER
        called.append(url)
        raise UnansweredError("is only noted")

    urls = ("http://Lab.example/", "https://lab.example:443/", "http://lab.example:80/")
    outcomes = ask(house.path(house.leaf(*urls)), frozenset({"lab.example"}), note, LATER).outcomes
    assert called == list(urls)
    assert {outcome.asked for outcome in outcomes} == {Asked.UNREACHABLE}


def test_no_more_than_eight_questions_are_asked(house) -> None:
    called: list[str] = []

    def note(url: str, question: bytes | None, limit: int) -> bytes:
        called.append(f"{url} {question!r} {limit}")
        raise UnansweredError("is only noted")

    urls = tuple(f"http://lab.example/{number}" for number in range(4))
    path = tuple(der_of(house.leaf(*urls, crl_urls=urls)) for _ in range(3))
    outcomes = ask(path, frozenset({"lab.example"}), note, LATER).outcomes
    assert len(called) == MAX_FETCHES == 8
    assert [outcome.asked for outcome in outcomes[8:]] == [Asked.REFUSED] * 4


def test_no_question_is_asked_twice(house) -> None:
    called: list[tuple[str, bytes | None]] = []

    def note(url: str, question: bytes | None, limit: int) -> bytes:
        assert limit
        called.append((url, question))
        raise UnansweredError("is only noted")

    same = "http://lab.example/"
    leaf = house.leaf(same, same, crl_urls=(same, same))
    # The issuer of the second pair is the leaf again: nothing is new but the last question.
    path = (der_of(leaf), der_of(house.issuer), der_of(leaf), der_of(house.issuer))
    ask(path, frozenset({"lab.example"}), note, LATER)
    assert len(called) == len(set(called)) == 2


def test_a_list_that_two_authorities_name_is_judged_for_both(house) -> None:
    """Both certificates say that it is there. It is the upper one's, and names the lower authority."""
    shared = "http://lab.example/shared.crl"
    key = ec.generate_private_key(ec.SECP384R1())
    upper = House(house.key, house.issuer)
    authority = upper.leaf(crl_urls=(shared,))
    lower = House(key, authority)
    leaf = lower.leaf(crl_urls=(shared,))
    listed = upper.crl(authority.serial_number)
    path = (der_of(leaf), der_of(authority), der_of(house.issuer))
    inquiry = ask(path, frozenset({"lab.example"}), lambda _url, _question, _limit: listed, LATER)
    assert [(outcome.asked, outcome.state) for outcome in inquiry.outcomes] == [
        (Asked.ANSWERED, Revocation.REVOKED)
    ]
    assert [answer.content for answer in inquiry.answers] == [listed]


# --- What is kept


def asked_now(house: House, leaf: x509.Certificate, status: ocsp.OCSPCertStatus, this: datetime) -> Inquiry:
    def answered(url: str, question: bytes | None, limit: int) -> bytes:
        assert url
        assert limit
        assert question is not None
        return house.answer(question, status, this)

    return ask(house.path(leaf), frozenset({"lab.example"}), answered, LATER)


GOOD, REVOKED = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED


def test_kept_answers_are_there_the_next_time(house, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "deep" / "status")
    assert cache.read() == Inquiry()
    one, two = house.leaf("http://lab.example/"), house.leaf("http://lab.example/")
    cache.keep(asked_now(house, one, REVOKED, AT))
    cache.keep(asked_now(house, two, GOOD, AT))
    kept = cache.read().statuses
    assert state_of(house, one, kept) is Revocation.REVOKED_TIME_UNKNOWN
    assert state_of(house, two, kept) is Revocation.GOOD
    assert read_certificate(der_of(one)) == one
    assert {path.suffix for path in (tmp_path / "deep" / "status").iterdir()} == {".status"}


@pytest.mark.parametrize(("minutes", "state"), [(-1, Revocation.REVOKED_TIME_UNKNOWN), (0, Revocation.GOOD)])
def test_an_older_answer_never_displaces_a_newer_one(house, tmp_path: Path, minutes, state) -> None:
    """Somebody on the way can play back what the responder said before the withdrawal."""
    cache, leaf = Cache(tmp_path), house.leaf("http://lab.example/")
    cache.keep(asked_now(house, leaf, REVOKED, AT))
    cache.keep(asked_now(house, leaf, GOOD, AT + timedelta(minutes=minutes)))
    assert len(list(tmp_path.iterdir())) == 1
    assert state_of(house, leaf, cache.read().statuses) is state


@pytest.mark.parametrize("order", [1, -1])
def test_a_newer_list_does_not_displace_one_that_names_more(house, tmp_path: Path, order) -> None:
    """A list leaves out those that expired, though what it said of them holds."""
    cache, leaf = Cache(tmp_path), house.leaf()
    named, bare = house.crl(leaf.serial_number, this=AT - HOUR), house.crl()
    for content in (named, bare, named)[::order]:
        cache.keep(Inquiry(answers=(Answer("http://lab.example/lab.crl", b"", content),)))
    assert sorted(cache.read().statuses.crls) == sorted((named, bare))
    assert len(list(tmp_path.iterdir())) == 2
    assert state_of(house, leaf, cache.read().statuses) is Revocation.REVOKED


def test_damaged_files_of_the_cache_are_left_out_and_named(house, tmp_path: Path) -> None:
    cache, leaf = Cache(tmp_path), house.leaf("http://lab.example/")
    (tmp_path / "bad.status").write_bytes(b"bad")
    (tmp_path / "other.txt").write_bytes(b"not ours")
    (tmp_path / "link.status").symlink_to("/dev/zero")
    cache.keep(asked_now(house, leaf, GOOD, AT))
    read = cache.read()
    assert state_of(house, leaf, read.statuses) is Revocation.GOOD
    assert [outcome.where for outcome in read.outcomes] == ["bad.status"]
    (path,) = [path for path in tmp_path.iterdir() if len(path.name) == 64 + len(".status")]
    path.write_bytes(b"damaged")
    cache.keep(asked_now(house, leaf, GOOD, AT))
    assert state_of(house, leaf, cache.read().statuses) is Revocation.GOOD


def test_a_place_that_is_no_folder_is_an_error_of_ours(house, tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_bytes(b"")
    leaf = house.leaf("http://lab.example/")
    with pytest.raises(UnwritableError):
        Cache(place).keep(asked_now(house, leaf, GOOD, AT))
    with pytest.raises(UnreadableError):
        Cache(place).read()
