"""Decides what a reload can take up, and when another key makes one worth a try."""

import time
from collections.abc import Callable
from typing import Any

from syncd.config.loading import Config
from syncd.config.settings import Settings
from syncd.exceptions import ConfigError

#: Seconds between two looks at the key file while the key is refused.
KEY_SECONDS = 10.0


class KeyLookout:
    """Looks every few seconds whether the key file holds another key than the refused one."""

    def __init__(self, load: Callable[[], Config]) -> None:
        self._load = load
        self._looked_at = time.monotonic()

    def has_another(self, config: Config) -> bool:
        """Return whether the credentials differ from those of `config`; False between two looks."""
        now = time.monotonic()
        if now - self._looked_at < KEY_SECONDS:
            return False
        self._looked_at = now
        try:
            return self._load().credentials != config.credentials
        except Exception:
            return False


def refuse_move(old: Config, new: Config) -> None:
    """Raise ConfigError when `new` wants what only another start can do."""
    for setting, before, after in (
        ("[state] directory", old.state.directory, new.state.directory),
        ("[api] base_url", old.api.base_url, new.api.base_url),
        ("[api] sandbox", bool(old.api.sandbox), bool(new.api.sandbox)),
    ):
        if before != after:
            raise ConfigError(
                f"{setting} is now {after}, and was {before}: restart syncd to have it move"
            )


def has_other_listener(old: Config, new: Config) -> bool:
    """Return whether the HTTP listener must be started anew."""
    return (old.server, old.server_token) != (new.server, new.server_token)


def needs_rebuild(old: Config, new: Config) -> bool:
    """Return whether any setting changed from which the components are built."""
    return _without_surface(old) != _without_surface(new)


def _without_surface(config: Config) -> Config:
    blank = Settings.model_fields
    surface = {name: blank[name].default for name in ("server", "log")}
    said: dict[str, Any] = {"sources": {}, "warnings": ()}
    return config.model_copy(update={**surface, **said, "server_token": None})
