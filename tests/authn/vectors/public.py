"""Makes equivalents of the public test files, by their naming scheme, with keys of our own.

The scheme, read from the left: C is a claim, A the parent it opened, I an ingredient
it placed; what follows A or I is how that file was made. X in front means that bytes of
the media were changed afterwards, and E-dat, E-sig, E-uri and E-clm that the bound data,
the signature, an assertion or an ingredient's record was. Claims are of version 1 here, as
in those files.
"""

import dataclasses
import io
import struct
from datetime import timedelta
from typing import Any

import brotli
import forge
from PIL import Image

from authn import cose, jumbf

DAY = timedelta(days=1)
_OPENED = {"action": "c2pa.opened"}
_PLACED = {"action": "c2pa.placed"}
_FIRST = {"claim_version": 1, "assertions": [{"label": "c2pa.actions", "data": {"actions": [_OPENED]}}]}
_MADE = {"action": "c2pa.created", "digitalSourceType": forge.CAPTURE}
_FRESH = {"claim_version": 1, "assertions": [{"label": "c2pa.actions", "data": {"actions": [_MADE]}}]}
_PLAIN = {"claim_version": 1, "assertions": [{"label": "c2pa.actions", "data": {"actions": [_PLACED]}}]}


def claimed(house: forge.House, seed: int, *ingredients: tuple[str, bytes]) -> bytes:
    """A picture with a v1 claim about what it was made from."""
    kinds = {kind for kind, _ in ingredients}
    claim = _FIRST if "parentOf" in kinds else _PLAIN if kinds else _FRESH
    return forge.sdk_made(forge.picture(seed=seed), house.camera, ingredients=ingredients, claim=claim)


def pixel_changed(file: bytes) -> bytes:
    return forge.flipped(file, len(file) - 40)


def signature_changed(file: bytes) -> bytes:
    """One bit of the active claim's signature."""
    active = jumbf.parse(forge.stored(file))[-1]
    return forge.flipped(file, file.index(cose.parse(active.signature, active.claim).signature) + 20)


def action_changed(file: bytes) -> bytes:
    """One byte of the last assertion of actions in the file: an assertion of the active manifest."""
    return forge.flipped(file, file.rindex(b"c2pa.opened" if b"c2pa.opened" in file else b"c2pa.placed") + 6)


def record_lost(file: bytes) -> bytes:
    """The first ingredient's manifest under another name: what refers to it finds nothing."""
    label = jumbf.parse(forge.stored(file))[0].label.encode()
    at = file.index(label)
    return file[:at] + label[:-1] + (b"0" if label[-1:] != b"0" else b"1") + file[at + len(label) :]


def parent_changed(file: bytes) -> bytes:
    """One byte of the first assertion of actions in the file: an assertion of an ingredient's manifest."""
    return forge.flipped(file, file.index(b"c2pa.opened") + 6)


def official(house: forge.House) -> dict[str, bytes]:
    """The files of section 3.1, by the name without their date."""
    a, i = forge.picture(seed=11), forge.picture(seed=12)
    ca = claimed(house, 21, ("parentOf", a))
    cai = claimed(house, 22, ("parentOf", a), ("componentOf", i))
    ci = claimed(house, 23, ("componentOf", i))
    lost = claimed(house, 27, ("parentOf", a), ("componentOf", cai))
    broken = claimed(house, 28, ("componentOf", signature_changed(ca)))
    leaf = house.camera.chain[0]
    end = leaf.not_valid_before_utc + 10 * DAY
    old = forge.remade(leaf, house.issuing_key, not_after=end)
    past = forge.Who(house.camera.key, (old, house.issuing))
    return {
        "A": a,
        "I": i,
        "C": claimed(house, 20),
        "CA": ca,
        "CAI": cai,
        "CI": ci,
        "CII": claimed(house, 24, ("componentOf", i), ("componentOf", a)),
        "CACA": claimed(house, 25, ("parentOf", ca)),
        "CAICA": claimed(house, 26, ("parentOf", a), ("componentOf", ca)),
        "CICA": claimed(house, 29, ("componentOf", ca)),
        "XCA": pixel_changed(ca),
        "XCI": pixel_changed(ci),
        "E-dat-CA": forge.flipped(ca, len(ca) - 200, 0xFF),
        "E-sig-CA": signature_changed(ca),
        "E-uri-CA": action_changed(ca),
        "E-clm-CAICAI": record_lost(lost),
        "CIE-sig-CA": broken,
        "E-uri-CIE-sig-CA": parent_changed(broken),
        "expired": forge.Draft(forge.picture(seed=30), past, version=1).write(),
    }


def negative(seed: int) -> bytes:
    """A TIFF that says it is a DNG (DNG 1.4, DNGVersion)."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(forge.picture(seed=seed))) as picture:
        picture.save(out, "TIFF", tiffinfo={50706: (1, 4, 0, 0)})
    return out.getvalue()


def fixtures(house: forge.House) -> dict[str, tuple[str, bytes]]:
    """The files of section 3.2, each with the type its maker would give."""
    camera = house.camera
    good = forge.Draft(forge.picture(seed=31), camera)
    packed: dict[str, dict[str, Any]] = {"core": {"prefer_compress_manifests": True}}
    packed["core"]["allowed_network_hosts"] = []
    whole = forge.sdk_signed(forge.picture(seed=32), camera)
    nested = forge.atom(b"mvhd", bytes(100))
    for _ in range(1000):
        nested = forge.atom(b"moov", nested)
    riff = b"LIST\4\0\0\0INFO"
    for _ in range(1000):
        riff = b"LIST" + struct.pack("<I", len(riff) + 4) + b"INFO" + riff
    sound = forge.sdk_signed(forge.sound(), camera, forge.WAV)
    film = forge.sdk_signed(forge.film(), camera, forge.MP4)
    return {
        "wrong_extension.png": (forge.PNG, whole),
        "compressed.jpg": (forge.JPEG, forge.sdk_signed(forge.picture(seed=33), camera, settings=packed)),
        "compressed_by_hand.jpg": (
            forge.JPEG,
            dataclasses.replace(good, compress=brotli.compress).write(),
        ),
        "update.jpg": (forge.JPEG, forge.sdk_signed(whole, camera, parent=whole, intent="update")),
        "raw.dng": (
            "image/x-adobe-dng",
            forge.sdk_signed(negative(34), camera, "image/x-adobe-dng"),
        ),
        "sample.wav": (forge.WAV, sound),
        "film.mp4": (forge.MP4, film),
        "remote.jpg": (
            forge.JPEG,
            forge.sdk_made(forge.picture(seed=35), camera, remote="http://127.0.0.1:9/record.c2pa"),
        ),
        "no_alg.jpg": (forge.JPEG, dataclasses.replace(good, claim={"alg": None}).write()),
        "unknown_alg.jpg": (forge.JPEG, dataclasses.replace(good, claim={"alg": "sha0"}).write()),
        "nested_moov.mp4": (forge.MP4, forge.film()[:24] + nested),
        "nested_riff.wav": (forge.WAV, b"RIFF" + struct.pack("<I", len(riff) + 4) + b"WAVE" + riff),
        "broken_size.wav": (forge.WAV, sound[:4] + b"\xff\xff\xff\x7f" + sound[8:]),
        "broken_chunk.wav": (forge.WAV, sound[:16] + b"\xff\xff\xff\xff" + sound[20:]),
        "broken_record.wav": (forge.WAV, sound.replace(b"jumd", b"jumx", 1)),
    }
