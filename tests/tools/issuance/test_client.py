"""A device enrols from its own side: over HTTP and in process, with keys in files, tokens and TPMs."""

import hashlib
import json
import os
import secrets
import socket
import stat
import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from authn.attestation.judgement import Kind
from authn.csr import make_request
from authn.custody.opening import open_provider
from authn.device import pseudonym, spki
from authn.identity import Lifetime, Subject, pem_chain, plan_issuing_ca
from authn.keys import Algorithm, generate_p256, signature_holds, store_key
from storage.payload import canonical, parse
from storage.registry.errors import TokenUsedError
from storage.registry.rows import Product, Status, Target
from tools.camera.folder import Camera, CameraBusyError, read_camera, workplace
from tools.camera.home_device import camera_of
from tools.camera.take import newest_checkpoint
from tools.errors import OutputExistsError, ServiceUnreachableError, UsageError
from tools.home import SERVICE_PRODUCT, Home
from tools.issuance.client import HttpService, Joining, Service, join, renew
from tools.issuance.desk import own_desk
from tools.issuance.enrolment import Completion, Offer, Opening
from tools.issuance.errors import CustodyTooLowError, PinChangedError, ProductReservedError, ServiceError
from tools.issuance.judge_again import judge_again
from tools.issuance.own import enrol
from tools.issuance.registration import PURPOSE
from tools.issuance.terms import Terms, Title
from tools.issuance.wire import TpmKeys, Welcome


def now() -> datetime:
    return datetime.now(UTC)


def entry_of(home: Home, index: int) -> dict[str, object]:
    with home.ledger_to_read() as ledger:
        return parse(ledger.payload(index) or b"")


def signs(camera: Camera, number: int | None = None) -> None:
    """The folder holds a key that signs, and the certificate of that key."""
    device = camera.device() if number is None else camera.pooled(number)
    with closing(device.key) as key:
        assert signature_holds(
            device.chain[0].public_key(), key.algorithm, key.sign(b"a picture"), b"a picture"
        )


def test_a_device_joins_over_http_with_the_command_and_its_token_file_is_gone(office, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    token = tmp_path / "token"
    assert office.command("device", "token", "Test Camera", "--out", token).returncode == 0
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    done = office.command(
        *("device", "join", "--service", office.url, "--token-file", token),
        *("--product", "Test Camera", "--folder", tmp_path / "cam", "--name", "cam-a"),
    )
    assert done.returncode == 0, done.stderr
    assert not token.exists()
    camera = read_camera(tmp_path / "cam")
    assert (camera.name, camera.service, camera.lifetime) == ("cam-a", office.url, "standard")
    signs(camera)
    assert stat.S_IMODE((tmp_path / "cam").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "cam").iterdir()} == {0o600}
    assert camera.log_keys == office.home.own.keys
    with office.home.ledger_to_read() as ledger:
        leaf = camera.device().chain[0]
        assert ledger.entry(camera.entry or 0).key == pseudonym(camera.salt, spki(leaf))
    renewed = office.command("device", "renew", "--folder", tmp_path / "cam")
    assert renewed.returncode == 0, renewed.stderr
    assert read_camera(tmp_path / "cam").device().chain[0] != leaf
    signs(read_camera(tmp_path / "cam"))


