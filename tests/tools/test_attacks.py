"""The 38 attacks that a serious verifier must be tested with, and the right answer to each.

The files are made by `tests/authn/vectors/attacks.py`, with keys that live as long as this
process. What is right is written there beside each file; that no answer is kinder than the
table allows is checked here.
"""

import dataclasses
import hashlib
import importlib.util
import io
import json
import random
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import authn.errors
from authn import cose, jumbf
from authn.evidence import Code, Content, Credentials, History, Provenance, Signature
from authn.manifest import Sdk
from authn.media import Media
from authn.profile import Profile
from authn.verify import verify_media
from tools.check import Beliefs, Chosen, Entry, beliefs, check_files
from tools.contradictions import contradictions
from tools.home import Home
from tools.report import as_json
from tools.report_page import as_html
from tools.report_text import as_text
from tools.signing import sign_files
from tools.verdict import Headline, Ledger, headline

VECTORS = Path(__file__).parents[1] / "authn" / "vectors"


def _loaded(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, VECTORS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(name, importlib.util.module_from_spec(spec))
    if not hasattr(module, "datetime"):
        spec.loader.exec_module(module)
    return module


forge = _loaded("forge")
attacks = _loaded("attacks")

INTACT = Headline.INTACT_SIGNER_RECOGNISED
NOW = datetime.now(UTC).replace(microsecond=0)
NOT_AN_ATTACK = {(18, "control"), (19, "good")}
MOST_SECONDS = 20.0


@pytest.fixture(scope="module")
def listeners() -> Iterator[list[socket.socket]]:
    """Ports that answer, one for each of the labs below. A connection waits here to be counted."""
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64)) for _ in range(2)]


@pytest.fixture(scope="module")
def lab(listeners: list[socket.socket]) -> Any:
    return attacks.Lab.opened(NOW, f"http://127.0.0.1:{listeners[0].getsockname()[1]}/")


@pytest.fixture(scope="module")
def made(lab: Any) -> list[Any]:
    return list(attacks.attacks(lab))


@pytest.fixture(scope="module")
def sdk() -> Iterator[Sdk]:
    with Sdk() as opened:
        yield opened


@pytest.fixture(scope="module")
def held(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beliefs]:
    with beliefs(None, chosen(lab, tmp_path_factory.mktemp("lists")), NOW) as opened:
        yield opened


def chosen(lab: Any, folder: Path) -> Chosen:
    """The lab's lists, as somebody names them on a command line."""
    files = {}
    for name, anchor in (
        ("signers", lab.house.root),
        ("time_stampers", lab.dial.root),
        ("identities", lab.mail.root),
    ):
        files[name] = folder / f"{name}.pem"
        files[name].write_bytes(attacks.identity.pem_chain(anchor))
    return Chosen(**files, profile=Profile.POLICY, at=NOW)


def judged(attack: Any, lab: Any, sdk: Sdk) -> Provenance:
    media = Media.of(io.BytesIO(attack.file), attack.filename, 1 << 30)
    media = dataclasses.replace(media, sidecar=attack.sidecar)
    # The builder of OCSP answers reads the clock, which must not be ahead of the moment of judgment.
    return verify_media(media, sdk, attack.lists or lab.lists, lab.at + timedelta(hours=1))


def failed(found: Provenance) -> set[Code]:
    return {finding.code for finding in found.findings if not finding.passed}


def state(found: Provenance, name: str) -> Any:
    for part in name.split("."):
        found = getattr(found, part)
    return found


def words(found: Provenance) -> str:
    """Explanations, problems of the history, and redactions."""

    def steps(held: tuple[Any, ...]) -> Iterator[str]:
        for step in held:
            yield from step.problems
            yield from (f"redacted: {label}" for label in step.redacted)
            yield from steps(step.steps)

    said = [finding.explanation for finding in found.findings]
    return "\n".join([*said, *steps(found.steps), found.revocation.explanation])


def expected(attack: Any, found: Provenance) -> None:
    name = f"{attack.row} {attack.name}: {attack.made}"
    assert headline(found, Ledger.NOT_CHECKED) in attack.headlines, name
    assert set(attack.fails) <= failed(found), name
    for field, right in attack.states.items():
        assert state(found, field) == right, f"{name}; {field}"
    for text in attack.says:
        assert text in words(found), name


