"""Deletions on real inotify, a real daemon and a real service."""

import json
import shutil

import pytest

pytestmark = pytest.mark.long


def settings(machine, **more):
    folders = json.loads(machine.settings["SYNCD_FOLDERS"])
    machine.settings["SYNCD_FOLDERS"] = json.dumps([folders[0] | more])


def deletes(machine):
    return sum(request["method"] == "DELETE" for request in machine.mutations())


@pytest.mark.row(6)
def test_a_vanished_directory_is_held_and_deleted_once_it_is_approved(machine):
    machine.settings["SYNCD_DELETIONS__HOLD_FILES"] = "3"
    machine.write("kept", b"kept")
    for number in range(5):
        machine.write(f"d/{number}", b"%d" % number)
    machine.start()
    machine.settles()
    shutil.rmtree(machine.drop / "d")
    machine.until(lambda: machine.holds() == {("deletions", "many_missing")})
    assert deletes(machine) == 0
    assert machine.stop() == 0
    decided = machine.command("deletes", "approve", "--yes", "drop")
    assert decided.returncode == 0, decided.stderr
    machine.start()
    machine.settles()
    assert (deletes(machine), len(machine.objects()), machine.holds()) == (5, 1, set())


@pytest.mark.parametrize("after_upload", ["delete", "move"])
def test_what_is_live_is_taken_away_and_its_remote_copy_stays(machine, after_upload):
    target = machine.tmp_path / "sent"
    settings(machine, after_upload=after_upload, move_to=str(target))
    machine.write("in/a.txt", b"one")
    machine.start()
    machine.until(lambda: not (machine.drop / "in/a.txt").exists())
    machine.write("in/a.txt", b"two")
    machine.until(lambda: len(machine.objects()) == 2)
    machine.until(lambda: not (machine.drop / "in/a.txt").exists())
    machine.stop()
    again = machine.command("once", "--wait-deletions")
    assert again.returncode == 0, again.stderr
    assert (len(machine.objects()), deletes(machine)) == (2, 0)
    if after_upload == "move":
        found = {path.name: path.read_bytes() for path in (target / "in").iterdir()}
        assert found == {"a.txt": b"one", "a-2.txt": b"two"}


def test_a_folder_that_is_configured_no_more_keeps_its_remote_files(machine):
    machine.write("a", b"a")
    assert machine.command("once").returncode == 0
    other = machine.tmp_path / "other"
    other.mkdir()
    first = machine.settings["SYNCD_FOLDERS"]
    settings(machine, path=str(other), name="other")
    assert machine.command("once", "--wait-deletions").returncode == 0
    machine.settings["SYNCD_FOLDERS"] = first
    sent = len(machine.mutations())
    assert machine.command("once").returncode == 0
    assert (len(machine.mutations()), machine.difference()) == (sent, [])
