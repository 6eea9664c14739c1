"""Who may ask the listener: those who name it as it is called, come from no other site, and, where
a token is wanted, show it.

Host is checked because a page from elsewhere can have its own name lead to this address (DNS
rebinding); Origin, because a browser says with it which site asks.
"""

import ipaddress
import secrets
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from syncd.server import page

#: What every answer carries: nothing is kept, framed, guessed, or loaded. The page has a policy
#: of its own, which lets itself in and nothing else.
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """Lets through what may be answered; all else is 403, or 401 for want of the token."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Iterable[str],
        any_address: bool,
        token: str,
        public: Iterable[str] = (),
    ) -> None:
        """`hosts` are the names that are ours; `any_address` takes every IP address as well.

        The paths in `public` take no token; nor does the page, which asks a person for it.
        """
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._any_address = any_address
        self._token = token.encode()
        self._public = frozenset((*public, page.PATH))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return _answer(
                403,
                "this host name is not ours: use the address that is listened on, or name it in "
                "[server] allowed_hosts",
            )
        if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in origins):
            return _answer(403, "another site has no business here")
        wants_token = self._token and scope["path"] not in self._public
        if wants_token and not self._shows_token(headers.getlist("authorization")):
            answer = _answer(401, "show the token of token_file: Authorization: Bearer TOKEN")
            answer.headers["www-authenticate"] = 'Bearer realm="syncd"'
            return answer
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._hosts or (self._any_address and _is_address(name))

    def _shows_token(self, given: list[str]) -> bool:
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(" ")
        return scheme.lower() == "bearer" and secrets.compare_digest(
            token.strip().encode("utf-8", "backslashreplace"), self._token
        )


def own_names(host: str, *, is_loopback: bool) -> set[str]:
    """Return the names by which a listener on `host` may be called."""
    names = {"localhost", "127.0.0.1", "::1", host}
    return names if is_loopback else names | {socket.gethostname(), socket.getfqdn()}


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _answer(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)
