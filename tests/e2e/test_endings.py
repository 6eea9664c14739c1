"""The end of the daemon: what was dropped before it is sent, and nothing that hangs holds it up."""

import json
import shutil
import signal
import threading
import time

import pytest

from syncd import once
from syncd.config import loading as configuration
from syncd.once import PassProgress
from syncd.state import due

#: Processes for many seconds.
pytestmark = pytest.mark.long


def with_folder(machine, **settings):
    folder = {"path": str(machine.drop), "settle_seconds": 1.0, "grace_seconds": 0.2} | settings
    machine.settings["SYNCD_FOLDERS"] = json.dumps([folder])


@pytest.mark.row(80)
def test_what_was_dropped_half_a_second_before_the_end_is_sent(machine):
    with_folder(machine)
    machine.settings["SYNCD_UPLOAD__DRAIN_SECONDS"] = "30"
    machine.write("early.txt", b"early")
    machine.start()
    machine.until(lambda: machine.status_of("early.txt") == "synced")
    machine.write("deep/er/result.json", b"the last words")
    time.sleep(0.5)
    (machine.drop / "early.txt").unlink()
    began = time.monotonic()
    assert machine.stop() == 0
    assert time.monotonic() - began < 15
    paths = [o["local_file_path"].rpartition("/")[2] for o in machine.objects().values()]
    names = [path.partition(".")[0] for path in paths]
    assert sorted(names) == ["early", "result"], "sent, and nothing is deleted at the end"


@pytest.mark.row(80)
@pytest.mark.long
def test_the_end_comes_at_once_when_nothing_is_on_its_way(machine):
    machine.settings["SYNCD_UPLOAD__DRAIN_SECONDS"] = "30"
    machine.start()
    machine.write("a.txt", b"a")
    machine.settles()
    began = time.monotonic()
    assert machine.stop() == 0
    assert time.monotonic() - began < 8


@pytest.mark.row(78)
@pytest.mark.long
def test_a_transfer_that_hangs_holds_up_neither_the_others_nor_the_end(machine):
    machine.settings |= {"SYNCD_UPLOAD__DRAIN_SECONDS": "2", "SYNCD_UPLOAD__METHOD": "direct"}
    hang = {"match": "POST /v2/files/-/uploads", "times": 1, "action": {"delay": 600}}
    machine.faults(hang)
    machine.start()
    machine.write("hangs.txt", b"hangs")
    machine.until(lambda: machine.status_of("hangs.txt") == "uploading")
    machine.write("goes.txt", b"goes")
    machine.until(lambda: machine.status_of("goes.txt") == "synced")
    began = time.monotonic()
    assert machine.stop() == 0
    assert time.monotonic() - began < 12


@pytest.mark.row(74)
@pytest.mark.parametrize("how", ["removed", "moved and made anew"])
def test_a_state_directory_that_goes_away_ends_the_daemon_before_it_sends_anything(machine, how):
    with_folder(machine, settle_seconds=0.3)
    machine.start()
    machine.write("a.txt", b"a")
    machine.settles()
    if how == "removed":
        shutil.rmtree(machine.state)
    else:
        machine.state.rename(machine.tmp_path / "elsewhere")
        machine.state.mkdir()
    machine.write("b.txt", b"b")
    assert machine.process.wait(20) == 1
    machine.process = None
    assert len(machine.objects()) == 1
    assert "while syncd was using it" in machine.log
    assert how == "removed" or not list(machine.state.iterdir())


@pytest.mark.row(72)
@pytest.mark.parametrize("status", [400, 500])
def test_a_pass_ends_with_1_though_the_storage_takes_nothing(machine, status):
    machine.settings["SYNCD_UPLOAD__METHOD"] = "presigned"
    machine.faults({"match": "PUT /_storage/*", "action": {"status": status}})
    for name in "ab":
        machine.write(name, name.encode())
    done = machine.command("once")
    assert done.returncode == 1, done.stderr
    assert "giving up for now" in done.stderr or "2 failed" in done.stdout
    assert 2 <= sum(r["method"] == "PUT" for r in machine.mutations()) <= 12


