"""A week without a network, or without syncd: everything that changed is sent at the next start."""

import os
import time
from contextlib import contextmanager

from tests.benchmarks.files import Files, write
from tests.benchmarks.measure import Figure, Sides, at_most, measure
from tests.benchmarks.measures.small import MOST_IN_FLIGHT, limit
from tests.benchmarks.ours import Syncd
from tests.benchmarks.service import serving

LATENCY_SECONDS = 0.03
CHANGED_PART, GONE_PART = 20, 50


@measure(
    "week-offline",
    "after a week offline: 100,000 new, 5,000 changed, 2,000 gone, 30 ms a request",
    Figure("seconds until the first upload", "first", None, at_most(10, 3)),
    Figure("seconds until all are sent; peer: 64 raw sockets", "wall", "limit", at_most(1.2, 1.1)),
)
@contextmanager
def offline(bench):
    new = bench.size(500, 10_000, 100_000)
    changed, gone = new // CHANGED_PART, new // GONE_PART
    with serving(bench.place) as service:
        raw = limit(service, new + changed)

        def week(tree):
            place = bench.fresh()
            # Deletions wait for a person where more than a fifth is gone.
            files = Files(place, changed + gone * 6, 2048, prefix="old-")
            settings = {"upload__method": "direct", "upload__workers": MOST_IN_FLIGHT}
            syncd = Syncd(tree, place, files.folder, service, **settings).anew()
            service.behave(seconds=0)
            syncd.run("once")
            names = list(files.digests)
            for name in names[:changed]:
                path = files.folder / name
                files.digests[name] = write(path, 2048)
                os.utime(path, (time.time(), time.time()))
            for name in names[changed : changed + gone]:
                (files.folder / name).unlink()
            added = Files(place, new, 2048, prefix="new-")
            service.behave(seconds=LATENCY_SECONDS)
            known = {o["uuid"] for o in service.objects()}
            began = time.time()
            usage = syncd.run("once", codes=(0, 1))
            sent = [o["at"] for o in service.objects() if o["uuid"] not in known]
            # The deletions' grace is a minute: what is gone is still live.
            syncd.audit(files.digests | added.digests)
            return {"first": min(sent) - began, "wall": usage.wall}

        def least():
            return {"wall": (new + changed) / raw()["files/s"]}

        yield Sides(week, {"limit": least})
