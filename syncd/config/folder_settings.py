"""The folders' settings together: the defaults they share, their names, and how they conflict."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from syncd.config.locations import BASE_URLS
from syncd.config.settings import FolderSettings, Settings
from syncd.config.targets import named
from syncd.places import Place, look, nested

#: The time that a file which has settled needs to be sent, at the end.
SPARE_SECONDS = 3.0


def completed(settings: Settings, in_use: Mapping[bytes, str]) -> Settings:
    """Fill in the settings that default to another one; `in_use` are names of folders by path."""
    api = settings.api
    api = api.model_copy(update={"base_url": api.base_url or BASE_URLS[api.environment]})
    folders: list[FolderSettings] = []
    names = _default_names(settings.folders, in_use)
    for folder in settings.folders:
        given = folder.model_fields_set
        update: dict[str, Any] = {}
        if not folder.name:
            update["name"] = names[folder.path]
        if "workspace_uuid" not in given:
            update["workspace_uuid"] = api.workspace_uuid
        for name in ("grace_seconds", "hold_files", "hold_percent", "hold_max"):
            if name not in given:
                update[name] = getattr(settings.deletions, name)
        folders.append(folder.model_copy(update=update))
    update = {"api": api, "folders": tuple(folders), "hooks": named(settings.hooks)}
    return settings.model_copy(update=update)


def _default_names(
    folders: Sequence[FolderSettings], in_use: Mapping[bytes, str]
) -> dict[Path, str]:
    """Return a name for each folder without one: the one in use for its path, which stays.

    Otherwise it is the last segment of its path, with a digest of the path where another folder,
    configured or known, has or would have that name. The order of the folders does not matter.
    """
    given = {folder.name for folder in folders if folder.name}
    nameless = [folder.path for folder in folders if not folder.name]
    segments = Counter(_segment(path) for path in nameless)
    names: dict[Path, str] = {}
    for path in nameless:
        kept = in_use.get(os.fsencode(path)) or in_use.get(os.fsencode(look(path).real))
        name = _segment(path)
        if kept is not None and kept not in given:
            name = kept
        elif name == "*" or segments[name] > 1 or name in given or name in in_use.values():
            # A hold on "*" is one on everything.
            name = f"{name}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:6]}"
        names[path] = name
    return names


def _segment(path: Path) -> str:
    segment = os.fsencode(path.name).decode("utf-8", "backslashreplace") or "root"
    return "".join(char if char.isprintable() else "_" for char in segment)[:80]


def conflicts(settings: Settings, where: str) -> Iterator[str]:
    """Yield what is wrong between folders that are each right; they are configured at `where`."""
    folders = settings.folders
    yield from _bad_names(folders, where)
    state = look(settings.state.directory)
    places = {folder.path: look(folder.path) for folder in folders}
    by_path = nested([os.fsencode(places[folder.path].real) for folder in folders])
    on_disk = nested([places[folder.path].key_on_disk for folder in folders])
    for index, folder in enumerate(folders):
        here = places[folder.path]
        for other in by_path.get(index, ()):
            yield (
                f"{where}: the folders {folders[other].path} and {folder.path} overlap; watch "
                "only the outer one, and exclude what you do not want"
            )
        for other in sorted({*on_disk.get(index, ())} - {*by_path.get(index, ())}):
            yield (
                f"{where}: the folders {folders[other].path} and {folder.path} are one "
                "directory that is mounted twice, or one is within the other; watch it at one "
                "path only"
            )
        if here.overlaps(state):
            yield (
                f"{where}: the state directory {settings.state.directory} and the folder "
                f"{folder.path} overlap; set [state] directory (SYNCD_STATE__DIRECTORY) to a "
                "place outside"
            )
    known = [*places.items(), (settings.state.directory, state)]
    yield from _overlapping_targets(folders, known, where)


def _bad_names(folders: Sequence[FolderSettings], where: str) -> Iterator[str]:
    for name, count in Counter(folder.name for folder in folders).items():
        if name == "*":
            yield f"{where}: a folder cannot have the name '*'; give it another one"
        if count > 1:
            yield f"{where}: {count} folders have the name {name!r}; give each its own name"


def _overlapping_targets(
    folders: Sequence[FolderSettings], places: Sequence[tuple[Path, Place]], where: str
) -> Iterator[str]:
    """Yield each `move_to` and `receipts` that is not outside every one of `places`."""
    for folder in folders:
        receipts = None if isinstance(folder.receipts, bool) else folder.receipts
        for setting, path in (("move_to", folder.move_to), ("receipts", receipts)):
            target = look(path) if path else None
            for at, place in places:
                if target and target.overlaps(place):
                    yield (
                        f"{where}: the folder {folder.path}: {setting} = {path} overlaps with "
                        f"{at}; name a place outside every watch folder"
                    )


def short_drains(settings: Settings) -> Iterator[str]:
    """Yield a warning for each folder whose last files a daemon that ends would not send."""
    drain_seconds = settings.upload.drain_seconds
    for folder in settings.folders:
        enough = folder.settle_seconds + SPARE_SECONDS
        if drain_seconds < enough:
            yield (
                f"drain_seconds ({drain_seconds:g}) is too short for {folder.name}: what is "
                "dropped there just before the end is not sent; set it to settle_seconds + "
                f"{SPARE_SECONDS:g} = {enough:g} or more"
            )
