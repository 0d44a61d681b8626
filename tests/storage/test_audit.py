# ruff: noqa: S608 - these statements are the tampering
import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn.sealing import seal, unseal
from storage import database
from storage.audit import MAX_FINDINGS, AuditReport, AuditState, Code, Means, audit
from storage.auditing.terms import Term
from storage.checkpoint import Checkpoint, open_checkpoint
from storage.entry import Kind
from storage.errors import LedgerMissingError, LedgerOutdatedError, MalformedError
from storage.keyring import Keyring, Sealer
from storage.ledger import Ledger
from storage.merkle import Frontier, leaf_hash
from storage.note import Note
from storage.payload import canonical
from storage.record import Record

AT = datetime(2026, 11, 25, 8, tzinfo=UTC)
SALT = hashlib.sha256(b"salt of an erasure").digest()


@pytest.fixture(scope="module")
def module_sealer(tmp_path_factory) -> Sealer:
    keyring = Keyring.create(tmp_path_factory.mktemp("keys") / "keyring", bytes(range(32)))
    return Sealer(keyring, seal, unseal)


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("postgresql"))]
)
def built(request, tmp_path_factory, log, make_record, module_sealer, snapshot) -> tuple[str, list[str]]:
    """A closed ledger of 600 entries under three checkpoints, two of them witnessed; and the way back to it."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('audited') / 'ledger.db'}"
    else:
        url = request.getfixturevalue("server").create("audited")
    with Ledger.create(url, log.name, module_sealer) as ledger:
        for minute, start in enumerate((0, 200, 400)):
            records = [make_record(number) for number in range(start, start + 200)]
            ledger.append(records, AT + timedelta(minutes=minute), log.sign)
            if minute:
                ledger.keep_witnessed(ledger.checkpoint().encode())
    return url, snapshot(url)


@pytest.fixture
def whole(built, tamper) -> Iterator[str]:
    """The address of that ledger, as it was built."""
    url, back = built
    yield url
    tamper(url, *back)


@pytest.fixture
def means(log, module_sealer) -> Means:
    return Means((log.key,), log.verify, module_sealer)


def found(report: AuditReport) -> list[tuple[Code, int]]:
    return [(each.code, each.index) for each in report.findings]


SWAPPED = (
    "UPDATE {} SET idx = -1 WHERE idx = 5",
    "UPDATE {} SET idx = 5 WHERE idx = 6",
    "UPDATE {} SET idx = 6 WHERE idx = -1",
)


def swapped(*names: str) -> list[str]:
    return [text.format(name) for name in names for text in SWAPPED]


FLAWS: dict[str, tuple[list[str], Code, int]] = {
    "body": (["UPDATE entry SET body = x'00' WHERE idx = 300"], Code.ENTRY_LEAF, 300),
    "leaf": (["UPDATE entry SET leaf = zeroblob(32) WHERE idx = 300"], Code.ENTRY_LEAF, 300),
    "body and leaf": (
        [f"UPDATE entry SET body = x'00', leaf = x'{leaf_hash(bytes(1)).hex()}' WHERE idx = 300"],
        Code.ENTRY_MALFORMED,
        300,
    ),
    "tile": (
        ["UPDATE tile SET data = zeroblob(8192) WHERE level = 0 AND number = 1"],
        Code.TILE_DIFFERS,
        256,
    ),
    "upper tile": (["UPDATE tile SET data = zeroblob(64) WHERE level = 1"], Code.TILE_DIFFERS, 0),
    "tile gone": (["DELETE FROM tile WHERE level = 0 AND number = 0"], Code.TILE_MISSING, 0),
    "entry beyond a gap": (["INSERT INTO entry VALUES (602, zeroblob(32), x'00')"], Code.ENTRY_EXTRA, 602),
    "entry before the first": (["INSERT INTO entry VALUES (-3, zeroblob(32), x'00')"], Code.ENTRY_EXTRA, -3),
    "tile of a negative level": (["INSERT INTO tile VALUES (-1, 0, x'00')"], Code.TILE_EXTRA, 0),
    "tile of a negative number": (["INSERT INTO tile VALUES (0, -1, x'00')"], Code.TILE_EXTRA, 0),
    "tile above every tree": (["INSERT INTO tile VALUES (1000000, 1, x'00')"], Code.TILE_EXTRA, 0),
    "checkpoint of a negative size": (
        ["INSERT INTO checkpoint SELECT -5, note, time FROM checkpoint WHERE size = 200"],
        Code.CHECKPOINT_SIZE,
        -5,
    ),
    "witnessed checkpoint of a negative size": (
        ["INSERT INTO witnessed SELECT -5, note, time FROM checkpoint WHERE size = 200"],
        Code.WITNESSED_DIFFERS,
        -5,
    ),
    "witnessed checkpoint redated": (
        ["UPDATE witnessed SET time = time + 1 WHERE size = 400"],
        Code.WITNESSED_DIFFERS,
        400,
    ),
    "every checkpoint redated in order": (
        ["UPDATE checkpoint SET time = time - 30 WHERE size < 600"],
        Code.CHECKPOINT_TIME,
        200,
    ),
    "frozen by nobody": (["UPDATE head SET frozen = 1"], Code.HEAD_FROZEN, 600),
    "commitment of nothing that leads nowhere": (
        ["INSERT INTO submission VALUES (x'00', 9999)"],
        Code.SUBMISSION_EXTRA,
        9999,
    ),
    "tile too many": (["INSERT INTO tile VALUES (0, 2, zeroblob(32))"], Code.TILE_EXTRA, 512),
    "level too many": (["INSERT INTO tile VALUES (3, 0, zeroblob(32))"], Code.TILE_EXTRA, 0),
    "head root": (["UPDATE head SET root = zeroblob(32)"], Code.HEAD_ROOT, 600),
    "head frontier": (["UPDATE head SET frontier = zeroblob(128)"], Code.HEAD_FRONTIER, 600),
    "head time": (["UPDATE head SET time = time + 1"], Code.HEAD_TIME, 600),
    "head ahead": (["UPDATE head SET size = 601"], Code.ENTRY_MISSING, 600),
    "last rows deleted": (["DELETE FROM entry WHERE idx >= 590"], Code.ENTRY_MISSING, 590),
    "last rows deleted and head rewound": (
        ["DELETE FROM entry WHERE idx >= 590", "UPDATE head SET size = 590"],
        Code.CHECKPOINT_SIZE,
        600,
    ),
    "row deleted": (["DELETE FROM entry WHERE idx = 7"], Code.ENTRY_MISSING, 7),
    "bodies swapped": (
        [
            "CREATE TEMP TABLE was AS SELECT idx, body FROM entry WHERE idx IN (5, 6)",
            "UPDATE entry SET body = (SELECT body FROM was WHERE was.idx = 11 - entry.idx) WHERE idx IN (5, 6)",
            "DROP TABLE was",
        ],
        Code.ENTRY_LEAF,
        5,
    ),
    "entries swapped": (swapped("entry"), Code.SUBMISSION_DIFFERS, 5),
    "entries swapped with their commitments": (
        swapped("entry", "submission"),
        Code.SECRET_COMMITMENT,
        5,
    ),
    # What is sealed for a place does not open in another one: they cannot be swapped with their secrets.
    "entries swapped with all that belongs to them": (
        swapped("entry", "submission", "secret", "lookup"),
        Code.SECRET_COMMITMENT,
        5,
    ),
    "commitment forgotten": (["DELETE FROM submission WHERE idx = 9"], Code.SUBMISSION_DIFFERS, 9),
    "commitment leads elsewhere": (
        ["UPDATE submission SET idx = 8 WHERE idx = 9"],
        Code.SUBMISSION_DIFFERS,
        9,
    ),
    "commitment leads ahead": (
        ["UPDATE submission SET idx = 9 WHERE idx = 8"],
        Code.SUBMISSION_DIFFERS,
        8,
    ),
    "commitment leads beyond": (
        ["UPDATE submission SET idx = -1 WHERE idx = 8"],
        Code.SUBMISSION_DIFFERS,
        8,
    ),
    "commitment of nothing": (["INSERT INTO submission VALUES (x'00', 9)"], Code.SUBMISSION_EXTRA, 600),
    "secret changed": (["UPDATE secret SET sealed = x'00' WHERE idx = 9"], Code.SECRET_COMMITMENT, 9),
    "secret of another": (
        ["UPDATE secret SET sealed = (SELECT sealed FROM secret WHERE idx = 8) WHERE idx = 9"],
        Code.SECRET_COMMITMENT,
        9,
    ),
    "secret gone": (["DELETE FROM secret WHERE idx = 9"], Code.SECRET_MISSING, 9),
    "secret of nothing": (["INSERT INTO secret VALUES (700, zeroblob(32))"], Code.SECRET_ORPHAN, 700),
    "secret beyond every key": (
        [
            "INSERT INTO secret VALUES (9007199254740992, zeroblob(32))",
            "INSERT INTO lookup VALUES (zeroblob(16), 9007199254740992)",
        ],
        Code.SECRET_ORPHAN,
        2**53,
    ),
    "lookup of nothing": (["INSERT INTO lookup VALUES (zeroblob(16), 700)"], Code.LOOKUP_FALSE, 700),
    "checkpoint replaced": (
        ["UPDATE checkpoint SET note = (SELECT note FROM checkpoint WHERE size = 400) WHERE size = 200"],
        Code.CHECKPOINT_MALFORMED,
        200,
    ),
    "checkpoint emptied": (
        ["UPDATE checkpoint SET note = x'' WHERE size = 400"],
        Code.CHECKPOINT_MALFORMED,
        400,
    ),
    "checkpoint deleted": (["DELETE FROM checkpoint WHERE size = 600"], Code.CHECKPOINT_MISSING, 600),
    "checkpoint redated": (
        ["UPDATE checkpoint SET time = 0 WHERE size = 400"],
        Code.CHECKPOINT_TIME,
        400,
    ),
    "witnessed checkpoint of another size": (
        ["UPDATE witnessed SET note = (SELECT note FROM witnessed WHERE size = 600) WHERE size = 400"],
        Code.WITNESSED_DIFFERS,
        400,
    ),
    "witnessed checkpoint never published": (
        ["INSERT INTO witnessed SELECT 300, note, time FROM checkpoint WHERE size = 400"],
        Code.WITNESSED_DIFFERS,
        300,
    ),
    "witnessed checkpoint emptied": (
        ["UPDATE witnessed SET note = x'' WHERE size = 600"],
        Code.WITNESSED_DIFFERS,
        600,
    ),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_the_audit_names_first(whole, means, tamper, flaw: str) -> None:
    script, code, index = FLAWS[flaw]
    assert audit(whole, means).first is None
    tamper(whole, *script)
    first = audit(whole, means).first
    assert first is not None
    assert (first.code, first.index) == (code, index)


def test_entries_swapped_miss_the_next_checkpoint(whole, means, tamper) -> None:
    """Also for one without the keys, and whatever else was swapped with them."""
    tamper(whole, *swapped("entry", "submission", "secret", "lookup"))
    report = audit(whole, replace(means, sealer=None))
    assert found(report)[0] == (Code.CHECKPOINT_ROOT, 200)
    assert Code.CHECKPOINT_ROOT in dict(found(audit(whole, means)))


def test_a_checkpoint_changed_after_it_was_signed_is_named(whole, means, ask, tamper) -> None:
    [(note,)] = ask(whole, "SELECT note FROM checkpoint WHERE size = 400")
    text, _, signature = note.decode().partition("\n\n")
    other = base64.b64encode(hashlib.sha256().digest()).decode()
    forged = "\n".join([*text.split("\n")[:2], other]) + "\n\n" + signature
    tamper(whole, f"UPDATE checkpoint SET note = x'{forged.encode().hex()}' WHERE size = 400")
    assert found(audit(whole, means))[0] == (Code.CHECKPOINT_SIGNATURE, 400)


def test_a_checkpoint_signed_by_another_key_is_named(whole, means, other_log) -> None:
    report = audit(whole, replace(means, keys=(other_log.key,)))
    assert found(report) == [(Code.CHECKPOINT_SIGNATURE, size) for size in (200, 400, 600)]


def test_a_checkpoint_signed_with_another_root_is_named(whole, means, log, tamper) -> None:
    """What the log's own key signed is no better when its entries say otherwise."""
    note = log.sign(str(Checkpoint(log.name, 400, bytes(32)))).hex()
    for table in ("checkpoint", "witnessed"):
        tamper(whole, f"UPDATE {table} SET note = x'{note}' WHERE size = 400")
    assert found(audit(whole, means)) == [(Code.CHECKPOINT_ROOT, 400)]


