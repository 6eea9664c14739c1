"""Fetches what was created by a `remote_uri`."""

import asyncio
import ssl
from collections.abc import Callable
from functools import cache
from typing import Any

import httpx

from syncd.addresses import kind_of_address
from syncd.emulator import checks
from syncd.emulator.contents import Contents
from syncd.emulator.incoming import Incoming
from syncd.emulator.store import Store, Stored

#: How long a connection or a read may take, and how many files are fetched at a time.
FETCH_SECONDS, AT_A_TIME = 20.0, 8


class Fetching:
    """Fetches remote files, each in a task of its own on the server's event loop."""

    def __init__(
        self,
        *,
        store: Store,
        contents: Contents,
        max_body: int | None,
        process: Callable[[Stored], None],
        private_uris: bool,
    ) -> None:
        """Fetch from addresses that are not public only with `private_uris`."""
        self._store = store
        self._contents = contents
        self._max_body = max_body
        self._hooks = {} if private_uris else {"request": [_refuse_private]}
        self._process = process
        self._places = asyncio.Semaphore(AT_A_TIME)
        self._tasks: set[asyncio.Task[None]] = set()

    def resume(self) -> None:
        """Take up what the last run left."""
        for stored in self._store.unfetched():
            self.submit(stored)

    def submit(self, stored: Stored) -> None:
        """Have a remote file fetched; from within the event loop."""
        task = asyncio.get_running_loop().create_task(self._fetch(stored))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fetch(self, stored: Stored) -> None:
        try:
            async with self._places, self._contents.incoming() as incoming:
                sent_type = await self._download(str(stored.remote_uri), incoming)
                changed = self._store.change(
                    stored.file_uuid, **_outcome(stored, incoming, sent_type)
                )
                incoming.kept = changed is not None
        except Exception as error:
            # Whatever a URL can bring about (a port of 99999 is an OverflowError): it is told.
            message = f"the remote file cannot be fetched: {str(error) or type(error).__name__}"
            self._store.change(stored.file_uuid, processing_status="failed", error_message=message)
            return
        if changed is not None and changed.file_type == "video":
            self._process(changed)

    async def _download(self, url: str, incoming: Incoming) -> str:
        """Return the content type of the answer."""
        async with (
            httpx.AsyncClient(
                timeout=FETCH_SECONDS,
                follow_redirects=True,
                trust_env=False,
                verify=_trusted(),
                event_hooks=self._hooks,
            ) as client,
            client.stream("GET", url) as answer,
        ):
            answer.raise_for_status()
            async for piece in answer.aiter_bytes():
                incoming.write(piece)
                await incoming.drain()
                if self._max_body is not None and incoming.size > self._max_body:
                    raise ValueError(f"it is larger than {self._max_body} bytes")
            await incoming.close()
            sent_type = answer.headers.get("content-type")
            return checks.content_type("content-type", sent_type) if sent_type else ""


async def _refuse_private(request: httpx.Request) -> None:
    """Raise ValueError for a URL, or a redirect, into the network that this machine is in."""
    loop = asyncio.get_running_loop()
    for *_, address in await loop.getaddrinfo(request.url.host, request.url.port):
        if kind := kind_of_address(str(address[0])):
            raise ValueError(f"it is at a {kind} address; --private-uris allows that")


@cache
def _trusted() -> ssl.SSLContext:
    """Return the authorities trusted; they take tens of milliseconds to read."""
    return httpx.create_ssl_context()


def _outcome(stored: Stored, incoming: Incoming, sent_type: str) -> dict[str, Any]:
    content_type, file_type = stored.content_type, stored.file_type
    if content_type == checks.OCTET_STREAM and sent_type:
        content_type, file_type = checks.kind(sent_type, "")
    return {
        "state": "live",
        "content": incoming.name,
        "sha256": incoming.sha256,
        "size": incoming.size,
        "content_type": content_type,
        "file_type": file_type,
        "processing_status": "pending" if file_type == "video" else "completed",
    }
