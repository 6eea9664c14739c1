"""`once --dry-run` says what a pass then does; and each pass ends with its result."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from syncd import once, wiring
from syncd.config import loading
from syncd.watch.stage import Watch

UPLOADS = "POST /v2/files*"


def foreseen(said):
    code, out, _ = said
    document = json.loads(out)
    kinds = ("send", "replace", "delete", "move", "held", "failed")
    return code, {name: document[name]["first"] for name in kinds if document[name]["files"]}


def files(machine):
    """Every file of the state directory, with what would change if anything wrote to it."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in machine.state.rglob("*")
        # A read of the database makes these two, empty.
        if path.is_file() and path.suffix not in (".db-shm", ".db-wal")
    }


def test_a_dry_run_without_state_or_key_says_what_would_be_sent_and_makes_nothing(
    machine, syncd, monkeypatch
):
    machine.write("a", b"12345")
    machine.write("d/b", b"6")
    machine.write(".hidden", b"7")
    del machine.settings["AYMARA_AI_API_KEY"]
    monkeypatch.delenv("AYMARA_AI_API_KEY", raising=False)
    machine.settings["SYNCD_API__BASE_URL"] = "http://127.0.0.1:1"
    code, out, err = syncd("once", "--dry-run", key=None)
    assert (code, err) == (0, "")
    assert out.splitlines()[:3] == ["2 files, 6 B: would be sent", "  drop/a", "  drop/d/b"]
    assert not machine.state.exists()


def test_a_dry_run_foresees_what_the_next_pass_does_and_leaves_the_state_as_it_is(machine, syncd):
    for name in ("changed", "gone", "gone too", "kept"):
        machine.write(name, name.encode())
    assert syncd("once")[0] == 0
    machine.write("changed", b"longer than before")
    machine.write("new", b"the new one")
    for name in ("gone", "gone too"):
        (machine.drop / name).unlink()
    before, sent = files(machine), machine.mutations()
    code, found = foreseen(syncd("once", "--dry-run", "--json"))
    assert (code, found) == (
        0,
        {
            "send": ["drop/new"],
            "replace": ["drop/changed"],
            "delete": ["drop/gone", "drop/gone too"],
        },
    )
    assert (files(machine), machine.mutations()) == (before, sent)
    code, out, _ = syncd("once", "--wait-deletions", "--json")
    did = json.loads(out)
    assert (code, did["sent"], did["replaced"], did["deleted"]) == (0, 2, 1, 2)
    assert (did["sent_bytes"], did["exit_code"], did["reason"]) == (29, 0, None)


def test_a_dry_run_says_that_a_mass_deletion_would_be_held(machine, syncd):
    machine.settings["SYNCD_DELETIONS__HOLD_FILES"] = "3"
    for number in range(6):
        machine.write(f"d/{number}", b"%d" % number)
    assert syncd("once")[0] == 0
    shutil.rmtree(machine.drop / "d")
    code, out, _ = syncd("once", "--dry-run")
    assert code == 1
    assert "6 files, 6 B: held, nothing would be done\n" in out
    assert "held: deletions of drop: many_missing: 6 files in d went missing" in out
    assert machine.holds() == set()


@pytest.mark.long
def test_a_dry_run_says_that_nothing_is_done_in_a_folder_that_is_not_there(machine, syncd):
    machine.write("a", b"a")
    assert syncd("once")[0] == 0
    machine.drop.rename(machine.tmp_path / "away")
    code, out, _ = syncd("once", "--dry-run")
    assert code == 1
    assert "nothing would be sent or deleted" in out
    assert "not looked at: drop: " in out


@pytest.mark.long
def test_a_dry_run_works_beside_a_daemon(machine, syncd):
    machine.write("a", b"a")
    machine.start()
    machine.settles()
    machine.write("b", b"b")
    assert foreseen(syncd("once", "--dry-run", "--json"))[0] == 0
    machine.settles()
    assert foreseen(syncd("once", "--dry-run", "--json")) == (0, {})
    assert machine.stop() == 0


def test_a_pass_in_a_pipe_is_silent_if_nothing_was_done(machine, syncd):
    machine.write("a", b"a")
    assert syncd("once") == (0, "1 synced, 0 waiting, 0 failed\nsent 1 file (1 B)\n", "")
    assert syncd("once") == (0, "", "")
    code, out, _ = syncd("status")
    assert code == 0
    assert "not running, last pass" in out


@pytest.mark.long
def test_a_pass_names_what_failed(machine, syncd):
    machine.faults({"match": UPLOADS, "action": {"status": 422}})
    machine.write("refused", b"b")
    code, out, _ = syncd("once", "--json")
    told = json.loads(out)
    assert (code, told["exit_code"], told["reason"]) == (1, 1, "files failed")
    assert [(one["path"], "422" in one["error"]) for one in told["failures"]] == [("refused", True)]
    assert "failed: drop/refused: " in syncd("once")[1]


