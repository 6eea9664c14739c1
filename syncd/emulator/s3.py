"""Objects' bytes and videos' frames in a bucket of S3, by obstore.

What is uploaded to the emulator streams on in parts; what is PUT to a presigned URL goes past it,
and is noticed when the object is asked for. Everything of one emulator is below an id of its own.
"""

import asyncio
import os
import re
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from syncd.emulator.answers import Refusal
from syncd.emulator.contents import Arrived
from syncd.emulator.incoming import Incoming
from syncd.emulator.sigv4 import Credentials, presigned
from syncd.emulator.store import Stored

#: The size of a part; S3 takes none that is smaller, but for the last. And what is handed on at
#: once: what stays smaller is put whole.
PART_BYTES, PIECE_BYTES = 5 << 20, 1 << 20
#: The length up to which an upload waits for nobody; and how many others are read at a time: each
#: may hold a few parts.
FREE_BYTES, PLACES = 32 << 10, 8
_ERROR_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d{3}[ \w]*)")
_SYSTEM_ERROR = re.compile(r'message: "([^"]+)"')
#: Remedies by the error code of the store; without one, its own words are shown.
_FIXES = {
    "NoSuchBucket": "create the bucket, or correct its name",
    **dict.fromkeys(
        ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"],
        "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy",
    ),
}
_UPLOAD = re.compile(r"<Upload>.*?<Key>([^<]+)</Key>.*?<UploadId>([^<]+)</UploadId>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class S3Place:
    """A bucket, and a folder in it (empty, or ending with a slash)."""

    name: str
    folder: str
    endpoint: str
    credentials: Credentials

    def problem(self, error: Exception) -> str:
        """Return what is wrong with the place, and what to do."""
        text = str(error)
        cause, fix = text.splitlines()[0][:300], "see that it runs, or correct --s3-endpoint"
        if found := _ERROR_CODE.search(text):
            cause, fix = found[1], _FIXES.get(found[1], "see the store's log")
        elif found := _STATUS.search(text) or _SYSTEM_ERROR.search(text):
            cause = found[1]
        elif "TimedOut" in text:
            cause = "it does not answer in time"
        return f"cannot use s3://{self.name} at {self.endpoint}: {cause} ({fix})"

    @contextmanager
    def told(self) -> Iterator[None]:
        """Answer a request with what is wrong with the place."""
        try:
            yield
        except BaseError as error:
            raise Refusal(503, self.problem(error)) from error

    def bucket(self, data: Path, *, clock: Callable[[], float], seconds: float) -> "Bucket":
        """Return what keeps bytes there; its presigned URLs last `seconds`."""
        return Bucket(data, self, clock=clock, seconds=seconds)


def s3_place(url: str, endpoint: str | None, environ: Mapping[str, str] | None = None) -> S3Place:
    """Return the place that `s3://bucket/folder` and the AWS variables name; or ValueError."""
    environ = os.environ if environ is None else environ
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{url!r} must look like s3://bucket or s3://bucket/folder")
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    given = endpoint or environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    key, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if not key or not secret:
        raise ValueError("no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    whole = (given or f"https://s3.{region}.amazonaws.com").rstrip("/")
    if urlsplit(whole).scheme not in ("http", "https") or not urlsplit(whole).netloc:
        raise ValueError(f"the endpoint {whole!r} must look like https://host:port")
    folder = parts.path.strip("/")
    token = environ.get("AWS_SESSION_TOKEN", "")
    credentials = Credentials(key, secret, region, token)
    return S3Place(parts.netloc, f"{folder}/" if folder else "", whole, credentials)


class Bucket:
    """Bytes and frames in a bucket; `data` keeps the id that is in all their names."""

    sees_all = False

    def __init__(
        self, data: Path, place: S3Place, *, clock: Callable[[], float], seconds: float
    ) -> None:
        name = data / "s3-id"
        if not name.exists():
            name.write_text(secrets.token_hex(8))
        self._prefix = f"{place.folder}{name.read_text()}/"
        self._place, self._clock, self._seconds = place, clock, int(seconds)
        self._places = asyncio.Semaphore(PLACES)
        token = place.credentials.session_token
        self._store = S3Store(
            place.name,
            config={"session_token": token} if token else {},
            endpoint=place.endpoint,
            region=place.credentials.region,
            access_key_id=place.credentials.access_key,
            secret_access_key=place.credentials.secret_key,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=10)},
        )

    def incoming(self, length: int | None = None) -> Incoming:
        """Return a place for bytes that arrive; all but the small wait for their turn."""
        name, places = str(uuid4()), self._places
        if length is not None and length <= FREE_BYTES:
            places = asyncio.Semaphore()
        return IncomingParts(name, self._key(name), self._store, places, self._place)

    def url(self, base_url: str, method: str, stored: Stored, frame: str = "") -> str:  # noqa: ARG002
        """Return a URL that the store itself checks: content type, method, expiry."""
        name = stored.content or stored.file_uuid
        headers, query = {}, {}
        if method == "PUT" and stored.declared_type:
            headers["content-type"] = stored.declared_type
        elif method == "GET":
            query["response-content-type"] = "image/jpeg" if frame else stored.content_type
        key = self._frame_key(name, frame[1:]) if frame else self._key(name)
        return self._signed(method, key, headers, query)

    async def arrived(self, stored: Stored) -> Arrived | None:
        """Return what was PUT to the URL of an object that is reserved."""
        name, digest, size = stored.file_uuid, sha256(), 0
        with self._place.told():
            try:
                answer = await obstore.get_async(self._store, self._key(name))
            except FileNotFoundError:
                return None
            async for piece in answer.stream(min_chunk_size=1 << 20):
                digest.update(piece)
                size += len(piece)
        return Arrived(name, digest.hexdigest(), size)

    @contextmanager
    def video(self, stored: Stored) -> Iterator[tuple[Path, Path]]:
        """Lend a copy of a video, and a folder; its frames go to the bucket."""
        with tempfile.TemporaryDirectory(prefix="syncd-emulator-") as scratch:
            video, frames = Path(scratch, "video"), Path(scratch, "frames")
            with video.open("wb") as file:
                for piece in obstore.get(self._store, self._key(str(stored.content))).stream():
                    file.write(piece)
            yield video, frames
            for frame in frames.iterdir():
                key = self._frame_key(str(stored.content), frame.name)
                obstore.put(self._store, key, frame.read_bytes())

    def sweep(self, taken: set[str]) -> None:
        """Remove objects, frames and begun uploads that no object took.

        ConnectionError where the bucket cannot be used.
        """
        try:
            for batch in obstore.list(self._store, self._prefix):
                keys = [meta["path"] for meta in batch]
                if alone := [key for key in keys if self._name_in(key) not in taken]:
                    obstore.delete(self._store, alone)
            self._abort_uploads()
        except (BaseError, httpx.HTTPError) as error:
            raise ConnectionError(self._place.problem(error)) from error

    def _abort_uploads(self) -> None:
        query = {"uploads": "", "prefix": self._prefix}
        with httpx.Client(trust_env=False, timeout=20) as client:
            listed = client.get(self._signed("GET", "", {}, query)).raise_for_status().text
            for key, upload in _UPLOAD.findall(listed):
                if key.startswith(self._prefix):
                    client.delete(self._signed("DELETE", key, {}, {"uploadId": upload}))

    def _signed(
        self, method: str, key: str, headers: Mapping[str, str], query: Mapping[str, str]
    ) -> str:
        place = self._place
        url = f"{place.endpoint}/{place.name}/{key}"
        return presigned(place.credentials, method, url, now=self._clock(),
                         seconds=self._seconds, headers=headers, query=query)  # fmt: skip

    def _key(self, name: str) -> str:
        return f"{self._prefix}contents/{name}"

    def _frame_key(self, name: str, frame: str) -> str:
        return f"{self._prefix}frames/{name}/{frame}"

    def _name_in(self, key: str) -> str:
        """Return the name of the object that a key is for."""
        return key.removeprefix(self._prefix).split("/")[1]


