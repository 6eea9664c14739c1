"""Copies of the database beside it, made daily and before a migration; a person restores them.

They are on the same disk: they help against a damaged database, not against a lost disk.
"""

import logging
import os
import re
import shlex
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from syncd.exceptions import StateError

log = logging.getLogger(__name__)

DIRECTORY_NAME = "backups"
EVERY_SECONDS = 86_400.0
KEPT = 2
#: Suffixes of the files that belong to a database.
_SUFFIXES = ("", "-wal", "-shm")
_NAME = re.compile(r"state-\d{8}T\d{6}Z\.db\Z")


def is_due(directory: Path, now: float) -> bool:
    """Return whether the state in `directory` has no backup younger than a day."""
    newest = next(iter(_all(directory)), None)
    try:
        return newest is None or now - newest.stat().st_mtime >= EVERY_SECONDS
    except FileNotFoundError:
        return True


def make(database: Path, now: float) -> Path | None:
    """Back the database up and return the new file; keep the newest two.

    Return None, with a warning, when the disk has too little room. Raise StateError on any other
    failure.
    """
    directory = database.parent / DIRECTORY_NAME
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        size = sum(part.stat().st_size for part in _parts(database) if part.exists())
        if shutil.disk_usage(directory).free < 2 * size:
            log.warning("no backup of %s: the disk has too little room", database)
            return None
        name = datetime.fromtimestamp(now, UTC).strftime("state-%Y%m%dT%H%M%SZ.db")
        for unfinished in directory.glob("*.new*"):
            unfinished.unlink()
        draft = directory / f"{name}.new"
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as db:
            db.execute("VACUUM INTO ?", (os.fspath(draft),))
        # The age counts from what it holds, on the clock that asks for it.
        os.utime(draft, (now, now))
        _sync(draft)
        draft.rename(directory / name)
        _sync(directory)
        for old in _all(database.parent)[KEPT:]:
            old.unlink()
    except (OSError, sqlite3.Error) as error:
        raise StateError(f"cannot back up {database} to {directory}: {error}") from error
    return directory / name


def how_to_restore(database: Path, now: float) -> str:
    """Return the commands that set `database` aside and put its newest backup in its place."""
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = shlex.quote(os.fspath(database.with_name(f"damaged-{stamp}")))
    place = shlex.quote(os.fspath(database))
    set_aside = f"mkdir {aside} && mv {place}* {aside}/"
    if backup := next(iter(_all(database.parent)), None):
        return (
            "stop syncd, put the newest backup in its place with "
            f"`{set_aside} && cp -p {shlex.quote(os.fspath(backup))} {place}`, and start syncd: "
            "it sends and deletes nothing until `syncd adopt` has looked up what the backup lacks"
        )
    return (
        f"there is no backup; stop syncd, set the database aside with `{set_aside}`, and start "
        "syncd: it sends and deletes nothing until `syncd adopt` has rebuilt the ledger from the "
        "remote listing"
    )


def _all(directory: Path) -> list[Path]:
    """Return the backups of the state in `directory`, the newest first."""
    try:
        names = os.listdir(directory / DIRECTORY_NAME)  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [directory / DIRECTORY_NAME / n for n in sorted(names, reverse=True) if _NAME.match(n)]


def _parts(database: Path) -> list[Path]:
    return [database.with_name(database.name + suffix) for suffix in _SUFFIXES]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
