"""What was lost with the state is rebuilt from the service, by the daemon that misses it."""

import json
import shutil
import signal
import sqlite3
import subprocess
from contextlib import closing

import pytest


@pytest.mark.long
@pytest.mark.row(27)
def test_a_running_daemon_without_its_ledger_sends_nothing_until_adopt_has_rebuilt_it(
    machine, video
):
    machine.write("a.txt", b"first")
    machine.write("deep/clip.mp4", video)
    machine.write("old.txt", b"to be changed")
    machine.start()
    machine.settles()
    machine.stop(signal.SIGKILL)
    for part in machine.state.glob("state.db*"):
        part.unlink()
    machine.write("old.txt", b"changed meanwhile")
    before = len(machine.mutations())
    machine.start()
    machine.until(lambda: ("sending", "state_lost") in machine.holds())
    machine.until(lambda: machine.status_of("old.txt") == "held")
    assert len(machine.mutations()) == before

    adopted = json.loads(machine.command("adopt", "--json").stdout)

    assert (adopted["live"], adopted["previous"], adopted["unknown"]) == (2, 1, 0)
    machine.until(lambda: machine.status_of("old.txt") == "synced")
    assert machine.holds() == set()
    # The changed file went up. What an adoption took up is never deleted.
    methods = [request["method"] for request in machine.mutations()[before:]]
    assert set(methods) <= {"POST", "PUT"}
    verified = machine.command("verify", "--json")
    assert (verified.returncode, json.loads(verified.stdout)["findings"]) == (0, [])


@pytest.mark.long
@pytest.mark.row(26)
def test_a_daemon_that_meets_damage_ends_and_the_next_one_waits_for_adopt(machine):
    for name in ("a", "b"):
        machine.write(name, name.encode())
    assert machine.command("once").returncode == 0
    machine.write("later", b"after the backup")
    assert machine.command("once").returncode == 0
    with closing(sqlite3.connect(machine.state / "state.db")) as db, db:
        db.execute(
            "UPDATE copies SET remote_file_path = CAST(x'61ff' AS TEXT) "
            "WHERE file_id = (SELECT id FROM files WHERE path = CAST('a' AS BLOB))"
        )
    sent = machine.mutations()
    machine.start()
    machine.write("a", b"changed: its row is read")
    assert machine.process.wait(20) == 1
    assert "nothing is sent or deleted" in machine.log
    assert "is damaged: Could not decode" in machine.log
    machine.start()
    machine.until(lambda: ("sending", "state_lost") in machine.holds())
    machine.until(lambda: machine.status_of("later") == "held")
    assert machine.mutations() == sent
    adopted = json.loads(machine.command("adopt", "--json").stdout)
    assert (adopted["live"], adopted["unknown"]) == (1, 0), "the one that no backup knew"
    machine.settles()
    # The changed file alone went up, and its earlier content away, which a backup knew.
    methods = sorted(request["method"] for request in machine.mutations()[len(sent) :])
    assert methods[0] == "DELETE"
    assert methods.count("DELETE") == 1


@pytest.mark.long
def test_retry_reaches_the_running_daemon(machine):
    machine.faults({"match": "POST /v2/files*", "times": 100, "action": {"status": 422}})
    machine.write("refused.txt", b"no")
    machine.start()
    # The pause after the third try is long enough to ask in.
    machine.until(lambda: len(machine.mutations()) >= 3)
    machine.until(lambda: machine.manifest()["refused.txt"]["status"] != "uploading")
    machine.faults()
    assert json.loads(machine.command("retry", "refused.txt", "--json").stdout) == {"tried": 1}
    machine.settles()


@pytest.mark.long
@pytest.mark.row(27)
def test_a_new_state_beside_files_that_were_sent_before_waits_for_a_word(machine):
    for number in range(20):
        machine.write(f"{number}.txt", b"content %d" % number)
    assert machine.command("once").returncode == 0
    shutil.rmtree(machine.state)
    before = len(machine.mutations())
    machine.start()
    machine.until(lambda: machine.holds() == {("sending", "other_instance")})
    told = machine.command("adopt")
    assert told.returncode == 1
    assert "--new" in told.stderr
    (hold,) = json.loads(machine.command("status", "--json").stdout)["holds"]
    words = hold["commands"][1].split()[1:]
    asked = machine.command(*words, stdin=subprocess.DEVNULL)
    assert (asked.returncode, "--yes" in asked.stderr) == (2, True)
    assert machine.command(*words, "--yes").returncode == 0
    machine.settles()
    assert machine.holds() == set()
    assert len(machine.mutations()) == before
    machine.write("more.txt", b"more")
    machine.settles()
    assert len(machine.mutations()) == before + 1