def test_a_one_time_device_gets_a_pool_and_fills_it_up(office, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    token = bytes.fromhex(office.token("Pool Camera"))
    joining = Joining(tmp_path / "cam", "Pool Camera", token, service=office.url, pool=5)
    camera = join(joining, HttpService(office.url))
    assert camera.pool() == (1, 2, 3, 4, 5)
    leaves = [camera.pooled(number).chain[0] for number in camera.pool()]
    assert len({leaf.serial_number for leaf in leaves}) == 5
    assert len({spki(leaf) for leaf in leaves}) == 5
    for number in camera.pool():
        signs(camera, number)
    camera.drop(5)
    assert sorted(path.name for path in (tmp_path / "cam" / "pool").glob("000005*")) == []
    again = renew(read_camera(tmp_path / "cam"), HttpService(office.url), pool=3)
    assert again.pool() == (1, 2, 3, 4, 6, 7, 8), "a number is given once"
    signs(again, 8)


def test_a_device_of_the_home_joins_without_a_server(own_office, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with own_desk(own_office.home, now) as desk:
        token = desk.registration.give_token("Test Camera", now() + timedelta(hours=1))
        camera = join(Joining(tmp_path / "cam", "Test Camera", token), desk)
        signs(camera)
        with pytest.raises(OutputExistsError):
            join(Joining(tmp_path / "cam", "Test Camera", token), desk)
        with pytest.raises(TokenUsedError):
            join(Joining(tmp_path / "cam2", "Test Camera", token), desk)
    assert not (tmp_path / "cam2").exists()


def test_a_key_file_that_is_named_stays_where_it_is(own_office, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    store_key(tmp_path / "mine.pem", generate_p256(), None)
    with own_desk(own_office.home, now) as desk:
        token = desk.registration.give_token("Test Camera", now() + timedelta(hours=1))
        uri = f"file:{tmp_path / 'mine.pem'}"
        camera = join(Joining(tmp_path / "cam", "Test Camera", token, key=uri), desk)
        assert camera.key == uri
        signs(camera)
        token = desk.registration.give_token("Pool Camera", now() + timedelta(hours=1))
        with pytest.raises(UsageError):
            join(Joining(tmp_path / "pool", "Pool Camera", token, key=uri), desk)


class Looking:
    """A service that looks at the device's disk while the device waits for its certificates."""

    def __init__(self, desk: Service, place: Path, shared: Path) -> None:
        self._desk, self._place, self._shared = desk, place, shared
        self.seen = False

    def begin(self, opening: Opening, tpm: TpmKeys | None) -> tuple[Offer, bytes | None]:
        return self._desk.begin(opening, tpm)

    def complete(self, completion: Completion) -> Welcome:
        assert list(self._shared.iterdir()) == [], "no key lies where others put their files"
        assert stat.S_IMODE(self._place.stat().st_mode) == 0o700
        assert len(list(self._place.iterdir())) == 1, "one key, and nothing of a killed process"
        with pytest.raises(CameraBusyError), workplace(self._place):
            pass
        self.seen = True
        return self._desk.complete(completion)


def test_keys_are_made_beside_their_folder_and_what_a_kill_left_there_is_cleared(
    own_office,  # type: ignore[no-untyped-def]
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setenv("TMPDIR", str(shared))
    monkeypatch.setattr("tempfile.tempdir", None)
    with own_desk(own_office.home, now) as desk:
        token = desk.registration.give_token("Test Camera", now() + timedelta(hours=1))
        place = tmp_path / ".cam.keys"
        for left in (place, tmp_path / ".cam.new" / "camera"):
            left.mkdir(parents=True)
            (left / "key.pem").write_text("a key that a killed process left")
        looking = Looking(desk, place, shared)
        camera = join(Joining(tmp_path / "cam", "Test Camera", token), looking)
        assert looking.seen
        assert sorted(each.name for each in tmp_path.iterdir()) == [
            "cam",
            own_office.home.path.name,
            "shared",
        ]
        (camera.path / "key-01234567.pem").write_text("a key that a killed renewal left")
        looking = Looking(desk, camera.path / ".keys", shared)
        renewed = renew(camera, looking)
        assert looking.seen
        signs(renewed)
        names = {each.name for each in camera.path.iterdir()}
        assert names == {"checkpoint", "device.json", renewed.chain, renewed.key.removeprefix("file:")}


def test_a_service_that_is_not_there_or_no_service_is_said(tmp_path: Path) -> None:
    waits: list[float] = []
    joining = Joining(tmp_path / "cam", "Test Camera", bytes(32))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        free = listening.getsockname()[1]
    with pytest.raises(ServiceUnreachableError):
        join(joining, HttpService(f"http://127.0.0.1:{free}", waits.append))
    with pytest.raises(UsageError):
        HttpService("ftp://127.0.0.1/")
    for said in (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    ):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            thread = threading.Thread(target=_say, args=(listening, said))
            thread.start()
            with pytest.raises(ServiceError):
                join(joining, HttpService(f"http://127.0.0.1:{listening.getsockname()[1]}", waits.append))
            thread.join()
    assert not (tmp_path / "cam").exists()


@pytest.mark.needs("softhsm2")
def test_a_key_in_a_token_is_labelled_as_its_operator_claims_it(office, softhsm, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    uri = softhsm.generate("camera-key")
    token = bytes.fromhex(office.token("Token Camera"))
    joining = Joining(tmp_path / "cam", "Token Camera", token, key=uri, service=office.url)
    camera = join(joining, HttpService(office.url))
    signs(camera)
    assert entry_of(office.home, camera.entry or 0)["custody"] == "E1"
    with office.home.registry() as registry:
        assert registry.device(camera.name).custody == "E1"
        assert registry.evidence(camera.name)[0].custody == "E1"
    assert not list((tmp_path / "cam").glob("key*"))
    token = bytes.fromhex(office.token("Proven Camera"))
    with pytest.raises(CustodyTooLowError):  # a token shows nothing to those who only hear of it
        join(
            Joining(tmp_path / "cam2", "Proven Camera", token, key=softhsm.generate("second")),
            HttpService(office.url),
        )
    successor = softhsm.generate("third")
    with pytest.raises(UsageError):
        renew(camera, HttpService(office.url))
    signs(renew(camera, HttpService(office.url), successor))


@pytest.mark.needs("softhsm2")
def test_the_issuing_key_can_be_in_a_token(own_office, softhsm, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The authority logs in for itself; the home has no key of it any more."""
    home = own_office.home
    uri = softhsm.generate("issuing", Algorithm.ES384)
    with closing(open_provider(uri)) as key:
        plan = plan_issuing_ca(
            Subject("XX", home.organisation, "Token CA"),
            key.public_key,
            1 << 100,
            now(),
            issuer=home.certificate("root"),
            ocsp_url=home.ocsp_url,
        )
        certificate = plan.sign(home.key("root"))
    (home.path / "certificates" / "issuing.pem").write_bytes(pem_chain(certificate))
    (home.path / "keys" / "issuing.pem").unlink()
    with (
        own_office.running("ca", "serve", "--key", uri),
        own_office.running("ra", "serve", "--port", "0") as (url, _),
    ):
        own_office.url = url
        token = bytes.fromhex(own_office.token("Test Camera"))
        camera = join(Joining(tmp_path / "cam", "Test Camera", token, service=url), HttpService(url))
        assert camera.device().chain[1] == certificate
        signs(camera)
        softhsm.tokens.rename(softhsm.folder / "pulled-out")
        try:
            offer, request = own_office.begin("Test Camera"), make_request(generate_p256())
            refused = own_office.complete(offer, request)
            assert (refused.status, refused.code) == (503, "key-unavailable")
        finally:
            (softhsm.folder / "pulled-out").rename(softhsm.tokens)
        again = own_office.complete(offer, request)  # what was logged is issued when the token is back
        assert again.status == 201, again.body


@pytest.mark.needs("swtpm")
def test_a_tpm_proves_its_key_and_is_known_again(office, swtpm, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rules = {"tpm": {"roots": [swtpm.roots.decode()], "intermediates": [swtpm.intermediates.decode()]}}
    with office.home.registry() as registry:
        registry.add_product(
            Product("TPM Camera", office.home.organisation, "standard", "E2", canonical(rules), now())
        )
    service = HttpService(office.url)
    uri = f"tpm:{tmp_path / 'claim.tss'}?tcti={swtpm.tcti}"
    token = bytes.fromhex(office.token("TPM Camera"))
    camera = join(Joining(tmp_path / "cam", "TPM Camera", token, key=uri, service=office.url), service)
    signs(camera)
    assert entry_of(office.home, camera.entry or 0)["custody"] == "E2"
    with office.home.registry() as registry:
        device = registry.device(camera.name)
        (kept,) = registry.evidence(camera.name)
    assert (device.custody, device.status, kept.custody) == ("E2", Status.ACTIVE, "E2")
    assert device.pin is not None

    renewed = renew(camera, service)
    assert renewed.key != camera.key
    signs(renewed)
    with office.home.registry() as registry:
        assert len(registry.certificates(Target.of_device(camera.name))) == 2
        assert registry.device(camera.name).pin == device.pin
    assert judge_again(office.home, now()) == (), "what is kept gives the same answer to the same question"

    (tmp_path / "cam" / "ak.tss").unlink()  # the device comes back with another attestation key
    with pytest.raises(PinChangedError):
        renew(renewed, service)
    with office.home.registry() as registry:
        assert registry.device(camera.name).status is Status.SUSPECT
        assert len(registry.certificates(Target.of_device(camera.name))) == 2


@pytest.mark.needs("swtpm")
def test_a_tpm_whose_maker_is_not_believed_is_an_operators_claim(office, swtpm, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    uri = f"tpm:{tmp_path / 'claim.tss'}?tcti={swtpm.tcti}"
    token = bytes.fromhex(office.token("Proven Camera"))
    with pytest.raises(CustodyTooLowError):
        join(Joining(tmp_path / "cam", "Proven Camera", token, key=uri), HttpService(office.url))
    token = bytes.fromhex(office.token("Bare Camera"))
    bare = f"tpm:{tmp_path / 'bare.tss'}?tcti={swtpm.tcti}"
    with pytest.raises(CustodyTooLowError):  # software writes such statements too, and no operator vouches
        join(Joining(tmp_path / "cam", "Bare Camera", token, key=bare), HttpService(office.url))
    token = bytes.fromhex(office.token("Token Camera"))
    other = f"tpm:{tmp_path / 'other.tss'}?tcti={swtpm.tcti}"
    camera = join(Joining(tmp_path / "cam", "Token Camera", token, key=other), HttpService(office.url))
    assert entry_of(office.home, camera.entry or 0)["custody"] == "E1"


@pytest.mark.needs("swtpm")
def test_a_pool_of_tpm_keys_is_proven_key_by_key(own_office, swtpm, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rules = {"tpm": {"roots": [swtpm.roots.decode()], "intermediates": [swtpm.intermediates.decode()]}}
    home = own_office.home
    with home.registry() as registry:
        registry.add_product(
            Product("TPM Pool", home.organisation, "one-time", "E2", canonical(rules), now())
        )
    uri = f"tpm:{tmp_path / 'claim.tss'}?tcti={swtpm.tcti}"
    with own_desk(home, now) as desk:
        token = desk.registration.give_token("TPM Pool", now() + timedelta(hours=1))
        camera = join(Joining(tmp_path / "cam", "TPM Pool", token, key=uri, pool=3), desk)
    for number in camera.pool():
        signs(camera, number)
    with home.registry() as registry:
        kept = registry.evidence(camera.name)
    assert [each.custody for each in kept] == ["E2"] * 4


def test_evidence_that_falls_makes_the_device_suspect(own_office, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A product's rules were made stricter, or a status list names a key: what is kept is judged again."""
    home = own_office.home
    with own_desk(home, now) as desk:
        token = desk.registration.give_token("Test Camera", now() + timedelta(hours=1))
        camera = join(Joining(tmp_path / "cam", "Test Camera", token), desk)
    with home.registry() as registry:
        (kept,) = registry.evidence(camera.name)
        registry.rejudge(kept.id, "E2", now(), kept.broken)  # as if it had proven more before
    (change,) = judge_again(home, now())
    assert (change.device, change.before, change.after) == (camera.name, "E2", "E0")
    with home.registry() as registry:
        assert registry.device(camera.name).status is Status.SUSPECT
        assert len(registry.judgements(kept.id)) == 3
    done = own_office.command("device", "judge")
    assert (done.returncode, done.stdout) == (0, "")
    done = own_office.command("device", "activate", camera.name, "--why", "looked at")
    assert done.returncode == 0, done.stderr
    (tmp_path / "list.json").write_text(json.dumps({"entries": {}}))
    fetched = ("--fetched", now().isoformat())
    done = own_office.command("device", "judge", "--status-list", tmp_path / "list.json", *fetched)
    assert done.returncode == 0, done.stderr
    assert "in use" in done.stdout
    assert own_office.command("device", "suspend", camera.name, "--why", "lost").returncode == 0


def test_products_are_added_and_listed_and_rules_are_read_first(own_office, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({"android": {"packages": {"org.example.cam": [7]}, "signers": ["ab" * 32]}}))
    added = own_office.command("product", "add", "Phone Camera 2", "--minimum", "E3", "--rules", rules)
    assert added.returncode == 0, added.stderr
    assert "Phone Camera 2\tstandard\tE3" in own_office.command("product", "list").stdout
    for wrong in (
        "{",
        "[]",
        '{"astrology": {}}',
        '{"android": {"packages": 7}}',
        '{"tpm": {"roots": ["x"]}}',
    ):
        rules.write_text(wrong)
        refused = own_office.command("product", "add", "Another", "--rules", rules)
        assert refused.returncode in (1, 2)
        assert refused.stderr.startswith("error[rules-refused]")
        assert "Correct the file of rules" in refused.stderr
    assert own_office.command("product", "add", "Käse").returncode == 1


def test_no_device_is_of_the_signing_service_s_product(own_office, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    token = tmp_path / "t"
    for name in (SERVICE_PRODUCT, SERVICE_PRODUCT.upper(), SERVICE_PRODUCT.replace(" ", "  ")):
        for arguments in (
            ("product", "add", name),
            ("device", "token", name, "--out", token),
            ("device", "enrol", "cam", "--product", name),
        ):
            refused = own_office.command(*arguments)
            assert refused.returncode != 0
            assert refused.stderr.startswith("error[product-reserved]"), refused.stderr
    assert not token.exists()
    with own_desk(own_office.home, now) as desk, pytest.raises(ProductReservedError):
        desk.registration.give_token(SERVICE_PRODUCT, now() + timedelta(hours=1))


def test_the_registration_authority_enrols_nobody_as_the_signing_service(office) -> None:  # type: ignore[no-untyped-def]
    """A token that was made before, or by other means, is not enough."""
    refused = office.begin(SERVICE_PRODUCT)
    assert (refused.status, refused.code) == (403, "product-reserved")
    good = office.begin("Test Camera")
    challenge, token = secrets.token_bytes(32), Title.TOKEN
    digest = hashlib.sha256(challenge)
    terms = Terms(digest.hexdigest(), "mallory", SERVICE_PRODUCT, Lifetime.STANDARD, token, (Kind.NONE,))
    with office.home.registry() as registry:
        registry.add_challenge(digest.digest(), PURPOSE, terms.identity, now() + timedelta(minutes=1))
    offer = replace(good, body={"id": terms.identity, "challenge": challenge.hex(), "terms": terms.fields()})
    refused = office.complete(offer, make_request(generate_p256()))
    assert (refused.status, refused.code) == (403, "product-reserved")


@pytest.mark.parametrize("kind", ["pipe", "device", "large", "missing"])
def test_what_is_no_file_of_rules_and_no_token_is_said_to_be_none_at_once(
    own_office,  # type: ignore[no-untyped-def]
    tmp_path: Path,
    kind: str,
) -> None:
    odd = tmp_path / "odd"
    match kind:
        case "pipe":
            os.mkfifo(odd)
        case "device":
            odd.symlink_to("/dev/zero")
        case "large":
            odd.write_bytes(bytes(33 << 20))
    joining = ("--product", "Test Camera", "--folder", tmp_path / "cam")
    for arguments in (
        ("product", "add", "Another", "--rules", odd),
        ("device", "join", "--token-file", odd, *joining),
        ("device", "judge", "--status-list", odd, "--fetched", now().isoformat()),
        ("ca", "serve", "--ra-key", odd),
    ):
        refused = own_office.command(*arguments)
        assert refused.returncode != 0
        expected = "error[usage]" if kind == "large" else "error[file-unreadable]"
        assert refused.stderr.startswith(expected), refused.stderr
        assert "backup" not in refused.stderr


def _say(listening: socket.socket, said: bytes) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(said)


def test_what_is_captured_before_the_first_contact_has_a_time_before_which_it_was_not(home: Home) -> None:
    """And all devices that enrol in the same hour are shown the same, or it would tell a device's captures apart."""
    enrol(home, "first", "Some Camera", now())
    enrol(home, "second", "Some Camera", now())
    shown = [newest_checkpoint(camera_of(home, name)) for name in ("first", "second")]
    assert shown[0]
    assert shown[0] == shown[1]
    with home.ledger_to_read() as ledger:
        assert ledger.has_published(shown[0].encode())
