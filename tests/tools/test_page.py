"""The report page stands alone, escapes what strangers wrote, and can be read by everybody."""

import html
import importlib.util
import json
import os
import re
import struct
import subprocess
import zlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from authn.evidence import (
    CertificateFacts,
    Claims,
    Code,
    Content,
    Credentials,
    Finding,
    History,
    Identity,
    Provenance,
    Revocation,
    RevocationFacts,
    Signature,
    Signer,
    Step,
    Window,
)
from detector.frames import thumbnail
from tools import programs
from tools.contradictions import Contradiction
from tools.errors import OutputExistsError, UnwritableError
from tools.report import Acceptance, Engine, Estimate, Report, Signs
from tools.report_page import as_html, require_writable_page, write_page
from tools.verdict import Ledger, Obstacle, Recorded, decide

NOW = datetime(2026, 11, 20, 8, 14, 9, tzinfo=UTC)
ENGINE = Engine("0.1.0", "0.38.1", (("signers", "signing", "0" * 64),), NOW, NOW)
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202egpj.exe"
LONG = "an-unbroken-name-" + "x" * 300 + ".jpg"
CERTIFICATE = CertificateFacts(HOSTILE, HOSTILE, HOSTILE, "01", "a" * 64, "b" * 64, NOW, NOW)
WITHDRAWN = RevocationFacts(Revocation.REVOKED, HOSTILE, NOW, NOW, HOSTILE, HOSTILE)
STEP = Step(
    HOSTILE,
    HOSTILE,
    Credentials.PRESENT,
    (HOSTILE, "signature-broken"),
    ("signature-broken", "record-missing"),
    CERTIFICATE,
    recognised=True,
    signer_list=HOSTILE,
    time=Window(None, NOW, HOSTILE),
    revocation=WITHDRAWN,
    redacted=(HOSTILE,),
)


def generations(depth: int) -> Step:
    """A chain of earlier versions, the oldest without credentials."""
    step = replace(
        STEP, title="oldest.jpg", credentials=Credentials.NONE, recorded=(), recomputed=(), signer=None
    )
    for number in range(depth):
        step = replace(STEP, title=f"version {number} {LONG}", recorded=(), recomputed=(), steps=(step,))
    return step


def hostile_report(name: str, picture: bytes | None) -> Report:
    """A stranger's words in every field that takes text."""
    found = Provenance(
        Credentials.PRESENT,
        Content.INTACT,
        Signature.VALID,
        Signer.RECOGNISED,
        Window(None, NOW, HOSTILE),
        WITHDRAWN,
        History.COMPLETE,
        CERTIFICATE,
        HOSTILE,
        None,
        Claims(
            HOSTILE,
            HOSTILE,
            (HOSTILE,),
            (HOSTILE,),
            HOSTILE,
            HOSTILE,
            HOSTILE,
            HOSTILE,
            (HOSTILE,),
            (HOSTILE,),
            4,
            (HOSTILE,),
            (HOSTILE,),
            (HOSTILE,),
        ),
        (
            replace(STEP, thumbnail=picture),
            replace(STEP, recorded=(), recomputed=(), steps=(STEP,)),
            replace(STEP, recorded=(), recomputed=(), notes=(HOSTILE,)),
            generations(12),
        ),
        (Finding.fails(Code.SIGNER_CHAIN, HOSTILE),),
        Window(None, NOW, HOSTILE),
        (
            Identity(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, None, ("c2pa.hash.data", HOSTILE)),
            Identity(HOSTILE, HOSTILE, HOSTILE, HOSTILE, None, HOSTILE),
        ),
        (HOSTILE,),
    )
    recorded = Recorded(
        Ledger.UNKNOWN, origin=HOSTILE, findings=(Finding.fails(Code.LEDGER_INCLUDED, HOSTILE),)
    )
    return Report(
        name,
        "c" * 64,
        10,
        "image/jpeg",
        decide(found, recorded, None),
        replace(ENGINE, lists=((HOSTILE, "signing", "0" * 64),)),
        (Contradiction(HOSTILE, HOSTILE, HOSTILE),),
        Acceptance(HOSTILE, b"\5" * 32, (Finding.fails(Code.POLICY_MET, HOSTILE),)),
        (Finding.fails(Code.LISTS_CURRENT, HOSTILE),),
        Estimate(Signs.INCONCLUSIVE, HOSTILE),
    )


