"""`wait`: until what is on the disk is synced, with a daemon, whatever watches, and without."""

import json
import threading
import time
from hashlib import sha256

import pytest

from syncd import commands
from syncd.cli import control, waiting
from syncd.components import opened
from syncd.config import loading
from syncd.server import control as control_server


def cp_wait_ls(place, times):
    """Drop a file, wait for it and list it, again and again; return the uuids by name."""
    uuids = {}
    for number in range(times):
        name = f"{number % 7}/clip {number}.txt"
        content = b"%d" % number
        place.machine.write(name, content)
        code, out, err = place.call("wait", f"drop/{name}", "--timeout", "30")
        row = place.listed().get(name)
        assert (code, err) == (0, "")
        assert (row["status"], row["sha256"]) == ("synced", sha256(content).hexdigest())
        assert out == f"drop/{name}\t{row['file_uuid']}\n"
        uuids[name] = row["file_uuid"]
    return uuids


@pytest.mark.parametrize("watch", [pytest.param("native", marks=pytest.mark.long), "polling"])
def test_a_file_that_was_just_copied_is_waited_for(place, watch):
    place.folder(watch=watch)
    with place.daemon():
        uuids = cp_wait_ls(place, 3)
        code, out, err = place.call("wait", "--json")
    assert (code, err) == (0, "")
    listed = {entry["path"]: entry["file_uuid"] for entry in map(json.loads, out.splitlines())}
    assert listed == uuids == {name: row["file_uuid"] for name, row in place.listed().items()}


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("watch", ["native", "polling"])
def test_a_hundred_files_that_were_just_copied_are_waited_for(place, watch):
    place.folder(watch=watch)
    with place.daemon():
        assert len(set(cp_wait_ls(place, 100).values())) == 100


def test_without_a_daemon_one_pass_is_made(place):
    place.machine.write("a/one.txt", b"1")
    place.machine.write("two.txt", b"2")
    code, out, err = place.call("wait", place.machine.drop / "a", "drop/two.txt")
    rows = place.listed()
    assert code == 0
    assert err == "syncd: no daemon is running: making one pass over drop, as `syncd once` does\n"
    assert out == "".join(
        f"drop/{name}\t{rows[name]['file_uuid']}\n" for name in ("a/one.txt", "two.txt")
    )


def test_a_timeout_that_is_over_at_once_tells_the_uuid_of_what_is_synced(place):
    place.machine.write("two.txt", b"2")
    assert place.call("wait", "drop/two.txt")[0] == 0
    uuid = place.listed()["two.txt"]["file_uuid"]
    code, out, _ = place.call("wait", "--timeout", "0", "drop/two.txt")
    assert (code, out) == (124, f"drop/two.txt\t{uuid}\n")
    assert place.call("wait", "--timeout", "9999999999", "drop/two.txt")[0] == 0


def test_the_newest_content_of_a_file_that_changes_meanwhile_is_waited_for(place, monkeypatch):
    place.folder(watch="polling")
    follow, contents = waiting.Waiting._follow, [b"new", b"the newest"]

    def change_after(self):
        follow(self)
        # All of it is at rest as far as the table tells, and no scan is near.
        if contents:
            place.machine.write("clip.txt", contents.pop(0))

    monkeypatch.setattr(waiting.Waiting, "_follow", change_after)
    with place.daemon():
        place.machine.write("clip.txt", b"old")
        code, out, err = place.call("wait", "drop/clip.txt", "--timeout", "30")
    row = place.listed()["clip.txt"]
    assert (code, err) == (0, "")
    assert row["sha256"] == sha256(b"the newest").hexdigest()
    assert out == f"drop/clip.txt\t{row['file_uuid']}\n"


