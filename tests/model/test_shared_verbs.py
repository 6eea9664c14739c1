"""Verbs that share their statements do what the same verbs do one by one, on random tables.

By default a few thousand cases; for a million: `python tests/model/test_shared_verbs.py 1000000`.
A case is one intent or one arrival among about 20 that share a commit.
"""

import logging
import random
import sqlite3
import sys
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from unittest import mock

from syncd.disk import Fingerprint
from syncd.state import copies, deletions, echo, files, holds, tokens
from syncd.state.copies import Copy
from syncd.state.database import migrations
from syncd.state.database.connection import Database
from syncd.state.database.writer import _Job, _run_together
from syncd.state.deletions import Deletions
from syncd.state.facts import set_fact
from syncd.state.ledger import PROBE, Arrival, Intent, Ledger, Offer, Stored
from syncd.state.lifecycle import CopyStatus, FileStatus, Keep, Verdict
from syncd.state.planner import Policy

TABLES = ("files", "copies", "history", "holds", "decisions", "service", "unanswered")
FOLDERS = ("f", "g", "h")
CONTENTS = tuple(letter * 64 for letter in "abcdef")
WORKSPACES = (None, "w")
UUIDS = tuple(f"00000000-0000-4000-8000-{number:012d}" for number in range(40))
#: Cases in a default run: enough for each bug that is planted below.
CASES = 300


class Watched(Ledger):
    """Notes what went through the verbs one by one, and whether a shared call failed."""

    def __init__(self, policies):
        super().__init__(policies=policies, instance="00000000")
        self.alone, self.failed = [], False

    def begin(self, db, offer, now):
        self.alone.append(offer)
        return super().begin(db, offer, now)

    def stored(self, db, copy_id, stored, now, *, look):
        self.alone.append(stored)
        return super().stored(db, copy_id, stored, now, look=look)

    def _noted(self, verb, db, items):
        try:
            return verb(db, items)
        except Exception:
            self.failed = self.failed or len(items) > 1
            raise

    def begin_all(self, db, intents):
        return self._noted(super().begin_all, db, intents)

    def stored_all(self, db, arrivals):
        return self._noted(super().stored_all, db, arrivals)


