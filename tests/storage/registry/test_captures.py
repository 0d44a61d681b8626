"""The chain of a device's captures: whole, with gaps that are named, and forked by nobody unseen."""

import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count, pairwise

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from storage.registry.captures import MAX_FORKS
from storage.registry.errors import (
    CaptureKnownError,
    CaptureUnknownError,
    CertificateReusedError,
    ChainBeginningError,
    CounterReusedError,
    DeviceRevokedError,
    DeviceSuspendedError,
    DeviceUnknownError,
    ForkError,
    MalformedRowError,
)
from storage.registry.registry import Registry
from storage.registry.rows import GENESIS, Capture, Contradiction, Device, Fork, Head, Product, Status

AT = datetime(2026, 11, 25, tzinfo=UTC)
_numbers = count()


def require_whole(captures, numbers) -> None:
    """See that these are all links of one chain that begins at its beginning."""
    assert [each.counter for each in captures] == list(numbers)
    assert captures[0].previous == GENESIS
    assert all(after.previous == before.link for before, after in pairwise(captures))


def test_two_hundred_captures_at_once_in_any_order_make_one_unbroken_chain(
    thirty, filled_url, make_capture
) -> None:
    """Thirty uploaders in five processes share them out at random, and every capture is sent twice."""
    queue = [make_capture("camera", number) for number in range(1, 201)] * 2
    random.Random(5).shuffle(queue)  # noqa: S311 - an order, no secret

    def upload(registry: Registry, user: int) -> int:
        return sum(registry.add_capture(each).counter == each.counter for each in queue[user::30])

    assert sum(thirty(upload)) == 400
    with Registry.open(filled_url) as registry:
        require_whole(registry.captures("camera"), range(1, 201))
        assert registry.missing("camera") == ()
        assert registry.forks("camera") == ()
        assert registry.device("camera").status is Status.ACTIVE


def test_of_thirty_captures_after_the_same_head_one_is_taken_and_the_device_is_suspect(
    thirty, filled_url, make_capture
) -> None:
    """Thirty copies of the key go on from the same link, each with a photograph of its own."""
    with Registry.open(filled_url) as registry:
        registry.add_capture(make_capture("camera", 1))
    answers = thirty(
        lambda registry, user: bool(registry.add_capture(make_capture("camera", 2, of=f" of {user}")))
    )
    assert Counter(answers) == {True: 1, "chain-fork": 29}
    with Registry.open(filled_url) as registry:
        require_whole(registry.captures("camera"), range(1, 3))
        assert registry.device("camera").status is Status.SUSPECT
        assert len(registry.status_changes("camera")) == 1
        forks = registry.forks("camera")
        accepted = registry.captures("camera")[1]
        assert len({fork.refused.claim for fork in forks}) == 29
        assert all(fork.refused.previous == accepted.previous for fork in forks)
        assert {fork.against for fork in forks} == {accepted.claim}


def test_of_thirty_captures_with_one_number_and_no_common_predecessor_one_is_taken(
    thirty, filled_url, make_capture, digest
) -> None:
    with Registry.open(filled_url) as registry:
        registry.add_capture(make_capture("camera", 1))
    answers = thirty(
        lambda registry, user: bool(
            registry.add_capture(
                make_capture("camera", 9, previous=digest(f"unknown {user}"), of=f" of {user}")
            )
        )
    )
    assert Counter(answers) == {True: 1, "counter-reused": 29}
    with Registry.open(filled_url) as registry:
        assert [each.counter for each in registry.captures("camera")] == [1, 9]
        assert registry.device("camera").status is Status.ACTIVE


def test_the_same_capture_again_is_answered_as_the_first_time(registry, make_capture, at) -> None:
    first = make_capture("camera", 1)
    assert registry.add_capture(first) == first
    assert registry.add_capture(replace(first, at=at.replace(year=2027))) == first
    logged = registry.set_entry(first.claim, 17)
    assert registry.add_capture(first) == logged == replace(first, entry=17)
    registry.set_status("camera", Status.SUSPENDED, at, "a test")
    assert registry.add_capture(first) == logged
    assert registry.captures("camera") == (logged,)


def test_a_gap_is_named_and_closed_by_what_was_missing(registry, make_capture) -> None:
    taken = [make_capture("camera", number) for number in range(1, 11)]
    assert registry.add_capture(taken[0]).gap == range(0)
    assert registry.add_capture(taken[4]).gap == range(2, 5)
    assert registry.add_capture(taken[9]).gap == range(6, 10)
    assert registry.missing("camera") == (range(2, 5), range(6, 10))
    assert registry.chain_head("camera") == Head(10, taken[9].link)
    # What comes late has a place of its own, and what it came after stays recorded.
    assert registry.add_capture(taken[2]).gap == range(2, 3)
    assert registry.missing("camera") == (range(2, 3), range(4, 5), range(6, 10))
    for late in (taken[1], taken[3], *taken[5:9]):
        registry.add_capture(late)
    assert registry.missing("camera") == ()
    require_whole(registry.captures("camera"), range(1, 11))
    assert registry.capture_by_claim(taken[4].claim).gap == range(2, 5)
    assert registry.device("camera").status is Status.ACTIVE


