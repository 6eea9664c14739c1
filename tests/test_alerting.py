"""Alerts: whom is told what, when, and how often; the alert rules are in test_alerts."""

import json

import pytest

from syncd.alerts import ALERTS, HOUR_SECONDS, MOST_PENDING, PING_SECONDS, Alerts
from syncd.files_api import StopFlag
from syncd.outbound import UndeliveredError
from syncd.report.status import Reason

AFTER = 60.0


class Target:
    def __init__(self):
        self.told, self.is_down = [], False

    def deliver(self, document, *, seconds, stop, variables):
        if self.is_down:
            raise UndeliveredError("it is down")
        self.told.append(json.loads(document) if document else "ping")


class World:
    """Alerts over a real state; the time and what `status` says are ours."""

    def __init__(self, store):
        self.store, self.now, self.reasons = store, 1_000_000.0, {}
        self.webhook, self.command, self.receiver = Target(), Target(), Target()
        self.restart()

    def restart(self, without=()):
        targets = {"webhook": self.webhook, "command": self.command}
        self.alerts = Alerts(
            targets={name: targets[name] for name in targets if name not in without},
            ping=self.receiver,
            after_seconds=AFTER,
            judge=self.status,
            wake=lambda _: None,
            store=self.store,
            stop=StopFlag(),
            clock=lambda: self.now,
            monotonic=lambda: self.now,
        )

    def status(self):
        reasons = [Reason(cause, text) for cause, text in self.reasons.items()]
        holds = [{"commands": ["syncd deletes list"]}] if "hold" in self.reasons else []
        return {"well": not reasons, "reasons": reasons, "holds": holds}

    def go_on(self, seconds):
        """Run every step for so many seconds."""
        until = self.now + seconds
        while self.now < until:
            for _, step, _ in self.alerts.steps():
                while step() == 0.0:
                    pass
            self.now += 10

    def heard(self, target=None):
        return [(told["well"], told["reasons"]) for told in (target or self.webhook).told]


@pytest.fixture
def world(store):
    return World(store)


def test_a_cause_that_lasts_is_told_once_and_that_all_is_well_again(world):
    world.go_on(100)
    assert world.webhook.told == []
    world.reasons = {"failed": "3 files failed (syncd ls --status failed)"}
    world.go_on(AFTER - 20)
    assert world.webhook.told == []
    world.go_on(40)
    # The number in it grows: it is the same cause.
    world.reasons = {"failed": "4 files failed (syncd ls --status failed)"}
    world.go_on(3 * HOUR_SECONDS)
    [told] = world.webhook.told
    assert (told["well"], told["instance"]) == (False, world.store.instance)
    assert told["commands"] == ["syncd ls --status failed"]
    assert told["reasons"] == ["3 files failed (syncd ls --status failed)"]
    assert told["text"].endswith("3 files failed (syncd ls --status failed)")
    world.reasons = {}
    world.go_on(AFTER - 20)
    assert len(world.webhook.told) == 1
    world.go_on(40)
    assert world.heard()[1:] == [(True, [])]
    assert world.webhook.told[1]["since"] == told["since"]
    assert world.command.told == world.webhook.told


def test_what_ends_within_a_short_time_alerts_nobody(world):
    for _ in range(20):
        world.reasons = {"unreachable": "the service cannot be reached"}
        world.go_on(AFTER - 10)
        world.reasons = {}
        world.go_on(AFTER)
    assert world.webhook.told == []


def test_a_cause_that_comes_and_goes_is_told_once_an_hour(world):
    began = world.now
    while world.now < began + 5 * HOUR_SECONDS:
        world.reasons = {"unreachable": "gone"}
        world.go_on(120)
        world.reasons = {}
        world.go_on(120)
    assert 5 <= len([well for well, _ in world.heard() if not well]) <= 6
    # Another cause has an hour of its own.
    world.reasons = {"hold": "held"}
    world.go_on(120)
    assert world.heard()[-1] == (False, ["held"])
    assert world.webhook.told[-1]["commands"] == ["syncd deletes list"]


def test_what_is_not_taken_is_sent_again_in_order_also_after_a_restart(world):
    world.webhook.is_down = True
    world.reasons = {"failed": "1 file failed"}
    world.go_on(90)
    assert world.heard(world.command) == [(False, ["1 file failed"])]
    [trouble] = world.alerts.troubles()
    assert trouble.startswith("alerts by webhook: it is down; tried again by ")
    world.reasons = {}
    world.go_on(90)
    world.restart()
    world.go_on(600)
    world.webhook.is_down = False
    world.go_on(600)
    assert world.heard() == world.heard(world.command)
    assert world.heard() == [(False, ["1 file failed"]), (True, [])]
    assert list(world.alerts.troubles()) == []


def test_a_restart_repeats_no_alert_and_still_says_that_all_is_well_again(world):
    world.reasons = {"failed": "1 file failed"}
    world.go_on(90)
    world.restart()
    world.go_on(2 * HOUR_SECONDS)
    assert len(world.webhook.told) == 1
    world.reasons = {}
    world.restart()
    world.go_on(90)
    assert world.heard()[1:] == [(True, [])]


def test_what_was_told_is_forgotten_with_the_last_target(world):
    world.webhook.is_down = True
    world.reasons = {"failed": "1 file failed"}
    world.go_on(90)
    assert world.store.fact(ALERTS)
    world.restart(without={"webhook"})
    world.go_on(AFTER)
    assert world.store.fact(ALERTS)
    world.restart(without={"webhook", "command"})
    assert world.store.fact(ALERTS) is None
    assert [name for name, *_ in world.alerts.steps()] == ["look for alerts", "ping"]


def test_a_target_that_is_down_for_days_keeps_its_queue_bounded(world):
    world.webhook.is_down = True
    for number in range(2 * MOST_PENDING):
        world.reasons = {f"cause {number}": f"cause {number}"}
        world.go_on(90)
    world.webhook.is_down = False
    world.go_on(600)
    assert len(world.webhook.told) == MOST_PENDING
    assert world.heard()[-1] == (False, [f"cause {2 * MOST_PENDING - 1}"])


def test_a_target_is_not_told_that_it_fails_itself(world):
    world.reasons = {"trouble alerts by webhook": "alerts by webhook: it is down"}
    world.go_on(90)
    assert (world.webhook.told, len(world.command.told)) == ([], 1)


def test_the_dead_mans_switch_is_called_while_all_is_well_and_only_then(world):
    world.go_on(10 * PING_SECONDS)
    pings = len(world.receiver.told)
    assert pings >= 10
    world.reasons = {"failed": "1 file failed"}
    world.go_on(PING_SECONDS)
    pings = len(world.receiver.told)
    world.go_on(10 * PING_SECONDS)
    assert len(world.receiver.told) == pings
    world.reasons = {}
    world.go_on(2 * PING_SECONDS)
    assert len(world.receiver.told) > pings
    # Without a judgement there is no ping: the look may hang.
    _, ping, _ = list(world.alerts.steps())[-1]
    world.now += HOUR_SECONDS
    assert ping() is None
    # A receiver that fails is no reason not to be well: pings would then never come again.
    world.receiver.is_down = True
    world.go_on(PING_SECONDS)
    assert list(world.alerts.troubles()) == []
