"""Fetches the files that were created by a `remote_uri`."""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx

from syncd.addresses import kind_of_address
from syncd.emulator import checks
from syncd.emulator.contents import Contents
from syncd.emulator.incoming import Incoming
from syncd.emulator.store import ObjectIndex, StoredObject

#: Seconds that a connection or a read may take, and files fetched at a time.
FETCH_SECONDS, AT_A_TIME = 20.0, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFetcher:
    """Fetches remote files, each in a task of its own on the server's event loop."""

    store: ObjectIndex
    contents: Contents
    max_body: int | None
    process: Callable[[StoredObject | None], None]
    #: whether addresses that are not public are allowed
    private_uris: bool
    _places: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(AT_A_TIME), init=False
    )
    _tasks: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    def resume(self) -> None:
        """Fetch what the last run left unfetched."""
        for stored in self.store.unfetched():
            self.submit(stored)

    def submit(self, stored: StoredObject) -> None:
        """Start to fetch a remote file; call it on the event loop."""
        task = asyncio.get_running_loop().create_task(self._fetch(stored))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fetch(self, stored: StoredObject) -> None:
        try:
            async with self._places, self.contents.incoming() as incoming:
                sent_type = await self._download(str(stored.remote_uri), incoming)
                outcome = _outcome(stored, sent_type) | incoming.values()
                changed = self.store.change(stored.file_uuid, **outcome)
                incoming.kept = changed is not None
        except Exception as error:
            # A URL can raise anything: a port of 99999 is an OverflowError.
            message = f"the remote file cannot be fetched: {str(error) or type(error).__name__}"
            self.store.change(stored.file_uuid, processing_status="failed", error_message=message)
        else:
            self.process(changed)

    async def _download(self, url: str, incoming: Incoming) -> str:
        """Download a URL; return the content type of the answer."""
        async with (
            httpx.AsyncClient(
                timeout=FETCH_SECONDS,
                follow_redirects=True,
                trust_env=False,
                verify=_trusted(),
                event_hooks={} if self.private_uris else {"request": [_refuse_private]},
            ) as client,
            client.stream("GET", url) as answer,
        ):
            answer.raise_for_status()
            async for piece in answer.aiter_bytes():
                incoming.write(piece)
                await incoming.drain()
                if self.max_body is not None and incoming.size > self.max_body:
                    raise ValueError(f"it is larger than {self.max_body} bytes")
            await incoming.close()
            sent_type = answer.headers.get("content-type")
            return checks.content_type("content-type", sent_type) if sent_type else ""


async def _refuse_private(request: httpx.Request) -> None:
    """Raise ValueError for a URL, or a redirect, that leads into this machine's own network."""
    loop = asyncio.get_running_loop()
    for *_, address in await loop.getaddrinfo(request.url.host, request.url.port):
        if kind := kind_of_address(str(address[0])):
            raise ValueError(f"it is at a {kind} address; --private-uris allows that")


@cache
def _trusted() -> ssl.SSLContext:
    """Return the trusted authorities, which take tens of milliseconds to read."""
    return httpx.create_ssl_context()


def _outcome(stored: StoredObject, sent_type: str) -> dict[str, Any]:
    content_type, file_type = stored.content_type, stored.file_type
    if content_type == checks.OCTET_STREAM and sent_type:
        content_type, file_type = checks.kind(sent_type, "")
    return {
        "content_type": content_type,
        "file_type": file_type,
        "processing_status": "pending" if file_type == "video" else "completed",
    }
