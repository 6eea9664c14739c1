"""Objects' bytes and video frames in an S3 bucket, by obstore.

Uploads to the emulator stream on in parts. A PUT to a presigned URL bypasses the emulator, which
notices it when the object is requested. All keys of one emulator begin with its own id.
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
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from syncd.emulator.answers import Refusal
from syncd.emulator.incoming import Incoming
from syncd.emulator.presign import URL_SECONDS
from syncd.emulator.sigv4 import SigningKey, presigned
from syncd.emulator.store import StoredObject

#: The size of a part, of which only the last may be smaller; and the size at which buffered bytes
#: are passed on: smaller objects are put whole.
PART_BYTES, PIECE_BYTES = 5 << 20, 1 << 20
#: The length up to which uploads do not queue; and how many others are read at a time, each of
#: which may hold a few parts.
FREE_BYTES, PLACES = 32 << 10, 8
_ERROR_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d{3}[ \w]*)")
_SYSTEM_ERROR = re.compile(r'message: "([^"]+)"')
#: Remedies by the store's error code.
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
    credentials: SigningKey

    def problem(self, error: Exception) -> str:
        """Return what is wrong with the place, and the remedy."""
        text = str(error)
        cause, fix = text.splitlines()[0][:300], "check that it runs, or correct --s3-endpoint"
        if found := _ERROR_CODE.search(text):
            cause, fix = found[1], _FIXES.get(found[1], "see the store's log")
        elif found := _STATUS.search(text) or _SYSTEM_ERROR.search(text):
            cause = found[1]
        elif "TimedOut" in text:
            cause = "it does not answer in time"
        return f"cannot use s3://{self.name} at {self.endpoint}: {cause} ({fix})"

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Raise the store's errors as a 503 that says what is wrong with the place."""
        try:
            yield
        except BaseError as error:
            raise Refusal(503, self.problem(error)) from error


def s3_place(url: str, endpoint: str | None, environ: Mapping[str, str] = os.environ) -> S3Place:
    """Return the place that `s3://bucket/folder` and the AWS variables name.

    Raise ValueError when they do not name one.
    """
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
    credentials = SigningKey(key, secret, region, token)
    return S3Place(parts.netloc, f"{folder}/" if folder else "", whole, credentials)


class Bucket:
    """Bytes and frames in a bucket, under an id that is kept in `data`."""

    sees_all = False

    def __init__(self, data: Path, place: S3Place, *, clock: Callable[[], float]) -> None:
        name = data / "s3-id"
        if not name.exists():
            name.write_text(secrets.token_hex(8))
        self._prefix = f"{place.folder}{name.read_text()}/"
        self._place, self._clock = place, clock
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
        """Return a place for arriving bytes; all but small uploads wait for their turn."""
        name, places = str(uuid4()), self._places
        if length is not None and length <= FREE_BYTES:
            places = asyncio.Semaphore()
        return IncomingParts(name, self._key(name), self._store, places, self._place)

    def url(self, base_url: str, method: str, stored: StoredObject, frame: str = "") -> str:  # noqa: ARG002
        """Return a URL whose content type, method and expiry the store itself checks."""
        name = stored.content or stored.file_uuid
        headers, query = {}, {}
        if method == "PUT" and stored.declared_type:
            headers["content-type"] = stored.declared_type
        elif method == "GET":
            query["response-content-type"] = "image/jpeg" if frame else stored.content_type
        key = self._frame_key(name, frame[1:]) if frame else self._key(name)
        return self._signed(method, key, headers, query)

    async def arrived(self, stored: StoredObject) -> dict[str, Any] | None:
        """Return the values of a reserved object whose bytes were PUT; None when none were."""
        counted = Incoming(stored.file_uuid)
        with self._place.reporting():
            try:
                answer = await obstore.get_async(self._store, self._key(stored.file_uuid))
            except FileNotFoundError:
                return None
            async for piece in answer.stream(min_chunk_size=1 << 20):
                counted.write(memoryview(piece))
        return counted.values()

    @contextmanager
    def video(self, stored: StoredObject) -> Iterator[tuple[Path, Path]]:
        """Lend a copy of a video, and a folder whose frames are put into the bucket."""
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
        """Remove objects, frames and unfinished uploads that no object has taken.

        Raise ConnectionError when the bucket cannot be used.
        """
        try:
            for batch in obstore.list(self._store, self._prefix):
                keys = [meta["path"] for meta in batch]
                if orphans := [key for key in keys if self._name_in(key) not in taken]:
                    obstore.delete(self._store, orphans)
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
                         seconds=URL_SECONDS, headers=headers, query=query)  # fmt: skip

    def _key(self, name: str) -> str:
        return f"{self._prefix}contents/{name}"

    def _frame_key(self, name: str, frame: str) -> str:
        return f"{self._prefix}frames/{name}/{frame}"

    def _name_in(self, key: str) -> str:
        """Return the `content` that a key belongs to."""
        return key.removeprefix(self._prefix).split("/")[1]


class IncomingParts(Incoming):
    """Bytes that stream into a bucket in parts; nothing stays if they end early.

    Few uploads stream at a time. The others are not read meanwhile, so memory stays flat.
    """

    def __init__(
        self, name: str, key: str, store: S3Store, places: asyncio.Semaphore, place: S3Place
    ) -> None:
        super().__init__(name)
        self._key, self._store, self._places, self._place = key, store, places, place
        self._buffer = bytearray()
        #: the bytes to send next; None at the end, or the error that aborts the upload
        self._next: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(1)
        self._sending: asyncio.Future[Any] | None = None
        self._is_closed = False

    def write(self, piece: bytes | memoryview) -> None:
        """Add bytes."""
        self._buffer += piece
        super().write(piece)

    async def drain(self) -> None:
        """Wait until what was written is passed on."""
        if len(self._buffer) < PIECE_BYTES:
            return
        if self._sending is None:
            # put_async aborts its upload when the iterator raises, but not when it is cancelled.
            put = obstore.put_async(
                self._store, self._key, self._parts(), chunk_size=PART_BYTES, max_concurrency=1
            )
            self._sending = asyncio.ensure_future(put)
        with self._place.reporting():
            await self._pass_on(self._sending, bytes(self._buffer))
        self._buffer.clear()

    async def close(self) -> None:
        """Return once the bucket holds the whole object."""
        with self._place.reporting():
            if self._sending is None:
                await obstore.put_async(self._store, self._key, bytes(self._buffer))
            else:
                await self._pass_on(self._sending, bytes(self._buffer))
                await self._pass_on(self._sending, None)
                await asyncio.shield(self._sending)
        self._is_closed = True
        self._buffer.clear()

    async def __aenter__(self) -> Self:
        # Before anything is read: an upload that waits holds only what its connection does.
        await self._places.acquire()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if self._is_closed and not self.kept:
                await obstore.delete_async(self._store, self._key)
            elif self._sending is not None and not self._is_closed:
                with suppress(Exception):
                    await self._pass_on(self._sending, ConnectionError("the upload ended early"))
                    await asyncio.shield(self._sending)
        finally:
            self._places.release()

    async def _pass_on(self, sending: asyncio.Future[Any], piece: bytes | Exception | None) -> None:
        """Pass on the next piece; raise the upload's error if it has failed meanwhile."""
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
