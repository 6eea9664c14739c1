import json
import random
import signal
import sys
import threading
import time
from collections import Counter

import pytest

from syncd.config import loading
from syncd.once import once
from syncd.report.status import status


@pytest.fixture
def tell(tmp_path):
    """Return a script that adds what it is told to a file, and a function that reads that."""
    told = tmp_path / "told"
    script = tmp_path / "tell.py"
    script.write_text(
        f"#!{sys.executable} -IS\n"
        "import os, sys\n"
        f"fd = os.open({str(told)!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)\n"
        "os.write(fd, sys.stdin.buffer.read().replace(b'\\n', b' ') + b'\\n')\n"
    )
    script.chmod(0o755)

    def read():
        lines = told.read_text().splitlines() if told.exists() else []
        return [json.loads(line) for line in lines]

    return script, read


def with_hooks(machine, *hooks):
    machine.settings["SYNCD_HOOKS"] = json.dumps(hooks)


@pytest.mark.long
def test_a_pass_tells_its_hooks_before_it_ends_and_nothing_of_earlier_ones(machine, tell):
    script, told = tell

    def make_pass():
        config = loading.load(
            config=None, environ=machine.environment, working_directory=machine.tmp_path
        )
        return once(config, stop=threading.Event())

    machine.write("old", b"of a time without hooks")
    assert make_pass() == 0
    with_hooks(machine, {"on": "synced", "command": [str(script), "a"]})
    machine.write("new", b"heard of")
    assert make_pass() == 0
    [row] = told()
    known = machine.manifest()["new"]
    assert {key: row[key] for key in known if key != "attempts"} == {
        key: fact for key, fact in known.items() if key != "attempts"
    }
    assert (row["event"], row["workspace_uuid"]) == ("synced", None)
    with_hooks(
        machine,
        {"on": "synced", "command": [str(script)]},
        {"on": "synced", "url": "http://127.0.0.1:1/x"},
    )
    machine.write("more", b"and more")
    # One hook is new, and fails: the pass is not all well, and says so.
    assert make_pass() == 1
    assert [row["path"] for row in told()] == ["new", "more"]
    [reason] = [r for r in status(machine.state, base_url="")["reasons"] if r.startswith("hook")]
    assert reason.startswith("hook synced-2: http://127.0.0.1:1/... cannot be called: ")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_through_twenty_kills_each_uuid_is_told_at_least_once(machine, tell):
    script, told = tell
    with_hooks(
        machine,
        {"on": "synced", "command": [str(script)]},
        {"on": "deleted", "command": [str(script)]},
        # A hook that hangs holds up nothing of this.
        {"on": "synced", "name": "hangs", "command": ["sleep", "600"], "timeout_seconds": 300},
    )
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice, number = random.Random(seed), 0
    machine.settings["SYNCD_UPLOAD__METHOD"] = "direct"
    machine.start(60)
    machine.write("first", b"by which the echo is learned: until then, a doubt holds sending")
    machine.until(lambda: "echoes the names" in machine.log, 60)
    machine.stop(signal.SIGKILL)
    for _ in range(20):
        machine.start(60)
        ends_at = time.monotonic() + dice.uniform(0.0, 1.5)
        while time.monotonic() < ends_at:
            number += 1
            machine.write(f"{dice.randrange(30)}", b"%d" % number)
            time.sleep(0.05)
        machine.stop(signal.SIGKILL)
    machine.start(60)
    machine.settles(120)
    known = {
        (o["file_uuid"], event)
        for o in machine.ask("objects")
        for event in (("synced",) if o["state"] == "live" else ("synced", "deleted"))
        if o["sha256"]
    }

    def heard():
        return Counter((row["file_uuid"], row["event"]) for row in told())

    machine.until(lambda: known <= heard().keys(), 120)
    began = time.monotonic()
    assert machine.stop() == 0
    assert time.monotonic() - began < 10
    events = heard()
    print(f"{len(events)} events, {sum(events.values())} deliveries, {number} writes")
    assert events.keys() <= known
    # In order: no path's newest uuid is told before an older one, but for what a kill repeats.
    first = {}
    for place, row in enumerate(told()):
        if row["event"] == "synced":
            first.setdefault((row["path"], row["file_uuid"]), (place, row["at"]))
    for path in {path for path, _ in first}:
        mine = [at for (name, _), at in first.items() if name == path]
        assert [at for _, at in sorted(mine)] == sorted(at for _, at in mine)
