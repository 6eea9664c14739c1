"""The fault matrix from the tests' own markers: `python -m tests.matrix` prints each row's tests.

A test names its row by `@pytest.mark.row(7)`; a rig, or a file that no pytest collects, by a
comment `# row: 7`.
"""

import re
import sys
from pathlib import Path

TESTS = Path(__file__).parent
#: The matrix has the rows 1 to 92.
ROWS = range(1, 93)
#: Rows whose failure would lose data or a secret: each needs a negative control as well.
GRAVE = frozenset({1, 3, 5, 6, 7, 17, 20, 23, 24, 27, 33, 38, 41, 53, 56})
_MARK = re.compile(r"^@pytest\.mark\.row\(([\d, ]+)\)|^\s*#\s*row: ([\d, ]+)$", re.MULTILINE)


def named() -> dict[int, list[str]]:
    """Return the files that name each row, once for each time; also rows that do not exist."""
    found: dict[int, list[str]] = {}
    for path in sorted(TESTS.rglob("*")):
        if path.suffix not in (".py", ".sh", "") or not path.is_file() or path == Path(__file__):
            continue
        for match in _MARK.finditer(path.read_text("utf-8", "replace")):
            for number in (match[1] or match[2]).split(","):
                found.setdefault(int(number), []).append(str(path.relative_to(TESTS)))
    return found


def main() -> int:
    """Print the table; return 1 where a row has no test."""
    found = named()
    for row in ROWS:
        files = found.get(row, [])
        places = ", ".join(f"{name} ({files.count(name)})" for name in sorted(set(files)))
        print(f"{row:3}{'*' if row in GRAVE else ' '} {places or '- no test'}")
    bare = [row for row in ROWS if row not in found]
    print(f"{len(ROWS) - len(bare)} of {len(ROWS)} rows have a test; without: {bare}")
    return 1 if bare else 0


if __name__ == "__main__":
    sys.exit(main())
