"""`ls`, the list of files. It needs no daemon and no key."""

import base64
import csv
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from syncd import story
from syncd.cli.lines import print_json, spreadsheet_safe
from syncd.cli.options import Options, common, pass_options
from syncd.locations import current_directory
from syncd.log import printable
from syncd.state import manifest, views
from syncd.state.manifest import Word
from syncd.state.store import Transaction
from syncd.units import size

JsonObject = dict[str, Any]
#: Files of a listing that are read at a time.
PAGE_FILES = 2000
COLUMNS = (
    *("folder", "path", "path_b64", "status", "size", "sha256", "file_uuid", "remote_file_path"),
    *("content_type", "processing_status", "frame_count", "attempts", "next_attempt_at"),
    *("error", "synced_at"),
)


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
