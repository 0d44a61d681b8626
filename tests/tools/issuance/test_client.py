"""A device enrols from its own side: over HTTP and in process, with keys in files, tokens and TPMs."""

import json
import socket
import stat
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from authn.csr import make_request
from authn.custody.opening import open_provider
from authn.device import pseudonym, spki
from authn.identity import Subject, pem_chain, plan_issuing_ca
from authn.keys import Algorithm, generate_p256, signature_holds, store_key
from storage.payload import canonical, parse
from storage.registry.errors import TokenUsedError
from storage.registry.rows import Product, Status, Target
from tools.camera.folder import Camera, read_camera
from tools.errors import OutputExistsError, UsageError
from tools.home import Home
from tools.issuance.client import HttpService, Joining, join, renew
from tools.issuance.desk import own_desk
from tools.issuance.errors import CustodyTooLowError, PinChangedError, ServiceError, ServiceUnreachableError
from tools.issuance.judge_again import judge_again


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
    done = own_office.command("device", "judge", "--status-list", tmp_path / "list.json")
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
        assert refused.stderr.startswith("error[")
    assert own_office.command("product", "add", "Käse").returncode == 1


def _say(listening: socket.socket, said: bytes) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(said)
