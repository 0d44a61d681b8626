"""What is published of several withdrawals is judged as all of them would be, each told by itself."""

from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path

import pytest

from authn.device import encoded
from authn.evidence import Revocation
from authn.identity import (
    Subject,
    key_id_of,
    plan_time_stamping,
    plan_time_stamping_root,
)
from authn.keys import generate_p256, generate_p384
from authn.ocsp import ocsp_request
from authn.public_key import public_pem
from authn.revocation import HONEST_ENDS, Statuses, check_revocation
from authn.withdrawal import Reason, Withdrawn, build_crl
from storage.registry import gravity
from storage.registry.rows import Role, Target, TargetKind, Withdrawal
from tools.founding import create_home
from tools.revoking import Signed, add_operator, carry_out, propose, sign, target_of
from tools.status import status_desk
from tools.status_lists import list_path, renew_responders

DAY = timedelta(days=1)
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_registry_calls_the_same_ends_honest_as_the_verifier() -> None:
    assert gravity.HONEST_ENDS == HONEST_ENDS


@pytest.fixture(scope="module")
def unit():  # type: ignore[no-untyped-def]
    """A time-stamping certificate, its root, and the root's key."""
    root_key, key = generate_p384(), generate_p256()
    root = plan_time_stamping_root(Subject("XX", "Test", "Root"), root_key.public_key, 1 << 100, BEGUN).sign(
        root_key
    )
    plan = plan_time_stamping(
        Subject("XX", "Test", "Time"),
        key.public_key,
        1 << 101,
        BEGUN,
        issuer=root,
        ocsp_url="http://127.0.0.1/ocsp/",
    )
    return plan.sign(root_key), root, root_key


def test_one_list_of_the_gravest_says_what_a_list_of_each_would(unit) -> None:  # type: ignore[no-untyped-def]
    leaf, root, key = unit
    target = Target.of_ca(key_id_of(leaf))
    at = BEGUN + 100 * DAY

    def listed(withdrawal: Withdrawal) -> bytes:
        entry = Withdrawn(
            leaf.serial_number,
            Reason(withdrawal.reason),
            withdrawal.revoked_at,
            withdrawal.compromised_since,
        )
        return build_crl([entry], issuer=root, key=key, number=1, at=at)

    every = [
        Withdrawal(target, reason, BEGUN + revoked * DAY, since and BEGUN + since * DAY, ("a", "b"), number)
        for number, (reason, revoked, since) in enumerate(
            [
                ("superseded", 10, None),
                ("cessationOfOperation", 30, 20),
                ("keyCompromise", 50, 40),
                ("keyCompromise", 10, 5),
                ("privilegeWithdrawn", 30, None),
            ]
        )
    ]
    lists = {each: listed(each) for each in every}
    for few in (*combinations(every, 2), *combinations(every, 3)):
        worst = gravity.gravest(few)
        assert worst is not None
        one, each = Statuses((listed(worst),)), Statuses(tuple(lists[one] for one in few))
        for signed_at in (None, *(BEGUN + day * DAY for day in (1, 6, 15, 25, 35, 45, 60))):
            published = check_revocation((leaf, root), one, signed_at, at)
            told = check_revocation((leaf, root), each, signed_at, at)
            assert published.state is told.state
            if published.state is Revocation.SIGNED_BEFORE:
                assert (published.reason in HONEST_ENDS) == (told.reason in HONEST_ENDS)


def test_a_superseded_authority_that_was_compromised_later_is_not_believed_before_either(
    tmp_path: Path,
) -> None:
    """Its list and its responder: whoever has the key dates tokens as he likes, also to before the honest end."""
    begun = datetime.now(UTC).replace(microsecond=0)
    home = create_home(tmp_path / "h", "Test Newsroom", "http://127.0.0.1:8461/ocsp/", begun)
    keys = {name: generate_p256() for name in ("ann", "bob")}
    for name, key in keys.items():
        add_operator(home, name, public_pem(key.public_key), Role.CA_OPERATOR, begun)
    superseded, compromised, at = begun + DAY, begun + 2 * DAY, begun + 3 * DAY
    for reason, since, moment in (
        (Reason.SUPERSEDED, None, superseded),
        (Reason.KEY_COMPROMISE, compromised, at),
    ):
        target = target_of(home, TargetKind.CA, "time-stamping")
        signed = Signed(propose(home, target, reason, since, moment), ())
        for name, key in keys.items():
            signed = sign(signed, name, key)
        carry_out(home, signed, moment)
    path = home.certificate("time-stamping"), home.certificate("time-root")
    renew_responders(home, at)
    with status_desk(home, lambda: at) as desk:
        answer = desk.answer(ocsp_request(*map(encoded, path)))
    for said in (list_path(home, "time-root").read_bytes(), answer):
        facts = check_revocation(path, Statuses.parse_file(said), begun + DAY / 2, at)
        assert (facts.state, facts.reason) == (Revocation.SIGNED_BEFORE, "keyCompromise")
        assert facts.since == superseded
        after = check_revocation(path, Statuses.parse_file(said), superseded + DAY / 2, at)
        assert after.state is Revocation.REVOKED
