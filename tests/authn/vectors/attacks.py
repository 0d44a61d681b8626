"""Makes every attack of the reference's table, each with its right answer beside it.

`TABLE` is the list of attacks and of the answers that are right, word for word;
`attacks` makes one file or several for each row, says how, and states the answer
in our own vocabulary: which headlines are right, and what must say why.
Run as a program (`PYTHONPATH=. python tests/authn/vectors/attacks.py FOLDER`), it
writes all of them into FOLDER, with the lists they are judged by and an `index.csv`.
"""

import csv
import dataclasses
import io
import json
import struct
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import brotli
import c2pa
import cbor2
import forge
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID
from PIL import Image

from authn import identity, jumbf, keys
from authn.evidence import Code, Content, Credentials, History, Revocation, Signature, Signer
from authn.profile import Profile
from authn.signer import Lists
from authn.trust import Purpose, TrustList
from tools.verdict import Headline

DAY = timedelta(days=1)
H = Headline
CHANGED, UNREADABLE = H.CHANGED_AFTER_SIGNING, H.CREDENTIALS_UNREADABLE
INTACT = H.INTACT_SIGNER_RECOGNISED
CLAIM_SIGNING = x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
DOCUMENTS = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")
HOSTILE = "<script>alert(1)</script>\u202egpj.exe\x1b[2J\u2066\n'\"&"

TABLE: dict[int, tuple[str, str]] = {
    1: ("pixel byte flip / COM, EXIF, tEXt, LIST insert / trailing bytes", "altered"),
    2: ("truncation", "altered / unreadable"),
    3: ("manifest stripped, re-encoded", 'none (not "fake")'),
    4: ("manifest transplanted / sidecar of another image", "altered"),
    5: ("two manifests in one file", "altered"),
    6: ("polyglot PNG+signed JPEG", "none"),
    7: ("manifest byte edits", "intact; never key on file hash"),
    8: ("look-alike CA, same names", "signer unknown"),
    9: (
        "self-signed / missing intermediate / leaf used as CA / path length / expired intermediate",
        "signer unknown",
    ),
    10: ("expired, not-yet-valid leaf", "expired"),
    11: ("wrong EKU / KU", "rejected"),
    12: (
        "TSA certificate signs a claim (TSA list, or TSA leaf under the signers' own root)",
        "wrong purpose",
    ),
    13: ("CAWG/S-MIME anchor used for claim", "wrong purpose"),
    14: ("signature by another key / alg", "altered"),
    15: ("untrusted back-dated TSA, live key", "time unproven"),
    16: ("expired key + v1 claim + own TSA", "expired, time unproven"),
    17: ("same, v2 claim", "expired"),
    18: ("TSA leaf without EKU / expired / wrong digest / future genTime", "time rejected"),
    19: ("revoked, CA-signed OCSP; responder down", "revoked / not checked"),
    20: ("remote-URL SSRF, slow server, redirect", "credentials elsewhere"),
    21: ("exclusion range over pixels, then edit", "partly covered"),
    22: ("BMFF free/skip injection", "intact, extra boxes noted"),
    23: ("authenticated lie (AI picture as digitalCapture)", "intact; claim, detector may disagree"),
    24: ("fake GPS/date assertion, when=1999", "claim; contradiction vs proven time"),
    25: ("foreign claim thumbnail", "show own render, never the claim thumbnail"),
    26: ("HTML, RTL override, control chars, 10 KB strings in title/CN", "escape, bound, isolate bidi"),
    27: ("tampered parent, trusted editor", "history problem"),
    28: ("… with ingest check off", "history unverified"),
    29: ("untrusted parent, trusted editor", "history problem"),
    30: (
        "laundering: re-sign edited content without parent",
        "intact; ledger soft match shows earlier asset",
    ),
    31: (
        "provenance theft: foreign parent, unrelated pixels",
        "similarity parent↔child advisory",
    ),
    32: ("grand-parent assertion changed", "history broken"),
    33: ("redaction: legal / of actions / of hash", "show redaction"),
    34: ("update manifest over tampered content", "altered"),
    35: ("unknown soft-binding algorithm", "claim only"),
    36: ("assertion flood, deep boxes, decompression bomb", "resource limit, unreadable"),
    37: ("equivocation: two valid manifests for one asset", "ledger lists both"),
    38: ("CAWG identity self-issued", "identity unproven"),
}

SOUND_AND_SAID_SO: dict[int, str] = {
    7: "the answer is 'intact'",
    15: "a living key signed; only the time falls, and none is shown",
    18: "a living key signed; only the token falls, and no time is shown",
    19: "where nobody was asked the answer is 'not checked', which is no flaw of the file",
    20: "an identity that is vouched for elsewhere is not recognised; the signer of the claim is somebody else",
    22: "the answer is 'intact'",
    23: "the answer is 'intact'; the lie is the signer's",
    24: "the answer is a claim and its contradiction, and nothing about the bytes",
    25: "the answer is about what we show, and nothing about the bytes",
    26: "the answer is about how we show it, and nothing about the bytes",
    30: "the answer is 'intact'",
    31: "the editor's signature is as sound as it seems; likeness is an advice, and is not judged yet",
    33: "a legal redaction is shown and is no flaw",
    35: "the answer is 'claim only'",
    37: "both manifests are valid; the ledger lists both",
    38: "the identity is unproven; the signer of the claim is somebody else",
}
"""The rows whose right answer leaves a file intact and its signer recognised, and why."""


