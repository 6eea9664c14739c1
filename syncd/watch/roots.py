"""Is this root the right one? Placing and releasing the holds that depend on it.

Whatever is recorded of a folder goes through `Root.record`, which looks at the root before the
look at the files and after it, and settles in one transaction with them what may be believed.
"""

import enum
import errno
import logging
import os
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from syncd import disk, mounts
from syncd.disk import Found, RootIdentity
from syncd.state import copies, files, folders, holds, inventory, sightings
from syncd.state.advance import Policies
from syncd.state.folders import Mounted, MountState
from syncd.state.holds import (
    MOUNT_MISSING,
    MOUNT_NEW,
    ROOT_EMPTY,
    ROOT_MISSING,
    ROOT_REPLACED,
    decisions,
)
from syncd.state.holds.decisions import OF_MOUNTS, Decided, Decision, ReviewError
from syncd.state.sightings import Seen, Settling, Sighting
from syncd.state.store import Store, Transaction
from syncd.state.texts import shown
from syncd.watch.folder import WatchFolder

log = logging.getLogger(__name__)

_NOT_THERE = os.strerror(errno.ENOENT)
_REASONS = (ROOT_MISSING, ROOT_REPLACED, ROOT_EMPTY, MOUNT_MISSING, MOUNT_NEW)
#: Of a replaced root's synced files, so many may be missing, or this part of them, for it to be
#: taken for the same folder on another mount.
ACCEPTED_FILES, ACCEPTED_PART = 20, 0.2


class RootState(enum.StrEnum):
    """How a folder's root is, compared with what the table knows of it."""

    OK = "ok"
    #: not there, not a directory, or not to be listed
    MISSING = "missing"
    #: there, and another directory than the one whose files are known
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class View:
    """A look at a root: its identity, or why there is none."""

    identity: RootIdentity | None
    is_empty: bool = False
    error: str = ""
    #: where something is mounted beneath the root, and the mark of it
    mounts: Mapping[bytes, str] = field(default_factory=dict)


def view(path: bytes, marker: bytes = b"") -> View:
    """Look at the root at `path`, which has to hold the `marker`, if any; never raises."""
    try:
        identity = disk.identify(path, marker)
        with disk.directory(path) as descriptor, disk.entries_of(descriptor) as entries:
            is_empty = next(entries, None) is None
    except OSError as error:
        return View(None, error=str(error.strerror))
    return View(identity, is_empty, mounts=mounts.beneath(path))


