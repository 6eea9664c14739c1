"""What `doctor` examines: each thing that syncd needs, whether it is so, and what would mend it.

It only looks: it takes no lock, writes nothing, and makes one cheap call to the service.
"""

import errno
import os
import platform
import re
import resource
import shlex
import stat
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from syncd import __version__, disk, relocation, vitals
from syncd.config import Config
from syncd.descent import Descent
from syncd.document import LEAST_FREE_BYTES
from syncd.exceptions import (
    ConfigError,
    ForeignStateError,
    NoStateError,
    StateError,
    UnreadableError,
)
from syncd.files_api import Answer, FilesApiError, StopFlag, UnauthorizedError
from syncd.identity import RootIdentity, identify
from syncd.log import in_container, printable
from syncd.mounts import kind_of
from syncd.parts import make_client
from syncd.settings import Folder
from syncd.state import echo, rollback, schema, views
from syncd.state.confirming import SIZES, UNTOLD
from syncd.state.folders import obstacles
from syncd.state.lock import LOCK_NAME, lock_holder
from syncd.state.owner import refuse_to_read
from syncd.state.store import Transaction, fact, has_reached
from syncd.story import rules_of
from syncd.units import counted
from syncd.watch.filesystems import why_polling
from syncd.watch.ignore import IGNORE_FILE, IgnoreFiles

