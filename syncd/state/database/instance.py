"""The instance file: whose state this is, what it belongs to, and how far its ledger had come.

It lies beside the database. A database that was lost or replaced by a backup is therefore noticed
before anything is sent or deleted, and it is rebuilt only from the service and the organization
that it belonged to.
"""

import json
import logging
from pathlib import Path
from typing import NamedTuple

from syncd.disk import sync_directory, write_private
from syncd.state.database.connection import Database

log = logging.getLogger(__name__)

FILE_NAME = "instance.json"
#: More than the ledger's progress can be ahead of the file, even after a day with a full disk.
UNSEEN = 1_000_000_000


class Instance(NamedTuple):
    """An instance's id, its ledger's progress when the file was written, what it belongs to."""

    id: str
    progress: int
    #: the facts that bind the ledger to a service, an organization and a key, as far as known
    bound_to: dict[str, str]
    #: what authenticates its tokens; None if an older syncd wrote the file
    secret: str | None = None


def exists(directory: Path) -> bool:
    """Return whether `directory` has such a file, readable or not."""
    return (directory / FILE_NAME).exists()


def read(directory: Path) -> Instance | None:
    """Return what the file in `directory` says; None when no file can be read."""
    try:
        known = json.loads((directory / FILE_NAME).read_text("utf-8"))
        bound_to = {str(key): str(value) for key, value in known.get("bound_to", {}).items()}
        secret = known.get("secret")
        return Instance(
            str(known["id"]), int(known["progress"]), bound_to, str(secret) if secret else None
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("%s cannot be read and is written anew: %s", directory / FILE_NAME, error)
        return None


def write(directory: Path, instance: Instance) -> None:
    """Replace the file, durably; raise OSError when that fails."""
    write_private(directory / FILE_NAME, json.dumps(instance._asdict()), durable=True)


def forget(directory: Path) -> None:
    """Remove the file, durably; raise OSError when that fails."""
    (directory / FILE_NAME).unlink(missing_ok=True)
    sync_directory(directory)


def progress(db: Database) -> int:
    """Return how many copies and lines of history the ledger has ever had; this only grows."""
    return int(
        db.value(
            "SELECT coalesce(sum(seq), 0) FROM sqlite_sequence WHERE name IN ('copies', 'history')"
        )
    )


def advance_to(db: Database, least: int) -> None:
    """Raise the progress to at least `least`, so that no earlier database passes for this one."""
    missing = least - progress(db)
    if missing <= 0:
        return
    updated = db.conn.execute(
        "UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'history'", (missing,)
    ).rowcount
    if not updated:
        db.conn.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('history', ?)", (missing,))
