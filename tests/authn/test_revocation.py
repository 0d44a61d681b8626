"""Withdrawals, said in every way an issuer can and in some that nobody may."""

import contextlib
import itertools
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from authn import crl as lists
from authn import der, identity
from authn.answer import MAX_ANSWER
from authn.errors import CertificateError, StatusError
from authn.evidence import Revocation, RevocationFacts
from authn.ocsp import ocsp_request
from authn.revocation import (
    HONEST_ENDS,
    MAX_ANSWERS,
    MAX_CRLS,
    NO_STATUSES,
    Addresses,
    Statuses,
    check_revocation,
    host_of,
    status_addresses,
)

SHA1 = hashes.SHA1()  # noqa: S303 - names certificates, secures nothing
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
COMPROMISE = x509.ReasonFlags.key_compromise
HOLD = x509.ReasonFlags.certificate_hold
SUPERSEDED = x509.ReasonFlags.superseded
GOOD, REVOKED, UNKNOWN = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN


@dataclass(frozen=True)
class House:
    """An authority, what it certified, and the moment of judgment: 30 days after all that."""

    root_key: ec.EllipticCurvePrivateKey
    root: x509.Certificate
    issuing_key: ec.EllipticCurvePrivateKey
    issuing: x509.Certificate
    leaf: x509.Certificate
    delegate_key: ec.EllipticCurvePrivateKey
    delegate: x509.Certificate
    at: datetime

    @property
    def path(self) -> tuple[x509.Certificate, ...]:
        return (self.leaf, self.issuing, self.root)

    def answer(
        self,
        status: ocsp.OCSPCertStatus = GOOD,
        *,
        since: datetime | None = None,
        reason: x509.ReasonFlags | None = None,
        this: datetime | None = None,
        ends: datetime | None = None,
        about: x509.Certificate | None = None,
        by: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None,
        issuer: x509.Certificate | None = None,
        digest: hashes.HashAlgorithm | None = None,
        encoding: ocsp.OCSPResponderEncoding = ocsp.OCSPResponderEncoding.HASH,
        signed_over: hashes.HashAlgorithm | None = None,
        put: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    ) -> bytes:
        this = this or self.at - HOUR
        responder, key = by or (self.delegate, self.delegate_key)
        builder = ocsp.OCSPResponseBuilder().add_response(
            about or self.leaf,
            issuer or self.issuing,
            digest or SHA1,
            status,
            this,
            ends or this + 12 * HOUR,
            (since or self.at - 2 * DAY) if status is REVOKED else None,
            reason,
        )
        for value, critical in put:
            builder = builder.add_extension(value, critical)
        return (
            builder.responder_id(encoding, responder)
            .certificates([responder])
            .sign(key, signed_over or hashes.SHA256())
            .public_bytes(Encoding.DER)
        )

    def crl(
        self,
        *serials: int,
        since: datetime | None = None,
        reason: x509.ReasonFlags | None = None,
        invalid_since: datetime | None = None,
        this: datetime | None = None,
        ends: datetime | None = None,
        name: x509.Name | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
        put: tuple[tuple[x509.ExtensionType, bool], ...] = (),
        put_entry: tuple[tuple[x509.ExtensionType, bool], ...] = (),
        digest: hashes.HashAlgorithm | None = None,
    ) -> bytes:
        this = this or self.at - HOUR
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(name or self.issuing.subject)
            .last_update(this)
            .next_update(ends or this + 12 * HOUR)
        )
        for serial in serials:
            entry = (
                x509.RevokedCertificateBuilder()
                .serial_number(serial)
                .revocation_date(since or self.at - 2 * DAY)
            )
            if reason is not None:
                entry = entry.add_extension(x509.CRLReason(reason), critical=False)
            if invalid_since is not None:
                entry = entry.add_extension(x509.InvalidityDate(invalid_since), critical=False)
            for value, critical in put_entry:
                entry = entry.add_extension(value, critical)
            builder = builder.add_revoked_certificate(entry.build())
        for value, critical in put:
            builder = builder.add_extension(value, critical)
        return builder.sign(key or self.issuing_key, digest or hashes.SHA384()).public_bytes(Encoding.DER)


def responder(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    begins: datetime,
    *,
    purposes: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.OCSP_SIGNING,),
    days: int = 60,
    nocheck: int = 1,
    put: tuple[tuple[x509.ExtensionType, bool], ...] = (),
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(identity.Subject("DE", "Lightseal Lab", name).to_name())
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + days * DAY)
    )
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    for _ in range(nocheck):
        builder = builder.add_extension(x509.OCSPNoCheck(), critical=False)
    for value, critical in put:
        builder = builder.add_extension(value, critical)
    return builder.sign(issuer_key, hashes.SHA384())


