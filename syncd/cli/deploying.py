"""The deployments that `init` prints for the configuration in force."""

import os
import shlex
from pathlib import Path

import click

from syncd.cli.lines import complain
from syncd.cli.options import Options
from syncd.config.credentials import KEY_FILE_VARIABLE
from syncd.config.locations import default_state_directory
from syncd.config.settings import Config
from syncd.deploy import containers, environment, notes, shipped, systemd, yaml
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
        complain(
            f"{environment.setting(name)} is left out, since it may hold a secret; set {name} "
            "where syncd will run"
        )
    if what == "systemd":
        for warning in systemd.warnings(config, os.environ, user=user):
            complain(f"warning: {warning}")
        unit = systemd.user_unit if user else systemd.system_unit
        return unit(config, os.environ)
    if config.state.directory != default_state_directory(os.environ):
        complain(
            f"[state] directory = {printable(str(config.state.directory))} is not used: the state "
            f"lies in {containers.place_of_state(what)}"
        )
    return _manifest(config, what)


def drop_in(name: str, *, user: bool) -> str:
    """Return a shipped drop-in, below the commands that install it."""
    if user and name not in systemd.USER_DROP_INS:
        raise click.UsageError(f"--drop-in {name}: a service of yours reads what you may read")
    return systemd.drop_in(name, user=user)


def _manifest(config: Config, what: str) -> str:
    given = os.environ.get(KEY_FILE_VARIABLE)
    if what == "compose":
        key_file = str(Path(given).absolute()) if given else "./aymara-api-key"
        project = containers.compose(config, key_file)
        head = [*notes.compose(config, key_file, project)]
        documents = [project]
    else:
        documents = containers.kubernetes(config, what)
        command = containers.secret_command(config, shlex.quote(given or "aymara-api-key"))
        head = [command, *notes.kubernetes(config, what)]
    text = notes.with_images("---\n".join(yaml.dump(each) for each in documents))
    return "".join(f"# {printable(line)}\n" for line in head) + text
