"""Polled folders are scanned often, and many together take up no CPU."""

import pytest
from watch_place import Place

from syncd.watch.polling import PART, SHORTEST_SECONDS, Polling


def test_few_folders_are_polled_every_few_seconds_and_a_long_scan_more_seldom():
    polling = Polling()
    polling.note("one", is_polled=True)
    assert polling.pause(0.001) == SHORTEST_SECONDS
    assert polling.pause(10.0) == pytest.approx(10.0 / PART - 10.0)


def test_very_many_folders_take_turns():
    polling = Polling()
    for number in range(380):
        polling.note(f"{number}", is_polled=True)
    assert 15 < polling.pause(0.001) < 30
    for number in range(380):
        polling.note(f"{number}", is_polled=number < 3)
    assert polling.pause(0.001) == SHORTEST_SECONDS


def test_a_polled_folder_is_checked_as_often_as_it_is_scanned(store, tmp_path):
    place = Place(store, tmp_path / "root", watch="polling")
    place.watched.observer.start()
    place.watched.scan()
    assert place.watched.check_all() == 10.0
    for number in range(400):
        place.watched._polling.note(f"{number}", is_polled=True)
    assert place.watched.check_all() > 15
    (tmp_path / "root").rename(tmp_path / "away")
    assert place.watched.check_all() == 10.0, "a root that is away is looked for"