def unread_report() -> Report:
    obstacle = Obstacle("file-unreadable", HOSTILE, "Check the path.")
    return Report("gone.jpg", None, None, None, decide(None, Recorded(Ledger.NOT_CHECKED), obstacle), ENGINE)


@pytest.fixture(scope="module")
def page(own_samples: Path) -> str:
    picture = thumbnail((own_samples / "hills.jpg").read_bytes(), "image/jpeg")
    return as_html(
        [
            (hostile_report(HOSTILE, picture), picture),
            (hostile_report(LONG, None), None),
            (unread_report(), None),
        ]
    )


def test_nothing_is_fetched_and_nothing_can_run(page: str) -> None:
    policy = html.unescape(re.findall(r'Content-Security-Policy" content="([^"]*)"', page)[0])
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    written = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    sources = re.findall(r'\b(?:src|href|action|srcset|poster)="([^"]*)"', written)
    assert sources
    assert all(source.startswith(("data:image/jpeg;base64,", "#f")) for source in sources)
    assert "url(" not in page
    assert "@import" not in page


def test_what_strangers_wrote_stays_text(page: str) -> None:
    tags = set(re.findall(r"<\s*([a-zA-Z][a-zA-Z0-9]*)", page))
    assert not tags & {"script", "iframe", "object", "embed", "form", "link", "base", "svg"}
    assert page.count("<img") == 2
    assert page.count("<script") == 0
    assert page.count("&lt;script&gt;") > 60


def test_no_character_that_reorders_text_is_left(page: str) -> None:
    """Isolation is by elements, so that no isolate of a stranger can end one of ours."""
    assert not set(page) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")


def test_every_word_of_a_stranger_is_set_apart(page: str) -> None:
    body = page[page.index("<body>") :]
    outside = re.sub(r"<bdi>(?:[^<]|</?time>)*</bdi>", "", body)
    assert "alert(" not in outside


def test_a_file_s_name_loses_what_would_reorder_it(page: str) -> None:
    names = re.findall(r'<p class="name" id="n\d"><bdi>(.*?)</bdi>', page)
    assert len(names) == 3
    assert not [name for name in names if "\u202e" in name]


def test_the_page_names_each_panel_in_its_own_words(page: str) -> None:
    text = re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL))
    assert text.index("Proven") < text.index("Claimed") < text.index("Estimated")
    assert text.count("This does not say") == 3
    assert not re.search(r"\b(authentic|real|fake|verified|trusted)\b", text, re.IGNORECASE)


def test_the_page_names_the_statuses_and_the_record_that_the_check_used() -> None:
    digests = ("d" * 64, "e" * 64)
    silent = as_html([(unread_report(), None)])
    told = replace(unread_report(), engine=replace(ENGINE, statuses=digests[0], sidecar=digests[1]))
    page = as_html([(told, None)])
    for digest in digests:
        assert f"<code>{digest}</code>" in page
        assert digest not in silent
    assert "record beside the file" not in silent


def test_a_page_says_that_nothing_was_sent_only_where_that_is_so() -> None:
    silent = unread_report()
    note = Finding.holds(Code.REVOCATION_CHECKED, "http://localhost:8461/ocsp/ answered")
    asking = replace(silent, notes=(note,))
    assert "Nothing was sent anywhere." in as_html([(silent, None), (silent, None)])
    page = as_html([(silent, None), (asking, None)])
    assert "Nothing was sent anywhere." not in page
    assert "asked over the network" in page
    assert note.explanation in page