@dataclass(frozen=True)
class Attack:
    """One file, how it is made, and what is right to say of it.

    `fails` are the checks that must say why, `states` the evidence by its field,
    `says` what must stand in an explanation, a problem of the history or a redaction.
    """

    row: int
    name: str
    made: str
    file: bytes = field(repr=False)
    headlines: tuple[Headline, ...]
    fails: tuple[Code, ...] = ()
    states: dict[str, Any] = field(default_factory=dict)
    says: tuple[str, ...] = ()
    lists: Lists | None = None
    sidecar: bytes | None = field(default=None, repr=False)
    costly: bool = False
    """Only for a worker that can be killed."""

    @property
    def filename(self) -> str:
        """The row, the name, and the suffix that the bytes deserve."""
        suffixes = {
            b"\xff\xd8": "jpg",
            b"\x89P": "png",
            b"<!": "svg",
            b"RI": "wav" if self.file[8:12] == b"WAVE" else "webp",
        }
        return f"{self.row:02}_{self.name}.{suffixes.get(self.file[:2], 'mp4')}"


@dataclass(frozen=True)
class Lab:
    """Everybody who takes part: whom the examiner believes, and strangers with the same names.

    Every address in every certificate is `url`, where a test can listen.
    """

    at: datetime
    url: str
    house: forge.House
    dial: forge.Clock
    mail: forge.House
    lists: Lists

    @classmethod
    def opened(cls, at: datetime, url: str) -> "Lab":
        house = forge.house(at - 40 * DAY, ocsp_url=f"{url}ocsp/")
        points = x509.CRLDistributionPoints(
            [x509.DistributionPoint([x509.UniformResourceIdentifier(f"{url}list.crl")], None, None, None)]
        )
        leaf = forge.remade(house.camera.chain[0], house.issuing_key, put=[(points, False)])
        camera = forge.Who(house.camera.key, (leaf, house.issuing))
        house = dataclasses.replace(house, camera=camera)
        dial = forge.clock(at - 40 * DAY, ocsp_url=f"{url}clock/")
        mail = forge.house(at - 40 * DAY, "Mail", ocsp_url=f"{url}mail/")
        held = believing([house.root], [dial.root], [mail.root])
        return cls(at, url, house, dial, mail, held)

    def stranger(self, name: str = "Lab") -> forge.House:
        """A house of the same age that no list names."""
        return forge.house(self.at - 40 * DAY, name, ocsp_url=f"{self.url}stranger/")

    def stamp(self, message: bytes) -> bytes:
        return self.dial.token(self.at, message)

    @property
    def draft(self) -> forge.Draft:
        """A sound record with a token."""
        return forge.Draft(forge.picture(), self.house.camera, stamps=[self.stamp])

    def leaf(self, **changes: Any) -> forge.Who:
        """The camera with another certificate from its own authority."""
        made = forge.remade(self.house.camera.chain[0], self.house.issuing_key, **changes)
        return dataclasses.replace(self.house.camera, chain=(made, self.house.issuing))

    def drafted(self, who: forge.Who, **changes: Any) -> bytes:
        return dataclasses.replace(self.draft, who=who, **changes).write()

    def edited(self, parent: bytes, seed: int = 2, **options: Any) -> bytes:
        """An honest edit of `parent` by the camera's owner."""
        return forge.sdk_signed(forge.picture(seed=seed), self.house.camera, parent=parent, **options)


def believing(
    signers: Iterable[x509.Certificate],
    time_stampers: Iterable[x509.Certificate],
    identities: Iterable[x509.Certificate],
) -> Lists:
    """Lists by purpose."""
    persons = TrustList.parse(
        identity.pem_chain(*identities), "lab persons", Purpose.IDENTITY, Profile.SPECIFICATION
    )
    return dataclasses.replace(forge.lists(signers, time_stampers), identities=(persons,))


def attacks(lab: Lab) -> Iterator[Attack]:
    """Every row of the table, in its order."""
    for rows in (_bytes, _certificates, _times, _coverage, _sayings, _history, _resources, _doubles):
        yield from rows(lab)


# --- 1 to 7: bytes


