"""A worker that was taken over may lie about its own file, and do nothing else."""

import datetime
import io
import pickle
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.answers import RefusedAnswerError, parse

ENGINE = types.ModuleType("answers_engine")
exec(  # noqa: S102 -- the classes need a module of their own, as an engine's have
    """
import dataclasses, enum
class Colour(enum.StrEnum):
    RED = "red"
@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    path: str
    colour: Colour
    more: tuple = ()
@dataclasses.dataclass
class Loose:
    path: str
class Plain:
    pass
def function(): return 1
from os import system
""",
    ENGINE.__dict__,
)


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "answers_engine", ENGINE)


def read(content: object) -> object:
    return parse(pickle.dumps(("answer", content), protocol=5), ("answers_engine",))[1]


def calling(module: str, name: str, *arguments: str) -> bytes:
    """What an attacker writes: call `module.name(*arguments)` and answer with what it returns."""
    body = io.BytesIO()
    body.write(b"\x80\x04\x8c\x06answer")
    body.write(f"c{module}\n{name}\n(".encode())
    for each in arguments:
        body.write(b"X" + len(each).to_bytes(4, "little") + each.encode())
    body.write(b"tR\x86.")
    return body.getvalue()


def test_evidence_crosses_unchanged() -> None:
    found = ENGINE.Found("a\udcff.jpg", ENGINE.Colour.RED, (1, None, b"x", {"k": frozenset({2.5})}))
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.UTC)
    assert read([found, moment]) == [found, moment]


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("os", "system", ["touch /nonexistent/x"]),
        ("builtins", "eval", ["1"]),
        ("builtins", "getattr", ["a", "upper"]),
        ("answers_engine", "function", []),
        ("answers_engine", "system", ["true"]),
        ("answers_engine", "enum.sys.exit", []),
        ("answers_engine", "Plain", []),
        ("answers_engine", "Loose", ["x"]),
        ("answers_engine_2", "Found", ["x"]),
        ("datetime", "sys", []),
    ],
)
def test_nothing_else_can_be_called(module: str, name: str, arguments: list[str]) -> None:
    with pytest.raises(RefusedAnswerError):
        parse(calling(module, name, *arguments), ("answers_engine",))


@pytest.mark.parametrize("name", ["Found", "Colour"])
@pytest.mark.parametrize("state", [b"}X\x01\x00\x00\x00zK\x01s", b"N}X\x01\x00\x00\x00zK\x01s\x86", b"]"])
def test_a_class_cannot_be_changed_for_all_its_instances(name: str, state: bytes) -> None:
    before = dict(vars(getattr(ENGINE, name)))
    body = b"\x80\x04\x8c\x06answer" + f"canswers_engine\n{name}\n".encode() + state + b"b\x86."
    with pytest.raises(RefusedAnswerError):
        parse(body, ("answers_engine",))
    assert dict(vars(getattr(ENGINE, name))) == before


def test_the_attack_would_work_on_a_plain_unpickler() -> None:
    assert pickle.loads(calling("builtins", "eval", "6*7"))[1] == 42  # noqa: S301


@pytest.mark.parametrize("body", [pickle.dumps(1), pickle.dumps(("a", 1, 2)), pickle.dumps((1, "a")), b""])
def test_only_a_message_is_read(body: bytes) -> None:
    with pytest.raises(RefusedAnswerError):
        parse(body, ())


@given(st.binary(max_size=60) | st.binary(max_size=40).map(lambda tail: b"\x80\x05" + tail))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        parse(body, ("answers_engine",))
    except RefusedAnswerError:
        pass
