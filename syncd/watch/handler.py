"""watchdog's callbacks: they only record, and nothing escapes from them."""

import logging
import os

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)

from syncd.watch.hints import Hints

log = logging.getLogger(__name__)

#: They become the kernel's mask. Writes and changes of mode give no hint: the file's close or the
#: next scan reports them. Created files are included because files moved in count as such.
EVENTS: list[type[FileSystemEvent]] = [
    *(FileCreatedEvent, FileClosedEvent, FileMovedEvent, FileDeletedEvent),
    *(DirCreatedEvent, DirMovedEvent, DirDeletedEvent),
]


class Handler(FileSystemEventHandler):
    """Turns the events beneath one root into hints."""

    def __init__(self, root: bytes, hints: Hints) -> None:
        self._root = root
        self._prefix = root.rstrip(b"/") + b"/"
        self._hints = hints

    def dispatch(self, event: FileSystemEvent) -> None:
        """Record what `event` hints at. An exception here would end watchdog's dispatcher."""
        try:
            self._record(event)
        except Exception:
            log.exception("an event could not be recorded; the folder is scanned")
            self._hints.ask_scan("an event could not be recorded")

    def _record(self, event: FileSystemEvent) -> None:
        removed = isinstance(
            event, FileDeletedEvent | FileMovedEvent | DirDeletedEvent | DirMovedEvent
        )
        # Files in a new directory have events of their own, made up by watchdog where need be.
        if not isinstance(event, DirCreatedEvent):
            self._hint(os.fsencode(event.src_path), removed=removed)
        if event.dest_path and not event.is_directory:
            self._hint(os.fsencode(event.dest_path), removed=False)

    def _hint(self, path: bytes, *, removed: bool) -> None:
        if path == self._root:
            self._hints.ask_check()
        elif path.startswith(self._prefix):
            self._hints.add(path[len(self._prefix) :], removal_seen=removed)
