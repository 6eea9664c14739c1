"""Pauses: when they end, also by a clock that is wrong, and what they keep from being promised."""

import pytest

from syncd.state.holds import EVERYWHERE, pauses

HOUR = 3600.0


def pause(store, seconds, now, scope=EVERYWHERE):
    store.write(pauses.pause, scope, now + seconds, now)


def test_a_pause_ends_at_its_time_and_not_before(store):
    pause(store, 2 * HOUR, 1000.0)
    assert store.read(pauses.next_end) == 1000.0 + 2 * HOUR
    assert not store.read(pauses.is_change_due, 1000.0 + 2 * HOUR - 1)
    assert store.write(pauses.end_due, 1000.0 + 2 * HOUR - 1) == []
    assert store.read(pauses.is_change_due, 1000.0 + 2 * HOUR)
    assert store.write(pauses.end_due, 1000.0 + 2 * HOUR) == [EVERYWHERE]
    assert store.read(pauses.scopes) == frozenset()


def test_without_an_end_a_pause_lasts_until_it_is_resumed(store):
    store.write(pauses.pause, "f", None, 1000.0)
    assert store.write(pauses.end_due, 1e12) == []
    assert store.read(pauses.is_paused, "f")
    assert not store.read(pauses.is_paused, "g")
    assert store.write(pauses.resume, "f", 2000.0) == ["f"]
    assert not store.read(pauses.is_paused, "f")


@pytest.mark.parametrize("set_back", [2.0, HOUR, 50 * 365 * 24 * HOUR])
def test_a_clock_that_is_set_back_gives_a_pause_its_length_once_more_at_most(store, set_back):
    began = 60 * 365 * 24 * HOUR
    pause(store, HOUR, began)
    now = began - set_back
    assert store.read(pauses.is_change_due, now)
    assert store.write(pauses.end_due, now) == []
    assert not store.read(pauses.is_change_due, now + 1)
    assert store.write(pauses.end_due, now + HOUR - 1) == []
    assert store.write(pauses.end_due, now + HOUR) == [EVERYWHERE]


def test_a_second_pause_replaces_the_end_of_the_first(store):
    pause(store, HOUR, 1000.0)
    store.write(pauses.pause, EVERYWHERE, None, 2000.0)
    assert store.read(pauses.next_end) is None
    (open_pause,) = store.read(pauses.open_pauses)
    assert (open_pause.since, open_pause.until) == (2000.0, None)
