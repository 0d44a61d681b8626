"""Keys in tokens and TPMs, from enrolment to the verdict, by the commands alone. Real SoftHSM2, real swtpm."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from authn.device import spki
from storage.payload import parse
from storage.registry.rows import Status
from tools.camera.hardware import counter_of
from tools.camera.home_device import camera_of
from tools.founding import create_home
from tools.home import Home
from tools.softhsm import SoftHsm
from tools.swtpm import Swtpm

ROOT = Path(__file__).parents[2]
PROGRAM = "from tools.cli import main; main()"
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    """A token of the module's own, made of software."""
    with SoftHsm(tmp_path_factory.mktemp("token")) as token:
        yield token


@pytest.fixture(scope="module")
def swtpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swtpm]:
    """A TPM of the module's own, made of software."""
    with Swtpm(tmp_path_factory.mktemp("tpm")) as tpm:
        yield tpm


@pytest.fixture(scope="module")
def newsroom(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home without devices; each test enrols its own."""
    return create_home(
        tmp_path_factory.mktemp("n") / "h", "Test Newsroom", "http://localhost:8461/ocsp/", now()
    )


@pytest.fixture
def command(lightseal: Command, environment: dict[str, str], newsroom: Home) -> Command:
    """The command with this home; it finds the token by the variable that SoftHSM2 reads."""

    def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
        done = lightseal(*arguments, home=newsroom, env=seeing_the_token(environment))
        assert "Traceback" not in done.stdout + done.stderr
        return done

    return run


def seeing_the_token(environment: dict[str, str]) -> dict[str, str]:
    return {**environment, **{name: os.environ[name] for name in ("SOFTHSM2_CONF",) if name in os.environ}}


def succeeded(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def pictures(own_samples: Path, tmp_path: Path) -> Callable[[int], list[Path]]:
    """So many pictures of which no two are the same: bytes of a comment segment differ."""

    def make(count: int) -> list[Path]:
        folder = tmp_path / "card"
        folder.mkdir(exist_ok=True)
        jpeg = (own_samples / "hills.jpg").read_bytes()
        made = []
        for number in range(count):
            comment = b"\xff\xfe\x00\x06%04d" % number
            made.append(folder / f"picture{number:02}.jpg")
            made[-1].write_bytes(jpeg[:2] + comment + jpeg[2:])
        return made

    return make


def verdict(command: Command, *files: Path) -> list[dict[str, Any]]:
    done = command("verify", "--json", *files)
    return [json.loads(line) for line in done.stdout.splitlines()]


def require_recognised(command: Command, files: list[Path], custody: str) -> None:
    """In JSON and in text: intact, by a signer of this home, whose key is kept as the label says."""
    said = verdict(command, *files)
    assert len(said) == len(files)
    for report in said:
        assert report["headline"] == "INTACT_SIGNER_RECOGNISED", report["findings"]
        assert report["proven"]["custody"] == custody
        assert report["proven"]["ledger"]["state"] == "included", report["proven"]["ledger"]
    text = succeeded(command("verify", files[0]))
    (line,) = [line for line in text.splitlines() if line.strip().startswith("custody")]
    sentence = {
        "E1": "E1: a key in hardware, by the operator's word alone",
        "E2": "E2: a key proven to be in hardware",
    }
    assert line.split("custody", 1)[1].strip() == sentence[custody]


def taken(home: Home, device: str) -> list[Path]:
    """The media that wait in a device's queue or were handed in, by number."""
    return sorted((home.path / "devices" / device / "queue").glob("*/*.jpg"))


def custody_in_the_ledger(home: Home, device: str) -> object:
    leaf = home.device(device).chain[0]
    with home.ledger_to_read() as ledger:
        (index,) = ledger.find("spki", hashlib.sha256(spki(leaf)).digest())
        return parse(ledger.payload(index) or b"")["custody"]


@contextlib.contextmanager
def pulled_out(softhsm: SoftHsm) -> Iterator[None]:
    """The token is not there as long as the block lasts."""
    elsewhere = softhsm.folder / "pulled-out"
    softhsm.tokens.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(softhsm.tokens)


@pytest.fixture
def token_product(command: Command, newsroom: Home) -> str:
    name = "Token Camera"
    with newsroom.registry() as registry:
        there = name in {each.name for each in registry.products()}
    if not there:
        succeeded(command("product", "add", name, "--minimum", "E1"))
    return name


@pytest.mark.needs("softhsm2")
def test_a_key_in_a_token_signs_and_captures_as_its_operator_claims_it(
    newsroom: Home,
    command: Command,
    softhsm: SoftHsm,
    token_product: str,
    pictures: Callable[[int], list[Path]],
    tmp_path: Path,
) -> None:
    address = softhsm.generate("token-cam-key")
    succeeded(command("device", "enrol", "token-cam", "--product", token_product, "--key", address))
    assert custody_in_the_ledger(newsroom, "token-cam") == "E1"
    assert not list((newsroom.path / "devices" / "token-cam").glob("key*")), "no key is in the folder"
    signed_here, *captured_here = pictures(3)
    succeeded(command("sign", signed_here, "--device", "token-cam", "--out", tmp_path / "out"))
    handed = succeeded(command("capture", *captured_here, "--device", "token-cam"))
    assert handed.count("received, entry") == 2
    files = [tmp_path / "out" / signed_here.name, *taken(newsroom, "token-cam")]
    require_recognised(command, files, "E1")
    assert succeeded(command("device", "judge")) == ""
    require_recognised(command, files, "E1")
    said = succeeded(command("device", "captures", "token-cam"))
    assert said.splitlines()[0] == "token-cam\tactive\t2 captures received, 0 missing, 0 forks"
    assert softhsm.pin_file.read_text().strip() not in handed + said


@pytest.mark.needs("softhsm2")
def test_a_key_file_is_refused_where_a_token_is_the_least(
    newsroom: Home, command: Command, token_product: str
) -> None:
    refused = command("device", "enrol", "file-cam", "--product", token_product)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error[custody-too-low]"), refused.stderr
    assert "file-cam" not in newsroom.devices()


@pytest.mark.needs("swtpm")
def test_a_tpm_proves_its_key_and_counts_its_captures(
    newsroom: Home,
    command: Command,
    swtpm: Swtpm,
    pictures: Callable[[int], list[Path]],
    tmp_path: Path,
) -> None:
    rules = tmp_path / "rules.json"
    rules.write_text(
        json.dumps(
            {"tpm": {"roots": [swtpm.roots.decode()], "intermediates": [swtpm.intermediates.decode()]}}
        )
    )
    succeeded(command("product", "add", "TPM Camera", "--minimum", "E2", "--rules", rules))
    address = f"tpm:{tmp_path / 'claim.tss'}?tcti={swtpm.tcti}"
    succeeded(command("device", "enrol", "tpm-cam", "--product", "TPM Camera", "--key", address))
    assert custody_in_the_ledger(newsroom, "tpm-cam") == "E2"
    signed_here, *captured_here, third, last = pictures(5)
    succeeded(command("sign", signed_here, "--device", "tpm-cam", "--out", tmp_path / "out"))
    assert succeeded(command("capture", *captured_here, "--device", "tpm-cam")).count("received, entry") == 2
    files = [tmp_path / "out" / signed_here.name, *taken(newsroom, "tpm-cam")]
    require_recognised(command, files, "E2")
    assert succeeded(command("device", "judge")) == "", "what is kept proves the same today"
    require_recognised(command, files, "E2")

    # A TPM begins a counter above every value that it ever showed, so the first number is its own choice.
    first, second = captured_numbers(newsroom)
    assert (second, counted(newsroom, swtpm)) == (first + 1, second)
    state = newsroom.path / "devices" / "tpm-cam" / "chain" / "state.json"
    remembered = state.read_bytes()
    succeeded(command("capture", third, "--device", "tpm-cam"))
    assert (captured_numbers(newsroom)[-1], counted(newsroom, swtpm)) == (first + 2, first + 2)
    assert succeeded(command("device", "captures", "tpm-cam")).splitlines()[0] == (
        "tpm-cam\tactive\t3 captures received, 0 missing, 0 forks"
    )
    state.write_bytes(remembered)  # as from a backup
    command("capture", last, "--device", "tpm-cam")
    assert counted(newsroom, swtpm) == first + 3, "who puts the folder back does not put the TPM back"
    with newsroom.registry() as registry:
        numbers = [each.counter for each in registry.captures("tpm-cam")]
    assert numbers == sorted(set(numbers)), "no number is given twice"


@pytest.mark.needs("swtpm")
def test_a_tpm_is_refused_where_its_maker_is_not_believed(
    newsroom: Home, command: Command, swtpm: Swtpm, tmp_path: Path
) -> None:
    succeeded(command("product", "add", "Strict Camera", "--minimum", "E2"))
    address = f"tpm:{tmp_path / 'claim.tss'}?tcti={swtpm.tcti}"
    refused = command("device", "enrol", "stranger", "--product", "Strict Camera", "--key", address)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error[custody-too-low]"), refused.stderr
    assert "stranger" not in newsroom.devices()


def captured_numbers(home: Home) -> list[int]:
    with home.registry() as registry:
        assert registry.device("tpm-cam").status is Status.ACTIVE
        return [each.counter for each in registry.captures("tpm-cam")]


def counted(home: Home, swtpm: Swtpm) -> int:
    """What the TPM's own counter of this device shows, read by another connection."""
    with counter_of(camera_of(home, "tpm-cam")) as counter:
        assert counter is not None
        assert swtpm.running
        return counter.read()


@contextlib.contextmanager
def pulled_out_of_a_run(
    home: Home,
    environment: dict[str, str],
    folder: Path,
    arguments: list[str],
    pulling: contextlib.AbstractContextManager[None],
) -> Iterator[list[str]]:
    """Run a command, pull the token out once it named a few files, and yield all that it printed."""
    with (
        (folder / "errors").open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-u", "-W", "error", "-c", PROGRAM, "--home", str(home.path), *arguments],
            env=seeing_the_token(environment),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
        ) as running,
        contextlib.ExitStack() as pulled,
    ):
        lines: list[str] = []
        for line in running.stdout or ():
            lines.append(line)
            if "->" in line and sum("->" in each for each in lines) == BEFORE:
                pulled.enter_context(pulling)
        assert running.wait(60) == 1
        yield lines


