import itertools
import os
import time

from syncd.state import copies, files, holds, polls
from syncd.state.copies import Copy
from syncd.state.ledger import Ledger, Offer, Stored
from syncd.state.planner import Policy
from syncd.watch.folder import WatchFolder
from syncd.watch.watched import Watched

POLICIES = {"f": Policy()}
_numbers = itertools.count(1)


class Place:
    """A watch folder on the disk, its stage, and what the table says of it."""

    def __init__(self, store, root, **settings):
        self.store = store
        self.root = root
        root.mkdir(exist_ok=True)
        self.ahead = 0.0
        self.woken = 0
        self.stopped = False
        self.reopen(**settings)

    def reopen(self, **settings):
        """Build the stage anew, as after a restart; with other settings where given."""
        settings = {"settle_seconds": 5.0, "grace_seconds": 60.0} | settings
        path = os.fsencode(settings.pop("path", self.root))
        self.watched = Watched(
            store=self.store,
            folder=WatchFolder("f", path, **settings),
            policies=POLICIES,
            wake=self._wake,
            clock=self.now,
            monotonic=lambda: time.monotonic() + self.ahead,
            stopped=lambda: self.stopped,
        )

    def _wake(self):
        self.woken += 1

    def now(self):
        return time.time() + self.ahead

    def later(self, seconds=10.0):
        """Let time pass: whatever stands on the disk is then quiet."""
        self.ahead += seconds

    def write(self, name, content=b"content"):
        path = self.root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def caught_up(self):
        """Wait until the events have come of all that was done so far."""
        if self.watched.observer.kind != "native":
            return
        # Events come in order: those of a file made last come last. It is excluded by its name.
        open_files = self.watched.observer.open_files
        ended, told = open_files.ended, set()
        open_files.ended = lambda path: (ended(path), told.add(path))
        last = self.write(b"last-%d.tmp" % next(_numbers), b"")
        assert wait_for(lambda: os.fsencode(last.resolve()) in told)
        open_files.ended = ended
        last.unlink()

    def closed(self):
        """Wait until the events have come of all that was done, and no file is open."""
        self.caught_up()
        open_files = self.watched.observer.open_files
        wait_for(lambda: not any(map(open_files.has, open_files.paths())))

    def scan(self):
        return self.watched.scan()

    def look(self, *paths, removal_seen=False):
        for path in paths:
            self.watched.hints.add(path, removal_seen=removal_seen)
        return self.watched.look_hints()

    def files(self):
        return {file.path: file for file in self.store.read(lambda db: files.where(db, "1"))}

    def statuses(self):
        return {path: str(file.status) for path, file in self.files().items()}

    def missing(self):
        return [path for path, status in self.statuses().items() if status == "missing"]

    def synced(self, *names, status="completed"):
        """Make files of these names, scan them, and have each be stored, with that status."""
        for name in names:
            self.write(name, b"content of " + name)
        self.closed()
        self.later()
        self.scan()
        ledger = Ledger(policies=POLICIES, instance=self.store.instance)
        for file in self.files().values():
            if file.status != "ready":
                continue
            offer = Offer(file.id, file.fingerprint, f"{file.id:064x}", "text/plain", "direct")
            copy = self.store.write(lambda db, o=offer: ledger.begin(db, o, self.now()))
            if not isinstance(copy, Copy):
                # Its content is live already.
                continue
            uuid = f"00000000-0000-4000-8000-{next(_numbers):012}"
            self.store.write(
                lambda db, c=copy, u=uuid: ledger.stored(
                    db, c.id, Stored(u, "p", status), self.now(), look=self.now()
                )
            )
        return self

    def found_again(self):
        """Let the service have all the released copies that it is asked for."""
        ledger = Ledger(policies=POLICIES, instance=self.store.instance)
        facts = {"remote_file_path": None, "frame_count": None, "video_metadata": None}
        for copy in self.store.read(lambda db: polls.due(db, self.now(), 100)):
            self.store.write(lambda db, c=copy: ledger.completed(db, c.id, self.now(), **facts))

    def copies(self):
        rows = self.store.read(lambda db: copies.where(db, "1 ORDER BY id"))
        return [str(copy.status) for copy in rows]

    def holds(self):
        return {hold.reason: hold for hold in self.store.read(holds.open_holds)}

    @property
    def commits(self):
        return self.store.writer.version


def wait_for(condition, seconds=5.0):
    """Wait until `condition` holds; return its last value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return value
