"""Presigned URLs: signed, expiring, valid for one method on one object, and without a key."""

import hmac
import secrets
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from syncd.emulator.answers import StorageRefusal

#: The paths of the storage host, beside the API.
PREFIX = "/_storage/"
#: Seconds that a presigned URL is valid.
URL_SECONDS = 1800


class Signer:
    """Makes and checks presigned URLs, with a secret that is kept in the folder `data`."""

    def __init__(self, data: Path, *, clock: Callable[[], float]) -> None:
        path = data / "signing-key"
        if not path.exists():
            new = path.with_suffix(".new")
            new.write_text(secrets.token_hex(32))
            new.chmod(0o600)
            new.replace(path)
        self._secret = path.read_bytes()
        self._clock = clock

    def url(self, base_url: str, method: str, name: str) -> str:
        """Return a URL for `method` on `name`, which is a uuid, or a uuid and a frame."""
        expires = int(self._clock() + URL_SECONDS)
        signature = self._sign(method, name, expires)
        return f"{base_url}{PREFIX}{name}?X-Expires={expires}&X-Signature={signature}"

    def check(self, method: str, name: str, expires: str, signature: str) -> None:
        """Raise the 403 for a URL that was tampered with or has expired."""
        genuine = expires.isascii() and expires.isdigit() and len(expires) <= 12
        if not genuine or not hmac.compare_digest(
            signature.encode(), self._sign(method, name, int(expires)).encode()
        ):
            message = "the signature does not match the request"
            raise StorageRefusal(403, message, code="SignatureDoesNotMatch")
        if int(expires) < self._clock():
            raise StorageRefusal(403, "Request has expired")

    def _sign(self, method: str, name: str, expires: int) -> str:
        text = f"{method}\n{name}\n{expires}"
        return hmac.new(self._secret, text.encode(), sha256).hexdigest()
