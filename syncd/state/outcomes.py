"""Outcomes: what became of an upload, and of a video that the service processes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from syncd.state import copies, files, history
from syncd.state.apply_plan import advance, make_live, policy_of_before, retire_or_release
from syncd.state.attempts import kind_of
from syncd.state.batches import batched, values
from syncd.state.copies import Copy
from syncd.state.database.connection import Database
from syncd.state.files import File
from syncd.state.holds import remote
from syncd.state.lifecycle import CopyStatus, FileStatus, Keep, Verdict
from syncd.state.planner import Act
from syncd.state.verbs import NO_FAILURE, Failure, Verbs

#: Why a released copy is gone.
UNSEEN = "it was deleted remotely while it was not mirrored"
#: Seconds until an object that a listing shows with a uuid that cannot be true is looked for again.
UNTRUE_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Stored:
    """The service's word on an object that it stored."""

    file_uuid: str
    remote_file_path: str | None = None
    #: pending, processing, completed, failed; None if it said nothing
    processing_status: str | None = None

    @property
    def is_processing(self) -> bool:
        """Whether the service still works on it."""
        return self.processing_status in ("pending", "processing")


class Arrival(NamedTuple):
    """A copy that is stored whole, by its id; `look` is when a video is to be looked at first."""

    copy_id: int
    stored: Stored
    now: float
    look: float


class Progress(NamedTuple):
    """How far a listing showed a video to be, by its copy's id.

    `look_at` is when to ask for it again; None if that stays, because no look was due.
    """

    copy_id: int
    processing_status: str
    look_at: float | None


class _Only(NamedTuple):
    """A copy that is sent, wanted, and the only one of its file, which still holds its content."""

    id: int
    folder: str
    path_hex: str
    method: str
    is_video: bool
    workspace_uuid: str | None


#: The copies of `_Only` among those asked for, in one row, as few steps take the interpreter away.
_ONLY = """
  SELECT json_group_array(json_array(
    copies.id, folder, hex(path), method, content_type LIKE 'video/%', workspace_uuid))
  FROM copies CROSS JOIN files ON files.id = file_id
  WHERE copies.id IN (SELECT value FROM json_each(?)) AND copies.status = 'sending' AND wanted
    AND files.status = 'ready' AND files.sha256 = copies.sha256 AND crashes = 0
    AND NOT EXISTS (SELECT 1 FROM copies AS other WHERE other.file_id = files.id
      AND other.status <> 'gone' AND other.id <> copies.id)
"""
#: The uuids, of those asked for with their copies' ids, that another copy has.
_UUIDS_OF_OTHERS = """
  SELECT json_group_array(json_extract(value, '$[1]')) FROM json_each(?) WHERE EXISTS (
    SELECT 1 FROM copies WHERE file_uuid = json_extract(value, '$[1]')
      AND id <> json_extract(value, '$[0]'))
"""


