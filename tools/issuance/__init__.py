"""Enrol devices and issue their certificates: two authorities, in two processes.

```
 device                registration authority (ra)           issuing authority (ca)        ledger
   | POST /v1/enrolments   |                                        |                         |
   |  token, product ----->| token used up; challenge drawn         |                         |
   |<-- challenge, terms --|                                        |                         |
   | POST /v1/enrolments/{id}                                       |                         |
   |  requests, evidence ->| challenge used up; evidence judged;    |                         |
   |                       | product's rules; pin; signed approval  |                         |
   |                       |-- approval, terms, requests ---------->| journal; keys reserved; |
   |                       |                                        |-- `issue` entries ----->|
   |                       |                                        |<-- indices -------------|
   |<-- certificates ------|<-- certificates -----------------------| signs                   |
```

`registration` speaks with strangers and cannot sign a certificate; `authority` can, and speaks
with nobody but through a socket that only its own user may reach. Whoever takes over the first
can have certificates made for keys and products of his choice, but none that is not in the
ledger, and none once the second is stopped. Whoever takes over the second has the authority.

A device that was enrolled comes back without a token: it begins with its name, and signs the
challenge and the new keys with the key it has. No key is certified twice. Where evidence was
pinned, the same has to come again; another pin, with the device's own key, makes it suspect.
A token is for a product and never enough to become a device that there is: it must show a pin
that is the device's own (a TPM's attestation key, an app's attested key), and what a batch of
phones shares is none. Who holds a token and names a device is refused, and the device left alone.

What is logged before it exists: every certificate, by the digest of all that is signed of it.
A crash at any point leaves issued = logged, once the authority has started again: it finishes
what was logged and forgets what was not.

What this does not prove: who holds a device, and, for the label E1, that there is a token at
all; its operator says so: by enrolling the device himself on the home, or for a whole product
by its rules. What a device says over the network is worth E0. The home can link the
certificates of a one-time pool to their device, though nobody else can.
"""
