"""Hand captures in to a home on this machine: by the same rules, signatures and answers, without a socket."""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import IO
from urllib.parse import parse_qs, urlsplit

import authn.errors
import detector.errors
import storage.errors
import tools.errors
from authn.http_signature import Request
from tools.camera.exchange import Answer, Exchange
from tools.camera.upload import NONCE
from tools.intake import Intake
from tools.intake_answers import receipt_of, refusal, status_of, status_of_receipt

ADDRESS = "http://localhost"
"""What requests to the home itself are signed for; nothing listens there for us."""
_OURS = (authn.errors.Error, detector.errors.Error, storage.errors.Error, tools.errors.Error)


def inside(intake: Intake) -> Exchange:
    """Requests that `intake` answers itself."""

    def exchange(request: Request, body: IO[bytes] | None) -> Answer:
        try:
            return _checkpoint(intake, request) if body is None else _capture(intake, request, body)
        except _OURS as error:
            about = refusal(error)
            return _answer(status_of(str(about["error"])), about)

    return exchange


def _checkpoint(intake: Intake, request: Request) -> Answer:
    about: dict[str, object] = {"at": intake.clock().isoformat(), "checkpoint": intake.checkpoint()}
    for key_id in parse_qs(urlsplit(request.url).query).get("key", []):
        about["nonce"] = intake.nonce(key_id)
    return _answer(200, about)


def _capture(intake: Intake, request: Request, body: IO[bytes]) -> Answer:
    admitted = intake.admit(request)
    # A copy, as over a network: what is looked at is what was hashed, whatever happens to the device's file.
    with tempfile.NamedTemporaryFile(prefix="lightseal-intake-") as file:
        shutil.copyfileobj(body, file)
        file.flush()
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").digest()
        taken = intake.receive(admitted, Path(file.name), digest)
    answer = _answer(status_of_receipt(taken), receipt_of(taken))
    return Answer(answer.status, {NONCE: intake.nonce(admitted.signed.key_id)}, answer.body)


def _answer(status: int, about: dict[str, object]) -> Answer:
    return Answer(status, {}, json.dumps(about).encode())
