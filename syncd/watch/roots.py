"""Checks that a folder's root is the right one, and places and releases the holds that follow.

Every observation of a folder is recorded by `Root.record`, which looks at the root before and
after the files, and decides in the same transaction which observations to believe.

A folder has parts: its root, and each directory beneath it on which something is mounted. One rule
holds for all parts: the known files of a part belong to a directory of one identity, and beneath
another directory in its place nothing is recorded, hashed, sent, taken away or deleted.
"""

import errno
import logging
import os
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from syncd import identity
from syncd.identity import RootIdentity, View
from syncd.state import folders, grace, holds, observations, reconfiguration, scan_index
from syncd.state.apply_plan import Policies
from syncd.state.database.store import Store, Transaction
from syncd.state.folders import Part
from syncd.state.holds import ROOT_MISSING, ROOT_REPLACED, Stops, decisions
from syncd.state.observations import Observation, Settling
from syncd.state.texts import shown
from syncd.units import counted
from syncd.watch.folder import WatchFolder
from syncd.watch.likeness import Likeness, compare, is_put_back
from syncd.watch.standing import RootState, Standing

log = logging.getLogger(__name__)

_NOT_THERE = os.strerror(errno.ENOENT)
#: The existing parts, each with its row if it is known.
_Parts = Mapping[bytes, Part | None]
#: A hold's `stops`, scope and reason.
_Key = tuple[Stops, str, str]


