"""The asynchronous client: the operations of `FilesClient`, awaited.

Each call is made by a `FilesClient` on a thread. Whether a request that was cut off may have been
delivered is known only where its bytes are counted on their way out; so there is one such place,
and both clients raise the same errors for the same reasons.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import wraps
from itertools import islice
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from syncd.files_api.client import FilesClient
from syncd.files_api.environment import from_environment
from syncd.files_api.exchange import StopFlag
from syncd.files_api.models import FileDetail

P = ParamSpec("P")
T = TypeVar("T")

#: Files that `list_all` fetches together.
_BATCH = 100


class _CallFlag(StopFlag):
    """Ends one client's call; set as well when the flag of all is."""

    def __init__(self, of_all: StopFlag | None) -> None:
        super().__init__()
        self._of_all = of_all

    def is_set(self) -> bool:
        return super().is_set() or (self._of_all is not None and self._of_all.is_set())


def _awaited(
    method: Callable[Concatenate[FilesClient, P], T],
) -> Callable[Concatenate["AsyncFilesClient", P], Coroutine[Any, Any, T]]:
    @wraps(method)
    async def call(self: "AsyncFilesClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(lambda client: method(client, *args, **kwargs))

    return call


class AsyncFilesClient:
    """Speaks to the Files API, `at_once` calls at a time; each call is that of `FilesClient`.

    `settings` are those of `FilesClient`. A call that is cancelled is cut off within a second,
    before its task ends. What a call is given to call back (`take`, `on_answer`, a source's hooks)
    is called on another thread.
    """

    upload = _awaited(FilesClient.upload)
    create = _awaited(FilesClient.create)
    put = _awaited(FilesClient.put)
    list = _awaited(FilesClient.list)
    read_listing = _awaited(FilesClient.read_listing)
    get = _awaited(FilesClient.get)
    length = _awaited(FilesClient.length)
    download = _awaited(FilesClient.download)
    get_status = _awaited(FilesClient.get_status)
    get_frames = _awaited(FilesClient.get_frames)
    delete = _awaited(FilesClient.delete)
    call = _awaited(FilesClient.call)
    send = _awaited(FilesClient.send)

    def __init__(self, *, at_once: int = 16, stop: StopFlag | None = None, **settings: Any) -> None:
        self._settings = settings
        self._stop = stop
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="files-api")
        self._places = asyncio.Semaphore(at_once)
        # The first one shows now whether the settings are right.
        self._idle = [self._new()]

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] | None = None, **settings: Any
    ) -> "AsyncFilesClient":
        """Make a client as `FilesClient.from_environment` does."""
        return cls(**from_environment(environ, settings))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections, once the calls under way have ended."""
        await asyncio.to_thread(self._threads.shutdown)
        for client, _ in self._idle:
            client.close()
        self._idle.clear()

    async def list_all(self, **query: Any) -> AsyncIterator[FileDetail]:
        """Yield every file once, as `FilesClient.list_all` does."""
        lent = self._lend()
        try:
            files = lent[0].list_all(**query)
            # No place is kept in between: what is done with a file may need one.
            while batch := await self._run(lambda _: tuple(islice(files, _BATCH)), lent):
                for file in batch:
                    yield file
        finally:
            self._take_back(*lent)

    def _lend(self) -> tuple[FilesClient, StopFlag]:
        return self._idle.pop() if self._idle else self._new()

    def _take_back(self, client: FilesClient, flag: StopFlag) -> None:
        if flag.is_set():
            client.close()
        else:
            self._idle.append((client, flag))

    def _new(self) -> tuple[FilesClient, StopFlag]:
        flag = _CallFlag(self._stop)
        return FilesClient(stop=flag, **self._settings), flag

    async def _run(
        self,
        act: Callable[[FilesClient], T],
        lent: tuple[FilesClient, StopFlag] | None = None,
    ) -> T:
        async with self._places:
            client, flag = lent or self._lend()
            try:
                loop = asyncio.get_running_loop()
                future = loop.run_in_executor(self._threads, act, client)
                return await asyncio.shield(future)
            except asyncio.CancelledError:
                flag.set()
                # The thread uses what the caller gave it, so wait through further cancellations.
                while not future.done():
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait([future])
                # Read it, or asyncio reports that nobody did.
                future.exception()
                raise
            finally:
                if lent is None:
                    self._take_back(client, flag)
