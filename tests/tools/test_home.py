"""A home is whole or not there, logs before it issues, and keeps its keys to itself."""

import contextlib
import json
import os
import resource
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from authn.device import read_chain
from authn.errors import Error as AuthnError
from authn.errors import IssuanceError, KeyExposedError, KeyFileError
from authn.identity import plan_digest
from authn.trust import Purpose
from storage.errors import ClockError
from tools.errors import (
    CertificateOverError,
    ClockBehindError,
    DeviceExistsError,
    DeviceUnknownError,
    DiskFullError,
    HomeDamagedError,
    HomeMissingError,
    HomeUnreadableError,
    OutputExistsError,
    UsageError,
)
from tools.founding import create_home
from tools.home import Home, default_path, open_home, require_valid
from tools.issuance.own import enrol
from tools.trust import ListDamagedError

URL = "http://localhost:8461/ocsp/"


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Where permissions count: root is another user for a while, anybody else is himself."""
    if os.geteuid():
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def now() -> datetime:
    return datetime.now(UTC)


def test_every_key_is_for_its_owner_alone(fresh_home: Home) -> None:
    keys = [path for path in fresh_home.path.rglob("*.pem") if b"PRIVATE KEY" in path.read_bytes()]
    assert len(keys) == 9
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    assert stat.S_IMODE(fresh_home.path.stat().st_mode) == 0o700
    salts = list(fresh_home.path.rglob("device.json"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in salts} == {0o600}


def test_a_key_that_others_may_read_is_not_used(fresh_home: Home) -> None:
    (fresh_home.path / "devices" / "cam" / "key.pem").chmod(0o644)
    with pytest.raises(KeyExposedError):
        fresh_home.device("cam")


def test_every_certificate_was_planned_in_the_ledger(fresh_home: Home) -> None:
    with fresh_home.ledger_to_read() as ledger:
        payloads = [ledger.payload(index) for index in range(6)]
    logged = {json.loads(payload)["certificate_plan"] for payload in payloads if payload is not None}
    chains = [*fresh_home.path.rglob("chain.pem"), *(fresh_home.path / "certificates").iterdir()]
    issued = {
        plan_digest(certificate).hex() for path in chains for certificate in read_chain(path.read_bytes())
    }
    assert issued == logged
    assert len(issued) == 6


def test_the_ledger_is_sound_after_every_step(fresh_home: Home) -> None:
    assert fresh_home.audit().findings == ()
    enrol(fresh_home, "two", "Another Camera", now())
    audited = fresh_home.audit()
    assert (audited.size, audited.findings) == (7, ())


def test_an_anchor_for_signers_vouches_for_no_time(fresh_home: Home) -> None:
    signers, stampers = (file.parse() for file in fresh_home.lists())
    assert (signers.purpose, stampers.purpose) == (Purpose.SIGNING, Purpose.TIME_STAMPING)
    keys = [
        {anchor.public_key().public_numbers() for anchor in each.anchors}  # type: ignore[union-attr]
        for each in (signers, stampers)
    ]
    assert keys[0]
    assert keys[1]
    assert not keys[0] & keys[1]


def test_a_home_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(IssuanceError):
        create_home(tmp_path / "home", "Zeitung f\u00fcr alle", URL, now())
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_cannot_be_finished_leaves_no_folder(fresh_home: Home) -> None:
    with pytest.raises(AuthnError):
        enrol(fresh_home, "two", "Kamera \u00e4", now())
    with pytest.raises((ClockBehindError, ClockError)):
        enrol(fresh_home, "two", "Camera", now() - timedelta(days=2))
    assert [path.name for path in (fresh_home.path / "devices").iterdir()] == ["cam"]
    assert fresh_home.audit().findings == ()


def test_a_home_is_never_made_over_something_else(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mine").write_text("mine")
    with pytest.raises(OutputExistsError):
        create_home(tmp_path / "home", "Newsroom", URL, now())
    assert [path.name for path in tmp_path.rglob("*")] == ["home", "mine"]


def test_an_opened_home_is_the_one_that_was_made(fresh_home: Home) -> None:
    assert open_home(fresh_home.path) == fresh_home


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "7", '{"schema": "lightseal-home/9"}', "\udcff", "[" * 200_000, " " * (2 << 20)],
    ids=lambda text: ascii(text[:20]),
)
def test_a_damaged_home_says_so(fresh_home: Home, text: str) -> None:
    (fresh_home.path / "home.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(HomeDamagedError):
        open_home(fresh_home.path)


def test_a_missing_part_says_so(fresh_home: Home, tmp_path: Path) -> None:
    with pytest.raises(HomeMissingError):
        open_home(tmp_path / "gone")
    (fresh_home.path / "trust" / "signers.pem").write_bytes(b"garbage")
    with pytest.raises(ListDamagedError):
        fresh_home.lists()
    (fresh_home.path / "certificates" / "time-stamping.pem").unlink()
    with fresh_home.ledger_to_read() as ledger, pytest.raises(HomeDamagedError):
        fresh_home.authority(now, ledger)
    (fresh_home.path / "devices" / "cam" / "device.json").write_text("{}")
    with pytest.raises(HomeDamagedError):
        fresh_home.device("cam")


@pytest.mark.parametrize("name", ["", "..", "../keys", "A", "a/b", ".a", "a" * 65, "a\n", "caf\u00e9"])
def test_a_device_s_name_leads_nowhere_else(fresh_home: Home, name: str) -> None:
    with pytest.raises(UsageError):
        enrol(fresh_home, name, "Camera", now())
    with pytest.raises(DeviceUnknownError):
        fresh_home.device(name)
    with pytest.raises(UsageError):
        fresh_home.run_results(name)


def test_no_device_is_enrolled_over_another_or_over_the_service(fresh_home: Home) -> None:
    before = (fresh_home.path / "service" / "chain.pem").read_bytes()
    with pytest.raises(DeviceExistsError):
        enrol(fresh_home, "cam", "Camera", now())
    with pytest.raises(DeviceExistsError):
        enrol(fresh_home, "service", "Camera", now())
    assert (fresh_home.path / "service" / "chain.pem").read_bytes() == before


def test_a_certificate_signs_in_its_own_time_only(fresh_home: Home) -> None:
    chain = fresh_home.device("cam").chain
    require_valid(chain, now())
    with pytest.raises(ClockBehindError):
        require_valid(chain, now() - timedelta(days=1))
    with pytest.raises(CertificateOverError):
        require_valid(chain, now() + timedelta(days=367))


def test_the_place_of_a_home_comes_from_the_environment(tmp_path: Path) -> None:
    assert default_path({"LIGHTSEAL_HOME": str(tmp_path)}) == tmp_path
    assert default_path({}).name == "lightseal"


@pytest.mark.parametrize("name", ["q?1", "w#%2fx y", "a&b=c", "w\udcff"])
def test_a_home_stands_where_it_was_put_whatever_its_name(tmp_path: Path, name: str) -> None:
    """The flaw it would catch: a ? that ends the ledger's path, and a ledger outside its home."""
    home = create_home(tmp_path / name, "Newsroom", "http://localhost:8461/ocsp/", datetime.now(UTC))
    assert (home.path / "ledger.db").is_file()
    assert home.audit().findings == ()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_empty_home_variable_is_no_place_for_keys() -> None:
    """The flaw it would catch: keys written under the root folder."""
    with pytest.raises(UsageError, match="HOME is empty"):
        default_path({"HOME": ""})
    assert default_path({"HOME": "", "LIGHTSEAL_HOME": "x"}) == Path("x")


