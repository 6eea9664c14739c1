"""Is this root the right one? Places and releases the holds that depend on it.

Whatever is recorded of a folder goes through `Root.record`, which looks at the root before the
look at the files and after it, and settles in one transaction with them what may be believed.

A folder has parts: its root, and each directory beneath on which something is mounted. One rule
holds for all of them. What is known of a part was seen in a directory of one identity; beneath
another directory in its place nothing is recorded, hashed, sent, taken away or deleted.
"""

import enum
import errno
import logging
import os
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from syncd import identity
from syncd.identity import RootIdentity, View
from syncd.state import folders, holds, inventory, reconfiguration, sightings
from syncd.state.advance import Policies
from syncd.state.folders import Part
from syncd.state.holds import ROOT_MISSING, ROOT_REPLACED, Stops, decisions
from syncd.state.sightings import Seen, Settling, Sighting
from syncd.state.store import Store, Transaction
from syncd.state.texts import shown
from syncd.watch.folder import WatchFolder
from syncd.watch.likeness import Likeness, compare, is_put_back

log = logging.getLogger(__name__)

_NOT_THERE = os.strerror(errno.ENOENT)
#: What a hold stops, for which scope, and why.
_Key = tuple[Stops, str, str]


class RootState(enum.StrEnum):
    """How a part of a folder is, compared with what the table knows of it."""

    #: the right one, or one of which nothing is known yet
    OK = "ok"
    #: another one with most of what is known in it: only what it lacks is not believed
    ALIKE = "alike"
    #: another one, or the right one as it was earlier
    REPLACED = "replaced"
    #: not there, not a directory, or not to be listed
    MISSING = "missing"

    @property
    def is_seen(self) -> bool:
        """Whether what is there is recorded and sent."""
        return self in (RootState.OK, RootState.ALIKE)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a folder's parts stand at one look."""

    view: View
    states: Mapping[bytes, RootState]

    @property
    def state(self) -> RootState:
        """How the root stands."""
        return self.states[b""]

    @property
    def alike(self) -> dict[bytes, RootIdentity | None]:
        """What is in the place of each part that is only alike."""
        alike = (part for part, state in self.states.items() if state is RootState.ALIKE)
        return {part: self.view.parts[part] for part in alike}

    @property
    def stopped(self) -> list[bytes]:
        """The parts in which nothing is to be looked at."""
        return [part for part, state in self.states.items() if not state.is_seen]

    def believes(self, sighting: Sighting) -> bool:
        """Say whether a sighting counts, in the part that holds its path."""
        # A rule asks nothing of the disk: what it excludes is released, mounted or not.
        if sighting.by_rule:
            return True
        states = {self.state, self.states[identity.part_of(self.states, sighting.path)]}
        if sighting.seen is Seen.MISSING:
            return states == {RootState.OK}
        return all(state.is_seen for state in states)


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
        #: what was found in another directory in a part's place
        self._compared: dict[tuple[bytes, RootIdentity], Likeness] = {}
        #: the parts that were compared, and whose holds do not tell of it yet
        self._fresh: set[bytes] = set()
        #: the known parts that were asked whether they are as they were earlier, on what mount and
        #: at what change of the mounts; and those that are
        self._dated: dict[bytes, tuple[RootIdentity, str | None, int]] = {}
        self._put_back: set[bytes] = set()
        self._shown = shlex.quote(os.fsdecode(folder.path))

    def check(self) -> Standing:
        """Look at the root, and bring the holds up to date; a root seen first is accepted."""
        view = self._view()
        for part in self._store.read(lambda db: self._unsure(db, view)):
            likeness = compare(self._store, self._folder, view, part)
            seen = view.parts[part]
            # What was compared while the disk changed is compared again at the next check.
            if seen is not None and self._view() == view:
                self._compared[part, seen] = likeness
                self._fresh.add(part)
        if self._store.read(lambda db: self._is_news(db, view)):
            return self._store.write(lambda db: self._judge(db, view))
        return self._store.read(lambda db: self._standing(db, view))

    def compare_anew(self) -> None:
        """Forget what was compared: files may have come or gone since."""
        self._compared.clear()
        self._dated.clear()

    def record(self, seen: Sequence[Sighting], before: View) -> int | None:
        """Record what was seen beneath the root that looked like `before`; return the rows changed.

        None, with nothing recorded, where the root is not the same any more.
        """
        after = self._view()

        def work(db: Transaction) -> int | None:
            standing = self._judge(db, after)
            if after != before or not standing.state.is_seen:
                return None
            return sightings.record(
                db,
                self._folder.name,
                filter(standing.believes, seen),
                settling=self._settling,
                policies=self.policies,
                now=self._clock(),
            )

        return self._store.write(work)

    def take(self, scope: str) -> bool:
        """Take whatever is there now for the part of that `scope`: a person said so.

        Returns False where nothing is there to be taken.
        """
        view = self._view()

        def work(db: Transaction) -> bool:
            taken = next((part for part in view.parts if self._scope(part) == scope), None)
            if taken is None or view.parts[taken] is None:
                return False
            for part in view.parts:
                if part == taken or part.startswith(taken + b"/" if taken else b""):
                    self._take(db, view, part)
            self._judge(db, view)
            return True

        return self._store.write(work)

    def _view(self) -> View:
        known = self._store.read(lambda db: folders.parts(db, self._folder.name))
        view = identity.view(self._folder.path, self._folder.marker, known)
        for part, seen in view.parts.items():
            if seen is None or part not in known:
                continue
            looked_at = seen, view.mounts.get(part), view.changes
            if self._dated.get(part) != looked_at:
                if self._is_put_back(view, part, known[part]):
                    self._put_back.add(part)
                else:
                    self._put_back.discard(part)
                # Last: another thread relies on it.
                self._dated[part] = looked_at
        return view

    def _is_put_back(self, view: View, part: bytes, known: Part) -> bool:
        vouched = not part and (self._folder.marker or self._folder.any_root)
        if vouched or view.parts[part] != known.identity:
            return False
        return is_put_back(self._store, self._folder, view, part, known, self._clock())

    # How the parts stand

    def _standing(self, db: Transaction, view: View) -> Standing:
        states = {p: self._state(db, view, p, known) for p, known in self._parts(db, view)}
        return Standing(view, states)

    def _parts(self, db: Transaction, view: View) -> Iterator[tuple[bytes, Part | None]]:
        """Yield each part that there is, and what is known of it."""
        known = folders.parts(db, self._folder.name)
        for part in view.parts:
            if not part or part in known or part in view.mounted:
                yield part, known.get(part)

    def _state(self, db: Transaction, view: View, part: bytes, known: Part | None) -> RootState:
        seen = view.parts[part]
        if self._is_to_be_taken(db, view, part, known):
            return RootState.OK
        if seen is None:
            return RootState.MISSING
        if known is not None and seen.is_same(known.identity):
            return RootState.REPLACED if part in self._put_back else RootState.OK
        likeness = self._compared.get((part, seen), Likeness())
        limits = self.policies[self._folder.name].limits
        is_alike = known is not None and likeness.is_alike(limits)
        return RootState.ALIKE if is_alike else RootState.REPLACED

    def _is_to_be_taken(self, db: Transaction, view: View, part: bytes, known: Part | None) -> bool:
        """Say whether what is there is the right one, and is not known as that yet."""
        seen, name = view.parts[part], self._folder.name
        # Ask the table only where it matters: it may hold many files that are gone.
        is_left = known is not None and part and part not in view.mounted
        if is_left and not inventory.synced_in(db, name, part, b"", 1):
            # What is not mounted any more is only waited for where something on it is known.
            return True
        if seen is None or (known is not None and seen == known.identity):
            return False
        if known is None and not part:
            return True
        if known is not None and seen.is_same(known.identity):
            return True
        if not part and (self._folder.marker or self._folder.any_root):
            return True
        if self._compared.get((part, seen), Likeness()).is_whole:
            return True
        if known is not None and known.identity.is_of_old:
            # An earlier version's identity is worth as much as the files that are there.
            return not inventory.synced_in(db, name, part, b"", 1)
        return not inventory.ever_held(db, name, part)

    def _unsure(self, db: Transaction, view: View) -> list[bytes]:
        """Return the parts whose files must be compared to know how they stand."""
        return [
            part
            for part, known in self._parts(db, view)
            if (part, view.parts[part]) not in self._compared
            and part not in self._put_back
            and self._state(db, view, part, known) is RootState.REPLACED
        ]

    def _is_news(self, db: Transaction, view: View) -> bool:
        parts = list(self._parts(db, view))
        if not folders.is_known(db, self._folder.name) or any(
            self._is_to_be_taken(db, view, *part) for part in parts
        ):
            return True
        standing = self._standing(db, view)
        if any(known and known.mount != view.mounts.get(p, known.mount) for p, known in parts):
            return True
        if standing.alike != {part: known.alike for part, known in parts if known and known.alike}:
            return True
        opened = self._open(db)
        wanted = self._wanted(standing)
        return wanted.keys() != opened or any(part in self._fresh for part in wanted.values())

    def _judge(self, db: Transaction, view: View) -> Standing:
        """Take what is to be taken, bring the holds up to date, and return how the parts stand."""
        name, now = self._folder.name, self._clock()
        folders.note(db, name, self._folder.path, now if view.parts[b""] else None)
        for part, known in list(self._parts(db, view)):
            if self._is_to_be_taken(db, view, part, known):
                self._take(db, view, part)
        standing = self._standing(db, view)
        for part, known in folders.parts(db, name).items():
            mount = view.mounts.get(part, known.mount)
            if identity.is_remounted(known.mount, mount):
                # A file missing on the mount before may be there on this one.
                sightings.restart_grace_beneath(db, name, part, now, self._settling.grace_seconds)
            folders.note_other(
                db,
                name,
                part,
                alike=standing.alike.get(part),
                is_stopped=standing.states[part] is RootState.REPLACED,
                mount=mount,
            )
        wanted, opened = self._wanted(standing), self._open(db)
        for stops, scope, reason in opened - wanted.keys():
            holds.release(db, stops=stops, scope=scope, reason=reason, now=now)
            log.info("%s: the right folder is there (%s)", scope, reason)
        for key, part in wanted.items():
            if key not in opened or part in self._fresh:
                self._place(db, key, part, view)
        self._fresh.clear()
        return standing

    def _take(self, db: Transaction, view: View, part: bytes) -> None:
        """Know a part by what is there now; one that is not mounted is a part no more."""
        name, seen, now = self._folder.name, view.parts[part], self._clock()
        if seen is None or (part and part not in view.mounted):
            folders.forget_part(db, name, part)
            return
        known = folders.parts(db, name).get(part)
        self._put_back.discard(part)
        held = inventory.ever_held(db, name, part)
        folders.accept_part(db, name, part, seen, believed_at=now if known and held else 0.0)
        if part or known is None or seen.is_same(known.identity):
            return
        log.warning("%s: another folder is taken for %s", name, self._shown)
        if self._folder.any_root:
            reconfiguration.release_all(db, name, now)
        if not held:
            folders.begin_anew(db, name, now)

    # Holds

    def _scope(self, part: bytes) -> str:
        return f"{self._folder.name}/{shown(part)}" if part else self._folder.name

    def _wanted(self, standing: Standing) -> dict[_Key, bytes]:
        """Return the holds that ought to be open, and the part that each is about."""
        parts = [b""] if not standing.state.is_seen else standing.states
        wanted: dict[_Key, bytes] = {}
        for part in parts:
            match standing.states[part]:
                case RootState.MISSING:
                    wanted["deletions", self._scope(part), ROOT_MISSING] = part
                case RootState.REPLACED:
                    wanted["folder", self._scope(part), ROOT_REPLACED] = part
                case RootState.ALIKE:
                    wanted["deletions", self._scope(part), ROOT_REPLACED] = part
        return wanted

    def _open(self, db: Transaction) -> set[_Key]:
        return {
            (hold.stops, hold.scope, hold.reason)
            for hold in holds.open_holds(db)
            if hold.reason in (ROOT_MISSING, ROOT_REPLACED)
            and hold.scope.partition("/")[0] == self._folder.name
        }

    def _place(self, db: Transaction, key: _Key, part: bytes, view: View) -> None:
        stops, scope, reason = key
        seen, message = view.parts[part], self._message(key, part, view)
        if seen is not None and stops == "deletions":
            self._name_missing(db, key, message, self._compared[part, seen].missing)
            return
        synced = inventory.synced_in(db, self._folder.name, part, b"", holds.FIRST)
        where = self._where(part)
        commands = [f"ls -la {where}", f"findmnt --target {where}"]
        if seen is not None:
            commands[0] = "syncd deletes approve {id}"
        is_new = holds.place(
            db,
            stops=stops,
            scope=scope,
            reason=reason,
            message=message,
            affects=inventory.count_synced_in(db, self._folder.name, part),
            first=[shown(file.path) for file in synced],
            commands=commands,
            now=self._clock(),
        )
        if is_new:
            log.warning("%s: held: %s", scope, message)

    def _name_missing(
        self, db: Transaction, key: _Key, message: str, missing: Collection[int]
    ) -> None:
        """Let the hold on a part that is alike name what is missing in it, and nothing else."""
        stops, scope, reason = key
        place: dict[str, Any] = {"stops": stops, "scope": scope, "reason": reason}
        is_new = holds.open_id(db, **place) is None
        decisions.name(db, missing, **place, message=message, now=self._clock(), only=True)
        if is_new:
            log.warning("%s: held: %s", scope, message)

    def _where(self, part: bytes) -> str:
        where = self._folder.path + b"/" + part if part else self._folder.path
        return shlex.quote(os.fsdecode(where))

    def _message(self, key: _Key, part: bytes, view: View) -> str:
        where, error = self._where(part), view.errors.get(part)
        match key[0], key[2]:
            case _, "root_missing" if self._folder.marker and not part and error == _NOT_THERE:
                marker = shown(self._folder.marker)
                return (
                    f"the folder {where}, or the marker {marker} in it, is not there: mount it, or "
                    "put the marker back; nothing is taken for deleted until then"
                )
            case _, "root_missing":
                return (
                    f"the folder {where} cannot be listed ({error}): mount it, bring it back, or "
                    "make it readable for syncd; nothing is taken for deleted until then"
                )
            case "folder", _ if part in self._put_back:
                return (
                    f"{where} is as it was earlier: files that changed last are missing or older "
                    "in it, as in a backup, a clone or a snapshot of its disk; nothing in it is "
                    "sent, taken away or deleted: put the right one back, or approve this one: "
                    "its files are sent then, and the synced files that it lacks count as missing"
                )
            case "folder", _:
                return (
                    f"{where} is not the folder that it was, or not the disk: nothing in it is "
                    "sent, taken away or deleted; put the right one back, or approve this one: "
                    "the synced files that it lacks then count as missing"
                )
            case _:
                return (
                    f"{where} is another folder or disk than it was, with most of the synced files "
                    "in it: it is synced, and nothing that it lacks is deleted; bring back what is "
                    "missing, or put the right one back; else approve this one, and the remote "
                    "copies of what it lacks now are deleted, or reject that, and they are kept"
                )
