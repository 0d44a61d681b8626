import os
import socket
from pathlib import Path

import pytest

from tools.swtpm import Swtpm, SwtpmError

pytestmark = pytest.mark.needs("swtpm")


def listening(process: int) -> set[tuple[str, int]]:
    """The TCP sockets on which a process listens, by Linux's own table."""
    inodes = {os.fspath(link.readlink()) for link in Path(f"/proc/{process}/fd").iterdir()}
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, state, inode = (line.split()[column] for column in (1, 3, 9))
        if state == "0A" and f"socket:[{inode}]" in inodes:
            address, port = local.split(":")
            found.add((socket.inet_ntoa(bytes.fromhex(address)[::-1]), int(port, 16)))
    return found


def test_a_software_tpm_is_private_and_remembers(tmp_path: Path) -> None:
    tpm = Swtpm(tmp_path / "tpm")
    with tpm:
        assert tpm._process is not None
        assert listening(tpm._process.pid) == {("127.0.0.1", tpm.port), ("127.0.0.1", tpm.port + 1)}
        tpm.start()  # once is enough
        where, root = tpm.tcti, tpm.roots
        memory = (tmp_path / "tpm" / "state" / "tpm2-00.permall").read_bytes()
    assert not tpm.running
    tpm.stop()
    tpm.kill()
    with tpm:
        assert (tpm.tcti, tpm.roots) == (where, root)
        assert len((tmp_path / "tpm" / "state" / "tpm2-00.permall").read_bytes()) == len(memory)
    assert (tmp_path / "tpm").stat().st_mode & 0o077 == 0
    assert root.startswith(b"-----BEGIN CERTIFICATE-----")
    assert tpm.intermediates != root


def test_a_folder_that_cannot_hold_a_tpm_is_named(tmp_path: Path) -> None:
    state = tmp_path / "tpm" / "state"
    state.mkdir(parents=True)
    (state / "tpm2-00.permall").write_bytes(b"no state of a TPM")
    with pytest.raises(SwtpmError, match="did not start"):
        Swtpm(tmp_path / "tpm").start()
