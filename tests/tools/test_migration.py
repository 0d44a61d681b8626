"""A home as the first release left it; `vectors/README.md` says how it was made."""

import json
import re
import shutil
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

import storage.errors
from authn.device import encoded, issuer_key_id
from authn.errors import KeyFileError
from authn.identity import plan_digest
from authn.keys import verify_note
from storage.entry import Kind
from storage.guard import Guard
from storage.keyring import Keyring
from storage.migrations import migrate
from storage.note import VerifierKey
from tools.check import Chosen, beliefs, check_files, read_receipt
from tools.errors import HomeDamagedError, HomeMissingError, HomeOutdatedError
from tools.founding import complete_home
from tools.home import SERVICE, open_home
from tools.migration import migrate_home
from tools.own_log import OwnLog
from tools.verdict import Headline, Ledger

VECTOR = Path(__file__).with_name("vectors") / "home-0001.tar.gz"
# The day after it was made; its certificates end in 2027.
AT = datetime(2026, 11, 26, tzinfo=UTC)
PICTURES = {"first.png": 6, "second.png": 8}


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The folder of the old home; `signed` lies beside it."""
    with tarfile.open(VECTOR) as archive:
        archive.extractall(tmp_path, filter="tar")
    return tmp_path / "home"


def require_migrated(path: Path) -> None:
    """The same files verify under the same entries, everything is derived again, and receipts hold."""
    home = open_home(path)
    report = home.audit()
    assert not report.findings, report.findings
    assert not (path / "keys" / "log.pem").exists()
    pictures = {str(path.parent / "signed" / name): index for name, index in PICTURES.items()}
    with beliefs(home, Chosen(at=AT), now()) as held:
        for file, _ in check_files(list(pictures), held, None):
            assert file.verdict.headline is Headline.INTACT_SIGNER_RECOGNISED
            assert file.verdict.recorded.state is Ledger.INCLUDED
            assert file.verdict.recorded.index == pictures[file.file]
    for picture in pictures:
        receipt = read_receipt(Path(f"{picture}.receipt"))
        assert receipt.check(home.own.keys, verify_note)
        with home.ledger_to_read() as ledger:
            assert ledger.prove(receipt.proof.index).payload == receipt.payload


def entries(path: Path) -> list[bytes]:
    with open_home(path).ledger_to_read() as ledger:
        return [entry.body for entry in ledger.entries(0, ledger.size)]


def test_the_vector_is_what_its_release_made(old: Path) -> None:
    assert VECTOR.stat().st_size < 60_000
    assert not (old / "ledger.json").exists()
    modes = {path.name: path.stat().st_mode & 0o777 for path in old.rglob("*") if path.suffix == ".pem"}
    assert {modes[name] for name in ("log.pem", "issuing.pem", "key.pem")} == {0o600}
    assert (old / "ledger.db").stat().st_mode & 0o777 == 0o600
    assert old.stat().st_mode & 0o777 == 0o700


def test_every_command_says_that_it_is_outdated_until_it_was_migrated(old: Path) -> None:
    with pytest.raises(HomeOutdatedError) as caught:
        open_home(old)
    assert "ledger migrate" in caught.value.remedy


def test_afterwards_everything_is_as_it_was(old: Path) -> None:
    bodies = re.findall(rb'\{"commit":"[^}]+"v":1\}', (old / "ledger.db").read_bytes())
    done = migrate_home(old)
    assert (done.before, done.size) == ("0001", 9)
    require_migrated(old)
    assert set(bodies) == set(entries(old))
    assert migrate_home(old).before == done.after


def test_afterwards_it_goes_on(old: Path) -> None:
    migrate_home(old)
    home = open_home(old)
    home.own.record(Kind.POLICY, {"change": "after"}, max(now(), AT))
    home.own.begin_rotation(max(now(), AT)).end_rotation(max(now(), AT))
    home = open_home(old)
    assert home.own.erase(PICTURES["first.png"], max(now(), AT)) is not None
    assert not home.audit().findings
    with home.ledger_to_read() as ledger:
        assert ledger.payload(PICTURES["first.png"]) is None


def test_the_registry_that_it_lacked_knows_the_devices_it_enrolled(old: Path) -> None:
    migrate_home(old)
    home = open_home(old)
    with pytest.raises(HomeOutdatedError):
        home.registry()
    assert complete_home(home, now())
    assert not complete_home(home, now())
    with home.registry() as registry:
        assert {each.name for each in registry.devices()} == {SERVICE, *home.devices()}
        for name in (SERVICE, *home.devices()):
            leaf = home.device(name).chain[0]
            row = registry.certificate(issuer_key_id(leaf), f"{leaf.serial_number:x}")
            assert row is not None
            assert (row.device, row.der) == (name, encoded(leaf))
            with home.ledger_to_read() as ledger:
                payload = json.loads(ledger.payload(row.entry) or b"")
            assert payload["certificate_plan"] == plan_digest(leaf).hex()


def test_no_payload_stays_in_clear(old: Path) -> None:
    payloads = re.findall(rb'\{"binding":"[^}]+\}', (old / "ledger.db").read_bytes())
    assert len(payloads) == 2
    migrate_home(old)
    content = b"".join(path.read_bytes() for path in old.glob("ledger.db*"))
    assert not [payload for payload in payloads if payload in content]


def test_the_files_it_makes_are_for_their_owner_alone(old: Path) -> None:
    migrate_home(old)
    own = open_home(old).own
    keys = [path for path in (old / "keys").iterdir() if path.name.startswith("log-")]
    assert len(keys) == 1
    for path in (*keys, own.keyring_path, own.guard_path, old / "ledger.db"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert (old / "log.vkey").read_text() == f"{own.newest}\n"


def _linked(path: Path, own: OwnLog) -> None:
    (path / "keys" / f"log-{own.newest.key_id.hex()}.pem").hardlink_to(path / "keys" / "log.pem")


def _keyring(path: Path, own: OwnLog) -> None:
    _linked(path, own)
    Keyring.create(own.keyring_path, bytes(32))


def _migrated(path: Path, own: OwnLog) -> None:
    _keyring(path, own)
    migrate(own.url, own.sealer())


def _empty_guard(path: Path, own: OwnLog) -> None:
    _migrated(path, own)
    Guard.create(own.guard_path, own.origin, own.open_note)


def _guarded(path: Path, own: OwnLog) -> None:
    _empty_guard(path, own)
    with own.reader() as ledger:
        own.guard().remember(ledger.checkpoint().encode())


def _named(path: Path, own: OwnLog) -> None:
    _guarded(path, own)
    own.save()


@pytest.mark.parametrize(
    "step", [_linked, _keyring, _migrated, _empty_guard, _guarded, _named], ids=lambda step: step.__name__
)
def test_after_a_crash_at_any_step_it_is_finished_by_running_again(
    old: Path, step: Callable[[Path, OwnLog], None]
) -> None:
    key = VerifierKey.parse_log((old / "log.vkey").read_text().strip())
    step(old, OwnLog(old, (key,), (key,)))
    done = migrate_home(old)
    assert done.size == 9
    require_migrated(old)


def test_a_home_whose_files_came_by_a_copy_is_migrated_too(old: Path) -> None:
    copied = Path(shutil.copytree(old, old.with_name("copied")))
    migrate_home(copied)
    shutil.rmtree(old)
    copied.rename(old)
    require_migrated(old)


def test_a_changed_entry_stops_it_and_nothing_is_changed(old: Path) -> None:
    content = (old / "ledger.db").read_bytes()
    assert b'"kind":"sign"' in content
    (old / "ledger.db").write_bytes(content.replace(b'"kind":"sign"', b'"kind":"sigm"', 1))
    changed = (old / "ledger.db").read_bytes()
    with pytest.raises(storage.errors.LedgerDamagedError):
        migrate_home(old)
    assert (old / "ledger.db").read_bytes() == changed
    assert (old / "keys" / "log.pem").exists()
    with pytest.raises(HomeOutdatedError):
        open_home(old)


def test_without_its_key_or_its_description_it_is_damaged(old: Path, tmp_path: Path) -> None:
    with pytest.raises(HomeMissingError):
        migrate_home(tmp_path / "nothing")
    key = (old / "keys" / "log.pem").rename(tmp_path / "log.pem")
    with pytest.raises(KeyFileError):
        migrate_home(old)
    key.rename(old / "keys" / "log.pem")
    about = (old / "home.json").read_bytes()
    for content in (b"", b"[]", b"{}", b'{"log": 7}', b'{"log": "nonsense"}', b"\xff", b"[" * 100_000):
        (old / "home.json").write_bytes(content)
        with pytest.raises(HomeDamagedError):
            migrate_home(old)
    (old / "home.json").write_bytes(about)
    migrate_home(old)
    require_migrated(old)
