"""`log`, what was done: the history, also as it goes on. It needs no daemon and no key."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import click

from syncd.cli import completion
from syncd.cli.lines import complain, json_text
from syncd.cli.options import Options, common, pass_options
from syncd.cli.times import past_time
from syncd.exceptions import DamagedStateError, ForeignStateError, StateError
from syncd.log import printable, redacted
from syncd.state import history, past, views
from syncd.state.past import Wanted

JsonObject = dict[str, Any]
#: Lines that `--follow` begins with, unless it is told how many.
FOLLOWED_LINES = 10
#: Seconds between two looks for new lines.
FOLLOW_SECONDS = 0.5


@click.command()
@click.argument("paths", metavar="[PATH]...", nargs=-1, shell_complete=completion.paths)
@click.option("--follow", "-f", is_flag=True, help="Go on with each new line, until Ctrl-C.")
@click.option(
    "--since",
    metavar="TIME",
    callback=past_time,
    help="Only what was done since: 90m, 12h, 3d, 2026-11-29, 2026-11-29T14:30.",
)
@click.option(
    "--lines",
    "-n",
    type=click.IntRange(0, 1 << 31),
    metavar="N",
    help=f"Only the N newest lines (with --follow: {FOLLOWED_LINES}).",
)
@click.option("--json", "as_json", is_flag=True, help="JSON Lines: one object a line.")
@common
@pass_options
def log(
    options: Options,
    paths: tuple[str, ...],
    *,
    follow: bool,
    since: float | None,
    lines: int | None,
    as_json: bool,
) -> int:
    """Tell what was done to files, the newest last: synced, moved, missing, deleted, failed.

    PATH is a file, a directory or a glob, as for `ls`. Lines without a path tell what was held, who
    approved or rejected that, who paused, resumed or limited, and what `adopt` did. The history
    goes back 90 days, for deletions a year.
    """
    directory = options.glance().state_directory
    wanted = _wanted(options, paths) if paths else _everything
    last = views.read(directory, past.last_number)
    write = partial(_write, as_json=as_json)
    newest = FOLLOWED_LINES if follow and lines is None and since is None else lines
    if newest is None:
        last = _write_all(directory, wanted, write, since or 0.0)
    else:
        write(_newest(directory, newest, wanted, since or 0.0, last + 1))
    try:
        while follow:
            sys.stdout.flush()
            time.sleep(FOLLOW_SECONDS)
            last = _write_new(directory, wanted, write, last)
    except KeyboardInterrupt:
        return 130
    return 0


def _everything(_folder: str, _path: bytes, _event: str) -> bool:
    return True


def _wanted(options: Options, paths: Sequence[str]) -> Wanted:
    """Return the function that says whether a line is about one of `paths`.

    Decisions on a folder, and `adopt`, are about each path in it; what was held, paused or limited
    is about the folder as a whole.
    """
    # These need all of the settings.
    from syncd.cli.selection import remembered_arguments  # noqa: PLC0415
    from syncd.state.selected import holding  # noqa: PLC0415

    selected = remembered_arguments(paths, options.look())
    holds = holding(selected)
    theirs = {one.folder for one in selected} | {""}
    whole = {one.folder for one in selected if not one.path and one.matches is None}
    stopped = whole | {""} if whole else whole

    def wanted(folder: str, path: bytes, event: str) -> bool:
        if path:
            return holds(folder, path)
        return folder in (stopped if event in history.STOPS else theirs)

    return wanted


def _newest(
    directory: Path, number: int, wanted: Wanted, since: float, first: int
) -> list[JsonObject]:
    """Return the newest lines before number `first`; each batch is read by itself."""
    found: list[JsonObject] = []
    is_end = False
    while len(found) < number and not is_end:
        read = partial(past.before, first=first, wanted=wanted, since=since)
        lines, first, is_end = views.read(directory, read)
        found = lines + found
    return found[len(found) - number :] if number < len(found) else found


def _write_all(
    directory: Path,
    wanted: Wanted,
    write: Callable[[Sequence[JsonObject]], None],
    since: float = 0.0,
    last: int = 0,
) -> int:
    """Write what comes after number `last`; return the number of the last line."""
    is_end = False
    while not is_end:
        read = partial(past.after, last=last, wanted=wanted, since=since)
        lines, last, is_end = views.read(directory, read)
        # Nothing is open while a pager or a slow terminal takes its time.
        write(lines)
    return last


def _write_new(
    directory: Path, wanted: Wanted, write: Callable[[Sequence[JsonObject]], None], last: int
) -> int:
    """Write what is new; a state that is just being made, or restored, is waited for."""
    try:
        if (newest := views.read(directory, past.last_number)) < last:
            complain("the state was replaced by an earlier one: going on with its next line")
            return newest
        return _write_all(directory, wanted, write, last=last)
    except (ForeignStateError, DamagedStateError):
        raise
    except StateError:
        return last


def _write(lines: Sequence[JsonObject], *, as_json: bool) -> None:
    for line in lines:
        sys.stdout.write((json_text(line) if as_json else _text(line)) + "\n")


def _text(line: JsonObject) -> str:
    at = datetime.fromisoformat(line["at"]).astimezone()
    parts = [f"{at:%Y-%m-%d %H:%M:%S}", f"{line['event']:<8}", *_facts(line)]
    return printable(redacted("  ".join(parts)))


def _facts(line: JsonObject) -> Iterator[str]:
    where = "/".join(filter(None, (line["folder"], line["path"])))
    yield from filter(None, (where, line["file_uuid"], line["detail"]))
