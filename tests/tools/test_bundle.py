"""A stranger with public programs alone can check a bundle, and notices what was changed in it."""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn import jumbf
from authn.errors import TimestampError
from authn.evidence import Credentials
from authn.keys import generate_ed25519, generate_p384, open_key
from authn.manifest import Sdk
from authn.media import Media
from authn.profile import Profile
from authn.trust import Purpose
from storage.receipt import Receipt
from tools.bundle import (
    BundleContents,
    Seal,
    SignedClaim,
    Token,
    _as_openssl,
    _token,
    bundle,
    require_writable_bundle,
    write_bundle,
)
from tools.errors import DiskFullError, OutputExistsError, UnwritableError
from tools.home import SERVICE, Home
from tools.output import Form, write_whole
from tools.trust import ListFile

NOW = datetime.now(UTC)


def now() -> datetime:
    return datetime.now(UTC)


FORBIDDEN = re.compile(r"\b(authentic|real|fake|verified|trusted|genuine)\b", re.IGNORECASE)
HOSTILE = "```\n$(touch hacked) `touch hacked` '; touch hacked #\u202e {{ 7*7 }}.jpg"


@dataclass(frozen=True)
class Unpacked:
    """A bundle in a folder, as its reader has it."""

    folder: Path
    media: Path

    @property
    def commands(self) -> list[str]:
        """Every line of every console block in the instructions."""
        blocks = re.findall(r"(?ms)^```console\n(.*?)^```$", (self.folder / "HOWTO-VERIFY.md").read_text())
        return [line for block in blocks for line in block.splitlines()]

    def run(self, command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "MEDIA": str(self.media), "LC_ALL": "C"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )

    def failing(self) -> list[str]:
        """The commands that do not end well, each run in turn as a reader would."""
        return [command for command in self.commands if self.run(command).returncode != 0]


def unpack(data: bytes, folder: Path, media: Path) -> Unpacked:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(folder)
    return Unpacked(folder, media)


@pytest.fixture(scope="module")
def lists(home: Home) -> tuple[ListFile, ListFile]:
    signers, time_stampers = home.lists()
    return signers, time_stampers


@pytest.fixture(scope="module")
def contents(home: Home, signed: Path, lists: tuple[ListFile, ListFile]) -> BundleContents:
    """The evidence of the signed picture, taken out of it with another CBOR reader than ours."""
    with signed.open("rb") as stream, Sdk() as sdk:
        reading = sdk.read(Media.of(stream, signed.name, 1 << 30))
    assert reading.credentials is Credentials.PRESENT
    active = jumbf.parse(reading.store)[-1]
    protected, unprotected, _, signature = cbor2.loads(active.signature).value
    header = cbor2.loads(protected)
    claim = SignedClaim(
        active.claim,
        cbor2.dumps(["Signature1", protected, b"", active.claim]),
        signature,
        header[1],
    )
    (stamp,) = unprotected["sigTst2"]["tstTokens"]
    message = cbor2.dumps(["CounterSignature", protected, b"", cbor2.dumps(signature)])
    return BundleContents(
        json.dumps({"headline": "INTACT_SIGNER_RECOGNISED"}).encode(),
        signed.name,
        hashlib.sha256(signed.read_bytes()).hexdigest(),
        NOW,
        reading.store,
        tuple(header[33]),
        claim,
        lists[0].name,
        NOW,
        (Token("signature", stamp["val"], message, lists[1].name, NOW),),
        Receipt.parse(signed.with_name(f"{signed.name}.receipt").read_text()),
        home.log,
        lists,
    )


@pytest.fixture(scope="module")
def seal(home: Home, lists: tuple[ListFile, ListFile]) -> Iterator[Seal]:
    with home.ledger_to_read() as ledger:
        yield Seal.of(home.device(SERVICE), home.authority(now, ledger), *lists)


@pytest.fixture(scope="module")
def sealed(contents: BundleContents, seal: Seal) -> bytes:
    return bundle(contents, seal)


@pytest.fixture
def unpacked(sealed: bytes, signed: Path, tmp_path: Path) -> Unpacked:
    return unpack(sealed, tmp_path / "bundle", signed)


