"""The invariants: what must hold at every instant, and what may be left at the end."""

import sqlite3
from collections.abc import Callable, Set as AbstractSet

from .engine import FOLDER, GRACE_SECONDS
from .objects import FOREIGN, OURS, TOKEN, Object, Violation
from .plan import DAY_SECONDS, HOUR_SECONDS, Plan
from .server import Service
from .world import World


class Audit:
    """Holds ledger, disk and service against one another. Violation where they disagree."""

    def __init__(
        self,
        *,
        plan: Plan,
        world: World,
        service: Service,
        rows: Callable[..., list[sqlite3.Row]],
    ) -> None:
        self._plan, self._world, self._service, self._rows = plan, world, service, rows
        #: paths that had a live copy while a file was there, and still is
        self._covered: set[str] = set()
        self._history_seen = 0
        #: requests by the ids of the copies that they were sent for
        self._requests: dict[int, list[int]] = {}
        #: objects that are never deleted: what `adopt` took, and what files were taken away for
        self.kept: dict[str, str] = {}
        #: requests that a state which was put back knows nothing of
        self.forgotten: set[int] = set()
        #: the requests that were made before the last adoption, which took what is there of them
        self._settled: set[int] = set()
        #: objects above the counter of the ledger that was put back, until `adopt` ran
        self.evidence: list[Object] = []
        #: the event of the world before which the step under way has not looked at the disk
        self.step_event = 0
        self.cuts = 0

    # After each step

    def check(self) -> None:
        """Check what must hold at every instant."""
        here = self._world.files if self._world.mounted else {}
        live, retiring, of_request = set[str](), set[str](), dict[int, str]()
        for row in self._rows(_OURS):
            item = self._ours(row)
            if item.request is not None:
                first = of_request.setdefault(item.request, item.file_uuid)
                if first != item.file_uuid:
                    raise Violation(f"I2: two objects of one request are taken for {row['path']!r}")
            if row["status"] not in ("live", "released", "retiring"):
                continue
            if item.body is not None and row["sha256"] and item.sha256 != row["sha256"]:
                raise Violation(f"I6: the bytes of {row['path']!r} are not what the ledger says")
            if item.there and item.body is not None:
                # A retiring copy is no gap yet: the last look before its DELETE sees the file.
                (retiring if row["status"] == "retiring" else live).add(row["path"].decode())
        self._check_gaps(here.keys(), live, retiring)
        for row in self._rows(_NEW_HISTORY, self._history_seen):
            self._history_seen = row["id"]
            if row["event"] == "synced" and row["gone"] and self._plan.after_upload == "keep":
                raise Violation(f"I7: {row['path']!r} is gone, and yet a copy of it went live")

    def _ours(self, row: sqlite3.Row) -> Object:
        item = self._service.objects.get(row["file_uuid"])
        if item is None or item.owner == FOREIGN:
            raise Violation(f"I2: {row['path']!r} is {row['status']} by an object that is not ours")
        return item

    def _check_gaps(self, here: AbstractSet[str], live: set[str], retiring: set[str]) -> None:
        self._covered -= self._world.vacated
        self._world.vacated.clear()
        for name in () if self.is_lost() or self.evidence else list(self._covered):
            if name in here and name not in live | retiring:
                raise Violation(f"I5: {name} was synced, is there, and has no live copy")
        self._covered |= here & live
        for file_uuid, what in self.kept.items():
            if self._service.objects[file_uuid].deleted:
                raise Violation(f"what {what} is deleted")

    def taken_away(self, name: str, content: bytes) -> None:
        """Check that what syncd took away is kept remotely, and remember that it has to be."""
        wanted = Object("", "", "", "", 0, body=content).sha256
        for row in self._rows(_TAKEN, name.encode(), wanted):
            item = self._ours(row)
            if item.there and item.body == content:
                self.kept[item.file_uuid] = f"{name} was taken away for"
                return
        raise Violation(f"lost: {name} was taken away without a copy of it")

    # A state that is put back

    def put_back(self, requests: int) -> None:
        """Note that the ledger knows nothing any more of what was asked for after `requests`."""
        lost = set(range(requests + 1, self._service.requests + 1))
        unknown = lost | (self.forgotten - self._settled)
        self.forgotten |= lost
        now = self._service.clock()
        self.evidence = [
            item
            for item in self._service.objects.values()
            if item.request in unknown and item.there and item.visible_at <= now
        ]
        self._covered.clear()
        # It knows as little of the time that the service asked for.
        self._service.retry_until = 0.0

    def known_uuids(self) -> set[str]:
        """Return the uuids that the ledger holds."""
        return {row["file_uuid"] for row in self._rows(_OURS)}

    def adopted(self, before: set[str]) -> None:
        """Note what `adopt` took: it is never deleted."""
        for file_uuid in self.known_uuids() - before:
            self.kept[file_uuid] = "adopt took"
        if not self.is_lost():
            self.evidence = []
            # It ends all open attempts: what they still bring is nobody's, and shown by `verify`.
            self._settled = set(range(self._service.requests + 1))
            self.forgotten |= self._settled

    def restart_history(self) -> None:
        """Begin anew with a history that was put back."""
        self._history_seen = self._rows("SELECT coalesce(max(id), 0) AS id FROM history")[0]["id"]
        self._requests.clear()

    def is_lost(self) -> bool:
        """Say whether the ledger is known to have lost something."""
        return bool(self._rows(_LOST))

    # Before each request that changes something

    def request(
        self,
        operation: str,
        *,
        name: str = "",
        item: Object | None = None,
        file_uuid: str = "",
        body: bytes | None = None,
    ) -> None:
        """Check a request that changes something, as it arrives."""
        if self.is_lost():
            raise Violation(f"{operation} while the ledger is known to have lost something")
        if any(lost.there for lost in self.evidence):
            raise Violation(f"{operation} on a state that was put back, and it could be seen")
        if self._service.clock() < self._service.retry_until and not self.cuts:
            raise Violation(f"I14: {operation} before the time that the service asked for")
        if operation == "delete":
            self._delete(item, file_uuid)
            return
        found = TOKEN.search(name or item.name)
        token = found and found[1]
        known = self._rows("SELECT * FROM copies WHERE token = ? AND status = 'sending'", token)
        if not known:
            raise Violation(f"I1: {operation} without a committed intent")
        (copy,) = known
        if operation == "put" and copy["file_uuid"] != item.file_uuid:
            raise Violation("I1: bytes are sent to an object that the ledger does not know")
        if body is not None and Object("", "", "", "", 0, body=body).sha256 != copy["sha256"]:
            raise Violation("I6: other bytes are sent than the ledger promises")
        flying = self._rows(
            "SELECT count(*) FROM copies WHERE file_id = ? AND in_flight = 1", copy["file_id"]
        )
        if flying[0][0] != 1:
            raise Violation("I9: not exactly one request is in flight for a path")
        if operation != "put":
            self._sent(operation, copy["id"], token)

    def _sent(self, operation: str, copy_id: int, token: str | None) -> None:
        earlier = self._requests.setdefault(copy_id, [])
        before = [o for o in self._service.objects.values() if o.request in earlier and o.there]
        if self._plan.tame and operation == "upload" and any(map(self._is_unclaimed, before)):
            raise Violation("one version is stored twice")
        if any(o.token == token for o in before):
            raise Violation("two requests that can store something carry one token")
        earlier.append(self._service.requests + 1)

    def _is_unclaimed(self, item: Object) -> bool:
        """Say whether an object has content, and the ledger does not delete it by its uuid."""
        retires = self._rows(
            "SELECT 1 FROM copies WHERE file_uuid = ? AND status = 'retiring'", item.file_uuid
        )
        return item.body is not None and not retires

    def _delete(self, item: Object | None, file_uuid: str) -> None:
        known = self._rows(_DELETED, file_uuid)
        if not known or known[0]["status"] != "retiring" or known[0]["delete_sent_at"] is None:
            raise Violation("I2: a DELETE without a committed intent")
        if item is not None and item.owner == FOREIGN:
            raise Violation("I3: a DELETE of somebody else's object")
        if file_uuid in self.kept:
            raise Violation(f"a DELETE of what {self.kept[file_uuid]}")
        if item is not None and item.created_at > item.sent_at + DAY_SECONDS:
            raise Violation("a DELETE of what was found more than a day after it was sent")
        copy = known[0]
        others = self._rows(_OTHERS, copy["file_id"])
        if (
            item is None
            or item.deleted
            or copy["live_at"] is None
            or any(
                (other := self._service.objects.get(row["file_uuid"]))
                and other.there
                and other.body is not None
                for row in others
            )
        ):
            return
        if copy["status_of_file"] == "missing" and self._rows(_HELD, FOLDER):
            raise Violation("I10: a missing file's copy is deleted under a hold")
        name = copy["path"].decode()
        if not self._world.was_absent(
            name, since_event=self.step_event, grace_seconds=GRACE_SECONDS
        ):
            raise Violation(f"I7: the only copy of {name} is deleted without evidence")

    # At the end

    def settled(self) -> bool:
        """Say whether the ledger has nothing left to do, and every file its copy."""
        return not self._rows(_OPEN) and not self.difference()

    def difference(self) -> str:
        """Say where remote and local differ; nothing if they are equal."""
        here = self._world.files
        live = {row["path"].decode(): row for row in self._rows(_OURS) if row["status"] == "live"}
        for name, content in here.items():
            if name not in live:
                return f"{name} has no live copy"
            item = self._service.objects[live[name]["file_uuid"]]
            if item.deleted or item.body != content:
                return f"{name} and its copy differ"
        if extra := set(live) - set(here):
            return f"copies of {sorted(extra)} are live, and there are no such files"
        return ""

    def leftovers(self) -> tuple[str, list[Object]]:
        """Return an orphan in words, if there is one, and what may be left and is to be shown."""
        rows = {row["file_uuid"]: row for row in self._rows(_OURS)}
        shown = []
        for item in self._service.objects.values():
            if item.owner != OURS or not item.there:
                continue
            row = rows.get(item.file_uuid)
            if row is not None and row["status"] in ("live", "failed"):
                continue
            if row is not None and row["status"] != "released":
                return f"{item.file_uuid[-4:]} ({item.name}) is an orphan: not {row['status']}", []
            if not self._may_be_left(item, row):
                orphan = "an orphan" if row is None else "released and was found in time: an orphan"
                return f"{item.file_uuid[-4:]} ({item.name}) is {orphan}", []
            if row is None and self._plan.echo:
                shown.append(item)
        return "", shown

    def _may_be_left(self, item: Object, row: sqlite3.Row | None) -> bool:
        if row is not None and row["path"].decode() in self._world.linked:
            return True  # its place was taken by what is no file
        if row is not None and self._plan.after_upload != "keep":
            return True  # in a folder that is emptied nothing remote is ever deleted
        if item.file_uuid in self.kept or item.request in self.forgotten:
            return True
        if not self._plan.echo and (item.body is None or self._plan.weather.twice):
            # The weaker promise: an empty record may be left, and nothing shows whose a second
            # object is.
            return True
        if row is None and any(
            other.request == item.request and other is not item
            for other in self._service.objects.values()
        ):
            return True  # a load balancer repeated the request
        late = max(item.created_at, item.visible_at) - item.sent_at
        # Looks come 10 minutes, an hour, a day and a week after it was sent, and then no more.
        return late > (7 * DAY_SECONDS if row is None else HOUR_SECONDS)


