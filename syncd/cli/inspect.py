"""The commands that only look: `status`, `ls` and `why`. They need no daemon and no key."""

import base64
import csv
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.live import Live

from syncd import document, story, vitals
from syncd.cli.lines import print_json, spreadsheet_safe
from syncd.cli.options import Options, common, pass_options
from syncd.cli.render import brief_view, status_view, story_view, watched_text
from syncd.config import Config
from syncd.exceptions import NoStateError
from syncd.locations import current_directory
from syncd.log import printable
from syncd.state import manifest, views
from syncd.state.manifest import Word
from syncd.state.store import Transaction, lock_holder
from syncd.units import size

JsonObject = dict[str, Any]
#: Files of a listing that are read at a time.
PAGE_FILES = 2000
#: Seconds between two looks of `status --watch`.
WATCH_SECONDS = 1.0
COLUMNS = (
    *("folder", "path", "path_b64", "status", "size", "sha256", "file_uuid", "remote_file_path"),
    *("content_type", "processing_status", "frame_count", "attempts", "next_attempt_at"),
    *("error", "synced_at"),
)


@click.command()
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option("--alive", is_flag=True, help="Say by exit code alone whether the daemon works.")
@common
@pass_options
def status(options: Options, *, watch: bool, as_json: bool, alive: bool) -> int:
    """Say whether all is well and why not, what waits, what is held, what is being sent.

    Exits with 0 when all is well, else with 1.
    """
    # With --alive alone it is `syncd.cli.alive` that answers.
    if watch + as_json + alive > 1 or alive:
        raise click.UsageError("use only one of --watch, --json and --alive")
    config = options.load(to_sync=False)
    directory = config.state.directory
    console = Console(highlight=False)
    if watch:
        if not console.is_terminal:
            raise click.UsageError("--watch needs a terminal (docker exec -it); else use --json")
        _watch(config, console)
        return 0
    facts = document.status(directory, base_url=config.api.base_url)
    if as_json:
        # `ls --status failed --json` has the failures.
        print_json(document.contract(facts), indent=2)
    else:
        _show(console, status_view(facts, time.time()))
    return 0 if facts["well"] else 1


def _show(console: Console, view: RenderableType) -> None:
    """Print `view` without the blanks by which rich fills its lines."""
    with console.capture() as captured:
        # The terminal breaks lines that are too long for it.
        console.print(view, crop=False)
    for line in captured.get().splitlines():
        click.echo(line.rstrip(), color=True)


def _watch(config: Config, console: Console) -> None:
    with Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                started = time.monotonic()
                facts = document.status(config.state.directory, base_url=config.api.base_url)
                live.update(status_view(facts, time.time()), refresh=True)
                # Counting a million files takes seconds: leave the disk to the daemon meanwhile.
                time.sleep(max(WATCH_SECONDS, 2 * (time.monotonic() - started)))
        except KeyboardInterrupt:
            return


@click.command()
@click.argument("folder", required=False)
@click.option(
    "--status",
    "word",
    type=click.Choice([word.value for word in Word]),
    help="Only files of this status.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON Lines: one object a file.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV (RFC 4180) with a header.")
@common
@pass_options
def ls(
    options: Options, folder: str | None, *, word: str | None, as_json: bool, as_csv: bool
) -> None:
    """List files, of all folders or of FOLDER (its name or path).

    Size, SHA-256 and uuid are those of the live copy. Deleted files are listed by
    --status deleted.
    """
    if as_json and as_csv:
        raise click.UsageError("use only one of --json and --csv")
    config = options.load(to_sync=False)

    directory, name = config.state.directory, None
    if folder:
        name = folder_name(folder, views.read(directory, lambda db: story.folders(config, db)))
    entries = _entries(directory, name, word)
    if as_json:
        for entry in entries:
            print_json(entry)
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(map(_csv_row, entries))
    else:
        for line in _columns(entries):
            sys.stdout.write(line + "\n")


