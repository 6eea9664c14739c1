"""`ls`, the list of files. It needs no daemon and no key."""

import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

import click

from syncd.cli import completion, file_table
from syncd.cli.lines import complain, json_text, print_json
from syncd.cli.options import Options, common, pass_options
from syncd.cli.times import past_time
from syncd.log import printable
from syncd.report import listing_csv
from syncd.state import views
from syncd.state.chosen import Order, Wanted, listing
from syncd.state.manifest import Word
from syncd.state.selected import Selected
from syncd.units import counted

JsonObject = dict[str, Any]
#: Bytes of responses that are kept in memory until all of them are known to be good.
_SPOOLED_BYTES = 16 << 20


def _statuses(
    ctx: click.Context, param: click.Parameter, given: tuple[str, ...]
) -> frozenset[Word]:
    """Return the statuses that are given one by one, or with commas between them."""
    one = click.Choice([word.value for word in Word])
    parts = [part.strip() for some in given for part in some.split(",")]
    return frozenset(Word(one.convert(part, param, ctx)) for part in parts)


@click.command()
@click.argument("paths", metavar="[PATH]...", nargs=-1, shell_complete=completion.paths)
@click.option(
    "--status",
    "words",
    metavar="STATUS,...",
    multiple=True,
    callback=_statuses,
    shell_complete=completion.statuses,
    help=f"Only these: {', '.join(Word)}.",
)
@click.option(
    "--since",
    metavar="TIME",
    callback=past_time,
    help="Only what happened since: 90m, 2h, 3d, 2026-11-29, 2026-11-29T14:30.",
)
@click.option(
    "--recent",
    type=click.IntRange(1, 1 << 31),
    metavar="N",
    help="Only the N newest, newest first.",
)
@click.option(
    "--sort",
    "order",
    type=click.Choice([order.value for order in Order]),
    help="path (the default), size (largest first), time (newest first) or status.",
)
@click.option("--reverse", "-r", is_flag=True, help="The other way round.")
@click.option("--json", "as_json", is_flag=True, help="JSON Lines: one object a file.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV (RFC 4180) with a header.")
@click.option(
    "--responses",
    is_flag=True,
    help="A JSON list for an evaluation run: evals.runs.create(responses=...).",
)
@click.option(
    "--prompt-uuid",
    "prompt",
    metavar="stem|parent|FILE.csv|REGEX",
    help="Where --responses finds a file's prompt: its name without extension, its directory's "
    "name, the first group of REGEX in its path, or a .csv file of path and prompt_uuid.",
)
@common
@pass_options
def ls(
    options: Options,
    paths: tuple[str, ...],
    *,
    words: frozenset[Word],
    since: float | None,
    recent: int | None,
    order: str | None,
    reverse: bool,
    as_json: bool,
    as_csv: bool,
    responses: bool,
    prompt: str | None,
) -> int:
    """List files: all of them, or those that each PATH means.

    PATH is a folder's name, a file, a directory with everything beneath it, or a glob ('**' crosses
    directories); as on disk, or as it is listed. Size, SHA-256 and uuid are those of the remote
    copy by which a file is known. Deleted files are listed by --status deleted, or by their own
    PATH.

    --since counts from when a file was synced; if it is not synced, from when it changed, or
    something was last tried.

    --responses writes nothing and exits with 1 if a file is not synced, is no text, image or video,
    or has no prompt; each is named. So it does if there is no file at all.
    """
    if as_json + as_csv + responses > 1:
        raise click.UsageError("use only one of --json, --csv and --responses")
    if responses != (prompt is not None):
        raise click.UsageError(
            "--responses needs --prompt-uuid, and only that does: stem, parent, FILE.csv or REGEX"
        )
    directory = options.glance().state_directory
    selected, unnoticed = _selected(paths, options) if paths else (None, [])
    for path in unnoticed:
        complain(f"{path}: no known file (syncd why tells more)")
    wanted = Wanted(
        selected=selected,
        words=words,
        since=since,
        recent=recent,
        order=Order(order or ("time" if recent else "path")),
        reverse=reverse,
    )
    files = listing(partial(views.read, directory), wanted, time.time())
    if prompt is not None:
        return _print_responses(files, prompt, is_complete=not unnoticed)
    if as_json:
        for file in files:
            print_json(file)
    elif as_csv:
        sys.stdout.writelines(listing_csv.lines(files))
    else:
        for line in file_table.lines(files):
            sys.stdout.write(line + "\n")
    return 1 if unnoticed else 0


def _selected(paths: Iterable[str], options: Options) -> tuple[list[Selected], list[str]]:
    """Return what is selected, and the arguments of which the table knows no file.

    Raise UsageError for those that are nowhere.
    """
    # It needs all of the settings.
    from syncd.cli.selection import known_arguments  # noqa: PLC0415

    meant, unknown = known_arguments(paths, options.look())
    return [one for argument in meant for one in argument.selected], unknown


def _print_responses(files: Iterable[JsonObject], prompt: str, *, is_complete: bool) -> int:
    """Write one JSON list; if a file cannot be in it, name each such file and write nothing."""
    from syncd.report.prompts import prompts  # noqa: PLC0415 - as below
    from syncd.report.responses import NoResponseError, response  # noqa: PLC0415

    try:
        known = prompts(prompt)
    except ValueError as error:
        raise click.UsageError(f"--prompt-uuid: {error}") from error
    good = bad = shared = 0
    taken: set[str] = set()
    with tempfile.SpooledTemporaryFile(_SPOOLED_BYTES, "w+", encoding="utf-8") as spool:
        for file in files:
            try:
                found = response(file, known.find)
            except NoResponseError as error:
                bad += 1
                complain(f"{file['folder']}/{file['path']}: {error}")
            else:
                spool.write((",\n" if good else "") + json_text(found))
                good += 1
                shared += found["prompt_uuid"] in taken
                taken.add(found["prompt_uuid"])
        if bad or not is_complete:
            complain(
                f"no list was written: {bad:,} of {counted(good + bad, 'file')} cannot be in it"
            )
            return 1
        if not good:
            complain("no list was written: there is no such file")
            return 1
        sys.stdout.write("[\n")
        spool.seek(0)
        shutil.copyfileobj(spool, sys.stdout)
        sys.stdout.write("\n]\n")
    _warn(prompt, shared, known.unused())
    return 0


def _warn(prompt: str, shared: int, unused: list[str]) -> None:
    """Warn of a list that may not be what was meant."""
    if shared:
        complain(f"warning: {counted(shared, 'file')} with the same prompt as another file")
    if unused:
        named = ", ".join(printable(path) for path in unused[:3]) + ", ..." * (len(unused) > 3)
        rows = counted(len(unused), "path")
        complain(f"warning: {prompt} has prompts for {rows} without a file in the list: {named}")