def test_a_history_rewritten_with_the_log_key_shows_only_against_a_checkpoint_kept(
    whole, url, create, means, log, make_record, sealer
) -> None:
    kept = audit(whole, means).root
    with create(url) as ledger:
        ledger.append([make_record(number if number != 300 else -1) for number in range(600)], AT, log.sign)
    forged = Means((log.key,), log.verify, sealer)
    report = audit(url, forged)
    assert report.findings == ()
    assert report.root != kept
    remembered = Checkpoint(log.name, 600, kept)
    assert found(audit(url, replace(forged, remembered=remembered))) == [(Code.HISTORY_FORGOTTEN, 600)]


def test_what_the_guard_knows_must_begin_the_ledger(whole, means, log, ask) -> None:
    leaves = [leaf for (leaf,) in ask(whole, "SELECT leaf FROM entry ORDER BY idx")]
    for size in (0, 1, 255, 300, 599, 600):
        frontier = Frontier()
        for leaf in leaves[:size]:
            frontier.append(bytes(leaf))
        good = Checkpoint(log.name, size, frontier.root())
        # It knows nothing but what was published.
        missing = [] if size in {0, 600} else [(Code.CHECKPOINT_MISSING, size)]
        assert found(audit(whole, replace(means, remembered=good))) == missing
        assert found(audit(whole, replace(means, remembered=[good]))) == missing
        bad = replace(good, root=bytes(32))
        assert found(audit(whole, replace(means, remembered=bad))) == [(Code.HISTORY_FORGOTTEN, 600)]
    more = Checkpoint(log.name, 601, frontier.root())
    assert found(audit(whole, replace(means, remembered=more))) == [(Code.HISTORY_FORGOTTEN, 600)]


