"""`syncd demo`: the whole journey on this machine, live on the terminal. No key, no network."""

import json
import logging
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from syncd import log
from syncd.components import Components, opened
from syncd.config import loading as configuration
from syncd.daemon import Daemon
from syncd.state import manifest, overview
from syncd.units import counted

#: Seconds in which something must happen, or the demo counts as failed.
PART_SECONDS = 30.0
#: Lines of its log that are shown where it fails.
LOG_LINES = 20
#: The demo is impatient, so that it is short; a real folder keeps the defaults.
SETTLE_SECONDS, GRACE_SECONDS, POLL_SECONDS = 0.5, 2.0, 0.5
_COLOURS = {
    "synced": "green",
    "uploading": "cyan",
    "processing": "cyan",
    "queued": "blue",
    "settling": "blue",
    "failed": "red",
    "deleting": "yellow",
    "deleted": "dim",
}

Row = dict[str, Any]


@dataclass
class Tour:
    """A demo under way: where everything is, and what has been seen so far."""

    drop: Path
    base_url: str
    components: Components
    console: Console
    stop: threading.Event
    page_url: Callable[[], str]
    log_file: Path
    began: float = field(default_factory=time.monotonic)
    caption: str = ""
    said: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    live: Live | None = None
    told_page: bool = False
    #: the manifest as it was seen last
    known: dict[str, Row] = field(default_factory=dict)

    def rows(self) -> dict[str, Row]:
        """Return the manifest by path: present files, then deleted ones."""
        listed = self.components.store.read(
            lambda db: [*manifest.entries(db), *manifest.entries(db, status="deleted")]
        )
        self.known = {row["path"]: row for row in listed}
        return self.known

    def show(self) -> None:
        """Bring the screen up to date; without a terminal, print a line for each change."""
        if not self.told_page and (url := self.page_url()):
            self.told_page = True
            self.console.print(f"The status page, as long as this runs: {url}")
        rows = self.rows()
        if self.live is not None:
            self.live.update(self._screen(rows))
            return
        for path, row in rows.items():
            news = (row["status"], row["file_uuid"])
            if self.said.get(path) != news:
                self.said[path] = news
                self.console.print(f"{self._clock()}  {path}: {row['status']}{_uuid(row)}")

    def say(self, caption: str) -> None:
        """Tell what happens next."""
        self.caption = caption
        if self.live is None:
            self.console.print(f"{self._clock()}  {caption}")

    def until(self, done: Callable[[dict[str, Row]], bool]) -> bool:
        """Show until `done`; False where nothing happens for long before that, or on Ctrl-C."""
        deadline, before = 0.0, None
        while not self.stop.is_set():
            self.show()
            rows = self.rows()
            if done(rows):
                self.show()
                return True
            if rows != before:
                deadline, before = time.monotonic() + PART_SECONDS, rows
            elif time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return False

    def pause(self, seconds: float) -> None:
        """Let a person follow; without a terminal nobody does."""
        until = time.monotonic() + (seconds if self.live is not None else 0.0)
        while time.monotonic() < until and not self.stop.wait(0.1):
            self.show()

    def _clock(self) -> str:
        return f"{time.monotonic() - self.began:5.1f} s"

    def _screen(self, rows: dict[str, Row]) -> Group:
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
        table.add_column("file", overflow="ellipsis", no_wrap=True, min_width=14)
        table.add_column("bytes", justify="right", no_wrap=True, min_width=9)
        table.add_column("status", no_wrap=True, min_width=10)
        # Whole at 80 columns: one that is cut is no uuid.
        table.add_column("file_uuid", no_wrap=True, style="dim", min_width=36)
        for path, row in list(rows.items())[-20:]:
            status = Text(row["status"], _COLOURS.get(row["status"], ""))
            size = f"{row['size']:,}" if row["size"] is not None else ""
            table.add_row(log.printable(path), size, status, row["file_uuid"] or "")
        head = Text.assemble(("syncd demo  ", "bold"), (f"{self._clock()}  ", "dim"), self.caption)
        return Group(head, Text(), table)


def _uuid(row: Row) -> str:
    return f" ({row['file_uuid']})" if row["file_uuid"] else ""