class Tables:
    """A database in memory with random rows."""

    def __init__(self, rng):
        self.rng = rng
        self.db = Database(sqlite3.connect(":memory:", isolation_level=None))
        self.db.conn.row_factory = sqlite3.Row
        migrations.apply(self.db.conn)
        self.db.conn.execute("PRAGMA foreign_keys = ON")

    def maybe(self, share):
        return self.rng.random() < share

    def fill(self):
        """Put random rows in the place of those of before."""
        pick = self.rng.choice
        for table in ("decisions", "copies", "files", "holds", "history", "service", "folders"):
            self.db.conn.execute(f"DELETE FROM {table}")
        self.db.conn.execute("DELETE FROM sqlite_sequence")
        self.policies = {
            name: Policy(
                workspace_uuid=pick(WORKSPACES),
                hold_changes=self.maybe(0.2),
                after_upload=pick(("keep", "keep", "keep", "move")),
                mirror_deletions=self.maybe(0.8),
            )
            for name in FOLDERS
            if self.maybe(0.95)
        }
        for name in FOLDERS:
            self.db.conn.execute("INSERT INTO folders (name, path) VALUES (?, x'2f')", (name,))
        set_fact(self.db, tokens.SECRET, "secret")
        if self.maybe(0.5):
            set_fact(self.db, tokens.ATTEMPT, str(self.rng.randrange(3_000_000)))
        if self.maybe(0.3):
            set_fact(self.db, tokens.SECRET_SINCE, str(self.rng.randrange(3_000_000)))
        if self.maybe(0.5):
            learned = echo.Learned(echo=self.maybe(0.5), sizes=True, skew=pick((None, 0.0)))
            echo.learn(self.db, pick(echo.KINDS), learned)
        self.hold_id = self._hold("sending", "folder f", holds.MANY_CHANGED)
        if self.maybe(0.03):
            self._hold("sending", holds.EVERYWHERE, holds.STATE_LOST)
        self.uuids = list(UUIDS)
        self.rng.shuffle(self.uuids)
        #: how strange this table is
        self.strange = pick((0.0, 0.1, 0.4))
        self.contents: list[str] = []
        self.files = [self._file(number) for number in range(self.rng.randrange(1, 25))]

    def _hold(self, stops, scope, reason):
        return self.db.conn.execute(
            "INSERT INTO holds (stops, scope, reason, message, since) VALUES (?, ?, ?, 'm', 1)",
            (stops, scope, reason),
        ).lastrowid

    def _file(self, number):
        pick, strange = self.rng.choice, self.strange
        folder, path = pick(FOLDERS), b"%d\xff" % number
        file_id = files.insert(
            self.db,
            folder=folder,
            path=path,
            status=pick(list(FileStatus)) if self.maybe(strange) else FileStatus.READY,
            fingerprint=None if self.maybe(strange / 9) else Fingerprint(-number, 7, 1 << 62, 3),
            changed_at=self.rng.random() * 1000,
            due_at=pick((None, 1.25, 2000.0)) if self.maybe(strange) else 1.0,
            error=pick((None, "error")),
        )
        content = pick(CONTENTS) if self.maybe(0.3) else f"{number:064x}"
        file = {
            "generation": self.rng.randrange(1, 4),
            "sha256": pick((content, *CONTENTS)) if self.maybe(strange) else None,
            "attempts": self.rng.randrange(3),
            "crashes": int(self.maybe(strange / 3)),
            "confirmed_at": pick((None, 1.0)) if self.maybe(strange) else None,
        }
        files.update(self.db, file_id, **file)
        if self.maybe(strange / 3):
            self.db.conn.execute(
                "INSERT INTO decisions (file_id, hold_id, verdict) VALUES (?, ?, ?)",
                (file_id, pick((None, self.hold_id)), pick(list(Verdict))),
            )
        live = False
        for _ in range(self.rng.randrange(3) if self.maybe(strange) else 0):
            copy = self._copy(file_id, content)
            if not (live and copy.status is CopyStatus.LIVE):
                copies.insert(self.db, copy)
            live = live or copy.status is CopyStatus.LIVE
        if self.contents and self.maybe(0.05):
            self._elsewhere(file_id, pick(self.contents))
        self.contents.append(content)
        return file_id, content

    def _elsewhere(self, file_id, content):
        """Let a file have a copy that a rename could bring along."""
        status = self.rng.choice((CopyStatus.LIVE, CopyStatus.RETIRING))
        live = copies.where(self.db, "file_id = ? AND status = 'live'", (file_id,))
        if not live:
            known = {"status": status, "in_flight": False, "delete_sent_at": None, "live_at": 2.5}
            known |= {"sha256": content, "size": 7}
            copies.insert(self.db, self._copy(file_id, content, **known))

    def _copy(self, file_id, content, **known):
        pick = self.rng.choice
        copy = Copy(
            id=0,
            file_id=file_id,
            token=f"sy2-t-{self.rng.random()}",
            file_uuid=self.uuids.pop() if self.uuids and self.maybe(0.5) else None,
            status=pick(list(CopyStatus)),
            wanted=self.maybe(0.9),
            in_flight=self.maybe(0.2),
            generation=self.rng.randrange(1, 4),
            sha256=content if self.maybe(0.6) else pick(CONTENTS),
            size=pick((7, 7, 8)),
            content_type=pick(("text/plain", "video/mp4")),
            workspace_uuid=pick(WORKSPACES),
            method=pick(("direct", "presigned")),
            attempts=self.rng.randrange(3),
            due_at=pick((None, 5.5, 5000.0)),
            sent_at=pick((None, 3.25)),
            delete_sent_at=pick((None, None, 4.0)),
            live_at=pick((None, 2.5)),
            created_at=1.5,
            kept=pick(list(Keep)),
            superseded_at=pick((None, 3.5)),
            consumed_at=pick((None, None, 3.5)),
        )
        return copy._replace(**known)

    def intents(self):
        """Return offers of some files, most of them as the rows have them."""
        some = [self.rng.choice(self.files) for _ in range(self.rng.randrange(1, 25))]
        if self.maybe(0.7):
            some = list(dict.fromkeys(some))
        return [self._intent(file_id, content) for file_id, content in some]

    def _intent(self, file_id, content):
        pick = self.rng.choice
        file = files.get(self.db, file_id)
        mark = file.fingerprint or Fingerprint(1, 7, 1, 1)
        if self.maybe(self.strange / 4):
            mark = mark._replace(**{pick(mark._fields): 77})
        if self.maybe(self.strange / 6):
            file_id = 9999
        method = PROBE if self.maybe(self.strange / 3) else pick(("direct", "presigned"))
        vacated = pick((None, (), [file_id for file_id, _ in self.files]))
        kind = pick(("text/plain", "video/mp4"))
        offer = Offer(file_id, mark, file.sha256 or content, kind, method, vacated)
        return Intent(offer, 1000.0 + self.rng.random())

    def arrivals(self):
        """Send copies of some files; return what the service says of them."""
        arrivals = []
        for file_id, content in self.rng.sample(
            self.files, self.rng.randrange(len(self.files)) + 1
        ):
            known = {"file_uuid": None, "in_flight": True, "wanted": True}
            if self.uuids and self.maybe(0.3):
                # It was reserved before its content was sent.
                known["file_uuid"] = self.uuids.pop()
            if not self.maybe(self.strange):
                files.update(self.db, file_id, sha256=content, due_at=None)
                policy = self.policies.get(files.get(self.db, file_id).folder, Policy())
                known |= {"sha256": content, "workspace_uuid": policy.workspace_uuid}
                known |= self._one_thing_off(file_id) if self.maybe(0.3) else {}
            elif self.maybe(0.5):
                del known["wanted"], known["file_uuid"]
            status = (
                self.rng.choice(list(CopyStatus)) if self.maybe(self.strange / 6) else "sending"
            )
            copy = self._copy(file_id, content, **{"status": CopyStatus(status)} | known)
            if status != CopyStatus.LIVE:
                arrivals.append(self._arrival(copies.insert(self.db, copy)))
        if arrivals and self.maybe(self.strange / 3):
            again = self.rng.choice(arrivals)
            arrivals.append(again._replace(stored=replace(again.stored)))
        self.rng.shuffle(arrivals)
        return arrivals

    def _one_thing_off(self, file_id):
        """Let one thing not be ordinary for a copy or its file; return what of the copy."""
        match self.rng.randrange(6):
            case 0:
                files.update(self.db, file_id, sha256="0" * 64)
            case 1:
                files.update(self.db, file_id, crashes=1)
            case 2:
                files.update(self.db, file_id, status=self.rng.choice(list(FileStatus)))
            case 3:
                self._tell(files.get(self.db, file_id), self.rng.choice((98, 99, 100)))
            case 4:
                return {"workspace_uuid": "elsewhere"}
            case _:
                return {"wanted": False}
        return {}

    def _tell(self, file, lines):
        self.db.conn.execute(
            "WITH RECURSIVE line (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM line WHERE n < ?) "
            "INSERT INTO history (at, folder, path, event) SELECT n, ?, ?, 'synced' FROM line",
            (lines, file.folder, file.path),
        )

    def _arrival(self, copy):
        pick, strange, copy_id = self.rng.choice, self.strange, copy.id
        uuid = copy.file_uuid or (self.uuids.pop() if self.uuids else pick(UUIDS))
        if self.maybe(strange / 3):
            uuid = pick(UUIDS)
        status = pick(
            ("completed", None, "pending") if self.maybe(strange) else ("completed", None)
        )
        if self.maybe(strange / 9):
            copy_id = 9999
        stored = Stored(uuid, pick((None, "remote/näme")), status)
        return Arrival(copy_id, stored, 1000.0 + self.rng.random(), 1002.5)

    def retiring(self, verb):
        """Let files be gone or superseded, as before a shared `verb`; return files and copies."""
        pick, strange = self.rng.choice, self.strange
        if self.maybe(0.1):
            self._hold("deletions", pick((*FOLDERS, holds.EVERYWHERE)), holds.ROOT_MISSING)
        found = []
        for file_id, content in self.files:
            file = files.get(self.db, file_id)
            policy = self.policies.get(file.folder, Policy())
            known = {"sha256": content, "workspace_uuid": policy.workspace_uuid, "live_at": 2.5}
            known |= {"in_flight": False, "wanted": True, "kept": Keep.NO, "consumed_at": None}
            known |= {"superseded_at": None, "due_at": 1.0}
            if self.maybe(strange):
                known = {name: known[name] for name in known if self.maybe(0.8)}
            else:
                self.db.conn.execute("DELETE FROM copies WHERE file_id = ?", (file_id,))
            if verb == "confirm_missing" or self.maybe(0.7):
                gone = {"status": FileStatus.MISSING, "missing_since": 500.0, "due_at": None}
                gone["confirmed_at"] = 900.0
                if verb == "confirm_missing":
                    gone |= {"confirmed_at": None, "due_at": 2000.0 if self.maybe(0.1) else 1.0}
                files.update(self.db, file_id, **gone)
            else:
                files.update(self.db, file_id, sha256=content, due_at=None)
                self._add(file_id, content, **known | {"status": CopyStatus.LIVE})
                known |= {"sha256": pick(CONTENTS), "superseded_at": pick((3.5, 5000.0))}
            if self.maybe(0.1):
                self._tell(file, self.rng.choice((98, 99, 100)))
            status = "live" if verb == "confirm_missing" else "retiring"
            known |= {"in_flight": True} if verb == "deleted" else {}
            if copy := self._add(file_id, content, **known | {"status": CopyStatus(status)}):
                found.append((file_id, copy))
        self.rng.shuffle(found)
        return found

    def _add(self, file_id, content, **known):
        is_live = "file_id = ? AND status = 'live'"
        if known["status"] is CopyStatus.LIVE and copies.where(self.db, is_live, (file_id,)):
            return None
        known["file_uuid"] = str(self.rng.random())
        return copies.insert(self.db, self._copy(file_id, content, **known))

    def after(self, jobs):
        """Return the results of jobs that share a commit, and the tables; undo it all."""
        self.db.conn.execute("BEGIN IMMEDIATE")
        done = {job: (value, repr(error)) for job, value, error in _run_together(self.db, jobs)}
        dump = {
            table: [tuple(row) for row in self.db.conn.execute(f"SELECT * FROM {table} ORDER BY 1")]
            for table in (*TABLES, "sqlite_sequence")
        }
        self.db.conn.execute("ROLLBACK")
        return [done[job] for job in jobs], dump


