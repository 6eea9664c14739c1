"""`doctor`: each thing that syncd needs, whether it is well, and how to mend it.

It only looks: it takes no lock, writes nothing, and makes one cheap call to the service.
"""

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path

from syncd import __version__, heartbeat
from syncd.clients import make_client
from syncd.config.loading import Config
from syncd.config.settings import FolderSettings
from syncd.exceptions import ConfigError, StateError
from syncd.files_api import Answer, FilesApiError, StopFlag, UnauthorizedError
from syncd.log import printable
from syncd.report.doctor_folders import (
    examine_folder,
    examine_limits,
    examine_receipts,
    examine_taking_away,
)
from syncd.report.doctor_holds import examine_hold, is_replaced, open_holds
from syncd.report.doctor_state import examine_state
from syncd.report.doctor_targets import examine_targets
from syncd.report.findings import Finding, bad, unchecked
from syncd.report.status import tried_again
from syncd.state import views
from syncd.state.database.store import lock_holder
from syncd.state.holds import ROOT_MISSING
from syncd.state.scan_index import ever_held

#: Seconds by which this clock may differ from the service's: presigned URLs and waits depend on it.
SKEW_SECONDS = 60.0


def examine(
    load: Callable[[list[str]], Config], clock: Callable[[], float] = time.time
) -> Iterator[Finding]:
    """Yield what is found; `load` reads the configuration, and notes what is wrong with it."""
    yield Finding(
        "version",
        good=True,
        text=f"syncd {__version__}, Python {platform.python_version()}, "
        f"SQLite {views.SQLITE_VERSION}, Linux {platform.release()}",
    )
    problems: list[str] = []
    try:
        config = load(problems)
    except ConfigError as error:
        yield from _unusable(error.problems)
        yield unchecked("everything else", "the configuration cannot be read")
        return
    beat = _seen_by_daemon(config, problems, clock())
    if beat is not None:
        yield from _as_the_daemon_has_it(beat)
    else:
        yield from _configuration(config, problems)
        if "api" in config.unusable:
            # The settings that are left may name another service, or another way to it.
            for name in ("service", "key", "clock"):
                yield unchecked(name, "[api] is bad")
        else:
            yield from _service(config, clock)
    if "state" in config.unusable:
        yield unchecked("state", "[state] is bad")
    else:
        yield from examine_state(config, is_daemons=beat is not None)
    yield from _holds_and_folders(config)
    if not config.unusable & {"state", "alerts", "hooks", "api"}:
        yield from examine_targets(config)
    else:
        yield unchecked("alerts", "the configuration is bad")
    yield from examine_limits(config)


def _holds_and_folders(config: Config) -> Iterator[Finding]:
    held = [] if "state" in config.unusable else open_holds(config)
    examined = config.folders or _watched_by_daemon(config)
    for hold in held:
        # Each folder that is examined is looked at below.
        if hold.reason != ROOT_MISSING or hold.scope not in {folder.name for folder in examined}:
            yield examine_hold(hold, config.state.directory)
    for folder in examined:
        if is_replaced(held, folder.name):
            # It is another folder, and how that one is matters to nobody.
            continue
        yield from examine_folder(folder, has_files=_has_files(config, folder.name))
        if folder.after_upload != "keep" and "state" not in config.unusable:
            yield from examine_taking_away(folder, config.state.directory)
        if "state" not in config.unusable:
            yield from examine_receipts(folder, config.state.directory)


def _watched_by_daemon(config: Config) -> list[FolderSettings]:
    """Return the folders that came with the command line of the daemon that works here."""
    directory = config.state.directory
    beat = heartbeat.read(directory)
    if "state" in config.unusable or beat is None or lock_holder(directory) is None:
        return []
    with suppress(StateError):
        roots = views.read(directory, views.roots)
        return [
            FolderSettings(path=Path(os.fsdecode(root)), name=name)
            for name, root in roots.items()
            if name in beat.folders
        ]
    return []


def _has_files(config: Config, folder: str) -> bool:
    """Return whether anything in a folder was ever to be sent, as far as the state tells."""
    with suppress(StateError):
        return views.read(config.state.directory, partial(ever_held, folder=folder, directory=b""))
    return False


def _seen_by_daemon(config: Config, problems: list[str], now: float) -> heartbeat.Heartbeat | None:
    """Return what a working daemon says of itself where this shell lacks only what it has."""
    lacks_only = problems and all(problem.startswith("no ") for problem in problems)
    directory = config.state.directory
    return heartbeat.read(directory) if lacks_only and heartbeat.is_alive(directory, now) else None


def _as_the_daemon_has_it(beat: heartbeat.Heartbeat) -> Iterator[Finding]:
    """Yield how key and service are, where only the daemon has the key: a systemd credential."""
    yield Finding("configuration", good=True, text="all but the state is the running daemon's")
    match beat.api_state:
        case "refused":
            yield bad(
                "key",
                "the service refuses the daemon's",
                "put a valid key where it comes from (a systemd credential: and restart)",
                UnauthorizedError.exit_code,
            )
        case "unreachable":
            yield bad(
                "service",
                f"the daemon cannot reach it{tried_again(beat)}",
                _REACH,
            )
        case "ok":
            yield Finding("key", good=True, text="the service accepts the daemon's")
        case _:
            yield unchecked("key", "it is the daemon's, and not used yet")