def test_an_entry_dated_before_its_predecessor_is_named(
    create, url, log, sealer, make_record, ask, tamper
) -> None:
    with create(url) as ledger:
        ledger.append([make_record(0)], AT, log.sign)
    record = make_record(1)
    early = record.entry(AT - timedelta(days=1)).body
    [(body,)] = ask(url, "SELECT body FROM entry")
    frontier = Frontier()
    frontier.append(leaf_hash(bytes(body)))
    frontier.append(leaf_hash(early))
    note = log.sign(f"{log.name}\n2\n{base64.b64encode(frontier.root()).decode()}\n")
    sealed = sealer.seal(1, record.salt + record.payload, log.name)
    (lookup,) = record.lookups
    tamper(
        url,
        f"INSERT INTO entry VALUES (1, x'{leaf_hash(early).hex()}', x'{early.hex()}')",
        f"INSERT INTO submission VALUES (x'{record.commitment.hex()}', 1)",
        f"INSERT INTO secret VALUES (1, x'{sealed.hex()}')",
        f"INSERT INTO lookup VALUES (x'{sealer.tag(*lookup).hex()}', 1)",
        f"INSERT INTO checkpoint SELECT 2, x'{note.hex()}', time FROM checkpoint",
        f"UPDATE head SET size = 2, root = x'{frontier.root().hex()}', frontier = x'{frontier.nodes[0].hex()}'",
    )
    report = audit(url, Means((log.key,), log.verify, sealer))
    assert found(report) == [(Code.ENTRY_TIME, 1), (Code.CHECKPOINT_TIME, 2), (Code.HEAD_TIME, 2)]


def test_a_ledger_damaged_throughout_is_reported_without_end_of_memory(whole, means, tamper) -> None:
    tamper(whole, "UPDATE entry SET body = x'00'", "UPDATE secret SET sealed = x'00'")
    report = audit(whole, means)
    assert len(report.findings) == MAX_FINDINGS
    assert report.omitted > 0


def test_an_empty_ledger_is_whole(create, url, log, sealer) -> None:
    create(url).close()
    report = audit(url, Means((log.key,), log.verify, sealer))
    assert (report.origin, report.size, report.root) == (log.name, 0, hashlib.sha256().digest())
    assert (report.first, report.unopened) == (None, 0)


