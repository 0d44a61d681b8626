import hashlib
import itertools
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authn import der, identity, keys
from authn.profile import Profile
from authn.timestamp.authority import (
    Authority,
    Safeguards,
    never_doubt,
    no_floor,
    refusal,
    serials_from,
)
from authn.timestamp.relay import (
    NEARNESS,
    Need,
    Refused,
    Stamped,
    enough,
    granting,
    judge,
    read_query,
    token_of,
)
from authn.timestamp.request import TimeStampRequest
from authn.trust import Purpose, TrustList

POLICY = "1.3.6.1.4.1.62558.1.1"
ASKED = TimeStampRequest(hashlib.sha256(b"claim").digest(), nonce=1 << 63 | 5)


@pytest.fixture
def at(stamp_kit) -> datetime:
    return stamp_kit.at + timedelta(days=1)


def reply_of(kit, at: datetime, asked: TimeStampRequest = ASKED) -> bytes:
    unwatched = Safeguards(never_doubt, no_floor)
    unit = Authority(kit.key, (kit.leaf,), POLICY, lambda: at, serials_from(1), unwatched)
    return unit.respond(asked.encode())


@pytest.fixture(scope="session")
def other_kit(stamp_kit):
    """Another authority under a root of its own, and a list that knows it."""
    root_key, key = keys.generate_p384(), keys.generate_p256()
    at = stamp_kit.at
    root = identity.plan_time_stamping_root(
        identity.Subject("FR", "Other Lab", "Other Clock Root"), root_key.public_key, 1 << 70, at
    ).sign(root_key)
    leaf = identity.plan_time_stamping(
        identity.Subject("FR", "Other Lab", "Other Clock 1"), key.public_key, 1 << 71, at, issuer=root,
        ocsp_url="http://127.0.0.1:8888/ocsp/",
    ).sign(root_key)  # fmt: skip
    return type(stamp_kit)(at, root_key, root, key, leaf)


def both(stamp_kit, other_kit) -> tuple[TrustList, ...]:
    return stamp_kit.time_stampers, TrustList.parse(
        identity.pem_chain(other_kit.root), "other clock", Purpose.TIME_STAMPING, Profile.TIME_STAMPING
    )


def test_a_token_that_stands_is_handed_on_as_it_is(stamp_kit, at: datetime) -> None:
    reply = reply_of(stamp_kit, at)
    judged = judge("a", reply, ASKED, (stamp_kit.time_stampers,), at)
    assert isinstance(judged, Stamped), judged
    assert granting(judged.token) == reply
    assert token_of(reply) == judged.token
    assert judged.evidence.gen_time == at.replace(microsecond=0)


@pytest.mark.parametrize(
    ("away", "good"), [(60, True), (-60, True), (61, False), (-61, False), (7200, False), (-7200, False)]
)
def test_a_time_counts_within_a_minute_of_now(stamp_kit, at: datetime, away: int, *, good: bool) -> None:
    assert timedelta(seconds=60) == NEARNESS
    reply = reply_of(stamp_kit, at + timedelta(seconds=away))
    judged = judge("a", reply, ASKED, (stamp_kit.time_stampers,), at)
    assert isinstance(judged, Stamped) == good
    if isinstance(judged, Refused):
        assert f"{abs(away)} s {'ahead of' if away > 0 else 'behind'} ours" in str(judged)


@pytest.mark.parametrize(
    ("answered", "why"),
    [
        (TimeStampRequest(hashlib.sha256(b"other").digest(), nonce=ASKED.nonce), "about other bytes"),
        (TimeStampRequest(ASKED.digest, nonce=6), "the nonce differs"),
        (TimeStampRequest(ASKED.digest), "the nonce differs"),
        (TimeStampRequest(hashlib.sha384(b"claim").digest(), "sha384", nonce=ASKED.nonce), "about other bytes"),
        (TimeStampRequest(ASKED.digest, nonce=ASKED.nonce, wants_certificate=False), "signer's certificate"),
    ],
)  # fmt: skip
def test_an_answer_to_another_question_does_not_count(
    stamp_kit, at: datetime, answered: TimeStampRequest, why: str
) -> None:
    judged = judge("a", reply_of(stamp_kit, at, answered), ASKED, (stamp_kit.time_stampers,), at)
    assert isinstance(judged, Refused)
    assert why in judged.reason


