"""Trust policies (c2sp.org/tlog-policy): which logs are known, and which witnesses are enough.

Pure. A policy says when a checkpoint counts as witnessed. It is the reader's own decision
and proves nothing by itself: whether its witnesses are independent is not written in it.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from storage.checkpoint import Checkpoint, open_checkpoint
from storage.cosignature import Cosigner, cosigners
from storage.errors import MalformedError, MalformedKeyError, ProofError
from storage.note import VerifierKey, Verify

MAX_POLICY_BYTES = 512 << 10
MAX_LINES = 4096
# Of logs, of witnesses and of groups, each; the specification asks for 32 (Implementation limits).
MAX_DEFINED = 64
MAX_NAME_BYTES = 255
MAX_URL_BYTES = 2048

_NONE = "none"
# Character set: the control characters other than tab and newline, and DEL.
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_SPACES = re.compile(r"[ \t]+")
_THRESHOLD = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)


class MalformedPolicyError(MalformedError):
    """Not a trust policy by c2sp.org/tlog-policy."""

    code = "policy-malformed"
    remedy = "Correct the policy file at the line named, or get it again from whoever wrote it."


class QuorumMissingError(ProofError):
    """Too few of the policy's witnesses cosigned the checkpoint."""

    code = "quorum-missing"
    remedy = "Ask the log's operator for a receipt with more cosignatures, and rely on nothing till then."


class PolicyOtherLogError(ProofError):
    """The policy names logs, and not this one."""

    code = "policy-other-log"
    remedy = "Use the policy that was written for this log, or ask whoever wrote it which logs it is for."


@dataclass(frozen=True, slots=True)
class KnownLog:
    """A log whose checkpoints are accepted. The URL is as written: nobody has checked it."""

    key: VerifierKey
    url: str | None


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """A witness by its name in the policy, its key and where it may be reached (unchecked)."""

    name: str
    key: VerifierKey
    url: str | None


@dataclass(frozen=True, slots=True)
class Group:
    """Witnesses when at least `threshold` of its members do."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """The known logs and witnesses, and the name whose witnessing is enough: `None` asks for none."""

    known_logs: tuple[KnownLog, ...]
    witnesses: tuple[WitnessKey, ...]
    groups: tuple[Group, ...]
    quorum: str | None

    @classmethod
    def parse(cls, text: str) -> "Policy":
        """Read a policy file; whatever the specification does not allow is refused.

        Beyond it we refuse text that is not UTF-8, a last line without its newline (a file cut
        short may ask for less), a number with leading zeros, and a key that is both a log's and a
        witness's: such a log would witness itself.
        """
        _check_text(text)
        draft = _Draft()
        for number, line in enumerate(text.split("\n")[:-1], 1):
            items = [item for item in _SPACES.split(line) if item]
            if not items or items[0].startswith("#"):
                continue
            try:
                draft.take(items)
            except (_FlawError, MalformedKeyError) as error:
                raise MalformedPolicyError(f"Line {number}: {error}") from error
        if draft.quorum is None:
            raise MalformedPolicyError("The policy has no quorum line.")
        quorum = None if draft.quorum == _NONE else draft.quorum
        return cls(tuple(draft.logs), tuple(draft.witnesses), tuple(draft.groups), quorum)

    @property
    def logs(self) -> tuple[VerifierKey, ...]:
        """The keys of the known logs; none, if the log must be known from elsewhere."""
        return tuple(log.key for log in self.known_logs)

    def trusting(self, logs: Sequence[VerifierKey]) -> "Policy":
        """The same quorum for these logs, known from elsewhere, and for no others."""
        known = tuple(KnownLog(key, None) for key in logs)
        if {log.key.public for log in known} & {witness.key.public for witness in self.witnesses}:
            raise MalformedPolicyError("A witness of the policy has the key of the log.")
        return replace(self, known_logs=known)

    def about(self, keys: Sequence[VerifierKey]) -> "Policy":
        """The same quorum for one log, known by `keys` from elsewhere: those alone that the policy names too.

        A policy that names no log is about whichever log it is given.
        """
        named = [key for key in keys if key in self.logs]
        if self.known_logs and not named:
            names = ", ".join(sorted({key.name for key in keys}))
            raise PolicyOtherLogError(f"This log is not in the policy: it names no such key of {names}.")
        return self.trusting(named or keys)

    def satisfied(self, names: Collection[str]) -> bool:
        """Whether these witnesses, by their names in the policy, are enough. Other names count nothing."""
        witnessing = {witness.name for witness in self.witnesses} & set(names)
        # Members come before their group, so one pass decides however deep the nesting.
        for group in self.groups:
            if len(witnessing.intersection(group.members)) >= group.threshold:
                witnessing.add(group.name)
        return self.quorum is None or self.quorum in witnessing

    def satisfied_at(self, seen: Collection[Cosigner]) -> int | None:
        """The earliest time by which cosigners that state it, or an earlier one, are enough.

        None where they never are, or where the policy asks for none: then nobody's clock is
        relied on. Who states no time is left out. That the clocks were right is not shown.
        """
        if self.quorum is None:
            return None
        times = {cosigner.key: cosigner.at for cosigner in seen if cosigner.at}
        dated = [(times[witness.key], witness.name) for witness in self.witnesses if witness.key in times]
        enough = (
            time for time, _ in sorted(dated) if self.satisfied([name for at, name in dated if at <= time])
        )
        return next(enough, None)

    def __str__(self) -> str:
        lines = [
            *(["log", str(log.key), *_given(log.url)] for log in self.known_logs),
            *(["witness", each.name, str(each.key), *_given(each.url)] for each in self.witnesses),
            *(["group", each.name, str(each.threshold), *each.members] for each in self.groups),
            ["quorum", self.quorum or _NONE],
        ]
        return "".join(" ".join(line) + "\n" for line in lines)


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A checkpoint that its log signed and enough witnesses cosigned."""

    checkpoint: Checkpoint
    cosigners: tuple[Cosigner, ...]


