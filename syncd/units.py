"""Sizes, durations and counts as people write them, and read them."""

import re
import time
from datetime import datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_BYTES = {"": 1, "b": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for ending, base in (("ib", 1024), ("b", 1000))
}
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_bytes(text: str) -> int:
    """Return the bytes that `32MiB`, `5 GB` or `1024` stands for; ValueError for anything else."""
    return round(_parse(text, _BYTES, "a size such as 32MiB, 5GiB or 1000000 (bytes)"))


def parse_seconds(text: str) -> float:
    """Return the seconds that `24h`, `90s`, `1.5m` or `2d` stands for; ValueError otherwise."""
    return _parse(text, _SECONDS, "a duration such as 24h, 90m or 30s")


def size(count: int | None) -> str:
    """Return bytes for a person: `512 B`, `4.2 MiB`; `-` where they are not known."""
    if count is None:
        return "-"
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_SIZES) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {_SIZES[unit]}" if unit else f"{count} B"


def counted(number: int, what: str, many: str = "") -> str:
    """Return a number of things for a person: `1 file`, `1,203 files`; `many` is their plural."""
    return f"1 {what}" if number == 1 else f"{number:,} {many or what + 's'}"


def span(seconds: float) -> str:
    """Return a length of time for a person: `4 s`, `12 min`, `3 h 20 min`, `5 d 2 h`."""
    whole = max(round(seconds), 0)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    if whole < 2 * 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def clock(at: float) -> str:
    """Return a time for a person, on this machine's clock; with its date unless it is near."""
    there = datetime.fromtimestamp(at).astimezone()
    near = abs(at - time.time()) < 12 * 3600
    return f"{there:%H:%M:%S}" if near else f"{there:%Y-%m-%d %H:%M}"


def _parse(text: str, units: dict[str, int], wanted: str) -> float:
    match = _AMOUNT.fullmatch(text)
    factor = units.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"is not {wanted}")
    return float(match[1]) * factor


def _bytes(value: Any) -> Any:
    return parse_bytes(value) if isinstance(value, str) else value


def _seconds(value: Any) -> Any:
    return parse_seconds(value) if isinstance(value, str) else value


#: Whole bytes, at least one; as text with a unit, or as a number.
Size = Annotated[int, BeforeValidator(_bytes), Field(gt=0)]
#: Seconds, more than none; as text with a unit, or as a number.
Duration = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]
