#!/usr/bin/env python3
"""Takes real mounts away under a running syncd, in every way, and counts what it asks to change.

Each case is a watch folder on a mount of its own, with files that are synced. The mount goes; syncd
has more than its grace to be wrong; the mount comes back. Not one DELETE may have been sent, and
not one request that changes anything on the return. Root; about a minute; needs `bindfs` and the
`mkfs` of each kind of disk.
"""

# row: 5, 6

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

FILES = 6
GRACE = 1.5
#: By how much an older image must be older for it to be told.
PUT_BACK_SECONDS = 6.0
KEY = "a-key-of-the-rig"
CHANGES = ("POST", "PUT", "PATCH", "DELETE")


def run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=20)


class Case:
    """One folder on one mount, and how it is taken away and given back."""

    def __init__(self, place: Path) -> None:
        self.source, self.root = place / "source", place / "mnt"
        self.source.mkdir(parents=True)
        self.root.mkdir()
        for number in range(FILES):
            name = f"d{number % 2}/file-{number}"
            (self.source / name).parent.mkdir(exist_ok=True)
            (self.source / name).write_bytes(f"{place.name} {number}".encode())

    def mount(self) -> None:
        run("mount", "--bind", self.source, self.root)

    def take(self) -> None:
        raise NotImplementedError

    def give_back(self) -> None:
        self.mount()

    def end(self) -> None:
        for _ in range(3):
            subprocess.run(["umount", "-l", self.root], check=False, capture_output=True)


class Unmounted(Case):
    """umount"""

    def take(self) -> None:
        # A reader keeps it busy for a moment.
        for attempt in range(50):
            try:
                run("umount", self.root)
            except subprocess.CalledProcessError:
                if attempt == 49:
                    raise
                time.sleep(0.1)
            else:
                return


class Detached(Case):
    """umount -l"""

    def take(self) -> None:
        run("umount", "-l", self.root)


class BoundOver(Case):
    """another folder bound over it"""

    def take(self) -> None:
        over = self.root.parent / "over"
        over.mkdir()
        # Not empty, and nothing that would be uploaded.
        (over / ".something-else").write_bytes(b"of others")
        run("mount", "--bind", over, self.root)

    def give_back(self) -> None:
        run("umount", "-l", self.root)


class EmptyDisk(Case):
    """an empty disk mounted there"""

    def take(self) -> None:
        run("umount", "-l", self.root)
        run("mount", "-t", "tmpfs", "tmpfs", self.root)

    def give_back(self) -> None:
        run("umount", "-l", self.root)
        self.mount()


class EmptyDiskOver(EmptyDisk):
    """an empty disk mounted over it"""

    def take(self) -> None:
        run("mount", "-t", "tmpfs", "tmpfs", self.root)

    def give_back(self) -> None:
        run("umount", "-l", self.root)


class Forbidden(Case):
    """the disk remounted and its root forbidden"""

    def take(self) -> None:
        # Root reads everything: a root that is no directory is what it cannot list.
        run("umount", "-l", self.root)
        self.root.rmdir()
        self.root.write_bytes(b"no directory")

    def give_back(self) -> None:
        self.root.unlink()
        self.root.mkdir()
        self.mount()


