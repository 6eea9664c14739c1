"""Takes files away once they are live (`after_upload`): moved, or deleted here.

A file is taken away only if the service has just confirmed it and nobody has it open for writing.
The intent is committed first; then the file is set aside, checked once more and read to its end.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from syncd import asides, disk, lease, relocation
from syncd.exceptions import DiskError, FileChangedError
from syncd.files_api import FilesClient
from syncd.log import fields
from syncd.state import after_upload, folders
from syncd.state.backoff import backoff_seconds
from syncd.state.copies import Copy
from syncd.state.database.store import Store, set_fact
from syncd.state.files import File
from syncd.state.ledger import Ledger
from syncd.state.planner import Policy
from syncd.state.texts import shown
from syncd.workers.confirmation import Confirmation, Told
from syncd.workers.emptied_folder import EmptiedFolder, Later, WaitingFiles, known_mount
from syncd.workers.gate import Gate
from syncd.workers.key_check import may_list
from syncd.workers.path_check import is_right_root, look

log = logging.getLogger(__name__)

K = TypeVar("K")

#: Files that are confirmed together, and the seconds for which a confirmation is fresh.
BATCH, FRESH_SECONDS = 50, 60.0
#: Seconds between two looks at a folder in which nothing can be taken away.
OBSTACLE_SECONDS = 10.0
#: Seconds for which a file stays aside if the kernel cannot tell whether it is open.
DAY_SECONDS = 86_400.0
#: The most directories that one query leaves out; beyond that, the whole folder waits.
MOST_LEFT_OUT = 500
_NO_SIZES = "the service reports no sizes, so nothing proves that a file arrived whole"


@dataclass(kw_only=True, eq=False)
class AfterUpload:
    """The last stage for emptied folders: `step` takes away the files that are uploaded."""

    store: Store
    ledger: Ledger
    client: FilesClient
    gate: Gate
    emptied: Mapping[str, EmptiedFolder]
    policies: Mapping[str, Policy]
    clock: Callable[[], float]
    stopped: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self._confirmation = Confirmation(client=self.client, gate=self.gate)
        self._waiting = {name: WaitingFiles() for name in self.emptied}
        self._told: dict[str, str] = {}
        #: where what is set aside stands, once a folder was searched for it
        self._asides: Mapping[bytes, bytes] | None = None

    def step(self) -> float | None:
        """Take away what is due; return the seconds until more may be."""
        more = False
        for name, folder in self.emptied.items():
            more |= self._finish_half_taken(name)
            if folder.takes and self.clock() >= self._waiting[name].quiet_until:
                more |= self._take_due(name, folder)
            self._tell(name)
        return 0.0 if more and not self.stopped() else None

    def _finish_half_taken(self, name: str) -> bool:
        now, self._asides = self.clock(), None
        found = self.store.read(after_upload.half_taken, name, now, BATCH)
        for file, copy in found:
            if self.stopped() or not self._has_right_root(name):
                return False
            self._finish(file, copy)
        return len(found) == BATCH

    def _finish(self, file: File, copy: Copy) -> None:
        """Finish with a file that may be set aside, in its place, or gone."""
        try:
            if copy.aside and self._take_from_aside(file, copy):
                return
            carried = self._carried(file, copy)
            if carried is not None and self._take_from_aside(carried, copy):
                return
        except (OSError, DiskError) as error:
            self._look_later(copy, backoff_seconds(6))
            log.warning("%s: it is set aside in %s: %s", file.shown, copy.aside, _reason(error))
            return
        folder = self.emptied[file.folder]
        place = (self.store, file.folder, folder.path)
        sight = look(*place, [file.path], marker=folder.marker).get(file.path)
        if sight is None or sight.found is disk.Found.UNREADABLE:
            self._look_later(copy, backoff_seconds(6))
        elif sight.found is disk.Found.FILE and sight.fingerprint == file.fingerprint:
            self._returned(copy, "it was about to be taken away when syncd ended")
        else:
            self._done(file, copy, after_upload.TAKEN_AWAY)

    def _carried(self, file: File, copy: Copy) -> File | None:
        """Return a file that is aside in a directory that was renamed, at its path of now."""
        if self._asides is None:
            self._asides = asides.find(self.emptied[file.folder].path)
        above = self._asides.get(os.fsencode(copy.aside or ""))
        if above is None:
            return None
        return file._replace(path=b"/".join(filter(None, (above, disk.split(file.path)[1]))))

    def _take_due(self, name: str, folder: EmptiedFolder) -> bool:
        """Take away the due files of one folder; return whether there may be more."""
        now, waiting = self.clock(), self._waiting[name]
        waiting.obstacle = self._led_elsewhere(folder) or relocation.obstacle(
            folder.path, folder.move_to, known_mount(self.store, folder.move_to)
        )
        later = waiting.blocked(now)
        if waiting.obstacle or None in later or len(later) > MOST_LEFT_OUT:
            waiting.quiet_until = now + OBSTACLE_SECONDS
            return False
        if self.gate.seconds_shut_for_all() or not self._has_right_root(name):
            return False
        busy = [file_id for file_id, known in waiting.files.items() if known.again_at > now]
        parents = [path for path in later if path is not None]
        found = self.store.read(after_upload.due, name, BATCH, without=busy, parents=parents)
        if parents and not found:
            waiting.quiet_until = now + OBSTACLE_SECONDS
        self._take_confirmed([(file, copy) for file, copy in found if self._may_leave(file)])
        waiting.forget(now)
        return len(found) == BATCH

    def _led_elsewhere(self, folder: EmptiedFolder) -> str:
        """Return why the target is no longer the same directory; record where it first led."""
        if folder.move_to is None:
            return ""
        key, now = f"target {shown(folder.move_to)}", os.path.realpath(folder.move_to)
        known = self.store.fact(key)
        if known is None:
            self.store.write(set_fact, key, now.hex())
        if known in (None, now.hex()):
            return ""
        was = shown(bytes.fromhex(known or ""))
        return f"move_to = {shown(folder.move_to)} is a link to another place than {was}: undo that"

    def _may_leave(self, file: File) -> bool:
        """Return whether a file's directory and the target allow taking it away."""
        folder, waiting = self.emptied[file.folder], self._waiting[file.folder]
        parent = disk.split(file.path)[0]
        if {None, parent} & waiting.blocked(self.clock()):
            return False
        target = folder.move_to
        if target is not None and not relocation.has_room(folder.path, target, file.size):
            message = f"move_to = {shown(target)} has no room for {file.shown}"
            self._put_off(waiting.parents, None, message)
            return False
        try:
            if relocation.is_writable(folder.path, file.path):
                return True
        except OSError:
            self._put_off(waiting.files, file.id)
            return False
        where = shown(parent) if parent else "the folder"
        message = f"user {os.geteuid()} may not take files out of {where}"
        self._put_off(waiting.parents, parent, message)
        return False

    def _take_confirmed(self, found: Sequence[tuple[File, Copy]]) -> None:
        """Take away the files that the service confirms to hold whole."""
        told: Mapping[int, Told | None] = {}
        asked_at = float("-inf")
        for index, (file, copy) in enumerate(found):
            if self.stopped():
                return
            parent, waiting = disk.split(file.path)[0], self._waiting[file.folder]
            if {None, parent} & waiting.blocked(self.clock()):
                continue
            if not 0 <= self.clock() - asked_at < FRESH_SECONDS:
                told = self._confirmation.ask([copy for _, copy in found[index:]])
                asked_at = self.clock()
            self._take_if_whole(file, copy, told.get(copy.id))

    def _take_if_whole(self, file: File, copy: Copy, told: Told | None) -> None:
        waiting = self._waiting[file.folder]
        match told:
            case Told.WHOLE:
                self._take(file)
            case Told.NOT_FOUND:
                self._gone_remotely(copy)
                self._put_off(waiting.files, file.id)
            case None:
                self._put_off(waiting.files, file.id)
            case Told.NO_SIZE:
                self._put_off(waiting.parents, None, _NO_SIZES)
            case Told.PROCESSED:
                message = f"{file.shown}: the service processes it, and does not show its size"
                self._put_off(waiting.files, file.id, message)
            case _:
                message = f"{file.shown}: the service does not hold it whole ({copy.file_uuid})"
                self._put_off(waiting.files, file.id, message)

    def _gone_remotely(self, copy: Copy) -> None:
        """Record that a copy is gone, if a listing proves that the key is good."""
        if not may_list(self.client, self.gate, copy.workspace_uuid):
            return
        now = self.clock()
        self.store.write(self.ledger.gone_remotely, copy.id, now)
        log.warning("%s is gone remotely: its file is not taken away", copy.file_uuid)

    def _take(self, file: File) -> None:
        """Set a file aside, and take it away from there."""
        waiting, root = self._waiting[file.folder], self.emptied[file.folder].path
        copy = None
        try:
            with disk.open_beneath(root, file.path) as descriptor:
                mark = disk.fingerprint(descriptor)
                is_there = self._has_right_root(file.folder, file.path)
                is_sent = mark == file.fingerprint and is_there
                if not is_sent or lease.is_open_for_writing(descriptor):
                    # The watcher notices new content too, which must be sent first.
                    self._put_off(waiting.files, file.id)
                    return
                aside, now = relocation.new_aside(), self.clock()
                copy = self.store.write(after_upload.begin, file.id, mark, aside, now)
                if copy is None:
                    self._put_off(waiting.files, file.id)
                    return
                relocation.set_aside(root, file.path, descriptor, aside)
            if self._take_from_aside(file, copy):
                return
        except (OSError, DiskError) as error:
            self._failed(file, copy, error)
            return
        self._failed(file, copy, FileChangedError("it is no longer there"))

    def _take_from_aside(self, file: File, copy: Copy) -> bool:
        """Move, delete or give back a file that is set aside; return False if it is not there."""
        folder = self.emptied[file.folder]
        try:
            with relocation.opened(folder.path, file.path, copy.aside or "") as place:
                try:
                    how = self._take_away(file, copy, folder, place)
                except (OSError, DiskError) as error:
                    back = place.give_back()
                    self._put_back(file, copy, back, error)
                    return True
        except FileNotFoundError:
            return False
        if how:
            self._done(file, copy, how)
        return True

    def _take_away(
        self, file: File, copy: Copy, folder: EmptiedFolder, place: relocation.Aside
    ) -> str:
        """Return what was done with a file; empty if it stays aside for now.

        Raise FileChangedError if it must not be taken away, and OSError if it cannot be.
        """
        if not folder.takes:
            raise FileChangedError("files of its folder are not taken away any more")
        has_writer, target = lease.is_open_for_writing(place.descriptor), folder.move_to
        if has_writer:
            raise FileChangedError("somebody writes to it")
        is_renamed = target is not None and place.is_beside(target)
        again_at = (copy.consumed_at or 0.0) + DAY_SECONDS
        if has_writer is None and not is_renamed and self.clock() < again_at:
            # It cannot be opened any more; a process that still has it open gets a day to finish.
            self.store.write(after_upload.look_later, copy.id, again_at)
            log.info("%s: set aside for a day, since it may still be open", file.shown)
            return ""
        whole = place.is_whole(copy.size, copy.sha256, self.stopped)
        if whole is None:
            return ""
        if not whole:
            raise FileChangedError("it is not what was sent")
        if target is None:
            place.delete()
            return "deleted here after its upload"
        # pathlib does not take bytes.
        moved_to = os.path.join(target, place.move(target, copy.size, copy.sha256))  # noqa: PTH118
        return f"{after_upload.MOVED}{shown(moved_to)}"

    def _put_back(self, file: File, copy: Copy, back: bytes, error: OSError | DiskError) -> None:
        if back == file.path:
            self._failed(file, copy, error)
            return
        log.warning("%s: it is %s now: %s", file.shown, shown(back), _reason(error))
        self._done(file, copy, f"put back as {shown(back)}: {_reason(error)}")

    def _failed(self, file: File, copy: Copy | None, error: OSError | DiskError) -> None:
        """Record why a file stays in place; an OSError makes its whole directory wait."""
        waiting, folder = self._waiting[file.folder], self.emptied[file.folder]
        message = f"{file.shown}: {_reason(error)}"
        if isinstance(error, OSError) and folder.takes:
            verb = "deleted" if folder.move_to is None else "moved"
            message = f"{file.shown} could not be {verb} after its upload: {_reason(error)}"
            self._put_off(waiting.parents, disk.split(file.path)[0], message)
        else:
            self._put_off(waiting.files, file.id)
        if copy is not None:
            self._returned(copy, message)

    def _returned(self, copy: Copy, reason: str) -> None:
        now = self.clock()
        self.store.write(after_upload.returned, copy.id, self.policies, now, reason=reason)

    def _look_later(self, copy: Copy, seconds: float) -> None:
        at = self.clock() + seconds
        self.store.write(after_upload.look_later, copy.id, at)

    def _put_off(self, waiting: dict[K, Later], key: K, message: str = "") -> None:
        known = waiting.get(key)
        failures = known.failures + 1 if known else 1
        waiting[key] = Later(message, failures, self.clock() + backoff_seconds(failures))

    def _done(self, file: File, copy: Copy, how: str) -> None:
        self._waiting[file.folder].files.pop(file.id, None)
        now = self.clock()
        self.store.write(after_upload.done, copy.id, now, how=how)
        log.info(
            "%s: %s", file.shown, how, extra=fields("taken", folder=file.folder, path=file.shown)
        )

    def _tell(self, name: str) -> None:
        """Log once why files of a folder are not taken away, and once that they are again."""
        text = self._waiting[name].text()
        if self._told.get(name) == text:
            return
        before = self.store.write(folders.set_obstacle, name, text)
        self._told[name] = text
        if text and text != before:
            log.warning("%s: files are not taken away after their upload: %s", name, text)
        elif before and not text:
            log.info("%s: files are taken away after their upload again", name)

    def _has_right_root(self, name: str, path: bytes = b"") -> bool:
        folder = self.emptied[name]
        return is_right_root(self.store, name, folder.path, folder.marker, path)


def _reason(error: OSError | DiskError) -> str:
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)
