"""A registry on each engine, rows to record, and several processes that ask at once."""

import hashlib
import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from storage.registry.registry import Registry
from storage.registry.rows import GENESIS, Capture, Device, IssuedCertificate, Product, Status

AT = datetime(2026, 11, 25, 8, 30, 15, 123456, tzinfo=UTC)
PROCESSES, THREADS = 5, 6


def digested(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def captured(device: str, counter: int, *, previous: bytes | None = None, of: str = "") -> Capture:
    """The capture of that number; `of` makes it another one."""
    before = GENESIS if counter == 1 else digested(f"{device} link {counter - 1}")
    name = f"{device} {{}} {counter}{of}"
    return Capture(
        device=device,
        counter=counter,
        link=digested(name.format("link")),
        previous=before if previous is None else previous,
        claim=digested(name.format("claim")),
        media=digested(name.format("media")),
        binding=digested(name.format("binding")),
        signature=digested(name.format("signature")),
        commitment=digested(name.format("commitment")),
        certificate=digested(f"certificate of {device}"),
        at=AT,
    )


def issued(number: int, device: str = "camera", product: str = "Camera 1", issuer: bytes = b"issuer") -> Any:
    return IssuedCertificate(
        sha256=digested(f"certificate {number}"),
        der=b"der %d" % number,
        serial=f"{number + 0xABC:x}",
        spki_sha256=digested(f"key {number}"),
        device=device,
        product=product,
        lifetime="standard",
        issuer_key_id=issuer,
        not_before=AT,
        not_after=AT + timedelta(days=30),
        entry=number,
    )


def filled(registry: Registry) -> Registry:
    """Two products, and an active device of each."""
    for number, name in enumerate(("camera", "phone"), start=1):
        product = f"{name.capitalize()} {number}"
        registry.add_product(Product(product, "Example", "standard", "E1", b"{}", AT))
        salt = digested(f"salt {name}")
        registry.add_device(Device(name, product, salt, Status.ACTIVE, None, "E0", AT))
    return registry


def at_once(url: str, work: Callable[[Registry, int], Any], processes: int, threads: int) -> list[Any]:
    """What `processes` times `threads` users are answered who all ask at once: a result, or an error's code."""
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(processes * threads), context.SimpleQueue()

    def ask(registry: Registry, number: int) -> None:
        barrier.wait(60)
        try:
            answer = work(registry, number)
        except Exception as error:  # noqa: BLE001 - every answer is compared in the test
            answer = getattr(error, "code", repr(error))
        answers.put(answer)

    def run(process: int) -> None:
        with Registry.open(url) as registry:
            users = [
                threading.Thread(target=ask, args=(registry, process * threads + number))
                for number in range(threads)
            ]
            for user in users:
                user.start()
            for user in users:
                user.join()

    running = [context.Process(target=run, args=(number,)) for number in range(processes)]
    for process in running:
        process.start()
    found = [answers.get() for _ in range(processes * threads)]
    for process in running:
        process.join()
        assert process.exitcode == 0
    answers.close()
    return found


@pytest.fixture(scope="session")
def at() -> datetime:
    return AT


@pytest.fixture(scope="session")
def digest() -> Callable[[str], bytes]:
    return digested


@pytest.fixture(scope="session")
def make_capture() -> Callable[..., Capture]:
    return captured


@pytest.fixture(scope="session")
def make_certificate() -> Callable[..., IssuedCertificate]:
    return issued


@pytest.fixture
def registry(url: str) -> Iterator[Registry]:
    with Registry.create(url) as made:
        yield filled(made)


@pytest.fixture
def filled_url(url: str) -> str:
    """A registry with its first rows that nobody has open."""
    with Registry.create(url) as made:
        filled(made)
    return url


@pytest.fixture
def thirty(filled_url: str) -> Callable[[Callable[[Registry, int], Any]], Sequence[Any]]:
    """Let thirty users in five processes do the same at once."""
    return lambda work: at_once(filled_url, work, PROCESSES, THREADS)


@pytest.fixture(scope="session")
def make_filled() -> Callable[[Registry], Registry]:
    return filled
