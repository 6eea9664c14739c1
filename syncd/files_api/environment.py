"""The settings of a client that the environment holds, by the variables that syncd reads."""

import json
import logging
import os
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from syncd.config import credentials
from syncd.config.settings import Api
from syncd.exceptions import ConfigError
from syncd.files_api.base_url import base_url_for

log = logging.getLogger(__name__)

#: The settings for which variables of the official client stand; those of syncd win.
_OFFICIAL = {"base_url": "AYMARA_AI_BASE_URL", "sandbox": "AYMARA_AI_USE_SANDBOX"}


def from_environment(environ: Mapping[str, str] | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the environment says, and what is `given` over it.

    ConfigError names the variable that cannot be used.
    """
    # Not a default argument: `help` and tracebacks show those, and this one holds the key.
    environ = os.environ if environ is None else environ
    variables = {name: f"SYNCD_API__{name.upper()}" for name in Api.model_fields}
    names_service = any(environ.get(variables[name]) for name in ("base_url", "environment"))
    for name, variable in _OFFICIAL.items():
        if not (names_service if name == "base_url" else environ.get(variables[name])):
            variables[name] = variable
    said = {name: environ.get(variable) for name, variable in variables.items()}
    api = _checked({name: text for name, text in said.items() if text}, variables)
    # A client is told each time for which workspace.
    settings = {name: getattr(api, name) for name in api.model_fields_set - {"workspace_uuid"}}
    settings["base_url"] = api.base_url or base_url_for(settings.pop("environment", "production"))
    if not (given.get("api_key") or given.get("bearer_token")):
        settings |= {"api_key": None, **_secrets(environ)}
    return {name: value for name, value in settings.items() if name != "environment"} | dict(given)


def _checked(said: Mapping[str, Any], variables: Mapping[str, str]) -> Api:
    try:
        hosts = {name: json.loads(said[name]) for name in ("storage_hosts",) if name in said}
        return Api.model_validate({**said, **hosts})
    except json.JSONDecodeError:
        raise ConfigError(f"{variables['storage_hosts']}: is not a list in JSON") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        text = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{variables[str(first['loc'][0])]}: {text}") from None


def _secrets(environ: Mapping[str, str]) -> dict[str, str]:
    warnings: list[str] = []
    found = credentials.load(environ, warnings)
    for warning in warnings:
        log.warning("%s", warning)
    values = {"api_key": found.api_key, "bearer_token": found.bearer_token}
    return {name: value.get_secret_value() for name, value in values.items() if value is not None}
