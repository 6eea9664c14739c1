"""The kinds of fault of the liveness rig: each strikes, yields the sign that it did, and ends."""

import os
import resource
import signal
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from disk_rig import fill
from liveness_rig import ITS_WRITER, NOTHING, Site, kind, wait, write

Struck = Iterator[Callable[[], object]]
PRESIGNED = {"SYNCD_UPLOAD__METHOD": "presigned"}
DIRECT = {"SYNCD_UPLOAD__METHOD": "direct"}
POST, CREATE = "POST /v2/files/-/uploads", "POST /v2/files"
PUT, DELETE = "PUT /_storage/{name}", "DELETE /v2/files/{file_uuid}"
UNREACHABLE = "cannot be reached: .*tried again at"
#: As root without root's right to read and write what belongs to others, or is forbidden.
NO_OVERRIDE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search",
               "--inh-caps=-dac_override,-dac_read_search")  # fmt: skip


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=20)


def always() -> bool:
    return True


# Odd files: they arrive, or fail alone


@kind("a file dated 2300, one dated 1600", NOTHING)
def far_dates(site: Site) -> Struck:
    for name, year in (("future", 2300), ("past", 1600)):
        path = site.drop_file(name)
        at = (year - 1970) * 31_556_952
        os.utime(path, (at, at))
    yield lambda: site.drop.joinpath("future").stat().st_mtime > 2**33


@kind("names that are no text", NOTHING)
def odd_names(site: Site) -> Struck:
    for name in (b"caf\xe9", b"new\nline", b"\x1b]0;title\x07", b"-c", b"x" * 255):
        (site.drop / os.fsdecode(name)).write_bytes(name)
    yield (site.drop / os.fsdecode(b"caf\xe9")).exists


