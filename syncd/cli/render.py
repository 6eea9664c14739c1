"""How documents look on a terminal: plain words, few colours, good at 80 columns."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from syncd.cli.wrapping import Heading, Unbroken, kept
from syncd.log import printable
from syncd.offers import offered
from syncd.report.rates import sending_text
from syncd.report.status import stopped
from syncd.state.confirming import UNTOLD
from syncd.state.manifest import Word
from syncd.state.texts import seconds
from syncd.units import clock, counted, rate, size, span

JsonObject = dict[str, Any]
STYLES = {
    Word.SYNCED: "green",
    Word.FAILED: "bold red",
    Word.HELD: "yellow",
    Word.UPLOADING: "cyan",
    Word.PROCESSING: "cyan",
    Word.DELETING: "yellow",
}
#: Folders that are all shown; of more, no more than so many of those in which all is well.
_FOLDERS, _SHOWN_WELL = 10, 3
#: Transfers shown at once.
_TRANSFERS = 10


def ago(when: str | None, now: float) -> str:
    """Return how long ago an RFC 3339 time was, or how long until then."""
    if when is None:
        return "never"
    seconds = now - datetime.fromisoformat(when).timestamp()
    return f"in {span(-seconds)}" if seconds < -1 else f"{span(seconds)} ago"


def _ago(when: str | None, now: float) -> str:
    return kept(ago(when, now))


def show(console: Console, view: RenderableType) -> None:
    """Print `view` without the blanks by which rich fills its lines."""
    with console.capture() as captured:
        # The terminal breaks lines that are too long for it.
        console.print(view, crop=False)
    for line in captured.get().splitlines():
        click.echo(line.rstrip(), color=True)


def status_view(document: JsonObject, now: float) -> RenderableType:
    """Return what `status` shows."""
    parts: list[RenderableType] = [_head(document, now)]
    folders, folded = _folders(document)
    for folder in folders:
        parts += ["", *_card(folder, now)]
    if folded:
        parts += ["", Text(f"{counted(folded, 'more folder')}: all is well")]
    if document["transfers"]:
        parts += [
            "",
            Text("Reading and sending now", "bold"),
            _transfers(document["transfers"], now),
        ]
    if document["holds"]:
        parts += ["", Text("Held", "bold yellow")]
        parts += [part for hold in document["holds"] for part in _hold(hold, now)]
    if document["failures"]:
        parts += ["", Text("Last failures", "bold red"), *_failures(document["failures"])]
    return Unbroken(Group(*parts))


def _head(document: JsonObject, now: float) -> RenderableType:
    daemon, api = document["daemon"], document["api"]
    parts: list[RenderableType] = [_verdict(document)]
    parts += _reasons(_brief(reason, document["holds"]) for reason in document["reasons"])
    running = "not running"
    if document.get("last_pass_at"):
        running += f", last pass {_ago(document['last_pass_at'], now)}"
    if daemon["running"]:
        since = f", started {_ago(daemon['since'], now)}" if daemon["since"] else ""
        running = f"process {daemon['pid']}{since}"
    echo = {"proven": ", echoes names", "none": ", does not echo names"}.get(api["echo"], "")
    echo += ", tells no sizes" if document.get("sizes") == UNTOLD else ""
    answer = f", last success {_ago(api['last_success_at'], now)}" if api["last_success_at"] else ""
    waits = f", {document['waits']}" if document.get("waits") else ""
    # Without a daemon nobody asks the service, so nothing is said of its state.
    state = "" if api["state"] == "unknown" else f": {api['state']}"
    state += f": {printable(api['cause'])}" if api["cause"] else ""
    if api["next_try_at"] is not None:
        next_try = datetime.fromisoformat(api["next_try_at"]).timestamp() - now
        state += (
            f", next try {kept(f'in {span(next_try)}')}" if next_try > 0 else ", being tried now"
        )
    rows: list[tuple[str, str | Text]] = [
        ("daemon", f"syncd {document['version']}, {running}"),
        ("service", f"{printable(api['base_url'])}{state}{waits}{answer}{echo}"),
    ]
    if len(document["folders"]) > 1:
        rows.append(("files", counts_text(document["counts"])))
    if moving := sending_text(document["sending"]):
        rows.append(("sending", moving))
    if (document.get("bandwidth") or {}).get("bytes_per_second"):
        rows.append(("limit", limit_text(document["bandwidth"])))
    return Group(*parts, "", _facts(rows))


def limit_text(limit: JsonObject) -> str:
    """Return `2.0 MiB/s until 07:30:00 (syncd limit)`."""
    end = f" until {clock(seconds(limit['until']))}" if limit["until"] else ""
    source = {"command": "syncd limit", "timetable": "by the timetable"}
    return f"{rate(limit['bytes_per_second'])}{end} ({source.get(limit['source'], 'configured')})"


def _verdict(document: JsonObject) -> Text:
    if not document["well"]:
        return Text("● Not well", "bold red")
    if document["paused"]:
        return Text("● Paused; else all is well", "bold yellow")
    return Text("● All is well", "bold green")


def _reasons(reasons: Iterable[str]) -> Iterator[RenderableType]:
    """Yield each reason, and below it the command that it ends with, once."""
    shown = set()
    for reason in reasons:
        text, begins, command = reason.removesuffix(")").rpartition(" (syncd ")
        if not begins or not reason.endswith(")"):
            yield _indented(Text(_said(reason)))
            continue
        yield _indented(Text(_said(text)))
        if command not in shown:
            shown.add(command)
            yield _advice(f"syncd {command}", 4)


def _brief(reason: str, held: list[JsonObject]) -> str:
    """Return a reason, without what the hold that it is about tells further down."""
    for hold in held:
        if reason.endswith(f": {hold['reason']}"):
            return f"{reason.removesuffix(hold['reason'])[:-2]}: see below"
    return reason


def _folders(document: JsonObject) -> tuple[list[JsonObject], int]:
    """Return the folders to show, and how many more there are in which all is well."""
    folders: list[JsonObject] = document["folders"]
    if len(folders) <= _FOLDERS:
        return folders, 0
    named = {hold["scope"].partition("/")[0] for hold in document["holds"]}
    named |= {failure["folder"] for failure in document["failures"]}
    reasons = "\n".join(["", *document["reasons"]])
    names = (folder["name"] for folder in folders if _is_quiet(folder))
    well = [name for name in names if name not in named and f"\n{name}:" not in reasons]
    folded = set(well[_SHOWN_WELL:])
    return [folder for folder in folders if folder["name"] not in folded], len(folded)


def _is_quiet(folder: JsonObject) -> bool:
    """Say whether nothing in a folder waits, fails or is not watched."""
    at_rest = folder["counts"].keys() <= {Word.SYNCED, Word.IGNORED, Word.DELETED}
    watched = folder["watch"] in (None, "polling") or (
        folder["watched_directories"] >= folder["directories"] and not folder["watch_reason"]
    )
    return at_rest and watched and not folder["missing"]


def _card(folder: JsonObject, now: float) -> Iterator[RenderableType]:
    yield Heading(printable(folder["name"]), printable(folder["path"]))
    rows: list[tuple[str, str | Text]] = []
    if folder["watch"]:
        rows.append(("watched", watched_text(folder)))
    rows.append(("files", counts_text(folder["counts"])))
    if folder["missing"]:
        rows.append(("missing", f"{folder['missing']:,} missing, nothing deleted yet"))
    if (oldest := folder["oldest_queued_seconds"]) is not None:
        rows.append(("waiting", f"the oldest for {kept(span(oldest))}"))
    event, scan = _ago(folder["last_event_at"], now), _ago(folder["last_scan_at"], now)
    rows.append(("last", f"event {event}, scan {scan}"))
    yield _facts(rows)


def watched_text(folder: JsonObject) -> str:
    """Return how well a folder is seen: `native, 98 of 100 directories`."""
    reason = f" ({printable(folder['watch_reason'])})" if folder["watch_reason"] else ""
    covered = f"{folder['watched_directories']:,} of {folder['directories']:,} directories"
    if folder["watch"] == "polling":
        covered = f"{folder['directories']:,} directories"
    return f"{folder['watch']}{reason}, {covered}"


def counts_text(counts: dict[str, int]) -> Text:
    """Return `1,203 synced, 3 queued`, the words in the order of a file's life."""
    text = Text(", ").join(
        Text(kept(f"{counts[word]:,} {word}"), STYLES.get(word, ""))
        for word in Word
        if counts.get(word)
    )
    return text or Text("none yet")


