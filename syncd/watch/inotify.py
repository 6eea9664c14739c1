"""watchdog's inotify thread, made to tell what it otherwise swallows."""

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from watchdog.events import DirCreatedEvent, DirMovedEvent, FileCreatedEvent, FileMovedEvent
from watchdog.observers.inotify import InotifyEmitter
from watchdog.observers.inotify_c import (
    DEFAULT_EVENT_BUFFER_SIZE,
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchCallback,
    WatchDescriptor,
)
from watchdog.observers.inotify_move_event_grouper import GroupedInotifyEvent, PathedInotifyEvent

from syncd.watch.coverage import WatchedInode, count_watches, watched_inodes
from syncd.watch.open_files import OpenFiles
from syncd.watch.watched_tree import LIMIT, ToldEvent, WatchedTree, files_beneath

log = logging.getLogger(__name__)


#: Seconds for which reading rests after nothing but writes: the kernel makes one event of all that
#: come meanwhile, so that a program that writes byte by byte costs us next to nothing.
WRITES_REST_SECONDS = 0.005


#: What is said of events that were lost because the kernel's queue was full.
OVERFLOWED = "the kernel's queue of events overflowed"
#: Why a directory cannot be watched that is no more.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Inotify(InotifyFD):
    """One inotify instance, for one folder: it overflows alone, and its watches can be counted.

    OSError of the constructor: no instance was to be had. What went wrong since is in the public
    attributes; `on_loss` is called, with the reason, when events were lost.
    """

    def __init__(self, on_loss: Callable[[str], None], ask_check: Callable[[], None]) -> None:
        super().__init__()
        self._on_loss = on_loss
        self._ask_check = ask_check
        #: how often a directory could not be watched; and whether for want of watches
        self.refused = 0
        self.out_of_watches = False
        #: what ended the watching, as far as this thread knows; empty while it goes on
        self.broken = ""

    def add_callback(
        self, path: bytes, mask: Mask, callback: WatchCallback, id_: CallbackId
    ) -> WatchDescriptor:
        """Watch a directory; below the root, watchdog goes on without a word when it cannot."""
        try:
            watch = super().add_callback(path, mask, callback, id_)
            if watch == -1:
                # watchdog takes a directory that may not be read for watched.
                self._watch_for_wd.pop(watch, None)
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            if error.errno not in _GONE:
                self.refused += 1
                self._ask_check()
            self.out_of_watches = self.out_of_watches or error.errno == errno.ENOSPC
            raise
        return watch

    def handle_event(self, event: InotifyEvent) -> None:
        """Pass an event on. An exception here would end this thread and leave all others alive."""
        lost = ""
        if event.is_queue_overflow:
            lost = OVERFLOWED
        elif event.mask & InotifyConstants.IN_UNMOUNT:
            lost = self.broken = "its filesystem was unmounted"
        told = ToldEvent(event.wd, event.mask, event.cookie, event.name)
        try:
            super().handle_event(told)
        except Exception as error:
            log.exception("watchdog failed on an event; the folder is watched anew")
            lost = self.broken = f"watchdog failed on an event: {error}"
        if lost:
            # Only now: watchdog has set all watches anew, and what it missed meanwhile is scanned.
            self._on_loss(lost)

    def read_events(
        self, *, event_buffer_size: int = DEFAULT_EVENT_BUFFER_SIZE
    ) -> list[InotifyEvent]:
        """Read what the kernel tells of, a little later where it tells of nothing but writes."""
        events = super().read_events(event_buffer_size=event_buffer_size)
        if events and all(event.is_modify for event in events):
            time.sleep(WRITES_REST_SECONDS)
        return events

    def root_moved(self) -> None:
        """Have the root be checked: what is at its path now is not what is watched."""
        self._ask_check()

    def flooded(self) -> None:
        """Have a scan find what so many events would have told of."""
        self._on_loss("new directories hold more files than are worth a look each")

    def stop_unstarted(self) -> None:
        """Give back what an instance holds whose thread could not be started."""
        self._closed = True
        self._close_resources()

    @property
    def watches_any(self) -> bool:
        """Whether any directory is watched, as far as the kernel told: asking it costs too much."""
        return bool(self._watch_for_wd)

    def live_watches(self) -> int:
        """Count the directories that the kernel watches for us now."""
        try:
            return count_watches(self._inotify_fd)
        except OSError:
            return 0

    def watched(self) -> frozenset[WatchedInode]:
        """Return the directories that the kernel watches for us now."""
        try:
            return watched_inodes(self._inotify_fd)
        except OSError:
            return frozenset()


