"""What kind of network an address leads to. A leaf."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

#: IPv6 addresses that stand for the IPv4 address in their last 32 bits (RFC 6052, RFC 4291).
_EMBEDDING = (ip_network("64:ff9b::/96"), ip_network("::/96"), ip_network("::ffff:0:0/96"))
LOOPBACK, LINK_LOCAL, PRIVATE = "loopback", "link-local", "private"


def kind_of_address(text: str) -> str:
    """Return what an address is that is not public; empty for one that is. ValueError for none."""
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