EXPECTED = [
    "HOWTO-VERIFY.md",
    "SHA256SUMS",
    "SHA256SUMS.sig",
    "SHA256SUMS.tst",
    "chain.pem",
    "claim/claim.cbor",
    "claim/signature.bin",
    "claim/signed.bin",
    "ledger/check.py",
    "ledger/log.vkey",
    "ledger/proof.txt",
    "ledger/receipt.txt",
    "lists.json",
    "lists/signers.pem",
    "lists/time-stampers.pem",
    "manifest.c2pa",
    "report.json",
    "signer.pem",
    "tokens/signature.data",
    "tokens/signature.tst",
]
# What speaks up when the member is changed, by itself, without the digests.
WATCHED_BY = {
    "SHA256SUMS": ["-signature SHA256SUMS.sig", "-data SHA256SUMS"],
    "SHA256SUMS.sig": ["-signature SHA256SUMS.sig"],
    "SHA256SUMS.tst": ["-in SHA256SUMS.tst -data"],
    "chain.pem": ["-untrusted chain.pem"],
    "claim/claim.cbor": ["cmp - claim/claim.cbor"],
    "claim/signature.bin": ["-signature claim/signature.bin", "asn1parse"],
    "claim/signed.bin": ["-signature claim/signature.bin"],
    "ledger/log.vkey": ["ledger/check.py"],
    "ledger/receipt.txt": ["ledger/check.py"],
    "lists/signers.pem": ["-untrusted chain.pem"],
    "lists/time-stampers.pem": ["-in tokens/signature.tst -data"],
    "signer.pem": ["-untrusted signer.pem"],
    "tokens/signature.data": ["-in tokens/signature.tst -data"],
    "tokens/signature.tst": ["-in tokens/signature.tst -data"],
}


# --- What a stranger does


@pytest.mark.needs("openssl")
def test_every_command_of_the_instructions_holds(unpacked: Unpacked) -> None:
    assert len(unpacked.commands) >= 20
    assert unpacked.failing() == []


@pytest.mark.needs("openssl")
def test_what_the_command_bundles_holds_for_a_stranger(
    lightseal: Callable[..., "subprocess.CompletedProcess[str]"], home: Home, signed: Path, tmp_path: Path
) -> None:
    done = lightseal("verify", "--json", signed, "--bundle", tmp_path / "out.zip", home=home)
    assert done.returncode == 0, done.stderr
    found = unpack((tmp_path / "out.zip").read_bytes(), tmp_path / "bundle", signed)
    assert json.loads((found.folder / "report.json").read_text()) == json.loads(done.stdout)
    assert found.failing() == []
    for part in (
        "-untrusted chain.pem",
        "SHA256SUMS.tst -data",
        "asn1parse",
        "log.der",
        "grep '^",
        "claim-key.pem",
    ):
        assert [command for command in found.commands if part in command], part


@pytest.mark.needs("openssl")
def test_what_the_command_bundles_of_a_changed_file_blesses_nothing(
    lightseal: Callable[..., "subprocess.CompletedProcess[str]"], altered: Path, tmp_path: Path
) -> None:
    """Without a home, and so without lists: the commands hold, and lead to nobody."""
    done = lightseal("verify", altered, "--bundle", tmp_path / "out.zip")
    assert done.returncode == 12, done.stderr
    found = unpack((tmp_path / "out.zip").read_bytes(), tmp_path / "bundle", altered)
    assert found.failing() == []
    assert "CHANGED_AFTER_SIGNING" in (found.folder / "report.json").read_text()
    assert not [command for command in found.commands if "-CAfile" in command]
    assert "Nobody signed this bundle" in (found.folder / "HOWTO-VERIFY.md").read_text()


@pytest.mark.needs("openssl")
def test_a_token_over_another_signature_is_not_tied_to_this_one(unpacked: Unpacked) -> None:
    (command,) = [command for command in unpacked.commands if "asn1parse" in command]
    assert unpacked.run(command).returncode == 0
    data = (unpacked.folder / "tokens/signature.data").read_bytes()
    (unpacked.folder / "tokens/signature.data").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert unpacked.run(command).returncode != 0


