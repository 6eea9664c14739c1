"""The check of `doctor` on holds: what is stopped on purpose is not well until it has ended."""

import time
from collections.abc import Sequence
from pathlib import Path

from syncd.config.loading import Config
from syncd.exceptions import StateError
from syncd.log import printable
from syncd.report.findings import Finding, bad
from syncd.report.status import stopped
from syncd.state import holds, views
from syncd.state.database.store import lock_holder
from syncd.state.holds import EVERYWHERE, NAMING_FILES, PAUSED, ROOT_MISSING, ROOT_REPLACED, Hold
from syncd.state.texts import hold_object

_OF_ROOTS = (ROOT_MISSING, ROOT_REPLACED)


def open_holds(config: Config) -> list[Hold]:
    """Return the open holds that stop sending, a folder, or something everywhere; no pause.

    One on a single upload does not count, nor one that stops only the files that it names.
    """
    try:
        known = views.read(config.state.directory, holds.open_holds)
    except StateError:
        # The check of the state says so.
        return []
    now = time.time()
    return [hold for hold in known if _counts(hold) and not hold.is_over(now)]


def _counts(hold: Hold) -> bool:
    if hold.reason in (PAUSED, *NAMING_FILES) or hold.scope.startswith("copy "):
        return False
    return hold.stops != "deletions" or hold.scope == EVERYWHERE or hold.reason in _OF_ROOTS


def is_replaced(known: Sequence[Hold], folder: str) -> bool:
    """Return whether another folder stands in the place of one: then it is not to be examined."""
    return any(
        (hold.stops, hold.scope, hold.reason) == ("folder", folder, ROOT_REPLACED) for hold in known
    )


def examine_hold(hold: Hold, directory: Path) -> Finding:
    """Return what an open hold stops, and what ends it."""
    about_root = hold.reason in _OF_ROOTS
    fix = hold.commands[0] if hold.commands else "see `syncd status`"
    if about_root:
        fix = f"mount the right disk, or put the right folder back: it then ends by itself ({fix})"
    if lock_holder(directory) is None:
        fix += "; no daemon is running: `syncd run` or `syncd once` looks again"
    name = f"folder {hold.scope}" if about_root else f"hold {hold.id}"
    what = f"{stopped(hold_object(hold))} is held ({hold.reason}): {hold.message}"
    return bad(printable(name), printable(what), printable(fix))
