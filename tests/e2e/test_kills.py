"""The short form, for everybody, of what tests/rigs/kill_rig.py and chaos_rig.py do at length."""

import random
import signal
import sqlite3
import time
from contextlib import closing

import pytest

CHANCE = random.Random(1)


def tokens_in_ledger(machine):
    with closing(sqlite3.connect(f"file:{machine.state}/state.db?mode=ro", uri=True)) as db:
        return {token for (token,) in db.execute("SELECT token FROM copies")}


@pytest.mark.row(47)
def test_killed_at_any_moment_it_loses_doubles_and_orphans_nothing(machine):
    machine.settings["SYNCD_UPLOAD__METHOD"] = "direct"
    machine.write("kept", b"kept")
    machine.write("goes", b"of a size of its own")
    machine.start()
    # Before the echo is known, a direct upload in doubt is held: that is another promise.
    machine.until(lambda: "echoes the names" in machine.log)
    machine.stop(signal.SIGKILL)
    machine.faults({"match": "POST /*", "action": {"delay": 0.05}})
    machine.write("kept", b"kept, and changed")
    for number in range(12):
        machine.write(f"{number}", b"%d" % number)
    machine.start()
    time.sleep(CHANCE.uniform(0.05, 0.6))
    machine.stop(signal.SIGKILL)
    (machine.drop / "goes").unlink()
    machine.faults()
    machine.start()
    machine.settles(40)
    assert machine.stop() == 0
    assert not machine.objects("reserved")
    sent = {request["token"] for request in machine.mutations()}
    # A request that was cut in its head tells no token.
    assert sent - {None} <= tokens_in_ledger(machine), "each request had its intent on disk"
