"""One verdict in three forms that say the same; the JSON is held to its schema."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn import manifest
from authn.evidence import (
    AssetId,
    CertificateFacts,
    Claims,
    Code,
    Content,
    Credentials,
    Custody,
    Finding,
    History,
    Identity,
    Panel,
    Provenance,
    Revocation,
    RevocationFacts,
    Signature,
    Signer,
    Step,
    Window,
)
from authn.media import Kind, Media
from authn.profile import Profile
from tools.check import Beliefs, Chosen, beliefs, check_files
from tools.contradictions import Contradiction
from tools.errors import OutputExistsError, UnwritableError
from tools.founding import create_home
from tools.home import Home
from tools.report import (
    NO_ESTIMATE,
    Acceptance,
    Engine,
    Estimate,
    Report,
    Signs,
    as_dict,
    as_json,
    iso_no_later,
    shown,
)
from tools.report_page import as_html, write_page
from tools.report_text import MAX_STEP_LINES, as_text
from tools.signing import sign_files
from tools.verdict import Headline, Ledger, Obstacle, Recorded, decide, exit_status
from tools.wording import (
    identity_line,
    in_words,
    proven_lines,
    revocation_line,
    step_lines,
    step_state,
)

NOW = datetime(2026, 11, 20, 8, 14, 9, tzinfo=UTC)
ENGINE = Engine("0.1.0", "0.38.1", (("signers", "signing", "0" * 64),), NOW, NOW)
BANNED = re.compile(r"\b(authentic|real|fake|verified|trusted)\b", re.IGNORECASE)
RTL = "\u202egpj.exe"

CERTIFICATE = CertificateFacts(
    "Northwind Camera M3", "Daily Example", "Issuer", "01", "a" * 64, "b" * 64, NOW, NOW + timedelta(days=90)
)
ASSET = AssetId(b"\1" * 32, b"\2" * 32, b"\3" * 32)


def facts(**changes: object) -> Provenance:
    whole = Provenance(
        Credentials.PRESENT,
        Content.INTACT,
        Signature.VALID,
        Signer.RECOGNISED,
        Window(None, NOW, "a time-stamp token"),
        RevocationFacts(),
        History.NONE,
        CERTIFICATE,
        "signers",
        ASSET,
        Claims("harbour.jpg", "Camera 1", ("c2pa.created",), ("digitalCapture",), None),
        (),
        tuple(Finding.holds(code, "it holds") for code in Code),
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


SILENT = {"content": None, "signature": None, "signer": None, "time": Window(), "certificate": None}
SILENT |= {"signer_list": None, "identity": None, "claims": Claims()}
STEP = Step(
    "part.jpg",
    "componentOf",
    Credentials.PRESENT,
    ("signature-broken",),
    ("signature-broken", "assertion.dataHash.mismatch"),
    CERTIFICATE,
    recognised=True,
    signer_list="signers",
    time=Window(None, NOW, "a time-stamp token"),
    redacted=("stds.exif",),
    thumbnail=b"a picture",
    steps=(Step("inner.jpg", "parentOf", Credentials.NONE),),
)
# One set of facts for every headline there is.
MADE = {
    Headline.INTACT_SIGNER_RECOGNISED: facts(),
    Headline.INTACT_SIGNER_UNKNOWN: facts(signer=Signer.NOT_RECOGNISED, signer_list=None),
    Headline.SIGNED_PARTLY_COVERED: facts(content=Content.PARTLY_COVERED),
    Headline.SIGNED_HISTORY_PROBLEM: facts(history=History.PROBLEM, steps=(STEP,)),
    Headline.SIGNER_EXPIRED_TIME_UNPROVEN: facts(signer=Signer.EXPIRED_TIME_UNPROVEN, time=Window()),
    Headline.SIGNER_REVOKED: facts(signer=Signer.REVOKED, revocation=RevocationFacts(Revocation.REVOKED)),
    Headline.SIGNER_REJECTED: facts(signer=Signer.WRONG_KIND),
    Headline.CHANGED_AFTER_SIGNING: facts(content=Content.CHANGED),
    Headline.MATCHES_RECORDED_CAPTURE: facts(credentials=Credentials.NONE, **SILENT),
    Headline.CREDENTIALS_ELSEWHERE: facts(credentials=Credentials.ELSEWHERE, **SILENT),
    Headline.CREDENTIALS_UNREADABLE: facts(credentials=Credentials.UNREADABLE, **SILENT),
    Headline.NO_CREDENTIALS: facts(credentials=Credentials.NONE, **SILENT),
    Headline.NOT_CHECKED: None,
}


def made_report(head: Headline, name: str = "harbour.jpg") -> Report:
    state = Ledger.SIMILAR if head is Headline.MATCHES_RECORDED_CAPTURE else Ledger.UNKNOWN
    recorded = Recorded(
        state, 3, NOW, "log.example", 1, Custody.E0, (Finding.fails(Code.LEDGER_INCLUDED, "no"),)
    )
    obstacle = None
    if head is Headline.NOT_CHECKED:
        recorded = Recorded(Ledger.NOT_CHECKED)
        obstacle = Obstacle("file-unreadable", "the file cannot be read", "Check the path.")
    verdict = decide(MADE[head], recorded, obstacle)
    assert verdict.headline is head
    return Report(name, "c" * 64, 10, "image/jpeg", verdict, ENGINE)


REVOKED = RevocationFacts(
    Revocation.REVOKED, "the issuer withdrew it", NOW, NOW, "keyCompromise", "http://localhost:8461/ocsp/"
)
NOT_MET = Acceptance(
    "evening desk",
    b"\4" * 32,
    (
        Finding.fails(Code.POLICY_MET, "the ledger is required"),
        Finding.holds(Code.POLICY_MET, "time is proven"),
    ),
)


def full_report() -> Report:
    """Every field of every kind is filled."""
    found = facts(
        claims=Claims(
            "harbour.jpg",
            "Camera 1",
            ("c2pa.created", "com.example.other"),
            ("digitalCapture",),
            "2026-11-20T09:14:09+01:00",
            "Northwind M3",
            "Rotterdam",
            "R. Example",
            ("generative training: not allowed",),
            ("stds.exif",),
            3,
            ("Northwind",),
            ("M3",),
            ("2026-11-20T09:14:09+01:00", "2019-01-01T00:00:00Z"),
            ((51.9, 4.5),),
        ),
        history=History.PROBLEM,
        steps=(STEP, replace(STEP, revocation=REVOKED)),
        signer=Signer.REVOKED,
        revocation=REVOKED,
        claim_time=Window(None, NOW, "an older token"),
        redacted=("c2pa.metadata",),
        identities=(
            Identity(
                "x509",
                "R. Example",
                "Daily Example",
                "Issuer",
                "identities",
                None,
                ("c2pa.hash.data", "stds.exif"),
            ),
            Identity("x509", "Somebody", "", "Issuer", None, "no list knows its issuer"),
        ),
    )
    return Report(
        "harbour.jpg",
        "c" * 64,
        10,
        "image/jpeg",
        decide(found, Recorded(Ledger.INCLUDED, 3, NOW, "log.example", 1, Custody.E2), None),
        replace(ENGINE, statuses="d" * 64, sidecar="e" * 64),
        (Contradiction("time", "it says 2019", "the token says 2026"),),
        NOT_MET,
        (Finding.fails(Code.LISTS_CURRENT, "the list is out of date"),),
        Estimate(Signs.INCONCLUSIVE, "the picture is small"),
    )


@pytest.fixture(scope="module")
def schema() -> Any:
    text = (resources.files("tools") / "report.schema.json").read_text("utf-8")
    found = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(found)
    return found


@pytest.fixture(scope="module")
def validator(schema: Any) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema)


def strings(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for inner in value.values():
                yield from strings(inner)
        case list():
            for inner in value:
                yield from strings(inner)


# --- The schema


@pytest.mark.parametrize("head", Headline)
def test_every_headline_s_report_is_as_the_schema_says(
    head: Headline, validator: jsonschema.Draft202012Validator
) -> None:
    found = json.loads(as_json(made_report(head)))
    validator.validate(found)
    assert found["headline"] == head.value


def test_a_report_with_everything_in_it_is_as_the_schema_says(
    validator: jsonschema.Draft202012Validator,
) -> None:
    found = json.loads(as_json(full_report()))
    validator.validate(found)
    assert not [text for text in strings(found) if BANNED.search(text)]


def test_json_repeats_what_was_found_out() -> None:
    found = as_dict(full_report())
    assert found["proven"]["revocation"] == {
        "state": "revoked",
        "as_of": "2026-11-20T08:14:09Z",
        "since": "2026-11-20T08:14:09Z",
        "reason": "keyCompromise",
        "source": "http://localhost:8461/ocsp/",
        "explanation": "the issuer withdrew it",
        "complete": REVOKED.complete,
    }
    step = found["proven"]["history"]["steps"][0]
    assert (step["recorded"], step["recomputed"], step["problems"]) == (
        ["signature-broken"],
        ["signature-broken", "assertion.dataHash.mismatch"],
        ["signature-broken", "assertion.dataHash.mismatch"],
    )
    assert (step["list"], step["redacted"], step["revocation"]["state"]) == (
        "signers",
        ["stds.exif"],
        "not checked",
    )
    assert found["proven"]["time"]["claim_not_after"] is not None
    assert found["claims"]["contradictions"][0]["sentence"] == "It says 2019; the token says 2026."
    assert [each["list"] for each in found["claims"]["identities"]] == ["identities", None]
    assert [each["covers"] for each in found["claims"]["identities"]] == [["c2pa.hash.data", "stds.exif"], []]
    assert (found["engine"]["statuses"], found["engine"]["sidecar"]) == ("d" * 64, "e" * 64)
    bare = as_dict(made_report(Headline.NO_CREDENTIALS))["engine"]
    assert (bare["statuses"], bare["sidecar"]) == (None, None)
    assert (found["policy"]["met"], found["policy"]["sha256"]) == (False, "04" * 32)
    assert found["findings"][-1]["code"] == "lists.current"
    assert as_dict(made_report(Headline.NO_CREDENTIALS))["policy"] is None


def test_json_carries_no_picture() -> None:
    assert "thumbnail" not in as_json(full_report())
    assert "a picture" not in as_json(full_report())


@pytest.mark.parametrize(
    ("place", "members"),
    [
        (("properties", "headline"), Headline),
        (("properties", "type"), Kind),
        (("$defs", "credentials"), Credentials),
        (("$defs", "proven", "properties", "content"), Content),
        (("$defs", "proven", "properties", "signature"), Signature),
        (("$defs", "proven", "properties", "signer", "properties", "state"), Signer),
        (("$defs", "revocation", "properties", "state"), Revocation),
        (("properties", "detector", "properties", "state"), Signs),
        (("$defs", "proven", "properties", "history", "properties", "state"), History),
        (("$defs", "proven", "properties", "ledger", "properties", "state"), Ledger),
        (("$defs", "proven", "properties", "custody"), Custody),
        (("$defs", "finding", "properties", "code"), Code),
        (("$defs", "finding", "properties", "panel"), Panel),
    ],
)
def test_the_schema_spells_out_every_member(schema: Any, place: tuple[str, ...], members: Any) -> None:
    for step in place:
        schema = schema[step]
    spelled = [member for member in schema["enum"] if member is not None]
    assert sorted(spelled) == sorted(member.value for member in members)


def test_the_schema_lets_no_unknown_field_pass(schema: Any) -> None:
    def objects(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            if value.get("type") == "object":
                yield value
            for inner in value.values():
                yield from objects(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from objects(inner)

    found = list(objects(schema))
    assert len(found) >= 10
    for each in found:
        assert each["additionalProperties"] is False
        assert set(each["required"]) == set(each["properties"])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found.pop("not_proven"),
        lambda found: found.update(score=0.9),
        lambda found: found.update(headline="AUTHENTIC"),
        lambda found: found["proven"].pop("custody"),
        lambda found: found["proven"]["time"].update(not_after="2026-11-20"),
        lambda found: found["engine"].pop("lists"),
        lambda found: found["findings"][0].update(passed="yes"),
        lambda found: found.pop("policy"),
        lambda found: found["proven"].update(revocation="good"),
        lambda found: found["proven"]["revocation"].pop("explanation"),
        lambda found: found["proven"]["revocation"].update(complete=None),
        lambda found: found["engine"].update(statuses="none"),
        lambda found: found["engine"].pop("sidecar"),
        lambda found: found["claims"].update(left_out=-1),
    ],
)
def test_the_schema_refuses_a_spoiled_report(spoil: Any, validator: jsonschema.Draft202012Validator) -> None:
    found = as_dict(made_report(Headline.INTACT_SIGNER_RECOGNISED))
    spoil(found)
    assert not validator.is_valid(found)


# --- Files as they come


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home that knows nothing of ours."""
    place = tmp_path_factory.mktemp("stranger") / "home"
    return create_home(place, "Somebody Else", "http://localhost:8461/ocsp/", datetime.now(UTC))


