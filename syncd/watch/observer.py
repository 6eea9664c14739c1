"""Watches one folder's tree through inotify, and checks that the watching works.

The folders on one filesystem share an inotify instance and its two threads, so a disk that hangs
blocks no folder on another.
"""

import errno
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from syncd import identity
from syncd.log import printable
from syncd.metrics import WATCH_OVERFLOWS
from syncd.mounts import hidden_beneath, why_polling
from syncd.watch.coverage import Coverage
from syncd.watch.folder import WatchFolder
from syncd.watch.handler import Handler
from syncd.watch.hints import Hints
from syncd.watch.inotify import Emitter, Inotify, Instances
from syncd.watch.open_files import OpenFiles
from syncd.watch.watched_tree import OVERFLOWED, WatchedTree

log = logging.getLogger(__name__)

#: Seconds until watching is tried again after it failed.
RETRY_SECONDS = 60.0
_RETRY = "watching is tried again"
#: The kernel takes no path of so many bytes.
_PATH_MAX = 4096
_SYSCTL = Path("/proc/sys/fs/inotify")


class FolderObserver:
    """The watcher of one folder: `start`, `check` every few seconds, `stop`."""

    def __init__(
        self,
        *,
        folder: WatchFolder,
        hints: Hints,
        instances: Instances | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._instances = instances or Instances()
        self._hints = hints
        self._monotonic = monotonic
        #: two steps may find at once that it must be restarted
        self._lock = threading.Lock()
        self._logged = ""
        self._inotify: Inotify | None = None
        self._emitter: Emitter | None = None
        self._identity: identity.RootIdentity | None = None
        #: how often events were lost because the kernel's queue was full
        self.overflows = 0
        self._retry_at = 0.0
        self._limit = 0
        self._refused = 0
        #: which files are open for writing
        self.open_files = OpenFiles(folder.path, monotonic=monotonic)
        #: native or polling
        self.kind = "polling"
        #: why it is polling
        self.reason = ""
        #: what is wrong with the watching, for a person; empty when all is well
        self.trouble = ""

    @property
    def live_watches(self) -> int:
        """How many directories are watched now."""
        tree = self._tree
        return self._inotify.live_watches(tree.watches) if self._inotify and tree else 0

    def coverage(self) -> Coverage | None:
        """Return what is watched, if something may not be; None if everything is, or nothing."""
        tree = self._tree
        if self._inotify is None or tree is None:
            return None
        root = os.path.realpath(self._folder.path)
        deaf = hidden_beneath(root) if self._folder.watch == "auto" else []
        if not tree.refused and not deaf:
            return None
        return Coverage(self._inotify.watched(), deaf)

    def start(self) -> None:
        """Begin to watch; if that fails, say why and leave it to polling."""
        # Counted from 0, so that the first one shows as an increase.
        WATCH_OVERFLOWS.add(self._folder.name, by=0.0)
        with self._lock:
            self._begin()

    def stop(self) -> None:
        """End every thread of this watcher; safe to call twice."""
        with self._lock:
            self._end()

    def watch_again(self, directories: Iterable[bytes]) -> None:
        """Try to watch directories that could not be watched before, until no watch is left."""
        with self._lock:
            tree = self._tree
            if tree is None:
                return
            for directory in filter(None, directories):
                path = tree.path.rstrip(b"/") + b"/" + directory
                # A longer one cannot be named to the kernel, and would stop those behind it.
                if len(path) < _PATH_MAX and not tree.watch(path) and tree.out_of_watches:
                    break
            else:
                tree.out_of_watches = False
                self.trouble = self._logged = ""
            # They are polled already: they need no scan for having failed once more.
            self._refused = tree.refused

    @property
    def _tree(self) -> WatchedTree | None:
        return self._emitter.tree if self._emitter else None

    def check(self) -> str:
        """Check the watching, and begin anew if something is wrong.

        Return why it began anew, and ask for a scan then; empty if all is well.
        """
        with self._lock:
            fault = self._fault()
            if not fault:
                self._see_refused()
                return ""
            self._end()
            self._begin()
            if fault is not _RETRY or self._inotify is not None:
                log.info("%s: watching anew: %s", self._folder.name, fault)
                self._hints.ask_scan(fault)
            return fault

    def _begin(self) -> None:
        self.kind, self.reason, self.trouble = "polling", "", ""
        self._refused = 0
        try:
            self._identity = identity.identify(self._folder.path)
        except OSError as error:
            self._identity = None
            self.reason = f"the folder cannot be listed: {error.strerror}"
            return
        self.reason = self._why_polling()
        if self.reason:
            return
        try:
            self._open()
        except Exception as error:
            self._fall_back(_advice(error, self._folder.path))
        else:
            self.kind = "native"
            self._see_refused()

    def _end(self) -> None:
        emitter, inotify = self._emitter, self._inotify
        self._emitter = self._inotify = None
        if emitter is not None and not emitter.end():
            log.warning("a thread of the watcher hangs, perhaps in a mount that does not answer")
        if inotify is not None:
            self._instances.give_back(inotify)

    def _why_polling(self) -> str:
        if self._folder.watch == "polling":
            return "by configuration"
        return why_polling(self._folder.path) if self._folder.watch == "auto" else ""

    def _open(self) -> None:
        # watchdog warns of states of its own; made into errors, they would end its threads.
        for module in ("watchdog", Inotify.__module__):
            warnings.filterwarnings("ignore", category=RuntimeWarning, module=module)
        # Its important messages are handled here; the rest are errors about being stopped.
        logging.getLogger("watchdog").setLevel(logging.CRITICAL)
        # A root that is a link would give no event at all.
        root = os.path.realpath(self._folder.path)
        self.open_files.move_to(root)
        self._inotify = self._instances.take(os.stat(root).st_dev)  # noqa: PTH116
        self._emitter = Emitter(
            os.fsdecode(root),
            inotify=self._inotify,
            handler=Handler(root, self._hints),
            open_files=self.open_files,
            on_loss=self._lost,
            ask_check=self._hints.ask_check,
        )
        self._emitter.start()

    def _lost(self, reason: str) -> None:
        if reason == OVERFLOWED:
            self.overflows += 1
            WATCH_OVERFLOWS.add(self._folder.name)
        self._hints.ask_check()
        self._hints.ask_scan(reason)

    def _fall_back(self, why: str) -> None:
        self._end()
        self.reason = why
        self._complain(why)
        self._retry_at = self._monotonic() + RETRY_SECONDS

    def _fault(self) -> str:
        """Return why to begin anew; empty if all is well, or nothing can be watched now."""
        try:
            seen = identity.identify(self._folder.path)
        except OSError:
            return ""
        if seen != self._identity:
            return "the folder is back, or another one is in its place"
        tree = self._tree
        if self._inotify is None or self._emitter is None or tree is None:
            return _RETRY if self.trouble and self._monotonic() >= self._retry_at else ""
        if tree.broken:
            return tree.broken
        if not (self._inotify.works and self._emitter.should_keep_running()):
            return "a thread of the watcher has ended"
        if not tree.watches:
            # After an overflow watchdog sets all watches anew, and only logs that it could not.
            return "no directory is watched any more"
        if tree.out_of_watches and _limit("max_user_watches") != self._limit:
            return "the limit of watches was changed"
        return ""

    def _see_refused(self) -> None:
        """Report, with the remedy, directories that could not be watched, and have them scanned."""
        tree = self._tree
        if tree is None or tree.refused == self._refused:
            return
        self._refused = tree.refused
        self._hints.ask_scan("some directories could not be watched")
        if not tree.out_of_watches or self.trouble:
            return
        self._limit = _limit("max_user_watches")
        self._complain(
            "the limit of inotify watches is reached: the directories beyond it are polled; run: "
            f"{_more_watches()}"
        )

    def _complain(self, trouble: str) -> None:
        """Show what is wrong, and log it once."""
        self.trouble = trouble
        if trouble != self._logged:
            log.warning("%s: %s", self._folder.name, trouble)
        self._logged = trouble


def _advice(error: Exception, path: bytes) -> str:
    """Say what to do about an error that kept a root from being watched."""
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "thread" in str(error)
    ):
        return (
            "no thread is to be had for watching: raise TasksMax= or LimitAS= of the unit, or the "
            "container's limits of processes and memory (pids.max, ulimit -u, ulimit -v)"
        )
    match error:
        case OSError(errno=errno.ENOSPC):
            return f"the limit of inotify watches is reached; run: {_more_watches()}"
        case OSError(errno=errno.EMFILE | errno.ENFILE):
            more = max(512, 2 * _limit("max_user_instances"))
            return (
                "no inotify instance is to be had; run: sysctl -w "
                f"fs.inotify.max_user_instances={more} (or raise the limit of open files)"
            )
        case OSError():
            return f"cannot watch {printable(path)}: {error.strerror}"
        case _:
            log.error("cannot watch %s", printable(path), exc_info=error)
            return f"watchdog failed: {error}"


def _more_watches() -> str:
    limit = _limit("max_user_watches")
    # Under systemd's ProcSubset=pid the limit cannot be read; what helps is the same.
    known = f" (it is {limit} now)" if limit else ""
    return f"sysctl -w fs.inotify.max_user_watches={max(524_288, 2 * limit)}{known}"


def _limit(name: str) -> int:
    try:
        return int((_SYSCTL / name).read_text("ascii"))
    except (OSError, ValueError):
        return 0
