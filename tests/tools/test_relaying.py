"""The relay against real servers on this machine: some hang, some refuse, some lie, and some are right."""

import hashlib
import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from authn import identity, keys, manifest
from authn.errors import SigningError
from authn.evidence import Code
from authn.media import Media
from authn.profile import Profile
from authn.signer import Lists
from authn.timestamp.authority import Authority, Safeguards, never_doubt, no_floor, refusal, serials_from
from authn.timestamp.loopback import Responder, serving
from authn.timestamp.relay import Need, NoTokenError
from authn.timestamp.request import TimeStampRequest
from authn.timestamp.token import check_token
from authn.trust import Purpose, TrustList
from authn.verify import verify_media
from tools.errors import UsageError
from tools.home import Home
from tools.relaying import Relay, Relaying, relayed, stamped_write

QUERY = TimeStampRequest(hashlib.sha256(b"claim").digest(), nonce=7).encode()


def now() -> datetime:
    return datetime.now(UTC)


class Clock:
    """An authority under a root of its own, whose clock is `away` from ours."""

    def __init__(self, name: str, away: timedelta = timedelta()) -> None:
        at = now() - timedelta(days=1)
        root_key, key = keys.generate_p384(), keys.generate_p256()
        self.root = identity.plan_time_stamping_root(
            identity.Subject("DE", name, f"{name} Root"), root_key.public_key, 1 << 70, at
        ).sign(root_key)
        leaf = identity.plan_time_stamping(
            identity.Subject("DE", name, f"{name} 1"), key.public_key, 1 << 71, at, issuer=self.root,
            ocsp_url="http://127.0.0.1:8888/ocsp/",
        ).sign(root_key)  # fmt: skip
        unwatched = Safeguards(never_doubt, no_floor)
        self.authority = Authority(key, (leaf,), "1.2.3", lambda: now() + away, serials_from(1), unwatched)
        self.listed = TrustList.parse(
            identity.pem_chain(self.root), name, Purpose.TIME_STAMPING, Profile.TIME_STAMPING
        )


@pytest.fixture(scope="module")
def good() -> Clock:
    return Clock("Good")


@pytest.fixture(scope="module")
def second() -> Clock:
    return Clock("Second")


@pytest.fixture(scope="module")
def late() -> Clock:
    return Clock("Late", timedelta(hours=-2))


class Refusing:
    """Always says no."""

    def respond(self, _query: bytes) -> bytes:
        return refusal(14, "the clock is being set")


class Lying:
    """Stamps something else than it was asked to, with the right nonce."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def respond(self, query: bytes) -> bytes:
        asked = TimeStampRequest.parse(query)
        other = replace(asked, digest=hashlib.sha256(b"something else").digest(), imprint=b"")
        return self.clock.authority.respond(other.encode())


@contextmanager
def talking(say: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """A server that reads a request and then says whatever `say` does, until the block ends."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)

        def answer(connection: socket.socket) -> None:
            with connection:
                try:
                    connection.settimeout(5)
                    with connection.makefile(
                        "rb"
                    ) as request:  # what is left unread would reset the connection
                        head = iter(request.readline, b"\r\n")
                        (size,) = [line.split()[1] for line in head if line.startswith(b"Content-Length:")]
                        request.read(int(size))
                    say(connection, over)
                except OSError:
                    pass  # the client hung up

        def accept() -> None:
            while not over.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            over.set()
            thread.join()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/timestamp-reply\r\n"


def hang(_connection: socket.socket, over: threading.Event) -> None:
    over.wait(30)


