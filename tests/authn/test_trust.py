import dataclasses
import hashlib
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from authn.chain import build_chain
from authn.errors import CertificateError
from authn.identity import pem_chain
from authn.profile import Profile
from authn.trust import MAX_ANCHORS, MAX_FRESH_DAYS, MAX_HOSTS, MAX_LIST_BYTES, Purpose, TrustList

# The library warns of names and numbers that break RFC 5280; for us they are an answer.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def parse(pem: bytes) -> TrustList:
    return TrustList.parse(pem, "lab", Purpose.SIGNING, Profile.POLICY)


def test_a_list_knows_the_digest_of_its_file(signer_kit, stamp_kit) -> None:
    pem = b"# two roots\n\n" + pem_chain(signer_kit.root, stamp_kit.root)
    found = parse(pem)
    assert found.anchors == (signer_kit.root, stamp_kit.root)
    assert found.sha256 == hashlib.sha256(pem).digest()
    assert parse(pem_chain(*found.anchors)).anchors == found.anchors


def test_windows_line_ends_are_the_same_list(signer_kit) -> None:
    assert parse(pem_chain(signer_kit.root).replace(b"\n", b"\r\n")).anchors == (signer_kit.root,)


def test_a_list_without_anybody_is_only_made_on_purpose() -> None:
    for pem in (b"", b"# nobody\n", b"\n"):
        with pytest.raises(CertificateError):
            parse(pem)
    for purpose in Purpose:
        empty = TrustList.empty(purpose)
        assert empty.anchors == ()
        assert empty.purpose is purpose
        assert not empty.stale(datetime.max.replace(tzinfo=UTC))


@pytest.mark.parametrize(
    ("flaw", "spoil"),
    [
        ("text before", lambda pem: b"subject=CN\n" + pem),
        ("text after", lambda pem: pem + b"garbage"),
        ("text between", lambda pem: pem + b"x\n" + pem),
        ("twice", lambda pem: pem + pem),
        ("cut", lambda pem: pem[:-30]),
        ("a letter lost", lambda pem: pem[:100] + pem[101:]),
        ("a bit of it flipped", lambda pem: pem[:31] + b"A" + pem[32:]),
        ("key", lambda pem: pem.replace(b"CERTIFICATE", b"PRIVATE KEY")),
        ("not ASCII", lambda pem: b"# \xc3\xa9\n" + pem),
        ("padding", lambda pem: pem.replace(b"-----END", b"====\n-----END")),
    ],
)
def test_anything_else_in_a_list_is_refused(signer_kit, flaw, spoil) -> None:
    with pytest.raises(CertificateError):
        parse(spoil(pem_chain(signer_kit.root)))
    assert flaw


def test_a_list_has_limits_before_it_has_a_parser(signer_kit) -> None:
    with pytest.raises(CertificateError, match="larger"):
        parse(b"#" * (MAX_LIST_BYTES + 1))
    with pytest.raises(CertificateError, match=str(MAX_ANCHORS)):
        parse(pem_chain(signer_kit.root) * (MAX_ANCHORS + 1))


def test_purpose_and_profile_belong_together(signer_kit) -> None:
    pem = pem_chain(signer_kit.root)
    for purpose, profile in (
        (Purpose.SIGNING, Profile.TIME_STAMPING),
        (Purpose.TIME_STAMPING, Profile.POLICY),
        (Purpose.TIME_STAMPING, Profile.SPECIFICATION),
        (Purpose.IDENTITY, Profile.POLICY),
        (Purpose.IDENTITY, Profile.TIME_STAMPING),
    ):
        with pytest.raises(CertificateError):
            TrustList.parse(pem, "lab", purpose, profile)


@given(st.binary(max_size=300))
def test_hostile_lists_raise_only_our_own_error(body: bytes) -> None:
    for pem in (body, b"-----BEGIN CERTIFICATE-----\n" + body + b"\n-----END CERTIFICATE-----\n"):
        with suppress(CertificateError):
            parse(pem)


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_list_with_a_flipped_bit_raises_only_our_own_error(signer_kit, position: int, bit: int) -> None:
    pem = bytearray(pem_chain(signer_kit.root))
    pem[position % len(pem)] ^= 1 << bit
    with suppress(CertificateError):
        parse(bytes(pem))