@pytest.mark.long
def test_the_log_says_who_approved_a_deletion(machine, syncd):
    machine.settings["SYNCD_DELETIONS__HOLD_FILES"] = "3"
    machine.settings["SYNCD_DELETIONS__GRACE_SECONDS"] = "0"
    for number in range(6):
        machine.write(f"d/{number}", b"%d" % number)
    assert syncd("once")[0] == 0
    shutil.rmtree(machine.drop / "d")
    assert syncd("once", "--wait-deletions")[0] == 1
    assert syncd("deletes", "reject", "drop", SUDO_USER="alice")[0] == 0
    code, out, _ = syncd("log", "drop/d/3", "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [line["event"] for line in told][:2] == ["synced", "rejected"]
    assert told[0]["path"] == "d/3"
    everything = [json.loads(line) for line in syncd("log", "drop", "--json")[1].splitlines()]
    (detail,) = [line["detail"] for line in everything if line["event"] == "held"]
    assert "(many_missing), 6 files: 6 files in d went missing, nothing deleted yet: " in detail
    assert (told[1]["folder"], told[1]["path"]) == ("drop", None)
    assert told[1]["detail"].startswith("hold 1 (many_missing), 6 files, by alice (as ")
    assert told[1]["detail"].endswith(": syncd deletes reject drop")


@pytest.mark.long
def test_an_interrupted_pass_counts_what_it_has_done_and_what_is_left(machine):
    machine.settings["SYNCD_UPLOAD__DRAIN_SECONDS"] = "0"
    machine.write("a", b"a")
    assert machine.command("once").returncode == 0
    machine.faults({"match": UPLOADS, "action": {"delay": 30}})
    machine.write("b", b"b")
    pass_ = subprocess.Popen(
        [sys.executable, "-m", "syncd", "once", "--json"],
        env=machine.environment,
        cwd=machine.tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    machine.until(lambda: machine.status_of("b") == "uploading")
    pass_.send_signal(signal.SIGINT)
    out, err = pass_.communicate(timeout=40)
    told = json.loads(out)
    assert pass_.returncode == told["exit_code"] == 1
    assert told["reason"] == "it was interrupted"
    assert (told["synced"], told["waiting"], told["failed"], told["sent"]) == (1, 1, 0, 0)
    assert "interrupted; the next pass goes on from here" in err
    assert "Traceback" not in err


@pytest.mark.long
def test_an_interrupted_pass_tells_so_at_once_and_counts_what_storages_took_at_the_end(machine):
    machine.settings |= {
        "SYNCD_UPLOAD__DRAIN_SECONDS": "30",
        "SYNCD_UPLOAD__METHOD": "presigned",
        "SYNCD_UPLOAD__BANDWIDTH": "300KiB/s",
    }
    for name in ("a", "b", "c"):
        machine.write(name, os.urandom(300_000))
    pass_ = subprocess.Popen(
        [sys.executable, "-m", "syncd", "once", "--json"],
        env=machine.environment,
        cwd=machine.tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    names = ("a", "b", "c")
    # Written once the database is whole.
    machine.until((machine.state / "instance.json").exists)
    machine.until(lambda: {machine.status_of(name) for name in names} == {"uploading"})
    pass_.send_signal(signal.SIGINT)
    for line in pass_.stderr:
        if "interrupted" in line:
            break
    assert pass_.poll() is None
    assert "transfers get 30 seconds, a second Ctrl-C none" in line
    told = json.loads(pass_.communicate(timeout=60)[0])
    assert (told["synced"], told["waiting"], told["sent"]) == (3, 0, 3)


def test_an_interruption_ends_a_scan_under_way(place, monkeypatch):
    machine = place.machine
    machine.write("a", b"a")
    stop = threading.Event()
    scan, make_watch = Watch.scan_all, wiring.watch
    flags, said = [], []

    def interrupted(watch):
        stop.set()
        machine.until(flags[0].is_set)
        return scan(watch)

    monkeypatch.setattr(Watch, "scan_all", interrupted)
    monkeypatch.setattr(
        wiring, "watch", lambda common, flag: flags.append(flag) or make_watch(common, flag)
    )
    # Not by the log itself, whose level another test of the same process may have set.
    monkeypatch.setattr(once.log, "warning", lambda text, *_: said.append(text))
    config = loading.load(config=None, environ=machine.environment)
    told = []
    assert once.once(config, stop=stop, tell=told.append) == 1
    assert told[0].reason == "it was interrupted"
    assert "interrupted; ending" in said
    assert machine.manifest() == {}, "nothing was scanned any more"
