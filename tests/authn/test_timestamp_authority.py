import hashlib
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from authn import der, keys
from authn.errors import CertificateError
from authn.identity import pem_chain
from authn.timestamp.authority import Authority, Safeguards, never_doubt, no_floor, serials_from
from authn.timestamp.request import TimeStampRequest
from authn.timestamp.token import check_token

DIGEST = hashlib.sha256(b"claim").digest()
UNWATCHED = Safeguards(never_doubt, no_floor)


def token_of(reply: bytes) -> bytes:
    """The token of a granted reply (RFC 3161, 2.4.2)."""
    fields = der.parse(reply).fields()
    assert fields.take(der.SEQUENCE).encoded == der.sequence(der.integer(0))
    token = fields.take(der.SEQUENCE).encoded
    fields.end()
    return token


def failure_of(reply: bytes) -> tuple[int, str]:
    """The one failure bit of a refusal, and its text."""
    fields = der.parse(reply).fields()
    status = fields.take(der.SEQUENCE).fields()
    fields.end()
    assert status.take(der.INTEGER).to_integer() == 2
    text = status.take(der.SEQUENCE).children()[0].content.decode()
    bits = status.take(der.BIT_STRING).content
    status.end()
    flags = "".join(f"{byte:08b}" for byte in bits[1:])
    assert flags.count("1") == 1
    assert bits[0] == 7 - (flags.index("1") % 8)
    return flags.index("1"), text


@pytest.mark.parametrize("name", ["sha256", "sha384", "sha512"])
def test_a_token_is_proven_by_our_own_check(stamp_kit, name: str) -> None:
    request = TimeStampRequest(hashlib.new(name, b"claim").digest(), name, nonce=7)
    token = token_of(stamp_kit.authority().respond(request.encode()))
    evidence = check_token(token, b"claim", (stamp_kit.time_stampers,), datetime.now(UTC))
    assert evidence.proven, evidence.reason
    assert evidence.authority == "Lab Clock 1"
    assert evidence.accuracy == timedelta(seconds=1)


def test_a_p384_unit_works_too(stamp_kit, remake) -> None:
    key = keys.generate_p384()
    leaf = remake(
        stamp_kit.leaf,
        stamp_kit.root_key,
        public_key=key.public_key,
        put=[(x509.SubjectKeyIdentifier.from_public_key(key.public_key), False)],
    )
    authority = Authority(
        key, (leaf, stamp_kit.root), "1.2.3", lambda: datetime.now(UTC), serials_from(1), UNWATCHED
    )
    token = token_of(authority.respond(TimeStampRequest(DIGEST).encode()))
    assert check_token(token, b"claim", (stamp_kit.time_stampers,), datetime.now(UTC)).proven


def test_the_token_gives_the_time_of_the_clock_in_whole_seconds(stamp_kit) -> None:
    moment = stamp_kit.at + timedelta(days=3, microseconds=999_999)
    token = token_of(stamp_kit.authority(lambda: moment).respond(TimeStampRequest(DIGEST).encode()))
    evidence = check_token(token, b"claim", (stamp_kit.time_stampers,), moment)
    assert evidence.gen_time == moment.replace(microsecond=0)


@pytest.mark.parametrize(
    ("query", "bit"),
    [
        (b"", 5),
        (TimeStampRequest(DIGEST).encode() + b"\0", 5),
        (der.sequence(der.integer(1), der.sequence(der.sequence(der.oid("1.3.14.3.2.26")), der.octets(b"x" * 20))), 0),
        (TimeStampRequest(DIGEST, policy="1.2.3.4").encode(), 15),
    ],
)  # fmt: skip
def test_a_refusal_names_its_reason(stamp_kit, query: bytes, bit: int) -> None:
    found, text = failure_of(stamp_kit.authority().respond(query))
    assert found == bit
    assert text


def test_no_time_is_given_while_the_clock_is_behind(stamp_kit) -> None:
    start = stamp_kit.at
    times = iter([start, start, start - timedelta(microseconds=1), start + timedelta(seconds=1)])
    authority = stamp_kit.authority(lambda: next(times))
    query = TimeStampRequest(DIGEST).encode()
    token_of(authority.respond(query))
    token_of(authority.respond(query))
    assert failure_of(authority.respond(query)) == (14, "the clock ran backwards")
    token_of(authority.respond(query))


def test_no_time_is_given_outside_the_certificates_dates(stamp_kit) -> None:
    query = TimeStampRequest(DIGEST).encode()
    for moment in (stamp_kit.at - timedelta(days=1), stamp_kit.at + timedelta(days=5000)):
        bit, _ = failure_of(stamp_kit.authority(lambda moment=moment: moment).respond(query))
        assert bit == 14


def test_serial_numbers_are_never_given_twice_even_after_a_crash() -> None:
    before = serials_from(1_000)
    given = [next(before) for _ in range(100)]
    after = serials_from(1_001)
    assert given[0] == 1_000 << 16
    assert len(set(given)) == 100
    assert next(after) > given[-1]


def test_many_callers_get_different_serial_numbers_in_the_order_of_time(stamp_kit) -> None:
    authority = stamp_kit.authority()
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(authority.respond, [TimeStampRequest(DIGEST).encode()] * 40))
    found = [
        check_token(token_of(reply), b"claim", (stamp_kit.time_stampers,), datetime.now(UTC))
        for reply in replies
    ]
    assert all(evidence.proven for evidence in found)
    assert len({evidence.serial for evidence in found}) == 40
    by_serial = sorted(found, key=lambda evidence: evidence.serial)
    assert by_serial == sorted(by_serial, key=lambda evidence: evidence.gen_time)


def test_a_unit_starts_only_with_its_own_fitting_certificate(stamp_kit, signer_kit) -> None:
    clock, serials = (lambda: datetime.now(UTC)), serials_from(1)
    for key, chain in (
        (keys.generate_p256(), (stamp_kit.leaf,)),
        (signer_kit.key, (signer_kit.leaf,)),
        (keys.generate_ed25519(), (stamp_kit.leaf,)),
    ):
        with pytest.raises(CertificateError):
            Authority(key, chain, "1.2.3", clock, serials, UNWATCHED)


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=30
    )
    return done.stdout + done.stderr


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("name", ["sha256", "sha384", "sha512"])
def test_openssl_asks_us_and_accepts_our_answer(stamp_kit, tmp_path: Path, name: str) -> None:
    data, query, reply, root = (tmp_path / part for part in ("data", "q.tsq", "r.tsr", "root.pem"))
    data.write_bytes(b"claim")
    root.write_bytes(pem_chain(stamp_kit.root))
    run("openssl", "ts", "-query", "-data", data, f"-{name}", "-cert", "-out", query)
    reply.write_bytes(stamp_kit.authority().respond(query.read_bytes()))
    verify = ("openssl", "ts", "-verify", "-queryfile", query, "-in", reply, "-CAfile", root)
    assert "Verification: OK" in run(*verify)
    data.write_bytes(b"other")
    run("openssl", "ts", "-query", "-data", data, f"-{name}", "-cert", "-out", query)
    assert "Verification: OK" not in run(*verify)


@pytest.mark.needs("openssl")
def test_openssl_reads_our_refusal(stamp_kit, tmp_path: Path) -> None:
    reply = tmp_path / "r.tsr"
    reply.write_bytes(stamp_kit.authority().respond(b""))
    text = run("openssl", "ts", "-reply", "-in", reply, "-text")
    assert "Status: Rejected." in text
    assert "unrecognized/malformed" in text or "the data submitted has the wrong format" in text