def differences(tables, cases, *, share="both"):
    """Compare both ways on random tables; return how many cases were ordinary, of how many."""
    seen = ordinary = 0
    while seen < cases:
        tables.fill()
        kind = tables.rng.choice(("intents", "arrivals")) if share == "both" else share
        items = getattr(tables, kind)()
        shared = Watched(tables.policies)
        together = shared.begin_all if kind == "intents" else shared.stored_all
        results, rows = tables.after([_Job(together, Future(), item) for item in items])
        # Ordinary ones come first, then the others as they arrived; all in turn where one failed.
        first = [] if shared.failed else [i for i in items if not _is_in(i, shared.alone)]
        order = first + [item for item in items if not any(item is one for one in first)]
        verbs = Ledger(policies=tables.policies, instance="00000000")
        jobs = {id(item): _Job(_alone(verbs, item), Future()) for item in items}
        expected, rows_of_verbs = tables.after([jobs[id(item)] for item in order])
        by_item = dict(zip(map(id, order), expected, strict=True))
        assert results == [by_item[id(item)] for item in items]
        for table, said in rows_of_verbs.items():
            assert rows[table] == said, table
        seen += len(items)
        ordinary += len(first) if len(items) > 1 else 0
    return ordinary, seen


def differences_of_deletions(tables, cases):
    """Compare both ways of deleting; return how many took more than the shared statements."""
    seen = alone = 0
    while seen < cases:
        tables.fill()
        verb = tables.rng.choice(("confirm_missing", "begin_delete", "deleted"))
        found = tables.retiring(verb)
        items = [file_id if verb == "confirm_missing" else copy for file_id, copy in found]
        act = getattr(Deletions(policies=tables.policies), verb)
        more = {"checks": ["c"]} if verb == "confirm_missing" else {}
        together = partial(act, **more)
        with mock.patch.object(deletions, "advance", wraps=deletions.advance) as advance:
            shared, rows = tables.after([_Job(partial(_act, together, items), Future())])
        one_by_one = [_Job(partial(_act, together, [item]), Future()) for item in items]
        each, rows_of_each = tables.after(one_by_one)
        if verb == "begin_delete":
            assert shared[0][0] == [copy for begun, _ in each for copy in begun]
        for table, said in rows_of_each.items():
            skipped = table == "history"
            assert _rows(rows[table], skipped) == _rows(said, skipped), (verb, table)
        seen += len(items)
        alone += advance.call_count
    return seen - alone, seen


