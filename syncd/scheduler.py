"""Repeats the daemon's steps: on time, on a hint, and every few seconds as a net.

A step does what is due now and returns the seconds until it wants to run again (None: whenever the
net comes round). No step runs beside itself; one that hangs keeps a thread and holds up no other.
At rest nothing wakes but what is due.
"""

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from syncd.exceptions import ShortageError, StateWriteError
from syncd.files_api import Aborted
from syncd.state.retry import backoff_seconds

log = logging.getLogger(__name__)

Step = Callable[[], float | None]
#: The shortest pause between two runs of a step, in seconds: a bound on spinning.
SHORTEST_SECONDS = 0.02
#: Steps that run at a time; a run that takes longer than so many seconds does not count.
SIDE_BY_SIDE, LONG_SECONDS = 16, 1.0


@dataclass(slots=True, eq=False)
class _Repeated:
    name: str
    run: Step
    every: float
    after: float
    #: seconds between two runs, at least
    rest: float
    rests_until: float = 0.0
    #: when it runs next, on the monotonic clock; None while it is handed to a thread
    due_at: float | None = None
    running_since: float | None = None
    woken: bool = False
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
    """Runs named steps, each never beside itself, on as many threads as run at a time."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._steps: dict[str, _Repeated] = {}
        #: holds whatever is below, and what changes in a step
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, _Repeated]] = []
        self._order = itertools.count()
        self._running: set[_Repeated] = set()
        self._sleeps_until = 0.0
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._pool: ThreadPoolExecutor | None = None

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
        self._pool = ThreadPoolExecutor(len(self._steps) + 1, thread_name_prefix="syncd-step")
        with self._changed:
            for step in self._steps.values():
                self._plan(step, self._monotonic() + step.after)
        self._thread = threading.Thread(target=self._hand_out, name="syncd-scheduler", daemon=True)
        self._thread.start()

    def stop(self, seconds: float | None = None) -> list[str]:
        """Start no more runs and wait for those under way; never from inside a step.

        For `seconds` at most, if given; return the names of those that still run then.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is None or self._pool is None:
            return []
        self._thread.join()
        with self._changed:
            self._changed.wait_for(lambda: not self._running, seconds)
            hung = [step.name for step in self._running]
        self._pool.shutdown(wait=not hung)
        self._thread = self._pool = None
        return hung

    def wake(self, *names: str, within: float = 0.0) -> None:
        """Run these steps within so many seconds; one that is running runs once more."""
        with self._changed:
            for name in names:
                step = self._steps[name]
                due_at = max(self._monotonic() + within, step.rests_until)
                if step.due_at is None:
                    step.woken = True
                elif due_at < step.due_at:
                    self._plan(step, due_at)

    def nudge(self) -> None:
        """Look at the clock: it may have gone on while the machine slept."""
        with self._changed:
            if self._due and self._due[0][0] <= self._monotonic():
                self._changed.notify_all()

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

    def _hand_out(self) -> None:
        """Hand each step to a thread when it is due, until the end."""
        with self._changed:
            while not self._stopping:
                wait = self._hand_out_due()
                self._sleeps_until = self._monotonic() + wait
                self._changed.wait(None if wait == threading.TIMEOUT_MAX else wait)

    def _hand_out_due(self) -> float:
        """Hand out what is due while there is room; return the seconds until more may be."""
        while self._due:
            due_at, _, step = self._due[0]
            if due_at != step.due_at:
                # It was planned anew.
                heapq.heappop(self._due)
                continue
            now = self._monotonic()
            if due_at > now:
                return min(due_at - now, threading.TIMEOUT_MAX)
            if sum(_began(other) > now - LONG_SECONDS for other in self._running) >= SIDE_BY_SIDE:
                return SHORTEST_SECONDS
            heapq.heappop(self._due)
            self._begin(step, now)
        return threading.TIMEOUT_MAX

    def _begin(self, step: _Repeated, now: float) -> None:
        step.due_at, step.woken, step.running_since = None, False, now
        self._running.add(step)
        if self._pool is None:
            raise AssertionError(step.name)
        try:
            self._pool.submit(self._run, step)
        except (RuntimeError, MemoryError):
            # No thread is to be had. It stays queued, for the next that is free.
            level = logging.DEBUG if any(other.runs for other in self._running) else logging.ERROR
            log.log(level, "no thread is to be had for %s; it waits for one", step.name)

    def _plan(self, step: _Repeated, due_at: float) -> None:
        step.due_at = due_at
        heapq.heappush(self._due, (due_at, next(self._order), step))
        if due_at < self._sleeps_until:
            self._changed.notify_all()

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
            self._plan(step, max(ended + wait, step.rests_until))
            if self._stopping:
                self._changed.notify_all()

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


def _began(step: _Repeated) -> float:
    return step.running_since or 0.0
