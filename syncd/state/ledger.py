"""The ledger's verbs: each one transaction around a call, before it or after it.

| step    | committed before                | call    | committed after      | cut in between |
|---------|---------------------------------|---------|----------------------|----------------|
| upload  | `begin`: sending, token, sha256 | POST    | `stored`             | in doubt       |
| poll    | nothing                         | GET     | `completed`, ...     | asked again    |

The verbs before an upload are in `syncd.state.intents`, those after it in `syncd.state.outcomes`;
here are those for uploads that failed or got no answer, and for files that cannot be sent. Modules
of their own have `syncd.state.confirming`, `syncd.state.deletions` and `syncd.state.after_upload`.

The verbs run on the writer's thread. Each reads the rows anew, decides on what they say then, and
names the status that it relies on where it updates a row. The recipe for a verb is in the
architecture page.
"""

import json
from collections.abc import Collection, Sequence

from syncd.state import attempts, copies, files, history
from syncd.state.apply_plan import advance, retire_or_release
from syncd.state.attempts import Attempt
from syncd.state.backoff import backoff_seconds, refusal_seconds
from syncd.state.copies import Copy
from syncd.state.database.connection import Database
from syncd.state.files import File
from syncd.state.intents import (
    PROBE,
    Begun,
    Declined,
    Elsewhere,
    Intent,
    Intents,
    Offer,
    rename_sources,
)
from syncd.state.lifecycle import CopyStatus, Keep
from syncd.state.outcomes import Arrival, Outcomes, Progress, Stored
from syncd.state.texts import storable
from syncd.state.verbs import NO_FAILURE, Failure

__all__ = [
    "NO_FAILURE",
    "PROBE",
    "Arrival",
    "Begun",
    "Declined",
    "Elsewhere",
    "Failure",
    "Intent",
    "Ledger",
    "Offer",
    "Progress",
    "Stored",
    "put_all_in_doubt",
    "recover",
    "rename_sources",
]

#: Abrupt ends in a row, each while a file was being sent, after which it is left alone for a while.
QUARANTINE_CRASHES, QUARANTINE_SECONDS = 3, 3600.0
#: Statuses with which the service refuses content, where the answer is its own error envelope.
REFUSES_CONTENT = frozenset({400, 413, 415, 422})
#: Refusals of one file, and the seconds that lie between the first and the last of them, after
#: which it counts as refused though nothing says that its content is the cause; then its rest.
MANY_REFUSALS, MANY_REFUSALS_SECONDS, REFUSED_SECONDS = 5, 3600.0, 86_400.0


