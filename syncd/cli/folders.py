"""Which folder is meant by a name or a path on the command line."""

import os
from collections.abc import Iterable

import click

from syncd.config.locations import current_directory
from syncd.log import printable
from syncd.report import folder_paths


def folder_name(given: str, known: Iterable[folder_paths.KnownFolder]) -> str:
    """Return the name of the known folder that is `given`; raise UsageError for none."""
    return named_folder(given, known).name


def named_folder(given: str, known: Iterable[folder_paths.KnownFolder]) -> folder_paths.KnownFolder:
    """Return the known folder that is `given` by name or path; raise UsageError for none."""
    known = list(known)
    for folder in known:
        if given == folder.name:
            return folder
    wanted = os.path.realpath(os.fsencode(current_directory() / given))
    for folder in known:
        if wanted == os.path.realpath(folder.root):
            return folder
    names = ", ".join(printable(folder.name) for folder in known) or "none yet"
    raise click.UsageError(f"no folder {printable(given)!r}; known are: {names}")