#: Seconds by which this clock may differ from the service's: presigned URLs and waits depend on it.
SKEW_SECONDS = 60.0
#: Less than that, in bytes, and the state's disk is as good as full.
LOW_FREE_BYTES = 100 << 20
#: Directories that are counted in a folder, at most: so many take a second or two.
MOST_COUNTED = 100_000
#: Files and directories of a folder whose permissions are looked at, at most: well under a second.
MOST_LOOKED_AT = 20_000
#: A name for a marker.
EXAMPLE = ".syncd-root"
#: Open files that a daemon with its default of workers comes by with.
LEAST_FILES = 256
MOUNTS = Path("/proc/self/mountinfo")
#: Volumes that were made because the image declares one and the run named none.
_ANONYMOUS = re.compile(r"/volumes/[0-9a-f]{64}(/_data)?$")
_NETWORK = ("nfs", "cifs", "smb", "ceph", "afs", "9p", "glusterfs", "lustre")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing; `good` is None where it was not examined, and `fix` says what mends a bad one."""

    name: str
    good: bool | None
    text: str
    fix: str = ""
    #: with which `doctor` ends if this is the gravest
    code: int = 0


def bad(name: str, text: str, fix: str, code: int = 1) -> Finding:
    """Return a finding that something is not as it should be."""
    return Finding(name, good=False, text=text, fix=fix, code=code)


def unchecked(name: str, why: str) -> Finding:
    """Return that something was not examined."""
    return Finding(name, good=None, text=f"not checked: {why}")


def exit_code(findings: list[Finding]) -> int:
    """Return the code for the gravest: the configuration, the key, anything, nothing."""
    codes = {finding.code for finding in findings if finding.good is False}
    return next((code for code in (ConfigError.exit_code, 77, 1) if code in codes), 0)


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
        yield from _unusable(str(error).splitlines())
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
        yield from _state(config, is_daemons=beat is not None)
    for folder in config.folders:
        yield from _folder(folder)
        if folder.after_upload != "keep" and "state" not in config.unusable:
            yield from _taking_away(folder, config.state.directory)
    yield from _limits(config)


def _seen_by_daemon(config: Config, problems: list[str], now: float) -> vitals.Vitals | None:
    """Return what a working daemon says of itself where this shell lacks only what it has."""
    lacks_only = problems and all(problem.startswith("no ") for problem in problems)
    directory = config.state.directory
    return vitals.read(directory) if lacks_only and vitals.is_alive(directory, now) else None


def _as_the_daemon_has_it(beat: vitals.Vitals) -> Iterator[Finding]:
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
                beat.api_cause or "the daemon cannot reach it",
                _REACH,
            )
        case "ok":
            yield Finding("key", good=True, text="the service accepts the daemon's")
        case _:
            yield unchecked("key", "it is the daemon's, and not used yet")


def _unusable(problems: list[str]) -> Iterator[Finding]:
    for problem in problems:
        # What is lacking is followed by where to put it, what is wrong by what would be right.
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


# The state


def _state(config: Config, *, is_daemons: bool) -> Iterator[Finding]:
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
    yield from _daemon(directory)


def _closed(directory: Path) -> Path | None:
    """Return what of the state this user may not use; None where all is open to it."""
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
    if kind.startswith(_NETWORK) or "sshfs" in kind:
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


def lost_with_container(directory: Path) -> str:
    """Say why the next container would not find what is in `directory`; empty where it would."""
    if not in_container(os.environ):
        return ""
    if kind_of(os.fsencode(directory)) in ("overlay", "aufs"):
        return "it is on the container's own layer, and lost with it"
    with suppress(OSError), MOUNTS.open(encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            root, mounted_on = line.split()[3:5]
            if mounted_on == str(directory) and _ANONYMOUS.search(root):
                return "it is a volume without a name, and the next container gets another"
    return ""


def _database(config: Config, *, is_daemons: bool) -> Iterator[Finding]:
    try:
        verdict, base_url, echoes, rolled_back, sizes = views.read(
            config.state.directory, _examine_database
        )
    except NoStateError:
        yield Finding("database", good=True, text="none yet; the first run makes it")
        return
    except ForeignStateError as error:
        yield bad("database", str(error), "see there", error.exit_code)
        return
    except StateError as error:
        yield bad("database", str(error), "stop syncd, and put the newest backup in its place")
        return
    if verdict != "ok":
        yield bad(
            "database", f"damaged: {verdict}", "stop syncd, and put the newest backup in its place"
        )
    else:
        yield Finding("database", good=True, text="whole")
    # Beside a daemon, this shell need not know which service it is.
    is_unsure = is_daemons or "api" in config.unusable
    if base_url not in (None, config.api.base_url) and not is_unsure:
        yield bad(
            "service",
            f"the state belongs to {base_url}, and not to {config.api.base_url}",
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


def _examine_database(
    db: Transaction,
) -> tuple[str, str | None, dict[str, bool], str, str | None]:
    base_url = fact(db, "base_url") if has_reached(db) else None
    checked = views.quick_check(db), base_url, echo.echoes(db)
    return (*checked, rollback.unchecked(db), fact(db, SIZES))


_OF_VIDEOS = {"video": " of videos", "video, processed": " of processed videos"}


def kinds(known: Collection[str]) -> str:
    """Return kinds of uploads in words."""
    if {*known} == {*echo.KINDS}:
        return "every upload"
    parted = (kind.partition(" ") for kind in known)
    return ", ".join(f"{method} uploads{_OF_VIDEOS.get(of, '')}" for method, _, of in parted)


def _echo(echoes: dict[str, bool]) -> Finding:
    """Say for which kinds of upload the service echoes names."""
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


def _daemon(directory: Path) -> Iterator[Finding]:
    pid = lock_holder(directory)
    if pid is None:
        yield Finding("daemon", good=True, text="none is running")
        return
    beat = vitals.read(directory)
    if not vitals.is_alive(directory, time.time()):
        yield bad(
            "daemon",
            f"process {pid} has the state, and does not report",
            "wait if it is a `syncd once`, or has just started; else restart it",
        )
    elif beat is not None and beat.version != __version__:
        yield bad(
            "daemon",
            f"process {pid} is version {beat.version}, this is {__version__}",
            "restart it",
        )
    else:
        yield Finding("daemon", good=True, text=f"process {pid} works")


# The folders


def _folder(folder: Folder) -> Iterator[Finding]:
    name, shown = f"folder {printable(folder.name)}", printable(str(folder.path))
    try:
        root = identify(folder.place, os.fsencode(folder.marker))
        unreadable, unruly = _looked_through(folder)
    except OSError as error:
        is_there = not isinstance(error, FileNotFoundError)
        fix = f"let user {os.getuid()} read it" if is_there else "mount it or make it"
        yield bad(name, f"{shown}: {error.strerror}", f"{fix}; nothing is deleted meanwhile")
        return
    if unreadable:
        yield bad(
            name,
            f"{shown}: {len(unreadable)} cannot be read, such as {printable(unreadable[0])}",
            f"let user {os.getuid()} read them, or exclude them",
        )
        return
    if unruly:
        yield bad(
            name,
            f"{shown}: nothing is sent from {counted(len(unruly), 'directory', 'directories')}: "
            f"{printable(unruly[0])}",
            f"mend each {IGNORE_FILE} there, or remove it",
        )
        return
    reason = why_polling(folder.place) if folder.watch == "auto" else ""
    polled = folder.watch == "polling" or reason
    how = f"polled ({reason or 'as configured'})" if polled else "watched by events"
    yield Finding(name, good=True, text=f"{shown}: {kind_of(folder.place) or 'unknown'}, {how}")
    yield _known_by(folder, root)


def _known_by(folder: Folder, root: RootIdentity) -> Finding:
    """Say what tells the folder from another one in its place."""
    name = f"root of {printable(folder.name)}"
    if folder.root == "any":
        return Finding(name, good=True, text="any: whatever is at the path; nothing is deleted")
    if not root.is_stable:
        text = "nothing tells it from another folder in its place: nothing is deleted remotely"
        fix = f"put a file into it, and name that file in its settings: marker = {EXAMPLE!r}"
        return bad(name, text, fix)
    inode = f", inode {root.inode}" if root.inode else ""
    marker = f", marker {printable(folder.marker)}" if folder.marker else ""
    return Finding(name, good=True, text=f"known by {printable(root.filesystem)}{inode}{marker}")


def _taking_away(folder: Folder, state: Path) -> Iterator[Finding]:
    """Yield whether files can be taken away after their upload, as the folder asks for."""
    name = f"folder {printable(folder.name)}"
    moves = folder.after_upload == "move" and folder.move_to
    target = os.fsencode(moves) if moves else None
    why = relocation.obstacle(folder.place, target, None)
    if not why:
        with suppress(StateError):
            why = views.read(state, obstacles).get(folder.name, "")
    if why:
        fix = (
            f"let user {os.getuid()} write there, or set after_upload to what can be done; the "
            "files are synced meanwhile"
        )
        yield bad(name, f"after_upload: {printable(why)}", fix)


def _looked_through(folder: Folder) -> tuple[list[bytes], list[str]]:
    """Return what should be synced and cannot be read, and which rules cannot be used.

    The uppermost come first; only so much is looked at. OSError where the folder itself cannot be
    listed.
    """
    rules, unreadable, unruly, looked_at = rules_of(folder), list[bytes](), list[str](), 0
    directories: deque[tuple[bytes, IgnoreFiles]] = deque([(b"", ())])
    with Descent(folder.place) as descent:
        while directories and looked_at < MOST_LOOKED_AT:
            directory, above = directories.popleft()
            try:
                descriptor = descent.enter(directory)
                with disk.entries_of(descriptor) as listed:
                    entries = [(entry, entry.is_dir(follow_symlinks=False)) for entry in listed]
            except OSError as error:
                if not directory:
                    raise
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    unreadable.append(directory)
                continue
            looked_at += len(entries)
            try:
                above = rules.read(descriptor, directory, above)
            except UnreadableError as error:
                unruly.append(str(error))
                continue
            for entry, is_dir in entries:
                wanted = os.R_OK | os.X_OK if is_dir else os.R_OK
                readable = entry.is_symlink() or os.access(entry.name, wanted, dir_fd=descriptor)
                path = _beneath(directory, entry.name)
                if readable and not is_dir:
                    continue
                if rules.entry(path, is_dir=is_dir, files=above).excluded:
                    continue
                if readable:
                    directories.append((path, above))
                else:
                    unreadable.append(path)
    return unreadable, unruly


def _beneath(directory: bytes, name: str) -> bytes:
    return directory + b"/" + os.fsencode(name) if directory else os.fsencode(name)


# The machine


def _limits(config: Config) -> Iterator[Finding]:
    native = [
        folder
        for folder in config.folders
        if folder.watch == "native" or (folder.watch == "auto" and not why_polling(folder.place))
    ]
    needed = sum(_directories(folder.place) for folder in native)
    limit = _kernel_limit("max_user_watches")
    if limit is not None and needed > limit:
        wanted = max(2 * needed, 524_288)
        yield bad(
            "watches",
            f"{needed:,} directories, and the limit is {limit:,}: the others are polled",
            f"sysctl -w fs.inotify.max_user_watches={wanted} (to stay: /etc/sysctl.d)",
        )
    elif native:
        yield Finding("watches", good=True, text=f"{needed:,} needed, the limit is {limit or 0:,}")
    instances = _kernel_limit("max_user_instances")
    if instances is not None and instances < len(native) + 8:
        yield bad(
            "watches",
            f"{len(native)} folders, and the user may have {instances} inotify instances in all",
            "sysctl -w fs.inotify.max_user_instances=512 (to stay: /etc/sysctl.d)",
        )
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < LEAST_FILES:
        yield bad(
            "open files", f"the limit is {files}", "ulimit -n 4096, or LimitNOFILE= in the unit"
        )
    else:
        yield Finding("open files", good=True, text=f"the limit is {files:,}")


def _directories(root: bytes) -> int:
    """Count the directories of a folder, up to a bound, following no link."""
    count, waiting = 0, [b""]
    with Descent(root) as descent:
        while waiting and count < MOST_COUNTED:
            directory = waiting.pop()
            count += 1
            with suppress(OSError), disk.entries_of(descent.enter(directory)) as entries:
                found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
                waiting += [_beneath(directory, name) for name in found]
    return count


def _kernel_limit(name: str) -> int | None:
    try:
        return int(Path("/proc/sys/fs/inotify", name).read_text("ascii"))
    except (OSError, ValueError):
        return None


def _free_bytes(directory: Path) -> int:
    filesystem = os.statvfs(directory)
    return filesystem.f_bavail * filesystem.f_frsize
