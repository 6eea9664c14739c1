"""Load the fixture: as if 0.1.0 had been killed an hour ago, on this machine's disk.

`python -m upgrade.loading BASE STATE DATA URL`: the folders beneath BASE, the state directory, the
directory of an emulator that does not run, and its URL.
"""

import json
import os
import sqlite3
import sys
import time
from dataclasses import fields
from hashlib import sha256
from pathlib import Path

from syncd.emulator.store import ObjectIndex as Remote, StoredObject
from upgrade.contents import KEPT, MANY, TAKEN_AWAY, content

MADE = Path(__file__).parent
AGE_SECONDS = 3600.0


def load_folders(base):
    """Write the files as 0.1.0 left them: too many of one folder are missing."""
    for folder, names in (("one", [*KEPT, "doubt.txt"]), ("many", set(MANY) - set(TAKEN_AWAY))):
        for name in names:
            path = base / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content(name))
    (base / "one" / "clip.mp4").write_bytes((MADE / "clip.mp4").read_bytes())


def load_state(base, state, url):
    """Load the ledger, moved to these folders, this service and this time."""
    state.mkdir(mode=0o700)
    db = sqlite3.connect(state / "state.db")
    db.executescript((MADE / "state.sql").read_text())
    (last,) = db.execute("SELECT max(sent_at) FROM copies").fetchone()
    later = time.time() - AGE_SECONDS - last
    _shift(db, later)
    for name in ("one", "many"):
        path = bytes(base / name)
        identity = str(os.statvfs(path).f_fsid), str((base / name).stat().st_ino)
        db.execute(
            "UPDATE folders SET path = ?, filesystem = ?, inode = ? WHERE name = ?",
            (path, *identity, name),
        )
    for file_id, folder, path in db.execute("SELECT id, folder, path FROM files").fetchall():
        if (there := base / folder / os.fsdecode(path)).exists():
            seen = there.stat()
            db.execute(
                "UPDATE files SET inode = ?, mtime_ns = ?, ctime_ns = ? WHERE id = ?",
                (seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns, file_id),
            )
    db.execute("UPDATE service SET value = ? WHERE key = 'base_url'", (url,))
    db.commit()
    db.close()
    known = json.loads((MADE / "instance.json").read_text())
    known["bound_to"]["base_url"] = url
    (state / "instance.json").write_text(json.dumps(known))
    return later


def _shift(db, later):
    tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in tables:
        for _, column, kind, *_ in db.execute(f"PRAGMA table_info({table})").fetchall():
            if kind == "REAL":
                db.execute(f"UPDATE {table} SET {column} = {column} + {later} WHERE {column} > 1e9")


def load_objects(data, later):
    """Load what 0.1.0 had stored into an emulator's folder."""
    bodies = {sha256(content(name)).digest(): content(name) for name in (*KEPT, *MANY, "doubt.txt")}
    video = (MADE / "clip.mp4").read_bytes()
    bodies[sha256(video).digest()] = video
    (data / "contents").mkdir(parents=True, exist_ok=True)
    remote = Remote(data)
    names = {field.name for field in fields(StoredObject)}
    for line in (MADE / "objects.jsonl").read_text().splitlines():
        row = {name: value for name, value in json.loads(line).items() if name in names}
        row["created_at"] += later
        row["updated_at"] += later
        remote.add(StoredObject(**row))
        (data / "contents" / row["content"]).write_bytes(bodies[bytes.fromhex(row["sha256"])])
    remote.close()


def main(base, state, data, url):
    load_folders(Path(base))
    load_objects(Path(data), load_state(Path(base), Path(state), url))


if __name__ == "__main__":
    main(*sys.argv[1:])
