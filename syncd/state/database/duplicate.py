"""A copy of the state elsewhere, on which something is tried that the state must not see."""

import shutil
from contextlib import closing, suppress
from pathlib import Path

from syncd.exceptions import NoStateError
from syncd.state.database import instance, owner, schema


def duplicate(directory: Path, target: Path) -> None:
    """Copy the state in `directory`, if there is one, into the empty directory `target`.

    A daemon may run. Raise ForeignStateError, DamagedStateError or StateError as a read does.
    """
    path = directory / schema.FILE_NAME
    with suppress(FileNotFoundError, NoStateError):
        owner.refuse_to_read(directory)
        path.lstat()
        with closing(schema.open_readonly(path)) as db:
            # First: the database may be ahead of the instance file, and not behind it.
            with suppress(FileNotFoundError):
                shutil.copy(directory / instance.FILE_NAME, target / instance.FILE_NAME)
            db.conn.execute("VACUUM INTO ?", (str(target / schema.FILE_NAME),))