# --- The table


def test_all_38_rows_have_a_file_and_an_answer(made: list[Any]) -> None:
    assert {attack.row for attack in made} == set(attacks.TABLE) == set(range(1, 39))
    assert all(name and answer for name, answer in attacks.TABLE.values())
    names = [(attack.row, attack.name) for attack in made]
    assert len(names) == len(set(names))
    for attack in made:
        assert attack.headlines, attack.name
        says_why = attack.fails or attack.states or attack.says
        assert says_why or attack.row in (2, 5, 20, 26, 33, 36), (attack.row, attack.name)


def test_only_rows_whose_answer_says_so_may_be_intact_by_a_recognised_signer(made: list[Any]) -> None:
    kind = {attack.row for attack in made if INTACT in attack.headlines}
    assert kind == set(attacks.SOUND_AND_SAID_SO)
    for attack in made:
        if INTACT in attack.headlines and (attack.row, attack.name) not in NOT_AN_ATTACK:
            match attack.row:
                case 15 | 18:
                    assert Code.TIME_PROVEN in attack.fails
                case 19:
                    assert Code.REVOCATION_CHECKED in attack.fails
                case 20 | 38:
                    assert Code.IDENTITY_RECOGNISED in attack.fails


@pytest.mark.parametrize("row", range(1, 39))
def test_every_file_of_a_row_gets_its_right_answer(row: int, lab: Any, made: list[Any], sdk: Sdk) -> None:
    files = [attack for attack in made if attack.row == row and not attack.costly]
    assert files or row == 36
    for attack in files:
        expected(attack, judged(attack, lab, sdk))


def test_what_the_reader_of_the_sdk_trusts_in_vain_is_really_trusted_by_it(lab: Any, made: list[Any]) -> None:
    """The table is about a reader that is fooled; files that fool nobody would prove nothing."""
    c2pa = attacks.c2pa
    anchors = b"".join(attacks.identity.pem_chain(root) for root in (lab.house.root, lab.dial.root))
    trust = {"trust_config": forge._WRITING["trust"]["trust_config"]}
    trust["anchors"] = [{"trust_anchors": anchors.decode(), "trust_kind": "manifest", "trust_uri": "urn:lab"}]
    quiet = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
    fooled = set()
    for attack in made:
        if attack.row in (12, 15, 19, 21, 27, 28, 29):
            with (
                c2pa.Context.from_dict({"trust": trust, **quiet}) as context,
                c2pa.Reader(forge.JPEG, io.BytesIO(attack.file), context=context) as reader,
            ):
                if reader.get_validation_state() == "Trusted":
                    fooled.add(attack.row)
    assert fooled == {12, 15, 19, 21, 27, 28, 29}


# --- Rows that are about more than a headline


def test_row_7_no_flip_of_the_padding_makes_another_asset(lab: Any, sdk: Sdk) -> None:
    """300 of the bits that nothing protects: 300 files, one asset, and each time it is told."""
    good = lab.draft.write()
    place = attacks.padding(good)
    assert len(place) > 3000
    assert not any(good[place.start : place.stop])

    def examined(data: bytes) -> Provenance:
        return verify_media(Media.of(io.BytesIO(data), "f", 1 << 20), sdk, lab.lists, NOW)

    before, digests = examined(good), set()
    chosen_ = random.Random(7)  # noqa: S311 -- the same sample every time
    for position in chosen_.sample(place, 300):
        data = forge.flipped(good, position, 1 << chosen_.randrange(8))
        digests.add(hashlib.sha256(data).digest())
        found = examined(data)
        assert headline(found, Ledger.NOT_CHECKED) is INTACT
        assert found.identity == before.identity
        assert failed(found) - failed(before) == {Code.SIGNATURE_PADDING_EMPTY}
    assert len(digests) == 300


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("when", "the signer's key was certified only from"),
        ("metadata", "the signer's key was certified only from"),
        ("ahead", "it is proven that the signature is no later than"),
    ],
)
def test_row_24_names_the_contradiction(name: str, other: str, lab: Any, made: list[Any], sdk: Sdk) -> None:
    (attack,) = [attack for attack in made if (attack.row, attack.name) == (24, name)]
    found = judged(attack, lab, sdk)
    said = contradictions(found.claims, None, found.time, found.certificate)
    assert any(other in each.other and ("1999" in each.one or "2999" in each.one) for each in said)


