"""watchdog's inotify thread, made to tell what it otherwise swallows."""

import errno
import logging
from collections.abc import Callable
from pathlib import Path

from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchCallback,
    WatchDescriptor,
)

log = logging.getLogger(__name__)


class Inotify(InotifyFD):
    """One inotify instance, for one folder: it overflows alone, and its watches can be counted.

    OSError of the constructor: no instance was to be had. What went wrong since is in the public
    attributes; `on_loss` is called, with the reason, when events were lost.
    """

    def __init__(self, on_loss: Callable[[str], None]) -> None:
        super().__init__()
        self._on_loss = on_loss
        #: directories that could not be watched for want of watches
        self.refused = 0
        self.overflows = 0
        #: what ended the watching, as far as this thread knows; empty while it goes on
        self.broken = ""

    def add_callback(
        self, path: bytes, mask: Mask, callback: WatchCallback, id_: CallbackId
    ) -> WatchDescriptor:
        """Watch a directory; below the root, watchdog goes on without a word when it cannot."""
        try:
            return super().add_callback(path, mask, callback, id_)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                self.refused += 1
            raise

    def handle_event(self, event: InotifyEvent) -> None:
        """Pass an event on. An exception here would end this thread and leave all others alive."""
        lost = ""
        if event.is_queue_overflow:
            lost = "the kernel's queue of events overflowed"
        elif event.mask & InotifyConstants.IN_UNMOUNT:
            lost = self.broken = "its filesystem was unmounted"
        try:
            super().handle_event(event)
        except Exception as error:
            log.exception("watchdog failed on an event; the folder is watched anew")
            lost = self.broken = f"watchdog failed on an event: {error}"
        # Only now: watchdog has set all watches anew, and what it missed meanwhile is scanned too.
        self.overflows += event.is_queue_overflow
        if lost:
            self._on_loss(lost)

    def live_watches(self) -> int:
        """Count the directories that the kernel watches for us now."""
        try:
            with Path(f"/proc/self/fdinfo/{self._inotify_fd}").open(encoding="ascii") as lines:
                return sum(line.startswith("inotify wd:") for line in lines)
        except OSError:
            return 0