def _transfers(transfers: list[JsonObject], now: float) -> RenderableType:
    table = Table.grid(padding=(0, 1, 0, 0), expand=True)
    table.add_column(width=1)
    table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_column(justify="right", no_wrap=True, width=4)
    table.add_column(justify="right", no_wrap=True, width=22)
    table.add_column(justify="right", no_wrap=True, width=8, style="dim")
    for transfer in transfers[:_TRANSFERS]:
        whole = max(transfer["size"], 1)
        since = datetime.fromisoformat(transfer["since"]).timestamp()
        table.add_row(
            "",
            Text(printable(transfer["path"])),
            f"{min(transfer['bytes'], whole) * 100 // whole} %",
            f"{size(transfer['bytes'])} of {size(transfer['size'])}",
            span(now - since),
        )
    more = len(transfers) - _TRANSFERS
    return Group(table, _indented(Text(f"and {more} more"))) if more > 0 else table


def _hold(hold: JsonObject, now: float) -> Iterator[RenderableType]:
    what = printable(stopped(hold))
    yield _indented(Text.assemble((what, "bold"), f", since {_ago(hold['since'], now)}"))
    yield _indented(Text(_said(hold["reason"])), 4)
    if hold["affects"]:
        first = ", ".join(printable(path) for path in hold["first"])
        rest = ", ..." if hold["affects"] > len(hold["first"]) else ""
        named = f": {first}{rest}" if first else ""
        yield _indented(Text(f"affects {counted(hold['affects'], 'file')}{named}"), 4)
    for command in hold["commands"]:
        # Readers of this output know that command.
        if command != "syncd status":
            yield _advice(command, 4)


