"""Sequences of all that befalls a watch folder, on a disk, a clock and a service that are modelled.

What is recorded of the disk, judged and deleted is the product's own code over its own tables. Not
one copy may be deleted of a file that is there, or gone for less than its grace, or one of too many
within an hour that nobody approved, or sooner than ten seconds after an approval; and when all has
healed, every rightful deletion is done. `SYNCD_SEQUENCES=100000 pytest -n 0 THIS` for many.
"""

import os
import random
import sqlite3
import threading
from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace

import pytest

from syncd import disk, identity
from syncd.disk import Fingerprint, Found, Sight
from syncd.files_api import ServerError
from syncd.identity import RootIdentity, View
from syncd.state import due, files, holds, manifest, polls, scan_index
from syncd.state.database import migrations
from syncd.state.database.connection import Database
from syncd.state.deletions import Deletions
from syncd.state.holds import decisions, missing
from syncd.state.holds.decisions import STORED
from syncd.state.ledger import Copy, Elsewhere, Ledger, Offer, Stored
from syncd.state.planner import Limits, Policy
from syncd.watch import likeness
from syncd.watch.evidence import judge
from syncd.watch.folder import WatchFolder
from syncd.watch.ignore import Rules
from syncd.watch.open_files import OpenFiles
from syncd.watch.roots import Root
from syncd.workers.clock_seen import CLOCK_NOTED_SECONDS, ClockWatch
from syncd.workers.deleter import Deleter, MirroredFolder

#: Nothing is open for writing here.
OPEN_FILES = OpenFiles(b"/f")
GRACE = 60.0
PATHS = (b"a", b"b", b"d/c", b"d/e", b"d/f")
SEQUENCES, LENGTH = int(os.environ.get("SYNCD_SEQUENCES", "200")), 24
#: Sequences in each part of `pytest -m long`.
AT_LENGTH = 1000
RIGHT, OTHER, BARE = RootIdentity("uuid 1", 2), RootIdentity("uuid 3", 2), RootIdentity("uuid 1", 9)


class MemoryStore:
    """The tables in memory; whatever is written is there at once."""

    failed = False

    def __init__(self):
        # A look at a folder reads on a thread of its own.
        self.db = Database(sqlite3.connect(":memory:", check_same_thread=False))
        self.db.conn.isolation_level = None
        self.db.conn.row_factory = sqlite3.Row
        migrations.apply(self.db.conn)
        self.changed = threading.Event()

    def read(self, query, *args, **kwargs):
        return query(self.db, *args, **kwargs)

    write = read

    def recall(self, _key, query):
        return self.read(query)

    def clear(self):
        tables = ("decisions", "copies", "files", "parts", "folders", "holds", "history", "service")
        for table in tables:
            self.db.conn.execute(f"DELETE FROM {table}")


