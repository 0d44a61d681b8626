"""Where an audit ended, in a text form that a later audit goes on from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from storage import base64text
from storage.auditing.terms import Term
from storage.checkpoint import MAX_SIZE
from storage.errors import LedgerDamagedError, MalformedError
from storage.merkle import HASH_BYTES, TILE_HEIGHT, TILE_WIDTH, Frontier
from storage.view import split


@dataclass(frozen=True, slots=True)
class AuditState:
    """All that a later audit needs to go on. Not signed: whoever can change it can hide what came before.

    `terms` are those of the log's keys so far, by verifier key; `untold` counts the `policy`
    entries whose payload was not read, so that there may be more.
    """

    origin: str
    size: int = 0
    time: int = 0
    frontier: tuple[bytes, ...] = ()
    tiles: Mapping[int, bytes] = field(default_factory=dict)
    terms: Mapping[str, Term] = field(default_factory=dict)
    untold: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form, accepting only what `str` would write."""
        try:
            fields = json.loads(text)
            state = cls(
                fields["origin"],
                fields["size"],
                fields["time"],
                tuple(split(base64text.decode(fields["frontier"]))),
                {int(level): base64text.decode(hashes) for level, hashes in fields["tiles"].items()},
                {key: Term(*indices) for key, indices in fields["terms"].items()},
                fields["untold"],
            )
            same = str(state) == text and state._is_possible()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, LedgerDamagedError) as error:
            raise MalformedError("The text is not the state of an audit.") from error
        if not same:
            raise MalformedError("The text is not the state of an audit as we would write it.")
        return state

    def _is_possible(self) -> bool:
        """Whether a tree of this size has such a frontier and such tiles in growth, and such terms."""
        numbers = [self.size, self.time, self.untold]
        if type(self.origin) is not str or not all(
            type(each) is int and 0 <= each < MAX_SIZE for each in numbers
        ):
            return False
        told = [index for term in self.terms.values() for index in term if index is not None]
        if self.untold > self.size or not all(type(each) is int and 0 <= each < self.size for each in told):
            return False
        levels = range(-(-Frontier(self.size, self.frontier).size.bit_length() // TILE_HEIGHT))
        growing = {level: (self.size >> TILE_HEIGHT * level) % TILE_WIDTH for level in levels}
        return {level: len(hashes) for level, hashes in self.tiles.items()} == {
            level: HASH_BYTES * count for level, count in growing.items() if count
        }

    def __str__(self) -> str:
        fields = {
            "frontier": base64text.encode(b"".join(self.frontier)),
            "origin": self.origin,
            "size": self.size,
            "terms": {key: list(term) for key, term in self.terms.items()},
            "tiles": {str(level): base64text.encode(hashes) for level, hashes in self.tiles.items()},
            "time": self.time,
            "untold": self.untold,
        }
        return json.dumps(fields, sort_keys=True) + "\n"