class Fuse(Case):
    """a FUSE server"""

    server: "subprocess.Popen[bytes] | None" = None

    def mount(self) -> None:
        self.server = subprocess.Popen(
            ["bindfs", "-f", "-o", "fsname=rig", self.source, self.root],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait(lambda: os.path.ismount(self.root), "bindfs mounts")

    def stop(self) -> None:
        if self.server is not None:
            self.server.kill()
            self.server.wait()

    def end(self) -> None:
        self.stop()
        super().end()


class FuseDead(Fuse):
    """a FUSE server that dies"""

    def take(self) -> None:
        self.stop()

    def give_back(self) -> None:
        run("umount", "-l", self.root)
        self.mount()


class FuseHung(Fuse):
    """a FUSE server that hangs"""

    def take(self) -> None:
        if self.server is not None:
            self.server.send_signal(signal.SIGSTOP)

    def give_back(self) -> None:
        if self.server is not None:
            self.server.send_signal(signal.SIGCONT)


class FuseEmpty(Fuse):
    """a FUSE server that dies, and its bare mount point"""

    def take(self) -> None:
        self.stop()
        run("umount", "-l", self.root)


class Within(Case):
    """a disk within the folder, unmounted"""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.disk, self.point = place / "disk", self.root / "d1"
        (self.source / "d1").rename(self.disk)
        (self.source / "d1").mkdir()

    def mount(self) -> None:
        super().mount()
        self.mount_disk()

    def mount_disk(self) -> None:
        run("mount", "--bind", self.disk, self.point)

    def take(self) -> None:
        run("umount", "-l", self.point)

    def give_back(self) -> None:
        self.mount_disk()

    def end(self) -> None:
        for _ in range(3):
            subprocess.run(["umount", "-l", self.point], check=False, capture_output=True)
        super().end()


class WithinOver(Within):
    """an empty disk mounted over one within the folder"""

    def take(self) -> None:
        run("mount", "-t", "tmpfs", "tmpfs", self.point)

    def give_back(self) -> None:
        run("umount", "-l", self.point)


class WithinSwapped(WithinOver):
    """a disk within the folder, swapped for an empty one"""

    def take(self) -> None:
        run("umount", "-l", self.point)
        super().take()

    def give_back(self) -> None:
        super().give_back()
        self.mount_disk()


class Disk(Case):
    """a disk, swapped on its device for another one with the same names"""

    kind = ""

    def __init__(self, place: Path) -> None:
        self.device = self.other_device = ""
        self.image, self.other = place / "image", place / "other"
        super().__init__(place)
        self.made(self.image, self.source)
        for path in filter(Path.is_file, self.source.rglob("*")):
            path.write_bytes(b"of another disk, " + path.read_bytes())
        self.made(self.other, self.source)

    def made(self, image: Path, content: Path) -> None:
        """Make a disk that holds what is in `content`."""
        with image.open("wb") as file:
            file.truncate(320 << 20)
        run(f"mkfs.{self.kind}", image)
        run("mount", "-o", "loop", image, self.root)
        run("cp", "-r", f"{content}/.", self.root)
        run("umount", self.root)

    def mount(self) -> None:
        self.device = self.attached(self.image)
        run("mount", self.device, self.root)

    @staticmethod
    def attached(image: Path, device: str = "--find") -> str:
        asked = ["losetup", "--show", device, str(image)]
        return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()

    def take(self) -> None:
        Unmounted.take(self)
        run("losetup", "--detach", self.device)
        self.attached(self.other, self.device)
        run("mount", self.device, self.root)

    def give_back(self) -> None:
        """Bring the right one back on another device."""
        Unmounted.take(self)
        self.other_device = self.device
        self.mount()

    def end(self) -> None:
        super().end()
        for device in filter(None, (self.device, self.other_device)):
            subprocess.run(["losetup", "--detach", device], check=False, capture_output=True)


class DiskPutBack(Disk):
    """a disk, swapped for an older image of it"""

    def made(self, image: Path, content: Path) -> None:
        if image == self.image:
            super().made(image, content)
            shutil.copy(image, self.other)
            self.copied_at = time.monotonic()

    def mount(self) -> None:
        super().mount()
        if self.other_device:
            return
        # Two files have changed since, and a directory has another file in it.
        time.sleep(max(self.copied_at + PUT_BACK_SECONDS - time.monotonic(), 0.0))
        (self.root / "d0/file-0").write_bytes(b"changed since the image was taken")
        (self.root / "d1/file-1").rename(self.root / "d1/file-2")


def of_kinds(case: type[Disk], *kinds: str) -> list[type[Disk]]:
    """Return the case for each kind of disk that the kernel knows."""
    return [
        type(case.__name__ + kind, (case,), {"kind": kind, "__doc__": f"{case.__doc__} ({kind})"})
        for kind in kinds
        if is_known(kind)
    ]


def is_known(kind: str) -> bool:
    with suppress(FileNotFoundError):
        subprocess.run(["modprobe", kind], check=False, capture_output=True)
    known = kind in Path("/proc/filesystems").read_text(encoding="utf-8").split()
    if not known:
        print(f"      this kernel knows no {kind}")
    return known


CASES = (
    *(Unmounted, Detached, BoundOver, EmptyDisk, EmptyDiskOver, Forbidden),
    *(FuseDead, FuseHung, FuseEmpty),
    *(Within, WithinOver, WithinSwapped),
    # Where inodes and times of changes are made up, an older image is not told from its disk.
    *of_kinds(Disk, "ext4", "xfs", "btrfs", "vfat"),
    *of_kinds(DiskPutBack, "ext4", "xfs", "btrfs"),
)


class Rig:
    """The service, one syncd over all folders, and the checks."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.passed = self.failed = 0
        self.emulator = subprocess.Popen(
            [
                *(sys.executable, "-m", "syncd", "emulator", "--listen", "127.0.0.1:0"),
                *("--data", str(place / "emulator"), "--api-key", KEY),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if self.emulator.stdout is None:
            raise AssertionError
        self.url = self.emulator.stdout.readline().split()[-1]
        self.daemon: subprocess.Popen[bytes] | None = None

    def start(self, cases: dict[str, Case]) -> None:
        folders = [
            {
                "path": str(case.root),
                "name": name,
                "settle_seconds": 0,
                "grace_seconds": GRACE,
                "rescan_seconds": 1,
            }
            for name, case in cases.items()
        ]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SYNCD_", "AYMARA_"))}
        with (self.place / "daemon.log").open("wb") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", "syncd", "run"],
                stdout=log,
                stderr=log,
                cwd=self.place,
                env=kept
                | {
                    "AYMARA_AI_API_KEY": KEY,
                    "SYNCD_API__BASE_URL": self.url,
                    "SYNCD_STATE__DIRECTORY": str(self.place / "state"),
                    "SYNCD_FOLDERS": json.dumps(folders),
                    "SYNCD_DELETIONS__HOLD_FILES": "1000",
                },
            )

    def ask(self, what: str) -> list[dict[str, str]]:
        with urllib.request.urlopen(f"{self.url}/_emulator/{what}", timeout=10) as answer:
            return [json.loads(line) for line in answer]

    def live(self) -> int:
        return sum(item["state"] == "live" for item in self.ask("objects"))

    def changes(self, *methods: str) -> int:
        return sum(item["method"] in methods for item in self.ask("requests"))

    def statuses(self) -> dict[str, set[str]]:
        """Return the words for each folder's files, read as `syncd ls` reads them."""
        done = subprocess.run(
            [sys.executable, "-m", "syncd", "ls", "--json"],
            env=os.environ | {"SYNCD_STATE__DIRECTORY": str(self.place / "state")},
            cwd=self.place,
            capture_output=True,
            check=True,
            timeout=30,
        )
        words: dict[str, set[str]] = {}
        for line in done.stdout.splitlines():
            row = json.loads(line)
            words.setdefault(row["folder"], set()).add(row["status"])
        return words

    def check(self, what: str, *, holds: bool, detail: object = "") -> None:
        self.passed, self.failed = self.passed + holds, self.failed + (not holds)
        print(f"ok    {what}" if holds else f"FAIL  {what}  {detail}", flush=True)

    def end(self) -> None:
        for process in (self.daemon, self.emulator):
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def wait(condition: Callable[[], bool], what: str, seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within its time: {what}")
        time.sleep(0.2)


def story(rig: Rig, cases: dict[str, Case]) -> None:
    everything = FILES * len(cases)
    for case in cases.values():
        case.mount()
    rig.start(cases)
    wait(lambda: rig.live() == everything, "all files are live")
    wait(lambda: rig.statuses() == {name: {"synced"} for name in cases}, "all are synced")
    before = rig.changes(*CHANGES)
    for name, case in cases.items():
        try:
            case.take()
        except (OSError, subprocess.SubprocessError) as error:
            rig.check(f"{name}: it is taken away", holds=False, detail=error)
    # More than the grace, the look at the roots every 10 s, and two scans.
    time.sleep(14 + 2 * GRACE)
    rig.check("not one DELETE while they are away", holds=rig.changes("DELETE") == 0)
    for name, case in cases.items():
        try:
            case.give_back()
        except (OSError, subprocess.SubprocessError, TimeoutError) as error:
            rig.check(f"{name}: it comes back", holds=False, detail=error)
    with suppress(TimeoutError):
        wait(lambda: rig.statuses() == {name: {"synced"} for name in cases}, "all are back")
    words = rig.statuses()
    for name, case in cases.items():
        what = f"{type(case).__doc__}: all is synced again"
        rig.check(what, holds=words.get(name) == {"synced"}, detail=words.get(name))
    time.sleep(2 + 2 * GRACE)
    asked = [r for r in rig.ask("requests") if r["method"] in CHANGES][before:]
    rig.check("no mutating request on their return", holds=not asked, detail=asked[:5])
    rig.check("every remote file is there", holds=rig.live() == everything, detail=rig.live())
    # The rig can see a deletion: one that is meant is done.
    gone = cases["unmounted"].source / "d0" / "file-0"
    gone.unlink()
    try:
        wait(lambda: rig.changes("DELETE") == 1, "a real deletion is mirrored")
    except TimeoutError as error:
        rig.check("a real deletion is still done", holds=False, detail=error)
    else:
        rig.check("a real deletion is still done", holds=rig.live() == everything - 1)


def main() -> int:
    if os.geteuid() != 0 or shutil.which("bindfs") is None:
        print("the rig needs root and bindfs", file=sys.stderr)
        return 2
    place = Path(tempfile.mkdtemp(prefix="syncd-mounts-"))
    cases = {kind.__name__.lower(): kind(place / kind.__name__.lower()) for kind in CASES}
    rig = Rig(place)
    try:
        story(rig, cases)
    except (OSError, TimeoutError, subprocess.SubprocessError) as error:
        rig.check("the story comes to its end", holds=False, detail=error)
    finally:
        # A server that hangs would hang whoever looks into its mount.
        for case in cases.values():
            case.end()
        rig.end()
        if rig.failed:
            print((place / "daemon.log").read_text("utf-8", "replace")[-4000:])
        shutil.rmtree(place, ignore_errors=True)
    print(f"{rig.passed} passed, {rig.failed} failed")
    return 1 if rig.failed else 0


if __name__ == "__main__":
    sys.exit(main())