# --- Lists that say of themselves what they are

HEADER = b"""# lightseal trust list 1
# name: Wire agencies
# purpose: signing
# profile: specification
# version: 2026.3
# dated: 2026-03-01
# fresh-days: 90
# source: https://lists.example/wire.pem
# hosts: ocsp.example crl.example:8080

"""
PAIRS = [
    (Purpose.SIGNING, Profile.POLICY),
    (Purpose.SIGNING, Profile.SPECIFICATION),
    (Purpose.TIME_STAMPING, Profile.TIME_STAMPING),
    (Purpose.IDENTITY, Profile.SPECIFICATION),
]
VISIBLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
PRINTED = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
HOSTS = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?(:[1-9][0-9]{0,4})?", fullmatch=True)


def test_a_list_says_what_it_is_and_its_digest_covers_that(signer_kit) -> None:
    data = HEADER + b"# the root\n" + pem_chain(signer_kit.root)
    found = TrustList.read(data)
    assert found == TrustList(
        "Wire agencies",
        Purpose.SIGNING,
        Profile.SPECIFICATION,
        (signer_kit.root,),
        hashlib.sha256(data).digest(),
        "2026.3",
        date(2026, 3, 1),
        90,
        "https://lists.example/wire.pem",
        ("ocsp.example", "crl.example:8080"),
    )
    assert TrustList.parse(data, "another name", Purpose.SIGNING, Profile.POLICY) == found
    assert TrustList.read(data.replace(b"90", b"91")).sha256 != found.sha256


@given(
    st.sampled_from(PAIRS),
    st.text(PRINTED, min_size=1, max_size=100).filter(lambda name: name == name.strip(" ")),
    st.none() | st.text(VISIBLE, min_size=1, max_size=64),
    st.none() | st.tuples(st.dates(), st.none() | st.integers(1, MAX_FRESH_DAYS)),
    st.none() | st.text(VISIBLE, min_size=1, max_size=100).map(lambda rest: f"https://{rest}"),
    st.lists(HOSTS, max_size=5, unique=True),
)
def test_what_is_written_of_a_list_is_read_back(signer_kit, pair, name, version, age, source, hosts) -> None:
    dated, fresh_days = age or (None, None)
    made = TrustList(name, *pair, (signer_kit.root,), b"", version, dated, fresh_days, source, tuple(hosts))
    data = made.described()
    found = TrustList.read(data)
    assert dataclasses.replace(found, sha256=b"") == made
    assert found.sha256 == hashlib.sha256(data).digest()
    assert found.described() == data


@given(st.integers(0, len(HEADER) - 1), st.characters(max_codepoint=0x17F))
def test_a_header_that_is_read_is_one_we_would_write(signer_kit, position: int, new: str) -> None:
    header = HEADER[:position] + new.encode() + HEADER[position + 1 :]
    try:
        found = TrustList.read(header + pem_chain(signer_kit.root))
    except CertificateError:
        return
    assert found.described().startswith(header)


