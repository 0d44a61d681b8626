"""What was recorded, provably.

`storage` keeps an append-only log of commitments in SQL and hands out receipts that
a stranger checks offline, with public tools. It records that a payload was there; it
does not know what a payload means, who anybody is, or whether a picture is true.

The log is the Merkle tree of RFC 6962 with SHA-256, spoken in the formats of C2SP:
signed-note, tlog-checkpoint, tlog-tiles, tlog-proof.

Flow. `Ledger.append` takes records (payload, salt, pseudonym of the signing key),
commits to each with SHA-256 over salt and payload, hashes the commitments into the
tree and signs a checkpoint of the new size, all in one durable transaction.
`Ledger.prove` returns a receipt: payload, salt, entry, inclusion proof, checkpoint.
`Receipt.check` needs nothing but the receipt and the log's verifier key. `audit`
derives the whole ledger again from the bodies of its entries.

    errors                    what can keep it from answering
    base64text payload entry  what is recorded, byte for byte
    merkle tile               the tree, and its tiles
    note checkpoint proof     what a log signs, and how an entry leads there
    receipt                   all of that in one file
    tables ledger audit       the same, in SQL

Signing and verifying are callables handed in; so are time and chance. Nothing here
imports cryptography.

The invariants, and what holds them:

I1  Indices are dense from 0.                        one writer at a time; audit
I2  A leaf is the hash of its body.                  append; audit
I3  A tile holds the hashes of its entries.          append; audit; `prove` checks before it hands out
I4  Root and frontier are those of all leaves.       append recomputes the root; audit
I5  Checkpoints are prefixes of one history, and     append; audit verifies every one ever signed
    their sizes and times never go back.
I6  No checkpoint is seen before its entries are     note and entries are committed together,
    durable.                                         with synchronous=FULL
I7  Nothing larger than the newest checkpoint        NOT ENFORCED YET: a database restored from an old
    elsewhere is forgotten.                          copy is noticed by those who kept a checkpoint
I8  The clock never goes back.                       append refuses; audit
I9  The same body has the same index.                append; a unique index

What it does not do:

- No witnesses yet. A log shown differently to two people, or written anew as a whole
  by someone who holds its key, is noticed only by comparing checkpoints, and the time
  in an entry is the log operator's word. Time from others comes in tokens, which
  receipts carry and `authn` verifies.
- The triggers stop mistakes, not the owner of the file.
- Erasing deletes payload, salt and lookups here. Backups and receipts in other hands
  keep theirs, and an erased payload's commitment stays in the tree.
- It does not say how many entries a key should have: an owner who knows the pseudonym
  has to look.
"""
