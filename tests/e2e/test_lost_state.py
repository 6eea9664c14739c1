"""A daemon whose state was lost rebuilds it from the service."""

import json
import re
import shutil
import signal
import subprocess

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


def command_in(text):
    """Return the shell command that a message about damage names, without an option to ask."""
    return re.search(r"`(mkdir [^`]+)`", text)[1]


@pytest.mark.long
@pytest.mark.row(26)
def test_a_damaged_state_stops_everything_until_its_backup_is_restored_and_adopted(machine):
    for name in ("a", "b"):
        machine.write(name, name.encode())
    assert machine.command("once").returncode == 0
    machine.start()
    machine.until(lambda: list((machine.state / "backups").glob("*.db")))
    machine.write("later", b"after the backup")
    machine.settles()
    machine.stop()
    database = machine.state / "state.db"
    damaged = database.read_bytes()[:4096] + b"\xa5" * 8192 + database.read_bytes()[12288:]
    database.write_bytes(damaged)
    machine.write("a", b"changed meanwhile")
    sent = machine.mutations()

    for words in (["once"], ["run"], ["adopt"], ["status"]):
        told = machine.command(*words)
        assert told.returncode == 78, words
        assert "is damaged" in told.stderr
    assert database.read_bytes() == damaged
    found = json.loads(machine.command("doctor", "--json").stdout)
    (fix,) = [one["fix"] for one in found["checks"] if one["name"] == "database"]
    assert command_in(fix).startswith(f"mkdir {machine.state}/damaged-")

    subprocess.run(command_in(told.stderr), shell=True, check=True)
    machine.start()
    machine.until(lambda: machine.holds() == {("sending", "state_lost")})
    machine.until(lambda: machine.status_of("a") == "held")
    assert machine.mutations() == sent
    adopted = json.loads(machine.command("adopt", "--json").stdout)
    assert (adopted["live"], adopted["unknown"]) == (1, 0), "the file that the backup lacks"
    machine.settles()
    # Only the changed file is sent, and its previous content deleted, which the backup knew.
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
