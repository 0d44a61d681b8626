"""A real TPM 2.0 made of software: every command here goes over its wire."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from authn.attestation.tpm import EK_CERTIFICATE, Expectation, binding, judge, judge_counter
from authn.attestation.tpm_credential import Activation, Credential
from authn.attestation.tpm_structures import read_public
from authn.custody.opening import open_provider
from authn.custody.tpm_file import WrappedKey, store_wrapped
from authn.custody.uri import TpmAddress
from authn.errors import (
    KeyAddressError,
    KeyFileError,
    KeyGoneError,
    KeyLockedError,
    KeyNotOursError,
    PinWrongError,
)
from authn.evidence import Custody
from authn.keys import Algorithm, Keeping, signature_holds
from tools.swtpm import Swtpm

tss: Any = pytest.importorskip("tpm2_pytss", reason="needs lightseal[tpm]: pip install tpm2-pytss")

from authn.custody.tpm import Tpm, TpmKey, open_tpm_key  # noqa: E402 - what it needs is asked for above
from authn.custody.tpm_commands import Endorsement, EndorsementKind  # noqa: E402 - as well

pytestmark = pytest.mark.needs("swtpm")
NONCE = os.urandom(32)
COUNTER = 0x01800042


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swtpm]:
    """A machine with a TPM that nobody else uses."""
    with Swtpm(tmp_path_factory.mktemp("tpm")) as running:
        yield running


@pytest.fixture
def tpm(machine: Swtpm) -> Iterator[Tpm]:
    """The machine's TPM, and afterwards the proof that nothing was left in it."""
    machine.start()
    with Tpm(machine.tcti) as asked:
        yield asked
    machine.start()
    assert loaded(machine) == 0
    esapi = tss.ESAPI(machine.tcti)
    esapi.dictionary_attack_lock_reset(tss.ESYS_TR.LOCKOUT)
    esapi.close()


def loaded(machine: Swtpm) -> int:
    """How many keys are loaded, by the TPM's own count."""
    esapi = tss.ESAPI(machine.tcti)
    _more, capability = esapi.get_capability(tss.TPM2_CAP.HANDLES, 0x80000000, 32)
    count = int(capability.data.handles.count)
    esapi.close()
    return count


def certificates(pem: bytes) -> tuple[x509.Certificate, ...]:
    return tuple(x509.load_pem_x509_certificates(pem))


def expectation(machine: Swtpm, key: WrappedKey, *roots: x509.Certificate) -> Expectation:
    return Expectation(
        binding(NONCE, key.spki),
        roots or certificates(machine.roots),
        certificates(machine.intermediates),
        Activation(b"k" * 32, NONCE),
        key.spki,
    )


def certified_by_another_maker(endorsement: Endorsement) -> tuple[Endorsement, x509.Certificate]:
    """Give an endorsement key, for which swtpm's own authority made no certificate, one of ours."""
    maker = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Another maker")])
    at, day = datetime.now(UTC), timedelta(days=1)
    root = (
        x509.CertificateBuilder(name, name, maker.public_key(), 1, at - day, at + day)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(maker, hashes.SHA256())
    )
    key = read_public(endorsement.public).key
    assert key is not None
    usages = (False, False, False, False, True, False, False, False, False)
    leaf = (
        x509.CertificateBuilder(name, x509.Name([]), key, 2, at - day, at + day)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(*usages), critical=True)
        .add_extension(x509.ExtendedKeyUsage([EK_CERTIFICATE]), critical=False)
        .sign(maker, hashes.SHA256())
    )
    return Endorsement(endorsement.kind, endorsement.public, leaf.public_bytes(Encoding.DER)), root