class World:
    """A folder on a disk that comes and goes, a clock that is set, and a service."""

    #: what is mounted next; "earlier" is an older image of the right disk
    mounts = ("right", "right", "none", "bare", "other", "earlier")
    #: what may happen
    verbs = (
        *("create", "create", "change", "remove", "remove", "rename", "mount", "mount", "forbid"),
        *("set_clock", "wait", "wait", "scan", "scan", "scan_racing", "upload", "upload"),
        *("work", "work", "work", "decide", "fail", "restart", "work_racing", "reboot", "mirror"),
        *("remove_all", "back_up", "rest", "rest", "reboot"),
    )

    def __init__(self, store, seed):
        self.random = random.Random(seed)
        self.store = store
        store.clear()
        #: the wall clock, the time since the machine started, and the true time
        self.now, self.steady, self.true, self.boot = 1_000_000_000.0, 0.0, 0.0, 0
        #: what was decided on a path, and when: ("approved" | "rejected", true time)
        self.decided = {}
        #: when a missing file was deleted that nobody was asked about, on the true clock, and which
        self.unasked = []
        #: what the right disk holds, mounted or not: path -> (content, fingerprint)
        self.truth = {}
        #: the last change of a path that was seen on the right disk
        self.noticed = {}
        #: since when a path is gone for all that anybody could see
        self.gone_since = {}
        self.mounted, self.forbidden = "right", set()
        self.stamp = self.mount_changes = self.process = 0
        #: what the right disk held when its image was taken, and the last change by then
        self.image = {}, 0
        self.remote = {}
        #: the path that each object was made for
        self.sent_as = {}
        self.begun = set()
        self.wrong = []
        self.race = self.race_in_look = None
        self.broken = False
        self.limits = Limits(files=2, percent=20.0, most=1000)
        self.policies = {"f": Policy(limits=self.limits)}
        self.folder = WatchFolder("f", b"/f", settle_seconds=0.0, grace_seconds=GRACE)
        self.rules = Rules(self.folder)
        self.ledger = Ledger(policies=self.policies, instance="i")
        self.reopen()

    def reopen(self):
        """Build the workers anew, as after a restart."""
        self.process += 1
        self.root = Root(
            store=self.store, folder=self.folder, policies=self.policies, clock=lambda: self.now
        )
        gate = SimpleNamespace(
            seconds_shut_for_all=lambda: 0.0, failed=lambda _: None, succeeded=lambda: None
        )
        self.deleter = Deleter(
            store=self.store,
            ledger=self.ledger,
            deletions=Deletions(policies=self.policies),
            mirrored={"f": MirroredFolder(b"/f", GRACE)},
            policies=self.policies,
            client=self,
            gate=gate,
            clock=lambda: self.now,
            steady=lambda: self.steady,
            clocks=ClockWatch(
                store=self.store,
                clock=lambda: self.now,
                steady=lambda: self.steady,
                boot=f"boot-{self.boot}",
            ),
            pause=lambda _: False,
            ask=self.answer,
        )

    # The disk, as the product asks for it

    def shown(self):
        """The directory at the root's path now."""
        return {"right": self.truth, "earlier": self.image[0]}.get(self.mounted, {})

    def may_list(self, directory):
        return directory not in self.forbidden

    def identify(self, _root, _marker=b""):
        if self.mounted == "none":
            raise FileNotFoundError(2, "No such file or directory")
        return {"other": OTHER, "bare": BARE}.get(self.mounted, RIGHT)

    def view(self, root, _marker=b"", _known=()):
        try:
            parts = {b"": self.identify(root)}
            return View(parts, mounts={b"": f"{self.process} {self.mount_changes}"})
        except OSError as error:
            return View({b"": None}, errors={b"": error.strerror})

    def is_earlier(self, _root, _part, file):
        """Say of a file whether it, or its absence, is from before it was last known to change."""
        if self.mounted != "earlier":
            return False
        seen = self.image[0].get(file.path)
        if seen is not None and seen[1].mtime_ns == file.fingerprint.mtime_ns:
            return False
        return self.image[1] < file.fingerprint.ctime_ns

    def look(self, _root, paths):
        if self.race_in_look:
            self.race_in_look()
        return {path: self._sight(path) for path in paths}

    def _sight(self, path):
        if self.mounted == "none" or not self.may_list(disk.split(path)[0]):
            return Sight(Found.UNREADABLE, error="not now")
        if path in self.shown():
            self.notice(path)
            return Sight(Found.FILE, self.shown()[path][1])
        return Sight(Found.ABSENT)

    def notice(self, path):
        """Let a path be seen, unless in an older image: that is no news of the disk."""
        if path in self.truth and self.mounted == "right":
            # A verdict holds until its file is seen to be back.
            self.decided.pop(path, None)
            self.gone_since.pop(path, None)
            self.noticed[path] = self.truth[path][1].ctime_ns

    # The service

    def delete(self, file_uuid):
        path = self.remote[file_uuid]
        copy = self.store.db.conn.execute(
            "SELECT file_id FROM copies WHERE file_uuid = ?", (file_uuid,)
        ).fetchone()
        live = self.store.db.conn.execute(
            "SELECT 1 FROM copies WHERE file_id = ? AND status IN ('live', 'released')", (copy[0],)
        ).fetchone()
        if file_uuid not in self.begun and not (live or self._is_superseded(file_uuid)):
            self.wrong += [(path, reason) for reason in self._objections(path)]
        self.begun.add(file_uuid)
        if self.broken:
            raise ServerError("no answer", operation="delete", status=503)
        del self.remote[file_uuid]

    def _objections(self, path):
        """Yield why the copy of a missing file must not be deleted now."""
        if path in self.truth and not self._is_as_it_was_seen(path):
            yield "is there"
            return
        if not self.policies["f"].mirror_deletions:
            yield "is missing where deletions are not mirrored"
        verdict, decided_at = self.decided.get(path, (None, None))
        if verdict == "rejected":
            yield "is to be kept"
        elif verdict == "approved":
            if self.true - decided_at < 10.0:
                yield "could still be taken back"
        else:
            if self.true - self.gone_since.get(path, 0.0) < GRACE:
                yield "is gone for less than its grace"
            # Files count, not objects: a superseded copy may go in the same round.
            self.unasked.append((self.true, path))
            lately = len({path for at, path in self.unasked if at > self.true - 3600})
            if lately > max(self.limits.files, 0.2 * (len(self.remote) + lately)):
                yield "is one of too many, and nobody was asked"

    def _is_as_it_was_seen(self, path):
        """Say whether a path is not in an image of the disk as it was when it was seen last.

        No one can tell such an image from the disk.
        """
        is_like = self.mounted == "earlier" and self.noticed[path] <= self.image[1]
        return is_like and path not in self.image[0]

    def _is_superseded(self, file_uuid):
        """Say whether newer content of the same path is live, be it by another name by now."""
        rows = self.store.db.conn.execute(
            "SELECT file_uuid FROM copies WHERE status = 'live' AND id > "
            "(SELECT id FROM copies WHERE file_uuid = ?)",
            (file_uuid,),
        )
        return any(self.sent_as[row[0]] == self.sent_as[file_uuid] for row in rows)

    def answer(self, copy):
        """Say whether a copy is there."""
        if self.broken:
            return
        if copy.file_uuid not in self.remote:
            self.ledger.gone_remotely(self.store.db, copy.id, self.now)
            return
        facts = {"remote_file_path": None, "frame_count": None, "video_metadata": None}
        self.ledger.completed(self.store.db, copy.id, self.now, **facts)
        row = self.store.db.conn.execute("SELECT status FROM copies WHERE id = ?", (copy.id,))
        if row.fetchone()[0] == "live":
            self.remote[copy.file_uuid] = files.existing(self.store.db, copy.file_id).path

    # Events in the folder

    def step(self):
        """Do one thing of all that can happen, at random."""
        getattr(self, self.random.choice(self.verbs))()

    def put(self, path, content):
        self.stamp += 1
        mark = Fingerprint(self.stamp, len(content), self.stamp, self.stamp)
        self.truth[path] = (content, mark)

    def take(self, path):
        self.gone_since.setdefault(path, self.true)
        return self.truth.pop(path)

    def may_change(self):
        return self.mounted == "right"

    def create(self):
        if self.may_change():
            self.put(self.random.choice(PATHS), b"x" * self.random.randrange(1, 4))
            if self.random.random() < 0.5:
                self.scan()
                self.upload()

    def change(self):
        if self.may_change() and self.truth:
            self.put(self.random.choice(sorted(self.truth)), b"y" * self.random.randrange(1, 4))

    def remove(self):
        if self.may_change() and self.truth:
            path = self.random.choice(sorted(self.truth))
            self.take(path)
            if self.random.random() < 0.5:
                # Told of, it counts from here, however short the file was back.
                self.gone_since[path] = self.true
                self.hint({path: True})

    def remove_all(self):
        if self.may_change():
            for path in sorted(self.truth):
                self.take(path)
            self.scan()

    def rename(self):
        free = sorted(set(PATHS) - self.truth.keys())
        if self.may_change() and self.truth and free:
            old = self.random.choice(sorted(self.truth))
            content, mark = self.take(old)
            new = self.random.choice(free)
            self.put(new, content)
            self.truth[new] = (content, mark._replace(ctime_ns=self.stamp))
            if self.random.random() < 0.5:
                self.hint({old: True, new: False})

    def mount(self):
        self.mount_disk(self.random.choice(self.mounts))

    def mount_disk(self, disk):
        self.mounted = disk
        self.mount_changes += 1

    def back_up(self):
        self.image = dict(self.truth), self.stamp

    def forbid(self):
        self.forbidden = set(self.random.choice(((), (), (b"d",), (b"",))))

    def set_clock(self):
        """Set the clock; a round of the deleter is never far, be it after a restart."""
        self.now += self.random.choice((-86_400.0, 86_400.0, 3_600.0, 40.0))
        # Nothing tells a clock that was set forward from an hour that has passed.
        self.unasked.clear()
        if self.random.random() < 0.5:
            self.reopen()
        self.deleter.clocks.look()

    def reboot(self):
        """Start the machine anew, off for a while: for seconds, or for days, as for cron."""
        self.let_pass(self.random.choice((5.0, 100.0, 7_200.0, 259_200.0)))
        # A clock without a battery begins long ago; one that is years ahead is no better.
        long_ago = min(self.now, 1e6)
        wrong = (long_ago, self.now + 5e8, max(self.now - 90_000.0, long_ago))
        before, self.now = self.now, self.random.choice((self.now, self.now, self.now, *wrong))
        if self.now > before:
            # As in `set_clock`.
            self.unasked.clear()
        self.steady, self.boot = 5.0, self.boot + 1
        self.restart()
        self.deleter.clocks.look()

    def mirror(self):
        """Turn the mirroring of deletions off, or on again."""
        mirrored = self.random.random() < 0.7
        self.policies["f"] = replace(self.policies["f"], mirror_deletions=mirrored)

    def wait(self, choice=(1.0, 9.0, 30.0, 61.0, 61.0, 4_000.0, 40_000.0)):
        seconds = self.random.choice(choice)
        self.let_pass(seconds)
        if seconds > CLOCK_NOTED_SECONDS:
            # A round of the deleter is never so far.
            self.deleter.clocks.look()

    def let_pass(self, seconds):
        self.now += seconds
        self.steady += seconds
        self.true += seconds

    def fail(self):
        self.broken = not self.broken

    def restart(self):
        self.store.db.conn.execute("UPDATE copies SET in_flight = 0 WHERE in_flight = 1")
        self.reopen()

    # Steps of the product

    def hint(self, paths):
        standing = self.root.check()
        if standing.state.is_seen:
            seen = self.look(b"/f", paths)
            self.root.record(
                [
                    judge(self.rules, OPEN_FILES, p, s, removal_seen=paths[p])
                    for p, s in seen.items()
                ],
                standing.view,
            )

    def scan(self):
        # Both run every few seconds: the deleter notes the time before a scan notes an absence.
        self.deleter.clocks.look()
        self.root.compare_anew()
        standing = self.root.check()
        if not standing.state.is_seen or not self.may_list(b""):
            return
        found, noticed = [], []
        for parent in (b"", b"d"):
            if not self.may_list(parent):
                continue
            rows = scan_index.in_directory(self.store.db, "f", parent)
            known = {row.path: row for row in rows}
            listed = {p: m for p, (_, m) in self.shown().items() if disk.split(p)[0] == parent}
            noticed += listed
            found += [
                judge(self.rules, OPEN_FILES, path, Sight(Found.FILE, mark))
                for path, mark in listed.items()
                if path not in known or not known[path].agrees_with(mark, skips=False)
            ]
            nominated = [p for p, row in known.items() if row.is_mirrored and p not in listed]
            found += [
                judge(self.rules, OPEN_FILES, p, s) for p, s in self.look(b"/f", nominated).items()
            ]
        if self.race:
            self.race()
        if self.root.record(found, standing.view) is None:
            # Under another root, what was seen counts for nothing.
            return
        for path in noticed:
            self.notice(path)

    def scan_racing(self):
        """A scan under which something happens to the mount."""
        self.race = self.mount
        self.scan()
        self.race = None

    def upload(self):
        if not self.may_change() or self.forbidden:
            return
        for file in due.uploads(self.store.db, self.now, 10):
            known = self.shown().get(file.path)
            if known is None or known[1] != file.fingerprint:
                continue
            digest = sha256(known[0]).hexdigest()
            offer = Offer(file.id, known[1], digest, "text/plain", "direct")
            begun = self.ledger.begin(self.store.db, offer, self.now)
            if isinstance(begun, Elsewhere):
                vacant = [f.id for f in begun.files if self._sight(f.path).found is Found.ABSENT]
                begun = self.ledger.begin(self.store.db, replace(offer, vacated=vacant), self.now)
            if isinstance(begun, Copy):
                uuid = f"u{begun.id}"
                self.remote[uuid] = self.sent_as[uuid] = file.path
                stored = Stored(uuid, "r", "completed")
                self.ledger.stored(self.store.db, begun.id, stored, self.now, look=self.now)
        facts = {"remote_file_path": None, "frame_count": None, "video_metadata": None}
        for copy in polls.due(self.store.db, self.now, 10):
            # A copy that was released is taken up again once the service says that it has it.
            if copy.file_uuid in self.remote:
                self.ledger.completed(self.store.db, copy.id, self.now, **facts)
        for copy_path, uuid in self.store.db.conn.execute(
            "SELECT path, file_uuid FROM files JOIN copies ON file_id = files.id "
            "WHERE copies.status = 'live'"
        ):
            self.remote[uuid] = copy_path

    def work(self):
        self.deleter.step()

    def rest(self):
        """Let nothing happen while the deleter goes through its looks and deletions."""
        for _ in range(3):
            self.wait((61.0,))
            self.work()

    def work_racing(self):
        """A round of the deleter under which something happens to the mount."""
        self.race_in_look = self.mount
        self.work()
        self.race_in_look = None

    def decide(self, verdict=None):
        """Decide on what a person was shown; what was named since is another question."""
        for hold in decisions.reviewable(holds.open_holds(self.store.db)):
            verdict = verdict or self.random.choice(("approved", "rejected"))
            if hold.reason in ("root_replaced", "more_missing") or (
                verdict == "approved" and not self.may_change()
            ):
                # A person approves what is true, and what is true of the right disk alone.
                continue
            shown = [row["path"].encode() for row in manifest.held(self.store.db, hold.id)]
            decisions.decide(self.store.db, hold.id, verdict, self.now)
            self.decided |= dict.fromkeys(shown, (verdict, self.true))

    # The end

    def heal(self):
        """End every fault, and let the product come to rest."""
        self.mount_disk("right")
        self.forbidden, self.broken = set(), False
        self.policies["f"] = replace(self.policies["f"], mirror_deletions=True)
        for number in range(12):
            if number > 3 and not any(self.differences()):
                return
            self.scan()
            self.upload()
            self.work()
            self.decide("approved")
            if any(hold.reason == "root_replaced" for hold in holds.open_holds(self.store.db)):
                # Another one was taken while nothing was synced: a person takes the right one.
                self.root.take("f")
            self.wait((61.0,))

    def differences(self):
        """Compare disk, ledger and service; kept copies may be there besides."""
        live = {}
        kept = set()
        for path, uuid, status, size in self.store.db.conn.execute(
            "SELECT path, file_uuid, copies.status, copies.size FROM files JOIN copies "
            "ON file_id = files.id WHERE copies.status <> 'gone'"
        ):
            if status == "live":
                live[path] = size
            if status in ("live", "released"):
                kept.add(uuid)
            else:
                yield path, status
        if live != {path: len(content) for path, (content, _) in self.truth.items()}:
            yield "live", live, self.truth
        if kept != self.remote.keys():
            yield "remote", kept ^ self.remote.keys()


