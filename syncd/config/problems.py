"""Puts a mistake in the configuration into words: where it stands, and what is right."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from pydantic import BaseModel

from syncd.config.credentials import KEY_FILE_VARIABLE, KEY_VARIABLE
from syncd.config.locations import FOLDERS_VARIABLE
from syncd.config.settings import FolderSettings, Settings
from syncd.config.targets import HookSettings
from syncd.config.variables import FOLDERS_FORM

#: The keys and indices that lead to a setting, as pydantic has them.
Location: TypeAlias = tuple[int | str, ...]
#: The type that a value should have, in TOML's words, by pydantic's kinds of errors.
_WANTED = {
    "bool_parsing": "should be true or false",
    "dict_type": "should be a table",
    "float_parsing": "should be a number",
    "float_type": "should be a number",
    "int_from_float": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_type": "should be a whole number",
    "missing": "is missing",
    "model_type": "should be a table",
    "path_type": "should be a path, in quotes",
    "string_type": "should be text, in quotes",
    "tuple_type": "should be a list",
}


def described(location: Location, kind: str, message: str, where: str) -> str:
    """Say what is wrong with the setting at `location`, `where` it stands, and what is right.

    `kind` and `message` are pydantic's.
    """
    path, head = _setting(location), str(location[0])
    if kind != "extra_forbidden":
        text = _WANTED.get(kind) or message.removeprefix("Value error, ").removeprefix("Input ")
        if where == FOLDERS_VARIABLE and kind in ("tuple_type", "model_type"):
            text = FOLDERS_FORM
        elif location in (("folders",), ("hooks",)):
            text += f"; in a file each {head[:-1]} is a table of its own: [[{head}]]"
        return f"{where}: {path}: {text[:1].lower()}{text[1:]}"
    key = str(location[-1])
    if key in ("api_key", "key", "bearer_token", "token_file"):
        return (
            f"{where}: {path}: a key never stands here; use {KEY_VARIABLE} or {KEY_FILE_VARIABLE}"
        )
    known = _known_keys(location[:-1])
    near = nearest(key, known)
    hint = f"did you mean {near}?" if near else f"known are {', '.join(known)}"
    return f"{where}: {path}: unknown setting; {hint}"


def remove(values: Any, location: Location) -> None:
    """Remove the setting at `location`; where it is missing, the table that lacks it."""
    table, key, inside = values, location[0], values
    for part in location:
        if isinstance(inside, dict) and part in inside:
            table, key = inside, part
        elif not (isinstance(inside, list) and isinstance(part, int)):
            break
        inside = inside[part]
    table.pop(key, None)


def _known_keys(parents: Location) -> list[str]:
    if not parents:
        return list(Settings.model_fields)
    listed = {"folders": FolderSettings, "hooks": HookSettings}
    section = str(parents[0])
    model = listed.get(section) or Settings.model_fields[section].annotation
    return list(model.model_fields) if isinstance(model, type(BaseModel)) else []


def nearest(word: str, known: Sequence[str], cutoff: float = 0.6) -> str | None:
    """Return the one of the `known` words that `word` resembles most; None where none does."""
    import difflib  # noqa: PLC0415 - only a mistake needs it

    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=cutoff)), None)


def _setting(location: Location) -> str:
    """Write where a setting stands as the file would: `[upload] workers`, `folders[1] path`."""
    head, *rest = location
    if head in ("folders", "hooks") and rest:
        number, *keys_ = rest
        shown = f"[[{head}]] number {number + 1 if isinstance(number, int) else number}"
        return " ".join([shown, *(str(key) for key in keys_ if isinstance(key, str))])
    return " ".join([f"[{head}]" if rest else str(head), *map(str, rest)])
