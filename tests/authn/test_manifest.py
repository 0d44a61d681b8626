"""What the SDK says is handed on and not believed; what keeps it from saying anything is named."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from authn import manifest
from authn.errors import SigningError, TimestampError
from authn.evidence import Credentials
from authn.manifest import Sdk
from authn.media import Media

VECTORS = Path(__file__).parent / "vectors"


@pytest.fixture(scope="module")
def sdk() -> Iterator[Sdk]:
    with Sdk() as opened:
        yield opened


def media(data: bytes) -> Media:
    return Media.of(io.BytesIO(data), "file", 1 << 30)


def vector(name: str) -> bytes:
    return (VECTORS / name).read_bytes()


def test_a_reading_holds_what_was_found_and_no_verdict(sdk: Sdk) -> None:
    found = sdk.read(media(vector("sound.jpg")))
    assert found.credentials is Credentials.PRESENT
    assert found.active is not None
    assert found.store in vector("sound.jpg")
    assert "assertion.dataHash.match" in {status.code for status in found.passes}
    # Nobody is listed and the certificate ages: neither is for the SDK to judge.
    assert {status.code.partition(".")[0] for status in found.failures} == {"signingCredential"}
    (only,) = found.manifests
    assert (only.label, only.ingredients) == (found.active, ())


def test_the_reader_starts_at_the_beginning_wherever_the_stream_stands(sdk: Sdk) -> None:
    stream = io.BytesIO(vector("sound.jpg"))
    found = Media.of(stream, "file", 1 << 30)
    stream.seek(0, io.SEEK_END)
    assert sdk.read(found).credentials is Credentials.PRESENT


def test_what_an_ingredient_s_signer_recorded_is_kept_apart(sdk: Sdk) -> None:
    found = sdk.read(media(vector("edit_of_changed.jpg")))
    (ingredient,) = next(item for item in found.manifests if item.label == found.active).ingredients
    assert ingredient.relationship == "parentOf"
    assert "assertion.dataHash.mismatch" in ingredient.recorded_failures
    assert "assertion.dataHash.mismatch" not in {status.code for status in found.failures}


def test_an_update_s_match_names_its_parent_s_binding(sdk: Sdk) -> None:
    found = sdk.read(media(vector("updated.jpg")))
    (match,) = (status for status in found.passes if status.code == "assertion.dataHash.match")
    assert found.active is not None
    assert f"/{found.active}/" not in match.url


def test_none_elsewhere_and_unreadable_are_three_answers(sdk: Sdk) -> None:
    sound = vector("sound.jpg")
    start = sound.index(b"\xff\xeb")
    end = start + 2 + int.from_bytes(sound[start + 2 : start + 4], "big")
    assert sdk.read(media(sound[:start] + sound[end:])).credentials is Credentials.NONE
    for broken in (
        sound[: start + 900],
        sound.replace(b"jumd", b"jumx", 1),
        sound.replace(b"c2pa.claim.v2\0", b"c2pa.claim.v9\0"),
    ):
        found = sdk.read(media(broken))
        assert found.credentials is Credentials.UNREADABLE
        assert found.reason.isprintable()


def test_writing_fails_with_our_own_errors(tmp_path: Path) -> None:
    claim = '{"claim_generator_info": [{"name": "lab", "version": "1"}], "assertions": []}'
    source = media(vector("sound.jpg"))
    with pytest.raises(SigningError):
        manifest.write(source, io.BytesIO(), "no claim", None, bytes, "no chain", None)
    with (tmp_path / "out.jpg").open("w+b") as out, pytest.raises((SigningError, TimestampError)):
        manifest.write(source, out, claim, None, bytes, vector("signers.pem").decode(), None)
