"""A private TPM made of software, for tests and trials: swtpm in a folder of its own.

It speaks as a real TPM does, and its makers' certificate comes from a certificate authority
in the same folder, which nobody else trusts. It protects nothing: its keys are files.
"""

import os
import secrets
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tools.errors import Error

_START_SECONDS = 20.0
_STOP_SECONDS = 10.0
_SETUP_SECONDS = 60
_ATTEMPTS = 5
_FIRST_PORT, _PORTS = 12_000, 20_000
# TPM2_Shutdown(CLEAR). Without it a TPM counts a restart as a wrong PIN, and locks itself after the third.
_SHUTDOWN = bytes.fromhex("80010000000c000001450000")


class SwtpmError(Error):
    """The software TPM could not be made or started."""

    code = "swtpm"
    remedy = "Run 'apt-get install -y swtpm swtpm-tools', or look at swtpm.log in the folder named."


@dataclass(slots=True)
class Swtpm:
    """One software TPM; `start` and `stop` as often as you like, its memory stays in `folder`."""

    folder: Path
    port: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def tcti(self) -> str:
        """How the TPM library reaches it; stays the same from one start to the next."""
        return f"swtpm:host=127.0.0.1,port={self.port}"

    @property
    def roots(self) -> bytes:
        """The certificate that the TPM's own certificates lead to, in PEM."""
        return (self.folder / "ca" / "swtpm-localca-rootca-cert.pem").read_bytes()

    @property
    def intermediates(self) -> bytes:
        """The authority between that root and the TPM's certificates, in PEM; the TPM does not keep it."""
        return (self.folder / "ca" / "issuercert.pem").read_bytes()

    @property
    def running(self) -> bool:
        """Whether the program is alive."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Make the TPM if there is none yet, and wait until it answers on 127.0.0.1 alone."""
        if self.running:
            return
        self._make()
        for _ in range(_ATTEMPTS):
            self.port = self.port or _free_pair()
            self._process = self._launch()
            if self._answers():
                return
            self.stop()
            self.port = 0  # somebody took the port in between
        raise SwtpmError(f"the software TPM in {self.folder} did not start; see {self.folder / 'swtpm.log'}")

    def stop(self) -> None:
        """End the program as a machine that is switched off in order; harmless if it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), _STOP_SECONDS) as wire:
            wire.sendall(_SHUTDOWN)
            wire.recv(len(_SHUTDOWN))
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """Pull the TPM out: no farewell. A TPM that a PIN was used with counts this as a wrong one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _make(self) -> None:
        state, authority = self.folder / "state", self.folder / "ca"
        if (state / "tpm2-00.permall").exists():
            return
        for folder in (self.folder, state, authority):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        options = self.folder / "options.conf"
        options.write_text("--platform-manufacturer Lightseal\n--platform-version 1\n--platform-model Test\n")
        localca = self.folder / "localca.conf"
        localca.write_text(
            f"statedir = {authority}\n"
            f"signingkey = {authority / 'signkey.pem'}\n"
            f"issuercert = {authority / 'issuercert.pem'}\n"
            f"certserial = {authority / 'certserial'}\n"
        )
        setup = self.folder / "setup.conf"
        setup.write_text(
            f"create_certs_tool = {_program('swtpm_localca')}\n"
            f"create_certs_tool_config = {localca}\n"
            f"create_certs_tool_options = {options}\n"
            "active_pcr_banks = sha256\n"
        )
        command = [_program("swtpm_setup"), "--tpm2", "--tpmstate", os.fspath(state), "--create-ek-cert"]
        command += ["--config", os.fspath(setup), "--logfile", os.fspath(self.folder / "setup.log")]
        if os.geteuid() == 0:
            command += ["--runas", "root"]  # else it becomes a user who cannot enter the folder
        done = subprocess.run(command, capture_output=True, timeout=_SETUP_SECONDS, check=False)  # noqa: S603 - our own arguments
        if done.returncode != 0:
            raise SwtpmError(f"the software TPM could not be made; see {self.folder / 'setup.log'}")

    def _launch(self) -> subprocess.Popen[bytes]:
        command = [_program("swtpm"), "socket", "--tpm2", "--flags", "not-need-init,startup-clear"]
        command += ["--tpmstate", f"dir={self.folder / 'state'}"]
        command += ["--server", f"type=tcp,port={self.port},bindaddr=127.0.0.1"]
        command += ["--ctrl", f"type=tcp,port={self.port + 1},bindaddr=127.0.0.1"]
        with (self.folder / "swtpm.log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603 - our own arguments

    def _answers(self) -> bool:
        """Whether the control channel takes a connection before the time is up."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self.running:
            try:
                socket.create_connection(("127.0.0.1", self.port + 1), timeout=1).close()
            except OSError:
                time.sleep(0.02)
                continue
            return self.running
        return False


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SwtpmError(f"the program {name} is not installed")
    return path


def _free_pair() -> int:
    """A port of 127.0.0.1 that is free together with the next one; the TPM library expects the two side by side.

    Below the ports that a system hands out by itself, so that it stays free while the TPM is stopped.
    """
    while True:
        port = _FIRST_PORT + secrets.randbelow(_PORTS)
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