def test_a_policy_that_was_asked_for_must_be_that_of_the_token(stamp_kit, at: datetime) -> None:
    asked = TimeStampRequest(ASKED.digest, nonce=ASKED.nonce, policy="1.2.3")
    judged = judge("a", reply_of(stamp_kit, at), asked, (stamp_kit.time_stampers,), at)
    assert isinstance(judged, Refused)
    assert "another policy" in judged.reason


def test_who_is_in_no_list_does_not_count(stamp_kit, other_kit, at: datetime) -> None:
    for lists in ((), (stamp_kit.time_stampers,)):
        judged = judge("a", reply_of(other_kit, at), ASKED, lists, at)
        assert isinstance(judged, Refused)
        assert "list" in judged.reason
    assert isinstance(judge("a", reply_of(other_kit, at), ASKED, both(stamp_kit, other_kit), at), Stamped)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (b"", "cannot be read"),
        (b"<html>", "cannot be read"),
        (der.sequence(der.sequence(der.integer(0))), "it refused"),
        (refusal(14, "the clock ran \x1b[2Jbackwards"), "it refused (the clock ran"),
        (bytes(1 << 20), "cannot be read"),
    ],
)
def test_a_reply_that_grants_nothing_does_not_count(stamp_kit, at: datetime, reply: bytes, why: str) -> None:
    judged = judge("a", reply, ASKED, (stamp_kit.time_stampers,), at)
    assert isinstance(judged, Refused)
    assert why in str(judged)
    assert judged.reason.isprintable()


def test_a_token_that_was_granted_with_changes_does_not_count(stamp_kit, at: datetime) -> None:
    token = token_of(reply_of(stamp_kit, at))
    changed = der.sequence(der.sequence(der.integer(1)), token)
    assert isinstance(judge("a", changed, ASKED, (stamp_kit.time_stampers,), at), Refused)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.floats(0, 1), put=st.binary(max_size=3), cut=st.integers(0, 3))
def test_no_mutated_reply_gets_an_exception_or_dates_otherwise(
    stamp_kit, at: datetime, place: float, put: bytes, cut: int
) -> None:
    good = reply_of(stamp_kit, at)
    where = int(place * len(good))
    judged = judge("a", good[:where] + put + good[where + cut :], ASKED, (stamp_kit.time_stampers,), at)
    if isinstance(judged, Stamped):
        assert judged.evidence.proven
        assert judged.evidence.gen_time == at.replace(microsecond=0)


def test_two_tokens_are_two_only_from_two_anchors(stamp_kit, other_kit, at: datetime) -> None:
    lists = both(stamp_kit, other_kit)
    one, again, other = (
        judge(name, reply_of(kit, at), ASKED, lists, at)
        for name, kit in (("one", stamp_kit), ("again", stamp_kit), ("other", other_kit))
    )
    assert isinstance(one, Stamped)
    assert isinstance(again, Stamped)
    assert isinstance(other, Stamped)
    assert enough([], Need.REQUIRE) is None
    assert enough([one, other], Need.REQUIRE) == (one,)
    assert enough([one, other], Need.LATER) == (one,)
    assert enough([one, again], Need.TWO) is None
    assert enough([one, again, other], Need.TWO) == (one, other)


