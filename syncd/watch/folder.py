"""A watch folder as stage 1 sees it."""

from dataclasses import dataclass
from typing import Literal

WatchKind = Literal["auto", "native", "polling"]


@dataclass(frozen=True, slots=True)
class WatchFolder:
    """One folder to watch; its name is its key in the table, times are in seconds."""

    name: str
    #: the root: absolute, its links resolved anew with each look
    path: bytes
    #: gitignore patterns; where there are any, only files that match one are eligible
    include: tuple[str, ...] = ()
    #: gitignore patterns; the last one that matches decides, before junk and hidden files
    exclude: tuple[str, ...] = ()
    #: whether files and directories whose name begins with a dot are eligible
    hidden: bool = False
    #: whether `.syncdignore` files are obeyed
    syncdignore: bool = True
    #: bytes above which a file is not eligible; None for no limit
    max_size: int | None = None
    #: whether what is there at the very first scan is left out until it changes
    skip_existing: bool = False
    settle_seconds: float = 5.0
    grace_seconds: float = 60.0
    rescan_seconds: float = 300.0
    watch: WatchKind = "auto"
    #: whether a deletion here is one there
    mirror_deletions: bool = True
    #: path beneath the root of a file without which the root is not the right one
    marker: bytes = b""
    #: whether any directory at `path` is the right one
    any_root: bool = False
