"""What the doctor sees, and that it says how to get what is missing."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tools import doctor, requirements
from tools.doctor import RELEASED, Capability, State, capabilities, render
from tools.home import Home

NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def home(fresh_home: Home) -> Path:
    return fresh_home.path


def found(home: Path | None, at: datetime = NOON) -> dict[str, Capability]:
    return {one.name: one for one in capabilities(home, at=at)}


def test_every_required_package_is_looked_for_with_its_version(home: Path) -> None:
    seen = found(home)
    for name in requirements.required():
        assert seen[name].state is State.OK
        assert seen[name].detail == requirements.version(name)
    assert {
        "python",
        "onnxruntime",
        "opencv",
        "gpu",
        "heic",
        "hsm",
        "tpm",
        "kms",
        "disk",
        "clock",
        "locale",
        "openssl",
    } <= set(seen)


def test_whatever_is_not_ok_says_how_to_get_it(home: Path) -> None:
    (home / "ledger.db").unlink()
    for one in (
        *capabilities(home, at=NOON),
        *capabilities(None, at=NOON),
        *capabilities(home / "no", at=NOON),
    ):
        assert bool(one.remedy) == (one.state is not State.OK)


def test_a_missing_package_is_named() -> None:
    missing = doctor._package("no-such-distribution")
    assert missing.state is State.MISSING
    assert missing.remedy


def test_a_complete_home_is_ok(home: Path) -> None:
    seen = found(home)
    for name in ("home", "ledger", "signer list", "time-stamper list", "keys"):
        assert seen[name].state is State.OK


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("ledger.db", "ledger"),
        ("trust/signers.pem", "signer list"),
        ("trust/time-stampers.pem", "time-stamper list"),
    ],
)
def test_a_file_missing_from_the_home_is_seen(home: Path, path: str, name: str) -> None:
    (home / path).unlink()
    assert found(home)[name].state is State.MISSING


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o611])
@pytest.mark.parametrize("path", ["keys/issuing.pem", "service/key.pem"])
def test_a_key_that_others_can_reach_is_named(home: Path, path: str, mode: int) -> None:
    (home / path).chmod(mode)
    keys = found(home)["keys"]
    assert keys.state is State.DEGRADED
    assert path in keys.detail
    assert "chmod 600" in keys.remedy


@pytest.mark.parametrize(("path", "name"), [("ledger.db", "ledger"), ("trust/signers.pem", "signer list")])
def test_a_part_that_is_there_and_broken_is_not_ok(home: Path, path: str, name: str) -> None:
    (home / path).write_bytes(b"garbage")
    seen = found(home)[name]
    assert seen.state is State.DEGRADED
    assert seen.remedy


def test_two_runtimes_or_two_opencvs_are_a_conflict() -> None:
    both = doctor._runtime({"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"})
    assert both.state is State.DEGRADED
    assert "conflict" in both.detail
    two = doctor._opencv({"opencv-python": "5.0.0", "opencv-python-headless": "5.0.0"}, ())
    assert two.state is State.DEGRADED
    assert doctor._runtime({}).state is doctor._opencv({}, ()).state is State.MISSING


def test_the_full_opencv_needs_system_libraries_and_the_headless_one_does_not() -> None:
    absent = ("libGL.so.1",)
    full = doctor._opencv({"opencv-python": "5.0.0"}, absent)
    headless = doctor._opencv({"opencv-python-headless": "5.0.0"}, absent)
    assert (full.state, headless.state) == (State.DEGRADED, State.OK)
    assert "libGL.so.1" in full.detail


def test_a_gpu_that_is_not_used_has_a_reason() -> None:
    gpu = {"onnxruntime-gpu": "1.31.1"}
    absent = ("libcublasLt.so.13",)
    states = [
        doctor._gpu({"onnxruntime": "1.31.1"}, device=True, absent=()),
        doctor._gpu(gpu, device=False, absent=absent),
        doctor._gpu(gpu, device=True, absent=absent),
        doctor._gpu(gpu, device=True, absent=()),
    ]
    assert [one.state for one in states] == [State.OK, State.OK, State.DEGRADED, State.OK]
    assert [one.detail.startswith("not used: ") for one in states] == [True, True, True, False]
    assert "libcublasLt.so.13" in states[2].detail


def test_a_library_that_is_not_there_is_seen() -> None:
    assert doctor._absent(("libno-such-library.so.1",)) == ("libno-such-library.so.1",)


def test_a_clock_before_the_release_is_wrong() -> None:
    assert found(None, RELEASED - timedelta(seconds=1))["clock"].state is State.DEGRADED
    assert found(None, RELEASED)["clock"].state is State.OK


def test_a_full_disk_is_seen() -> None:
    assert doctor._disk(doctor.FREE_BYTES - 1).state is State.DEGRADED
    assert doctor._disk(doctor.FREE_BYTES).state is State.OK


def test_a_locale_without_unicode_is_seen() -> None:
    assert doctor._locale("ISO-8859-1", 0).state is State.DEGRADED
    assert doctor._locale("ISO-8859-1", 1).state is doctor._locale("UTF-8", 0).state is State.OK


def test_each_capability_is_one_line_even_with_a_line_break_in_a_path(home: Path) -> None:
    odd = home / "two\nlines"
    seen = capabilities(odd, at=NOON)
    lines = render(seen).split("\n")
    assert len(lines) == len(seen)
    assert [line.split()[0] for line in lines] == [one.state for one in seen]
    assert all((" -> " in line) == (one.state is not State.OK) for line, one in zip(lines, seen, strict=True))