def _bytes(lab: Lab) -> Iterator[Attack]:
    good = lab.draft.write()
    png = forge.sdk_signed(forge.picture("PNG"), lab.house.camera, forge.PNG)
    wav = forge.sdk_signed(forge.sound(), lab.house.camera, forge.WAV)
    film = forge.sdk_signed(forge.film(), lab.house.camera, forge.MP4)
    start, end = forge.record_range(good)
    scan = good.rindex(b"\xff\xda")
    changed: dict[str, Any] = {
        "headlines": (CHANGED,),
        "fails": (Code.CONTENT_MATCHES,),
        "states": {"content": Content.CHANGED},
    }
    listed = wav + b"LIST" + struct.pack("<I", 4) + b"INFO"
    yield Attack(1, "pixel", "one bit of the scan is flipped", forge.flipped(good, len(good) - 40), **changed)
    yield Attack(
        1,
        "exif",
        "an EXIF segment after the start",
        good[:2] + b"\xff\xe1\0\x0aExif\0\0ab" + good[2:],
        **changed,
    )
    yield Attack(
        1,
        "comment",
        "a COM segment before the scan",
        good[:scan] + b"\xff\xfe\0\6evil" + good[scan:],
        **changed,
    )
    yield Attack(1, "trailing", "bytes after the end of a JPEG", good + b"hello", **changed)
    yield Attack(1, "trailing_png", "bytes after the end of a PNG", png + b"hello", **changed)
    text = forge.chunk(b"tEXt", b"Comment\0evil")
    yield Attack(1, "text_png", "a tEXt chunk before IEND", png[:-12] + text + png[-12:], **changed)
    longer = listed[:4] + struct.pack("<I", len(listed) - 8) + listed[8:]
    yield Attack(1, "list_wav", "a LIST chunk at the end of a WAV", longer, **changed)
    yield Attack(
        1, "sample_wav", "one bit of a sample", forge.flipped(wav, wav.index(b"data") + 99), **changed
    )
    yield Attack(
        1, "sample_mp4", "one bit of an mdat", forge.flipped(film, film.index(b"mdat") + 99), **changed
    )
    for name, whole in (("jpeg", good), ("png", png), ("mp4", film), ("wav", wav)):
        for part in (0.999, 0.5, 0.09):
            cut = whole[: int(len(whole) * part)]
            made = f"a {name} is cut at {part} of its length"
            yield Attack(2, f"cut_{name}_{str(part)[2:]}", made, cut, (CHANGED, UNREADABLE))
    none: dict[str, Any] = {
        "headlines": (H.NO_CREDENTIALS,),
        "fails": (Code.CREDENTIALS_PRESENT,),
        "states": {"credentials": Credentials.NONE, "signer": None, "content": None, "certificate": None},
    }
    yield Attack(3, "stripped", "the APP11 segments are taken out", forge.stripped(good), **none)
    saved = io.BytesIO()
    Image.open(io.BytesIO(good)).save(saved, "JPEG", quality=90)
    yield Attack(3, "saved_again", "opened and saved by an image program", saved.getvalue(), **none)
    other = forge.picture(seed=2)
    moved = other[:20] + good[start:end] + other[20:]
    yield Attack(4, "transplanted", "the record of another picture", moved, **changed)
    beside = forge.stored(good)
    yield Attack(4, "sidecar", "another picture's record, beside it", other, sidecar=beside, **changed)
    foreign = dataclasses.replace(lab.draft, media=other, label="urn:c2pa:2").write()
    there, there_end = forge.record_range(foreign)
    for name, at in (("after", end), ("before", start)):
        both = good[:at] + foreign[there:there_end] + good[at:]
        made = f"the record of another picture {name} the own one"
        yield Attack(5, f"foreign_{name}", made, both, (CHANGED, UNREADABLE))
    yield Attack(6, "polyglot", "a signed JPEG after the end of a PNG", forge.picture("PNG") + good, **none)
    padded: dict[str, Any] = {
        "headlines": (INTACT,),
        "fails": (Code.SIGNATURE_PADDING_EMPTY,),
        "states": {"content": Content.INTACT, "signature": Signature.VALID},
    }
    place = padding(good)
    filled = good[: place.start] + b"\x55" * len(place) + good[place.stop :]
    yield Attack(7, "padding_bit", "one bit of the padding", forge.flipped(good, place.start + 500), **padded)
    yield Attack(7, "padding_all", "all of the padding", filled, **padded)


def padding(signed: bytes) -> range:
    """Where the zeros of a record's signature stand; nothing protects them."""
    head = signed.index(b"\x63pad\x59") + 5  # a byte string whose length takes two bytes (RFC 8949, 3)
    (length,) = struct.unpack_from(">H", signed, head)
    return range(head + 2, head + 2 + length)


# --- 8 to 14: certificates


