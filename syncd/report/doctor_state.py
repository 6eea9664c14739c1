"""The checks of `doctor` on the state directory, its disk, the database and the daemon."""

import os
import shlex
import stat
import time
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from syncd import __version__, heartbeat, liveness
from syncd.config.digest import digests
from syncd.config.loading import Config
from syncd.exceptions import DamagedStateError, ForeignStateError, NoStateError, StateError
from syncd.filesystems import traits
from syncd.log import printable
from syncd.mounts import kind_of
from syncd.report.findings import Finding, bad, unchecked
from syncd.report.status import LEAST_FREE_BYTES
from syncd.state import echo, rollback, views
from syncd.state.binding import Service, other_than
from syncd.state.confirming import SIZES, UNTOLD
from syncd.state.database import backups, schema
from syncd.state.database.directory import lost_with_container
from syncd.state.database.lock import LOCK_NAME, lock_holder
from syncd.state.database.owner import refuse_to_read
from syncd.state.database.store import Transaction, fact
from syncd.units import span

#: With fewer free bytes, the state's disk is nearly full.
LOW_FREE_BYTES = 100 << 20


def examine_state(config: Config, *, is_daemons: bool) -> Iterator[Finding]:
    """Yield how the state is; `is_daemons` when only a running daemon knows the service."""
    directory = config.state.directory
    shown = printable(str(directory))
    try:
        status = directory.stat()
    except FileNotFoundError:
        yield from _to_be_made(directory)
        return
    except NotADirectoryError:
        yield bad("state", f"{shown} lies beneath a file", "set [state] directory to another place")
        return
    except OSError as error:
        yield bad("state", f"{shown}: {error.strerror}", "ask as the user that syncd runs as")
        return
    if not stat.S_ISDIR(status.st_mode):
        yield bad("state", f"{shown} is no directory", "set [state] directory to another place")
        return
    try:
        refuse_to_read(directory)
    except ForeignStateError as error:
        text, _, fix = str(error).partition(": ")
        yield bad("state", text, fix, error.exit_code)
        return
    if (closed := _closed(directory)) is not None:
        yield bad(
            "state",
            f"user {os.getuid()} may not use {printable(str(closed))}",
            "ask as the user that syncd runs as; or, if that is this one: "
            f"chown -R {os.getuid()} {shlex.quote(shown)}",
        )
        return
    if (mode := stat.S_IMODE(status.st_mode)) & 0o077:
        fix = f"chmod 700 {shlex.quote(shown)}"
        yield bad("state", f"{shown} is open to others ({mode:o})", fix)
    else:
        yield Finding("state", good=True, text=f"{shown}, open to its owner alone")
    yield from _state_disk(directory)
    yield from _database(config, is_daemons=is_daemons)
    yield from _daemon(config, compare=not is_daemons and not config.unusable)


def _closed(directory: Path) -> Path | None:
    """Return a path of the state that this user may not use; None when all are usable."""
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        return directory
    for path in (directory / schema.FILE_NAME, directory / LOCK_NAME):
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            return path
    return None


def _to_be_made(directory: Path) -> Iterator[Finding]:
    parent = next(above for above in directory.parents if above.exists())
    shown = printable(str(directory))
    if os.access(parent, os.W_OK | os.X_OK):
        yield Finding("state", good=True, text=f"{shown} will be made by the first run")
        yield from _state_disk(parent)
    else:
        yield bad(
            "state",
            f"{shown} is not there, and user {os.getuid()} cannot make it",
            f"as root: install -d -m 700 -o {os.getuid()} {shlex.quote(shown)}; or set [state] "
            "directory",
        )


def _state_disk(directory: Path) -> Iterator[Finding]:
    shown = printable(str(directory))
    kind = kind_of(os.fsencode(directory))
    free = _free_bytes(directory)
    if traits(kind).is_network:
        yield bad(
            "state disk",
            f"{shown} is on {kind}, over a network: SQLite's locks do not hold there",
            "set [state] directory to a place on a local disk",
        )
    elif why := lost_with_container(directory):
        fix = f"mount a volume there: docker run -v syncd-state:{shown} ..."
        yield bad("state disk", f"{shown}: {why}", fix)
    elif free < LEAST_FREE_BYTES:
        yield bad("state disk", f"{shown}: full; nothing is sent", "free some space")
    elif free < LOW_FREE_BYTES:
        yield bad(
            "state disk", f"{shown}: {free >> 20} MiB free", "free some space before it is full"
        )
    else:
        text = f"{kind or 'unknown'}, {free / 2**30:,.1f} GiB free"
        yield Finding("state disk", good=True, text=text)


