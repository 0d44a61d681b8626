import base64
import hashlib
import json
import multiprocessing
import os
import resource
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authn import keys
from authn.custody.executable import CodeExposedError
from authn.custody.external import ProgramAnswerError, open_program_key
from authn.custody.opening import open_provider
from authn.custody.uri import ProgramAddress
from authn.errors import (
    KeyBusyError,
    KeyDisabledError,
    KeyFileError,
    KeyGoneError,
    KeyLockedError,
    KeyNotOursError,
    PinWrongError,
    ProviderMissingError,
    SelfCheckError,
)

# What an operator writes after reading the protocol's description alone.
SIGNER = """#!{python}
import base64, json, sys
sys.path[:] = {path!r}
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

asked = json.loads(sys.stdin.read())
key = load_pem_private_key(open("{key}", "rb").read(), None)
if asked["ask"] == "public-key":
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    print(json.dumps({{"public-key": base64.b64encode(der).decode()}}))
elif asked["algorithm"] == "ed25519":
    made = key.sign(base64.b64decode(asked["message"]))
    print(json.dumps({{"signature": base64.b64encode(made).decode()}}))
else:
    digest, size = {{"es256": (hashes.SHA256(), 32), "es384": (hashes.SHA384(), 48)}}[asked["algorithm"]]
    made = key.sign(base64.b64decode(asked["hash"]), ec.ECDSA(utils.Prehashed(digest)))
    raw = b"".join(each.to_bytes(size, "big") for each in utils.decode_dss_signature(made))
    print(json.dumps({{"signature": base64.b64encode(raw).decode()}}))
"""


def program(folder: Path, text: str) -> Path:
    path = folder / f"program-{len(list(folder.iterdir()))}"
    path.write_text(text)
    path.chmod(0o700)
    return path


def signer(folder: Path, key: keys.SigningKey) -> Path:
    keys.store_key(folder / "key.pem", key, None)
    return program(folder, SIGNER.format(python=sys.executable, path=sys.path, key=folder / "key.pem"))


def public(key: keys.SigningKey) -> str:
    der = key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return json.dumps({"public-key": base64.b64encode(der).decode()})


def faulty(folder: Path, key: keys.SigningKey, then: str) -> Path:
    """Names its key, and then does `then` when it is asked for a signature."""
    named = folder / "public.json"
    named.write_text(public(key))
    return program(
        folder, f'#!/bin/sh\nread line\ncase "$line" in *public-key*) cat {named};; *) {then};; esac\n'
    )


@pytest.mark.parametrize("make", [keys.generate_p256, keys.generate_p384, keys.generate_ed25519])
def test_a_program_signs_as_a_key_in_memory_would(tmp_path: Path, make) -> None:
    made = make()
    key = open_provider(f"exec:{signer(tmp_path, made)}?key=claim")
    assert key.public_key == made.public_key
    assert (key.algorithm, key.keeping) == (made.algorithm, keys.Keeping.EXTERNAL)
    data = os.urandom(300_000)
    assert keys.signature_holds(made.public_key, made.algorithm, key.sign(data), data)
    key.close()
    key.close()


