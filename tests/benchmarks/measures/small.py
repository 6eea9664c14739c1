"""Many small files, sent: with and without latency, direct and presigned, beside their peers."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.files import Files
from tests.benchmarks.measure import Figure, Sides, at_least, at_most, measure
from tests.benchmarks.ours import Syncd
from tests.benchmarks.peers import OfficialClient, aws_to_s3, rclone_to_s3
from tests.benchmarks.service import serving

RAW = Path(__file__).parent.parent / "raw.py"
#: The most transfers in flight that can be set.
MOST_IN_FLIGHT = 64
SMALL_BYTES = 4096
#: The part of the limit that the sink is to bear.
BORNE_PART = 0.95
KILLED_FILES = 100


def sending(place, files, service, **settings):
    """Return a run of `syncd once` over all files, from nothing to the last one live."""

    def once(tree):
        syncd = Syncd(tree, place, files.folder, service, **settings).anew()
        usage = syncd.run("once")
        syncd.audit(files.digests)
        calls = service.counts()["calls"]
        return files.figures(usage) | {"round trips": calls / len(files.digests)}

    return once


def killed(place, service, **settings):
    """Return a check: fewer files of the same kind, killed halfway."""

    def check(tree):
        files = Files(place / "killed", KILLED_FILES, SMALL_BYTES, prefix="killed-")
        syncd = Syncd(tree, files.place, files.folder, service, **settings)
        syncd.anew().survives_a_kill(files.digests)

    return check


def limit(service, number, seconds):
    """Return a run over raw sockets, with as many connections as may be in flight.

    Each answer takes `seconds`: what sockets do not reach is kept back by sink and machine.
    """
    most = MOST_IN_FLIGHT / seconds

    def raw():
        words = [service.host, service.port, MOST_IN_FLIGHT, number, SMALL_BYTES]
        words += [service.certificate] if service.certificate else []
        command = [sys.executable, RAW, *words]
        said = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
        part = float(said.stdout) / most
        note = f"raw sockets reach {part:.0%} of {MOST_IN_FLIGHT} / {seconds} s"
        return {"files/s": float(said.stdout)} | ({"said": note} if part < BORNE_PART else {})

    return raw


@measure(
    "tls-100ms",
    "TLS, 100 ms a request, default settings: 2,000 small files, direct",
    Figure("files/s", "files/s", "64 raw sockets", at_least(0.85, 0.95)),
    Figure("files/s", "files/s", "official client"),
)
@contextmanager
def tls(bench):
    files = Files(bench.place, bench.size(400, 2000, 2000), SMALL_BYTES)
    with serving(bench.place, seconds=0.1, tls=True) as service:
        settings = {"upload__method": "direct"}
        yield Sides(
            sending(bench.place, files, service, **settings),
            {
                "64 raw sockets": limit(service, len(files.digests), 0.1),
                "official client": OfficialClient(service, files),
            },
            killed(bench.place, service, **settings),
        )


@measure(
    "presigned",
    "TLS, 100 ms a request, default settings: small files, presigned",
    Figure("round trips a file beyond the PUT", "round trips", None, at_most(1.2, 1.05)),
    Figure("files/s", "files/s", "syncd, direct", at_least(0.45, 0.49)),
)
@contextmanager
def presigned(bench):
    files = Files(bench.place, bench.size(200, 2000, 2000), SMALL_BYTES)
    with serving(bench.place, seconds=0.1, tls=True) as service:
        direct = sending(bench.place, files, service, upload__method="direct")
        yield Sides(
            sending(bench.place, files, service, upload__method="presigned"),
            {"syncd, direct": lambda: direct(bench.tree)},
            killed(bench.place, service, upload__method="presigned"),
        )


@measure(
    "latency-30ms",
    "30 ms a request, 64 in flight: small files, direct",
    Figure("files/s", "files/s", "64 raw sockets", at_least(0.85, 0.95)),
    Figure("CPU s per 1,000 files", "cpu/1000", "official client", at_most(0.5, 0.25)),
)
@contextmanager
def latency(bench):
    files = Files(bench.place, bench.size(600, 5000, 5000), SMALL_BYTES)
    with serving(bench.place, seconds=0.03) as service:
        settings = {"upload__method": "direct", "upload__workers": MOST_IN_FLIGHT}
        yield Sides(
            sending(bench.place, files, service, **settings),
            {
                "64 raw sockets": limit(service, len(files.digests), 0.03),
                "official client": OfficialClient(service, files),
            },
            killed(bench.place, service, **settings),
        )


@measure(
    "small",
    "5,000 files of 4 KiB, no latency",
    Figure("files/s", "files/s", "official client", at_least(3, 5)),
    Figure("CPU s per 1,000 files", "cpu/1000", "official client", at_most(0.4, 0.25)),
    Figure("files/s", "files/s", "rclone to S3", at_least(None, 0.8)),
    Figure("files/s", "files/s", "aws s3 sync"),
)
@contextmanager
def small(bench):
    files = Files(bench.place, bench.size(600, 5000, 5000), SMALL_BYTES)
    with serving(bench.place) as service:
        settings = {"upload__method": "direct"}
        yield Sides(
            sending(bench.place, files, service, **settings),
            {
                "official client": OfficialClient(service, files),
                "rclone to S3": rclone_to_s3(service, files),
                "aws s3 sync": aws_to_s3(service, files),
            },
            killed(bench.place, service, **settings),
        )


@measure(
    "growth",
    "as the folder grows tenfold",
    Figure("files/s of the large pass", "files/s", "the small pass", at_least(0.9, 1)),
    Figure("peak MB of the large pass", "peak", "the small pass"),
    Figure("bytes of state a file", "state"),
)
@contextmanager
def growth(bench):
    few = bench.size(200, 10_000, 10_000)
    many = few * bench.size(10, 10, 100)
    small, large = (
        Files(bench.place / str(number), number, 64, prefix="g") for number in (few, many)
    )
    with serving(bench.place) as service:

        def over(files, tree):
            syncd = Syncd(tree, files.place, files.folder, service, upload__method="direct").anew()
            usage = syncd.run("once")
            syncd.audit(files.digests)
            state = sum(path.stat().st_size for path in syncd.state.glob("state.db*"))
            number = len(files.digests)
            # From the first to the last: starting is no part of growth.
            times = [o["at"] for o in service.objects()]
            rate = number / (max(times) - min(times))
            return {"files/s": rate, "peak": usage.peak_mb, "state": state / number}

        least = {"the small pass": lambda: over(small, bench.tree)}
        yield Sides(lambda tree: over(large, tree), least)
