"""A slow line: large files must not keep small ones waiting."""

import os
import subprocess
import time
from contextlib import ExitStack, contextmanager

from tests.benchmarks.files import Files, write
from tests.benchmarks.measure import Figure, Sides, SkippedError, at_most, measure
from tests.benchmarks.ours import Syncd
from tests.benchmarks.peers import found
from tests.benchmarks.process import until
from tests.benchmarks.service import serving

MIB = 1 << 20
SETTLE_SECONDS = 0.2
NEAR, FAR = "10.213.77.1", "10.213.77.2"


@measure(
    "line",
    "20 large files over a slow line, and small ones all the while",
    Figure("seconds over settle_seconds of the small ones, p95", "p95", None, at_most(3, 1)),
    Figure("seconds of the first large one", "first", "alone", at_most(2, 1.3)),
)
@contextmanager
def line(bench):
    # The line is scaled, not the files: a file counts as large from 32 MiB on.
    number, mbit, every = bench.size((6, 160, 0.5), (20, 80, 2), (20, 20, 5))
    size = 33 * MIB
    with slow_line(mbit) as space, serving(bench.place, host=NEAR) as service:

        def together(tree):
            place = bench.fresh()
            (place / "files").mkdir()
            syncd = within(space, tree, place, service)
            with syncd.anew().daemon(under=("nsenter", f"--net=/run/netns/{space}")):
                time.sleep(2)
                began = time.time()
                large = Files(place, number, size, prefix="large-")
                digests, closed = dict(large.digests), {}
                while syncd.count() - len(closed) < number:
                    name = f"small-{len(closed):04}.bin"
                    digests[name] = write(place / "files" / name, 2048)
                    closed[name] = time.time()
                    time.sleep(every)
                until(lambda: syncd.count() == len(digests), 600, "all are live")
                syncd.audit(digests)
            rows = syncd.asks(
                "SELECT CAST(path AS TEXT), live_at FROM copies JOIN files ON files.id = file_id"
            )
            delays = sorted(at - closed[n] - SETTLE_SECONDS for n, at in rows if n in closed)
            first = min(at for name, at in rows if name not in closed) - began - SETTLE_SECONDS
            return {"p95": delays[int(0.95 * (len(delays) - 1))], "first": first}

        def alone():
            return {"first": size * 8 / (mbit * 1e6)}

        yield Sides(together, {"alone": alone})


def within(space, tree, place, service):
    """Return a syncd whose only line is the slow one."""
    return Syncd(
        tree,
        place,
        place / "files",
        service,
        settle_seconds=SETTLE_SECONDS,
        api__allow_cleartext="true",
    )


@contextmanager
def slow_line(mbit):
    """Lend a network namespace whose line to this machine carries no more than so many Mbit/s."""
    if os.geteuid() != 0 or not found("ip") or not found("tc"):
        raise SkippedError("a slow line needs root, `ip` and `tc`")
    space = f"syncd-benchmark-{os.getpid()}"
    near, far = "sybma", "sybmb"
    with ExitStack() as stack:
        try:
            words(f"ip netns add {space}")
            stack.callback(words, f"ip netns del {space}")
            words(f"ip link add {near} type veth peer name {far} netns {space}")
            words(f"ip addr add {NEAR}/24 dev {near}")
            words(f"ip link set {near} up")
            words(f"ip -n {space} addr add {FAR}/24 dev {far}")
            words(f"ip -n {space} link set {far} up")
            words(f"ip -n {space} link set lo up")
            shape = f"tbf rate {mbit}mbit burst 32kb latency 50ms"
            words(f"tc -n {space} qdisc add dev {far} root {shape}")
        except subprocess.CalledProcessError as error:
            raise SkippedError(f"there is no slow line: {error.stderr.decode().strip()}") from error
        yield space


def words(text):
    subprocess.run(text.split(), check=True, capture_output=True)
