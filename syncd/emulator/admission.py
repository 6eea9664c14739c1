"""Who may ask, and how often."""

import math
from collections.abc import Callable

from syncd.emulator.answers import Refusal
from syncd.emulator.exchange import Scope
from syncd.emulator.settings import ORGANIZATION, Settings


class Admission:
    """Refuses requests that come too often, or without a key that is known."""

    def __init__(self, settings: Settings, *, monotonic: Callable[[], float]) -> None:
        self._keys = settings.api_keys
        self._rate = settings.rate_limit
        self._monotonic = monotonic
        self._allowance = self._burst = max(self._rate or 0.0, 1.0)
        self._refilled_at = monotonic()

    def admit(self, scope: Scope) -> None:
        """Note the caller's organization in `scope`, or raise 429 or 401."""
        self._limit()
        name = _shown_key(scope)
        if not name or (self._keys and name not in self._keys):
            raise Refusal(401, "the API key is missing or not valid", code="auth.invalid_key")
        scope["organization"] = self._keys.get(name, ORGANIZATION)

    def knows(self, scope: Scope) -> bool:
        """Say whether the caller shows one of the keys."""
        return _shown_key(scope) in self._keys

    def _limit(self) -> None:
        if self._rate is None:
            return
        now = self._monotonic()
        refill = (now - self._refilled_at) * self._rate
        self._allowance, self._refilled_at = min(self._burst, self._allowance + refill), now
        if self._allowance < 1.0:
            wait = math.ceil((1.0 - self._allowance) / self._rate)
            message = f"more than {self._rate:g} requests a second"
            raise Refusal(429, message, headers={"retry-after": str(wait)})
        self._allowance -= 1.0


def _shown_key(scope: Scope) -> str:
    """Return the key that a request shows; empty for none."""
    headers = dict(scope["headers"])
    key = headers.get(b"x-api-key")
    scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
    if key is None and scheme.lower() == b"bearer":
        key = bearer.strip()
    return (key or b"").decode("latin-1")