def test_a_bundle_holds_what_it_says_and_nothing_else(sealed: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(sealed)) as archive:
        assert archive.namelist() == EXPECTED
        assert archive.testzip() is None


def test_the_digests_are_over_everything_but_the_seal(unpacked: Unpacked) -> None:
    lines = (unpacked.folder / "SHA256SUMS").read_text().splitlines()
    assert dict(reversed(line.split("  ", 1)) for line in lines) == {
        name: hashlib.sha256((unpacked.folder / name).read_bytes()).hexdigest()
        for name in EXPECTED
        if not name.startswith("SHA256SUMS")
    }


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("name", EXPECTED)
def test_one_changed_byte_is_noticed(name: str, unpacked: Unpacked) -> None:
    path = unpacked.folder / name
    content = bytearray(path.read_bytes())
    # A receipt's middle is its copy of the token, which stands in tokens/ too and is checked there.
    place = content.index(b'"salt": "') + 12 if name == "ledger/receipt.txt" else len(content) // 2
    content[place] ^= 1
    before = unpacked.commands
    path.write_bytes(content)
    failing = [command for command in before if unpacked.run(command).returncode != 0]
    if name not in ("SHA256SUMS.sig", "SHA256SUMS.tst"):
        assert "sha256sum --strict -c SHA256SUMS" in failing
    for watch in WATCHED_BY.get(name, []):
        assert [command for command in failing if watch in command], (watch, failing)


@pytest.mark.needs("openssl")
def test_another_file_is_not_the_one_the_bundle_is_about(unpacked: Unpacked, other_signed: Path) -> None:
    failing = replace(unpacked, media=other_signed).failing()
    assert [command for command in failing if command.startswith('sha256sum < "$MEDIA"')]


@pytest.mark.needs("openssl")
def test_a_bundle_put_together_by_somebody_else_is_told_by_its_seal(
    unpacked: Unpacked, contents: BundleContents, fresh_home: Home, tmp_path: Path
) -> None:
    """Whoever rewrites the report can seal it anew, but only under lists of his own."""
    with fresh_home.ledger_to_read() as ledger:
        unit = fresh_home.authority(now, ledger)
        forged = Seal.of(fresh_home.device(SERVICE), unit, *fresh_home.own_lists())
        data = bundle(replace(contents, report_json=b"{}"), forged)
    other = unpack(data, tmp_path / "other", unpacked.media)
    assert other.failing() == []
    assert json.loads((other.folder / "lists.json").read_text())[2]["file"] == "lists/signers-2.pem"
    (line,) = [command for command in other.commands if command.endswith("-untrusted signer.pem signer.pem")]
    assert other.run(line.replace("lists/signers-2.pem", "lists/signers.pem")).returncode != 0
    for name in ("SHA256SUMS", "report.json"):
        shutil.copy(other.folder / name, unpacked.folder / name)
    assert [command for command in unpacked.failing() if "-signature SHA256SUMS.sig" in command]


@pytest.mark.needs("openssl")
def test_a_bundle_without_a_home_says_that_nobody_signed_it(
    contents: BundleContents, signed: Path, tmp_path: Path
) -> None:
    data = bundle(contents, None)
    found = unpack(data, tmp_path / "bundle", signed)
    assert not [
        name for name in ("signer.pem", "SHA256SUMS.sig", "SHA256SUMS.tst") if (found.folder / name).exists()
    ]
    assert "Nobody signed this bundle" in (found.folder / "HOWTO-VERIFY.md").read_text()
    assert found.failing() == []


@pytest.mark.needs("openssl")
def test_where_there_is_no_evidence_no_command_pretends_there_is(signed: Path, tmp_path: Path) -> None:
    found = unpack(bundle(BundleContents(b"{}", "x.jpg", None, NOW), None), tmp_path / "bundle", signed)
    assert found.commands == ["sha256sum --strict -c SHA256SUMS", "python3 -m json.tool report.json"]
    assert found.failing() == []
    text = (found.folder / "HOWTO-VERIFY.md").read_text()
    for said in ("There is no signer", "nothing here proves a time", "no proof from a ledger"):
        assert said in text


