"""`wait`: until what is on the disk now is at rest."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from syncd.cli import completion
from syncd.cli.lines import complain, print_json
from syncd.cli.options import Options, common, pass_options
from syncd.cli.selection import arguments
from syncd.cli.waiting import TimeOverError, Waiting
from syncd.config.loading import Config
from syncd.config.locations import current_directory
from syncd.exceptions import NoStateError
from syncd.log import printable
from syncd.once import KEY_REFUSED_CODE
from syncd.report import folder_paths, why
from syncd.report.folder_paths import FolderPath
from syncd.report.listing_csv import KEYS
from syncd.state import awaited, holds, views
from syncd.state.awaited import Selection
from syncd.state.database.connection import Database
from syncd.state.database.lock import lock_holder
from syncd.state.manifest import Word
from syncd.state.texts import argument, path_members
from syncd.units import counted, parse_seconds, span

JsonObject = dict[str, Any]
WELL, NOT_WELL, TIMED_OUT = 0, 1, 124
YEAR_SECONDS = 31_536_000.0
#: Files of the result that are read at a time, and files of which it is told why.
PAGE_FILES, MOST_TOLD = 2000, 20


def _seconds(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else min(parse_seconds(value), YEAR_SECONDS)
    except ValueError as error:
        raise click.BadParameter(f"{printable(value or '')!r} {error}") from error


@click.command()
@click.argument(
    "paths",
    metavar="[PATH]...",
    nargs=-1,
    type=click.Path(path_type=Path),
    shell_complete=completion.paths,
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    callback=_seconds,
    help="Give up after so long (also 5m or 2h), and exit with 124.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON Lines: one object a file, as in ls.")
@common
@pass_options
def wait(options: Options, paths: tuple[Path, ...], *, timeout: float | None, as_json: bool) -> int:
    """Wait until each PATH is at rest; print path and uuid of what is synced.

    PATH is a file, or a directory with all that is beneath it; without one, all folders are meant.
    They are looked at first, so whatever is on the disk by then counts; if a file changes
    meanwhile, its newest content is waited for. The running daemon does the work. If none runs,
    one pass over these folders is made, as by `syncd once`.

    Exits with 0 when all is synced; 1 when a file failed, is held, or, being named, is ignored or
    gone; 77 when the key is refused; 124 when it times out.
    """
    config = options.look()
    named, selection = _meant(paths, config)
    with _progress() as show:
        waiting = Waiting(options, config, selection, timeout=timeout, show=show, tell=complain)
        is_late = False
        try:
            waiting.run()
        except TimeOverError:
            is_late = not waiting.is_at_rest()
    if is_late:
        waiting.tell_reasons()
        complain(f"timed out after {span(timeout or 0.0)}")
    return _Outcome(waiting, config, named, as_json=as_json).tell(is_late=is_late)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Yield what shows the progress, on a terminal alone."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("looking at the disk") as status:
        yield lambda text: status.update(printable(text))


def _meant(paths: Sequence[Path], config: Config) -> tuple[list[FolderPath], Selection]:
    """Return the paths that are meant, and all that they select; raise UsageError for others."""

    def find(db: Database | None) -> tuple[list[FolderPath], Selection]:
        known = folder_paths.folders(config, db)
        here = current_directory()
        meant = arguments(paths, known, db, here)
        for one in meant:
            if one.is_pattern:
                text = f"nothing is named {printable(one.given)!r}: let the shell fill patterns in"
                raise click.UsageError(text)
            if not one.selected and (one.place is None or os.path.lexists(here / one.given)):
                watched = ", ".join(printable(folder.root) for folder in known) or "nothing yet"
                text = f"{printable(one.given)} is in no watch folder, or not there"
                raise click.UsageError(f"{text}; watched: {watched}")
        places = [one.place for one in meant if one.place]
        chosen = [(place.folder, place.path) for place in places]
        chosen += [(each.folder, each.path) for one in meant for each in one.selected]
        return places, list(dict.fromkeys(chosen))

    try:
        return views.read(config.state.directory, find)
    except NoStateError:
        return find(None)


class _Outcome:
    """The outcome: synced files for standard output, the others and why for standard error."""

    def __init__(
        self, waiting: Waiting, config: Config, named: Sequence[FolderPath], *, as_json: bool
    ) -> None:
        self._waiting = waiting
        self._config = config
        self._directory = config.state.directory
        self._named = {(place.folder, place.path): place for place in named}
        self._as_json = as_json
        self._runs = lock_holder(self._directory) is not None
        self._not_synced = 0

    def tell(self, *, is_late: bool) -> int:
        """Print all of it; return the exit code."""
        for where, trouble in self._waiting.troubles.items():
            complain(f"{where}: {trouble}")
        seen = set()
        for key, entry in self._entries():
            seen.add(key)
            if entry["status"] != Word.IGNORED or key in self._named:
                self._print(key, entry)
        for key, place in self._named.items():
            if key not in seen and not os.path.isdir(place.absolute):  # noqa: PTH112 - bytes
                self._print(key, self._unknown(place))
        if self._not_synced > MOST_TOLD:
            complain(f"and {counted(self._not_synced - MOST_TOLD, 'more file')} (syncd ls)")
        if is_late:
            return TIMED_OUT
        if self._waiting.key_refused or (self._not_synced and self._is_key_refused()):
            # A file that still settles says nothing of the key.
            complain("the key is refused, and nothing is sent (syncd doctor)")
            return KEY_REFUSED_CODE
        return NOT_WELL if self._not_synced or self._waiting.troubles else WELL

    def _entries(self) -> Iterator[tuple[tuple[str, bytes], JsonObject]]:
        """Yield each file of the selection page by page, so that a reader may take its time."""
        selection, up_to = self._waiting.selection, self._waiting.up_to
        page: list[tuple[tuple[str, bytes], JsonObject]] = []
        while selection and up_to is not None:
            after = page[-1][0] if page else ("", b"")

            def read(
                db: Database, after: tuple[str, bytes] = after, up_to: int = up_to
            ) -> list[tuple[tuple[str, bytes], JsonObject]]:
                return awaited.page(db, selection, up_to=up_to, after=after, limit=PAGE_FILES)

            if not (page := views.read(self._directory, read)):
                return
            yield from page

    def _print(self, key: tuple[str, bytes], entry: JsonObject) -> None:
        if self._as_json:
            print_json(entry)
        elif entry["status"] == Word.SYNCED:
            path = printable(f"{entry['folder']}/{entry['path']}")
            sys.stdout.write(f"{path}\t{printable(entry['file_uuid'] or '-')}\n")
        if entry["status"] != Word.SYNCED:
            self._not_synced += 1
            if self._not_synced <= MOST_TOLD:
                self._complain(key, entry)

    def _complain(self, key: tuple[str, bytes], entry: JsonObject) -> None:
        """Tell why a file is not synced."""
        folder, path = key
        root = next((f.place for f in self._config.folders if f.name == folder), b"")
        place = self._named.get(key) or FolderPath(folder, root, path)
        story = self._story(place) or {}
        explanation = story.get("explanation", "")
        is_gone = entry["status"] in (Word.DELETING, Word.DELETED)
        reason = explanation if is_gone else entry["error"] or explanation
        if entry["status"] == Word.HELD:
            reason = "; ".join(hold["reason"] for hold in story.get("holds", ())) or reason
        command = f"syncd why {argument(os.fsencode(folder) + b'/' + path)}"
        words = ": ".join(filter(None, (entry["status"], reason.rstrip("."))))
        complain(f"{entry['folder']}/{entry['path']}: {words} ({command})")

    def _unknown(self, place: FolderPath) -> JsonObject:
        """Return the entry of a file that is named, and that the table does not know."""
        story = self._story(place) or why.missing(place)
        entry = dict.fromkeys(KEYS) | {key: story[key] for key in KEYS if key in story}
        if entry["status"] != Word.SYNCED:
            entry["error"] = story["rule"] or story["explanation"]
        path = {"path_b64": None} | path_members(place.path)
        return entry | {"folder": place.folder} | path

    def _story(self, place: FolderPath) -> JsonObject | None:
        def read(db: Database | None) -> JsonObject | None:
            return why.tell([place], self._config, db, running=self._runs)

        try:
            return views.read(self._directory, read)
        except NoStateError:
            return read(None)

    def _is_key_refused(self) -> bool:
        open_holds = views.read(self._directory, holds.open_holds)
        return any(hold.reason == holds.KEY_REFUSED for hold in open_holds)
