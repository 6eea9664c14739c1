"""The objects of the simulated service, and its ways to misbehave."""

import hashlib
import re
from dataclasses import dataclass

OURS, FOREIGN = "ours", "foreign"
#: The tokens of either kind, at the end of a name and before at most one extension.
TOKEN = re.compile(r"(?:^|[./])(sy[12](?:-[0-9a-z]+)+)(?:\.[^./]{1,31})?/?$")


class Violation(BaseException):
    """An invariant does not hold. No `except Exception` of the product may swallow it."""


@dataclass(slots=True)
class Object:
    """An object as the service keeps it; times in seconds since the epoch."""

    file_uuid: str
    owner: str
    name: str
    content_type: str
    created_at: float
    #: which of our requests made it, when that was sent; None for somebody else's
    request: int | None = None
    sent_at: float = 0.0
    #: the URL that it was fetched from, for those that were registered by one
    remote_uri: str | None = None
    #: None while only reserved
    body: bytes | None = None
    deleted: bool = False
    visible_at: float = 0.0
    url_until: float = 0.0
    stored_at: float = 0.0
    processing_seconds: float = 0.0
    fails: bool = False

    @property
    def sha256(self) -> str | None:
        return None if self.body is None else hashlib.sha256(self.body).hexdigest()

    @property
    def is_video(self) -> bool:
        return self.content_type.startswith("video/")

    @property
    def there(self) -> bool:
        return not self.deleted

    @property
    def token(self) -> str | None:
        """The token that its name ends with."""
        found = TOKEN.search(self.name)
        return found and found[1]


@dataclass(slots=True)
class Weather:
    """How likely each fault is, and how long things take; all zero is a healed service."""

    #: of each request: it fails in one way or another
    trouble: float = 0.0
    #: of each upload: a load balancer repeats it
    twice: float = 0.0
    #: of each upload whose answer is lost: it is only stored later
    late: float = 0.0
    late_seconds: float = 0.0
    lag_seconds: float = 0.0
    #: of each page: somebody uploads or deletes before it is read
    shifting: float = 0.0
    #: of each listing: it claims another count than it shows
    miscount: float = 0.0
    processing_seconds: float = 0.0
    #: of each content: it can never be processed, or is refused for good
    poison: float = 0.0
    #: of each PUT: the storage answers 200 and stores nothing
    lie: float = 0.0
