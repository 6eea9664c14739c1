"""Watch folders of the configuration, as the stages see them."""

import os

from syncd.config.loading import FolderSettings
from syncd.watch.folder import WatchFolder


def watch_folder(folder: FolderSettings) -> WatchFolder:
    return WatchFolder(
        name=folder.name,
        path=folder.place,
        include=folder.include,
        exclude=folder.exclude,
        hidden=folder.hidden,
        max_size=folder.max_size,
        syncdignore=folder.syncdignore,
        skip_existing=folder.existing == "skip",
        settle_seconds=folder.settle_seconds,
        grace_seconds=folder.grace_seconds,
        rescan_seconds=folder.rescan_seconds,
        watch=folder.watch,
        mirror_deletions=folder.mirrors_deletions,
        marker=os.fsencode(folder.marker),
        any_root=folder.root == "any",
    )
