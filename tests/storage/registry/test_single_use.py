"""Whatever is good for one use is used once, however many ask at once."""

from collections import Counter
from datetime import timedelta

import pytest

from storage.registry.errors import (
    DeviceUnknownError,
    KnownError,
    MalformedRowError,
    NonceExpiredError,
    NonceReplayedError,
    NonceUnknownError,
    NonceWrongDeviceError,
    ProductUnknownError,
    TokenExpiredError,
    TokenUnknownError,
    TokenUsedError,
)
from storage.registry.registry import Registry

MINUTE = timedelta(minutes=1)


def test_of_thirty_users_of_a_bootstrap_token_one_wins(thirty, filled_url, digest, at) -> None:
    with Registry.open(filled_url) as registry:
        registry.add_bootstrap(digest("token"), "Camera 1", at + MINUTE)
    answers = thirty(lambda registry, _: registry.use_bootstrap(digest("token"), at).name)
    assert Counter(answers) == {"Camera 1": 1, "token-used": 29}


def test_of_thirty_answers_to_a_challenge_one_wins(thirty, filled_url, digest, at) -> None:
    with Registry.open(filled_url) as registry:
        registry.add_challenge(digest("challenge"), "enrolment", "camera", at + MINUTE)
    answers = thirty(
        lambda registry, _: registry.use_challenge(digest("challenge"), "enrolment", "camera", at)
    )
    assert Counter(answers) == {None: 1, "replayed-nonce": 29}


def test_of_thirty_requests_with_one_nonce_one_wins(thirty, digest, at) -> None:
    answers = thirty(lambda registry, _: registry.use_nonce(digest("nonce"), "camera", at, at + MINUTE))
    assert Counter(answers) == {None: 1, "replayed-nonce": 29}


def test_a_token_is_good_for_its_product_and_its_time(registry, digest, at) -> None:
    registry.add_bootstrap(digest("token"), "Phone 2", at + MINUTE)
    with pytest.raises(TokenExpiredError):
        registry.use_bootstrap(digest("token"), at + MINUTE)
    with pytest.raises(TokenUnknownError):
        registry.use_bootstrap(digest("another token"), at)
    # Neither refusal used it up.
    assert registry.use_bootstrap(digest("token"), at + MINUTE - timedelta(microseconds=1)).name == "Phone 2"
    with pytest.raises(TokenUsedError):
        registry.use_bootstrap(digest("token"), at)
    with pytest.raises(KnownError):
        registry.add_bootstrap(digest("token"), "Phone 2", at + MINUTE)
    with pytest.raises(ProductUnknownError):
        registry.add_bootstrap(digest("token 2"), "Phone 3", at + MINUTE)


@pytest.mark.parametrize(
    ("purpose", "subject", "later", "error"),
    [
        ("enrolment", "phone", 0, NonceWrongDeviceError),
        ("session", "camera", 0, NonceWrongDeviceError),
        ("enrolment", "camera", 60, NonceExpiredError),
    ],
)
def test_a_challenge_is_for_one_subject_one_purpose_and_its_time(
    registry, digest, at, purpose, subject, later, error
) -> None:
    registry.add_challenge(digest("challenge"), "enrolment", "camera", at + MINUTE)
    with pytest.raises(error):
        registry.use_challenge(digest("challenge"), purpose, subject, at + timedelta(seconds=later))
    # The refusal did not use it up.
    registry.use_challenge(digest("challenge"), "enrolment", "camera", at)
    with pytest.raises(NonceReplayedError):
        registry.use_challenge(digest("challenge"), "enrolment", "camera", at)


def test_a_nonce_is_burned_for_its_device_alone(registry, digest, at) -> None:
    registry.use_nonce(digest("nonce"), "camera", at, at + MINUTE)
    registry.use_nonce(digest("nonce"), "phone", at, at + MINUTE)
    with pytest.raises(NonceExpiredError):
        registry.use_nonce(digest("late"), "camera", at + MINUTE, at + MINUTE)
    with pytest.raises(DeviceUnknownError):
        registry.use_nonce(digest("nonce"), "nobody", at, at + MINUTE)


def test_what_expired_is_forgotten_in_steps_and_stays_refused(registry, digest, at) -> None:
    for number in range(7):
        registry.use_nonce(digest(f"nonce {number}"), "camera", at, at + MINUTE * (number + 1))
    registry.add_challenge(digest("old"), "enrolment", "camera", at)
    registry.add_challenge(digest("new"), "enrolment", "camera", at + 10 * MINUTE)
    later = at + 5 * MINUTE  # 4 nonces and a challenge expired before, and one nonce just now
    assert [registry.purge(later, limit=2) for _ in range(4)] == [2, 2, 1, 0]
    with pytest.raises(NonceExpiredError):
        registry.use_nonce(digest("nonce 0"), "camera", later, at + MINUTE)
    with pytest.raises(NonceReplayedError):
        registry.use_nonce(digest("nonce 5"), "camera", later, at + 6 * MINUTE)
    with pytest.raises(NonceUnknownError):
        registry.use_challenge(digest("old"), "enrolment", "camera", later)
    registry.use_challenge(digest("new"), "enrolment", "camera", later)


def test_a_nonce_that_was_forgotten_is_not_new_after_the_clock_went_back(registry, digest, at) -> None:
    registry.use_nonce(digest("nonce"), "camera", at, at + 5 * MINUTE)
    registry.use_nonce(digest("later"), "camera", at, at + 30 * MINUTE)
    assert registry.purge(at + 20 * MINUTE) == 1
    for expires in (5 * MINUTE, 2 * MINUTE):
        with pytest.raises(NonceExpiredError):
            registry.use_nonce(digest("nonce"), "camera", at + MINUTE, at + expires)
    # What was not forgotten is known still, and what is newer is as good as ever.
    with pytest.raises(NonceReplayedError):
        registry.use_nonce(digest("later"), "camera", at + MINUTE, at + 30 * MINUTE)
    registry.use_nonce(digest("fresh"), "camera", at + MINUTE, at + 6 * MINUTE)
    # An earlier purge takes nothing of it back.
    assert registry.purge(at) == 0
    with pytest.raises(NonceExpiredError):
        registry.use_nonce(digest("nonce"), "camera", at + MINUTE, at + 5 * MINUTE)


def test_a_clock_that_ran_ahead_refuses_no_more_than_what_it_forgot(registry, digest, at) -> None:
    registry.use_nonce(digest("nonce"), "camera", at, at + 5 * MINUTE)
    assert registry.purge(at + timedelta(days=30_000)) == 1
    registry.use_nonce(digest("fresh"), "camera", at + 2 * MINUTE, at + 7 * MINUTE)


def test_only_digests_are_taken_and_times_with_a_zone(registry, digest, at) -> None:
    with pytest.raises(MalformedRowError):
        registry.add_bootstrap(b"the token itself", "Camera 1", at)
    with pytest.raises(MalformedRowError):
        registry.use_bootstrap(digest("token"), at.replace(tzinfo=None))
