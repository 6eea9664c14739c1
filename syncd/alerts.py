"""Tells a webhook and a command when not all is well, and when it is again; pings while it is.

What `status` says is judged, and nothing else. What is still to be told is kept in the state, so
that a restart forgets none of it and repeats none.
"""

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from syncd.clients import make_call
from syncd.components import Components
from syncd.config.loading import Config
from syncd.files_api import StopFlag
from syncd.log import fields, printable
from syncd.offers import offered
from syncd.outbound import Command, StoppedError, Target, UndeliveredError
from syncd.report.status import Reason, status
from syncd.scheduler import Step
from syncd.state.backoff import backoff_seconds
from syncd.state.database.store import Store
from syncd.state.facts import ALERTS, forget_fact, read_fact
from syncd.state.texts import timestamp
from syncd.units import clock as clock_time

log = logging.getLogger(__name__)

JsonObject = dict[str, Any]
#: A cause is told again after so many seconds at the earliest.
HOUR_SECONDS = 3600.0
#: Seconds between two looks, unless a look takes a larger part of them than this one.
LOOK_SECONDS, LOOK_PART = 10.0, 0.02
#: Seconds between two pings, and without a look after which none is sent.
PING_SECONDS, STALE_SECONDS = 60.0, 300.0
#: The time limit of a call or a command.
TIMEOUT_SECONDS = 30.0
#: Messages kept for one target; the oldest is forgotten first.
MOST_PENDING = 20
_COMMAND = re.compile(r"\((syncd [^()]+)\)$")


@dataclass
class _State:
    """The messages told, and those to be told; times in seconds since the epoch."""

    #: when each cause was told last
    told: dict[str, float] = field(default_factory=dict)
    #: the causes that were told and still stand
    standing: list[str] = field(default_factory=list)
    #: since when it is not well, once that was told
    since: float | None = None
    #: what is still to be told, by target
    pending: dict[str, list[JsonObject]] = field(default_factory=dict)


