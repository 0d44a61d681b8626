"""A private token made of software, for tests and trials: SoftHSM2 in a folder of its own.

It speaks PKCS#11 as a hardware module does, and protects nothing: its keys are files. The library
reads SOFTHSM2_CONF when it starts, so one such token is in use in a process at a time, and its
children find it as well. Its PINs are drawn at random, and are in no argument of any program.
"""

import ctypes
import json
import os
import secrets
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from authn.custody.uri import TokenAddress
from authn.keys import Algorithm
from tools.errors import Error

_VARIABLE = "SOFTHSM2_CONF"
_LIBRARIES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
_PATIENCE = 60
_LABEL_BYTES = 32


class SoftHsmError(Error):
    """The software token could not be made."""

    code = "softhsm"
    remedy = "Run 'apt-get install -y softhsm2', and install lightseal[hsm]."


def library() -> Path | None:
    """Where SoftHSM2's library is, or None."""
    return next((path for path in map(Path, _LIBRARIES) if path.is_file()), None)


@dataclass(slots=True)
class SoftHsm:
    """One software token; what it keeps stays in `folder`, from one start to the next."""

    folder: Path
    label: str = "lightseal"
    _before: str | None = field(default=None, repr=False)
    _running: bool = False

    @property
    def pin_file(self) -> Path:
        """The file of its PIN, mode 0600."""
        return self.folder / "pin"

    @property
    def tokens(self) -> Path:
        """The folder of its objects: move it away, and the token is pulled out."""
        return self.folder / "tokens"

    @property
    def module(self) -> Path:
        """The library that speaks to it."""
        found = library()
        if found is None:
            raise SoftHsmError("SoftHSM2's library is in none of the usual folders")
        return found

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Make the token if there is none, and let this process and its children find it."""
        if self._running:
            return
        configuration = self.folder / "softhsm2.conf"
        new = not self.pin_file.exists()
        if new:
            self.tokens.mkdir(mode=0o700, parents=True)
            self.folder.chmod(0o700)
            configuration.write_text(
                f"directories.tokendir = {self.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
            )
        self._release()
        self._before = os.environ.get(_VARIABLE)
        os.environ[_VARIABLE] = os.fspath(configuration)
        self._running = True
        if new:
            self._make()

    def stop(self) -> None:
        """Log out, and let this process find what it found before; harmless if it was not started."""
        if not self._running:
            return
        self._release()
        self._running = False
        if self._before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = self._before

    def uri(self, name: str) -> str:
        """The address of the key of that name, there or not."""
        return str(self.address(name))

    def address(self, name: str) -> TokenAddress:
        """The same, taken apart."""
        return TokenAddress(self.label, None, name, None, self.module, self.pin_file)

    def generate(self, name: str, algorithm: Algorithm = Algorithm.ES256) -> str:
        """Make a key inside the token, and return its URI."""
        from authn.custody.pkcs11 import make_token_key  # noqa: PLC0415 - the package may be missing

        make_token_key(self.address(name), algorithm).close()
        return self.uri(name)

    def _release(self) -> None:
        from authn.custody.pkcs11 import release  # noqa: PLC0415 - the package may be missing

        release(self.module)

    def _make(self) -> None:
        """Initialise it in a process of its own, so that no login of ours is in the way."""
        pin = secrets.token_urlsafe(12)
        wanted = {"module": os.fspath(self.module), "label": self.label, "pin": pin}
        done = subprocess.run(
            [sys.executable, "-m", "tools.softhsm"],
            input=json.dumps(wanted).encode(),
            capture_output=True,
            cwd=Path(__file__).parents[1],
            timeout=_PATIENCE,
            check=False,
        )
        if done.returncode != 0:
            raise SoftHsmError("SoftHSM2 could not make a token in its folder")
        self.pin_file.touch(mode=0o600, exist_ok=False)
        self.pin_file.write_text(pin + "\n", encoding="ascii")


def initialise(module: str, label: str, pin: str) -> None:
    """Make a token in the library's free slot; its security officer's PIN is forgotten at once.

    C_InitToken is called by itself, as python-pkcs11 does not offer it (PKCS#11 2.40, 5.5).
    """
    import pkcs11  # noqa: PLC0415 - the package may be missing

    officer = secrets.token_urlsafe(12)
    loaded = pkcs11.lib(module)
    slot = loaded.get_slots()[-1].slot_id
    padded = label.encode().ljust(_LABEL_BYTES)
    if len(padded) != _LABEL_BYTES:
        raise SoftHsmError("the label of a token is longer than 32 bytes")
    status = ctypes.CDLL(module).C_InitToken(
        ctypes.c_ulong(slot), officer.encode(), ctypes.c_ulong(len(officer)), padded
    )
    if status != 0:
        raise SoftHsmError(f"SoftHSM2 refused to make a token: {status:#x}")
    loaded.reinitialize()
    with loaded.get_token(token_label=label).open(rw=True, so_pin=officer) as session:
        session.init_pin(pin)


if __name__ == "__main__":
    initialise(**json.load(sys.stdin))
