"""The effect of approving another folder in the place of the one that was synced, in words."""

from functools import partial

from syncd.config.loading import Config
from syncd.report import folder_paths
from syncd.state import views
from syncd.state.holds import Hold, decisions
from syncd.units import counted
from syncd.watch.likeness import lacking

_KEPT = "no remote copy of what it lacks will be deleted"
_FATE = "will be deleted after the grace period, unless they are so many that they are held again"


def foretold(config: Config, hold: Hold) -> str:
    """Return what becomes of the synced files that the folder lacks, found by a look at it now."""
    name, directory = decisions.folder_of(hold), config.state.directory
    known = views.read(directory, partial(folder_paths.folders, config))
    folder = next((one for one in known if one.name == name), None)
    if not mirrors(config, name):
        return _KEPT
    found = folder and lacking(partial(views.read, directory), name, folder.root, hold.scope)
    if not found or not found.known or found.unreadable:
        return f"the remote copies of the synced files that are not in it {_FATE}"
    if not found.missing:
        return f"all {counted(found.known, 'synced file')} are in it, some with other content"
    number, of = len(found.missing), counted(found.known, "synced file")
    return f"{number:,} of {of} {_are(number)} not in it: their remote copies {_FATE}"


def told(config: Config, folder: str, number: int) -> str:
    """Return what becomes of the `number` of synced files that the approved folder lacks."""
    if not mirrors(config, folder):
        return _KEPT
    if not number:
        return f"the remote copies of the synced files that are not in it {_FATE}"
    files = counted(number, "synced file")
    return f"{files} {_are(number)} not in it: their remote copies {_FATE}"


def mirrors(config: Config, folder: str) -> bool:
    """Return whether the remote copies of a folder's missing files are deleted."""
    return all(one.mirrors_deletions for one in config.folders if one.name == folder)


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
