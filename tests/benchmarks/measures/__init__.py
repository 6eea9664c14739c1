"""The measures: importing this package registers them, in the order of the table."""

from . import small, large, line, offline, scans, events, commits, idle, starts, videos, scale  # noqa: I001

__all__ = [
    "commits", "events", "idle", "large", "line", "offline", "scale", "scans", "small", "starts",
    "videos",
]  # fmt: skip