def _entries(directory: Path, folder: str | None, word: str | None) -> Iterator[JsonObject]:
    """Yield the files page by page: while a pager waits for its reader, the table is not read."""
    after: tuple[str, bytes] | None = None

    def read(db: Transaction) -> tuple[list[JsonObject], tuple[str, bytes] | None]:
        return manifest.page(db, after=after, limit=PAGE_FILES, folder=folder, status=word)

    while True:
        page, after = views.read(directory, read)
        yield from page
        if after is None:
            return


def folder_name(given: str, known: Iterable[story.KnownFolder]) -> str:
    """Return the name of the known folder that is `given` by name or path; UsageError else."""
    known = list(known)
    for folder in known:
        if given == folder.name:
            return given
    wanted = os.path.realpath(os.fsencode(current_directory() / given))
    for folder in known:
        if wanted == os.path.realpath(folder.root):
            return folder.name
    names = ", ".join(printable(folder.name) for folder in known) or "none yet"
    raise click.UsageError(f"no folder {printable(given)!r}; known are: {names}")


def _csv_row(entry: JsonObject) -> JsonObject:
    """Return an entry without formulas; a path that was changed for that stands in Base64, too."""
    row = {
        name: spreadsheet_safe(value) if isinstance(value, str) else value
        for name, value in entry.items()
    }
    if row["path"] != entry["path"] and not row.get("path_b64"):
        row["path_b64"] = base64.b64encode(entry["path"].encode()).decode()
    return row


def _columns(entries: Iterable[JsonObject]) -> Iterator[str]:
    """Yield a line a file, the path last so that it needs no cutting."""
    if sys.stdout.isatty():
        yield f"{'STATUS':<10} {'SIZE':>9}  {'UUID':<36}  PATH"
    for entry in entries:
        path = f"{printable(entry['folder'])}/{printable(entry['path'])}"
        uuid = printable(entry["file_uuid"] or "-")
        yield f"{entry['status']:<10} {size(entry['size']):>9}  {uuid:<36}  {path}"


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@common
@pass_options
def why(options: Options, path: Path, *, as_json: bool) -> int:
    """Tell the story of PATH: its rule, state, attempts, next try, last error and history.

    PATH is absolute, or relative to here or to its watch folder. Exits with 1 where it is in no
    folder, or is no file.
    """
    config = options.load(to_sync=False)
    directory = config.state.directory
    running = lock_holder(directory) is not None
    try:
        told = views.read(directory, lambda db: _tell(path, config, db, running=running))
    except NoStateError:
        told = _tell(path, config, None, running=running)
    told["watched"] = _watched(directory, told["folder"])
    if as_json:
        print_json(told, indent=2)
    else:
        view = story_view if "copies" in told else brief_view
        _show(Console(highlight=False), view(told, time.time()))
    return 0 if told["found"] else 1


def _watched(directory: Path, folder: str | None) -> str:
    """Return how a folder's changes are noticed by the daemon that runs; empty where none does."""
    beat = vitals.read(directory)
    seen = beat.folders.get(folder or "") if beat else None
    return watched_text(asdict(seen)) if seen else ""


def _tell(path: Path, config: Config, db: Transaction | None, *, running: bool) -> JsonObject:
    known = story.folders(config, db)
    here = current_directory()
    candidates = list(story.places(os.fsencode(path), known, os.fsencode(here)))
    if told := story.tell(candidates, config, db, running=running):
        return told | {"found": True}
    real = os.path.realpath(os.fsencode(here / path))
    for folder in known:
        if real == os.path.realpath(folder.root):
            return story.whole(folder) | {"found": True}
    # A path relative to a folder is a guess: only one that lies within a folder is missing there.
    inside = path.is_absolute() or os.path.lexists(path)
    if candidates and (inside or len(known) == 1):
        return story.missing(candidates[0]) | {"found": False}
    return story.outside(path, known) | {"found": False}
