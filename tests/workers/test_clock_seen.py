"""A clock that is set, is wrong at boot, or both: what counts the time that passes goes on so."""

import time

import pytest

from syncd import commands
from syncd.files_api import Bandwidth
from syncd.state.database.store import fact, set_fact
from syncd.state.holds import pauses
from syncd.timetable import Timetable
from syncd.workers.bandwidth import BandwidthControl
from syncd.workers.clock_seen import CLOCK, ClockWatch
from syncd.workers.gate import Gate

HOUR, DAY = 3600.0, 86_400.0
#: What a machine shows at boot that has no battery for its clock.
LONG_AGO = 1000.0
NOW = 1_800_000_000.0


class Machine:
    """A machine with two clocks, and the parts of a daemon that end pauses and limits."""

    def __init__(self, store, monkeypatch):
        self.store, self.wall, self.steady, self.boots = store, NOW, 50.0, 0
        monkeypatch.setattr(time, "time", lambda: self.wall)
        self.start()

    def start(self):
        self.clocks = ClockWatch(
            store=self.store,
            clock=lambda: self.wall,
            steady=lambda: self.steady,
            boot=f"boot-{self.boots}",
        )
        common = {"store": self.store, "clock": lambda: self.wall}
        look = {"look_at_clock": self.clocks.look}
        self.gate = Gate(**common, **look, monotonic=lambda: self.steady)
        timetable = Timetable.parse("off")
        self.bandwidth = BandwidthControl(**common, **look, bucket=Bandwidth(), timetable=timetable)
        self.look()

    def look(self):
        self.clocks.look()
        self.step()

    def step(self):
        """What the upload step does first."""
        self.gate.see_standstills()
        self.bandwidth.step()

    def goes_on(self, seconds):
        self.wall += seconds
        self.steady += seconds

    def is_set(self, wall):
        self.wall = wall

    def boot(self, wall):
        self.boots += 1
        self.steady, self.wall = 5.0, wall
        self.start()

    def begin(self, **end):
        commands.set_pause(self.store, self.clocks, end)
        if "seconds" in end:
            commands.set_limit(self.store, self.clocks, {"rate": 5000, **end})
        self.step()
        assert self.stands

    @property
    def stands(self):
        """Whether pause and limit are in force; they are so together."""
        self.step()
        is_paused = self.gate.is_at_standstill("f")
        (hold,) = self.store.read(pauses.open_pauses) or (None,)
        if hold is None or hold.is_span:
            assert is_paused == (self.bandwidth.in_force.rate == 5000)
        return is_paused

    def lasts(self, seconds):
        """Say whether it lasts as long as that and no longer."""
        self.goes_on(seconds - 1)
        stood = self.stands
        self.goes_on(2)
        return stood and not self.stands


@pytest.fixture
def machine(store, monkeypatch):
    return Machine(store, monkeypatch)


@pytest.mark.parametrize("jump", [-20 * 365 * DAY, -HOUR, HOUR, 20 * 365 * DAY])
def test_a_span_of_time_lasts_as_long_however_the_clock_is_set(machine, jump):
    machine.begin(seconds=2 * HOUR)
    machine.goes_on(HOUR)
    machine.is_set(machine.wall + jump)
    machine.look()
    assert machine.lasts(HOUR)


def test_what_would_end_a_span_notices_first_that_the_clock_was_set(machine):
    machine.begin(seconds=2 * HOUR)
    machine.is_set(NOW + DAY)
    assert machine.lasts(2 * HOUR)


def test_a_clock_of_long_ago_at_boot_that_is_set_right_ends_no_span_too_early(machine):
    machine.begin(seconds=2 * HOUR)
    machine.goes_on(HOUR)
    machine.clocks._noted_at = 0.0
    machine.look()
    machine.boot(LONG_AGO)
    machine.goes_on(60)
    assert machine.stands
    machine.is_set(NOW + HOUR + 600)
    assert machine.lasts(HOUR - 60)


def test_a_span_that_began_under_a_clock_of_long_ago_goes_on_when_it_is_set_right(machine):
    machine.boot(LONG_AGO)
    machine.begin(seconds=2 * HOUR)
    machine.goes_on(60)
    machine.is_set(NOW + DAY)
    assert machine.lasts(2 * HOUR - 60)


def test_the_time_that_a_machine_is_off_counts_where_its_clock_went_on(machine):
    machine.begin(seconds=2 * HOUR)
    machine.boot(NOW + HOUR)
    assert machine.lasts(HOUR)


def test_boots_without_a_clock_do_not_prolong_a_span_for_ever(machine):
    machine.begin(seconds=2 * HOUR)
    for _ in range(3):
        machine.goes_on(1800)
        machine.clocks._noted_at = 0.0
        machine.look()
        machine.boot(LONG_AGO)
    assert machine.lasts(1800)


def test_a_pause_until_a_time_ends_when_the_clock_shows_it(machine):
    machine.begin(until=NOW + 2 * HOUR)
    machine.boot(LONG_AGO)
    machine.goes_on(3 * HOUR)
    assert machine.stands
    machine.is_set(NOW + HOUR)
    machine.look()
    assert machine.stands
    machine.is_set(NOW + HOUR + 1800)
    assert machine.lasts(1800)


def test_the_same_jump_moves_a_span_once_whoever_notices_it(machine):
    machine.begin(seconds=2 * HOUR)
    others = [
        ClockWatch(store=machine.store, clock=time.time, steady=lambda: machine.steady, boot=boot)
        for boot in ("boot-0", "boot-0")
    ]
    machine.is_set(NOW + DAY)
    for watch in (machine.clocks, *others):
        watch.look()
    assert machine.lasts(2 * HOUR)


def test_a_clock_that_was_set_while_nothing_ran_does_not_move_what_is_promised_then(machine):
    """The last reading is of an earlier boot."""
    machine.boots, machine.steady, machine.wall = 1, 5.0, LONG_AGO
    machine.clocks.boot, machine.clocks._seen = "boot-1", None
    machine.begin(seconds=2 * HOUR)
    machine.start()
    assert machine.lasts(2 * HOUR)


def test_a_reading_that_is_damaged_moves_nothing(machine):
    machine.begin(seconds=2 * HOUR)
    machine.store.write(set_fact, CLOCK, "x")
    machine.is_set(NOW + 60)
    machine.start()
    assert machine.stands
    assert machine.store.read(fact, CLOCK).startswith("boot-0")


def test_resuming_one_folder_leaves_a_pause_that_a_jump_seems_to_have_ended(machine):
    for folder in ("f", "g"):
        commands.set_pause(machine.store, machine.clocks, {"seconds": HOUR, "folder": folder})
    machine.is_set(NOW + DAY)
    commands.end_pause(machine.store, {"folder": "g"})
    machine.step()
    assert machine.store.read(pauses.scopes) == {"f"}


def test_a_limit_alone_notices_first_that_the_clock_was_set(machine):
    commands.set_limit(machine.store, machine.clocks, {"rate": 5000, "seconds": HOUR})
    machine.is_set(NOW + DAY)
    machine.bandwidth.step()
    assert machine.bandwidth.in_force.rate == 5000
    machine.goes_on(HOUR)
    machine.bandwidth.step()
    assert machine.bandwidth.in_force.rate is None
