import base64
import json
import multiprocessing
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authn import keys
from authn.custody import uri
from authn.custody.opening import open_provider
from authn.errors import (
    KeyBusyError,
    KeyDisabledError,
    KeyExposedError,
    KeyGoneError,
    KeyNotOursError,
    SelfCheckError,
)

pytest.importorskip("boto3", reason="needs boto3: pip install lightseal[kms]")
kms = pytest.importorskip("authn.custody.kms", reason="needs boto3")

ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER_ARN = ARN.replace("1234abcd", "9999abcd")
ACCESS, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@dataclass
class FakeKms:
    """KMS's two calls as its API reference has them, with the faults of the real one."""

    key: keys.SigningKey = field(default_factory=keys.generate_p256)
    usage: str = "SIGN_VERIFY"
    fault: str = ""
    status: int = 400
    faults_left: int = 1 << 30
    delay: float = 0.0
    signs_with: keys.SigningKey | None = None
    garbage: bytes | None = None
    calls: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    gets: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, operation: str, asked: dict[str, str]) -> tuple[int, dict[str, str]]:
        self.calls.append((operation, asked))
        time.sleep(self.delay)
        if self.fault and self.faults_left:
            self.faults_left -= 1
            return self.status, {"__type": self.fault, "message": f"about arn {ARN} and {SECRET}"}
        if operation == "GetPublicKey":
            der = self.key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            return 200, {"KeyId": ARN, "KeyUsage": self.usage, "PublicKey": base64.b64encode(der).decode()}
        digest, name = {
            keys.Algorithm.ES256: (hashes.SHA256(), "ECDSA_SHA_256"),
            keys.Algorithm.ES384: (hashes.SHA384(), "ECDSA_SHA_384"),
        }[self.key.algorithm]
        message = base64.b64decode(asked["Message"])
        if (asked["MessageType"], asked["SigningAlgorithm"]) != ("DIGEST", name) or asked["KeyId"] != ARN:
            return 400, {"__type": "ValidationException", "message": "not as a client of ours would ask"}
        private = (self.signs_with or self.key).private
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        made = (
            private.sign(message, ec.ECDSA(utils.Prehashed(digest))) if self.garbage is None else self.garbage
        )
        return 200, {"KeyId": ARN, "SigningAlgorithm": name, "Signature": base64.b64encode(made).decode()}


