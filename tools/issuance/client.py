"""The device's side: make or open keys, prove where they are, and put what comes back in a folder.

Over HTTP, or in the process of the home itself. Certificates that come are checked to be for our
keys and by one issuer; whether that issuer is to be believed, whoever verifies a capture decides.
"""

import hashlib
import http.client
import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from authn.attestation.judgement import Evidence, Kind
from authn.chain import read_certificate
from authn.csr import make_request
from authn.custody import uri
from authn.custody.opening import open_provider
from authn.device import encoded, spki
from authn.errors import CertificateError
from authn.identity import Lifetime, pem_chain, spki_of
from authn.keys import KeyProvider, generate_p256, store_key, verify_note
from authn.revocation import host_of
from storage.checkpoint import open_checkpoint
from storage.errors import MalformedKeyError
from storage.note import VerifierKey
from tools.camera.folder import (
    CHECKPOINT,
    Camera,
    add_pool,
    clear_superseded,
    create_camera,
    key_address,
    put_private,
    update_camera,
    workplace,
)
from tools.errors import OutputExistsError, ServiceUnreachableError, UsageError
from tools.home import content_of
from tools.issuance.enrolment import Completion, Offer, Opening, Wish, renewal_text
from tools.issuance.errors import ServiceError
from tools.issuance.judging import claim_of
from tools.issuance.order import Batch
from tools.issuance.refusals import raise_refused, status_of
from tools.issuance.tpm_side import AK_FILE, TpmSide
from tools.issuance.wire import (
    TpmKeys,
    Welcome,
    completion_fields,
    offer_of,
    opening_fields,
    welcome_of,
)

PATH = "/v1/enrolments"
POOL = 50
MAX_ANSWER = 4 << 20
SECONDS = 90.0
TRIES = 4
_KEY_FILE = "key.pem"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Service(Protocol):
    """Where a device enrols."""

    def begin(self, opening: Opening, tpm: TpmKeys | None) -> tuple[Offer, bytes | None]:
        """A challenge, and for a TPM what only it can open."""
        ...

    def complete(self, completion: Completion) -> Welcome:
        """The certificates, and the ledger that has them."""
        ...