def _database(config: Config, *, is_daemons: bool) -> Iterator[Finding]:
    try:
        service = Service(config.api.base_url, bool(config.api.sandbox))
        verdict, theirs, echoes, rolled_back, sizes = views.read(
            config.state.directory, partial(_examine_database, service=service)
        )
    except NoStateError:
        yield Finding("database", good=True, text="none yet; the first run makes it")
        return
    except ForeignStateError as error:
        yield bad("database", str(error), "see there", error.exit_code)
        return
    except DamagedStateError as error:
        text, _, fix = str(error).partition(": ")
        yield bad("database", text, fix)
        return
    except StateError as error:
        yield bad("database", str(error), "ask as the user that syncd runs as")
        return
    yield _wholeness(config, verdict)
    # Beside a daemon, this shell need not know which service it is.
    is_unsure = is_daemons or "api" in config.unusable
    if theirs is not None and not is_unsure:
        yield bad(
            "service",
            f"the state belongs to {theirs}, and not to {service}",
            "set the base URL back, or give the other service its own [state] directory",
            ForeignStateError.exit_code,
        )
    yield _echo(echoes)
    if rolled_back:
        why = f"whether the state is an older copy of itself ({rolled_back})"
        yield unchecked("rollback", why)
    if sizes == UNTOLD:
        text = "the service tells none: a presigned upload is believed on the storage's word"
        fix = 'nothing is taken away by after_upload; method = "direct" needs no such word'
        yield bad("sizes", text, fix, 0)


def _wholeness(config: Config, verdict: str) -> Finding:
    if verdict == "ok":
        return Finding("database", good=True, text="whole")
    fix = backups.how_to_restore(config.state.directory / schema.FILE_NAME, time.time())
    return bad("database", f"damaged: {verdict}", fix)


def _examine_database(
    db: Transaction, service: Service
) -> tuple[str, Service | None, dict[str, bool], str, str | None]:
    checked = schema.quick_check(db), other_than(db, service), echo.echoes(db)
    return (*checked, rollback.unchecked(db), fact(db, SIZES))


_OF_VIDEOS = {"video": " of videos", "video, processed": " of processed videos"}


def kinds(known: Collection[str]) -> str:
    """Return kinds of uploads in words."""
    if {*known} == {*echo.KINDS}:
        return "every upload"
    parted = (kind.partition(" ") for kind in known)
    return ", ".join(f"{method} uploads{_OF_VIDEOS.get(of, '')}" for method, _, of in parted)


def _echo(echoes: dict[str, bool]) -> Finding:
    """Return for which kinds of upload the service echoes names."""
    does, does_not = (
        [k for k, known in echoes.items() if known is is_so] for is_so in (True, False)
    )
    parts = []
    if does:
        parts.append(f"the service echoes the names it is sent ({kinds(does)})")
    if does_not:
        parts.append(
            f"the service does not echo names ({kinds(does_not)}): files are sent presigned, see "
            "the README"
        )
    return Finding("echo", good=True, text="; ".join(parts) or "not known before the first upload")


def _daemon(config: Config, *, compare: bool) -> Iterator[Finding]:
    """Yield how the running daemon is; its configuration is compared where this one is whole."""
    directory = config.state.directory
    pid = lock_holder(directory)
    if pid is None:
        yield Finding("daemon", good=True, text="none is running")
        return
    beat = heartbeat.read(directory)
    if beat is None or not heartbeat.is_alive(directory, time.time()):
        yield bad(
            "daemon",
            f"process {pid} has the state, and does not report",
            "wait if it is a `syncd once`, or has just started; else restart it",
        )
        return
    if beat.version != __version__:
        yield bad(
            "daemon",
            f"process {pid} is version {beat.version}, this is {__version__}",
            "restart it",
        )
        return
    if not liveness.asked(directory):
        fix = "restart it; until then, stop it for commands that change something"
        yield bad("daemon", f"process {pid} works, and does not answer on its socket", fix)
    else:
        yield Finding("daemon", good=True, text=f"process {pid} works{_reached(beat)}")
    if beat.api_state == "refused":
        fix = "put a valid key where the daemon has it from (a systemd credential: and restart)"
        yield bad("daemon", "the service refuses the daemon's key", fix, 77)
    if compare and (differing := _differing(config, beat)):
        which = ", ".join(f"[{section}]" for section in differing)
        yield Finding(
            "daemon",
            good=None,
            text=f"it has other settings in {which} than this shell's configuration",
            fix=f"kill -HUP {pid} has it read them anew (systemctl reload syncd); or ask with its "
            "own -c, DIRs and variables",
        )


def _reached(beat: heartbeat.Heartbeat) -> str:
    if beat.last_success_at is None:
        return ""
    return f", and reached the service last {span(time.time() - beat.last_success_at)} ago"


def _differing(config: Config, beat: heartbeat.Heartbeat) -> list[str]:
    """Return the sections in which the daemon's configuration is another one."""
    here = digests(config) if beat.configuration else {}
    return [section for section, own in here.items() if beat.configuration.get(section) != own]


def _free_bytes(directory: Path) -> int:
    filesystem = os.statvfs(directory)
    return filesystem.f_bavail * filesystem.f_frsize
