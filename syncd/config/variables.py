"""The settings that stand in `SYNCD_` variables."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_settings import EnvSettingsSource, SettingsError

from syncd.config.locations import FOLDERS_VARIABLE
from syncd.config.settings import Settings
from syncd.exceptions import ConfigError

HOOKS_VARIABLE = "SYNCD_HOOKS"
#: Set in the environment of a hook's command; they mean nothing to a syncd that it starts.
EVENT_VARIABLES = tuple(f"SYNCD_HOOK_{name}" for name in ("EVENT", "FOLDER", "PATH", "FILE_UUID"))
FOLDERS_FORM = 'write it as \'[{"path": "/data"}]\''
_HOSTS_FORM = "write it as '[\"host.example\"]'"
#: The variables that hold a list, and how to write each one.
_LISTS = {
    FOLDERS_VARIABLE: FOLDERS_FORM,
    "SYNCD_API__STORAGE_HOSTS": _HOSTS_FORM,
    "SYNCD_SERVER__ALLOWED_HOSTS": _HOSTS_FORM,
    "SYNCD_ALERTS__COMMAND": "write it as '[\"/usr/local/bin/tell\"]'",
    HOOKS_VARIABLE: 'write it as \'[{"on": "synced", "command": ["/usr/local/bin/tell"]}]\'',
}


def variables() -> dict[str, tuple[str, ...]]:
    """Return every `SYNCD_` variable with the setting for which it stands."""
    sections = ((section, field.annotation) for section, field in Settings.model_fields.items())
    found = {
        f"SYNCD_{section}__{key}".upper(): (section, key)
        for section, model in sections
        if isinstance(model, type) and issubclass(model, BaseModel)
        for key in model.model_fields
    }
    return {**found, FOLDERS_VARIABLE: ("folders",), HOOKS_VARIABLE: ("hooks",)}


class _Environment(EnvSettingsSource):
    """Reads `SYNCD_` variables from a mapping that is handed in, known ones alone."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = {name.lower(): value for name, value in variables.items()}
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name: value for name, value in self._variables.items() if value}


def overrides(environ: Mapping[str, str], known: Collection[str]) -> dict[str, Any]:
    """Return what the `known` variables say, as the file would; an empty one says nothing."""
    given = {name: value for name, value in environ.items() if name in known}
    try:
        return _Environment(given)()
    except SettingsError:
        # The cause holds the value, which may be a secret.
        raise ConfigError(_not_json(given)) from None


def _not_json(given: Mapping[str, str]) -> str:
    """Say which variable is not the JSON that it should be, and how to write it."""
    for name, form in _LISTS.items():
        try:
            json.loads(given.get(name) or "[]")
        except ValueError:
            return f"{name} is not valid JSON; {form}"
    return f"{', '.join(_LISTS)}: one of them is not valid JSON"
