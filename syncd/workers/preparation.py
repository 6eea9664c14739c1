"""Before a file is sent: it is opened and hashed, and the intent to send it is handed in."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from syncd import disk
from syncd.exceptions import FileChangedError, UnreadableError
from syncd.files_api import StopFlag, content_type
from syncd.log import fields
from syncd.state import echo
from syncd.state.attempts import kind_of
from syncd.state.backoff import backoff_seconds
from syncd.state.database.store import Store
from syncd.state.files import File
from syncd.state.ledger import PROBE, Begun, Elsewhere, Intent, Ledger, Offer
from syncd.workers.gate import Gate
from syncd.workers.path_check import look, may_be_sent
from syncd.workers.transfers import Transfer, Transfers

log = logging.getLogger(__name__)

#: The service stores no larger object by a presigned PUT (S3's own limit for one PUT).
PRESIGNED_MAX_BYTES = 5 << 30
#: The largest file that is sent direct to learn whether such names are echoed.
PROBE_BYTES = 1 << 20
#: Seconds until a file is tried again after its folder was replaced.
ROOT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class SourceRoot:
    """The place of a folder's files, and how long they take to settle, in seconds."""

    path: bytes
    settle_seconds: float
    workspace_uuid: str | None
    #: a file beneath it without which it is not the right one
    marker: bytes = b""


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """How to send; sizes in bytes, times in seconds."""

    #: parallel transfers; None for as many as raise throughput
    workers: int | None = 8
    method: str = "auto"
    direct_max: int = 32 << 20
    token: bool = True
    first_poll_seconds: float = 2.0


class Hashed(NamedTuple):
    """A file that is open, and its content as it was read."""

    file: File
    descriptor: int
    offer: Offer


class Prepared(NamedTuple):
    """A file that is open and hashed, and the intent that is being committed for it."""

    file: File
    descriptor: int
    offer: Offer
    begun: "Future[Begun]"