class IncomingParts(Incoming):
    """Bytes that stream into a bucket in parts, as they arrive; nothing stays if they end early.

    Few of them stream at a time: the others are not read on meanwhile, so that memory does not
    grow with their number.
    """

    def __init__(
        self, name: str, key: str, store: S3Store, places: asyncio.Semaphore, place: S3Place
    ) -> None:
        super().__init__(name)
        self._key, self._store, self._places, self._place = key, store, places, place
        self._buffer = bytearray()
        #: what is to be sent next; None at the end, or an error where there is none
        self._next: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(1)
        self._sending: asyncio.Future[Any] | None = None
        self._is_closed = False

    def write(self, piece: bytes | memoryview) -> None:
        """Add bytes."""
        self._buffer += piece
        super().write(piece)

    async def drain(self) -> None:
        """Wait until what was written is handed on."""
        if len(self._buffer) >= PIECE_BYTES:
            if self._sending is None:
                # It aborts its upload when the iterator raises, not when it is cancelled.
                parts = obstore.put_async(
                    self._store,
                    self._key,
                    self._parts(),
                    chunk_size=PART_BYTES,
                    max_concurrency=1,
                )
                self._sending = asyncio.ensure_future(parts)
            with self._place.told():
                await self._pass_on(self._sending, bytes(self._buffer))
            self._buffer.clear()

    async def close(self) -> None:
        """Return once the bucket holds the whole object."""
        with self._place.told():
            if self._sending is None:
                await obstore.put_async(self._store, self._key, bytes(self._buffer))
            else:
                await self._pass_on(self._sending, bytes(self._buffer))
                await self._pass_on(self._sending, None)
                await asyncio.shield(self._sending)
        self._is_closed = True
        self._buffer.clear()

    async def __aenter__(self) -> Self:
        # Before anything is read: what waits holds no more than its connection does.
        await self._places.acquire()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._is_closed and not self.kept:
                await obstore.delete_async(self._store, self._key)
            elif self._sending is not None and not self._is_closed:
                with suppress(Exception):
                    await self._pass_on(self._sending, ConnectionError("it ended early"))
                    await asyncio.shield(self._sending)
        finally:
            self._places.release()

    async def _pass_on(self, sending: asyncio.Future[Any], piece: bytes | Exception | None) -> None:
        """Hand on what is next; raise what the bucket answered, if it has failed meanwhile."""
        put = asyncio.ensure_future(self._next.put(piece))
        await asyncio.wait([put, sending], return_when=asyncio.FIRST_COMPLETED)
        if not put.done():
            put.cancel()
            sending.result()

    async def _parts(self) -> AsyncIterator[bytes]:
        while (piece := await self._next.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece
