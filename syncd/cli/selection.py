"""Which files of which folders the arguments of a command mean: paths, directories and globs.

A path is one of the file system, absolute or relative, or one as `ls` prints it: with its folder's
name before it, or relative to its folder.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import click

from syncd.config.loading import Config
from syncd.config.locations import current_directory
from syncd.log import printable
from syncd.report.folder_paths import FolderPath, KnownFolder, folders, on_disk, real, within
from syncd.state import views
from syncd.state.database.connection import Database
from syncd.state.selected import Selected, is_known
from syncd.watch.gitignore import PatternError, Patterns

_WILDCARD = re.compile(rb"[*?[]")
_SPECIAL = re.compile(rb"[*?[\\]")
#: The escapes that `printable` makes of characters that it does not show.
_WRITTEN_OUT = re.compile(r"\\(?:[tnr]|x[0-9a-f]{2}|u[0-9a-f]{4}|U00(?:0[0-9a-f]|10)[0-9a-f]{4})")


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument, and the files that it means."""

    given: str
    #: empty if nothing by that name is known, or there
    selected: tuple[Selected, ...] = ()
    #: the path in a folder that it means or would mean; None for a pattern, or for many folders
    place: FolderPath | None = None
    is_pattern: bool = False


def arguments(
    given: Iterable[str | os.PathLike[str]],
    known: Sequence[KnownFolder],
    db: Database | None,
    here: str | os.PathLike[str],
) -> list[Argument]:
    """Return what each argument means.

    A name that is in the table or on disk is taken as it is, even if it holds wildcards. Raise
    UsageError for a pattern that cannot be read.
    """
    return [_argument(os.fspath(one), known, db, os.fsencode(here)) for one in given]


def known_arguments(
    given: Iterable[str | os.PathLike[str]], config: Config
) -> tuple[list[Argument], list[str]]:
    """Return what arguments mean, and those of which the table knows no file.

    Empty directories are none of these. Raise UsageError, with all of them, for arguments that are
    neither known nor on disk, and NoStateError where there is no state.
    """

    def read(db: Database) -> tuple[list[Argument], list[str]]:
        known = folders(config, db)
        meant = arguments(given, known, db, current_directory())
        if nowhere := [one for one in meant if not (one.selected or one.is_pattern)]:
            names = ", ".join(repr(printable(one.given)) for one in nowhere)
            those = ", ".join(printable(folder.name) for folder in known) or "none yet"
            raise click.UsageError(f"no file or folder {names}; known folders are: {those}")
        return meant, [
            one.given for one in meant if not (is_known(db, one.selected) or _is_directory(one))
        ]

    return views.read(config.state.directory, read)


def remembered_arguments(given: Iterable[str | os.PathLike[str]], config: Config) -> list[Selected]:
    """Return what arguments select of the history, also where nothing else is left of a path.

    Raise UsageError for one that can be in no folder, and NoStateError where there is no state.
    """

    def read(db: Database) -> tuple[list[KnownFolder], list[Argument]]:
        known = folders(config, db)
        return known, arguments(given, known, db, current_directory())

    known, meant = views.read(config.state.directory, read)
    selected: list[Selected] = []
    for argument in meant:
        # A path of which nothing is left but its history is in no table.
        places = [argument.place] if argument.place else within(os.fsencode(argument.given), known)
        guessed = [Selected(place.folder, place.path) for place in places]
        if not (some := [*argument.selected] or guessed):
            names = ", ".join(printable(folder.name) for folder in known) or "none yet"
            raise click.UsageError(
                f"no file or folder {printable(argument.given)!r}; known folders are: {names}"
            )
        selected += some
    return selected


def _is_directory(argument: Argument) -> bool:
    place = argument.place
    return not argument.is_pattern and (place is None or os.path.isdir(place.absolute))  # noqa: PTH112


def _argument(
    given: str, known: Sequence[KnownFolder], db: Database | None, here: bytes
) -> Argument:
    for folder in known:
        if given.rstrip("/") == folder.name:
            return _whole([folder], given)
    guess: FolderPath | None = None
    for text in dict.fromkeys((given, _as_printed(given))):
        path = os.fsencode(text)
        absolute = list(on_disk(path, known, here))
        if found := _existing(absolute, db):
            return Argument(given, (Selected(found.folder, found.path),), found)
        if folders := _folders_beneath(path, known, here):
            return _whole(folders, given)
        relative = list(within(path, known))
        if found := _existing(relative, db):
            return Argument(given, (Selected(found.folder, found.path),), found)
        # A path relative to one of several folders is a mere guess.
        guess = guess or next(iter(absolute if len(known) > 1 else absolute + relative), None)
    if _WILDCARD.search(os.fsencode(given)):
        return Argument(given, tuple(_matching(given, known, here)), is_pattern=True)
    return Argument(given, (), guess)


