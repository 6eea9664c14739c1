"""The fault matrix, `MATRIX.md`, and the tests that answer for its rows.

    python -m tests.matrix          each row with its tests
    python -m tests.matrix 7        one row
    python -m tests.matrix --write  bring the last column of MATRIX.md up to date

A test names its row with `@pytest.mark.row(7)`; a rig, or a file that no pytest collects, with a
comment `# row: 7`. Exit code 1 where a row has no test, or MATRIX.md is not up to date.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent
MATRIX = TESTS / "MATRIX.md"
#: Rows without a test, and why.
UNTESTED: dict[int, str] = {}
_ROW = re.compile(r"^\| (\d+)(\*?) \| (.+?) \| (.+?) \| (.*?) ?\|$", re.MULTILINE)
_MARK = re.compile(r"^@pytest\.mark\.row\(([\d, ]+)\)|^\s*#\s*row: ([\d, ]+)$", re.MULTILINE)
_TEST = re.compile(r"^(?:async )?(?:def|class) (\w+)|^(\w+) = ", re.MULTILINE)


class Row(NamedTuple):
    """A row as it stands in MATRIX.md; `is_grave` where its failure loses data or a secret."""

    number: int
    is_grave: bool
    fault: str
    #: what must hold
    holds: str
    tests: str


class Place(NamedTuple):
    """Where a row is named: a file, and the test there, empty for a whole file."""

    file: str
    test: str


def rows(text: str) -> list[Row]:
    """Return the rows of the matrix."""
    return [Row(int(number), bool(grave), *rest) for number, grave, *rest in _ROW.findall(text)]


@cache
def named() -> dict[int, list[Place]]:
    """Return the places that name each row; also rows that do not exist."""
    found: dict[int, list[Place]] = {}
    for path in sorted(TESTS.rglob("*")):
        if path.suffix not in (".py", ".sh", "") or not path.is_file() or path == Path(__file__):
            continue
        text = path.read_text("utf-8", "replace")
        for mark in _MARK.finditer(text):
            test = _TEST.search(text, mark.end()) if mark[1] else None
            place = Place(str(path.relative_to(TESTS)), (test[1] or test[2]) if test else "")
            for number in (mark[1] or mark[2]).split(","):
                found.setdefault(int(number), []).append(place)
    return found


def written(text: str) -> str:
    """Return the matrix with its last column made anew."""
    found = named()

    def row(match: re.Match[str]) -> str:
        number = int(match[1])
        files = sorted({place.file for place in found.get(number, ())})
        tests = ", ".join(f"`{file}`" for file in files) or UNTESTED.get(number, "")
        return f"| {number}{match[2]} | {match[3]} | {match[4]} | {tests} |"

    return _ROW.sub(row, text)


def told(row: Row, places: Sequence[Place]) -> Iterator[str]:
    """Yield the lines that tell a row and its tests."""
    yield f"{row.number}{'*' if row.is_grave else ''}. {row.fault} {row.holds}"
    for place in dict.fromkeys(places):
        yield f"      {place.file}{f'::{place.test}' if place.test else ''}"
    if not places:
        yield f"      no test: {UNTESTED.get(row.number, 'add one')}"


def main(arguments: Sequence[str]) -> int:
    """Print or write the matrix; return the exit code."""
    text = MATRIX.read_text("utf-8")
    if arguments == ["--write"]:
        text = written(text)
        MATRIX.write_text(text, "utf-8")
    found, known = named(), rows(text)
    chosen = {int(argument) for argument in arguments if argument.isdecimal()}
    for row in known:
        if row.number in chosen or not arguments:
            print(*told(row, found.get(row.number, ())), sep="\n")
    bare = [row.number for row in known if row.number not in found | UNTESTED]
    tested = sum(row.number in found for row in known)
    print(f"{tested} of {len(known)} rows have a test")
    if bare:
        print(f"without a test: {bare}")
    is_stale = written(text) != text
    if is_stale:
        print("MATRIX.md is not up to date; run: python -m tests.matrix --write")
    return 1 if bare or is_stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