def test_each_way_not_to_be_synced_ends_with_a_reason_and_a_code(place, tmp_path):
    place.folder(exclude=["*.log"], watch="polling")
    drop = place.machine.drop
    with place.daemon():
        slow = {"match": "POST /v2/files*", "times": 1, "action": {"delay": 1.0}}
        place.machine.faults(slow)
        place.machine.write("slow.txt", b"x")
        code, out, err = place.call("wait", "drop/slow.txt", "--timeout", "0s")
        assert (code, out) == (124, "")
        assert "timed out after " in err
        assert "(syncd why drop/slow.txt)" in err
        assert place.call("wait", "drop/slow.txt", "--timeout", "30")[0] == 0
        assert place.call("wait", "drop/slow.txt", "--timeout", "0")[0] == 0
        code, out, err = place.call("wait", "--timeout", "soon")
        assert code == 2
        assert "'soon' is not a duration" in err

        place.machine.write("build.log", b"no")
        code, out, err = place.call("wait", "drop/build.log")
        assert (code, out) == (1, "")
        assert err.startswith("syncd: drop/build.log: ignored: exclude *.log")
        # Beneath a directory, what a rule leaves out is nobody's concern.
        assert place.call("wait")[0] == 0
        place.machine.write(".syncdignore", b"*.new")
        place.machine.write("a.new", b"no")
        code, out, err = place.call("wait", "drop/a.new")
        assert (code, out) == (1, "")
        assert err.startswith("syncd: drop/a.new: ignored: .syncdignore")

        (tmp_path / "elsewhere.txt").write_bytes(b"x")
        code, _, err = place.call("wait", "elsewhere.txt")
        assert code == 2
        assert "elsewhere.txt is in no watch folder" in err

        code, out, err = place.call("wait", drop / "never.txt")
        assert (code, out) == (1, "")
        assert "drop/never.txt: There is no such file" in err

        place.machine.write("clip.mp4", b"no video")
        code, out, err = place.call("wait", "--json", "drop")
        assert code == 1
        entry, _ = map(json.loads, out.splitlines())
        assert (entry["path"], entry["status"]) == ("clip.mp4", "failed")
        assert err.startswith(f"syncd: drop/clip.mp4: failed: {entry['error']}")

        (drop / "clip.mp4").unlink()
        code, out, err = place.call("wait", "drop/clip.mp4")
        assert (code, out) == (1, "")
        assert "drop/clip.mp4: deleting: It is gone here" in err
        assert place.call("wait", "drop")[::2] == (0, "")


@pytest.mark.long
def test_a_file_that_is_deleted_meanwhile_ends_the_wait_for_it(place):
    place.folder(settle_seconds=30)
    with place.daemon():
        place.machine.write("clip.txt", b"x")
        done = []
        caller = threading.Thread(target=lambda: done.append(place.call("wait", "drop/clip.txt")))
        caller.start()
        place.machine.until(lambda: place.status_of("clip.txt") == "settling")
        (place.machine.drop / "clip.txt").unlink()
        caller.join(30)
    ((code, out, err),) = done
    assert (code, out) == (1, "")
    assert err.startswith("syncd: drop/clip.txt: There is no such file")


def test_a_refused_key_ends_it_with_77_daemon_or_not(place):
    place.machine.settings["AYMARA_AI_API_KEY"] = "another-key"
    place.folder()
    place.machine.write("clip.txt", b"x")
    with place.daemon():
        code, out, err = place.call("wait", "--timeout", "30")
        assert (code, out) == (77, "")
        assert "the key is refused, and nothing is sent (syncd doctor)" in err
        assert "drop/clip.txt: " in err, "held by then, or still settling"
    code, out, err = place.call("wait")
    assert (code, out) == (77, "")
    assert "drop/clip.txt: held: key_refused" in err
    assert "the key is refused" in err


