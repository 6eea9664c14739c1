"""The ledger's verbs: each one transaction around a call, before it or after it.

| step    | committed before                | call    | committed after      | cut in between |
|---------|---------------------------------|---------|----------------------|----------------|
| upload  | `begin`: sending, token, sha256 | POST    | `stored`             | in doubt       |
| poll    | nothing                         | GET     | `completed`, ...     | asked again    |

Deletions have a module of their own, `syncd.state.deletions`. The verbs run on the writer's
thread. Each reads the rows anew and decides on what they say then.
"""

import enum
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from syncd.disk import Fingerprint
from syncd.state import attempts, copies, echo, files, history, holds, tokens
from syncd.state.advance import Policies, advance, let_go, make_live, supersede
from syncd.state.attempts import Attempt
from syncd.state.copies import Copy
from syncd.state.files import File
from syncd.state.holds import changes, remote
from syncd.state.lifecycle import CopyStatus, FileStatus, Keep, Verdict
from syncd.state.planner import LOCAL, Act, plan
from syncd.state.retry import backoff_seconds, refusal_seconds
from syncd.state.texts import storable

#: Why a released copy is gone.
UNSEEN = "it was deleted remotely while it was not mirrored"


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong, as the ledger keeps it."""

    message: str
    status: int | None = None
    code: str | None = None
    request_id: str | None = None

    def columns(self) -> dict[str, object]:
        return {
            "error_status": self.status,
            "error_code": self.code,
            "error_message": storable(self.message),
            "error_request_id": self.request_id,
        }


#: Abrupt ends in a row, each while a file was being sent, after which it is left alone for a while.
QUARANTINE_CRASHES, QUARANTINE_SECONDS = 3, 3600.0
#: Statuses with which the service refuses content, where the answer is its own error envelope.
REFUSES_CONTENT = frozenset({400, 413, 415, 422})
#: Refusals of one file, and the seconds that lie between the first and the last of them, after
#: which it counts as refused though nothing says that its content is the cause; then its rest.
MANY_REFUSALS, MANY_REFUSALS_SECONDS, REFUSED_SECONDS = 5, 3600.0, 86_400.0
#: The most places from which a file may have been moved that are looked at.
RENAME_SOURCES = 8
#: Seconds until an object whose uuid cannot be true is looked for again.
UNTRUE_SECONDS = 3600.0
#: The method of an offer that is sent direct where that is needed to learn what is echoed.
PROBE = "probe"
#: The columns of a failure that is over.
NO_FAILURE = dict.fromkeys(Failure("").columns())


@dataclass(frozen=True, slots=True)
class Stored:
    """What the service said of an object that it stored."""

    file_uuid: str
    remote_file_path: str | None = None
    #: pending, processing, completed, failed; None where it said nothing
    processing_status: str | None = None

    @property
    def is_processing(self) -> bool:
        return self.processing_status in ("pending", "processing")


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
    """The content is live at other paths: whether they are vacant is to be seen on the disk."""

    files: tuple[File, ...]


class Declined(enum.StrEnum):
    """Why an offer led to no upload."""

    #: the row says something else by now; it comes round again
    CHANGED = "changed"
    #: nothing needs sending
    SETTLED = "settled"
    #: its time has not come, or a request for the path is under way
    LATER = "later"


class Ledger:
    """The verbs, with what they need to know of this instance."""

    def __init__(self, *, policies: Policies, instance: str) -> None:
        self._policies = policies
        #: the instance in whose name files are sent
        self.instance = instance
        #: kinds of uploads of which nothing more is to be learned
        self._learned: set[str] = set()

    # Uploads

    def begin(self, db: Database, offer: Offer, now: float) -> Copy | Elsewhere | Declined:
        """Commit the intent to send `offer`: return its copy, `sending`, or why there is none."""
        if holds.is_lost(db):
            return Declined.LATER
        file = files.get(db, offer.file_id)
        if (
            file is None
            or file.status is not FileStatus.READY
            or file.fingerprint != offer.fingerprint
            or file.sha256 not in (None, offer.sha256)
        ):
            return Declined.CHANGED
        known: dict[str, Any] = {"sha256": offer.sha256, "attempts": 0, "error": None}
        hashed = file._replace(**known)
        # The ordinary case, a new file or new content, is decided on what was read just now.
        action = plan(hashed, copies.of_file(db, file.id), self._policies[file.folder])
        if action.act is not Act.PLAN:
            if action.act in LOCAL or file.sha256 is None:
                files.update(db, file.id, **known)
            action = advance(db, file.id, self._policies, now)
        if action.act is Act.PLAN:
            sources = self._sources(db, hashed, offer)
            if sources and offer.vacated is None:
                # A cut before somebody has looked must leave the file due, and its content
                # unknown: only so does the copy that it may bring along wait for it.
                return Elsewhere(tuple(file for _, file in sources))
            if file.sha256 is None:
                files.update(db, file.id, **known)
            if self._take_over(db, hashed, offer, sources, now):
                return Declined.SETTLED
            if self._policies[file.folder].hold_changes and changes.hold(db, hashed, now):
                return Declined.SETTLED
            return self._plan(db, hashed, offer, now)
        if action.act is not Act.SEND or action.copy is None:
            settled = action.act is Act.NOTHING
            return Declined.SETTLED if settled else Declined.LATER
        copy = action.copy
        if copy.due_at is not None and copy.due_at > now:
            return Declined.LATER
        copies.move(
            db,
            copy,
            CopyStatus.SENDING,
            token=self._token(db, hashed, offer, now),
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
        if file.due_at is not None:
            files.update(db, file.id, due_at=None)
        copy = Copy(
            id=0,
            file_id=file.id,
            token=self._token(db, file, offer, now),
            file_uuid=None,
            status=CopyStatus.SENDING,
            wanted=True,
            in_flight=True,
            generation=file.generation,
            sha256=offer.sha256,
            size=offer.fingerprint.size,
            content_type=offer.content_type,
            workspace_uuid=self._policies[file.folder].workspace_uuid,
            method=_method(db, offer),
            attempts=1,
            sent_at=now,
            created_at=now,
        )
        return _begun(db, copies.insert(db, copy), offer)

    def _sources(self, db: Database, file: File, offer: Offer) -> list[tuple[Copy, File]]:
        """Return the copies of that content, with their files, that a rename could bring along."""
        workspace = self._policies[file.folder].workspace_uuid
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
        empties = self._policies[file.folder].empties
        for copy, source in sources:
            if source.id not in (offer.vacated or ()):
                continue
            others = copies.of_file(db, file.id)
            why = "another file was moved here"
            supersede(db, others, copy, now, reason=why, empties=empties)
            copies.update(db, copy.id, file_id=file.id)
            if copy.status is CopyStatus.RETIRING:
                make_live(db, copy, now, others=(), reason="its file was moved")
            old, new = (f"{place.folder}:{place.shown}" for place in (source, file))
            history.add(db, file, "moved", now, copy=copy, detail=f"from {old}")
            history.add(db, source, "moved", now, copy=copy, detail=f"to {new}")
            self._forget(db, source, now)
            advance(db, file.id, self._policies, now)
            return True
        return False

    def _forget(self, db: Database, source: File, now: float) -> None:
        """Record that a renamed file's old path holds nothing more."""
        if not copies.where(db, "file_id = ? LIMIT 1", (source.id,)):
            db.conn.execute("DELETE FROM files WHERE id = ?", (source.id,))
            return
        # Taken was an older copy: whether the newest one goes takes two looks like any other's.
        mirrored = "file_id = ? AND status IN ('planned', 'sending', 'processing', 'live') LIMIT 1"
        if source.present and not copies.where(db, mirrored, (source.id,)):
            files.update(db, source.id, status=FileStatus.MISSING, missing_since=now, due_at=now)
        advance(db, source.id, self._policies, now)

    def stored(self, db: Database, copy_id: int, stored: Stored, now: float, *, look: float) -> str:
        """Record that the object is stored whole; return the copy's new status.

        `look` is when a video is to be looked at first. A copy that is not wanted any more
        retires; a stale one goes live like any other, unless a newer one is.
        """
        copy = copies.existing(db, copy_id)
        file = files.existing(db, copy.file_id)
        if copies.where(db, "file_uuid = ? AND id <> ?", (stored.file_uuid, copy.id)):
            failure = Failure(f"the service gave the uuid of another file: {stored.file_uuid}")
            self.doubt(db, copy.id, failure, now, look_at=now + UNTRUE_SECONDS)
            return "in doubt"
        if file.crashes:
            files.update(db, file.id, crashes=0)
        self._note_sample(db, copy)
        facts: dict[str, Any] = {
            "file_uuid": stored.file_uuid,
            "remote_file_path": stored.remote_file_path,
            "processing_status": stored.processing_status,
            "stored_at": now,
            **NO_FAILURE,
        }
        if stored.is_processing and copy.wanted and file.status is not FileStatus.INELIGIBLE:
            copies.move(db, copy, CopyStatus.PROCESSING, attempts=0, due_at=look, **facts)
            copy = copy._replace(file_uuid=stored.file_uuid)
            history.add(db, file, "stored", now, copy=copy)
            advance(db, file.id, self._policies, now)
            return CopyStatus.PROCESSING
        return self._arrive(db, file, copy, now, facts)

    def _arrive(
        self, db: Database, file: File, copy: Copy, now: float, facts: Mapping[str, Any]
    ) -> str:
        """Make a copy that is stored whole live, or retire it; return its new status."""
        others = [other for other in copies.of_file(db, file.id) if other.id != copy.id]
        # A folder that is configured no more keeps what it has.
        empties = file.folder not in self._policies or self._policies[file.folder].empties
        newer = any(other.status is CopyStatus.LIVE and other.id > copy.id for other in others)
        policy = self._policies.get(file.folder)
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
                **facts,
            )
            history.add(db, file, "released", now, copy=copy._replace(**_uuid_of(facts, copy)))
        elif newer or file.status is FileStatus.CONSUMED or not copy.wanted:
            reason = "a newer copy is live" if newer else "its file is no longer mirrored"
            let_go(db, copy, now, reason=reason, empties=empties, **facts)
        else:
            make_live(db, copy, now, others=others, empties=empties, **facts)
            history.add(db, file, "synced", now, copy=copy._replace(**_uuid_of(facts, copy)))
            if not others and file.status is FileStatus.READY and file.sha256 == copy.sha256:
                # The ordinary case: nothing else is known of this file, so nothing is left to do.
                return CopyStatus.LIVE
        advance(db, file.id, self._policies, now)
        return copies.existing(db, copy.id).status

    def not_sent(
        self,
        db: Database,
        copy_id: int,
        now: float,
        *,
        failure: Failure | None = None,
        again_at: float | None = None,
        counts: bool = True,
    ) -> None:
        """Record that certainly no content was stored: the copy is planned again, due `again_at`.

        It counts as an attempt if there is a failure, of now or of when it came into doubt, that
        `counts`. The copy keeps its tries, its next time and its error: an object that was
        reserved for it gets a row of its own, and retires.
        """
        copy = copies.existing(db, copy_id)
        values = failure.columns() if failure else {}
        failed_before = failure is None and copy.in_doubt and copy.error_message is not None
        if failed_before:
            again_at = (copy.doubted_at or now) + backoff_seconds(max(copy.attempts, 1))
        elif failure is None or not counts:
            values["attempts"] = max(copy.attempts - 1, 0)
        file = files.existing(db, copy.file_id)
        if copy.in_doubt and file.crashes >= QUARANTINE_CRASHES:
            again_at = now + QUARANTINE_SECONDS
        if copy.file_uuid is not None:
            self._give_up_reserved(db, copy, now)
        copies.move(db, copy, CopyStatus.PLANNED, due_at=max(again_at or now, now), **values)
        advance(db, copy.file_id, self._policies, now)

    def _give_up_reserved(self, db: Database, copy: Copy, now: float) -> None:
        """Retire the object that was reserved for a copy; the copy itself stays."""
        # The next attempt has a token of its own; this one stays with its object.
        copies.update(db, copy.id, file_uuid=None)
        record = copy._replace(
            status=CopyStatus.RETIRING,
            wanted=False,
            in_flight=False,
            attempts=0,
            due_at=now,
            reason="its content did not arrive",
            kept=Keep.NO,
            created_at=now,
        )
        copies.insert(db, record)

    def reserved(self, db: Database, copy_id: int, file_uuid: str) -> None:
        """Record the object that was reserved for a copy, before its content is sent."""
        copies.update(db, copy_id, file_uuid=file_uuid)

    def abandon(self, db: Database, file_id: int, now: float) -> None:
        """Put a file's requests in doubt whose outcome could not be recorded."""
        db.conn.execute(
            "UPDATE copies SET in_flight = 0, due_at = :now, doubted_at = :now "
            "WHERE file_id = :file AND in_flight = 1",
            {"now": now, "file": file_id},
        )

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

    def look_later(self, db: Database, copy_id: int, look_at: float) -> None:
        """Put the next look-up of a copy in doubt off until `look_at`."""
        copies.update(db, copy_id, due_at=look_at)

    def refused(self, db: Database, copy_id: int, failure: Failure, now: float) -> None:
        """Record that the service refused this content for good."""
        copy = copies.existing(db, copy_id)
        file = files.existing(db, copy.file_id)
        copies.move(db, copy, CopyStatus.FAILED, due_at=None, **failure.columns())
        history.add(db, file, "failed", now, copy=copy, detail=failure.message)
        advance(db, file.id, self._policies, now)

    def turned_away(
        self,
        db: Database,
        copy_id: int,
        failure: Failure,
        now: float,
        *,
        enveloped: bool,
        passed_at: float | None,
    ) -> bool:
        """Record that the service said no to this content; return whether that is final.

        It is final where another file got through (`passed_at`) after the first refusal of this
        one, and the service refuses the content in its own words (`enveloped`); or where this goes
        on for an hour while others get through: then it is tried again a day later.
        """
        copy = copies.existing(db, copy_id)
        first, refusals = copy.refused_at or now, copy.refusals + 1
        copies.update(db, copy.id, refusals=refusals, refused_at=first)
        others_pass = passed_at is not None and passed_at > first
        of_content = enveloped and failure.status in REFUSES_CONTENT
        lasts = refusals >= MANY_REFUSALS and now - first >= MANY_REFUSALS_SECONDS
        if not (others_pass and (of_content or lasts)):
            again_at = now + refusal_seconds(refusals)
            self.not_sent(db, copy.id, now, failure=failure, again_at=again_at)
            return False
        if copy.file_uuid is not None:
            self._give_up_reserved(db, copy, now)
        self.refused(db, copy.id, failure, now)
        if not of_content:
            copies.update(db, copy.id, due_at=now + REFUSED_SECONDS)
        return True

    def try_refused_again(
        self, db: Database, now: float, file_ids: Collection[int] | None = None
    ) -> int:
        """Plan again what was refused and failed, and is due, or is of `file_ids`; return how many.

        Nothing is stored of it.
        """
        condition = "status = 'failed' AND status NOT IN ('live', 'gone') AND file_uuid IS NULL"
        if file_ids is None:
            again = copies.where(db, f"{condition} AND due_at <= ?", (now,))
        else:
            again = [c for c in copies.where(db, condition) if c.file_id in file_ids]
        for copy in again:
            copies.move(db, copy, CopyStatus.PLANNED, due_at=now)
            advance(db, copy.file_id, self._policies, now)
        return len(again)

    def absent(self, db: Database, copy_id: int, now: float) -> None:
        """Record that a copy in doubt was looked for, and not found.

        Still wanted, it is sent again under another token; else it is gone. The request that got
        no answer is remembered: it may be carried out late.
        """
        copy = copies.existing(db, copy_id)
        file = files.existing(db, copy.file_id)
        attempts.leave(db, copy, now)
        if copy.wanted:
            due_at = now + (QUARANTINE_SECONDS if file.crashes >= QUARANTINE_CRASHES else 0)
            copies.move(db, copy, CopyStatus.PLANNED, due_at=due_at)
        else:
            copies.move(
                db, copy, CopyStatus.GONE, due_at=None, gone_at=now, reason="it never arrived"
            )
        advance(db, file.id, self._policies, now)

    def settle(self, db: Database, copy_id: int, attempt: Attempt, now: float) -> None:
        """Record that the object of one of a doubtful copy's attempts was found.

        Another attempt of the copy that is still unanswered stays so.
        """
        copy = copies.existing(db, copy_id)
        attempts.settle(db, attempt.token)
        if copy.token != attempt.token:
            attempts.leave(db, copy, now)
            copies.update(
                db,
                copy.id,
                token=attempt.token,
                method=attempt.method,
                sent_at=attempt.sent_at,
            )
        if attempt.is_old(now):
            copies.update(db, copy.id, kept=Keep.ALWAYS)

    def found_late(
        self,
        db: Database,
        attempt: Attempt,
        stored: Stored,
        now: float,
        *,
        whole: bool,
        look: float,
    ) -> str | None:
        """Record an object that turned up after its request was given up; return its status.

        Where nothing of its file is live or on its way, it is the copy; else it retires, as does
        a record without content. None where the ledger knows the object.
        """
        attempts.settle(db, attempt.token)
        if copies.where(db, "file_uuid = ?", (stored.file_uuid,)):
            return None
        copy = copies.get(db, attempt.copy_id)
        # A renamed file took its copy along.
        file = files.get(db, copy.file_id if copy else attempt.file_id)
        if file is None:
            return None
        others = copies.of_file(db, file.id)
        planned = next((c for c in others if c.id == attempt.copy_id), None)
        is_busy = any(
            c.status in (CopyStatus.LIVE, CopyStatus.PROCESSING, CopyStatus.SENDING)
            or (c.status is CopyStatus.PLANNED and c.sha256 != attempt.sha256)
            for c in others
        )
        wanted = (
            whole
            and not is_busy
            and file.confirmed_at is None
            and file.sha256 in (None, attempt.sha256)
        )
        kept = Keep.ALWAYS if attempt.is_old(now) else copy.kept if copy else Keep.NO
        late = {
            "token": attempt.token,
            "method": attempt.method,
            "sent_at": attempt.sent_at,
            "in_flight": 0,
            "kept": kept,
        }
        if wanted and planned is not None and planned.status is CopyStatus.PLANNED:
            copies.move(db, planned, CopyStatus.SENDING, **late)
            return self.stored(db, planned.id, stored, now, look=look)
        row = copies.insert(db, _late_copy(file, attempt, now, wanted=wanted, kept=kept))
        if wanted:
            return self.stored(db, row.id, stored, now, look=look)
        policy = self._policies.get(file.folder)
        let_go(
            db,
            row,
            now,
            reason="it was stored after its file had been sent again",
            empties=whole and policy is not None and policy.empties,
            file_uuid=stored.file_uuid,
            remote_file_path=stored.remote_file_path,
        )
        return copies.existing(db, row.id).status

    def _note_sample(self, db: Database, copy: Copy, *, processed: bool = False) -> None:
        """Remember a stored copy while something is to be learned from copies of its kind."""
        kind = attempts.kind_of(copy.method, is_video=copy.is_video, processed=processed)
        if kind not in self._learned and not echo.note_sample(db, copy, processed=processed):
            self._learned.add(kind)

    # Files that cannot be sent as they are

    def unsettle(self, db: Database, file_id: int, again_at: float) -> None:
        """Send a file that changed under our eyes back to settling; no error counts.

        It is hashed anew: where the table, and not the file, is wrong, it would not end otherwise.
        """
        db.conn.execute(
            "UPDATE files SET status = 'settling', due_at = ?, sha256 = NULL "
            "WHERE id = ? AND status = 'ready'",
            (again_at, file_id),
        )

    def unreadable(self, db: Database, file_id: int, reason: str, again_at: float) -> None:
        """Record that a file cannot be read; it is looked at again at `again_at`."""
        db.conn.execute(
            "UPDATE files SET status = 'unreadable', attempts = attempts + 1, error = ?, "
            "due_at = ? WHERE id = ? AND status = 'ready'",
            (storable(reason), again_at, file_id),
        )

    def put_off(self, db: Database, file_id: int, until: float) -> None:
        """Leave a ready file alone until `until`; it waits since it was due first."""
        db.conn.execute(
            "UPDATE files SET waits_since = CASE WHEN waits_since >= changed_at THEN waits_since "
            "ELSE due_at END, attempts = attempts + (status = 'ready'), due_at = ? "
            "WHERE id = ? AND due_at IS NOT NULL",
            (until, file_id),
        )
        db.conn.execute(
            "UPDATE copies SET due_at = ? WHERE file_id = ? AND status = 'planned'",
            (until, file_id),
        )

    # Videos

    def still_processing(
        self, db: Database, copy_id: int, status: str, look_at: float, failure: Failure | None
    ) -> None:
        """Record a look at a video that is not finished, or that got no answer."""
        values = failure.columns() if failure else {"processing_status": status, **NO_FAILURE}
        db.conn.execute(
            "UPDATE copies SET attempts = attempts + 1, due_at = ? WHERE id = ?", (look_at, copy_id)
        )
        copies.update(db, copy_id, **values)

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
        """Record a video's facts and make it live; return the copy's new status."""
        copy = _asked_for(db, copy_id)
        if copy is None:
            return "gone"
        facts: dict[str, Any] = {
            "processing_status": "completed",
            "frame_count": frame_count,
            "video_metadata": video_metadata,
            "remote_file_path": remote_file_path or copy.remote_file_path,
            **NO_FAILURE,
        }
        file = files.existing(db, copy.file_id)
        if copy.status is CopyStatus.RELEASED:
            return self._take_up(db, file, copy, now, facts)
        self._note_sample(db, copy, processed=True)
        return self._arrive(db, file, copy, now, facts)

    def _take_up(
        self, db: Database, file: File, copy: Copy, now: float, facts: Mapping[str, Any]
    ) -> str:
        """Make a released copy live that was just found, if it is still wanted."""
        copies.update(db, copy.id, due_at=None)
        action = advance(db, file.id, self._policies, now)
        if action.act is Act.ASK and action.copy is not None and action.copy.id == copy.id:
            others = [other for other in copies.of_file(db, file.id) if other.id != copy.id]
            empties = self._policies[file.folder].empties
            why = {"reason": action.reason, "evidence": None}
            make_live(db, copy, now, others=others, empties=empties, **why, **facts)
            history.add(db, file, "kept", now, copy=copy, detail=action.reason)
            advance(db, file.id, self._policies, now)
        return copies.existing(db, copy.id).status

    def processing_failed(self, db: Database, copy_id: int, failure: Failure, now: float) -> None:
        """Record that the service could not process a video; its object stays for now."""
        copy = _asked_for(db, copy_id)
        if copy is None:
            return
        file = files.existing(db, copy.file_id)
        if copy.status is CopyStatus.PROCESSING:
            copies.move(db, copy, CopyStatus.FAILED)
        facts = {"processing_status": "failed", **failure.columns()}
        copies.update(db, copy.id, due_at=None, **facts)
        history.add(db, file, "failed", now, copy=copy, detail=failure.message)
        advance(db, file.id, self._policies, now)

    def gone_remotely(self, db: Database, copy_id: int, now: float) -> Verdict | None:
        """Record that a copy is proven gone without our doing: see `remote.record`."""
        copy = copies.get(db, copy_id)
        if copy is not None and copy.status is CopyStatus.RELEASED:
            file = files.existing(db, copy.file_id)
            copies.move(db, copy, CopyStatus.GONE, due_at=None, gone_at=now, reason=UNSEEN)
            history.add(db, file, "lost", now, copy=copy, detail=UNSEEN)
            advance(db, file.id, self._policies, now)
            return None
        return remote.record(db, copy_id, self._policies, now)


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