@pytest.mark.parametrize("kind", EndorsementKind)
def test_an_enrolment_proves_hardware_from_end_to_end(
    machine: Swtpm, tpm: Tpm, kind: EndorsementKind
) -> None:
    # The device: keys, and who its TPM is.
    ak, claim = tpm.make_attestation_key(), tpm.make_claim_key()
    endorsement, roots = tpm.endorsement(kind), ()
    if kind is EndorsementKind.P256:
        assert not endorsement.certificate
        endorsement, root = certified_by_another_maker(endorsement)
        roots = (root,)
    # The server: a challenge that only this TPM answers.
    asked = expectation(machine, claim, *roots)
    assert asked.activation is not None
    credential = asked.activation.challenge(endorsement.public, ak.public)
    # The device: the answer, and the claim key certified.
    secret = tpm.activate(ak, endorsement, credential)
    assert secret == asked.activation.secret(endorsement.public, ak.public)
    statement = tpm.attest(claim, ak, asked.expected, endorsement=endorsement, secret=secret)
    # The server.
    found = judge(statement.evidence(), asked, datetime.now(UTC))
    assert (found.custody, found.broken) == (Custody.E2, ())
    assert found.spki == claim.spki
    # The same without the answer, or judged by somebody who knows no maker, is only somebody's word.
    silent = tpm.attest(claim, ak, asked.expected, endorsement=endorsement)
    assert judge(silent.evidence(), asked, datetime.now(UTC)).custody is Custody.E1
    assert judge(statement.evidence(), Expectation(asked.expected), datetime.now(UTC)).custody is Custody.E1


def test_the_first_certified_key_of_the_maker_is_found(tpm: Tpm) -> None:
    found = tpm.find_endorsement()
    assert found.kind is EndorsementKind.RSA_2048
    assert x509.load_der_x509_certificate(found.certificate).public_key() == read_public(found.public).key


def test_a_challenge_is_answered_by_no_other_key_and_no_other_tpm(tpm: Tpm, tmp_path: Path) -> None:
    ak, other = tpm.make_attestation_key(), tpm.make_attestation_key()
    endorsement = tpm.endorsement(EndorsementKind.RSA_2048)
    credential = Activation(b"k" * 32, NONCE).challenge(endorsement.public, ak.public)
    with pytest.raises(KeyFileError):
        tpm.activate(other, endorsement, credential)
    with Swtpm(tmp_path) as elsewhere, Tpm(elsewhere.tcti) as another:
        own = another.make_attestation_key()
        with pytest.raises(KeyFileError):
            another.activate(own, another.endorsement(EndorsementKind.RSA_2048), credential)
        with pytest.raises(KeyGoneError):
            another.activate(ak, endorsement, credential)
    assert tpm.activate(ak, endorsement, credential)


def test_a_software_key_in_a_tpm_is_not_taken_for_the_tpms_own(machine: Swtpm, tpm: Tpm) -> None:
    from tpm2_pytss import utils  # noqa: PLC0415 - asked for above

    # Import a key that lies in a file into the TPM, under the parent that all keys here have.
    software = ec.generate_private_key(ec.SECP256R1())
    secret = software.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    public_pem = software.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    attributes = tss.TPMA_OBJECT.SIGN_ENCRYPT | tss.TPMA_OBJECT.USERWITHAUTH
    public = tss.TPM2B_PUBLIC.from_pem(
        public_pem, objectAttributes=attributes, scheme=tss.TPMT_ASYM_SCHEME(scheme=tss.TPM2_ALG.NULL)
    )
    sensitive = tss.TPM2B_SENSITIVE.from_pem(secret)
    esapi = tss.ESAPI(machine.tcti)
    template = tss.TPM2B_PUBLIC.parse(
        "ecc256:aes128cfb",
        "restricted|decrypt|fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda",
        "sha256",
    )
    parent, parent_public, *_ = esapi.create_primary(None, template, tss.ESYS_TR.OWNER)
    _, duplicate, seed = utils.wrap(parent_public.publicArea, public, sensitive)
    none = tss.TPMT_SYM_DEF_OBJECT(algorithm=tss.TPM2_ALG.NULL)
    private = esapi.import_(parent, b"", public, duplicate, seed, none)
    esapi.flush_context(parent)
    esapi.close()
    imported = WrappedKey(public.marshal()[2:], private.marshal()[2:], protected=False)
    # It signs, and a real AK certifies it honestly.
    assert TpmKey(tpm, imported, None).sign(b"x")
    ak = tpm.make_attestation_key()
    statement = tpm.attest(imported, ak, binding(NONCE, imported.spki))
    found = judge(statement.evidence(), expectation(machine, imported), datetime.now(UTC))
    assert found.custody is Custody.E0
    lacks = {rule.name: rule.explanation for rule in found.broken}["claim-key-attributes"]
    assert lacks == "the claim key lacks fixedTPM, fixedParent, sensitiveDataOrigin"


