"""The store is found where the SDK finds it, or not at all; what is found decides nothing by itself."""

import importlib.util
import io
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from authn.errors import MediaError
from authn.evidence import Credentials
from authn.locate import locate
from authn.manifest import Sdk
from authn.media import Media
from authn.verify import MAX_ASSERTIONS, verify_media

_SPEC = importlib.util.spec_from_file_location("forge", Path(__file__).parent / "vectors" / "forge.py")
assert _SPEC is not None
assert _SPEC.loader is not None
forge: Any = sys.modules.setdefault("forge", importlib.util.module_from_spec(_SPEC))
if not hasattr(forge, "Draft"):
    _SPEC.loader.exec_module(forge)

NOW = datetime.now(UTC).replace(microsecond=0)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><path d="M0 0h9"/></svg>'


@pytest.fixture(scope="module")
def lab() -> Any:
    return forge.house(NOW - timedelta(days=9))


@pytest.fixture(scope="module")
def sdk() -> Iterator[Sdk]:
    with Sdk() as opened:
        yield opened


def media(data: bytes) -> Media:
    return Media.of(io.BytesIO(data), "file", 1 << 30)


def picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (32, 32), (9, 90, 200)).save(out, kind)
    return out.getvalue()


def wav() -> bytes:
    body = b"fmt " + (16).to_bytes(4, "little") + bytes.fromhex("0100010044ac000044ac0000010008") + b"\0"
    body = b"WAVE" + body + b"data" + (400).to_bytes(4, "little") + bytes(400)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


MADE = {
    "image/jpeg": forge.picture,
    "image/png": lambda: forge.picture("PNG"),
    "image/webp": lambda: picture("WEBP"),
    "image/gif": lambda: picture("GIF"),
    "image/tiff": lambda: picture("TIFF"),
    "image/svg+xml": lambda: SVG,
    "video/mp4": forge.film,
    "audio/wav": wav,
}


@pytest.mark.parametrize("mime", sorted(MADE))
def test_the_store_is_the_one_that_the_sdk_reads(lab: Any, sdk: Sdk, mime: str) -> None:
    signed = forge.sdk_signed(MADE[mime](), lab.camera, mime)
    reading = sdk.read(media(signed))
    assert reading.credentials is Credentials.PRESENT
    assert locate(media(signed)) == reading.store
    assert locate(media(MADE[mime]())) is None


def test_a_store_of_many_segments_is_put_together(lab: Any, sdk: Sdk) -> None:
    large = forge.cbor_assertion("org.lab.large", bytes(200_000))
    signed = forge.Draft(forge.picture(), lab.camera, assertions=[large]).write()
    assert locate(media(signed)) == sdk.read(media(signed)).store


def test_a_sidecar_is_the_store() -> None:
    given_ = Media(io.BytesIO(b""), 0, media(forge.picture()).kind, "x", b"0000jumb0000jumdc2pa")
    assert locate(given_) == given_.sidecar


def test_a_flood_of_assertions_never_reaches_the_sdk(lab: Any, sdk: Sdk) -> None:
    """The SDK needs a minute for 8,000; ours counts them first."""
    flood = [forge.cbor_assertion(f"org.lab.flood__{number}", number) for number in range(8000)]
    data = forge.Draft(forge.picture(), lab.camera, assertions=flood).write()
    before = time.process_time()
    found = verify_media(media(data), sdk, forge.lists([lab.root]), NOW)
    assert time.process_time() - before < 10
    assert found.credentials is Credentials.UNREADABLE
    assert "8002 assertions" in found.findings[0].explanation


def test_a_flood_that_our_own_reader_refuses_never_reaches_the_sdk_either(lab: Any, sdk: Sdk) -> None:
    flood = [forge.cbor_assertion(f"org.lab.flood__{number}", number) for number in range(20_000)]
    data = forge.Draft(forge.picture(), lab.camera, assertions=flood).write()
    before = time.process_time()
    found = verify_media(media(data), sdk, forge.lists([lab.root]), NOW)
    assert time.process_time() - before < 10
    assert found.credentials is Credentials.UNREADABLE


def test_as_many_assertions_as_are_allowed_are_checked(lab: Any, sdk: Sdk) -> None:
    some = [forge.cbor_assertion(f"org.lab.some__{number}", number) for number in range(MAX_ASSERTIONS - 2)]
    data = forge.Draft(forge.picture(), lab.camera, assertions=some).write()
    found = verify_media(media(data), sdk, forge.lists([lab.root]), NOW)
    assert found.credentials is Credentials.PRESENT


HEADS = [
    b"\xff\xd8\xff\xeb",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF\x00\x10\x00\x00WAVE",
    b"GIF89a",
    b"II*\0",
    b"<svg ",
]


@settings(deadline=None)
@given(
    st.sampled_from([*HEADS, b"\0\0\0\x18ftypisom\0\0\0\0isommp41", b"ID3\x04\0\0\0\0\x20\0"]), st.binary()
)
def test_nothing_but_an_error_of_ours_comes_of_hostile_bytes(head: bytes, rest: bytes) -> None:
    try:
        found = locate(media(head + rest))
    except MediaError:
        return
    assert found is None or found[4:8] == b"jumb"
