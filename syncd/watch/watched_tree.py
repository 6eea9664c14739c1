"""The watches of one tree, kept up to date as directories come and go, and what went wrong there.

watchdog walks a new directory twice, by recursion, and again with each event from within it. Here a
directory is walked once: what appears in it after that has events of its own.
"""

import errno
import os
from collections.abc import Callable, Iterator, Set as AbstractSet
from contextlib import suppress

from watchdog.observers.inotify import InotifyWatchGroup
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent, Mask, WatchDescriptor

from syncd.watch.turns import Pending


class ToldEvent(InotifyEvent):
    """An event that the kernel told of, as against those that are made up for new directories."""


#: Files in new directories above which a scan is cheaper than so many events.
LIMIT = 50_000


#: The message for events that were lost because the kernel's queue was full.
OVERFLOWED = "the kernel's queue of events overflowed"
#: Errors for a directory that is gone.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class WatchedTree(InotifyWatchGroup):
    """watchdog's bookkeeping of watches by path, with a walk of our own."""

    #: whether the walk goes into directories that are watched already
    _walks_known = False
    #: whether the walk makes up events for the files that it meets
    _collects = False
    _made_up: list[InotifyEvent]
    #: called if events may be there to be handed on
    on_events: Callable[[], None] | None = None
    #: called with the reason if events were lost or are too many, so that a scan makes up for them
    on_loss: Callable[[str], None] | None = None
    #: called if a directory could not be watched
    on_refusal: Callable[[], None] | None = None
    #: how often a directory could not be watched; and whether for want of watches
    refused = 0
    out_of_watches = False
    #: why the watching of this tree ended, if known; empty while it goes on
    broken = ""

    def __post_init__(self) -> None:
        # Before the tree is watched, because events may come from then on.
        self.pending = self._move_event_grouper = Pending()
        super().__post_init__()

    def on_event(self, event: InotifyEvent) -> None:
        """Take in an event."""
        if event.mask & InotifyConstants.IN_UNMOUNT:
            self.fail("its filesystem was unmounted")
        # A moved-in directory may have changed while it was not watched.
        self._walks_known, self._collects = event.is_moved_to, event.is_create
        try:
            super().on_event(event)
        finally:
            self._walks_known = self._collects = False
        if self.on_events is not None:
            self.on_events()

    def on_queue_overflow(self) -> None:
        """Set all watches anew, and ask for a scan of what was missed meanwhile."""
        super().on_queue_overflow()
        self.lose(OVERFLOWED)

    def fail(self, why: str) -> None:
        """Mark the tree as broken, so that it is watched anew: its events cannot be relied on."""
        self.broken = why
        self.lose(why)

    def lose(self, why: str) -> None:
        """Ask for a scan that makes up for events."""
        if self.on_loss is not None:
            self.on_loss(why)

    def flooded(self) -> None:
        """Ask for a scan, because new directories hold too many files for events."""
        self.lose("new directories hold more files than are worth a look each")

    @property
    def watches(self) -> AbstractSet[WatchDescriptor]:
        """The watched directories, as far as the kernel told: asking it costs too much."""
        return self._active_callbacks_by_watch.keys()

    def watch(self, path: bytes) -> bool:
        """Watch the directory `path` and those beneath it; return whether it is watched now."""
        with self._lock:
            if self.is_active:
                self._walks_known = True
                try:
                    self._add_all_callbacks(path)
                finally:
                    self._walks_known = False
            return path in self._active_callbacks_by_path

    def _add_all_callbacks(self, path: bytes) -> None:
        self._made_up = []
        waiting = [path]
        while waiting:
            directory = waiting.pop()
            known = self._active_callbacks_by_path.get(directory)
            self._add_callback(directory)
            watch = self._active_callbacks_by_path.get(directory)
            # Watched before it is listed, so that nothing in it is missed.
            if watch is None or (watch == known and not self._walks_known):
                continue
            for entry in _entries(directory):
                if _is_directory(entry):
                    waiting.append(entry.path)
                elif self._collects:
                    made = Mask(InotifyConstants.IN_CREATE)
                    self._made_up.append(InotifyEvent(watch, made, 0, entry.name))
            if len(self._made_up) > LIMIT:
                self._made_up, self._collects = [], False
                self.flooded()

    def _add_callback(self, path: bytes) -> None:
        """Watch a directory; below the root, watchdog silently goes on when it cannot."""
        try:
            watch = self._inotify_fd.add_callback(path, self.event_mask, self._callback, self._id)
        except OSError as error:
            if error.errno not in _GONE:
                self.refused += 1
                if self.on_refusal is not None:
                    self.on_refusal()
            self.out_of_watches = self.out_of_watches or error.errno == errno.ENOSPC
            if path == self.path:
                raise
            return
        self._active_callbacks_by_path[path] = watch
        self._active_callbacks_by_watch[watch] = path

    def _recursive_simulate(self, src_path: bytes) -> list[InotifyEvent]:
        """Return events for the files in the directories that were walked last."""
        del src_path
        made_up, self._made_up = self._made_up, []
        return made_up


def files_beneath(directory: bytes) -> Iterator[bytes]:
    """Yield what stands beneath `directory` and is no directory, as far as it can be listed."""
    waiting = [directory]
    while waiting:
        for entry in _entries(waiting.pop()):
            if _is_directory(entry):
                waiting.append(entry.path)
            else:
                yield entry.path


def _entries(directory: bytes) -> "list[os.DirEntry[bytes]]":
    with suppress(OSError), os.scandir(directory) as entries:
        return list(entries)
    return []


def _is_directory(entry: "os.DirEntry[bytes]") -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False