def test_what_follows_from_a_flaw_is_reported_after_it(whole, means, tamper) -> None:
    tamper(whole, "UPDATE entry SET body = x'00' WHERE idx = 300")
    codes = [code for code, _ in found(audit(whole, means))]
    assert codes[:2] == [Code.ENTRY_LEAF, Code.ENTRY_MALFORMED]
    assert {Code.CHECKPOINT_ROOT, Code.TILE_DIFFERS, Code.HEAD_ROOT} <= set(codes)
    tamper(whole, "DELETE FROM entry WHERE idx >= 250")
    codes = [code for code, _ in found(audit(whole, means))]
    assert codes[:1] == [Code.ENTRY_MISSING]
    assert {
        Code.CHECKPOINT_SIZE,
        Code.HEAD_SIZE,
        Code.TILE_EXTRA,
        Code.SECRET_ORPHAN,
        Code.SUBMISSION_EXTRA,
    } <= set(codes)


def test_a_protection_that_was_taken_away_or_turned_round_is_named(
    create, url, means, log, make_record
) -> None:
    """The flaw it would catch: without its triggers the database forgets whatever it is told to."""
    with create(url) as ledger:
        ledger.append([make_record(0)], AT, log.sign)
    engine = database.open_owner(url)
    with database.transaction(engine) as connection:
        database.unprotect(connection)
    assert {each.code for each in audit(url, means).findings} == {Code.PROTECTION_DIFFERS}
    with database.transaction(engine) as connection:
        database.protect(connection)
    assert audit(url, means).findings == ()
    if url.startswith("sqlite"):
        evil = "CREATE TRIGGER evil AFTER INSERT ON entry BEGIN DELETE FROM secret; END"
    else:
        evil = (
            "CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
            " CREATE TRIGGER evil AFTER INSERT ON entry EXECUTE FUNCTION evil()"
        )
    with database.transaction(engine) as connection:
        connection.exec_driver_sql(evil)
    engine.dispose()
    assert [(each.code, "evil" in each.explanation) for each in audit(url, means).findings] == [
        (Code.PROTECTION_DIFFERS, True)
    ]


def test_every_code_is_produced_above() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [code.name for code in Code if f"Code.{code.name}" not in text] == []


def policy(number: int, **fields: object) -> Record:
    return Record(Kind.POLICY, canonical(fields), hashlib.sha256(b"policy %d" % number).digest(), bytes(32))


def frozen_ledger(create, url, log, make_record) -> None:
    with create(url) as ledger:
        ledger.append([make_record(number) for number in range(3)], AT, log.sign)
        ledger.freeze(policy(1, change="freeze", reason="the end"), AT, log.sign)


def test_a_ledger_that_its_last_entry_froze_is_whole(create, url, log, sealer, make_record) -> None:
    full = Means((log.key,), log.verify, sealer)
    frozen_ledger(create, url, log, make_record)
    for means in (full, replace(full, sealer=None)):
        assert audit(url, means).findings == ()
    again = replace(full, since=audit(url, full).state)
    assert audit(url, again).findings == ()


def test_frozen_is_no_excuse_for_a_lost_payload(create, url, log, sealer, make_record, tamper) -> None:
    full = Means((log.key,), log.verify, sealer)
    frozen_ledger(create, url, log, make_record)
    tamper(url, "DELETE FROM secret WHERE idx = 1", "DELETE FROM lookup WHERE idx = 1")
    assert found(audit(url, full)) == [(Code.SECRET_MISSING, 1)]
    sealer.forget(1)
    assert audit(url, full).findings == ()


def test_frozen_by_nobody_hides_nothing(create, url, log, sealer, make_record, tamper) -> None:
    with create(url) as ledger:
        ledger.append([make_record(number) for number in range(3)], AT, log.sign)
    tamper(url, "UPDATE head SET frozen = 1", "DELETE FROM secret", "DELETE FROM lookup")
    full = Means((log.key,), log.verify, sealer)
    expected = [*((Code.SECRET_MISSING, index) for index in range(3)), (Code.HEAD_FROZEN, 3)]
    assert found(audit(url, full)) == expected
    assert found(audit(url, replace(full, sealer=None))) == [(Code.HEAD_FROZEN, 3)]


def test_a_ledger_that_goes_on_after_its_end_is_named(create, url, log, sealer, make_record, tamper) -> None:
    full = Means((log.key,), log.verify, sealer)
    frozen_ledger(create, url, log, make_record)
    ended = audit(url, full).state
    tamper(url, "UPDATE head SET frozen = 0")
    since = replace(full, since=ended)
    for means in (full, since):
        assert found(audit(url, means)) == [(Code.HEAD_FROZEN, 4)]
    with create(url) as ledger:
        ledger.append([make_record(4), make_record(5)], AT, log.sign)
    for means in (full, since):
        assert found(audit(url, means)) == [(Code.HEAD_FROZEN, 4)]


@pytest.mark.parametrize("left", ["key", "row", "key and its row"])
def test_an_erasure_that_left_something_is_named(
    create, url, log, sealer, make_record, ask, tamper, left: str
) -> None:
    full = Means((log.key,), log.verify, sealer)
    with create(url) as ledger:
        ledger.append([make_record(number) for number in range(3)], AT, log.sign)
        kept = ask(url, "SELECT sealed FROM secret WHERE idx = 1")[0][0]
        if left == "row":
            ledger.erase(1, SALT, AT, log.sign)
        else:  # what the log recorded before a crash, or beside a keyring from an old copy
            record = Record(Kind.ERASE, canonical({"erased": 1}), SALT, bytes(32))
            ledger.append([record], AT, log.sign)
    if left == "key":
        tamper(url, "DELETE FROM secret WHERE idx = 1", "DELETE FROM lookup WHERE idx = 1")
    if left == "row":
        tamper(url, f"INSERT INTO secret VALUES (1, x'{bytes(kept).hex()}')")
    report = audit(url, full)
    assert found(report) == [(Code.ERASURE_UNFINISHED, 1)]
    assert f"its {left} can still" in report.findings[0].explanation