def _whole(folders: Sequence[KnownFolder], given: str) -> Argument:
    first = FolderPath(folders[0].name, folders[0].root, b"")
    selected = tuple(Selected(folder.name) for folder in folders)
    return Argument(given, selected, first if len(folders) == 1 else None)


def _existing(places: Iterable[FolderPath], db: Database | None) -> FolderPath | None:
    """Return the first of the places that the table knows; else the first that is on disk."""
    places = list(places)
    if db is not None:
        for place in places:
            if is_known(db, [Selected(place.folder, place.path)]):
                return place
    return next((place for place in places if os.path.lexists(place.absolute)), None)


def _folders_beneath(given: bytes, known: Sequence[KnownFolder], here: bytes) -> list[KnownFolder]:
    """Return the folders whose root is the directory `given`, or lies beneath it."""
    directory = real(_join(here, given)).rstrip(b"/") + b"/"
    return [folder for folder in known if folder.roots[-1].startswith(directory)]


def _matching(given: str, known: Sequence[KnownFolder], here: bytes) -> Iterator[Selected]:
    """Yield what a pattern can match: as a path of the file system, else within the folders."""
    pattern = os.path.normpath(os.fsencode(given))
    end = b"/" if given.endswith("/") else b""
    absolute = os.path.normpath(_join(_escaped(here), pattern)).split(b"/")[1:]
    found = [
        (folder, rest)
        for folder in known
        for root in folder.roots
        for rest in _below(absolute, root.split(b"/")[1:-1])
    ]
    if not found and not pattern.startswith((b"/", b"../")):
        for folder in known:
            found += [(folder, rest) for rest in _below(pattern.split(b"/"), [_name(folder)])]
            found.append((folder, pattern))
    for folder, rest in dict.fromkeys(found):
        yield _selected(given, folder, rest + end if rest else rest)


def _below(parts: list[bytes], root: list[bytes]) -> Iterator[bytes]:
    """Yield what is left of a pattern beneath `root`; empty where it matches a root or above."""
    if not parts or not root:
        yield b"/".join(parts)
    elif parts[0] == b"**":
        yield from _below(parts[1:], root)
        yield from _below(parts, root[1:])
    elif fnmatchcase(root[0], parts[0]):
        yield from _below(parts[1:], root[1:])


def _selected(given: str, folder: KnownFolder, pattern: bytes) -> Selected:
    if not pattern:
        return Selected(folder.name)
    try:
        patterns = Patterns([b"/" + pattern])
    except PatternError as error:
        detail = str(error).removeprefix("line 1 ")
        raise click.UsageError(f"the pattern {printable(given)!r} {detail}") from error
    # Only what lies beneath the directories that the pattern spells out can match.
    directory = _SPECIAL.split(pattern, maxsplit=1)[0].rpartition(b"/")[0]
    return Selected(folder.name, directory, lambda path: patterns.find_within(path)[0] is True)


def _escaped(path: bytes) -> bytes:
    """Return a path as a pattern that matches it alone."""
    return _SPECIAL.sub(lambda found: b"[%s]" % found[0].replace(b"\\", b"\\\\"), path)


def _as_printed(given: str) -> str:
    """Return the name that `ls` prints as `given`."""
    return _WRITTEN_OUT.sub(lambda found: _character(found[0]), given)


def _character(text: str) -> str:
    char = text.encode().decode("unicode_escape")
    if text[1] == "x" and char >= "\x80":
        # A byte that is not UTF-8, as Python keeps it.
        return chr(0xDC00 + ord(char))
    return text if char == "\0" or "\ud800" <= char <= "\udfff" else char


def _name(folder: KnownFolder) -> bytes:
    return os.fsencode(folder.name)


def _join(parent: bytes, path: bytes) -> bytes:
    # pathlib does not take bytes.
    return os.path.join(parent, path)  # noqa: PTH118
