"""`once`, a single pass."""

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live

from syncd.cli.options import Options, common, pass_options
from syncd.cli.progress import tally_line, tally_view
from syncd.cli.sync import directories_argument, load_config, start_log
from syncd.log import printable
from syncd.offers import offered
from syncd.once import Tally, once as make_one_pass
from syncd.signals import Signals


@click.command()
@directories_argument
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
    config = load_config(options, directories)
    signals = Signals()
    signals.listen()
    last = Tally(0, 0, 0)

    def remember(tally: Tally) -> None:
        nonlocal last
        last = tally

    if options.verbosity or not sys.stderr.isatty():
        start_log(config, options)
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
            start_log(config, options, level="warning")

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