def scope(**chosen: object) -> x509.IssuingDistributionPoint:
    nothing: dict[str, object] = {
        "full_name": None,
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return x509.IssuingDistributionPoint(**(nothing | chosen))


@pytest.fixture(scope="module")
def house(signer_kit) -> House:
    delegate_key = ec.generate_private_key(ec.SECP256R1())
    begins = signer_kit.leaf.not_valid_before_utc
    delegate = responder(
        "Lab Answers", delegate_key, signer_kit.issuing, signer_kit.issuing_key.private, begins
    )
    return House(
        signer_kit.root_key.private,
        signer_kit.root,
        signer_kit.issuing_key.private,
        signer_kit.issuing,
        signer_kit.leaf,
        delegate_key,
        delegate,
        signer_kit.at + 30 * DAY,
    )


def judged(
    house: House,
    *answers: bytes,
    crls: tuple[bytes, ...] = (),
    signed_at: datetime | None = None,
    path: tuple[x509.Certificate, ...] | None = None,
    at: datetime | None = None,
) -> RevocationFacts:
    return check_revocation(path or house.path, Statuses(crls, answers), signed_at, at or house.at)


def spec_state(since: datetime, reason: object, signed_at: datetime | None) -> Revocation:
    """The table, row by row."""
    if reason in {None, x509.ReasonFlags.unspecified}:
        return Revocation.REVOKED
    if signed_at is None:
        return Revocation.REVOKED_TIME_UNKNOWN
    return Revocation.SIGNED_BEFORE if signed_at < since else Revocation.REVOKED


# --- The table


def test_without_a_status_nobody_was_asked(house) -> None:
    assert check_revocation(house.path, NO_STATUSES, None, house.at) == RevocationFacts()


@pytest.mark.parametrize(
    "reason", [None, x509.ReasonFlags.unspecified, COMPROMISE, x509.ReasonFlags.superseded]
)
@pytest.mark.parametrize("offset", [None, -1, 0, 1])
@pytest.mark.parametrize("way", ["delegate", "issuer", "list", "list with invalidity date"])
def test_a_withdrawal_is_weighed_against_the_proven_time(house, reason, offset, way) -> None:
    since = house.at - 3 * DAY
    signed_at = None if offset is None else since + timedelta(seconds=offset)
    serial = house.leaf.serial_number
    match way:
        case "delegate":
            found = judged(house, house.answer(REVOKED, since=since, reason=reason), signed_at=signed_at)
        case "issuer":
            by = (house.issuing, house.issuing_key)
            answer = house.answer(REVOKED, since=since, reason=reason, by=by)
            found = judged(house, answer, signed_at=signed_at)
        case "list":
            crl = house.crl(serial, since=since, reason=reason)
            found = judged(house, crls=(crl,), signed_at=signed_at)
        case _:
            crl = house.crl(serial, since=since + DAY, reason=reason, invalid_since=since)
            found = judged(house, crls=(crl,), signed_at=signed_at)
    assert found.state is spec_state(since, reason, signed_at)
    if reason in {COMPROMISE, x509.ReasonFlags.superseded}:
        assert (found.since, found.reason) == (since, reason.value)
    else:
        assert (found.since, found.reason) == (None, None)
        assert "without a reason" in found.explanation


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("status", "state"), [(GOOD, Revocation.GOOD), (UNKNOWN, Revocation.DISOWNED)])
def test_other_answers_are_given_as_of_their_date(house, signed, status, state) -> None:
    found = judged(house, house.answer(status), signed_at=house.at - 2 * HOUR if signed else None)
    assert (found.state, found.as_of) == (state, house.at - HOUR)
    assert found.source == "OCSP answer by Lab Answers"


def test_a_list_without_the_certificate_is_good_news(house) -> None:
    found = judged(house, crls=(house.crl(1234),))
    assert found.state is Revocation.GOOD
    assert found.source == "revocation list of Lab Devices 1"


