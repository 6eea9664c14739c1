"""Trying again now: what a person asks for, or a pass that will not wait."""

from collections.abc import Collection, Iterable, Iterator

from syncd.state import attempts, copies, files, history, holds
from syncd.state.apply_plan import Policies, advance
from syncd.state.copies import Copy
from syncd.state.database.connection import Database
from syncd.state.files import File
from syncd.state.ledger import NO_FAILURE, QUARANTINE_CRASHES
from syncd.state.lifecycle import CopyStatus, FileStatus

#: Copies that wait for their next try; the service's own pace for videos is not in it.
_WAITING = (
    "in_flight = 0 AND status IN ('planned', 'sending', 'retiring') "
    "AND (due_at > :now OR (:all_planned AND status = 'planned'))"
)
_WAITING_FILES = "due_at > :now AND (status = 'unreadable' OR (status = 'ready' AND attempts > 0))"


def waiting(db: Database) -> Iterator[tuple[str, bytes]]:
    """Yield the folder and path of each file of which something is to be done, or failed."""
    rows = db.conn.execute(
        "SELECT folder, path FROM files WHERE id IN ("
        "SELECT file_id FROM copies WHERE status NOT IN ('live', 'gone') AND status <> 'released' "
        "UNION SELECT id FROM files WHERE status = 'unreadable' "
        "UNION SELECT id FROM files WHERE status = 'ready' AND due_at IS NOT NULL "
        "UNION SELECT id FROM files WHERE crashes > 0)"
    )
    return ((row["folder"], row["path"]) for row in rows)


def forget_backoff(db: Database, now: float) -> None:
    """Let failed work be tried now, unless the service itself asked to wait.

    A file over which syncd ended abruptly again and again keeps its rest: only a person ends that.
    """
    db.conn.execute(
        "UPDATE copies SET due_at = ?, attempts = 0 WHERE status = 'planned' "
        "AND status NOT IN ('live', 'gone') "
        "AND (error_status IS NULL OR error_status NOT IN (429, 503)) "
        "AND file_id NOT IN (SELECT id FROM files WHERE crashes >= ?)",
        (now, QUARANTINE_CRASHES),
    )
    # Whether an upload arrived is asked again at once: a look costs next to nothing.
    db.conn.execute(
        "UPDATE copies SET due_at = ? WHERE status = 'sending' "
        "AND status NOT IN ('live', 'gone') AND in_flight = 0 AND due_at > ?",
        (now, now),
    )
    db.conn.execute("UPDATE files SET due_at = ? WHERE status = 'unreadable'", (now,))


def try_again(
    db: Database, now: float, *, workspace: str | None, refused: Collection[int] | None
) -> None:
    """Let files that `workspace` refused be tried now; all of them where `refused` is None."""
    waiting = copies.where(
        db,
        "status = 'planned' AND status NOT IN ('live', 'gone') AND workspace_uuid IS ? "
        "AND refused_at IS NOT NULL AND due_at > ?",
        (workspace, now),
    )
    for copy in waiting:
        if refused is None or copy.file_id in refused:
            copies.update(db, copy.id, due_at=now)


def try_unanswered_again(db: Database, now: float) -> None:
    """Let all be tried now that failed because the service or its storage did not work."""
    db.conn.execute(
        "UPDATE copies SET due_at = :now WHERE status = 'planned' "
        "AND status NOT IN ('live', 'gone') AND due_at > :now AND error_message IS NOT NULL "
        "AND refused_at IS NULL AND (error_status IS NULL OR error_status >= 500) "
        "AND file_id NOT IN (SELECT id FROM files WHERE crashes >= :crashes)",
        {"now": now, "crashes": QUARANTINE_CRASHES},
    )