def trickle(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(HEAD + b"Content-Length: 5000\r\n\r\n")
    while not over.wait(0.1):
        connection.sendall(b"\x30")


def trickle_head(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while not over.wait(0.1):
        connection.sendall(b"X: y\r\n")


def flood(connection: socket.socket, _over: threading.Event) -> None:
    connection.sendall(HEAD + b"Content-Length: 10000000\r\n\r\n" + bytes(10_000_000))


def endless(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(HEAD + b"\r\n")
    while not over.is_set():
        connection.sendall(bytes(1 << 16))


def cut(connection: socket.socket, _over: threading.Event) -> None:
    connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n\x30\x82")


def page(connection: socket.socket, _over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi")


def elsewhere(connection: socket.socket, _over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")


def noise(connection: socket.socket, _over: threading.Event) -> None:
    connection.sendall(b"\x00\xff not http at all\r\n\r\n")


def asked(urls: list[str], clocks: list[Clock], need: Need = Need.REQUIRE, seconds: float = 1.5) -> Relay:
    return Relay(Relaying(tuple(urls), tuple(clock.listed for clock in clocks), need, seconds), now)


@contextmanager
def served(*responders: Responder) -> Iterator[list[str]]:
    with ExitStack() as stack:
        yield [stack.enter_context(serving(each)) for each in responders]


CLAIM = json.dumps(
    {
        "claim_generator_info": [{"name": "relay test"}],
        "assertions": [
            {
                "label": "c2pa.actions.v2",
                "data": {"actions": [{
                    "action": "c2pa.created",
                    "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture",
                }]},
            }
        ],
    }
)  # fmt: skip


def sign(home: Home, source: Path, relay: Relay) -> tuple[io.BytesIO, tuple[object, ...]]:
    device, out = home.device("cam"), io.BytesIO()

    def write(url: str | None) -> None:
        out.seek(0)
        out.truncate()
        with source.open("rb") as stream:
            media = Media.of(stream, source.name, 1 << 30)
            manifest.write(media, out, CLAIM, None, device.key.sign, device.chain_pem, url)

    return out, stamped_write(relay, write)


def provenance(home: Home, signed: io.BytesIO, clocks: list[Clock]):
    signers = tuple(each.parse() for each in home.lists() if each.purpose is Purpose.SIGNING)
    lists = Lists(signers, tuple(clock.listed for clock in clocks))
    signed.seek(0)
    with manifest.Sdk() as sdk:
        return verify_media(Media.of(signed, "signed.jpg", 1 << 30), sdk, lists, now())


def test_a_picture_is_signed_within_two_seconds_when_four_of_five_hang_refuse_lie_or_are_hours_off(
    home: Home, own_samples: Path, good: Clock, late: Clock
) -> None:
    with talking(hang) as hanging, served(
        Refusing(), Lying(good), late.authority, good.authority
    ) as (refusing, lying, off, right):  # fmt: skip
        urls = [hanging, refusing, lying, off, right]
        relaying = Relaying(tuple(urls), (good.listed, late.listed))
        with relayed(relaying, now) as relay:
            began = time.monotonic()
            signed, tokens = sign(home, own_samples / "harbour.jpg", relay)
            took = time.monotonic() - began
    assert took < 2, took
    assert len(tokens) == 1
    assert relay.extra == ()
    found = provenance(home, signed, [good])
    (timed,) = [finding for finding in found.findings if finding.code is Code.TIME_PROVEN]
    assert timed.passed, timed.explanation
    assert "Good 1" in timed.explanation


def test_nobody_is_waited_for_once_there_is_enough(good: Clock) -> None:
    with talking(hang) as hanging, served(good.authority) as (right,):
        began = time.monotonic()
        asked([hanging, right], [good]).ask(QUERY)
        assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("say", "why"),
    [
        (hang, "did not answer in time"),
        (trickle, "did not answer in time"),
        (trickle_head, "did not answer in time"),
        (flood, "larger than"),
        (endless, "larger than"),
        (cut, "cannot be reached (IncompleteRead)"),
        (page, "status 200 and no time-stamp reply"),
        (elsewhere, "status 302"),
        (noise, "cannot be reached (BadStatusLine)"),
    ],
)
def test_a_server_that_misbehaves_costs_its_time_and_nothing_else(
    good: Clock, say: Callable[[socket.socket, threading.Event], None], why: str
) -> None:
    with talking(say) as url:
        relay = asked([url], [good], seconds=0.7)
        began = time.monotonic()
        with pytest.raises(NoTokenError, match="gave a token") as caught:
            relay.ask(QUERY)
        assert time.monotonic() - began < 1.2
        assert why in str(caught.value)
        assert relay.tokens == ()


def test_an_address_where_nobody_listens_is_named(good: Clock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(NoTokenError, match=f"127.0.0.1:{port}: it cannot be reached"):
        asked([f"http://127.0.0.1:{port}/secret-path"], [good]).ask(QUERY)


def test_require_fails_and_says_what_each_did(
    home: Home, own_samples: Path, good: Clock, late: Clock
) -> None:
    with ExitStack() as stack:
        urls = stack.enter_context(served(Refusing(), Lying(good), late.authority))
        relay = stack.enter_context(relayed(Relaying(tuple(urls), (good.listed, late.listed)), now))
        with pytest.raises(NoTokenError) as caught:
            sign(home, own_samples / "harbour.jpg", relay)
    said = str(caught.value)
    assert "it refused (the clock is being set)" in said
    assert "about other bytes" in said
    assert "7200 s behind ours" in said or "7201 s behind ours" in said
    assert caught.value.remedy


def test_later_signs_without_a_time_and_says_that_one_is_owed(
    home: Home, own_samples: Path, good: Clock
) -> None:
    with talking(hang) as hanging, served(Refusing()) as (refusing,):
        relaying = Relaying((hanging, refusing), (good.listed,), Need.LATER)
        with relayed(relaying, now) as relay:
            began = time.monotonic()
            signed, tokens = sign(home, own_samples / "harbour.jpg", relay)
            took = time.monotonic() - began
    assert tokens == ()
    assert took < 3
    found = provenance(home, signed, [good])
    assert found.identity is not None
    assert found.token is None


def test_later_takes_a_time_that_can_be_had(home: Home, own_samples: Path, good: Clock) -> None:
    with ExitStack() as stack:
        urls = stack.enter_context(served(good.authority))
        relay = stack.enter_context(relayed(Relaying(tuple(urls), (good.listed,), Need.LATER), now))
        signed, tokens = sign(home, own_samples / "harbour.jpg", relay)
    assert len(tokens) == 1
    assert provenance(home, signed, [good]).token == relay.tokens[0].token


def test_of_two_tokens_one_is_in_the_signature_and_both_are_over_the_same(
    home: Home, own_samples: Path, good: Clock, second: Clock
) -> None:
    with talking(hang) as hanging, served(Refusing(), good.authority, second.authority) as rest:
        relaying = Relaying((hanging, *rest), (good.listed, second.listed), Need.TWO)
        with relayed(relaying, now) as relay:
            signed, tokens = sign(home, own_samples / "harbour.jpg", relay)
    first, extra = relay.tokens
    assert tokens == (first, extra)
    assert relay.extra == (extra,)
    found = provenance(home, signed, [good, second])
    assert found.token == first.token
    assert {each.evidence.list for each in relay.tokens} == {"Good", "Second"}


def test_two_tokens_from_one_authority_are_not_two(good: Clock) -> None:
    with served(good.authority, good.authority) as urls:
        relay = asked(urls, [good], Need.TWO)
        with pytest.raises(NoTokenError, match="independent of each other"):
            relay.ask(QUERY)
        assert relay.tokens == ()


def test_the_address_of_a_relay_is_a_secret(good: Clock) -> None:
    with served(good.authority) as urls, relayed(Relaying(tuple(urls), (good.listed,)), now) as relay:
        port = urlsplit(relay.url).port
        headers = {"Content-Type": "application/timestamp-query"}
        for path, status in (("/", 404), (urlsplit(relay.url).path, 200)):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("POST", path, QUERY, headers)
            response = connection.getresponse()
            assert response.status == status
            body = response.read()
            connection.close()
        evidence = check_token(relay.tokens[0].token, b"claim", (good.listed,), now())
        assert evidence.proven
        assert relay.tokens[0].token in body


def test_what_else_keeps_a_file_from_being_signed_is_not_blamed_on_time(good: Clock) -> None:
    with served(good.authority) as urls, relayed(
        Relaying(tuple(urls), (good.listed,), Need.LATER), now
    ) as relay:  # fmt: skip
        relay.respond(b"nonsense")  # a failure of another file
        calls: list[str | None] = []

        def write(url: str | None) -> None:
            calls.append(url)
            raise SigningError("the file cannot carry a signed record")

        with pytest.raises(SigningError, match="cannot carry"):
            stamped_write(relay, write)
        assert calls == [relay.url]


def test_a_question_that_is_none_is_refused_and_nobody_is_asked(good: Clock) -> None:
    relay = asked(["http://127.0.0.1:1/"], [good])
    assert relay.respond(b"nonsense") == refusal(25, "the question to the authorities cannot be read")


@pytest.mark.parametrize(
    "urls",
    [
        (),
        ("ftp://a.example/",),
        ("http://user:word@a.example/",),
        ("http:///",),
        ("http://a.example:0/",),
        ("http://a.example/ x",),
        ("http://a.example/#x",),
        ("http://a.example:99999/",),
        ("http://[::1/",),
        ("http://a.example/", "http://a.example/"),
        tuple(f"http://a{number}.example/" for number in range(17)),
    ],
)
def test_addresses_that_cannot_be_asked_are_refused_before_anything_is_signed(urls: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        Relaying(urls, ())


def test_two_tokens_of_one_address_are_refused_before_anything_is_signed() -> None:
    with pytest.raises(UsageError):
        Relaying(("http://a.example/",), (), Need.TWO)