class CalmWorld(World):
    """A world in which only files come and go: more of what happens concerns holds."""

    mounts = ("right",)
    verbs = (
        *("create", "create", "create", "change", "remove", "remove", "rename", "wait", "wait"),
        *("scan", "scan", "upload", "upload", "work", "work", "decide", "restart", "remove_all"),
    )


class StartingWorld(World):
    """A world whose disk stays, while the machine is started anew and its clock is set."""

    mounts = ("right",)
    verbs = (
        *("create", "create", "create", "remove", "remove", "scan", "scan", "upload", "work"),
        *("work", "wait", "reboot", "reboot", "set_clock", "restart"),
    )


@pytest.fixture
def memory():
    store = MemoryStore()
    yield store
    store.db.close()


def begun(memory, monkeypatch, seed, kind=World):
    world = kind(memory, seed)
    monkeypatch.setattr(identity, "view", world.view)
    monkeypatch.setattr(disk, "look", world.look)
    monkeypatch.setattr(likeness, "_is_earlier", world.is_earlier)
    world.root.check()
    # The clocks are compared for the first time: every grace begins with that.
    world.work()
    return world


def run(memory, monkeypatch, seed, length=LENGTH, kind=World):
    world = begun(memory, monkeypatch, seed, kind)
    for _ in range(length):
        world.step()
    assert not world.wrong, (seed, world.wrong)
    world.heal()
    assert not world.wrong, (seed, world.wrong)
    assert list(world.differences()) == [], seed