@pytest.mark.needs("openssl")
def test_an_unknown_signer_and_an_unproven_time_get_no_command_that_would_bless_them(
    contents: BundleContents, seal: Seal, signed: Path, tmp_path: Path
) -> None:
    unknown = replace(
        contents, signer_list=None, tokens=(replace(contents.tokens[0], list_name=None, at=None),)
    )
    found = unpack(bundle(unknown, seal), tmp_path / "bundle", signed)
    assert found.failing() == []
    assert not [command for command in found.commands if "-untrusted chain.pem" in command]
    assert not [command for command in found.commands if "-data tokens/" in command]
    assert "No list in the bundle recognises this signer" in (found.folder / "HOWTO-VERIFY.md").read_text()


@pytest.mark.needs("openssl")
def test_an_entry_about_something_else_is_not_tied_to_the_file(
    contents: BundleContents, other_signed: Path, signed: Path, tmp_path: Path
) -> None:
    receipt = Receipt.parse(other_signed.with_name(f"{other_signed.name}.receipt").read_text())
    foreign = replace(contents, receipt=receipt, chain=contents.chain[1:], signer_list=None, claim=None)
    found = unpack(bundle(foreign, None), tmp_path / "bundle", signed)
    assert not [command for command in found.commands if command.startswith("grep")]
    assert "it is about something else" in (found.folder / "HOWTO-VERIFY.md").read_text()
    assert found.failing() == []


def test_the_ledger_s_script_refuses_a_proof_of_every_wrong_kind(unpacked: Unpacked) -> None:
    receipt = json.loads((unpacked.folder / "ledger/receipt.txt").read_text())
    header, index, *path = receipt["proof"].partition("\n\n")[0].split("\n")
    note = receipt["proof"].partition("\n\n")[2]

    def proof(*lines: str) -> str:
        return "\n".join(lines) + "\n\n" + note

    for wrong in (
        {"proof": proof(header, "index 0", *path)},
        {"proof": proof(header, "index 999999", *path)},
        {"proof": proof(header, index, *path[:-1])},
        {"proof": proof(header, index, *path, path[0])},
        {"proof": proof("c2sp.org/tlog-proof@v2", index, *path)},
        {"salt": "A" * 43 + "="},
        {"payload": {**receipt["payload"], "media": "0" * 64}},
        {"entry": {**receipt["entry"], "time": "2020-01-01T00:00:00Z"}},
    ):
        (unpacked.folder / "wrong.txt").write_text(json.dumps({**receipt, **wrong}))
        done = unpacked.run("python3 ledger/check.py wrong.txt ledger/log.vkey note.txt note.sig")
        assert (done.returncode, done.stdout) == (1, ""), wrong
        assert done.stderr.startswith("check.py: "), done.stderr


# --- What cannot be slipped in


def test_a_hostile_name_is_no_command(contents: BundleContents, signed: Path, tmp_path: Path) -> None:
    plain_text = unpack(bundle(contents, None), tmp_path / "plain", signed)
    found = unpack(bundle(replace(contents, media_name=HOSTILE), None), tmp_path / "bundle", signed)
    assert found.commands == plain_text.commands
    text = (found.folder / "HOWTO-VERIFY.md").read_text()
    assert "{{ 7*7 }}" in text
    assert "\u202e" not in text


def test_the_instructions_promise_no_more_than_they_show(unpacked: Unpacked) -> None:
    assert not FORBIDDEN.findall((unpacked.folder / "HOWTO-VERIFY.md").read_text())


