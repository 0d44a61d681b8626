"""Read what a worker answered, as if the worker had been taken over.

A pickle may name any function to be called on reading it. Only plain values, moments, enums
and frozen slotted dataclasses of the named modules are let through, so a hostile answer can
be wrong about its own file and nothing more. Not prevented: an answer that wastes memory.
"""

import dataclasses
import datetime
import enum
import importlib
import io
import pickle
from collections.abc import Collection

_MOMENTS = ("date", "datetime", "timedelta", "timezone")

_READING_FAILS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class RefusedAnswerError(Exception):
    """The bytes are no answer that we would have written."""


def parse(body: bytes, modules: Collection[str]) -> tuple[str, object]:
    """The kind of message and its content; classes only from `modules` and what lies under them."""
    try:
        message = _Reader(body, modules).load()
    except _READING_FAILS as error:
        raise RefusedAnswerError(f"{type(error).__name__}: {error}") from error
    match message:
        case (str(kind), content):
            return kind, content
        case _:
            raise RefusedAnswerError("not a message")


class _Reader(pickle.Unpickler):
    def __init__(self, body: bytes, modules: Collection[str]) -> None:
        super().__init__(io.BytesIO(body))
        self._modules = modules

    def find_class(self, module: str, name: str) -> object:
        """The few things a pickle may name here."""
        if module == "datetime" and name in _MOMENTS:
            return getattr(datetime, name)
        if (module, name) == ("builtins", "getattr"):  # how Python 3.11 writes an enum's member
            return _Member()
        if any(module == allowed or module.startswith(f"{allowed}.") for allowed in self._modules):
            found = getattr(importlib.import_module(module), name, None)
            if isinstance(found, type) and found.__module__ == module:
                if issubclass(found, enum.Enum):
                    return _Enumeration(found)
                # The state of these is set by a method of theirs, so a pickle that aims at the
                # class itself, to change what all its instances do, ends in a TypeError.
                if dataclasses.is_dataclass(found) and "__setstate__" in vars(found):
                    return found
        raise pickle.UnpicklingError(f"{module}.{name} may not be part of an answer")


class _Enumeration:
    """Stands for an enum while reading, so that nothing can be set on the enum itself."""

    __slots__ = ("_kind",)
    _kind: type[enum.Enum]

    def __init__(self, kind: type[enum.Enum]) -> None:
        object.__setattr__(self, "_kind", kind)

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError(name)

    def __call__(self, value: object) -> enum.Enum:
        return self._kind(value)

    def member(self, name: str) -> enum.Enum:
        return self._kind[name]


class _Member:
    """Stands for `getattr`, and looks up an enum's member and nothing else."""

    __slots__ = ()

    def __call__(self, kind: object, name: str) -> enum.Enum:
        if not isinstance(kind, _Enumeration):
            raise TypeError("only the members of an enum may be looked up")
        return kind.member(name)
