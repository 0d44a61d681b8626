"""Tokens that come later, in a manifest that vouches for an earlier signature."""

import dataclasses
import importlib.util
import io
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from authn import jumbf
from authn.attached import later_tokens, stapled_answers
from authn.evidence import History, Provenance
from authn.locate import locate
from authn.manifest import Sdk
from authn.media import Media
from authn.signer import Lists
from authn.timestamp.loopback import serving
from authn.verify import verify_media

_SPEC = importlib.util.spec_from_file_location("forge", Path(__file__).parent / "vectors" / "forge.py")
assert _SPEC is not None
assert _SPEC.loader is not None
forge: Any = sys.modules.setdefault("forge", importlib.util.module_from_spec(_SPEC))
if not hasattr(forge, "Draft"):
    _SPEC.loader.exec_module(forge)

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def lab() -> Any:
    return forge.house(NOW - 40 * DAY)


@pytest.fixture(scope="module")
def dial() -> Any:
    return forge.clock(NOW - 40 * DAY)


@pytest.fixture(scope="module")
def sdk() -> Iterator[Sdk]:
    with Sdk() as opened:
        yield opened


def judged(sdk: Sdk, data: bytes, lists: Lists) -> Provenance:
    return verify_media(Media.of(io.BytesIO(data), "file", 1 << 30), sdk, lists, NOW)


def manifests_of(draft: Any) -> tuple[jumbf.ManifestBoxes, ...]:
    store = locate(Media.of(io.BytesIO(draft.write()), "file", 1 << 30))
    assert store is not None
    return jumbf.parse(store)


def vouched_for(lab: Any, dial: Any, parent: bytes, at: datetime) -> bytes:
    """An update of `parent` whose writer asked the clock for a token over the parent's signature."""
    with serving(dial.authority(at)) as url:
        settings = {
            "core": {"allowed_network_hosts": [url.split("/")[2]]},
            "builder": {
                "auto_timestamp_assertion": {"enabled": True, "fetch_scope": "all", "skip_existing": True}
            },
        }
        return forge.sdk_signed(
            parent, lab.camera, parent=parent, intent="update", url=url, settings=settings
        )


def unstamped(lab: Any, **changes: Any) -> bytes:
    who = dataclasses.replace(
        lab.camera,
        chain=(forge.remade(lab.camera.chain[0], lab.issuing_key, **changes), lab.issuing),
    )
    return forge.Draft(forge.picture(), who).write()


def test_a_later_token_dates_the_earlier_signature(lab: Any, dial: Any, sdk: Sdk) -> None:
    data = vouched_for(lab, dial, unstamped(lab), NOW)
    found = judged(sdk, data, forge.lists([lab.root], [dial.root]))
    (step,) = found.steps
    assert (found.history, step.problems) == (History.COMPLETE, ())
    assert step.time.not_after == NOW + timedelta(seconds=1)
    stranger = forge.clock(NOW - 40 * DAY)
    assert judged(sdk, data, forge.lists([lab.root], [stranger.root])).steps[0].time.not_after is None


def test_a_certificate_that_ended_since_counts_only_with_the_later_token(
    lab: Any, dial: Any, sdk: Sdk
) -> None:
    """The SDK never reports an ingredient whose certificate ended, whether or not its authority is known."""
    ended = unstamped(lab, not_after=NOW - DAY)
    data = vouched_for(lab, dial, ended, NOW - 9 * DAY)
    found = judged(sdk, data, forge.lists([lab.root], [dial.root]))
    assert (found.steps[0].recognised, found.steps[0].problems) == (True, ())
    unlisted = judged(sdk, data, forge.lists([lab.root]))
    assert unlisted.history is History.PROBLEM
    assert "signer-not-recognised" in unlisted.steps[0].problems


def test_a_token_is_for_the_manifest_that_it_names_and_never_for_its_own(lab: Any) -> None:
    token = b"a token"
    box = forge.cbor_assertion("c2pa.time-stamp", {"urn:c2pa:one": token, "urn:c2pa:two": token})
    draft = forge.Draft(forge.picture(), lab.camera, label="urn:c2pa:two", assertions=[box])
    manifests = manifests_of(draft)
    assert later_tokens(manifests, "urn:c2pa:one") == (token,)
    assert later_tokens(manifests, "urn:c2pa:two") == ()
    assert later_tokens(manifests, "urn:c2pa:three") == ()


@pytest.mark.parametrize("body", [{"ocspVals": [b"a", 7, b"b" * 70_000]}, [b"a"], {"ocspVals": b"a"}, 7])
def test_status_answers_are_collected_whatever_shape_they_have(lab: Any, body: Any) -> None:
    box = forge.cbor_assertion("c2pa.certificate-status", body)
    manifests = manifests_of(forge.Draft(forge.picture(), lab.camera, assertions=[box]))
    assert set(stapled_answers(manifests)) <= {b"a"}


@pytest.mark.parametrize("body", [{"urn:c2pa:one": 7}, {"urn:c2pa:one": bytes(100_000)}, [1], 7])
def test_a_token_that_is_none_is_not_there(lab: Any, body: Any) -> None:
    box = forge.cbor_assertion("c2pa.time-stamp", body)
    manifests = manifests_of(forge.Draft(forge.picture(), lab.camera, assertions=[box]))
    assert later_tokens(manifests, "urn:c2pa:one") == ()
