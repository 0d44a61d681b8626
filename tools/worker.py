"""The process in which untrusted bytes are parsed, as it looks from inside.

`tools.supervisor` starts it and expects it to die now and then. It reads items from one pipe
and writes answers to another, one frame each: eight bytes of length, then a pickle.
"""

import importlib
import io
import os
import pickle
import signal
import struct
import sys
import warnings
from collections.abc import Callable
from typing import Any, Final

from tools.confine import allow_cpu, die_with, leave_network, limit

LENGTH: Final = struct.Struct(">Q")
FRAME_LIMIT: Final = 64 << 20
OUT_OF_MEMORY_STATUS: Final = 71

READY: Final = "ready"
BROKEN: Final = "broken"
ANSWER: Final = "answer"
RAISED: Final = "raised"


def frame(message: object) -> bytes:
    """One message as it goes over a pipe."""
    body = pickle.dumps(message, protocol=5)
    return LENGTH.pack(len(body)) + body


def main(parent: int) -> None:
    """Confine this process, load the engine, then answer until the parent closes the pipe."""
    # 1. The pipes move away from where a library's stray print would land in them.
    orders = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    # 2. No network, before any thread exists that the namespace would miss.
    confinement = leave_network()
    die_with(parent)

    # 3. The engine. Still our own code and data only; it may write its bytecode.
    try:
        (entry, payload, limits) = _receive(orders)
        run = _load(entry, payload)
    except Exception as error:  # noqa: BLE001 -- whatever it was, the parent has to be told
        _send(answers, (BROKEN, f"{type(error).__name__}: {error}"))
        return

    # 4. Untrusted bytes from here on. What a library would warn of is a finding of ours or nothing.
    limit(limits)
    warnings.simplefilter("ignore")
    _send(answers, (READY, str(confinement)))
    while (items := _receive(orders)) is not None:
        for item in items:
            allow_cpu(limits.cpu_seconds)
            _send(answers, _answer(run, item))


def _load(entry: str, payload: object) -> Callable[[object], object]:
    module, _, function = entry.partition(":")
    run: Callable[[object], object] = getattr(importlib.import_module(module), function)(payload)
    return run


def _answer(run: Callable[[object], object], item: object) -> tuple[str, object]:
    try:
        return ANSWER, run(item)
    except MemoryError:
        os._exit(OUT_OF_MEMORY_STATUS)  # what is left of this process is not to be relied on
    except (Exception, SystemExit) as error:  # noqa: BLE001 -- one item's failure is not the end of the run
        return RAISED, f"{type(error).__name__}: {error}"


def _send(answers: io.BufferedWriter, message: tuple[str, object]) -> None:
    answers.write(frame(message))
    answers.flush()


def _receive(orders: io.BufferedReader) -> Any:
    head = orders.read(LENGTH.size)
    if len(head) < LENGTH.size:
        sys.exit(0)
    return pickle.loads(orders.read(*LENGTH.unpack(head)))  # noqa: S301 -- written by our parent
