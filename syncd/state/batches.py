"""Many rows in one statement: each step of SQLite lets other threads take the interpreter."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
#: Rows in one statement: with 40 columns, about half of the parameters that SQLite takes.
ROWS = 400


def batched(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Return `rows` in pieces of as many as one statement takes."""
    for start in range(0, len(rows), ROWS):
        yield rows[start : start + ROWS]


def values(rows: Sequence[Sequence[Any]]) -> str:
    """Return a VALUES clause with a parameter for each value of `rows`, of which there are some."""
    row = f"({', '.join('?' * len(rows[0]))})"
    return f"VALUES {', '.join([row] * len(rows))}"
