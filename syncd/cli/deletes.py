"""`syncd deletes`: the review of deletions that are held."""

import sys
import time
from collections.abc import Iterable
from itertools import islice
from typing import Any

import click

from syncd.cli import completion
from syncd.cli.control import perform
from syncd.cli.folders import folder_name
from syncd.cli.lines import confirm, folded, print_json
from syncd.cli.options import Options, common, pass_options
from syncd.cli.render import ago, as_advice
from syncd.config.loading import Config
from syncd.log import printable
from syncd.offers import offered
from syncd.report import folder_paths, replaced
from syncd.state import manifest, overview, views
from syncd.state.database.store import Transaction, lock_holder
from syncd.state.holds import Hold, decisions
from syncd.state.holds.decisions import UNDO_SECONDS
from syncd.units import counted

JsonObject = dict[str, Any]

_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document.")
_what = click.argument("what", metavar="HOLD|FOLDER", shell_complete=completion.holds)


@click.group()
def deletes() -> None:
    """Review deletions that are held: list them, approve or reject them."""


@deletes.command("list", short_help="List what waits for a decision.")
@click.argument("hold", required=False, type=int, shell_complete=completion.numbers)
@click.option("--all", "with_decided", is_flag=True, help="Also what was decided in the last year.")
@_as_json
@common
@pass_options
def list_holds(options: Options, hold: int | None, *, with_decided: bool, as_json: bool) -> int:
    """List the holds to be reviewed; with HOLD (its number), every file that it names.

    Exits with 1 while something waits for a decision.
    """
    config = options.look()

    directory = config.state.directory
    # Read to the end before anything is shown: a pager keeps no transaction open.
    if hold is not None:
        _show_files(views.read(directory, lambda db: [*manifest.held(db, hold)]), as_json=as_json)
        return 0
    found = views.read(
        directory, lambda db: overview.reviews(db, time.time(), with_decided=with_decided)
    )
    if as_json:
        print_json(found, indent=2)
    else:
        _show_holds(found)
    return 1 if any(item["verdict"] is None for item in found) else 0


def _show_files(files: Iterable[JsonObject], *, as_json: bool) -> None:
    for entry in files:
        if as_json:
            print_json(entry)
        else:
            uuid = printable(entry["file_uuid"] or "-")
            click.echo(f"{uuid:<36}  {printable(entry['folder'])}/{printable(entry['path'])}")


def _show_holds(found: list[JsonObject]) -> None:
    if not found:
        click.echo("nothing waits for a decision")
    now = time.time()
    for item in found:
        verdict = f", {item['verdict']}" if item["verdict"] else ""
        click.echo(
            f"{item['id']}  {printable(item['folder'])}  {item['reason']}{verdict}, "
            f"since {ago(item['since'], now)}"
        )
        click.echo(folded(f"   {item['message']}", sys.stdout, indent=3))
        files = counted(item["affects"], "file")
        inside = f", all in {printable(item['parent'])}" if item["parent"] else ""
        click.echo(f"   {files}{inside}")
        for path in islice(item["first"], item["affects"]):
            click.echo(f"     {printable(path)}")
        if more := _more(item["id"], item["affects"], len(item["first"]), named=item["named"]):
            click.echo(f"     {more}")
        for command in item["commands"]:
            click.echo(folded(f"   {as_advice(command)}", sys.stdout, indent=3))


@deletes.command(short_help="Let what a hold names be deleted remotely.")
@_what
@click.option("--yes", "-y", is_flag=True, help="Do not ask; needed where there is no terminal.")
@_as_json
@common
@pass_options
def approve(options: Options, what: str, *, yes: bool, as_json: bool) -> None:
    """Let the files that a hold names be deleted remotely: HOLD is its number.

    Says what will be deleted, and asks. The files it names are deleted ten seconds later, and no
    others; until then `reject` takes all of it back. By FOLDER (name or path) every hold on it is
    approved; a folder whose name is a number is given by its path.

    If another folder or disk stands in a folder's place, an approval makes it the folder, and the
    remote copies of the files that it lacks are deleted after the grace period.
    """
    config = options.look()
    chosen = views.read(config.state.directory, lambda db: _chosen(db, config, what, "approved"))
    for hold, _ in chosen:
        _announce(hold, config)
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nothing was approved: without a terminal to ask on, add --yes")
        confirm("Approve it?", otherwise="nothing was approved")
    _decide(options, "deletes.approve", chosen, as_json=as_json)


