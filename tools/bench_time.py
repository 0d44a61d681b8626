"""Measure the time-stamp authority: one token against one bare signature, and the service with its ledger.

The floor is an ECDSA P-256 signature over 32 bytes that nobody checks; ours is a whole answer to a
query, with the watch on the clock, in this process and without a ledger. With the ledger, tokens
wait for the disk together, so what counts is how many leave a second.
"""

import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from authn.keys import SigningKey
from authn.timestamp.authority import Authority, Safeguards, serials_from
from authn.timestamp.clock import Tolerances, Watch
from authn.timestamp.doubling import bare_signer_of
from authn.timestamp.request import TimeStampRequest
from tools.clock import steady
from tools.errors import UsageError
from tools.figures import Row
from tools.home import TIME_STAMP_POLICY, Home
from tools.time_server import TimeService, time_unit
from tools.timing import NO_FLOOR, in_turn, ratio, seconds

AT_MOST = 3.0
_TIMES = 1000  # so long that what else this machine does is in both
_THREADS = 16


def measure_time(home: Home, rounds: int) -> tuple[Row, ...]:
    """The two figures, from `rounds` samples each; adds tokens to the home's ledger."""
    return _token(home, rounds), _served(home, max(3, rounds // 8))


def _token(home: Home, rounds: int) -> Row:
    key, query, message = home.key("time-stamping"), _query(), secrets.token_bytes(32)
    if not isinstance(key, SigningKey):
        raise UsageError("the floor is measured with a time-stamping key in a file")
    started = _now()
    floor_second = started.replace(microsecond=0)  # as a ledger has it
    watch = Watch(started, steady, Tolerances())
    unit = Authority(
        key,
        (home.certificate("time-stamping"),),
        TIME_STAMP_POLICY,
        _now,
        serials_from(time.time_ns()),
        Safeguards(watch.doubt, lambda: floor_second),
    )
    unit.require_time()  # a refusal would be quick
    bare = bare_signer_of(key)

    def sign() -> None:
        for _ in range(_TIMES):
            bare(message)

    def respond() -> None:
        for _ in range(_TIMES):
            unit.respond(query)

    floor, ours = in_turn(rounds, sign, respond)
    return ratio(
        "time-stamp authority, one token",
        "one P-256 signature that nobody verifies",
        [taken / _TIMES for taken in floor],
        [taken / _TIMES for taken in ours],
        AT_MOST,
    )


def _served(home: Home, rounds: int) -> Row:
    count = _TIMES // 2
    queries = [_query() for _ in range(count)]
    with time_unit(home, TimeService(), _now) as unit, ThreadPoolExecutor(_THREADS) as pool:
        taken = [seconds(lambda: list(pool.map(unit.respond, queries))) for _ in range(rounds)]
    rates = tuple(count / each for each in taken)
    return Row(f"tokens in the ledger before they leave, {_THREADS} threads", NO_FLOOR, "/s", rates)


def _query() -> bytes:
    return TimeStampRequest(secrets.token_bytes(32), nonce=secrets.randbits(64)).encode()


def _now() -> datetime:
    return datetime.now(UTC)
