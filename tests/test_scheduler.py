import threading
import time
from contextlib import contextmanager

import pytest

from syncd.scheduler import SIDE_BY_SIDE, Scheduler


@contextmanager
def running(scheduler):
    scheduler.start()
    try:
        yield scheduler
    finally:
        scheduler.stop()


class Step:
    """Counts its runs, and can be held in the middle of one."""

    def __init__(self, wait=None):
        self.runs = 0
        self.wait = wait
        self.go_on = threading.Event()
        self.go_on.set()
        self.inside = self.most = 0
        self._changed = threading.Condition()

    def __call__(self):
        with self._changed:
            self.runs += 1
            self.inside += 1
            self.most = max(self.most, self.inside)
            self._changed.notify_all()
        self.go_on.wait(5)
        self.inside -= 1
        return self.wait

    def has_run(self, times, seconds=5.0):
        with self._changed:
            return self._changed.wait_for(lambda: self.runs >= times, seconds)


def test_every_step_runs_once_at_the_start():
    scheduler, step = Scheduler(), Step()
    scheduler.add("s", step, every=60)
    with running(scheduler):
        assert step.has_run(1)
        time.sleep(0.2)
    assert step.runs == 1


@pytest.mark.long
def test_a_step_that_is_to_come_later_leaves_the_start_to_the_others():
    scheduler, first, later, last = Scheduler(), Step(), Step(), Step()
    scheduler.add("later", later, every=60, after=0.5)
    scheduler.add("last", last, every=60, after=60)
    scheduler.add("first", first, every=60)
    with running(scheduler):
        assert first.has_run(1)
        assert not later.runs
        assert later.has_run(1)
        scheduler.nudge()
        time.sleep(0.1)
    assert not last.runs


def test_a_step_comes_round_when_it_asked_to():
    scheduler, step = Scheduler(), Step(wait=0.05)
    scheduler.add("s", step, every=60)
    with running(scheduler):
        assert step.has_run(5)


def test_the_net_runs_a_step_that_asked_for_nothing():
    scheduler, step = Scheduler(), Step()
    scheduler.add("s", step, every=0.1)
    with running(scheduler):
        assert step.has_run(3)


def test_a_wake_up_during_a_run_is_not_lost():
    scheduler, step = Scheduler(), Step()
    scheduler.add("s", step, every=60)
    step.go_on.clear()
    with running(scheduler):
        assert step.has_run(1)
        scheduler.wake("s")
        step.go_on.set()
        assert step.has_run(2)


def test_a_step_never_runs_beside_itself():
    scheduler, step = Scheduler(), Step(wait=0.0)
    scheduler.add("s", step, every=0.1)
    with running(scheduler):
        for _ in range(200):
            scheduler.wake("s")
            time.sleep(0.001)
    assert step.most == 1


def test_a_hundred_wake_ups_in_a_row_each_lead_to_a_run_that_began_after_it():
    scheduler, step = Scheduler(), Step()
    scheduler.add("s", step, every=60)
    with running(scheduler):
        assert step.has_run(1)
        for _ in range(100):
            before = step.runs
            scheduler.wake("s")
            assert step.has_run(before + 1, 2.0)


@pytest.mark.long
def test_a_step_that_fails_comes_round_again_and_is_counted():
    scheduler = Scheduler()
    calls = []

    def fails():
        calls.append(1)
        raise ValueError("no")

    scheduler.add("s", fails, every=60)
    with running(scheduler):
        deadline = time.monotonic() + 5
        while len(calls) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert scheduler.report()[0].failures >= 1
    assert len(calls) >= 2


def test_steps_that_hang_hold_up_no_other():
    scheduler, hung, other = Scheduler(), Step(), Step()
    hung.go_on.clear()
    for number in range(SIDE_BY_SIDE + 4):
        scheduler.add(f"hung {number}", hung, every=60)
    scheduler.add("other", other, every=60)
    with running(scheduler):
        assert hung.has_run(SIDE_BY_SIDE)
        assert other.has_run(1)
        hung.go_on.set()


def test_a_step_that_is_woken_again_and_again_rests_in_between():
    scheduler, step = Scheduler(), Step()
    scheduler.add("s", step, every=60, rest=0.2)
    with running(scheduler):
        assert step.has_run(1)
        for _ in range(50):
            scheduler.wake("s")
            time.sleep(0.01)
        assert 1 < step.runs < 6


def test_a_step_that_is_expected_sooner_runs_sooner_and_never_later():
    scheduler, step = Scheduler(), Step()
    scheduler.add("s", step, every=60)
    with running(scheduler):
        assert step.has_run(1)
        scheduler.wake("s", within=0.1)
        scheduler.wake("s", within=30.0)
        assert step.has_run(2, 5.0)


def test_a_step_that_a_clock_set_back_has_stopped_is_nudged():
    monotonic = time.monotonic
    ahead = 0.0
    scheduler = Scheduler(monotonic=lambda: monotonic() + ahead)
    step = Step()
    scheduler.add("s", step, every=3600)
    with running(scheduler):
        assert step.has_run(1)
        time.sleep(0.1)
        scheduler.nudge()
        assert not step.has_run(2, 0.2), "it is not late"
        ahead = 3700.0
        scheduler.nudge()
        assert step.has_run(2)


def test_stopping_waits_for_the_run_under_way():
    scheduler, step = Scheduler(), Step()
    scheduler.add("s", step, every=60)
    step.go_on.clear()
    scheduler.start()
    assert step.has_run(1)
    threading.Timer(0.2, step.go_on.set).start()
    scheduler.stop()
    assert step.inside == 0


@pytest.mark.long
def test_stopping_at_any_moment_ends_and_leaves_no_thread():
    before = set(threading.enumerate())
    for number in range(60):
        scheduler, step = Scheduler(), Step(wait=0.0)
        for name in "abcd":
            scheduler.add(name, step, every=0.05)
        scheduler.start()
        time.sleep(number / 2000)
        ending = threading.Thread(target=scheduler.stop, daemon=True)
        ending.start()
        ending.join(5)
        assert not ending.is_alive(), "deadlock"
    assert set(threading.enumerate()) <= before
