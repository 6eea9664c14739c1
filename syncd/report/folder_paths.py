"""Which file a path means: beneath which watch folder it lies, and where."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from syncd.config.loading import Config, FolderSettings
from syncd.state import views
from syncd.state.database.store import Transaction


@dataclass(frozen=True, slots=True)
class FolderPath:
    """A path beneath a watch folder's root."""

    folder: str
    root: bytes
    path: bytes

    @property
    def absolute(self) -> bytes:
        return join(self.root, self.path)


@dataclass(frozen=True, slots=True)
class KnownFolder:
    """A folder that the configuration or the table names."""

    name: str
    root: bytes
    #: None if only the table knows it
    settings: FolderSettings | None = None

    @property
    def roots(self) -> tuple[bytes, ...]:
        """The root, ending with a slash, as it is written and, last, as it is without links."""
        both = (self.root, real(self.root))
        return tuple(dict.fromkeys(root.rstrip(b"/") + b"/" for root in both))


def folders(config: Config, db: Transaction | None) -> list[KnownFolder]:
    """Return every folder of the configuration and of the table, the configured first."""
    known = {
        folder.name: KnownFolder(folder.name, folder.place, folder) for folder in config.folders
    }
    for name, root in views.roots(db).items() if db is not None else ():
        known.setdefault(name, KnownFolder(name, root))
    return list(known.values())


def places(given: bytes, known: Sequence[KnownFolder], here: bytes) -> Iterator[FolderPath]:
    """Yield what `given` may mean, the likeliest first.

    It is a path of the file system, or begins with a folder's name, or is relative to a root.
    """
    yield from on_disk(given, known, here)
    yield from within(given, known)


def on_disk(given: bytes, known: Sequence[KnownFolder], here: bytes) -> Iterator[FolderPath]:
    """Yield where `given`, as a path of the file system, lies beneath a folder."""
    absolute = os.path.normpath(join(here, given))
    parent, name = os.path.split(absolute)
    # Links above the file are followed, as the daemon does with its roots; the file's own is not.
    for candidate in dict.fromkeys((absolute, join(real(parent), name))):
        for folder in known:
            for root in folder.roots:
                if candidate.startswith(root) and candidate != root:
                    yield FolderPath(folder.name, folder.root, candidate[len(root) :])


def within(given: bytes, known: Sequence[KnownFolder]) -> Iterator[FolderPath]:
    """Yield what `given` means if it begins with a folder's name, or is relative to a root."""
    relative = os.path.normpath(given)
    if relative.startswith((b"/", b"../")) or relative in (b".", b".."):
        return
    # `ls` prints a folder's name before the path.
    for folder in known:
        if relative.startswith(prefix := os.fsencode(folder.name) + b"/"):
            yield FolderPath(folder.name, folder.root, relative[len(prefix) :])
    for folder in known:
        yield FolderPath(folder.name, folder.root, relative)


@cache
def real(path: bytes) -> bytes:
    """Return a path without links; each is looked up once, for one command may name thousands."""
    return os.path.realpath(path)


def join(parent: bytes, path: bytes) -> bytes:
    """Join two paths of bytes."""
    # pathlib does not take bytes.
    return os.path.join(parent, path)  # noqa: PTH118
