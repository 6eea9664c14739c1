"""A week without a network, or without syncd: everything that changed is sent at the next start."""

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
    Figure("seconds until all are sent", "wall", "64 raw sockets", at_most(1.2, 1.1)),
)
@contextmanager
def offline(bench):
    new = bench.size(500, 10_000, 100_000)
    changed = new // CHANGED_PART
    with serving(bench.place) as service:
        raw = limit(service, new + changed, LATENCY_SECONDS)

        def week(tree):
            syncd, files, gone = after_a_week(bench.fresh(), tree, service, new)
            known = {o["uuid"] for o in service.objects()}
            began = time.time()
            usage = syncd.run("once", codes=(0, 1))
            sent = [o["at"] for o in service.objects() if o["uuid"] not in known]
            syncd.audit(files.digests, going=gone)
            return {"first": min(sent) - began, "wall": usage.wall}

        def least():
            return {"wall": (new + changed) / raw()["files/s"]}

        def check(tree):
            syncd, files, gone = after_a_week(bench.fresh(), tree, service, new // 10)
            syncd.survives_a_kill(files.digests, going=gone)

        yield Sides(week, {"64 raw sockets": least}, check)


def after_a_week(place, tree, service, new):
    """Sync some files, then add, change and remove some; return all that is there, and is gone."""
    changed, gone = new // CHANGED_PART, new // GONE_PART
    # Deletions wait for a person where more than a fifth is gone.
    files = Files(place, changed + gone * 6, 2048, prefix="old-")
    settings = {"upload__method": "direct", "upload__workers": MOST_IN_FLIGHT}
    syncd = Syncd(tree, place, files.folder, service, **settings).anew()
    service.behave(seconds=0)
    syncd.run("once")
    names = list(files.digests)
    for name in names[:changed]:
        files.digests[name] = write(files.folder / name, 2048)
    removed = {name: files.digests.pop(name) for name in names[changed : changed + gone]}
    for name in removed:
        (files.folder / name).unlink()
    files.digests |= Files(place, new, 2048, prefix="new-").digests
    service.behave(seconds=LATENCY_SECONDS)
    return syncd, files, removed
