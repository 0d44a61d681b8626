"""Sign with keys in AWS KMS.

The public key is fetched once, and signatures are asked for under the ARN that came with it, so an
alias that is pointed elsewhere later changes nothing unseen. KMS gets the hash (MessageType DIGEST);
what is signed may be longer than the 4,096 bytes it would hash itself.

boto3 is given everything and looks for nothing: no ~/.aws, no profile, no other setting in the environment,
no metadata service. Credentials come from where the URI says:

    credentials=environment   AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN (the default)
    credentials=file:PATH     a file that nobody else may use, as `aws configure export-credentials` prints:
                              {"AccessKeyId": …, "SecretAccessKey": …[, "SessionToken": …]}
    credentials=instance      asks the container's or the machine's metadata service, over the network

This module is a door to the environment, and reads of it those three names, and with
credentials=instance the names by which containers and machines are told of their service (AWS_CONTAINER_…,
AWS_EC2_METADATA_SERVICE_ENDPOINT). It is read when it is needed and not handed in, since a key that was sent
to another process finds credentials in that one's.

Credentials that have run out are read again at the next call. Two attempts are made, each with a time
limit, since KMS says itself when to come again. Not verified: that KMS keeps the key in hardware.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import load_der_public_key

from authn.custody.uri import ENVIRONMENT, INSTANCE, KmsAddress
from authn.errors import (
    KeyBusyError,
    KeyDisabledError,
    KeyFileError,
    KeyGoneError,
    KeyNotOursError,
    ProviderMissingError,
    SelfCheckError,
)
from authn.keys import Algorithm, Keeping, algorithm_of, read_private, signature_holds

try:
    import boto3
    from botocore import credentials as sources
    from botocore import exceptions as failures
    from botocore.config import Config
    from botocore.loaders import Loader
    from botocore.session import Session
    from botocore.utils import InstanceMetadataFetcher
except ImportError as missing:
    raise ProviderMissingError("boto3 is not installed; it comes with lightseal[kms]") from missing

PATIENCE = 5.0
_ATTEMPTS = 2
_MAX_CODE = 64
_CONNECTIONS = 16
_METADATA = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
_SIGNING = {
    Algorithm.ES256: ("ECDSA_SHA_256", hashlib.sha256, 32),
    Algorithm.ES384: ("ECDSA_SHA_384", hashlib.sha384, 48),
}
_BUSY = {
    "ThrottlingException",
    "Throttling",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "LimitExceededException",
    "DependencyTimeoutException",
    "KeyUnavailableException",
    "KMSInternalException",
    "InternalFailure",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "SlowDown",
}
_DISABLED = {"DisabledException", "KMSInvalidStateException"}
_DENIED = {"AccessDeniedException", "AccessDenied"}
_CREDENTIALS = {
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "IncompleteSignature",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "ExpiredToken",
    "ExpiredTokenException",
}


class CredentialsError(KeyDisabledError):
    """The service does not know us: credentials are missing, wrong, or have run out."""

    code = "key-credentials"
    remedy = (
        "Put current credentials where credentials= of the key's URI says: environment, file or instance."
    )


class KmsKey:
    """A private key in AWS KMS."""

    __slots__ = ("_address", "_arn", "_clients", "_patience", "algorithm", "public_key")

    def __init__(self, address: KmsAddress, patience: float) -> None:
        """Fetch the public key; use `open_kms_key`."""
        self._address, self._patience = address, patience
        self._clients: dict[int, Any] = {}
        answer = self._ask("get_public_key", KeyId=address.key)
        if answer.get("KeyUsage") != "SIGN_VERIFY":
            raise KeyNotOursError("the key in KMS is not one that signs")
        try:
            public_key = load_der_public_key(answer["PublicKey"])
        except (ValueError, UnsupportedAlgorithm, KeyError, TypeError) as error:
            raise KeyNotOursError("KMS answered with a public key that cannot be read") from error
        if not isinstance(public_key, ec.EllipticCurvePublicKey):
            raise KeyNotOursError("the key in KMS is neither on P-256 nor on P-384")
        self.public_key = public_key
        self.algorithm = algorithm_of(public_key)
        self._arn = str(answer.get("KeyId", address.key))

    def __repr__(self) -> str:
        return f"KmsKey(algorithm={self.algorithm!r})"

    def __reduce__(self) -> tuple[object, ...]:
        """What travels to another process is the address; it opens the key itself."""
        return open_kms_key, (self._address, self._patience)

    @property
    def keeping(self) -> Keeping:
        """In a service, as its operator says."""
        return Keeping.KMS

    def sign(self, data: bytes) -> bytes:
        """Have KMS sign the hash of `data`; a signature that does not verify raises and is thrown away."""
        name, digest, size = _SIGNING[self.algorithm]
        answer = self._ask(
            "sign",
            KeyId=self._arn,
            Message=digest(data).digest(),
            MessageType="DIGEST",
            SigningAlgorithm=name,
        )
        try:
            r, s = utils.decode_dss_signature(answer["Signature"])
            signature = r.to_bytes(size, "big") + s.to_bytes(size, "big")
        except (ValueError, OverflowError, KeyError, TypeError) as error:
            raise SelfCheckError("KMS answered with something that is no signature") from error
        if not signature_holds(self.public_key, self.algorithm, signature, data):
            raise SelfCheckError("a signature from KMS did not verify under the key fetched from it")
        return signature

    def close(self) -> None:
        """Close this process's connections; the next call would open new ones."""
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.close()

    def _ask(self, operation: str, **arguments: object) -> dict[str, Any]:
        """Call KMS once, and say whose fault it was if it fails. Its own texts name accounts; they stay out."""
        try:
            answer: dict[str, Any] = getattr(self._client(), operation)(**arguments)
        except failures.ClientError as error:
            said = str(error.response.get("Error", {}).get("Code"))
            code = said if said.isascii() and said.isalnum() and len(said) <= _MAX_CODE else "unknown"
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            raise self._judged(code, status) from None
        except (failures.NoCredentialsError, failures.CredentialRetrievalError) as error:
            self.close()
            raise CredentialsError("there are no credentials for KMS where they were to be") from error
        except (failures.ReadTimeoutError, failures.ConnectTimeoutError) as error:
            raise KeyBusyError(f"KMS did not answer within {self._patience:g} seconds, twice") from error
        except failures.BotoCoreError as error:
            raise KeyGoneError(f"KMS cannot be reached: {type(error).__name__}") from error
        return answer

    def _judged(self, code: str, status: int) -> KeyFileError:
        if code in _BUSY or (status >= 500 and code not in _DISABLED):
            return KeyBusyError(f"KMS has too much to do: {code}")
        if code in _DISABLED:
            return KeyDisabledError(f"the key in KMS is disabled, or about to be deleted: {code}")
        if code in _DENIED:
            return KeyDisabledError("KMS does not let these credentials use the key")
        if code in _CREDENTIALS:
            self.close()
            return CredentialsError(f"KMS does not accept the credentials: {code}")
        if code == "NotFoundException":
            return KeyGoneError("KMS has no key of that name")
        if code in ("InvalidKeyUsageException", "UnsupportedOperationException"):
            return KeyNotOursError("the key in KMS cannot sign as we do")
        return KeyGoneError(f"KMS refused the request: {code}")

    def _client(self) -> Any:
        """This process's client; connections are not shared with a parent."""
        process = os.getpid()
        if process not in self._clients:
            self._clients.setdefault(process, _connected(self._address, self._patience))
        return self._clients[process]


