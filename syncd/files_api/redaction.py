"""Makes foreign text fit to be shown: without secrets, on one line, of bounded length."""

import re
from collections.abc import Iterable
from itertools import islice
from urllib.parse import unquote_plus

EXCERPT_CHARS = 200
#: A value shorter than this is no secret; scrubbing it would only garble the text.
SECRET_CHARS = 6
#: How much of a text is looked at: scrubbing a megabyte to show a line is waste.
_WINDOW_CHARS = 16_384
#: How many entries of an object or a list are kept.
_DETAILS = 100

_URL = re.compile(r"https?:\\?/\\?/[^\s\"'<>]+", re.IGNORECASE)
_SIGNATURE = re.compile(r"[\w.-]{0,40}(?:signature|credential|token)=[^\s\"'<>]*", re.IGNORECASE)


class Secrets:
    """The strings that must not be shown, whatever a server sends back."""

    def __init__(self, values: Iterable[str | None] = ()) -> None:
        known = {value for value in values if value and len(value) >= SECRET_CHARS}
        self._values = sorted(known, key=len, reverse=True)

    def __repr__(self) -> str:
        return f"<Secrets: {len(self._values)}>"

    def adding(self, url: str) -> "Secrets":
        """Return these and the secrets of a presigned URL: its query, and each value in it."""
        query = url.partition("?")[2]
        pairs = [pair.partition("=")[2] for pair in query.split("&")]
        return Secrets([*self._values, query, *pairs, *map(unquote_plus, pairs)])

    def scrub(self, text: str) -> str:
        """Return `text` without secrets, URLs and signatures."""
        for value in self._values:
            text = text.replace(value, "[secret]")
        return _SIGNATURE.sub("[signature]", _URL.sub("[url]", text))

    def shown(self, text: str, limit: int = EXCERPT_CHARS) -> str:
        """Return `text` scrubbed, printable on one line, cut to `limit` characters."""
        clean = self.scrub(text[:_WINDOW_CHARS])[:limit]
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in clean)

    def excerpt(self, body: bytes) -> str:
        """Return the first characters of a body as they may be shown."""
        return self.shown(body[:_WINDOW_CHARS].decode("utf-8", "backslashreplace"))

    def scrub_all(self, value: object, depth: int = 8) -> object:
        """Return a JSON value with every string in it fit to be shown, no deeper than `depth`."""
        if isinstance(value, str):
            return self.shown(value)
        if isinstance(value, dict | list) and not depth:
            return "[...]"
        if isinstance(value, dict):
            some = islice(value.items(), _DETAILS)
            return {self.shown(key): self.scrub_all(item, depth - 1) for key, item in some}
        if isinstance(value, list):
            return [self.scrub_all(item, depth - 1) for item in value[:_DETAILS]]
        return value