def test_a_restricted_key_refuses_to_certify_itself_into_a_claim_key(tpm: Tpm) -> None:
    ak = tpm.make_attestation_key()
    statement = tpm.attest(ak, ak, binding(NONCE, ak.spki))
    found = judge(statement.evidence(), Expectation(binding(NONCE, ak.spki)), datetime.now(UTC))
    assert "claim-key-attributes" in {rule.name for rule in found.broken}


def test_a_counter_never_goes_back(machine: Swtpm, tpm: Tpm) -> None:
    """Not when it is deleted and made again, nor when the TPM restarts, nor when it is pulled out."""
    ak = tpm.make_attestation_key()
    seen = [tpm.define_counter(COUNTER)]
    assert tpm.define_counter(COUNTER) == seen[0]  # already there: nothing is counted
    seen += [tpm.increment(COUNTER) for _ in range(3)]
    tpm.remove_counter(COUNTER)
    tpm.remove_counter(COUNTER)
    with pytest.raises(KeyGoneError, match="no counter"):
        tpm.increment(COUNTER)
    seen.append(tpm.define_counter(COUNTER))
    machine.stop()
    machine.start()
    assert tpm.read_counter(COUNTER) == seen[-1]
    seen.append(tpm.increment(COUNTER))
    machine.kill()
    machine.start()
    assert tpm.read_counter(COUNTER) == seen[-1]
    tpm.remove_counter(COUNTER)
    machine.stop()
    machine.start()
    seen.append(tpm.define_counter(COUNTER))
    assert seen == sorted(set(seen))
    found = judge_counter(tpm.certify_counter(COUNTER, ak, NONCE), ak.public, NONCE)
    assert (found.value, found.broken) == (seen[-1], ())
    assert judge_counter(tpm.certify_counter(COUNTER, ak, NONCE), ak.public, b"other").value is None
    tpm.remove_counter(COUNTER)


def test_an_ordinary_place_is_not_used_as_a_counter(machine: Swtpm, tpm: Tpm) -> None:
    esapi = tss.ESAPI(machine.tcti)
    attributes = tss.TPMA_NV.AUTHREAD | tss.TPMA_NV.AUTHWRITE | tss.TPMA_NV.OWNERREAD
    area = tss.TPMS_NV_PUBLIC(nvIndex=COUNTER + 1, nameAlg=0x0B, dataSize=8, attributes=attributes)
    place = esapi.nv_define_space(None, tss.TPM2B_NV_PUBLIC(nvPublic=area))
    for ask in (tpm.define_counter, tpm.increment, tpm.read_counter):
        with pytest.raises(KeyNotOursError, match="no counter"):
            ask(COUNTER + 1)
    with pytest.raises(ValueError, match="owner"):
        tpm.define_counter(0x01C00002)
    esapi.nv_undefine_space(place)
    esapi.close()


def test_a_key_signs_through_its_uri_and_says_where_it_is(machine: Swtpm, tpm: Tpm, tmp_path: Path) -> None:
    wrapped = tpm.make_claim_key()
    path = tmp_path / "key.tss"
    store_wrapped(path, wrapped)
    key = open_provider(str(TpmAddress(path, machine.tcti)))
    assert (key.keeping, key.algorithm) == (Keeping.TPM, Algorithm.ES256)
    for data in (b"", b"x", bytes(100_000)):
        assert signature_holds(key.public_key, Algorithm.ES256, key.sign(data), data)
    assert key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == wrapped.spki
    assert loaded(machine) == 1
    key.close()
    key.close()


def test_our_key_files_and_those_of_others_are_the_same(machine: Swtpm, tpm: Tpm, tmp_path: Path) -> None:
    from tpm2_pytss.tsskey import TSSPrivKey  # noqa: PLC0415 - asked for above

    esapi = tss.ESAPI(machine.tcti)
    theirs = tmp_path / "theirs.tss"
    theirs.write_bytes(TSSPrivKey.create_ecc(esapi).to_pem())
    theirs.chmod(0o600)
    with_key = open_tpm_key(TpmAddress(theirs, machine.tcti))
    assert with_key.sign(b"x")
    with_key.close()
    ours = tpm.make_claim_key()
    handle = TSSPrivKey.from_pem(ours.encode()).load(esapi)
    public, *_ = esapi.read_public(handle)
    assert public.marshal()[2:] == ours.public
    esapi.flush_context(handle)
    esapi.close()


