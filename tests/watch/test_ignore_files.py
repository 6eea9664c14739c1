import gc
import logging
import os

import pytest

from syncd.watch import ignore
from syncd.watch.coverage import Coverage
from syncd.watch.folder import WatchFolder
from syncd.watch.gitignore import Patterns
from syncd.watch.ignore import IGNORE_DEPTH, NAME_BYTES, Rules


def rule_of(place, path, **settings):
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


@pytest.mark.row(84)
def test_an_ignore_file_brings_nothing_back_that_the_configuration_leaves_out(place):
    place.write(".syncdignore", b"!*\n")
    settings = {"include": ("*.mp4",), "exclude": ("no.mp4",)}
    for name in (b"a.txt", b".env", b".git/config", b"x.mp4.part", b"no.mp4"):
        assert rule_of(place, name, **settings).excluded, name
    assert not rule_of(place, b"v.mp4", **settings).excluded


def test_an_ignore_file_leaves_out_what_the_configuration_includes(place):
    place.write(".syncdignore", b"draft*\n")
    assert rule_of(place, b"draft.mp4", include=("*.mp4",)).rule == ".syncdignore line 1: draft*"


def test_what_exclude_expressly_takes_up_is_not_left_out_by_an_ignore_file(place):
    place.write(".syncdignore", b"*.log\n")
    assert not rule_of(place, b"a.log", exclude=("!a.log",)).excluded


def test_ignore_files_are_disregarded_where_that_is_configured(place):
    place.write(".syncdignore", b"*.log\n[z-a]\n")
    assert not rule_of(place, b"a.log", syncdignore=False).excluded
    assert rule_of(place, b".syncdignore", syncdignore=False, hidden=True).excluded


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
    """Otherwise a file that it should keep here might be sent."""
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
            file.truncate((64 << 10) + 1)
    place.write("d/secret")
    place.later()
    report = place.scan()
    place.look(b"d/secret")
    assert "d/.syncdignore cannot be read" in report.unreadable[b"d"]
    assert "d/.syncdignore cannot be read" in place.watched.health().trouble
    statuses = place.statuses()
    assert statuses.pop(b"d/secret", "unreadable") == "unreadable"
    assert statuses == {b"d/known": "ready", b"other": "ready"}


def deep_rules(place, depth):
    """Write an ignore file into each of `depth` directories, one in the other."""
    for level in range(depth):
        place.write("n/" * level + ".syncdignore", b"x\n")
    return "n/" * (depth - 1)


@pytest.mark.row(71)
@pytest.mark.row(84)
@pytest.mark.parametrize(
    ("rules", "why"),
    [
        (b"*.log\n[z-a]\n", "its line 2 holds a range that runs backwards (z-a)"),
        (b"!\n", "its line 1 has a rule that names nothing"),
        (b"a\n" * 1001, "it holds 1,001 rules, and at most 1,000 are allowed"),
        (b"#" * (64 << 10) + b"\n", "it is larger than 65536 bytes"),
        (b"*a" * 2049, "its line 1 is longer than 4096 bytes"),
    ],
)
def test_a_directory_whose_rules_cannot_be_used_stops_alone_and_says_why(place, caplog, rules, why):
    place.synced(b"d/known", b"other")
    place.write("d/.syncdignore", rules)
    place.write("d/new")
    place.write("beside")
    place.later()
    with caplog.at_level(logging.WARNING):
        report = place.scan()
        place.scan()
    place.look(b"d/new")
    assert why in report.unreadable[b"d"]
    assert why in place.watched.health().trouble
    assert caplog.text.count(why) == 1
    statuses = place.statuses()
    assert statuses.pop(b"d/new", "unreadable") == "unreadable"
    assert statuses == {b"d/known": "ready", b"other": "ready", b"beside": "ready"}


@pytest.mark.row(84)
def test_as_many_rules_as_are_allowed_are_obeyed(place):
    place.write(".syncdignore", b"# ours\n\n" + b"".join(b"f%d\n" % n for n in range(1000)))
    assert rule_of(place, b"f999").excluded
    assert not rule_of(place, b"f1000").excluded


@pytest.mark.row(84)
def test_ignore_files_may_stand_above_one_another_only_so_often(place):
    innermost = deep_rules(place, IGNORE_DEPTH)
    place.write(innermost + "a")
    place.write(innermost + "x")
    place.write(innermost + "n/.syncdignore", b"x\n")
    place.write(innermost + "n/b")
    place.later()
    report = place.scan()
    assert list(place.statuses()) == [(innermost + "a").encode()]
    assert "such files above it already" in report.unreadable[(innermost + "n").encode()]


