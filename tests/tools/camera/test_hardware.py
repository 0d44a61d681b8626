"""With a key in a TPM, the TPM counts the captures, and no copy of a folder puts it back."""

from pathlib import Path

import pytest

from tools.camera.chain import held
from tools.camera.folder import Camera
from tools.camera.hardware import RECORD, counter_of
from tools.swtpm import Swtpm


def numbered(folder: Camera, media: bytes) -> int:
    """Take one number for that media, and give it back."""
    with counter_of(folder) as counter, held(folder, counter) as chain:
        pending = chain.begin(media, "", bytes(32), "x.jpg", None)
        chain.end(pending)
        return pending.opening.counter


def camera(folder: Path, tcti: str, salt: bytes) -> Camera:
    folder.mkdir(mode=0o700, exist_ok=True)
    return Camera(folder, "cam", f"tpm:key.tss?tcti={tcti}", salt)


def test_a_device_without_a_tpm_has_no_counter(tmp_path: Path) -> None:
    with counter_of(Camera(tmp_path, "cam", "file:key.pem", bytes(32))) as counter:
        assert counter is None


@pytest.mark.needs("swtpm")
def test_a_tpm_counts_each_devices_captures_apart(tmp_path: Path) -> None:
    pytest.importorskip("tpm2_pytss", reason="tpm2-pytss is not installed: pip install 'lightseal[tpm]'")
    with Swtpm(tmp_path / "tpm") as running:
        one, two = (camera(tmp_path / name, running.tcti, name.encode() * 32) for name in "ab")
        numbers = []
        for number in range(3):
            with counter_of(one) as counter, held(one, counter) as chain:
                pending = chain.begin(bytes([number]) * 32, "", bytes(32), "x.jpg", None)
                chain.end(pending)
                numbers.append(pending.opening.counter)
        assert numbers == list(range(numbers[0], numbers[0] + 3))
        (one.path / "chain" / "state.json").unlink()
        with counter_of(one) as counter, held(one, counter) as chain:
            begun = chain.begin(b"c" * 32, "", bytes(32), "x.jpg", None)
        assert begun.opening.counter == numbers[-1] + 1, "a folder that forgot does not make the TPM forget"
        with counter_of(two) as counter:
            assert counter is not None
            before = counter.read()
            with counter_of(one) as other:
                assert other is not None
                other.advance()
            assert counter.read() == before


@pytest.mark.needs("swtpm")
def test_two_devices_that_look_at_the_same_place_of_a_tpm_do_not_share_a_counter(tmp_path: Path) -> None:
    pytest.importorskip("tpm2_pytss", reason="tpm2-pytss is not installed: pip install 'lightseal[tpm]'")
    with Swtpm(tmp_path / "tpm") as running:
        one, two = (camera(tmp_path / name, running.tcti, b"s" * 32) for name in "ab")
        first = [numbered(one, b"a" * 32), numbered(one, b"b" * 32)]
        second = [numbered(two, b"a" * 32)]
        first.append(numbered(one, b"c" * 32))
        second.append(numbered(two, b"b" * 32))
        assert first == list(range(first[0], first[0] + 3)), "no gap where the other device counted"
        assert second == list(range(second[0], second[0] + 2))
        for folder, last in ((one, first[-1]), (two, second[-1]), (one, 0)):
            (folder.path / "chain" / RECORD).unlink()
            assert (again := numbered(folder, b"d" * 32)) > last
            for each in (folder.path / "chain").iterdir():
                each.unlink()
            assert numbered(folder, b"e" * 32) > again, "who forgets everything gets no number again"
