"""Read what an Android device states of a key (the KeyDescription of Android Key Attestation).

The schema is at source.android.com, "Key and ID attestation", versions 1 to 500.
Bounded, one level at a time, never recursive. Accepts what devices are known to
write although DER forbids it: tags and set members out of order. Refuses what two
readers could read differently: a tag twice, a tag that this schema does not have
in the list that the hardware enforces, an integer over 64 bits, a length that is
not minimal. Says nothing of whether the statement is true or signed.
"""

from dataclasses import dataclass

from authn import der
from authn.errors import EvidenceError, MalformedDerError

MAX_BYTES = 32 << 10
MAX_TAGS = 128
_MAX_TAG_NUMBER = 1 << 14
_ENUMERATED = 0x0A

_SETS = frozenset({1, 4, 5, 6, 203})
_INTEGERS = frozenset({2, 3, 8, 10, 11, 200, 400, 401, 402, 405, 502, 504, 505, 701, 702, 705, 706, 718, 719})
_FLAGS = frozenset({7, 303, 305, 503, 506, 507, 508, 509, 600, 703, 720})
_OCTETS = frozenset({601, 709, 710, 711, 712, 713, 714, 715, 716, 717, 723, 724})
_ROOT_OF_TRUST = 704
_KNOWN = _SETS | _INTEGERS | _FLAGS | _OCTETS | {_ROOT_OF_TRUST}


@dataclass(frozen=True, slots=True)
class RootOfTrust:
    """How the device booted."""

    boot_key: bytes
    locked: bool
    boot_state: int


@dataclass(frozen=True, slots=True)
class Package:
    """An app by its package name, in one version."""

    name: str
    version: int


@dataclass(frozen=True, slots=True)
class Application:
    """Who asked for the key: every package of that user id, and the SHA-256 of each signer of them."""

    packages: frozenset[Package]
    signers: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class AuthorizationList:
    """What is fixed for a key, of which only the fields that we judge are kept. None: not stated."""

    purposes: frozenset[int] = frozenset()
    algorithm: int | None = None
    key_size: int | None = None
    digests: frozenset[int] = frozenset()
    paddings: frozenset[int] = frozenset()
    curve: int | None = None
    origin: int | None = None
    root_of_trust: RootOfTrust | None = None
    os_patch: int | None = None
    vendor_patch: int | None = None
    boot_patch: int | None = None
    application: Application | None = None
    brand: bytes | None = None
    manufacturer: bytes | None = None
    model: bytes | None = None


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """The statement. What `software` says is the operating system's word, and only `hardware` more."""

    version: int
    level: int
    keymint_version: int
    keymint_level: int
    challenge: bytes
    software: AuthorizationList
    hardware: AuthorizationList


def read(data: bytes) -> KeyDescription:
    """Read the content of the extension 1.3.6.1.4.1.11129.2.1.17."""
    try:
        fields = der.parse(data, MAX_BYTES).fields()
        version, level = _version(fields.take(der.INTEGER)), _enumerated(fields.take(_ENUMERATED))
        keymint_version, keymint_level = (
            _version(fields.take(der.INTEGER)),
            _enumerated(fields.take(_ENUMERATED)),
        )
        challenge = fields.take(der.OCTET_STRING).content
        fields.take(der.OCTET_STRING)  # the unique id, which would name the device: never kept
        software = _tags(fields.take(der.SEQUENCE).content)
        hardware = _tags(fields.take(der.SEQUENCE).content)
        fields.end()
        return KeyDescription(
            version,
            level,
            keymint_version,
            keymint_level,
            challenge,
            _list({number: value for number, value in software.items() if number in _KNOWN}),
            _list(_all_known(hardware)),
        )
    except MalformedDerError as error:
        raise EvidenceError(f"the key description cannot be read: {error}") from error


def _tags(content: bytes) -> dict[int, der.Element]:
    """The elements of an AuthorizationList, each [n] EXPLICIT around exactly one element."""
    found: dict[int, der.Element] = {}
    position = 0
    while position < len(content):
        number, position = _tag_number(content, position)
        size, position = _length(content, position)
        if size > len(content) - position:
            raise MalformedDerError("a tag ends early")
        if number in found or len(found) == MAX_TAGS:
            raise MalformedDerError(f"tag {number} occurs twice, or there are more than {MAX_TAGS} tags")
        found[number] = der.parse(content[position : position + size])
        position += size
    return found


def _all_known(tags: dict[int, der.Element]) -> dict[int, der.Element]:
    if unknown := tags.keys() - _KNOWN:
        raise MalformedDerError(f"the hardware states tag {min(unknown)}, which the schema does not have")
    return tags