@pytest.mark.parametrize("digest", [SHA1, hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
@pytest.mark.parametrize("encoding", list(ocsp.OCSPResponderEncoding))
def test_certificates_and_responders_are_named_in_every_allowed_way(house, digest, encoding) -> None:
    answer = house.answer(digest=digest, encoding=encoding)
    assert judged(house, answer).state is Revocation.GOOD


# --- Freshness


def test_an_expired_answer_says_nothing_of_an_unproven_time(house) -> None:
    answer = house.answer(this=house.at - 3 * DAY)
    found = judged(house, answer)
    assert found.state is Revocation.NOT_CHECKED
    assert "expired on" in found.explanation
    assert "no time is proven" in found.explanation


@pytest.mark.parametrize(
    ("signed", "state"),
    [
        (-30 * HOUR, Revocation.GOOD),
        (0 * HOUR, Revocation.GOOD),
        (12 * HOUR, Revocation.GOOD),
        (13 * HOUR, Revocation.NOT_CHECKED),
    ],
)
def test_an_expired_answer_serves_signatures_up_to_its_end(house, signed, state) -> None:
    this = house.at - 3 * DAY
    found = judged(house, house.answer(this=this), signed_at=this + signed)
    assert found.state is state
    assert found.as_of == (this if state is Revocation.GOOD else None)


def test_a_newer_answer_helps_where_an_older_is_stale(house) -> None:
    stale, fresh = house.answer(this=house.at - 3 * DAY), house.answer()
    assert judged(house, stale, fresh).as_of == house.at - HOUR


@pytest.mark.parametrize("seconds", [60, 61])
def test_clocks_may_differ_by_a_minute(house, seconds) -> None:
    this = house.at + timedelta(seconds=seconds)
    answer = house.answer(this=this)
    # The builder dates the production now, which is before `this`.
    found = judged(house, answer)
    assert (found.state is Revocation.GOOD) is (seconds == 60)
    assert seconds == 60 or "in the future" in found.explanation
    assert (judged(house, crls=(house.crl(this=this),)).state is Revocation.GOOD) is (seconds == 60)


def test_a_withdrawal_from_the_future_is_not_believed_either(house) -> None:
    answer = house.answer(REVOKED, reason=COMPROMISE, this=house.at + DAY)
    assert judged(house, answer).state is Revocation.NOT_CHECKED


def test_an_answer_that_was_made_after_the_judgment_does_not_count(house) -> None:
    """Judged at a past moment, the answer was not there yet."""
    begins = house.leaf.not_valid_before_utc
    answer = house.answer(this=begins - DAY)
    found = judged(house, answer, at=begins - HOUR)
    assert "in the future" in found.explanation


def test_silence_about_a_certificate_past_its_end_says_nothing(house) -> None:
    over = house.leaf.not_valid_after_utc
    crl = house.crl(this=over + DAY)
    found = judged(house, crls=(crl,), at=over + DAY + HOUR, signed_at=house.at)
    assert found.state is Revocation.NOT_CHECKED
    assert "after its expiry" in found.explanation


@pytest.mark.parametrize(("cutoff", "state"), [(-DAY, Revocation.GOOD), (DAY, Revocation.NOT_CHECKED)])
def test_a_list_may_promise_to_remember_the_expired(house, cutoff, state) -> None:
    over = house.leaf.not_valid_after_utc
    promise = (over + cutoff).strftime("%Y%m%d%H%M%SZ").encode()
    extension = x509.UnrecognizedExtension(
        x509.ObjectIdentifier("2.5.29.60"), bytes((0x18, len(promise))) + promise
    )
    crl = house.crl(this=over + 2 * DAY, put=((extension, False),))
    assert judged(house, crls=(crl,), at=over + 2 * DAY + HOUR, signed_at=house.at).state is state


@pytest.mark.parametrize("way", ["answer", "list"])
def test_a_withdrawal_stands_however_old_its_statement(house, way) -> None:
    this = house.at - 20 * DAY
    since = house.at - 22 * DAY
    answer = house.answer(REVOKED, since=since, reason=COMPROMISE, this=this)
    crl = house.crl(house.leaf.serial_number, since=since, reason=COMPROMISE, this=this)
    later = house.at - 21 * DAY
    found = (
        judged(house, answer, signed_at=later)
        if way == "answer"
        else judged(house, crls=(crl,), signed_at=later)
    )
    assert found.state is Revocation.REVOKED


# --- Several statements


@pytest.mark.parametrize("older", [True, False])
def test_a_permanent_withdrawal_beats_every_good_answer(house, older) -> None:
    good = house.answer(this=house.at - HOUR)
    other = house.at - (DAY if older else timedelta(minutes=1))
    gone = house.answer(REVOKED, reason=COMPROMISE, this=other)
    assert judged(house, good, gone).state is Revocation.REVOKED_TIME_UNKNOWN
    assert judged(house, gone, good).state is Revocation.REVOKED_TIME_UNKNOWN


def test_of_two_withdrawals_the_graver_counts(house) -> None:
    late = house.answer(REVOKED, since=house.at - DAY, reason=x509.ReasonFlags.superseded)
    early = house.crl(house.leaf.serial_number, since=house.at - 9 * DAY, reason=COMPROMISE)
    found = judged(house, late, crls=(early,), signed_at=house.at - 5 * DAY)
    assert (found.state, found.reason) == (Revocation.REVOKED, "keyCompromise")


@pytest.mark.parametrize("way", ["answer", "list"])
def test_a_hold_stands_until_something_newer_was_said(house, way) -> None:
    def held(this: datetime) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        if way == "answer":
            return (), (house.answer(REVOKED, reason=HOLD, this=this),)
        return (house.crl(house.leaf.serial_number, reason=HOLD, this=this),), ()

    good = house.answer(this=house.at - 2 * HOUR)
    crls, answers = held(house.at - 3 * HOUR)
    assert judged(house, good, *answers, crls=crls).state is Revocation.GOOD
    crls, answers = held(house.at - HOUR)
    found = judged(house, good, *answers, crls=crls)
    assert (found.state, found.reason) == (Revocation.REVOKED_TIME_UNKNOWN, "certificateHold")
    crls, answers = held(house.at - 2 * HOUR)
    assert judged(house, good, *answers, crls=crls).state is Revocation.REVOKED_TIME_UNKNOWN


def test_the_newest_of_good_and_unknown_counts(house) -> None:
    good = house.answer(this=house.at - HOUR)
    assert judged(house, good, house.answer(UNKNOWN, this=house.at - 2 * HOUR)).state is Revocation.GOOD
    newer = house.answer(UNKNOWN, this=house.at - HOUR / 2)
    assert judged(house, good, newer).state is Revocation.DISOWNED


def test_a_stale_unknown_is_not_skipped_for_an_older_good_answer(house) -> None:
    good = house.answer(this=house.at - 6 * DAY, ends=house.at + DAY)
    assert judged(house, good).state is Revocation.GOOD
    unknown = house.answer(UNKNOWN, this=house.at - 2 * DAY, ends=house.at - DAY)
    found = judged(house, good, unknown)
    assert found.state is Revocation.NOT_CHECKED
    assert "expired on" in found.explanation
    newer = house.answer(this=house.at - HOUR)
    assert judged(house, good, unknown, newer).state is Revocation.GOOD


@pytest.mark.parametrize("signed", [None, -5 * DAY])
def test_of_equally_grave_withdrawals_the_least_honest_and_the_earliest_counts(house, signed) -> None:
    """Whoever hands the statements over chooses their order."""
    withdrawals = [
        house.answer(REVOKED, since=house.at - 3 * DAY, reason=SUPERSEDED),
        house.answer(REVOKED, since=house.at - DAY, reason=COMPROMISE),
        house.answer(REVOKED, since=house.at - 2 * DAY, reason=COMPROMISE),
    ]
    signed_at = None if signed is None else house.at + signed
    found = {judged(house, *order, signed_at=signed_at) for order in itertools.permutations(withdrawals)}
    (only,) = found
    assert (only.since, only.reason) == (house.at - 2 * DAY, "keyCompromise")
    assert only.reason not in HONEST_ENDS
    assert only.state is (Revocation.SIGNED_BEFORE if signed else Revocation.REVOKED_TIME_UNKNOWN)


@pytest.mark.parametrize("first", [SUPERSEDED, COMPROMISE])
def test_an_answer_that_names_two_withdrawals_is_taken_at_its_worst(house, first) -> None:
    second = COMPROMISE if first is SUPERSEDED else SUPERSEDED
    one, two = (house.answer(REVOKED, since=house.at - 2 * DAY, reason=reason) for reason in (first, second))
    basic = ocsp.load_der_ocsp_response(one).tbs_response_bytes
    fields = der.parse(basic).children()
    other = der.parse(ocsp.load_der_ocsp_response(two).tbs_response_bytes).children()
    singles = der.sequence(*(part.children()[0].encoded for part in (fields[2], other[2])))
    both = der.sequence(fields[0].encoded, fields[1].encoded, singles)
    signature = house.delegate_key.sign(both, ec.ECDSA(hashes.SHA256()))
    answer = _assembled(one, ECDSA_SHA256, signature, house.delegate, both)
    found = judged(house, answer, signed_at=house.at - 5 * DAY)
    assert (found.state, found.reason) == (Revocation.SIGNED_BEFORE, "keyCompromise")


@pytest.mark.parametrize("foreign", [MAX_CRLS, 2 * MAX_CRLS])
def test_lists_of_others_cannot_crowd_out_the_issuers(house, foreign) -> None:
    names = (
        identity.Subject("DE", "Lightseal Lab", f"Other {number}").to_name() for number in range(foreign)
    )
    crls = (*(house.crl(name=name) for name in names), house.crl(house.leaf.serial_number))
    found = judged(house, crls=crls)
    assert found.state is Revocation.REVOKED
    assert "more statuses were given" not in found.explanation


def test_answers_about_others_cannot_crowd_out_the_one(house) -> None:
    flood = tuple(b"%d" % number for number in range(MAX_ANSWERS))
    assert judged(house, *flood, house.answer(REVOKED)).state is Revocation.REVOKED


def test_it_is_told_when_some_of_the_issuers_lists_were_not_read(house) -> None:
    crls = tuple(house.crl(1000 + number) for number in range(MAX_CRLS + 1))
    assert "more statuses were given than are read" in judged(house, crls=crls).explanation
    assert "more statuses" not in judged(house, crls=crls[1:]).explanation


def test_as_many_lists_are_remembered_as_are_read(house) -> None:
    crls = tuple(house.crl(2000 + number) for number in range(MAX_CRLS))
    judged(house, crls=crls)
    before = lists._load.cache_info().misses
    judged(house, crls=crls)
    assert lists._load.cache_info().misses == before


def test_merged_statuses_hold_each_once_and_ours_first(house) -> None:
    one, two = house.answer(), house.answer(UNKNOWN)
    crl = house.crl()
    merged = Statuses((crl,), (one,)).merged(Statuses((crl,), (two, one)))
    assert merged == Statuses((crl,), (one, two))


def test_too_many_answers_cannot_crowd_out_ours(house) -> None:
    ours = Statuses(answers=(house.answer(REVOKED, reason=COMPROMISE),))
    flood = Statuses(answers=tuple(b"%d" % number for number in range(MAX_ANSWERS + 10)))
    found = check_revocation(house.path, ours.merged(flood), None, house.at)
    assert found.state is Revocation.REVOKED_TIME_UNKNOWN


# --- The path


def about_issuing(house: House, status: ocsp.OCSPCertStatus, reason: x509.ReasonFlags | None = None) -> bytes:
    return house.answer(
        status, reason=reason, about=house.issuing, issuer=house.root, by=(house.root, house.root_key)
    )


def test_a_withdrawn_issuer_counts_against_a_good_leaf(house) -> None:
    found = judged(house, house.answer(), about_issuing(house, REVOKED, COMPROMISE))
    assert found.state is Revocation.REVOKED_TIME_UNKNOWN
    assert "Lab Devices 1" in found.explanation


def test_a_good_issuer_says_nothing_of_its_leaf(house) -> None:
    assert judged(house, about_issuing(house, GOOD)).state is Revocation.NOT_CHECKED


def test_it_is_told_when_only_the_leaf_was_asked(house) -> None:
    both = judged(house, house.answer(), about_issuing(house, GOOD))
    alone = judged(house, house.answer())
    assert both.state is alone.state is Revocation.GOOD
    assert "nothing is known about the certificate of Lab Devices 1" in alone.explanation
    assert "nothing is known" not in both.explanation
    assert both.complete
    assert not alone.complete


def test_a_disowned_issuer_outweighs_a_leaf_signed_before(house) -> None:
    leaf = house.answer(REVOKED, since=house.at - DAY, reason=COMPROMISE)
    found = judged(house, leaf, about_issuing(house, UNKNOWN), signed_at=house.at - 2 * DAY)
    assert found.state is Revocation.DISOWNED


@pytest.mark.parametrize(
    ("status", "reason", "signed", "state"),
    [
        (GOOD, None, None, Revocation.NOT_CHECKED),
        (REVOKED, SUPERSEDED, -5 * DAY, Revocation.NOT_CHECKED),
        (REVOKED, COMPROMISE, -5 * DAY, Revocation.SIGNED_BEFORE),
        (REVOKED, SUPERSEDED, None, Revocation.REVOKED_TIME_UNKNOWN),
        (REVOKED, COMPROMISE, -HOUR, Revocation.REVOKED),
        (UNKNOWN, None, None, Revocation.DISOWNED),
    ],
)
def test_nothing_said_above_speaks_for_a_silent_leaf(house, status, reason, signed, state) -> None:
    """It can only take the leaf with it."""
    signed_at = None if signed is None else house.at + signed
    found = judged(house, about_issuing(house, status, reason), signed_at=signed_at)
    assert (found.state, found.complete) == (state, False)
    assert "known" in found.explanation
    assert reason is None or reason.value in found.explanation


def test_a_leaf_stands_under_a_silent_authority_and_that_is_told(house) -> None:
    leaf = house.answer(REVOKED, since=house.at - DAY, reason=SUPERSEDED)
    found = judged(house, leaf, signed_at=house.at - 2 * DAY)
    assert (found.state, found.complete) == (Revocation.SIGNED_BEFORE, False)
    assert "nothing is known about the certificate of Lab Devices 1" in found.explanation
    whole = judged(house, leaf, about_issuing(house, GOOD), signed_at=house.at - 2 * DAY)
    assert (whole.state, whole.complete) == (Revocation.SIGNED_BEFORE, True)


@pytest.mark.parametrize("way", ["issuer", "delegate", "list"])
@pytest.mark.parametrize(
    ("status", "signed", "state"),
    [
        (REVOKED, None, Revocation.REVOKED_TIME_UNKNOWN),
        (REVOKED, -5 * DAY, Revocation.SIGNED_BEFORE),
        (REVOKED, -HOUR, Revocation.REVOKED),
        (UNKNOWN, None, Revocation.DISOWNED),
    ],
)
def test_a_thief_of_the_issuers_key_ends_nothing_honestly(house, way, status, signed, state) -> None:
    """He would have the leaf called superseded, lately, and that found instead of the theft."""
    signed_at = None if signed is None else house.at + signed
    since, serial = house.at - HOUR / 2, house.leaf.serial_number
    theft = about_issuing(house, status, COMPROMISE if status is REVOKED else None)
    by = (house.issuing, house.issuing_key) if way == "issuer" else None
    crls: tuple[bytes, ...] = ()
    answers = [theft]
    if way == "list":
        crls = (house.crl(serial, since=since, reason=SUPERSEDED),)
    else:
        answers.append(house.answer(REVOKED, since=since, reason=SUPERSEDED, by=by))
    found = judged(house, *answers, crls=crls, signed_at=signed_at)
    assert (found.state, found.complete) == (state, False)
    assert found.reason == ("keyCompromise" if status is REVOKED else None)
    good = judged(house, theft, house.answer(by=by), signed_at=signed_at)
    assert (good.state, good.complete) == (state, False)


def test_a_leaf_withdrawn_before_it_signed_stays_so_when_its_issuer_falls(house) -> None:
    leaf = house.answer(REVOKED, since=house.at - 9 * DAY, reason=COMPROMISE)
    theft = about_issuing(house, REVOKED, COMPROMISE)
    assert judged(house, leaf, theft, signed_at=house.at - 5 * DAY).state is Revocation.REVOKED


def test_an_issuer_that_ended_honestly_is_still_heard(house) -> None:
    end = about_issuing(house, REVOKED, SUPERSEDED)
    found = judged(house, house.answer(), end, signed_at=house.at - 5 * DAY)
    assert (found.state, found.reason, found.complete) == (Revocation.SIGNED_BEFORE, "superseded", True)


def test_a_path_without_an_issuer_cannot_be_judged(house) -> None:
    assert judged(house, house.answer(), path=(house.leaf,)).state is Revocation.NOT_CHECKED


# --- Who may answer


def delegated(house: House, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> bytes:
    return house.answer(REVOKED, reason=COMPROMISE, by=(certificate, key))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"purposes": ()}, "not for OCSP answers alone"),
        ({"purposes": (ExtendedKeyUsageOID.TIME_STAMPING,)}, "not for OCSP answers alone"),
        (
            {"purposes": (ExtendedKeyUsageOID.OCSP_SIGNING, ExtendedKeyUsageOID.EMAIL_PROTECTION)},
            "not for OCSP answers alone",
        ),
        ({"purposes": (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)}, "not for OCSP answers alone"),
        ({"put": ((x509.BasicConstraints(ca=True, path_length=0), True),)}, "by an authority"),
        ({"put": ((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b""), True),)}, "not accepted"),
    ],
)
def test_a_delegate_of_another_purpose_does_not_count(house, change, words) -> None:
    key, begins = house.delegate_key, house.leaf.not_valid_before_utc
    odd = responder("Lab Odd", key, house.issuing, house.issuing_key, begins, **change)
    found = judged(house, delegated(house, key, odd))
    assert found.state is Revocation.NOT_CHECKED
    assert words in found.explanation


