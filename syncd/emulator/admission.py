"""Admission of requests: the API key, the rate limit, and the keyless control paths."""

import math
import time
from collections.abc import Mapping

from starlette.datastructures import Headers

from syncd.addresses import host_in, is_address, is_loopback
from syncd.emulator.answers import Refusal
from syncd.emulator.control import ALIVE
from syncd.emulator.served_request import Scope

#: The organization of every key, unless keys are mapped to organizations.
ORGANIZATION = "00000000-0000-4000-8000-0000000000aa"


class Admission:
    """Refuses requests that exceed the rate limit or lack a valid key."""

    def __init__(self, keys: Mapping[str, str], rate: float | None, *, host: str) -> None:
        """`keys` maps keys to organizations; with none, any key is accepted.

        `rate` limits the requests a second from all clients together. `host` is the address that
        the emulator listens on.
        """
        self._keys = keys
        self._rate = rate
        self._is_local = is_loopback(host)
        self._allowance = self._burst = max(self._rate or 0.0, 1.0)
        self._refilled_at = time.monotonic()

    def admit(self, scope: Scope) -> None:
        """Note the caller's organization in `scope`, or raise the 429 or 401."""
        if self._rate is not None:
            self._limit(self._rate)
        key = _key_in(scope)
        if not key or (self._keys and key not in self._keys):
            raise Refusal(401, "the API key is missing or not valid", code="auth.invalid_key")
        scope["organization"] = self._keys.get(key, ORGANIZATION)

    def admit_control(self, scope: Scope) -> None:
        """Raise the 401 or 403 of a control request that needs a key and shows none.

        On loopback no key is needed, but a page in a browser on this machine could make its own
        name lead here (DNS rebinding). The host must therefore be an address or `localhost`.
        """
        if scope["path"] == ALIVE or _key_in(scope) in self._keys:
            return
        if not self._is_local:
            raise Refusal(401, "other machines can reach the emulator: send its key")
        host = host_in(Headers(scope=scope).get("host", ""))
        if host != "localhost" and not is_address(host):
            raise Refusal(403, "call the emulator by its address or as localhost, or send its key")

    def _limit(self, rate: float) -> None:
        """Take one request from the allowance, or raise the 429."""
        now = time.monotonic()
        refill = (now - self._refilled_at) * rate
        self._allowance, self._refilled_at = min(self._burst, self._allowance + refill), now
        if self._allowance < 1.0:
            wait = math.ceil((1.0 - self._allowance) / rate)
            message = f"more than {rate:g} requests a second"
            raise Refusal(429, message, headers={"retry-after": str(wait)})
        self._allowance -= 1.0


def _key_in(scope: Scope) -> str:
    """Return the key that a request carries; empty for none."""
    headers = Headers(scope=scope)
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    return headers.get("x-api-key", bearer.strip() if scheme.lower() == "bearer" else "")
