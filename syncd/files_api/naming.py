"""The name that a file is sent under: readable, safe in a header, findable by its token."""

import re
import unicodedata
from urllib.parse import unquote, urlsplit

#: The longest segment of a path that file systems and servers take, in bytes.
SEGMENT_BYTES = 255
#: A longer extension is a part of the name that happens to follow a dot.
_EXTENSION_BYTES = 32

#: The two kinds of tokens, this one and that of earlier versions: see `syncd.state.tokens`.
_KINDS = (
    "sy2-[0-9a-f]{8}-[0-9a-f]{12}-[0-9a-f]{12}-[0-9a-f]{12}-[0-9a-f]{20}",
    "sy1-[0-9a-f]{8}-[0-9a-f]{28}",
)
#: The one place where a token counts: where `sent_name` puts it.
_AT_ITS_PLACE = re.compile(rf".+\.({'|'.join(_KINDS)})(\.[^./]+)?", re.DOTALL)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
#: Text that already looks like an escape; its percent sign is escaped to keep names distinct.
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
#: A usual name is sent as it is, and need not be examined letter by letter.
_PLAIN = re.compile(rb"[ !#$&-\[\]-~]*")
#: Joiners hold emoji and some scripts together; every other invisible character is escaped.
_JOINERS = "\u200c\u200d"
#: Quotes end a header's value; some servers take what stands before a backslash for a folder.
_UNSAFE = '"\\'


def sent_name(path: bytes, token: str | None = None) -> str:
    """Return a relative path as it is sent: `rel/path/clip.TOKEN.mp4`.

    Any bytes that Linux allows come out as printable text without quotes: what is not readable
    is percent-encoded. Each segment has at most 255 bytes; the readable part gives way, not the
    token and not the extension.
    """
    *folders, last = path.split(b"/")
    stem, _, extension = last.rpartition(b".")
    suffix = f".{_fitted(extension, SEGMENT_BYTES)}"
    if not stem.strip(b".") or not 1 < len(suffix.encode()) <= _EXTENSION_BYTES:
        stem, suffix = last, ""
    tail = (f".{token}" if token else "") + suffix
    segments = [_fitted(folder, SEGMENT_BYTES) for folder in folders]
    return "/".join([*segments, _fitted(stem, SEGMENT_BYTES - len(tail.encode())) + tail])


def token_of(name: str) -> str | None:
    """Return the token in a sent name, or None if none stands at its exact place.

    `name` is what a service shows: the name, a path that ends with it, or a URL with such a path.
    A token anywhere else, in a query or in the middle of a name, is only a part of the text.
    """
    if _URL.match(name):
        try:
            name = unquote(urlsplit(name).path)
        except ValueError:
            return None
    found = _AT_ITS_PLACE.fullmatch(name.rstrip("/").rpartition("/")[2])
    if found is None or len((found[2] or "").encode(errors="replace")) > _EXTENSION_BYTES:
        return None
    return found[1]


def _pieces(segment: bytes) -> list[bytes]:
    """Return the segment as sent, in pieces: each is a character or a whole escape."""
    text = segment.decode("utf-8", "surrogateescape")
    return [_escaped(text, index) for index in range(len(text))]


def _escaped(text: str, index: int) -> bytes:
    char = text[index]
    raw = char.encode("utf-8", "surrogateescape")
    invisible = unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
    escape_like = char == "%" and _ESCAPE.match(text, index)
    if char in _UNSAFE or escape_like or (invisible and char not in _JOINERS):
        return b"".join(b"%%%02X" % byte for byte in raw)
    return raw


def _fitted(segment: bytes, limit: int) -> str:
    if len(segment) <= limit and _PLAIN.fullmatch(segment):
        return segment.decode()
    fitted = bytearray()
    for piece in _pieces(segment):
        if len(fitted) + len(piece) > limit:
            break
        fitted += piece
    return fitted.decode()
