"""`run`, the daemon in the foreground."""

from pathlib import Path

import click

from syncd import daemon
from syncd.cli.options import Options, common, pass_options
from syncd.cli.sync import directories_argument, load_config, start_log
from syncd.config import Config


@click.command()
@directories_argument
@common
@pass_options
def run(options: Options, directories: tuple[Path, ...]) -> int:
    """Watch folders and keep the Files API equal to them, until told to stop.

    Each DIR is a folder to watch, in place of those of the configuration file. With DIRs and a
    key in AYMARA_AI_API_KEY no file is needed.
    """

    def load() -> Config:
        config = load_config(options, directories)
        start_log(config, options)
        return config

    return daemon.run(load(), load)
