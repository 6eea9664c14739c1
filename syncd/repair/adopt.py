"""Rebuilds what the ledger has lost from the remote listing: sends no bytes, deletes nothing."""

import logging
import re
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from syncd import disk
from syncd.exceptions import DiskError, StateError
from syncd.files_api import FileDetail, FilesClient, ForbiddenError, RefusedError
from syncd.state import adoption, due, echo, history, holds, predecessor, tokens
from syncd.state.adoption import Became, Remote
from syncd.state.audit import Claim
from syncd.state.database.store import Store, Transaction, hold_everything
from syncd.state.files import File
from syncd.state.ledger import Ledger
from syncd.state.planner import Policy
from syncd.workers.comparison import Comparison
from syncd.workers.organization_check import OrganizationCheck

log = logging.getLogger(__name__)

JsonObject = dict[str, Any]
#: Readings of a listing that keeps changing, before giving up.
READINGS = 5
#: Objects that are taken up between two words of progress.
BATCH = 100
#: Other instances whose objects are counted.
INSTANCES = 100
#: Files of one size that are hashed to find the one that was renamed.
RENAMED = 50
#: The counts in the result; `known` are objects that the ledger has as its own.
_COUNTED = ("listed", "known", "live", "second", "previous", "gone", "unknown")
#: The id of an instance.
INSTANCE = re.compile(r"[0-9a-f]{8}\Z")


class AdoptError(StateError):
    """Adoption cannot go on now; nothing was changed but what it has told of."""