def test_a_number_that_the_links_go_over_is_missing_for_ever(registry, make_capture, digest) -> None:
    """The counter counted three; the device shows two that are linked, and never says what the third was."""
    first, third = make_capture("camera", 1), make_capture("camera", 3, previous=digest("camera link 1"))
    registry.add_capture(first)
    assert registry.add_capture(third).gap == range(2, 3)
    assert registry.missing("camera") == (range(2, 3),)
    with pytest.raises(ForkError):
        registry.add_capture(make_capture("camera", 2))
    with pytest.raises(ForkError):
        registry.add_capture(make_capture("camera", 2, previous=digest("elsewhere"), of=" another"))


def test_a_chain_whose_beginning_did_not_arrive_misses_it(registry, make_capture) -> None:
    assert registry.add_capture(make_capture("camera", 4)).gap == range(1, 4)
    assert registry.missing("camera") == (range(1, 4),)
    for number in (3, 1, 2):
        registry.add_capture(make_capture("camera", number))
    assert registry.missing("camera") == ()


def test_a_chain_may_begin_at_any_number(registry, make_capture) -> None:
    """As the counter of a TPM does."""
    assert registry.chain_beginning("camera") is None
    registry.add_capture(make_capture("camera", 41))
    assert registry.chain_beginning("camera") is None, "it names somebody who did not arrive"
    assert registry.add_capture(make_capture("camera", 40, previous=GENESIS)).gap == range(0)
    assert registry.chain_beginning("camera") == 40
    assert registry.chain_beginning("phone") is None
    assert registry.missing("camera") == ()
    with pytest.raises(ForkError):
        registry.add_capture(make_capture("camera", 39))


def test_one_deleted_of_twenty_is_one_gap(registry, make_capture) -> None:
    for number in range(1, 21):
        if number != 13:
            registry.add_capture(make_capture("camera", number))
    assert registry.missing("camera") == (range(13, 14),)


@pytest.mark.parametrize(
    ("counter", "previous"),
    [
        (6, "camera link 4"),  # a second successor of 4
        (9, "camera link 6"),  # 7 has arrived and names 6, and so does this
        (9, "camera link 5"),  # after 5 there is 6
        (11, "camera link 8"),  # after 8 comes something, and it is not this: 10 lies between
        (11, "elsewhere"),  # after 10 there is no room for something else
        (12, None),  # begins again
        (9, "elsewhere, but before ten"),  # ten names another nine
        (8, "again"),  # the same number, and nothing else in common: see the next test
    ],
)
def test_what_contradicts_the_chain_is_kept_as_evidence(
    registry, make_capture, digest, counter, previous
) -> None:
    for number in (1, 2, 3, 4, 5, 6, 7, 8, 10):
        registry.add_capture(make_capture("camera", number))
    before = registry.captures("camera")
    name = GENESIS if previous is None else digest(previous)
    wrong = make_capture("camera", counter, previous=name, of=" forged")
    if previous == "again":
        with pytest.raises(CounterReusedError):
            registry.add_capture(wrong)
        assert registry.forks("camera") == ()
        assert registry.device("camera").status is Status.ACTIVE
        return
    with pytest.raises(ForkError):
        registry.add_capture(wrong)
    (fork,) = registry.forks("camera")
    assert fork.refused == wrong
    assert fork.about is Contradiction.PLACE
    assert fork.against in {each.claim for each in before}
    assert registry.device("camera").status is Status.SUSPECT
    (change,) = registry.status_changes("camera")
    assert f"the capture {counter} contradicts the capture" in change.why
    # The chain is as it was, and it goes on: the honest half of a fork is not silenced.
    assert registry.captures("camera") == before
    registry.add_capture(make_capture("camera", 9))
    registry.add_capture(make_capture("camera", 11))
    assert registry.missing("camera") == ()


def test_a_number_used_again_is_refused_without_suspicion(registry, make_capture, digest) -> None:
    for number in (1, 2, 3):
        registry.add_capture(make_capture("camera", number))
    with pytest.raises(CounterReusedError):  # the counter was put back, the link was not
        registry.add_capture(make_capture("camera", 3, previous=digest("camera link 3"), of=" again"))
    with pytest.raises(ForkError):  # both were: as a copy of the device would do
        registry.add_capture(make_capture("camera", 3, of=" again"))


