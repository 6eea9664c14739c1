"""`log`: the history, in batches, and as it goes on."""

import json
import subprocess
import sys
import time

import pytest

from syncd.state import files, history, holds, past, rollback
from syncd.state.copies import NEWEST_KEPT
from syncd.state.database.store import Store
from syncd.state.holds import decisions


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


# What stops something, and who did it


def told(syncd, *words):
    return [json.loads(line) for line in syncd("log", "--json", *words)[1].splitlines()]


def test_it_tells_when_a_hold_opened_its_reason_and_how_many_files(desk, syncd):
    held = {"stops": "sending", "scope": holds.EVERYWHERE, "reason": holds.QUOTA}
    for now in (desk.now, desk.now + 1):
        desk.do(holds.place, **held, message="the quota is used up", now=now)
    number = desk.store.read(lambda db: holds.open_id(db, **held))
    (line,) = told(syncd)
    assert (line["event"], line["folder"], line["path"]) == ("held", None, None)
    assert line["detail"] == f"hold {number} (quota): the quota is used up"

    missing = {"stops": "folder", "scope": "f/disk", "reason": holds.ROOT_MISSING}
    desk.do(holds.place, **missing, message="it is gone", affects=1200, now=desk.now)
    (line,) = told(syncd)[1:]
    assert line["folder"] == "f"
    assert line["detail"].endswith(" (root_missing), 1,200 files: it is gone")
    assert told(syncd, "g")[0]["detail"].endswith("the quota is used up"), "it bears on all folders"
    assert len(told(syncd, "g")) == 1


def test_a_path_in_a_folder_is_told_of_decisions_and_not_of_what_was_stopped(desk, syncd):
    desk.sync(b"d/a")
    for event in (*history.STOPS, "approved"):
        desk.do(history.note, event, desk.now, folder="f", detail="hold 1")
    desk.do(history.note, "paused", desk.now, folder="", detail="everything")
    everything = ["held", "paused", "resumed", "limited", "approved", "paused"]
    assert [line["event"] for line in told(syncd, "f") if not line["path"]] == everything
    for path in ("f/d/a", "f/d", "**/a", "f/nothing"):
        assert [line["event"] for line in told(syncd, path) if not line["path"]] == ["approved"]


def test_a_hold_that_names_files_tells_how_many_these_were(desk, syncd):
    for number in range(3):
        desk.sync(b"%d" % number, number + 1)
    ids = [row.id for row in desk.store.read(lambda db: files.where(db, "folder = 'f'"))]
    desk.do(
        decisions.name,
        ids,
        stops="deletions",
        scope="f",
        reason=holds.MANY_MISSING,
        message="{files} missing",
        now=desk.now,
    )
    (line,) = [line for line in told(syncd) if line["event"] == "held"]
    assert line["detail"].endswith("(many_missing), 3 files: 3 files missing")


def test_a_hold_that_comes_and_goes_drives_no_decision_out_of_the_history(desk, syncd):
    desk.do(history.note, "approved", desk.now, folder="f", detail="hold 1", by="alice")
    held = {"stops": "folder", "scope": "f", "reason": holds.ROOT_MISSING}
    for _ in range(NEWEST_KEPT + 20):
        desk.do(holds.place, **held, message="it is gone", now=desk.now)
        desk.do(holds.release, **held, now=desk.now)
    events = [line["event"] for line in told(syncd)]
    assert events.count("held") == NEWEST_KEPT
    assert events[0] == "approved"


def test_the_ledgers_last_commit_is_none_that_only_says_what_is_stopped(desk):
    desk.sync(b"a")
    before = desk.store.read(rollback.last_commit)
    desk.do(history.note, history.HELD, desk.now + 9000, detail="x")
    assert desk.store.read(rollback.last_commit) == before