# --- In a browser


def chromium(*arguments: str, folder: Path) -> str:
    path = programs.named("chromium").path
    assert path is not None
    command = [
        path,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={folder}",
    ]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def framed(page: str, width: int) -> str:
    """A page that shows `page` in a frame of that width and writes down how wide its content is."""
    return f"""<!doctype html><title>waiting</title><iframe id=f width={width} height=900 style="border:0"
srcdoc="{html.escape(page)}"></iframe><script>onload=()=>{{const d=document.getElementById("f").contentDocument;
document.title=d.documentElement.clientWidth+" "+d.documentElement.scrollWidth}}</script>"""


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("width", [320, 375, 1280])
def test_the_page_never_scrolls_sideways(page: str, width: int, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(framed(page, width), encoding="utf-8")
    found = chromium(
        "--virtual-time-budget=5000",
        "--window-size=1400,1000",
        "--dump-dom",
        (tmp_path / "page.html").as_uri(),
        folder=tmp_path / "profile",
    )
    visible, content = map(int, re.findall(r"<title>(\d+) (\d+)</title>", found)[0])
    assert visible == width
    assert content == visible


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("width", [500, 1280])
def test_the_page_is_not_blank(page: str, width: int, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    shot = tmp_path / "shot.png"
    chromium(
        f"--window-size={width},1000",
        f"--screenshot={shot}",
        (tmp_path / "page.html").as_uri(),
        folder=tmp_path / "profile",
    )
    assert len(colours(shot.read_bytes())) > 100


def colours(png: bytes) -> set[bytes]:
    """The byte triples of the unfiltered rows; enough to tell a page from a blank."""
    (width,) = struct.unpack(">I", png[16:20])
    data = b"".join(
        png[at + 8 : at + 8 + length] for at, length in chunks(png) if png[at + 4 : at + 8] == b"IDAT"
    )
    rows = zlib.decompress(data)
    assert len(rows) >= width
    return {rows[at : at + 3] for at in range(0, len(rows) - 2, 3)}


def chunks(png: bytes) -> list[tuple[int, int]]:
    found, at = [], 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        found.append((at, length))
        at += length + 12
    return found


@pytest.mark.needs("chromium")
def test_on_paper_every_detail_is_open(page: str, tmp_path: Path) -> None:
    """What applies in print is applied on the screen, where it can be measured."""
    script = (
        "const t=[...document.querySelectorAll('details')].map(d=>Math.round(d.getBoundingClientRect().height"
        "-d.querySelector('summary').getBoundingClientRect().height));document.title='heights '+t"
    )
    shown = []
    for name, text in (("screen", page), ("paper", page.replace("@media print", "@media all"))):
        lax = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", text)
        (tmp_path / f"{name}.html").write_text(
            lax.replace("</body>", f"<script>{script}</script></body>"), "utf-8"
        )
        found = chromium("--dump-dom", (tmp_path / f"{name}.html").as_uri(), folder=tmp_path / "profile")
        shown.append([int(part) for part in re.findall(r"<title>heights ([\d,]+)<", found)[0].split(",")])
    screen, paper = shown
    assert len(screen) == len(paper) == 3
    assert max(screen) < 5
    assert min(paper) > 50


PAPER = 688
"""How many pixels of 1/96 inch an A4 page has between the margins of the page's own print rules."""


@pytest.mark.needs("chromium")
def test_on_paper_nothing_is_cut_off_at_the_side(page: str, tmp_path: Path) -> None:
    paper = page.replace("@media print", "@media all")
    (tmp_path / "page.html").write_text(framed(paper, PAPER), encoding="utf-8")
    found = chromium("--dump-dom", (tmp_path / "page.html").as_uri(), folder=tmp_path / "profile")
    visible, content = map(int, re.findall(r"<title>(\d+) (\d+)</title>", found)[0])
    assert visible == PAPER
    assert content == visible


@pytest.mark.needs("chromium")
def test_a_printed_page_is_a4_and_has_every_glyph_that_an_opened_page_has(page: str, tmp_path: Path) -> None:
    printed, opened = (
        pdf(text, tmp_path / f"{name}.html")
        for name, text in (("closed", page), ("opened", page.replace("<details>", "<details open>")))
    )
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", printed)
    # A4 in points; every file begins a page of its own.
    assert {(round(float(width)), round(float(height))) for width, height in boxes} == {(595, 842)}
    assert len(boxes) >= 3
    assert glyphs(printed) == glyphs(opened) > 4000


def pdf(page: str, path: Path) -> bytes:
    path.write_text(page, encoding="utf-8")
    out = path.with_suffix(".pdf")
    chromium("--no-pdf-header-footer", f"--print-to-pdf={out}", path.as_uri(), folder=path.parent / "profile")
    return out.read_bytes()


def glyphs(data: bytes) -> int:
    """How many glyphs the pages of a PDF show: two bytes each, in the hexadecimal strings before `Tj`."""
    count = 0
    for packed in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL):
        if packed[:1] == b"x":
            shown = re.findall(rb"<([0-9A-Fa-f]+)> Tj", zlib.decompressobj().decompress(packed))
            count += sum(len(text) // 4 for text in shown)
    return count


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_accessibility_checker_finds_nothing(page: str, scheme: str, tmp_path: Path) -> None:
    rules = axe()
    # The policy of the page forbids scripts, so the copy that is checked goes without it.
    lax = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", page).replace(
        "<details>", "<details open>"
    )
    if scheme == "dark":
        lax = lax.replace("(prefers-color-scheme:dark)", "all")
    script = (
        "<script>" + rules.replace("</script", "<\\/script") + "</script><script>axe.run().then(r=>{"
        'document.title="axe "+JSON.stringify({passes:r.passes.length,violations:r.violations.map('
        'v=>v.id+": "+v.nodes.map(n=>n.target).join(" "))})})</script>'
    )
    (tmp_path / "page.html").write_text(lax.replace("</body>", script + "</body>"), encoding="utf-8")
    found = chromium(
        "--virtual-time-budget=20000",
        "--dump-dom",
        (tmp_path / "page.html").as_uri(),
        folder=tmp_path / "profile",
    )
    answer = json.loads(html.unescape(re.findall(r"<title>axe (.*?)</title>", found)[0]))
    assert answer["violations"] == []
    assert answer["passes"] > 15


def axe() -> str:
    """The rules of axe-core; of the package that carries them only this file is used."""
    spec = importlib.util.find_spec("axe_playwright_python")
    assert spec is not None, "the test extra is not installed: pip install axe-playwright-python"
    assert spec.origin is not None
    return (Path(spec.origin).parent / "axe.min.js").read_text("utf-8")


# --- Writing


def test_an_earlier_page_is_replaced_and_nothing_that_only_speaks_of_one(page: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    for _ in range(2):
        write_page(path, page)
        assert path.read_text("utf-8") == page
    titled = "<!doctype html>\n<title>2 files checked: Lightseal report</title>\n</body>\n</html>\n"
    head = page.partition("<style>")[0]
    for content in ("", "notes on a Lightseal report", titled, f"<!-- mine -->\n{page}", head, f"{page}mine"):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(OutputExistsError):
            write_page(path, page)
        assert path.read_text("utf-8") == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_for_a_page_is_refused_before_any_work(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe", Path("/dev/full"), Path("/dev/zero")):
        with pytest.raises(OutputExistsError):
            require_writable_page(place)
    for name in ("missing/report.html", "x" * 256):
        with pytest.raises(UnwritableError):
            require_writable_page(tmp_path / name)
    require_writable_page(tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_page_may_have_a_name_as_long_as_the_disk_takes(page: str, tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250 + ".html")
    write_page(path, page)
    assert list(tmp_path.iterdir()) == [path]