@pytest.fixture
def service() -> Iterator[FakeKms]:
    fake = FakeKms()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fake.authorizations.append(self.headers.get("Authorization", ""))
            status, body = fake.answer(self.headers["X-Amz-Target"].removeprefix("TrentService."), asked)
            self.reply(status, json.dumps(body).encode())

        def do_PUT(self) -> None:
            fake.gets.append(self.path)
            self.reply(200, b"metadata-token")

        def do_GET(self) -> None:
            fake.gets.append(self.path)
            if self.path.endswith("/security-credentials/"):
                self.reply(200, b"role")
                return
            found = {"Code": "Success", "AccessKeyId": "AKIAINSTANCE", "SecretAccessKey": SECRET}
            found |= {"Token": "t", "Expiration": "2099-01-01T00:00:00Z", "Type": "AWS-HMAC"}
            self.reply(200, json.dumps(found).encode())

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials in the environment, and a home whose files for AWS would break whoever reads them."""
    home = tmp_path / "home"
    (home / ".aws" / "models" / "kms" / "2014-11-01").mkdir(parents=True)
    (home / ".aws" / "config").write_text("[this is no configuration\n")
    (home / ".aws" / "credentials").write_text(
        "[default]\naws_access_key_id = AKIAHOME\naws_secret_access_key = x\n"
    )
    (home / ".aws" / "models" / "kms" / "2014-11-01" / "service-2.json").write_text("{")
    for name, value in {
        "HOME": str(home),
        "AWS_ACCESS_KEY_ID": ACCESS,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_PROFILE": "nobody",
        "AWS_ENDPOINT_URL_KMS": "http://127.0.0.1:9/",
        "AWS_MAX_ATTEMPTS": "50",
    }.items():
        monkeypatch.setenv(name, value)


def address(service: FakeKms, **more: str) -> str:
    extra = "".join(f"&{name}={value}" for name, value in more.items())
    return f"awskms:alias/claim?region=eu-west-1&endpoint={service.url}{extra}"


def patient(service: FakeKms, patience: float) -> keys.KeyProvider:
    parsed = uri.parse(address(service))
    assert isinstance(parsed, uri.KmsAddress)
    return kms.open_kms_key(parsed, patience)


@pytest.mark.parametrize("make", [keys.generate_p256, keys.generate_p384])
def test_kms_signs_as_a_key_in_memory_would(service: FakeKms, make) -> None:
    service.key = make()
    key = open_provider(address(service))
    assert key.public_key == service.key.public_key
    assert (key.algorithm, key.keeping) == (service.key.algorithm, keys.Keeping.KMS)
    for data in (b"", b"x" * 5000):  # more than the 4,096 bytes that KMS hashes itself
        assert keys.signature_holds(key.public_key, key.algorithm, key.sign(data), data)
    key.close()
    key.close()


def test_the_public_key_is_fetched_once_and_signatures_are_asked_of_the_key_not_the_alias(
    service: FakeKms,
) -> None:
    key = open_provider(address(service))
    for _ in range(5):
        key.sign(b"x")
    asked = [(operation, request["KeyId"]) for operation, request in service.calls]
    assert asked == [("GetPublicKey", "alias/claim")] + [("Sign", ARN)] * 5


def test_threads_and_a_spawned_process_sign_at_the_same_time(service: FakeKms) -> None:
    key = open_provider(address(service))
    made: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: made.extend(key.sign(b"claim") for _ in range(20))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        made.append(pool.submit(key.sign, b"claim").result(60))
    assert len(made) == 161
    assert all(keys.signature_holds(key.public_key, key.algorithm, each, b"claim") for each in made)


def test_a_forked_child_makes_connections_of_its_own(service: FakeKms) -> None:
    key = open_provider(address(service))
    key.sign(b"before")
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=lambda: answers.put(key.sign(b"child")))
    child.start()
    assert keys.signature_holds(key.public_key, key.algorithm, key.sign(b"parent"), b"parent")
    child.join(30)
    assert child.exitcode == 0
    assert keys.signature_holds(key.public_key, key.algorithm, answers.get(), b"child")


@pytest.mark.parametrize(
    ("fault", "status", "expected"),
    [
        ("ThrottlingException", 400, KeyBusyError),
        ("LimitExceededException", 400, KeyBusyError),
        ("DependencyTimeoutException", 500, KeyBusyError),
        ("KMSInternalException", 500, KeyBusyError),
        ("KeyUnavailableException", 500, KeyBusyError),
        ("SomethingNew", 503, KeyBusyError),
        ("DisabledException", 400, KeyDisabledError),
        ("KMSInvalidStateException", 400, KeyDisabledError),
        ("AccessDeniedException", 400, KeyDisabledError),
        ("UnrecognizedClientException", 400, kms.CredentialsError),
        ("ExpiredTokenException", 400, kms.CredentialsError),
        ("InvalidSignatureException", 400, kms.CredentialsError),
        ("NotFoundException", 400, KeyGoneError),
        ("InvalidKeyUsageException", 400, KeyNotOursError),
        ("ValidationException", 400, KeyGoneError),
        ("odd name <script>", 400, KeyGoneError),
    ],
)
def test_what_kms_complains_of_is_named_and_its_text_is_not_repeated(
    service: FakeKms, fault: str, status: int, expected: type[Exception]
) -> None:
    key = open_provider(address(service))
    service.fault, service.status = fault, status
    before = len(service.calls)
    with pytest.raises(expected) as caught:
        key.sign(b"x")
    assert not re.search("arn|script", str(caught.value))
    assert SECRET not in str(caught.value) + repr(caught.value.__cause__)
    assert len(service.calls) - before <= 2
    service.fault = ""
    assert keys.signature_holds(key.public_key, key.algorithm, key.sign(b"x"), b"x")
    service.fault = fault
    with pytest.raises(expected):
        open_provider(address(service))


def test_one_throttled_call_is_asked_again_once(service: FakeKms) -> None:
    key = open_provider(address(service))
    service.fault, service.faults_left = "ThrottlingException", 1
    assert keys.signature_holds(key.public_key, key.algorithm, key.sign(b"x"), b"x")
    assert len(service.calls) == 3


def test_a_slow_service_is_busy(service: FakeKms) -> None:
    key = patient(service, 0.3)
    service.delay = 2.0
    started = time.monotonic()
    with pytest.raises(KeyBusyError):
        key.sign(b"x")
    assert time.monotonic() - started < 5


def test_a_service_that_is_not_there_is_gone(service: FakeKms) -> None:
    with pytest.raises(KeyGoneError):
        open_provider(address(service).replace(service.url, "http://127.0.0.1:9/"))


def test_the_signature_of_another_key_never_leaves(service: FakeKms) -> None:
    key = open_provider(address(service))
    service.signs_with = keys.generate_p256()
    with pytest.raises(SelfCheckError):
        key.sign(b"x")


@pytest.mark.parametrize("garbage", [b"", b"x", bytes(64), utils.encode_dss_signature(1 << 300, 1)])
def test_what_is_no_signature_never_leaves(service: FakeKms, garbage: bytes) -> None:
    key = open_provider(address(service))
    service.garbage = garbage
    with pytest.raises(SelfCheckError):
        key.sign(b"x")


def test_a_key_that_does_not_sign_for_us_is_refused(service: FakeKms) -> None:
    service.usage = "KEY_AGREEMENT"
    with pytest.raises(KeyNotOursError):
        open_provider(address(service))
    service.usage, service.key = "SIGN_VERIFY", keys.generate_ed25519()
    with pytest.raises(KeyNotOursError):
        open_provider(address(service))


def test_nothing_is_read_from_the_home_or_asked_of_the_metadata_service_unless_asked(
    service: FakeKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url)
    open_provider(address(service)).sign(b"x")
    assert all(ACCESS in each for each in service.authorizations)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(kms.CredentialsError):
        open_provider(address(service))
    assert service.gets == []
    open_provider(address(service, credentials="instance")).sign(b"x")
    assert service.gets
    assert "AKIAINSTANCE" in service.authorizations[-1]


def test_credentials_come_from_a_private_file_when_asked(service: FakeKms, tmp_path: Path) -> None:
    source = tmp_path / "aws.json"
    source.touch(0o600)
    source.write_text(json.dumps({"Version": 1, "AccessKeyId": "AKIAFILE", "SecretAccessKey": SECRET}))
    key = open_provider(address(service, credentials=f"file:{source}"))
    key.sign(b"x")
    assert all("AKIAFILE" in each for each in service.authorizations)
    assert SECRET not in repr(key)
    source.chmod(0o644)
    with pytest.raises(KeyExposedError):
        open_provider(address(service, credentials=f"file:{source}"))


def test_credentials_that_ran_out_are_read_again(service: FakeKms, tmp_path: Path) -> None:
    source = tmp_path / "aws.json"
    source.touch(0o600)
    source.write_text(json.dumps({"AccessKeyId": "AKIAOLD", "SecretAccessKey": SECRET, "SessionToken": "t"}))
    key = open_provider(address(service, credentials=f"file:{source}"))
    service.fault, service.faults_left = "ExpiredTokenException", 1
    with pytest.raises(kms.CredentialsError):
        key.sign(b"x")
    source.write_text(json.dumps({"AccessKeyId": "AKIANEW", "SecretAccessKey": SECRET}))
    key.sign(b"x")
    assert "AKIANEW" in service.authorizations[-1]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"AccessKeyId": 1}', '{"AccessKeyId": "a", "SecretAccessKey": ""}', "[" * 9999],
)
def test_a_file_without_credentials_is_named(service: FakeKms, tmp_path: Path, content: str) -> None:
    source = tmp_path / "aws.json"
    source.touch(0o600)
    source.write_text(content)
    with pytest.raises(kms.CredentialsError):
        open_provider(address(service, credentials=f"file:{source}"))
