"""Runs calls on threads: on one that is idle, else on a new one, of which few are kept."""

import itertools
import threading
from collections import deque
from collections.abc import Callable

#: Seconds for which a thread that is not kept waits for another call.
SPARE_SECONDS = 1.0


class Threads:
    """Daemon threads, as many as calls run at a time; `kept` of them stay when all is quiet.

    A ThreadPoolExecutor would keep every thread that it ever needed, so that one busy moment
    of many folders would cost memory for good.
    """

    def __init__(self, name: str, *, kept: int) -> None:
        self._name = name
        self._kept = kept
        self._calls: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._idle = self._alive = 0
        self._numbers = itertools.count()
        self._ended = False

    def submit(self, call: Callable[[], object]) -> None:
        """Have a call run; raise RuntimeError or MemoryError if no thread is to be had.

        It stays queued even then, for the next thread that is free.
        """
        with self._changed:
            self._calls.append(call)
            if self._idle >= len(self._calls):
                self._changed.notify()
                return
            self._alive += 1
        self._start()

    def start_missing(self) -> None:
        """Start a thread for calls that found none; raise as `submit` does."""
        with self._changed:
            if self._ended or len(self._calls) <= self._idle:
                return
            self._alive += 1
        self._start()

    def _start(self) -> None:
        """Start a thread that is counted already; count it no more if that fails."""
        name = f"{self._name}_{next(self._numbers)}"
        try:
            threading.Thread(target=self._work, name=name, daemon=True).start()
        except BaseException:
            with self._changed:
                self._alive -= 1
            raise

    def shutdown(self, *, wait: bool) -> None:
        """End every thread that is idle; wait for the others if told to."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            if wait:
                self._changed.wait_for(lambda: not self._alive)

    def _work(self) -> None:
        try:
            while (call := self._next()) is not None:
                call()
        finally:
            with self._changed:
                self._alive -= 1
                if self._ended:
                    self._changed.notify_all()

    def _next(self) -> Callable[[], object] | None:
        """Wait for a call; return None if this thread is to end."""
        with self._changed:
            self._idle += 1
            try:
                while not self._calls and not self._ended:
                    is_spare = self._alive > self._kept
                    woken = self._changed.wait(SPARE_SECONDS if is_spare else None)
                    if not woken and not self._calls and self._alive > self._kept:
                        return None
                return self._calls.popleft() if self._calls else None
            finally:
                self._idle -= 1