def _late_copy(file: File, attempt: Attempt, now: float, *, wanted: bool, kept: Keep) -> Copy:
    """Return a row for an object of `file` that turned up late."""
    return Copy(
        id=0,
        file_id=file.id,
        token=attempt.token,
        file_uuid=None,
        status=CopyStatus.SENDING,
        wanted=wanted,
        in_flight=False,
        generation=attempt.generation,
        sha256=attempt.sha256,
        size=attempt.size,
        content_type=attempt.content_type,
        workspace_uuid=attempt.workspace_uuid,
        method=attempt.method,
        due_at=now,
        sent_at=attempt.sent_at,
        created_at=now,
        kept=kept,
    )


def _uuid_of(facts: Mapping[str, Any], copy: Copy) -> dict[str, Any]:
    return {"file_uuid": facts.get("file_uuid", copy.file_uuid)}


def recover(db: Database, now: float) -> int:
    """At start: whatever was in flight is in doubt, or deleted once more. Return how many.

    Whoever was being sent when syncd ended abruptly may be the reason: it is counted, and after
    `QUARANTINE_CRASHES` such ends in a row left alone for `QUARANTINE_SECONDS`.
    """
    db.conn.execute(
        "UPDATE files SET crashes = crashes + 1 WHERE id IN "
        "(SELECT file_id FROM copies WHERE in_flight = 1 AND status = 'sending')"
    )
    suspects = "(SELECT id FROM files WHERE crashes >= :crashes)"
    known = {"crashes": QUARANTINE_CRASHES, "due_at": now + QUARANTINE_SECONDS}
    db.conn.execute(
        "UPDATE files SET due_at = :due_at "
        "WHERE crashes >= :crashes AND due_at IS NOT NULL AND status = 'ready'",
        known,
    )
    db.conn.execute(
        f"UPDATE copies SET due_at = :due_at WHERE status = 'planned' AND file_id IN {suspects}",
        known,
    )
    return abandon_all(db, now)


def abandon_all(db: Database, now: float) -> int:
    """Put in doubt, or have deleted once more, what is in flight while nobody is at work."""
    return db.conn.execute(
        "UPDATE copies SET in_flight = 0, due_at = :now, doubted_at = :now WHERE in_flight = 1",
        {"now": now},
    ).rowcount


def rename_sources(
    db: Database, file_id: int, sha256: str, size: int, workspace_uuid: str | None
) -> list[Copy]:
    """Return other files' copies of that content which a rename could bring along.

    Live ones, and retiring ones whose DELETE was not sent; those of files known missing first.
    Whether the old path is vacant must be seen on the disk.
    """
    found: dict[int, Copy] = {}
    # Of many files with that content none is sorted: the few that are missing, then the first.
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


def _asked_for(db: Database, copy_id: int) -> Copy | None:
    """Return a copy that the service is asked for; None where it is another one's turn by now."""
    copy = copies.get(db, copy_id)
    asked_for = (CopyStatus.PROCESSING, CopyStatus.RELEASED)
    return copy if copy and copy.status in asked_for else None
