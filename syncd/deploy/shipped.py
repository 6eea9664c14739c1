"""The files that syncd ships beside its code: units, drop-ins and alert rules."""

from pathlib import Path

#: The wheel carries `systemd/` in here; a checkout has it at its top.
_PLACES = (Path(__file__).parent / "systemd", Path(__file__).parents[2] / "systemd")


def drop_ins() -> list[str]:
    """Return the names of the shipped drop-ins."""
    found = (path.stem for place in _PLACES for path in (place / "drop-ins").glob("*.conf"))
    return sorted({*found})


def read(name: str) -> str:
    """Return the text of a shipped file, by its path beneath `systemd/`."""
    place = next((place for place in _PLACES if (place / name).exists()), _PLACES[0])
    return (place / name).read_text("utf-8")