@dataclass(kw_only=True, eq=False)
class Preparation:
    """Opens, hashes and promises. Thread-safe; errors are the caller's."""

    store: Store
    ledger: Ledger
    roots: Mapping[str, SourceRoot]
    gate: Gate
    options: UploadOptions
    clock: Callable[[], float]
    stop: StopFlag
    transfers: Transfers
    #: for files and videos: whether their direct uploads can be found by their tokens
    _proven: set[bool] = field(default_factory=set, init=False)

    # Whether a file may go

    def claim(self, file: File) -> bool:
        """Let a file be sent next, as the probe of whatever is broken; False if it has to wait."""
        workspace = self.roots[file.folder].workspace_uuid
        return self.gate.claim(workspace, file.id, presigned=self._needs_storage(file))

    def admits(self, file: File) -> bool:
        """Return whether the gate lets a file be sent now."""
        root = self.roots.get(file.folder)
        workspace = root.workspace_uuid if root else None
        return self.gate.admits(
            file.id,
            folder=file.folder,
            workspace=workspace,
            presigned=self._needs_storage(file),
        )

    def _needs_storage(self, file: File) -> bool:
        """Return whether a file waits for a storage that takes nothing, judged by its name."""
        if not self.gate.storage_tripped:
            return False
        is_video = content_type(file.path).startswith("video/")
        return self._method(file.size, is_video=is_video) == "presigned"

    def is_at_home(self, file: File) -> bool:
        """Return whether the folder is the one that the file is known to be in."""
        root = self.roots[file.folder]
        return may_be_sent(self.store, file.folder, root.path, file.path, marker=root.marker)

    # From the disk to the intent

    def hashed(self, file: File, opened: ExitStack) -> Hashed | None:
        """Open and hash a file, whose descriptor stays open as long as `opened`.

        None if it must not be sent as it is, which is recorded, or if the daemon stops.
        """
        root = self.roots.get(file.folder)
        if root is None:
            return None
        try:
            with self.transfers.under_way(file, file.size, is_read=True) as reading:
                descriptor = opened.enter_context(disk.open_beneath(root.path, file.path))
                if not self.is_at_home(file):
                    later = self.clock() + ROOT_SECONDS
                    self.store.write(self.ledger.put_off, file.id, later)
                    return None
                offer = self._offer(file, descriptor, reading)
        except (FileChangedError, UnreadableError) as error:
            self.record_unsendable(file, error)
            return None
        return Hashed(file, descriptor, offer) if offer else None

    def _offer(self, file: File, descriptor: int, reading: Transfer) -> Offer | None:
        before = disk.fingerprint(descriptor)
        if before != file.fingerprint:
            raise FileChangedError(f"{file.shown} changed")
        digest = file.sha256
        if digest is None:
            digest = disk.sha256(
                descriptor,
                before.size,
                stopped=self.stop.is_set,
                progress=lambda read: self.transfers.moved(reading, read),
            )
            if digest is None:
                return None
            if disk.fingerprint(descriptor) != before:
                raise FileChangedError(f"{file.shown} changed while it was read")
        kind = content_type(file.path, partial(os.pread, descriptor))
        return Offer(
            file_id=file.id,
            fingerprint=before,
            sha256=digest,
            content_type=kind,
            method=self._method(before.size, is_video=kind.startswith("video/")),
        )

    def record_unsendable(self, file: File, error: FileChangedError | UnreadableError) -> None:
        """Record that a file cannot be sent as it is."""
        now = self.clock()
        if isinstance(error, FileChangedError):
            again_at = now + self.roots[file.folder].settle_seconds
            self.store.write(self.ledger.unsettle, file.id, again_at)
            return
        message, again_at = str(error), now + backoff_seconds(file.attempts + 1)
        log.warning(
            "%s: %s; tried again later",
            file.shown,
            message,
            extra=fields("unreadable", folder=file.folder, path=file.shown, cause=message),
        )
        self.store.write(self.ledger.unreadable, file.id, message, again_at)

    def promised(self, hashed: Sequence[Hashed]) -> list[Prepared]:
        """Hand in the intents to send files, without waiting for their commit."""
        begun = self._begin([one.offer for one in hashed])
        return [Prepared(*one, future) for one, future in zip(hashed, begun, strict=True)]

    def _begin(self, offers: Sequence[Offer]) -> "list[Future[Begun]]":
        now = self.clock()
        intents = [Intent(offer, now) for offer in offers]
        return self.store.writer.submit_all(self.ledger.begin_all, intents)

    def begun(self, prepared: Prepared) -> Begun:
        """Wait until an intent is committed; look first whether the file was moved, if it may be.

        Only what this returns may be sent.
        """
        begun = prepared.begun.result()
        if isinstance(begun, Elsewhere):
            offer = replace(prepared.offer, vacated=self._vacated(begun.files))
            begun = self._begin([offer])[0].result()
        return begun

    def _vacated(self, sources: Iterable[File]) -> list[int]:
        """Return the files whose paths are vacant, because what was there was moved."""
        vacated = []
        for source in sources:
            root = self.roots.get(source.folder)
            if root is None:
                continue
            place, path = (self.store, source.folder, root.path), source.path
            sight = look(*place, [path], marker=root.marker).get(path)
            if sight is not None and sight.found is disk.Found.ABSENT:
                vacated.append(source.id)
        return vacated

    # How to send it

    def _method(self, size: int, *, is_video: bool) -> str:
        """Choose how to send.

        If there is a choice, large files go presigned, because that can be repeated safely, and so
        do all of a kind until the service is known to echo its tokens: before that, an unanswered
        direct upload could neither be found nor be sent again. One small file is sent direct to
        learn it.
        """
        if size > PRESIGNED_MAX_BYTES or self.options.method == "direct":
            return "direct"
        if self.options.method == "presigned" or size > self.options.direct_max:
            return "presigned"
        if not self.options.token:
            return "presigned"
        if self._is_proven(is_video=is_video):
            return "direct"
        kind = kind_of("direct", is_video=is_video)
        is_learned = self.store.read(echo.learned, kind) is not None
        return "presigned" if is_learned or size > PROBE_BYTES else PROBE

    def _is_proven(self, *, is_video: bool) -> bool:
        # Proof is final, so the table is asked only until then.
        if is_video not in self._proven and self.store.read(
            echo.is_proven, "direct", is_video=is_video
        ):
            self._proven.add(is_video)
        return is_video in self._proven
