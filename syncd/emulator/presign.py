"""Presigned URLs: signed, expiring, and good for one method on one object. They carry no key."""

import hmac
import secrets
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlencode

#: Where storage answers, beside the API.
PREFIX = "/_storage/"


class Signer:
    """Makes and checks presigned URLs; its secret lasts as long as the data does."""

    def __init__(self, data: Path, *, clock: Callable[[], float], seconds: float) -> None:
        path = data / "signing-key"
        if not path.exists():
            path.write_text(secrets.token_hex(32))
            path.chmod(0o600)
        self._secret = path.read_text().encode()
        self._clock = clock
        self._seconds = seconds

    def url(self, base_url: str, method: str, name: str) -> str:
        """Return a URL for `method` on the stored `name` (a uuid, or a uuid and a frame)."""
        expires = int(self._clock() + self._seconds)
        signature = self._sign(method, name, expires)
        query = urlencode({"X-Expires": expires, "X-Signature": signature})
        return f"{base_url}{PREFIX}{name}?{query}"

    def problem(self, method: str, name: str, expires: str, signature: str) -> str | None:
        """Return why a URL is not valid, as a storage host's error code; None where it is."""
        if not expires.isdigit() or len(expires) > 12:
            return "AuthorizationQueryParametersError"
        if not hmac.compare_digest(signature, self._sign(method, name, int(expires))):
            return "SignatureDoesNotMatch"
        return "AccessDenied" if int(expires) < self._clock() else None

    def _sign(self, method: str, name: str, expires: int) -> str:
        text = f"{method}\n{name}\n{expires}"
        return hmac.new(self._secret, text.encode(), sha256).hexdigest()
