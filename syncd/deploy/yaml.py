"""Writes nested dictionaries and lists as YAML, so that no package is needed for it."""

import json
import re
from collections.abc import Iterator
from typing import Any

#: Text that needs no quotes: it cannot be taken for anything but text.
_PLAIN = re.compile(r"[A-Za-z/][\w./-]*", re.ASCII)
_WORDS = frozenset(("true", "false", "yes", "no", "on", "off", "y", "n", "null"))


def dump(value: dict[str, Any]) -> str:
    """Return one document."""
    return "".join(f"{line}\n" for line in _lines(value))


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _entry(f"{_scalar(key)}:", item)
        return
    for item in value:
        is_nested = isinstance(item, dict | list) and item
        first, *others = [*_lines(item)] if is_nested else [_scalar(item)]
        yield f"- {first}"
        yield from (f"  {line}" for line in others)


def _entry(key: str, item: Any) -> Iterator[str]:
    if not isinstance(item, dict | list) or not item:
        yield f"{key} {_scalar(item)}"
        return
    yield key
    yield from (f"  {line}" for line in _lines(item))


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    # JSON is YAML; DEL and what is beyond the base plane stay escaped.
    return json.dumps(value)