@pytest.mark.parametrize("name", ["", "../up", "a/b", "-x", "a b", "A", "x" * 41, "a\n"])
def test_a_token_s_name_cannot_leave_the_folder(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name"):
        Token(name, b"", b"", None, None)


def test_list_names_name_no_files(contents: BundleContents) -> None:
    named = replace(
        contents, lists=(ListFile("../../x", b"# a\n", Purpose.SIGNING, Profile.POLICY), *contents.lists)
    )
    with zipfile.ZipFile(io.BytesIO(bundle(named, None))) as archive:
        assert not [name for name in archive.namelist() if ".." in name]
        assert "lists/signers-2.pem" in archive.namelist()


# --- Bytes


def test_the_same_contents_make_the_same_bytes(contents: BundleContents) -> None:
    assert bundle(contents, None) == bundle(contents, None)


@pytest.mark.parametrize("year", [1, 1970, 1980, 2026, 9999])
def test_any_clock_makes_a_bundle(contents: BundleContents, year: int) -> None:
    at = datetime(year, 6, 1, tzinfo=UTC)
    with zipfile.ZipFile(io.BytesIO(bundle(replace(contents, checked_at=at), None))) as archive:
        assert {member.date_time[0] for member in archive.infolist()} == {
            year if 1980 <= year <= 2107 else 1980
        }


@given(st.binary(min_size=64, max_size=64))
def test_ecdsa_signatures_are_rewritten_and_not_changed(raw: bytes) -> None:
    encoded = _as_openssl(raw, -7)
    assert (encoded[0], encoded[1]) == (0x30, len(encoded) - 2)
    size = encoded[3]
    r, s = encoded[4 : 4 + size], encoded[6 + size :]
    assert (int.from_bytes(r, "big"), int.from_bytes(s, "big")) == (
        int.from_bytes(raw[:32], "big"),
        int.from_bytes(raw[32:], "big"),
    )
    assert r[0] < 0x80 > s[0]


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("algorithm", [-35, -8])
def test_claims_signed_by_other_algorithms_have_a_command_that_holds(
    contents: BundleContents, signed: Path, tmp_path: Path, algorithm: int
) -> None:
    """The certificate here is self-signed by OpenSSL: only the command for the algorithm is looked at."""
    key = tmp_path / "key.pem"
    curve = (
        ["-algorithm", "ed25519"]
        if algorithm == -8
        else ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]
    )
    subprocess.run(["openssl", "genpkey", *curve, "-out", key], check=True, capture_output=True)
    certificate = subprocess.run(
        ["openssl", "req", "-x509", "-key", key, "-subj", "/CN=x", "-outform", "DER"],
        check=True,
        capture_output=True,
    ).stdout
    key.chmod(0o600)
    message = b"prefix" + b"claim"
    claim = SignedClaim(b"claim", message, open_key(f"file:{key}").sign(message), algorithm)
    made = replace(contents, chain=(certificate,), claim=claim, signer_list=None, receipt=None)
    found = unpack(bundle(made, None), tmp_path / "bundle", signed)
    assert found.failing() == []
    (found.folder / "claim/signed.bin").write_bytes(b"prefiy" + b"claim")
    assert found.failing()[-1] in found.commands
    assert [command for command in found.failing() if "claim-key.pem" in command]


# --- Writing


