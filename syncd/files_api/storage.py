"""Judges where a presigned URL may lead: the service chooses it, and our network trusts us.

Without this check whoever answers in the service's place could have a file's bytes sent to another
machine behind our firewall, or to a port of this one.
"""

import socket
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address

import httpx

from syncd.addresses import LOOPBACK, PRIVATE, kind_of_address


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
        #: the service's host, until its addresses are known
        self._unknown = base.host
        if address := _literal(base.host):
            self.learn(address)

    def learn(self, address: str) -> None:
        """Note an address of the service itself."""
        self._unknown = ""
        if kind := kind_of_address(address):
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
        return self.unreachable(url.host, address) if address else None

    def unreachable(self, host: str, address: str) -> str | None:
        """Say why nothing is sent to `host` at `address`; None when it may be."""
        kind = kind_of_address(address)
        if not kind or host.lower() in self._hosts:
            return None
        if self._unknown:
            self._look_up()
        if kind in self._own or (kind == PRIVATE and LOOPBACK in self._own):
            return None
        return (
            f"it leads to a {kind} address ({host}); if that is the service's storage, name the "
            "host in [api] storage_hosts"
        )

    def _look_up(self) -> None:
        """Learn where the service is when this client has not spoken to it."""
        host, self._unknown = self._unknown, ""
        with suppress(OSError, UnicodeError):
            for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
                self.learn(str(address[0]))


def _literal(host: str) -> str | None:
    """Return the address that `host` is, in any way of writing it; None when it is a name."""
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return "127.0.0.1"
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    try:
        # 127.1 and 2130706433 are addresses to the resolver, too.
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None