@dataclass(kw_only=True, eq=False)
class Adopter:
    """Compares listing, ledger and folders, and takes up what belongs together."""

    store: Store
    ledger: Ledger
    client: FilesClient
    organization_check: OrganizationCheck
    policies: Mapping[str, Policy]
    roots: Mapping[str, bytes]
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self._check = False
        self._refused: list[JsonObject] = []

    def begin_anew(self, *, by: str = "") -> None:
        """Go on as a new instance; AdoptError where this ledger is not new."""
        now = self.clock()
        if not self.store.write(predecessor.begin_anew, now):
            raise AdoptError(
                "this state is not new: it has sent files, or has lost something (syncd status)"
            )
        self.store.write(history.note, "adopt", now, detail="began as a new instance", by=by)
        self.store.changed.set()

    def adopt(
        self, *, instance: str | None = None, check: bool = False, by: str = ""
    ) -> Iterator[JsonObject]:
        """Do it all, and yield how far it is, at the end what was done.

        The folders have been scanned. `instance` is the id of an earlier instance to become,
        where the whole state directory was lost. With `check`, what is taken up is downloaded
        first; what does not hold what was sent is left alone, and stands in `refused`. AdoptError
        where it cannot go on; FilesApiError where the service does not answer. A former workspace
        that this key may not read any more is left as the ledger has it, and stands in `unread`.
        """
        if instance is not None:
            self._become(instance)
        elif ways_on := self.store.read(predecessor.ways_on):
            raise AdoptError(
                "this state is new, and another instance has sent these files: say whether it was "
                "this one ({}) or another ({})".format(*ways_on)
            )
        self._check, self._refused = check, []
        counts: Counter[str] = Counter()
        others: Counter[str] = Counter()
        unread: list[str] = []
        lost = yield from self._read_all(counts, others, unread)
        # From here on things change: whatever cuts it short, nothing is sent before it is done.
        self.store.write(self._hold)
        self._spare_what_may_be_taken_away()
        now = self.clock()
        counts["gone"] = self.store.write(adoption.gone, lost, self.policies, now)
        self.store.write(adoption.end_attempts, self.policies, now)
        yield from self._match(counts)
        self._finish(counts, by)
        self.store.changed.set()
        yield {
            "instance": self.store.instance,
            **{name: counts[name] for name in _COUNTED},
            "other_instances": dict(others.most_common(INSTANCES)),
            "unread": unread,
            "refused": self._refused,
        }

    def _hold(self, db: Transaction) -> None:
        if not holds.is_ledger_incomplete(db):
            hold_everything(db, "`syncd adopt` has not come to its end", self.clock())

    def _finish(self, counts: Counter[str], by: str) -> None:
        """Go on sending; no attempt of before counts any more. The history says what was done."""
        now = self.clock()
        did = ", ".join(f"{counts[name]:,} {name}" for name in _COUNTED if counts[name])

        def record(db: Transaction) -> None:
            tokens.skip_attempts(db, adoption.latest_listed(db))
            adoption.forget_all_listed(db)
            self.store.recovered(db, now)
            history.note(db, "adopt", now, detail=did or "nothing was listed", by=by)

        self.store.write(record)
        self.store.remember()

    def _spare_what_may_be_taken_away(self) -> None:
        now = self.clock()
        for name, policy in self.policies.items():
            if policy.after_upload != "keep":
                self.store.write(adoption.spare_missing, folder=name, now=now)

    def _become(self, instance: str) -> None:
        if not INSTANCE.match(instance):
            raise AdoptError(
                f"{instance} is no instance: it is the 8 hex digits after sy2- in names"
            )
        if not self.store.become(instance, self.clock()):
            raise AdoptError(
                "this state has sent files of its own, and cannot become another instance: give "
                "the earlier one an empty [state] directory"
            )
        self.ledger.instance = instance

    def _workspaces(self) -> list[str | None]:
        known = set(self.store.read(due.workspaces))
        known |= {policy.workspace_uuid for policy in self.policies.values()}
        return sorted(known, key=str)

    # The listing

    def _read_all(
        self, counts: Counter[str], others: Counter[str], unread: list[str]
    ) -> Generator[JsonObject, None, list[int]]:
        """Read every workspace's listing; return the ids of the copies that are missing there."""
        lost: list[int] = []
        self.store.write(adoption.forget_all_listed)
        for workspace in self._workspaces():
            yield {"step": "reading the listing", "workspace": workspace}
            try:
                listed, comparison = self._read(workspace, others)
            except ForbiddenError:
                if any(policy.workspace_uuid == workspace for policy in self.policies.values()):
                    raise
                # A former one, closed to this key: its copies stay as the ledger has them.
                unread.append(str(workspace))
                continue
            counts["listed"] += listed
            counts["known"] += comparison.known
            lost += [claim.copy_id for claim in comparison.missing(workspace, retiring=True)]
        return lost

    def _read(self, workspace: str | None, others: Counter[str]) -> tuple[int, Comparison]:
        """Read a listing to its end; note what of it is ours, and count what is others'."""
        for _ in range(READINGS):
            self.store.write(adoption.forget_listed, workspace=workspace)
            seen: Counter[str] = Counter()
            notes = _Notes(self.store, workspace, seen)
            comparison = Comparison(store=self.store, client=self.client, compare=notes.compare)

            def take(item: FileDetail, comparison: Comparison = comparison) -> None:
                self.organization_check.learn([item])
                comparison.take(item)

            listing = self.client.read_listing(take, workspace_uuid=workspace)
            comparison.flush()
            notes.flush()
            if listing.complete:
                others.update(seen)
                return listing.items, comparison
        raise AdoptError(
            f"the listing does not stay the same while it is read ({listing.reason}); others "
            "upload or delete: try again when they are done"
        )

    # Which file it is

    def _match(self, counts: Counter[str]) -> Iterator[JsonObject]:
        places = self.store.read(lambda db: _Places(adoption.places(db)))
        total, done, after = self.store.read(adoption.count_listed), 0, ""
        counts["unknown"] = total
        while found := self.store.read(adoption.oldest_listed, after=after, limit=BATCH):
            yield {"step": "comparing with the folders", "done": done, "of": total}
            for remote in found:
                became = self._take_up(remote, places)
                if became is not None:
                    counts[became] += 1
                    counts["unknown"] -= 1
            done, after = done + len(found), found[-1].token

    def _take_up(self, remote: Remote, places: "_Places") -> Became | None:
        """Take an object up for its file; None where it is of none, or may be somebody else's."""
        if remote.size is None:
            # The listing may be silent where the object itself is not; a record has no size.
            remote = remote._replace(size=self.client.get(remote.file_uuid).file_size_bytes)
            if remote.size is None:
                return None
        authentic = self.store.read(
            lambda db: adoption.is_authentic(db, remote, sizes_are_told=self._sizes_are_told(db))
        )
        file = None if authentic is False else self._file_of(remote, places)
        if file is None or (authentic is None and file.size != remote.size):
            return None
        if self._check and (why := self._difference(remote, file)):
            facts = {"file_uuid": remote.file_uuid, "folder": file.folder, "path": file.shown}
            self._refused.append(facts | {"why": why})
            return None
        now = self.clock()
        return self.store.write(adoption.take_up, file.id, remote, self.policies, now)

    def _difference(self, remote: Remote, file: File) -> str:
        """Download an object; return why it is not what was sent, or nothing where it is."""
        digest, taken = sha256(), 0

        def take(part: bytes) -> None:
            nonlocal taken
            digest.update(part)
            taken += len(part)

        url = self.client.get(remote.file_uuid).file_url
        if url is None:
            return "the service tells no URL to download it from"
        try:
            self.client.download(url, take)
        except RefusedError as error:
            return f"it cannot be downloaded: {error}"
        if taken != remote.size:
            return f"it has {taken} bytes, and the service tells {remote.size}"
        is_whole = file.sha256 if adoption.has_content(file, remote) else None
        sent = is_whole or tokens.read(remote.token).content
        return (
            ""
            if digest.hexdigest().startswith(sent)
            else "its SHA-256 is not that of what was sent"
        )

    def _sizes_are_told(self, db: Transaction) -> bool:
        """Say whether nothing was learned against comparing sizes."""
        known = [what for kind in echo.KINDS if (what := echo.learned(db, kind))]
        return all(what.sizes is not False for what in known)

    def _file_of(self, remote: Remote, places: "_Places") -> File | None:
        """Return the file whose object it is: at its place, else of its content and size."""
        here = self.store.read(adoption.at_place, remote=remote, ids=places.at(remote))
        here = [self.hashed(file) for file in here if self._is_in_workspace(file, remote)]
        if len(here) > 1:
            # Several places share a short digest.
            here = [file for file in here if adoption.has_content(file, remote)]
        if not here and remote.size is not None:
            size = remote.size
            same = self.store.read(adoption.of_size, size, RENAMED)
            hashed = [self.hashed(file) for file in same if self._is_in_workspace(file, remote)]
            return next((file for file in hashed if adoption.has_content(file, remote)), None)
        if len(here) != 1:
            return None
        (file,) = here
        # If files are taken away after their upload, an earlier object of the same name is a
        # file of its own, and no earlier version.
        is_kept = self.policies[file.folder].after_upload == "keep"
        return file if is_kept or adoption.has_content(file, remote) else None

    def _is_in_workspace(self, file: File, remote: Remote) -> bool:
        policy = self.policies.get(file.folder)
        return policy is not None and policy.workspace_uuid == remote.workspace_uuid

    def hashed(self, file: File) -> File:
        """Return `file` with its content's SHA-256; without where it cannot be read as it is."""
        if file.sha256 is not None or file.fingerprint is None or file.folder not in self.roots:
            return file
        with suppress(DiskError), disk.open_beneath(self.roots[file.folder], file.path) as opened:
            if disk.fingerprint(opened) != file.fingerprint:
                return file
            digest = disk.sha256(opened, file.size)
            if digest is not None and disk.fingerprint(opened) == file.fingerprint:
                self.store.write(adoption.remember_content, file, digest)
                return file._replace(sha256=digest)
        return file


