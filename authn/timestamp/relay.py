"""Decide which tokens of several authorities count. Pure: replies come in as bytes, with the moment they came.

A reply counts when it grants what was asked for: this digest, this nonce, a time within a
minute of now, a signer who leads to the time-stampers' list, and both judgements of
`authn.timestamp.token`. Two authorities are two only if no key stands on paths of both: neither
what they sign with, nor what certified it up to any anchor of ours, under however many
certificates. That they are not in league is nothing that can be seen from here.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authn import der
from authn.errors import MalformedDerError, MalformedRequestError, TimestampError
from authn.plain import plain
from authn.timestamp import unverified
from authn.timestamp.request import TimeStampRequest
from authn.timestamp.token import TimeEvidence, check_stamped
from authn.trust import TrustList

MAX_REPLY = unverified.MAX_TOKEN + 1024
NEARNESS = timedelta(seconds=60)


class NoTokenError(TimestampError):
    """Too few of the authorities gave a token that stands."""

    code = "timestamp-authorities-failed"
    remedy = "Name other authorities, see what the sentence says of each, or sign with --timestamps later."


class Need(StrEnum):
    """What must be there before a signature is complete."""

    REQUIRE = "require"
    LATER = "later"
    TWO = "need=2"

    @property
    def tokens(self) -> int:
        """How many tokens, each of another authority."""
        return 2 if self is Need.TWO else 1


@dataclass(frozen=True, slots=True)
class Stamped:
    """A token that counts, who was asked for it, and the judgement."""

    source: str
    token: bytes
    evidence: TimeEvidence

    @property
    def keys(self) -> frozenset[bytes]:
        """What the authority signs with, and what certified it on every path to our anchors.

        Keys (SubjectPublicKeyInfo) and not certificates: one key can have many.
        """
        return frozenset(
            each.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            for path in (self.evidence.path, *self.evidence.others)
            for each in path
        )

    def is_independent_of(self, other: "Stamped") -> bool:
        """Whether nobody's one key could have made both tokens, or the certificates of both."""
        return self.keys.isdisjoint(other.keys)


@dataclass(frozen=True, slots=True)
class Refused:
    """A reply that does not count, or none, and why, in one sentence."""

    source: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


def judge(
    source: str, reply: bytes, query: TimeStampRequest, time_stampers: Sequence[TrustList], now: datetime
) -> Stamped | Refused:
    """Whether a reply to `query` that came at `now` may be used."""
    # 1. It grants (RFC 3161, 2.4.2), without changing what was asked for.
    try:
        token = token_of(reply)
        parsed = unverified.parse(token)
    except TimestampError as error:
        return Refused(source, str(error))
    except MalformedDerError as error:
        return Refused(source, f"its reply cannot be read: {error}")
    # 2. It answers this question and no other.
    if parsed.statement.nonce != query.nonce:
        return Refused(source, "its reply answers another question: the nonce differs")
    if query.policy is not None and parsed.statement.policy != query.policy:
        return Refused(source, "its token is under another policy than was asked for")
    # 3. It is of this minute.
    away = parsed.statement.gen_time - now
    if abs(away) > NEARNESS:
        seconds = abs(away).total_seconds()
        return Refused(
            source, f"its clock is {seconds:.0f} s {'ahead of' if away > timedelta() else 'behind'} ours"
        )
    # 4. Both judgements: imprint, signature, certificate and chain.
    evidence = check_stamped(
        token, lambda name: query.digest if name == query.hash else None, time_stampers, now
    )
    if not evidence.proven:
        return Refused(source, evidence.reason)
    return Stamped(source, token, evidence)


def enough(stamped: Iterable[Stamped], need: Need) -> tuple[Stamped, ...] | None:
    """The first tokens that satisfy `need`, as they came; nothing while none do, whichever are put together."""
    for chosen in itertools.combinations(stamped, need.tokens):
        if all(one.is_independent_of(other) for one, other in itertools.combinations(chosen, 2)):
            return chosen
    return None


def read_query(query: bytes) -> TimeStampRequest | None:
    """What is asked for; nothing where no authority could be expected to answer."""
    try:
        return TimeStampRequest.parse(query)
    except MalformedRequestError:
        return None


def granting(token: bytes) -> bytes:
    """The reply that hands a token on."""
    return der.sequence(der.sequence(der.integer(0)), token)


def token_of(reply: bytes) -> bytes:
    """The token in a reply that grants one; `TimestampError` where it does not. Verifies nothing."""
    fields = der.parse(reply, MAX_REPLY).fields()
    status = fields.take(der.SEQUENCE).fields()
    token = fields.maybe(der.SEQUENCE)
    fields.end()
    granted, said = status.take(der.INTEGER).to_integer(), status.maybe(der.SEQUENCE)
    if granted != 0 or token is None:
        words = "; ".join(_text(each) for each in (said.children() if said else ())[:3])
        raise TimestampError(f"it refused{f' ({words})' if words else ''}")
    return token.encoded


def _text(element: der.Element) -> str:
    return plain(element.content.decode("utf-8", "replace"), 80)
