"""The short form, for everybody, of what tests/rigs/kill_rig.py and chaos_rig.py do at length."""

import random
import signal
import sqlite3
import time
from contextlib import closing

import pytest

pytestmark = pytest.mark.long


def ledger(machine, query):
    with closing(sqlite3.connect(f"file:{machine.state}/state.db?mode=ro", uri=True)) as db:
        return {value for (value,) in db.execute(query)}


@pytest.mark.row(47)
def test_killed_in_the_middle_of_it_all_it_loses_doubles_and_orphans_nothing(machine):
    machine.settings["SYNCD_UPLOAD__METHOD"] = "direct"
    machine.write("changes", b"before")
    machine.write("goes", b"of a size of its own")
    machine.start()
    # Before the echo is known, a direct upload in doubt is held: that is another promise.
    machine.until(lambda: "echoes the names" in machine.log)
    # Half of them arrive when nobody waits for them any more, half of them never.
    machine.faults(
        {"match": "POST /*", "every": 2, "action": {"commit_late": 0.6}},
        {"match": "POST /*", "action": {"delay": 0.4}},
    )
    machine.write("changes", b"afterwards")
    for number in range(12):
        machine.write(f"{number}", b"%d" % number)
    machine.until(lambda: "uploading" in {row["status"] for row in machine.manifest().values()})
    time.sleep(random.uniform(0, 0.2))
    machine.stop(signal.SIGKILL)
    (machine.drop / "goes").unlink()
    machine.faults()
    machine.start()
    machine.settles(40)
    assert machine.stop() == 0
    assert not machine.objects("reserved")
    uploads = {r["token"] for r in machine.mutations() if r["method"] == "POST"}
    deletions = {r["path"].split("/")[-1] for r in machine.mutations() if r["method"] == "DELETE"}
    # A request that was cut in its head tells no token.
    assert uploads - {None} <= ledger(machine, "SELECT token FROM copies")
    assert deletions <= ledger(
        machine, "SELECT file_uuid FROM copies WHERE delete_sent_at IS NOT NULL"
    )