class _Places:
    """Which files have a place digest with the same first 8 digits: 8 bytes a file."""

    def __init__(self, places: Iterable[tuple[str, int]]) -> None:
        packed = array("Q", (int(digest[:8], 16) << 32 | number for digest, number in places))
        self._packed = array("Q", sorted(packed))

    def at(self, remote: Remote) -> list[int]:
        """Return the ids of files that may be at the place that the token of `remote` tells."""
        first = int(tokens.read(remote.token).path[:8], 16) << 32
        start, end = bisect_left(self._packed, first), bisect_left(self._packed, first + (1 << 32))
        return [number & 0xFFFFFFFF for number in self._packed[start:end]]


class _Notes:
    """Keeps what a listing shows of ours and the ledger does not have, a batch at a time."""

    def __init__(self, store: Store, workspace: str | None, others: Counter[str]) -> None:
        self._store = store
        self._workspace = workspace
        self._others = others
        self._batch: list[Remote] = []

    def compare(self, item: FileDetail, claim: Claim | None) -> None:
        token = item.token
        if token is None:
            return
        instance = tokens.read(token).instance
        if instance != self._store.instance:
            if instance in self._others or len(self._others) < INSTANCES:
                self._others[instance] += 1
            return
        if claim is not None:
            return
        self._batch.append(
            Remote(
                item.file_uuid,
                token,
                self._workspace,
                item.created_at.timestamp(),
                item.file_size_bytes,
                item.content_type,
                item.remote_file_path,
            )
        )
        if len(self._batch) >= BATCH:
            self.flush()

    def flush(self) -> None:
        batch, self._batch = self._batch, []
        if batch:
            self._store.write(adoption.note_listed, batch)
