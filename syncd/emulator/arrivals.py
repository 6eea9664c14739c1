"""Notices what was PUT to presigned URLs past the emulator, when the objects are asked for."""

import asyncio
from collections.abc import Callable, Iterable

from syncd.emulator.contents import Contents
from syncd.emulator.store import Store, Stored


class Arrivals:
    """Shows objects as they are once what has arrived is known. On one event loop."""

    def __init__(
        self, *, store: Store, contents: Contents, process: Callable[[Stored], None]
    ) -> None:
        self._store = store
        self._contents = contents
        self._process = process
        self._looks: dict[str, asyncio.Task[Stored]] = {}

    async def seen(self, objects: Iterable[Stored]) -> list[Stored]:
        """Return the objects as they are now."""
        return [await self._seen(stored) for stored in objects]

    async def _seen(self, stored: Stored) -> Stored:
        awaited = stored.state == "reserved" and stored.remote_uri is None
        if self._contents.sees_all or not awaited:
            return stored
        # A large object is read once, however often it is asked for meanwhile.
        look = self._looks.get(stored.file_uuid)
        if look is None:
            look = self._looks[stored.file_uuid] = asyncio.create_task(self._look(stored))
            look.add_done_callback(lambda _: self._looks.pop(stored.file_uuid, None))
        return await asyncio.shield(look)

    async def _look(self, stored: Stored) -> Stored:
        arrived = await self._contents.arrived(stored)
        if arrived is None:
            return stored
        changed = self._store.change(
            stored.file_uuid,
            state="live",
            content=arrived.content,
            sha256=arrived.sha256,
            size=arrived.size,
        )
        if changed is not None and changed.processing_status == "pending":
            self._process(changed)
        return changed or stored
