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


def place(store, **roots):
    for name, root in roots.items():
        store.write(pauses.pause, name, 9000.0, 1000.0, is_span=True, root=root)


def goes(store, **roots):
    """The names and roots of the paused folders once these folders are configured."""
    if store.read(pauses.astray, roots):
        store.write(pauses.follow, roots, 2000.0)
    assert not store.read(pauses.astray, roots)
    known = store.read(pauses.open_pauses)
    assert {(hold.since, hold.until, hold.is_span) for hold in known} == {(1000.0, 9000.0, True)}
    return {hold.scope: hold.root for hold in known}


def test_a_pause_goes_with_a_folder_that_has_another_name(store):
    place(store, f=b"/f")
    assert goes(store, new=b"/f") == {"new": b"/f"}
    assert store.read(pauses.open_pauses)[0].commands == ["syncd resume new"]


def test_a_pause_goes_with_a_folder_that_has_another_path(store):
    place(store, f=b"/f")
    assert goes(store, f=b"/moved", g=b"/g") == {"f": b"/moved"}
    assert goes(store, renamed=b"/moved") == {"renamed": b"/moved"}


def test_a_name_that_stands_for_another_folder_is_not_paused_for_the_former_one(store):
    place(store, f=b"/f")
    assert goes(store, f=b"/other", g=b"/f") == {"g": b"/f"}


def test_pauses_change_places_with_the_names_of_their_folders(store):
    place(store, f=b"/f", g=b"/g")
    assert goes(store, f=b"/g", g=b"/f") == {"f": b"/g", "g": b"/f"}


def test_a_pause_waits_for_a_folder_that_is_not_configured(store):
    place(store, f=b"/f")
    assert goes(store, g=b"/g") == {"f": b"/f"}
    assert goes(store, g=b"/f") == {"g": b"/f"}
