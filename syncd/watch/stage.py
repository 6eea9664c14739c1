"""Stage 1 as the daemon sees it: steps that bring the table in line with the disks.

Each step does what is due now in all folders; none runs beside itself.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from syncd.heartbeat import FolderHealth
from syncd.state.apply_plan import Policies
from syncd.state.database.store import Store
from syncd.watch.folder import WatchFolder
from syncd.watch.inotify import Instances
from syncd.watch.polling import Polling
from syncd.watch.scan_pass import ScanReport
from syncd.watch.watched import Watched

#: Seconds within which all folders whose disks work are being watched.
START_SECONDS = 5.0
#: Folders that a single pass scans at a time: they may lie on several disks.
SIDE_BY_SIDE = 4


class _Beginning:
    """The start of one folder, on a thread: its disk may hang."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, name=f"syncd-start-{watched.folder.name}", daemon=True
        )
        try:
            self._thread.start()
        except (RuntimeError, MemoryError):
            # No thread can be started, so it runs here.
            self._run()

    def _run(self) -> None:
        try:
            self._watched.start()
        except BaseException as error:
            self._error = error

    def await_end(self, deadline: float) -> None:
        """Wait until it has begun or the deadline is over; raise the error that prevented it."""
        if self._thread.ident is not None:
            self._thread.join(max(deadline - time.monotonic(), 0.0))
        if self._error is not None:
            raise self._error


class Watch:
    """All watch folders. Nothing runs before `start`; `stop` ends every thread."""

    def __init__(
        self,
        *,
        store: Store,
        folders: Sequence[WatchFolder],
        policies: Policies,
        wake: Callable[[], None],
        clock: Callable[[], float] = time.time,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._stop = threading.Event()
        instances, polling = Instances(), Polling()
        #: called with the name of a folder of which there is a hint
        self.on_hint: Callable[[str], None] = lambda _: wake()
        self.folders = {
            folder.name: Watched(
                store=store,
                folder=folder,
                policies=policies,
                wake=partial(self._hinted, folder.name),
                instances=instances,
                polling=polling,
                clock=clock,
                monotonic=time.monotonic,
                stopped=lambda: self._stop.is_set() or stopped(),
            )
            for folder in folders
        }

    def _hinted(self, name: str) -> None:
        self.on_hint(name)

    def start(self) -> None:
        """Check every root and begin to watch; the first scans are due then.

        A folder whose disk hangs begins when it answers, and delays no other.
        """
        begun = [_Beginning(watched) for watched in self.folders.values()]
        deadline = time.monotonic() + START_SECONDS
        for beginning in begun:
            beginning.await_end(deadline)

    def stop(self) -> None:
        """End scans under way and every thread, in reverse; safe to call twice."""
        self._stop.set()
        for watched in reversed(self.folders.values()):
            watched.observer.stop()

    def inherit(self, old: "Watch") -> None:
        """Start in place of `old`: a folder that is the same is watched on, without a gap.

        The others of `old` are watched no more. No step of either may be running.
        """
        for name, watched in old.folders.items():
            if name in self.folders and self.folders[name].folder == watched.folder:
                watched.rebind(self.folders[name])
                self.folders[name] = watched
            else:
                watched.observer.stop()
        for name, watched in self.folders.items():
            if old.folders.get(name) is not watched:
                watched.start()

    def look_due(self) -> float | None:
        """Step: look again at what is due; return when more will be, in seconds since the epoch."""
        due = [watched.look_due() for watched in self.folders.values()]
        return min((at for at in due if at is not None), default=None)

    def ask_checks(self) -> None:
        """Ask for a check of every root."""
        for watched in self.folders.values():
            watched.hints.ask_check()

    def ask_scans(self, reason: str) -> None:
        """Ask for a scan of every folder, and a check of its root."""
        for watched in self.folders.values():
            watched.hints.ask_scan(reason)
            watched.hints.ask_check()

    def scan_all(self) -> list[ScanReport]:
        """Scan every folder now, for a single pass without watchers."""
        with ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="syncd-scan") as pool:
            return list(pool.map(Watched.scan, self.folders.values()))

    def health(self) -> dict[str, FolderHealth]:
        """Return how well each folder is seen."""
        return {name: watched.health() for name, watched in self.folders.items()}
