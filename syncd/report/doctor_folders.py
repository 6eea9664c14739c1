"""The checks of `doctor` on the folders, and on the machine's limits that they need."""

import errno
import os
import resource
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from syncd import disk, relocation
from syncd.config.loading import Config
from syncd.config.settings import FolderSettings
from syncd.descent import Descent
from syncd.exceptions import StateError, UnreadableError
from syncd.identity import RootIdentity, identify
from syncd.log import printable
from syncd.mounts import kind_of, why_polling
from syncd.report.findings import Finding, bad
from syncd.report.why import rules_of
from syncd.state import receipts, views
from syncd.state.folders import obstacles
from syncd.units import counted
from syncd.watch.ignore import IGNORE_FILE, IgnoreFiles

#: Directories that are counted in a folder, at most: so many take a second or two.
MOST_COUNTED = 100_000
#: Files and directories of a folder whose permissions are looked at, at most: well under a second.
MOST_LOOKED_AT = 20_000
#: A name for a marker.
EXAMPLE = ".syncd-root"
#: Open files that are enough for a daemon with its default number of workers.
LEAST_FILES = 256


def examine_folder(folder: FolderSettings, *, has_files: bool) -> Iterator[Finding]:
    """Yield whether a folder can be read, and how it is watched and recognized.

    If it `has_files` that were synced, a new directory in its place would be another folder.
    """
    name, shown = f"folder {printable(folder.name)}", printable(str(folder.path))
    try:
        root = identify(folder.place, os.fsencode(folder.marker))
        unreadable, unruly = _looked_through(folder)
    except OSError as error:
        fix = f"let user {os.getuid()} read it"
        if isinstance(error, FileNotFoundError):
            fix = "mount it, or bring it back" if has_files else "mount it or make it"
        yield bad(name, f"{shown}: {error.strerror}", f"{fix}; nothing is deleted meanwhile")
        return
    if unreadable:
        yield bad(
            name,
            f"{shown}: {len(unreadable)} cannot be read, such as {printable(unreadable[0])}",
            f"let user {os.getuid()} read them, or exclude them",
        )
        return
    if unruly:
        yield bad(
            name,
            f"{shown}: nothing is sent from {counted(len(unruly), 'directory', 'directories')}: "
            f"{printable(unruly[0])}",
            f"mend each {IGNORE_FILE} there, or remove it",
        )
        return
    reason = why_polling(folder.place) if folder.watch == "auto" else ""
    polled = folder.watch == "polling" or reason
    how = f"polled ({reason or 'as configured'})" if polled else "watched by events"
    yield Finding(name, good=True, text=f"{shown}: {kind_of(folder.place) or 'unknown'}, {how}")
    yield _known_by(folder, root)


def _known_by(folder: FolderSettings, root: RootIdentity) -> Finding:
    """Return what distinguishes the folder from another one in its place."""
    name = f"root of {printable(folder.name)}"
    if folder.root == "any":
        return Finding(name, good=True, text="any: whatever is at the path; nothing is deleted")
    if not root.is_stable:
        text = "nothing tells it from another folder in its place: nothing is deleted remotely"
        fix = f"put a file into it, and name that file in its settings: marker = {EXAMPLE!r}"
        return bad(name, text, fix)
    inode = f", inode {root.inode}" if root.inode else ""
    marker = f", marker {printable(folder.marker)}" if folder.marker else ""
    traits = f"{printable(root.filesystem)}{inode}{marker}"
    return Finding(name, good=True, text=f"can be told apart from other directories by {traits}")


def examine_taking_away(folder: FolderSettings, state: Path) -> Iterator[Finding]:
    """Yield whether files can be taken away after their upload, as the folder asks for."""
    name = f"folder {printable(folder.name)}"
    moves = folder.after_upload == "move" and folder.move_to
    target = os.fsencode(moves) if moves else None
    why = relocation.obstacle(folder.place, target, None)
    if not why:
        with suppress(StateError):
            why = views.read(state, obstacles).get(folder.name, "")
    if why:
        fix = (
            f"let user {os.getuid()} write there, or set after_upload to what can be done; the "
            "files are synced meanwhile"
        )
        yield bad(name, f"after_upload: {printable(why)}", fix)


