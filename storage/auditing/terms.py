"""Which of the log's keys had to sign a checkpoint, told by the `policy` entries of the log itself.

Pure. A key that no entry announced signs from the beginning. One that a `rotate-key` entry
announced may sign the checkpoints that cover that entry, and none before. A `retire-key` entry
names the keys that end and the one that goes on: the first need not sign beyond the
checkpoint that covers it, and the other must from there on. So nothing stands on a retired
key alone, and no signature of a key in force can be left away.

A payload that cannot be read may have announced any key; then those that no other entry
announced are not missed.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from storage.note import VerifierKey

Say = Callable[[int, str], None]
"""Takes the size of a checkpoint, and what is wrong with its signatures."""


class Term(NamedTuple):
    """The entries that say when a key comes, goes on alone, and ends; None where there is none."""

    announced: int | None = None
    succeeded: int | None = None
    retired: int | None = None


_UNTOLD = Term()


class Terms:
    """Who signed, held against who had to. Entries and checkpoints may come in either order within a batch."""

    def __init__(self, keys: Sequence[VerifierKey], known: Mapping[str, Term], untold: int) -> None:
        self._keys = {key: str(key) for key in keys}
        self._terms = dict(known)
        self.untold = untold
        self._first: dict[str, int] = {}
        self._missed: dict[str, tuple[int, int]] = {}

    @property
    def known(self) -> dict[str, Term]:
        """The terms so far, by verifier key."""
        return dict(self._terms)

    def policy(self, index: int, fields: Mapping[str, Any] | None, say: Say) -> None:
        """Take in a `policy` entry; nothing stands for a payload that could not be read."""
        if fields is None:
            self.untold += 1
            return
        key = fields.get("key")
        if not isinstance(key, str):
            return
        term = self._terms.get(key, _UNTOLD)
        match fields.get("change"):
            case "rotate-key" if term.announced is None:
                self._terms[key] = term._replace(announced=index)
                first = self._first.pop(key, None)
                if first is not None and first <= index:
                    say(first, _too_early(first, index))
            case "retire-key":
                if term.succeeded is None:
                    self._terms[key] = term._replace(succeeded=index)
                for each in _texts(fields.get("keys")):
                    gone = self._terms.get(each, _UNTOLD)
                    if gone.retired is None:
                        self._terms[each] = gone._replace(retired=index)
            case _:
                pass

    def checkpoint(self, size: int, signers: Collection[VerifierKey], say: Say) -> None:
        """Take in who of the known keys signed the checkpoint of this size."""
        for text in (self._keys[key] for key in signers):
            announced = self._terms.get(text, _UNTOLD).announced
            if announced is None:
                self._first.setdefault(text, size)
            elif size <= announced:
                say(size, _too_early(size, announced))
        complete = True
        for key, text in self._keys.items():
            term = self._terms.get(text, _UNTOLD)
            if key in signers or _is_over(term, size):
                continue
            if term.announced is None:
                first, count = self._missed.get(text, (size, 0))
                self._missed[text] = first, count + 1
            elif term.succeeded is not None and size > term.succeeded:
                complete = False
                said = f"which signs since entry {term.succeeded}"
                say(size, f"Checkpoint {size} is not signed by key {key.key_id.hex()}, {said}.")
        ended = [_is_over(self._terms.get(self._keys[key], _UNTOLD), size) for key in signers]
        if complete and signers and all(ended):
            say(size, f"Checkpoint {size} is signed by retired keys alone.")

    def close(self, say: Say) -> None:
        """Name the keys that were there from the beginning, and did not sign all they had to."""
        for key, text in self._keys.items():
            if (
                text not in self._missed
                or self.untold
                or self._terms.get(text, _UNTOLD).announced is not None
            ):
                continue
            first, count = self._missed[text]
            others = f", nor are {count - 1} others" if count > 1 else ""
            say(
                first,
                f"Checkpoint {first} is not signed by key {key.key_id.hex()}, which no entry announced{others}.",
            )


def _is_over(term: Term, size: int) -> bool:
    """Whether a checkpoint of this size is beyond the one that covers the key's end."""
    return term.retired is not None and size > term.retired + 1


def _too_early(size: int, announced: int) -> str:
    return f"Checkpoint {size} is signed by a key that entry {announced} announced only later."


def _texts(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
