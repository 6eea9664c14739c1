"""How services differ in what the Files API's texts leave open.

A personality is a set of traits. Each name in `PERSONALITIES` stands for a few of them, and several
names add up. `stranger` has every trait that is hard on a client, less what other names say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

#: The part of a sent name that is returned: the whole path, its last segment, or nothing.
Echo = Literal["path", "name", "none"]
#: In which order a listing shows files; `uuid` is no order in time.
Order = Literal["newest", "oldest", "uuid"]


@dataclass(frozen=True, slots=True)
class Personality:
    """The traits of a service."""

    echo: Echo = "name"
    order: Order = "newest"
    #: the most files of a page
    page_limit: int = 1000
    #: whether a larger `limit` is refused; else the page is just shorter
    refuses_limit: bool = True
    #: seconds that a page of a listing takes
    list_seconds: float = 0.0
    #: whether `file_size_bytes` is told
    tells_sizes: bool = True
    #: whether `video_metadata` is told
    tells_video_metadata: bool = True
    #: whether times name their zone
    tells_zone: bool = True
    #: the answer to the DELETE of a file that was deleted before: 404, or 204 once more
    second_delete: Literal[204, 404] = 404
    #: whether HEAD is answered where GET is
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
            "tells_video_metadata": False,
            "tells_zone": False,
            "second_delete": 204,
            "answers_head": False,
        },
    }
)


def personality(*names: str, **traits: Any) -> Personality:
    """Return the personality of `names`, with `traits` that win over theirs.

    ValueError where there is no such name, or where two contradict each other.
    """
    if unknown := [name for name in names if name not in PERSONALITIES]:
        known = ", ".join(PERSONALITIES)
        raise ValueError(f"no such personality: {unknown[0]} (there are: {known})")
    chosen: dict[str, Any] = {}
    # "stranger" comes first, so that single names win over it.
    for name in sorted(names, key=lambda name: name != "stranger"):
        for other in names:
            one, two = PERSONALITIES[name], PERSONALITIES[other]
            differ = any(one[trait] != two[trait] for trait in one.keys() & two.keys())
            if differ and "stranger" not in (name, other):
                raise ValueError(f"{name} and {other} contradict each other: choose one")
        chosen |= PERSONALITIES[name]
    return Personality(**chosen | traits)
