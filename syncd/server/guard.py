"""Access to the listener: requests must call it by its name, come from no other site, and carry the
token if one is configured.

The Host check defeats DNS rebinding, by which a foreign page makes its own name lead to this
address. Browsers put the site that sends a request into the Origin header.
"""

import secrets
import socket
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from syncd.addresses import host_in, is_address
from syncd.server import page

#: Sent with every answer: do not store, frame, sniff or load anything. The page overrides the
#: policy with one that admits its own script and style.
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
    """Passes on permitted requests and answers 403 to all others, or 401 without the token."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Iterable[str],
        any_address: bool,
        token: str,
        public: Iterable[str] = (),
    ) -> None:
        """Accept the names `hosts`, and with `any_address` every IP address.

        The paths in `public` need no token. Neither does the page, which prompts for it.
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

        await (self._refusal(scope) or self._app)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return _answer(
                403,
                "this host name is not ours: use the address that is listened on, or add the name "
                "to [server] allowed_hosts",
            )
        if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in origins):
            return _answer(403, "requests from other sites are refused")
        needs_token = self._token and scope["path"] not in self._public
        if needs_token and not self._shows_token(headers.getlist("authorization")):
            answer = _answer(
                401, "send the token from token_file in the header Authorization: Bearer TOKEN"
            )
            answer.headers["www-authenticate"] = 'Bearer realm="syncd"'
            return answer
        return None

    def _is_ours(self, header: str) -> bool:
        host = host_in(header)
        return host in self._hosts or (self._any_address and is_address(host))

    def _shows_token(self, given: list[str]) -> bool:
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(" ")
        return scheme.lower() == "bearer" and secrets.compare_digest(
            token.strip().encode("utf-8", "backslashreplace"), self._token
        )


def own_names(host: str, *, is_loopback: bool) -> set[str]:
    """Return the names by which clients may call a listener on `host`."""
    names = {"localhost", "127.0.0.1", "::1", host}
    return names if is_loopback else names | {socket.gethostname(), socket.getfqdn()}


def _answer(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)