@click.command(short_help="Show the whole journey on this machine, without key or network.")
@click.argument("directory", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option("--stay", is_flag=True, help="Keep watching until Ctrl-C.")
def demo(directory: Path | None, *, stay: bool) -> None:
    """Run a local Files API and a daemon on a drop folder, and show each file's journey.

    Without DIRECTORY the folder is a fresh one, with files made for it, a real video among them;
    one of them is then changed, and one deleted. Your own DIRECTORY is only read.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if directory is not None and not directory.is_dir():
        raise click.UsageError(f"there is no folder {directory}; make it, or name another")
    with tempfile.TemporaryDirectory(prefix="syncd-demo-") as scratch:
        console = Console(highlight=False, soft_wrap=False)
        with _running(Path(scratch), directory, console, stop) as tour:
            complete = _tour_of_ours(tour) if directory is None else _tour_of_theirs(tour)
            if stay and complete and not stop.is_set():
                _stay(tour)
        _farewell(tour, directory, complete=complete)
    sys.exit(0 if complete else 1)


@contextmanager
def _running(
    scratch: Path, directory: Path | None, console: Console, stop: threading.Event
) -> Iterator[Tour]:
    """Run the emulator and a daemon as long as the demo lasts."""
    from syncd.cli.emulator import load_emulator  # noqa: PLC0415 - an extra, asked for by use

    drop = directory.resolve() if directory else scratch / "drop"
    drop.mkdir(exist_ok=True)
    log_file = scratch / "syncd.log"
    logging.getLogger().handlers[:] = [logging.FileHandler(log_file)]
    logging.getLogger().setLevel(logging.INFO)
    with load_emulator().Emulator(data=scratch / "emulator", api_key="demo") as emulator:
        config = configuration.load(config=None, environ=_environment(scratch, drop, emulator.url))
        with opened(config) as components:
            halt = threading.Event()
            daemon = Daemon(config=config, components=components, stop=halt)
            thread = threading.Thread(target=daemon.run, args=(stop,), name="syncd-demo")
            tour = Tour(
                drop, emulator.url, components, console, stop, lambda: daemon.page_url, log_file
            )
            thread.start()
            try:
                with _screen(tour):
                    yield tour
            finally:
                halt.set()
                thread.join()


@contextmanager
def _screen(tour: Tour) -> Iterator[None]:
    if not tour.console.is_terminal:
        yield
        return
    with Live(console=tour.console, refresh_per_second=10, transient=False) as tour.live:
        yield
    tour.live = None


def _environment(scratch: Path, drop: Path, url: str) -> dict[str, str]:
    """Return what a user would set for this: the demo configures syncd as anyone does."""
    folder = {
        "path": os.fspath(drop),
        "name": "drop",
        "settle_seconds": SETTLE_SECONDS,
        "grace_seconds": GRACE_SECONDS,
    }
    return {
        "AYMARA_AI_API_KEY": "demo",
        "SYNCD_API__BASE_URL": url,
        "SYNCD_STATE__DIRECTORY": os.fspath(scratch / "state"),
        "SYNCD_SERVER__LISTEN": "127.0.0.1:0",
        "SYNCD_PROCESSING__FIRST_POLL_SECONDS": str(POLL_SECONDS),
        "SYNCD_FOLDERS": json.dumps([folder]),
    }


def _tour_of_ours(tour: Tour) -> bool:
    """Drop files, change one, delete one; say whether everything came about."""
    tour.say(f"files appear in {tour.drop}")
    names = set()
    for name in _files(tour.drop):
        names.add(name)
        tour.until(partial(_is_listed, name=name))
        tour.pause(1.5)
    if not tour.until(lambda rows: all(_is_synced(rows, name) for name in names)):
        return False
    tour.pause(4)
    before = tour.rows()["notes.txt"]["file_uuid"]
    tour.say("notes.txt changes: a new copy goes up, and only then the old one goes")
    with (tour.drop / "notes.txt").open("a") as file:
        file.write("A second thought.\n")
    if not tour.until(
        lambda rows: _is_synced(rows, "notes.txt") and rows["notes.txt"]["file_uuid"] != before
    ):
        return False
    tour.pause(5)
    tour.say(f"table.csv is deleted: after {GRACE_SECONDS:g} s of grace its copy is, too")
    (tour.drop / "table.csv").unlink()
    if not tour.until(lambda rows: rows.get("table.csv", {}).get("status") == "deleted"):
        return False
    tour.pause(4)
    tour.say("comparing the folder with what the Files API holds")
    equal = tour.until(lambda _: _is_equal(tour, names - {"table.csv"}))
    tour.pause(2)
    return equal


def _tour_of_theirs(tour: Tour) -> bool:
    """Send what is in the user's folder; change nothing there."""
    tour.say(f"sending what is in {tour.drop} to a Files API on this machine")
    settled = ("synced", "ignored", "failed")
    return tour.until(
        lambda rows: all(row["status"] in settled for row in rows.values()) and _is_scanned(tour)
    ) and not any(row["status"] == "failed" for row in tour.rows().values())


def _stay(tour: Tour) -> None:
    tour.say(f"drop files into {tour.drop}; Ctrl-C ends")
    state = tour.components.store.directory
    tour.console.print(f"From another terminal:  SYNCD_STATE__DIRECTORY={state} syncd ls")
    while not tour.stop.wait(0.2):
        tour.show()


def _files(drop: Path) -> Iterator[str]:
    """Make the demo's files, one after another: text, a table, noise, and a real video."""
    from syncd.emulator.video import make_video  # noqa: PLC0415 - an extra, asked for by use

    (drop / "notes.txt").write_text("Watch this folder.\n")
    yield "notes.txt"
    lines = [f"{k},{random.random():.6f}\n" for k in range(2000)]  # noqa: S311
    (drop / "table.csv").write_text("".join(["k,value\n", *lines]))
    yield "table.csv"
    (drop / "runs").mkdir(exist_ok=True)
    (drop / "runs" / "sample.bin").write_bytes(os.urandom(3_000_000))
    yield "runs/sample.bin"
    draft = drop / ".clip.mp4"
    make_video(draft, seconds=2, fps=12, size=(320, 180))
    # Renamed in, as careful producers do: nobody sees half a video.
    shutil.move(draft, drop / "clip.mp4")
    yield "clip.mp4"


def _is_scanned(tour: Tour) -> bool:
    """Say whether the folder was seen whole, so that there is no file beside those that are known.

    Its scan is dated once all that it saw is in the table.
    """
    known = tour.components.store.read(overview.overview, time.time())["folders"]
    return bool(known) and known[0]["last_scan_at"] is not None


def _is_listed(rows: dict[str, Row], *, name: str) -> bool:
    return name in rows


def _is_synced(rows: dict[str, Row], name: str) -> bool:
    return rows.get(name, {}).get("status") == "synced"


def _is_equal(tour: Tour, names: set[str]) -> bool:
    """Compare path -> uuid -> sha256 with the disk, as the emulator itself tells it."""
    with urlopen(f"{tour.base_url}/_emulator/objects", timeout=10) as answer:  # noqa: S310
        objects = [json.loads(line) for line in answer]
    live = {item["file_uuid"]: item["sha256"] for item in objects if item["state"] == "live"}
    rows = tour.rows()
    expected = {
        rows[name]["file_uuid"]: sha256((tour.drop / name).read_bytes()).hexdigest()
        for name in names
    }
    return live == expected


def _farewell(tour: Tour, directory: Path | None, *, complete: bool) -> None:
    say = tour.console.print
    if not complete:
        if tour.stop.is_set():
            say("\n[bold red]interrupted[/]")
            return
        failed = [row for row in tour.known.values() if row["status"] == "failed"]
        for row in failed:
            text = f"{log.printable(row['path'])} failed: {log.printable(row['error'] or '')}"
            say(text, style="red", markup=False)
        if failed:
            return
        say("\n[bold red]not everything arrived in time[/]; the end of its log:")
        text = tour.log_file.read_text("utf-8", "replace")
        for line in text.splitlines()[-LOG_LINES:]:
            say(line, markup=False)
        return
    what = "the Files API held exactly what the folder held"
    if directory:
        sent = sum(_is_synced(tour.known, name) for name in tour.known)
        what = f"{counted(sent, 'file')} {'was' if sent == 1 else 'were'} synced"
    say(f"\n[bold green]Done[/] in {time.monotonic() - tour.began:.0f} s: {what}.")
    target = shlex.quote(log.printable(str(directory or "DIR")))
    commands = {
        f"syncd demo {target} --stay": "the same with a folder of yours, until Ctrl-C",
        f"syncd run {target}": "the real service; needs AYMARA_AI_API_KEY",
        "syncd --help": "status, ls, why PATH: how, which uuid, and why",
    }
    say("What next:")
    for command, what in commands.items():
        say(f"  {command:<{max(map(len, commands))}}  {what}", markup=False)
