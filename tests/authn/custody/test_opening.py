import os
import subprocess
from pathlib import Path

import pytest

from authn import keys
from authn.custody.opening import open_provider
from authn.errors import Error, KeyAddressError, KeyExposedError, KeyFileError, KeyGoneError, KeyLockedError

PASSPHRASE = b"sixteen or more bytes"


def secret_file(path: Path, content: bytes) -> Path:
    path.touch(0o600)
    path.write_bytes(content)
    return path


def test_a_key_file_opens_with_the_passphrase_of_its_pin_source(tmp_path: Path) -> None:
    key = keys.generate_p256()
    keys.store_key(tmp_path / "key.pem", key, PASSPHRASE)
    source = secret_file(tmp_path / "pass", PASSPHRASE + b"\n")
    opened = open_provider(f"file:{tmp_path}/key.pem?pin-source=file:{source}")
    assert opened.public_key == key.public_key
    assert opened.keeping is keys.Keeping.SOFTWARE
    assert keys.signature_holds(key.public_key, key.algorithm, opened.sign(b"claim"), b"claim")
    opened.close()
    opened.close()
    with pytest.raises(KeyLockedError):
        open_provider(f"file:{tmp_path}/key.pem")


@pytest.mark.needs("openssl")
def test_a_file_of_openssl_with_600_000_rounds_opens(tmp_path: Path) -> None:
    key = keys.generate_p384()
    keys.store_key(tmp_path / "plain.pem", key, None)
    source = secret_file(tmp_path / "pass", b"memorable\n")
    slow = secret_file(tmp_path / "slow.pem", b"")
    command = [
        "openssl",
        "pkcs8",
        "-topk8",
        "-v2",
        "aes-256-cbc",
        "-v2prf",
        "hmacWithSHA256",
        "-iter",
        "600000",
    ]
    command += ["-in", tmp_path / "plain.pem", "-out", slow, "-passout", f"file:{source}"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert b"ENCRYPTED" in slow.read_bytes()
    opened = open_provider(f"file:{slow}?pin-source=file:{source}")
    assert opened.public_key == key.public_key
    secret_file(tmp_path / "wrong", b"memorably\n")
    with pytest.raises(KeyLockedError):
        open_provider(f"file:{slow}?pin-source=file:{tmp_path}/wrong")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_pin_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    keys.store_key(tmp_path / "key.pem", keys.generate_p256(), PASSPHRASE)
    source = secret_file(tmp_path / "pass", PASSPHRASE)
    source.chmod(mode)
    with pytest.raises(KeyExposedError, match="PIN"):
        open_provider(f"file:{tmp_path}/key.pem?pin-source=file:{source}")


@pytest.mark.parametrize("content", [b"", b"\n", b"one\ntwo\n", b"nul\0", b"x" * 2000])
def test_a_pin_file_holds_one_line(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(KeyFileError, match="PIN"):
        keys.read_secret(secret_file(tmp_path / "pass", content))


def test_a_pin_file_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeyFileError):
        keys.read_secret(tmp_path / "pipe")


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
def test_one_line_break_at_the_end_is_not_of_the_pin(tmp_path: Path, ending: str) -> None:
    source = secret_file(tmp_path / "pass", f" 12 34 {ending}".encode())
    assert keys.read_secret(source) == b" 12 34 "


@pytest.mark.parametrize(
    "uri", ["", "nothing", "file:", "pkcs11:token=x", "exec:relative", "awskms:x", "tpm:"]
)
def test_an_address_that_is_none_is_an_error_of_its_own(uri: str) -> None:
    with pytest.raises(KeyAddressError):
        open_provider(uri)


def test_every_error_of_a_key_has_its_own_code_and_a_remedy() -> None:
    def family(kind: type[Error]) -> list[type[Error]]:
        return [kind, *(below for child in kind.__subclasses__() for below in family(child))]

    ours = ("authn.errors", "authn.custody.")
    found = [kind for kind in family(KeyFileError) if kind.__module__.startswith(ours)]
    assert KeyGoneError in found
    assert len({kind.code for kind in found}) == len(found)
    assert all(kind.remedy.endswith(".") for kind in found)
    assert len({kind.remedy for kind in found}) == len(found)
