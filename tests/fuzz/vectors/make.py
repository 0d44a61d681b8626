"""Make the statements that lie beside this file: `PYTHONPATH=. python tests/fuzz/vectors/make.py`, where
there is swtpm.

The phone, the app and their makers are those of `tests/authn/attestation/conftest.py`; the TPM is a real one,
made of software. Their signatures are other ones each time, so what was made once is kept, and fuzzing
starts from the same bytes every day.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from authn.attestation import android
from authn.attestation.tpm import binding
from authn.attestation.tpm_credential import Activation
from authn.custody.tpm import Tpm
from tools.swtpm import Swtpm

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
COUNTER = 0x01800042
NONCE = bytes(range(32))
SERVER_KEY = b"k" * 32


def _makers() -> Any:
    path = ROOT / "tests" / "authn" / "attestation" / "conftest.py"
    spec = importlib.util.spec_from_file_location("attestation_makers", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not there")
    module = importlib.util.module_from_spec(spec)
    sys.modules["attestation_makers"] = module
    spec.loader.exec_module(module)
    return module


def write_phones() -> None:
    """A key from the network and one from the factory, by one maker."""
    maker = _makers().AndroidMaker()
    leaf = maker.leaf(maker.describe())
    (HERE / "phone_description.der").write_bytes(maker.describe())
    (HERE / "phone_remote.json").write_bytes(android.evidence(maker.remote(leaf)).data)
    (HERE / "phone_factory.json").write_bytes(android.evidence(maker.factory(leaf)).data)


def write_app() -> None:
    """An app's attestation, and a request that it signed afterwards."""
    apple = _makers().AppleMaker()
    (HERE / "app_attestation.cbor").write_bytes(apple.attest())
    (HERE / "app_assertion.cbor").write_bytes(apple.assertion(1))
    (HERE / "app_root.der").write_bytes(apple.certificate().public_bytes(Encoding.DER))


def write_tpm() -> None:
    """A key of a TPM with all there is to say about it, and a counter."""
    with tempfile.TemporaryDirectory() as folder, Swtpm(Path(folder) / "tpm") as machine:
        with Tpm(machine.tcti) as tpm:
            ak, claim, endorsement = (
                tpm.make_attestation_key(),
                tpm.make_claim_key(),
                tpm.find_endorsement(),
            )
            credential = Activation(SERVER_KEY, NONCE).challenge(endorsement.public, ak.public)
            secret = tpm.activate(ak, endorsement, credential)
            expected = binding(NONCE, claim.spki)
            statement = tpm.attest(claim, ak, expected, endorsement=endorsement, secret=secret)
            tpm.define_counter(COUNTER)
            tpm.increment(COUNTER)
            counter = tpm.certify_counter(COUNTER, ak, expected)
        (HERE / "tpm_statement.json").write_bytes(statement.evidence().data)
        (HERE / "tpm_counter.json").write_bytes(counter.encode())
        (HERE / "tpm_credential.json").write_bytes(credential.encode())
        (HERE / "tpm_key.pem").write_bytes(claim.encode())
        (HERE / "tpm_maker.pem").write_bytes(machine.roots)
        (HERE / "tpm_between.pem").write_bytes(machine.intermediates)


if __name__ == "__main__":
    write_phones()
    write_app()
    write_tpm()