def test_four_threads_get_their_own_signatures(machine: Swtpm, tpm: Tpm) -> None:
    keys = [TpmKey(tpm, tpm.make_claim_key(), None), TpmKey(Tpm(machine.tcti), tpm.make_claim_key(), None)]
    wrong: list[object] = []

    def work(number: int) -> None:
        key = keys[number % 2]
        for turn in range(25):
            data = b"%d/%d" % (number, turn)
            if not signature_holds(key.public_key, key.algorithm, key.sign(data), data):
                wrong.append(data)
        done.append(number)

    done: list[int] = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sorted(done), wrong) == ([0, 1, 2, 3], [])
    for key in keys:
        key.close()


def test_a_tpm_pulled_out_in_mid_run_is_gone_and_comes_back(machine: Swtpm, tpm: Tpm) -> None:
    key = TpmKey(tpm, tpm.make_claim_key(), None)
    ended: list[BaseException] = []
    made = 0

    def work() -> None:
        nonlocal made
        try:
            while True:
                key.sign(b"x")
                made += 1
        except KeyFileError as error:
            ended.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while made < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    machine.kill()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert [type(error) for error in ended] == [KeyGoneError] * 4
    for ask in (tpm.make_claim_key, tpm.make_attestation_key, tpm.find_endorsement):
        with pytest.raises(KeyGoneError):
            ask()
    with pytest.raises(KeyGoneError, match="does not answer"):
        Tpm(machine.tcti)
    machine.start()
    assert key.sign(b"x")


def test_a_restarted_tpm_gets_its_key_again(machine: Swtpm, tpm: Tpm) -> None:
    key = TpmKey(tpm, tpm.make_claim_key(b"1234"), b"1234")
    key.sign(b"before")
    machine.stop()
    machine.start()
    assert signature_holds(key.public_key, key.algorithm, key.sign(b"after"), b"after")


def test_another_program_in_our_place_costs_no_signature(machine: Swtpm, tpm: Tpm) -> None:
    """With no resource manager, a program can unload our key and load its own where ours was."""
    keys = [TpmKey(tpm, tpm.make_claim_key(), None), TpmKey(tpm, tpm.make_claim_key(b"1234"), b"1234")]
    other = tpm.make_claim_key(b"other")
    for key in keys:
        key.sign(b"x")
        with Tpm(machine.tcti) as stranger:
            stranger._sweep()
            TpmKey(stranger, other, b"other").sign(b"theirs")
            assert loaded(machine) == 1
            assert signature_holds(key.public_key, key.algorithm, key.sign(b"ours"), b"ours")
            stranger._sweep()
        tpm.forget()


def test_two_programs_sign_with_one_tpm_at_a_time(machine: Swtpm, tpm: Tpm, tmp_path: Path) -> None:
    path = tmp_path / "key.tss"
    store_wrapped(path, tpm.make_claim_key())
    key = TpmKey(tpm, tpm.make_claim_key(), None)
    key.sign(b"x")
    program = (
        "import sys; from authn.custody.opening import open_provider; from authn.keys import signature_holds\n"
        "key = open_provider(sys.argv[1]); data = [b'%d' % turn for turn in range(50)]\n"
        "print(sum(signature_holds(key.public_key, key.algorithm, key.sign(each), each) for each in data))\n"
        "key.close()\n"
    )
    command = [sys.executable, "-c", program, str(TpmAddress(path, machine.tcti))]
    other = subprocess.Popen(command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE)
    turns = 0
    while other.poll() is None or turns < 50:
        data = b"%d" % turns
        assert signature_holds(key.public_key, key.algorithm, key.sign(data), data)
        turns += 1
    assert other.communicate() == (b"50\n", None)


def test_what_crashed_programs_left_in_the_tpm_is_cleared_when_there_is_no_room(
    machine: Swtpm, tpm: Tpm
) -> None:
    key = TpmKey(tpm, tpm.make_claim_key(), None)
    esapi = tss.ESAPI(machine.tcti)
    for _ in range(3):
        esapi.create_primary(None, "ecc256:aes128cfb", tss.ESYS_TR.OWNER)
    assert loaded(machine) == 3
    assert key.sign(b"x")
    assert loaded(machine) == 1
    esapi.close()


