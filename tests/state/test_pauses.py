"""Pauses: when they end, and what they keep from being promised."""

from syncd.state.holds import EVERYWHERE, pauses

HOUR = 3600.0


def pause(store, seconds, now, scope=EVERYWHERE):
    store.write(pauses.pause, scope, now + seconds, now)


def test_a_pause_ends_at_its_time_and_not_before(store):
    pause(store, 2 * HOUR, 1000.0)
    assert store.read(pauses.next_end) == 1000.0 + 2 * HOUR
    assert not store.read(pauses.is_end_due, 1000.0 + 2 * HOUR - 1)
    assert store.write(pauses.end_due, 1000.0 + 2 * HOUR - 1) == []
    assert store.read(pauses.is_end_due, 1000.0 + 2 * HOUR)
    assert store.write(pauses.end_due, 1000.0 + 2 * HOUR) == [EVERYWHERE]
    assert store.read(pauses.scopes) == frozenset()


def test_without_an_end_a_pause_lasts_until_it_is_resumed(store):
    store.write(pauses.pause, "f", None, 1000.0)
    assert store.write(pauses.end_due, 1e12) == []
    assert store.read(pauses.is_paused, "f")
    assert not store.read(pauses.is_paused, "g")
    assert store.write(pauses.resume, "f", 2000.0) == ["f"]
    assert not store.read(pauses.is_paused, "f")


def test_a_second_pause_replaces_the_end_of_the_first(store):
    pause(store, HOUR, 1000.0)
    store.write(pauses.pause, EVERYWHERE, None, 2000.0)
    assert store.read(pauses.next_end) is None
    (open_pause,) = store.read(pauses.open_pauses)
    assert (open_pause.since, open_pause.until) == (2000.0, None)
