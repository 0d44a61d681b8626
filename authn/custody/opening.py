"""Open the key that a URI names, whatever keeps it."""

from authn.custody import uri
from authn.keys import KeyProvider, open_key, read_secret


def open_provider(address: str) -> KeyProvider:
    """Open the key at `address`, in one of the forms of `authn.custody.uri`.

    Reads the public key, and checks that the key is of a kind we sign with. Signs nothing, so a key
    that its keeper has disabled may only show when it is used. The door of each kind of keeper is
    imported when it is asked for, so that a package that is not installed is missed by nobody else.
    """
    match uri.parse(address):
        case uri.FileAddress(path, pin_source):
            return open_key(f"file:{path}", None if pin_source is None else read_secret(pin_source))
        case uri.TokenAddress() as token:
            from authn.custody.pkcs11 import open_token_key  # noqa: PLC0415 - see above

            return open_token_key(token)
        case uri.TpmAddress() as tpm:
            from authn.custody.tpm import open_tpm_key  # noqa: PLC0415 - see above

            return open_tpm_key(tpm)
        case uri.ProgramAddress() as program:
            from authn.custody.external import open_program_key  # noqa: PLC0415 - see above

            return open_program_key(program)
        case uri.KmsAddress() as kms:
            from authn.custody.kms import open_kms_key  # noqa: PLC0415 - see above

            return open_kms_key(kms)
