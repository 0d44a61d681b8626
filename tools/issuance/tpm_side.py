"""What a device with a TPM does to enrol: make keys in it, and have it state that they are there."""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from authn.attestation.judgement import Evidence
from authn.attestation.tpm import binding
from authn.attestation.tpm_credential import Credential
from authn.custody.uri import TpmAddress
from authn.keys import read_secret
from tools.issuance.errors import ServiceError
from tools.issuance.wire import TpmKeys

if TYPE_CHECKING:
    from authn.custody.tpm_file import WrappedKey

AK_FILE = "ak.tss"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the TPM brought out of the challenge of one enrolment."""

    challenge: bytes
    secret: bytes


class TpmSide:
    """One TPM while a device enrols. `ak` is the attestation key that was pinned before, if there is one."""

    def __init__(self, address: TpmAddress, ak: bytes | None) -> None:
        from authn.custody.tpm import Tpm  # noqa: PLC0415 - the package may be missing
        from authn.custody.tpm_file import WrappedKey  # noqa: PLC0415

        self._pin = None if address.pin_source is None else read_secret(address.pin_source)
        self._tpm = Tpm(address.tcti)
        try:
            self._endorsement = self._tpm.find_endorsement()
            self._ak = self._tpm.make_attestation_key() if ak is None else WrappedKey.read(ak)
        except BaseException:
            self._tpm.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tpm.close()

    @property
    def offered(self) -> TpmKeys:
        """The keys that the challenge is made for."""
        return TpmKeys(self._endorsement.public, self._ak.public)

    @property
    def ak(self) -> bytes:
        """The attestation key as it is kept: useless in any other TPM."""
        return self._ak.encode()

    def make_key(self, place: Path) -> None:
        """Make a claim key, and write it where only this TPM can use it; never over another."""
        with place.open("xb") as file:
            file.write(self._tpm.make_claim_key(self._pin).encode())
        place.chmod(0o600)

    def answer(self, challenge: bytes, credential: bytes | None) -> Answer:
        """Open what the service locked for this TPM."""
        if credential is None:
            raise ServiceError("the service gave no challenge for the TPM")
        return Answer(challenge, self._tpm.activate(self._ak, self._endorsement, Credential.read(credential)))

    def evidence(self, place: Path, answer: Answer) -> Evidence:
        """The TPM's statement about the claim key in a file."""
        claim = self._read(place)
        expected = binding(answer.challenge, claim.spki)
        statement = self._tpm.attest(claim, self._ak, expected, self._pin, self._endorsement, answer.secret)
        return statement.evidence()

    @staticmethod
    def _read(place: Path) -> "WrappedKey":
        from authn.custody.tpm_file import WrappedKey  # noqa: PLC0415

        return WrappedKey.read(place.read_bytes())
