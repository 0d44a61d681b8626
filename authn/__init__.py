"""What a signed capture proves.

*Somebody who knew this device's private key signed exactly these bytes, and the
signature existed by this time.* Everything here serves that sentence, and says
so when a part of it is missing. Nothing here knows of a detector or a database.

The flow of a check, `verify.verify_media`:

    media -> manifest (the SDK's reading) and jumbf, cbor, cose (ours)
          -> binding: is it what was hashed, and was anything left out
          -> signer: time-stamp token first, then chain and profile at that time
          -> history: every earlier version, recorded and recomputed
          -> evidence.Provenance: states, and the findings they follow from

Invariants:

- The SDK parses, hashes and signs; it never judges. It is given no trust anchor
  and no network, and its own verdict is not read. An unknown failure code of
  its counts as a failure.
- A signature counts only when our own check of it and the SDK's agree; a time
  only when our own check of the token and another implementation's agree.
- Lists have one purpose. An anchor for time never helps a signer, whichever
  root they share, and the reverse.
- The identity of a signed asset is (claim hash, binding hash). A file's own
  SHA-256 is not: most bytes of an embedded manifest can be changed freely.
- Time, keys and chance are arguments. No clock, path, environment or socket
  below `tools`, except the loopback address of `timestamp.loopback`.

Decided by measurement: manifests are written uncompressed. Compressed ones are
some 10 KB smaller, but the SDK then binds JPEG by boxes, which leaves bytes
appended after the picture unbound and takes three times as long to verify.

Left to others: whether the certificate was withdrawn (nobody is asked yet, and
the answer says so), what a ledger knows, what pixels suggest, the verdict.
"""
