"""Keys that this process cannot hand out: tokens, TPMs, programs and services.

Every key is named by a URI (`authn.custody.uri`) and opened by `authn.custody.opening`; whatever keeps
it, the result is an `authn.keys.KeyProvider`. What holds for each of them:

- A signature is verified under the public key before it leaves. A token, program or service that
  answers with another key's signature, or a faulty one, raises `SelfCheckError` and nothing else.
- A token or TPM gets a wrong PIN once and never again from this process, however often the key is
  opened (`authn.custody.pkcs11`, `authn.custody.tpm`). Another process knows nothing of it.
- Secrets come from files that nobody else may read; never from a URI, an argument or a log.
- When the keeper is gone, slow or refuses, an error with a code and a remedy says which. The call
  that met it is not repeated by itself, and no signature is made up.
- Providers may be used by several threads, after a fork, and may be sent to a spawned process: what
  travels is the address, and the process opens its own way to the key. (A TPM key after a fork takes
  the kernel's resource manager; see `authn.custody.tpm`.)

That a key is in a token is what its operator says (evidence label E0 or E1). What hardware can
prove is judged in `authn.attestation`; nothing here proves it.
"""
