"""Measure signing with keys outside this process: a software token, and a TPM made of software.

What is measured is our way to the token and the check of each signature; a hardware token or TPM takes
its own time besides, 10 to 100 ms for many. The floor is a P-256 key in memory, whose signatures are
checked as well. Not measured: KMS, which is a network away, and programs, which are their own.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from authn.custody.opening import open_provider
from authn.errors import ProviderMissingError
from authn.keys import KeyProvider, generate_p256
from tools.figures import Budget, Row, Side
from tools.softhsm import SoftHsm, SoftHsmError
from tools.swtpm import Swtpm, SwtpmError
from tools.timing import NO_FLOOR, in_turn, ratio

TOKEN_RATE = 300.0
"""Signatures a second that a software token must give: less, and a queue forms at the signing service."""

_THREADS = 8
_FLOOR = "a P-256 key in memory, each signature checked"
_DATA = bytes(2000)  # as long as what C2PA has signed, with two certificates in it


_Keeper = Callable[[Path], AbstractContextManager[KeyProvider]]


@dataclass(frozen=True, slots=True)
class Measured:
    """The rows of a run, and what could not be measured and why."""

    rows: tuple[Row, ...]
    not_measured: tuple[str, ...]


def measure_keys(folder: Path, rounds: int, count: int) -> Measured:
    """Sign `count` times a round with each kind of key; what is made for it lies in `folder`."""
    rows: list[Row] = []
    missing: list[str] = []
    kinds: tuple[tuple[str, _Keeper, float | None], ...] = (
        ("SoftHSM2", _softhsm, TOKEN_RATE),
        ("swtpm", _swtpm, None),
    )
    for name, keeper, at_least in kinds:
        try:
            with keeper(folder / name) as key:
                rows += _rows(
                    name, key, rounds, count, None if at_least is None else Budget(Side.AT_LEAST, at_least)
                )
        except (SoftHsmError, SwtpmError, ProviderMissingError) as error:
            missing.append(f"keys in {name}: {error} {error.remedy}")
    return Measured(tuple(rows), tuple(missing))


def _rows(name: str, key: KeyProvider, rounds: int, count: int, budget: Budget | None) -> Iterator[Row]:
    bare = generate_p256()
    floor, alone, together = in_turn(
        rounds,
        lambda: _sign(bare, count),
        lambda: _sign(key, count),
        lambda: _sign_in_threads(key, count // _THREADS),
    )
    yield ratio(f"sign with a P-256 key in {name}", _FLOOR, floor, alone, None)
    spread = count // _THREADS * _THREADS
    for what, signed, times in (("one thread", count, alone), (f"{_THREADS} threads", spread, together)):
        rates = tuple(signed / taken for taken in times)
        yield Row(f"signatures in {name}, {what}", NO_FLOOR, "/s", rates, budget)


def _sign(key: KeyProvider, count: int) -> None:
    for _ in range(count):
        key.sign(_DATA)


def _sign_in_threads(key: KeyProvider, count: int) -> None:
    """Sign in every thread, and fail as a whole if one of them does."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for done in [pool.submit(_sign, key, count) for _ in range(_THREADS)]:
            done.result()


@contextmanager
def _softhsm(folder: Path) -> Iterator[KeyProvider]:
    with SoftHsm(folder) as token:
        key = open_provider(token.generate("bench"))
        yield key
        key.close()


@contextmanager
def _swtpm(folder: Path) -> Iterator[KeyProvider]:
    with Swtpm(folder) as running:
        from authn.custody.tpm import Tpm  # noqa: PLC0415 - the package may be missing

        with Tpm(running.tcti) as tpm:
            wrapped = folder / "bench.tss"
            wrapped.touch(0o600)
            wrapped.write_bytes(tpm.make_claim_key().encode())
        key = open_provider(f"tpm:{wrapped}?tcti={running.tcti}")
        yield key
        key.close()
