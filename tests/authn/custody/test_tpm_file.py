import base64
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn import der
from authn.custody.tpm_file import OWNER, WrappedKey, read_wrapped, store_wrapped
from authn.errors import KeyExposedError, KeyFileError, KeyNotOursError

# A P-256 key that signs, as a TPM describes it; the private part is only carried.
PUBLIC = bytes.fromhex(
    "0023000b00040072000000100018000b000300100020d144c1cf47beb2b5dc4171765729add4a63a1b1079b5a360b90838cef33e9a43"
    "00204b358296d046fc5c8ccbbb97fce76806daa722ec06b13bd352bba6f83e88338c"
)
NO_PASSWORD = der.tagged(0xA0, der.tagged(der.BOOLEAN, b"\xff"))
KEY = WrappedKey(PUBLIC, b"wrapped" * 16, protected=False)


def pem(*fields: bytes, label: bytes = b"TSS2 PRIVATE KEY") -> bytes:
    body = base64.encodebytes(der.sequence(*fields))
    return b"-----BEGIN " + label + b"-----\n" + body + b"-----END " + label + b"-----\n"


def parts(kind: str = "2.23.133.10.1.3", parent: int = OWNER) -> list[bytes]:
    public, private = (len(part).to_bytes(2, "big") + part for part in (PUBLIC, KEY.private))
    return [der.oid(kind), der.integer(parent), der.octets(public), der.octets(private)]


@given(st.binary(max_size=512), st.booleans(), st.integers(0x81000000, 0x81FFFFFF) | st.just(OWNER))
def test_a_key_file_is_read_as_it_was_written(private: bytes, protected: bool, parent: int) -> None:  # noqa: FBT001
    key = WrappedKey(PUBLIC, private, protected, parent)
    assert WrappedKey.read(key.encode()) == key


def test_a_key_file_that_does_not_say_whether_it_has_a_password_is_refused() -> None:
    kind, *rest = parts()
    for said in (
        (),
        (der.tagged(0xA0),),
        (der.tagged(0xA0, der.tagged(1, b"\x01")),),
        (NO_PASSWORD, NO_PASSWORD),
    ):
        with pytest.raises(KeyFileError):
            WrappedKey.read(pem(kind, *said, *rest))
    assert WrappedKey.read(pem(kind, NO_PASSWORD, *rest)) == KEY


def test_a_stored_key_file_is_its_owners_alone_and_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "key.tss"
    store_wrapped(path, KEY)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_wrapped(path) == KEY
    with pytest.raises(KeyFileError, match="exists"):
        store_wrapped(path, KEY)
    path.chmod(0o644)
    with pytest.raises(KeyExposedError):
        read_wrapped(path)
    path.write_bytes(WrappedKey(PUBLIC, b"x", protected=True).encode())
    assert read_wrapped(path).protected


def test_what_is_no_small_file_is_not_read_as_a_key(tmp_path: Path) -> None:
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    large.write_bytes(KEY.encode() + b" " * (1 << 17))
    for path in (pipe, large, tmp_path, tmp_path / "none", Path("x\0y")):
        with pytest.raises(KeyFileError):
            read_wrapped(path)


def test_keys_with_policies_to_be_imported_or_of_other_parents_are_refused() -> None:
    for fields in (
        parts("2.23.133.10.1.4"),
        parts("2.23.133.10.1.5"),
        parts(parent=0x40000007),
        parts(parent=-1),
    ):
        kind, *rest = fields
        with pytest.raises(KeyNotOursError):
            WrappedKey.read(pem(kind, NO_PASSWORD, *rest))
    policy = der.tagged(0xA1, der.sequence())
    kind, *rest = parts()
    with pytest.raises(KeyFileError):
        WrappedKey.read(pem(kind, NO_PASSWORD, policy, *rest))


def test_a_private_key_in_the_clear_is_no_tpm_key() -> None:
    with pytest.raises(KeyFileError):
        WrappedKey.read(pem(parts()[0], NO_PASSWORD, *parts()[1:], label=b"PRIVATE KEY"))


def test_the_private_part_is_not_shown() -> None:
    assert "wrapped" not in repr(KEY)
    assert KEY.private.hex() not in repr(KEY)


@given(st.data())
def test_a_mutated_key_file_raises_only_its_own_error(data: st.DataObject) -> None:
    written = KEY.encode()
    place = data.draw(st.integers(0, len(written)))
    changed = (
        written[:place] + data.draw(st.binary(max_size=4)) + written[place + data.draw(st.integers(0, 8)) :]
    )
    try:
        read = WrappedKey.read(changed)
        assert read.spki
    except KeyFileError:
        return
    assert WrappedKey.read(read.encode()) == read