def _tag_number(content: bytes, position: int) -> tuple[int, int]:
    """The number of a constructed context tag (X.690, 8.1.2), and where its length begins."""
    first, position = content[position], position + 1
    if first & 0xE0 != 0xA0:
        raise MalformedDerError(f"tag {first:#x} stands where a context tag must")
    if first != 0xBF:
        return first & 0x1F, position
    number = 0
    while position < len(content):
        octet, position = content[position], position + 1
        number = number << 7 | octet & 0x7F
        if not 0 < number < _MAX_TAG_NUMBER:
            break
        if octet < 0x80:
            if number < 31:
                break
            return number, position
    raise MalformedDerError("a tag has no number that may be")


def _length(content: bytes, position: int) -> tuple[int, int]:
    """A definite, minimal length (X.690, 10.1), and where the content begins."""
    if position >= len(content):
        raise MalformedDerError("a tag ends in its header")
    size, position = content[position], position + 1
    if size < 0x80:
        return size, position
    count = size & 0x7F
    length = content[position : position + count]
    size = int.from_bytes(length[:2], "big")
    if not 0 < count <= 2 or len(length) != count or length[0] == 0 or size < 0x80:
        raise MalformedDerError("a length has no definite, minimal form")
    return size, position + count


def _list(tags: dict[int, der.Element]) -> AuthorizationList:
    """Check each element against the schema, keep the ones that are judged."""
    numbers = {number: _integer(value) for number, value in tags.items() if number in _INTEGERS}
    sets = {number: _set(value) for number, value in tags.items() if number in _SETS}
    octets = {number: value.to_octets() for number, value in tags.items() if number in _OCTETS}
    for number in tags.keys() & _FLAGS:
        if (tags[number].tag, tags[number].content) != (der.NULL, b""):
            raise MalformedDerError(f"tag {number} is not NULL")
    return AuthorizationList(
        purposes=sets.get(1, frozenset()),
        algorithm=numbers.get(2),
        key_size=numbers.get(3),
        digests=sets.get(5, frozenset()),
        paddings=sets.get(6, frozenset()),
        curve=numbers.get(10),
        origin=numbers.get(702),
        root_of_trust=_root_of_trust(tags[_ROOT_OF_TRUST]) if _ROOT_OF_TRUST in tags else None,
        os_patch=numbers.get(706),
        vendor_patch=numbers.get(718),
        boot_patch=numbers.get(719),
        application=_application(octets[709]) if 709 in octets else None,
        brand=octets.get(710),
        manufacturer=octets.get(716),
        model=octets.get(717),
    )


def _root_of_trust(value: der.Element) -> RootOfTrust:
    fields = value.fields()
    found = RootOfTrust(
        fields.take(der.OCTET_STRING).content,
        fields.take(der.BOOLEAN).to_boolean(),
        _enumerated(fields.take(_ENUMERATED)),
    )
    fields.maybe(der.OCTET_STRING)  # verifiedBootHash, since version 3
    fields.end()
    return found


def _application(data: bytes) -> Application:
    """Read the AttestationApplicationId, DER inside the octets of tag 709."""
    fields = der.parse(data, MAX_BYTES).fields()
    packages = frozenset(_package(value) for value in _members(fields.take(der.SET)))
    signers = frozenset(value.to_octets() for value in _members(fields.take(der.SET)))
    fields.end()
    return Application(packages, signers)


def _package(value: der.Element) -> Package:
    fields = value.fields()
    name, version = fields.take(der.OCTET_STRING).content, _integer(fields.take(der.INTEGER))
    fields.end()
    try:
        return Package(name.decode("ascii"), version)
    except UnicodeDecodeError as error:
        raise MalformedDerError("a package name is not ASCII") from error


def _members(value: der.Element) -> tuple[der.Element, ...]:
    if value.tag != der.SET:
        raise MalformedDerError("not a set")
    return value.children()


def _set(value: der.Element) -> frozenset[int]:
    return frozenset(_integer(member) for member in _members(value))


def _integer(value: der.Element) -> int:
    number = value.to_integer()
    if not 0 <= number < 1 << 64:
        raise MalformedDerError("an integer is negative or over 64 bits")
    return number


def _version(value: der.Element) -> int:
    number = _integer(value)
    if not 0 < number < 10_000:
        raise MalformedDerError("a version is none that may be")
    return number


def _enumerated(value: der.Element) -> int:
    if value.tag != _ENUMERATED or len(value.content) != 1 or value.content[0] > 0x7F:
        raise MalformedDerError("not an enumerated value")
    return value.content[0]
