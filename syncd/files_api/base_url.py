"""The base URL of the Files API."""

import re
from collections.abc import Mapping
from functools import cache
from ipaddress import ip_address

import httpx

from syncd.exceptions import ConfigError

#: A name or an address, as it goes on the wire.
_HOST = re.compile(rb"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")

#: The published environments by name.
BASE_URLS: Mapping[str, str] = {
    "production": "https://api.aymara.ai",
    "staging": "https://staging-api.aymara.ai",
    "development": "http://localhost:8000",
}


def base_url_for(environment: str) -> str:
    """Return the base URL of "production", "staging" or "development"; else ConfigError."""
    try:
        return BASE_URLS[environment]
    except KeyError:
        names = ", ".join(BASE_URLS)
        raise ConfigError(f"no such environment: {environment!r} (there are: {names})") from None


@cache
def checked_base_url(text: str) -> httpx.URL:
    """Return a base URL without its trailing slash; ConfigError if it is not one.

    A path prefix is kept. User-info, query and fragment are refused: they would hold a secret
    that is shown, or be lost.
    """
    url = http_url(text)
    if url is None:
        raise ConfigError("the base URL must look like https://host or https://host/prefix")
    if url.userinfo or url.query or url.fragment or "?" in text or "#" in text:
        raise ConfigError("the base URL must have no user, password, query or fragment")
    return url.copy_with(path=url.path.rstrip("/") or "/")


def checked_proxy(text: str) -> httpx.URL:
    """Return the URL of an HTTP proxy; ConfigError if it is not one. User-info may be in it."""
    url = http_url(text)
    if url is None or url.scheme != "http":
        raise ConfigError(
            "the proxy must look like http://host:port, with user:password@ before the host where "
            "it asks for them"
        )
    return url


def http_url(text: str) -> httpx.URL | None:
    """Return an absolute http or https URL with a host that can be looked up, or None.

    No error tells what is wrong with it: the text may hold a secret.
    """
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return None
    sane = _HOST.fullmatch(url.raw_host) and (url.port is None or 0 < url.port < 65536)
    return url if sane and url.scheme in {"http", "https"} else None


def is_cleartext(url: httpx.URL) -> bool:
    """Return whether what is sent there can be read on the way: http, to another machine."""
    return url.scheme == "http" and not _is_loopback(url.host)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
