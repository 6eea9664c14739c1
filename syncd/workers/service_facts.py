"""Facts about a service, and what they are read from."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, urlsplit

#: Files with different times that show an order: four are often in one by chance.
ORDERED_FILES = 8


@dataclass(slots=True)
class Facts:
    """Facts about the service; `unseen` says by name why one is None or not complete."""

    #: how a name comes back, by kind of upload: path, name or none
    echo: dict[str, str] | None = None
    #: newest, oldest or none
    order: str | None = None
    #: the largest page, in files, and whether a larger one is refused or just shorter
    page_cap: int | None = None
    refuses_limit: bool | None = None
    list_seconds: float | None = None
    #: where sizes are told: record or url
    sizes: str | None = None
    put_needs_type: bool | None = None
    url_seconds: float | None = None
    video_status: str | None = None
    video_frames: int | None = None
    video_metadata: bool | None = None
    #: the status of the answer
    second_delete: int | None = None
    unseen: dict[str, str] = field(default_factory=dict)

    def note(self, name: str, value: object, why: str) -> None:
        """Keep a fact, or why it is not seen."""
        setattr(self, name, value)
        if value is None:
            self.unseen.setdefault(name, why)

    def document(self) -> dict[str, Any]:
        """Return all as a JSON object; names alone may be seen in part."""
        facts = asdict(self)
        facts["unseen"] = {
            name: why for name, why in self.unseen.items() if name == "echo" or facts[name] is None
        }
        return facts


def order_of(times: Sequence[datetime]) -> str | None:
    """Return which way the times run; None if they are too few to tell."""
    rises = any(one < other for one, other in pairwise(times))
    falls = any(one > other for one, other in pairwise(times))
    if rises and falls:
        return "none"
    if len({*times}) < ORDERED_FILES:
        return None
    return "oldest" if rises else "newest"


def lifetime_of(url: str, now: float) -> float | None:
    """Return the seconds for which a presigned URL says that it is valid."""
    query = {name.lower(): values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    with suppress(ValueError):
        if seconds := query.get("x-amz-expires"):
            return float(seconds)
        if until := query.get("expires", query.get("x-expires")):
            # Clocks are compared in whole seconds.
            return round(float(until) - now, -1)
    return None
