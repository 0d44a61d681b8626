"""A token taken later: over the signature as it stands, on record, kept, and found by every check."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from authn.evidence import Code
from authn.keys import open_key
from authn.timestamp.relay import NoTokenError
from authn.timestamp.token import check_token
from authn.withdrawal import Reason, Withdrawn, build_crl
from storage.entry import Kind
from tools import tokens
from tools.capture import Signed
from tools.check import Chosen, Entry, beliefs, check_files
from tools.errors import MediaRefusedError, UnwritableError, UsageError
from tools.founding import create_home
from tools.home import Home
from tools.own_log import operator
from tools.serials import SERIALS
from tools.signing import signed_files
from tools.stamping import Dated, NotStampableError, TokenUselessError, stamp_files, stamped_files

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def now() -> datetime:
    return datetime.now(UTC)


def undated(home: Home, source: Path, folder: Path, device: str | None = "cam") -> Signed:
    (done,) = signed_files(home, [source], folder, device, now, timed=False)
    assert isinstance(done, Signed), done
    return done


def signature_of(done: Signed) -> bytes:
    assert done.provenance.identity is not None
    return done.provenance.identity.signature


def kept(home: Home, done: Signed) -> tuple[bytes, ...]:
    return tokens.kept(home.path / "tokens", signature_of(done))


def size(home: Home) -> int:
    with home.ledger_to_read() as ledger:
        return ledger.size


def test_the_token_is_over_the_signature_is_on_record_and_every_check_finds_it(
    home: Home, own_samples: Path, tmp_path: Path
) -> None:
    done = undated(home, own_samples / "hills.jpg", tmp_path)
    content = done.media.read_bytes()
    (dated,) = stamped_files(home, [done.media], (), now)
    assert isinstance(dated, Dated), dated
    # The token stands by itself: over SHA-256 of the raw signature, under the home's list.
    (token,) = kept(home, done)
    own = [file.parse() for file in home.own_lists()][1:]
    evidence = check_token(token, _signature(home, done.media), own, now())
    assert evidence.proven, evidence.reason
    # Its entry commits to both, under the pseudonym of whoever signed.
    assert dated.index is not None
    with home.ledger_to_read() as ledger:
        entry = ledger.entry(dated.index)
        payload = json.loads(ledger.payload(dated.index) or b"")
        assert entry.kind is Kind.TOKEN
        assert entry.key == ledger.entry(done.index).key == home.device("cam").pseudonym
    assert payload == {"signature": signature_of(done).hex(), "token": hashlib.sha256(token).hexdigest()}
    # A check, begun anew, proves the time; before, it did not. The file is as it was.
    before, after = dated.before.provenance, dated.after.provenance
    assert before is not None
    assert after is not None
    assert before.time.not_after is None
    assert evidence.gen_time is not None
    assert evidence.accuracy is not None
    assert after.time.not_after == evidence.gen_time + evidence.accuracy
    assert done.media.read_bytes() == content
    assert home.audit().findings == ()


def _signature(home: Home, media: Path) -> bytes:
    """The raw signature in the file, read as for an evidence bundle."""
    with beliefs(home, Chosen(), now()) as held:
        ((_, found),) = check_files((str(media),), held, None, Entry.BUNDLED)
    assert found.kept is not None
    return found.kept.signature


def test_a_file_with_a_proven_time_is_left_alone(home: Home, signed: Path) -> None:
    before = size(home)
    (line,) = stamp_files(home, [signed], (), now)
    assert isinstance(line, str)
    assert "left alone; it has a proven time" in line
    assert "signed no later than" in line
    assert size(home) == before


def test_a_second_time_changes_nothing(home: Home, own_samples: Path, tmp_path: Path) -> None:
    done = undated(home, own_samples / "hills.jpg", tmp_path, None)
    first, second = stamped_files(home, [done.media, done.media], (), now)
    assert isinstance(first, Dated), first
    assert isinstance(second, Dated), second
    assert first.index is not None
    assert second.index is None
    token = kept(home, done)
    (third,) = stamped_files(home, [done.media], (), now)
    assert isinstance(third, Dated), third
    assert third.index is None
    assert kept(home, done) == token
    assert size(home) == first.index + 1


def test_each_file_is_stamped_or_refused_alone(
    home: Home, own_samples: Path, altered: Path, tmp_path: Path
) -> None:
    done = undated(home, own_samples / "street.jpg", tmp_path)
    changed = tmp_path / "changed.jpg"
    content = bytearray(done.media.read_bytes())
    content[-2000] ^= 1
    changed.write_bytes(content)
    files = [changed, altered, own_samples / "hills.jpg", tmp_path / "none.jpg", done.media]
    *refused, last = stamped_files(home, files, (), now)
    for outcome, file in zip(refused, files, strict=False):
        assert isinstance(outcome, NotStampableError | MediaRefusedError), outcome
        assert str(outcome).startswith(str(file))
    assert [type(outcome) for outcome in refused] == [NotStampableError] * 3 + [MediaRefusedError]
    assert isinstance(last, Dated), last
    assert size(home) == (last.index or 0) + 1, "nothing was recorded of those that were refused"


def test_a_signature_that_the_ledger_does_not_know_is_stamped_under_the_log_s_own_pseudonym(
    home: Home, own_samples: Path, tmp_path: Path
) -> None:
    other = create_home(tmp_path / "other", "Other Newsroom", "http://localhost:8461/ocsp/", now())
    done = undated(other, own_samples / "hills.jpg", tmp_path / "out", None)
    (dated,) = stamped_files(home, [done.media], (), now)
    assert isinstance(dated, Dated), dated
    assert dated.index is not None
    assert dated.after.headline is dated.before.headline, "a time makes no signer known"
    assert dated.after.provenance is not None
    assert dated.after.provenance.time.not_after is not None
    with home.ledger_to_read() as ledger:
        assert ledger.entry(dated.index).key == operator(ledger.origin)


def test_a_unit_that_refuses_leaves_nothing_behind(
    fresh_home: Home, own_samples: Path, tmp_path: Path
) -> None:
    done = undated(fresh_home, own_samples / "hills.jpg", tmp_path / "out")
    before = size(fresh_home)
    (fresh_home.path / SERIALS).write_text("damaged\n")
    (outcome,) = stamped_files(fresh_home, [done.media], (), now)
    assert isinstance(outcome, NoTokenError)
    assert "the file of serial numbers is damaged" in str(outcome)
    assert kept(fresh_home, done) == ()
    assert size(fresh_home) == before


def test_a_token_that_cannot_be_kept_is_an_error_of_that_file(
    fresh_home: Home, own_samples: Path, tmp_path: Path
) -> None:
    done = undated(fresh_home, own_samples / "hills.jpg", tmp_path / "out")
    (fresh_home.path / "tokens").write_bytes(b"")
    (outcome,) = stamped_files(fresh_home, [done.media], (), now)
    assert isinstance(outcome, UnwritableError)
    assert fresh_home.audit().findings == ()


def test_what_lies_at_the_token_s_place_is_never_replaced(
    fresh_home: Home, own_samples: Path, tmp_path: Path
) -> None:
    done = undated(fresh_home, own_samples / "hills.jpg", tmp_path / "out")
    tokens.keep(fresh_home.path / "tokens", signature_of(done), b"no token at all")
    before = size(fresh_home)
    (outcome,) = stamped_files(fresh_home, [done.media], (), now)
    assert isinstance(outcome, TokenUselessError)
    assert kept(fresh_home, done) == (b"no token at all",)
    assert size(fresh_home) == before


def test_a_token_that_a_check_does_not_believe_is_not_kept(
    fresh_home: Home, own_samples: Path, tmp_path: Path
) -> None:
    """The unit was withdrawn; whoever judges the token alone does not ask, and the check knows."""
    done = undated(fresh_home, own_samples / "hills.jpg", tmp_path / "out")
    unit, root = fresh_home.certificate("time-stamping"), fresh_home.certificate("time-root")
    gone = Withdrawn(unit.serial_number, Reason.KEY_COMPROMISE, now() - timedelta(hours=1))
    (fresh_home.path / "status").mkdir()
    key = open_key(f"file:{fresh_home.path / 'keys' / 'time-root.pem'}")
    crl = build_crl([gone], issuer=root, key=key, number=1, at=now())
    (fresh_home.path / "status" / "known.status").write_bytes(crl)
    (outcome,) = stamped_files(fresh_home, [done.media], (), now)
    assert isinstance(outcome, TokenUselessError)
    assert "withdrawn" in str(outcome)
    assert kept(fresh_home, done) == ()
    assert not list((fresh_home.path / "tokens").rglob("*.tst"))


def test_a_stamp_after_the_certificate_s_end_does_not_mend_it(
    fresh_home: Home, own_samples: Path, tmp_path: Path
) -> None:
    done = undated(fresh_home, own_samples / "hills.jpg", tmp_path / "out", "cam")
    end = fresh_home.device("cam").chain[0].not_valid_after_utc
    later = end + timedelta(days=1) - now()
    (dated,) = stamped_files(fresh_home, [done.media], (), lambda: now() + later)
    assert isinstance(dated, Dated), dated
    assert dated.after.headline is dated.before.headline
    assert dated.after.provenance is not None
    assert any(
        finding.code is Code.TIME_PROVEN and finding.passed for finding in dated.after.provenance.findings
    )


def test_an_address_that_cannot_be_asked_is_refused_before_anything_is_done(home: Home, signed: Path) -> None:
    with pytest.raises(UsageError):
        list(stamped_files(home, [signed], ("ftp://a.example/",), now))


def test_the_command_prints_what_was_proven_before_and_after(
    lightseal: Command, home: Home, own_samples: Path, tmp_path: Path
) -> None:
    done = undated(home, own_samples / "hills.jpg", tmp_path / "out")
    plain = Path(shutil.copy(own_samples / "street.jpg", tmp_path / "plain.jpg"))
    told = lightseal("stamp", plain, done.media, home=home)
    assert told.returncode == 1
    assert told.stderr.startswith(f"error[not-stampable]: {plain}: nothing was stamped")
    stamped, before, after = told.stdout.splitlines()
    assert stamped.startswith(f"{done.media}: stamped, entry ")
    assert before == "  before  Unchanged since it was signed; no proven time"
    assert after.startswith("  now     Unchanged since it was signed; signed no later than ")
    again = lightseal("stamp", done.media, home=home)
    assert again.returncode == 0
    assert "left alone" in again.stdout
    assert "signed no later than" in lightseal("verify", done.media, home=home).stdout
