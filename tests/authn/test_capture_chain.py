"""A chain of captures is derived again from its definition; nothing in a file shows a place in it."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn import cbor
from authn.capture_chain import (
    FIRST,
    LABEL,
    MAX_CHECKPOINT,
    MAX_COUNTER,
    Link,
    MalformedCaptureError,
    Opening,
    assertion,
    commitment,
    read_statement,
)
from authn.evidence import CaptureStatement
from authn.jumbf import Assertion, ManifestBoxes

NOTE = "lightseal.local/x\n7\nAAAA\n\n— lightseal.local/x sig\n"
digests = st.binary(min_size=32, max_size=32)
openings = st.builds(Opening, digests, digests, st.integers(1, MAX_COUNTER), digests, st.text(max_size=60))


def spec_link(previous: bytes, counter: int, media: bytes, checkpoint: str) -> bytes:
    """The definition, word for word."""
    note = hashlib.sha256(checkpoint.encode()).digest()
    parts = (b"lightseal/capture/v1", b"\0", previous, counter.to_bytes(8, "big"), media, note)
    return hashlib.sha256(b"".join(parts)).digest()


@given(digests, st.integers(1, MAX_COUNTER), digests, st.text(max_size=60))
def test_a_link_is_the_hash_of_all_it_names(
    previous: bytes, counter: int, media: bytes, checkpoint: str
) -> None:
    assert Link(previous, counter, media, checkpoint).digest == spec_link(
        previous, counter, media, checkpoint
    )


@given(openings)
def test_an_opening_is_read_as_it_was_written(opening: Opening) -> None:
    assert Opening.parse(str(opening), opening.checkpoint) == opening
    salted = b"lightseal/capture-commitment/v1\0" + opening.salt + opening.link
    assert (
        opening.statement.commitment
        == hashlib.sha256(salted).digest()
        == commitment(opening.salt, opening.link)
    )
    assert opening.opens(opening.statement)


@given(st.text(max_size=300))
def test_text_that_is_no_opening_raises_only_its_own_error(text: str) -> None:
    with pytest.raises(MalformedCaptureError):
        Opening.parse(text, "")


@given(openings, digests)
def test_an_opening_of_something_else_does_not_open(opening: Opening, other: bytes) -> None:
    changed = [
        replace(opening, salt=other),
        replace(opening, previous=other),
        replace(opening, media=other),
        replace(opening, counter=opening.counter % MAX_COUNTER + 1),
        replace(opening, checkpoint=opening.checkpoint + "x"),
    ]
    assert not any(each.opens(opening.statement) for each in changed if each != opening)


def test_leading_zeros_and_other_spellings_are_refused() -> None:
    text = str(Opening(bytes(32), FIRST, 7, bytes(32), ""))
    for other in (
        text.replace("=7", "=07"),
        text.replace(", ", ","),
        text + " ",
        text.replace("AA=:", "AB=:"),
    ):
        with pytest.raises(MalformedCaptureError):
            Opening.parse(other, "")


@pytest.mark.parametrize("counter", [0, -1, MAX_COUNTER + 1])
def test_numbers_begin_at_one_and_end(counter: int) -> None:
    with pytest.raises(MalformedCaptureError):
        Link(FIRST, counter, bytes(32), "")


def test_a_checkpoint_has_a_limit() -> None:
    with pytest.raises(MalformedCaptureError, match="longer"):
        Opening(bytes(32), FIRST, 1, bytes(32), "x" * (MAX_CHECKPOINT + 1))


def manifest(*assertions: tuple[str, bytes, bytes], listed: str = "created_assertions") -> ManifestBoxes:
    """A manifest that lists all of its assertions, hand-made."""
    items = b"".join(
        b"\xa1\x63url" + cbor.encode(f"self#jumbf=c2pa.assertions/{label}") for label, _, _ in assertions
    )
    claim = b"\xa1" + cbor.encode(listed) + bytes([0x80 + len(assertions)]) + items
    boxes = tuple(Assertion(label, kind, content, content) for label, kind, content in assertions)
    return ManifestBoxes("urn:c2pa:x", claim, "c2pa.claim.v2", b"", boxes)


def said(commitment_hex: str, checkpoint: str) -> bytes:
    return (
        b"\xa2" + cbor.encode("checkpoint") + cbor.encode(checkpoint)
        + cbor.encode("commitment") + cbor.encode(commitment_hex)
    )  # fmt: skip


def test_what_a_claim_says_is_read() -> None:
    good = (LABEL, b"cbor", said("ab" * 32, NOTE))
    assert read_statement(manifest(good)) == CaptureStatement(bytes.fromhex("ab" * 32), NOTE)
    without = (LABEL, b"cbor", said("ab" * 32, ""))
    assert read_statement(manifest(without)) == CaptureStatement(bytes.fromhex("ab" * 32), None)


def test_what_is_not_said_once_by_the_signer_is_not_said() -> None:
    good = (LABEL, b"cbor", said("ab" * 32, NOTE))
    assert read_statement(manifest()) is None
    assert read_statement(manifest(good, listed="gathered_assertions")) is None, "passed on, not made"
    assert read_statement(manifest(good, (f"{LABEL}__1", b"cbor", good[2]))) is None, "two places are none"
    assert read_statement(replace(manifest(good), claim=b"\xa0")) is None, "not listed at all"


@pytest.mark.parametrize(
    "content",
    [
        said("AB" * 32, NOTE),
        said("ab" * 31, NOTE),
        said("ab" * 32, "x" * (MAX_CHECKPOINT + 1)),
        b"\xa0",
        b"\x80",
        b"\xff",
        b"",
        said("ab" * 32, NOTE) + b"\x00",
    ],
)
def test_what_cannot_be_read_is_not_said(content: bytes) -> None:
    assert read_statement(manifest((LABEL, b"cbor", content))) is None
    assert read_statement(manifest((LABEL, b"json", content))) is None


@given(st.binary(max_size=80))
def test_nothing_in_a_file_makes_the_reader_raise(content: bytes) -> None:
    read_statement(manifest((LABEL, b"cbor", content)))
    read_statement(replace(manifest((LABEL, b"cbor", said("ab" * 32, NOTE))), claim=content))


def test_the_assertion_shows_no_place_in_the_chain() -> None:
    opening = Opening(b"s" * 32, b"p" * 32, 123456789, b"m" * 32, NOTE)
    text = repr(assertion(opening.statement))
    for hidden in (opening.salt, opening.previous, opening.media, opening.link):
        assert hidden.hex() not in text
    assert "123456789" not in text


def test_half_a_character_in_a_checkpoint_is_refused_and_hashes_nothing() -> None:
    with pytest.raises(MalformedCaptureError):
        Link(FIRST, 1, bytes(32), "\ud800")
