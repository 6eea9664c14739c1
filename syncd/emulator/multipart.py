"""Reads a multipart body as it arrives: the one part `file` goes to disk, hashed on the way."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from syncd.emulator.answers import Refusal, invalid

#: More than any header of a part needs.
HEADER_BYTES = 16_384


@dataclass(slots=True)
class Upload:
    """A body received whole."""

    filename: str
    content_type: str
    sha256: str
    size: int


@dataclass(slots=True)
class _Reading:
    file: BinaryIO
    digest: Any = field(default_factory=sha256)
    size: int = 0
    name: bytes = b""
    value: bytes = b""
    headers: dict[bytes, bytes] = field(default_factory=dict)
    mine: bool = False
    filename: str | None = None
    content_type: str = "application/octet-stream"
    whole: bool = False

    def begin(self) -> None:
        self.headers, self.mine = {}, False

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self.name += data[start:end]
        self._bound()

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]
        self._bound()

    def _bound(self) -> None:
        if len(self.name) + len(self.value) > HEADER_BYTES:
            raise Refusal(400, "a part's header is too long")

    def header_end(self) -> None:
        self.headers[self.name.lower()] = self.value
        self.name = self.value = b""

    def headers_finished(self) -> None:
        _, options = parse_options_header(self.headers.get(b"content-disposition", b""))
        if options.get(b"name") != b"file":
            return
        if self.filename is not None:
            raise invalid("file", "more than one part has this name")
        if b"filename" not in options:
            raise invalid("file", "the part has no filename")
        self.mine = True
        # Browsers and httpx percent-encode what a quoted string cannot hold.
        self.filename = options[b"filename"].decode("utf-8", "replace")
        declared = self.headers.get(b"content-type", b"").decode("latin-1").strip()
        self.content_type = declared or self.content_type

    def data(self, data: bytes, start: int, end: int) -> None:
        if self.mine:
            piece = data[start:end]
            self.file.write(piece)
            self.digest.update(piece)
            self.size += len(piece)

    def end(self) -> None:
        self.whole = True


async def receive(
    content_type: str, body: AsyncIterator[bytes], part: Path, *, max_body: int | None
) -> Upload:
    """Read `body` into `part`; Refusal where it is not one whole part `file`."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > 200:
        raise Refusal(415, "send multipart/form-data with a boundary")
    with part.open("wb") as file:
        reading = _Reading(file)
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": reading.begin,
                "on_header_field": reading.header_field,
                "on_header_value": reading.header_value,
                "on_header_end": reading.header_end,
                "on_headers_finished": reading.headers_finished,
                "on_part_data": reading.data,
                "on_end": reading.end,
            },
        )
        received = 0
        try:
            async for chunk in body:
                received += len(chunk)
                if max_body is not None and received > max_body:
                    raise too_large(max_body)
                if not reading.whole:
                    parser.write(chunk)
        except MultipartParseError as error:
            raise Refusal(400, f"the body is no multipart: {error}") from error
    if not reading.whole:
        raise Refusal(400, "the body ended before its closing boundary; nothing was stored")
    if reading.filename is None:
        raise invalid("file", "the part is missing")
    return Upload(reading.filename, reading.content_type, reading.digest.hexdigest(), reading.size)


def too_large(max_body: int) -> Refusal:
    """Return the 413."""
    return Refusal(413, f"the body is larger than {max_body} bytes", details={"limit": max_body})
