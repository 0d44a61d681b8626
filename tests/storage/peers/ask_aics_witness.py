"""Lets aics-witness's client, in its own environment, collect a cosignature from a witness.

Reads {"url", "witness", "note", "old", "proof"} as JSON; prints {"lines", "refused"}: the cosignature
that the client verified, or why there is none.
"""

import base64
import json
import sys

from aics_witness import FeederError, WitnessClient

asked = json.load(sys.stdin)
proof = (asked["old"], [base64.b64decode(item) for item in asked["proof"]])
told = {"lines": "", "refused": ""}
with WitnessClient(asked["url"], asked["witness"], max_attempts=1) as client:
    try:
        told["lines"] = client.submit(asked["note"], proof)
    except FeederError as error:
        told["refused"] = f"{type(error).__name__}: {error}"
json.dump(told, sys.stdout)
