"""The body of watch_rig.sh: `real_watching.py SCRATCH`, as root, with mounts of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from urllib.request import urlopen

from syncd import heartbeat
from syncd.emulator import Emulator
from syncd.exceptions import NoStateError
from syncd.report import status
from syncd.state import manifest, overview, views

KEY = "a-key-of-the-rig"
OVERFLOWING = 20_000
FIRST_BYTES = b"first"
#: A file that vouches for a folder of which the filesystem tells nothing.
MARKER = ".syncd-root"


def run(*words, **more):
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, **more
    )
    if done.returncode:
        raise AssertionError(f"{words}: {done.stdout}{done.stderr}")
    return done.stdout


#: How much longer than a quiet machine a busy one may take.
PATIENCE = 4


def until(condition, seconds, what):
    deadline = time.monotonic() + PATIENCE * seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(0.1)
    return value


class Daemon:
    """A daemon process with folders of its own, beside an emulator."""

    def __init__(self, scratch, folders, *, prefix=(), rescan_seconds=300):
        self.scratch = scratch
        self.state = scratch / "state"
        self.folders = folders
        scratch.mkdir(exist_ok=True)
        self.log_path = scratch / "log"
        self.emulator = Emulator(data=scratch / "emulator", api_key=KEY)
        self.prefix = prefix
        self.rescan_seconds = rescan_seconds

    def __enter__(self):
        self.emulator.__enter__()
        tables = [
            {"path": str(path), "settle_seconds": 0.5, "grace_seconds": 1.0}
            | self._rescan()
            | ({"marker": MARKER} if (path / MARKER).exists() else {})
            for path in self.folders
        ]
        environment = {
            **os.environ,
            "SYNCD_STATE__DIRECTORY": str(self.state),
            "SYNCD_API__BASE_URL": self.emulator.url,
            "SYNCD_FOLDERS": json.dumps(tables),
            "AYMARA_AI_API_KEY": KEY,
        }
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "syncd", "run"],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(lambda: heartbeat.read(self.state), 30, self.log)
        return self

    def _rescan(self):
        return {"rescan_seconds": self.rescan_seconds}

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(30)
        self.emulator.__exit__(None, None, None)

    def log(self):
        return self.log_path.read_text()[-3000:]

    def status(self):
        return status.status(self.state, base_url=self.emulator.url)

    def folder(self, path):
        return next(f for f in self.status()["folders"] if f["path"] == str(path))

    def counts(self):
        try:
            return views.read(self.state, overview.summary)
        except NoStateError:
            return ""

    def manifest(self):
        return views.read(self.state, lambda db: list(manifest.entries(db)))

    def live(self):
        with urlopen(f"{self.emulator.url}/_emulator/objects", timeout=30) as answer:
            objects = [json.loads(line) for line in answer]
        return [o for o in objects if o["state"] == "live"], len(objects)

    def posts(self):
        with urlopen(f"{self.emulator.url}/_emulator/requests", timeout=30) as answer:
            return sum(json.loads(line)["method"] in ("POST", "PUT", "DELETE") for line in answer)

    def equals_disk(self):
        """Say whether each file is synced, and nothing else is, folder by folder."""
        rows = self.manifest()
        there = {
            (str(folder.name), str(path.relative_to(folder)))
            for folder in self.folders
            for path in folder.rglob("*")
            if path.is_file() and path.name not in ("lost+found", MARKER)
        }
        synced = {(row["folder"], row["path"]) for row in rows if row["status"] == "synced"}
        return synced == there and {row["status"] for row in rows} <= {"synced"}


class Filesystems:
    """The real thing: each filesystem mounted beneath `base`."""

    def __init__(self, base):
        self.base = base
        base.mkdir()
        self.server = None

    def __enter__(self):
        self.paths = {
            name: self.base / name for name in ("tmpfs", "ext4", "overlay", "sshfs", "exfat")
        }
        for path in self.paths.values():
            path.mkdir()
        run("mount", "-t", "tmpfs", "tmpfs", self.paths["tmpfs"])
        for kind, size in (("ext4", "32M"), ("exfat", "32M")):
            image = self.base / f"{kind}.img"
            run("truncate", "-s", size, image)
            run(f"mkfs.{kind}", *(["-q"] if kind == "ext4" else []), image)
        self.mount_ext4()
        self.mount_exfat()
        layers = self.base / "layers"
        for name in ("lower", "upper", "work"):
            (layers / name).mkdir(parents=True)
        # An overlay's upper layer cannot be an overlay, which a container's own disk often is.
        run("mount", "-t", "tmpfs", "tmpfs", layers)
        for name in ("lower", "upper", "work"):
            (layers / name).mkdir()
        options = f"lowerdir={layers}/lower,upperdir={layers}/upper,workdir={layers}/work"
        run("mount", "-t", "overlay", "overlay", "-o", options, self.paths["overlay"])
        self.mount_sshfs()
        return self

    def mount_ext4(self):
        run("mount", "-o", "loop", self.base / "ext4.img", self.paths["ext4"])

    def mount_exfat(self):
        loop = run("losetup", "--find", "--show", self.base / "exfat.img").strip()
        run("mount.exfat-fuse", loop, self.paths["exfat"])
        self.loop = loop

    def remount(self, name):
        run("umount", self.paths[name])
        if name == "exfat":
            time.sleep(0.5)
            run("losetup", "--detach", self.loop)
        getattr(self, f"mount_{name}")()

    def mount_sshfs(self):
        far = self.base / "far"
        far.mkdir()
        # In place of ssh the server itself: sshfs speaks to it over a pipe, and no port is open.
        command = self.base / "instead-of-ssh"
        command.write_text(f'#!/bin/sh\nexec "{sftp_server()}"\n')
        command.chmod(0o755)
        run("sshfs", f"rig:{far}", self.paths["sshfs"], "-o", f"ssh_command={command}")

    def __exit__(self, *_):
        for path in (*self.paths.values(), self.base / "layers"):
            subprocess.run(["umount", "-l", path], capture_output=True, check=False)
        subprocess.run(["losetup", "--detach", self.loop], capture_output=True, check=False)


def sftp_server():
    for place in ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server"):
        if Path(place).exists():
            return place
    raise AssertionError("openssh's sftp-server is not installed")


def filesystems(scratch):
    """One daemon, five filesystems: files come, change, move and go; a remount makes no traffic."""
    with Filesystems(scratch / "disks") as disks:
        folders = list(disks.paths.values())
        (disks.paths["exfat"] / MARKER).touch()
        with Daemon(scratch / "fs", folders) as daemon:
            for folder in folders:
                (folder / "d").mkdir()
                (folder / "a.txt").write_bytes(b"a in " + folder.name.encode())
                (folder / "d/b.txt").write_bytes(b"b in " + folder.name.encode())
            until(daemon.equals_disk, 40, lambda: f"{daemon.manifest()}\n{daemon.log()}")
            kinds = {name: daemon.folder(path)["watch"] for name, path in disks.paths.items()}
            assert kinds == {
                **dict.fromkeys(("tmpfs", "ext4"), "native"),
                **dict.fromkeys(("overlay", "sshfs", "exfat"), "polling"),
            }, kinds
            for path in disks.paths.values():
                folder = daemon.folder(path)
                assert (folder["watch"] == "polling") == bool(folder["watch_reason"])
            for folder in folders:
                (folder / "a.txt").write_bytes(b"changed in " + folder.name.encode())
                (folder / "d").rename(folder / "e")
            # Changes unseen on this side of the mount: the far side of sshfs, a lower layer.
            (disks.base / "far/far.txt").write_bytes(b"far")
            until(daemon.equals_disk, 40, lambda: f"{daemon.manifest()}\n{daemon.log()}")
            for folder in folders:
                (folder / "a.txt").unlink()
            until(daemon.equals_disk, 40, lambda: f"{daemon.manifest()}\n{daemon.log()}")
            before = daemon.posts()
            moved = [r for r in daemon.manifest() if r["path"] == "e/b.txt"]
            assert len(moved) == 5
            time.sleep(1)
            disks.remount("ext4")
            disks.remount("exfat")
            time.sleep(18)
            assert daemon.posts() == before, daemon.log()
            assert daemon.equals_disk(), daemon.manifest()


def overflow(scratch):
    """20,000 files while the daemon is stopped: the overflow is seen, each is synced once."""
    root = scratch / "many"
    root.mkdir()
    with Daemon(scratch / "overflow", [root]) as daemon:
        (root / "first").write_bytes(FIRST_BYTES)
        until(daemon.equals_disk, 20, daemon.log)
        os.kill(daemon.process.pid, signal.SIGSTOP)
        for number in range(OVERFLOWING):
            (root / str(number)).write_bytes(b"%d" % number)
        os.kill(daemon.process.pid, signal.SIGCONT)
        until(lambda: "overflowed" in daemon.log_path.read_text(), 30, daemon.log)
        slowest = 0.0

        def all_there():
            nonlocal slowest
            # CPU time of its own: other load on this machine is not the daemon's doing.
            began = time.thread_time()
            counts = daemon.status()["counts"]
            slowest = max(slowest, time.thread_time() - began)
            return counts == {"synced": OVERFLOWING + 1}

        until(all_there, 240, lambda: f"{daemon.status()['counts']} {daemon.log()}")
        live, ever = daemon.live()
        assert len(live) == ever == OVERFLOWING + 1, (len(live), ever)
        assert set(Counter(o["sha256"] for o in live).values()) == {1}
        print(f"      the slowest status took {slowest:.2f} s of CPU")
        assert slowest < 1.0, slowest


def watch_limit(scratch):
    """Four watches for twelve directories: told with its remedy; the rest is polled."""
    root = scratch / "wide"
    for number in range(11):
        (root / f"d{number}").mkdir(parents=True)
    limited = ("unshare", "--user", "--map-root-user", "sh", "-c")
    script = 'echo 4 > /proc/sys/user/max_inotify_watches && exec "$@"'
    with Daemon(scratch / "limit", [root], prefix=(*limited, script, "sh")) as daemon:
        until(lambda: daemon.folder(root)["directories"] == 12, 20, daemon.log)
        folder = daemon.folder(root)
        assert (folder["watch"], folder["watched_directories"]) == ("native", 4), folder
        reasons = " ".join(daemon.status()["reasons"])
        assert "run: sysctl -w fs.inotify.max_user_watches=" in reasons, reasons
        for number in range(11):
            (root / f"d{number}/a").write_bytes(b"%d" % number)
        until(daemon.equals_disk, 30, lambda: f"{daemon.manifest()}{daemon.log()}")


def open_files(scratch):
    """64 open files and no more: nothing is missing, everything arrives."""
    folders = [scratch / "few1", scratch / "few2"]
    for folder in folders:
        folder.mkdir()
        for number in range(150):
            (folder / str(number)).write_bytes(f"{folder} {number}".encode())
    limited = ("prlimit", "--nofile=64:64", "--")
    with Daemon(scratch / "nofile", folders, prefix=limited) as daemon:
        until(daemon.equals_disk, 60, lambda: f"{daemon.counts()}{daemon.log()}")
        assert daemon.status()["holds"] == []


def stopped(scratch):
    """A daemon that stood still scans every folder when it goes on."""
    root = scratch / "still"
    root.mkdir()
    with Daemon(scratch / "stopped", [root]) as daemon:
        # It answers before it has started whole, and only then notices that it stands still.
        until(lambda: "sending to" in daemon.log_path.read_text(), 30, daemon.log)
        os.kill(daemon.process.pid, signal.SIGSTOP)
        (root / "a").write_bytes(b"meanwhile")
        time.sleep(13)
        os.kill(daemon.process.pid, signal.SIGCONT)
        until(lambda: "stood still for" in daemon.log_path.read_text(), 10, daemon.log)
        until(daemon.equals_disk, 20, daemon.log)


def main(scratch, *chosen):
    passed = failed = 0
    for part in (filesystems, watch_limit, open_files, stopped, overflow):
        if chosen and part.__name__ not in chosen:
            continue
        began = time.monotonic()
        try:
            part(Path(scratch))
        except Exception:
            failed += 1
            print(f"FAIL  {part.__doc__}", *traceback.format_exc().splitlines(), sep="\n      | ")
        else:
            passed += 1
            print(f"ok    {part.__doc__} ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