def test_a_delegate_past_its_date_does_not_count(house) -> None:
    key, begins = house.delegate_key, house.leaf.not_valid_before_utc
    old = responder("Lab Old", key, house.issuing, house.issuing_key, begins - 90 * DAY, days=30)
    found = judged(house, delegated(house, key, old))
    assert found.state is Revocation.NOT_CHECKED
    assert "was not valid" in found.explanation


def test_a_delegates_answer_is_good_no_longer_than_the_delegate(house) -> None:
    key, begins = house.delegate_key, house.at - DAY
    brief = responder("Lab Brief", key, house.issuing, house.issuing_key, begins - 60 * DAY, days=62)
    answer = house.answer(by=(brief, key), ends=house.at + 3650 * DAY)
    end = brief.not_valid_after_utc
    assert judged(house, answer, at=end).state is Revocation.GOOD
    assert judged(house, answer, at=end + HOUR).state is Revocation.NOT_CHECKED
    forever = house.answer(by=(house.issuing, house.issuing_key), ends=house.at + 3650 * DAY)
    assert judged(house, forever, at=end + HOUR).state is Revocation.GOOD


def test_a_delegate_of_another_authority_does_not_count(house, stamp_kit) -> None:
    key, begins = house.delegate_key, house.leaf.not_valid_before_utc
    foreign = responder("Other", key, stamp_kit.root, stamp_kit.root_key.private, begins)
    found = judged(house, delegated(house, key, foreign))
    assert found.state is Revocation.NOT_CHECKED
    assert "did not appoint" in found.explanation