@pytest.fixture
def world(memory, monkeypatch):
    """A world in which nothing has befallen the folder yet."""
    return begun(memory, monkeypatch, seed=1)


@pytest.mark.row(21)
def test_a_path_whose_old_copy_was_moved_elsewhere_keeps_the_grace_of_its_new_one(world):
    """Found by the sequences: an old copy, superseded, was taken over by a file of its content."""
    for content in (b"old", b"newer"):
        world.put(b"d/f", content)
        world.scan()
        world.upload()
    world.take(b"d/f")
    world.put(b"b", b"old")
    world.hint({b"b": False})
    world.upload()
    world.work()
    assert world.wrong == []
    assert len(world.remote) == 2


@pytest.mark.row(21)
def test_a_removal_after_the_second_look_and_before_the_deletion_has_a_grace_of_its_own(world):
    world.put(b"a", b"x")
    world.scan()
    world.upload()
    world.take(b"a")
    world.hint({b"a": True})
    world.deleter.gate = SimpleNamespace(seconds_shut_for_all=lambda: 5.0)
    for _ in range(2):
        world.wait((61.0,))
        world.work()
    assert world.remote
    # Back and removed again, of which events alone tell.
    world.gone_since[b"a"] = world.true
    world.hint({b"a": True})
    world.reopen()
    world.root.check()
    world.work()
    assert (world.wrong, len(world.remote)) == ([], 1)
    world.wait((61.0,))
    world.work()
    assert (world.wrong, len(world.remote)) == ([], 0)