def examine_receipts(folder: FolderSettings, state: Path) -> Iterator[Finding]:
    """Yield why receipts cannot be written, where the folder has some."""
    if folder.receipts_to is None:
        return
    target = os.fsencode(folder.receipts_to)
    setting = "move_to" if folder.receipts is True else "receipts"
    why = relocation.obstacle(target, target, None, setting)
    if not why:
        with suppress(StateError):
            why = views.read(state, receipts.obstacles).get(folder.name, "")
    if why:
        fix = f"let user {os.getuid()} write there, or name another directory; nothing else waits"
        yield bad(f"folder {printable(folder.name)}", f"receipts: {printable(why)}", fix)


def _looked_through(folder: FolderSettings) -> tuple[list[bytes], list[str]]:
    """Return what should be synced and cannot be read, and which rules cannot be used.

    The uppermost come first; the number of entries looked at is bounded. Raise OSError when the
    folder itself cannot be listed.
    """
    rules, unreadable, unruly, looked_at = rules_of(folder), list[bytes](), list[str](), 0
    directories: deque[tuple[bytes, IgnoreFiles]] = deque([(b"", ())])
    with Descent(folder.place) as descent:
        while directories and looked_at < MOST_LOOKED_AT:
            directory, above = directories.popleft()
            try:
                descriptor = descent.enter(directory)
                with disk.entries_of(descriptor) as listed:
                    entries = [(entry, entry.is_dir(follow_symlinks=False)) for entry in listed]
            except OSError as error:
                if not directory:
                    raise
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    unreadable.append(directory)
                continue
            looked_at += len(entries)
            try:
                above = rules.read(descriptor, directory, above)
            except UnreadableError as error:
                unruly.append(str(error))
                continue
            for entry, is_dir in entries:
                wanted = os.R_OK | os.X_OK if is_dir else os.R_OK
                readable = entry.is_symlink() or os.access(entry.name, wanted, dir_fd=descriptor)
                path = _beneath(directory, entry.name)
                if readable and not is_dir:
                    continue
                if rules.entry(path, is_dir=is_dir, files=above).excluded:
                    continue
                if readable:
                    directories.append((path, above))
                else:
                    unreadable.append(path)
    return unreadable, unruly


def _beneath(directory: bytes, name: str) -> bytes:
    return directory + b"/" + os.fsencode(name) if directory else os.fsencode(name)


def examine_limits(config: Config) -> Iterator[Finding]:
    """Yield whether the limits of inotify and of open files are high enough."""
    native = [
        folder
        for folder in config.folders
        if folder.watch == "native" or (folder.watch == "auto" and not why_polling(folder.place))
    ]
    needed = sum(_directories(folder.place) for folder in native)
    limit = _kernel_limit("max_user_watches")
    if limit is not None and needed > limit:
        wanted = max(2 * needed, 524_288)
        yield bad(
            "watches",
            f"{needed:,} directories, and the limit is {limit:,}: the others are polled",
            f"sysctl -w fs.inotify.max_user_watches={wanted} (to stay: /etc/sysctl.d)",
        )
    elif native:
        yield Finding("watches", good=True, text=f"{needed:,} needed, the limit is {limit or 0:,}")
    instances = _kernel_limit("max_user_instances")
    if instances is not None and instances < len(native) + 8:
        yield bad(
            "watches",
            f"{len(native)} folders, and the user may have {instances} inotify instances in all",
            "sysctl -w fs.inotify.max_user_instances=512 (to stay: /etc/sysctl.d)",
        )
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < LEAST_FILES:
        yield bad(
            "open files", f"the limit is {files}", "ulimit -n 4096, or LimitNOFILE= in the unit"
        )
    else:
        yield Finding("open files", good=True, text=f"the limit is {files:,}")


def _directories(root: bytes) -> int:
    """Count the directories of a folder, up to a bound, following no link."""
    count, waiting = 0, [b""]
    with Descent(root) as descent:
        while waiting and count < MOST_COUNTED:
            directory = waiting.pop()
            count += 1
            with suppress(OSError), disk.entries_of(descent.enter(directory)) as entries:
                found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
                waiting += [_beneath(directory, name) for name in found]
    return count


def _kernel_limit(name: str) -> int | None:
    try:
        return int(Path("/proc/sys/fs/inotify", name).read_text("ascii"))
    except (OSError, ValueError):
        return None
