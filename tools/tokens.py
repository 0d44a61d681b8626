"""Tokens that came after the signature: one file each, named by the SHA-256 of the signature they date.

A device without a network signs without a time; whoever receives the capture takes a token then,
over the raw signature as C2PA's `c2pa.time-stamp` has it, and keeps it here. Nothing is believed
because it lies here: a token stands by its own signature, under the time-stampers' list.
"""

import os
from pathlib import Path

from authn.cose import MAX_TOKEN
from storage import durable
from tools.output import put_whole


def place(folder: Path, signature: bytes) -> Path:
    """Where the token over the signature of that SHA-256 lies."""
    name = signature.hex()
    return folder / name[:2] / f"{name}.tst"


def keep(folder: Path, signature: bytes, token: bytes) -> None:
    """Keep a token, durable, unless there is one already."""
    path = place(folder, signature)
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    put_whole(path, token)
    durable.sync_folder(path)
    durable.sync_folder(path.parent)


def kept(folder: Path, signature: bytes) -> tuple[bytes, ...]:
    """The token kept over that signature, or none; what is too large, or no file, is none."""
    try:
        descriptor = os.open(place(folder, signature), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return ()
    with os.fdopen(descriptor, "rb") as file:
        try:
            token = file.read(MAX_TOKEN + 1)
        except OSError:
            return ()
    return (token,) if len(token) <= MAX_TOKEN else ()
