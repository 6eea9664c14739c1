"""Rebuilds what the ledger has lost from the remote listing, sending no bytes."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from syncd import disk
from syncd.exceptions import DiskError, StateError
from syncd.files_api import (
    FileDetail,
    FilesClient,
    ForbiddenError,
    Listing,
    NotFoundError,
    sent_name,
    tokens_in,
)
from syncd.state import adoption, due, holds, unknown
from syncd.state.adoption import Became, Remote
from syncd.state.copies import Copy, instance_of, place_of
from syncd.state.files import File
from syncd.state.planner import Policy
from syncd.state.store import ECHO, PROVEN, Store, Transaction, set_fact
from syncd.state.unknown import Unknown
from syncd.workers.introduction import Introduction
from syncd.workers.tokens import by_token, of_instance

log = logging.getLogger(__name__)

JsonObject = dict[str, Any]
#: Readings of a listing that keeps changing, before giving up.
READINGS = 5
#: Files between two words of progress.
PROGRESS_FILES = 100
#: What the result counts; `known` are objects that the ledger has as its own.
_COUNTED = ("listed", "known", "live", "twin", "previous", "gone")
_INSTANCE = re.compile(r"[0-9a-f]{8}\Z")


class AdoptError(StateError):
    """Adoption cannot go on now; nothing was changed but what it has told of."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object that is ours and that the ledger has forgotten."""

    item: FileDetail
    forgotten: Unknown

    @property
    def remote(self) -> Remote:
        item, forgotten = self.item, self.forgotten
        kind = item.content_type or "application/octet-stream"
        return Remote(
            file_uuid=item.file_uuid,
            token=forgotten.token,
            workspace_uuid=forgotten.workspace_uuid,
            content_type=kind,
            created_at=item.created_at.timestamp(),
            size=item.file_size_bytes,
            remote_file_path=item.remote_file_path,
            is_video=kind.startswith("video/"),
        )

    def carries(self, name: str) -> bool:
        """Say whether it was sent under `name`: many servers keep its last segment only."""
        last = name.rpartition("/")[2]
        return any(text.rstrip("/").endswith(last) for text in self.item.strings())


