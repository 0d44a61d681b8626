"""A fault of the service is never called the capture's: a device would give the capture up for ever."""

from collections.abc import Iterator

import pytest

import authn.errors
import detector.errors
import storage.errors
import tools.errors
from authn.errors import KeyFileError, MediaError
from storage.registry.errors import RegistryError
from tools.intake_answers import status_of
from tools.intake_errors import CaptureRefusedError


def below(base: type[Exception]) -> Iterator[type[Exception]]:
    yield base
    for child in base.__subclasses__():
        yield from below(child)


def codes(base: type[Exception]) -> set[str]:
    return {str(each.code) for each in below(base)}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "code",
    [
        "worker-died",
        "worker-timeout",
        "system-refused",
        "disk-full",
        "keyring-damaged",
        "recording-failed",
        "signing-failed",
        "tools-error",
        "unexpected",
        "something that is made up tomorrow",
    ],
)
def test_what_failed_in_the_service_is_tried_again(code: str) -> None:
    assert status_of(code) == 503


@pytest.mark.parametrize("base", [KeyFileError, RegistryError, storage.errors.LedgerError])
def test_no_fault_of_keys_ledger_or_registry_is_the_captures(base: type[Exception]) -> None:
    assert {code for code in codes(base) if status_of(code) < 500} == set()


def test_every_fault_of_the_media_or_the_claim_is_final() -> None:
    faults = codes(MediaError) | codes(CaptureRefusedError) | codes(detector.errors.Error)
    ours = {"decoder-missing", "detector-error", "operating-point-malformed"}
    assert {code for code in faults if status_of(code) >= 500} <= ours


def test_every_error_has_a_status_that_http_knows() -> None:
    for package in (authn, detector, storage, tools):
        for code in codes(package.errors.Error):
            assert status_of(code) in {400, 401, 403, 408, 409, 413, 415, 422, 429, 503}