def opened(home: Home, at: datetime, signers: Path | None = None) -> Beliefs:
    return beliefs(home, Chosen(signers=signers, profile=Profile.POLICY, at=at), datetime.now(UTC))


def written_by_hand(home: Home, source: Path, target: Path, parent: str | None) -> Path:
    """A manifest that our own flow refuses to write."""
    device = home.device("cam")
    claim = json.dumps({"claim_generator_info": [{"name": "Test"}], "assertions": []})
    with source.open("rb") as stream, target.open("w+b") as out:
        media = Media.of(stream, source.name, 1 << 30)
        manifest.write(media, out, claim, parent, device.key.sign, device.chain_pem, None)
    return target


def test_files_give_the_headlines_that_fit_them(
    home: Home,
    stranger: Home,
    signed: Path,
    altered: Path,
    own_samples: Path,
    tmp_path: Path,
    validator: jsonschema.Draft202012Validator,
) -> None:
    now = datetime.now(UTC)
    empty, cut, elsewhere = tmp_path / "empty.jpg", tmp_path / "cut.jpg", tmp_path / "elsewhere.jpg"
    empty.touch()
    cut.write_bytes(half_a_record(signed.read_bytes()))
    original = (own_samples / "hills.jpg").read_bytes()
    elsewhere.write_bytes(original[:2] + remote_reference() + original[2:])
    child = written_by_hand(
        home, altered, tmp_path / "child.jpg", '{"title":"before","relationship":"parentOf"}'
    )
    untimed = tmp_path / "untimed" / "hills.jpg"
    (told,) = sign_files(
        home, [own_samples / "hills.jpg"], untimed.parent, "cam", lambda: datetime.now(UTC), timed=False
    )
    assert isinstance(told, str)
    with (
        opened(home, now) as ours,
        opened(stranger, now) as theirs,
        opened(home, now + timedelta(400)) as later,
    ):
        cases = [
            (ours, signed, "INTACT_SIGNER_RECOGNISED"),
            (theirs, signed, "INTACT_SIGNER_UNKNOWN"),
            (ours, child, "SIGNED_HISTORY_PROBLEM"),
            (later, untimed, "SIGNER_EXPIRED_TIME_UNPROVEN"),
            (ours, altered, "CHANGED_AFTER_SIGNING"),
            (ours, own_samples / "harbour.jpg", "MATCHES_RECORDED_CAPTURE"),
            (ours, elsewhere, "CREDENTIALS_ELSEWHERE"),
            (ours, cut, "CREDENTIALS_UNREADABLE"),
            (theirs, own_samples / "harbour.jpg", "NO_CREDENTIALS"),
            (ours, empty, "NOT_CHECKED"),
        ]
        found = {}
        for held in (ours, theirs, later):
            mine = [(path, head) for each, path, head in cases if each is held]
            reports = check_files([str(path) for path, _ in mine], held, None)
            for (report, _), (path, head) in zip(reports, mine, strict=True):
                line = json.loads(as_json(report))
                validator.validate(line)
                assert not [text for text in strings(line) if BANNED.search(text)]
                found[path.name, head] = line["headline"]
    assert found == {(path.name, head): head for _, path, head in cases}


