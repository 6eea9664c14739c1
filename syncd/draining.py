"""The end of the daemon: what was dropped before it is still sent, and the end comes in time."""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from syncd.parts import Parts
from syncd.scheduler import Scheduler
from syncd.state import due

log = logging.getLogger(__name__)

#: Seconds in which the events of what happened before have come.
NOTICE_SECONDS = 0.7
#: A folder is scanned once more where its last scan took no larger part of `drain_seconds`.
LAST_SCAN_PART = 0.25
#: Seconds between two looks at what is left.
LOOK_SECONDS = 0.05
#: Seconds after `drain_seconds` in which the process ends, whatever hangs.
END_SECONDS = 8.0


class Drain:
    """Notices, settles and sends what is there, while the steps still run; deletes nothing."""

    def __init__(self, parts: Parts, scheduler: Scheduler) -> None:
        self._parts = parts
        self._scheduler = scheduler

    def run(self, seconds: float, hurry: threading.Event) -> float:
        """Stay until nothing is on its way any more; return what is left of `seconds`."""
        self._parts.stop.set()
        began = time.monotonic()
        deadline, ends_at = began + seconds, time.time() + seconds
        scans = self._begin_scans(seconds)
        while time.monotonic() < deadline and not hurry.is_set():
            # Where everything is scanned once more, no event needs to be waited for.
            all_scanned = len(scans) == len(self._parts.watch.folders)
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
            for name, watched in self._parts.watch.folders.items()
            if watched.last_scan and watched.last_scan.seconds < seconds * LAST_SCAN_PART
        ]
        for scan in scans:
            scan.start()
        return scans

    def _is_moving(self, ends_at: float) -> bool:
        """Say whether something is still noticed, settles by `ends_at`, or is sent."""
        parts, now = self._parts, time.time()
        folders = parts.watch.folders
        looks = {f"look at {name}" for name in folders}
        if any(step.running_since and step.name in looks for step in self._scheduler.report()):
            return True
        if parts.uploader.busy or any(len(watched.hints) for watched in folders.values()):
            return True
        if parts.store.read(lambda db: due.is_settling(db, ends_at, folders)):
            return True
        if parts.gate.state == "unreachable" or not parts.gate.may_send():
            return False
        held = parts.uploader.held_folders()
        return bool(
            parts.store.read(lambda db: due.uploads(db, now, 1, only=folders, without=held))
        )


def end_in_time(drain_seconds: Callable[[], float], stop: threading.Event) -> None:
    """End the process some time after `stop`, whatever hangs: a disk, a folder."""
    stop.wait()
    time.sleep(drain_seconds() + END_SECONDS)
    log.error("something hangs and keeps syncd from its end: it ends all the same")
    leave(0)


def leave(code: int) -> NoReturn:
    """End the process without waiting for threads that hang."""
    logging.shutdown()
    os._exit(code)
