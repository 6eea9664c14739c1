"""The deployments that `init` prints for the configuration in force."""

import os
import shlex
from pathlib import Path

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


def _manifest(config: Config, what: str) -> str:
    given = os.environ.get(KEY_FILE_VARIABLE)
    if what == "compose":
        key_file = str(Path(given).absolute()) if given else "./aymara-api-key"
        shown = printable(key_file)
        note = f"User {containers.USER} must be allowed to read the folders and {shown}."
        return f"# {note}\n{yaml.dump(containers.compose(config, key_file))}"
    key_file = printable(shlex.quote(given or "aymara-api-key"))
    documents = [yaml.dump(each) for each in containers.kubernetes(config, what)]
    return f"# {containers.secret_command(config, key_file)}\n" + "---\n".join(documents)