def half_a_record(jpeg: bytes) -> bytes:
    """The first half of the segment that carries the credentials (JPEG XT, APP11)."""
    at = jpeg.index(b"\xff\xeb")
    length = int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return (
        jpeg[: at + 2]
        + (length // 2).to_bytes(2, "big")
        + jpeg[at + 4 : at + 2 + length // 2]
        + jpeg[at + 2 + length :]
    )


def remote_reference() -> bytes:
    """An XMP segment that names where credentials are (C2PA 2.2, 11.4)."""
    xmp = (
        b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF'
        b' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""'
        b' xmlns:dcterms="http://purl.org/dc/terms/"'
        b' dcterms:provenance="http://127.0.0.1:9/manifest.c2pa"/></rdf:RDF></x:xmpmeta>'
    )
    return b"\xff\xe1" + (len(xmp) + 2).to_bytes(2, "big") + xmp


# --- Text


@pytest.mark.parametrize("head", Headline)
def test_text_says_the_headline_and_what_it_does_not_say(head: Headline) -> None:
    text = as_text(made_report(head))
    assert head.value in text.splitlines()[0]
    assert "not proven: " in text
    assert not BANNED.search(text)


def test_a_name_cannot_hide_or_reorder_what_is_printed() -> None:
    hostile = f"a\r\nok: Unchanged\x1b[2J{RTL}\udcff"
    text = as_text(made_report(Headline.NO_CREDENTIALS, hostile))
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert text.splitlines()[0].startswith("a ok: Unchanged[2Jgpj.exe\\udcff: No signed record")


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("utf-8", "surrogateescape")))
def test_any_name_is_shown_on_one_line_and_survives_in_json(name: str) -> None:
    assert shown(name).isprintable()
    shown(name).encode("utf-8")
    line = as_json(made_report(Headline.NO_CREDENTIALS, name))
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["file"] == name


