"""The checks of `doctor` on alerts, hooks and receipts: whom they tell, and whether that worked.

A program that is missing and a URL that is none are told with the configuration.
"""

import json
import time
from collections.abc import Iterator

from pydantic import SecretStr

from syncd.clients import make_call
from syncd.config.loading import Config
from syncd.exceptions import StateError
from syncd.log import printable
from syncd.report.findings import Finding, bad
from syncd.state import hooks, receipts, views
from syncd.state.database.connection import Database
from syncd.state.facts import ALERTS, read_fact
from syncd.state.texts import JsonObject
from syncd.units import clock, counted, span


def examine_targets(config: Config) -> Iterator[Finding]:
    """Yield how each alert, hook and folder with receipts does."""
    alerts = dict(_alerts(config))
    telling = [folder for folder in config.folders if folder.receipts_to is not None]
    if not (alerts or config.hooks or telling):
        text = "none: nobody is told when not all is well (see [alerts])"
        yield Finding("alerts", good=True, text=text)
        return
    try:
        told, failing, heard, behind = views.read(config.state.directory, _known)
    except StateError:
        told, failing, heard, behind = {}, {}, {}, {}
    for setting, shown in alerts.items():
        yield _alert(setting, shown, told)
    for hook in config.hooks:
        target = _url(config, hook.url) if hook.url else printable(hook.command[0])
        name, text = f"hook {printable(hook.name)}", f"{target} on {hook.on}"
        if (error := failing.get(hook.name)) is not None:
            next_try = f"; tried again by {clock(error['next_at'])}"
            fix = "mend what it runs or calls; nothing is lost meanwhile"
            yield bad(name, f"{text}: {printable(error['error'])}{next_try}", fix)
        else:
            yield Finding(name, good=True, text=f"{text}, {_heard(heard.get(hook.name))}")
    for folder in telling:
        # Why they cannot be written stands with the folder.
        if folder.name not in behind:
            text = f"written to {printable(str(folder.receipts_to))}"
            yield Finding(f"receipts of {printable(folder.name)}", good=True, text=text)


def _alerts(config: Config) -> Iterator[tuple[str, str]]:
    """Yield each target of the alerts: its setting, and how it is shown."""
    if config.alerts.webhook is not None:
        yield "webhook", _url(config, config.alerts.webhook)
    if config.alerts.command:
        yield "command", printable(config.alerts.command[0])
    if config.alerts.ping_url is not None:
        yield "ping_url", _url(config, config.alerts.ping_url)


def _url(config: Config, url: SecretStr) -> str:
    """Return where a URL leads; the rest of it may be a token."""
    return printable(make_call(config, url).shown)


def _alert(setting: str, shown: str, told: JsonObject) -> Finding:
    name, text = "alerts", f"{setting} {shown}"
    if setting == "ping_url":
        return Finding(name, good=True, text=f"{text}: called each minute while all is well")
    if waiting := told.get("pending", {}).get(setting):
        since = f"{counted(len(waiting), 'message')} could not be delivered so far"
        return bad(
            name, f"{text}: {since}", "the daemon tries again by itself; its log has the cause"
        )
    last = max(told.get("told", {}).values(), default=None)
    return Finding(name, good=True, text=f"{text}, {_last(last)}")


def _last(at: float | None) -> str:
    return "nothing was told so far" if at is None else f"told last {span(time.time() - at)} ago"


def _heard(at: float | None) -> str:
    return "nothing to tell so far" if at is None else f"heard of all until {clock(at)}"


def _known(
    db: Database,
) -> tuple[JsonObject, dict[str, JsonObject], dict[str, float], dict[str, str]]:
    """Return what the state knows: of alerts, of hooks that fail and that heard, of receipts."""
    failing = {hook["name"]: hook for hook in hooks.failing(db)}
    return read_fact(db, ALERTS, json.loads) or {}, failing, hooks.heard(db), receipts.obstacles(db)
