"""watchdog's inotify, shared by folders, which reports what watchdog would swallow."""

import ctypes
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Set as AbstractSet
from functools import partial
from itertools import islice

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import EventQueue, ObservedWatch
from watchdog.observers.inotify import InotifyEmitter
from watchdog.observers.inotify_c import (
    DEFAULT_EVENT_BUFFER_SIZE,
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    Watch,
    WatchCallback,
    WatchDescriptor,
    inotify_add_watch,
)
from watchdog.observers.inotify_move_event_grouper import GroupedInotifyEvent, PathedInotifyEvent

from syncd import mounts
from syncd.watch.coverage import WatchedInode, watch_descriptors, watched_inodes
from syncd.watch.handler import EVENTS
from syncd.watch.open_files import OpenFiles
from syncd.watch.turns import Turns
from syncd.watch.watched_tree import LIMIT, ToldEvent, WatchedTree, files_beneath

log = logging.getLogger(__name__)


#: Seconds for which reading rests after nothing but writes: the kernel merges those that come
#: meanwhile, so that a program that writes byte by byte costs next to nothing.
WRITES_REST_SECONDS = 0.005
#: Events of one folder that are handed on before it is another's turn.
AT_ONCE = 100
#: Seconds for which a thread that hangs is waited for.
JOIN_SECONDS = 5.0
#: Seconds for which one count of the live watches serves every folder.
COUNTED_SECONDS = 1.0


class Inotify(InotifyFD):
    """One inotify instance, for all folders on one filesystem; OSError if there is none left.

    It has two threads: one reads the events, one hands them on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns()
        self._counted: tuple[float, frozenset[int]] = (0.0, frozenset())

    def add_callback(
        self, path: bytes, mask: Mask, callback: WatchCallback, id_: CallbackId
    ) -> WatchDescriptor:
        """Watch a directory; OSError if it cannot be."""
        # Asked before the lock is taken, so that a disk that hangs delays no event of another.
        number = inotify_add_watch(self._inotify_fd, path, mask)
        if number == -1:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
        with self._lock:
            watch = self._watch_for_wd.setdefault(number, Watch(number, mask, path))
            watch.callbacks[id_] = callback
        return number

    def handle_event(self, event: InotifyEvent) -> None:
        """Pass an event on. An exception here would end this thread and leave all others alive."""
        told = ToldEvent(event.wd, event.mask, event.cookie, event.name)
        try:
            super().handle_event(told)
        except Exception as error:
            log.exception("watchdog failed on an event; its folder is watched anew")
            with self._lock:
                watches = list(self._watch_for_wd.values())
                # An overflow is told of no directory: it may be any tree's. Of one that is not
                # watched any more, nobody needs to know.
                if event.wd != -1:
                    watches = [watch for watch in watches if watch.wd == event.wd]
                trees = {id_: t for watch in watches for id_, t in watch.callbacks.items()}
            for tree in trees.values():
                if isinstance(tree, WatchedTree):
                    tree.fail(f"watchdog failed on an event: {error}")

    def read_events(
        self, *, event_buffer_size: int = DEFAULT_EVENT_BUFFER_SIZE
    ) -> list[InotifyEvent]:
        """Read the kernel's events; if all are writes, wait a little for more of them."""
        events = super().read_events(event_buffer_size=event_buffer_size)
        if events and all(event.is_modify for event in events):
            time.sleep(WRITES_REST_SECONDS)
        return events

    @property
    def works(self) -> bool:
        """Whether both threads run."""
        return self.is_alive() and self.turns.is_alive()

    def on_thread_start(self) -> None:
        """Start the other thread."""
        self.turns.start()

    def end(self) -> None:
        """End the threads, as far as they were started, and free what the instance holds."""
        self.turns.stop()
        if self.ident is None:
            self._closed = True
            self._close_resources()
        else:
            self.stop()
        threads = [thread for thread in (self.turns, self) if thread.ident is not None]
        for thread in threads:
            thread.join(JOIN_SECONDS)
        if any(thread.is_alive() for thread in threads):
            log.warning("a thread of the watcher hangs, perhaps in a mount that does not answer")

    def live_watches(self, among: AbstractSet[WatchDescriptor]) -> int:
        """Return how many of these directories the kernel watches for us now."""
        counted_at, live = self._counted
        if time.monotonic() > counted_at + COUNTED_SECONDS:
            try:
                live = watch_descriptors(self._inotify_fd)
            except OSError:
                live = frozenset()
            self._counted = time.monotonic(), live
        # `among & live` would look at every folder's watches, for each folder.
        return len(live.intersection(among))

    def watched(self) -> frozenset[WatchedInode]:
        """Return the directories that the kernel watches for us now."""
        try:
            return watched_inodes(self._inotify_fd)
        except OSError:
            return frozenset()


class Instances:
    """The inotify instances in use, one for each filesystem, because a user may have only a few."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[int, tuple[Inotify, int]] = {}

    def take(self, device: int) -> Inotify:
        """Return a filesystem's running instance for one more folder; OSError if there is none."""
        with self._lock:
            instance, folders = self._held.get(device, (None, 0))
            if instance is None or not instance.works:
                # The folders of an instance that died notice it, and take another.
                instance, folders = Inotify(), 0
                try:
                    instance.start()
                except BaseException:
                    instance.end()
                    raise
            self._held[device] = instance, folders + 1
            return instance

    def give_back(self, instance: Inotify) -> None:
        """End an instance that no folder uses any more."""
        with self._lock:
            for device, (held, folders) in self._held.items():
                if held is instance and folders > 1:
                    self._held[device] = held, folders - 1
                    return
                if held is instance:
                    del self._held[device]
                    break
        instance.end()


