"""The table that `ls` shows: fitted to a terminal, a line a file for all else that reads it.

Paths and uuids stay whole, to be copied. Where a terminal is too narrow for all columns, the time
goes first and the size next. A file whose path does not fit even then takes two lines, and so do
all where most do not.
"""

import shutil
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain, islice
from typing import Any

from syncd.log import printable
from syncd.state.manifest import Word
from syncd.units import size

JsonObject = dict[str, Any]
#: The files by whose paths the layout is chosen.
_LOOKED_AT = 1000
#: Columns of a status with the blanks after it, and of a uuid.
_STATUS, _UUID = 12, 36
#: The facts that a line may show beside status, uuid and path, and the columns that they take.
_FACTS = {"size time": 29, "size": 11, "none": 0}


def lines(files: Iterable[JsonObject]) -> Iterator[str]:
    """Yield the lines of the table for standard output."""
    if not sys.stdout.isatty():
        for file in files:
            reason = _reason(file)
            facts = f"{file['status']:<10} {size(file['size']):>9}  {_uuid(file):<{_UUID}}"
            yield f"{facts}  {_path(file)}{'  ' if reason else ''}{reason}"
        return
    remaining = iter(files)
    first = list(islice(remaining, _LOOKED_AT))
    # The last column stays free: a terminal may break the line after it.
    columns = shutil.get_terminal_size().columns - 1
    facts = _layout(sorted(_room(file, columns) for file in first)) if first else "none"
    yield from _head(facts)
    for file in chain(first, remaining):
        yield from _row(file, facts, fits=_room(file, columns) >= _FACTS.get(facts, 0))
        yield from _folded(_reason(file), columns - 4, indent=4)


def _room(file: JsonObject, columns: int) -> int:
    """Return the columns that a file's status, uuid and path leave."""
    from rich.cells import cell_len  # noqa: PLC0415 - it takes long, and pipes do without

    return columns - _STATUS - _UUID - 2 - cell_len(_path(file))


def _layout(rooms: list[int]) -> str:
    """Return the facts for which almost all files have room, or none where most have it at all."""
    half = len(rooms) // 2
    # One long path takes no column from all the others.
    room = rooms[min(max(len(rooms) // 10, 1), half)]
    least = "none" if rooms[half] >= 0 else ""
    return next((facts for facts, taken in _FACTS.items() if room >= taken), least)


def _head(facts: str) -> Iterator[str]:
    if not facts:
        yield f"{'STATUS':<{_STATUS}}PATH"
        yield f"{'':<{_STATUS}}{'UUID':<{_UUID}}{'SIZE':>11}  CHANGED"
        return
    more = f"{'SIZE':>9}  " if "size" in facts else ""
    more += f"{'CHANGED':<16}  " if "time" in facts else ""
    yield f"{'STATUS':<{_STATUS}}{more}{'UUID':<{_UUID}}  PATH"


def _row(file: JsonObject, facts: str, *, fits: bool) -> Iterator[str]:
    """Yield the lines of one file: two, with all facts, where there are none or it does not fit.

    A path that is too long even then is broken by the terminal, so that it is copied whole.
    """
    bytes_, uuid = f"{size(file['size']):>9}  ", f"{_uuid(file):<{_UUID}}"
    if not (facts and fits):
        yield f"{file['status']:<{_STATUS}}{_path(file)}"
        yield f"{'':<{_STATUS}}{uuid}  {bytes_}{_changed(file)}".rstrip()
        return
    more = bytes_ if "size" in facts else ""
    more += f"{_changed(file):<16}  " if "time" in facts else ""
    yield f"{file['status']:<{_STATUS}}{more}{uuid}  {_path(file)}"


def _folded(text: str, width: int, *, indent: int) -> Iterator[str]:
    import textwrap  # noqa: PLC0415 - few files have a reason

    for line in textwrap.wrap(text, max(width, 20), break_long_words=False, break_on_hyphens=False):
        yield " " * indent + line


def _uuid(file: JsonObject) -> str:
    return printable(file["file_uuid"] or "-")


def _changed(file: JsonObject) -> str:
    """Return when a file changed last, as a local time."""
    if not (when := file["changed_at"]):
        return ""
    return datetime.fromisoformat(when).astimezone().strftime("%Y-%m-%d %H:%M")


def _path(file: JsonObject) -> str:
    return f"{printable(file['folder'])}/{printable(file['path'])}"


def _reason(file: JsonObject) -> str:
    """Return why a file is not synced, if something is known to have gone wrong."""
    return "" if file["status"] == Word.SYNCED else printable(file["error"] or "")