COUNT, BEFORE = 12, 3


@pytest.mark.needs("softhsm2")
@pytest.mark.parametrize("way", ["sign", "capture"])
def test_a_token_that_is_pulled_in_the_middle_of_a_run_leaves_only_whole_files(
    newsroom: Home,
    command: Command,
    environment: dict[str, str],
    softhsm: SoftHsm,
    token_product: str,
    pictures: Callable[[int], list[Path]],
    tmp_path: Path,
    way: str,
) -> None:
    device = f"pulled-{way}"
    address = softhsm.generate(f"{device}-key")
    succeeded(command("device", "enrol", device, "--product", token_product, "--key", address))
    sources, out = pictures(COUNT), tmp_path / "out"
    more = ["--out", str(out)] if way == "sign" else ["--offline"]

    def whole() -> list[Path]:
        return sorted(out.glob("*.jpg")) if way == "sign" else taken(newsroom, device)

    arguments = [way, *map(str, sources), "--device", device, *more]
    with pulled_out_of_a_run(newsroom, environment, tmp_path, arguments, pulled_out(softhsm)) as lines:
        said = (tmp_path / "errors").read_text()
        assert "Traceback" not in said
        done = whole()
        assert BEFORE <= len(done) < COUNT, "it was pulled in the middle of the run"
        assert sum("->" in line for line in lines) == len(done)
        require_no_rest(newsroom, out, device)
        verdicts = verdict(command, *done)
        assert {each["headline"] for each in verdicts} == {"INTACT_SIGNER_RECOGNISED"}
        assert {each["proven"]["custody"] for each in verdicts} == {"E1"}
        assert not newsroom.audit().findings
        assert said.count("error[key-gone]") == COUNT - len(done), said
    # The token is back: the rest goes on where it stopped, and no number of the chain is missing.
    rest = sources[len(done) :] if way == "sign" else sources
    succeeded(command(way, *rest, "--device", device, *more))
    assert len(whole()) == COUNT
    if way == "capture":
        succeeded(command("upload", "--device", device))
        said = succeeded(command("device", "captures", device))
        assert said.splitlines()[0] == f"{device}\tactive\t{COUNT} captures received, 0 missing, 0 forks"
    require_recognised(command, whole(), "E1")
    require_no_rest(newsroom, out, device)
    assert not newsroom.audit().findings