def test_the_row_of_a_destroyed_key_is_named_in_a_frozen_ledger(
    create, url, log, sealer, make_record
) -> None:
    frozen_ledger(create, url, log, make_record)
    sealer.forget(1)
    full = Means((log.key,), log.verify, sealer)
    assert (Code.ERASURE_UNFINISHED, 1) in found(audit(url, full))


def test_an_erasure_names_its_entry_by_a_number(create, url, log, sealer, make_record, tamper) -> None:
    """In Python true is 1; in the log it is nothing."""
    with create(url) as ledger:
        ledger.append([make_record(0), make_record(1)], AT, log.sign)
        ledger.append([Record(Kind.ERASE, b'{"erased":true}', SALT, bytes(32))], AT, log.sign)
    tamper(url, "DELETE FROM secret WHERE idx = 1", "DELETE FROM lookup WHERE idx = 1")
    assert found(audit(url, Means((log.key,), log.verify, sealer))) == [(Code.SECRET_MISSING, 1)]


def signed_by(*logs) -> Callable[[str], bytes]:
    def sign(text: str) -> bytes:
        return bytes(
            Note(text, tuple(line for each in logs for line in Note.parse(each.sign(text)).signatures))
        )

    return sign


def rotated(create, url, log, other_log, make_record, steps: str) -> None:
    """One entry for each step: `r` announces the new key, `t` retires the old one, others say who signs (o, n, b)."""
    signers = {"o": (log,), "n": (other_log,), "b": (log, other_log)}
    entries = {
        "r": policy(1, change="rotate-key", key=str(other_log.key)),
        "t": policy(2, change="retire-key", keys=[str(log.key)], key=str(other_log.key)),
    }
    with create(url) as ledger:
        for number, (what, who) in enumerate(zip(steps[::2], steps[1::2], strict=True)):
            ledger.append([entries.get(what) or make_record(number)], AT, signed_by(*signers[who]))


@pytest.mark.parametrize(
    "steps",
    [
        "-oro-b-btb-n",
        "-oro-o-btb-b-n",  # another process signs by the old set for a while
        "rb-btb-n",
        "-oro-o-o",  # begun, and never ended
        "-o-o",
    ],
)
def test_keys_sign_from_their_entry_to_their_entry(
    create, url, log, other_log, sealer, make_record, steps: str
) -> None:
    rotated(create, url, log, other_log, make_record, steps)
    keys = (log.key, other_log.key) if "r" in steps else (log.key,)
    full = Means(keys, log.verify, sealer)
    report = audit(url, full)
    assert report.findings == ()
    assert report.state is not None
    assert AuditState.parse(str(report.state)) == report.state
    assert audit(url, replace(full, since=report.state)).findings == ()
    assert audit(url, replace(full, sealer=None)).findings == ()


@pytest.mark.parametrize(
    ("steps", "size"),
    [
        ("-oro-btb-o", 5),  # retired, and signs on alone
        ("-oro-btb-n-o-n", 6),
        ("-oro-n", 3),  # the old one is in force until its end
        ("-oro-bto", 4),  # its end stands on the new one as well
        ("-brb-b", 1),  # before it was announced
        ("-b-orb-b", 1),
    ],
)
def test_a_key_that_signs_out_of_its_term_is_named(
    create, url, log, other_log, sealer, make_record, steps: str, size: int
) -> None:
    rotated(create, url, log, other_log, make_record, steps)
    full = Means((log.key, other_log.key), log.verify, sealer)
    assert found(audit(url, full)) == [(Code.CHECKPOINT_SIGNATURE, size)]


def test_a_retired_key_that_signs_alone_is_named_by_an_audit_that_goes_on(
    create, url, log, other_log, sealer, make_record
) -> None:
    rotated(create, url, log, other_log, make_record, "-oro-btb-n")
    full = Means((log.key, other_log.key), log.verify, sealer)
    state = audit(url, full).state
    assert state is not None
    with create(url) as ledger:
        ledger.append([make_record(90)], AT, log.sign)
    since = AuditState.parse(str(state))
    assert found(audit(url, replace(full, since=since))) == [(Code.CHECKPOINT_SIGNATURE, 6)]
    # Where the new key is not known, nothing of it can be missed; the old one has ended all the same.
    assert (Code.CHECKPOINT_SIGNATURE, 6) in found(audit(url, replace(full, keys=(log.key,))))


def test_a_signature_that_was_taken_away_is_missed(create, url, log, other_log, sealer, make_record) -> None:
    """A log of two keys, and checkpoints that show one: the stronger one could be stripped."""
    rotated(create, url, log, other_log, make_record, "-b-o-b-o")
    report = audit(url, Means((log.key, other_log.key), log.verify, sealer))
    assert found(report) == [(Code.CHECKPOINT_SIGNATURE, 2)]
    assert "nor are 1 others" in report.findings[0].explanation


