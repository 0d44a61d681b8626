"""What was recorded, provably.

`storage` keeps an append-only log of commitments in SQL and hands out receipts that
a stranger checks offline, with public tools. It records that a payload was there; it
does not know what a payload means, who anybody is, or whether a picture is true.

The log is the Merkle tree of RFC 6962 with SHA-256, spoken in the formats of C2SP:
signed-note, tlog-checkpoint, tlog-cosignature, tlog-policy, tlog-proof, tlog-tiles,
tlog-witness; receipts also as COSE (RFC 9942).

Flow. `Ledger.append` takes records (payload, salt, pseudonym of the key concerned),
commits to each with SHA-256 over salt and payload, hashes the commitments into the
tree and signs a checkpoint of the new size, all in one durable transaction; then the
guard learns of the checkpoint, and only then the caller. `Ledger.prove` returns a
receipt: payload, salt, entry, inclusion proof, checkpoint, with the cosignatures of
witnesses where there are any. `Receipt.check` needs nothing but the receipt and the log's
verifier keys. `audit` derives the whole ledger again from the bodies of its entries;
`foreign` does the same to somebody else's log, over HTTP.

    errors base64text durable   what can keep it from answering; bytes; small files
    payload entry record        what is recorded, byte for byte
    merkle tile derivation      the tree, its tiles, and both derived again
    note checkpoint cosignature proof policy
                                what logs and witnesses sign, and when that is enough
    receipt receipt_cose        all of that in one file
    keyring guard               what lies outside the database: keys to payloads, the newest checkpoint
    tables database sqlite postgres migrations
                                the same in SQL, on two engines
    view growth ledger          one state read; one batch written; the log
    audit auditing              everything derived again
    sequencer log_app log_add   group commit, and the log over HTTP
    witness                     cosigning other logs, and having one's own cosigned
    foreign                     other people's logs, read as a stranger
    backup                      out of the database, and back

Signing, verifying and sealing are callables handed in; so are time and chance. Nothing
here imports cryptography.

The invariants, and what holds them:

I1  Indices are dense from 0.                        one writer at a time; audit
I2  A leaf is the hash of its body.                  append; audit
I3  A tile holds the hashes of its entries.          append; audit; `prove` checks before it hands out
I4  Root and frontier are those of all leaves.       append recomputes the root; audit
I5  Checkpoints are prefixes of one history, and     append; audit verifies every one ever signed
    their sizes and times never go back.
I6  No checkpoint is seen before its entries are     note and entries are committed together, with
    durable.                                         synchronous=FULL, or synchronous_commit and fsync on
I7  Nothing larger than the newest checkpoint        the guard, before each signature and before each
    elsewhere is forgotten.                          answer; witnesses, when a service starts and goes on
I8  The clock never goes back.                       append refuses; audit
I9  The same record has the same index.              an index of commitments, asked under the lock; audit

What it does not do:

- Without witnesses, a log shown differently to two people, or written anew as a whole by
  someone who holds its key and its guard, is noticed only by comparing checkpoints, and
  the time in an entry is the log operator's word. Time from others comes in cosignatures,
  and in tokens, which receipts carry and `authn` verifies.
- The triggers and roles stop mistakes, not the owner of the database.
- Erasing destroys payload, salt and their key. Receipts in other hands keep theirs, older
  copies of the keyring open older copies of the database, and an erased payload's
  commitment stays in the tree.
- It does not say how many entries a key should have: an owner who knows the pseudonym
  has to look.
"""
