"""The meaning of the arguments of `ls`, `why`, `retry` and `wait`."""

import os

import pytest
from click import UsageError

from syncd.cli.selection import arguments
from syncd.log import printable
from syncd.report.folder_paths import KnownFolder
from syncd.state import selected


@pytest.fixture
def meaning(desk):
    """Return the paths, as `ls` prints them, of the known files that arguments mean."""
    known = [KnownFolder(name, os.fsencode(desk.home / name)) for name in ("f", "g")]

    def paths(*given, here=None):
        def read(db):
            meant = arguments(given, known, db, here or desk.home)
            chosen = selected.ids(db, [one for a in meant for one in a.selected])
            rows = [
                db.conn.execute("SELECT folder, path FROM files WHERE id = ?", (file_id,))
                for file_id in chosen
            ]
            return [f"{folder}/{printable(path)}" for row in rows for folder, path in row]

        return desk.store.read(read)

    return paths


@pytest.fixture
def tree(desk):
    for path in (b"a.mp4", b"b.txt", b"sub/c.mp4", b"sub/deep/d.mp4", b"sub-e.mp4", b"[x].mp4"):
        desk.see(path)
    desk.see(b"a.mp4", folder="g")
    desk.see(b"f/a.mp4", folder="g")
    return desk


def test_files_directories_and_globs_mean_each_file_once(tree, meaning):
    sub = ["f/sub/c.mp4", "f/sub/deep/d.mp4"]
    meant = {
        ("f/a.mp4",): ["f/a.mp4"],
        (f"{tree.home}/f/a.mp4",): ["f/a.mp4"],
        ("b.txt",): ["f/b.txt"],
        ("f/sub",): sub,
        ("f/sub/",): sub,
        ("sub/deep",): ["f/sub/deep/d.mp4"],
        ("g",): ["g/a.mp4", "g/f/a.mp4"],
        ("g/f",): ["g/f/a.mp4"],
        ("f/[x].mp4",): ["f/[x].mp4"],
        ("f/[xa].mp4",): ["f/a.mp4"],
        ("f/*.mp4",): ["f/[x].mp4", "f/a.mp4", "f/sub-e.mp4"],
        ("*/a.mp4",): ["f/a.mp4", "g/a.mp4"],
        (f"{tree.home}/*/a.mp4",): ["f/a.mp4", "g/a.mp4"],
        ("**/d.mp4",): ["f/sub/deep/d.mp4"],
        ("f/s*",): ["f/sub-e.mp4", *sub],
        ("f/s*/",): sub,
        ("f/sub", "f/sub/c.mp4", "f/sub/*"): sub,
        ("g/a.mp4", "f/b.txt", "f/a.mp4"): ["f/a.mp4", "f/b.txt", "g/a.mp4"],
        ("f/sub", "f/sub-e.mp4", "f/sub/c.mp4"): [*sub, "f/sub-e.mp4"],
        # A directory above folders means all of them.
        (".",): meaning("f", "g"),
        ("f/nope", "f/*.nope"): [],
    }
    assert {given: sorted(meaning(*given)) for given in meant} == {
        given: sorted(paths) for given, paths in meant.items()
    }
    assert len(meaning(".")) == 8


def test_a_relative_argument_is_relative_to_here_first(tree, meaning):
    meant = {
        ("f/sub", "."): ["f/sub/c.mp4", "f/sub/deep/d.mp4"],
        ("f/sub", "*.mp4"): ["f/sub/c.mp4"],
        ("f/sub", "../*.txt"): ["f/b.txt"],
        ("f", "sub/c.mp4"): ["f/sub/c.mp4"],
        # Outside of all folders, a pattern is as `ls` prints paths, or within a folder.
        ("elsewhere", "g/*.mp4"): ["g/a.mp4"],
        ("elsewhere", "sub/*"): ["f/sub/c.mp4", "f/sub/deep/d.mp4"],
    }
    assert {(h, given): meaning(given, here=tree.home / h) for h, given in meant} == meant


def test_a_path_is_meant_as_it_is_printed(desk, meaning):
    for name in ("a\tb\x1b[2J", "\u202ex", "caf\udce9.mp4", "a\\x41b", "ü"):
        desk.see(os.fsencode(name))
        printed = f"f/{printable(name)}"
        assert meaning(printed) == meaning(f"f/{name}") == [printed]


def test_wildcards_in_the_current_directory_are_plain(desk, meaning):
    for path in (b"[ab]\\*/x.mp4", b"a/x.mp4", b"b/x.mp4"):
        desk.see(path)
    assert meaning("*.mp4", here=desk.home / "f/[ab]\\*") == ["f/[ab]\\*/x.mp4"]


def test_a_pattern_that_cannot_be_read_is_named(tree, meaning):
    with pytest.raises(UsageError, match=r"the pattern 'f/\[a' holds a \[ without its \]"):
        meaning("f/[a")


def test_what_is_on_disk_and_not_known_yet_is_meant_too(desk):
    (desk.home / "f/new").touch()
    known = [KnownFolder("f", os.fsencode(desk.home / "f"))]
    there, gone, other = arguments(["f/new", "f/gone", "/etc/hosts"], known, None, desk.home)
    assert [(one.folder, one.path) for one in there.selected] == [("f", b"new")]
    assert (gone.selected, gone.place.path) == ((), b"gone")
    assert (other.selected, other.place) == ((), None)
