"""How `wait` waits: it has the daemon look, follows the table, and looks once more."""

import base64
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

import click

from syncd.cli.control import BrokenOffError, perform
from syncd.cli.options import Options
from syncd.cli.sync import start_log
from syncd.config.loading import Config
from syncd.exceptions import ConfigError, NoStateError, StateLockedError, SyncdError
from syncd.once import KEY_REFUSED_CODE, once
from syncd.report import status
from syncd.report.status import Reason
from syncd.signals import Signals
from syncd.state import awaited, views
from syncd.state.awaited import Awaited
from syncd.state.database.connection import Database
from syncd.state.database.lock import lock_holder
from syncd.state.holds import PAUSED
from syncd.state.texts import argument
from syncd.units import counted, span
from syncd.watch.standing import RootState

JsonObject = dict[str, Any]
T = TypeVar("T")
#: Seconds between two looks at the table: the shortest, the longest, and as a part of the time that
#: has passed; and in looks, so that a large table is not read all the time.
SHORTEST_SECONDS, LONGEST_SECONDS, PASSED_PART, REST_LOOKS = 0.05, 1.0, 0.05, 8
#: Seconds between two reports of what keeps syncd from its work; and in reports, as above.
REASONS_SECONDS, REST_REPORTS = 2.0, 20
#: Seconds after which it is told what is waited for, and each time after twice as many.
FIRST_NOTE_SECONDS = 30.0
#: Seconds in which a daemon that has ended may be started again.
RESTART_SECONDS = 30.0
#: Seconds between two tries, and how often a look that a change cut short is tried again.
PAUSE_SECONDS, MOST_LOOKS = 0.5, 10
#: Seconds that a look gets at least, so that a timeout of 0 tells how things are.
LEAST_SECONDS = 1.0

_STATES = {
    RootState.REPLACED: "another directory or disk is in its place (root_replaced): mount the "
    "right one, or see `syncd deletes list`",
    RootState.MISSING: "it is not there, or cannot be listed (root_missing): mount it again",
    "unknown": "the running daemon does not watch it: reload or restart it with this configuration",
}


class TimeOverError(Exception):
    """The time that was given is over."""


