import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.checkpoint import Checkpoint, open_checkpoint
from storage.errors import MalformedCheckpointError, NoteSignatureError
from storage.merkle import EMPTY_ROOT

printable = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=30)
checkpoints = st.builds(Checkpoint, printable, st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))


@given(checkpoints)
def test_a_checkpoint_reads_back_as_it_was_written(checkpoint: Checkpoint) -> None:
    assert Checkpoint.parse(str(checkpoint)) == checkpoint


@given(
    st.text(max_size=100)
    | checkpoints.map(str).flatmap(
        lambda text: st.builds(
            lambda at, new: text[:at] + new + text[at + 1 :], st.integers(0, len(text)), st.text(max_size=2)
        )
    )
)
def test_reading_accepts_what_it_would_write_or_raises_its_own_error(text: str) -> None:
    try:
        assert str(Checkpoint.parse(text)) == text
    except MalformedCheckpointError:
        pass


@pytest.mark.parametrize("size", ["-1", "+1", "01", "1_0", "\u0663", " 1", "1.0", str(2**63), "9" * 5000, ""])
def test_only_a_plain_decimal_size_is_read(size: str) -> None:
    text = str(Checkpoint("log.example", 77, EMPTY_ROOT))
    assert Checkpoint.parse(text).size == 77
    with pytest.raises(MalformedCheckpointError):
        Checkpoint.parse(text.replace("77", size))


def test_extension_lines_are_refused() -> None:
    with pytest.raises(MalformedCheckpointError):
        Checkpoint.parse(str(Checkpoint("log.example", 1, EMPTY_ROOT)) + "extension\n")


def test_a_log_signs_only_for_itself(log) -> None:
    own = Checkpoint(log.name, 0, EMPTY_ROOT)
    assert open_checkpoint(log.sign(str(own)), [log.key], log.verify) == own
    with pytest.raises(NoteSignatureError):
        open_checkpoint(log.sign(str(Checkpoint("other.example", 0, EMPTY_ROOT))), [log.key], log.verify)
    with pytest.raises(MalformedCheckpointError):
        open_checkpoint(log.sign("not a checkpoint\n"), [log.key], log.verify)
