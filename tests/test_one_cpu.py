"""Threads that take turns with the interpreter share a CPU, and follow one that does not."""

import os
import sys
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from syncd import one_cpu
from syncd.one_cpu import OneCpu

ALL = os.sched_getaffinity(0)
pytestmark = pytest.mark.skipif(len(ALL) < 2, reason="needs two CPUs")


@pytest.fixture
def together(monkeypatch):
    monkeypatch.setattr(one_cpu, "FOLLOW_SECONDS", 0.0)
    return OneCpu()


@contextmanager
def on(cpu):
    """Run on a CPU, as the kernel may decide."""
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, ALL)


@contextmanager
def thread_within(within):
    """Lend the number of a thread that is in the context that `within` makes."""
    entered, end = threading.Event(), threading.Event()

    def work():
        with within():
            entered.set()
            end.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait(10)
    try:
        yield thread.native_id
    finally:
        end.set()
        thread.join()


def follow(together, cpu):
    """Have the threads follow one that was placed on a CPU, and may run on any."""
    with on(cpu):
        together.follow()


def test_threads_share_the_cpu_of_the_one_that_they_follow(together):
    with thread_within(together.shared) as one, thread_within(together.shared) as other:
        for cpu in sorted(ALL)[:2]:
            follow(together, cpu)
            assert os.sched_getaffinity(one) == os.sched_getaffinity(other) == {cpu}
        assert os.sched_getaffinity(0) == ALL


def test_a_thread_that_comes_later_joins_the_others(together):
    cpu = min(ALL)
    follow(together, cpu)
    with thread_within(together.shared) as thread:
        assert os.sched_getaffinity(thread) == {cpu}


def course(together):
    """Return where a thread may run while it shares, has left, shares again, and at its end."""
    seen = []

    def work():
        with together.shared():
            seen.append(os.sched_getaffinity(0))
            with together.left():
                seen.append(os.sched_getaffinity(0))
            seen.append(os.sched_getaffinity(0))
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return seen


def test_a_thread_that_leaves_may_run_anywhere_and_comes_back(together):
    cpu = max(ALL)
    follow(together, cpu)
    assert course(together) == [{cpu}, ALL, {cpu}, ALL]


def test_a_program_that_may_use_some_cpus_uses_no_other(together):
    cpu = max(ALL)
    with on(cpu):
        together.follow()
        assert course(together) == [{cpu}] * 4


def test_a_program_that_was_moved_stays_where_it_is_now(together):
    follow(together, min(ALL))
    cpu = max(ALL)
    with on(cpu):
        assert course(together)[1] == {cpu}


@pytest.mark.parametrize("cpu", [-1, 4095])
def test_a_cpu_that_cannot_be_told_changes_nothing(together, monkeypatch, cpu):
    monkeypatch.setattr(one_cpu, "_libc", SimpleNamespace(sched_getcpu=lambda: cpu))
    together.follow()
    assert course(together) == [ALL] * 4


def test_a_kernel_that_refuses_changes_nothing(together, monkeypatch):
    def refuse(*_):
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(os, "sched_setaffinity", refuse)
        together.follow()
        assert course(together) == [ALL] * 4
    monkeypatch.setattr(one_cpu.os, "sched_getaffinity", refuse)
    OneCpu().follow()


def test_a_python_without_its_lock_keeps_all_cpus(together, monkeypatch):
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    with thread_within(together.shared) as thread:
        together.follow()
        assert os.sched_getaffinity(thread) == ALL


def test_the_threads_are_moved_once_a_second(monkeypatch):
    moved, now = [], [100.0]
    monkeypatch.setattr(one_cpu.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(one_cpu, "_place", lambda *placed: moved.append(placed))
    together = OneCpu()
    with together.shared():
        del moved[:]
        for now[0] in (100.0, 100.9, 101.0, 101.5):
            together.follow()
    assert len(moved) == 3  # two moves, and the end
