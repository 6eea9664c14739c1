"""Intents: the commitment to send a file, made before the first byte of it leaves."""

import enum
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from syncd.disk import Fingerprint
from syncd.state import attempts, copies, echo, files, history, holds, tokens
from syncd.state.apply_plan import advance, supersede
from syncd.state.copies import Copy
from syncd.state.database.connection import Database
from syncd.state.files import File
from syncd.state.holds import changes, standstill
from syncd.state.lifecycle import CopyStatus, FileStatus
from syncd.state.planner import LOCAL, Act, plan
from syncd.state.verbs import Verbs

#: The most places from which a file may have been moved that are looked at.
RENAME_SOURCES = 8
#: The method of an offer that is sent direct where that is needed to learn what is echoed.
PROBE = "probe"


@dataclass(frozen=True, slots=True)
class Offer:
    """Content that is ready to be sent, as the disk holds it now."""

    file_id: int
    fingerprint: Fingerprint
    sha256: str
    content_type: str
    #: direct, presigned, or `PROBE`
    method: str
    #: files at whose paths a look just found nothing: a rename from there is taken over; None
    #: before anybody looked
    vacated: Collection[int] | None = None


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The content is live at other paths; only the disk shows whether these are vacant."""

    files: tuple[File, ...]


class Declined(enum.StrEnum):
    """Why an offer led to no upload."""

    #: the row has changed meanwhile; the file comes up again
    CHANGED = "changed"
    #: nothing needs sending
    NEEDLESS = "needless"
    #: its time has not come, or a request for the path is under way
    LATER = "later"


Begun = Copy | Elsewhere | Declined


class Intent(NamedTuple):
    """An offer, and when it is to be sent, in seconds since the epoch."""

    offer: Offer
    now: float


class _New(NamedTuple):
    """A file of which nothing was ever stored or planned, as its row says."""

    id: int
    folder: str
    path_hex: str
    generation: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @property
    def path(self) -> bytes:
        return bytes.fromhex(self.path_hex)

    @property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint(self.inode, self.size, self.mtime_ns, self.ctime_ns)


#: The files of `_New` among those asked for. One row comes back: each row is a step of SQLite, and
#: at each step other threads may take the interpreter.
_NEW = """
  SELECT json_group_array(json_array(
    id, folder, hex(path), generation, inode, size, mtime_ns, ctime_ns))
  FROM (SELECT value AS asked FROM json_each(?)) CROSS JOIN files ON files.id = asked
  WHERE status = 'ready' AND sha256 IS NULL AND inode IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM copies WHERE file_id = files.id AND copies.status <> 'gone')
    AND NOT EXISTS (SELECT 1 FROM decisions WHERE file_id = files.id)
"""
#: Those of the contents asked for that a rename may have brought along.
_KNOWN = """
  SELECT json_group_array(value) FROM json_each(?) WHERE EXISTS (
    SELECT 1 FROM copies WHERE sha256 = value AND status IN ('live', 'retiring'))
