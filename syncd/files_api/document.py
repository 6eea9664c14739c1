"""A JSON answer, read strictly: what is not as described raises, with the place named."""

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

T = TypeVar("T")

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class MalformedError(ValueError):
    """The document is not what the API describes. The text names the place, never the value."""


def is_uuid(text: object) -> bool:
    """Return whether `text` is a UUID in its usual form, and so safe in a URL's path."""
    return isinstance(text, str) and _UUID.fullmatch(text) is not None


def parse(body: bytes) -> object:
    """Read JSON; refuse NaN, infinity, duplicate keys and anything that is not UTF-8."""
    try:
        return _DECODER.decode(body.decode("utf-8"))
    except MalformedError:
        raise
    except (ValueError, RecursionError):
        # The parser's own words quote the text around the fault: they stay out of the chain.
        raise MalformedError("no JSON") from None


class Reader:
    """Reads the members of one JSON object; an absent member and a null are the same."""

    def __init__(self, value: object, place: str) -> None:
        if not isinstance(value, dict):
            raise MalformedError(f"{place} is no object")
        self.value: Mapping[str, Any] = value
        self._place = place

    def text(self, name: str) -> str | None:
        """A string that can be encoded, or None."""
        value = self.value.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or not _is_text(value):
            raise self._wrong(name, "text")
        return value

    def uuid(self, name: str) -> str | None:
        """A UUID as the server spells it, or None."""
        value = self.value.get(name)
        if value is None:
            return None
        if not is_uuid(value):
            raise self._wrong(name, "a UUID")
        return str(value)

    def count(self, name: str) -> int | None:
        """A whole number from 0 up that fits 63 bits, or None."""
        value = self.value.get(name)
        if value is None:
            return None
        if type(value) is not int or not 0 <= value < 1 << 63:
            raise self._wrong(name, "a count")
        return value

    def moment(self, name: str) -> datetime | None:
        """An ISO 8601 time, in UTC (taken for UTC where it names no zone), or None."""
        text = self.text(name)
        if text is None:
            return None
        try:
            when = datetime.fromisoformat(text)
            return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
        except (ValueError, OverflowError):
            raise self._wrong(name, "a time") from None

    def object(self, name: str) -> Mapping[str, Any] | None:
        """An object, or None."""
        value = self.value.get(name)
        if value is not None and not isinstance(value, dict):
            raise self._wrong(name, "an object")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self._list(name)
        if not all(isinstance(item, str) and _is_text(item) for item in value):
            raise self._wrong(name, "a list of text")
        return tuple(value)

    def each(self, name: str, read: Callable[["Reader"], T]) -> tuple[T, ...]:
        """A list of objects, each given to `read`."""
        place = f"{self._place}.{name}"
        return tuple(read(Reader(item, place)) for item in self._list(name))

    def need(self, name: str, value: T | None) -> T:
        """Return `value`, which may not be absent."""
        if value is None:
            raise MalformedError(f"{self._place}.{name} is missing")
        return value

    def _list(self, name: str) -> list[Any]:
        value = self.value.get(name)
        if not isinstance(value, list):
            raise self._wrong(name, "a list")
        return value

    def _wrong(self, name: str, expected: str) -> MalformedError:
        return MalformedError(f"{self._place}.{name} is not {expected}")


def _is_text(value: str) -> bool:
    # JSON can spell half a surrogate pair; no database and no terminal takes it.
    return value.isascii() or not re.search("[\ud800-\udfff]", value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedError("a member is there twice")
    return members


def _no_constant(_text: str) -> float:
    raise MalformedError("a number is not finite")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise MalformedError("a number is not finite")
    return number


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
)