def test_a_published_note_that_was_deleted_is_missed_by_the_guard(whole, means, ask, tamper) -> None:
    kept = [
        open_checkpoint(bytes(note), means.keys, means.verify)
        for (note,) in ask(whole, "SELECT note FROM checkpoint ORDER BY size")
    ]
    known = replace(means, remembered=kept)
    assert audit(whole, known).findings == ()
    tamper(whole, "DELETE FROM witnessed WHERE size = 400", "DELETE FROM checkpoint WHERE size = 400")
    assert audit(whole, replace(means, remembered=kept[-1])).findings == ()
    assert found(audit(whole, known)) == [(Code.CHECKPOINT_MISSING, 400)]
    tamper(whole, "INSERT INTO checkpoint SELECT 400, x'00', time FROM checkpoint WHERE size = 200")
    assert (Code.CHECKPOINT_MISSING, 400) in found(audit(whole, known))


def test_a_witnessed_note_without_the_log_is_named(whole, means, log, tamper) -> None:
    """Whoever gets a receipt under it could not believe it."""
    root = audit(whole, means).root
    witness = type(log).named("witness.example", b"a witness")
    note = witness.sign(str(Checkpoint(log.name, 600, root)))
    tamper(whole, f"UPDATE witnessed SET note = x'{note.hex()}' WHERE size = 600")
    assert found(audit(whole, means)) == [(Code.WITNESSED_DIFFERS, 600)]


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("UPDATE checkpoint SET note = x'00' WHERE size = 600", Code.CHECKPOINT_MALFORMED),
        ("UPDATE checkpoint SET time = time + 1 WHERE size = 600", Code.CHECKPOINT_TIME),
        ("DELETE FROM checkpoint WHERE size = 600", Code.CHECKPOINT_MISSING),
    ],
)
def test_an_audit_that_goes_on_looks_at_the_checkpoint_that_is_served(
    whole, means, tamper, script: str, code: Code
) -> None:
    state = audit(whole, means).state
    tamper(whole, "DELETE FROM witnessed", script)
    assert found(audit(whole, replace(means, since=state)))[0] == (code, 600)


def test_many_rows_of_nothing_are_counted_and_not_kept(whole, means, tamper) -> None:
    values = ", ".join(f"(5, {number}, x'00')" for number in range(3 * MAX_FINDINGS))
    tamper(whole, f"INSERT INTO tile VALUES {values}")
    report = audit(whole, means)
    assert (len(report.findings), report.omitted) == (MAX_FINDINGS, 2 * MAX_FINDINGS)


@pytest.mark.parametrize(
    ("script", "code", "index"),
    [
        ("UPDATE lookup SET tag = zeroblob(16) WHERE tag = {media}", Code.LOOKUP_FALSE, 1),
        ("UPDATE lookup SET tag = zeroblob(16) WHERE tag = {media}", Code.LOOKUP_MISSING, 1),
        ("DELETE FROM lookup WHERE tag = {media}", Code.LOOKUP_MISSING, 1),
        ("UPDATE lookup SET idx = 0 WHERE tag = {media}", Code.LOOKUP_FALSE, 0),
        ("INSERT INTO lookup VALUES ({media}, 0)", Code.LOOKUP_FALSE, 0),
        ("DELETE FROM lookup", Code.LOOKUP_MISSING, 0),
    ],
)
def test_an_index_that_lies_is_named(
    create, url, log, sealer, make_record, tamper, script: str, code: Code, index: int
) -> None:
    """The flaw it would catch: entries that are there, proven, and never found again."""
    records = [
        make_record(
            number,
            **{kind: hashlib.sha256(f"{kind} {number}".encode()).digest() for kind in ("claim", "media")},
        )
        for number in range(3)
    ]
    with create(url) as ledger:
        ledger.append(records, AT, log.sign)
    full = Means((log.key,), log.verify, sealer)
    assert audit(url, full).findings == ()
    [media] = [sealer.tag(*each).hex() for each in records[1].lookups if each.kind == "media"]
    tamper(url, script.format(media=f"x'{media}'"))
    assert (code, index) in found(audit(url, full))


def test_without_keys_it_says_how_much_it_did_not_open(whole, means, tamper) -> None:
    blind = replace(means, sealer=None)
    report = audit(whole, blind)
    assert (report.findings, report.unopened, report.size) == ((), 600, 600)
    assert report.root == audit(whole, means).root
    assert audit(whole, means).unopened == 0
    # It sees as much of the tree, and nothing of what lies behind the commitments.
    tamper(whole, "UPDATE secret SET sealed = x'00' WHERE idx = 9", "DELETE FROM lookup")
    assert audit(whole, blind).findings == ()
    tamper(whole, "UPDATE entry SET body = x'00' WHERE idx = 9")
    assert found(audit(whole, blind))[0] == (Code.ENTRY_LEAF, 9)


def test_what_was_erased_is_missed_by_nobody(create, url, log, sealer, make_record, tamper) -> None:
    full = Means((log.key,), log.verify, sealer)
    with create(url) as ledger:
        ledger.append([make_record(number) for number in range(5)], AT, log.sign)
        ledger.erase(3, SALT, AT, log.sign)
    assert (audit(url, full).findings, audit(url, full).unopened) == ((), 0)
    blind = audit(url, replace(full, sealer=None))
    assert (blind.findings, blind.unopened) == ((), 5)
    tamper(url, "DELETE FROM secret WHERE idx = 2", "DELETE FROM lookup WHERE idx = 2")
    assert found(audit(url, full)) == [(Code.SECRET_MISSING, 2)]
    # The erasure's own payload says what may be gone; without it nothing may.
    tamper(url, "DELETE FROM secret WHERE idx = 5")
    assert found(audit(url, full)) == [(Code.SECRET_MISSING, index) for index in (2, 3, 5)]