@contextlib.contextmanager
def without(swtpm: Swtpm) -> Iterator[None]:
    """The TPM is gone as long as the block lasts, without a farewell."""
    swtpm.kill()
    try:
        yield
    finally:
        swtpm.start()


@pytest.mark.needs("swtpm")
def test_a_tpm_that_is_gone_in_the_middle_of_a_run_leaves_a_chain_without_a_gap(
    newsroom: Home,
    command: Command,
    environment: dict[str, str],
    swtpm: Swtpm,
    pictures: Callable[[int], list[Path]],
    tmp_path: Path,
) -> None:
    succeeded(command("product", "add", "Loose Camera"))
    address = f"tpm:{tmp_path / 'claim.tss'}?tcti={swtpm.tcti}"
    succeeded(command("device", "enrol", "loose", "--product", "Loose Camera", "--key", address))
    sources = pictures(COUNT)
    arguments = ["capture", *map(str, sources), "--device", "loose", "--offline"]
    with pulled_out_of_a_run(newsroom, environment, tmp_path, arguments, without(swtpm)) as lines:
        said = (tmp_path / "errors").read_text()
        assert "Traceback" not in said
        done = taken(newsroom, "loose")
        assert BEFORE <= len(done) < COUNT, "it went in the middle of the run"
        assert sum("->" in line for line in lines) == len(done)
        require_no_rest(newsroom, tmp_path / "out", "loose")
        assert {each["headline"] for each in verdict(command, *done)} == {"INTACT_SIGNER_RECOGNISED"}
    succeeded(command("capture", *sources, "--device", "loose"))
    said = succeeded(command("device", "captures", "loose"))
    assert said.splitlines()[0] == f"loose\tactive\t{COUNT} captures received, 0 missing, 0 forks"
    require_no_rest(newsroom, tmp_path / "out", "loose")


def require_no_rest(home: Home, out: Path, device: str) -> None:
    """Neither half a file nor a folder in the making stands where results are looked for."""
    if out.exists():
        names = {path.name for path in out.iterdir()}
        pictures = {name for name in names if name.endswith(".jpg")}
        assert names == pictures | {f"{name}.receipt" for name in pictures}
    queue = home.path / "devices" / device / "queue"
    if queue.exists():
        for place in queue.iterdir():
            assert place.is_dir()
            assert place.name.isdigit(), place
            assert len(list(place.glob("*.jpg"))) == 1
    assert not list(home.path.glob("devices/*/.*.partial"))
