from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from authn.custody import uri
from authn.errors import KeyAddressError

ADDRESS = "pkcs11:token=Camera;object=claim;id=%01?module-path=/usr/lib/p11.so&pin-source=file:/etc/pin"
ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
GOOD = (
    "file:/home/key.pem",
    "file:/home/key.pem?pin-source=file:/home/pass",
    ADDRESS,
    "pkcs11:serial=00ff;id=%00%FF?module-path=/p11.so&pin-source=file:/pin",
    "tpm:/etc/key.tss?tcti=device:/dev/tpmrm0",
    "tpm:/etc/key.tss?tcti=swtpm:host=127.0.0.1,port=2321&pin-source=file:/pin",
    "tpm:/etc/key.tss?tcti=mssim:host=127.0.0.1,port=2321",
    "tpm:/etc/key.tss?tcti=tabrmd",
    "exec:/usr/bin/signer",
    "exec:/usr/bin/signer?key=claim-1",
    f"awskms:{ARN}?region=eu-west-1&credentials=environment",
    "awskms:alias/claim?region=us-gov-west-1&endpoint=http://127.0.0.1:4566/&credentials=file:/etc/aws.json",
    "awskms:1234abcd-12ab-34cd-56ef-1234567890ab?region=eu-west-1&credentials=instance",
)

labels = st.text(
    st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]), min_size=1
)
parts = st.from_regex(r"[A-Za-z0-9_.&=%;+ -]{1,12}", fullmatch=True).filter(
    lambda part: part not in (".", "..")
)
paths = st.lists(parts, min_size=1, max_size=4).map(lambda found: Path("/", *found))


@pytest.mark.parametrize("text", GOOD)
def test_what_we_write_is_what_we_read(text: str) -> None:
    assert str(uri.parse(text)) == text


def test_a_token_is_named_as_rfc_7512_has_it() -> None:
    assert uri.parse(ADDRESS) == uri.TokenAddress(
        "Camera", None, "claim", b"\x01", Path("/usr/lib/p11.so"), Path("/etc/pin")
    )
    percent = "pkcs11:token=My%20token%3B;object=%C3%A9;type=private?module-path=/p.so&pin-source=file:/a%3Fb"
    read = uri.parse(percent)
    assert isinstance(read, uri.TokenAddress)
    assert (read.token, read.label, read.id, read.pin_source) == ("My token;", "é", None, Path("/a?b"))


def test_an_arn_says_its_region_by_itself() -> None:
    address = uri.parse(f"awskms:{ARN}")
    assert isinstance(address, uri.KmsAddress)
    assert address.region == "eu-west-1"
    assert address.credentials == "environment"


@given(labels, st.none() | st.binary(min_size=1, max_size=255), paths, paths)
def test_every_token_address_comes_back(label, identity, module, pin) -> None:
    address = uri.TokenAddress(label[:32], None, label[-32:], identity, module, pin)
    assert uri.parse(str(address)) == address