def _certificates(lab: Lab) -> Iterator[Attack]:
    house, at = lab.house, lab.at
    camera, signed = house.camera.chain[0], lab.drafted
    unknown: dict[str, Any] = {
        "headlines": (H.INTACT_SIGNER_UNKNOWN,),
        "fails": (Code.SIGNER_CHAIN,),
        "states": {"signer": Signer.NOT_RECOGNISED, "signer_list": None},
    }
    double = lab.stranger()
    yield Attack(8, "look_alike", "a second authority of the same names", signed(double.camera), **unknown)

    own = forge.remade(camera, house.camera.key, issuer=camera.subject)
    below_key = keys.generate_p256()
    below = forge.remade(camera, house.camera.key, issuer=camera.subject, public_key=below_key.public_key)
    deep_key = keys.generate_p384()
    deep = forge.remade(
        house.issuing, house.issuing_key, issuer=house.issuing.subject, public_key=deep_key.public_key
    )
    under = forge.remade(camera, deep_key, issuer=deep.subject)
    late = forge.remade(house.issuing, house.root_key, not_after=at - DAY)
    for name, made, who in (
        ("self_signed", "the camera's own key issued its certificate", forge.Who(house.camera.key, (own,))),
        ("no_issuer", "the issuing authority is missing", forge.Who(house.camera.key, (camera,))),
        (
            "camera_as_authority",
            "a camera issued a certificate",
            forge.Who(below_key, (below, camera, house.issuing)),
        ),
        (
            "too_long",
            "an authority below one that may have none",
            forge.Who(house.camera.key, (under, deep, house.issuing)),
        ),
        (
            "issuer_expired",
            "the issuing authority is out of date",
            forge.Who(house.camera.key, (camera, late)),
        ),
    ):
        yield Attack(9, name, made, signed(who, stamps=[]), **unknown)

    for name, first, last in (("expired", -30, -2), ("not_yet", 2, 20)):
        who = lab.leaf(not_before=at + first * DAY, not_after=at + last * DAY)
        yield Attack(
            10,
            name,
            f"a certificate valid from day {first} to day {last}, no token",
            signed(who, stamps=[]),
            (H.SIGNER_EXPIRED_TIME_UNPROVEN,),
            (Code.SIGNER_VALID_AT, Code.TIME_PROVEN),
            {"signer": Signer.EXPIRED_TIME_UNPROVEN},
        )

    rejected: dict[str, Any] = {
        "headlines": (H.SIGNER_REJECTED,),
        "fails": (Code.SIGNER_PROFILE,),
        "states": {"signer": Signer.WRONG_KIND, "signer_list": None},
    }
    usages = ExtendedKeyUsageOID
    for name, purposes in (
        ("code_signing", [usages.CODE_SIGNING]),
        ("client_auth", [usages.CLIENT_AUTH]),
        ("ocsp_signing", [usages.OCSP_SIGNING]),
        ("claim_and_ocsp", [CLAIM_SIGNING, DOCUMENTS, usages.OCSP_SIGNING]),
        ("time_stamping", [usages.TIME_STAMPING]),
        ("any", [usages.ANY_EXTENDED_KEY_USAGE]),
    ):
        who = lab.leaf(put=[(x509.ExtendedKeyUsage(purposes), False)])
        yield Attack(11, f"purpose_{name}", f"extended key usage {name}", signed(who), **rejected)
    who = lab.leaf(drop=[ExtensionOID.EXTENDED_KEY_USAGE])
    yield Attack(11, "purpose_none", "no extended key usage", signed(who), **rejected)
    for name in ("key_agreement", "key_encipherment", "key_cert_sign"):
        who = lab.leaf(put=[(_usage(**{name: True}), True)])
        yield Attack(11, f"usage_{name}", f"key usage {name} alone", signed(who), **rejected)

    clock = lab.leaf(put=[(x509.ExtendedKeyUsage([usages.TIME_STAMPING]), True)])
    both = believing([house.root, lab.dial.root], [lab.dial.root, house.root], [lab.mail.root])
    unit = signed(lab.dial.unit)
    yield Attack(12, "clock_signs", "the time-stamper's own key and certificate", unit, **rejected)
    yield Attack(
        12, "clock_signs_both_lists", "the same, its root in both lists", unit, lists=both, **rejected
    )
    yield Attack(
        12, "clock_under_signers_root", "a time-stamper below the signers' root", signed(clock), **rejected
    )

    wrong: dict[str, Any] = {
        "headlines": (H.INTACT_SIGNER_UNKNOWN, H.SIGNER_REJECTED),
        "fails": (Code.SIGNER_CHAIN,),
        "states": {"signer_list": None},
    }
    secure_mail = x509.ExtendedKeyUsage([usages.EMAIL_PROTECTION])
    person = forge.remade(lab.mail.camera.chain[0], lab.mail.issuing_key, put=[(secure_mail, False)])
    mailer = forge.Who(lab.mail.camera.key, (person, lab.mail.issuing))
    yield Attack(13, "mail_signs", "an S/MIME certificate of the identity list", signed(mailer), **wrong)
    signer = signed(lab.mail.camera)
    yield Attack(13, "identity_root_signs", "a claim signer below the identity list's root", signer, **wrong)
    who = lab.leaf(put=[(secure_mail, False)])
    yield Attack(13, "mail_under_signers_root", "S/MIME below the signers' root", signed(who), **rejected)

    broken: dict[str, Any] = {
        "headlines": (CHANGED,),
        "fails": (Code.SIGNATURE_VALID, Code.TIME_PROVEN),
        "states": {"signature": Signature.BROKEN},
    }
    stranger = dataclasses.replace(house.camera, key=keys.generate_p256())
    yield Attack(14, "other_key", "another key signed", signed(stranger, stamps=[]), **broken)
    renamed = signed(_Renamed(house.camera.key, house.camera.chain), stamps=[])
    yield Attack(14, "other_algorithm", "the header names ES384", renamed, **broken)