def test_a_pass_leaves_a_file_that_never_settles_to_the_next_one(machine, monkeypatch, caplog):
    monkeypatch.setattr(once, "SETTLING_SECONDS", 0.0)
    monkeypatch.setattr(once, "STILL_SECONDS", 1.0)
    machine.write("quiet.txt", b"quiet")
    config = configuration.load(
        config=None, environ=machine.environment, working_directory=machine.tmp_path
    )
    over, stop = threading.Event(), threading.Event()

    def grow():
        with (machine.drop / "grows.txt").open("ab", buffering=0) as file:
            while not over.wait(0.05):
                file.write(b"more")

    grows, too_late = threading.Thread(target=grow), threading.Timer(30, stop.set)
    grows.start()
    too_late.start()
    try:
        assert once.once(config, stop=stop) == 1
        assert not stop.is_set(), "the pass did not end by itself"
    finally:
        too_late.cancel()
        over.set()
        grows.join()
    assert "still being written" in caplog.text
    assert {name: machine.status_of(name) for name in ("quiet.txt", "grows.txt")} == {
        "quiet.txt": "synced",
        "grows.txt": "settling",
    }
    assert machine.command("once").returncode == 0
    assert not machine.difference()


def test_a_pass_gives_up_only_once_nothing_has_moved_for_a_while(monkeypatch):
    monkeypatch.setattr(once, "STILL_SECONDS", 0.0)

    def gives_up(tally, progress_at=0.0):
        time.sleep(0.01)
        return patience.gives_up(tally, progress_at)

    patience = once._Patience(settling=0.0)
    all_settle, half_settle = PassProgress(1, 2, 0, settling=2), PassProgress(1, 2, 0, settling=1)
    assert gives_up(all_settle) == "", "there is nothing to compare it with"
    assert "still being written" in gives_up(all_settle)
    assert gives_up(all_settle, 1.0) == "", "a byte moved"
    assert gives_up(PassProgress(2, 1, 0, settling=1), 1.0) == "", "a file got through"
    assert gives_up(half_settle) == ""
    assert gives_up(half_settle) == "", "something else waits as well"
    monkeypatch.setattr(once, "STUCK_SECONDS", 0.0)
    assert "nothing has moved" in gives_up(half_settle)
    assert gives_up(PassProgress(1, 2, 0, processing=1)) == ""
    assert gives_up(half_settle, 2.0) == "", "a byte moved"


@pytest.mark.long
def test_a_stopped_daemon_is_told_of_and_not_waited_for(machine):
    from syncd.cli import control

    machine.start()
    machine.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        done = machine.command("retry")
        assert done.returncode == 1
        assert "does not answer" in done.stderr
        assert "kill -CONT" in done.stderr
        assert time.monotonic() - began < control.ANSWER_SECONDS + 15
    finally:
        machine.process.send_signal(signal.SIGCONT)


def test_draining_waits_for_what_settles_and_not_for_what_is_open(store):
    def put(name, due_at, is_open):
        return lambda db: db.conn.execute(
            "INSERT INTO files (folder, path, parent, status, changed_at, due_at, is_open) "
            "VALUES ('f', ?, x'', 'settling', 1, ?, ?)",
            (name, due_at, is_open),
        )

    store.write(lambda db: db.conn.execute("INSERT INTO folders (name, path) VALUES ('f', x'2f')"))
    store.write(put(b"open", 5.0, 1))
    store.write(put(b"late", 50.0, 0))
    assert not store.read(lambda db: due.is_settling(db, 10.0, ["f"]))
    store.write(put(b"soon", 5.0, 0))
    assert store.read(lambda db: due.is_settling(db, 10.0, ["f"]))
    assert not store.read(lambda db: due.is_settling(db, 10.0, ["g"]))