@pytest.fixture
def back_again(world):
    """A world in which `a` was seen to go, and came back unseen; the image is from before both."""
    world.put(b"a", b"x")
    world.scan()
    world.upload()
    world.take(b"a")
    world.hint({b"a": True})
    world.put(b"a", b"y")
    world.wait((61.0,))
    return world


@pytest.mark.row(65)
def test_an_older_image_that_nobody_has_judged_yet_proves_nothing(back_again):
    back_again.mount_disk("earlier")
    back_again.work()
    assert (back_again.wrong, len(back_again.remote)) == ([], 1)


@pytest.mark.row(65)
def test_an_older_image_swapped_in_within_a_look_proves_nothing(back_again):
    back_again.race_in_look = lambda: back_again.mount_disk("earlier")
    back_again.work()
    assert (back_again.wrong, len(back_again.remote)) == ([], 1)


@pytest.mark.row(65)
def test_an_older_image_swapped_in_within_a_scan_proves_nothing(world):
    world.put(b"a", b"x")
    world.scan()
    world.upload()
    world.take(b"a")
    world.race = lambda: world.mount_disk("earlier")
    world.scan()
    assert [row[0] for row in world.store.db.conn.execute("SELECT status FROM files")] == ["ready"]


@pytest.mark.row(65)
def test_what_is_missing_also_tells_an_older_image(back_again):
    back_again.mount_disk("earlier")
    for _ in range(2):
        back_again.scan()
        back_again.work()
        back_again.wait((61.0,))
    assert [hold.reason for hold in holds.open_holds(back_again.store.db)] == ["root_replaced"]
    assert (back_again.wrong, len(back_again.remote)) == ([], 1)