def _usage(**bits: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment")
    names += ("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{**dict.fromkeys(names, False), **bits})


class _Renamed(forge.Who):
    """Signs as its key does, and says that it signs as ES384 (RFC 9053, 2.1)."""

    @property
    def algorithm(self) -> int:
        return -35


# --- 15 to 20: time, withdrawal, addresses


def _times(lab: Lab) -> Iterator[Attack]:
    at, signed = lab.at, lab.drafted
    evil = forge.clock(at - 3000 * DAY, "Evil", f"{lab.url}evil/")
    undated: dict[str, Any] = {
        "headlines": (INTACT,),
        "fails": (Code.TIME_PROVEN,),
        "states": {"time.not_before": None, "time.not_after": None, "claims.claimed_at": None},
    }
    back = lab.drafted(lab.house.camera, stamps=[lambda message: evil.token(at - 20 * DAY, message)])
    yield Attack(15, "back_dated", "a token of day -20 by a clock in no list", back, **undated)

    expired = lab.leaf(not_before=at - 30 * DAY, not_after=at - 2 * DAY)
    for row, version in ((16, 1), (17, 2)):
        for name in ("sigTst", "sigTst2"):
            file = signed(
                expired,
                version=version,
                stamp_name=name,
                stamps=[lambda message: evil.token(at - 20 * DAY, message)],
            )
            yield Attack(
                row,
                f"own_clock_{name}",
                f"expired key, v{version} claim, {name} of day -20 by the attacker's clock",
                file,
                (H.SIGNER_EXPIRED_TIME_UNPROVEN, CHANGED),
                (Code.TIME_PROVEN, Code.SIGNER_VALID_AT),
                {"signer": Signer.EXPIRED_TIME_UNPROVEN, "time.not_after": None},
            )

    dial = lab.dial
    yield Attack(
        18,
        "control",
        "no attack: the same writer of tokens with the listed clock",
        signed(lab.house.camera, stamps=[lambda message: forge.token_by_hand(dial.unit, at, message)]),
        (INTACT,),
        states={"time.not_after": at},
    )

    def unit(**changes: Any) -> forge.Who:
        return forge.Who(dial.unit.key, (forge.remade(dial.unit.chain[0], dial.root_key, **changes),))

    plain = unit(put=[(x509.ExtendedKeyUsage([DOCUMENTS]), True)])
    bare = unit(drop=[ExtensionOID.EXTENDED_KEY_USAGE])
    over = unit(not_before=at - 30 * DAY, not_after=at - DAY)
    for name, made, stamp in (
        ("no_purpose", "a clock without extended key usage", (bare, at, b"")),
        ("other_purpose", "a clock for signing documents", (plain, at, b"")),
        ("clock_expired", "a clock that expired a day before its token", (over, at, b"")),
        ("other_digest", "a token over other bytes", (dial.unit, at, b"x")),
        ("future", "a token of day +100", (unit(not_after=at + 900 * DAY), at + 100 * DAY, b"")),
    ):
        who, moment, extra = stamp

        def by_hand(message: bytes, who=who, moment=moment, extra=extra) -> bytes:  # type: ignore[no-untyped-def]
            return forge.token_by_hand(who, moment, message + extra)

        yield Attack(18, name, made, signed(lab.house.camera, stamps=[by_hand]), **undated)

    camera, issuing = lab.house.camera.chain
    for name, since in (("before_token", at - 10 * DAY), ("no_token", at - 10 * DAY)):
        answer = forge.ocsp_answer(camera, issuing, lab.house.issuing_key, at, since)
        changes: dict[str, Any] = {} if name == "before_token" else {"stamps": []}
        yield Attack(
            19,
            f"revoked_{name}",
            "an answer by the authority itself, stapled: stolen on day -10",
            signed(lab.house.camera, unprotected={"rVals": {"ocspVals": [answer]}}, **changes),
            (H.SIGNER_REVOKED,),
            (Code.REVOCATION_CHECKED,),
            {"signer": Signer.REVOKED, "revocation.reason": "keyCompromise"},
            ("withdrawn",),
        )
    fine = forge.ocsp_answer(camera, issuing, lab.house.issuing_key, at)
    yield Attack(
        19,
        "good",
        "no attack: an answer by the authority that the certificate was not withdrawn",
        signed(lab.house.camera, unprotected={"rVals": {"ocspVals": [fine]}}),
        (INTACT,),
        states={"revocation.state": Revocation.GOOD},
    )
    stranger = lab.stranger()
    lie = forge.ocsp_answer(camera, stranger.issuing, stranger.issuing_key, at)
    for name, made, unprotected in (
        ("nobody_asked", "nothing stapled; the responder is down, and not asked", {}),
        (
            "foreign_answer",
            "'not withdrawn', by an authority of the same name",
            {"rVals": {"ocspVals": [lie]}},
        ),
    ):
        yield Attack(
            19,
            name,
            made,
            signed(lab.house.camera, unprotected=unprotected),
            (INTACT,),
            (Code.REVOCATION_CHECKED,),
            {"revocation.state": Revocation.NOT_CHECKED},
        )

    elsewhere: dict[str, Any] = {
        "headlines": (H.CREDENTIALS_ELSEWHERE,),
        "fails": (Code.CREDENTIALS_PRESENT,),
        "states": {"credentials": Credentials.ELSEWHERE, "signer": None},
    }
    picture = forge.picture()
    for name in ("manifest.c2pa", "slow", "redirect"):
        file = forge.with_address(picture, f"{lab.url}{name}")
        yield Attack(20, name.partition(".")[0], f"XMP names {name} on a listening server", file, **elsewhere)
    remote = forge.sdk_made(picture, lab.house.camera, remote=f"{lab.url}record.c2pa")
    drawing = (
        f'<!DOCTYPE svg [<!ENTITY e SYSTEM "{lab.url}entity">]><svg xmlns="http://www.w3.org/2000/svg"'
        f' xmlns:xlink="http://www.w3.org/1999/xlink" width="9" height="9"><image xlink:href="{lab.url}image"'
        ' width="9" height="9"/><text>&e;</text></svg>'
    )
    yield Attack(
        20,
        "entity",
        "an SVG with an external entity and an external picture, and no record",
        drawing.encode(),
        (H.NO_CREDENTIALS, UNREADABLE),
    )
    yield Attack(
        20,
        "did",
        "an identity that a did:web on a listening server is to vouch for",
        _vouched_elsewhere(lab),
        (INTACT,),
        (Code.IDENTITY_RECOGNISED,),
    )
    yield Attack(20, "written_by_sdk", "the SDK kept the record out and named a server", remote, **elsewhere)


def _vouched_elsewhere(lab: Lab) -> bytes:
    """A record with a credential of an identity claims aggregator, named by did:web (CAWG 1.1, 8.1)."""
    host = lab.url.removeprefix("http://").rstrip("/").replace(":", "%3A")
    issuer = f"did:web:{host}"
    vouched = {"@context": [f"{lab.url}context"], "type": ["VerifiableCredential"], "issuer": issuer}
    payload = {"referenced_assertions": [], "sig_type": "cawg.identity_claims_aggregation"}
    protected = cbor2.dumps({1: -8, 3: "application/vc", 4: f"{issuer}#key".encode()})
    signed = cbor2.CBORTag(18, [protected, {}, json.dumps(vouched).encode(), bytes(64)])
    content = {"signer_payload": payload, "signature": cbor2.dumps(signed), "pad1": b""}
    return lab.drafted(lab.house.camera, assertions=[forge.cbor_assertion("cawg.identity", content)])


# --- 21 and 22: what the hash leaves out


def _coverage(lab: Lab) -> Iterator[Attack]:
    partly: dict[str, Any] = {
        "headlines": (H.SIGNED_PARTLY_COVERED,),
        "fails": (Code.CONTENT_COVERED,),
        "states": {"content": Content.PARTLY_COVERED},
    }
    for name, changes, place in (
        ("second_range", {"exclude": [(300, 60)]}, 330),
        ("longer_range", {"enlarge": 60}, 30),
    ):
        open_ = dataclasses.replace(lab.draft, **changes).write()
        edited = forge.flipped(open_, forge.record_range(open_)[1] + place, 0xFF)
        yield Attack(21, name, f"60 bytes of the scan are left out of the hash ({name})", open_, **partly)
        yield Attack(21, f"{name}_edited", "the same, and then changed there", edited, **partly)

    lax = {"builder": {"bmff_hash_exclude_free_and_skip_boxes": True}}
    film = forge.sdk_signed(forge.film(), lab.house.camera, forge.MP4, settings=lax)
    for kind in ("free", "skip"):
        yield Attack(
            22,
            kind,
            f"a {kind} box of 208 bytes behind a film whose hash leaves such boxes out",
            film + forge.atom(kind.encode(), b"evil" * 50),
            (INTACT,),
            states={"content": Content.INTACT},
            says=("208 bytes in boxes that every player skips",),
        )


# --- 23 to 26 and 35, 38: what is said


def _sayings(lab: Lab) -> Iterator[Attack]:
    camera, picture = lab.house.camera, forge.picture()
    intact: dict[str, Any] = {"headlines": (INTACT,), "states": {"content": Content.INTACT}}
    lie = forge.sdk_signed(picture, camera)
    sources = {"claims.source_types": ("digitalCapture",)}
    yield Attack(23, "lie", "noise, signed as a capture", lie, (INTACT,), states=sources)

    when = forge.sdk_signed(
        picture, camera, claim={"assertions": [forge.actions(when="1999-01-01T00:00:00Z")]}
    )
    claimed = {"claims.claimed_at": "1999-01-01T00:00:00Z", "time.not_after": None}
    yield Attack(24, "when", "an action of 1999", when, (INTACT,), states=claimed)
    context = {"exif": "http://ns.adobe.com/exif/1.0/"}
    facts = {"exif:GPSLatitude": "48,51.5N", "exif:GPSLongitude": "2,17.6E"}
    facts |= {"exif:DateTimeOriginal": "1999-01-01T00:00:00Z"}
    metadata = {"label": "c2pa.metadata", "data": {"@context": context, **facts}}
    placed = forge.sdk_signed(picture, camera, claim={"assertions": [forge.actions(), metadata]})
    told = {"claims.capture_times": ("1999-01-01T00:00:00Z",)}
    yield Attack(24, "metadata", "a place and a date that nobody checked", placed, (INTACT,), states=told)

    later = {"action": "c2pa.created", "digitalSourceType": forge.CAPTURE, "when": "2999-01-01T00:00:00Z"}
    ahead = [forge.cbor_assertion("c2pa.actions.v2", {"actions": [later]})]
    file = lab.drafted(camera, assertions=ahead)
    claimed = {"claims.claimed_at": "2999-01-01T00:00:00Z"}
    yield Attack(24, "ahead", "an action of 2999, and a token of today", file, (INTACT,), states=claimed)

    foreign = {"thumbnail": {"format": forge.JPEG, "identifier": "thumb.jpg"}}
    shown = forge.sdk_made(
        plain_colour("red"), camera, claim=foreign, resources={"thumb.jpg": plain_colour("blue")}
    )
    yield Attack(25, "thumbnail", "a red picture whose record carries a blue one", shown, **intact)

    long = HOSTILE + "A" * 10_000
    title = {"title": long, "claim_generator_info": [{"name": long, "version": long}]}
    yield Attack(26, "title", "a hostile title", forge.sdk_signed(picture, camera, claim=title), **intact)
    named = _named(lab, HOSTILE)
    yield Attack(
        26,
        "certificate",
        "a hostile name in a certificate",
        lab.drafted(named),
        (INTACT, H.SIGNER_REJECTED, H.INTACT_SIGNER_UNKNOWN),
    )

    mark = {
        "label": "c2pa.soft-binding",
        "data": {"alg": "com.example.unknown", "blocks": [{"scope": {}, "value": "00"}]},
    }
    soft = forge.sdk_signed(picture, camera, claim={"assertions": [forge.actions(), mark]})
    yield Attack(35, "watermark", "a soft binding of an algorithm nobody knows", soft, **intact)

    yield Attack(
        38,
        "identity",
        "an identity under a root of the attacker's",
        _with_identity(lab, lab.stranger("Mail")),
        (INTACT,),
        (Code.IDENTITY_RECOGNISED,),
    )


def plain_colour(name: str) -> bytes:
    """A picture of one colour, to tell whose picture is shown."""
    out = io.BytesIO()
    Image.new("RGB", (48, 32), name).save(out, "JPEG")
    return out.getvalue()


def _named(lab: Lab, name: str) -> forge.Who:
    old = lab.house.camera.chain[0]
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, name),
            x509.NameAttribute(NameOID.COMMON_NAME, name[:64]),
        ]
    )
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(old.issuer)
    builder = builder.public_key(old.public_key()).serial_number(forge.serial())
    builder = builder.not_valid_before(old.not_valid_before_utc).not_valid_after(old.not_valid_after_utc)
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    made = builder.sign(lab.house.issuing_key.private, hashes.SHA384())
    return dataclasses.replace(lab.house.camera, chain=(made, lab.house.issuing))


