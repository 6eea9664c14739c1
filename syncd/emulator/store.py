"""The emulator's index of objects, in SQLite; `contents` keeps their bytes.

An object exists once its row does, and the row is written last. Nothing is synced to the disk: what
was answered survives a kill of the process, but not a power cut. It is an emulator.
"""

import fcntl
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from syncd.emulator.personalities import Order

#: Rows read at a time by `everything`.
_BATCH = 500


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object; `state` is reserved, live or deleted. Times are seconds since the epoch."""

    file_uuid: str
    organization_uuid: str
    workspace_uuid: str | None
    state: str
    content_type: str
    file_type: str
    created_at: float
    updated_at: float
    #: the declared content type, which a presigned PUT must repeat
    declared_type: str | None = None
    #: the whole name as sent
    sent_name: str | None = None
    remote_uri: str | None = None
    #: the file that holds the bytes, and names the folder of the frames
    content: str | None = None
    sha256: str | None = None
    size: int | None = None
    processing_status: str = "completed"
    error_message: str | None = None
    #: JSON
    video_metadata: str | None = None
    deleted_at: float | None = None

    def metadata(self) -> dict[str, Any] | None:
        """Return the facts of a processed video."""
        return json.loads(self.video_metadata) if self.video_metadata else None


_ORDERS: dict[Order, str] = {"newest": "sequence DESC", "oldest": "sequence", "uuid": "file_uuid"}
_NAMES = [field.name for field in fields(StoredObject)]
_COLUMNS = ", ".join(_NAMES)
_values = attrgetter(*_NAMES)
_SCHEMA = f"""
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS objects (sequence INTEGER PRIMARY KEY, {_COLUMNS}, UNIQUE (file_uuid));
CREATE TABLE IF NOT EXISTS workspaces (workspace_uuid PRIMARY KEY, organization_uuid);
"""
_INSERT = f"INSERT INTO objects ({_COLUMNS}) VALUES ({', '.join('?' * len(_NAMES))})"


class ObjectIndex:
    """The emulator's objects, in the folder `data`. Thread-safe.

    Raise OSError when the folder cannot be used or another emulator uses it.
    """

    def __init__(self, data: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        data.mkdir(parents=True, exist_ok=True)
        # The folder's mode also keeps other users from everything inside.
        data.chmod(0o700)
        self._held = open(data / "lock", "wb", opener=private)  # noqa: SIM115
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._held.close()
            raise OSError(f"{data}: another emulator uses this folder") from error
        self._lock = threading.Lock()
        index = data / "objects.db"
        # SQLite gives the files beside it the same mode.
        index.touch(0o600)
        self._db = sqlite3.connect(index, check_same_thread=False, isolation_level=None)
        self._db.executescript(_SCHEMA)
        self._workspaces = dict(self._db.execute("SELECT * FROM workspaces").fetchall())
        self._last = 0.0

    def close(self) -> None:
        """Close the index and release the folder."""
        with self._lock:
            self._db.close()
            self._held.close()

    def now(self) -> float:
        """Return the time, which increases with every call and so orders objects."""
        with self._lock:
            self._last = max(self._clock(), self._last + 1e-6)
            return self._last

    def add(self, *new: StoredObject) -> None:
        """Add objects, all or none."""
        with self._lock:
            self._db.execute("BEGIN")
            self._db.executemany(_INSERT, map(_values, new))
            self._db.execute("COMMIT")

    def get(self, file_uuid: str) -> StoredObject | None:
        """Return an object in any state; None when there never was one."""
        found = self._select("WHERE file_uuid = ?", file_uuid)
        return found[0] if found else None

    def change(
        self, file_uuid: str, *, content_was: str | None = None, **values: Any
    ) -> StoredObject | None:
        """Change an object and return it; return None, and change nothing, if it is deleted.

        With `content_was`, do the same if it has other content by now.
        """
        values["updated_at"] = self.now()
        assignments = ", ".join(f"{name} = ?" for name in values)
        # Fetch all rows: until then, RETURNING keeps its transaction open.
        with self._lock:
            rows = self._db.execute(
                f"UPDATE objects SET {assignments} WHERE file_uuid = ? AND state <> 'deleted' "
                f"AND content IS coalesce(?, content) RETURNING {_COLUMNS}",
                [*values.values(), file_uuid, content_was],
            ).fetchall()
        return StoredObject(*rows[0]) if rows else None

    def page(
        self,
        organization: str,
        *,
        workspace: str | None,
        file_type: str | None,
        limit: int,
        offset: int,
        order: Order = "newest",
    ) -> tuple[list[StoredObject], int]:
        """Return a page of the objects that are not deleted, and the count of all of them."""
        where, values = "WHERE organization_uuid = ? AND state <> 'deleted'", [organization]
        for name, value in (("workspace_uuid", workspace), ("file_type", file_type)):
            if value is not None:
                where += f" AND {name} = ?"
                values.append(value)
        with self._lock:
            count = self._db.execute(f"SELECT count(*) FROM objects {where}", values).fetchone()[0]
        tail = f"{where} ORDER BY {_ORDERS[order]} LIMIT ? OFFSET ?"
        return self._select(tail, *values, limit, offset), int(count)

    def unprocessed(self) -> list[StoredObject]:
        """Return the videos that have bytes and are not processed yet, oldest first."""
        return self._select(
            "WHERE state = 'live' AND processing_status IN ('pending', 'processing') "
            "ORDER BY sequence"
        )

    def unfetched(self) -> list[StoredObject]:
        """Return the remote files that are not fetched yet, oldest first."""
        return self._select(
            "WHERE state = 'reserved' AND remote_uri IS NOT NULL AND processing_status = 'pending' "
            "ORDER BY sequence"
        )

    def everything(self) -> Iterator[list[StoredObject]]:
        """Yield every object ever made, oldest first, in batches."""
        after = 0
        while True:
            with self._lock:
                rows = self._db.execute(
                    f"SELECT sequence, {_COLUMNS} FROM objects WHERE sequence > ? "
                    f"ORDER BY sequence LIMIT {_BATCH}",
                    [after],
                ).fetchall()
            if not rows:
                return
            after = rows[-1][0]
            yield [StoredObject(*row[1:]) for row in rows]

    def owner(self, workspace: str) -> str | None:
        """Return the organization that owns a workspace; None while it is unused."""
        return self._workspaces.get(workspace)

    def claim(self, workspace: str, organization: str) -> None:
        """Give an unused workspace to an organization."""
        if workspace not in self._workspaces:
            self._workspaces[workspace] = organization
            with self._lock:
                self._db.execute("INSERT INTO workspaces VALUES (?, ?)", [workspace, organization])

    def _select(self, tail: str, *values: Any) -> list[StoredObject]:
        with self._lock:
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM objects {tail}", values).fetchall()
        return [StoredObject(*row) for row in rows]

    def taken(self) -> set[str]:
        """Return each `content` that an object has or is reserved to have."""
        query = "SELECT coalesce(content, file_uuid) FROM objects"
        return {row[0] for row in self._db.execute(query)}


def private(path: str, flags: int) -> int:
    """Open a file for `open(..., opener=private)`: a new one has mode 0600."""
    return os.open(path, flags, 0o600)
