"""Lines for a person: folded between words on a terminal, whole for all else that reads them."""

import json
import os
import shutil
import sys
import textwrap
from typing import Any, TextIO

import click

from syncd.log import is_journal, printable, redacted


def folded(text: str, stream: TextIO, *, indent: int = 2) -> str:
    """Return `text` for `stream`, without secrets; a line is continued at `indent`."""
    line = printable(redacted(text))
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


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Write `value` to standard output as JSON, escaped as far as the output is not UTF-8."""
    plain = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(value, indent=indent, ensure_ascii=not plain) + "\n")


def complain(text: str) -> None:
    """Write what is wrong to standard error, each line by itself."""
    # What ends a service is to be found among the journal's errors.
    priority = "<3>" if is_journal(sys.stderr, os.environ) else ""
    for line in text.splitlines():
        click.echo(priority + folded(f"syncd: {line}", sys.stderr), err=True)