def as_advice(advice: str) -> str:
    """Return advice as it is shown: marked where it is to be typed, and not only to be read."""
    return f"> {advice}" if advice.startswith("syncd ") else advice


def _said(text: str) -> str:
    """Return a sentence as it may be shown, its commands as they work here."""
    return printable(offered(text))


def _advice(advice: str, columns: int = 2) -> RenderableType:
    """Return advice; a command stays on one line, so that it can be copied."""
    shown = as_advice(advice)
    if shown is advice:
        return _indented(Text(_said(advice)), columns)
    text = Text(" " * columns, no_wrap=True, overflow="ignore")
    return text.append(_said(shown), "cyan")


def _failures(failures: list[JsonObject]) -> Iterator[RenderableType]:
    for failure in failures:
        where = f"{printable(failure['folder'])}/{printable(failure['path'])}"
        yield _indented(Text(where))
        yield _indented(Text(printable(failure["error"] or "no reason is known")), 4)


def story_view(story: JsonObject, now: float) -> RenderableType:
    """Return what `why` shows of a file that is known."""
    word = Word(story["status"])
    parts: list[RenderableType] = [
        Text.assemble(
            (printable(story["path"]), "bold"), "  is ", (word.value, STYLES.get(word, "bold"))
        ),
        _indented(Text(_said(story["explanation"]))),
        "",
        _facts(_story_rows(story, now)),
    ]
    if story["copies"]:
        parts += ["", Text("Copies, newest first", "bold")]
        parts += [part for copy in reversed(story["copies"]) for part in _copy(copy, now)]
    for hold in story["holds"]:
        # Its commands are what helps, and come last.
        parts += ["", Text("Held", "bold yellow"), *_hold(hold | {"commands": []}, now)]
    if story["history"]:
        parts += ["", Text("History", "bold"), _history(story["history"])]
    if story["advice"]:
        parts += ["", Text("What helps", "bold")]
        parts += [_advice(line) for line in story["advice"]]
    return Unbroken(Group(*parts))


