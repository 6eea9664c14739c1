"""`why`: the whole story of files. It needs no daemon and no key."""

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from syncd import heartbeat
from syncd.cli import completion
from syncd.cli.lines import print_json
from syncd.cli.options import Options, common, pass_options
from syncd.cli.render import brief_view, show, story_view, watched_text
from syncd.cli.selection import Argument, arguments
from syncd.config.loading import Config
from syncd.config.locations import current_directory
from syncd.exceptions import NoStateError
from syncd.files_api import is_uuid
from syncd.report import folder_paths, why as report
from syncd.report.folder_paths import FolderPath, KnownFolder
from syncd.state import selected, stories, views
from syncd.state.chosen import Wanted, listing
from syncd.state.database.connection import Database
from syncd.state.database.store import lock_holder
from syncd.state.manifest import Word
from syncd.state.selected import Selected, is_known
from syncd.state.texts import path_bytes
from syncd.units import counted

JsonObject = dict[str, Any]
#: Files of a directory or a glob whose stories are told.
_TOLD = 10
#: The statuses of files that are told: something is to be done, or went wrong.
_OPEN = frozenset(Word) - {Word.SYNCED, Word.DELETED, Word.IGNORED}


@click.command()
@click.argument(
    "paths", metavar="PATH...", nargs=-1, required=True, shell_complete=completion.paths
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document for each PATH.")
@common
@pass_options
def why(options: Options, paths: tuple[str, ...], *, as_json: bool) -> int:
    """Tell the story of PATH: its rule, state, attempts, next try, last error and history.

    PATH is a file, a directory or a glob, as on disk or as `ls` prints it, or the uuid of a copy,
    also of one that was deleted. Of a directory or a glob, it tells the first files that are not
    synced. Exits with 1 where a PATH is in no folder, or is no file.
    """
    config = options.look()
    try:
        told = views.read(config.state.directory, lambda db: _tell_all(paths, config, db))
    except NoStateError:
        told = _tell_all(paths, config, None)
    for number, story in enumerate(told):
        if as_json:
            print_json(story, indent=2 if len(told) == 1 else None)
            continue
        if number:
            click.echo()
        _show(story)
    return 0 if all(story["found"] for story in told) else 1


def _show(story: JsonObject) -> None:
    console = Console(highlight=False)
    view = story_view if "copies" in story else brief_view
    show(console, view(story, time.time()))
    if "files" not in story:
        return
    words = [f"{count:,} {word}" for word, count in story["open"].items()]
    click.echo(f"\n  {counted(story['files'], 'file')}: {', '.join(words) or 'all at rest'}")
    for one in story["stories"]:
        click.echo()
        show(console, story_view(one, time.time()))
    if (more := sum(story["open"].values()) - len(story["stories"])) > 0:
        click.echo(f"\nand {more:,} more")


def _tell_all(paths: Sequence[str], config: Config, db: Database | None) -> list[JsonObject]:
    running = lock_holder(config.state.directory) is not None
    beat = heartbeat.read(config.state.directory)
    known = folder_paths.folders(config, db)
    told = []
    for argument in arguments(paths, known, db, current_directory()):
        if not argument.selected and db is not None:
            argument = _of_uuid(argument, known, db) or argument  # noqa: PLW2901
        story = _tell(argument, known, config, db, running=running)
        if "copies" not in story and db is not None:
            story |= _files(argument, known, config, db, running=running)
        # How a folder's changes are noticed by the daemon that runs.
        seen = beat.folders.get(story["folder"] or "") if beat else None
        told.append(story | {"watched": watched_text(asdict(seen)) if seen else ""})
    return told


def _of_uuid(argument: Argument, known: Sequence[KnownFolder], db: Database) -> Argument | None:
    """Return the file of which the argument is the uuid of a copy, also of one that is gone."""
    found = stories.place_of(db, argument.given) if is_uuid(argument.given) else None
    for folder in known:
        if found and folder.name == found[0]:
            place = FolderPath(folder.name, folder.root, found[1])
            return Argument(argument.given, (Selected(*found),), place)
    return None


def _tell(
    argument: Argument,
    known: Sequence[KnownFolder],
    config: Config,
    db: Database | None,
    *,
    running: bool,
) -> JsonObject:
    place = argument.place
    if argument.is_pattern or (argument.selected and place is None):
        found = db is not None and is_known(db, argument.selected)
        return report.several(argument.given, found=found) | {"found": found}
    if place is not None and not place.path:
        return report.whole(KnownFolder(place.folder, place.root)) | {"found": True}
    candidates = [place] if place else []
    if not argument.selected:
        candidates += folder_paths.within(os.fsencode(argument.given), known)
    if told := report.tell(candidates, config, db, running=running):
        return told | {"found": True}
    told = report.missing(place) if place else report.outside(Path(argument.given), known)
    return told | {"found": False}


def _files(
    argument: Argument,
    known: Sequence[KnownFolder],
    config: Config,
    db: Database,
    *,
    running: bool,
) -> JsonObject:
    """Return how many files a directory or a glob has, and the first stories of open ones."""
    files = sum(1 for _ in selected.ids(db, argument.selected))
    if not files:
        return {}
    roots = {folder.name: folder.root for folder in known}
    counts: Counter[str] = Counter()
    stories: list[JsonObject] = []
    wanted = Wanted(selected=argument.selected, words=_OPEN)
    for entry in listing(lambda query: query(db), wanted, time.time()):
        counts[entry["status"]] += 1
        if len(stories) < _TOLD:
            place = FolderPath(entry["folder"], roots[entry["folder"]], path_bytes(entry))
            story = report.of_file(place, config, db, running=running) or {}
            stories.append(story | {"watched": ""})
    return {"files": files, "open": counts, "stories": stories}
