"""Repeats the daemon's steps: on time, on a hint, and every few seconds as a net.

A step does what is due now and returns the seconds until it wants to run again (None: whenever the
net comes round). APScheduler keeps the times. Five of its habits are met here: a wake-up during a
run would be lost, so it is remembered; a late job would be skipped, so no lateness is too late; a
job counts as running for a moment after its function returned, so it is we who see to it that no
step runs beside itself; a shutdown that waits can deadlock with a run that ends, so the pool is
ours to wait for; and times on the wall clock stop when it is set back, so `nudge` compares with
the monotonic clock.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apscheduler.executors.pool import BasePoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from syncd.exceptions import ShortageError, StateWriteError
from syncd.files_api import Aborted
from syncd.state.retry import backoff_seconds

log = logging.getLogger(__name__)

Step = Callable[[], float | None]
#: The shortest pause between two runs of a step, in seconds: a bound on spinning.
SHORTEST_SECONDS = 0.02
#: How late a step may be, in seconds, before `nudge` runs it.
LATE_SECONDS = 2.0


class _OurPool(BasePoolExecutor):  # type: ignore[misc]
    """Runs jobs on a pool that was made, and is waited for, by us."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        super().__init__(pool)


@dataclass(slots=True)
class _Repeated:
    name: str
    run: Step
    every: float
    after: float = 0.0
    running_since: float | None = None
    woken: bool = False
    promised_at: float = 0.0
    runs: int = 0
    failures: int = 0
    seconds: float = 0.0
    seconds_total: float = 0.0
    failures_total: int = 0


@dataclass(frozen=True, slots=True)
class StepReport:
    """How a step fares; times in seconds, on the monotonic clock."""

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
    """Runs named steps, each never beside itself, on a pool with a thread for each."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._steps: dict[str, _Repeated] = {}
        self._lock = threading.Lock()
        self._stopping = False
        self._jobs: BackgroundScheduler | None = None
        self._pool: ThreadPoolExecutor | None = None

    def add(self, name: str, run: Step, *, every: float, after: float = 0.0) -> None:
        """Add a step, repeated at least every `every` seconds; before `start`.

        It first runs `after` so many seconds.
        """
        self._steps[name] = _Repeated(name, run, every, after)

    def start(self) -> None:
        """Start the pool and run every step once, at once or after its own while."""
        # It reports each run that found others still going: for us, an ordinary case.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._pool = ThreadPoolExecutor(len(self._steps) + 2, thread_name_prefix="syncd-step")
        self._jobs = BackgroundScheduler(
            executors={"default": _OurPool(self._pool)},
            job_defaults={"coalesce": True, "max_instances": 3, "misfire_grace_time": None},
            timezone=UTC,
        )
        for step in self._steps.values():
            step.promised_at = self._monotonic() + step.after
            self._jobs.add_job(
                self._run,
                "interval",
                args=[step],
                id=step.name,
                seconds=step.every,
                next_run_time=datetime.now(UTC) + timedelta(seconds=step.after),
            )
        self._jobs.start()

    def stop(self, seconds: float | None = None) -> list[str]:
        """Start no more runs and wait for those under way; never from inside a step.

        For `seconds` at most, if given; return the names of those that still run then.
        """
        self._stopping = True
        if self._jobs is None or self._pool is None:
            return []
        # APScheduler would wait for the pool while it holds a lock that a run at its end needs.
        self._jobs.shutdown(wait=False)
        deadline = None if seconds is None else time.monotonic() + seconds
        while deadline is not None and self._running() and time.monotonic() < deadline:
            time.sleep(SHORTEST_SECONDS)
        hung = [] if deadline is None else self._running()
        self._pool.shutdown(wait=not hung)
        self._jobs = self._pool = None
        return hung

    def _running(self) -> list[str]:
        return [step.name for step in self._steps.values() if step.running_since is not None]

    def wake(self, *names: str) -> None:
        """Run these steps as soon as may be; one that is running runs once more."""
        for name in names:
            step = self._steps[name]
            with self._lock:
                step.woken = True
                idle = step.running_since is None
            if idle:
                self._due_in(step, 0.0)

    def nudge(self) -> None:
        """Run each step that is late by the monotonic clock; called every second or so."""
        now = self._monotonic()
        for step in self._steps.values():
            if step.running_since is None and now > step.promised_at + LATE_SECONDS:
                self._due_in(step, 0.0)

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

    def _run(self, step: _Repeated) -> None:
        if self._stopping:
            return
        started = self._monotonic()
        with self._lock:
            if step.running_since is not None:
                step.woken = True
                return
            step.running_since, step.woken = started, False
        wait = self._attempt(step)
        ended = self._monotonic()
        with self._lock:
            step.running_since = None
            step.runs += 1
            step.seconds = ended - started
            step.seconds_total += step.seconds
        self._due_in(step, max(min(wait, step.every), SHORTEST_SECONDS))
        # Only now can no wake-up be overwritten: one that came meanwhile is obeyed.
        if step.woken:
            self._due_in(step, SHORTEST_SECONDS)

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

    def _due_in(self, step: _Repeated, seconds: float) -> None:
        step.promised_at = self._monotonic() + seconds
        if self._jobs is None or self._stopping:
            return
        due_at = datetime.now(UTC) + timedelta(seconds=seconds)
        # At the end the jobs may be gone between the look above and here.
        with suppress(JobLookupError):
            self._jobs.modify_job(step.name, next_run_time=due_at)
