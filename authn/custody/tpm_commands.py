"""Ask a TPM 2.0 one thing over an open connection; the one door to the TPM library.

Each function leaves nothing loaded, but for `load`, whose result is the caller's to unload. What the
TPM refuses is raised as `Refusal`, which `authn.custody.tpm` translates. Takes no turns and repeats
nothing: whoever calls has the TPM alone.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from authn.attestation.tpm import CounterReading
from authn.attestation.tpm_credential import Credential
from authn.custody.tpm_file import OWNER, WrappedKey
from authn.errors import KeyGoneError, KeyNotOursError, ProviderMissingError

try:
    import tpm2_pytss as tss
    from tpm2_pytss import utils as tss_utils
except ImportError as missing:
    raise ProviderMissingError("tpm2-pytss is not installed; it comes with lightseal[tpm]") from missing

Refusal = tss.TSS2_Exception
"""What the TPM library raises; `rc` and `error` say which."""

CLAIM = "sign|fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
ATTESTATION = "restricted|" + CLAIM + "|noda"

_PARENT = "restricted|decrypt|fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda"
_TRANSIENT = 0x80000000


class EndorsementKind(StrEnum):
    """Which of the keys that a TPM's maker may have certified (TCG EK Credential Profile 2.5, Annex B)."""

    RSA_2048 = "EK-RSA2048"
    P256 = "EK-ECC256"
    P384 = "EK-HIGH-ECC384"


@dataclass(frozen=True, slots=True)
class Endorsement:
    """A TPM's own key, a TPMT_PUBLIC, with its maker's certificate in DER; empty if the TPM keeps none."""

    kind: EndorsementKind
    public: bytes
    certificate: bytes


def connect(tcti: str) -> Any:
    """Open a connection, which the caller closes.

    The library would write its own view of every error to the terminal. It asks the environment
    whether it may, and so we answer there, unless somebody has; this process's children inherit it.
    """
    os.environ.setdefault("TSS2_LOG", "all+none")
    return tss.ESAPI(tcti)


def create(esapi: Any, attributes: str, pin: bytes | None) -> WrappedKey:
    """Make a key on P-256 that signs."""
    template = tss.TPM2B_PUBLIC.parse("ecc256:ecdsa-sha256:null", attributes, "sha256")
    sensitive = tss.TPM2B_SENSITIVE_CREATE()
    if pin is not None:
        sensitive.sensitive.userAuth = pin
    with _parent(esapi, OWNER) as parent:
        private, public, *_ = esapi.create(parent, sensitive, template)
    return WrappedKey(_unsized(public), _unsized(private), pin is not None)


def load(esapi: Any, key: WrappedKey, pin: bytes | None) -> Any:
    """Load a key, to be used with `pin`."""
    private, _ = tss.TPM2B_PRIVATE.unmarshal(_prefixed(key.private))
    public, _ = tss.TPM2B_PUBLIC.unmarshal(_prefixed(key.public))
    with _parent(esapi, key.parent) as parent:
        handle = esapi.load(parent, private, public)
    esapi.tr_set_auth(handle, pin)
    return handle


def public_of(esapi: Any, handle: Any) -> bytes:
    """The TPMT_PUBLIC of what is loaded there now."""
    public, *_ = esapi.read_public(handle)
    return _unsized(public)


def unload_all(esapi: Any) -> None:
    """Unload every key that this connection sees."""
    _more, capability = esapi.get_capability(tss.TPM2_CAP.HANDLES, _TRANSIENT, 32)
    handles = capability.data.handles  # a view: `capability` must live as long
    for handle in [int(handles[place]) for place in range(handles.count)]:
        with suppress(Refusal):
            esapi.flush_context(esapi.tr_from_tpmpublic(handle))


def sign(esapi: Any, handle: Any, digest: bytes) -> bytes:
    """Sign a SHA-256 with a loaded key: r and s."""
    return _raw(esapi.sign(handle, digest, _ecdsa()))


def certify(
    esapi: Any, ak: WrappedKey, claim: WrappedKey, pin: bytes | None, expected: bytes
) -> tuple[bytes, bytes]:
    """Have `ak` certify `claim` (TPM2_Certify, Part 3, 18.2): a TPMS_ATTEST and its signature."""
    with _loaded(esapi, ak, None) as signer, _loaded(esapi, claim, pin) as key:
        attested, signature = esapi.certify(key, signer, expected, _ecdsa())
        return _unsized(attested), _raw(signature)


