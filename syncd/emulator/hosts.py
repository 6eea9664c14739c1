"""By which names the emulator is called.

On loopback its control paths need no key. A page that a browser on this machine shows could ask
them, if its own name led to this address (DNS rebinding); so the name that a request calls is
checked.
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_called_rightly(headers: Headers) -> bool:
    """Say whether a request calls the emulator by an address, or as `localhost`."""
    try:
        name = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        return name.lower() == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False