@pytest.mark.row(65)
def test_the_grace_begins_anew_on_another_mount_of_the_disk(world):
    world.put(b"a", b"x")
    world.scan()
    world.upload()
    world.take(b"a")
    world.scan()
    world.wait((61.0,))
    world.mount_disk("right")
    world.scan()
    world.work()
    assert len(world.remote) == 1
    world.wait((61.0,))
    world.work()
    assert (world.wrong, world.remote) == ([], {})


@pytest.mark.row(65)
@pytest.mark.parametrize("confirmed", [False, True])
def test_after_another_mount_the_grace_begins_with_a_look_that_counts(world, confirmed):
    world.put(b"a", b"x")
    world.scan()
    world.upload()
    world.take(b"a")
    world.hint({b"a": True})
    world.wait((61.0,))
    if confirmed:
        world.broken = True
        world.work()
        world.broken = False
    # It is back, and the look that sees it does not count, for the mount changes meanwhile.
    world.put(b"a", b"y")
    world.wait((4000.0,))
    world.race_in_look = lambda: world.mount_disk("right")
    world.work()
    world.race_in_look = None
    world.root.check()
    world.wait((4000.0,))
    world.take(b"a")
    world.work()
    assert (world.wrong, len(world.remote)) == ([], 1)
    for _ in range(2):
        world.wait((61.0,))
        world.work()
    assert (world.wrong, world.remote) == ([], {})


