"""Foresees a pass of `once`: the real scan and the real rules, on a copy of the state.

Nobody is asked, no file is read, and the state stays as it is; a daemon may run.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from syncd.components import Components, opened
from syncd.config.credentials import Credentials
from syncd.config.loading import Config
from syncd.log import printable
from syncd.state import foreseen, holds
from syncd.state.database.duplicate import duplicate
from syncd.state.deletions import Deletions
from syncd.state.texts import hold_object, shown

#: Files of each kind that are named.
NAMED = 1000
#: The kinds of work that a pass would do, in the order in which they are told.
KINDS = ("send", "replace", "delete", "move", "held", "failed", "processing")


@dataclass(slots=True)
class Kind:
    """The files with which one thing would be done; the first of them by name."""

    files: int = 0
    bytes: int = 0
    first: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Foresight:
    """The work that a pass would do."""

    kinds: dict[str, Kind]
    ignored: int
    holds: list[dict[str, Any]]
    #: what could not be looked at, in words
    unseen: list[str]


def dry_run(config: Config, *, looking_at: Callable[[str], None] = lambda _: None) -> Foresight:
    """Return what a pass would do; `looking_at` is told each folder, as its scan begins.

    Raise StateError as a real pass does. No key is needed.
    """
    # A dot keeps it out of the scan where the folder for temporary files is watched.
    with tempfile.TemporaryDirectory(prefix=".syncd-dry-run-") as directory:
        duplicate(config.state.directory, Path(directory))
        state = config.state.model_copy(update={"directory": Path(directory)})
        key = Credentials(api_key=SecretStr("nobody-is-asked"))
        copied = config.model_copy(update={"state": state, "credentials": key})
        with opened(copied) as components:
            return _foresee(components, looking_at)


def _foresee(components: Components, looking_at: Callable[[str], None]) -> Foresight:
    store, unseen = components.store, []
    for name, watched in components.watch.folders.items():
        looking_at(name)
        report = watched.scan()
        for directory, why in report.unreadable.items():
            unseen.append(f"{name}: {printable(directory) or 'its root'}: {why}")
        if not report.complete and not report.unreadable:
            unseen.append(f"{name}: the folder is not there, or not the one it was")
    deletions = Deletions(policies=components.policies)
    for name in components.policies:
        # As the deleter does before the first of them would be deleted.
        store.write(deletions.review, folder=name, now=time.time())
    closed = components.uploader.closed_folders()
    kinds = {name: Kind() for name in KINDS}
    for file in store.read(lambda db: [*foreseen.foreseen(db, components.policies, closed)]):
        kind = kinds[file.kind]
        kind.files += 1
        kind.bytes += file.size
        if len(kind.first) < NAMED:
            kind.first.append(f"{file.folder}/{shown(file.path)}")
    return Foresight(
        kinds,
        store.read(foreseen.ignored, components.policies),
        [hold_object(hold) for hold in store.read(holds.open_holds)],
        unseen,
    )
