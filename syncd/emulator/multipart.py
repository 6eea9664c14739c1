"""Reads a multipart body as it arrives, and streams its one part `file` to storage."""

from dataclasses import dataclass, field
from typing import Any, cast

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from syncd.emulator.answers import Refusal, invalid, too_large
from syncd.emulator.incoming import Incoming


@dataclass(slots=True)
class FilePart:
    """The part `file`: its name as sent, and its declared content type, if any."""

    incoming: Incoming
    filename: str | None = None
    content_type: str | None = None
    is_whole: bool = False
    _is_file: bool = False
    _name: bytes = b""
    _value: bytes = b""
    _headers: dict[bytes, bytes] = field(default_factory=dict)

    def on_part_begin(self) -> None:
        self._headers, self._is_file = {}, False

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if options.get(b"name") != b"file":
            return
        if self.filename is not None:
            raise invalid("file", "more than one part has this name")
        if not options.get(b"filename"):
            raise invalid("file", "the part has no filename")
        self._is_file = True
        self.filename = options[b"filename"].decode("utf-8", "replace")
        self.content_type = self._headers.get(b"content-type", b"").decode("latin-1").strip()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.incoming.write(memoryview(data)[start:end])

    def on_end(self) -> None:
        self.is_whole = True

    def parser(self, boundary: bytes) -> MultipartParser:
        """Return a parser that calls the methods above."""
        callbacks = {name: getattr(self, name) for name in dir(self) if name.startswith("on_")}
        return MultipartParser(boundary, cast("Any", callbacks))


async def receive(request: Request, incoming: Incoming, *, max_body: int | None) -> FilePart:
    """Read the part `file` into `incoming`; raise Refusal unless the body is whole and has one."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise Refusal(415, "send multipart/form-data with a boundary")
    part = FilePart(incoming)
    try:
        parser = part.parser(boundary)
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            if max_body is not None and received > max_body:
                raise too_large(max_body)
            parser.write(chunk)
            await incoming.drain()
    except FormParserError as error:
        raise Refusal(400, f"the body is not multipart: {error}") from error
    if not part.is_whole:
        raise Refusal(400, "the body ended before its closing boundary; nothing was stored")
    if part.filename is None:
        raise invalid("file", "the part is missing")
    return part