def test_where_nobody_was_asked_no_more_is_said_of_it() -> None:
    assert "  revocation not checked" in as_text(made_report(Headline.INTACT_SIGNER_RECOGNISED)).splitlines()


def test_text_shows_the_history_as_a_tree_with_problems_in_plain_words() -> None:
    lines = as_text(full_report()).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("  history"))
    first, inner = lines[at + 1].strip(), lines[at + 2]
    assert first.startswith(
        "- part.jpg (a part placed into it) does not check out: its signature does not hold"
    )
    assert "its content was changed (assertion.dataHash.mismatch)" in first
    assert "signed by Northwind Camera M3, on the list signers" in first
    assert inner.strip() == "- inner.jpg (the version before) carried no credentials"
    assert inner.index("-") == lines[at + 1].index("-") + 2


def test_text_says_what_does_not_go_together_who_else_signed_and_what_a_policy_lacks() -> None:
    text = as_text(full_report())
    for line in (
        "  revocation revoked: the issuer withdrew it",
        "  at odds    It says 2019; the token says 2026.",
        "  identity   also signed by R. Example of Daily Example, on the list identities,"
        " for the media's hash and 1 of the record's statements",
        "  identity   somebody who goes by the name Somebody: not recognised (no list knows its issuer)",
        f"  policy     evening desk, SHA-256 {'04' * 32}: not met",
        "             the ledger is required",
        "  note       the list is out of date",
        "  estimate   inconclusive (the picture is small); it changes nothing of what is proven",
    ):
        assert line in text.splitlines()
    assert "time is proven" not in text
    assert not BANNED.search(text)


