"""`run`, the daemon in the foreground."""

import sys
from pathlib import Path

import click

from syncd import daemon
from syncd.cli.lines import can_redraw
from syncd.cli.options import Options, common, pass_options
from syncd.cli.sync import directories_argument, load_config, start_log
from syncd.config.loading import Config


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

    if not can_redraw(sys.stderr):
        return daemon.run(load(), load)
    from syncd.cli import progress  # noqa: PLC0415 - a service has no terminal

    with progress.bottom_line() as line:
        config = load()
        with progress.followed(line, config.state.directory):
            return daemon.run(config, load)
