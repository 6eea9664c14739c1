"""Large files: what they cost beside one pass of SHA-256, and how much memory they take."""

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.files import Files
from tests.benchmarks.measure import Figure, Sides, SkippedError, at_least, at_most, measure
from tests.benchmarks.ours import Syncd
from tests.benchmarks.peers import hashing, rclone_to_s3
from tests.benchmarks.service import serving

MIB = 1 << 20
#: The beginning of an MP4.
MP4 = bytes.fromhex("0000001c667479706d703432000000006d70343269736f6d61766331") + b"\0\0\1\0moov"


def sending(bench, files, service, **settings):
    """Return a run of `syncd once`; the disk's cache is cold where `files` are `cold`."""

    def once(tree):
        syncd = Syncd(tree, bench.place, files.folder, service, **settings).anew()
        chill(files)
        usage = syncd.run("once")
        syncd.audit(files.digests)
        figures = files.figures(usage)
        return figures | {"read": usage.read_bytes / files.total}

    return once


def chill(files):
    """Have the kernel forget what it has read of the files."""
    for path in files.folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cold_hashing(files):
    digest = hashing(files)

    def run():
        chill(files)
        return digest()

    return run


def on_disk(path):
    """Say whether what lies there is on a disk, and not in memory."""
    kind = subprocess.check_output(["stat", "-f", "-c", "%T", path], text=True)
    return kind.strip() not in ("tmpfs", "ramfs")


@measure(
    "video",
    "one large video, from a cold disk",
    Figure("CPU s", "cpu", "sha256", at_most(1.3, 1.15)),
    Figure("bytes read from the disk, of its size", "read", None, at_most(1.1, 1)),
)
@contextmanager
def video(bench):
    if not on_disk(bench.place):
        raise SkippedError(f"{bench.place} is in memory: set TMPDIR to a place on a disk")
    size = bench.size(256 * MIB, 2048 * MIB, 10_240 * MIB)
    files = Files(bench.place, 1, size, extension="mp4", head=MP4)
    with serving(bench.place) as service:

        def check(tree):
            syncd = Syncd(tree, bench.place, files.folder, service)
            syncd.anew().survives_a_kill(files.digests)

        yield Sides(sending(bench, files, service), {"sha256": cold_hashing(files)}, check)


@measure(
    "gib",
    "1 GiB, hashed and sent",
    Figure("MB/s", "MB/s", "sha256", at_least(0.5, 0.6)),
    Figure("MB/s", "MB/s", "rclone to S3", at_least(3, 4)),
)
@contextmanager
def gib(bench):
    files = Files(bench.place, 1, bench.size(256 * MIB, 1024 * MIB, 1024 * MIB))
    with serving(bench.place) as service:
        service.behave(hash_later=True)

        def warm(tree):
            hashing(files)()
            syncd = Syncd(tree, bench.place, files.folder, service).anew()
            usage = syncd.run("once")
            syncd.audit(files.digests)
            return files.figures(usage)

        yield Sides(warm, {"sha256": hashing(files), "rclone to S3": rclone_to_s3(service, files)})


@measure(
    "memory",
    "16 files of 64 MiB at once",
    Figure("peak MB", "peak", None, at_most(80, 60)),
    Figure("peak MB, one CPU, 512 MB", "peak in a box", None, at_most(120, 90)),
)
@contextmanager
def memory(bench):
    files = Files(bench.place, bench.size(8, 16, 16), 64 * MIB)
    with serving(bench.place) as service:
        service.behave(seconds=0.2)

        def peaks(tree):
            syncd = Syncd(tree, bench.place, files.folder, service, upload__workers=16).anew()
            peak = syncd.run("once").peak_mb
            syncd.audit(files.digests)
            with box() as under:
                boxed = syncd.anew().run("once", under=under).peak_mb if under else None
            return {"peak": peak, "peak in a box": boxed}

        def check(tree):
            syncd = Syncd(tree, bench.place, files.folder, service)
            syncd.anew().survives_a_kill(files.digests)

        yield Sides(peaks, check=check)


@contextmanager
def box():
    """Lend the words that run a command on one CPU with 512 MB; none where that needs root."""
    old = Path("/sys/fs/cgroup/memory")
    root, name = (old, "memory.limit_in_bytes") if old.is_dir() else (old.parent, "memory.max")
    place = root / f"syncd-benchmark-{os.getpid()}"
    try:
        place.mkdir()
        (place / name).write_text(str(512 * MIB))
    except OSError:
        yield ()
        return
    try:
        yield ("sh", "-c", f'echo $$ >{place}/cgroup.procs; exec taskset -c 0 "$@"', "sh")
    finally:
        place.rmdir()