class Ledger(Intents, Outcomes):
    """All verbs around an upload."""

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
            self._retire_reserved(db, copy, now)
        copies.move(db, copy, CopyStatus.PLANNED, due_at=max(again_at or now, now), **values)
        advance(db, copy.file_id, self.policies, now)

    def _retire_reserved(self, db: Database, copy: Copy, now: float) -> None:
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

    def put_in_doubt(self, db: Database, file_id: int, now: float) -> None:
        """Put a file's requests in doubt whose outcome could not be recorded."""
        db.conn.execute(
            "UPDATE copies SET in_flight = 0, due_at = :now, doubted_at = :now "
            "WHERE file_id = :file AND in_flight = 1",
            {"now": now, "file": file_id},
        )

    def refused_for_good(self, db: Database, copy_id: int, failure: Failure, now: float) -> None:
        """Record that the service refused this content for good."""
        copy = copies.existing(db, copy_id)
        file = files.existing(db, copy.file_id)
        copies.move(db, copy, CopyStatus.FAILED, due_at=None, **failure.columns())
        history.add(db, file, "failed", now, copy=copy, detail=failure.message)
        advance(db, file.id, self.policies, now)

    def judge_refusal(
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
            self._retire_reserved(db, copy, now)
        self.refused_for_good(db, copy.id, failure, now)
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
            advance(db, copy.file_id, self.policies, now)
        return len(again)

    def absent(self, db: Database, looked_for: Copy, now: float) -> None:
        """Record that a copy in doubt was looked for, and not found.

        Still wanted, it is sent again under another token; else it is gone. The request that got
        no answer is remembered: it may be carried out late. Nothing changes if the copy has gone
        on since it was `looked_for`: a person may have had it sent again.
        """
        copy = copies.existing(db, looked_for.id)
        if not copy.in_doubt or copy.token != looked_for.token:
            return
        file = files.existing(db, copy.file_id)
        attempts.leave(db, copy, now)
        if copy.wanted:
            due_at = now + (QUARANTINE_SECONDS if file.crashes >= QUARANTINE_CRASHES else 0)
            copies.move(db, copy, CopyStatus.PLANNED, due_at=due_at)
        else:
            copies.move(
                db, copy, CopyStatus.GONE, due_at=None, gone_at=now, reason="it never arrived"
            )
        advance(db, file.id, self.policies, now)

    def attempt_found(self, db: Database, copy_id: int, attempt: Attempt, now: float) -> None:
        """Record that the object of one of a doubtful copy's attempts was found.

        Another attempt of the copy that is still unanswered stays so.
        """
        copy = copies.existing(db, copy_id)
        attempts.forget(db, attempt.token)
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
        """Record what a late look found of an unanswered attempt; return its status.

        If nothing of its file is live or on its way, it becomes the copy; else it retires, as does
        a record without content. None if the ledger knows the object.
        """
        attempts.forget(db, attempt.token)
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
        policy = self.policies.get(file.folder)
        retire_or_release(
            db,
            row,
            now,
            reason="it was stored after its file had been sent again",
            empties=whole and policy is not None and policy.empties,
            file_uuid=stored.file_uuid,
            remote_file_path=stored.remote_file_path,
        )
        return copies.existing(db, row.id).status

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
        """Leave a file alone until `until`; its wait counts from when it was first due."""
        self.put_off_all(db, [file_id], until)

    def put_off_all(self, db: Database, file_ids: Sequence[int], until: float) -> None:
        """Leave files alone until `until`; the wait of each counts from when it was first due."""
        wanted = until, json.dumps(file_ids)
        db.conn.execute(
            "UPDATE files SET waits_since = CASE WHEN waits_since >= changed_at THEN waits_since "
            "ELSE due_at END, attempts = attempts + (status = 'ready'), due_at = ? "
            "WHERE id IN (SELECT value FROM json_each(?)) AND due_at IS NOT NULL",
            wanted,
        )
        db.conn.execute(
            "UPDATE copies SET due_at = ? WHERE file_id IN (SELECT value FROM json_each(?)) "
            "AND status = 'planned'",
            wanted,
        )


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


def recover(db: Database, now: float) -> int:
    """At start: whatever was in flight is in doubt, or deleted once more. Return how many.

    A file that was being sent when syncd ended abruptly may be the reason: this is counted, and
    after `QUARANTINE_CRASHES` such ends in a row the file is left alone for `QUARANTINE_SECONDS`.
    """
    db.conn.execute(
        "UPDATE files SET crashes = crashes + 1 WHERE id IN "
        "(SELECT file_id FROM copies WHERE in_flight = 1 AND status = 'sending')"
    )
    suspects = "(SELECT id FROM files WHERE crashes >= :crashes)"
    parameters = {"crashes": QUARANTINE_CRASHES, "due_at": now + QUARANTINE_SECONDS}
    db.conn.execute(
        "UPDATE files SET due_at = :due_at "
        "WHERE crashes >= :crashes AND due_at IS NOT NULL AND status = 'ready'",
        parameters,
    )
    db.conn.execute(
        f"UPDATE copies SET due_at = :due_at WHERE status = 'planned' AND file_id IN {suspects}",
        parameters,
    )
    return put_all_in_doubt(db, now)


def put_all_in_doubt(db: Database, now: float) -> int:
    """Put in doubt, or have deleted once more, what is in flight while nobody is at work."""
    return db.conn.execute(
        "UPDATE copies SET in_flight = 0, due_at = :now, doubted_at = :now WHERE in_flight = 1",
        {"now": now},
    ).rowcount
