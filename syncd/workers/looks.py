"""Looks at paths of a folder that count as evidence: only beneath the root that is known."""

from collections.abc import Iterable

from syncd import disk, mounts
from syncd.state import folders
from syncd.state.folders import MountState
from syncd.state.store import Store


def look(
    store: Store, name: str, root: bytes, paths: Iterable[bytes], *, marker: bytes = b""
) -> dict[bytes, disk.Sight]:
    """Look at paths of a root that is the same before and after, with its mounts; else at none.

    A mount that came or went is for the watching to judge before anything is believed; what one
    hides is not looked at.
    """
    if not is_right_root(store, name, root, marker):
        return {}
    seen = disk.look(root, paths)
    if not is_right_root(store, name, root, marker):
        return {}
    known = store.read(lambda db: folders.mounts(db, name))
    hiding = tuple(p + b"/" for p, m in known.items() if m.state is MountState.HIDES)
    return {path: sight for path, sight in seen.items() if not path.startswith(hiding)}


def is_right_root(store: Store, name: str, root: bytes, marker: bytes) -> bool:
    """Say whether the root and the mounts beneath it are those that the table knows."""
    known, mounted = store.read(lambda db: (folders.identity(db, name), folders.mounts(db, name)))
    try:
        if known is None or mounts.beneath(root) != {p: m.mark for p, m in mounted.items()}:
            return False
        return disk.identify(root, marker) == known
    except OSError:
        return False
