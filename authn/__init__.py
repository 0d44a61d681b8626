"""What a signed capture proves.

*Somebody who knew this device's private key signed exactly these bytes, and the
signature existed by this time.* Everything here serves that sentence, and says
so when a part of it is missing. Nothing here knows of a detector or a database.

The flow of a check, `verify.verify_media`:

    media -> locate: our own look at the record first, which counts what the SDK would drown in
          -> manifest (the SDK's reading) and jumbf, cbor, cose, claim (ours)
          -> binding: is it what was hashed, and was anything left out
          -> signer: tokens first (attached ones too), then chain and profile at that time,
             then revocation (crl, ocsp): stapled, or as the examiner was told
          -> history: every earlier version, recorded and recomputed
          -> claims, cawg: what the signer says, and who else signed for it
          -> evidence.Provenance: states, and the findings they follow from

Invariants:

- The SDK parses, hashes and signs; it never judges. It is given no trust anchor
  and no network, and its own verdict is not read. An unknown failure code of
  its counts as a failure.
- A signature counts only when our own check of it and the SDK's agree; a time
  only when our own check of the token and another implementation's agree.
- Lists have one purpose. An anchor for time never helps a signer or an identity,
  whichever root they share, and so round. Each list judges by its own profile.
- A withdrawal counts by its issuer's signature, wherever it came from. Nothing
  here asks anybody.
- The identity of a signed asset is (claim hash, binding hash). A file's own
  SHA-256 is not: most bytes of an embedded manifest can be changed freely.
- Time, keys and chance are arguments. No clock, path, environment or socket
  below `tools`, except the loopback address of `timestamp.loopback`.

Decided by measurement: manifests are written uncompressed. Compressed ones are
some 10 KB smaller, but the SDK then binds JPEG by boxes, which leaves bytes
appended after the picture unbound and takes three times as long to verify.

What lies beside the check:

    keys, custody        whatever can sign without giving its key away, named by a URI
    identity, profile    certificates planned, logged, then made; held to the strict policy first
    csr, approval        what a device asks for, and what lets an authority grant it
    attestation          what hardware proves of where a key is: labels E0 to E3
    withdrawal           telling others what was withdrawn: revocation lists, status answers
    capture_chain        a device's captures in their order, hidden in each claim
    http_signature       requests that a device signs (RFC 9421)
    timestamp            tokens given, asked for and judged; a clock that is not relied on blindly

Left to others: fetching what issuers say of withdrawals, what a ledger knows, what
the file says outside the record, what pixels suggest, the verdict.
"""
