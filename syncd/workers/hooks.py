"""Tells hooks what happened to files: at least once, and in order for each path.

Each hook is a step of its own, so that one that fails or hangs delays no other. A delivery that is
cut off when syncd ends is repeated at the next start.
"""

import json
import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from syncd.files_api import StopFlag
from syncd.log import fields
from syncd.outbound import StoppedError, Target, UndeliveredError
from syncd.state import hooks
from syncd.state.database.store import Store
from syncd.state.hooks import Batch, HookLine

log = logging.getLogger(__name__)

#: Seconds between two recordings of deliveries: a kill repeats no more than that.
RECORD_SECONDS = 0.25


@dataclass(kw_only=True, eq=False)
class Hook:
    """Tells one target of one kind of event."""

    name: str
    on: str
    #: its arguments or its URL may hold a token
    target: Target = field(repr=False)
    timeout_seconds: float
    store: Store
    stop: StopFlag
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        #: the line up to which the history holds nothing more for this hook
        self._read_to = 0

    def step(self) -> float | None:
        """Tell what is due; return the seconds until there is more, None while nothing waits."""
        if self.stop.is_set():
            return None
        now = self.clock()
        batch = self.store.read(hooks.batch, self.name, self.on, now, read_to=self._read_to)
        if batch.lines:
            if self.store.writer.in_trouble:
                # Without a record, the same lines would be told endlessly. This raises until
                # commits work.
                self._record([], 0)
            return self._tell(batch)
        self._read_to = batch.read_to
        return None if batch.next_at is None else max(batch.next_at - now, 0.0)

    def _tell(self, batch: Batch) -> float | None:
        told: list[HookLine] = []
        failed, error, read_to, began = None, "", 0, time.monotonic()
        for line in batch.lines:
            if line.is_aside or (line.folder, line.path) not in batch.aside:
                try:
                    self._deliver(line)
                except StoppedError:
                    break
                except UndeliveredError as failure:
                    failed, error = line, str(failure)
                else:
                    told.append(line)
            if not line.is_aside:
                read_to = line.id
            if failed or time.monotonic() - began > RECORD_SECONDS:
                break
        if told or failed or read_to:
            self._record(told, read_to, failed, error)
        if failed is not None:
            cause = f"{self.name}: {error}"
            log.warning("hook %s", cause, extra=fields("hook_failed", cause=cause))
        # The next look reads what is left, and when a hook that failed is tried again.
        return 0.0

    def _record(
        self, told: list[HookLine], read_to: int, failed: HookLine | None = None, error: str = ""
    ) -> None:
        self.store.write(
            hooks.record,
            self.name,
            self.on,
            self.clock(),
            told=told,
            read_to=read_to,
            failed=failed,
            error=error,
        )

    def _deliver(self, line: HookLine) -> None:
        document = line.document | {
            "event_id": f"{self.store.instance}-{line.id}",
            "instance": self.store.instance,
            "host": socket.gethostname(),
        }
        self.target.deliver(
            json.dumps(document).encode(),
            seconds=self.timeout_seconds,
            stop=self.stop,
            variables={
                "SYNCD_HOOK_EVENT": line.document["event"],
                "SYNCD_HOOK_FOLDER": line.folder,
                "SYNCD_HOOK_PATH": os.fsdecode(line.path),
                "SYNCD_HOOK_FILE_UUID": line.document["file_uuid"] or "",
            },
        )
