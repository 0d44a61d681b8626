"""Enrol a device of the home itself: the same path as a stranger's, in one process and with a token of our own."""

from datetime import datetime, timedelta

from authn.device import Device
from authn.identity import Lifetime, Subject
from storage.registry.errors import ProductUnknownError
from storage.registry.rows import Product
from tools.errors import DeviceExistsError
from tools.home import SERVICE, Home, require_device_name, require_valid
from tools.issuance.client import POOL, Joining, join
from tools.issuance.desk import own_desk
from tools.issuance.registration import require_for_devices

_TOKEN_LIFE = timedelta(minutes=5)


def enrol(
    home: Home,
    name: str,
    product: str,
    at: datetime,
    *,
    key: str | None = None,
    lifetime: Lifetime = Lifetime.STANDARD,
    pool: int = POOL,
) -> tuple[Device, int]:
    """Make a device whose folder lies in the home; return its first entry's index too.

    Without the URI of a key one is made in a file. A product that nobody added is added, and asks
    for nothing: what strangers must prove for one is said with 'product add'.
    """
    require_device_name(name)
    folder = home.device_folder(name)
    if name == SERVICE or folder.exists():
        raise DeviceExistsError(f"a device named {name} is already enrolled")
    require_valid([home.certificate(home.issuers()[-1])], at)
    Subject("XX", home.organisation, product)
    require_for_devices(product)
    with home.registry() as registry:
        try:
            registry.product(product)
        except ProductUnknownError:
            registry.add_product(Product(product, home.organisation, lifetime.value, "E0", b"{}", at))
    with own_desk(home, lambda: at) as desk:
        token = desk.registration.give_token(product, at + _TOKEN_LIFE)
        camera = join(Joining(folder, product, token, name, key, lifetime, None, pool), desk)
    return home.device(name), camera.entry or 0