class Root:
    """One folder's root: what it is known by, and the one door by which its files are recorded."""

    def __init__(
        self,
        *,
        store: Store,
        folder: WatchFolder,
        policies: Policies,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._folder = folder
        self.policies = policies
        self._clock = clock
        self._settling = Settling(folder.settle_seconds, folder.grace_seconds, folder.skip_existing)
        #: mounts that were new or gone when the scan under way began, and those of them beneath
        #: which something known is not as it was
        self._on_trial: dict[bytes, Mounted] = {}
        self._amiss: set[bytes] = set()
        self._shown = shlex.quote(os.fsdecode(folder.path))

    def check(self) -> tuple[RootState, View]:
        """Look at the root, and bring the holds up to date; a root seen first is accepted."""
        seen = view(self._folder.path, self._folder.marker)
        if self._store.read(lambda db: self._is_news(db, seen)):
            return self._store.write(lambda db: self._judge(db, seen)), seen
        return self._store.read(lambda db: self._state(db, seen)), seen

    def record(self, seen: Sequence[Sighting], before: View) -> int | None:
        """Record what was seen beneath the root that looked like `before`; return the rows changed.

        None, with nothing recorded, where the root is not the same any more. Beneath a replaced
        root nothing is recorded as missing.
        """
        after = view(self._folder.path, self._folder.marker)

        def work(db: Transaction) -> int | None:
            state = self._judge(db, after)
            if state is RootState.MISSING or after.identity != before.identity:
                return None
            believed = self._believed(db, seen, after)
            if state is RootState.OK:
                return self._record(db, believed, after)
            return self._record(db, [s for s in believed if s.seen is not Seen.MISSING], after)

        return self._store.write(work)

    def accept(self, before: View, there: int) -> bool:
        """After a scan of a replaced root that found `there` synced files: take it, if most are.

        Returns whether it was taken; its missing files are then for the next scan to record.
        """
        after = view(self._folder.path, self._folder.marker)

        def work(db: Transaction) -> bool:
            if after.identity is None or after.identity != before.identity:
                return False
            known, _ = inventory.synced(db, self._folder.name, 0)
            missing = known - there
            if missing > max(ACCEPTED_FILES, ACCEPTED_PART * known) or 2 * missing > known:
                return False
            folders.accept_root(
                db, self._folder.name, self._folder.path, after.identity, self._clock()
            )
            self._judge(db, after)
            return True

        return self._store.write(work)

    def take(self) -> bool:
        """Take whatever stands at the path now for the folder's root: a person said so.

        Returns False where nothing is there to be taken.
        """
        seen = view(self._folder.path, self._folder.marker)

        def work(db: Transaction) -> bool:
            if seen.identity is None:
                return False
            folders.accept_root(
                db, self._folder.name, self._folder.path, seen.identity, self._clock()
            )
            self._judge(db, seen)
            return True

        return self._store.write(work)

    def decide_on_mounts(self, hold_id: int, verdict: Decided) -> Decision:
        """Carry out a person's verdict on a hold about mounts: what is there now is all there is.

        What the hold names and is not there is recorded as missing, with the verdict on it.
        ReviewError where the hold has ended, or its mounts changed meanwhile.
        """
        name = self._folder.name
        _, before = self.check()
        hold = self._store.read(lambda db: decisions.find(db, hold_id))
        decided_on = self._store.read(lambda db: self._mounts_of(db, hold.reason))
        named = self._store.read(lambda db: self._beneath(db, decided_on))
        sights = disk.look(self._folder.path, named)
        gone = [path for path, sight in sights.items() if sight.found is Found.ABSENT]
        after = view(self._folder.path, self._folder.marker)

        def work(db: Transaction) -> Decision:
            self._judge(db, after)
            decisions.find(db, hold_id)
            if before != after or self._mounts_of(db, hold.reason) != decided_on:
                raise ReviewError(
                    f"what is mounted in {name} changes just now: look at hold {hold_id} once more "
                    "(syncd deletes list)"
                )
            for path in decided_on:
                if path in after.mounts:
                    right = Mounted(MountState.RIGHT, after.mounts[path])
                    folders.note_mount(db, name, path, right)
                else:
                    folders.forget_mount(db, name, path)
            missing = [Sighting(path, Seen.MISSING) for path in gone]
            self._record_all(db, missing)
            decision = decisions.decide(db, hold_id, verdict, self._clock())
            self._judge(db, after)
            return decision

        return self._store.write(work)

    def begin_scan(self) -> None:
        """Begin to take note of what a scan does not find where mounts are new, or gone."""
        self._amiss.clear()
        known = self._store.read(lambda db: folders.mounts(db, self._folder.name))
        self._on_trial = {
            path: mounted
            for path, mounted in known.items()
            if mounted.state is not MountState.RIGHT
        }

    def end_scan(self, unreadable: Collection[bytes]) -> None:
        """After a scan to the end: a new mount that hides nothing known is like any other.

        And one that is gone need not be waited for where all that was known is there without it.
        Nothing is said of one in which a directory was `unreadable`, or that is in such a one.
        """
        name = self._folder.name
        passed = {
            path: mounted
            for path, mounted in self._on_trial.items()
            if path not in self._amiss
            and not any(_is_in(dark, path) or _is_in(path, dark) for dark in unreadable)
        }
        if not passed:
            return
        after = view(self._folder.path, self._folder.marker)

        def work(db: Transaction) -> None:
            self._judge(db, after)
            for path, mounted in folders.mounts(db, name).items():
                if passed.get(path) != mounted:
                    continue
                if mounted.state is MountState.GONE:
                    folders.forget_mount(db, name, path)
                else:
                    folders.note_mount(db, name, path, mounted._replace(state=MountState.RIGHT))
            self._judge(db, after)

        self._store.write(work)

    def _believed(
        self, db: Transaction, seen: Sequence[Sighting], after: View
    ) -> Sequence[Sighting]:
        """Return what may be believed of `seen`, with an eye on the mounts beneath the root.

        Where a mount is missing nothing that is seen counts; beneath one that is new over known
        files, what is missing does not.
        """
        known = folders.mounts(db, self._folder.name)
        gone = [path for path in known if path not in after.mounts]
        hiding = [path for path, mounted in known.items() if mounted.state is MountState.HIDES]
        if not gone and not hiding:
            return seen
        believed = []
        for sighting in seen:
            # A rule asks nothing of the disk: what it excludes is released, mounted or not.
            mount = _mount_of(sighting.path, gone)
            if not sighting.by_rule and mount is not None:
                if self._is_amiss(db, sighting):
                    self._amiss.add(mount)
                continue
            mount = _mount_of(sighting.path, hiding)
            if mount is not None and sighting.seen is Seen.MISSING:
                if self._is_amiss(db, sighting):
                    self._amiss.add(mount)
                continue
            believed.append(sighting)
        return believed

    def _is_amiss(self, db: Transaction, sighting: Sighting) -> bool:
        """Say whether a file that has a copy is not as it was."""
        file = files.find(db, self._folder.name, sighting.path)
        if file is None or file.fingerprint == sighting.fingerprint:
            return False
        return bool(copies.where(db, "file_id = ? AND status <> 'gone' LIMIT 1", (file.id,)))

    def _record_all(self, db: Transaction, seen: Sequence[Sighting]) -> int:
        return sightings.record(
            db,
            self._folder.name,
            seen,
            settling=self._settling,
            policies=self.policies,
            now=self._clock(),
        )

    def _record(self, db: Transaction, seen: Sequence[Sighting], after: View) -> int:
        changed = self._record_all(db, seen)
        if after.is_empty:
            # What was just recorded as missing may be the cause of a hold: no commit in between.
            self._judge(db, after)
        return changed

    def _state(self, db: Transaction, seen: View) -> RootState:
        if seen.identity is None:
            return RootState.MISSING
        known = folders.get(db, self._folder.name)
        if known is None or known.identity is None:
            return RootState.OK
        same = known == folders.FolderRow(self._folder.path, seen.identity)
        # A marker vouches for the folder, whatever mount it comes on.
        return RootState.OK if same or self._folder.marker else RootState.REPLACED

    def _is_news(self, db: Transaction, seen: View) -> bool:
        known = folders.get(db, self._folder.name)
        if self._is_to_be_taken(known, seen):
            return True
        if seen.identity is not None and any(self._news_of_mounts(db, seen)):
            return True
        wanted = self._wanted(db, self._state(db, seen), seen)
        return wanted != self._open(db)

    def _is_to_be_taken(self, known: folders.FolderRow | None, seen: View) -> bool:
        """Say whether what was seen is to be known as the root: seen first, or by its marker."""
        if known is None:
            return True
        seen_row = folders.FolderRow(self._folder.path, seen.identity)
        if seen.identity is None or known == seen_row:
            return False
        return known.identity is None or bool(self._folder.marker)

    def _news_of_mounts(
        self, db: Transaction, seen: View
    ) -> Iterator[tuple[bytes, Mounted | None]]:
        """Yield each mount of which more is known now: what it is; None where it is forgotten.

        Another thing where something was mounted before is a new mount. One that is gone is waited
        for as long as anything on it is known, or a scan finds all of that without it.
        """
        known = folders.mounts(db, self._folder.name)
        for path, mark in seen.mounts.items():
            state, before = known.get(path, Mounted(MountState.RIGHT, "nothing"))
            if before not in ("", mark):
                state = MountState.HIDES if self._has_synced(db, path) else MountState.RIGHT
            elif state is MountState.GONE:
                state = MountState.RIGHT
            if known.get(path) != (state, mark):
                yield path, Mounted(state, mark)
        for path, mounted in known.items():
            if path in seen.mounts:
                continue
            if not self._has_synced(db, path):
                yield path, None
            elif mounted.state is not MountState.GONE:
                yield path, mounted._replace(state=MountState.GONE)

    def _has_synced(self, db: Transaction, path: bytes) -> bool:
        return bool(inventory.synced_beneath(db, self._folder.name, path, 1))

    def _learn_mounts(self, db: Transaction, seen: View) -> bool:
        """Bring what is known of mounts beneath the root up to date; say if there was news."""
        news = list(self._news_of_mounts(db, seen))
        for path, mounted in news:
            if mounted is None:
                folders.forget_mount(db, self._folder.name, path)
            else:
                folders.note_mount(db, self._folder.name, path, mounted)
        return bool(news)

    def _judge(self, db: Transaction, seen: View) -> RootState:
        """Place the hold that `seen` calls for and release the others; return the root's state."""
        name, now = self._folder.name, self._clock()
        state = self._state(db, seen)
        known = folders.get(db, name)
        if self._is_to_be_taken(known, seen):
            folders.accept_root(db, name, self._folder.path, seen.identity, now)
        mounts_changed = seen.identity is not None and self._learn_mounts(db, seen)
        wanted, opened = self._wanted(db, state, seen), self._open(db)
        for reason in opened - wanted:
            holds.release(db, stops="deletions", scope=name, reason=reason, now=now)
            log.info("%s: deletions are free again (%s)", name, reason)
        for reason in wanted:
            # How many are affected is counted once; only an empty root's missing files grow, and
            # more mounts may go.
            grows = reason == ROOT_EMPTY or (mounts_changed and reason in OF_MOUNTS)
            if reason not in opened or grows:
                self._place(db, reason, seen, now)
        return state

    def _wanted(self, db: Transaction, state: RootState, seen: View) -> set[str]:
        if state is RootState.MISSING:
            return {ROOT_MISSING}
        wanted = {ROOT_REPLACED} if state is RootState.REPLACED else set()
        if seen.is_empty and inventory.unseen_removals(db, self._folder.name, 0)[0]:
            wanted.add(ROOT_EMPTY)
        states = {mounted.state for mounted in folders.mounts(db, self._folder.name).values()}
        return wanted | {reason for reason, state in OF_MOUNTS.items() if state in states}

    def _open(self, db: Transaction) -> set[str]:
        return {
            hold.reason
            for hold in holds.open_holds(db)
            if hold.scope == self._folder.name and hold.reason in _REASONS
        }

    def _place(self, db: Transaction, reason: str, seen: View, now: float) -> None:
        name = self._folder.name
        over = self._mounts_of(db, reason)
        message = self._message(reason, seen, over)
        affects, first = inventory.synced(db, name, holds.FIRST)
        is_new = holds.place(
            db,
            stops="deletions",
            scope=name,
            reason=reason,
            message=message,
            affects=affects,
            first=[shown(path) for path in first],
            commands=self._commands(reason),
            now=now,
        )
        if reason == ROOT_EMPTY or reason in OF_MOUNTS:
            _, paths = inventory.unseen_removals(db, name, -1)
            if reason in OF_MOUNTS:
                paths = self._beneath(db, over)
            found = [files.find(db, name, path) for path in paths]
            hold_id = holds.open_id(db, stops="deletions", scope=name, reason=reason)
            if hold_id is not None:
                holds.free(db, hold_id, now)
            named = [file.id for file in found if file is not None]
            decisions.name(
                db,
                named,
                stops="deletions",
                scope=name,
                reason=reason,
                message=message,
                now=now,
            )
        if is_new:
            log.warning("%s: deletions are held: %s", self._folder.name, message)

    def _commands(self, reason: str) -> list[str]:
        look = f"findmnt --target {self._shown}"
        match reason:
            case "root_missing":
                return [f"ls -la {self._shown}", look]
            case "root_replaced":
                return [look, "syncd deletes approve {id}"]
            case _:
                return ["syncd deletes approve {id}", "syncd deletes reject {id}"]

    def _mounts_of(self, db: Transaction, reason: str) -> list[bytes]:
        """Return the mounts that a hold is about, if it is about mounts."""
        known = folders.mounts(db, self._folder.name)
        return sorted(path for path, m in known.items() if m.state == OF_MOUNTS.get(reason))

    def _beneath(self, db: Transaction, mounted: Sequence[bytes]) -> list[bytes]:
        """Return the files on these mounts, or hidden by them; one may be in another."""
        name = self._folder.name
        return sorted({p for m in mounted for p in inventory.synced_beneath(db, name, m)})

    def _message(self, reason: str, seen: View, over: Sequence[bytes]) -> str:
        where = ", ".join(shown(path) for path in over)
        match reason:
            case "mount_missing":
                return (
                    f"something was mounted in {self._shown} and is not any more ({where}): mount "
                    "it again, and nothing beneath is taken for changed or deleted until then; if "
                    "it is gone for good, approve it, and the remote copies of what was on it are "
                    "deleted, or reject it, and they are kept"
                )
            case "mount_new":
                return (
                    f"something is mounted in {self._shown}, over files that are synced and not "
                    f"in it ({where}): unmount it, and nothing beneath is taken for deleted until "
                    "then; if it is right, approve it, and the remote copies of what is not in it "
                    "are deleted, or reject it, and they are kept"
                )
            case "root_missing" if self._folder.marker and seen.error == _NOT_THERE:
                marker = shown(self._folder.marker)
                return (
                    f"the folder {self._shown}, or the marker {marker} in it, is not there: mount "
                    "it, or put the marker back; nothing is taken for deleted until then"
                )
            case "root_missing":
                return (
                    f"the folder {self._shown} cannot be listed ({seen.error}): mount it, bring "
                    "it back, or make it readable for syncd; nothing is taken for deleted until "
                    "then"
                )
            case "root_replaced":
                return (
                    f"{self._shown} is not the folder that it was, and most of its synced files "
                    "are not in it: mount the right one, or bring the files back; if this one "
                    "is right, approve it"
                )
            case _:
                return (
                    f"the folder {self._shown} is empty, and nobody was seen to remove its "
                    "files: if a disk is not mounted, mount it; if they were removed on purpose, "
                    "approve it; to keep their remote copies, reject it"
                )


def _mount_of(path: bytes, mounted: Sequence[bytes]) -> bytes | None:
    """Return the mount at or beneath which `path` is; None where it is in none of them."""
    return next((mount for mount in mounted if _is_in(path, mount)), None)


def _is_in(path: bytes, directory: bytes) -> bool:
    return path == directory or path.startswith(directory + b"/")
