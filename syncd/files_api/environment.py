"""The settings of a client that the environment holds: the variables that syncd reads as well."""

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from syncd import credentials
from syncd.exceptions import ConfigError
from syncd.files_api.base_url import base_url_for

log = logging.getLogger(__name__)

_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _flag(text: str) -> bool:
    try:
        return _FLAGS[text.strip().lower()]
    except KeyError:
        raise ValueError("must be true or false") from None


def _hosts(text: str) -> tuple[str, ...]:
    try:
        return tuple(map(str, json.loads(text)))
    except (ValueError, TypeError):
        raise ValueError("must be a list such as '[\"host.example\"]'") from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise ValueError("must be a number of seconds")
    return seconds


#: How the variables `SYNCD_API__...` are read, by the setting that each stands for.
_READ: Mapping[str, Callable[[str], Any]] = {
    "sandbox": _flag,
    "timeout_seconds": _seconds,
    "connect_seconds": _seconds,
    "proxy": str,
    "ca_file": Path,
    "client_cert": Path,
    "client_key": Path,
    "storage_hosts": _hosts,
    "allow_cleartext": _flag,
}


def from_environment(environ: Mapping[str, str] | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the environment says, and what is `given` over it.

    ConfigError names the variable that cannot be used.
    """
    # Not a default argument: `help` and tracebacks show those, and this one holds the key.
    environ = os.environ if environ is None else environ
    settings: dict[str, Any] = {}
    for name, read in _READ.items():
        variable = f"SYNCD_API__{name.upper()}"
        if name == "sandbox" and not environ.get(variable):
            variable = "AYMARA_AI_USE_SANDBOX"
        if name not in given and (text := environ.get(variable)):
            try:
                settings[name] = read(text)
            except ValueError as error:
                raise ConfigError(f"{variable} {error}") from None
    if "base_url" not in given:
        settings["base_url"] = _base_url(environ)
    if not (given.get("api_key") or given.get("bearer_token")):
        settings |= {"api_key": None, **_secrets(environ)}
    return settings | dict(given)


def _base_url(environ: Mapping[str, str]) -> str:
    if url := environ.get("SYNCD_API__BASE_URL"):
        return url
    if environment := environ.get("SYNCD_API__ENVIRONMENT"):
        return base_url_for(environment)
    return environ.get("AYMARA_AI_BASE_URL") or base_url_for("production")


def _secrets(environ: Mapping[str, str]) -> dict[str, str]:
    warnings: list[str] = []
    found = credentials.load(environ, warnings)
    for warning in warnings:
        log.warning("%s", warning)
    values = {"api_key": found.api_key, "bearer_token": found.bearer_token}
    return {name: value.get_secret_value() for name, value in values.items() if value is not None}
