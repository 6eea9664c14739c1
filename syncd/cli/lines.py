"""Lines for a person: folded between words on a terminal, whole for all else that reads them."""

import json
import os
import re
import shutil
import sys
import textwrap
from typing import Any, TextIO

import click

from syncd.exceptions import SyncdError
from syncd.log import is_journal, printable, redacted
from syncd.offers import offered

#: Control characters beyond those that JSON escapes itself, and those that turn text around.
_OBEYED = re.compile(
    "[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


def folded(text: str, stream: TextIO, *, indent: int = 2) -> str:
    """Return `text` for `stream`, without secrets, its commands as they work here.

    A line is continued at `indent`.
    """
    line = printable(redacted(offered(text)))
    if not stream.isatty():
        return line
    return textwrap.fill(
        line,
        # The last column stays free: a terminal may break the line after it.
        max(shutil.get_terminal_size().columns - 1, 40),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def can_redraw(stream: TextIO) -> bool:
    """Return whether `stream` is a terminal on which a line can be drawn anew."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return `value` as JSON for standard output, without a character that a terminal obeys.

    Where the output is not UTF-8, everything beyond ASCII is escaped.
    """
    plain = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    text = json.dumps(value, indent=indent, ensure_ascii=not plain)
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Write `value` to standard output as JSON."""
    sys.stdout.write(json_text(value, indent=indent) + "\n")


def confirm(question: str, *, otherwise: str) -> None:
    """Ask on the terminal; raise SyncdError, which says `otherwise`, if the answer is no."""
    if not click.confirm(question, err=True):
        raise SyncdError(otherwise)


def complain(text: str) -> None:
    """Write what is wrong to standard error, each line by itself."""
    # The journal lists what ended a service among its errors.
    priority = "<3>" if is_journal(sys.stderr, os.environ) else ""
    for line in text.splitlines():
        click.echo(priority + folded(f"syncd: {line}", sys.stderr), err=True)
