"""Against a service that refuses what comes too fast, the rate it bears is found."""

import pytest

from syncd.workers.pace import Pace

pytestmark = pytest.mark.row(36)
LIMIT, ROUND_TRIP_SECONDS, PAUSE_SECONDS = 50.0, 0.02, 1.0


class Bucket:
    """Takes so many requests a second, and no more at once than it has room for."""

    def __init__(self, room):
        self._left = self._room = room
        self._at = 0.0

    def takes(self, now):
        self._left = min(self._room, self._left + (now - self._at) * LIMIT)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Window:
    """Takes so many requests in each second of the clock."""

    def __init__(self):
        self._second, self._taken = 0, 0.0

    def takes(self, now):
        if int(now) != self._second:
            self._second, self._taken = int(now), 0.0
        self._taken += 1
        return self._taken <= LIMIT


class Sender:
    """Sends one request after another on a simulated clock, as fast as it may."""

    def __init__(self, workers=8):
        self.now = 0.0
        self.pace = Pace(lambda: self.now)
        self._step = ROUND_TRIP_SECONDS / workers

    def taken(self, service, seconds):
        """Return how many requests `service` takes meanwhile."""
        until, count = self.now + seconds, 0
        while self.now < until:
            self.now += max(self.pace.seconds_until_turn(), self._step)
            if service.takes(self.now):
                self.pace.succeeded()
                count += 1
            else:
                self.pace.refused(PAUSE_SECONDS)
                self.now += PAUSE_SECONDS
        return count


@pytest.mark.parametrize(
    "service",
    [Bucket(50), Bucket(10), Bucket(2), Window()],
    ids=["roomy", "small", "tiny", "clock"],
)
def test_most_of_a_steady_limit_is_used(service):
    sender = Sender()
    # It takes some seconds to learn it.
    sender.taken(service, 10)
    assert sender.taken(service, 60) > 0.85 * LIMIT * 60


def test_a_passing_trouble_is_forgotten_soon():
    sender = Sender()
    sender.taken(Bucket(10), 5)
    sender.now += 120
    assert sender.pace.seconds_until_turn() == sender.pace.seconds_until_turn() == 0.0


def test_before_the_first_refusal_nothing_waits():
    sender = Sender()
    sender.pace.succeeded()
    assert [sender.pace.seconds_until_turn() for _ in range(3)] == [0.0] * 3


def test_a_service_that_refuses_everything_tells_of_no_rate():
    sender = Sender()
    sender.taken(Bucket(10), 20)
    rate = sender.pace.seconds_until_turn()
    for _ in range(20):
        sender.pace.refused(PAUSE_SECONDS)
        sender.now += PAUSE_SECONDS
    assert sender.pace.seconds_until_turn() == 0.0
    assert sender.pace.seconds_until_turn() < 1.0 / 20
    assert rate < 1.0


def test_what_was_served_long_ago_tells_of_no_rate():
    sender = Sender()
    sender.pace.succeeded()
    sender.now += 100
    sender.pace.refused(0.0)
    assert [sender.pace.seconds_until_turn() for _ in range(3)] == [0.0] * 3
