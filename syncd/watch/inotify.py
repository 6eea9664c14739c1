"""watchdog's inotify thread, made to tell what it otherwise swallows."""

import errno
import logging
import os
import stat
import time
from collections.abc import Callable
from typing import Any

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
from syncd.watch.writing import Writing

log = logging.getLogger(__name__)


#: Seconds for which reading rests after nothing but writes: the kernel makes one event of all that
#: come meanwhile, so that a program that writes byte by byte costs us next to nothing.
WRITES_REST_SECONDS = 0.005


#: What is said of events that were lost because the kernel's queue was full.
OVERFLOWED = "the kernel's queue of events overflowed"
#: Why a directory cannot be watched that is no more.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class ToldEvent(InotifyEvent):
    """An event that the kernel told of, as against those that watchdog makes up for new trees."""


class Inotify(InotifyFD):
    """One inotify instance, for one folder: it overflows alone, and its watches can be counted.

    OSError of the constructor: no instance was to be had. What went wrong since is in the public
    attributes; `on_loss` is called, with the reason, when events were lost.
    """

    def __init__(self, on_loss: Callable[[str], None]) -> None:
        super().__init__()
        self._on_loss = on_loss
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
            return super().add_callback(path, mask, callback, id_)
        except OSError as error:
            if error.errno not in _GONE:
                self.refused += 1
            self.out_of_watches = self.out_of_watches or error.errno == errno.ENOSPC
            raise

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
    """watchdog's emitter, which also keeps the book of what is being written.

    Only what the kernel told of counts: of a file in a directory that was just made, its close may
    have come before the watch.
    """

    def __init__(self, *arguments: Any, writing: Writing, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._writing = writing

    def get_event_mask_from_filter(self) -> Mask:
        """Ask for writes, too: they are booked here and go no further."""
        return Mask(super().get_event_mask_from_filter() | InotifyConstants.IN_MODIFY)

    def build_and_queue_event(
        self, event: GroupedInotifyEvent, *, full_events: bool = False
    ) -> None:
        """Book what the event says of writing, then pass it on."""
        if isinstance(event, PathedInotifyEvent):
            self._book(event.ev, event.path)
            if event.ev.is_modify:
                return
        else:
            moved_from, moved_to = event
            self._writing.moved(moved_from.path, moved_to.path)
        super().build_and_queue_event(event, full_events=full_events)

    def _book(self, event: InotifyEvent, path: bytes) -> None:
        if event.is_modify:
            self._writing.begun(path)
        elif event.is_create and not event.is_directory:
            if isinstance(event, ToldEvent) and _is_being_made(path):
                self._writing.begun(path)
        elif event.is_close_write or event.is_delete or event.is_moved_from or event.is_moved_to:
            self._writing.ended(path)


def _is_being_made(path: bytes) -> bool:
    """Tell a file that was opened to be made from a link to one, which nobody has opened."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1
