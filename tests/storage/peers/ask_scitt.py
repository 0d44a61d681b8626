"""Asks scitt-cose, in its own environment, whether COSE receipts hold for entries.

Reads {"key", "claims"} as JSON; prints the root that each receipt leads to, null where it is refused.
"""

import json
import sys

from scitt_cose.receipt import verify_receipt

asked = json.load(sys.stdin)
answers = []
for claim in asked["claims"]:
    told = verify_receipt(
        bytes.fromhex(claim["receipt"]), leaf_entry_hex=claim["entry"], log_public_key_pem=asked["key"]
    )
    answers.append(told.root if told.ok else None)
json.dump(answers, sys.stdout)