class Emitter(InotifyEmitter):
    """watchdog's emitter of one folder: it hands events to its handler itself.

    It has no thread of its own, but takes turns with the other folders of its inotify instance. It
    also records which files may be open for writing.
    """

    def __init__(
        self,
        root: str,
        *,
        inotify: Inotify,
        handler: FileSystemEventHandler,
        open_files: OpenFiles,
        on_loss: Callable[[str], None],
        ask_check: Callable[[], None],
    ) -> None:
        watch = ObservedWatch(root, recursive=True)
        super().__init__(EventQueue(), watch, event_filter=EVENTS, inotify_fd=inotify)
        self._turns = inotify.turns
        self._handler = handler
        self._open_files = open_files
        self._on_loss = on_loss
        self._ask_check = ask_check
        self.tree: WatchedTree | None = None
        #: events of the files in a directory that was moved; they come before any others
        self._beneath: Iterator[FileSystemEvent] = iter(())

    def start(self) -> None:
        """Watch the tree; OSError if its root cannot be."""
        self.on_thread_start()

    def end(self) -> bool:
        """Hand on no more events; return False if one still is, because it hangs."""
        self.stop()
        return self._turns.leave(self, JOIN_SECONDS)

    def take_turn(self) -> float | None:
        """Hand on events that are due; return when more will be, None if no more are there."""
        tree = self.tree
        if tree is None:
            return None
        try:
            return self._hand_on(tree)
        except Exception as error:
            log.exception("an event could not be handed on; its folder is watched anew")
            tree.fail(f"an event could not be handed on: {error}")
            return 0.0

    def _hand_on(self, tree: WatchedTree) -> float | None:
        for _ in range(AT_ONCE):
            if not self.should_keep_running():
                return None
            if (event := next(self._beneath, None)) is not None:
                self.queue_event(event)
                continue
            due_at = tree.pending.due_at()
            if due_at is None or due_at > time.monotonic():
                return due_at
            self.queue_events(self.timeout)
        return 0.0

    def on_thread_start(self) -> None:
        """Set the watches."""
        self._inotify = self.tree = WatchedTree(
            self._inotify_fd,
            os.fsencode(self.watch.path),
            is_recursive=True,
            event_mask=self.get_event_mask_from_filter(),
        )
        self.tree.on_loss = self._on_loss
        self.tree.on_refusal = self._ask_check
        self.tree.on_events = partial(self._turns.ask, self)
        # For events that came before.
        self._turns.ask(self)

    def queue_event(self, event: FileSystemEvent) -> None:
        """Hand an event on at once."""
        if isinstance(event, tuple(EVENTS)):
            self._handler.dispatch(event)

    def get_event_mask_from_filter(self) -> Mask:
        """Ask for writes and for moves of the root, too, which are noted only here."""
        more = InotifyConstants.IN_MODIFY | InotifyConstants.IN_MOVE_SELF
        return Mask(super().get_event_mask_from_filter() | more)

    def build_and_queue_event(
        self, event: GroupedInotifyEvent, *, full_events: bool = False
    ) -> None:
        """Record what the event says of writing, then pass it on."""
        if not isinstance(event, PathedInotifyEvent):
            moved_from, moved_to = event
            self._open_files.moved(moved_from.path, moved_to.path)
            if moved_from.ev.is_directory:
                self._directory_moved(moved_from.path, moved_to.path)
                return
        elif event.ev.is_move_self:
            if os.fsdecode(event.path) == self.watch.path:
                self._ask_check()
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
        self._beneath = self._moved_beneath(source, target)

    def _moved_beneath(self, source: bytes, target: bytes) -> Iterator[FileSystemEvent]:
        for path in self._files_beneath(target):
            before = self._decode_path(source + path[len(target) :])
            yield FileMovedEvent(before, self._decode_path(path))

    def _directory_came(self, path: bytes) -> None:
        self.queue_event(DirCreatedEvent(self._decode_path(path)))
        self._beneath = self._come_beneath(path)

    def _come_beneath(self, path: bytes) -> Iterator[FileSystemEvent]:
        for file in self._files_beneath(path):
            self._open_files.suspect(file)
            yield FileCreatedEvent(self._decode_path(file))

    def _files_beneath(self, directory: bytes) -> Iterator[bytes]:
        if mounts.beneath(directory) and self.tree is not None:
            # Another disk: if it hangs, it may hold up no folder on this one.
            self.tree.lose("a directory came with what is mounted in it")
            return
        files = files_beneath(directory)
        yield from islice(files, LIMIT)
        if next(files, None) is not None and self.tree is not None:
            self.tree.flooded()

    def _book(self, event: InotifyEvent, path: bytes) -> None:
        if event.is_directory:
            return
        if event.is_modify:
            self._open_files.written(path)
        elif event.is_create and isinstance(event, ToldEvent):
            self._open_files.made(path)
        elif event.is_create or event.is_moved_to:
            # Its writer may have opened it before it was watched.
            self._open_files.suspect(path)
        elif event.is_close_write or event.is_delete or event.is_moved_from:
            self._open_files.ended(path)
