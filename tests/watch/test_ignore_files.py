import logging

import pytest

from syncd.watch.coverage import Coverage
from syncd.watch.folder import WatchFolder
from syncd.watch.ignore import Rules


def rule_of(place, path, **settings):
    import os

    return Rules(WatchFolder("f", os.fsencode(place.root), **settings)).verdict(path, is_dir=False)


def test_its_rules_bear_on_its_directory_and_below_and_the_nearest_decides(place):
    place.write(".syncdignore", b"# ours\n*.log\n/top\n")
    place.write("d/.syncdignore", b"!keep.log\n")
    assert rule_of(place, b"a.log").rule == ".syncdignore line 2: *.log"
    assert rule_of(place, b"d/e/x.log").excluded
    assert rule_of(place, b"d/e/keep.log").rule == "d/.syncdignore line 1: !keep.log"
    assert not rule_of(place, b"d/e/keep.log").excluded
    assert rule_of(place, b"keep.log").excluded
    assert rule_of(place, b"top").excluded
    assert not rule_of(place, b"d/top").excluded


def test_the_configuration_wins_over_the_file_and_the_file_over_junk(place):
    place.write(".syncdignore", b"*.log\n!*.tmp\n")
    assert not rule_of(place, b"a.log", exclude=("!a.log",)).excluded
    assert not rule_of(place, b"a.tmp").excluded


def test_a_file_that_is_newly_ignored_is_released_and_taken_up_again(place):
    place.synced(b"a.log", b"d/b.log", b"keep")
    place.write(".syncdignore", b"*.log\n")
    place.scan()
    assert place.statuses()[b"a.log"] == place.statuses()[b"d/b.log"] == "ineligible"
    assert sorted(place.copies()) == ["live", "released", "released"]
    (place.root / ".syncdignore").unlink()
    place.scan()
    assert set(place.statuses().values()) == {"ready"}
    place.found_again()
    assert place.copies() == ["live"] * 3


def test_a_change_of_it_is_obeyed_by_the_very_next_look_and_asks_for_a_scan(place):
    place.write("seen")
    place.look(b"seen")
    place.write(".syncdignore", b"secret*\n")
    place.write("secret.txt")
    place.look(b"secret.txt", b".syncdignore")
    assert b"secret.txt" not in place.statuses()
    assert place.watched.hints.take_scan() == "a .syncdignore file changed"


def test_it_is_itself_never_sent(place):
    place.reopen(hidden=True)
    place.write(".syncdignore", b"!.syncdignore\n")
    place.later()
    place.scan()
    assert place.statuses() == {}


@pytest.mark.parametrize("how", ["a link", "a directory", "too large", "a FIFO"])
def test_where_it_cannot_be_read_nothing_beneath_it_is_sent(place, tmp_path, how):
    """What it should keep here might be sent otherwise."""
    import os

    place.synced(b"d/known", b"other")
    target = place.root / "d/.syncdignore"
    if how == "a link":
        tmp_path.joinpath("rules").write_bytes(b"secret\n")
        target.symlink_to(tmp_path / "rules")
    elif how == "a directory":
        target.mkdir()
    elif how == "a FIFO":
        os.mkfifo(target)
    else:
        with target.open("wb") as file:
            file.truncate((1 << 20) + 1)
    place.write("d/secret")
    place.later()
    report = place.scan()
    place.look(b"d/secret")
    assert "d/.syncdignore cannot be read" in report.unreadable[b"d"]
    assert "d/.syncdignore cannot be read" in place.watched.vitals().trouble
    statuses = place.statuses()
    assert statuses.pop(b"d/secret", "unreadable") == "unreadable"
    assert statuses == {b"d/known": "ready", b"other": "ready"}


def test_a_line_that_is_not_in_the_syntax_is_told_of_with_its_number(place, caplog):
    place.write(".syncdignore", b"*.log\n!\n*.bak\n")
    place.write("a.bak")
    place.later()
    with caplog.at_level(logging.WARNING):
        place.scan()
    assert place.statuses() == {}
    assert ".syncdignore line 2: not in gitignore syntax" in place.watched.vitals().trouble
    place.scan()
    assert caplog.text.count("line 2: not in gitignore syntax") == 1
    assert "line 2" in caplog.text


def test_lines_of_other_systems_are_read(place):
    place.write(".syncdignore", b"\xef\xbb\xbf*.log\r\ncaf\xe9*\r\n")
    assert rule_of(place, b"a.log").excluded
    assert rule_of(place, b"caf\xe9.mp4").excluded


@pytest.mark.parametrize("target", ["away", "in/elsewhere"])
def test_rules_go_with_the_directory_that_held_them(place, until, target):
    place.reopen(watch="native")
    place.watched.start()
    place.watched.scan_if_due()
    place.write("d/sub/.syncdignore", b"!*.tmp")
    place.write("d/sub/a.tmp")

    def is_taken(path):
        place.watched.look_hints()
        return place.statuses().get(path) in ("settling", "ready")

    assert until(lambda: is_taken(b"d/sub/a.tmp"))
    (place.root / "d").rename(place.root.parent / target)
    assert until(lambda: not is_taken(b"d/sub/a.tmp"))
    place.write("d/sub/a.tmp", b"junk again")
    place.write("d/sub/last")
    assert until(lambda: is_taken(b"d/sub/last"))
    assert not is_taken(b"d/sub/a.tmp")


def test_rules_are_read_anew_where_only_polling_tells_of_them(place):
    place.write("d/.syncdignore", b"*.x")
    place.write("d/a.x")
    place.scan()
    assert place.look(b"d/a.x") == 0
    (place.root / "d/.syncdignore").unlink()
    place.watched._scanner.scan_parts([b"d"], Coverage([]))
    place.later()
    place.watched.look_due()
    assert place.statuses() == {b"d/a.x": "ready"}
