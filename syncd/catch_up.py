"""Scans that make up for what was noticed while the state could not be written."""

from syncd.components import Components
from syncd.watch.watched import Watched


class CatchUp:
    """Asks for a scan of every folder once the state takes commits again."""

    def __init__(self, components: Components) -> None:
        self._recoveries = components.store.writer.recoveries
        #: the last scans before the state could be written again; empty once all are newer
        self._scans_before: dict[str, object] = {}

    def step(self, components: Components) -> None:
        """Ask for the scans when the state has recovered since the last call."""
        recoveries = components.store.writer.recoveries
        if recoveries > self._recoveries:
            self._recoveries = recoveries
            folders = components.watch.folders
            self._scans_before = {name: folders[name].last_scan for name in folders}
            components.watch.ask_scans("the state database takes commits again")

    def trouble(self, components: Components) -> str:
        """Return whether the state cannot be written, or which scans are still to come."""
        if components.store.writer.in_trouble:
            return "the state cannot be written: nothing is sent or deleted"
        folders = components.watch.folders
        self._scans_before = {
            name: scan
            for name, scan in self._scans_before.items()
            if name in folders and (folders[name].last_scan is scan or not _is_whole(folders[name]))
        }
        if not self._scans_before:
            return ""
        waiting = ", ".join(self._scans_before)
        return f"the state could not be written; a scan makes up for it: {waiting}"


def _is_whole(watched: Watched) -> bool:
    return watched.last_scan is not None and watched.last_scan.complete