def test_threads_and_a_spawned_process_sign_at_the_same_time(tmp_path: Path) -> None:
    key = open_provider(f"exec:{signer(tmp_path, keys.generate_p256())}")
    made: list[bytes] = []
    threads = [threading.Thread(target=lambda: made.append(key.sign(b"claim"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        made.append(pool.submit(key.sign, b"claim").result(60))
    assert len(made) == 5
    assert all(keys.signature_holds(key.public_key, key.algorithm, each, b"claim") for each in made)


def test_a_program_gets_the_protocol_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "correcthorse")
    seen = tmp_path / "seen"
    key = keys.generate_p256()
    path = faulty(tmp_path, key, f'echo "$line" >{seen}; env >>{seen}; echo "$#" >>{seen}')
    with pytest.raises(ProgramAnswerError):
        open_provider(f"exec:{path}?key=claim").sign(b"x")
    asked, *rest = seen.read_text().splitlines()
    assert json.loads(asked) == {
        "lightseal": 1,
        "ask": "sign",
        "key": "claim",
        "algorithm": "es256",
        "hash": base64.b64encode(hashlib.sha256(b"x").digest()).decode(),
    }
    assert rest[-1] == "0"
    assert "correcthorse" not in str(rest)
    assert {line.partition("=")[0] for line in rest[:-1]} <= {"PATH", "LC_ALL", "PWD", "SHLVL", "_", "OLDPWD"}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("gone", KeyGoneError),
        ("disabled", KeyDisabledError),
        ("locked", KeyLockedError),
        ("pin", PinWrongError),
        ("busy", KeyBusyError),
        ("kind", KeyNotOursError),
    ],
)
def test_what_a_program_complains_of_is_named(tmp_path: Path, code: str, expected: type[Exception]) -> None:
    path = faulty(tmp_path, keys.generate_p256(), f"""echo '{{"error": "{code}"}}'""")
    key = open_provider(f"exec:{path}")
    with pytest.raises(expected):
        key.sign(b"x")


@pytest.mark.parametrize(
    "then",
    [
        "true",
        "echo secret",
        "exit 3",
        "kill -9 $$",
        "echo '[]'",
        "echo '{}'",
        """echo '{"error": "secret"}'""",
        """echo '{"error": ["gone"]}'""",
        """echo '{"signature": 1}'""",
        """echo '{"signature": "secret!"}'""",
        """echo '{"signature": "AA==", "more": 1}'""",
        """echo '{"public-key": "AA=="}'""",
        "head -c 100000 /dev/zero",
        "yes secret",
        "head -c 60000 /dev/zero | tr '\\0' '['",
    ],
)
def test_an_answer_outside_the_protocol_is_an_error_that_repeats_nothing(tmp_path: Path, then: str) -> None:
    key = open_provider(f"exec:{faulty(tmp_path, keys.generate_p256(), then)}")
    with pytest.raises(ProgramAnswerError) as caught:
        key.sign(b"x")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("signature", ["AAAA", "", "A" * 86 + "=="])
def test_a_faulty_signature_never_leaves(tmp_path: Path, signature: str) -> None:
    answer = json.dumps({"signature": signature})
    key = open_provider("exec:" + str(faulty(tmp_path, keys.generate_p256(), f"echo '{answer}'")))
    with pytest.raises(SelfCheckError):
        key.sign(b"x")


def test_the_signature_of_another_key_never_leaves(tmp_path: Path) -> None:
    real = signer(tmp_path, keys.generate_p256())
    key = open_provider(f"exec:{faulty(tmp_path, keys.generate_p256(), f'echo $line | {real}')}")
    with pytest.raises(SelfCheckError):
        key.sign(b"x")


@pytest.mark.parametrize(
    "then", ["sleep 60", "sleep 60 & sleep 60", "exec >&-; sleep 60", "while echo; do sleep 0.01; done"]
)
def test_a_slow_program_is_ended_with_what_it_started(tmp_path: Path, then: str) -> None:
    path = faulty(tmp_path, keys.generate_p256(), f"echo $$ >{tmp_path}/group; {then}")
    key = open_program_key(ProgramAddress(path), patience=0.5)
    started = time.monotonic()
    with pytest.raises(KeyBusyError):
        key.sign(b"x")
    assert time.monotonic() - started < 5
    group = int((tmp_path / "group").read_text())
    deadline = time.monotonic() + 5
    while alive(group) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(group)


def alive(group: int) -> bool:
    """Whether a process of the group still runs; the dead that nobody waited for do not."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(process_group) == group and state not in "ZX":
            return True
    return False


def test_a_program_that_dies_spoils_one_call(tmp_path: Path) -> None:
    real, flag = signer(tmp_path, keys.generate_p256()), tmp_path / "flag"
    path = program(tmp_path, f"#!/bin/sh\nif [ -e {flag} ]; then rm {flag}; exit 1; fi\nexec {real}\n")
    key = open_provider(f"exec:{path}")
    flag.touch()
    with pytest.raises(ProgramAnswerError):
        key.sign(b"x")
    assert keys.signature_holds(key.public_key, key.algorithm, key.sign(b"x"), b"x")


@pytest.mark.parametrize("limit", [resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE])
def test_where_no_file_can_be_made_nothing_foreign_is_raised(tmp_path: Path, limit: int) -> None:
    """No descriptor is left; or there is no room for what is written."""
    key = open_provider(f"exec:{signer(tmp_path, keys.generate_p256())}")
    soft, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (0, hard))
    try:
        with pytest.raises(KeyBusyError, match="question"):
            key.sign(b"x")
    finally:
        resource.setrlimit(limit, (soft, hard))
    assert keys.signature_holds(key.public_key, key.algorithm, key.sign(b"x"), b"x")


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o722])
def test_a_program_that_others_may_write_is_not_run(tmp_path: Path, mode: int) -> None:
    path = program(tmp_path, f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    path.chmod(mode)
    with pytest.raises(CodeExposedError):
        open_provider(f"exec:{path}")
    assert not (tmp_path / "ran").exists()


def test_a_program_in_a_folder_that_others_may_write_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    path = program(folder, "#!/bin/sh\n")
    link = tmp_path / "link"
    link.symlink_to(path)
    folder.chmod(0o777)
    for each in (path, link):
        with pytest.raises(CodeExposedError):
            open_provider(f"exec:{each}")


def test_what_cannot_be_run_is_named(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    plain.chmod(0o600)
    garbage = program(tmp_path, "\x7fELF garbage")
    with pytest.raises(ProviderMissingError):
        open_provider(f"exec:{tmp_path}/missing")
    with pytest.raises(ProviderMissingError):
        open_provider(f"exec:{tmp_path}")
    for path in (plain, garbage):
        with pytest.raises(KeyFileError):
            open_provider(f"exec:{path}")


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    ed448 = "MEMwBQYDK2VxAzoAX9dEm1m0Yf0s54fsYWrUah2hNCSFoNyiHx4JYh/bVbsvH4RRFqBRGb8sMCO6ADcgPzT6EYLFHbmA"
    for content in ('{"public-key": "AAAA"}', f'{{"public-key": "{ed448}"}}'):
        answer.write_text(content)
        with pytest.raises(KeyFileError):
            open_provider(f"exec:{program(tmp_path, f'#!/bin/sh{chr(10)}cat {answer}{chr(10)}')}")
