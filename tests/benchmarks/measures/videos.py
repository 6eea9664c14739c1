"""Videos that the service processes: how soon syncd knows that one is done."""

import random
import time
from contextlib import contextmanager

from tests.benchmarks.files import Files
from tests.benchmarks.measure import Figure, Sides, at_most, measure
from tests.benchmarks.measures.large import MP4
from tests.benchmarks.ours import Syncd
from tests.benchmarks.process import until
from tests.benchmarks.service import serving

#: Videos that the service completes in a second.
COMPLETED_A_SECOND = 20


@measure(
    "videos",
    "10,000 videos being processed",
    Figure("seconds from completed to synced, p95", "p95", None, at_most(60, 15)),
)
@contextmanager
def videos(bench):
    number, seconds = bench.size((200, 5), (10_000, 20), (10_000, 60))
    files = Files(bench.place, number, len(MP4) + 16, extension="mp4", head=MP4)
    with serving(bench.place) as service:

        def followed(tree):
            service.behave(holds_videos=True)
            settings = {"upload__method": "direct", "upload__workers": 16}
            syncd = Syncd(tree, bench.place, files.folder, service, **settings).anew()
            with syncd.daemon():
                until(lambda: syncd.count("processing") == number, 900, "all are sent")
                left = [o["uuid"] for o in service.objects()]
                random.Random(1).shuffle(left)
                done = {}
                for _ in range(seconds):
                    now, some = time.time(), left[:COMPLETED_A_SECOND]
                    del left[:COMPLETED_A_SECOND]
                    service.complete(some)
                    done |= dict.fromkeys(some, now)
                    time.sleep(1)
                until(lambda: syncd.count() == len(done), 3600, "all that are done are synced")
            rows = syncd.asks("SELECT file_uuid, live_at FROM copies WHERE status = 'live'")
            delays = sorted(live_at - done[uuid] for uuid, live_at in rows)
            return {"p95": delays[int(0.95 * (len(delays) - 1))]}

        yield Sides(followed)
