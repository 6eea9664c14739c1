"""`syncd deletes`: the review of deletions that are held."""

import sys
import time
from collections.abc import Iterable
from itertools import islice
from typing import Any

import click

from syncd import story
from syncd.cli.control import perform
from syncd.cli.inspect import folder_name
from syncd.cli.lines import folded, print_json
from syncd.cli.options import Options, common, pass_options
from syncd.cli.render import ago, as_advice
from syncd.config import Config
from syncd.log import printable
from syncd.state import manifest, overview, views
from syncd.state.store import lock_holder
from syncd.units import counted

JsonObject = dict[str, Any]

_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document.")
_what = click.argument("what", metavar="HOLD|FOLDER")


@click.group()
def deletes() -> None:
    """Review deletions that are held: list them, approve or reject them."""


@deletes.command("list", short_help="List what waits for a decision.")
@click.argument("hold", required=False, type=int)
@click.option("--all", "with_decided", is_flag=True, help="Also what was decided in the last year.")
@_as_json
@common
@pass_options
def list_holds(options: Options, hold: int | None, *, with_decided: bool, as_json: bool) -> int:
    """List the holds to be reviewed; with HOLD (its number), every file that it names.

    Exits with 1 while something waits for a decision.
    """
    config = options.load(to_sync=False)

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
        if item["affects"] > len(item["first"]):
            click.echo(f"     ... (syncd deletes list {item['id']} lists all)")
        for command in item["commands"]:
            click.echo(folded(f"   {as_advice(command)}", sys.stdout, indent=3))


@deletes.command(short_help="Let what a hold names be deleted remotely.")
@_what
@_as_json
@common
@pass_options
def approve(options: Options, what: str, *, as_json: bool) -> None:
    """Let the files that a hold names be deleted remotely: HOLD is its number.

    Just what is missing now is deleted; what goes missing later is judged anew. By FOLDER (name or
    path) every hold on it is approved.
    """
    _decide(options, "deletes.approve", what, as_json=as_json)


@deletes.command(short_help="Keep the remote copies of what a hold names.")
@_what
@_as_json
@common
@pass_options
def reject(options: Options, what: str, *, as_json: bool) -> None:
    """Keep the remote copies of the files that a hold names: HOLD is its number.

    They are no longer mirrored; a file that comes back is taken up again. By FOLDER (name or path)
    every hold on it is rejected.
    """
    _decide(options, "deletes.reject", what, as_json=as_json)


def _decide(options: Options, command: str, what: str, *, as_json: bool) -> None:
    config = options.load(to_sync=False)
    result = perform(options, command, _arguments(config, what))
    if as_json:
        print_json(result, indent=2)
        return
    for item in result["holds"]:
        click.echo(_said(item, result["verdict"]))
        if item["undo"]:
            click.echo(f"to undo it: {item['undo']}")
    if lock_holder(config.state.directory) is None:
        click.echo("no daemon is running: `syncd run` or `syncd once` carries it out", err=True)


def _arguments(config: Config, what: str) -> JsonObject:
    if what.isdigit():
        return {"hold": int(what)}
    known = views.read(config.state.directory, lambda db: story.folders(config, db))
    return {"folder": folder_name(what, known)}


def _said(item: JsonObject, verdict: str) -> str:
    where = f"hold {item['id']} of {printable(item['folder'])} ({item['reason']})"
    number = item["files"]
    files = counted(number, "file")
    approved = verdict == "approved"
    match item["reason"]:
        case "root_replaced":
            return (
                f"{where}: the folder that is there now is taken for the right one; what is "
                "missing in it shows with the next scan, and is held again if it is much"
            )
        case "remote_gone" if approved:
            return f"{where}: {files} left alone until changed"
        case "remote_gone":
            return f"{where}: {files} {'is' if number == 1 else 'are'} sent again"
        case _ if approved:
            are = "is" if number == 1 else "are"
            return f"{where}: {files} {are} deleted remotely now, after a last look at each"
        case _:
            return f"{where}: what is remote of {files} is kept"
