"""Refusals between processes: the same code, sentence and remedy on either side."""

from typing import Any

import authn.errors
import storage.errors
import tools.errors
from authn.csr import RequestError
from storage.registry import errors as registry
from tools.issuance import errors

OURS = (authn.errors.Error, storage.errors.Error, tools.errors.Error)
_STATUS = {
    "attestation": 403,
    "certificate-known": 409,
    "clock-behind": 503,
    "device-known": 409,
    "device-revoked": 403,
    "device-retired": 403,
    "device-suspended": 403,
    "device-pending": 403,
    "device-unknown": 401,
    "attestation-pin": 403,
    "key-reused": 409,
    "key-wrong-kind": 400,
    "nonce-expired": 401,
    "nonce-unknown": 401,
    "nonce-wrong-device": 401,
    "product-unknown": 403,
    "registry-busy": 503,
    "replayed-nonce": 409,
    "status-transition": 409,
    "token-expired": 401,
    "token-unknown": 401,
    "token-used": 409,
}


def refusal(error: Any) -> dict[str, Any]:
    """An error of ours as JSON has it."""
    return {"error": code_of(error), "reason": str(error), "remedy": error.remedy}


def code_of(error: Any) -> str:
    """The error's code; for evidence with the rule that it breaks."""
    if isinstance(error, errors.AttestationRefusedError):
        return f"{error.code}:{error.rule}"
    return str(error.code)


def status_of(error: Any) -> int:
    """The status that HTTP has for it: 500 where it is neither the client's fault nor a matter of time."""
    if isinstance(error, errors.Error):
        return error.status
    if isinstance(error, registry.RegistryError | storage.errors.LedgerError | authn.errors.KeyFileError):
        return _STATUS.get(error.code, 503)
    if isinstance(error, RequestError | registry.MalformedRowError):
        return 400
    return _STATUS.get(error.code, 500)


def raise_refused(answer: dict[str, Any]) -> None:
    """Raise what the other side refused with, if it did."""
    code = answer.get("error")
    if code is None:
        return
    reason = str(answer.get("reason", ""))[:1000]
    if isinstance(code, str) and code.startswith("attestation:"):
        rule = code.partition(":")[2]
        raise errors.AttestationRefusedError(rule, reason.removeprefix(f"{rule}: "))
    known = _KNOWN.get(code) if isinstance(code, str) else None
    if known is None:
        raise errors.RefusedElsewhereError(f"{code}: {reason}")
    raise known(reason)


def _below(base: type[Any]) -> dict[str, type[Any]]:
    found = {base.code: base}
    for child in base.__subclasses__():
        found = _below(child) | found
    return found


_KNOWN: dict[str, type[Any]] = {
    **_below(registry.RefusedError),
    **_below(registry.UnknownError),
    **_below(registry.KnownError),
    **_below(registry.RegistryError),
    **_below(errors.Error),
}
del _KNOWN[errors.AttestationRefusedError.code]