class Adopter:
    """Compares listing, ledger and folders, and takes up what belongs together."""

    def __init__(
        self,
        *,
        store: Store,
        client: FilesClient,
        introduction: Introduction,
        policies: Mapping[str, Policy],
        roots: Mapping[str, bytes],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._client = client
        self._introduction = introduction
        self._policies = policies
        self._roots = roots
        self._clock = clock

    def adopt(self, *, instance: str | None = None) -> Iterator[JsonObject]:
        """Do it all, and yield how far it is, at the end what was done.

        The folders have been scanned. `instance` is the id of an earlier instance to become,
        where the whole state directory was lost. AdoptError where it cannot go on; FilesApiError
        where the service does not answer. A former workspace that this key may not read any more
        is left as the ledger has it, and stands in `unread`.
        """
        if instance is not None:
            self._become(instance)
        if self._store.read(holds.is_lost):
            self._spare_what_may_be_taken_away()
        counts: Counter[str] = Counter()
        others: Counter[str] = Counter()
        left: list[Unknown] = []
        unread: list[str] = []
        for workspace in self._workspaces():
            yield {"step": "reading the listing", "workspace": workspace}
            try:
                listing = self._read(workspace)
            except ForbiddenError:
                if any(policy.workspace_uuid == workspace for policy in self._policies.values()):
                    raise
                # A former one, closed to this key: its copies stay as the ledger has them.
                unread.append(str(workspace))
                continue
            self._introduction.learn(listing.items)
            others.update(self._instances(listing))
            counts["gone"] += self._forget_gone(workspace, listing)
            self._doubt_planned(listing)
            ours = of_instance(listing, self._store.instance, workspace, self._clock())
            found = self._forgotten(ours, listing)
            counts["known"] += len(ours) - len(found)
            yield from self._match(found, counts, left)
            counts["listed"] += len(listing.items)
        taken_up = counts["live"] + counts["twin"] + counts["previous"]
        self._finish(left, found_by_token=bool(taken_up or left))
        self._store.changed.set()
        yield {
            "instance": self._store.instance,
            **{name: counts[name] for name in _COUNTED},
            "unknown": len(left),
            "other_instances": dict(others),
            "unread": unread,
        }

    def _finish(self, left: list[Unknown], *, found_by_token: bool) -> None:
        """Go on sending; what no file was found for is kept in mind, and kept."""
        now = self._clock()

        def record(db: Transaction) -> None:
            if found_by_token:
                set_fact(db, ECHO, PROVEN)
            unknown.note(db, left)
            unknown.accept(db, now)
            self._store.recovered(db, now)

        self._store.write(record)
        self._store.remember()

    def _spare_what_may_be_taken_away(self) -> None:
        now = self._clock()
        for name, policy in self._policies.items():
            if policy.after_upload != "keep":
                self._store.write(partial(adoption.spare_missing, folder=name, now=now))

    def _become(self, instance: str) -> None:
        if not _INSTANCE.match(instance):
            raise AdoptError(
                f"{instance} is no instance: it is the 8 hex digits after sy1- in names"
            )
        if not self._store.become(instance, self._clock()):
            raise AdoptError(
                "this state has sent files of its own, and cannot become another instance: give "
                "the earlier one an empty [state] directory"
            )

    def _workspaces(self) -> list[str | None]:
        known = set(self._store.read(due.workspaces))
        known |= {policy.workspace_uuid for policy in self._policies.values()}
        return sorted(known, key=str)

    def _read(self, workspace: str | None) -> Listing:
        for _ in range(READINGS):
            listing = self._client.read_listing(workspace_uuid=workspace)
            if listing.complete:
                return listing
        raise AdoptError(
            f"the listing does not stay the same while it is read ({listing.reason}); others "
            "upload or delete: try again when they are done"
        )

    def _instances(self, listing: Listing) -> Iterable[str]:
        """Yield the other instances whose tokens a listing shows, once for each object."""
        for item in listing.items:
            for token in tokens_in(item.strings()):
                if (instance := instance_of(token)) != self._store.instance:
                    yield instance

    # What the ledger has and the service has not

    def _forget_gone(self, workspace: str | None, listing: Listing) -> int:
        """Record as gone what a complete listing and a look at the object itself do not show."""
        there = {item.file_uuid for item in listing.items}
        claimed = [
            copy
            for copy in self._store.read(adoption.claimed)
            if copy.workspace_uuid == workspace and copy.file_uuid not in there
        ]
        lost = [copy for copy in claimed if self._is_gone(copy)]
        now = self._clock()
        return self._store.write(lambda db: adoption.gone(db, lost, self._policies, now))

    def _is_gone(self, copy: Copy) -> bool:
        try:
            self._client.get(copy.file_uuid or "")
        except NotFoundError:
            return True
        return False

    # What the service has and the ledger has not

    def _doubt_planned(self, listing: Listing) -> None:
        """Let what an older ledger has yet to send be looked up, where it has arrived."""
        listed = {
            token: min(item.created_at.timestamp() for item in items)
            for token, items in by_token(listing).items()
        }
        now = self._clock()
        self._store.write(lambda db: adoption.arrived(db, listed, now))

    def _forgotten(self, ours: Mapping[str, Unknown], listing: Listing) -> list[Found]:
        shown = {item.file_uuid: item for item in listing.items}
        forgotten = self._store.read(lambda db: unknown.select(db, ours.values()))
        return [Found(shown[item.file_uuid], item) for item in forgotten]

    def _match(
        self, found: list[Found], counts: Counter[str], left: list[Unknown]
    ) -> Iterator[JsonObject]:
        tokens = [item.forgotten.token for item in found]
        files = self._store.read(lambda db: adoption.candidates(db, tokens))
        # The newest first: it is the one to go on with.
        found.sort(key=lambda item: item.item.created_at, reverse=True)
        hashed: dict[int, File] = {}
        for number, item in enumerate(found):
            if number % PROGRESS_FILES == 0:
                yield {"step": "comparing with the folders", "done": number, "of": len(found)}
            file = self._file_of(item, files.get(place_of(item.forgotten.token)[0], []))
            if file is None:
                left.append(item.forgotten)
                continue
            if file.id not in hashed:
                hashed[file.id] = self._hashed(file)
            if not self._is_for(hashed[file.id], item):
                left.append(item.forgotten)
                continue
            counts[self._take_up(hashed[file.id], self._sized(item.remote))] += 1

    def _file_of(self, found: Found, files: list[File]) -> File | None:
        """Return the one file whose place and sent name are the object's; None where none is."""
        right = [
            file
            for file in files
            if file.folder in self._policies
            and self._policies[file.folder].workspace_uuid == found.forgotten.workspace_uuid
            and found.carries(sent_name(file.path, found.forgotten.token))
        ]
        return right[0] if len(right) == 1 else None

    def _is_for(self, file: File, found: Found) -> bool:
        """Say whether an object is to be taken up for a file.

        Where files are taken away after their upload, an earlier object of the same name is a file
        of its own, and no earlier version: only what the file holds now is its copy.
        """
        if self._policies[file.folder].after_upload == "keep":
            return True
        content = place_of(found.forgotten.token)[1]
        return file.sha256 is not None and file.sha256.startswith(content)

    def _hashed(self, file: File) -> File:
        """Return `file` with its content's SHA-256; without where it cannot be read as it is."""
        if file.sha256 is not None or file.fingerprint is None:
            return file
        with suppress(DiskError), disk.open_beneath(self._roots[file.folder], file.path) as opened:
            if disk.fingerprint(opened) != file.fingerprint:
                return file
            digest = disk.sha256(opened, file.size)
            if digest is not None and disk.fingerprint(opened) == file.fingerprint:
                self._store.write(lambda db: adoption.remember_content(db, file, digest))
                return file._replace(sha256=digest)
        return file

    def _sized(self, remote: Remote) -> Remote:
        """Ask for the size where the listing is silent: without, it may be a record only."""
        if remote.size is not None:
            return remote
        return remote._replace(size=self._client.get(remote.file_uuid).file_size_bytes)

    def _take_up(self, file: File, remote: Remote) -> Became:
        now = self._clock()
        return self._store.write(
            lambda db: adoption.take_up(db, file.id, remote, self._policies, now)
        )
