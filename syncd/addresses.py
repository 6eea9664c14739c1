"""Addresses and host names, and the kinds of networks that they lead to. A leaf."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

#: IPv6 addresses that stand for the IPv4 address in their last 32 bits (RFC 6052, RFC 4291).
_EMBEDDING = (ip_network("64:ff9b::/96"), ip_network("::/96"), ip_network("::ffff:0:0/96"))
LOOPBACK, LINK_LOCAL, PRIVATE = "loopback", "link-local", "private"


def kind_of_address(text: str) -> str:
    """Return the kind of a non-public address, empty for a public one.

    Raise ValueError when `text` is no address.
    """
    address: IPv4Address | IPv6Address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        if any(address in network for network in _EMBEDDING) and int(address) > 1:
            address = IPv4Address(int(address) & 0xFFFF_FFFF)
        elif address.sixtofour is not None:
            address = address.sixtofour
    if address.is_loopback or address.is_unspecified:
        return LOOPBACK
    if address.is_link_local:
        return LINK_LOCAL
    return "" if address.is_global and not address.is_multicast else PRIVATE


def is_address(host: str) -> bool:
    """Return whether `host` is an IP address and not a name."""
    try:
        return bool(ip_address(host))
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`."""
    return ip_address(host).is_loopback if is_address(host) else host.lower() == "localhost"


def host_in(header: str) -> str:
    """Return the host that a `Host` header names, without its port; empty for nonsense."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