class Emitter(InotifyEmitter):
    """watchdog's emitter, which also keeps the book of what may be open for writing."""

    def __init__(
        self, *arguments: Any, inotify_fd: Inotify, open_files: OpenFiles, **more: Any
    ) -> None:
        super().__init__(*arguments, inotify_fd=inotify_fd, **more)
        self._watcher = inotify_fd
        self._open_files = open_files
        self.tree: WatchedTree | None = None

    def on_thread_start(self) -> None:
        """Watch the tree; OSError where its root cannot be."""
        self._inotify = self.tree = WatchedTree(
            self._inotify_fd,
            os.fsencode(self.watch.path),
            is_recursive=True,
            event_mask=self.get_event_mask_from_filter(),
        )
        self.tree.on_flood = self._watcher.flooded

    def get_event_mask_from_filter(self) -> Mask:
        """Ask for writes, too, and for moves of the root itself: they are noted here alone."""
        more = InotifyConstants.IN_MODIFY | InotifyConstants.IN_MOVE_SELF
        return Mask(super().get_event_mask_from_filter() | more)

    def build_and_queue_event(
        self, event: GroupedInotifyEvent, *, full_events: bool = False
    ) -> None:
        """Book what the event says of writing, then pass it on."""
        if not isinstance(event, PathedInotifyEvent):
            moved_from, moved_to = event
            self._open_files.moved(moved_from.path, moved_to.path)
            if moved_from.ev.is_directory:
                self._directory_moved(moved_from.path, moved_to.path)
                return
        elif event.ev.is_move_self:
            if os.fsdecode(event.path) == self.watch.path:
                self._watcher.root_moved()
            return
        elif event.ev.is_directory and event.ev.is_moved_to:
            self._directory_came(event.path)
            return
        else:
            self._book(event.ev, event.path)
            if event.ev.is_modify:
                return
        super().build_and_queue_event(event, full_events=full_events)

    def _directory_moved(self, source: bytes, target: bytes) -> None:
        self.queue_event(DirMovedEvent(self._decode_path(source), self._decode_path(target)))
        for path in self._files_beneath(target):
            before = self._decode_path(source + path[len(target) :])
            self.queue_event(FileMovedEvent(before, self._decode_path(path)))

    def _directory_came(self, path: bytes) -> None:
        self.queue_event(DirCreatedEvent(self._decode_path(path)))
        for file in self._files_beneath(path):
            self._open_files.suspect(file)
            self.queue_event(FileCreatedEvent(self._decode_path(file)))

    def _files_beneath(self, directory: bytes) -> Iterator[bytes]:
        files = files_beneath(directory)
        yield from islice(files, LIMIT)
        if next(files, None) is not None:
            self._watcher.flooded()

    def _book(self, event: InotifyEvent, path: bytes) -> None:
        if event.is_directory:
            return
        if event.is_modify:
            self._open_files.written(path)
        elif event.is_create and isinstance(event, ToldEvent):
            self._open_files.made(path)
        elif event.is_create or event.is_moved_to:
            # Whoever writes to it may have opened it before it came under our eyes.
            self._open_files.suspect(path)
        elif event.is_close_write or event.is_delete or event.is_moved_from:
            self._open_files.ended(path)
