"""Asks sigstore-python, in its own environment, whether a checkpoint and a proof of inclusion hold.

Reads {"name", "key", "key_id", "claims"} as JSON; prints one reason for each claim, "" where it
holds. What is called is internal to sigstore-python: it is pinned, and has no other entrance.
"""

import base64
import json
import sys
from types import SimpleNamespace

from sigstore._internal.merkle import verify_merkle_inclusion
from sigstore._internal.rekor.checkpoint import verify_checkpoint
from sigstore._internal.trust import Keyring
from sigstore.errors import VerificationError
from sigstore_models.common import v1 as common

asked = json.load(sys.stdin)
public = common.PublicKey(raw_bytes=asked["key"].encode(), key_details=common.PublicKeyDetails.PKIX_ED25519)
keys = Keyring([public])
answers = []
for claim in asked["claims"]:
    proof = SimpleNamespace(
        log_index=claim["index"],
        tree_size=claim["size"],
        hashes=[base64.b64decode(item) for item in claim["hashes"]],
        root_hash=base64.b64decode(claim["root"]),
        checkpoint=SimpleNamespace(envelope=claim["note"]),
    )
    entry = SimpleNamespace(
        canonicalized_body=base64.b64decode(claim["entry"]),
        inclusion_proof=proof,
        log_id=SimpleNamespace(key_id=base64.b64decode(asked["key_id"])),
    )
    try:
        verify_checkpoint(keys, SimpleNamespace(_inner=entry))
        verify_merkle_inclusion(SimpleNamespace(_inner=entry))
        answers.append("")
    except VerificationError as error:
        answers.append(str(error) or "refused")
json.dump(answers, sys.stdout)
