"""What goes between device, service and authority: read as it was written, and refused by our own errors only."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authn.attestation.judgement import Evidence, Kind
from authn.errors import KeyNotOursError
from authn.identity import Lifetime
from authn.public_key import read_public_key
from tools.issuance.enrolment import Completion, Opening, Question, Statement, Wish
from tools.issuance.errors import AttestationRefusedError, Error, MalformedError, ServiceError
from tools.issuance.order import Order, batch_of, order_fields, order_of
from tools.issuance.refusals import OURS, raise_refused, refusal, status_of
from tools.issuance.terms import Terms, Title
from tools.issuance.wire import (
    TpmKeys,
    completion_fields,
    completion_of,
    offer_of,
    opening_fields,
    opening_of,
    welcome_of,
)
from tools.revoking import ProposalError, Signed

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
TERMS = st.builds(
    Terms,
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    NAMES,
    st.text("abc XYZ-9", min_size=1, max_size=64),
    st.sampled_from(Lifetime),
    st.sampled_from(Title),
    st.lists(st.sampled_from(Kind), unique=True).map(tuple),
)
SMALL = st.binary(min_size=1, max_size=60)


def through(fields: object) -> Any:
    return json.loads(json.dumps(fields))


def keyed(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that have the right names, and anything under them."""
    return st.fixed_dictionaries(dict.fromkeys(names, JSON))


@given(TERMS)
def test_terms_come_back_as_they_went_and_have_one_name(terms: Terms) -> None:
    assert Terms.parse(through(terms.fields())) == terms
    assert Terms.parse(through(terms.fields())).identity == terms.identity


@given(TERMS, TERMS)
def test_other_terms_have_another_name(first: Terms, second: Terms) -> None:
    assert (first == second) == (first.identity == second.identity)


@given(JSON | keyed("challenge", "device", "kinds", "lifetime", "product", "title"))
def test_terms_refuse_with_one_error(fields: Any) -> None:
    with pytest.raises(ValueError, match=r"no terms|is not a valid"):
        Terms.parse(fields)


@given(
    st.builds(
        Opening,
        st.binary(min_size=32, max_size=32),
        st.text(max_size=20).filter(str.isprintable),
        st.none() | NAMES,
        st.none() | st.sampled_from(Lifetime),
        st.lists(st.sampled_from(Kind), min_size=1, unique=True).map(tuple),
    ),
    st.none() | st.builds(TpmKeys, SMALL, SMALL),
)
def test_an_opening_comes_back_as_it_went(opening: Opening, tpm: TpmKeys | None) -> None:
    assert opening_of(through(opening_fields(opening, tpm))) == (opening, tpm)


@given(
    st.builds(
        Completion,
        st.binary(min_size=32, max_size=32),
        TERMS,
        st.lists(
            st.builds(Wish, SMALL, st.builds(Evidence, st.sampled_from(Kind), SMALL)), min_size=1, max_size=3
        ).map(tuple),
        st.none() | st.tuples(SMALL, SMALL),
    )
)
def test_a_completion_comes_back_as_it_went(completion: Completion) -> None:
    assert completion_of(through(completion_fields(completion))) == completion


@given(st.builds(Order, SMALL, TERMS, st.lists(SMALL, max_size=3).map(tuple)))
def test_an_order_comes_back_as_it_went(order: Order) -> None:
    assert order_of(through(order_fields(order))) == order


@given(
    st.builds(
        Statement,
        st.builds(Question, SMALL, SMALL, st.binary(max_size=20), st.just(b"{}")),
        st.builds(Evidence, st.sampled_from(Kind), st.binary(max_size=100)),
        st.just(datetime(2026, 11, 25, tzinfo=UTC)),
    )
)
def test_kept_evidence_is_read_with_its_question(statement: Statement) -> None:
    assert Statement.read(statement.encode(), b"{}") == statement


@settings(max_examples=200)
@given(
    JSON
    | keyed("token", "product", "device", "lifetime", "kinds", "tpm")
    | keyed("challenge", "terms", "keys", "proof")
    | keyed("approval", "terms", "requests")
    | keyed("issuer", "certificates")
    | keyed("challenge", "terms", "expires", "credential")
    | keyed("device", "salt", "custody", "lifetime", "batch", "log_keys", "checkpoint")
)
def test_whatever_is_read_is_refused_in_our_own_words(fields: Any) -> None:
    for read in (opening_of, completion_of, order_of, batch_of):
        with pytest.raises(MalformedError):
            read(fields)
    for answered in (offer_of, welcome_of):
        with pytest.raises(ServiceError):
            answered(fields)
    with pytest.raises(ProposalError):
        Signed.parse(json.dumps(fields).encode())


@given(st.binary(max_size=300))
def test_bytes_that_are_no_key_are_refused_in_our_own_words(data: bytes) -> None:
    for each in (data, b"-----BEGIN PUBLIC KEY-----\n" + data):
        with pytest.raises(KeyNotOursError):
            read_public_key(each)


def every(base: type[Error]) -> list[type[Error]]:
    return [base, *(found for child in base.__subclasses__() for found in every(child))]


@pytest.mark.parametrize("kind", every(Error), ids=lambda kind: kind.__name__)
def test_a_refusal_is_the_same_on_the_other_side(kind: type[Error]) -> None:
    error = (
        AttestationRefusedError("boot-state", "it is unlocked")
        if kind is AttestationRefusedError
        else kind("it may not be")
    )
    with pytest.raises(kind) as caught:
        raise_refused(through(refusal(error)))
    assert str(caught.value) == str(error)
    assert 400 <= status_of(error) < 600
    assert kind.remedy.endswith((".", "!"))


def test_an_unknown_refusal_is_still_one_of_ours() -> None:
    for answer in ({"error": "sorcery"}, {"error": 7, "reason": 8}, {"error": ["x"]}):
        with pytest.raises(OURS):
            raise_refused(answer)
    raise_refused({})


def test_every_code_is_one_errors_own() -> None:
    codes = [kind.code for kind in every(Error)]
    assert len(codes) == len(set(codes))
