"""One line of JSON on standard error for each decision of a service: who was enrolled, what was received or refused.

In no line stands the name of a file, anything of the media, or a secret; the modules that decide
see to that. What a service says besides, of its own troubles, goes where it always did.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

AUDIT = "lightseal.audit"
DECIDING = (AUDIT, "tools.intake_app")


@contextmanager
def decisions_told() -> Iterator[None]:
    """Tell them as long as the block lasts."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line())
    loggers = [logging.getLogger(name) for name in DECIDING]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """The record as one object; JSON's escapes keep whatever stands in it on its line."""
        said = record.getMessage()
        event = json.loads(said) if record.name == AUDIT else {"event": said}
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds")
        return json.dumps({"at": at, "level": record.levelname.lower(), **event}, sort_keys=True)