class Waiting:
    """One wait for the files of a selection, which is every folder if it is empty."""

    def __init__(
        self,
        options: Options,
        config: Config,
        selection: awaited.Selection,
        *,
        timeout: float | None,
        show: Callable[[str], None],
        tell: Callable[[str], None],
    ) -> None:
        """`show` is told the progress; `tell` what a person should know, once each."""
        self._options = options
        self._directory = config.state.directory
        self._base_url = config.api.base_url
        self.selection = list(selection)
        self._began = time.monotonic()
        self._deadline = None if timeout is None else self._began + timeout
        self._show = show
        self._tell = tell
        #: files with a greater id came later
        self.up_to: int | None = None
        #: why a folder, or a directory in it, was not looked at
        self.troubles: dict[str, str] = {}
        self.key_refused = False
        self._told: set[str] = set()
        self._reasons_at = self._began + REASONS_SECONDS
        self._note_seconds = FIRST_NOTE_SECONDS
        self._alone_since: float | None = None

    def run(self) -> None:
        """Return when nothing of the selection goes on by itself; raise TimeOverError too late.

        What is at rest is looked at once more, so that newer content is waited for, too.
        """
        is_scanned = False
        while True:
            runs = lock_holder(self._directory) is not None
            if runs or is_scanned:
                self._look()
                if not self._left().going:
                    return
            if runs:
                self._follow()
            elif self._pass() and self._left().going:
                return
            is_scanned = True

    def is_at_rest(self) -> bool:
        """Return whether it was looked at, and nothing of it goes on by itself."""
        was_looked_at = self.up_to is not None
        with suppress(NoStateError):
            return not self._left().going and was_looked_at
        return False

    def tell_reasons(self) -> None:
        """Tell what keeps syncd from its work, but for what was told before."""
        report = status.status(self._directory, base_url=self._base_url)
        pauses = [hold["reason"] for hold in report["holds"] if hold["reason"].startswith(PAUSED)]
        for reason in (*report["obstacles"], *(Reason(text, text) for text in pauses)):
            if reason.cause not in self._told:
                self._told.add(reason.cause)
                self._tell(f"waiting: {reason}")

    def _look(self) -> None:
        """Have the selection be looked at now, by the daemon or under its lock."""
        by_folder: dict[str, list[str]] = {}
        for folder, path in self.selection:
            by_folder.setdefault(folder, []).append(base64.b64encode(path).decode())
        for _ in range(MOST_LOOKS):
            looked = self._performed({"folders": by_folder})["looked"]
            self._note(looked)
            seen = [found for found in looked.values() if found["state"] not in _STATES]
            if all(found["complete"] for found in seen):
                return
            self._pause(PAUSE_SECONDS)
        raise SyncdError("the mounts change all the time, so nothing can be looked at: try again")

    def _performed(self, arguments: JsonObject) -> JsonObject:
        broken_off = 0
        while True:
            try:
                return self._in_time(lambda: perform(self._options, "look", arguments))
            except StateLockedError as error:
                self._be_patient(error)
            except BrokenOffError:
                broken_off += 1
                if broken_off == MOST_LOOKS:
                    raise
                self._await_daemon()

    def _await_daemon(self) -> None:
        """Pause, and as long as no daemon runs: one that is restarted is soon there again."""
        self._pause(PAUSE_SECONDS)
        while lock_holder(self._directory) is None:
            self._mind_the_daemon()
            self._pause(PAUSE_SECONDS)

    def _be_patient(self, error: StateLockedError) -> None:
        """Wait for another process, most likely a `syncd once`, that has the state."""
        if str(error) not in self._told:
            self._told.add(str(error))
            self._tell(f"waiting: {error}")
        self._pause(PAUSE_SECONDS)

    def _note(self, looked: JsonObject) -> None:
        self.selection = self.selection or [(name, b"") for name in looked]
        self.troubles = {}
        for name, found in looked.items():
            if found["state"] in _STATES:
                self.troubles[name] = _STATES[found["state"]]
            for directory, why in found["unreadable"].items():
                self.troubles[f"{name}/{directory}".rstrip("/")] = f"cannot be scanned: {why}"

    def _left(self) -> Awaited:
        """Return what of the selection is not at rest."""

        def read(db: Database) -> Awaited:
            if self.up_to is None:
                self.up_to = awaited.last_file_id(db)
            return awaited.count(db, self.selection, up_to=self.up_to)

        return views.read(self._directory, read)

    def _follow(self) -> None:
        """Return when nothing of the selection goes on by itself."""
        while True:
            began = time.monotonic()
            left = self._left()
            took = time.monotonic() - began
            if not left.going:
                return
            self._report(left)
            self._mind_the_daemon()
            passed = PASSED_PART * (time.monotonic() - self._began)
            usual = min(max(passed, SHORTEST_SECONDS), LONGEST_SECONDS)
            self._pause(max(usual, REST_LOOKS * took))

    def _report(self, left: Awaited) -> None:
        words = ", ".join(f"{number:,} {word}" for word, number in left.going.items())
        text = f"waiting for {counted(sum(left.going.values()), 'file')}: {words}"
        self._show(text)
        now = time.monotonic()
        if now >= self._reasons_at:
            self.tell_reasons()
            took = time.monotonic() - now
            self._reasons_at = time.monotonic() + max(REASONS_SECONDS, REST_REPORTS * took)
        if now - self._began >= self._note_seconds and left.example:
            folder, path = left.example
            command = f"syncd why {argument(os.fsencode(folder) + b'/' + path)}"
            self._tell(f"{text}, for {span(now - self._began)} ({command})")
            self._note_seconds *= 2

    def _mind_the_daemon(self) -> None:
        """Raise SyncdError when the daemon has ended and nobody starts it again."""
        now = time.monotonic()
        if lock_holder(self._directory) is not None:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        elif now - self._alone_since > RESTART_SECONDS:
            raise SyncdError("the daemon has ended: start it (syncd run), then wait again")

    def _pass(self) -> int:
        """Make one pass over the folders of the selection; return its exit code."""
        config = self._config_of_pass()
        names = ", ".join(folder.name for folder in config.folders)
        self._tell(f"no daemon is running: making one pass over {names}, as `syncd once` does")
        start_log(config, self._options, level="warning")
        signals = Signals()
        signals.listen()
        over = threading.Event()

        def end() -> None:
            over.set()
            signals.stop.set()
            signals.hurry.set()

        left = self._remaining()
        timer = threading.Timer(threading.TIMEOUT_MAX if left is None else left, end)
        timer.daemon = True
        timer.start()
        try:
            code = once(
                config,
                stop=signals.stop,
                hurry=signals.hurry,
                report=lambda tally: self._show(str(tally)),
            )
        except StateLockedError as error:
            self._be_patient(error)
            return 0
        finally:
            timer.cancel()
        if over.is_set():
            raise TimeOverError
        if signals.stop.is_set():
            raise click.Abort
        self.key_refused = code == KEY_REFUSED_CODE
        return code

    def _config_of_pass(self) -> Config:
        try:
            config = self._options.load(to_sync=True)
        except ConfigError as error:
            what = "no daemon is running: start it, or let a pass be made here:"
            raise ConfigError(what, *error.problems) from error
        names = {folder for folder, _ in self.selection}
        folders = tuple(f for f in config.folders if not names or f.name in names)
        if unknown := names - {folder.name for folder in folders}:
            raise ConfigError(
                f"no daemon is running, and no folder {min(unknown)} is configured: start "
                "the daemon, or name its configuration with -c"
            )
        self.selection = self.selection or [(folder.name, b"") for folder in folders]
        return config.model_copy(update={"folders": folders, "folders_are_chosen": True})

    def _remaining(self) -> float | None:
        if self._deadline is None:
            return None
        if (left := self._deadline - time.monotonic()) <= 0:
            raise TimeOverError
        return left

    def _pause(self, seconds: float) -> None:
        left = self._remaining()
        time.sleep(seconds if left is None else min(seconds, left))

    def _in_time(self, work: Callable[[], T]) -> T:
        """Return what `work` does on a thread of its own: a disk may hang under it."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        left = self._deadline and max(self._deadline - time.monotonic(), LEAST_SECONDS)
        try:
            return done.result(left)
        except TimeoutError:
            if done.done():
                raise
            raise TimeOverError from None