def open_kms_key(address: KmsAddress, patience: float = PATIENCE) -> KmsKey:
    """Fetch the public key of `address`; each attempt may take `patience` seconds, and there are two."""
    return KmsKey(address, patience)


def _connected(address: KmsAddress, patience: float) -> Any:
    alone = {
        name: (None, None, default, convert)
        for name, (_, _, default, convert) in Session.SESSION_VARIABLES.items()
    }
    nowhere = (None, None, os.devnull, None)
    core = Session(session_vars={**alone, "config_file": nowhere, "credentials_file": nowhere})
    core.register_component(
        "data_loader", Loader([Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    )
    core.register_component("credential_provider", _resolver(address.credentials, patience))
    return boto3.Session(botocore_session=core).client(
        "kms",
        region_name=address.region,
        endpoint_url=address.endpoint,
        config=Config(
            connect_timeout=patience,
            read_timeout=patience,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            max_pool_connections=_CONNECTIONS,
            ignore_configured_endpoint_urls=True,
        ),
    )


def _resolver(source: str | Path, patience: float) -> Any:
    if isinstance(source, Path):
        return _Fixed(_from_file(source))
    if source == ENVIRONMENT:
        return _Fixed(_from_environment())
    if source != INSTANCE:
        raise CredentialsError("credentials for KMS are to come from nowhere that we know")
    fetcher = InstanceMetadataFetcher(
        timeout=patience, config={"ec2_metadata_service_endpoint": os.environ.get(_METADATA)}
    )
    return sources.CredentialResolver(
        [sources.ContainerProvider(), sources.InstanceMetadataProvider(iam_role_fetcher=fetcher)]
    )


class _Fixed:
    """Hands out the one set of credentials that it was given."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials

    def load_credentials(self) -> Any:
        return self._credentials


def _from_environment() -> Any:
    access, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if not access or not secret:
        raise CredentialsError("AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is not in the environment")
    return sources.Credentials(access, secret, os.environ.get("AWS_SESSION_TOKEN") or None)


def _from_file(path: Path) -> Any:
    try:
        found = json.loads(read_private(path, "credentials"))
    except (ValueError, RecursionError) as error:
        raise CredentialsError("the credentials file is not JSON") from error
    names = ("AccessKeyId", "SecretAccessKey", "SessionToken")
    values = [found.get(name) if isinstance(found, dict) else None for name in names]
    if not all(isinstance(value, str) and value for value in values[:2]):
        raise CredentialsError("the credentials file holds no AccessKeyId and SecretAccessKey")
    if values[2] is not None and not isinstance(values[2], str):
        raise CredentialsError("the SessionToken of the credentials file is no text")
    return sources.Credentials(*values)