def _with_identity(lab: Lab, person: forge.House) -> bytes:
    """What the SDK writes where its settings name a second signer (CAWG Identity Assertion 1.1)."""

    def local(who: forge.Who, **more: Any) -> dict[str, Any]:
        secret = who.key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return {"local": {"alg": "es256", "sign_cert": who.pem, "private_key": secret.decode(), **more}}

    settings = {
        **forge._WRITING,
        "signer": local(lab.house.camera),
        "cawg_x509_signer": local(person.camera, referenced_assertions=["c2pa.hash.data"]),
    }
    body = {"claim_generator_info": [{"name": "lab", "version": "1"}], "assertions": [forge.actions()]}
    out = io.BytesIO()
    with c2pa.Context.from_dict(settings) as context, c2pa.Builder(json.dumps(body), context) as builder:
        builder._has_context_signer = True  # a signer in the settings is used, but not noticed
        builder.sign(forge.JPEG, io.BytesIO(forge.picture()), out)
    return out.getvalue()


# --- 27 to 34: history


def _history(lab: Lab) -> Iterator[Attack]:
    camera = lab.house.camera
    good = lab.draft.write()
    changed = forge.flipped(good, len(good) - 40)
    problem: dict[str, Any] = {
        "headlines": (H.SIGNED_HISTORY_PROBLEM,),
        "fails": (Code.HISTORY_INTACT,),
        "states": {"history": History.PROBLEM, "content": Content.INTACT, "signer": Signer.RECOGNISED},
    }
    mismatch = ("assertion.dataHash.mismatch",)
    yield Attack(27, "tampered", "an edit of a changed parent", lab.edited(changed), says=mismatch, **problem)
    blind = {"verify": {"verify_after_reading": False}}
    unseen = ("content-never-checked",)
    for name, parent in (("tampered", changed), ("sound", good)):
        made = f"an edit of a {name} parent that nobody checked"
        yield Attack(28, name, made, lab.edited(parent, settings=blind), says=unseen, **problem)
    stranger = lab.drafted(lab.stranger().camera)
    unknown = ("signer-not-recognised",)
    yield Attack(
        29, "stranger", "an edit of a stranger's picture", lab.edited(stranger), says=unknown, **problem
    )

    yield Attack(
        30,
        "laundered",
        "edited, and signed as a capture without a parent",
        forge.sdk_signed(forge.picture(seed=2), camera),
        (INTACT,),
        states={"history": History.NONE},
    )
    yield Attack(
        31,
        "stolen",
        "an unrelated picture with somebody's record as its parent",
        lab.edited(good, seed=9),
        (INTACT,),
        states={"history": History.COMPLETE},
    )

    second = lab.edited(good)
    third = lab.edited(second, seed=3)
    yield Attack(
        32,
        "grand_parent",
        "an assertion of the first of three generations is changed",
        third.replace(b"digitalCapture", b"digitalXapture"),
        (H.SIGNED_HISTORY_PROBLEM, CHANGED),
        (Code.HISTORY_INTACT,),
        {"history": History.PROBLEM},
        ("assertion-differs",),
    )
    yield from _redactions(lab)

    altered: dict[str, Any] = {"headlines": (CHANGED,), "fails": (Code.CONTENT_MATCHES,)}
    over = forge.sdk_signed(changed, camera, parent=changed, intent="update")
    yield Attack(34, "over_tampered", "an update of a picture that was changed before", over, **altered)
    update = forge.sdk_signed(good, camera, parent=good, intent="update")
    later = forge.flipped(update, len(update) - 40)
    yield Attack(34, "then_tampered", "an update, and a change after it", later, **altered)