@dataclass(kw_only=True, eq=False)
class Root:
    """One folder's root: its known identity, and the only way to record its files."""

    store: Store
    folder: WatchFolder
    policies: Policies
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self._settling = Settling(
            self.folder.settle_seconds, self.folder.grace_seconds, self.folder.skip_existing
        )
        #: the comparison with another directory that is in a part's place
        self._compared: dict[tuple[bytes, RootIdentity], Likeness] = {}
        #: the parts that were compared, and whose holds are not up to date with that
        self._fresh: set[bytes] = set()
        #: the known parts that were checked for being put back, with their mount and the count of
        #: changes to the mounts; and those that were put back
        self._dated: dict[bytes, tuple[RootIdentity, str | None, int]] = {}
        self._put_back: set[bytes] = set()
        self._shown = shlex.quote(os.fsdecode(self.folder.path))

    def check(self) -> Standing:
        """Look at the root and bring the holds up to date; accept a root that was never seen."""
        view = self._view()
        unsure, standing = self.store.read(self._compare_with_known, view)
        for part in unsure:
            likeness = compare(
                self.store.read, self.folder.name, self.folder.path, view.parts, part
            )
            seen = view.parts[part]
            # If the disk changed during the comparison, the next check compares again.
            if seen is not None and self._view() == view:
                self._compared[part, seen] = likeness
                self._fresh.add(part)
        if unsure:
            _, standing = self.store.read(self._compare_with_known, view)
        return standing or self.store.write(self._judge, view)

    def compare_anew(self) -> None:
        """Forget all comparisons: files may have come or gone since."""
        self._compared.clear()
        self._dated.clear()

    def record(self, seen: Sequence[Observation], before: View) -> int | None:
        """Record observations made beneath the root as of `before`; return the rows changed.

        Return None, and record nothing, if the root is no longer the same.
        """
        after = self._view()

        def work(db: Transaction) -> int | None:
            standing = self._judge(db, after)
            if after != before or not standing.state.is_seen:
                return None
            return observations.record(
                db,
                self.folder.name,
                filter(standing.believes, seen),
                settling=self._settling,
                policies=self.policies,
                now=self.clock(),
            )

        return self.store.write(work)

    def take(self, scope: str) -> bool:
        """Accept what is there now as the part of that `scope`, because a person said so.

        Return False if nothing is there.
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

        return self.store.write(work)

    def _view(self) -> View:
        name = self.folder.name
        known = self.store.recall(("parts", name), lambda db: folders.parts(db, name))
        view = identity.view(self.folder.path, self.folder.marker, known)
        for part, seen in view.parts.items():
            if seen is None or part not in known:
                continue
            looked_at = seen, view.mounts.get(part), view.changes
            if self._dated.get(part) != looked_at:
                if self._is_put_back(view, part, known[part]):
                    self._put_back.add(part)
                else:
                    self._put_back.discard(part)
                # This comes last because another thread relies on it.
                self._dated[part] = looked_at
        return view

    def _is_put_back(self, view: View, part: bytes, known: Part) -> bool:
        vouched = not part and (self.folder.marker or self.folder.any_root)
        if vouched or view.parts[part] != known.identity:
            return False
        return is_put_back(self.store, self.folder, view, part, known, self.clock())

    def _compare_with_known(
        self, db: Transaction, view: View
    ) -> tuple[list[bytes], Standing | None]:
        """Return the parts whose files must be compared, and the standing unless it is new."""
        parts = self._parts(db, view)
        standing = self._standing(db, view, parts)
        unsure = [
            part
            for part, state in standing.states.items()
            if state is RootState.REPLACED
            and (part, view.parts[part]) not in self._compared
            and part not in self._put_back
        ]
        return unsure, None if self._is_news(db, view, parts, standing) else standing

    def _standing(self, db: Transaction, view: View, parts: _Parts) -> Standing:
        return Standing(view, {p: self._state(db, view, p, known) for p, known in parts.items()})

    def _parts(self, db: Transaction, view: View) -> _Parts:
        """Return each existing part, with its row if it is known."""
        known = folders.parts(db, self.folder.name)
        return {
            part: known.get(part)
            for part in view.parts
            if not part or part in known or part in view.mounted
        }

    def _state(self, db: Transaction, view: View, part: bytes, known: Part | None) -> RootState:
        seen = view.parts[part]
        if self._is_to_be_taken(db, view, part, known):
            return RootState.OK
        if seen is None:
            return RootState.MISSING
        if known is not None and seen.is_same(known.identity):
            return RootState.REPLACED if part in self._put_back else RootState.OK
        likeness = self._compared.get((part, seen), Likeness())
        limits = self.policies[self.folder.name].limits
        is_alike = known is not None and likeness.is_alike(limits)
        return RootState.ALIKE if is_alike else RootState.REPLACED

    def _is_to_be_taken(self, db: Transaction, view: View, part: bytes, known: Part | None) -> bool:
        """Return whether a part is the right one and must be recorded as such."""
        seen, name = view.parts[part], self.folder.name
        # Query the table only where it matters: it may hold many files that are gone.
        is_left = known is not None and part and part not in view.mounted
        if is_left and not scan_index.synced_in(db, name, part, b"", 1):
            # An unmounted part matters only while known files are on it.
            return True
        if seen is None or (known is not None and seen == known.identity):
            return False
        if known is None and not part:
            return True
        if known is not None and seen.is_same(known.identity):
            return True
        if not part and (self.folder.marker or self.folder.any_root):
            return True
        if self._compared.get((part, seen), Likeness()).is_whole:
            return True
        if known is not None and known.identity.is_of_old:
            # An identity that an earlier version recorded counts only if the files are there.
            return not scan_index.synced_in(db, name, part, b"", 1)
        return not scan_index.ever_held(db, name, part)

    def _is_news(self, db: Transaction, view: View, parts: _Parts, standing: Standing) -> bool:
        if not folders.is_known(db, self.folder.name) or any(
            self._is_to_be_taken(db, view, *part) for part in parts.items()
        ):
            return True
        known = {part: one for part, one in parts.items() if one is not None}
        if any(one.mount != view.mounts.get(part, one.mount) for part, one in known.items()):
            return True
        if standing.alike != {part: one.alike for part, one in known.items() if one.alike}:
            return True
        opened = self._open(db)
        wanted = self._wanted(standing)
        return wanted.keys() != opened or any(part in self._fresh for part in wanted.values())

    def _judge(self, db: Transaction, view: View) -> Standing:
        """Accept the right parts, bring the holds up to date, and return the standing."""
        name, now = self.folder.name, self.clock()
        folders.note(db, name, self.folder.path, now if view.parts[b""] else None)
        parts = self._parts(db, view)
        for part, known in parts.items():
            if self._is_to_be_taken(db, view, part, known):
                self._take(db, view, part)
        parts = self._parts(db, view)
        standing = self._standing(db, view, parts)
        for part, known in parts.items():
            if known is None:
                continue
            judged = known._replace(
                alike=standing.alike.get(part),
                is_stopped=standing.states[part] is RootState.REPLACED,
                mount=view.mounts.get(part, known.mount),
            )
            if identity.is_remounted(known.mount, judged.mount):
                # A file that was missing on the previous mount may be on this one.
                grace.restart_beneath(db, name, part, now, confirmed=True)
            if judged != known:
                folders.note_judged(db, name, part, judged)
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
        """Record what is there now as a part's identity; forget a part that is not mounted."""
        name, seen, now = self.folder.name, view.parts[part], self.clock()
        if seen is None or (part and part not in view.mounted):
            folders.forget_part(db, name, part)
            return
        known = folders.parts(db, name).get(part)
        self._put_back.discard(part)
        held = scan_index.ever_held(db, name, part)
        folders.accept_part(db, name, part, seen, believed_at=now if known and held else 0.0)
        if part or known is None or seen.is_same(known.identity):
            return
        log.warning("%s: another folder is taken for %s", name, self._shown)
        if self.folder.any_root:
            reconfiguration.release_all(db, name, now)
        if not held:
            folders.begin_anew(db, name, now)

    def _scope(self, part: bytes) -> str:
        return f"{self.folder.name}/{shown(part)}" if part else self.folder.name

    def _wanted(self, standing: Standing) -> dict[_Key, bytes]:
        """Return the holds that should be open, each with the part that it concerns."""
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
            and hold.scope.partition("/")[0] == self.folder.name
        }

    def _place(self, db: Transaction, key: _Key, part: bytes, view: View) -> None:
        stops, scope, reason = key
        seen = view.parts[part]
        if seen is not None and stops == "deletions":
            message = self._message(key, part, view)
            self._name_missing(db, key, message, self._compared[part, seen].missing)
            return
        affects = scan_index.count_synced_in(db, self.folder.name, part)
        message = self._message(key, part, view, affects)
        synced = scan_index.synced_in(db, self.folder.name, part, b"", holds.FIRST)
        where = self._where(part)
        commands = [f"findmnt --target {where}", f"ls -la {where}"]
        if seen is not None:
            commands.append(holds.REPLACE)
        is_new = holds.place(
            db,
            stops=stops,
            scope=scope,
            reason=reason,
            message=message,
            affects=affects,
            first=[shown(file.path) for file in synced],
            commands=commands,
            now=self.clock(),
        )
        if is_new:
            log.warning("%s: held: %s", scope, message)

    def _name_missing(
        self, db: Transaction, key: _Key, message: str, missing: Collection[int]
    ) -> None:
        """Make the hold on an alike part name exactly the files that are missing in it."""
        stops, scope, reason = key
        place: dict[str, Any] = {"stops": stops, "scope": scope, "reason": reason}
        is_new = holds.open_id(db, **place) is None
        decisions.name(db, missing, **place, message=message, now=self.clock(), only=True)
        if is_new:
            log.warning("%s: held: %s", scope, message)

    def _where(self, part: bytes) -> str:
        where = self.folder.path + b"/" + part if part else self.folder.path
        return shlex.quote(os.fsdecode(where))

    def _lacks(self, part: bytes, view: View, affects: int) -> str:
        """Say what an approval of another directory does to the files that it lacks."""
        if not self.policies[self.folder.name].mirrors:
            return "no remote copy of what it lacks is deleted"
        seen = view.parts[part]
        likeness = self._compared.get((part, seen)) if seen is not None else None
        # Files on a disk within it were not compared.
        if likeness is None or likeness.known != affects:
            return "the remote copies of the synced files that are not in it are then deleted"
        if not likeness.missing:
            return "it lacks none of the synced files"
        return (
            f"{len(likeness.missing):,} of {counted(affects, 'synced file')} are not in it: their "
            "remote copies are then deleted"
        )

    def _message(self, key: _Key, part: bytes, view: View, affects: int = 0) -> str:
        where, error = self._where(part), view.errors.get(part)
        match key[0], key[2]:
            case _, "root_missing" if self.folder.marker and not part and error == _NOT_THERE:
                marker = shown(self.folder.marker)
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
                    "in it, as in a backup, a clone or a snapshot of its disk: nothing in it is "
                    "sent, taken away or deleted; put the right disk back, and this hold ends by "
                    "itself; approve this one only if it is meant to replace the other: its files "
                    f"are then sent, and {self._lacks(part, view, affects)}"
                )
            case "folder", _:
                return (
                    f"{where} is not the folder that it was, or not the disk: nothing in it is "
                    "sent, taken away or deleted; mount the right disk there, or put the right "
                    "folder back, and this hold ends by itself; approve this one only if it is "
                    f"meant to replace the old one: {self._lacks(part, view, affects)}"
                )
            case _:
                return (
                    f"{where} is another folder or disk than it was, with most of the synced files "
                    "in it: it is synced, and nothing that it lacks is deleted; bring back what is "
                    "missing, or put the right one back; else approve this one, and the remote "
                    "copies of what it lacks now are deleted, or reject that, and they are kept"
                )