def test_a_history_of_any_length_ends() -> None:
    long = replace(full_report(), verdict=decide(facts(steps=(STEP,) * 200), Recorded(Ledger.UNKNOWN), None))
    lines = as_text(long).splitlines()
    assert f"and {400 - MAX_STEP_LINES} more" in "\n".join(lines)
    assert len(lines) < MAX_STEP_LINES + 40


def test_a_withdrawn_earlier_signer_is_told_beside_its_version() -> None:
    (line,) = step_lines((replace(STEP, revocation=REVOKED, steps=()),))
    assert "revocation: revoked" in line


def test_problems_have_words_and_unknown_ones_stay_as_they_are() -> None:
    assert in_words("record-missing") == "its record is not in the file (record-missing)"
    assert in_words("no.such.code").strip("\u2068\u2069") == "no.such.code"


texts = st.text(max_size=40) | st.sampled_from(
    [RTL, "</bdi><script>", "\u2069\u2066x", "\x1b[31m", "\n  policy met"]
)


@given(texts, st.sampled_from(["title", "relationship"]))
def test_no_step_breaks_out_of_its_line(text: str, field: str) -> None:
    step = replace(STEP, steps=(), **{field: text})  # type: ignore[arg-type]
    (line,) = step_lines((step,))
    assert line.isprintable() or set(line) & {"\u2068", "\u2069"}
    assert "\n" not in line
    assert line.count("\u2068") == line.count("\u2069")