def test_a_delegate_of_the_root_does_not_speak_for_the_issuer(house) -> None:
    key, begins = house.delegate_key, house.leaf.not_valid_before_utc
    higher = responder("Lab Root Answers", key, house.root, house.root_key, begins)
    assert judged(house, delegated(house, key, higher)).state is Revocation.NOT_CHECKED


def test_an_issuer_of_the_same_name_does_not_count(house) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    twin = responder("Lab Devices 1", key, house.root, house.root_key, house.leaf.not_valid_before_utc)
    assert twin.subject == house.issuing.subject
    by_name = house.answer(REVOKED, by=(twin, key), encoding=ocsp.OCSPResponderEncoding.NAME)
    assert judged(house, by_name).state is Revocation.NOT_CHECKED
    assert judged(house, crls=(house.crl(house.leaf.serial_number, key=key),)).state is Revocation.NOT_CHECKED


def test_a_signer_cannot_answer_for_itself(house, signer_kit, remake) -> None:
    itself = remake(
        house.leaf,
        signer_kit.issuing_key,
        put=((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), False),),
    )
    answer = house.answer(about=itself, by=(itself, signer_kit.key.private))
    found = judged(house, answer, path=(itself, house.issuing, house.root))
    assert found.state is Revocation.NOT_CHECKED
    assert "the very certificate" in found.explanation


