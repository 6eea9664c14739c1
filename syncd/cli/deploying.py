"""The deployments that `init` prints for the configuration in force."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from syncd.cli.lines import complain
from syncd.cli.options import Options
from syncd.config.credentials import KEY_FILE_VARIABLE
from syncd.config.settings import Config
from syncd.deploy import containers, environment, shipped, systemd, yaml
from syncd.exceptions import ConfigError
from syncd.log import printable

#: The files that are printed as they are shipped.
_SHIPPED = {"prometheus-rules": "syncd.rules.yml", "grafana": "grafana.json"}


def text(options: Options, what: str, *, user: bool) -> str:
    """Return what is to be printed; raise ConfigError when nothing is configured to serve."""
    if what in _SHIPPED:
        return shipped.read(_SHIPPED[what])
    config = options.load(to_sync=False)
    if not config.folders:
        raise ConfigError(
            "no folder is configured: run `syncd init`, set `path` in syncd.toml, and try again"
        )
    # A unit reads the configuration file, and needs no secret from elsewhere.
    withheld = [
        name
        for name in environment.withheld(config)
        if what != "systemd" or not config.file or os.environ.get(name)
    ]
    for name in withheld:
        complain(f"{name} is left out, since it may hold a secret; set it where syncd will run")
    if what == "systemd":
        unit = systemd.user_unit if user else systemd.system_unit
        return unit(config, os.environ)
    return _manifest(config, what)


def _notes(config: Config, key_file: str, project: dict[str, Any]) -> Iterator[str]:
    """Yield the comments above a project of Compose."""
    user = project["services"]["syncd"].get("user", str(containers.USER)).partition(":")[0]
    yield f"# User {user} must be allowed to read the folders and {printable(key_file)}.\n"
    if user != str(containers.USER):
        image = containers.USER
        yield (
            "# Rootless podman: leave out `user`, `depends_on` and the service `state`, and add\n"
            f'# userns_mode: "keep-id:uid={image},gid={image}"\n'
        )
    if config.server.listen and config.server.token_file is None:
        token = containers.COMPOSE_TOKEN
        yield f"# openssl rand -hex 16 > {token}   # {user} must be allowed to read it, too\n"


def _manifest(config: Config, what: str) -> str:
    given = os.environ.get(KEY_FILE_VARIABLE)
    if what == "compose":
        key_file = str(Path(given).absolute()) if given else "./aymara-api-key"
        project = containers.compose(config, key_file)
        return "".join([*_notes(config, key_file, project), yaml.dump(project)])
    key_file = printable(shlex.quote(given or "aymara-api-key"))
    documents = [yaml.dump(each) for each in containers.kubernetes(config, what)]
    return f"# {containers.secret_command(config, key_file)}\n" + "---\n".join(documents)