class HttpService:
    """A service at an address such as https://media.example; a path in it is kept."""

    def __init__(self, url: str, sleep: Callable[[float], None] = time.sleep) -> None:
        if host_of(url) is None:
            raise UsageError("a service is named by an http or https address")
        self._url, self._sleep = urlsplit(url), sleep
        if self._url.scheme != "https" and self._url.hostname not in _LOOPBACK:
            raise UsageError("a token goes over https only, or to a service on this very machine")

    def begin(self, opening: Opening, tpm: TpmKeys | None) -> tuple[Offer, bytes | None]:
        """Ask once: a token that was heard is used up."""
        return offer_of(self._post(PATH, opening_fields(opening, tpm)))

    def complete(self, completion: Completion) -> Welcome:
        """Ask until there is an answer: the same enrolment again is never a second one."""
        fields = completion_fields(completion)
        for attempt in range(TRIES):
            try:
                return welcome_of(self._post(f"{PATH}/{completion.terms.identity}", fields))
            except Exception as error:
                if attempt == TRIES - 1 or not _passes(error):
                    raise
                self._sleep(0.5 * 2**attempt)
        raise AssertionError("the loop returns or raises")

    def _post(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        where = f"{self._url.scheme}://{self._url.netloc}"
        try:
            with closing(kind(self._url.hostname or "", self._url.port, timeout=SECONDS)) as connection:
                headers = {"Content-Type": "application/json", "User-Agent": "lightseal"}
                connection.request(
                    "POST", self._url.path.rstrip("/") + path, json.dumps(fields).encode(), headers
                )
                body = connection.getresponse().read(MAX_ANSWER + 1)
        except (OSError, http.client.HTTPException) as error:
            raise ServiceUnreachableError(f"{where} did not answer ({type(error).__name__})") from error
        try:
            answer = json.loads(body) if len(body) <= MAX_ANSWER else None
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise ServiceError(f"{where} answered with something that is no JSON object")
        raise_refused(answer)
        return answer


def _passes(error: Exception) -> bool:
    """Whether it may be over in a moment."""
    return isinstance(error, ServiceUnreachableError) or (hasattr(error, "code") and status_of(error) == 503)


@dataclass(frozen=True, slots=True)
class Joining:
    """What a device wants to be. Without a key's URI a key is made, as a file of the folder."""

    folder: Path
    product: str
    token: bytes
    name: str | None = None
    key: str | None = None
    lifetime: Lifetime | None = None
    service: str | None = None
    pool: int = POOL


@dataclass(frozen=True, slots=True)
class _Held:
    """A key that is to be certified: its URI, and where it lies and will lie, if it is a file that we made."""

    address: str
    key: KeyProvider
    made: Path | None = None
    name: str = ""


def join(joining: Joining, service: Service) -> Camera:
    """Enrol a device, and make its folder: whole, or not at all."""
    if joining.folder.exists() and any(joining.folder.iterdir()):
        raise OutputExistsError(f"something else stands at {joining.folder}")
    place = joining.folder.absolute()
    with _maker(place, place.with_name(f".{place.name}.keys"), joining.key, None) as maker:
        kinds = (maker.kind,)
        opening = Opening(joining.token, joining.product, joining.name, joining.lifetime, kinds)
        offer, credential = service.begin(opening, maker.offered)
        pooled = joining.pool if offer.terms.lifetime is Lifetime.ONE_TIME else 0
        held = [maker.lasting(_KEY_FILE), *map(maker.pooled, range(1, pooled + 1))]
        wishes = maker.wishes(held, offer, credential)
        welcome = service.complete(Completion(offer.challenge, offer.terms, wishes))
        enrolled = welcome.enrolled
        chains = _chains(held, enrolled.batch)
        camera = Camera(
            joining.folder,
            enrolled.device,
            held[0].address,
            enrolled.salt,
            enrolled.lifetime.value,
            joining.service,
            _log_keys(welcome),
            enrolled.batch.certificates[0].entry,
        )
        create_camera(camera, chains[0], (*maker.files(held[0]), *_known(welcome, camera.log_keys)))
        _fill(camera, held[1:], chains[1:])
    return camera


def _known(welcome: Welcome, keys: tuple[VerifierKey, ...]) -> tuple[tuple[str, bytes], ...]:
    """The first checkpoint, so that even what is captured before the next contact has a time before which it was not."""
    if not welcome.checkpoint:
        return ()
    note = welcome.checkpoint.encode()
    open_checkpoint(note, keys, verify_note)
    return ((CHECKPOINT, note),)


def renew(camera: Camera, service: Service, key: str | None = None, pool: int = POOL) -> Camera:
    """Have a new key certified on the word of the present one; the pool of a one-time device is filled up.

    `key` names the new key where we cannot make it: a token's, a program's or a service's.
    """
    present = camera.device()
    kept = camera.path / AK_FILE
    before = uri.parse(key_address(camera.path, camera.key))
    if key is None and isinstance(before, uri.TpmAddress):
        key = str(replace(before, path=camera.path.absolute() / f"key-{secrets.token_hex(4)}.tss"))
    elif key is None and not isinstance(before, uri.FileAddress):
        raise UsageError("name the new key with --key: no key is ever certified twice")
    scratch = camera.path / ".keys"
    with closing(present.key), _maker(camera.path, scratch, key, _content_if_any(kept)) as maker:
        clear_superseded(camera)  # what a crash left of an earlier renewal
        opening = Opening(None, "", camera.name, Lifetime(camera.lifetime), (maker.kind,))
        offer, credential = service.begin(opening, maker.offered)
        first = _next_pooled(camera)
        numbers = range(first, first + pool) if camera.one_time else range(0)
        held = [maker.lasting(f"key-{secrets.token_hex(4)}.pem"), *map(maker.pooled, numbers)]
        wishes = maker.wishes(held, offer, credential)
        text = renewal_text(offer.challenge, tuple(spki_of(each.key.public_key) for each in held))
        named = hashlib.sha256(encoded(present.chain[0])).digest()
        proof = (named, present.key.sign(text))
        welcome = service.complete(Completion(offer.challenge, offer.terms, wishes, proof))
        chains = _chains(held, welcome.enrolled.batch)
        renewed = replace(camera, key=held[0].address, log_keys=_log_keys(welcome))
        for name, content in maker.files(held[0]):
            put_private(camera.path / name, content)
        renewed = update_camera(renewed, chains[0])
        _fill(renewed, held[1:], chains[1:])
        clear_superseded(renewed)
    return renewed


class _Maker:
    """Makes keys where one was named, in `scratch` until they are certified; or opens the one that is named."""

    kind = Kind.NONE
    offered: TpmKeys | None = None

    def __init__(self, folder: Path, scratch: Path, address: str | None, opened: ExitStack) -> None:
        self._folder, self._scratch, self._address, self._opened = folder, scratch, address, opened

    def lasting(self, name: str) -> _Held:
        """The device's own key."""
        if self._address is None:
            return self._made(name)
        return _Held(self._address, self._open(self._address))

    def pooled(self, number: int) -> _Held:
        """A key for one capture."""
        if self._address is not None:
            raise UsageError("keys for one capture each are made as files or in a TPM; name no other --key")
        return self._made(f"pool/{number:06}.key")

    def wishes(self, held: Sequence[_Held], _offer: Offer, _credential: bytes | None) -> tuple[Wish, ...]:
        """A request for each key, with what there is to say of where it is kept."""
        return tuple(
            Wish(make_request(each.key), Evidence(self.kind, claim_of(each.key.keeping))) for each in held
        )

    def files(self, held: _Held) -> list[tuple[str, bytes]]:
        """What belongs in the folder beside the chain."""
        return [] if held.made is None else [(held.name, held.made.read_bytes())]

    def _made(self, name: str) -> _Held:
        place, key = self._scratch / secrets.token_hex(8), generate_p256()
        store_key(place, key, None)
        return _Held(f"file:{name}", key, place, name)

    def _open(self, address: str) -> KeyProvider:
        return self._opened.enter_context(closing(open_provider(address)))


class _TpmMaker(_Maker):
    """Makes keys in a TPM; their files are of use to it alone."""

    kind = Kind.TPM

    def __init__(
        self, folder: Path, scratch: Path, address: uri.TpmAddress, opened: ExitStack, ak: bytes | None
    ) -> None:
        super().__init__(folder, scratch, str(address), opened)
        self._tpm, self._side = address, opened.enter_context(TpmSide(address, ak))
        self.offered = self._side.offered

    def lasting(self, name: str) -> _Held:
        """The key whose file was named, made where there is none."""
        _ = name
        if not self._tpm.path.exists():
            self._side.make_key(self._tpm.path)
        return _Held(str(self._tpm), self._open(str(self._tpm)), self._tpm.path)

    def pooled(self, number: int) -> _Held:
        """A key of the TPM for one capture."""
        place, name = self._scratch / secrets.token_hex(8), f"pool/{number:06}.key"
        self._side.make_key(place)
        final = replace(self._tpm, path=self._folder.absolute() / name)
        return _Held(str(final), self._open(str(replace(self._tpm, path=place))), place, name)

    def wishes(self, held: Sequence[_Held], offer: Offer, credential: bytes | None) -> tuple[Wish, ...]:
        """A request for each key, with the TPM's statement about it."""
        answer = self._side.answer(offer.challenge, credential)
        return tuple(
            Wish(make_request(each.key), self._side.evidence(each.made, answer))
            for each in held
            if each.made is not None
        )

    def files(self, held: _Held) -> list[tuple[str, bytes]]:
        """The attestation key, by which the device is known again."""
        _ = held
        return [(AK_FILE, self._side.ak)]


@contextmanager
def _maker(folder: Path, place: Path, address: str | None, ak: bytes | None) -> Iterator[_Maker]:
    """Makes keys at `place`, which is beside where they will lie and nobody else's: never in a shared folder."""
    with ExitStack() as opened:
        scratch = opened.enter_context(workplace(place))
        parsed = None if address is None else uri.parse(address)
        if isinstance(parsed, uri.TpmAddress):
            yield _TpmMaker(folder, scratch, parsed, opened, ak)
        else:
            yield _Maker(folder, scratch, address, opened)


def _fill(camera: Camera, held: Sequence[_Held], chains: Sequence[bytes]) -> None:
    """Put the pool's keys and certificates in the folder, the keys first: a number without a key is of no use."""
    if not held:
        return
    (camera.path / "pool").mkdir(mode=0o700, exist_ok=True)
    for each in held:
        if each.made is not None:
            put_private(camera.path / each.name, each.made.read_bytes())
    add_pool(camera, [(each.address, chain) for each, chain in zip(held, chains, strict=True)])


def _next_pooled(camera: Camera) -> int:
    """The number that the pool goes on with; numbers that were used up are not given again."""
    counted = _content_if_any(camera.path / "pool" / "last")
    return max(0, *camera.pool(), int(counted or 0)) + 1


def _chains(held: Sequence[_Held], batch: Batch) -> list[bytes]:
    """The chain of each key in PEM, if they are for our keys, all of one issuer."""
    try:
        issuer = read_certificate(batch.issuer)
        leaves = [read_certificate(each.certificate) for each in batch.certificates]
        ours = [spki_of(each.key.public_key) for each in held]
        if [spki(leaf) for leaf in leaves] != ours or any(leaf.issuer != issuer.subject for leaf in leaves):
            raise ServiceError("the service certified other keys than it was asked to")
    except CertificateError as error:
        raise ServiceError("the service gave certificates that cannot be read") from error
    return [pem_chain(leaf, issuer) for leaf in leaves]


def _log_keys(welcome: Welcome) -> tuple[VerifierKey, ...]:
    try:
        return tuple(map(VerifierKey.parse_log, welcome.log_keys))
    except MalformedKeyError as error:
        raise ServiceError("the service gave a key of its ledger that is none") from error


def _content_if_any(place: Path) -> bytes | None:
    return content_of(place) if place.exists() else None