def test_a_responder_that_can_be_withdrawn_is_believed_with_a_note(house) -> None:
    key, begins = house.delegate_key, house.leaf.not_valid_before_utc
    plain = responder("Lab Plain", key, house.issuing, house.issuing_key, begins, nocheck=0)
    answer = house.answer(by=(plain, key))
    found = judged(house, answer)
    assert found.state is Revocation.GOOD
    assert "may itself have been withdrawn" in found.explanation
    withdrawn = house.crl(plain.serial_number, reason=COMPROMISE)
    assert judged(house, answer, crls=(withdrawn,)).source == "revocation list of Lab Devices 1"
    narrow = scope(only_contains_ca_certs=True)
    only_cas = house.crl(plain.serial_number, reason=COMPROMISE, put=((narrow, True),))
    assert "itself withdrawn" in judged(house, answer, crls=(only_cas,)).explanation


# --- What does not count


def test_an_answer_about_another_certificate_says_nothing(house, signer_kit, remake) -> None:
    other = remake(house.leaf, signer_kit.issuing_key)
    found = judged(house, house.answer(REVOKED, about=other))
    assert found.state is Revocation.NOT_CHECKED
    assert "no status given is about it" in found.explanation


def test_the_same_serial_of_another_issuer_says_nothing(house) -> None:
    answer = house.answer(REVOKED, issuer=house.root)
    assert judged(house, answer).state is Revocation.NOT_CHECKED


@pytest.mark.parametrize("status", [s for s in ocsp.OCSPResponseStatus if s.name != "SUCCESSFUL"])
def test_an_error_of_the_responder_is_no_status(house, status) -> None:
    answer = ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)
    found = judged(house, answer)
    assert found.state is Revocation.NOT_CHECKED
    assert "the error" in found.explanation
    with pytest.raises(StatusError):
        Statuses.parse_file(answer)


def test_an_answer_signed_by_another_key_says_nothing(house) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    begins = house.leaf.not_valid_before_utc
    twin = responder("Lab Answers", key, house.issuing, house.issuing_key, begins)
    name = ocsp.OCSPResponderEncoding.NAME
    answer = house.answer(REVOKED, by=(twin, key), encoding=name)
    assert judged(house, answer).state is Revocation.REVOKED
    shown = twin.public_bytes(Encoding.DER)
    assert answer.endswith(shown)
    other = _assembled(answer, ECDSA_SHA256, ocsp.load_der_ocsp_response(answer).signature, house.delegate)
    found = judged(house, other)
    assert found.state is Revocation.NOT_CHECKED
    assert "does not verify" in found.explanation


def test_weak_hashes_sign_nothing(house) -> None:
    answer = house.answer(REVOKED, signed_over=hashes.SHA224())
    assert judged(house, answer).state is Revocation.NOT_CHECKED
    crl = house.crl(house.leaf.serial_number, digest=hashes.SHA224())
    assert "algorithm" in judged(house, crls=(crl,)).explanation


def test_an_answer_with_an_unknown_critical_extension_is_refused(house) -> None:
    strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    found = judged(house, house.answer(put=((strange, True),)))
    assert "1.2.3.4" in found.explanation
    assert judged(house, house.answer(put=((strange, False),))).state is Revocation.GOOD


@pytest.mark.parametrize(
    ("extension", "words"),
    [
        (x509.DeltaCRLIndicator(1), "only changes"),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), "1.2.3.4"),
        (scope(indirect_crl=True), "other issuers"),
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_a_list_that_is_not_understood_is_refused(house, extension, words, listed) -> None:
    serials = (house.leaf.serial_number,) if listed else ()
    found = judged(house, crls=(house.crl(*serials, put=((extension, True),)),))
    assert found.state is Revocation.NOT_CHECKED
    assert words in found.explanation


def test_an_entry_that_is_not_understood_is_refused(house) -> None:
    strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    crl = house.crl(house.leaf.serial_number, put_entry=((strange, True),))
    assert "not understood" in judged(house, crls=(crl,)).explanation


ELSEWHERE = [x509.UniformResourceIdentifier("http://127.0.0.1/part2.crl")]


@pytest.mark.parametrize(
    "part",
    [
        scope(only_contains_ca_certs=True),
        scope(only_contains_attribute_certs=True),
        scope(only_some_reasons=frozenset({COMPROMISE})),
        scope(full_name=ELSEWHERE),
    ],
)
def test_a_list_of_narrower_scope_is_silent_but_not_mute(house, part) -> None:
    silent = judged(house, crls=(house.crl(put=((part, True),)),))
    assert silent.state is Revocation.NOT_CHECKED
    named = judged(house, crls=(house.crl(house.leaf.serial_number, put=((part, True),)),))
    assert named.state is Revocation.REVOKED


