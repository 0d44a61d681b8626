"""What of a capture is sent to the service: its whole file, or its signed record alone."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import IO

from authn.locate import locate
from authn.media import Media
from tools.camera import queue
from tools.errors import UnreadableError
from tools.examine import MAX_BYTES

RECORD_TYPE = "application/c2pa"


class Handing(StrEnum):
    """What is handed in."""

    WHOLE = "whole"
    HASH_ONLY = "hash-only"


@contextmanager
def body_of(waiting: queue.Waiting, handing: Handing) -> Iterator[tuple[IO[bytes], str, int, bytes]]:
    """What is sent, open, with its type, its length and its SHA-256."""
    try:
        with waiting.media.open("rb", buffering=0) as file:
            media = Media.of(file, waiting.file, MAX_BYTES)
            if handing is Handing.HASH_ONLY:
                store = locate(media)
                if store is None:
                    raise UnreadableError(f"the capture {waiting.file} carries no signed record any more")
                yield io.BytesIO(store), RECORD_TYPE, len(store), hashlib.sha256(store).digest()
                return
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").digest()
            yield file, media.kind.value, media.size, digest
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise UnreadableError(f"the capture {waiting.file} cannot be read ({reason})") from error