def test_nothing_stays_loaded_after_commands_that_fail(machine: Swtpm, tpm: Tpm) -> None:
    ak, claim = tpm.make_attestation_key(), tpm.make_claim_key(b"1234")
    endorsement = tpm.endorsement(EndorsementKind.RSA_2048)
    credential = Activation(b"k" * 32, NONCE).challenge(endorsement.public, ak.public)
    for turn in range(4):
        with pytest.raises(KeyFileError):
            tpm.activate(tpm.make_attestation_key(), endorsement, credential)
        with pytest.raises(PinWrongError, match="refused the PIN"):
            tpm.attest(claim, ak, b"x", b"432%d" % turn)
        esapi = tss.ESAPI(machine.tcti)
        esapi.dictionary_attack_lock_reset(tss.ESYS_TR.LOCKOUT)
        esapi.close()
        with pytest.raises(KeyFileError, match="longer"):
            tpm.activate(ak, endorsement, Credential(bytes(5000), bytes(5000)))
        with pytest.raises(KeyFileError):
            tpm.certify_counter(COUNTER, ak, b"no such counter")
        assert loaded(machine) == 0


def test_a_wrong_pin_is_tried_once(machine: Swtpm, tpm: Tpm, tmp_path: Path) -> None:
    wrapped = tpm.make_claim_key(b"right")
    guesses = lockout_counter(machine)
    assert TpmKey(tpm, wrapped, b"right").sign(b"x")
    key = TpmKey(tpm, wrapped, b"wrong")  # of no use, though the key is loaded by now
    for _ in range(3):
        with pytest.raises(PinWrongError):
            key.sign(b"x")
    assert lockout_counter(machine) == guesses + 1
    path, pin = tmp_path / "key.tss", tmp_path / "pin"
    path.write_bytes(wrapped.encode())
    pin.write_bytes(b"right\n")
    pin.chmod(0o600)
    opened = open_tpm_key(TpmAddress(path, machine.tcti, pin))
    assert opened.sign(b"x")
    assert "right" not in repr(opened)
    opened.close()
    with pytest.raises(KeyLockedError, match="none was given"):
        open_tpm_key(TpmAddress(path, machine.tcti))
    with pytest.raises(KeyLockedError, match="has no PIN"):
        TpmKey(tpm, tpm.make_claim_key(), b"1234")
    for bad in (b"", b"x" * 33, b"x\0"):
        with pytest.raises(KeyFileError):
            tpm.make_claim_key(bad)


def test_a_wrong_pin_is_tried_once_however_often_the_key_is_opened(
    machine: Swtpm, tpm: Tpm, tmp_path: Path
) -> None:
    wrapped = tpm.make_claim_key(b"right")
    path, pin = tmp_path / "key.tss", tmp_path / "pin"
    store_wrapped(path, wrapped)
    pin.touch(0o600)
    pin.write_bytes(b"wrong\n")
    guesses = lockout_counter(machine)
    for expected in ("refused the PIN", "before", "before"):
        key = open_tpm_key(TpmAddress(path, machine.tcti, pin))
        with pytest.raises(PinWrongError, match=expected):
            key.sign(b"x")
        key.close()
    with pytest.raises(PinWrongError, match="before"):  # nor for something else than a signature
        tpm.attest(wrapped, tpm.make_attestation_key(), b"x", b"wrong")
    assert lockout_counter(machine) == guesses + 1
    pin.write_bytes(b"right\n")
    key = open_tpm_key(TpmAddress(path, machine.tcti, pin))
    assert key.sign(b"x")
    key.close()
    # The memory is of one key: the same PIN may be another one's.
    assert TpmKey(tpm, tpm.make_claim_key(b"wrong"), b"wrong").sign(b"x")


def test_threads_with_the_same_wrong_pin_spend_one_try(machine: Swtpm, tpm: Tpm) -> None:
    wrapped = tpm.make_claim_key(b"right")
    guesses = lockout_counter(machine)
    refused: list[PinWrongError] = []

    def work() -> None:
        with pytest.raises(PinWrongError) as caught:
            TpmKey(tpm, wrapped, b"guess").sign(b"x")
        refused.append(caught.value)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(refused) == 4
    assert lockout_counter(machine) == guesses + 1