@pytest.mark.row(3)
@pytest.mark.row(5)
@pytest.mark.row(6)
@pytest.mark.row(16)
@pytest.mark.row(21)
@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    "sequences", [SEQUENCES, *(pytest.param(AT_LENGTH, marks=pytest.mark.long) for _ in range(3))]
)
def test_no_sequence_deletes_wrongly_and_every_rightful_deletion_is_done(
    memory, monkeypatch, sequences
):
    first = random.SystemRandom().randrange(1 << 40)
    for seed in range(first, first + sequences):
        run(memory, monkeypatch, seed)


def breaks(memory, seed, kind, plant=None):
    """Say whether a sequence ends wrongly, with a planted bug or without."""
    with pytest.MonkeyPatch.context() as patch:
        if plant:
            plant(patch)
        try:
            run(memory, patch, seed, 5 * LENGTH, kind)
        except AssertionError:
            return True
    return False


def is_found(memory, plant):
    """Return whether a planted bug, and nothing but it, is found within a few hundred sequences."""
    return any(
        breaks(memory, seed, kind, plant) and not breaks(memory, seed, kind)
        for seed in range(200)
        for kind in (World, CalmWorld, StartingWorld)
    )


def _roots_are_not_compared(monkeypatch):
    monkeypatch.setattr(RootIdentity, "__eq__", lambda *_: True)


def _an_unreadable_directory_is_taken_for_an_empty_one(monkeypatch):
    def listable(self):
        allowed = self.mounted == "right" and b"" not in self.forbidden
        return {
            path: known
            for path, known in self.truth.items()
            if allowed and disk.split(path)[0] not in self.forbidden
        }

    monkeypatch.setattr(World, "shown", listable)
    monkeypatch.setattr(World, "may_list", lambda *_: True)