def test_a_list_for_the_part_that_the_certificate_names_counts(house, signer_kit, remake) -> None:
    points = x509.CRLDistributionPoints([x509.DistributionPoint(ELSEWHERE, None, None, None)])
    leaf = remake(house.leaf, signer_kit.issuing_key, put=((points, False),))
    part = scope(full_name=ELSEWHERE, only_contains_user_certs=True)
    crl = house.crl(put=((part, True),))
    assert judged(house, crls=(crl,), path=(leaf, house.issuing, house.root)).state is Revocation.GOOD


def test_a_list_of_another_issuer_says_nothing(house, stamp_kit) -> None:
    serial = house.leaf.serial_number
    foreign = house.crl(serial, name=stamp_kit.root.subject, key=stamp_kit.root_key.private)
    assert "no status given is about it" in judged(house, crls=(foreign,)).explanation
    borrowed = house.crl(serial, key=stamp_kit.root_key.private)
    assert "does not verify" in judged(house, crls=(borrowed,)).explanation


def test_an_authority_that_may_not_sign_lists_says_nothing_in_one(house, signer_kit, remake) -> None:
    usage = house.issuing.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.crl_sign
    mute = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    issuing = remake(house.issuing, signer_kit.root_key, put=((mute, True),))
    crl = house.crl(house.leaf.serial_number)
    found = judged(house, crls=(crl,), path=(house.leaf, issuing, house.root))
    assert "may not sign such lists" in found.explanation


# --- Other keys


def rsa_house(house: House) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    key = rsa.generate_private_key(65537, 2048)
    return key, responder(
        "Lab RSA",
        key,
        house.issuing,
        house.issuing_key,
        house.leaf.not_valid_before_utc,  # type: ignore[arg-type]
    )


def test_rsa_responders_count_in_both_paddings(house) -> None:
    key, certificate = rsa_house(house)
    answer = house.answer(by=(certificate, key))
    assert judged(house, answer).state is Revocation.GOOD
    # The builder signs no answer with PSS: the statement is signed again, and put together by hand.
    statement = ocsp.load_der_ocsp_response(answer).tbs_response_bytes
    for mask, state in ((hashes.SHA256(), Revocation.GOOD), (SHA1, Revocation.NOT_CHECKED)):
        signature = key.sign(statement, padding.PSS(padding.MGF1(mask), 32), hashes.SHA256())
        assert judged(house, _assembled(answer, PSS_SHA256, signature, certificate)).state is state


PSS_SHA256 = bytes.fromhex(
    "304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d010108"
    "300d06096086480165030402010500a203020120"
)


ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")


def _assembled(
    answer: bytes,
    algorithm: bytes,
    signature: bytes,
    certificate: x509.Certificate,
    statement: bytes | None = None,
) -> bytes:
    """The statement of `answer`, or another, with another signature or certificate put beside it."""
    basic = der.sequence(
        statement or ocsp.load_der_ocsp_response(answer).tbs_response_bytes,
        algorithm,
        der.tagged(der.BIT_STRING, b"\x00", signature),
        der.tagged(0xA0, der.sequence(certificate.public_bytes(Encoding.DER))),
    )
    status = der.parse(answer).children()[0].encoded
    return der.sequence(
        status, der.tagged(0xA0, der.sequence(der.oid("1.3.6.1.5.5.7.48.1.1"), der.octets(basic)))
    )


# --- Files


def test_files_are_read_in_each_form_that_issuers_publish(house) -> None:
    crl, answer = house.crl(), house.answer()
    pem = x509.load_der_x509_crl(crl).public_bytes(Encoding.PEM)
    assert Statuses.parse_file(crl) == Statuses.parse_file(pem) == Statuses(crls=(crl,))
    assert Statuses.parse_file(answer) == Statuses(answers=(answer,))
    assert Statuses.parse_file(answer).dated == Statuses.parse_file(crl).dated == house.at - HOUR
    assert NO_STATUSES.dated is None


@pytest.mark.parametrize(
    "data", [b"", b"0", b"0\x80", b"-----BEGIN X509 CRL-----\n", b"0\x03\x0a\x01\x00", b"x" * 99]
)
def test_anything_else_is_refused_as_a_file(data) -> None:
    with pytest.raises(StatusError):
        Statuses.parse_file(data)


def test_a_file_of_two_lists_is_refused(house) -> None:
    pem = x509.load_der_x509_crl(house.crl()).public_bytes(Encoding.PEM)
    with pytest.raises(StatusError):
        Statuses.parse_file(pem + pem)


def test_an_answer_over_the_limit_is_not_parsed(house) -> None:
    found = judged(house, b"0" * (MAX_ANSWER + 1))
    assert "larger than 64 KiB" in found.explanation


# --- Asking