def _act(act, items, db):
    return act(db, items, 1000.0)


def _rows(rows, is_history):
    """Return rows; of history without their numbers, which tell the order of files alone."""
    return sorted(repr(row[1:]) for row in rows) if is_history else rows


def _is_in(item, alone):
    what = item.offer if isinstance(item, Intent) else item.stored
    return any(what is one for one in alone)


def _alone(verbs, item):
    if isinstance(item, Intent):
        return partial(verbs.begin, offer=item.offer, now=item.now)
    return partial(
        verbs.stored, copy_id=item.copy_id, stored=item.stored, now=item.now, look=item.look
    )


def test_verbs_that_share_statements_leave_the_tables_as_one_by_one():
    logging.disable()
    try:
        ordinary, seen = differences(Tables(random.Random(1)), CASES)
    finally:
        logging.disable(logging.NOTSET)
    assert 0.2 < ordinary / seen < 0.9, "both ways are taken"


def test_deletions_that_share_statements_leave_the_tables_as_one_by_one():
    logging.disable()
    try:
        ordinary, seen = differences_of_deletions(Tables(random.Random(1)), CASES)
    finally:
        logging.disable(logging.NOTSET)
    assert 0.2 < ordinary / seen < 0.9, "both ways are taken"


if __name__ == "__main__":
    logging.disable()
    seed = int((*sys.argv, 0, 0)[2])
    for compare in (differences, differences_of_deletions):
        ordinary, seen = compare(Tables(random.Random(seed)), int(sys.argv[1]))
        print(f"{ordinary} of {seen} cases were ordinary; all are equal")
