"""A configuration as environment variables, for where its file is not at hand."""

import json
from typing import Any

from pydantic import BaseModel

from syncd.config.locations import BASE_URLS, FOLDERS_VARIABLE
from syncd.config.settings import Config, FolderSettings
from syncd.config.variables import HOOKS_VARIABLE

#: Limits that None turns off.
_LIMITS = ("hold_files", "hold_percent", "hold_max")


def variables(config: Config) -> dict[str, str]:
    """Return the `SYNCD_` variables that say what `config` says, but for folders and state.

    Values that may be secret are left out; `withheld` names them.
    """
    said: dict[str, str] = {}
    for section in type(config).model_fields:
        settings = getattr(config, section)
        if isinstance(settings, BaseModel) and section not in ("credentials", "state"):
            for key, value in _said(settings).items():
                said[f"SYNCD_{section}__{key}".upper()] = _text(value)
    if said.get("SYNCD_API__BASE_URL") == BASE_URLS[config.api.environment]:
        del said["SYNCD_API__BASE_URL"]
    if config.state.on_new != "hold":
        said["SYNCD_STATE__ON_NEW"] = config.state.on_new
    return {name: value for name, value in said.items() if name not in withheld(config)}


def withheld(config: Config) -> list[str]:
    """Return the variables whose values may be secret: they must not be printed."""
    secret = {
        "SYNCD_API__PROXY": "@" in (config.api.proxy or ""),
        "SYNCD_ALERTS__WEBHOOK": config.alerts.webhook is not None,
        "SYNCD_ALERTS__PING_URL": config.alerts.ping_url is not None,
        "SYNCD_ALERTS__COMMAND": bool(config.alerts.command),
        HOOKS_VARIABLE: bool(config.hooks),
    }
    return [name for name, is_secret in secret.items() if is_secret]


def setting(variable: str) -> str:
    """Return a variable's setting as a message names it: `[alerts] webhook`."""
    section, _, key = variable.removeprefix("SYNCD_").lower().partition("__")
    return f"[{section}] {key}" if key else f"[[{section}]]"


def folders(config: Config, *, any_root: bool = False) -> dict[str, str]:
    """Return the variable that names the folders; `any_root` takes what is at each path."""
    listed = [_folder(config, folder) for folder in config.folders]
    if any_root:
        listed = [folder | {"root": "any"} for folder in listed]
    # An image of an earlier syncd names a folder in that variable.
    return {"SYNCD_WATCH": "", FOLDERS_VARIABLE: json.dumps(listed, ensure_ascii=False)}


def _folder(config: Config, folder: FolderSettings) -> dict[str, Any]:
    said = _said(folder)
    for name in ("grace_seconds", *_LIMITS):
        said.pop(name, None)
        value = getattr(folder, name)
        if value != getattr(config.deletions, name):
            said[name] = "off" if value is None else value
    return said


def _said(settings: BaseModel) -> dict[str, Any]:
    """Return what differs from the defaults, as JSON has it."""
    said = settings.model_dump(mode="json", exclude_defaults=True)
    return {key: "off" if value is None else value for key, value in said.items()}


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