def endorsement(esapi: Any, kind: EndorsementKind) -> Endorsement:
    """Derive the TPM's own key of that kind."""
    certificate, template = _endorsement_template(esapi, kind)
    with _endorsement_key(esapi, template) as (_, public):
        return Endorsement(kind, public, certificate)


def certificate_of(esapi: Any, kind: EndorsementKind) -> bytes:
    """The maker's certificate in the TPM's memory, or nothing."""
    certificate, _template = _endorsement_template(esapi, kind)
    return certificate


def activate(esapi: Any, ak: WrappedKey, kind: EndorsementKind, credential: Credential) -> bytes:
    """Open a challenge (TPM2_ActivateCredential, Part 3, 12.5)."""
    _, template = _endorsement_template(esapi, kind)
    blob = tss.TPM2B_ID_OBJECT(credential=credential.blob)
    seed = tss.TPM2B_ENCRYPTED_SECRET(secret=credential.seed)
    with (
        _loaded(esapi, ak, None) as key,
        _endorsement_key(esapi, template) as (own, _),
        _right(esapi, kind) as session,
    ):
        return bytes(esapi.activate_credential(key, own, blob, seed, session2=session))


def define_counter(esapi: Any, index: int) -> int:
    """Make the counter if it is not there, and return its value."""
    public = tss.TPM2B_NV_PUBLIC(
        nvPublic=tss.TPMS_NV_PUBLIC(
            nvIndex=index,
            nameAlg=tss.TPM2_ALG.SHA256,
            dataSize=8,
            attributes=tss.TPMA_NV(
                tss.TPMA_NV.AUTHREAD
                | tss.TPMA_NV.AUTHWRITE
                | tss.TPMA_NV.OWNERREAD
                | tss.TPMA_NV.NO_DA
                | (tss.TPM2_NT.COUNTER << tss.TPMA_NV.TPM2_NT_SHIFT)
            ),
        )
    )
    if not _defined(esapi, index):
        esapi.tr_close(esapi.nv_define_space(None, public, tss.ESYS_TR.OWNER))
    with _counter(esapi, index) as handle:
        if not _counter_attributes(esapi, handle) & tss.TPMA_NV.WRITTEN:
            esapi.nv_increment(handle, handle)
        return _value(esapi, handle)


def increment(esapi: Any, index: int) -> int:
    """Count one up, then read."""
    with _counter(esapi, index) as handle:
        esapi.nv_increment(handle, handle)
        return _value(esapi, handle)


def read_counter(esapi: Any, index: int) -> int:
    """Read the counter."""
    with _counter(esapi, index) as handle:
        return _value(esapi, handle)


def certify_counter(esapi: Any, index: int, ak: WrappedKey, expected: bytes) -> CounterReading:
    """Have `ak` certify the counter's value (TPM2_NV_Certify, Part 3, 31.16)."""
    with _loaded(esapi, ak, None) as signer, _counter(esapi, index) as handle:
        area, _name = esapi.nv_read_public(handle)
        attested, signature = esapi.nv_certify(signer, handle, expected, _ecdsa(), 8, 0, handle)
        return CounterReading(_unsized(area), _unsized(attested), _raw(signature))


def remove_counter(esapi: Any, index: int) -> None:
    """Delete the counter, if it is there."""
    if _defined(esapi, index):
        esapi.nv_undefine_space(esapi.tr_from_tpmpublic(index))


@contextmanager
def _parent(esapi: Any, parent: int) -> Iterator[Any]:
    """The key under which others lie: derived for the moment, or one that is kept in the TPM."""
    if parent != OWNER:
        handle = esapi.tr_from_tpmpublic(parent)
        try:
            yield handle
        finally:
            esapi.tr_close(handle)
        return
    template = tss.TPM2B_PUBLIC.parse("ecc256:aes128cfb", _PARENT, "sha256")
    handle, *_ = esapi.create_primary(None, template, tss.ESYS_TR.OWNER)
    with _flushed(esapi, handle):
        yield handle


@contextmanager
def _loaded(esapi: Any, key: WrappedKey, pin: bytes | None) -> Iterator[Any]:
    handle = load(esapi, key, pin)
    with _flushed(esapi, handle):
        yield handle


