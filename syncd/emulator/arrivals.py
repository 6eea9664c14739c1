"""Notices, when an object is requested, what was PUT to its presigned URL past the emulator."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from syncd.emulator.contents import Contents
from syncd.emulator.store import ObjectIndex, StoredObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """Updates reserved objects whose bytes have arrived. Runs on one event loop."""

    store: ObjectIndex
    contents: Contents
    process: Callable[[StoredObject | None], None]
    _looks: dict[str, asyncio.Task[StoredObject]] = field(default_factory=dict, init=False)

    async def current(self, objects: Iterable[StoredObject]) -> list[StoredObject]:
        """Return the objects, updated."""
        return [await self._current(stored) for stored in objects]

    async def _current(self, stored: StoredObject) -> StoredObject:
        awaited = stored.state == "reserved" and stored.remote_uri is None
        if self.contents.sees_all or not awaited:
            return stored
        # A large object is read once, however often it is requested meanwhile.
        look = self._looks.get(stored.file_uuid)
        if look is None:
            look = self._looks[stored.file_uuid] = asyncio.create_task(self._look(stored))
            look.add_done_callback(lambda _: self._looks.pop(stored.file_uuid, None))
        return await asyncio.shield(look)

    async def _look(self, stored: StoredObject) -> StoredObject:
        arrived = await self.contents.arrived(stored)
        if arrived is None:
            return stored
        changed = self.store.change(stored.file_uuid, **arrived)
        self.process(changed)
        return changed or stored
