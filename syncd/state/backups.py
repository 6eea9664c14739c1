"""Copies of the database beside it: made daily and before a migration, put back after damage.

They are on the same disk: they help against a damaged database, not against a lost disk.
"""

import logging
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

from syncd.exceptions import StateError

log = logging.getLogger(__name__)

DIRECTORY_NAME = "backups"
EVERY_SECONDS = 86_400.0
KEPT = 2
#: What belongs to a database beside its own file.
_SUFFIXES = ("", "-wal", "-shm")
_NAME = re.compile(r"state-\d{8}T\d{6}Z\.db\Z")


def is_due(directory: Path, now: float) -> bool:
    """Say whether the newest backup of the state in `directory` is a day old, or none is there."""
    newest = next(iter(_all(directory)), None)
    try:
        return newest is None or now - newest.stat().st_mtime >= EVERY_SECONDS
    except FileNotFoundError:
        return True


def make(database: Path, now: float) -> Path | None:
    """Back the database up and return the new file; the newest two are kept.

    None, with a warning, where there is too little room. StateError where it failed otherwise.
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


def put_back(
    database: Path, now: float, *, is_whole: Callable[[Path], bool]
) -> tuple[Path, Path | None]:
    """Set a damaged database aside and put the newest whole backup in its place.

    Return where the damaged one is now, and the backup; None where no backup is whole. Before
    this process has a connection to `database`.
    """
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = database.with_name(f"damaged-{stamp}")
    try:
        aside.mkdir(mode=0o700)
        for part in _parts(database):
            with suppress(FileNotFoundError):
                part.rename(aside / part.name)
        good = next((backup for backup in _all(database.parent) if is_whole(backup)), None)
        if good is not None:
            draft = database.with_suffix(".new")
            shutil.copyfile(good, draft)
            _sync(draft)
            draft.rename(database)
        _sync(database.parent)
    except OSError as error:
        raise StateError(
            f"{database} is damaged, and it cannot be set aside: {error.strerror or error}"
        ) from error
    return aside, good


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