@kind("a tree of 1,500 levels", NOTHING)
def deep_tree(site: Site) -> Struck:
    at = os.open(site.drop, os.O_DIRECTORY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=at)
        deeper = os.open("d", os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = deeper
    descriptor = os.open("deep", os.O_WRONLY | os.O_CREAT, dir_fd=at)
    os.write(descriptor, b"deep")
    os.close(descriptor)
    os.close(at)
    yield lambda: site.is_live(b"deep")


@kind("a rule that cannot be understood", "syncdignore cannot be used")
def broken_rules(site: Site) -> Struck:
    write(site.drop / ".syncdignore", b"caf\xe9\n[z-a]\n")
    yield lambda: "[z-a]" in (site.drop / ".syncdignore").read_text("latin-1")
    write(site.drop / ".syncdignore", b"caf\xe9\n[a-z]\n")


@kind("pipes, sockets and devices among the files", NOTHING)
def special_files(site: Site) -> Struck:
    os.mkfifo(site.drop / "pipe")
    os.mknod(site.drop / "device", 0o600 | 0o020000, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(site.drop / "socket"))
    (site.drop / "loop").symlink_to("loop")
    yield lambda: site.drop.joinpath("pipe").is_fifo()


@kind("a file that its writer keeps open", ITS_WRITER, drops=0)
def kept_open(site: Site) -> Struck:
    with (site.drop / "open").open("wb", buffering=0) as file:
        file.write(b"begun")
        yield lambda: site.word("open") == "settling"
        if (word := site.word("open")) != "settling":
            raise AssertionError(f"it is {word} while its writer has it open")
        file.write(b" and done")


@kind("a file that grows and grows", ITS_WRITER, drops=0)
def growing(site: Site) -> Struck:
    over = threading.Event()

    def grow() -> None:
        while not over.wait(0.5):
            with (site.drop / "growing").open("ab") as file:
                file.write(b"more and ")

    thread = threading.Thread(target=grow, daemon=True)
    thread.start()
    yield lambda: site.word("growing") == "settling"
    over.set()
    thread.join()


@kind("a file that may not be read", "1 file failed", wrapped=NO_OVERRIDE)
def unreadable_file(site: Site) -> Struck:
    path = site.drop_file("shut")
    path.chmod(0)
    yield lambda: "ermission denied" in site.error("shut")
    path.chmod(0o644)


@kind("a directory that may not be read", "shut: Permission denied", wrapped=NO_OVERRIDE)
def unreadable_directory(site: Site) -> Struck:
    shut = site.place / "made"
    (shut / "within").mkdir(parents=True)
    (shut / "within" / "file").write_bytes(b"within")
    shut.chmod(0)
    shut.rename(site.drop / "shut")
    yield lambda: (site.drop / "shut").stat().st_mode & 0o777 == 0
    (site.drop / "shut").chmod(0o755)


@kind("events that were lost", NOTHING, drops=0)
def overflow(site: Site) -> Struck:
    site.daemon.send_signal(signal.SIGSTOP)
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(limit):
        # Hidden: noticed, and left out.
        hidden = site.drop / f".{number}"
        hidden.touch()
        hidden.unlink()
    site.drop_file("lost")
    site.daemon.send_signal(signal.SIGCONT)
    yield lambda: any("events were lost" in f["watch_reason"] for f in site.status()["folders"])


# Disks and folders


@contextmanager
def bindfs(source: Path, root: Path) -> Iterator["subprocess.Popen[bytes]"]:
    server = subprocess.Popen(["bindfs", "-f", source, root], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        wait(lambda: os.path.ismount(root), 20, "bindfs mounts")
        yield server
    finally:
        server.send_signal(signal.SIGCONT)
        server.kill()
        server.wait()
        subprocess.run(["umount", "-l", root], check=False, capture_output=True)


def on_fuse(site: Site) -> "subprocess.Popen[bytes]":
    """Put the folder onto a FUSE server."""
    source = site.place / "source"
    source.mkdir()
    return site.stack.enter_context(bindfs(source, site.drop))


@kind("a FUSE folder that hangs", "drop has been running", drops=0,
      folder={"marker": ".mark"}, starts="itself")  # fmt: skip
def fuse_hung(site: Site) -> Struck:
    server = on_fuse(site)
    write(site.drop / ".mark", b"")
    site.start()
    server.send_signal(signal.SIGSTOP)
    stat = f"/proc/{server.pid}/stat"
    yield lambda: Path(stat).read_text().split()[2] == "T"
    server.send_signal(signal.SIGCONT)


@kind(
    "a FUSE folder whose server dies",
    "drop: ",
    drops=0,
    folder={"marker": ".mark"},
    starts="itself",
)
def fuse_dead(site: Site) -> Struck:
    server = on_fuse(site)
    write(site.drop / ".mark", b"")
    site.start()
    server.kill()
    server.wait()
    yield lambda: not os.access(site.drop, os.F_OK)
    run("umount", "-l", site.drop)
    site.stack.enter_context(bindfs(site.place / "source", site.drop))
    site.drop_file()


@kind("a folder that is unmounted", "drop", drops=0, starts="itself")
def unmounted(site: Site) -> Struck:
    source = site.place / "source"
    source.mkdir()
    run("mount", "--bind", source, site.drop)
    site.stack.callback(subprocess.run, ["umount", "-l", site.drop], check=False,
                        capture_output=True)  # fmt: skip
    site.start()
    run("umount", "-l", site.drop)
    yield lambda: not any(site.drop.iterdir())
    run("mount", "--bind", source, site.drop)
    site.drop_file()


@kind("a folder that is renamed away", "drop: the folder cannot be listed", drops=0)
def renamed_away(site: Site) -> Struck:
    away = site.drop.rename(site.place / "away")
    yield lambda: not site.drop.exists()
    away.rename(site.drop)
    site.drop_file()


@kind("a folder with another in its place", "everything in drop held", drops=0)
def replaced(site: Site) -> Struck:
    away = site.drop.rename(site.place / "away")
    site.drop.mkdir()
    write(site.drop / "strange", b"strange")
    yield lambda: site.status()["holds"]
    site.drop.rename(site.place / "strange")
    away.rename(site.drop)
    site.drop_file()


@kind("a folder that is emptied", "deletions of drop held", drops=0)
def emptied(site: Site) -> Struck:
    for number in range(25):
        site.drop_file(f"many-{number}")
    wait(site.is_synced, 60, "25 files are synced")
    kept = site.place / "kept"
    kept.mkdir()
    for path in list(site.drop.iterdir()):
        path.rename(kept / path.name)
    yield lambda: site.word("many-1") in ("held", "deleting")
    for path in list(kept.iterdir()):
        path.rename(site.drop / path.name)


@contextmanager
def flawed_disk(place: Path) -> Iterator[tuple["subprocess.Popen[bytes]", Path, Path]]:
    """Mount an ext4 of its own; yield its server, where it is, and the file that breaks it."""
    place.mkdir()
    image, export, disk, broken = (place / name for name in ("image", "nbd", "disk", "broken"))
    with image.open("wb") as file:
        file.truncate(64 << 20)
    run("mkfs.ext4", "-q", "-F", image)
    export.touch()
    disk.mkdir()
    server = subprocess.Popen(
        ["nbdfuse", export, "--command", "nbdkit", "-s", "--filter=error", "file", image,
         "error-pread=EIO", "error-pread-rate=100%", f"error-pread-file={broken}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait(lambda: export.stat().st_size > 0, 20, "nbdfuse serves")
        run("mount", "-o", "loop", export, disk)
        yield server, disk, broken
    finally:
        server.send_signal(signal.SIGCONT)
        broken.unlink(missing_ok=True)
        subprocess.run(["umount", "-l", disk], check=False, capture_output=True)
        subprocess.run(["fusermount3", "-u", "-z", export], check=False, capture_output=True)
        server.terminate()
        server.wait(20)


def forget_pages(path: Path) -> None:
    """Have a file's content be read from the disk again."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


@kind("a disk that fails to read a file", "file.? failed", drops=0, starts="itself")
def unreadable_disk(site: Site) -> Struck:
    _, disk, broken = site.stack.enter_context(flawed_disk(site.place / "flawed"))
    run("mount", "--bind", disk, site.drop)
    site.stack.callback(subprocess.run, ["umount", "-l", site.drop], check=False,
                        capture_output=True)  # fmt: skip
    subprocess.run(["rmdir", site.drop / "lost+found"], check=False)
    site.start()
    path = site.drop_file("bad", os.urandom(100_000))
    os.sync()
    broken.touch()
    forget_pages(path)
    yield lambda: "nput/output" in site.error("bad") or "I/O" in site.error("bad")
    broken.unlink()


@kind("an upload's target that is read-only", "not taken away after their upload",
      folder={"after_upload": "move", "move_to": "{place}/moved"}, starts="itself")  # fmt: skip
def read_only_target(site: Site) -> Struck:
    target = site.place / "moved"
    target.mkdir()
    site.taken.append(target)
    run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", target)
    site.stack.callback(subprocess.run, ["umount", "-l", target], check=False,
                        capture_output=True)  # fmt: skip
    site.start()
    run("mount", "-o", "remount,ro", target)
    yield lambda: site.status()["reasons"]
    run("mount", "-o", "remount,rw", target)
    wait(lambda: not any(site.drop.iterdir()), 60, "what was sent is taken away")


# The daemon's own machine


@kind("too few inotify watches", "max_user_watches|polling|watched", starts="after",
      wrapped=("unshare", "-U", "-r", "sh", "-c",
               'echo 3 >/proc/sys/user/max_inotify_watches; exec "$@"', "sh"))  # fmt: skip
def few_watches(site: Site) -> Struck:
    for number in range(8):
        (site.drop / f"sub-{number}").mkdir()
        write(site.drop / f"sub-{number}" / "file", b"%d" % number)
    yield lambda: any(f["watch"] == "polling" or "watch" in f["watch_reason"]
                      for f in site.status()["folders"]) or site.status()["reasons"]  # fmt: skip
    more = "echo 8192 >/proc/sys/user/max_inotify_watches"
    run("nsenter", "-U", "--preserve-credentials", "-t", site.pid, "sh", "-c", more)


@kind(
    "a state disk that is full",
    "nothing is sent or deleted",
    beside="nothing",
    drops=3,
    starts="itself",
)
def full_state(site: Site) -> Struck:
    site.state.mkdir(mode=0o700)
    run("mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", site.state)
    site.stack.callback(subprocess.run, ["umount", "-l", site.state], check=False,
                        capture_output=True)  # fmt: skip
    site.start()
    fill(site.state)
    yield lambda: os.statvfs(site.state).f_bavail == 0
    for ballast in site.state.glob("ballast-*"):
        ballast.unlink()


@kind("a state database that another holds", "cannot be written|not answered", beside="nothing",
      drops=3)  # fmt: skip
def locked_state(site: Site) -> Struck:
    with closing(sqlite3.connect(site.state / "state.db", isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        yield lambda: db.in_transaction
        db.execute("ROLLBACK")


@kind("a daemon that is stopped", "has not reported", beside="nothing")
def stopped(site: Site) -> Struck:
    site.daemon.send_signal(signal.SIGSTOP)
    yield lambda: Path(f"/proc/{site.pid}/stat").read_text().split()[2] == "T"
    site.daemon.send_signal(signal.SIGCONT)


@kind("no more open files", "open files|has not reported", beside="nothing", drops=3)
def few_descriptors(site: Site) -> Struck:
    soft, hard = resource.prlimit(site.pid, resource.RLIMIT_NOFILE)
    here = max(int(path.name) for path in Path(f"/proc/{site.pid}/fd").iterdir())
    resource.prlimit(site.pid, resource.RLIMIT_NOFILE, (here + 1, hard))
    yield lambda: "open files" in (site.place / "log").read_text()
    resource.prlimit(site.pid, resource.RLIMIT_NOFILE, (soft, hard))


@kind("a service manager that does not listen", NOTHING, starts="after")
def deaf_manager(site: Site) -> Struck:
    end = site.stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    site.notify = str(site.place / "notify")
    end.bind(site.notify)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        other.connect(site.notify)
        try:
            while other.send(b"x"):
                pass
        except BlockingIOError:
            pass

    def is_full() -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.setblocking(False)
            try:
                one.connect(site.notify)
                one.send(b"x")
            except BlockingIOError:
                return True
        return False

    yield is_full


# The service answers wrongly


def at_the_service(
    name: str, told: str, match: str, action: object, *, rule: dict[str, object] | None = None,
    **more: object,
) -> None:  # fmt: skip
    """Make a kind of what the emulator does on demand."""

    @kind(name, told, **{"beside": "noticing", **more})
    def strikes(site: Site) -> Struck:
        yield site.faults(match, action, **(rule or {}))
        site.service.faults()


EVERY = "* /v2/*"
at_the_service("every request answered 500", UNREACHABLE, EVERY, {"status": 500}, drops=8)
at_the_service("every request answered 503", UNREACHABLE, EVERY, {"status": 503}, drops=8)
at_the_service("503 with Retry-After: 20", "asked to wait", EVERY,
               {"status": 503, "retry_after": 20}, drops=2)  # fmt: skip
at_the_service("429 with Retry-After: 20", "asked to wait", EVERY,
               {"status": 429, "retry_after": 20}, drops=8)  # fmt: skip
at_the_service("429 without Retry-After", "asked to wait|tried again at", EVERY, {"status": 429},
               drops=8)  # fmt: skip
at_the_service("a key that is refused (401)", "key", EVERY, {"status": 401}, drops=2)
at_the_service("a workspace that is forbidden (403)", "may not use it", EVERY, {"status": 403},
               drops=2)  # fmt: skip
at_the_service("a quota that is used up (402)", "quota", "POST /v2/*", {"status": 402}, drops=2)
at_the_service("a validator that refuses all (400)", "refuses file after file", "POST /v2/*",
               {"status": 400}, drops=12)  # fmt: skip
at_the_service("a validator that refuses all (422)", "refuses file after file", "POST /v2/*",
               {"status": 422}, drops=12, env=PRESIGNED)  # fmt: skip
at_the_service("uploads answered 404", "could not be sent|refuses file", "POST /v2/*",
               {"status": 404}, drops=3)  # fmt: skip
at_the_service("uploads answered 405", "could not be sent|refuses file", "POST /v2/*",
               {"status": 405}, drops=12)  # fmt: skip
at_the_service("a storage that answers 500", UNREACHABLE, PUT, {"status": 500}, drops=8,
               env=PRESIGNED)  # fmt: skip
at_the_service("a storage that answers 400", "could not be sent|refuses|cannot be reached", PUT,
               {"status": 400}, drops=8, env=PRESIGNED)  # fmt: skip
at_the_service("a storage that answers 403", "could not be sent|refuses|cannot be reached", PUT,
               {"status": 403}, drops=8, env=PRESIGNED)  # fmt: skip
at_the_service("a storage that answers 404", "could not be sent|refuses|cannot be reached", PUT,
               {"status": 404}, drops=8, env=PRESIGNED)  # fmt: skip
at_the_service("a storage that answers 429", "asked to wait|tried again at", PUT,
               {"status": 429, "retry_after": 15}, drops=4, env=PRESIGNED)  # fmt: skip
at_the_service("a storage that breaks off", UNREACHABLE, PUT, "drop_before", drops=8,
               env=PRESIGNED)  # fmt: skip
at_the_service("one transfer that stalls", "no byte moves|no byte", PUT, {"delay": 3600},
               rule={"times": 1}, env=PRESIGNED, beside="other folder")  # fmt: skip
at_the_service("one upload that stalls", "no byte moves|without", POST, {"delay": 3600},
               rule={"times": 1}, env=DIRECT, beside="other folder")  # fmt: skip
at_the_service("connections that break off", UNREACHABLE, EVERY, "drop_before", drops=8)
at_the_service("answers that are no JSON", "without a sure answer",
               "POST /v2/*", "garbage", drops=8)  # fmt: skip
at_the_service("listings and lookups answered 500", UNREACHABLE, "GET /v2/*", {"status": 500},
               drops=8, env=PRESIGNED)  # fmt: skip


@kind("one file that is refused (415)", "1 file (failed|could not)", drops=0)
def one_bad_file(site: Site) -> Struck:
    # A large one is reserved before it is sent, and the others are not.
    struck = site.faults(CREATE, {"status": 415})
    site.drop_file("large", os.urandom(33 << 20))
    yield struck
    site.service.faults()
    write(site.drop / "large", b"another content, in its place")


@kind("a storage that stores nothing and says 200", "without a sure answer",
      env=PRESIGNED, beside="noticing", drops=2)  # fmt: skip
def lying_storage(site: Site) -> Struck:
    yield site.faults(PUT, "lie")
    site.service.faults()


def deleting(name: str, told: str, action: object) -> None:
    @kind(name, told, drops=0, folder={"grace_seconds": 5})
    def strikes(site: Site) -> Struck:
        site.drop_file("doomed")
        wait(site.is_synced, 60, "it is synced")
        struck = site.faults(DELETE, action)
        (site.drop / "doomed").unlink()
        yield struck
        site.service.faults()


deleting("a DELETE that is refused (405)", "not deleted remotely", {"status": 405})
deleting("a DELETE that is forbidden (403)", "not deleted remotely|may not", {"status": 403})
deleting("a DELETE answered 500", "not deleted remotely|cannot be reached", {"status": 500})
deleting("a DELETE that a gateway answers 200", "not deleted remotely|cannot be", "lie")


@kind("a service that is down", UNREACHABLE, beside="noticing", drops=4)
def down(site: Site) -> Struck:
    site.service.__exit__()
    yield lambda: site.service._process.poll() is not None
    site.service.__enter__()


@kind("a service that hangs", "no byte moves|cannot be reached|no answer|tried again",
      beside="noticing", drops=8)  # fmt: skip
def hanging(site: Site) -> Struck:
    process = site.service._process
    process.send_signal(signal.SIGSTOP)
    yield lambda: Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "T"
    process.send_signal(signal.SIGCONT)


def at_the_gateway(name: str, told: str, mode: str, **more: object) -> None:
    """Make a kind of what stands between syncd and the service."""

    @kind(name, told, **{"beside": "noticing", "drops": 12, "by_gateway": True, **more})
    def strikes(site: Site) -> Struck:
        site.gateway.set(mode)
        yield lambda: site.gateway.struck
        site.gateway.set("pass")


REFUSES = "refuses file after file|cannot be reached|could not be sent"
at_the_gateway("a gateway's page with 400", REFUSES, "html 400")
at_the_gateway("a gateway's page with 404", REFUSES, "html 404")
at_the_gateway("a gateway's page with 405", REFUSES, "html 405")
at_the_gateway("a gateway's page with 410", REFUSES, "html 410")
at_the_gateway("a gateway's page with 502", UNREACHABLE, "html 502")
at_the_gateway("a portal's page with 200", UNREACHABLE, "html 200")
at_the_gateway("a portal that redirects (302)", UNREACHABLE, "html 302")
at_the_gateway("a proxy that wants a password (407)", "tried again|refuses|could not", "html 407")
at_the_gateway("connections that are reset", UNREACHABLE, "reset")
at_the_gateway("a gateway that swallows all", "no byte moves|cannot be reached|no answer", "hang")
at_the_gateway("answers a byte a second", "no byte moves|cannot be reached|no answer", "trickle")


# SIGTERM while something hangs: it ends in time, and the next daemon works beside it

kind("SIGTERM while a FUSE folder hangs", "drop has been running", drops=0, starts="itself",
     folder={"marker": ".mark"}, ends=True)(fuse_hung)  # fmt: skip


@kind("SIGTERM while a disk hangs", "is being sent, and no byte|has been running", drops=0,
      starts="itself", ends=True)  # fmt: skip
def disk_hung(site: Site) -> Struck:
    server, disk, _ = site.stack.enter_context(flawed_disk(site.place / "flawed"))
    subprocess.run(["rmdir", disk / "lost+found"], check=False)
    run("mount", "--bind", disk, site.drop)
    site.stack.callback(subprocess.run, ["umount", "-l", site.drop], check=False,
                        capture_output=True)  # fmt: skip
    site.start()
    path = site.drop_file("large", os.urandom(8 << 20))
    os.sync()
    forget_pages(path)
    server.send_signal(signal.SIGSTOP)
    yield lambda: Path(f"/proc/{server.pid}/stat").read_text().split()[2] == "T"
    server.send_signal(signal.SIGCONT)


@kind("SIGTERM while a transfer stalls", "no byte moves", env=PRESIGNED, ends=True)
def stalled_at_the_end(site: Site) -> Struck:
    yield site.faults(PUT, {"delay": 3600}, times=1)
    site.service.faults()