def test_an_erasure_that_names_nothing_erases_nothing(create, url, log, sealer, make_record, tamper) -> None:
    odd = [b'{"erased":[1]}', b'{"erased":"1"}', b'{"erased":null}', b'{"erased":{"a":1}}', b"{}"]
    records = [Record(Kind.ERASE, text, bytes(32), bytes(32)) for text in odd]
    with create(url) as ledger:
        ledger.append([make_record(0), make_record(1), *records], AT, log.sign)
    tamper(url, "DELETE FROM secret WHERE idx = 1", "DELETE FROM lookup WHERE idx = 1")
    assert found(audit(url, Means((log.key,), log.verify, sealer))) == [(Code.SECRET_MISSING, 1)]


def test_a_record_that_an_old_version_took_twice_is_no_divergence(
    create, url, log, sealer, make_record, tamper, ask
) -> None:
    """The first version told records apart by their times too; the first of the two is the record."""
    with create(url) as ledger:
        ledger.append([make_record(0), make_record(1)], AT, log.sign)
    record = make_record(0)
    body = record.entry(AT).body
    frontier = Frontier()
    for (leaf,) in [*ask(url, "SELECT leaf FROM entry ORDER BY idx"), (leaf_hash(body),)]:
        frontier.append(bytes(leaf))
    note = log.sign(f"{log.name}\n3\n{base64.b64encode(frontier.root()).decode()}\n")
    (lookup,) = record.lookups
    sealed = sealer.seal(2, record.salt + record.payload, log.name)
    tamper(
        url,
        f"INSERT INTO entry VALUES (2, x'{leaf_hash(body).hex()}', x'{body.hex()}')",
        f"INSERT INTO secret VALUES (2, x'{sealed.hex()}')",
        f"INSERT INTO lookup VALUES (x'{sealer.tag(*lookup).hex()}', 2)",
        f"INSERT INTO checkpoint SELECT 3, x'{note.hex()}', time FROM checkpoint",
        f"UPDATE head SET size = 3, root = x'{frontier.root().hex()}', "
        f"frontier = x'{b''.join(frontier.nodes).hex()}'",
    )
    full = Means((log.key,), log.verify, sealer)
    assert audit(url, full).findings == ()
    # It hides no commitment that belongs to nothing, and the later one is not the record.
    tamper(url, "INSERT INTO submission VALUES (x'00', 9)")
    assert found(audit(url, full)) == [(Code.SUBMISSION_EXTRA, 9)]
    tamper(url, "UPDATE submission SET idx = 1 WHERE idx = 9")
    assert found(audit(url, full)) == [(Code.SUBMISSION_EXTRA, 3)]
    tamper(
        url, "DELETE FROM submission WHERE commitment = x'00'", "UPDATE submission SET idx = 2 WHERE idx = 0"
    )
    assert (Code.SUBMISSION_DIFFERS, 0) in found(audit(url, full))


def test_an_audit_goes_on_where_one_ended(whole, means, log, make_record, module_sealer, tamper) -> None:
    first = audit(whole, means)
    state = AuditState.parse(str(first.state))
    assert state == first.state
    assert (state.size, first.start) == (600, 0)
    again = audit(whole, replace(means, since=state))
    assert (again.start, again.size, again.root, again.findings) == (600, 600, first.root, ())
    with Ledger.open(whole, module_sealer) as ledger:
        for start, stop in ((600, 601), (601, 1100)):
            records = [make_record(number) for number in range(start, stop)]
            ledger.append(records, AT + timedelta(hours=1), log.sign)
    went_on, everything = audit(whole, replace(means, since=state)), audit(whole, means)
    assert (went_on.start, went_on.findings) == (600, ())
    assert went_on.state == everything.state
    assert (went_on.size, went_on.root) == (everything.size, everything.root) == (1100, went_on.root)
    # What was changed since then below the state is seen by the whole audit only; what is new by both.
    tamper(
        whole,
        "UPDATE entry SET body = x'00' WHERE idx = 5",
        "INSERT INTO lookup VALUES (zeroblob(16), 5)",
    )
    assert audit(whole, replace(means, since=state)).findings == ()
    assert found(audit(whole, means))[0] == (Code.ENTRY_LEAF, 5)
    tamper(whole, "UPDATE entry SET body = x'00' WHERE idx = 700")
    for since in (state, None):
        assert (Code.ENTRY_LEAF, 700) in found(audit(whole, replace(means, since=since)))


@pytest.mark.parametrize(
    ("script", "code", "index"),
    [
        (["DELETE FROM entry WHERE idx = 650"], Code.ENTRY_MISSING, 650),
        (["UPDATE tile SET data = zeroblob(8192) WHERE level = 0 AND number = 2"], Code.TILE_DIFFERS, 512),
        (["UPDATE checkpoint SET note = x'' WHERE size = 800"], Code.CHECKPOINT_MALFORMED, 800),
        (["DELETE FROM secret WHERE idx = 650"], Code.SECRET_MISSING, 650),
        (["UPDATE secret SET sealed = x'' WHERE idx = 650"], Code.SECRET_COMMITMENT, 650),
        (["DELETE FROM lookup WHERE idx = 650"], Code.LOOKUP_MISSING, 650),
        (["DELETE FROM submission WHERE idx = 650"], Code.SUBMISSION_DIFFERS, 650),
        (["UPDATE head SET root = zeroblob(32)"], Code.HEAD_ROOT, 800),
        (["UPDATE tile SET data = zeroblob(96) WHERE level = 1"], Code.TILE_DIFFERS, 0),
    ],
)
def test_an_audit_that_goes_on_finds_new_damage(
    whole, means, log, make_record, module_sealer, tamper, script: list[str], code: Code, index: int
) -> None:
    state = audit(whole, means).state
    with Ledger.open(whole, module_sealer) as ledger:
        ledger.append([make_record(number) for number in range(600, 800)], AT + timedelta(hours=1), log.sign)
    tamper(whole, *script)
    assert found(audit(whole, replace(means, since=state)))[0] == (code, index)