@given(paths, st.none() | paths)
def test_every_file_address_comes_back(path: Path, pin: Path | None) -> None:
    for address in (uri.FileAddress(path, pin), uri.TpmAddress(path, "swtpm:port=1", pin)):
        assert uri.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "key.pem",
        "file:",
        "file:/a?",
        "file:/a?x=1",
        "file:/a?pin-source=/b",
        "file:/a?pin-source=file:b",
        "file:/a\n",
        "file:/a\0b",
        "http://example.org/",
        "pkcs11:",
        "PKCS11:token=T;object=O?module-path=/p.so&pin-source=file:/p",
        "pkcs11:token=T;object=O",
        "pkcs11:token=T;object=O?module-path=/p.so",
        "pkcs11:token=T;object=O?pin-source=file:/p",
        "pkcs11:token=T?module-path=/p.so&pin-source=file:/p",
        "pkcs11:object=O?module-path=/p.so&pin-source=file:/p",
        "pkcs11:token=T;token=U;object=O?module-path=/p.so&pin-source=file:/p",
        "pkcs11:token=T;object=O;type=public?module-path=/p.so&pin-source=file:/p",
        "pkcs11:token=T;object=O;model=M?module-path=/p.so&pin-source=file:/p",
        "pkcs11:token=T;object=%FF?module-path=/p.so&pin-source=file:/p",
        "pkcs11:token=T;object=%0a?module-path=/p.so&pin-source=file:/p",
        "pkcs11:token=T;object=%4?module-path=/p.so&pin-source=file:/p",
        "pkcs11:token=T;object=O?module-path=p.so&pin-source=file:/p",
        "pkcs11:token=T;object=O?module-path=/a/../p.so&pin-source=file:/p",
        "pkcs11:token=T;object=O?module-path=/p.so&pin-source=%7Ccat%20/p",
        "pkcs11:token=T;object=O?module-path=/p.so&pin-source=|cat",
        "tpm:key.tss",
        "tpm:/k?tcti=",
        "tpm:/k?tcti=a%20b:c%20d",
        "exec:signer",
        "exec:/bin/sh?key=a%20b",
        "exec:/bin/sh?args=-c",
        "awskms:",
        "awskms:alias/claim",
        "awskms:alias/claim?region=nowhere",
        f"awskms:{ARN}?region=us-east-1",
        "awskms:alias/a?region=eu-west-1&endpoint=http://kms.example.org/",
        "awskms:alias/a?region=eu-west-1&endpoint=http://127.0.0.1@example.org/",
        "awskms:alias/a?region=eu-west-1&endpoint=https://user:pass@example.org/",
        "awskms:alias/a?region=eu-west-1&endpoint=file:///etc/passwd",
        "awskms:alias/a?region=eu-west-1&endpoint=http://127.0.0.1:99999/",
        "awskms:alias/a?region=eu-west-1&endpoint=http://[::1",
        "awskms:alias/a?region=eu-west-1&credentials=AKIA:secret",
    ],
)
def test_what_is_not_exactly_understood_is_refused(text: str) -> None:
    with pytest.raises(KeyAddressError):
        uri.parse(text)


@pytest.mark.parametrize(
    "tcti",
    [
        "cmd:touch%24%7BIFS%7D/tmp/made",
        "cmd",
        "pcap:device:/dev/tpmrm0",
        "libtss2-tcti-cmd.so.0:id",
        "/opt/evil.so:x",
        "evil",
        "device-x:/dev/tpmrm0",
        "xdevice:/dev/tpmrm0",
        "device%0a",
        "Device:/dev/tpmrm0",
    ],
)
def test_a_way_to_a_tpm_that_would_run_code_is_refused(tcti: str) -> None:
    with pytest.raises(KeyAddressError, match=r"tcti|control characters"):
        uri.parse(f"tpm:/etc/key.tss?tcti={tcti}")


@pytest.mark.parametrize("name", ["pin-value", "pin", "passphrase", "password"])
@pytest.mark.parametrize("text", [ADDRESS, "file:/home/key.pem?pin-source=file:/home/pass", "exec:/a?key=b"])
def test_a_secret_in_a_uri_is_refused_and_not_repeated(text: str, name: str) -> None:
    with pytest.raises(KeyAddressError, match="secret") as caught:
        uri.parse(f"{text}&{name}=correcthorse")
    assert "correcthorse" not in str(caught.value)


@given(st.sampled_from(GOOD), st.data())
def test_mutated_addresses_raise_only_our_own_error(text: str, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 3))
        text = text[:at] + data.draw(st.text(max_size=3)) + text[at + cut :]
    try:
        read = uri.parse(text)
    except KeyAddressError:
        return
    assert uri.parse(str(read)) == read


@given(st.text(max_size=80))
@example("/a\ud800")
@example("////a")
@example("a" * 5000)
def test_odd_addresses_raise_only_our_own_error(rest: str) -> None:
    for scheme in ("file:", "pkcs11:", "tpm:", "exec:", "awskms:", ""):
        try:
            read = uri.parse(scheme + rest)
        except KeyAddressError:
            continue
        assert uri.parse(str(read)) == read