def _missing_is_judged_by_when_it_was_missed(monkeypatch):
    """As it was once: what was missed more than an hour ago does not count."""
    unnamed = missing._UNNAMED
    lately = "missing_since > :now - 3600 AND files.status = 'missing'"
    monkeypatch.setattr(missing, "_UNNAMED", unnamed.replace("files.status = 'missing'", lately))


def _nobody_is_held(monkeypatch):
    monkeypatch.setattr(missing, "review", lambda *_: None)


def _deleted_ones_do_not_count(monkeypatch):
    monkeypatch.setattr(missing, "_deleted_lately", lambda *_: 0)


def _approved_at_once(monkeypatch):
    monkeypatch.setattr(decisions, "UNDO_SECONDS", 0.0)


def _approved_whatever_is_missing(monkeypatch):
    """As it was once: an approval reaches all that is missing when it is carried out."""
    decide = decisions.decide

    def more(db, hold_id, verdict, now, **known):
        hold = holds.get(db, hold_id)
        rows = db.conn.execute(f"SELECT id FROM files WHERE status = 'missing' AND {STORED}")
        if hold.reason == "many_missing" and hold.verdict is None:
            db.conn.execute("DELETE FROM decisions WHERE verdict = 'held'")
            place = {"stops": hold.stops, "scope": hold.scope, "reason": hold.reason}
            decisions.name(db, [row[0] for row in rows], **place, message="", now=now)
        return decide(db, hold_id, verdict, now, **known)

    monkeypatch.setattr(decisions, "decide", more)


def _kept_where_nothing_is_mirrored(monkeypatch):
    monkeypatch.setattr(Deletions, "_keep_unmirrored", lambda _self, _db, known: known)
    monkeypatch.setattr("syncd.state.deletions._Case.is_kept", False)


def _freed_at_once(monkeypatch):
    """A hold that ends would else let its files go before their grace is over."""
    free = holds.free

    def at_once(db, hold_id, now):
        db.conn.execute("UPDATE decisions SET due_at = NULL")
        free(db, hold_id, now)

    monkeypatch.setattr(holds, "free", at_once)


def _the_second_look_is_left_out(monkeypatch):
    def judge(self, db, name, missing, seen, now):
        nothing = {file.path: Sight(Found.ABSENT) for file in missing}
        real(self, db, name, missing, nothing, now)

    real = Deleter._judge
    monkeypatch.setattr(Deleter, "_judge", judge)


def _a_clock_is_believed(monkeypatch):
    monkeypatch.setattr(ClockWatch, "look", lambda _: None)


def _a_new_start_is_believed(monkeypatch):
    """The clock may say anything after a new start of the machine."""
    monkeypatch.setattr("syncd.workers.clock_seen.LONGEST_OFF_SECONDS", 1e12)


@pytest.mark.long
@pytest.mark.row(3)
@pytest.mark.row(5)
@pytest.mark.row(6)
@pytest.mark.row(16)
@pytest.mark.row(66)
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "plant",
    [
        *(_roots_are_not_compared, _an_unreadable_directory_is_taken_for_an_empty_one),
        *(_missing_is_judged_by_when_it_was_missed, _nobody_is_held),
        *(_deleted_ones_do_not_count, _approved_at_once, _approved_whatever_is_missing),
        *(_kept_where_nothing_is_mirrored, _freed_at_once, _the_second_look_is_left_out),
        *(_a_clock_is_believed, _a_new_start_is_believed),
    ],
    ids=lambda plant: plant.__name__.strip("_"),
)
def test_the_model_finds(memory, monkeypatch, plant):
    if plant is not _roots_are_not_compared:
        # Another root stops everything: with the right one there, mostly, more befalls it.
        monkeypatch.setattr(World, "mounts", (*["right"] * 14, "none", "bare", "other"))
    assert is_found(memory, plant)