def brief_view(story: JsonObject, _now: float) -> RenderableType:
    """Return what `why` shows of a path that the table does not know."""
    rows = [(name, story[name]) for name in ("folder", "rule", "watched")]
    rows = [(name, printable(value)) for name, value in rows if value]
    labels = ["what helps", *[""] * len(story["advice"])]
    rows += [(label, _said(line)) for label, line in zip(labels, story["advice"], strict=False)]
    head = Text(printable(story["root"] if story["path"] == "." else story["path"]), "bold")
    return Group(head, _indented(Text(story["explanation"])), "", _facts(rows))


def _story_rows(story: JsonObject, now: float) -> Iterator[tuple[str, str]]:
    # Only here: `status` starts without the ledger's verbs.
    from syncd.state.stories import out_of_sight  # noqa: PLC0415

    yield "folder", f"{printable(story['folder'])}  {printable(story['root'])}"
    if story["rule"]:
        yield "rule", printable(story["rule"])
    if story["watched"]:
        yield "watched", story["watched"]
    file = story["file"]
    if file["size"] is not None:
        unseen = file["status"] == "missing" or out_of_sight(story)
        place = "last seen" if unseen else "on disk"
        yield place, f"{size(file['size'])}, changed {_ago(file['changed_at'], now)}"
    if file["sha256"]:
        yield "sha256", file["sha256"]
    if story["file_uuid"]:
        yield "uuid", story["file_uuid"]
    if story["attempts"]:
        yield "attempts", str(story["attempts"])
    if (due := story["next_attempt_at"]) and story["status"] != Word.HELD:
        # A file that is due is taken up in its turn.
        is_due = datetime.fromisoformat(due).timestamp() <= now
        yield "next try", "due now" if is_due else _ago(due, now)
    if story["error"]:
        yield "error", printable(story["error"])


def _copy(copy: JsonObject, now: float) -> Iterator[RenderableType]:
    doubt = ", in doubt" if copy["in_doubt"] else ""
    when = copy["gone_at"] or copy["live_at"] or copy["stored_at"] or copy["sent_at"]
    yield _indented(
        Text.assemble(
            (f"{copy['status']}{doubt}", "bold"),
            f"  {copy['file_uuid'] or 'no uuid yet'}  {size(copy['size'])}",
            f"  {_ago(when or copy['created_at'], now)}",
        )
    )
    evidence = (copy["evidence"] or {}).get("text")
    # The reason of the step before is not why it failed.
    reason = None if copy["status"] == "failed" and copy["error"] else copy["reason"]
    rows = [("reason", reason), ("evidence", evidence), ("error", copy["error"])]
    rows.append(("type", copy["content_type"]))
    video = [copy["processing_status"] or ""]
    video += [f"{copy['frame_count']} frames"] if copy["frame_count"] is not None else []
    rows.append(("processing", ", ".join(filter(None, video))))
    rows.append(("attempts", str(copy["attempts"] or "")))
    yield _indented(_facts((name, printable(value)) for name, value in rows if value))
    if copy["token"]:
        # On one line, so that it can be copied.
        token = Text("    token       ", "dim", no_wrap=True, overflow="ignore")
        yield token.append(printable(copy["token"]), "not dim")


def _history(history: list[JsonObject]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(no_wrap=True)
    table.add_column()
    for line in history:
        at = datetime.fromisoformat(line["at"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        detail = printable(line["detail"] or line["file_uuid"] or "")
        table.add_row(at, Text(line["event"]), Text(detail))
    return _indented(table)


def _facts(rows: Iterable[tuple[str, str | Text]]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=10, style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value if isinstance(value, Text) else Text(value))
    return _indented(table)


def _indented(part: RenderableType, columns: int = 2) -> RenderableType:
    return Padding(part, (0, 0, 0, columns))
