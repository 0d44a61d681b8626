"""Take away from this process what reading untrusted bytes does not need.

The network is taken first, before any of our own code is imported; files and memory are limited
once the engine is loaded and before the first untrusted byte. Not confined: reading any file
that the user may read, and talking to a Unix socket that has a path. No system-call filter is
installed. Outside Linux only the weak form of each measure exists.
"""

import ctypes
import enum
import os
import resource
import signal
import sys
from dataclasses import dataclass

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_OPEN_FILES = 256
_NETWORK_EVENTS = frozenset(
    {
        "socket.bind",
        "socket.connect",
        "socket.getaddrinfo",
        "socket.gethostbyaddr",
        "socket.gethostbyname",
        "socket.sendmsg",
        "socket.sendto",
    }
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker may use.

    `seconds` is wall-clock time per item and watched from outside. `cpu_seconds` is
    processor time per item over all threads, and holds even if the watcher was stopped.
    `memory` limits the address space in bytes, which is more than what is resident.
    """

    seconds: float
    memory: int
    cpu_seconds: int = 600


class Confinement(enum.StrEnum):
    """How this process is kept from the network."""

    NAMESPACE = "namespace"
    """An empty network namespace: native code cannot connect either, not even to this machine."""

    PYTHON_ONLY = "python-only"
    """Refused in Python code only: native code that was taken over could still connect."""


def leave_network() -> Confinement:
    """Cut this process off from the network as firmly as the system permits, for good."""
    if sys.platform == "linux":
        # The network alone needs privilege and keeps a privileged reader's access to files;
        # with a user namespace of its own, anybody may do it where the system has not forbidden it.
        system = ctypes.CDLL(None, use_errno=True)
        if system.unshare(_CLONE_NEWNET) == 0 or system.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
            return Confinement.NAMESPACE
    sys.addaudithook(_refuse_network)
    return Confinement.PYTHON_ONLY


def die_with(parent: int) -> None:
    """Be killed when `parent` ends, however it ends; to be called after `leave_network`.

    The kernel watches the *thread* that started this process. Outside Linux nothing is
    watched; there the process ends when it next waits for work.
    """
    if sys.platform == "linux":
        system = ctypes.CDLL(None, use_errno=True)
        system.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        system.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if os.getppid() != parent:  # it ended before we asked to be told
            os.kill(os.getpid(), signal.SIGKILL)


def limit(limits: Limits) -> None:
    """Limit memory and open files, and forbid core dumps and writing to files, for good."""
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    if sys.platform == "linux":
        _lower(resource.RLIMIT_AS, limits.memory)


def allow_cpu(seconds: int) -> None:
    """Let the next item use this much processor time; beyond it the kernel kills the process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    allowed = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(
        resource.RLIMIT_CPU, (allowed if hard == resource.RLIM_INFINITY else min(allowed, hard), hard)
    )


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _refuse_network(event: str, _arguments: tuple[object, ...]) -> None:
    if event in _NETWORK_EVENTS:
        raise PermissionError("a worker may not use the network")
