"""Where a presigned URL may lead: the service chooses it, and this machine's network trusts us.

Without this check whoever answers in the service's place could have a file's bytes sent to another
machine behind our firewall, or to a port of this one.
"""

import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpx

_Address = IPv4Address | IPv6Address
#: IPv6 addresses that stand for the IPv4 address in their last 32 bits (RFC 6052, RFC 4291).
_EMBEDDING = (ip_network("64:ff9b::/96"), ip_network("::/96"), ip_network("::ffff:0:0/96"))
_LOOPBACK, _LINK_LOCAL, _PRIVATE = "loopback", "link-local", "private"


class StorageRules:
    """Judges presigned URLs, and the addresses they turn out to have.

    An address that is not public is refused, unless the service itself is at one of that kind, or
    `hosts` names the URL's host. A service on this machine may have its storage in a private
    network.
    """

    def __init__(self, base: httpx.URL, hosts: Iterable[str] = ()) -> None:
        self._secure = base.scheme == "https"
        self._hosts = frozenset(host.lower() for host in hosts)
        #: kinds of addresses that are not public, at which the service itself was found
        self._own: set[str] = set()
        if address := _literal(base.host):
            self.learn(str(address))

    def learn(self, address: str) -> None:
        """Note an address of the service itself."""
        kind = _kind(ip_address(address.partition("%")[0]))
        if kind:
            self._own.add(kind)

    def problem(self, url: httpx.URL | None) -> str | None:
        """Say what is wrong with the text of a presigned URL; None when nothing is."""
        if url is None or url.userinfo:
            return "it must be an https URL without user-info"
        if url.host.lower() in self._hosts:
            return None
        if self._secure and url.scheme != "https":
            return "it must be an https URL without user-info"
        address = _literal(url.host)
        return self.unreachable(url.host, str(address)) if address else None

    def unreachable(self, host: str, address: str) -> str | None:
        """Say why nothing is sent to `host` at `address`; None when it may be."""
        kind = _kind(ip_address(address.partition("%")[0]))
        if not kind or host.lower() in self._hosts or kind in self._own:
            return None
        if kind == _PRIVATE and _LOOPBACK in self._own:
            return None
        return (
            f"it leads to a {kind} address ({host}); if that is the service's storage, name the "
            "host in [api] storage_hosts"
        )


def _literal(host: str) -> _Address | None:
    """Return the address that `host` is, in any way of writing it; None when it is a name."""
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return ip_address("127.0.0.1")
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        # 127.1 and 2130706433 are addresses to the resolver, too.
        return IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


def _kind(address: _Address) -> str:
    """Return what an address is that is not public; empty for one that is."""
    if isinstance(address, IPv6Address):
        if any(address in network for network in _EMBEDDING) and int(address) > 1:
            address = IPv4Address(int(address) & 0xFFFF_FFFF)
        elif address.sixtofour is not None:
            address = address.sixtofour
    if address.is_loopback or address.is_unspecified:
        return _LOOPBACK
    if address.is_link_local:
        return _LINK_LOCAL
    return "" if address.is_global and not address.is_multicast else _PRIVATE
