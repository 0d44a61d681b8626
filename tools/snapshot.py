"""Make a trust list that describes itself from the file its publisher has.

    python -m tools.snapshot C2PA-TRUST-LIST.pem signing c2pa-certificate-policy-0.2 2026-09-24 \\
        "C2PA Trust List" URL > tools/lists/c2pa-signers.pem
    python -m tools.snapshot C2PA-TSA-TRUST-LIST.pem time-stamping rfc3161-time-stamping 2026-09-24 \\
        "C2PA TSA Trust List" URL > tools/lists/c2pa-time-stampers.pem

Fetches nothing, and does not check that the file is the publisher's: whoever makes
a snapshot compares the file with what the publisher has, by another way.
"""

import dataclasses
import re
import sys
from datetime import date
from pathlib import Path

from authn.profile import Profile
from authn.trust import Purpose, TrustList

FRESH_DAYS = 180
_REMARK_OF_PUBLISHER = re.compile(rb"^Subject[ \t=:][^\r\n]*\r?\n", re.MULTILINE)


def snapshot(
    published: bytes, name: str, purpose: Purpose, profile: Profile, dated: date, source: str
) -> bytes:
    """The anchors of `published` as a list of ours; the lines that begin with Subject are left out.

    The hosts are those that the anchors themselves name for asking about withdrawal.
    """
    bare = TrustList.parse(_REMARK_OF_PUBLISHER.sub(b"", published), name, purpose, profile)
    return dataclasses.replace(
        bare,
        version=dated.isoformat(),
        dated=dated,
        fresh_days=FRESH_DAYS,
        source=source,
        hosts=bare.status_hosts(),
    ).described()


def main(arguments: list[str]) -> None:
    """Write the list to standard output."""
    path, purpose, profile, dated, name, source = arguments
    published = Path(path).read_bytes()
    made = snapshot(published, name, Purpose(purpose), Profile(profile), date.fromisoformat(dated), source)
    sys.stdout.buffer.write(made)


if __name__ == "__main__":
    main(sys.argv[1:])
