"""Which prompt a file answers: told by its name, its directory, an expression or a CSV file."""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from syncd.log import printable
from syncd.report.responses import FindPrompt, JsonObject, NoResponseError

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_PROMPT_COLUMN = "prompt_uuid"
#: Names of the column that names the file.
_PATH_COLUMNS = ("path", "file", "filename", "name")
#: Between the fields of a row: spreadsheets write each of these, by language.
_DELIMITERS = ",;\t"


class Prompts(NamedTuple):
    """The prompts of files."""

    find: FindPrompt
    #: returns the paths that have a prompt and were not asked for
    unused: Callable[[], list[str]] = list


def prompts(said: str) -> Prompts:
    """Return the prompts that `stem`, `parent`, a CSV file or an expression tells.

    Raise ValueError when the file or the expression cannot be read.
    """
    if said == "stem":
        return Prompts(lambda file: _uuid(PurePosixPath(file["path"]).stem, "its name"))
    if said == "parent":
        return Prompts(lambda file: _uuid(PurePosixPath(file["path"]).parent.name, "its directory"))
    if said.lower().endswith(".csv"):
        return _listed(Path(said))
    if Path(said).is_file():
        raise ValueError(f"{said} is a file, and only a file that ends with .csv is read")
    try:
        expression = re.compile(said)
    except re.error as error:
        raise ValueError(f"the expression {said!r} cannot be read: {error}") from error
    return Prompts(lambda file: _matched(expression, file["path"]))


def _uuid(name: str, where: str) -> str:
    if not _UUID.fullmatch(name):
        raise NoResponseError(f"no prompt: {printable(name)!r} is not a uuid ({where})")
    return name


def _matched(expression: re.Pattern[str], path: str) -> str:
    found = expression.search(path)
    # The first group that took part, else all of the match.
    if found and (prompt := next(filter(None, (*found.groups(), found[0])), "")):
        return _uuid(prompt, f"found by {expression.pattern!r}")
    raise NoResponseError(f"no prompt: nothing in its path matches {expression.pattern!r}")


def _listed(path: Path) -> Prompts:
    """Return the prompts of a CSV file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = next(filter(str.strip, file), "")
            delimiter = max(_DELIMITERS, key=first.count)
            file.seek(0)
            known = _read(path, csv.reader(file, strict=True, delimiter=delimiter))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot read {path} as CSV in UTF-8: {error}") from error

    unused = dict.fromkeys(known)

    def find(file: JsonObject) -> str:
        inside = file["path"]
        for key in (f"{file['folder']}/{inside}", inside, inside.rpartition("/")[2]):
            if prompt := known.get(key):
                unused.pop(key, None)
                return _uuid(prompt, f"in {path}")
        raise NoResponseError(f"no prompt: {path} names none for it")

    return Prompts(find, lambda: list(unused))


def _read(path: Path, rows: Iterator[list[str]]) -> dict[str, str]:
    """Return the prompts of a CSV file, by path; raise ValueError if it is not as it must be."""
    known: dict[str, str] = {}
    columns: Sequence[int] = ()
    for number, row in enumerate(rows, start=1):
        if not any(row):
            continue
        if not columns:
            columns = _columns(path, row)
            if _PROMPT_COLUMN in map(str.lower, map(str.strip, row)):
                continue
        if len(row) <= max(columns):
            raise ValueError(f"{path}, row {number}: a path and a {_PROMPT_COLUMN} are needed")
        *place, prompt = (row[column].strip() for column in columns)
        file = "/".join(filter(None, place))
        if prompt and known.setdefault(file, prompt) != prompt:
            raise ValueError(f"{path}, row {number}: a second prompt for {printable(file)}")
    if not known:
        raise ValueError(f"{path} names no prompt")
    return known


def _columns(path: Path, row: list[str]) -> list[int]:
    """Return the columns of folder (if any), path and prompt; without a header, the first two."""
    names = [name.strip().lower() for name in row]
    if len(names) > 1 and _UUID.fullmatch(names[1]):
        return [0, 1]
    files = [name for name in _PATH_COLUMNS if name in names]
    if not files or _PROMPT_COLUMN not in names:
        raise ValueError(
            f"{path}: its first row must name the columns path and {_PROMPT_COLUMN}, or be a path "
            f"and the uuid of its prompt; it is: {printable(', '.join(row))}"
        )
    wanted = ["folder"] * ("folder" in names) + [files[0], _PROMPT_COLUMN]
    return [names.index(name) for name in wanted]
