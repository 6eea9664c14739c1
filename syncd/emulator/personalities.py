"""Differences between services, where the documentation of the Files API leaves them open.

A personality is a set of traits. Each name in `PERSONALITIES` stands for a few traits, and names
can be combined. `stranger` has every trait that is hard on a client; other names override it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

#: The part of a sent name that is returned: the whole path, its last segment, or nothing.
Echo = Literal["path", "name", "none"]
#: The order of a listing; `uuid` is unrelated to time.
Order = Literal["newest", "oldest", "uuid"]


@dataclass(frozen=True, slots=True)
class Personality:
    """The traits of a service."""

    echo: Echo = "name"
    order: Order = "newest"
    #: the most files on a page
    page_limit: int = 1000
    #: whether a larger `limit` is refused; otherwise the page is just shorter
    refuses_limit: bool = True
    #: seconds that a page of a listing takes
    list_seconds: float = 0.0
    #: whether `file_size_bytes` is shown
    tells_sizes: bool = True
    #: whether a file's record shows its `processing_status`; FileStatus always does
    tells_states: bool = True
    #: whether `video_metadata` is shown
    tells_video_metadata: bool = True
    #: whether times name their zone
    tells_zone: bool = True
    #: the status of a second DELETE of the same file
    second_delete: Literal[204, 404] = 404
    #: whether HEAD is allowed wherever GET is
    answers_head: bool = True


PERSONALITIES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "newest-first": {"order": "newest"},
        "oldest-first": {"order": "oldest"},
        "unordered": {"order": "uuid"},
        "page-cap": {"page_limit": 20, "refuses_limit": False},
        "page-refused": {"page_limit": 20, "refuses_limit": True},
        "slow-list": {"list_seconds": 0.5},
        "whole-path": {"echo": "path"},
        "last-segment": {"echo": "name"},
        "no-echo": {"echo": "none"},
        "no-sizes": {"tells_sizes": False},
        "no-video-metadata": {"tells_video_metadata": False},
        "no-states": {"tells_states": False},
        "no-zone": {"tells_zone": False},
        "delete-204": {"second_delete": 204},
        "delete-404": {"second_delete": 404},
        "no-head": {"answers_head": False},
        "stranger": {
            "echo": "none",
            "order": "oldest",
            "page_limit": 20,
            "refuses_limit": False,
            "list_seconds": 0.2,
            "tells_sizes": False,
            "tells_states": False,
            "tells_video_metadata": False,
            "tells_zone": False,
            "second_delete": 204,
            "answers_head": False,
        },
    }
)


def personality(*names: str, **traits: Any) -> Personality:
    """Return the personality of `names`, overridden by `traits`.

    Raise ValueError when a name is unknown or two names contradict each other.
    """
    if unknown := [name for name in names if name not in PERSONALITIES]:
        known = ", ".join(PERSONALITIES)
        raise ValueError(f"unknown personality: {unknown[0]}; choose from {known}")
    chosen: dict[str, Any] = {}
    # "stranger" comes first, so that the other names override it.
    for name in sorted(names, key=lambda name: name != "stranger"):
        for other in names:
            one, two = PERSONALITIES[name], PERSONALITIES[other]
            differ = any(one[trait] != two[trait] for trait in one.keys() & two.keys())
            if differ and "stranger" not in (name, other):
                raise ValueError(f"{name} and {other} contradict each other: choose one")
        chosen |= PERSONALITIES[name]
    return Personality(**chosen | traits)
