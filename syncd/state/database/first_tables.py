"""The tables as of version 1, which the first migration makes and the later ones change."""

from syncd.state.database.schema import APPLICATION_ID
from syncd.state.lifecycle import CopyStatus, FileStatus, Verdict, arrows_trigger


def values_of(statuses: type[FileStatus] | type[CopyStatus] | type[Verdict]) -> str:
    """Return the values of an enumeration as SQL lists them."""
    return ", ".join(f"'{status}'" for status in statuses)


STATEMENTS = (
    """
    CREATE TABLE service (
      key TEXT PRIMARY KEY, value TEXT NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """
    CREATE TABLE folders (
      name TEXT PRIMARY KEY,
      path BLOB NOT NULL,
      filesystem TEXT, inode TEXT,
      first_scan_at REAL, last_scan_at REAL, last_scan_seconds REAL,
      directories INTEGER NOT NULL DEFAULT 0
    ) STRICT""",
    f"""
    CREATE TABLE files (
      id INTEGER PRIMARY KEY,
      folder TEXT NOT NULL REFERENCES folders(name),
      path BLOB NOT NULL, parent BLOB NOT NULL,
      status TEXT NOT NULL CHECK (status IN ({values_of(FileStatus)})),
      inode INTEGER, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER,
      generation INTEGER NOT NULL DEFAULT 1,
      sha256 TEXT, hashed_generation INTEGER,
      changed_at REAL NOT NULL,
      missing_since REAL, removal_seen INTEGER NOT NULL DEFAULT 0, confirmed_at REAL,
      due_at REAL,
      attempts INTEGER NOT NULL DEFAULT 0, error TEXT,
      UNIQUE (folder, path)
    ) STRICT""",
    "CREATE INDEX files_parent ON files (folder, parent)",
    "CREATE INDEX files_due ON files (status, due_at) WHERE due_at IS NOT NULL",
    "CREATE INDEX files_unhashed ON files (size) WHERE sha256 IS NULL",
    "CREATE INDEX files_missing ON files (folder, missing_since) WHERE status = 'missing'",
    f"""
    CREATE TABLE copies (
      id INTEGER PRIMARY KEY AUTOINCREMENT,
      file_id INTEGER NOT NULL REFERENCES files(id),
      token TEXT NOT NULL, file_uuid TEXT,
      status TEXT NOT NULL CHECK (status IN ({values_of(CopyStatus)})),
      wanted INTEGER NOT NULL DEFAULT 1, in_flight INTEGER NOT NULL DEFAULT 0,
      generation INTEGER NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL,
      content_type TEXT NOT NULL, workspace_uuid TEXT, method TEXT NOT NULL,
      sent_name TEXT, remote_file_path TEXT,
      attempts INTEGER NOT NULL DEFAULT 0, due_at REAL,
      sent_at REAL, delete_sent_at REAL, reason TEXT,
      error_status INTEGER, error_code TEXT, error_message TEXT, error_request_id TEXT,
      processing_status TEXT, frame_count INTEGER, video_metadata TEXT,
      created_at REAL NOT NULL, stored_at REAL, live_at REAL, gone_at REAL
    ) STRICT""",
    "CREATE UNIQUE INDEX copies_one_live ON copies (file_id) WHERE status = 'live'",
    "CREATE UNIQUE INDEX copies_uuid ON copies (file_uuid) WHERE file_uuid IS NOT NULL",
    "CREATE INDEX copies_file ON copies (file_id)",
    "CREATE INDEX copies_token ON copies (token)",
    "CREATE INDEX copies_due ON copies (status, due_at) WHERE due_at IS NOT NULL",
    "CREATE INDEX copies_open ON copies (status) WHERE status NOT IN ('live', 'gone')",
    "CREATE INDEX copies_content ON copies (sha256, status)",
    arrows_trigger(),
    """
    CREATE TABLE holds (
      id INTEGER PRIMARY KEY AUTOINCREMENT,
      stops TEXT NOT NULL CHECK (stops IN ('deletions', 'sending')),
      scope TEXT NOT NULL, reason TEXT NOT NULL,
      message TEXT NOT NULL, affects INTEGER NOT NULL DEFAULT 0,
      first TEXT NOT NULL DEFAULT '[]', commands TEXT NOT NULL DEFAULT '[]',
      since REAL NOT NULL, released_at REAL
    ) STRICT""",
    """
    CREATE UNIQUE INDEX holds_open ON holds (stops, scope, reason)
      WHERE released_at IS NULL""",
    """
    CREATE TABLE history (
      id INTEGER PRIMARY KEY AUTOINCREMENT,
      at REAL NOT NULL, folder TEXT NOT NULL, path BLOB NOT NULL,
      event TEXT NOT NULL, file_uuid TEXT, detail TEXT NOT NULL DEFAULT ''
    ) STRICT""",
    "CREATE INDEX history_path ON history (folder, path, at)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    "PRAGMA user_version = 1",
)