@given(st.sampled_from(Headline), st.sampled_from(Signs), texts)
def test_a_detector_changes_neither_headline_nor_exit_status(
    head: Headline, state: Signs, reason: str
) -> None:
    plain = made_report(head)
    told = replace(plain, estimate=Estimate(state, reason))
    ours, theirs = as_dict(plain), as_dict(told)
    assert told.verdict.headline is head
    assert exit_status(told.verdict.headline) == exit_status(plain.verdict.headline)
    assert plain.estimate == NO_ESTIMATE
    assert {key: value for key, value in ours.items() if key != "detector"} == {
        key: value for key, value in theirs.items() if key != "detector"
    }
    first, second = as_text(plain).splitlines(), as_text(told).splitlines()
    assert [line for line in first if not line.startswith("  estimate")] == [
        line for line in second if not line.startswith("  estimate")
    ]


def test_an_unrecognised_signer_s_name_is_not_put_in_front_of_its_claims() -> None:
    report = made_report(Headline.INTACT_SIGNER_UNKNOWN)
    assert as_dict(report)["claims"]["speaker"] == "an unrecognised signer"
    assert dict(proven_lines(report))["signer"].startswith("not recognised (calls itself")


@given(st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_an_upper_bound_is_never_rounded_down(moment: datetime) -> None:
    said = iso_no_later(moment)
    assert said is not None
    assert moment <= datetime.fromisoformat(said) < moment + timedelta(seconds=1)


def test_a_changed_file_s_claims_are_said_of_the_file_as_it_was_signed() -> None:
    changed = as_dict(made_report(Headline.CHANGED_AFTER_SIGNING))
    assert changed["claims"]["speaker"] == "Northwind Camera M3 (about the file as it was signed)"
    broken = decide(facts(signature=Signature.BROKEN), Recorded(Ledger.UNKNOWN), None)
    told = as_dict(replace(made_report(Headline.CHANGED_AFTER_SIGNING), verdict=broken))
    assert told["claims"]["speaker"] == "somebody whose signature does not hold"


def of(found: Provenance) -> Report:
    return Report(
        "harbour.jpg", "c" * 64, 10, "image/jpeg", decide(found, Recorded(Ledger.UNKNOWN), None), ENGINE
    )


@pytest.mark.parametrize("content", Content)
@pytest.mark.parametrize("signature", Signature)
def test_a_token_over_the_claim_dates_the_content_only_where_the_claim_holds_its_hash(
    content: Content, signature: Signature
) -> None:
    found = facts(
        content=content, signature=signature, time=Window(), claim_time=Window(None, NOW, "a token")
    )
    line = dict(proven_lines(of(found)))["claim time"]
    held = content is Content.INTACT and signature is Signature.VALID
    assert line.startswith("the claim, and so the content, existed" if held else "the claim existed no later")
    assert ("content" in line) is held


UNTOLD = replace(STEP, recorded=(), recomputed=(), notes=("content-check-not-recorded",), steps=())


def test_a_history_is_told_by_the_sentence_of_its_own_finding() -> None:
    said = "of 1 of 1 earlier versions nobody recorded whether they matched their records"
    finding = Finding.holds(Code.HISTORY_INTACT, said)
    partial = of(facts(history=History.PARTIAL, steps=(UNTOLD,), findings=(finding,)))
    assert f"  history    {said}" in as_text(partial).splitlines()
    assert "carried no credentials" not in as_text(partial)
    assert said in re.sub(r"</?bdi>", "", as_html([(partial, None)]))


@pytest.mark.parametrize("state", History)
def test_no_history_goes_untold_where_its_finding_is_missing(state: History) -> None:
    line = dict(proven_lines(of(facts(history=state, findings=()))))["history"]
    assert line == ("an earlier version does not check out" if state is History.PROBLEM else state.value)


def test_a_version_whose_check_nobody_recorded_is_not_said_to_check_out() -> None:
    (line,) = step_lines((UNTOLD,))
    assert ") not fully known; " in line
    assert "checks out" not in line
    assert step_state(replace(UNTOLD, notes=())) == "checks out"
    assert step_state(replace(UNTOLD, recomputed=("record-missing",))) == "does not check out"
    assert 'class="gap"' in as_html([(of(facts(history=History.PARTIAL, steps=(UNTOLD,))), None)])


def test_a_time_that_is_proven_is_not_denied_beside_an_expired_certificate() -> None:
    text = as_text(of(facts(signer=Signer.EXPIRED_TIME_UNPROVEN)))
    assert "  time       signed no later than 2026-11-20T08:14:09Z" in text
    for line in text.splitlines():
        if "no time is proven" in line:
            assert "at which" in line
    assert "time unproven" not in text


@pytest.mark.parametrize(
    ("covers", "said"),
    [
        ((), "for the media's hash alone, not for what is said of it"),
        (("c2pa.hash.data",), "for the media's hash alone, not for what is said of it"),
        (
            ("c2pa.hash.bmff.v3", "stds.exif", "c2pa.actions.v2"),
            "for the media's hash and 2 of the record's statements",
        ),
    ],
)
def test_an_identity_is_told_with_what_it_was_given_for(covers: tuple[str, ...], said: str) -> None:
    line = identity_line(Identity("x509", "R. Example", "", "Issuer", "identities", None, covers))
    assert line.endswith(f", {said}")


@pytest.mark.parametrize(
    ("name", "organisation", "said"),
    [("Camera", "Lab", "Camera"), ("", "Lab", "Lab"), ("", "", "a signer without a name")],
)
def test_a_recognised_signer_without_a_common_name_still_speaks_in_a_name(
    name: str, organisation: str, said: str
) -> None:
    certificate = replace(CERTIFICATE, name=name, organisation=organisation)
    told = of(facts(certificate=certificate))
    assert as_dict(told)["claims"]["speaker"] == said
    assert f"  claimed    {said} says: created" in as_text(told)
    (line,) = step_lines((replace(STEP, signer=certificate, steps=()),))
    assert f"signed by \u2068{said}\u2069, on the list" in line


def test_a_good_answer_about_the_signer_alone_is_told_as_no_more() -> None:
    leaf = RevocationFacts(Revocation.GOOD, "the certificate was not withdrawn", NOW, complete=False)
    assert revocation_line(leaf).endswith("; not everything is known about the authorities above it")
    told = replace(leaf, explanation=f"{leaf.explanation}; nothing is known about the certificate above it")
    assert revocation_line(told).count("known about") == 1
    assert "above" not in revocation_line(replace(leaf, complete=True))


# --- Writing


def test_a_page_with_any_name_can_be_written(tmp_path: Path) -> None:
    page = as_html([(made_report(Headline.NO_CREDENTIALS, "a\udcff"), None)])
    write_page(tmp_path / "report.html", page)
    assert "a\\udcff" in (tmp_path / "report.html").read_text("utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnwritableError):
        write_page(tmp_path / "missing" / "report.html", "text")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OutputExistsError):
        write_page(tmp_path / "report.html", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
