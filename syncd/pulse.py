"""The daemon's pulse: each second it tells how things are, and feeds the watchdog."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from syncd import __version__, heartbeat, sd_notify
from syncd.components import Components
from syncd.config.digest import digests
from syncd.config.loading import Config
from syncd.heartbeat import Heartbeat, TransferReport
from syncd.log import printable
from syncd.report import rates
from syncd.scheduler import StepReport
from syncd.state import overview
from syncd.state.ages import Timing
from syncd.workers.gate import Gate

#: Seconds between two written beats at rest, when nobody can ask for the last one.
BEAT_SECONDS = 10.0
#: The status line for the service manager is made again after this many times what it took.
SUMMARY_SHARE = 50.0
#: Seconds after which the upload step or the writer counts as hanging.
HUNG_SECONDS = 60.0
#: Seconds after which a step that waits for disk or network is shown.
SLOW_SECONDS = 600.0
#: The step that never waits for disk or network: when it hangs, the daemon does. A service that
#: stalls or a disk that hangs is shown, and is no cause to restart.
_FEEDING_STEPS = frozenset({"upload"})


class Running(NamedTuple):
    """The current configuration, components and steps; a reload replaces them."""

    config: Config
    components: Components
    steps: list[StepReport]


class Pulse:
    """Keeps what was told last, and tells what is new."""

    def __init__(self) -> None:
        self._since = time.time()
        #: from when ages count: see `heartbeat.Heartbeat`
        self._undisturbed_since = self._since
        #: what the last beat said
        self.told = Heartbeat(__version__, os.getpid(), self._since, 0.0)
        self._written_at = 0.0
        self._summary_at = 0.0
        self._meter = rates.Meter()
        self._configured: tuple[Config, dict[str, str], dict[str, Any]] | None = None
        #: what the service manager was told last
        self._summary = ""
        #: the folders that were at a standstill at the last beat
        self._at_standstill = frozenset[str]()

    def restart_ages(self) -> None:
        """Let ages count from now on: the daemon stood still, or waits as it was asked to."""
        self._undisturbed_since = time.time()

    def beat(self, running: Running, troubles: Iterable[str], *, is_asked: bool) -> None:
        """Write a heartbeat when it is due or has changed, and notify the service manager.

        With `is_asked`, clients ask on the socket, so that the disk may sleep while syncd is idle.
        """
        hung = _hung(running)
        if not hung:
            sd_notify.watchdog()
        current = self._heartbeat(running, hung, troubles)
        now = time.monotonic()
        news = replace(current, beat_at=0.0) != replace(self.told, beat_at=0.0)
        self.told = current
        if news or not (is_asked or now - self._written_at < BEAT_SECONDS):
            self._written_at = now
            heartbeat.write(running.components.store.directory, current)
        self._tell_summary(running.components)

    def end(self, components: Components) -> None:
        """Remove the heartbeat file."""
        with suppress(OSError):
            (components.store.directory / heartbeat.FILE_NAME).unlink()

    def _facts_of(self, config: Config) -> tuple[dict[str, str], dict[str, Any]]:
        """Return the digests and the pace of a configuration, made once for each."""
        if self._configured is None or self._configured[0] is not config:
            self._configured = config, digests(config), asdict(_timing(config))
        return self._configured[1:]

    def _tell_summary(self, components: Components) -> None:
        """Tell the service manager how things stand, when that has changed."""
        now = time.monotonic()
        if now < self._summary_at or not sd_notify.is_listened_to():
            return
        summary = components.store.recall("summary", overview.summary)
        # With millions of files, it must not take a good part of each second.
        self._summary_at = now + SUMMARY_SHARE * (time.monotonic() - now)
        if summary != self._summary and sd_notify.status(summary):
            self._summary = summary

    def _heartbeat(self, running: Running, hung: list[str], troubles: Iterable[str]) -> Heartbeat:
        config, components, steps = running
        gate, now = components.gate, time.time()
        digested, pace = self._facts_of(config)
        rate = self._meter.note(rates.SentTotals(*components.uploader.transfers.sent()))
        asked = gate.seconds_resting()
        self._restart_ages_while_closed(gate, asked)
        return Heartbeat(
            version=__version__,
            pid=os.getpid(),
            since=self._since,
            beat_at=now,
            folders=components.watch.health(),
            transfers=[
                TransferReport(
                    t.folder, printable(t.path), t.sent, t.size, t.since, t.moved_at, t.is_read
                )
                for t in components.uploader.transfers.all()
            ],
            files_per_second=rate.files,
            bytes_per_second=rate.bytes,
            hung=bool(hung),
            configuration=digested,
            api_state=gate.state,
            last_success_at=gate.last_success_at,
            api_cause=gate.cause.removeprefix("not sent: "),
            api_next_try_at=round(now + gate.seconds_until_probe()) if gate.cause else None,
            asked_until=round(now + asked) if asked >= 1.0 else None,
            tries={scope: round(now + wait) for scope, wait in gate.next_tries().items()},
            progress_at=components.uploader.progress_at,
            undisturbed_since=self._undisturbed_since,
            bandwidth=components.bandwidth.in_force.shown(),
            pace=pace,
            troubles=[
                trouble
                for trouble in (*hung, *troubles, *_slow(steps), *_failing(steps))
                if trouble
            ],
        )

    def _restart_ages_while_closed(self, gate: Gate, asked_seconds: float) -> None:
        """Let ages start anew while the gate, or a rest of `asked_seconds`, keeps work back."""
        if (
            asked_seconds
            or gate.refused
            or gate.quota_used_up
            or gate.workspaces.closed
            or gate.refusals.held
            # Work that a hold stopped gets its whole time limit once the hold is over.
            or self._at_standstill - gate.at_standstill
        ):
            self.restart_ages()
        self._at_standstill = gate.at_standstill


def _hung(running: Running) -> list[str]:
    """Return what hangs that must not: the watchdog is fed only while nothing does."""
    hung = [
        f"{name} has been running for {seconds:.0f} s"
        for name, seconds in _durations(running.steps)
        if name in _FEEDING_STEPS and seconds > HUNG_SECONDS
    ]
    if time.monotonic() - running.components.store.writer.last_alive > HUNG_SECONDS:
        hung.append("the state database has not answered for a minute")
    return hung


def _slow(steps: list[StepReport]) -> list[str]:
    """Return what takes long though nothing need be wrong: a slow service, a hung disk."""
    return [
        f"{name} has been running for {seconds:.0f} s: its disk or the service is silent"
        for name, seconds in _durations(steps)
        if name not in _FEEDING_STEPS and seconds > SLOW_SECONDS
    ]


def _failing(steps: list[StepReport]) -> list[str]:
    return [
        f"{step.name} failed {step.failures} times in a row" for step in steps if step.failures > 1
    ]


def _durations(steps: list[StepReport]) -> list[tuple[str, float]]:
    now = time.monotonic()
    return [
        (step.name, now - step.running_since) for step in steps if step.running_since is not None
    ]


def _timing(config: Config) -> Timing:
    folders = config.folders
    return Timing(
        settle={folder.name: folder.settle_seconds for folder in folders},
        grace={folder.name: folder.grace_seconds for folder in folders},
        rescan={folder.name: folder.rescan_seconds for folder in folders},
        resend_after=config.upload.resend_after_seconds,
        stalled_after=config.processing.stalled_after,
    )