def test_without_any_home_folder_the_user_is_asked_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """HOME unset, and a user whom the system does not know."""
    if os.geteuid():
        pytest.skip("only root can become a user whom the system does not know")
    monkeypatch.delenv("HOME")
    os.setresuid(4_000_123, 4_000_123, 0)
    try:
        with pytest.raises(UsageError, match="--home"):
            default_path({})
    finally:
        os.setresuid(0, 0, 0)


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1/",
        "http://[::1]/ocsp/",
        "http://[2001:db8::1]:8461/",
        "http://[v1.a]/",
        "http://a_b/",
        "ftp://a/",
        "localhost",
        "",
    ],
)
def test_an_address_that_no_list_can_name_makes_no_home(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError):
        create_home(tmp_path / "new" / "home", "Newsroom", url, now())
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_called_full(tmp_path: Path) -> None:
    """The flaw it would catch: a key file that could not be written, called a key that cannot be used."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))
    try:
        with pytest.raises(DiskFullError):
            create_home(tmp_path / "home", "Newsroom", URL, now())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_or_a_folder_in_the_place_of_a_part_is_not_waited_for(fresh_home: Home) -> None:
    for make in (os.mkfifo, os.mkdir):
        for part, use in (
            ("home.json", lambda: open_home(fresh_home.path)),
            ("service/device.json", lambda: fresh_home.device("service")),
            ("certificates/root.pem", fresh_home.own_lists),
        ):
            place = fresh_home.path / part
            kept = place.rename(place.with_name("kept"))
            make(place)
            with pytest.raises(HomeDamagedError):
                use()
            place.rmdir() if place.is_dir() else place.unlink()
            kept.rename(place)
    assert open_home(fresh_home.path) == fresh_home


@pytest.mark.parametrize("junk", [b"[" * 200_000, b"", b"junk", b'{"salt": 7}', b"x" * (2 << 20)], ids=len)
def test_junk_in_the_place_of_a_part_is_damage_of_the_home(fresh_home: Home, junk: bytes) -> None:
    def authority() -> None:
        with fresh_home.ledger_to_read() as ledger:
            fresh_home.authority(now, ledger)

    uses: dict[str, Callable[[], object]] = {
        "service/device.json": lambda: fresh_home.device("service"),
        "service/chain.pem": lambda: fresh_home.device("service"),
        "certificates/root.pem": fresh_home.own_lists,
        "certificates/time-root.pem": fresh_home.own_lists,
        "certificates/time-stamping.pem": authority,
    }
    for part, use in uses.items():
        kept = (fresh_home.path / part).read_bytes()
        use()
        (fresh_home.path / part).write_bytes(junk)
        with pytest.raises(HomeDamagedError):
            use()
        (fresh_home.path / part).write_bytes(kept)


def test_the_home_of_another_user_is_not_called_damaged(
    fresh_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    place = fresh_home.path
    here = Home(Path("home"), fresh_home.log, fresh_home.organisation, fresh_home.ocsp_url)
    place.chmod(0o000)
    try:
        with nobody(), pytest.raises(HomeUnreadableError, match="Permission denied") as refused:
            open_home(Path("home"))
    finally:
        place.chmod(0o755)
    assert refused.value.code == "file-unreadable"
    assert "permissions" in refused.value.remedy
    (place / "ledger.db").chmod(0o000)
    (place / "service").chmod(0o000)
    uses: tuple[Callable[[], object], ...] = (
        here.ledger,
        here.ledger_to_read,
        here.audit,
        lambda: here.device("service"),
    )
    for use in uses:
        with nobody(), pytest.raises(HomeUnreadableError, match="Permission denied"):
            use()


def test_a_device_is_known_without_its_key_which_may_be_in_a_token_that_is_not_there(
    fresh_home: Home,
) -> None:
    described = fresh_home.enrolled("cam")
    assert described.pseudonym == fresh_home.device("cam").pseudonym
    (fresh_home.path / "devices" / "cam" / "key.pem").unlink()
    assert fresh_home.enrolled("cam") == described
    with pytest.raises(KeyFileError):
        fresh_home.device("cam")
