"""Receipts as their user meets them: the files, and what `status` and `doctor` say."""

import json
import random
import signal
import time

import pytest

from syncd import cli, heartbeat
from syncd.signals import Signals


@pytest.fixture
def syncd(machine, monkeypatch, capsys):
    """Run a command line within this process, with settings of the folder; return what it said."""
    monkeypatch.setattr(Signals, "listen", lambda _: None)
    (folder,) = json.loads(machine.settings["SYNCD_FOLDERS"])

    def run(*words, **settings):
        machine.settings["SYNCD_FOLDERS"] = json.dumps([folder | {"settle_seconds": 0} | settings])
        for name, value in machine.settings.items():
            monkeypatch.setenv(name, value)
        code = cli.call(words)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.mark.parametrize("is_beside", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_pass_leaves_receipts_and_status_names_where_it_cannot(machine, syncd, is_beside):
    target = machine.tmp_path / "there"
    moves = {"after_upload": "move", "move_to": str(target), "receipts": True}
    settings = moves if is_beside else {"receipts": str(target)}
    machine.write("a/clip.txt", b"x")
    assert syncd("once", **settings)[0] == 0
    receipt = json.loads((target / "a/clip.txt.receipt.json").read_text())
    assert receipt["file_uuid"] == machine.manifest()["a/clip.txt"]["file_uuid"]
    assert (target / "a/clip.txt").exists() == is_beside
    if is_beside:
        return
    (target / "b").write_bytes(b"in the way")
    machine.write("b/clip.txt", b"y")
    assert syncd("once", **settings)[0] == 1
    assert machine.manifest()["b/clip.txt"]["status"] == "synced", "nothing else waits for it"
    told = json.loads(syncd("status", "--json", **settings)[1])
    assert f"drop: receipts cannot be written: {target}/b: Not a directory" in told["reasons"]
    assert "receipts: " in syncd("doctor", **settings)[1]


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("is_beside", [True, False])
def test_through_kills_each_synced_file_gets_its_receipt(machine, is_beside):
    target = machine.tmp_path / "there"
    moves = {"after_upload": "move", "move_to": str(target), "receipts": True}
    (folder,) = json.loads(machine.settings["SYNCD_FOLDERS"])
    folder |= {"settle_seconds": 0} | (moves if is_beside else {"receipts": str(target)})
    machine.settings["SYNCD_FOLDERS"] = json.dumps([folder])
    chance = random.Random(7)
    for number in range(8):
        for part in range(10):
            machine.write(f"{number}/{part}.txt", b"%d %d" % (number, part))
        (machine.state / heartbeat.FILE_NAME).unlink(missing_ok=True)
        machine.start(60)
        time.sleep(chance.uniform(0.05, 1.2))
        machine.stop(signal.SIGKILL)
    machine.start(60)
    names = {f"{number}/{part}.txt" for number in range(8) for part in range(10)}

    def receipts():
        return {
            str(path.relative_to(target)).removesuffix(".receipt.json"): path
            for path in target.rglob("*.receipt.json")
        }

    # A file that was just being taken away is looked at a minute later.
    machine.until(lambda: names <= receipts().keys(), 150)
    rows = machine.manifest()
    assert receipts().keys() == names
    for name, path in receipts().items():
        assert json.loads(path.read_text())["file_uuid"] == rows[name]["file_uuid"]
    assert [path for path in target.rglob("*") if ".part" in path.name] == []
