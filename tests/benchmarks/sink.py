"""A Files API and a small S3 that check the SHA-256 of each body and keep no content.

Run as a process of its own: `python sink.py [SECONDS] [LIMIT]`. SECONDS is how long each answer
takes. LIMIT is how many uploads it takes in a second; further ones get 429 and `Retry-After: 1`. It
prints its port and the port of its control, and ends with its standard input. The control speaks
plain HTTP: `GET /objects` (JSON Lines), `GET /counts`, `PUT /settings`, `POST /completed` (UUIDs,
one a line), `DELETE /` (forget all).
"""

import argparse
import asyncio
import json
import ssl
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from hashlib import sha256
from math import inf
from typing import NamedTuple
from urllib.parse import parse_qs, unquote
from uuid import uuid4

ORGANIZATION = "00000000-0000-4000-8000-000000000000"
BUCKET = "/bucket"
PART_HEAD_BYTES = 65536


class Limit:
    """A bucket of tokens for `rate` requests a second."""

    def __init__(self, rate):
        self._rate = self._left = rate
        self._at = time.monotonic()

    def takes(self):
        if self._rate == inf:
            return True
        now = time.monotonic()
        self._left = min(self._rate, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Stored:
    """One object."""

    def __init__(self, name, content_type, processing):
        self.uuid = str(uuid4())
        self.name, self.content_type, self.processing = name, content_type, processing
        self.created_at = time.time()
        self.size, self.digest, self.state = None, None, "reserved"

    def detail(self):
        moment = datetime.fromtimestamp(self.created_at, UTC).isoformat()
        return {
            "file_uuid": self.uuid,
            "organization_uuid": ORGANIZATION,
            "content_type": self.content_type,
            "file_type": "video" if self.content_type.startswith("video/") else "document",
            "file_size_bytes": self.size,
            "original_file_url": self.name,
            "remote_file_path": f"files/{self.uuid}/{self.name.rpartition('/')[2]}",
            "processing_status": self.processing,
            "created_at": moment,
            "updated_at": moment,
        }

    def told(self):
        """Return what the control tells of it."""
        digest = self.digest
        if not isinstance(digest, str | None):
            # Kept for later: hashing takes a core from the program that is measured.
            whole = sha256()
            for piece in digest:
                whole.update(piece)
            self.digest = digest = whole.hexdigest()
        return {"uuid": self.uuid, "name": self.name, "size": self.size, "sha256": digest,
                "state": self.state, "at": self.created_at}  # fmt: skip


class Store:
    """All objects, and how the sink behaves."""

    def __init__(self, seconds, limit):
        self.settings = {"seconds": seconds, "hash_later": False, "holds_videos": False}
        self.limit = Limit(limit)
        self.url = ""
        self.clear()

    def clear(self):
        self.objects = {}
        self.order = []
        self.counts = Counter()

    def add(self, name, content_type):
        # A video is processed once its content is there.
        is_video = content_type.startswith("video/")
        stored = Stored(name, content_type, "pending" if is_video else "completed")
        self.objects[stored.uuid] = stored
        self.order.append(stored)
        return stored

    def page(self, query):
        limit, offset = int(query.get("limit", [100])[0]), int(query.get("offset", [0])[0])
        there = [stored for stored in self.order if stored.state != "deleted"]
        items = there[::-1][offset : offset + min(limit, 1000)]
        return {"items": [stored.detail() for stored in items], "count": len(there)}


class Answer(NamedTuple):
    body: bytes = b""
    status: str = "200 OK"
    headers: str = "content-type: application/json\r\n"


NOT_FOUND = Answer(
    b'{"error":{"code":"files.not_found","message":"no such file"},"request_id":"r"}',
    "404 Not Found",
)
LIMITED = Answer(b"", "429 Too Many Requests", "retry-after: 1\r\n")


class Hasher:
    """Takes a body as it comes: the file of a multipart upload, or all of it."""

    def __init__(self, boundary, length, *, later):
        self._head = b"" if boundary else None
        # The closing boundary follows the file.
        self._tail = f"\r\n--{boundary}--\r\n".encode() if boundary else b""
        self._left = length - len(self._tail)
        self._end = b""
        self._sha, self._pieces = sha256(), [] if later else None
        self.name, self.content_type, self.size = "", "", 0

    def take(self, data):
        if self._head is not None:
            self._left -= len(data)
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._left += len(data)
            self._head = None
            for line in head.decode().split("\r\n"):
                key, _, value = line.partition(": ")
                if key.lower() == "content-disposition":
                    self.name = unquote(value.rpartition('filename="')[2].rstrip('"'))
                elif key.lower() == "content-type":
                    self.content_type = value
        if len(data) > self._left:
            data, self._end = data[: self._left], self._end + data[self._left :]
        if self._pieces is None:
            self._sha.update(data)
        else:
            self._pieces.append(data)
        self._left -= len(data)
        self.size += len(data)

    def end(self):
        """Return the digest, or the pieces to be hashed later; None where the body is no upload."""
        if self._head is not None or self._left or self._end != self._tail:
            return None
        return self._sha.hexdigest() if self._pieces is None else self._pieces


class Connection(asyncio.Protocol):
    """Reads requests one after the other, and answers each after the time that it is to take."""

    def __init__(self, store, answers):
        self._store, self._answers = store, answers
        self._head = b""
        self._left = 0
        self._body = None

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        while data:
            if self._left:
                piece, data = data[: self._left], data[self._left :]
                self._left -= len(piece)
                self._store.counts["bytes"] += len(piece)
                if isinstance(self._body, bytearray):
                    self._body += piece
                else:
                    self._body.take(piece)
            else:
                self._head += data
                head, end, data = self._head.partition(b"\r\n\r\n")
                if not end:
                    return
                self._head = b""
                self._begin(head.decode("latin-1"))
            if not self._left:
                self._answer()

    def _begin(self, head):
        first, *lines = head.split("\r\n")
        self._method, target, _ = first.split(" ")
        if target.startswith("http"):
            target = "/" + target.split("/", 3)[3]
        self._path, _, self._query = target.partition("?")
        headers = {}
        for line in lines:
            key, _, value = line.partition(":")
            headers[key.lower()] = value.strip()
        self._left = int(headers.get("content-length", 0))
        kind = headers.get("content-type", "")
        is_upload = self._method == "POST" and self._path == "/v2/files/-/uploads"
        if is_upload or (self._method == "PUT" and self._answers is api):
            boundary = kind.partition("boundary=")[2].strip('"') if is_upload else ""
            later = self._store.settings["hash_later"]
            self._body = Hasher(boundary, self._left, later=later)
        else:
            self._body = bytearray()
        if headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _answer(self):
        answer = self._answers(self._store, self._method, self._path, self._query, self._body)
        self._body = None
        length = "" if answer.status[:3] == "204" else f"content-length: {len(answer.body)}\r\n"
        head = f"HTTP/1.1 {answer.status}\r\n{answer.headers}{length}\r\n".encode()
        seconds = self._store.settings["seconds"]
        if seconds and self._answers is api:
            asyncio.get_running_loop().call_later(
                seconds, self._transport.write, head + answer.body
            )
        else:
            self._transport.write(head + answer.body)


def as_json(document):
    return Answer(json.dumps(document).encode())


def stored_whole(store, stored, body):
    """Note the content; None where the body is broken."""
    digest = body.end()
    if digest is None:
        return None
    stored.size, stored.digest, stored.state = body.size, digest, "live"
    if not store.settings["holds_videos"]:
        stored.processing = "completed"
    return stored


def upload(store, body):
    if not store.limit.takes():
        return LIMITED
    stored = store.add(body.name, body.content_type)
    if not stored_whole(store, stored, body):
        store.counts["broken"] += 1
        return Answer(b"", "400 Bad Request")
    return Answer(
        f'{{"file_uuid":"{stored.uuid}","remote_file_path":"files/{stored.uuid}/x",'
        f'"processing_status":"{stored.processing}"}}'.encode()
    )


def create(store, body):
    files = []
    for file in json.loads(body)["files"]:
        content_type = file.get("content_type") or "application/octet-stream"
        stored = store.add(file["local_file_path"], content_type)
        files.append(
            {
                "file_uuid": stored.uuid,
                "file_url": f"{store.url}/storage/{stored.uuid}",
                "local_file_path": stored.name,
                "processing_status": stored.processing,
            }
        )
    return as_json({"files": files})


def of_one(store, method, path):
    uuid, _, rest = path.removeprefix("/v2/files/").partition("/")
    stored = store.objects.get(uuid)
    if stored is None or stored.state == "deleted":
        return NOT_FOUND
    if method == "DELETE":
        stored.state = "deleted"
        return Answer(b"", "204 No Content", "")
    if rest == "frames":
        return as_json({"file_uuid": uuid, "frame_count": 0, "frame_urls": []})
    return as_json(stored.detail())


def s3(store, method, path, query, body):
    """Answer as much of S3 as rclone and `aws s3 sync` ask for."""
    if method == "PUT":
        part = parse_qs(query).get("partNumber", [""])[0]
        stored = stored_whole(store, store.add(unquote(path[len(BUCKET) + 1 :]) + part, ""), body)
        return Answer(b"", headers=f'etag: "{stored.uuid}-1"\r\n')
    if method == "HEAD":
        return Answer(b"", "404 Not Found", "")
    key = "<Bucket>bucket</Bucket><Key>k</Key>"
    if method == "POST" and query.startswith("uploads"):
        return xml("InitiateMultipartUploadResult", f"{key}<UploadId>u</UploadId>")
    if method == "POST":
        return xml("CompleteMultipartUploadResult", f"{key}<ETag>x</ETag>")
    return xml("ListBucketResult", "<Name>bucket</Name><IsTruncated>false</IsTruncated>")


def xml(name, content):
    text = f'<?xml version="1.0" encoding="UTF-8"?><{name}>{content}</{name}>'
    return Answer(text.encode(), headers="content-type: application/xml\r\n")


def api(store, method, path, query, body):
    """Answer a request of the Files API or of S3."""
    if path.startswith(BUCKET):
        return s3(store, method, path, query, body)
    is_put = path.startswith("/storage/") and method == "PUT"
    store.counts["puts" if is_put else "calls"] += 1
    if path == "/v2/files/-/uploads" and method == "POST":
        store.counts["uploads"] += 1
        return upload(store, body)
    if path == "/v2/files":
        return create(store, body) if method == "POST" else as_json(store.page(parse_qs(query)))
    if is_put:
        stored = store.objects.get(path.rpartition("/")[2])
        return (
            Answer(b"", headers="") if stored and stored_whole(store, stored, body) else NOT_FOUND
        )
    return of_one(store, method, path) if path.startswith("/v2/files/") else NOT_FOUND


def control(store, method, path, _query, body):
    """Answer a request of the runner."""
    if path == "/objects":
        return Answer(b"".join(json.dumps(s.told()).encode() + b"\n" for s in store.order))
    if path == "/counts":
        return as_json(store.counts)
    if path == "/settings":
        store.settings |= json.loads(body)
    elif path == "/completed":
        for uuid in body.decode().split():
            store.objects[uuid].processing = "completed"
    elif method == "DELETE":
        store.clear()
    return as_json({})


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=0.0)
    parser.add_argument("limit", nargs="?", type=float, default=inf)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--certificate", help="speak TLS with this certificate and key")
    options = parser.parse_args()
    store, loop, tls = Store(options.seconds, options.limit), asyncio.get_running_loop(), None
    if options.certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.certificate)
    ports = []
    for answers, host, context in ((api, options.host, tls), (control, "127.0.0.1", None)):
        server = await loop.create_server(
            lambda answers=answers: Connection(store, answers), host, 0, backlog=1024, ssl=context
        )
        ports.append(server.sockets[0].getsockname()[1])
    store.url = f"http{'s' if tls else ''}://{options.host}:{ports[0]}"
    sys.stdout.write("".join(f"{port}\n" for port in ports))
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
