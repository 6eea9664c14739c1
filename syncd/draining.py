"""The daemon's end: files dropped before it are still sent, within a limited time."""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from syncd.components import Components
from syncd.scheduler import Scheduler
from syncd.state import due

log = logging.getLogger(__name__)

#: Seconds in which the events of earlier changes arrive.
NOTICE_SECONDS = 0.7
#: A folder is scanned once more if its last scan took no larger part of `drain_seconds`.
LAST_SCAN_PART = 0.25
#: Seconds between two looks at what is left.
LOOK_SECONDS = 0.05
#: Seconds after `drain_seconds` in which the process ends even if something hangs.
END_SECONDS = 8.0


class Drain:
    """Notices, settles and sends what is there, while the steps still run; deletes nothing."""

    def __init__(self, components: Components, scheduler: Scheduler) -> None:
        self._components = components
        self._scheduler = scheduler

    def run(self, seconds: float, hurry: threading.Event) -> float:
        """Wait until nothing is on its way; return the rest of `seconds`."""
        self._components.stop.set()
        began = time.monotonic()
        deadline, ends_at = began + seconds, time.time() + seconds
        scans = self._begin_scans(seconds)
        while time.monotonic() < deadline and not hurry.is_set():
            # If everything is scanned once more, there is no need to wait for events.
            all_scanned = len(scans) == len(self._components.watch.folders)
            is_noticed = all_scanned or time.monotonic() > began + NOTICE_SECONDS
            is_scanned = not any(scan.is_alive() for scan in scans)
            if is_noticed and is_scanned and not self._is_moving(ends_at):
                break
            self._scheduler.nudge()
            time.sleep(LOOK_SECONDS)
        return max(deadline - time.monotonic(), 0.0)

    def _begin_scans(self, seconds: float) -> list[threading.Thread]:
        """Scan the folders that are scanned fast, each on a thread: its disk may hang."""
        scans = [
            threading.Thread(target=watched.scan, name=f"syncd-last-scan-{name}", daemon=True)
            for name, watched in self._components.watch.folders.items()
            if watched.last_scan and watched.last_scan.seconds < seconds * LAST_SCAN_PART
        ]
        for scan in scans:
            scan.start()
        return scans

    def _is_moving(self, ends_at: float) -> bool:
        """Return whether something is being noticed, settles by `ends_at`, or is being sent."""
        components, now = self._components, time.time()
        folders = components.watch.folders
        looks = {f"look at {name}" for name in folders}
        if any(step.running_since and step.name in looks for step in self._scheduler.report()):
            return True
        if components.uploader.busy or any(len(watched.hints) for watched in folders.values()):
            return True
        if components.store.read(due.is_settling, ends_at, folders):
            return True
        if components.gate.state == "unreachable" or not components.gate.may_send():
            return False
        closed = components.uploader.closed_folders()
        return bool(components.store.read(due.uploads, now, 1, only=folders, closed=closed))


def end_in_time(drain_seconds: Callable[[], float], stop: threading.Event) -> None:
    """End the process some time after `stop`, even if a disk or a folder hangs."""
    stop.wait()
    time.sleep(drain_seconds() + END_SECONDS)
    log.error("something hangs and keeps syncd from its end: it ends all the same")
    leave(0)


def leave(code: int) -> NoReturn:
    """End the process without waiting for threads that hang."""
    logging.shutdown()
    os._exit(code)
