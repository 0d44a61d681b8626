"""With a key in a TPM, the TPM counts the captures, and no copy of a folder puts it back."""

from pathlib import Path

import pytest

from tools.camera.chain import held
from tools.camera.folder import Camera
from tools.camera.hardware import counter_of
from tools.swtpm import Swtpm


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
