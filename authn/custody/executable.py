"""Refuse code that somebody else could have put in its place.

Applies to what is run or loaded with our rights: the program of exec: and the library of pkcs11:.
Says nothing of what the code does.
"""

import os
import stat
from pathlib import Path

from authn.errors import KeyFileError, ProviderMissingError


class CodeExposedError(KeyFileError):
    """Other users could replace the program or library that would handle the key."""

    code = "key-code-exposed"
    remedy = "Let it and its folders belong to you or root, and run 'chmod go-w' on them."


def own_code(path: Path, what: str) -> Path:
    """Return the file that `path` leads to, once only we or root could have changed it.

    Every folder above it must be so as well, or sticky, as /tmp is; so nobody can change it between
    this look and its use. Access lists beyond the mode are not looked at.
    """
    try:
        found = path.resolve(strict=True)
        facts = found.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise ProviderMissingError(f"the {what} of a key is not a file")
        for place in (found, *found.parents):
            owner, mode = place.stat().st_uid, place.stat().st_mode
            sticky = place != found and mode & stat.S_ISVTX
            if owner not in (os.geteuid(), 0) or (mode & 0o022 and not sticky):
                raise CodeExposedError(f"others could replace the {what} of a key, or a folder it is in")
    except (OSError, RuntimeError, ValueError) as error:
        raise ProviderMissingError(f"the {what} of a key is not there") from error
    return found