"""


class Intents(Verbs):
    """The verbs before an upload."""

    def begin_all(self, db: Database, intents: Sequence[Intent]) -> list[Begun]:
        """Commit several intents; return what `begin` returns for each.

        The ordinary ones, new files with content that is new, share a few statements.
        """
        begun = self._begin_ordinary(db, intents)
        for number, (offer, now) in enumerate(intents):
            if number not in begun:
                begun[number] = self.begin(db, offer, now)
        return [begun[number] for number in range(len(intents))]

    def _begin_ordinary(self, db: Database, intents: Sequence[Intent]) -> dict[int, Begun]:
        """Commit the ordinary intents; return their copies by their places among `intents`."""
        ordinary = self._ordinary(db, intents)
        if not ordinary:
            return {}
        chosen = [(intents[number], new) for number, new in ordinary.items()]
        issued = tokens.issue_all(
            db,
            self.instance,
            (
                tokens.Request(new.folder, new.path, offer.sha256, new.size, now)
                for (offer, now), new in chosen
            ),
        )
        added = copies.insert_all(
            db,
            [
                self._sending(new, offer, token, offer.method, now)
                for ((offer, now), new), token in zip(chosen, issued, strict=True)
            ],
        )
        files.begun_all(db, [(offer.file_id, offer.sha256) for (offer, _), _ in chosen])
        return dict(zip(ordinary, added, strict=True))

    def _ordinary(self, db: Database, intents: Sequence[Intent]) -> dict[int, _New]:
        """Return the rows of the ordinary intents' files by their places among `intents`.

        `begin` would do with each of them nothing but plan a copy: the file is as it was offered,
        nothing of it is known, and no other file has a copy with its content.
        """
        if len(intents) < 2 or holds.is_ledger_incomplete(db):
            return {}
        stopped = standstill.scopes(db)
        ids = json.dumps([offer.file_id for offer, _ in intents])
        rows = json.loads(db.value(_NEW, (ids,)))
        found = {row[0]: _New(*row) for row in rows}
        contents = json.dumps(list({offer.sha256 for offer, _ in intents}))
        known = set(json.loads(db.value(_KNOWN, (contents,))))
        ordinary = {}
        for number, (offer, _) in enumerate(intents):
            new = found.get(offer.file_id)
            if (
                new is not None
                and new.fingerprint == offer.fingerprint
                and new.folder in self.policies
                and not standstill.covers(stopped, new.folder)
                and offer.sha256 not in known
                and offer.method != PROBE
            ):
                # A second intent for the same file meets what the first one made.
                ordinary[number] = found.pop(offer.file_id)
        return ordinary

    def begin(self, db: Database, offer: Offer, now: float) -> Begun:
        """Commit the intent to send `offer`: return its copy, `sending`, or why there is none."""
        if holds.is_ledger_incomplete(db):
            return Declined.LATER
        file = files.get(db, offer.file_id)
        if (
            file is None
            or file.status is not FileStatus.READY
            or file.fingerprint != offer.fingerprint
            or file.sha256 not in (None, offer.sha256)
        ):
            return Declined.CHANGED
        if standstill.covers(standstill.scopes(db), file.folder):
            return Declined.LATER
        values: dict[str, Any] = {"sha256": offer.sha256, "attempts": 0, "error": None}
        hashed = file._replace(**values)
        # The ordinary case, a new file or new content, is decided on what was read just now.
        action = plan(hashed, copies.of_file(db, file.id), self.policies[file.folder])
        if action.act is not Act.UPLOAD:
            if action.act in LOCAL or file.sha256 is None:
                files.update(db, file.id, **values)
            action = advance(db, file.id, self.policies, now)
        if action.act is Act.UPLOAD:
            return self._begin_new(db, file, hashed, offer, now)
        if action.act is not Act.SEND or action.copy is None:
            is_needless = action.act is Act.NOTHING
            return Declined.NEEDLESS if is_needless else Declined.LATER
        copy = action.copy
        if copy.due_at is not None and copy.due_at > now:
            return Declined.LATER
        return self._send_again(db, hashed, copy, offer, now)

    def _begin_new(self, db: Database, file: File, hashed: File, offer: Offer, now: float) -> Begun:
        """Plan a copy of content that the file has no copy of, unless a rename brings one along."""
        sources = self._sources(db, hashed, offer)
        if sources and offer.vacated is None:
            # A cut before somebody has looked must leave the file due, and its content
            # unknown: only so does the copy that it may bring along wait for it.
            return Elsewhere(tuple(source for _, source in sources))
        values = {"sha256": offer.sha256, "attempts": 0, "error": None} if not file.sha256 else {}
        hold_changes = self.policies[file.folder].hold_changes
        if sources or hold_changes:
            files.update(db, file.id, **values)
            values = {}
        if self._take_over(db, hashed, offer, sources, now):
            return Declined.NEEDLESS
        if hold_changes and changes.hold(db, hashed, now):
            return Declined.NEEDLESS
        files.update(db, file.id, due_at=None, **values)
        return self._plan(db, hashed, offer, now)

    def _send_again(self, db: Database, file: File, copy: Copy, offer: Offer, now: float) -> Copy:
        copies.move(
            db,
            copy,
            CopyStatus.SENDING,
            token=self._token(db, file, offer, now),
            in_flight=1,
            due_at=None,
            sent_at=now,
            doubted_at=None,
            attempts=copy.attempts + 1,
            method=_method(db, offer),
        )
        return _begun(db, copies.existing(db, copy.id), offer)

    def _token(self, db: Database, file: File, offer: Offer, now: float) -> str:
        """Return a token of its own for the request that is about to be made."""
        return tokens.issue(
            db,
            instance=self.instance,
            folder=file.folder,
            path=file.path,
            content=offer.sha256,
            size=offer.fingerprint.size,
            now=now,
        )

    def _plan(self, db: Database, file: File, offer: Offer, now: float) -> Copy:
        """Plan a copy and commit to sending it, in one."""
        token = self._token(db, file, offer, now)
        copy = self._sending(file, offer, token, _method(db, offer), now)
        return _begun(db, copies.insert(db, copy), offer)

    def _sending(
        self, file: File | _New, offer: Offer, token: str, method: str, now: float
    ) -> Copy:
        """Return the row of a copy that is about to be sent for the first time."""
        return Copy(
            id=0,
            file_id=file.id,
            token=token,
            file_uuid=None,
            status=CopyStatus.SENDING,
            wanted=True,
            in_flight=True,
            generation=file.generation,
            sha256=offer.sha256,
            size=offer.fingerprint.size,
            content_type=offer.content_type,
            workspace_uuid=self.policies[file.folder].workspace_uuid,
            method=method,
            attempts=1,
            sent_at=now,
            created_at=now,
        )

    def _sources(self, db: Database, file: File, offer: Offer) -> list[tuple[Copy, File]]:
        """Return the copies of that content, with their files, that a rename could bring along."""
        workspace = self.policies[file.folder].workspace_uuid
        found = rename_sources(db, file.id, offer.sha256, offer.fingerprint.size, workspace)
        return [(copy, files.existing(db, copy.file_id)) for copy in found]

    def _take_over(
        self,
        db: Database,
        file: File,
        offer: Offer,
        sources: Iterable[tuple[Copy, File]],
        now: float,
    ) -> bool:
        """Give `file` the live copy of a path that was renamed to it, if there is one."""
        empties = self.policies[file.folder].empties
        for copy, source in sources:
            if source.id not in (offer.vacated or ()):
                continue
            # The service is asked for a retiring copy before it replaces anything.
            if copy.status is not CopyStatus.RETIRING:
                others = copies.of_file(db, file.id)
                why = "another file was moved here"
                supersede(db, others, copy, now, reason=why, empties=empties)
            copies.update(db, copy.id, file_id=file.id)
            old, new = (f"{place.folder}:{place.shown}" for place in (source, file))
            history.add(db, file, "moved", now, copy=copy, detail=f"from {old}")
            history.add(db, source, "moved", now, copy=copy, detail=f"to {new}")
            self._forget(db, source, now)
            advance(db, file.id, self.policies, now)
            return True
        return False

    def _forget(self, db: Database, source: File, now: float) -> None:
        """Record that a renamed file's old path holds nothing more."""
        if not copies.where(db, "file_id = ? LIMIT 1", (source.id,)):
            db.conn.execute("DELETE FROM files WHERE id = ?", (source.id,))
            return
        # An older copy was taken; the newest one retires only after two looks, like any other.
        unretired = "file_id = ? AND status IN ('planned', 'sending', 'processing', 'live') LIMIT 1"
        if source.present and not copies.where(db, unretired, (source.id,)):
            files.update(db, source.id, status=FileStatus.MISSING, missing_since=None, due_at=now)
        advance(db, source.id, self.policies, now)


