"""Read the URIs that name keys, and refuse every one that is not exactly understood.

    file:PATH[?pin-source=file:PATH]
    pkcs11:token=T;object=O[;id=%01][;serial=S]?module-path=PATH&pin-source=file:PATH      (RFC 7512)
    tpm:PATH[?tcti=device|swtpm|mssim|tabrmd[:SETTINGS]][&pin-source=file:PATH]
    exec:PATH[?key=NAME]
    awskms:KEY-ID-OR-ARN[?region=R][&endpoint=URL][&credentials=environment|instance|file:PATH]

The PATH of file:, tpm: and exec: stands as it is, up to the first '?'; everything else is
percent-decoded once. An attribute that we do not know is refused, never skipped, since what it says
would be lost. `pin-value` is refused: a PIN in a URI ends in logs and process lists. Of the ways to a TPM
that its library knows, those that run a command or load another library (cmd:, pcap:, a path) are refused.
Says nothing of whether the key exists. No error repeats the URI, which may hold a secret by mistake.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote, unquote_to_bytes, urlsplit

from authn.errors import KeyAddressError

DEFAULT_TCTI = "device:/dev/tpmrm0"
ENVIRONMENT, INSTANCE = "environment", "instance"

_MAX_URI = 4096
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_TEXT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]+")
_TCTI = re.compile(r"(?:device|swtpm|mssim|tabrmd)(?::[\x21-\x7e]*)?")
_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+){1,3}-[0-9]{1,2}")
_KEY_NAME = re.compile(r"[A-Za-z0-9._/:-]{1,256}")
_KMS_ID = re.compile(r"(?:mrk-)?[0-9a-f-]{32,64}|alias/[A-Za-z0-9/_-]{1,250}")
_KMS_ARN = re.compile(
    r"arn:aws[a-z-]{0,20}:kms:(?P<region>[a-z0-9-]+):[0-9]{12}:(?:key/(?:mrk-)?[0-9a-f-]{32,64}|alias/[A-Za-z0-9/_-]{1,250})"
)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class FileAddress:
    """A PKCS#8 file, and the file of the passphrase that opens it."""

    path: Path
    pin_source: Path | None = None

    def __str__(self) -> str:
        return f"file:{self.path}" + _query(("pin-source", _file(self.pin_source)))


@dataclass(frozen=True, slots=True)
class TokenAddress:
    """A private key in a PKCS#11 token: by the token's label or serial number, and its own label or id."""

    token: str | None
    serial: str | None
    label: str | None
    id: bytes | None
    module: Path
    pin_source: Path

    def __str__(self) -> str:
        parts = (("token", self.token), ("serial", self.serial), ("object", self.label))
        path = [f"{name}={quote(value, safe='')}" for name, value in parts if value is not None]
        if self.id is not None:
            path.append("id=" + "".join(f"%{byte:02X}" for byte in self.id))
        found = _query(("module-path", str(self.module)), ("pin-source", _file(self.pin_source)))
        return f"pkcs11:{';'.join(path)}{found}"


@dataclass(frozen=True, slots=True)
class TpmAddress:
    """A key file that one TPM wrapped and alone can load, how to reach that TPM, and the key's own PIN."""

    path: Path
    tcti: str = DEFAULT_TCTI
    pin_source: Path | None = None

    def __str__(self) -> str:
        return f"tpm:{self.path}" + _query(("tcti", self.tcti), ("pin-source", _file(self.pin_source)))


@dataclass(frozen=True, slots=True)
class ProgramAddress:
    """A program that signs, and which of its keys."""

    path: Path
    key: str | None = None

    def __str__(self) -> str:
        return f"exec:{self.path}" + _query(("key", self.key))


@dataclass(frozen=True, slots=True)
class KmsAddress:
    """A key in AWS KMS, where that is, and where the credentials come from."""

    key: str
    region: str
    endpoint: str | None = None
    credentials: str | Path = ENVIRONMENT

    def __str__(self) -> str:
        given = self.credentials if isinstance(self.credentials, str) else _file(self.credentials)
        return f"awskms:{self.key}" + _query(
            ("region", self.region), ("endpoint", self.endpoint), ("credentials", given)
        )


Address = FileAddress | TokenAddress | TpmAddress | ProgramAddress | KmsAddress


def parse(uri: str) -> Address:
    """Read a key's URI; `str` of the result is the form that we write."""
    if len(uri) > _MAX_URI or not _TEXT.fullmatch(uri):
        raise KeyAddressError("a key's URI is empty, too long, or holds control characters")
    scheme, _, rest = uri.partition(":")
    path, question, query = rest.partition("?")
    if question and not query:
        raise KeyAddressError("a key's URI ends in a lone question mark")
    attributes = _attributes(query, "&")
    match scheme:
        case "file":
            address: Address = FileAddress(_path(path), _secret(attributes))
        case "pkcs11":
            address = _token(_attributes(path, ";"), attributes)
        case "tpm":
            tcti = _tcti(_text(attributes.pop("tcti", DEFAULT_TCTI.encode())))
            address = TpmAddress(_absolute(path), tcti, _secret(attributes))
        case "exec":
            key = attributes.pop("key", None)
            named = None if key is None else _matching(_KEY_NAME, key, "key")
            address = ProgramAddress(_absolute(path), named)
        case "awskms":
            address = _kms(path, attributes)
        case _:
            raise KeyAddressError("a key's URI begins with none of file:, pkcs11:, tpm:, exec:, awskms:")
    _none_left(attributes)
    return address