def _redactions(lab: Lab) -> Iterator[Attack]:
    camera = lab.house.camera
    data = {"@context": {"exif": "http://ns.adobe.com/exif/1.0/"}, "exif:GPSLatitude": "48,51.5N"}
    metadata = {"label": "c2pa.metadata", "data": data}
    parent = forge.sdk_signed(forge.picture(), camera, claim={"assertions": [forge.actions(), metadata]})
    label = jumbf.parse(forge.stored(parent))[-1].label
    uri = f"self#jumbf=/c2pa/{label}/c2pa.assertions/c2pa.metadata"
    done = {"action": "c2pa.redacted", "reason": "c2pa.PII.present", "parameters": {"redacted": uri}}
    claim = {"redactions": [uri], "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [done]}}]}
    yield Attack(
        33,
        "legal",
        "the place is taken out of the parent's record, as the standard allows",
        lab.edited(parent, claim=claim),
        (INTACT,),
        states={"history": History.COMPLETE},
        says=("redacted: c2pa.metadata",),
    )
    for name in ("c2pa.actions.v2", "c2pa.hash.data"):
        yield Attack(
            33,
            name.split(".")[1],
            f"{name} is taken out of the parent's record, which is forbidden; the SDK refuses, so it is forged",
            _redacted(lab, name),
            (CHANGED, H.SIGNED_HISTORY_PROBLEM, UNREADABLE),
        )


def _redacted(lab: Lab, label: str) -> bytes:
    """An edit that lists the parent's assertion `label` as redacted, over a parent that has lost it."""
    (whole,) = forge.manifest_boxes(forge.stored(lab.draft.write()))
    less = forge.without(whole, label)
    uri = f"self#jumbf=/c2pa/{forge.label_of(whole)}/c2pa.assertions/{label}"
    parent = forge.ingredient(less, "assertion.dataHash.match", "claimSignature.validated")
    done = {"action": "c2pa.redacted", "reason": "c2pa.PII.present", "parameters": {"redacted": uri}}
    return dataclasses.replace(
        lab.draft,
        media=forge.picture(seed=2),
        label="urn:c2pa:00000000-0000-4000-8000-000000000002",
        before=[less],
        assertions=[parent, forge.opened(parent, done)],
        claim={"redacted_assertions": [uri]},
        reserve=9000,
    ).write()


# --- 36: resources


def _resources(lab: Lab) -> Iterator[Attack]:
    unreadable: dict[str, Any] = {
        "headlines": (UNREADABLE,),
        "states": {"credentials": Credentials.UNREADABLE},
        "costly": True,
    }
    notes = [forge.cbor_assertion(f"org.example.note__{number}", {"i": number}) for number in range(8000)]
    flood = dataclasses.replace(lab.draft, assertions=notes).write()
    yield Attack(36, "flood", "8,000 assertions", flood, **unreadable)

    nested = forge.jumbf_box(b"cbor", b"\xa0")
    for _ in range(1500):
        nested = forge.superbox(b"cbor", "d", nested)
    boxes = forge.superbox(b"cbor", "org.example.deep", nested)
    deep = dataclasses.replace(lab.draft, assertions=[("org.example.deep", boxes)]).write()
    yield Attack(36, "deep_boxes", "1,500 boxes in each other", deep, **unreadable)

    values = forge.superbox(b"cbor", "org.example.deep", forge.jumbf_box(b"cbor", b"\x81" * 50_000 + b"\1"))
    lists = dataclasses.replace(lab.draft, assertions=[("org.example.deep", values)]).write()
    refused = {"headlines": (UNREADABLE, CHANGED), "costly": True}
    yield Attack(36, "deep_values", "50,000 lists in each other", lists, **refused)  # type: ignore[arg-type]

    bomb = brotli.compress(bytes(100 << 20), quality=5)
    packed = dataclasses.replace(lab.draft, compress=lambda _: bomb).write()
    yield Attack(36, "bomb", "a record that unpacks to 100 MiB", packed, **unreadable)

    yield Attack(
        36,
        "pixels",
        "a PNG of 0.8 MB and 400 megapixels, not signed",
        many_pixels(),
        (H.NO_CREDENTIALS,),
        (Code.CREDENTIALS_PRESENT,),
        {"credentials": Credentials.NONE},
        costly=True,
    )


def many_pixels(side: int = 20_000) -> bytes:
    """A black PNG of `side` by `side`, grey with alpha, made without holding its pixels."""
    size = side * (1 + 2 * side)
    packer = zlib.compressobj(9, wbits=-15)
    # What is flushed in full refers to nothing before it, so that one block serves for all of them.
    whole, rest = divmod(size, 1 << 20)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = [block] * whole + [packer.compress(bytes(rest))]
    # Adler-32 of n zero bytes: the first sum stays 1 and the second grows by it n times (RFC 1950, 8.2).
    check = struct.pack(">I", (size % 65521) << 16 | 1)
    stream = b"\x78\xda" + b"".join([*packed, packer.flush()]) + check
    head = struct.pack(">IIBBBBB", side, side, 8, 4, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + forge.chunk(b"IHDR", head)
        + forge.chunk(b"IDAT", stream)
        + forge.chunk(b"IEND", b"")
    )


# --- 37: two for one


def _doubles(lab: Lab) -> Iterator[Attack]:
    for name, title in (("one", {}), ("two", {"dc:title": "another"})):
        file = dataclasses.replace(lab.draft, claim=title).write()
        made = f"the same picture under manifest {name} of two"
        yield Attack(37, f"manifest_{name}", made, file, (INTACT,), states={"content": Content.INTACT})


# --- The files


def write(folder: Path, lab: Lab) -> None:
    """Write every attack, the lists they are judged by, and the table."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, trusted in (
        ("signers", lab.lists.signers),
        ("clocks", lab.lists.time_stampers),
        ("persons", lab.lists.identities),
    ):
        (folder / f"{name}.pem").write_bytes(_pem(trusted))
    with (folder / "index.csv").open("w", newline="", encoding="utf-8") as out:
        table = csv.writer(out)
        table.writerow(
            (
                "row",
                "attack",
                "right answer",
                "file",
                "made",
                "headlines",
                "fails",
                "states",
                "says",
                "sidecar",
            )
        )
        for attack in attacks(lab):
            (folder / attack.filename).write_bytes(attack.file)
            beside = f"{attack.filename}.c2pa" if attack.sidecar else ""
            if attack.sidecar:
                (folder / beside).write_bytes(attack.sidecar)
            if attack.lists:
                (folder / f"{attack.filename}.signers.pem").write_bytes(_pem(attack.lists.signers))
                (folder / f"{attack.filename}.clocks.pem").write_bytes(_pem(attack.lists.time_stampers))
            table.writerow(
                (
                    attack.row,
                    *TABLE[attack.row],
                    attack.filename,
                    attack.made,
                    " or ".join(attack.headlines),
                    " ".join(attack.fails),
                    "; ".join(f"{name}={value}" for name, value in attack.states.items()),
                    "; ".join(attack.says),
                    beside,
                )
            )


def _pem(lists: tuple[TrustList, ...]) -> bytes:
    return identity.pem_chain(*(anchor for trusted in lists for anchor in trusted.anchors))


if __name__ == "__main__":
    write(Path(sys.argv[1]), Lab.opened(datetime.now(UTC).replace(microsecond=0), "http://127.0.0.1:8888/"))