def test_a_ledger_behind_the_last_audit_is_named(
    whole, means, log, make_record, module_sealer, tamper, snapshot
) -> None:
    older = snapshot(whole)
    with Ledger.open(whole, module_sealer) as ledger:
        ledger.append([make_record(600)], AT + timedelta(hours=1), log.sign)
    state = audit(whole, means).state
    tamper(whole, *older)
    assert (Code.HEAD_SIZE, 601) in found(audit(whole, replace(means, since=state)))


def test_a_state_of_another_ledger_is_refused(whole, means) -> None:
    with pytest.raises(LedgerMissingError):
        audit(whole, replace(means, since=AuditState("other.example")))


def test_another_revision_is_not_audited(whole, means, tamper) -> None:
    tamper(whole, "UPDATE alembic_version SET version_num = '0001'")
    try:
        with pytest.raises(LedgerOutdatedError):
            audit(whole, means)
    finally:
        tamper(whole, "UPDATE alembic_version SET version_num = '0002'")


def grown(size: int) -> AuditState:
    """What an audit of any `size` entries ends with, derived node by node."""
    frontier, tiles = Frontier(), dict[int, bytes]()
    for number in range(size):
        for node in frontier.append(hashlib.sha256(b"%d" % number).digest()):
            level, height = divmod(node.level, 8)
            if not height:
                tiles[level] = tiles.get(level, b"") * (node.position % 256 != 0) + node.hash
    open_tiles = {level: hashes for level, hashes in tiles.items() if len(hashes) < 8192}
    terms = {"key": Term(0, None, size - 1)} if size else {}
    return AuditState("log.example", size, 7, frontier.nodes, open_tiles, terms, size // 2)


@given(st.integers(0, 1100))
def test_a_state_reads_back_as_it_was_written(size: int) -> None:
    state = grown(size)
    assert AuditState.parse(str(state)) == state


HOSTILE: dict[str, Callable[[dict[str, object]], object]] = {
    "a list": lambda fields: [fields],
    "nothing": lambda _: None,
    "no size": lambda fields: {name: value for name, value in fields.items() if name != "size"},
    "more": lambda fields: fields | {"more": 1},
    "negative size": lambda fields: fields | {"size": -1},
    "size of another frontier": lambda fields: fields | {"size": 601},
    "size that asks for tiles": lambda fields: fields | {"size": 0b1001011000 << 8},
    "fraction": lambda fields: fields | {"size": 600.0},
    "truth": lambda fields: fields | {"time": True},
    "time in words": lambda fields: fields | {"time": "now"},
    "origin in numbers": lambda fields: fields | {"origin": 7},
    "size beyond every ledger": lambda fields: (
        fields | {"size": 2**64, "frontier": base64.b64encode(bytes(32)).decode(), "tiles": {}}
    ),
    "time before 1970": lambda fields: fields | {"time": -1},
    "no terms": lambda fields: {name: value for name, value in fields.items() if name != "terms"},
    "terms in a list": lambda fields: fields | {"terms": [1]},
    "term too short": lambda fields: fields | {"terms": {"key": [1, None]}},
    "term too long": lambda fields: fields | {"terms": {"key": [1, None, None, None]}},
    "term of truth": lambda fields: fields | {"terms": {"key": [True, None, None]}},
    "term to come": lambda fields: fields | {"terms": {"key": [600, None, None]}},
    "term before": lambda fields: fields | {"terms": {"key": [-1, None, None]}},
    "more untold than entries": lambda fields: fields | {"untold": 601},
    "no tiles": lambda fields: fields | {"tiles": {}},
    "tile at no level": lambda fields: fields | {"tiles": fields["tiles"] | {"9": "AAAA"}},
    "tile below": lambda fields: fields | {"tiles": {"-1": "", **fields["tiles"]}},
    "tile cut short": lambda fields: fields | {"tiles": fields["tiles"] | {"1": "AAAA"}},
    "level padded": lambda fields: (
        fields | {"tiles": {"00": fields["tiles"]["0"], "1": fields["tiles"]["1"]}}
    ),
    "frontier cut short": lambda fields: fields | {"frontier": fields["frontier"][:-44]},
    "frontier of no base64": lambda fields: fields | {"frontier": "?"},
}


@pytest.mark.parametrize("flaw", HOSTILE)
def test_a_state_that_no_audit_wrote_is_refused(flaw: str) -> None:
    fields = json.loads(str(grown(600)))
    with pytest.raises(MalformedError):
        AuditState.parse(json.dumps(HOSTILE[flaw](fields), sort_keys=True) + "\n")


@given(
    st.text(max_size=200)
    | st.builds(lambda cut, size: str(grown(size))[:cut], st.integers(0, 300), st.integers(0, 9))
)
def test_reading_a_state_accepts_what_it_would_write_or_raises_its_own_error(text: str) -> None:
    try:
        assert str(AuditState.parse(text)) == text
    except MalformedError:
        pass


def test_depth_is_no_way_in() -> None:
    for text in ("[" * 100_000, '{"size":' * 50_000, "9" * 10_000, ""):
        with pytest.raises(MalformedError):
            AuditState.parse(text)
