"""`syncd config`: whether the configuration is right, and what is in force and why."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import click

from syncd.cli.lines import complain, folded, print_json
from syncd.cli.options import Options, common, pass_options
from syncd.cli.sync import directories_argument
from syncd.config import credentials
from syncd.config.folder_settings import short_drains
from syncd.config.loading import Config
from syncd.config.shown import Shown, shown
from syncd.exceptions import ConfigError, StateError
from syncd.log import printable
from syncd.state import views
from syncd.state.binding import Service, other_than
from syncd.state.database.lock import lock_holder
from syncd.units import counted

JsonObject = dict[str, Any]
_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document.")


@click.group()
def config() -> None:
    """Check the configuration, or show which settings are in force."""


@config.command(short_help="Say whether the configuration is right, and what is wrong with it.")
@directories_argument
@_as_json
@common
@pass_options
def check(options: Options, directories: tuple[Path, ...], *, as_json: bool) -> int:
    """Say whether `run` and `once` can use the configuration, and tell every problem.

    It reads what they read, and changes nothing. A daemon that runs has its key: this command
    needs none then. Exits with 78 where something is wrong; warnings are no errors.
    """
    problems: list[str] = []
    known: Config | None = None
    try:
        known = options.load(directories=directories, to_sync=True, problems=problems)
    except ConfigError as error:
        problems += error.problems
    warnings: list[str] = []
    if known is not None:
        warnings += [*known.warnings, *short_drains(known), *_missing_folders(known)]
        problems = [*_without_needless_key(problems, known), *_other_service(known)]
    if as_json:
        file = str(known.file) if known is not None and known.file else None
        found = {"valid": not problems, "file": file, "problems": problems, "warnings": warnings}
        print_json(found, indent=2)
    else:
        _tell(known, problems, warnings)
    return ConfigError.exit_code if problems else 0


def _tell(known: Config | None, problems: list[str], warnings: list[str]) -> None:
    for warning in warnings:
        complain(f"warning: {warning}")
    for problem in problems:
        complain(problem)
    if known is not None and not problems:
        folders = counted(len(known.folders), "folder")
        where = printable(str(known.file or "defaults and variables"))
        line = f"the configuration is right: {where}, {folders}, state in {known.state.directory}"
        click.echo(folded(line, sys.stdout))


def _without_needless_key(problems: list[str], known: Config) -> list[str]:
    """Return the problems without that of the key, where a daemon runs that was given one."""
    with suppress(StateError):
        if lock_holder(known.state.directory) is not None:
            return [problem for problem in problems if not problem.startswith("no API key")]
    return problems


def _other_service(known: Config) -> Iterator[str]:
    with suppress(StateError):
        service = Service(known.api.base_url, bool(known.api.sandbox))
        theirs = views.read(known.state.directory, partial(other_than, service=service))
        if theirs is not None and "api" not in known.unusable:
            yield (
                f"the state in {known.state.directory} belongs to {theirs}, and not to "
                f"{service}: set it back, or give the other service its own [state] directory"
            )


def _missing_folders(known: Config) -> Iterator[str]:
    for folder in known.missing_folders():
        yield f"the folder {folder.path} is not there, or is no directory"


@config.command(short_help="Show each setting in force, and where it comes from.")
@directories_argument
@_as_json
@common
@pass_options
def show(options: Options, directories: tuple[Path, ...], *, as_json: bool) -> int:
    """Show each setting in force as the file would hold it, and where it comes from.

    That is its default, the file, a variable or the command line. Secrets are dots.
    """
    problems: list[str] = []
    known = options.load(directories=directories, to_sync=False, problems=problems)
    key = credentials.Credentials()
    with suppress(ConfigError):
        key = credentials.load(os.environ, [])
    settings = list(shown(known, key))
    for problem in problems:
        complain(problem)
    if as_json:
        print_json([setting.document() for setting in settings], indent=2)
    else:
        _show(settings)
    return ConfigError.exit_code if problems else 0


def _show(settings: list[Shown]) -> None:
    width = min(max(len(setting.line()) for setting in settings), 48)
    table = ""
    for setting in settings:
        if setting.table != table:
            click.echo(("\n" if table else "") + printable(setting.heading()))
            table = setting.table
        click.echo(f"{printable(setting.line()):<{width}}  # {printable(setting.source)}")