def _unusable(problems: Sequence[str]) -> Iterator[Finding]:
    for problem in problems:
        # A missing setting is followed by where to put it, a wrong one by what is right.
        text, _, fix = problem.partition(": " if problem.startswith("no ") else "; ")
        where = text.partition(": ")[0]
        yield bad("configuration", text, fix or f"correct {where}", ConfigError.exit_code)


def _configuration(config: Config, problems: list[str]) -> Iterator[Finding]:
    where = printable(str(config.file)) if config.file else "the environment alone"
    yield from _unusable(problems)
    # Kubernetes injects variables of its own, never with two underscores: they harm nothing.
    warnings = [
        warning
        for warning in config.warnings
        if not warning.startswith("the environment variable") or "__" in warning.split(" is ")[0]
    ]
    for warning in warnings:
        text, _, fix = warning.partition("; ")
        fix = fix.removeprefix("run: ") or f"remove {text.partition(' is not used')[0]}"
        yield bad("configuration", text, fix)
    if not (problems or warnings):
        yield Finding("configuration", good=True, text=f"read from {where}")


# The service


#: The remedy where the service cannot be reached for no known reason.
_REACH = "check that base_url is right, and that no firewall is in between; syncd tries again"
#: Remedies by the code of the failure.
_FIXES = {
    "local.dns": "check the host in base_url, and this machine's name servers; syncd tries again",
    "local.bad_answer": "see what answers at base_url: it may be a portal or a proxy",
    "local.timeout": "if the line is slow, raise [api] timeout_seconds or connect_seconds",
    "local.deadline": "if the line is slow, raise [api] timeout_seconds or connect_seconds",
}


def _service(config: Config, clock: Callable[[], float]) -> Iterator[Finding]:
    answers: list[tuple[Answer, float]] = []
    try:
        client = make_client(config, StopFlag())
    except ConfigError as error:
        text, _, fix = str(error).partition(": ")
        yield bad("service", text, fix or "correct [api]", error.exit_code)
        for name in ("key", "clock"):
            yield unchecked(name, "[api] is bad")
        return
    with client:
        if client.is_cleartext:
            yield bad(
                "service", f"{client.base_url}: the key can be read on the way", "use https://"
            )
        began = clock()
        try:
            client.list(limit=1, on_answer=lambda answer: answers.append((answer, clock())))
        except FilesApiError as error:
            yield from _failed(error, config, client.base_url, answers=bool(answers))
        else:
            both = " (or by one of them)" if len([*config.credentials.secrets()]) > 1 else ""
            text = f"accepted, from {config.credentials.source}{both}"
            yield Finding("key", good=True, text=text)
            yield Finding("service", good=True, text=f"{client.base_url} answers")
    for answer, ended in answers:
        yield from _clock(answer.headers.get("date", ""), began, ended)


def _failed(
    error: FilesApiError, config: Config, base_url: str, *, answers: bool
) -> Iterator[Finding]:
    """Yield what the failure of the one call says of service and key."""
    source = config.credentials.source
    if isinstance(error, UnauthorizedError) and not source:
        yield Finding("service", good=True, text=f"{base_url} answers")
        yield unchecked("key", "there is none")
        return
    if isinstance(error, UnauthorizedError):
        yield bad(
            "key", f"{source}: {error.text}", config.credentials.remedy, UnauthorizedError.exit_code
        )
        return
    text, fix = error.text, _FIXES.get(error.code or "", _REACH)
    if error.is_lasting:
        # It knows best what mends it.
        text, _, remedy = text.partition("; ")
        fix = f"{remedy or 'correct [api]'}; this does not mend itself"
    elif error.status is not None and error.status < 400 and error.code is None:
        fix = "set base_url to where the service is; it may also be a portal's page for a login"
    elif config.api.proxy and error.code in ("local.connect", "local.dns"):
        fix = "check [api] proxy, and that the proxy runs; syncd tries again"
    elif base_url.startswith("http://") and error.code == "local.network":
        fix = "what answers there may speak TLS: try https:// in base_url"
    late = error.code in ("local.timeout", "local.deadline")
    limit = f" within {config.api.timeout_seconds:g} s" if late else ""
    yield bad("service", f"{base_url}{limit}: {text}", fix)
    why = "the service answers with an error" if answers else "the service does not answer"
    for name in ("key",) if answers else ("key", "clock"):
        yield unchecked(name, why)


def _clock(date: str, began: float, ended: float) -> Iterator[Finding]:
    try:
        theirs = parsedate_to_datetime(date).timestamp()
    except ValueError:
        yield unchecked("clock", "the service does not tell the time")
        return
    # The answer was dated, in whole seconds, at some time in between.
    skew = 0.0
    if theirs + 1 < began:
        skew = theirs + 1 - began
    elif theirs > ended:
        skew = theirs - ended
    if abs(skew) > SKEW_SECONDS:
        word = "behind" if skew > 0 else "ahead of"
        yield bad(
            "clock",
            f"this machine is {abs(skew):.0f} s {word} the service",
            "set the clock: timedatectl set-ntp true",
        )
    else:
        yield Finding("clock", good=True, text="agrees with the service's")