def test_row_24_contradicts_nothing_where_the_signer_says_nothing_odd(lab: Any, sdk: Sdk) -> None:
    found = verify_media(Media.of(io.BytesIO(lab.draft.write()), "f", 1 << 20), sdk, lab.lists, NOW)
    assert contradictions(found.claims, None, found.time, found.certificate) == ()


def test_row_25_shows_what_the_file_looks_like_and_not_what_its_record_carries(
    made: list[Any], held: Beliefs, tmp_path: Path
) -> None:
    (path,) = written(made, tmp_path, 25)
    ((_, found),) = check_files([path], held, None, Entry.ILLUSTRATED)
    assert found.thumbnail is not None
    with Image.open(io.BytesIO(found.thumbnail)) as shown:
        red, _, blue = shown.convert("RGB").resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
    assert (red > 200, blue < 60) == (True, True)
    assert attacks.plain_colour("blue") not in found.thumbnail


def test_row_26_is_bounded_and_escaped_in_every_output(
    made: list[Any], held: Beliefs, tmp_path: Path
) -> None:
    for report, _ in check_files(written(made, tmp_path, 26), held, None):
        for text in (as_text(report), as_json(report), as_html([(report, None)])):
            assert not {"\u202e", "\u2066\n", "\x1b", "\x00"} & set(text)
            assert "A" * 1000 not in text
        assert "<script>alert(1)" not in as_html([(report, None)])


def test_row_31_is_an_advice_that_nobody_gives_yet(lab: Any, made: list[Any], sdk: Sdk) -> None:
    """The editor's word for the parent is all there is, and it is told as such."""
    (attack,) = [attack for attack in made if attack.row == 31]
    found = judged(attack, lab, sdk)
    (step,) = found.steps
    assert (step.relationship, step.recognised, step.problems) == ("parentOf", True, ())
    assert Code.CONTENT_MATCHES not in failed(found)


def test_row_33_lists_what_was_taken_out(lab: Any, made: list[Any], sdk: Sdk) -> None:
    (attack,) = [attack for attack in made if (attack.row, attack.name) == (33, "legal")]
    (step,) = judged(attack, lab, sdk).steps
    assert step.redacted == ("c2pa.metadata",)


def written(made: list[Any], folder: Path, *rows: int) -> list[str]:
    paths = []
    for attack in made:
        if attack.row in rows:
            path = folder / attack.filename
            path.write_bytes(attack.file)
            paths.append(str(path))
    return paths


# --- 30 and 37: with a ledger


