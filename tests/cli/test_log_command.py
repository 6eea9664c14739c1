"""`log`: the history, in batches, and as it goes on."""

import json
import subprocess
import sys
import time

import pytest

from syncd.state import history, past
from syncd.state.database.store import Store


def note(desk, count, folder="f"):
    for number in range(count):
        line = history.Line(desk.now + number, folder, b"x%d" % number, "synced")
        desk.do(history.add_all, [line])


def test_it_tells_each_line_with_its_time_the_newest_last(desk, syncd):
    desk.sync(b"d/a")
    desk.now += 1
    desk.refuse(b"b")
    code, out, err = syncd("log")
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(desk.now - 1))
    first, second = out.splitlines()
    assert (code, err) == (0, "")
    assert first == f"{at}  synced    f/d/a  00000000-0000-4000-8000-000000000001"
    assert second.endswith("failed    f/b  too large")


def test_a_path_is_a_file_a_directory_or_a_glob_and_may_be_known_to_the_history_alone(desk, syncd):
    desk.sync(b"d/a")
    desk.sync(b"d/b", 2)
    desk.sync(b"c", 3)
    note(desk, 1)
    for words, told in (
        (["f/d"], ["d/a", "d/b"]),
        (["d/a"], ["d/a"]),
        (["**/b", "c"], ["d/b", "c"]),
        (["f/x0"], ["x0"]),
        (["g"], []),
    ):
        out = syncd("log", "--json", *words)[1]
        assert [json.loads(line)["path"] for line in out.splitlines()] == told
    code, _, err = syncd("log", "/elsewhere/x")
    assert code == 2
    assert "no file or folder '/elsewhere/x'; known folders are: f, g" in " ".join(err.split())


def test_it_reads_in_batches_and_keeps_nothing_open_between_them(desk, syncd, monkeypatch):
    monkeypatch.setattr(past, "BATCH", 3)
    note(desk, 8)
    for words, numbers in (
        ([], range(8)),
        (["-n", "4"], range(4, 8)),
        (["-n", "4", "x6", "x1"], [1, 6]),
        (["-n", "0"], []),
    ):
        out = syncd("log", "--json", *words)[1]
        assert [json.loads(line)["path"] for line in out.splitlines()] == [
            f"x{number}" for number in numbers
        ]


def test_since_leaves_out_what_is_older(desk, syncd):
    desk.now -= 7200
    desk.sync(b"old")
    desk.now += 7200
    desk.sync(b"new", 2)
    out = syncd("log", "--since", "1h")[1]
    assert ("f/new" in out, "f/old" in out) == (True, False)


@pytest.mark.long
def test_following_goes_on_over_a_restart_and_after_the_history_was_pruned(desk):
    note(desk, 12)
    follower = subprocess.Popen(
        [sys.executable, "-m", "syncd", "log", "-f", "--json"], stdout=subprocess.PIPE, text=True
    )
    try:
        lines = [json.loads(follower.stdout.readline())["path"] for _ in range(10)]
        assert lines == [f"x{number}" for number in range(2, 12)]
        desk.store.close()
        desk.store = Store(desk.directory)
        desk.store.open(desk.now)
        desk.do(lambda db: db.conn.execute("DELETE FROM history"))
        time.sleep(1.5)
        desk.do(history.add_all, [history.Line(desk.now, "f", b"later", "synced")])
        assert json.loads(follower.stdout.readline())["path"] == "later"
    finally:
        follower.terminate()
        follower.wait(10)
        follower.stdout.close()