def test_known_evidence_does_not_undo_what_a_person_decided(registry, make_capture, at) -> None:
    registry.add_capture(make_capture("camera", 1))
    forged = make_capture("camera", 1, of=" forged")
    with pytest.raises(ForkError):
        registry.add_capture(forged)
    registry.set_status("camera", Status.ACTIVE, at, "looked at by Ada")
    with pytest.raises(ForkError):
        registry.add_capture(forged)
    assert registry.device("camera").status is Status.ACTIVE
    assert len(registry.forks("camera")) == 1
    with pytest.raises(ForkError):
        registry.add_capture(make_capture("camera", 1, of=" forged again"))
    assert registry.device("camera").status is Status.SUSPECT


def one_time(registry, make_certificate, number: int = 1, **other: str):
    """The digest of a certificate for one capture, issued to the camera."""
    certificate = replace(make_certificate(number, **other), lifetime="one-time")
    registry.add_certificates([certificate])
    return certificate.sha256


def test_a_one_time_certificate_that_signs_two_captures_is_a_fork(
    registry, make_capture, make_certificate
) -> None:
    """The links are those of one chain: only the certificate tells of the copied folder."""
    certificate = one_time(registry, make_certificate)
    first, second, third = (
        replace(make_capture("camera", number), certificate=certificate) for number in (1, 2, 3)
    )
    assert registry.add_capture(first) == first
    for again in (second, second, third):
        with pytest.raises(CertificateReusedError):
            registry.add_capture(again)
        assert registry.device("camera").status is Status.SUSPECT
    assert registry.captures("camera") == (first,)
    assert registry.add_capture(first) == first, "the same capture is none that uses it again"
    assert registry.forks("camera") == tuple(
        Fork(each, first.claim, Contradiction.CERTIFICATE) for each in (second, third)
    )
    (change,) = registry.status_changes("camera")
    assert change.why == "the capture 2 has the one-time certificate of the capture 1"
    # Who has a certificate left goes on, and the refused number is missing.
    other = replace(
        make_capture("camera", 4, previous=third.link),
        certificate=one_time(registry, make_certificate, 2),
    )
    assert registry.add_capture(other).gap == range(2, 4)


def test_a_one_time_certificate_used_again_under_a_used_number_is_no_mere_lost_counter(
    registry, make_capture, make_certificate, digest
) -> None:
    certificate = one_time(registry, make_certificate)
    registry.add_capture(make_capture("camera", 1))
    registry.add_capture(replace(make_capture("camera", 2), certificate=certificate))
    again = make_capture("camera", 2, previous=digest("elsewhere"), of=" again")
    with pytest.raises(CertificateReusedError):
        registry.add_capture(replace(again, certificate=certificate))
    assert registry.device("camera").status is Status.SUSPECT


def test_a_one_time_certificate_is_used_up_for_every_device(registry, make_capture, make_certificate) -> None:
    certificate = one_time(registry, make_certificate)
    registry.add_capture(replace(make_capture("camera", 1), certificate=certificate))
    with pytest.raises(CertificateReusedError):
        registry.add_capture(replace(make_capture("phone", 1), certificate=certificate))
    assert registry.captures("phone") == ()


@pytest.mark.parametrize("lifetime", ["standard", "session"])
def test_other_certificates_sign_as_many_captures_as_they_like(
    registry, make_capture, make_certificate, lifetime
) -> None:
    certificate = replace(make_certificate(1), lifetime=lifetime)
    registry.add_certificates([certificate])
    for number in (1, 2, 3):
        registry.add_capture(replace(make_capture("camera", number), certificate=certificate.sha256))
    assert {each.certificate for each in registry.captures("camera")} == {certificate.sha256}
    assert registry.device("camera").status is Status.ACTIVE


def test_of_thirty_captures_at_once_with_a_one_time_certificate_one_is_taken(
    thirty, filled_url, make_capture, make_certificate
) -> None:
    with Registry.open(filled_url) as registry:
        certificate = one_time(registry, make_certificate)
    answers = thirty(
        lambda registry, user: bool(
            registry.add_capture(replace(make_capture("camera", user + 1), certificate=certificate))
        )
    )
    assert Counter(answers) == {True: 1, "certificate-reused": 29}
    with Registry.open(filled_url) as registry:
        assert len(registry.captures("camera")) == 1
        assert len(registry.forks("camera")) == 29
        assert registry.device("camera").status is Status.SUSPECT


def test_forks_do_not_fill_the_disk(registry, make_capture) -> None:
    registry.add_capture(make_capture("camera", 1))
    for number in range(MAX_FORKS + 3):
        with pytest.raises(ForkError):
            registry.add_capture(make_capture("camera", 1, of=f" {number}"))
    assert len(registry.forks("camera")) == MAX_FORKS


