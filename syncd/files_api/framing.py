"""How a file is wrapped in a request body: what stands before its bytes, and after."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

_UNQUOTABLE = re.compile(r'[\x00-\x1f"\x7f]')
_HEADER_SAFE = re.compile(r"[!-~]+(?: *[!-~]+)*")


@dataclass(frozen=True, kw_only=True)
class Framing:
    """The body's content type, and the bytes around the file's own."""

    content_type: str
    head: bytes = b""
    tail: bytes = b""

    def length(self, size: int) -> int:
        """Return the exact Content-Length around a file of `size` bytes."""
        return len(self.head) + size + len(self.tail)


def header_value(text: str) -> str:
    """Return `text`, which must be fit for a header: visible ASCII on one line."""
    if not _HEADER_SAFE.fullmatch(text):
        raise ValueError("a header's value must be visible ASCII on one line")
    return text


def raw(content_type: str) -> Framing:
    """Frame the bare bytes of a file."""
    return Framing(content_type=header_value(content_type))


def multipart(name: str, content_type: str, fields: Mapping[str, str] | None = None) -> Framing:
    """Frame a file as the part `file` of a multipart/form-data body, after plain `fields`.

    Written by hand because the length must be known, and because each chunk then costs one send.
    """
    # 128 random bits: no content can be made to hold the boundary.
    boundary = os.urandom(16).hex().encode()
    head = bytearray()
    for field, value in (fields or {}).items():
        head += b"--%b\r\nContent-Disposition: form-data; name=" % boundary
        head += b"%b\r\n\r\n%b\r\n" % (_quoted(field), value.encode())
    head += b'--%b\r\nContent-Disposition: form-data; name="file"; filename=' % boundary
    head += b"%b\r\n" % _quoted(name)
    head += b"Content-Type: %b\r\n\r\n" % header_value(content_type).encode()
    return Framing(
        content_type=f"multipart/form-data; boundary={boundary.decode()}",
        head=bytes(head),
        tail=b"\r\n--%b--\r\n" % boundary,
    )


def _quoted(text: str) -> bytes:
    """Return a quoted parameter as browsers write it (WHATWG), without control characters."""
    safe = _UNQUOTABLE.sub(lambda found: f"%{ord(found[0]):02X}", text)
    return b'"%b"' % safe.encode("utf-8", "backslashreplace")
