"""What the emulator holds: an index in SQLite, the bytes in files beside it.

An object is answered for only once it is in both; what a killed process left half-written is
removed at the next start. A power cut may cost the last objects: it is an emulator.
"""

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

_COLUMNS = (
    "file_uuid TEXT PRIMARY KEY, organization_uuid TEXT, workspace_uuid TEXT, state TEXT, "
    "sha256 TEXT, size INTEGER, content_type TEXT, file_type TEXT, local_file_path TEXT, "
    "remote_file_path TEXT, remote_uri TEXT, processing_status TEXT, error_message TEXT, "
    "video_metadata TEXT, frame_count INTEGER, created_at REAL, updated_at REAL, deleted_at REAL"
)


@dataclass(frozen=True, slots=True)
class Stored:
    """One object; `state` is reserved, live or deleted. Times in seconds since the epoch."""

    file_uuid: str
    organization_uuid: str
    workspace_uuid: str | None
    state: str
    content_type: str
    file_type: str
    created_at: float
    updated_at: float
    sha256: str | None = None
    size: int | None = None
    local_file_path: str | None = None
    remote_file_path: str | None = None
    remote_uri: str | None = None
    processing_status: str = "completed"
    error_message: str | None = None
    video_metadata: str | None = None
    frame_count: int | None = None
    deleted_at: float | None = None


class Store:
    """The emulator's objects. Thread-safe."""

    def __init__(self, data: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._data = data
        self._lock = threading.Lock()
        for folder in ("blobs", "frames", "parts"):
            (data / folder).mkdir(parents=True, exist_ok=True)
        for part in (data / "parts").iterdir():
            part.unlink()
        self._db = sqlite3.connect(data / "index.db", check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute(f"CREATE TABLE IF NOT EXISTS objects ({_COLUMNS})")
        self._db.execute(
            "CREATE INDEX IF NOT EXISTS newest ON objects (organization_uuid, created_at DESC)"
        )
        self._last = 0.0

    def close(self) -> None:
        """Close the index."""
        with self._lock:
            self._db.close()

    def now(self) -> float:
        """Return the time, later with each call: so that the newest is always told."""
        with self._lock:
            self._last = max(self.clock(), self._last + 1e-6)
            return self._last

    def part(self) -> Path:
        """Return a path for bytes that are still arriving."""
        return self._data / "parts" / uuid4().hex

    def blob(self, file_uuid: str) -> Path:
        """Return where an object's bytes are."""
        return self._data / "blobs" / file_uuid

    def frames(self, file_uuid: str) -> Path:
        """Return where a video's frames are."""
        return self._data / "frames" / file_uuid

    def keep(self, part: Path, stored: Stored) -> None:
        """Give `part`'s bytes to an object, and answer for it from now on."""
        os.replace(part, self.blob(stored.file_uuid))
        self.put(stored)

    def put(self, stored: Stored) -> None:
        """Write an object's row."""
        values = asdict(stored)
        names = ", ".join(values)
        marks = ", ".join("?" * len(values))
        with self._lock:
            self._db.execute(
                f"INSERT OR REPLACE INTO objects ({names}) VALUES ({marks})", tuple(values.values())
            )

    def get(self, file_uuid: str) -> Stored | None:
        """Return an object, whatever its state; None where there never was one."""
        return next(self._select("WHERE file_uuid = ?", (file_uuid,)), None)

    def change(self, file_uuid: str, **values: Any) -> Stored | None:
        """Change an object's fields, unless it is deleted; return it."""
        known = self.get(file_uuid)
        if known is None or known.state == "deleted":
            return None
        changed = replace(known, updated_at=self.now(), **values)
        self.put(changed)
        return changed

    def page(
        self,
        organization: str,
        *,
        workspace: str | None,
        file_type: str | None,
        limit: int,
        offset: int,
    ) -> tuple[list[Stored], int]:
        """Return a page of what is not deleted, newest first, and the count of all."""
        where, values = "WHERE organization_uuid = ? AND state <> 'deleted'", [organization]
        for name, value in (("workspace_uuid", workspace), ("file_type", file_type)):
            if value is not None:
                where += f" AND {name} = ?"
                values.append(value)
        with self._lock:
            count = self._db.execute(f"SELECT count(*) FROM objects {where}", values).fetchone()[0]
        tail = f"{where} ORDER BY created_at DESC, file_uuid LIMIT {limit} OFFSET {offset}"
        return list(self._select(tail, tuple(values))), int(count)

    def unprocessed(self) -> list[Stored]:
        """Return what a restart has to process again, oldest first."""
        return list(
            self._select(
                "WHERE processing_status IN ('pending', 'processing') AND state <> 'deleted' "
                "AND (state = 'live' OR remote_uri IS NOT NULL) ORDER BY created_at",
                (),
            )
        )

    def everything(self) -> Iterator[Stored]:
        """Return every object ever made, oldest first."""
        return self._select("ORDER BY created_at", ())

    def _select(self, tail: str, values: tuple[Any, ...]) -> Iterator[Stored]:
        with self._lock:
            rows = self._db.execute(f"SELECT * FROM objects {tail}", values).fetchall()
        return (Stored(**dict(row)) for row in rows)


def metadata(stored: Stored) -> dict[str, Any] | None:
    """Return a video's facts."""
    return json.loads(stored.video_metadata) if stored.video_metadata else None