@pytest.mark.parametrize(
    ("flaw", "old", "new"),
    [
        ("unknown key", b"# version:", b"# colour:"),
        ("key in capitals", b"# version:", b"# Version:"),
        ("repeated key", b"# version: 2026.3\n", b"# version: 2026.3\n# version: 2026.4\n"),
        (
            "another order",
            b"# version: 2026.3\n# dated: 2026-03-01\n",
            b"# dated: 2026-03-01\n# version: 2026.3\n",
        ),
        ("no name", b"# name: Wire agencies\n", b""),
        ("no purpose", b"# purpose: signing\n", b""),
        ("no profile", b"# profile: specification\n", b""),
        ("empty value", b"2026.3", b""),
        ("no such purpose", b"purpose: signing", b"purpose: everything"),
        ("no such profile", b"profile: specification", b"profile: lenient"),
        ("profile of another purpose", b"profile: specification", b"profile: time-stamping"),
        ("no such day", b"2026-03-01", b"2026-02-30"),
        ("day without dashes", b"2026-03-01", b"20260301"),
        ("week", b"2026-03-01", b"2026-W09-1"),
        ("days below zero", b"fresh-days: 90", b"fresh-days: -90"),
        ("no days", b"fresh-days: 90", b"fresh-days: 0"),
        ("too many days", b"fresh-days: 90", b"fresh-days: 3651"),
        ("days with a zero before", b"fresh-days: 90", b"fresh-days: 090"),
        ("days without a date", b"# dated: 2026-03-01\n", b""),
        ("source that is no address", b"https://lists", b"javascript:lists"),
        ("source with a space", b"wire.pem", b"wire .pem"),
        ("host twice", b"crl.example:8080", b"ocsp.example"),
        ("host in capitals", b"ocsp.example", b"OCSP.example"),
        ("host with a path", b"ocsp.example", b"ocsp.example/a"),
        ("host with a user", b"ocsp.example", b"me@ocsp.example"),
        ("two spaces between hosts", b"ocsp.example crl", b"ocsp.example  crl"),
        ("too many hosts", b"ocsp.example", b" ".join(b"h%d" % n for n in range(MAX_HOSTS))),
        ("space at the end", b"agencies\n", b"agencies \n"),
        ("two spaces after the colon", b"name: Wire", b"name:  Wire"),
        ("no space after the colon", b"name: Wire", b"name:Wire"),
        ("tab", b"Wire agencies", b"Wire\tagencies"),
        ("control character", b"Wire agencies", b"Wire\x1b[31magencies"),
        ("bidirectional character", b"Wire agencies", "Wire \u202eagencies".encode()),
        ("long name", b"Wire agencies", b"W" * 101),
        ("remark in the header", b"# version: 2026.3\n", b"# reviewed\n"),
        ("another edition", b"list 1", b"list 2"),
        ("more on the first line", b"list 1", b"list 1 beta"),
        ("Windows line ends", b"\n", b"\r\n"),
        ("no empty line after it", b"\n\n", b"\n"),
        ("empty line before it", b"# lightseal", b"\n# lightseal"),
        ("remark before it", b"# lightseal", b"# hello\n# lightseal"),
        ("mark of byte order", b"# lightseal", b"\xef\xbb\xbf# lightseal"),
        ("capitals", b"lightseal trust list", b"Lightseal Trust List"),
    ],
)
def test_a_header_with_a_flaw_makes_the_list_unreadable(signer_kit, flaw, old, new) -> None:
    assert old in HEADER, flaw
    data = HEADER.replace(old, new) + pem_chain(signer_kit.root)
    with pytest.raises(CertificateError) as refused:
        TrustList.read(data)
    assert str(refused.value).isprintable()
    with pytest.raises(CertificateError):
        parse(data)


def test_a_second_header_is_no_remark(signer_kit) -> None:
    for second in (HEADER, HEADER.replace(b"signing", b"identity"), b" # LIGHTSEAL trust list 7\n"):
        for data in (HEADER + pem_chain(signer_kit.root) + second, pem_chain(signer_kit.root) + second):
            with pytest.raises(CertificateError, match="header"):
                parse(data)


def test_bare_certificates_do_not_say_what_they_are_for(signer_kit) -> None:
    with pytest.raises(CertificateError, match="no header"):
        TrustList.read(b"# signers\n" + pem_chain(signer_kit.root))


def test_a_list_for_one_purpose_is_refused_for_another(stamp_kit) -> None:
    made = {purpose: TrustList("l", purpose, profile, (stamp_kit.root,), b"") for purpose, profile in PAIRS}
    for stated, listed in made.items():
        for asked, profile in PAIRS:
            if asked is stated:
                assert TrustList.parse(listed.described(), "x", asked, profile).profile is listed.profile
                continue
            with pytest.raises(CertificateError, match=f"is for {stated}, not for {asked}"):
                TrustList.parse(listed.described(), "x", asked, profile)