class Alerts:
    """Judges, tells and pings, each in steps of its own."""

    def __init__(
        self,
        *,
        targets: dict[str, Target],
        ping: Target | None,
        after_seconds: float,
        judge: Callable[[], JsonObject],
        wake: Callable[[str], None],
        store: Store,
        stop: StopFlag,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._targets, self._ping_target = targets, ping
        self._after_seconds = after_seconds
        self._judge, self._wake = judge, wake
        self._store, self._stop = store, stop
        self._clock, self._monotonic = clock, monotonic
        #: held while the state is changed and kept
        self._changing = threading.Lock()
        known = store.read(read_fact, ALERTS, lambda text: _State(**json.loads(text)))
        if known is not None and not targets:
            store.write(forget_fact, ALERTS)
        self._state = known or _State()
        pending = self._state.pending
        self._state.pending = {name: pending[name] for name in targets if name in pending}
        #: since when each cause stands, and since when there is none
        self._since: dict[str, float] = {}
        self._well_since: float | None = None
        self._looked_at: float | None = None
        #: tries that failed in a row, when to try again, and why they failed, by target
        self._failures: dict[str, tuple[int, float, str]] = {}

    def steps(self) -> Iterator[tuple[str, Step, float]]:
        """Yield each step with its name and the seconds after which it runs at the latest."""
        if self._targets or self._ping_target:
            yield "look for alerts", self.look, 60.0
        for name in self._targets:
            yield f"alert by {name}", partial(self.tell, name), 60.0
        if self._ping_target:
            yield "ping", self.ping, PING_SECONDS

    def troubles(self) -> Iterator[str]:
        """Yield the targets that fail, for `status`. A failing ping is noticed by its receiver."""
        for name, (_, again_at, why) in list(self._failures.items()):
            if name in self._targets:
                at = clock_time(time.time() + again_at - self._monotonic())
                yield f"alerts by {name}: {why}; tried again by {at}"

    def look(self) -> float:
        """Judge how things are, and note what is to be told; return the seconds until the next."""
        began = self._monotonic()
        facts = self._judge()
        now = self._monotonic()
        reasons: dict[str, Reason] = {reason.cause: reason for reason in facts["reasons"]}
        self._since = {cause: self._since.get(cause, now) for cause in reasons}
        if reasons:
            self._well_since = None
        elif self._well_since is None:
            self._well_since = now
        self._looked_at = now
        if self._ping_target and self._well_since == now:
            self._wake("ping")
        if self._targets:
            self._consider(facts, reasons, now)
        return max(LOOK_SECONDS, (now - began) / LOOK_PART)

    def _consider(self, facts: JsonObject, reasons: dict[str, Reason], now: float) -> None:
        state, at = self._state, self._clock()
        lasting = [c for c, since in self._since.items() if now - since >= self._after_seconds]
        standing = [cause for cause in state.standing if cause in reasons]
        recent = {c for c, told_at in state.told.items() if 0 <= at - told_at < HOUR_SECONDS}
        new = {cause for cause in lasting if cause not in standing and cause not in recent}
        is_well_again = (
            state.since is not None
            and self._well_since is not None
            and now - self._well_since >= self._after_seconds
        )
        if not new and not is_well_again and standing == state.standing:
            return
        with self._changing:
            state.standing = standing
            state.told = {c: told for c, told in state.told.items() if c in recent}
            if new:
                # The message names them all.
                state.standing = list(reasons)
                state.told |= dict.fromkeys(reasons, at)
                state.since = at if state.since is None else state.since
            if new or is_well_again:
                self._note(_message(facts, state.since, at, self._store.instance), new)
            if is_well_again:
                state.since = None
            self._keep()

    def _note(self, message: JsonObject, new: set[str]) -> None:
        for name in self._targets:
            # A target that fails need not be told that it does.
            if new != {_cause_of(name)}:
                pending = self._state.pending.setdefault(name, [])
                pending.append(message)
                del pending[:-MOST_PENDING]
                self._wake(f"alert by {name}")

    def tell(self, name: str) -> float | None:
        """Tell a target what is to be told first; return the seconds until there is more."""
        pending = self._state.pending.get(name)
        if not pending or self._stop.is_set():
            return None
        if (wait := self._seconds_until_retry(name)) > 0:
            return wait
        message = pending[0]
        if not self._deliver(name, self._targets[name], json.dumps(message).encode()):
            return self._seconds_until_retry(name)
        with self._changing:
            # It may have been forgotten meanwhile, among too many.
            if message in pending:
                pending.remove(message)
            self._keep()
        return 0.0

    def ping(self) -> float | None:
        """Ping if all is well; return the seconds until the next ping."""
        now = self._monotonic()
        is_fresh = self._looked_at is not None and now - self._looked_at < STALE_SECONDS
        if not self._ping_target or self._well_since is None or not is_fresh:
            return None
        if (wait := self._seconds_until_retry("ping")) > 0:
            return wait
        is_done = self._deliver("ping", self._ping_target, b"")
        return PING_SECONDS if is_done else self._seconds_until_retry("ping")

    def _deliver(self, name: str, target: Target, document: bytes) -> bool:
        try:
            target.deliver(document, seconds=TIMEOUT_SECONDS, stop=self._stop, variables={})
        except StoppedError:
            return False
        except UndeliveredError as error:
            failures = 1 + self._failures.get(name, (0, 0.0, ""))[0]
            again_at = self._monotonic() + backoff_seconds(failures)
            self._failures[name] = (failures, again_at, str(error))
            cause = f"{name}: {error}"
            log.warning("alerts: %s", cause, extra=fields("alert_failed", cause=cause))
            return False
        self._failures.pop(name, None)
        return True

    def _seconds_until_retry(self, name: str) -> float:
        again_at = self._failures.get(name, (0, 0.0, ""))[1]
        return max(again_at - self._monotonic(), 0.0)

    def _keep(self) -> None:
        self._store.set_fact(ALERTS, json.dumps(vars(self._state)))


def _cause_of(target: str) -> str:
    return f"trouble alerts by {target}"


def _message(facts: JsonObject, since: float | None, at: float, instance: str) -> JsonObject:
    host, is_well = socket.gethostname(), facts["well"]
    reasons = [printable(offered(reason)) for reason in facts["reasons"]]
    return {
        "host": host,
        "instance": instance,
        "well": is_well,
        "reasons": reasons,
        "commands": list(_commands(facts)),
        "since": timestamp(since),
        "at": timestamp(at),
        # The member that chat programs show.
        "text": f"syncd on {host}: {'all is well again' if is_well else '; '.join(reasons)}",
    }


def _commands(facts: JsonObject) -> Iterable[str]:
    """Return the commands that reasons and holds offer, each once; else `syncd status`."""
    named = [found[1] for reason in facts["reasons"] if (found := _COMMAND.search(reason))]
    named += [command for hold in facts["holds"] for command in hold["commands"]]
    return dict.fromkeys(offered(command) for command in named or ["syncd status"])


def make_alerts(config: Config, components: Components, wake: Callable[[str], None]) -> Alerts:
    """Return the alerts as they are configured."""
    alerts, store = config.alerts, components.store
    targets: dict[str, Target] = {}
    if alerts.webhook is not None:
        targets["webhook"] = make_call(config, alerts.webhook)
    if alerts.command:
        targets["command"] = Command(alerts.command)
    return Alerts(
        targets=targets,
        ping=make_call(config, alerts.ping_url, "GET") if alerts.ping_url else None,
        after_seconds=alerts.after_seconds,
        judge=lambda: status(store.directory, base_url=config.api.base_url),
        wake=wake,
        store=store,
        stop=components.stop,
    )
