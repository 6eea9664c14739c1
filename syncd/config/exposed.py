"""Finds secrets of syncd's own that lie in a watch folder, from where they would be uploaded."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from syncd.config.credentials import KEY_FILE_VARIABLE, TOKEN_FILE_VARIABLE
from syncd.config.locations import expanded
from syncd.config.settings import FolderSettings, Settings
from syncd.places import Place, look


def exposed(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a problem for each file with a secret that a folder would send."""
    for setting, file in _secrets(settings, environ):
        # A link in a folder is not followed, so what counts is where it leads.
        place = look(file)
        for folder in settings.folders:
            if _is_sent(place, folder):
                yield (
                    f"{setting}: {file} lies in the folder {folder.path} and would be uploaded; "
                    "move it to a place outside"
                )


def _secrets(settings: Settings, environ: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """Yield the files that hold a secret, with the setting that names each."""
    for variable in (KEY_FILE_VARIABLE, TOKEN_FILE_VARIABLE):
        if named := environ.get(variable):
            yield variable, expanded(named)
    named_in = (
        ("[server] token_file", settings.server.token_file),
        ("[api] client_key", settings.api.client_key or settings.api.client_cert),
    )
    yield from ((setting, file) for setting, file in named_in if file is not None)


def _is_sent(place: Place, folder: FolderSettings) -> bool:
    """Return whether a file is in a folder, and not hidden there."""
    here = look(folder.path)
    ways = (
        (os.fsencode(place.real), os.fsencode(here.real)),
        (place.key_on_disk, here.key_on_disk),
    )
    for path, root in ways:
        above = root and root.rstrip(b"/") + b"/"
        if path and above and path.startswith(above):
            segments = path.removeprefix(above).split(b"/")
            return folder.hidden or not any(segment.startswith(b".") for segment in segments)
    return False