def _method(db: Database, offer: Offer) -> str:
    """Return how an offer is sent."""
    if offer.method != PROBE:
        return offer.method
    is_video = offer.content_type.startswith("video/")
    kind = attempts.kind_of("direct", is_video=is_video)
    return "direct" if echo.may_probe(db, kind) else "presigned"


def _begun(db: Database, copy: Copy, offer: Offer) -> Copy:
    """Return a copy whose intent is recorded."""
    if offer.method == PROBE and copy.method == "direct":
        echo.note_probe(db, copy)
    return copy


def rename_sources(
    db: Database, file_id: int, sha256: str, size: int, workspace_uuid: str | None
) -> list[Copy]:
    """Return other files' copies of that content which a rename could bring along.

    Live ones, and retiring ones whose DELETE was not sent; those of files known missing first.
    Whether the old path is vacant must be seen on the disk.
    """
    query = "SELECT 1 FROM copies WHERE sha256 = ? AND status IN ('live', 'retiring') LIMIT 1"
    if db.value(query, (sha256,)) is None:
        return []
    found: dict[int, Copy] = {}
    # Don't sort many files of equal content: take the few that are missing, then the first.
    for condition in (
        (
            # The plus keeps SQLite from going through all copies of that content.
            "file_id IN (SELECT id FROM files WHERE files.sha256 = :sha256 "
            "AND files.status = 'missing') AND status IN ('live', 'retiring') AND +sha256 = :sha256"
        ),
        "status = 'retiring' AND sha256 = :sha256",
        "status = 'live' AND sha256 = :sha256",
    ):
        some = copies.where(
            db,
            f"{condition} AND size = :size AND workspace_uuid IS :workspace "
            "AND file_id <> :file AND in_flight = 0 AND (status = 'live' OR "
            "(delete_sent_at IS NULL AND live_at IS NOT NULL)) LIMIT :most",
            {
                "sha256": sha256,
                "size": size,
                "workspace": workspace_uuid,
                "file": file_id,
                "most": RENAME_SOURCES,
            },
        )
        found |= {copy.id: copy for copy in some}
    return list(found.values())[:RENAME_SOURCES]