def test_the_same_anchor_may_stand_in_lists_for_different_purposes(signer_kit) -> None:
    signing, identity = (
        TrustList.read(TrustList("l", purpose, Profile.SPECIFICATION, (signer_kit.root,), b"").described())
        for purpose in (Purpose.SIGNING, Purpose.IDENTITY)
    )
    assert signing.anchors == identity.anchors
    assert signing.sha256 != identity.sha256
    assert build_chain(signer_kit.leaf, signer_kit.chain[1:], signing.anchors, signer_kit.at).path is not None


def test_a_list_is_stale_when_its_days_are_over(signer_kit) -> None:
    made = TrustList.read(HEADER + pem_chain(signer_kit.root))
    end = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(days=90)
    assert not made.stale(end - timedelta(seconds=1))
    assert made.stale(end)
    # The moment counts, not the calendar of whoever asks.
    assert not made.stale((end - timedelta(seconds=1)).astimezone(timezone(timedelta(hours=14))))
    assert made.stale(end.astimezone(timezone(timedelta(hours=-12))))
    late = dataclasses.replace(made, dated=date.max)
    assert not late.stale(datetime.max.replace(tzinfo=UTC))


def test_a_list_that_does_not_say_when_it_was_made_is_never_called_stale(signer_kit) -> None:
    far = datetime(9000, 1, 1, tzinfo=UTC)
    assert not parse(pem_chain(signer_kit.root)).stale(far)
    assert not dataclasses.replace(parse(pem_chain(signer_kit.root)), dated=date(2000, 1, 1)).stale(far)
    with pytest.raises(CertificateError, match="from when"):
        dataclasses.replace(parse(pem_chain(signer_kit.root)), fresh_days=90)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "two\nlines"},
        {"name": ""},
        {"name": "Zeitung \u00dc"},
        {"version": "a b"},
        {"source": "ftp://lists.example"},
        {"hosts": ("a", "a")},
        {"hosts": ("a b",)},
        {"dated": date(2026, 1, 1), "fresh_days": 0},
    ],
)
def test_nothing_is_written_that_could_not_be_read_back(signer_kit, change) -> None:
    with pytest.raises(CertificateError):
        dataclasses.replace(parse(pem_chain(signer_kit.root)), **change).described()


def test_what_is_shown_of_an_anchor_is_what_its_certificate_says(signer_kit) -> None:
    (facts,) = parse(pem_chain(signer_kit.root)).anchor_facts()
    root = signer_kit.root
    assert facts.subject == root.subject.rfc4514_string()
    assert (facts.not_before, facts.not_after) == (root.not_valid_before_utc, root.not_valid_after_utc)
    assert bytes.fromhex(facts.sha256) == root.fingerprint(hashes.SHA256())


def test_the_hosts_that_anchors_name_are_found(signer_kit) -> None:
    listed = parse(pem_chain(signer_kit.root, signer_kit.issuing, signer_kit.leaf))
    assert listed.status_hosts() == ("127.0.0.1:8888",)
    assert parse(pem_chain(signer_kit.root)).status_hosts() == ()


@given(st.binary(max_size=300))
def test_a_hostile_header_raises_only_our_own_error(signer_kit, body: bytes) -> None:
    for data in (body, HEADER[:25] + body, HEADER[:-1] + body, HEADER + body + pem_chain(signer_kit.root)):
        with suppress(CertificateError):
            TrustList.read(data)
        with suppress(CertificateError):
            parse(data)


def test_a_header_with_a_flaw_is_told_which(signer_kit) -> None:
    for old, new, told in (
        (b"# version: 2026.3\n", b"# version: 2026.3\n" * 2, "says twice what its version is"),
        (b"list 1", b"list 2", "does not begin with '# lightseal trust list 1'"),
        (b"# version", b"# colour", "does not belong there: '# colour: 2026.3'"),
        (b"90", b"soon", "has a fresh-days that cannot be: 'soon'"),
    ):
        with pytest.raises(CertificateError, match=told):
            TrustList.read(HEADER.replace(old, new) + pem_chain(signer_kit.root))