_OURS = (
    "SELECT path, copies.* FROM copies JOIN files ON files.id = file_id WHERE file_uuid IS NOT NULL"
)
_OPEN = (
    "SELECT 1 FROM copies WHERE status IN ('planned', 'sending', 'processing', 'retiring') "
    "UNION ALL "
    "SELECT 1 FROM files WHERE status = 'settling' "
    "OR (status = 'missing' AND due_at IS NOT NULL)"
)
_DELETED = (
    "SELECT path, files.status AS status_of_file, copies.* FROM copies "
    "JOIN files ON files.id = file_id WHERE file_uuid = ?"
)
_OTHERS = "SELECT file_uuid FROM copies WHERE file_id = ? AND status IN ('live', 'released')"
_TAKEN = (
    "SELECT path, copies.* FROM copies JOIN files ON files.id = file_id "
    "WHERE path = ? AND copies.sha256 = ? AND consumed_at IS NOT NULL AND file_uuid IS NOT NULL "
    "ORDER BY copies.id DESC"
)
_HELD = (
    "SELECT 1 FROM holds WHERE stops = 'deletions' AND scope IN (?, '*') AND released_at IS NULL"
)
_LOST = "SELECT 1 FROM holds WHERE reason = 'state_lost' AND released_at IS NULL"
_NEW_HISTORY = (
    "SELECT history.id, event, history.path, confirmed_at IS NOT NULL AS gone FROM history "
    "LEFT JOIN files ON files.folder = history.folder AND files.path = history.path "
    "WHERE history.id > ? ORDER BY history.id"
)