class Retrying:
    """Takes files out of their back-off, and those that failed for good out of their rest."""

    def __init__(self, *, policies: Policies) -> None:
        self.policies = policies

    def all_waiting(
        self, db: Database, now: float, *, failed: bool, all_planned: bool = False
    ) -> int:
        """Let all that waits for its next try be due now; return how many files that are.

        With `failed`, files that were refused for good or failed in processing are planned again,
        too. `all_planned` counts every planned copy as waiting, as while a quota is used up.
        """
        open_copies = f"{_WAITING} AND status NOT IN ('live', 'gone')"
        tried = db.value(
            f"SELECT count(*) FROM (SELECT file_id FROM copies WHERE {open_copies} "
            f"UNION SELECT id FROM files WHERE {_WAITING_FILES} UNION "
            "SELECT id FROM files WHERE crashes > 0)",
            {"now": now, "all_planned": all_planned},
        )
        db.conn.execute(
            f"UPDATE copies SET due_at = :now, attempts = 0 WHERE {open_copies}",
            {"now": now, "all_planned": all_planned},
        )
        db.conn.execute(f"UPDATE files SET due_at = :now WHERE {_WAITING_FILES}", {"now": now})
        db.conn.execute("UPDATE files SET crashes = 0 WHERE crashes > 0")
        if failed:
            failures = copies.where(db, "status = 'failed' AND status NOT IN ('live', 'gone')")
            tried += sum(self.file(db, file_id, now) for file_id in {c.file_id for c in failures})
        return int(tried)

    def file(self, db: Database, file_id: int, now: float) -> bool:
        """Let one file be tried now, whatever it waits for; return whether it waited.

        An upload that is held because nobody can tell whether it arrived is sent again: naming the
        file means to accept the risk of a second copy.
        """
        file = files.get(db, file_id)
        if file is None:
            return False
        every = copies.of_file(db, file_id)
        tried = [self._copy(db, file, copy, now) for copy in every if not copy.in_flight]
        if file.status is FileStatus.UNREADABLE or (
            file.status is FileStatus.READY and file.due_at is not None
        ):
            files.update(db, file_id, due_at=now, attempts=0)
            tried.append(True)
        if file.crashes:
            files.update(db, file_id, crashes=0)
        advance(db, file_id, self.policies, now)
        return any(tried)

    def files(self, db: Database, places: Iterable[tuple[str, bytes]], now: float) -> int:
        """Let the files at these folders and paths be tried now; return how many waited."""
        known = [files.find(db, folder, path) for folder, path in places]
        return sum(self.file(db, file.id, now) for file in known if file)

    def _copy(self, db: Database, file: File, copy: Copy, now: float) -> bool:
        match copy.status:
            case CopyStatus.PLANNED | CopyStatus.PROCESSING | CopyStatus.RETIRING:
                copies.update(db, copy.id, due_at=now, attempts=0)
            case CopyStatus.SENDING if self._end_echo_hold(db, copy, now):
                attempts.leave(db, copy, now)
                copies.move(db, copy, CopyStatus.PLANNED, due_at=now, attempts=0, **NO_FAILURE)
                history.add(db, file, "retried", now, copy=copy, detail="sent again on request")
            case CopyStatus.SENDING:
                copies.update(db, copy.id, due_at=now)
            case CopyStatus.FAILED if copy.file_uuid is None:
                copies.move(db, copy, CopyStatus.PLANNED, due_at=now, attempts=0, **NO_FAILURE)
            case CopyStatus.FAILED if (
                file.sha256 == copy.sha256 and file.present and file.folder in self.policies
            ):
                self._plan_anew(db, file, copy, now)
            case _:
                return False
        return True

    def _end_echo_hold(self, db: Database, copy: Copy, now: float) -> bool:
        """End the hold on an upload that may neither be found nor sent; return if there was one."""
        return copy.file_uuid is None and holds.release(
            db, stops="sending", scope=f"copy {copy.id}", reason=holds.NO_ECHO, now=now
        )

    def _plan_anew(self, db: Database, file: File, failed: Copy, now: float) -> None:
        """Plan a second copy of what the service stored and could not process.

        The failed object stays until the new one is live.
        """
        if any(copy.status is CopyStatus.PLANNED for copy in copies.of_file(db, file.id)):
            return
        copies.insert(
            db,
            Copy(
                id=0,
                file_id=file.id,
                # Each request gets a token of its own when it is begun.
                token=failed.token,
                file_uuid=None,
                status=CopyStatus.PLANNED,
                wanted=True,
                in_flight=False,
                generation=file.generation,
                sha256=failed.sha256,
                size=failed.size,
                content_type=failed.content_type,
                workspace_uuid=self.policies[file.folder].workspace_uuid,
                method=failed.method,
                due_at=now,
                created_at=now,
            ),
        )
