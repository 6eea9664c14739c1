"""Very many deletions, once approved: all done, at a bounded rate, through restarts.

`SYNCD_DELETED_FILES=100000 pytest -n 0 THIS` for the long form.
"""

import os
from collections import Counter
from types import SimpleNamespace

import pytest

from syncd.disk import Fingerprint
from syncd.identity import identify
from syncd.state import copies, files, folders, holds
from syncd.state.copies import Copy
from syncd.state.database.store import Store
from syncd.state.deletions import Deletions
from syncd.state.holds import decisions
from syncd.state.ledger import Ledger
from syncd.state.lifecycle import CopyStatus, FileStatus
from syncd.state.observations import Observation, Seen, Settling, record
from syncd.state.planner import Policy
from syncd.workers.clock_seen import ClockWatch
from syncd.workers.deleter import DELETES_PER_SECOND, Deleter, MirroredFolder

FILES = int(os.environ.get("SYNCD_DELETED_FILES", "200"))
SETTLING = Settling(settle_seconds=0.0, grace_seconds=60.0)
POLICIES = {"f": Policy()}


class Time:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now

    def pause(self, seconds):
        self.now += seconds
        return False


def fill(db, path):
    """Make `FILES` files known, live, and missing."""
    folders.note(db, "f", path, 0.0)
    folders.accept_part(db, "f", b"", identify(path))
    for number in range(FILES):
        name = b"d/%06d" % number
        file_id = files.insert(
            db,
            folder="f",
            path=name,
            status=FileStatus.READY,
            fingerprint=Fingerprint(number, 1, 1, 1),
            changed_at=1.0,
            due_at=None,
        )
        files.update(db, file_id, sha256=f"{number:064x}")
        copy = Copy(
            id=0,
            file_id=file_id,
            token=f"t{number}",
            file_uuid=f"u{number}",
            status=CopyStatus.LIVE,
            wanted=True,
            in_flight=False,
            generation=1,
            sha256=f"{number:064x}",
            size=1,
            content_type="text/plain",
            workspace_uuid=None,
            method="direct",
            live_at=1.0,
        )
        copies.insert(db, copy)
    gone = [Observation(b"d/%06d" % number, Seen.MISSING) for number in range(FILES)]
    record(db, "f", gone, settling=SETTLING, policies=POLICIES, now=1_000_000.0)


@pytest.mark.long
@pytest.mark.timeout(0)
def test_very_many_approved_deletions_are_done_at_a_bounded_rate_through_restarts(tmp_path):
    root = os.fsencode(tmp_path / "in")
    (tmp_path / "in").mkdir()
    time = Time()
    asked = []

    def deleter(store):
        return Deleter(
            store=store,
            ledger=Ledger(policies=POLICIES, instance="i"),
            deletions=Deletions(policies=POLICIES),
            mirrored={"f": MirroredFolder(root, SETTLING.grace_seconds)},
            policies=POLICIES,
            client=SimpleNamespace(delete=lambda uuid: asked.append((uuid, time.now))),
            gate=SimpleNamespace(
                seconds_shut_for_all=lambda: 0.0, failed=lambda _: None, succeeded=lambda: None
            ),
            clock=time,
            steady=time,
            clocks=ClockWatch(store=store, clock=time, steady=time, boot="boot"),
            pause=time.pause,
        )

    store = Store(tmp_path / "state")
    store.open(time.now)
    store.write(lambda db: fill(db, root))
    working = deleter(store)
    # It compares the clocks first, and lets every grace begin anew.
    working.step()
    time.now += 61
    working.step()
    (hold,) = store.read(holds.open_holds)
    assert (hold.affects, asked) == (FILES, [])
    store.write(lambda db: decisions.decide(db, hold.id, "approved", time.now))
    working.step()
    assert asked == [], "nothing is deleted before the approval can be taken back no more"
    time.now += 11
    for number in range(10 * FILES):
        if number == 2 or number % 250 == 1:
            store.close()
            store = Store(tmp_path / "state")
            store.open(time.now)
            working = deleter(store)
        working.step()
        if not store.read(lambda db: copies.where(db, "status <> 'gone' LIMIT 1")):
            break
        time.now += 0.1
    statuses = store.read(
        lambda db: dict(
            db.conn.execute("SELECT status, count(*) FROM copies GROUP BY 1").fetchall()
        )
    )
    store.close()
    assert statuses == {"gone": FILES}
    assert sorted(uuid for uuid, _ in asked) == sorted(f"u{n}" for n in range(FILES))
    by_second = Counter(int(at) for _, at in asked)
    assert max(by_second.values()) <= DELETES_PER_SECOND + 1