@deletes.command(short_help="Keep the remote copies of what a hold names.")
@_what
@_as_json
@common
@pass_options
def reject(options: Options, what: str, *, as_json: bool) -> None:
    """Keep the remote copies of the files that a hold names: HOLD is its number.

    They are no longer mirrored; a file that comes back is taken up again. By FOLDER (name or path)
    every hold on it that can be rejected is; a folder whose name is a number is given by its path.
    """
    config = options.look()
    chosen = views.read(config.state.directory, lambda db: _chosen(db, config, what, "rejected"))
    _decide(options, "deletes.reject", chosen, as_json=as_json)


def _chosen(
    db: Transaction, config: Config, what: str, verdict: decisions.Decided
) -> list[tuple[Hold, int]]:
    """Return the holds that are meant, each with the number of the row that it named last.

    What a hold names after it was shown is not approved with it.
    """
    known = folder_paths.folders(config, db)
    if what.isdecimal():
        for folder in known:
            if folder.name == what:
                path = printable(folder.root)
                note = f"{what} is a hold's number; the folder of that name is given by its path"
                click.echo(f"{note}, {path}", err=True)
        found = [decisions.decidable(db, int(what), verdict)]
    else:
        found = decisions.of_folder(db, folder_name(what, known), verdict)
    return [(hold, decisions.last_named(db, hold.id)) for hold in found]


def _announce(hold: Hold, config: Config) -> None:
    """Say on standard error what an approval does; standard output is for the result."""
    folder = printable(decisions.folder_of(hold))
    does = _does(hold, folder)
    if decisions.is_about_root(hold):
        does = f"the folder that is at the path of {folder} now is taken for the right one; "
        does += replaced.foretold(config, hold)
    click.echo(f"hold {hold.id}: {does}", err=True)
    if not decisions.is_about_root(hold):
        for path in hold.first:
            click.echo(f"  {printable(path)}", err=True)
        if more := _more(hold.id, hold.affects, len(hold.first), named=True):
            click.echo(f"  {more}", err=True)


def _more(hold_id: int, affects: int, shown: int, *, named: bool) -> str:
    """Return where the rest of a hold's files is listed; empty where all are shown."""
    if affects <= shown:
        return ""
    return offered(f"... (syncd deletes list {hold_id} lists all)") if named else "..."


def _does(hold: Hold, folder: str) -> str:
    files = counted(hold.affects, "file")
    match hold.reason:
        case "root_replaced":
            return (
                f"the folder that is at the path of {folder} now is taken for the right one, and "
                f"the remote copies of {files} that it lacks will be deleted:"
            )
        case "remote_gone":
            return f"{files} of {folder}, deleted remotely by others, will be left alone:"
        case "many_changed":
            return f"the new content of {files} of {folder} will supersede the remote copies:"
        case _:
            return f"the remote copies of {files} of {folder} will be deleted:"


def _decide(
    options: Options, command: str, chosen: list[tuple[Hold, int]], *, as_json: bool
) -> None:
    result = perform(options, command, {"holds": [(hold.id, newest) for hold, newest in chosen]})
    if as_json:
        print_json(result, indent=2)
        return
    config = options.look()
    whole = {hold.id for hold, _ in chosen if decisions.is_about_root(hold)}
    for item in result["holds"]:
        click.echo(_said(item, result["verdict"], config if item["id"] in whole else None))
        if item["undo"]:
            click.echo(offered(f"to undo it: {item['undo']}"))
    if lock_holder(config.state.directory) is None:
        said = "no daemon is running: `syncd run` or `syncd once` carries it out"
        click.echo(offered(said), err=True)


def _said(item: JsonObject, verdict: str, config: Config | None) -> str:
    where = f"hold {item['id']} of {printable(item['folder'])} ({item['reason']})"
    number = item["files"]
    files = counted(number, "file")
    approved = verdict == "approved"
    if config is not None:
        fate = replaced.told(config, item["folder"], number)
        return f"{where}: the folder that is there now is taken for the right one; {fate}"
    match item["reason"]:
        case "remote_gone" if approved:
            return f"{where}: {files} left alone until changed"
        case "many_changed" if not approved:
            return f"{where}: {files} left alone until changed"
        case "remote_gone" | "many_changed":
            sent = "sent again" if item["reason"] == "remote_gone" else "sent"
            return f"{where}: {files} {'is' if number == 1 else 'are'} {sent}"
        case _ if approved:
            are = "is" if number == 1 else "are"
            return (
                f"{where}: {files} {are} deleted remotely in {UNDO_SECONDS:.0f} seconds, after a "
                "last look at each"
            )
        case _:
            return f"{where}: what is remote of {files} is kept"
