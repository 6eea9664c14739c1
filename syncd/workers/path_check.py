"""Looks that may be believed: those beneath the known root, and the known mounts in it."""

from collections.abc import Iterable, Mapping

from syncd import disk, identity
from syncd.identity import View, part_of
from syncd.state import folders
from syncd.state.database.store import Store
from syncd.state.folders import Part


def look(
    store: Store, name: str, root: bytes, paths: Iterable[bytes], *, marker: bytes = b""
) -> dict[bytes, disk.Sight]:
    """Look at the paths that are beneath the known root and parts, both before and after the look.

    If a part came or went meanwhile, nothing is believed until `watch` has judged it.
    """
    before, right = _right_parts(store, name, root, marker)
    if b"" not in right:
        return {}
    seen = disk.look(root, paths)
    after, still = _right_parts(store, name, root, marker)
    if (before, right) != (after, still):
        return {}
    return {path: sight for path, sight in seen.items() if part_of(after.parts, path) in right}


def may_be_sent(store: Store, name: str, root: bytes, path: bytes, *, marker: bytes = b"") -> bool:
    """Return whether `path` is beneath the known root and part, or ones that are alike."""
    known = store.recall(("parts", name), lambda db: folders.parts(db, name))
    view = identity.glance(root, marker, known)
    return {b"", part_of(view.parts, path)} <= _right(view, known, alike=True)


def is_right_root(store: Store, name: str, root: bytes, marker: bytes, path: bytes = b"") -> bool:
    """Return whether the root is the known one, and the part that `path` is beneath."""
    view, right = _right_parts(store, name, root, marker)
    return {b"", part_of(view.parts, path)} <= right


def _right_parts(store: Store, name: str, root: bytes, marker: bytes) -> tuple[View, set[bytes]]:
    """Look at a root and its parts; return those that are the known ones."""
    known = store.recall(("parts", name), lambda db: folders.parts(db, name))
    view = identity.view(root, marker, known)
    return view, _right(view, known, alike=False)


def _right(view: View, known: Mapping[bytes, Part], *, alike: bool) -> set[bytes]:
    """Return the parts of a look that are the known ones, or `alike`."""
    return {
        part
        for part, seen in view.parts.items()
        if seen is not None
        and part in known
        and not known[part].is_stopped
        and known[part].mount in ("", view.mounts.get(part))
        and (seen == known[part].identity or (alike and seen == known[part].alike))
    }
