"""`once`, a single pass; and what one would do."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from syncd.cli.lines import can_redraw, folded, print_json
from syncd.cli.options import Options, common, pass_options
from syncd.cli.sync import directories_argument, load_config, start_log
from syncd.config.loading import Config
from syncd.log import is_journal, printable
from syncd.offers import offered
from syncd.once import Passed, PassProgress, once as make_one_pass
from syncd.signals import Signals
from syncd.state.holds import EVERYWHERE
from syncd.state.past import Did
from syncd.units import counted, size

JsonObject = dict[str, Any]
#: Failed files and holds that a summary names; `--json` has more.
NAMED = 5


@click.command()
@directories_argument
@click.option(
    "--wait-deletions",
    is_flag=True,
    help="Also wait for deletions whose grace is not over; else the next run does them.",
)
@click.option(
    "--dry-run",
    "-n",
    is_flag=True,
    help="Only say what would be sent, replaced, deleted and held; needs no key and no network.",
)
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")
@common
@pass_options
def once(
    options: Options,
    directories: tuple[Path, ...],
    *,
    wait_deletions: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Scan, send, follow processing to its end, and exit; for cron and CI.

    Ends with a summary; where its output is no terminal, only if something was done or is not well.

    --dry-run scans the folders, on a copy of the state, by the rules of a real pass; a daemon may
    run meanwhile. It reads no file: one that was only touched counts as changed.

    Exits with 0 when all is synced, 1 when something failed, waits or is held, 77 when the key is
    refused.
    """
    if dry_run:
        if wait_deletions:
            raise click.UsageError("use only one of --dry-run and --wait-deletions")
        # Only here: a real pass starts without it.
        from syncd.cli.dry_run import show_dry_run  # noqa: PLC0415

        return show_dry_run(options, directories, as_json=as_json)
    config = load_config(options, directories)
    if directories and not options.look().folders:
        # The next command is told no folder, unless what is offered names them.
        options.offer_known_folders(config.state.directory, (f.place for f in config.folders))
    signals = Signals()
    signals.listen()
    with _progress(config, options) as show:
        passed = _pass(config, signals, show, wait_deletions=wait_deletions)
    _print_result(passed, options, as_json=as_json)
    if signals.stop.is_set():
        click.echo("interrupted; the next pass goes on from here", err=True)
    elif passed.code == 1:
        click.echo(offered("`syncd status` and `syncd ls` say more"), err=True)
    return passed.code


def _pass(
    config: Config,
    signals: Signals,
    show: Callable[[PassProgress], None],
    *,
    wait_deletions: bool,
) -> Passed:
    """Make one pass, `show` how it goes on, and return how it ended."""
    last = PassProgress(0, 0, 0)
    passed: Passed | None = None

    def report(tally: PassProgress) -> None:
        nonlocal last
        last = tally
        show(tally)

    def tell(told: Passed) -> None:
        nonlocal passed
        passed = told

    code = make_one_pass(
        config,
        stop=signals.stop,
        hurry=signals.hurry,
        wait_deletions=wait_deletions,
        report=report,
        tell=tell,
    )
    return passed or Passed(code, "the state cannot be relied on", last, Did(0, 0, 0, 0), [], [])


def _print_result(passed: Passed, options: Options, *, as_json: bool) -> None:
    if as_json:
        print_json(_document(passed), indent=2)
    elif passed.code or any(passed.did) or options.verbosity or sys.stdout.isatty():
        for line in _summary(passed):
            click.echo(folded(line, sys.stdout))


def _document(passed: Passed) -> JsonObject:
    tally = passed.progress
    return {
        "exit_code": passed.code,
        "reason": passed.reason or None,
        **passed.did._asdict(),
        **{name: getattr(tally, name) for name in ("synced", "waiting", "failed", "held")},
        "failures": passed.failures,
        "holds": passed.holds,
    }


def _summary(passed: Passed) -> Iterator[str]:
    yield str(passed.progress)
    if done := _done(passed.did):
        yield done
    for failure in passed.failures[:NAMED]:
        where = f"{printable(failure['folder'])}/{printable(failure['path'])}"
        yield f"failed: {where}: {printable(failure['error'])}"
    if (more := passed.progress.failed - NAMED) > 0:
        yield f"and {more:,} more (syncd ls --status failed)"
    yield from map(_held, passed.holds[:NAMED])


def _held(hold: JsonObject) -> str:
    # Only here: where nothing is held, a pass starts without it.
    from syncd.report.status import stopped  # noqa: PLC0415

    files = f", {counted(hold['affects'], 'file')}" if hold["affects"] else ""
    what = stopped(hold)
    if hold["scope"] == EVERYWHERE and hold["stops"] != "folder":
        what += " of everything"
    return f"held: {printable(what)}{files}: {printable(hold['reason'])}"


def _done(did: Did) -> str:
    """Return what was done, in words; empty where nothing was."""
    parts = [f"sent {counted(did.sent, 'file')} ({size(did.sent_bytes)})"] if did.sent else []
    parts += [f"{did.replaced:,} of them with new content"] if did.replaced else []
    parts += [f"deleted {counted(did.deleted, 'file')}"] if did.deleted else []
    return ", ".join(parts)


@contextmanager
def _progress(config: Config, options: Options) -> Iterator[Callable[[PassProgress], None]]:
    """Start the log; yield what shows the progress, if there is a terminal for it."""
    if options.verbosity or not can_redraw(sys.stderr):
        # Cron mails what is written: only the journal, or somebody who asked, wants every line.
        wants_all = ("log", "level") in config.sources or config.log.format in ("journal", "json")
        wants_all |= is_journal(sys.stderr, os.environ)
        start_log(config, options, level=None if wants_all else "warning")
        yield lambda _: None
        return
    # Only here: under cron nobody waits for these imports.
    from syncd.cli import progress  # noqa: PLC0415

    with progress.bottom_line() as line:
        # Within it, so that what is logged appears above the progress.
        start_log(config, options, level="warning")
        yield progress.of_a_pass(line, config.state.directory)
