"""The settings in force, each with its value, without secrets, and where it comes from."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr

from syncd.config.credentials import Credentials
from syncd.config.problems import Location
from syncd.config.settings import Config, Settings
from syncd.config.targets import AlertSettings, HookSettings

#: Stands for a secret, whatever its length.
DOTS = "••••••••"
DEFAULT = "default"
#: Settings whose None has a word of its own in the file.
_NONE = {"workers": "auto"} | dict.fromkeys(("hold_files", "hold_percent", "hold_max"), "off")
#: The settings that a folder takes from another table unless it has its own.
_INHERITED = {"workspace_uuid": "api"} | dict.fromkeys(
    ("grace_seconds", "hold_files", "hold_percent", "hold_max"), "deletions"
)


@dataclass(frozen=True, slots=True)
class Shown:
    """One setting: its table, `upload` or `folders[0]`, its key, its value, and its source."""

    table: str
    key: str
    value: Any
    source: str

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"setting": f"{self.table}.{self.key}", "value": self.value, "source": self.source}

    def heading(self) -> str:
        """Return the line that begins its table in a file."""
        name, listed, _ = self.table.partition("[")
        return f"[[{name}]]" if listed else f"[{name}]"

    def line(self) -> str:
        """Return the line that sets it in a file; a comment where it is not set."""
        if self.value is None:
            return f"# {self.key} is not set"
        return f"{self.key} = {json.dumps(self.value, ensure_ascii=False)}"


def shown(config: Config, credentials: Credentials) -> Iterator[Shown]:
    """Yield every setting; and first the key, which no file holds."""
    for key in ("api_key", "bearer_token"):
        secret = getattr(credentials, key)
        source = credentials.source if secret else DEFAULT
        yield Shown("credentials", key, DOTS if secret else None, source)
    for section in Settings.model_fields:
        value = getattr(config, section)
        if isinstance(value, BaseModel):
            yield from _table(section, (section,), value, config.sources)
        else:
            for number, table in enumerate(value):
                yield from _table(f"{section}[{number}]", (section, number), table, config.sources)


def _table(
    name: str, location: Location, table: BaseModel, sources: Mapping[Location, str]
) -> Iterator[Shown]:
    for key in type(table).model_fields:
        source = sources.get((*location, key))
        if source is None and location[0] == "folders" and key in _INHERITED:
            source = sources.get((_INHERITED[key], key))
        yield Shown(name, key, _plain(table, key), source or DEFAULT)


def _plain(table: BaseModel, key: str) -> Any:
    """Return a value as JSON has it, and as a file would hold it."""
    value = getattr(table, key)
    if value is None:
        return _NONE.get(key)
    if isinstance(value, SecretStr):
        return DOTS
    if isinstance(table, AlertSettings | HookSettings) and key == "command":
        # The arguments may hold a token.
        return [*value[:1], *(DOTS for _ in value[1:])]
    if key == "proxy" and (password := urlsplit(value).password):
        return value.replace(f":{password}@", f":{DOTS}@")
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
