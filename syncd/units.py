"""Sizes, durations and counts, as people write and read them."""

import re
import time
from datetime import datetime

_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_BYTES = {"": 1, "b": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for ending, base in (("ib", 1024), ("b", 1000))
}
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")
#: The least limit on the bandwidth, in bytes a second: less would time out everywhere.
SLOWEST_BYTES = 1024
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_bytes(text: str) -> int:
    """Parse a size such as `32MiB`, `5 GB` or `1024`; raise ValueError for anything else."""
    return round(_parse(text, _BYTES, "a size such as 32MiB, 5GiB or 1000000 (bytes)"))


def parse_seconds(text: str) -> float:
    """Parse a duration such as `24h`, `90s` or `1.5m` into seconds; raise ValueError otherwise."""
    return _parse(text, _SECONDS, "a duration such as 24h, 90m or 30s")


def parse_rate(text: str) -> int | None:
    """Parse `4MiB/s` into bytes a second, `off` into None; raise ValueError for anything else."""
    wanted = "a rate such as 4MiB/s or 500kB/s, or off"
    if text.strip().lower() == "off":
        return None
    amount, slash, _ = text.partition("/")
    if not slash or text.replace(" ", "").partition("/")[2].lower() != "s":
        raise ValueError(f"is not {wanted}")
    rate = round(_parse(amount, _BYTES, wanted))
    if rate < SLOWEST_BYTES:
        raise ValueError("is less than 1KiB/s; to stop sending, there is `syncd pause`")
    return rate


def rate(count: int | None) -> str:
    """Return bytes a second for a person: `4.0 MiB/s`, or `off` for no limit."""
    return "off" if count is None else f"{size(count)}/s"


def size(count: int | None) -> str:
    """Return bytes for a person: `512 B`, `4.2 MiB`, or `-` if unknown."""
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
    """Return a local time for a person, with its date unless it is less than 12 hours away."""
    local = datetime.fromtimestamp(at).astimezone()
    is_near = abs(at - time.time()) < 12 * 3600
    return f"{local:%H:%M:%S}" if is_near else f"{local:%Y-%m-%d %H:%M}"


def moment(at: float) -> str:
    """Return a local time for a person who may read it much later: `2026-11-30 07:30`."""
    return f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M}"


def _parse(text: str, units: dict[str, int], wanted: str) -> float:
    match = _AMOUNT.fullmatch(text)
    factor = units.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"is not {wanted}")
    return float(match[1]) * factor
