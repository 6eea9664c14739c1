"""The ledger's verbs and the sightings in any order, over the real table; 100,000 as beside this.

A small world says what is on the disk and what is remote; the verbs are called as the workers may
call them, and after each the invariants are checked.
"""

import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)
from simulation.engine import SimulatedStore, fresh_state

from syncd.disk import Fingerprint
from syncd.state import attempts, copies, files, holds
from syncd.state.copies import Copy
from syncd.state.deletions import Deletions
from syncd.state.ledger import Elsewhere, Failure, Ledger, Offer, Progress, Stored, recover
from syncd.state.lifecycle import ARROWS, CopyStatus, FileStatus
from syncd.state.observations import Observation, Seen, Settling, record
from syncd.state.planner import LOCAL, Act, Policy, plan

PATHS = (b"a", b"b")
CONTENTS = ("a" * 64, "b" * 64)
POLICIES = {"f": Policy()}
SETTLING = Settling(settle_seconds=5.0, grace_seconds=60.0)
FAILURE = Failure("no whole answer")
#: Sequences of 40 steps in `pytest -m long`.
AT_LENGTH = 500
_paths, _contents = st.sampled_from(PATHS), st.sampled_from(CONTENTS)
_places = st.integers(0, 7)


class LedgerMachine(RuleBasedStateMachine):
    """Everything that may happen to two paths."""

    def __init__(self):
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="syncd-model-")
        base = Path(self.directory.name)
        fresh_state(base)
        self.store = SimulatedStore(base / "state", lambda _: None)
        self.store.open(0.0)
        self.ledger = Ledger(policies=POLICIES, instance=self.store.instance)
        self.deletions = Deletions(policies=POLICIES)
        self.numbers = itertools.count(1)
        self.now = 1000.0
        #: path -> content and fingerprint
        self.disk: dict[bytes, tuple[str, Fingerprint]] = {}
        #: uuid -> content, of what is stored remotely and not deleted
        self.remote: dict[str, str] = {}
        #: copies whose request arrived though nobody knows it yet
        self.arrived: set[int] = set()
        self.statuses: dict[int, CopyStatus] = {}
        #: tokens of all requests; and of those whose object was found
        self.tokens: set[str] = set()
        self.settled: set[str] = set()
        #: paths that are seen to be there, and had a live copy since
        self.covered: set[bytes] = set()

    def teardown(self):
        self.store.kill()
        self.directory.cleanup()

    # Requests and their outcomes

    def do(self, verb, *args, **kwargs):
        return self.store.write(lambda db: verb(db, *args, **kwargs))

    def every(self, *statuses: CopyStatus, in_flight: bool | None = None) -> list[Copy]:
        found = self.store.read(lambda db: copies.where(db, "1 ORDER BY id"))
        return [
            copy
            for copy in found
            if copy.status in statuses and in_flight in (None, copy.in_flight)
        ]

    def pick(self, place: int, *statuses: CopyStatus, in_flight: bool | None = None):
        found = self.every(*statuses, in_flight=in_flight)
        return found[place % len(found)] if found else None

    def see(self, path: bytes, seen: Seen, **more):
        mark = self.disk[path][1] if seen is Seen.PRESENT else None
        observation = Observation(path, seen, mark, **more)
        self.do(record, "f", [observation], settling=SETTLING, policies=POLICIES, now=self.now)

    def file(self, path: bytes):
        return self.store.read(lambda db: files.find(db, "f", path))

    def uuid(self) -> str:
        return f"00000000-0000-4000-8000-{next(self.numbers):012d}"

    @initialize()
    def open_folder(self):
        self.do(lambda db: db.conn.execute("INSERT INTO folders (name, path) VALUES ('f', x'66')"))

    # The disk

    @rule(path=_paths, content=_contents)
    def write(self, path, content):
        number = next(self.numbers)
        self.disk[path] = content, Fingerprint(number, 7, number, number)

    @rule(path=_paths)
    def remove(self, path):
        self.disk.pop(path, None)

    @rule(old=_paths, new=_paths)
    def rename(self, old, new):
        if old in self.disk and old != new:
            self.disk[new] = self.disk.pop(old)

    @rule(path=_paths)
    def look(self, path):
        if path in self.disk:
            self.see(path, Seen.PRESENT)
        else:
            self.see(path, Seen.MISSING)
            self.covered.discard(path)

    @rule(path=_paths, seen=st.sampled_from((Seen.UNREADABLE, Seen.INELIGIBLE)))
    def cannot_read(self, path, seen):
        self.see(path, seen, reason="planted")
        if seen is Seen.INELIGIBLE:
            self.covered.discard(path)

    @rule(seconds=st.sampled_from((1.0, 10.0, 61.0, 4000.0, 90_000.0)))
    def wait(self, seconds):
        self.now += seconds

    # Uploads

    @rule(path=_paths, cut=st.booleans())
    def begin(self, path, cut):
        file = self.file(path)
        if file is None or path not in self.disk or file.fingerprint != self.disk[path][1]:
            return
        offer = Offer(file.id, file.fingerprint, self.disk[path][0], "text/plain", "direct")
        begun = self.do(self.ledger.begin, offer, self.now)
        if isinstance(begun, Elsewhere) and not cut:
            vacated = [other.id for other in begun.files if other.path not in self.disk]
            for other in begun.files:
                if other.id in vacated:
                    self.covered.discard(other.path)
            offer = Offer(*(getattr(offer, name) for name in _BARE_OFFER), vacated)
            begun = self.do(self.ledger.begin, offer, self.now)
        if isinstance(begun, Copy):
            assert begun.status is CopyStatus.SENDING
            assert begun.sha256 == self.disk[path][0]
            assert begun.token not in self.tokens, "two requests share a token"
            self.tokens.add(begun.token)

    def arrives(self, copy, uuid=None, status="completed"):
        uuid = uuid or copy.file_uuid or self.uuid()
        self.remote[uuid] = copy.sha256
        self.arrived.discard(copy.id)
        stored = Stored(uuid, None, status)
        self.do(self.ledger.stored, copy.id, stored, self.now, look=self.now + 2)

    @rule(place=_places, status=st.sampled_from(("completed", "pending")))
    def answered(self, place, status):
        if copy := self.pick(place, CopyStatus.SENDING, in_flight=True):
            self.arrives(copy, status=status)

    @rule(path=_paths)
    def brought_up(self, path):
        """The ordinary way, which chance alone seldom takes to its end."""
        self.look(path)
        self.begin(path, cut=False)
        file = self.file(path)
        for copy in self.every(CopyStatus.SENDING, in_flight=True):
            if file and copy.file_id == file.id:
                self.arrives(copy)

    @rule(old=_paths, new=_paths, cut=st.booleans())
    def moved(self, old, new, cut):
        """A rename, noticed at both ends before anything else happens."""
        self.brought_up(old)
        self.rename(old, new)
        self.look(old)
        self.look(new)
        self.begin(new, cut=cut)

    @rule(place=_places)
    def reserved(self, place):
        copy = self.pick(place, CopyStatus.SENDING, in_flight=True)
        if copy and copy.file_uuid is None:
            self.do(self.ledger.reserved, copy.id, self.uuid())

    @rule(place=_places, counts=st.booleans())
    def not_sent(self, place, counts):
        if copy := self.pick(place, CopyStatus.SENDING, in_flight=True):
            failure = FAILURE if counts else None
            self.do(self.ledger.not_sent, copy.id, self.now, failure=failure, again_at=self.now)

    @rule(place=_places)
    def refused(self, place):
        copy = self.pick(place, CopyStatus.SENDING, in_flight=True)
        if copy and copy.file_uuid is None:
            self.do(self.ledger.refused_for_good, copy.id, FAILURE, self.now)

    @rule(place=_places, arrived=st.booleans())
    def unanswered(self, place, arrived):
        if copy := self.pick(place, CopyStatus.SENDING, in_flight=True):
            self.do(self.ledger.doubt, copy.id, FAILURE, self.now)
            if arrived:
                self.arrived.add(copy.id)

    @rule(arrived=st.booleans())
    def crash(self, arrived):
        flying = self.every(CopyStatus.SENDING, in_flight=True)
        self.do(recover, self.now)
        if arrived:
            self.arrived |= {copy.id for copy in flying}

    @rule(place=_places, other=_places)
    def an_earlier_attempt_is_found(self, place, other):
        """A copy in doubt is found by the token of a request that was given up."""
        copy = self.pick(place, CopyStatus.SENDING, in_flight=False)
        if copy is None or copy.file_uuid is not None:
            return
        mine = [a for a in self.store.read(attempts.every) if a.copy_id == copy.id]
        if not mine:
            return
        attempt = mine[other % len(mine)]
        self.settled.add(attempt.token)
        was_old = attempt.is_old(self.now)
        self.do(self.ledger.attempt_found, copy.id, attempt, self.now)
        self.arrives(copy)
        found = self.store.read(lambda db: copies.get(db, copy.id))
        assert found.token == attempt.token
        assert found.kept == was_old
        assert copy.token in {a.token for a in self.store.read(attempts.every)}

    @rule(place=_places)
    def looked_late_in_vain(self, place):
        late = self.store.read(attempts.every)
        if late:
            attempt = late[place % len(late)]
            self.now = max(self.now, attempt.look_at)
            self.do(attempts.looked, attempt, self.now)

    @rule(place=_places, status=st.sampled_from(("completed", "processing")))
    def looked_up(self, place, status):
        copy = self.pick(place, CopyStatus.SENDING, in_flight=False)
        if copy is None:
            return
        if copy.id in self.arrived:
            self.arrives(copy, status=status)
        elif copy.file_uuid is not None:
            self.do(self.ledger.not_sent, copy.id, self.now)
        else:
            self.do(self.ledger.absent, copy, self.now)
            assert copy.token in {a.token for a in self.store.read(attempts.every)}

    @rule(place=_places, whole=st.booleans())
    def arrived_late(self, place, whole):
        late = self.store.read(attempts.every)
        if not late:
            return
        attempt = late[place % len(late)]
        copy = self.store.read(lambda db: copies.get(db, attempt.copy_id))
        if copy.status is CopyStatus.SENDING:
            return
        uuid = self.uuid()
        self.remote[uuid] = copy.sha256
        stored = Stored(uuid, None, "completed")
        self.settled.add(attempt.token)
        self.do(self.ledger.found_late, attempt, stored, self.now, whole=whole, look=self.now + 2)

    # Videos

    @rule(
        place=_places, outcome=st.sampled_from(("completed", "failed", "gone", "later", "listed"))
    )
    def polled(self, place, outcome):
        copy = self.pick(place, CopyStatus.PROCESSING)
        if copy is None:
            return
        if outcome == "completed":
            facts = {"remote_file_path": None, "frame_count": 1, "video_metadata": None}
            self.do(self.ledger.completed, copy.id, self.now, **facts)
        elif outcome == "failed":
            self.do(self.ledger.processing_failed, copy.id, FAILURE, self.now)
        elif outcome == "gone":
            self.remote.pop(copy.file_uuid, None)
            self.do(self.ledger.gone_remotely, copy.id, self.now)
        elif outcome == "listed":
            shown = [Progress(copy.id, "processing", self.now + 2)]
            self.do(self.ledger.still_processing_all, shown)
        else:
            self.do(self.ledger.still_processing, copy, "processing", self.now + 2, FAILURE)

    # Deletions

    @rule(path=_paths)
    def second_look(self, path):
        file = self.file(path)
        if file and file.status is FileStatus.MISSING and path not in self.disk:
            self.do(self.deletions.confirm_missing, [file.id], self.now)

    @rule(held=st.booleans())
    def hold(self, held):
        what = {"stops": "deletions", "scope": "f", "reason": "planted", "now": self.now}
        if held:
            self.do(holds.place, message="planted", **what)
        else:
            self.do(holds.release, **what)

    @rule(place=_places)
    def begin_delete(self, place):
        copy = self.pick(place, CopyStatus.RETIRING, in_flight=False)
        if copy is None:
            return
        begun = next(iter(self.do(self.deletions.begin_delete, [copy], self.now)), None)
        if begun is None:
            return
        assert begun.delete_sent_at is not None
        file = self.store.read(lambda db: files.get(db, begun.file_id))
        kept = [
            other
            for other in self.every(CopyStatus.LIVE, CopyStatus.RELEASED)
            if other.file_id == file.id
        ]
        if begun.live_at is not None and begun.wanted and not kept:
            proven = file.confirmed_at is not None and file.status is FileStatus.MISSING
            assert proven or copy.delete_sent_at is not None, "without evidence"
            held = self.store.read(lambda db: holds.is_held(db, "deletions", "f"))
            assert not (held and proven), "under a hold"

    @rule(place=_places, good=st.booleans())
    def deleted(self, place, good):
        copy = self.pick(place, CopyStatus.RETIRING, in_flight=True)
        if copy and good:
            self.remote.pop(copy.file_uuid, None)
            self.do(self.deletions.deleted, [copy], self.now)
        elif copy:
            self.do(self.deletions.delete_failed, copy.id, FAILURE, self.now, self.now + 1)

    # Invariants

    @invariant()
    def statuses_move_along_the_arrows(self):
        for copy in self.every(*CopyStatus):
            before = self.statuses.get(copy.id, copy.status)
            assert copy.status in _reachable(before), f"{before} -> {copy.status}"
            self.statuses[copy.id] = copy.status

    @invariant()
    def an_attempt_has_one_object_and_is_looked_for_until_it_is_found(self):
        open_attempts = self.store.read(attempts.every)
        looked_for = {attempt.token for attempt in open_attempts}
        assert not looked_for & self.settled
        for copy in self.every(CopyStatus.SENDING):
            assert copy.token not in looked_for, "the request of a copy in doubt was given up"

    @invariant()
    def what_was_found_after_a_day_is_never_deleted(self):
        for copy in self.every(CopyStatus.RETIRING):
            assert not copy.kept

    @invariant()
    def one_request_a_path_at_most_is_in_flight(self):
        flying = [copy.file_id for copy in self.every(*CopyStatus, in_flight=True)]
        assert len(flying) == len(set(flying))

    @invariant()
    def what_is_live_is_stored_with_the_content_that_the_ledger_says(self):
        for copy in self.every(CopyStatus.LIVE):
            assert self.remote[copy.file_uuid] == copy.sha256

    @invariant()
    def a_path_that_is_there_keeps_a_live_copy(self):
        live = {copy.file_id for copy in self.every(CopyStatus.LIVE)}
        for path in PATHS:
            file = self.file(path)
            is_mirrored = file is not None and file.status is not FileStatus.INELIGIBLE
            if not is_mirrored or not file.present or path not in self.disk:
                self.covered.discard(path)
            elif file.id in live:
                self.covered.add(path)
            else:
                assert path not in self.covered, f"{path!r} lost its live copy"

    @invariant()
    def nothing_that_is_due_is_forgotten(self):
        for path in PATHS:
            file = self.file(path)
            if file is None:
                continue
            here = self.store.read(lambda db, f=file: copies.of_file(db, f.id))
            action = plan(file, here, POLICIES["f"])
            # A DELETE that a crash cut short is repeated first: its outcome moves the file on.
            repeats = any(c.status is CopyStatus.RETIRING and c.delete_sent_at for c in here)
            assert repeats or action.act not in LOCAL, "what the table alone could do is done"
            if action.act in (Act.HASH, Act.UPLOAD, Act.LOOK_AGAIN):
                assert file.due_at is not None, f"{action.act}, and due never"
            if action.act in (Act.SEND, Act.LOOK_UP):
                assert action.copy.due_at is not None, f"{action.act}, and due never"
            for copy in here:
                if copy.status is CopyStatus.RETIRING and not copy.in_flight:
                    assert copy.due_at is not None, "it retires, and is due never"


_BARE_OFFER = ("file_id", "fingerprint", "sha256", "content_type", "method")


def _reachable(status: CopyStatus) -> set[CopyStatus]:
    found = {status}
    while more := {after for known in found for after in ARROWS[known]} - found:
        found |= more
    return found


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(
    max_examples=settings.default.max_examples // 6,
    stateful_step_count=40,
)


@pytest.mark.long
@pytest.mark.timeout(600)
class TestLedgerAtLength(LedgerMachine.TestCase):
    """Many more of them than an ordinary run has time for."""

    settings = settings(max_examples=AT_LENGTH, stateful_step_count=40)