class Operators:
    """Roots and units of one's own choice of keys, all believed."""

    def __init__(self, at: datetime) -> None:
        self.at = at
        self.names = iter(range(1, 1 << 20))
        self.roots: list[x509.Certificate] = []

    def root(self, key: keys.SigningKey) -> x509.Certificate:
        subject = identity.Subject("FR", "Lab", f"Root {next(self.names)}")
        serial, begins = 1 << 70 | next(self.names), self.at - timedelta(days=2)
        self.roots.append(identity.plan_time_stamping_root(subject, key.public_key, serial, begins).sign(key))
        return self.roots[-1]

    def reply(self, root: x509.Certificate, root_key: keys.SigningKey, key: keys.SigningKey) -> bytes:
        subject = identity.Subject("FR", "Lab", f"Unit {next(self.names)}")
        leaf = identity.plan_time_stamping(
            subject, key.public_key, 1 << 71 | next(self.names), self.at - timedelta(days=1), issuer=root,
            ocsp_url="http://127.0.0.1:8888/ocsp/",
        ).sign(root_key)  # fmt: skip
        unwatched = Safeguards(never_doubt, no_floor)
        unit = Authority(key, (leaf,), POLICY, lambda: self.at, serials_from(1), unwatched)
        return unit.respond(ASKED.encode())

    def judged(self, *replies: bytes) -> list[Stamped]:
        """Each reply, as it counts under all the roots."""
        pem = identity.pem_chain(*self.roots)
        listed = TrustList.parse(pem, "all", Purpose.TIME_STAMPING, Profile.TIME_STAMPING)
        found = [judge(str(number), each, ASKED, (listed,), self.at) for number, each in enumerate(replies)]
        assert all(isinstance(each, Stamped) for each in found), found
        return [each for each in found if isinstance(each, Stamped)]


def test_two_tokens_are_not_two_under_one_root_key_that_has_two_certificates(at: datetime) -> None:
    lab, root_key = Operators(at), keys.generate_p384()
    first, again = lab.root(root_key), lab.root(root_key)
    one = lab.reply(first, root_key, keys.generate_p256())
    two = lab.reply(again, root_key, keys.generate_p256())
    stamped = lab.judged(one, two)
    assert stamped[0].evidence.path[0].public_key() != stamped[1].evidence.path[0].public_key()
    assert stamped[0].evidence.path[-1] != stamped[1].evidence.path[-1]
    assert enough(stamped, Need.TWO) is None


def test_two_tokens_are_not_two_by_one_key_that_two_roots_certified(at: datetime) -> None:
    lab, key = Operators(at), keys.generate_p256()
    root_keys = keys.generate_p384(), keys.generate_p384()
    stamped = lab.judged(*(lab.reply(lab.root(each), each, key) for each in root_keys))
    assert stamped[0].evidence.path[-1].public_key() != stamped[1].evidence.path[-1].public_key()
    assert enough(stamped, Need.TWO) is None


def test_two_tokens_are_not_two_where_one_authority_stands_behind_any_path_of_both(at: datetime) -> None:
    """One that is certified by the other's root as well, besides its own (a cross-certificate)."""
    lab, root_keys = Operators(at), (keys.generate_p384(), keys.generate_p384())
    one, other = lab.judged(*(lab.reply(lab.root(each), each, keys.generate_p256()) for each in root_keys))
    assert enough([one, other], Need.TWO) == (one, other)
    second_path = one.evidence.path[0], other.evidence.path[-1]
    crossed = replace(one, evidence=replace(one.evidence, others=(second_path,)))
    assert enough([crossed, other], Need.TWO) is None


def test_two_tokens_are_two_in_whichever_order_they_come(at: datetime) -> None:
    """The first that came goes with no other; the second and third go together."""
    lab, shared = Operators(at), keys.generate_p256()
    own, other = keys.generate_p384(), keys.generate_p384()
    root, second_root = lab.root(own), lab.root(other)
    first, b, c = lab.judged(
        lab.reply(root, own, shared),
        lab.reply(root, own, keys.generate_p256()),
        lab.reply(second_root, other, shared),
    )
    for order in itertools.permutations((first, b, c)):
        chosen = enough(order, Need.TWO)
        assert chosen is not None
        assert {each.source for each in chosen} == {b.source, c.source}
        assert enough(order, Need.REQUIRE) == order[:1]


def test_a_question_that_nobody_could_answer_is_none() -> None:
    assert read_query(ASKED.encode()) == ASKED
    assert read_query(b"nonsense") is None