def _token(path: dict[str, bytes], query: dict[str, bytes]) -> TokenAddress:
    if path.pop("type", b"private") != b"private":
        raise KeyAddressError("a key's URI names an object of a type that cannot sign")
    identity = path.pop("id", None)
    if identity is not None and not 1 <= len(identity) <= 255:
        raise KeyAddressError("the id in a key's URI has no bytes, or too many")
    label = {name: _text(path.pop(name)) if name in path else None for name in ("token", "serial", "object")}
    _none_left(path)
    if label["token"] is None and label["serial"] is None:
        raise KeyAddressError("a key's URI names no token: token=LABEL or serial=NUMBER")
    if label["object"] is None and identity is None:
        raise KeyAddressError("a key's URI names no key in the token: object=LABEL or id=%01")
    if "module-path" not in query:
        raise KeyAddressError("a key's URI names no module-path, the library of the token")
    module = _absolute(_text(query.pop("module-path")))
    pin = _secret(query)
    if pin is None:
        raise KeyAddressError("a key's URI names no pin-source, the file of the token's PIN")
    return TokenAddress(label["token"], label["serial"], label["object"], identity, module, pin)


def _tcti(text: str) -> str:
    if not _TCTI.fullmatch(text):
        raise KeyAddressError("the tcti in a key's URI is not device, swtpm, mssim or tabrmd, with settings")
    return text


def _kms(key: str, query: dict[str, bytes]) -> KmsAddress:
    arn = _KMS_ARN.fullmatch(key)
    if not arn and not _KMS_ID.fullmatch(key):
        raise KeyAddressError("what follows awskms: is neither a key id, nor alias/NAME, nor an ARN of KMS")
    region = _matching(_REGION, query.pop("region"), "region") if "region" in query else None
    if arn and region not in (None, arn["region"]):
        raise KeyAddressError("the region of a key's URI is not the one in its ARN")
    region = region or (_matching(_REGION, arn["region"].encode(), "region") if arn else None)
    if region is None:
        raise KeyAddressError("a key's URI names no region")
    endpoint = _endpoint(_text(query.pop("endpoint"))) if "endpoint" in query else None
    credentials: str | Path = _text(query.pop("credentials", ENVIRONMENT.encode()))
    if credentials not in (ENVIRONMENT, INSTANCE):
        credentials = _named_file(str(credentials), "credentials")
    return KmsAddress(key, region, endpoint, credentials)


def _endpoint(url: str) -> str:
    """Accept https, and plain http to this machine alone."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        _refuse("endpoint")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise KeyAddressError("the endpoint in a key's URI holds more than a host, a port and a path")
    if not parts.hostname or port == 0 or not re.fullmatch(r"[\x21-\x7e]+", url):
        _refuse("endpoint")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise KeyAddressError("the endpoint in a key's URI is not https, and not on this machine")
    return url


def _attributes(text: str, separator: str) -> dict[str, bytes]:
    """Split name=value pairs; a name twice is refused, since either could be meant."""
    found: dict[str, bytes] = {}
    for pair in text.split(separator) if text else ():
        name, equals, value = pair.partition("=")
        if not equals or not re.fullmatch(r"[a-z0-9-]{1,32}", name):
            raise KeyAddressError("a key's URI holds something that is no name=value")
        if name in ("pin-value", "pin", "passphrase", "password"):
            raise KeyAddressError(f"a key's URI holds a secret ({name}); name its file with pin-source")
        if name in found:
            raise KeyAddressError(f"a key's URI says {name} twice")
        if not value or _PERCENT.search(value):
            raise KeyAddressError(f"the value of {name} in a key's URI is empty or wrongly encoded")
        found[name] = unquote_to_bytes(value)
    return found


def _secret(attributes: dict[str, bytes]) -> Path | None:
    source = attributes.pop("pin-source", None)
    return None if source is None else _named_file(_text(source), "pin-source")


def _named_file(text: str, name: str) -> Path:
    """Read file:/PATH; RFC 7512's |COMMAND is refused with everything else."""
    if not text.startswith("file:"):
        raise KeyAddressError(f"the {name} in a key's URI is not file:PATH")
    return _absolute(text.removeprefix("file:"))


def _path(text: str) -> Path:
    """Take a path as it stands; file:///PATH is the same as file:/PATH."""
    text = text.removeprefix("//")
    if not text or text.startswith("//"):
        raise KeyAddressError("a key's URI names no file")
    return Path(text)


def _absolute(text: str) -> Path:
    path = _path(text)
    if not path.is_absolute() or ".." in path.parts:
        raise KeyAddressError("a path in a key's URI does not begin at the root, or climbs with '..'")
    return path


def _matching(pattern: re.Pattern[str], value: bytes, name: str) -> str:
    text = _text(value)
    if not pattern.fullmatch(text):
        _refuse(name)
    return text


def _text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise KeyAddressError("a value in a key's URI is not UTF-8") from error
    if not _TEXT.fullmatch(text):
        raise KeyAddressError("a value in a key's URI holds control characters")
    return text


def _none_left(attributes: dict[str, bytes]) -> None:
    if attributes:
        raise KeyAddressError(f"a key's URI says {min(attributes)}, which this kind of key does not have")


def _refuse(name: str) -> NoReturn:
    raise KeyAddressError(f"the {name} in a key's URI cannot be understood")


def _query(*pairs: tuple[str, str | None]) -> str:
    given = [f"{name}={quote(value, safe='/:,=')}" for name, value in pairs if value is not None]
    return "?" + "&".join(given) if given else ""


def _file(path: Path | None) -> str | None:
    return None if path is None else f"file:{path}"
