from watchdog.events import DirCreatedEvent, DirDeletedEvent, FileDeletedEvent, FileMovedEvent

from syncd.watch.handler import Handler
from syncd.watch.hints import Hints


def test_hints_are_taken_once_and_each_wakes():
    woken = []
    hints = Hints(lambda: woken.append(1), clock=lambda: 7.0)
    hints.add(b"a")
    hints.add(b"b", removal_seen=True)
    assert hints.take() == {b"a": False, b"b": True}
    assert hints.take() == {}
    assert (len(woken), hints.last_event_at) == (2, 7.0)


def test_a_removal_that_was_seen_is_not_forgotten_for_a_later_event():
    hints = Hints(lambda: None)
    hints.add(b"a", removal_seen=True)
    hints.add(b"a")
    assert hints.take() == {b"a": True}


def test_too_many_hints_become_a_request_for_a_scan():
    hints = Hints(lambda: None, limit=10)
    for number in range(25):
        hints.add(b"%d" % number)
        assert len(hints) <= 10
    assert hints.take_scan()
    assert not hints.take_scan()


def handled(*events):
    hints = Hints(lambda: None)
    for event in events:
        Handler(b"/root", hints).dispatch(event)
    return hints


def test_a_move_hints_at_both_paths():
    hints = handled(FileMovedEvent("/root/a", "/root/d/b"))
    assert hints.take() == {b"a": True, b"d/b": False}


def test_a_move_out_of_the_folder_hints_at_the_old_path_only():
    assert handled(FileMovedEvent("/root/a", "/rootless/b")).take() == {b"a": True}


def test_a_removed_directory_is_hinted_at_and_a_new_one_is_left_to_its_files():
    assert handled(DirDeletedEvent("/root/d"), DirCreatedEvent("/root/e")).take() == {b"d": True}


def test_a_removed_root_asks_for_a_check():
    hints = handled(DirDeletedEvent("/root"))
    assert hints.take_check()
    assert hints.take() == {}


def test_names_of_any_bytes_come_through():
    name = b"/root/caf\xe9\n".decode("utf-8", "surrogateescape")
    assert handled(FileDeletedEvent(name)).take() == {b"caf\xe9\n": True}


def test_no_exception_escapes_a_callback():
    class Broken(Hints):
        def add(self, path, *, removal_seen=False):
            raise ValueError(path)

    hints = Broken(lambda: None)
    Handler(b"/root", hints).dispatch(FileDeletedEvent("/root/a"))
    assert hints.take_scan()