def test_an_earlier_bundle_is_replaced_and_nothing_else(
    contents: BundleContents, sealed: bytes, signed: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out.zip"
    path.write_bytes(sealed)
    write_bundle(path, contents, None)
    assert path.read_bytes() == bundle(contents, None)
    foreign = io.BytesIO()
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("HOWTO-VERIFY.md", "somebody else's")
    # What is ours only by its first name and its comment: another text in it, and a packed one.
    alike = []
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", packing) as archive:
            archive.comment = b"Lightseal evidence bundle/1"
            archive.writestr("HOWTO-VERIFY.md", "somebody else's")
        alike.append(made.getvalue())
    padded = sealed + b"Lightseal evidence bundle/1"
    for content in (
        b"",
        b"PK",
        signed.read_bytes(),
        foreign.getvalue(),
        sealed[:-1],
        sealed + b"x",
        padded,
        *alike,
    ):
        path.write_bytes(content)
        with pytest.raises(OutputExistsError):
            write_bundle(path, contents, None)
        assert path.read_bytes() == content
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out.zip"]


def test_a_folder_is_not_a_place_for_a_bundle(contents: BundleContents, tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError):
        write_bundle(tmp_path, contents, None)
    with pytest.raises(UnwritableError):
        write_bundle(tmp_path / "missing" / "out.zip", contents, None)


def test_a_place_is_refused_before_any_work_and_left_as_it_was(sealed: bytes, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("holiday")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "earlier.zip").write_bytes(sealed)
    before = sorted(tmp_path.iterdir())
    for name in (".", "mine.txt", "nowhere"):
        with pytest.raises(OutputExistsError):
            require_writable_bundle(tmp_path / name)
    for name in ("missing/out.zip", "mine.txt/out.zip", "x" * 256):
        with pytest.raises(UnwritableError):
            require_writable_bundle(tmp_path / name)
    for name in ("new.zip", "earlier.zip"):
        require_writable_bundle(tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("device", ["/dev/full", "/dev/zero", "/dev/null"])
def test_a_device_is_no_place_for_a_bundle(device: str) -> None:
    with pytest.raises(OutputExistsError, match="is no file"):
        require_writable_bundle(Path(device))


def test_a_pipe_and_a_socket_are_no_places_for_a_bundle(contents: BundleContents, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OutputExistsError, match="is no file"):
            write_bundle(tmp_path / name, contents, None)


def test_any_name_that_the_disk_takes_will_do_and_the_umask_holds(
    contents: BundleContents, tmp_path: Path
) -> None:
    path = tmp_path / ("x" * 251 + ".zip")
    before = os.umask(0o027)
    try:
        write_bundle(path, contents, None)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


class Dying(type(Path())):  # type: ignore[misc]
    """A path on a disk that fills up, and then refuses even to clean up."""

    def replace(self, target: object) -> Path:
        raise OSError(errno.ENOSPC, f"no room for {target}")

    def unlink(self, missing_ok: bool = False) -> None:  # noqa: FBT001, FBT002 (as in the class above)
        raise OSError(errno.EIO, f"input/output error, {missing_ok}")


def test_a_failure_to_clean_up_does_not_hide_what_went_wrong(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError):
        write_whole(Dying(tmp_path / "out"), b"whole", Form("x", re.compile(b""), re.compile(b"")))


def test_being_told_to_end_while_writing_leaves_what_was_there(tmp_path: Path) -> None:
    """The signal comes at the last moment: the bytes are on the disk, and not yet under their name."""
    program = """
import os, re, signal, sys
from pathlib import Path
from tools import output
def end(*_): sys.exit(143)
signal.signal(signal.SIGTERM, end)
class Slow(Path().__class__):
    def replace(self, target):
        print(*os.listdir(self.parent), flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        return super().replace(target)
output.write_whole(Slow(sys.argv[1]), b"whole", output.Form("x", re.compile(b"x"), re.compile(b"x")))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "out.zip"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 143, done.stderr
    assert re.fullmatch(r"\.lightseal-[0-9a-f]{16}\.partial\n", done.stdout)
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def small_disk() -> Iterator[None]:
    """No file may grow beyond a few kilobytes, as on a disk that is full; not for longer, for pytest writes too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_nothing_is_left_where_the_disk_is_full(contents: BundleContents, tmp_path: Path) -> None:
    with pytest.raises(DiskFullError), small_disk():
        write_bundle(tmp_path / "out.zip", contents, None)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_where_the_authority_refuses(
    contents: BundleContents, seal: Seal, tmp_path: Path
) -> None:
    def refuse(_: bytes) -> bytes:
        return _token(bytes.fromhex("30053003020102"))

    with pytest.raises(TimestampError):
        write_bundle(tmp_path / "out.zip", contents, replace(seal, stamp=refuse))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", [generate_p384(), generate_ed25519()], ids=["p384", "ed25519"])
def test_a_seal_s_command_fits_its_key(contents: BundleContents, seal: Seal, key: object) -> None:
    with zipfile.ZipFile(io.BytesIO(bundle(contents, replace(seal, key=key)))) as archive:
        text = archive.read("HOWTO-VERIFY.md").decode()
    assert ("-sha384 -verify bundle-key.pem" in text) is not ("-inkey bundle-key.pem -rawin" in text)