def open_witnessed(note: bytes, policy: Policy, verify: Verify) -> Witnessed:
    """Return the checkpoint in a note if one of the policy's logs signed it and the quorum cosigned it.

    Does not judge the times that the cosigners state.
    """
    # tlog-policy, What is a "policy"?: signed by any one of the listed logs ...
    checkpoint = open_checkpoint(note, policy.logs, verify)
    # ... and cosigned by witnesses according to the quorum rule.
    seen = cosigners(note, [witness.key for witness in policy.witnesses], verify)
    keys = {cosigner.key for cosigner in seen}
    names = {witness.name for witness in policy.witnesses if witness.key in keys}
    if not policy.satisfied(names):
        raise QuorumMissingError(
            f"{len(names)} of {len(policy.witnesses)} known witnesses cosigned, and that is no quorum."
        )
    return Witnessed(checkpoint, seen)


class _FlawError(Exception):
    """What is wrong with a line."""


@dataclass(slots=True)
class _Draft:
    """What the lines so far define."""

    logs: list[KnownLog] = field(default_factory=list)
    witnesses: list[WitnessKey] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    quorum: str | None = None
    names: set[str] = field(default_factory=set)
    members: set[str] = field(default_factory=set)

    def take(self, items: list[str]) -> None:
        match items:
            case ["log", vkey, *url] if len(url) <= 1:
                self._log(VerifierKey.parse_log(vkey), _url(url))
            case ["witness", name, vkey, *url] if len(url) <= 1:
                self._witness(name, VerifierKey.parse_cosigner(vkey), _url(url))
            case ["group", name, threshold, *members] if members:
                self._group(name, threshold, members)
            case ["quorum", name]:
                self._quorum(name)
            case ["log" | "witness" | "group" | "quorum", *_]:
                raise _FlawError(f"a {items[0]} line has too few or too many items.")
            case _:
                raise _FlawError("the line begins with no known keyword.")

    def _log(self, key: VerifierKey, url: str | None) -> None:
        self._unused(key)
        _room(self.logs)
        self.logs.append(KnownLog(key, url))

    def _witness(self, name: str, key: VerifierKey, url: str | None) -> None:
        self._unused(key)
        _room(self.witnesses)
        self._define(name)
        self.witnesses.append(WitnessKey(name, key, url))

    def _group(self, name: str, threshold: str, members: list[str]) -> None:
        # Defining a witness group: members are defined before, and each is a member once in all.
        for member in members:
            if member not in self.names:
                raise _FlawError("a group has a member that no line before it defines.")
            if member in self.members:
                raise _FlawError("a name is a group's member a second time.")
            self.members.add(member)
        _room(self.groups)
        self._define(name)
        self.groups.append(Group(name, _threshold(threshold, len(members)), tuple(members)))

    def _quorum(self, name: str) -> None:
        if self.quorum is not None:
            raise _FlawError("there is a second quorum line.")
        if name != _NONE and name not in self.names:
            raise _FlawError("the quorum is a name that no line before it defines.")
        self.quorum = name

    def _define(self, name: str) -> None:
        if name == _NONE or len(name.encode()) > MAX_NAME_BYTES:
            raise _FlawError("the name is reserved or too long.")
        if name in self.names:
            raise _FlawError("the name is defined a second time.")
        self.names.add(name)

    def _unused(self, key: VerifierKey) -> None:
        # Public key representation: duplicates wrap the same key, whatever their name, type and hash.
        used = {log.key.public for log in self.logs} | {witness.key.public for witness in self.witnesses}
        if key.public in used:
            raise _FlawError("the public key is given a second time.")


def _check_text(text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise MalformedPolicyError("The policy is not UTF-8.") from error
    if size > MAX_POLICY_BYTES or text.count("\n") > MAX_LINES:
        raise MalformedPolicyError(f"The policy has more than {MAX_POLICY_BYTES} bytes or {MAX_LINES} lines.")
    if _FORBIDDEN.search(text):
        raise MalformedPolicyError("The policy holds a control character, such as a carriage return.")
    if not text.endswith("\n"):
        raise MalformedPolicyError("The policy's last line does not end: the file may have been cut short.")


def _url(items: list[str]) -> str | None:
    if items and len(items[0].encode()) > MAX_URL_BYTES:
        raise _FlawError("the URL is too long.")
    return items[0] if items else None


def _given(url: str | None) -> list[str]:
    return [] if url is None else [url]


def _threshold(text: str, members: int) -> int:
    if text in ("any", "all"):
        return 1 if text == "any" else members
    if not _THRESHOLD.fullmatch(text) or int(text) > members:
        raise _FlawError("the threshold is not a number from 1 to that of the members.")
    return int(text)


def _room(defined: Sequence[object]) -> None:
    if len(defined) >= MAX_DEFINED:
        raise _FlawError(f"there are more than {MAX_DEFINED} of these.")
