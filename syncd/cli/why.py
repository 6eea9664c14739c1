"""`why`: one file's whole story. It needs no daemon and no key."""

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from syncd import story, vitals
from syncd.cli.lines import print_json
from syncd.cli.options import Options, common, pass_options
from syncd.cli.render import brief_view, show, story_view, watched_text
from syncd.config import Config
from syncd.exceptions import NoStateError
from syncd.locations import current_directory
from syncd.state import views
from syncd.state.store import Transaction, lock_holder

JsonObject = dict[str, Any]


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
        show(Console(highlight=False), view(told, time.time()))
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
