"""The commands that sync: `run`, the daemon, and `once`, a single pass."""

import logging
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live

from syncd import daemon, log
from syncd.cli.options import Options, common, pass_options
from syncd.cli.progress import tally_line, tally_view
from syncd.config import Config
from syncd.log import printable
from syncd.offers import offered
from syncd.once import Tally, once as make_one_pass
from syncd.places import look

_log = logging.getLogger(__name__)

_directories = click.argument(
    "directories", metavar="[DIR]...", nargs=-1, type=click.Path(path_type=Path)
)


@click.command()
@_directories
@common
@pass_options
def run(options: Options, directories: tuple[Path, ...]) -> int:
    """Watch folders and keep the Files API equal to them, until told to stop.

    Each DIR is a folder to watch, in place of those of the configuration file. With DIRs and a
    key in AYMARA_AI_API_KEY no file is needed.
    """

    def load() -> Config:
        config = _load(options, directories)
        _start_log(config, options)
        return config

    return daemon.run(load(), load)


@click.command()
@_directories
@click.option(
    "--wait-deletions",
    is_flag=True,
    help="Also wait for deletions whose grace is not over; else the next run does them.",
)
@common
@pass_options
def once(options: Options, directories: tuple[Path, ...], *, wait_deletions: bool) -> int:
    """Scan, send, follow processing to its end, and exit; for cron and CI.

    Exits with 0 when all is synced, 1 when something failed or waits, 77 when the key is refused.
    """
    config = _load(options, directories)
    signals = daemon.Signals()
    signals.listen()
    last = Tally(0, 0, 0)

    def remember(tally: Tally) -> None:
        nonlocal last
        last = tally

    if options.verbosity or not sys.stderr.isatty():
        _start_log(config, options)
        code = make_one_pass(
            config,
            stop=signals.stop,
            hurry=signals.hurry,
            wait_deletions=wait_deletions,
            report=remember,
        )
    else:
        console = Console(stderr=True, highlight=False)
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            # Within Live, so that what is logged appears above the progress.
            _start_log(config, options, level="warning")

            def show(tally: Tally) -> None:
                for found in tally.first_found[len(last.first_found) :]:
                    # Above the progress, where it stays.
                    live.console.print(printable(found), markup=False)
                remember(tally)
                live.update(tally_view(tally, console.width))

            code = make_one_pass(
                config,
                stop=signals.stop,
                hurry=signals.hurry,
                wait_deletions=wait_deletions,
                report=show,
            )
    click.echo(tally_line(last))
    if signals.stop.is_set():
        click.echo("interrupted; the next pass goes on from here", err=True)
    elif code == 1:
        click.echo(offered("`syncd status` and `syncd ls` say more"), err=True)
    return code


def _load(options: Options, directories: tuple[Path, ...]) -> Config:
    for directory in directories:
        place = look(directory)
        if place.answers and not place.is_directory:
            problem = "is not a directory" if place.on_disk else "does not exist"
            raise click.UsageError(f"{printable(str(directory))} {problem}")
    return options.load(directories=directories, to_sync=True)


def _start_log(config: Config, options: Options, level: str | None = None) -> None:
    level = "debug" if options.verbosity else level or config.log.level
    log.configure(config.log.format, level)
    if config.file:
        _log.info("the configuration is %s", printable(str(config.file)))
    for warning in config.warnings:
        _log.warning("%s", warning)
    for folder in config.missing_folders():
        problem = "is no directory" if look(folder.path).on_disk else "is not there"
        _log.warning("the folder %s %s", printable(str(folder.path)), problem)