def test_a_child_forked_while_a_thread_is_at_the_tpm_signs(tpm: Tpm) -> None:
    """A child gets the locks as they are, and nobody in it lets go of what a thread of its parent's held."""
    key = TpmKey(tpm, tpm.make_claim_key(), None)
    key.sign(b"before")
    first = tpm.define_counter(COUNTER)
    over = threading.Event()
    seen: list[int] = []

    def work() -> None:  # asks for nothing that takes room, of which the children need all
        while not over.is_set():
            seen.append(tpm.read_counter(COUNTER))

    def child(number: int) -> None:
        answers.put(key.sign(b"child %d" % number))
        key.close()

    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    thread = threading.Thread(target=work)
    thread.start()
    ended: list[int | None] = []
    for number in range(10):
        each = context.Process(target=child, args=(number,))
        each.start()
        each.join(10)
        each.kill()
        ended.append(each.exitcode)
        if each.exitcode != 0:
            break
        data = b"child %d" % number
        assert signature_holds(key.public_key, key.algorithm, answers.get(), data)
    over.set()
    thread.join(20)
    assert ended == [0] * 10
    assert set(seen) == {first}
    assert signature_holds(key.public_key, key.algorithm, key.sign(b"after"), b"after")
    key.close()
    tpm.remove_counter(COUNTER)


def test_a_key_that_was_sent_to_another_process_is_opened_there(
    machine: Swtpm, tpm: Tpm, tmp_path: Path
) -> None:
    path, pin = tmp_path / "key.tss", tmp_path / "pin"
    store_wrapped(path, tpm.make_claim_key(b"correcthorse"))
    pin.touch(0o600)
    pin.write_bytes(b"correcthorse\n")
    key = open_tpm_key(TpmAddress(path, machine.tcti, pin))
    sent = pickle.dumps(key)
    assert b"correcthorse" not in sent
    program = (
        "import pickle, sys; key = pickle.load(sys.stdin.buffer)\n"
        "sys.stdout.buffer.write(key.sign(b'sent')); key.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=sent,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert signature_holds(key.public_key, key.algorithm, done.stdout, b"sent")
    key.close()
    with pytest.raises(KeyAddressError, match="cannot be sent"):
        pickle.dumps(TpmKey(tpm, tpm.make_claim_key(), None))


def lockout_counter(machine: Swtpm) -> int:
    """How many wrong PINs the TPM has counted (TPM_PT_LOCKOUT_COUNTER)."""
    esapi = tss.ESAPI(machine.tcti)
    _more, capability = esapi.get_capability(tss.TPM2_CAP.TPM_PROPERTIES, 0x20E, 1)
    value = int(capability.data.tpmProperties[0].value)
    esapi.close()
    return value


def test_a_key_file_is_of_no_use_elsewhere(machine: Swtpm, tpm: Tpm, tmp_path: Path) -> None:
    path = tmp_path / "key.tss"
    store_wrapped(path, tpm.make_claim_key())
    with Swtpm(tmp_path / "other") as elsewhere:
        with pytest.raises(KeyGoneError, match="not of the TPM"):
            open_tpm_key(TpmAddress(path, elsewhere.tcti))
        assert loaded(elsewhere) == 0
    damaged = WrappedKey.read(path.read_bytes())
    broken = WrappedKey(
        damaged.public, damaged.private[:-1] + bytes([damaged.private[-1] ^ 1]), protected=False
    )
    path.write_bytes(broken.encode())
    with pytest.raises(KeyFileError):
        open_tpm_key(TpmAddress(path, machine.tcti))
    with pytest.raises(KeyFileError, match="cannot be opened"):
        open_tpm_key(TpmAddress(tmp_path / "none", machine.tcti))


def test_a_tpm_that_is_not_there_is_gone() -> None:
    for tcti in ("device:/dev/no-such-tpm", "swtpm:host=127.0.0.1,port=1", "no-such-library:x"):
        with pytest.raises(KeyGoneError, match="does not answer"):
            Tpm(tcti)


def test_the_import_changes_nothing_and_the_library_writes_nothing_to_the_terminal() -> None:
    program = (
        "import os; found = dict(os.environ)\n"
        "from authn.custody.tpm import Tpm\n"
        "from authn.errors import KeyGoneError\n"
        "assert dict(os.environ) == found\n"
        "try:\n    Tpm('device:/dev/no-such-tpm')\n"
        "except KeyGoneError:\n    print('gone')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[3], capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"gone\n", b"")


def test_without_the_library_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['tpm2_pytss'] = None\n"
        "from authn.errors import ProviderMissingError\n"
        "try:\n    import authn.custody.tpm\n"
        "except ProviderMissingError as error:\n    print(error)\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert "lightseal[tpm]" in done.stdout