@contextmanager
def _flushed(esapi: Any, handle: Any) -> Iterator[None]:
    """Unload at the end, whatever happens; a TPM that is gone has unloaded everything."""
    try:
        yield
    finally:
        with suppress(Refusal):
            esapi.flush_context(handle)


def _endorsement_template(esapi: Any, kind: EndorsementKind) -> tuple[bytes, Any]:
    """The certificate in the TPM's memory, or nothing, and the template that gives its key."""
    try:
        certificate, template = tss_utils.create_ek_template(kind.value, tss_utils.NVReadEK(esapi))
    except ValueError:  # as the library says that a key of the high range has no certificate
        return b"", tss_utils.ek_template.lookup(kind.value).template
    return _one_element(bytes(certificate or b"")), template


def _one_element(data: bytes) -> bytes:
    """The certificate without what fills up its place in the TPM's memory."""
    if data[:2] != b"\x30\x82" or len(data) < 4:
        return b""
    return data[: 4 + int.from_bytes(data[2:4], "big")]


@contextmanager
def _endorsement_key(esapi: Any, template: Any) -> Iterator[tuple[Any, bytes]]:
    handle, public, *_ = esapi.create_primary(None, template, tss.ESYS_TR.ENDORSEMENT)
    with _flushed(esapi, handle):
        yield handle, _unsized(public)


@contextmanager
def _right(esapi: Any, kind: EndorsementKind) -> Iterator[Any]:
    """The right to use an endorsement key: its empty password in the high range, else a policy (EK Profile, B.6)."""
    if kind is EndorsementKind.P384:
        yield tss.ESYS_TR.PASSWORD
        return
    symmetric = tss.TPMT_SYM_DEF(algorithm=tss.TPM2_ALG.NULL)
    session = esapi.start_auth_session(
        tss.ESYS_TR.NONE, tss.ESYS_TR.NONE, tss.TPM2_SE.POLICY, symmetric, tss.TPM2_ALG.SHA256
    )
    with _flushed(esapi, session):
        esapi.policy_secret(tss.ESYS_TR.ENDORSEMENT, session, b"", b"", b"", 0)
        yield session


def _defined(esapi: Any, index: int) -> bool:
    _more, capability = esapi.get_capability(tss.TPM2_CAP.HANDLES, index, 1)
    handles = capability.data.handles  # a view: `capability` must live as long
    return bool(handles.count and int(handles[0]) == index)


@contextmanager
def _counter(esapi: Any, index: int) -> Iterator[Any]:
    if not _defined(esapi, index):
        raise KeyGoneError(f"the TPM has no counter at {index:#010x}")
    handle = esapi.tr_from_tpmpublic(index)
    try:
        kind = (_counter_attributes(esapi, handle) & tss.TPMA_NV.TPM2_NT_MASK) >> tss.TPMA_NV.TPM2_NT_SHIFT
        if kind != tss.TPM2_NT.COUNTER:
            raise KeyNotOursError(f"what the TPM has at {index:#010x} is no counter")
        yield handle
    finally:
        esapi.tr_close(handle)


def _counter_attributes(esapi: Any, handle: Any) -> int:
    area, _name = esapi.nv_read_public(handle)
    return int(area.nvPublic.attributes)  # read while `area` lives


def _value(esapi: Any, handle: Any) -> int:
    return int.from_bytes(bytes(esapi.nv_read(handle, 8, 0, handle)), "big")


def _ecdsa() -> Any:
    scheme = tss.TPMT_SIG_SCHEME(scheme=tss.TPM2_ALG.ECDSA)
    scheme.details.any.hashAlg = tss.TPM2_ALG.SHA256
    return scheme


def _raw(signature: Any) -> bytes:
    """R and s side by side; a TPM may leave out leading zeros."""
    ecdsa = signature.signature.ecdsa  # a view: `signature` lives as long
    return bytes(ecdsa.signatureR).rjust(32, b"\0") + bytes(ecdsa.signatureS).rjust(32, b"\0")


def _unsized(structure: Any) -> bytes:
    """The content of a TPM2B, without its length."""
    return bytes(structure.marshal())[2:]


def _prefixed(content: bytes) -> bytes:
    return len(content).to_bytes(2, "big") + content
