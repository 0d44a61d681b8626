"""A verifier of another code base on every attack and every public file: does it agree on integrity?

Its `integrity` is held against ours: the content is intact and the signature valid. Where the
two differ, the reason stands below; a difference that is not listed fails, and so does one that
is gone.
"""

import importlib.util
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import encypher_c2pa
import pytest

from authn import identity
from authn.errors import MediaError
from authn.evidence import Content, Signature
from authn.manifest import Sdk
from authn.media import Kind, Media, sniff
from authn.verify import verify_media

VECTORS = Path(__file__).parent / "vectors"
NOW = datetime.now(UTC).replace(microsecond=0)


def _loaded(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, VECTORS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(name, importlib.util.module_from_spec(spec))
    if not hasattr(module, "io"):
        spec.loader.exec_module(module)
    return module


forge = _loaded("forge")
public = _loaded("public")
attacks = _loaded("attacks")

_KIND = "its integrity includes the kind of the certificate; ours is a headline of its own, SIGNER_REJECTED"
_RANGE = "it lets a signer leave any range out of the hash; ours is SIGNED_PARTLY_COVERED"
# What we say, what it says, and why.
DIFFERENCES: dict[str, tuple[bool, bool, str]] = {
    **{
        f"11 {name}": (True, False, _KIND)
        for name in (
            "purpose_code_signing",
            "purpose_client_auth",
            "purpose_ocsp_signing",
            "purpose_claim_and_ocsp",
            "purpose_time_stamping",
            "purpose_any",
            "purpose_none",
            "usage_key_agreement",
            "usage_key_encipherment",
            "usage_key_cert_sign",
        )
    },
    "12 clock_signs": (True, False, _KIND),
    "12 clock_signs_both_lists": (True, False, _KIND),
    "12 clock_under_signers_root": (True, False, _KIND),
    "21 second_range": (False, True, _RANGE),
    "21 second_range_edited": (False, True, _RANGE),
    "33 legal": (
        True,
        False,
        "it looks for the assertion that c2pa.redacted names (assertion.action.redactionMismatch), and it is gone",
    ),
    "36 deep_boxes": (
        False,
        True,
        "it never opens an assertion that it does not know; we refuse 1,500 boxes in each other",
    ),
    "E-uri-CIE-sig-CA": (
        True,
        False,
        "a fault in an earlier version is part of its integrity; ours is SIGNED_HISTORY_PROBLEM",
    ),
}
_CUT = "it refuses a container that ends before its structure does"
UNREADABLE: dict[str, str] = {
    **{f"2 cut_jpeg_{part}": _CUT for part in ("5", "09")},
    **{f"2 cut_{kind}_{part}": _CUT for kind in ("png", "mp4", "wav") for part in ("999", "5", "09")},
    "broken_chunk.wav": "it refuses a chunk that reaches past the end",
}


@dataclass(frozen=True)
class Both:
    """What each verifier says of one file; `None` where it refused to read it."""

    ours: bool | None
    theirs: bool | None


@pytest.fixture(scope="module")
def compared() -> Iterator[dict[str, Both]]:
    with pytest.MonkeyPatch.context() as patch, Sdk() as sdk:
        patch.setenv("ENCYPHER_C2PA_TELEMETRY", "off")
        lab = attacks.Lab.opened(NOW, "http://127.0.0.1:9/")
        files = {
            f"{attack.row} {attack.name}": (attack.file, attack.lists or lab.lists)
            for attack in attacks.attacks(lab)
            # It is given no sidecar, and decodes no pixels.
            if attack.sidecar is None and attack.name != "pixels"
        }
        files |= {name: (data, lab.lists) for name, data in public.official(lab.house).items()}
        files |= {name: (data, lab.lists) for name, (_, data) in public.fixtures(lab.house).items()}
        yield {
            name: Both(_ours(data, lists, sdk), _theirs(data, lab.house.root))
            for name, (data, lists) in files.items()
        }


def _ours(data: bytes, lists: Any, sdk: Sdk) -> bool | None:
    try:
        found = verify_media(Media.of(io.BytesIO(data), "file", 1 << 30), sdk, lists, NOW)
    except MediaError:
        return None
    return found.content is Content.INTACT and found.signature is Signature.VALID


def _theirs(data: bytes, root: Any) -> bool | None:
    try:
        report = encypher_c2pa.verify(
            data,
            _mime(data),
            trust_pem=identity.pem_chain(root).decode(),
            no_default_trust=True,
            telemetry=False,
        )
    except ValueError:
        return None
    return bool(report["integrity"] == "valid")


def _mime(data: bytes) -> str:
    kind = sniff(data)
    return "image/dng" if kind is Kind.DNG else kind.value


def test_it_agrees_wherever_no_reason_is_listed(compared: dict[str, Both]) -> None:
    differ = {
        name: (both.ours, both.theirs)
        for name, both in compared.items()
        if both.theirs is not None and both.ours is not both.theirs
    }
    assert differ == {name: (ours, theirs) for name, (ours, theirs, _) in DIFFERENCES.items()}


def test_what_it_cannot_read_is_listed_and_is_not_sound_to_us(compared: dict[str, Both]) -> None:
    refused = {name for name, both in compared.items() if both.theirs is None}
    assert refused == set(UNREADABLE)
    assert not any(compared[name].ours for name in refused)


def test_it_is_no_judge_that_says_the_same_of_all(compared: dict[str, Both]) -> None:
    assert len(compared) > 140
    agreed = [both for name, both in compared.items() if name not in DIFFERENCES]
    assert sum(both.theirs is True for both in agreed) > 40
    assert sum(both.theirs is False for both in agreed) > 40


def test_every_difference_has_its_reason() -> None:
    assert all(reason for _, _, reason in DIFFERENCES.values())
    assert all(reason for reason in UNREADABLE.values())
