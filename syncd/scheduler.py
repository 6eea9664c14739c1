"""Repeats the daemon's steps: on time, on a hint, and every few seconds in any case.

A step does what is due now and returns the seconds until it wants to run again (None: whenever the
net comes round). No step runs beside itself; one that hangs keeps a thread and holds up no other.
At rest nothing wakes but what is due.

APScheduler keeps the times, and its jobs only hand steps over to threads of our own. Four of its
habits are met here: a wake-up during a run would be lost, so it is remembered; a late job would be
skipped, so no lateness is too late; a shutdown that waits can deadlock with a run that ends, so
the threads are ours to wait for; and times on the wall clock stop when it is set back, so `nudge`
compares with the monotonic clock. It runs a job while it holds its own lock: ours may be taken
within that one, and never the other way round.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple

from apscheduler.executors.debug import DebugExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from syncd.exceptions import ShortageError, StateWriteError
from syncd.files_api import Aborted
from syncd.state.backoff import backoff_seconds
from syncd.threads import Threads

log = logging.getLogger(__name__)

Step = Callable[[], float | None]
#: The shortest pause between two runs of a step, in seconds: a bound on spinning.
SHORTEST_SECONDS = 0.02
#: Steps that run at a time; a run that takes longer than so many seconds does not count.
SIDE_BY_SIDE, LONG_SECONDS = 16, 1.0
#: How late a step may be, in seconds, before `nudge` runs it.
LATE_SECONDS = 2.0
#: The job that looks for room when long runs do not count any more.
_ROOM = "\0room"


@dataclass(slots=True, eq=False)
class _Repeated:
    name: str
    run: Step
    every: float
    after: float
    #: seconds between two runs, at least
    rest: float
    rests_until: float = 0.0
    #: when it runs next, on the monotonic clock
    due_at: float = 0.0
    #: it is due, and waits for room
    is_waiting: bool = False
    #: since it was handed to a thread
    running_since: float | None = None
    woken: bool = False
    runs: int = 0
    failures: int = 0
    seconds: float = 0.0
    seconds_total: float = 0.0
    failures_total: int = 0


class StepReport(NamedTuple):
    """How a step fares; times in seconds, on the monotonic clock.

    A tuple, because each beat makes one of every step.
    """

    name: str
    runs: int
    #: failures in a row
    failures: int
    #: seconds that the last run took
    seconds: float
    #: since when it has been running, if it is
    running_since: float | None
    #: seconds of all runs together, and failures since the start
    seconds_total: float
    failures_total: int


class Scheduler:
    """Runs named steps, each never beside itself, on as many threads as run at a time."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._steps: dict[str, _Repeated] = {}
        #: holds what changes in a step, and who runs
        self._changed = threading.Condition()
        #: held while a time is handed to APScheduler, so that the newest is the last
        self._planning = threading.Lock()
        self._waiting: deque[_Repeated] = deque()
        self._running: set[_Repeated] = set()
        self._stopping = False
        self._jobs: BackgroundScheduler | None = None
        self._threads: Threads | None = None

    def add(
        self,
        name: str,
        run: Step,
        *,
        every: float,
        after: float = 0.0,
        rest: float = SHORTEST_SECONDS,
    ) -> None:
        """Add a step, repeated at least every `every` seconds; before `start`.

        It first runs `after` so many seconds, and never again before it had `rest` seconds of rest.
        """
        self._steps[name] = _Repeated(name, run, every, after, rest)

    def start(self) -> None:
        """Run every step once, at once or after its own while, and then again and again."""
        # It reports each run that found others still going: for us, an ordinary case.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._threads = Threads("syncd-step", kept=SIDE_BY_SIDE)
        self._jobs = BackgroundScheduler(
            executors={"default": DebugExecutor()},
            job_defaults={"coalesce": True, "misfire_grace_time": None},
            timezone=UTC,
        )
        for step in self._steps.values():
            step.due_at = self._monotonic() + step.after
            self._jobs.add_job(
                self._come_due,
                "interval",
                args=[step],
                id=step.name,
                seconds=step.every,
                next_run_time=_in(step.after),
            )
        self._jobs.start()

    def stop(self, seconds: float | None = None) -> list[str]:
        """Start no more runs and wait for those under way; never from inside a step.

        For `seconds` at most, if given; return the names of those that still run then.
        """
        with self._changed:
            self._stopping = True
            self._waiting.clear()
        if self._jobs is None or self._threads is None:
            return []
        self._jobs.shutdown(wait=False)
        with self._changed:
            self._changed.wait_for(lambda: not self._running, seconds)
            hung = [step.name for step in self._running]
        self._threads.shutdown(wait=not hung)
        self._jobs = self._threads = None
        return hung

    def wake(self, *names: str, within: float = 0.0) -> None:
        """Run these steps within so many seconds; one that is running runs once more."""
        for name in names:
            step = self._steps[name]
            with self._changed:
                due_at = max(self._monotonic() + within, step.rests_until)
                if step.running_since is not None:
                    step.woken = True
                    continue
                if step.is_waiting or due_at >= step.due_at:
                    continue
                step.due_at = due_at
            self._plan(step)

    def nudge(self) -> None:
        """Run each step that is late by the monotonic clock; called every second or so."""
        if self._threads is not None:
            with suppress(RuntimeError, MemoryError):
                self._threads.start_missing()
        late = self._monotonic() - LATE_SECONDS
        for step in self._steps.values():
            if step.running_since is None and step.due_at < late:
                self._come_due(step)

    def report(self) -> list[StepReport]:
        """Return how each step fares."""
        return [
            StepReport(
                name=step.name,
                runs=step.runs,
                failures=step.failures,
                seconds=step.seconds,
                running_since=step.running_since,
                seconds_total=step.seconds_total,
                failures_total=step.failures_total,
            )
            for step in self._steps.values()
        ]

    def _come_due(self, step: _Repeated) -> None:
        """Hand a step that is due to a thread; one that is running runs once more."""
        with self._changed:
            if step.running_since is not None:
                step.woken = True
            elif not step.is_waiting and not self._stopping:
                step.is_waiting = True
                self._waiting.append(step)
        self._hand_out()

    def _hand_out(self) -> None:
        """Hand the steps that wait to threads while there is room."""
        with self._changed:
            now = self._monotonic()
            while self._waiting and self._has_room(now):
                self._begin(self._waiting.popleft(), now)
            is_full = bool(self._waiting)
        jobs = self._jobs
        if is_full and jobs is not None:
            jobs.add_job(
                self._hand_out,
                "date",
                id=_ROOM,
                run_date=_in(LONG_SECONDS),
                replace_existing=True,
            )

    def _has_room(self, now: float) -> bool:
        began = (step.running_since or 0.0 for step in self._running)
        return sum(since > now - LONG_SECONDS for since in began) < SIDE_BY_SIDE

    def _begin(self, step: _Repeated, now: float) -> None:
        step.is_waiting, step.woken, step.running_since = False, False, now
        self._running.add(step)
        if self._threads is None:
            raise AssertionError(step.name)
        try:
            self._threads.submit(partial(self._run, step))
        except (RuntimeError, MemoryError):
            # No thread is to be had. It stays queued, for the next that is free.
            level = logging.DEBUG if any(other.runs for other in self._running) else logging.ERROR
            log.log(level, "no thread is to be had for %s; it waits for one", step.name)

    def _plan(self, step: _Repeated) -> None:
        """Have APScheduler run a step when it is due by now."""
        with self._planning:
            jobs = self._jobs
            if jobs is None or self._stopping:
                return
            next_run_time = _in(max(step.due_at - self._monotonic(), 0.0))
            # At the end the jobs may be gone between the look above and here.
            with suppress(JobLookupError):
                jobs.modify_job(step.name, next_run_time=next_run_time)

    def _run(self, step: _Repeated) -> None:
        started = self._monotonic()
        with self._changed:
            step.running_since = started
        wait = step.every if self._stopping else self._attempt(step)
        with self._changed:
            ended = self._monotonic()
            self._running.discard(step)
            step.running_since = None
            step.runs += 1
            step.seconds = ended - started
            step.seconds_total += step.seconds
            step.rests_until = ended + step.rest
            # A wake-up that came meanwhile is obeyed.
            wait = 0.0 if step.woken else min(wait, step.every)
            step.due_at = max(ended + wait, step.rests_until)
            if self._stopping:
                self._changed.notify_all()
        self._plan(step)
        self._hand_out()

    def _attempt(self, step: _Repeated) -> float:
        try:
            wait = step.run()
        except Aborted:
            # The daemon stops; nobody waits for this step.
            return step.every
        except StateWriteError as error:
            step.failures += 1
            step.failures_total += 1
            # The writer has told of it, once for all.
            log.debug("%s: %s", step.name, error)
        except ShortageError as error:
            step.failures += 1
            level = logging.ERROR if step.failures == 1 else logging.DEBUG
            log.log(level, "%s: %s", step.name, error)
        except Exception:
            step.failures += 1
            step.failures_total += 1
            # The same failure every second would drown what led to it.
            level = logging.ERROR if step.failures == 1 else logging.DEBUG
            log.log(level, "the step %s failed; it is tried again", step.name, exc_info=True)
        else:
            step.failures = 0
            return step.every if wait is None else wait
        return backoff_seconds(min(step.failures, 5))


def _in(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)