def test_only_devices_that_are_heard_may_capture(registry, make_capture, at) -> None:
    registry.set_status("camera", Status.SUSPENDED, at, "a test")
    with pytest.raises(DeviceSuspendedError):
        registry.add_capture(make_capture("camera", 1))
    registry.set_status("camera", Status.REVOKED, at, "a test")
    with pytest.raises(DeviceRevokedError):
        registry.add_capture(make_capture("camera", 1))
    with pytest.raises(DeviceUnknownError):
        registry.add_capture(make_capture("nobody", 1))
    assert registry.captures("camera") == ()


def test_devices_have_chains_of_their_own(registry, make_capture) -> None:
    for device in ("camera", "phone"):
        for number in (1, 2):
            registry.add_capture(make_capture(device, number))
    require_whole(registry.captures("camera"), (1, 2))
    with pytest.raises(CaptureKnownError):
        registry.add_capture(replace(make_capture("phone", 3), claim=make_capture("camera", 1).claim))


def test_the_ledgers_entry_is_set_once(registry, make_capture, digest) -> None:
    first, second = (registry.add_capture(make_capture("camera", number)) for number in (1, 2))
    assert registry.unlogged(10) == (first, second)
    assert registry.unlogged(1) == (first,)
    assert registry.set_entry(first.claim, 4).entry == 4
    assert registry.set_entry(first.claim, 4).entry == 4
    with pytest.raises(CaptureKnownError):
        registry.set_entry(first.claim, 5)
    with pytest.raises(CaptureUnknownError):
        registry.set_entry(digest("nothing"), 5)
    assert registry.unlogged(10) == (second,)
    assert registry.add_capture(replace(make_capture("camera", 3), entry=6)).entry == 6


def test_the_first_capture_names_no_predecessor(registry, make_capture, digest) -> None:
    with pytest.raises(ChainBeginningError):
        registry.add_capture(make_capture("camera", 1, previous=digest("something")))
    with pytest.raises(MalformedRowError):
        make_capture("camera", 0)


def made(device: str, place: int, one: tuple[int, int, int], digest) -> Capture:
    """The capture with these small numbers for its counter and its links, and a claim of its own."""
    counter, previous, link = one
    rest = digest(f"{device}, {place}")
    links = [bytes(31) + bytes([number]) for number in (link, previous)]
    return Capture(device, counter, *links, *[rest] * 6, AT)


def chained(captures: list[tuple[int, int, int]]) -> bool:
    """Whether one device could have made all of these (counter, previous, link), and others; from the definition.

    In order of counters each names the one before or somebody who did not arrive and had a
    number for that; nobody else names it; and the first begins, or had somebody before.
    """
    captures = sorted(captures)
    links = [link for _, _, link in captures]
    named = [previous for _, previous, _ in captures]
    if len(set(links)) < len(links) or len(set(named)) < len(named) or 0 in links:
        return False
    number, last = 0, 0
    for place, (counter, previous, link) in enumerate(captures):
        unseen = previous != 0 and previous not in links and last not in named and counter - number > 1
        if place == 0:
            unseen = previous != 0 and previous not in links and counter > 1
        if not (previous == last or unseen):
            return False
        number, last = counter, link
    return True


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    st.lists(
        st.tuples(st.integers(1, 7), st.integers(0, 7), st.integers(1, 7)).filter(lambda it: it[1] != it[2]),
        max_size=9,
    )
)
@example([(1, 0, 1), (3, 2, 3), (2, 1, 2)])
@example([(1, 0, 1), (4, 1, 4), (3, 5, 3)])
@example([(2, 1, 2), (1, 0, 1), (4, 2, 4)])
def test_what_is_accepted_is_always_one_chain_and_all_of_it_that_could_be(
    sqlite_url, digest, offered
) -> None:
    with Registry.create(sqlite_url) as registry:
        number = next(_numbers)
        name = f"device {number}"
        registry.add_product(Product("Camera", "Example", "standard", "E0", b"{}", AT))
        registry.add_device(Device(name, "Camera", digest(name), Status.ACTIVE, None, "E0", AT))
        accepted: list[tuple[int, int, int]] = []
        for place, one in enumerate(offered):
            try:
                registry.add_capture(made(name, place, one, digest))
            except (ForkError, ChainBeginningError):
                assert not chained([*accepted, one])
            except CounterReusedError:
                assert one[0] in [counter for counter, _, _ in accepted]
            else:
                accepted.append(one)
                assert chained(accepted)
        counters = sorted(counter for counter, _, _ in accepted)
        begun = any(previous == 0 for _, previous, _ in accepted)
        expected = (
            set(range(counters[0] if begun else 1, counters[-1])) - set(counters) if counters else set()
        )
        assert {hole for holes in registry.missing(name) for hole in holes} == expected
        assert all(isinstance(each, Fork) for each in registry.forks(name))
