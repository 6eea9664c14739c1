"""Threads that run calls side by side, and end when there are too many of them."""

import threading
import time
from contextlib import contextmanager
from functools import partial

import pytest

from syncd import threads
from syncd.threads import Threads


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(threads, "SPARE_SECONDS", 0.02)


def alive():
    return [thread for thread in threading.enumerate() if thread.name.startswith("some_")]


def until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def no_thread_to_be_had(monkeypatch):
    def fail(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        yield


def test_calls_run_side_by_side_and_only_so_many_threads_stay():
    some = Threads("some", kept=2)
    together = threading.Barrier(9)
    for _ in range(8):
        some.submit(together.wait)
    together.wait(5)
    until(lambda: len(alive()) <= 2)
    done = threading.Event()
    some.submit(done.set)
    assert done.wait(5)
    some.shutdown(wait=True)
    assert not alive()


def test_an_idle_thread_runs_the_next_call():
    some, names = Threads("some", kept=2), []
    done = threading.Semaphore(0)

    def call():
        names.append(threading.current_thread().name)
        done.release()

    for _ in range(5):
        some.submit(call)
        assert done.acquire(timeout=5)
    some.shutdown(wait=True)
    assert len(set(names)) <= 2


def test_a_call_that_finds_no_thread_waits_for_one_that_is_free(monkeypatch):
    some, go, ran = Threads("some", kept=1), threading.Event(), threading.Event()
    some.submit(partial(go.wait, 5))
    with no_thread_to_be_had(monkeypatch), pytest.raises(RuntimeError):
        some.submit(ran.set)
    assert not ran.is_set()
    go.set()
    assert ran.wait(5)
    some.shutdown(wait=True)


def test_an_end_does_not_wait_for_a_call_that_hangs():
    some, go = Threads("some", kept=1), threading.Event()
    some.submit(partial(go.wait, 5))
    some.shutdown(wait=False)
    assert alive()
    go.set()
    some.shutdown(wait=True)
    assert not alive()


def test_calls_that_found_no_thread_at_all_run_once_there_is_one(monkeypatch):
    some, ran = Threads("some", kept=1), threading.Event()
    with no_thread_to_be_had(monkeypatch):
        with pytest.raises(RuntimeError):
            some.submit(ran.set)
        with pytest.raises(RuntimeError):
            some.start_missing()
    some.start_missing()
    assert ran.wait(5)
    some.shutdown(wait=True)