def test_addresses_are_read_and_only_those_of_the_web(house, signer_kit, remake) -> None:
    uri = x509.UniformResourceIdentifier
    access = x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(AuthorityInformationAccessOID.OCSP, uri("ldap://127.0.0.1/x")),
            x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, uri("http://127.0.0.1/ca")),
            x509.AccessDescription(AuthorityInformationAccessOID.OCSP, uri("http://127.0.0.1/ocsp/")),
        ]
    )
    points = x509.CRLDistributionPoints(
        [
            x509.DistributionPoint([uri("http://127.0.0.1/a.crl")], None, None, None),
            x509.DistributionPoint(
                [uri("http://127.0.0.1/b.crl")], None, None, [x509.DirectoryName(house.root.subject)]
            ),
        ]
    )
    leaf = remake(house.leaf, signer_kit.issuing_key, put=((access, False), (points, False)))
    assert status_addresses(leaf.public_bytes(Encoding.DER)) == Addresses(
        ("http://127.0.0.1/ocsp/",), ("http://127.0.0.1/a.crl",)
    )
    assert status_addresses(house.root.public_bytes(Encoding.DER)) == Addresses()
    with pytest.raises(CertificateError):
        status_addresses(b"nothing")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://Lab.Example/ocsp/", "lab.example"),
        ("http://lab.example:80/", "lab.example"),
        ("https://lab.example:443", "lab.example"),
        ("https://lab.example:80/", "lab.example:80"),
        ("http://127.0.0.1:8888/a?b", "127.0.0.1:8888"),
        ("http://[2001:DB8::1]/", "[2001:db8::1]"),
        ("http://[2001:db8::1]:8080/", "[2001:db8::1]:8080"),
        ("http://user@lab.example/", None),
        ("http://lab.example\\@other.example/", None),
        ("http://lab.example:x/", None),
        ("http://[lab.example/", None),
        ("http:///lab.example/", None),
        ("http://lab.example other.example/", None),
        ("http://lab.example,other.example/", None),
        ("http://l\u00e4b.example/", None),
        ("ldap://lab.example/", None),
        ("lab.example", None),
        ("", None),
    ],
)
def test_the_host_of_an_address_is_written_in_one_way(url, host) -> None:
    assert host_of(url) == host


def test_a_request_is_byte_for_byte_what_another_library_writes(house) -> None:
    theirs = ocsp.OCSPRequestBuilder().add_certificate(house.leaf, house.issuing, SHA1).build()
    ours = ocsp_request(house.leaf.public_bytes(Encoding.DER), house.issuing.public_bytes(Encoding.DER))
    assert ours == theirs.public_bytes(Encoding.DER)


# --- An independent responder


@pytest.mark.needs("openssl")
@pytest.mark.parametrize(
    ("row", "state"),
    [
        ("V\t{end}\t\t{serial}\tunknown\t/CN=x\n", Revocation.GOOD),
        ("R\t{end}\t{since},keyCompromise\t{serial}\tunknown\t/CN=x\n", Revocation.SIGNED_BEFORE),
        ("R\t{end}\t{since}\t{serial}\tunknown\t/CN=x\n", Revocation.REVOKED),
        ("", Revocation.DISOWNED),
    ],
)
def test_openssl_answers_our_request_and_we_read_its_answer(house, tmp_path: Path, row, state) -> None:
    since = house.leaf.not_valid_before_utc + timedelta(minutes=30)
    form = "%y%m%d%H%M%SZ"
    (tmp_path / "index.txt").write_text(
        row.format(
            end=house.leaf.not_valid_after_utc.strftime(form),
            since=since.strftime(form),
            serial=der.integer(house.leaf.serial_number)[2:].lstrip(b"\0").hex().upper(),
        )
    )
    (tmp_path / "ca.pem").write_bytes(identity.pem_chain(house.issuing))
    (tmp_path / "signer.pem").write_bytes(identity.pem_chain(house.delegate))
    (tmp_path / "signer.key").write_bytes(
        house.delegate_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    leaf, issuing = (item.public_bytes(Encoding.DER) for item in (house.leaf, house.issuing))
    (tmp_path / "request.der").write_bytes(ocsp_request(leaf, issuing))
    asked = "-reqin request.der -respout answer.der -ndays 1"
    signed = "-rsigner signer.pem -rkey signer.key -CA ca.pem -index index.txt"
    subprocess.run(
        ["openssl", "ocsp", *asked.split(), *signed.split()],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=30,
    )
    answer = (tmp_path / "answer.der").read_bytes()
    now = datetime.now(UTC)
    found = judged(house, answer, signed_at=since - timedelta(minutes=1), at=now)
    assert found.state is state


# --- Hostile bytes


@pytest.fixture(scope="module")
def withdrawals(house) -> dict[str, bytes]:
    since = house.at - 2 * DAY
    return {
        "answer": house.answer(REVOKED, since=since, reason=COMPROMISE),
        "crl": house.crl(house.leaf.serial_number, since=since, reason=COMPROMISE),
    }


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_no_bytes_raise_or_speak_for_the_issuer(house, withdrawals, data) -> None:
    """Whatever is changed: the very same withdrawal or none, and nothing is raised."""
    kind = data.draw(st.sampled_from(["answer", "crl"]))
    changed = bytearray(withdrawals[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "set"])):
            case "flip":
                changed[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del changed[at : at + data.draw(st.integers(1, 8))]
            case "insert":
                changed[at:at] = data.draw(st.binary(min_size=1, max_size=8))
            case _:
                changed[at] = data.draw(st.integers(0, 255))
        if not changed:
            break
    mutant = bytes(changed)
    found = judged(house, *((mutant,) if kind == "answer" else ()), crls=(mutant,) if kind == "crl" else ())
    assert found.state in {Revocation.NOT_CHECKED, Revocation.REVOKED_TIME_UNKNOWN}
    if found.state is Revocation.REVOKED_TIME_UNKNOWN:
        assert (found.since, found.reason) == (house.at - 2 * DAY, "keyCompromise")
    with contextlib.suppress(StatusError):
        Statuses.parse_file(mutant)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_no_status(house, noise) -> None:
    assert judged(house, noise, crls=(noise,)).state is Revocation.NOT_CHECKED


def test_no_byte_of_the_signed_part_can_be_changed(house) -> None:
    answer = house.answer()
    signed = ocsp.load_der_ocsp_response(answer).tbs_response_bytes
    start = answer.index(signed)
    for position in range(start, start + len(signed)):
        changed = bytearray(answer)
        changed[position] ^= 1
        assert judged(house, bytes(changed)).state is Revocation.NOT_CHECKED, position
