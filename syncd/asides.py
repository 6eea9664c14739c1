"""Finds the private directories of files that were set aside, wherever they are by now."""

import os

from syncd import disk, relocation
from syncd.descent import Descent
from syncd.exceptions import DiskError


def find(root: bytes) -> dict[bytes, bytes]:
    """Return the private directories beneath `root` by name, each with the directory that it is in.

    One that is in a directory which cannot be listed is left out.
    """
    found: dict[bytes, bytes] = {}
    waiting = [b""]
    with Descent(root) as descent:
        while waiting:
            above = waiting.pop()
            for name in _directories(descent, above):
                if relocation.is_aside(name):
                    found[name] = above
                else:
                    waiting.append(above + b"/" + name if above else name)
    return found


def _directories(descent: Descent, path: bytes) -> list[bytes]:
    try:
        with disk.entries_of(descent.enter(path)) as entries:
            return [os.fsencode(e.name) for e in entries if e.is_dir(follow_symlinks=False)]
    except (OSError, DiskError):
        return []
