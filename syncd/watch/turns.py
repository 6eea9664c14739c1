"""One thread hands on the events of all folders on a filesystem, which take turns.

watchdog has a thread for each folder, so that it may sleep until a file that was moved away has had
time to arrive elsewhere. Here no folder's wait holds up another.
"""

import threading
import time
from typing import Protocol

from watchdog.observers.inotify_move_event_grouper import (
    GroupedInotifyEvent,
    InotifyMoveEventGrouper,
)
from watchdog.utils import BaseThread
from watchdog.utils.delayed_queue import DelayedQueue


class _Queue(DelayedQueue[GroupedInotifyEvent]):
    """watchdog's queue of one tree's events, for a reader that does not wait."""

    def due_at(self) -> float | None:
        """Return when the next event is due, on the monotonic clock; None if none is there."""
        with self._lock:
            return self._due_at()

    def get(self) -> GroupedInotifyEvent | None:
        """Remove and return the next event if it is due, else None; never wait."""
        with self._lock:
            due_at = self._due_at()
            is_due = due_at is not None and due_at <= time.monotonic()
            return self._queue.popleft()[0] if is_due else None

    def _due_at(self) -> float | None:
        if self._closed or not self._queue:
            return None
        _, came_at, is_delayed = self._queue[0]
        return came_at + self.delay if is_delayed else came_at


class Pending(InotifyMoveEventGrouper):
    """The events of one tree that are not handed on yet; watchdog pairs its moves here."""

    _queue: _Queue

    def __init__(self) -> None:
        self._queue = _Queue(self.delay)

    def due_at(self) -> float | None:
        """Return when the next event is due, on the monotonic clock; None if none is there."""
        return self._queue.due_at()


class HasEvents(Protocol):
    """A folder whose events are to be handed on."""

    def take_turn(self) -> float | None:
        """Hand on events that are due; return when more will be, None if no more are there."""
        ...


class Turns(BaseThread):
    """Calls each folder that has events, one at a time; one that hangs holds up all the others."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        #: when each folder with events has its turn, on the monotonic clock; the longest waiting
        #: first
        self._due: dict[HasEvents, float] = {}
        self._current: HasEvents | None = None

    def ask(self, folder: HasEvents) -> None:
        """Ask for a turn now."""
        with self._changed:
            if self._due.get(folder) != 0.0:
                self._due[folder] = 0.0
                self._changed.notify_all()

    def leave(self, folder: HasEvents, seconds: float) -> bool:
        """Give a folder no more turns; return False if one is under way even after so long."""
        with self._changed:
            self._due.pop(folder, None)
            return self._changed.wait_for(lambda: self._current is not folder, seconds)

    def on_thread_stop(self) -> None:
        """Wake the thread, so that it ends."""
        with self._changed:
            self._changed.notify_all()

    def run(self) -> None:
        """Give turns until it is stopped."""
        while (folder := self._next()) is not None:
            due_at = folder.take_turn()
            with self._changed:
                self._current = None
                if due_at is not None:
                    self._due.setdefault(folder, due_at)
                self._changed.notify_all()

    def _next(self) -> HasEvents | None:
        """Wait for a folder whose turn it is; return None if the thread is to end."""
        with self._changed:
            while self.should_keep_running():
                now = time.monotonic()
                for folder, due_at in self._due.items():
                    if due_at <= now:
                        del self._due[folder]
                        self._current = folder
                        return folder
                soonest = min(self._due.values(), default=None)
                self._changed.wait(None if soonest is None else soonest - now)
            return None
