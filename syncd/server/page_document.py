"""The part of the page's document that `status` does not have."""

import base64
from typing import Any

from syncd.config.loading import Config
from syncd.report import why
from syncd.report.folder_paths import FolderPath
from syncd.state import activity
from syncd.state.database.connection import Database

JsonObject = dict[str, Any]


def lately(db: Database, now: float) -> JsonObject:
    """Return the files that were synced last, and the last day in parts."""
    return {
        "recent": activity.last_synced(db),
        "day": activity.last_day(db, now),
        "day_part_seconds": activity.PART_SECONDS,
    }


def failures(facts: JsonObject, config: Config) -> list[JsonObject]:
    """Return the newest failures, each with what helps."""
    roots = {folder.name: folder.place for folder in config.folders}
    return [
        failure | {"advice": _advice(failure, roots.get(failure["folder"]))}
        for failure in facts["failures"]
    ]


def _advice(failure: JsonObject, root: bytes | None) -> list[str]:
    if root is None:
        return []
    exact = failure.get("path_b64")
    path = base64.b64decode(exact) if exact else failure["path"].encode()
    return list(
        why.of_failure(
            FolderPath(failure["folder"], root, path),
            failure["processing_status"],
            is_unreadable=failure["is_unreadable"],
        )
    )
