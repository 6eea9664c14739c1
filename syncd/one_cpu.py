"""Keeps the threads that take turns with the interpreter on one CPU. A leaf.

Only one of them runs at a time. Spread over several CPUs, each of them has to wake another CPU when
its turn ends, and that costs more than most turns: sending small files took twice the CPU time.
"""

import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: Seconds between two moves.
FOLLOW_SECONDS = 1.0
_libc = ctypes.PyDLL(None)


class OneCpu:
    """The threads that share a CPU. Thread-safe; without effect where the kernel refuses it.

    Another program may need the same CPU. So the threads follow one that the kernel places as it
    likes: the one that calls `follow`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: by their numbers in the kernel
        self._threads: set[int] = set()
        #: the CPU that is shared; empty while none is
        self._shared: set[int] = set()
        self._follow_at = 0.0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Keep the calling thread with the others."""
        self._join()
        try:
            yield
        finally:
            self._leave()

    @contextmanager
    def left(self) -> Iterator[None]:
        """Let the calling thread, which shares the CPU, run on any: it works without turns."""
        self._leave()
        try:
            yield
        finally:
            self._join()

    def follow(self) -> None:
        """Move the threads to the CPU of the calling one, which is none of them; once a second."""
        now = time.monotonic()
        with self._lock:
            if now < self._follow_at or not _takes_turns():
                return
            self._follow_at = now + FOLLOW_SECONDS
            self._shared = _here()
            for thread in self._threads:
                _place(thread, self._shared)

    def _join(self) -> None:
        thread = threading.get_native_id()
        with self._lock:
            self._threads.add(thread)
            _place(thread, self._shared)

    def _leave(self) -> None:
        thread = threading.get_native_id()
        with self._lock:
            self._threads.discard(thread)
            if self._shared:
                # The main thread is none of them: an administrator may have moved it.
                _place(thread, _cpus_of(os.getpid()))


#: The one of this process.
ONE_CPU = OneCpu()


def _takes_turns() -> bool:
    """Return whether threads take turns: Python may have been built without its lock."""
    is_locked = getattr(sys, "_is_gil_enabled", None)
    return is_locked is None or bool(is_locked())


def _here() -> set[int]:
    """Return the CPU on which the calling thread runs; nothing if it cannot be known."""
    cpu = _libc.sched_getcpu()
    return {cpu} if cpu in _cpus_of(0) else set()


def _cpus_of(thread: int) -> set[int]:
    """Return the CPUs on which a thread may run; nothing if it cannot be known."""
    with suppress(OSError):
        return os.sched_getaffinity(thread)
    return set()


def _place(thread: int, cpus: set[int]) -> None:
    """Let a thread run on these CPUs only; leave it where it is if there are none."""
    # A hardened unit may forbid the call, and the CPUs of a container may change at any time.
    with suppress(OSError):
        if cpus:
            os.sched_setaffinity(thread, cpus)