@pytest.mark.parametrize("runs", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_folder_that_was_replaced_ends_it(place, runs):
    drop = place.machine.drop
    with place.daemon():
        place.machine.write("old.txt", b"old")
        assert place.call("wait", "drop/old.txt")[0] == 0
        if runs:
            replace(drop)
            code, out, err = place.call("wait", "drop/new.txt", "--timeout", "30")
    if not runs:
        replace(drop)
        code, out, err = place.call("wait", "drop/new.txt", "--timeout", "30")
    assert (code, out) == (1, "")
    assert "drop: another directory or disk is in its place (root_replaced)" in err


def replace(drop):
    drop.rename(drop.with_name("kept"))
    drop.mkdir()
    (drop / "new.txt").write_bytes(b"new")


@pytest.mark.long
def test_while_the_service_is_down_it_is_said_why_it_waits(place, monkeypatch):
    monkeypatch.setattr(waiting, "REASONS_SECONDS", 0.1)
    place.machine.faults({"match": "* /v2/*", "action": "drop_before"})
    with place.daemon():
        place.machine.write("clip.txt", b"x")
        code, out, err = place.call("wait", "drop/clip.txt", "--timeout", "4")
    assert (code, out) == (124, "")
    assert "syncd: waiting: the service cannot be reached" in err


@pytest.fixture
def endless_look(monkeypatch):
    """Let the first look go on until the daemon stops; yield the event that it has begun."""
    begun = threading.Event()

    def look(components, arguments):
        is_first = not begun.is_set()
        begun.set()
        while is_first:
            yield {"step": "looking"}
            time.sleep(0.01)
        yield from real(components, arguments)

    real = commands.COMMANDS["look"]
    monkeypatch.setitem(commands.COMMANDS, "look", look)
    return begun


def waited_for(place):
    """Begin to wait for a file on a thread; return the thread and the list for its outcome."""
    done = []
    caller = threading.Thread(target=lambda: done.append(place.call("wait", "drop/clip.txt")))
    caller.start()
    return caller, done


@pytest.mark.parametrize("cut", [False, True])
def test_a_daemon_that_is_restarted_within_a_look_is_waited_for(
    place, monkeypatch, endless_look, cut
):
    place.machine.write("clip.txt", b"x")
    if cut:
        # The stream ends like that of a daemon that was killed: with a step for its last line.
        monkeypatch.setattr(control_server._Running, "_send", without_errors)
    with place.daemon():
        caller, done = waited_for(place)
        assert endless_look.wait(10)
    with place.daemon():
        caller.join(30)
    assert [outcome[0] for outcome in done] == [0]


def without_errors(running, message, real=control_server._Running._send):
    if message is None or "error" not in message:
        real(running, message)


def test_a_daemon_that_ends_within_a_look_is_told_of(place, monkeypatch, endless_look):
    monkeypatch.setattr(waiting, "RESTART_SECONDS", 0.2)
    with place.daemon():
        caller, done = waited_for(place)
        assert endless_look.wait(10)
    caller.join(30)
    ((code, _, err),) = done
    assert code == 1
    assert "the daemon has ended: start it (syncd run), then wait again" in err


@pytest.mark.long
def test_a_daemon_that_ends_meanwhile_is_told_of(place, monkeypatch):
    monkeypatch.setattr(waiting, "RESTART_SECONDS", 0.2)
    place.folder(settle_seconds=60)
    place.machine.write("clip.txt", b"x")
    with place.daemon():
        caller, done = waited_for(place)
        place.machine.until(lambda: place.status_of("clip.txt") == "settling")
    caller.join(30)
    ((code, _, err),) = done
    assert code == 1
    assert "the daemon has ended: start it (syncd run), then wait again" in err


@pytest.mark.long
def test_another_process_that_has_the_state_is_waited_for(place, monkeypatch):
    monkeypatch.setattr(control, "START_SECONDS", 0.1)
    place.machine.write("clip.txt", b"x")
    config = loading.load(config=None, environ=place.machine.environment)
    with opened(config):
        code, out, err = place.call("wait", "drop/clip.txt", "--timeout", "1")
    assert (code, out) == (124, "")
    assert err.startswith("syncd: waiting: syncd (process ")