class Outcomes(Verbs):
    """The verbs after an upload, and of a video's processing."""

    def stored_all(self, db: Database, arrivals: Sequence[Arrival]) -> list[str]:
        """Record several objects that are stored whole; return what `stored` returns for each.

        The ordinary ones, of files that hold this content and had none before, share a few
        statements.
        """
        became = self._stored_ordinary(db, arrivals)
        for number, (copy_id, stored, now, look) in enumerate(arrivals):
            if number not in became:
                became[number] = self.stored(db, copy_id, stored, now, look=look)
        return [became[number] for number in range(len(arrivals))]

    def _stored_ordinary(self, db: Database, arrivals: Sequence[Arrival]) -> dict[int, str]:
        """Record the ordinary arrivals; return the new statuses by places among `arrivals`."""
        ordinary = self._ordinary_arrivals(db, arrivals)
        if not ordinary:
            return {}
        chosen = [(arrivals[number], only) for number, only in ordinary.items()]
        self._note_samples(
            db, ((kind_of(only.method, is_video=only.is_video), only.id) for _, only in chosen)
        )
        copies.live_all(
            db,
            [
                (
                    copy_id,
                    stored.file_uuid,
                    stored.remote_file_path,
                    stored.processing_status,
                    now,
                )
                for (copy_id, stored, now, _), _ in chosen
            ],
        )
        history.add_all(
            db,
            [
                history.Line(
                    now, only.folder, bytes.fromhex(only.path_hex), "synced", stored.file_uuid
                )
                for (_, stored, now, _), only in chosen
            ],
        )
        return dict.fromkeys(ordinary, CopyStatus.LIVE)

    def _ordinary_arrivals(self, db: Database, arrivals: Sequence[Arrival]) -> dict[int, _Only]:
        """Return the copies of the ordinary arrivals by their places among `arrivals`.

        `stored` would do with each of them nothing but make it live.
        """
        if len(arrivals) < 2:
            return {}
        ids = json.dumps([arrival.copy_id for arrival in arrivals])
        rows = json.loads(db.value(_ONLY, (ids,)))
        found = {row[0]: _Only(*row) for row in rows}
        uuids = json.dumps([(arrival.copy_id, arrival.stored.file_uuid) for arrival in arrivals])
        used_uuids = set(json.loads(db.value(_UUIDS_OF_OTHERS, (uuids,))))
        ordinary = {}
        for number, (copy_id, stored, _, _) in enumerate(arrivals):
            only = found.get(copy_id)
            if only is None or stored.is_processing or stored.file_uuid in used_uuids:
                continue
            policy = self.policies.get(only.folder)
            if policy is None or policy.workspace_uuid == only.workspace_uuid:
                ordinary[number] = found.pop(copy_id)
                used_uuids.add(stored.file_uuid)
        return ordinary

    def stored(self, db: Database, copy_id: int, stored: Stored, now: float, *, look: float) -> str:
        """Record that the object is stored whole; return the copy's new status.

        `look` is when a video is to be looked at first. A copy that is not wanted any more
        retires; a stale one goes live like any other, unless a newer one is.
        """
        copy = copies.existing(db, copy_id)
        file = files.existing(db, copy.file_id)
        if copies.where(db, "file_uuid = ? AND id <> ?", (stored.file_uuid, copy.id)):
            failure = Failure(f"the service gave the uuid of another file: {stored.file_uuid}")
            # A listing that shows such a uuid will not change soon; an answer says nothing of it.
            look_at = now if copy.in_flight else now + UNTRUE_SECONDS
            self.doubt(db, copy.id, failure, now, look_at=look_at)
            return "in doubt"
        if file.crashes:
            files.update(db, file.id, crashes=0)
        self._note_samples(db, [(kind_of(copy.method, is_video=copy.is_video), copy.id)])
        columns: dict[str, Any] = {
            "file_uuid": stored.file_uuid,
            "remote_file_path": stored.remote_file_path,
            "processing_status": stored.processing_status,
            "stored_at": now,
            **NO_FAILURE,
        }
        if stored.is_processing and copy.wanted and file.status is not FileStatus.INELIGIBLE:
            copies.move(db, copy, CopyStatus.PROCESSING, attempts=0, due_at=look, **columns)
            copy = copy._replace(file_uuid=stored.file_uuid)
            history.add(db, file, "stored", now, copy=copy)
            advance(db, file.id, self.policies, now)
            return CopyStatus.PROCESSING
        return self._arrive(db, file, copy, now, columns)

    def _arrive(
        self, db: Database, file: File, copy: Copy, now: float, columns: Mapping[str, Any]
    ) -> str:
        """Make a copy that is stored whole live, or retire it; return its new status."""
        others = [other for other in copies.of_file(db, file.id) if other.id != copy.id]
        # A folder that is configured no more keeps what it has.
        empties = file.folder not in self.policies or self.policies[file.folder].empties
        newer = any(other.status is CopyStatus.LIVE and other.id > copy.id for other in others)
        policy = self.policies.get(file.folder)
        is_elsewhere = policy is not None and copy.workspace_uuid != policy.workspace_uuid
        if copy.wanted and (file.status is FileStatus.INELIGIBLE or is_elsewhere):
            # A changed configuration deletes nothing.
            copies.move(
                db,
                copy,
                CopyStatus.RELEASED,
                due_at=None,
                reason="it is no longer mirrored",
                kept=copy.kept or (policy.keeps(file) if policy else Keep.NO),
                **columns,
            )
            history.add(db, file, "released", now, copy=copy._replace(**_uuid_of(columns, copy)))
        elif newer or file.status is FileStatus.CONSUMED or not copy.wanted:
            reason = "a newer copy is live" if newer else "its file is no longer mirrored"
            retire_or_release(db, copy, now, reason=reason, empties=empties, **columns)
        else:
            make_live(db, copy, now, others=others, empties=empties, **columns)
            history.add(db, file, "synced", now, copy=copy._replace(**_uuid_of(columns, copy)))
            if not others and file.status is FileStatus.READY and file.sha256 == copy.sha256:
                # The ordinary case: nothing else is known of this file, so nothing is left to do.
                return CopyStatus.LIVE
        advance(db, file.id, self.policies, now)
        return copies.existing(db, copy.id).status

    def doubt(
        self,
        db: Database,
        copy_id: int,
        failure: Failure,
        now: float,
        *,
        look_at: float | None = None,
    ) -> None:
        """Record that the request may have been delivered: it is looked up, at `look_at` or now."""
        due_at = now if look_at is None else look_at
        copies.update(db, copy_id, in_flight=0, due_at=due_at, doubted_at=now, **failure.columns())

    def look_later(self, db: Database, looked_at: Copy, look_at: float) -> None:
        """Put the next look at a copy off until `look_at`.

        Nothing changes if its status is by now another than when it was `looked_at`.
        """
        db.conn.execute(
            "UPDATE copies SET due_at = ? WHERE id = ? AND status = ?",
            (look_at, looked_at.id, looked_at.status),
        )

    def still_processing(
        self, db: Database, asked: Copy, status: str, look_at: float, failure: Failure | None
    ) -> None:
        """Record a look at a video that is not finished, or at a copy that got no answer.

        Nothing is recorded if the copy's status is by now another than when it was `asked` for.
        """
        values = failure.columns() if failure else {"processing_status": status, **NO_FAILURE}
        names = ", ".join(f"{name} = ?" for name in ("due_at", *values))
        db.conn.execute(
            f"UPDATE copies SET attempts = attempts + 1, {names} WHERE id = ? AND status = ?",
            (look_at, *values.values(), asked.id, asked.status),
        )

    def still_processing_all(self, db: Database, shown: Sequence[Progress]) -> None:
        """Record videos that a listing showed unfinished: a look at each of which one was due."""
        for some in batched(shown):
            db.conn.execute(
                "UPDATE copies SET attempts = attempts + (new.column3 IS NOT NULL), "
                "due_at = coalesce(new.column3, due_at), processing_status = new.column2, "
                f"{', '.join(f'{column} = NULL' for column in NO_FAILURE)} "
                f"FROM ({values(some)}) AS new "
                "WHERE copies.id = new.column1 AND copies.status = 'processing'",
                [value for row in some for value in row],
            )

    def completed(
        self,
        db: Database,
        copy_id: int,
        now: float,
        *,
        remote_file_path: str | None,
        frame_count: int | None,
        video_metadata: str | None,
    ) -> str:
        """Record what is known of a video and make it live; return the copy's new status."""
        copy = _asked_for(db, copy_id)
        if copy is None:
            return "gone"
        columns: dict[str, Any] = {
            "processing_status": "completed",
            "frame_count": frame_count,
            "video_metadata": video_metadata,
            "remote_file_path": remote_file_path or copy.remote_file_path,
            **NO_FAILURE,
        }
        file = files.existing(db, copy.file_id)
        if copy.status is not CopyStatus.PROCESSING:
            return self._take_up(db, file, copy, now, columns)
        kind = kind_of(copy.method, is_video=copy.is_video, processed=True)
        self._note_samples(db, [(kind, copy.id)])
        return self._arrive(db, file, copy, now, columns)

    def _take_up(
        self, db: Database, file: File, copy: Copy, now: float, columns: Mapping[str, Any]
    ) -> str:
        """Make a released or retiring copy live that was just found, if it is still wanted."""
        if copy.status is CopyStatus.RELEASED:
            copies.update(db, copy.id, due_at=None)
        action = advance(db, file.id, self.policies, now)
        if action.act is Act.ASK and action.copy is not None and action.copy.id == copy.id:
            others = [other for other in copies.of_file(db, file.id) if other.id != copy.id]
            policy = self.policies.get(file.folder) or policy_of_before(db, file.folder)
            empties = policy.empties
            why = {"reason": action.reason, "evidence": None}
            make_live(db, copy, now, others=others, empties=empties, **why, **columns)
            history.add(db, file, "kept", now, copy=copy, detail=action.reason)
            advance(db, file.id, self.policies, now)
        return copies.existing(db, copy.id).status

    def processing_failed(self, db: Database, copy_id: int, failure: Failure, now: float) -> None:
        """Record that the service could not process a video.

        Its object stays until another copy of its file is live, a newer one failed likewise, or the
        file is gone.
        """
        copy = _asked_for(db, copy_id)
        if copy is None:
            return
        file = files.existing(db, copy.file_id)
        if copy.status is CopyStatus.PROCESSING:
            copies.move(db, copy, CopyStatus.FAILED)
        columns = {"processing_status": "failed", **failure.columns()}
        due_at = now if copy.status is CopyStatus.RETIRING else None
        copies.update(db, copy.id, due_at=due_at, **columns)
        history.add(db, file, "failed", now, copy=copy, detail=failure.message)
        advance(db, file.id, self.policies, now)

    def gone_remotely(self, db: Database, copy_id: int, now: float) -> Verdict | None:
        """Record that a copy is proven gone without our doing: see `remote.record`."""
        copy = copies.get(db, copy_id)
        if copy is not None and copy.status in (CopyStatus.RELEASED, CopyStatus.RETIRING):
            file = files.existing(db, copy.file_id)
            copies.move(db, copy, CopyStatus.GONE, due_at=None, gone_at=now, reason=UNSEEN)
            history.add(db, file, "lost", now, copy=copy, detail=UNSEEN)
            advance(db, file.id, self.policies, now)
            return None
        return remote.record(db, copy_id, self.policies, now)


def _uuid_of(columns: Mapping[str, Any], copy: Copy) -> dict[str, Any]:
    return {"file_uuid": columns.get("file_uuid", copy.file_uuid)}


def _asked_for(db: Database, copy_id: int) -> Copy | None:
    """Return a copy whose object the service was asked for, unless its status is by now another.

    That is one being processed, or one released or retiring that may become live again.
    """
    copy = copies.get(db, copy_id)
    asked_for = (CopyStatus.PROCESSING, CopyStatus.RELEASED, CopyStatus.RETIRING)
    return copy if copy and copy.status in asked_for else None