def test_row_30_the_ledger_knows_the_laundered_media(
    fresh_home: Home, own_samples: Path, tmp_path: Path
) -> None:
    """The same bytes under another signer's record point to the entry of the first.

    A changed picture is known to no entry: media are compared by their bytes, not by their looks.
    """
    source = own_samples / "hills.jpg"
    (done,) = sign_files(fresh_home, [source], tmp_path, "cam", lambda: datetime.now(UTC), timed=True)
    assert isinstance(done, str), done
    thief = fresh_home.device("cam")
    who = forge.Who(thief.key, tuple(thief.chain))
    plain = source.read_bytes()
    edited = plain[:-2] + b"\xff\xfe\0\4xx\xff\xd9"
    files = {
        "same.jpg": forge.Draft(plain, who).write(),
        "edited.jpg": forge.Draft(edited, who).write(),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with beliefs(fresh_home, Chosen(), datetime.now(UTC)) as held:
        answers = check_files([str(tmp_path / name) for name in files], held, None)
        same, changed = (report.verdict for report, _ in answers)
    assert (same.headline, same.recorded.state) == (INTACT, Ledger.SIMILAR)
    assert same.recorded.index is not None
    assert (changed.headline, changed.recorded.state) == (INTACT, Ledger.UNKNOWN)


def test_row_37_the_ledger_lists_both(fresh_home: Home, own_samples: Path, tmp_path: Path) -> None:
    source, outs = own_samples / "hills.jpg", [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        (done,) = sign_files(fresh_home, [source], out, "cam", lambda: datetime.now(UTC), timed=True)
        assert isinstance(done, str), done
    with beliefs(fresh_home, Chosen(), datetime.now(UTC)) as held:
        answers = list(check_files([str(out / source.name) for out in outs], held, None))
        verdicts = [report.verdict for report, _ in answers]
        assert held.book is not None
        identities = [verdict.provenance.identity for verdict in verdicts if verdict.provenance]
        assert identities[0] is not None
        listed = held.book.ledger.find("binding", identities[0].binding)
    assert [(verdict.headline, verdict.recorded.state) for verdict in verdicts] == [
        (INTACT, Ledger.INCLUDED),
        (INTACT, Ledger.INCLUDED),
    ]
    indices = [verdict.recorded.index for verdict in verdicts]
    assert len(set(indices)) == 2
    assert set(indices) <= set(listed)


def test_row_37_a_recorded_claim_under_another_signature_is_a_conflict(
    fresh_home: Home, own_samples: Path, tmp_path: Path
) -> None:
    """The device's own key signs a recorded claim once more, behind the ledger's back."""
    source = own_samples / "hills.jpg"
    (done,) = sign_files(fresh_home, [source], tmp_path, "cam", lambda: datetime.now(UTC), timed=True)
    assert isinstance(done, str), done
    content = (tmp_path / source.name).read_bytes()
    manifest = jumbf.parse(forge.stored(content))[-1]
    first = cose.parse(manifest.signature, manifest.claim)
    message = forge.cbor2.dumps(["Signature1", first.protected, b"", manifest.claim])
    device = fresh_home.device("cam")
    second = forge.Who(device.key, tuple(device.chain)).sign(message)
    assert (len(second), content.count(first.signature)) == (len(first.signature), 1)
    path = tmp_path / "again.jpg"
    path.write_bytes(content.replace(first.signature, second))
    with beliefs(fresh_home, Chosen(), datetime.now(UTC)) as held:
        ((report, _),) = check_files([str(path)], held, None)
    recorded = report.verdict.recorded
    assert (report.verdict.headline, recorded.state) == (INTACT, Ledger.CONFLICTING)
    assert [finding.passed for finding in recorded.findings] == [False]
    assert "another signature" in recorded.findings[0].explanation


# --- 36: resources, in the worker that can be killed


def test_row_36_ends_in_time_and_the_next_file_is_answered(
    lab: Any, made: list[Any], held: Beliefs, tmp_path: Path
) -> None:
    sound = tmp_path / "sound.jpg"
    sound.write_bytes(lab.draft.write())
    costly = {attack.filename: attack for attack in made if attack.costly}
    assert {attack.name for attack in costly.values()} == {
        "flood",
        "deep_boxes",
        "deep_values",
        "bomb",
        "pixels",
    }
    paths = [path for bomb in written(made, tmp_path, 36) for path in (bomb, str(sound))]
    started = time.monotonic()
    for report, found in check_files(paths, held, None, Entry.ILLUSTRATED):
        spent, started = time.monotonic() - started, time.monotonic()
        assert spent < MOST_SECONDS, report.file
        if found.path == str(sound):
            assert report.verdict.headline is INTACT
        else:
            assert report.verdict.provenance is not None
            expected(costly[Path(found.path).name], report.verdict.provenance)
            assert found.thumbnail is None or costly[Path(found.path).name].name != "pixels"


# --- 20: nobody is called


def ports(data: bytes) -> set[int]:
    return {int(port) for port in re.findall(rb"(?:127\.0\.0\.1|localhost)(?::|%3[Aa])(\d{2,5})", data)}


def test_row_20_no_address_in_any_hostile_file_is_called(
    lab: Any, made: list[Any], listeners: list[socket.socket], lightseal: Any, tmp_path: Path
) -> None:
    """All files at once, offline and with --online, by lists that name no host to ask."""
    lists = chosen(lab, tmp_path)
    paths = written(made, tmp_path, *range(1, 36), 37, 38)
    named = set().union(*(ports(Path(path).read_bytes()) for path in paths))
    assert named == {listeners[0].getsockname()[1]}
    for word in (
        b"/manifest.c2pa",
        b"/ocsp/",
        b"/list.crl",
        b"/clock/",
        b"did:web:",
        b"/entity",
        b"/record.c2pa",
    ):
        assert any(word in Path(path).read_bytes() for path in paths), word
    common = ["--signers", lists.signers, "--time-stampers", lists.time_stampers]
    common += ["--identities", lists.identities, "--profile", "strict", "--json"]
    for more in ([], ["--online"]):
        asked = (
            paths if not more else [path for path in paths if Path(path).name[:2] in ("07", "19", "20", "38")]
        )
        done = lightseal("verify", *common, *more, *asked)
        assert len(done.stdout.splitlines()) == len(asked), done.stderr
        assert all(json.loads(line)["headline"] for line in done.stdout.splitlines())
    for listener in listeners:
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_row_20_a_call_would_have_been_counted(listeners: list[socket.socket]) -> None:
    """What the test above rests on: a connection waits to be accepted even after its maker is gone."""
    listener = listeners[1]
    socket.create_connection(listener.getsockname()).close()
    listener.settimeout(1)
    with listener.accept()[0]:
        pass


# --- Any bit of the media


@pytest.fixture(scope="module")
def whole(lab: Any) -> dict[str, tuple[bytes, range]]:
    """Signed files, and where their record stands."""
    who = lab.house.camera
    jpeg = lab.draft.write()
    png = forge.sdk_signed(forge.picture("PNG"), who, forge.PNG)
    wav = forge.sdk_signed(forge.sound(), who, forge.WAV)
    film = forge.sdk_signed(forge.film(), who, forge.MP4)
    in_png, in_wav, in_film = png.index(b"caBX") - 4, wav.index(b"C2PA"), film.index(b"uuid") - 4
    return {
        "jpeg": (jpeg, range(*forge.record_range(jpeg))),
        "png": (png, range(in_png, in_png + 12 + int.from_bytes(png[in_png : in_png + 4], "big"))),
        "wav": (wav, range(in_wav, in_wav + 8 + int.from_bytes(wav[in_wav + 4 : in_wav + 8], "little"))),
        # The file type box comes first here, and no hash of a BMFF file covers it (C2PA 2.2, A.5.2).
        "mp4": (
            film,
            range(
                int.from_bytes(film[:4], "big"), in_film + int.from_bytes(film[in_film : in_film + 4], "big")
            ),
        ),
    }


@pytest.mark.parametrize("kind", ["jpeg", "png", "wav", "mp4"])
def test_no_bit_of_the_media_can_change_unseen(
    kind: str, whole: dict[str, tuple[bytes, range]], lab: Any, sdk: Sdk
) -> None:
    data, record = whole[kind]
    first = int.from_bytes(data[:4], "big") if kind == "mp4" else 0

    def changed(position: int, bit: int) -> Headline | None:
        file = forge.flipped(data, position, 1 << bit)
        try:
            media = Media.of(io.BytesIO(file), "f", 1 << 20)
        except authn.errors.MediaError:
            return None
        return headline(verify_media(media, sdk, lab.lists, NOW), Ledger.NOT_CHECKED)

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.integers(first, len(data) - 1 - len(record)), st.integers(0, 7))
    def never_intact(place: int, bit: int) -> None:
        position = place if place < record.start else place + len(record)
        assert changed(position, bit) in (
            None,
            Headline.CHANGED_AFTER_SIGNING,
            Headline.CREDENTIALS_UNREADABLE,
            Headline.NO_CREDENTIALS,
        )

    never_intact()


def test_no_bit_of_the_file_type_box_is_covered_and_none_of_it_is_media(
    whole: dict[str, tuple[bytes, range]], lab: Any, sdk: Sdk
) -> None:
    """The specification leaves the box out of every hash; its brands say who may play the file."""
    film, record = whole["mp4"]
    assert film[4:8] == b"ftyp"
    file = forge.flipped(film, record.start - 1)
    found = verify_media(Media.of(io.BytesIO(file), "f", 1 << 20), sdk, lab.lists, NOW)
    assert found.content is Content.INTACT


def test_states_and_headlines_are_not_the_same_for_all_rows(lab: Any, made: list[Any], sdk: Sdk) -> None:
    """A judge that answers everything alike would fail here, whatever the table says."""
    found = [judged(attack, lab, sdk) for attack in made if not attack.costly]
    assert {each.credentials for each in found} == set(Credentials)
    assert {each.signature for each in found} == {*Signature, None}
    assert {each.history for each in found} >= {History.NONE, History.COMPLETE, History.PROBLEM}
    assert len({headline(each, Ledger.NOT_CHECKED) for each in found}) >= 9
