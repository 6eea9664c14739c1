"""The common part of `run` and `once`: the folders given, the configuration, and the log."""

import logging
from pathlib import Path

import click

from syncd import log
from syncd.cli.options import Options
from syncd.config.loading import Config
from syncd.log import printable
from syncd.places import look

_log = logging.getLogger(__name__)

directories_argument = click.argument(
    "directories", metavar="[DIR]...", nargs=-1, type=click.Path(path_type=Path)
)


def load_config(options: Options, directories: tuple[Path, ...]) -> Config:
    for directory in directories:
        place = look(directory)
        if place.answers and not place.is_directory:
            problem = "is not a directory" if place.on_disk else "does not exist"
            raise click.UsageError(f"{printable(str(directory))} {problem}")
    return options.load(directories=directories, to_sync=True)


def start_log(config: Config, options: Options, level: str | None = None) -> None:
    level = "debug" if options.verbosity else level or config.log.level
    log.configure(config.log.format, level)
    if config.file:
        _log.info("the configuration is %s", printable(str(config.file)))
    for warning in config.warnings:
        _log.warning("%s", warning)
    for folder in config.missing_folders():
        problem = "is no directory" if look(folder.path).on_disk else "is not there"
        _log.warning("the folder %s %s", printable(str(folder.path)), problem)