@pytest.mark.row(84)
def test_how_many_rules_are_remembered_does_not_grow_with_the_directories(place):
    for number in range(200):
        rules = b"# %d" % (number % 20) + b"." * 20_000 + b"\nx\n"
        place.write(f"d{number}/.syncdignore", rules)
    some = Rules(WatchFolder("f", os.fsencode(place.root)))
    for number in range(200):
        assert some.verdict(b"d%d/x" % number, is_dir=False).excluded
    remembered = [thing for thing in gc.get_objects() if isinstance(thing, Patterns)]
    assert len(remembered) < 60


@pytest.mark.row(84)
def test_all_rules_of_a_folder_together_are_bounded_and_those_beyond_stop_alone(place, monkeypatch):
    monkeypatch.setattr(ignore, "FOLDER_BYTES", 100)
    place.write("other")
    for name in "abc":
        place.write(f"{name}/.syncdignore", name.encode() * 40 + b"\n")
        place.write(f"{name}/new")
    place.later()
    report = place.scan()
    assert len(report.unreadable) == 1
    assert "all such files of the folder hold more than" in place.watched.health().trouble
    assert len(place.statuses()) == 3
    # Once there are fewer again, all are obeyed.
    (place.root / "a/.syncdignore").unlink()
    assert not place.scan().unreadable


@pytest.mark.row(84)
def test_rules_that_did_not_change_are_parsed_once(place, monkeypatch):
    parsed = []
    real = ignore._read
    monkeypatch.setattr(ignore, "_read", lambda content: [parsed.append(content), real(content)][1])
    for name in "abc":
        place.write(f"{name}/.syncdignore", b"same\n")
        place.write(f"{name}/d/.syncdignore", name.encode() + b"\n")
    for _ in range(3):
        place.scan()
        # The rules of both directories are forgotten by that.
        place.look(b"a", b"b/d", b"b/d/file")
    assert len(parsed) == 4


@pytest.mark.row(84)
def test_names_too_deep_beneath_long_rules_are_not_matched_against_them(place, monkeypatch):
    rules = b"**/x/y\n" * 100
    deep = b"d/" * 50
    # No name in a directory of fewer bytes is too long.
    monkeypatch.setattr(ignore, "MATCH_BYTES", len(rules) * (len(deep) - 1 + NAME_BYTES))
    place.synced(b"other")
    place.write(".syncdignore", rules)
    place.write(deep + b"file")
    place.write(deep + b"e/file")
    place.later()
    report = place.scan()
    place.look(deep + b"e/file")
    assert "is too deep for 700 bytes of rules" in report.unreadable[deep + b"e"]
    assert list(report.unreadable) == [deep + b"e"]
    assert place.statuses() == {
        deep + b"file": "ready",
        b"other": "ready",
        deep + b"e/file": "unreadable",
    }


def test_lines_of_other_systems_are_read(place):
    place.write(".syncdignore", b"\xef\xbb\xbf*.log\r\ncaf\xe9*\r\n")
    assert rule_of(place, b"a.log").excluded
    assert rule_of(place, b"caf\xe9.mp4").excluded


@pytest.mark.parametrize("target", ["away", "in/elsewhere"])
def test_rules_go_with_the_directory_that_held_them(place, until, target):
    place.reopen(watch="native")
    place.watched.start()
    place.watched.scan_if_due()
    place.write("d/sub/.syncdignore", b"*.log")
    place.write("d/sub/a.log")
    place.write("d/sub/first")

    def is_taken(path):
        place.watched.look_hints()
        return place.statuses().get(path) in ("settling", "ready")

    assert until(lambda: is_taken(b"d/sub/first"))
    assert not is_taken(b"d/sub/a.log")
    (place.root / "d").rename(place.root.parent / target)
    assert until(lambda: not is_taken(b"d/sub/first"))
    place.write("d/sub/a.log", b"not left out any more")
    assert until(lambda: is_taken(b"d/sub/a.log"))


def test_rules_are_read_anew_where_only_polling_tells_of_them(place):
    place.write("d/.syncdignore", b"*.x")
    place.write("d/a.x")
    place.scan()
    assert place.look(b"d/a.x") == 0
    (place.root / "d/.syncdignore").unlink()
    place.watched._scanner.scan_directories([b"d"], Coverage([]))
    place.later()
    place.watched.look_due()
    assert place.statuses() == {b"d/a.x": "ready"}
