import json
import os
from contextlib import closing
from functools import partial
from urllib.request import Request, urlopen

import pytest

from syncd import disk
from syncd.emulator import Emulator
from syncd.files_api import FilesClient, StopFlag, UnauthorizedError
from syncd.identity import identify
from syncd.state import copies, echo as echoes, files, folders, holds, observations
from syncd.state.deletions import Deletions
from syncd.state.ledger import Ledger
from syncd.state.observations import Observation, Seen, Settling
from syncd.state.planner import Policy
from syncd.workers.clock_seen import ClockWatch
from syncd.workers.confirmer import Confirmer, ConfirmOptions
from syncd.workers.deleter import Deleter, MirroredFolder
from syncd.workers.gate import Gate
from syncd.workers.organization_check import OrganizationCheck
from syncd.workers.poll_options import PollOptions
from syncd.workers.poller import Poller
from syncd.workers.preparation import SourceRoot, UploadOptions
from syncd.workers.reconciler import ReconcileOptions, Reconciler
from syncd.workers.uploader import Uploader

KEY, OTHER_KEY = "worker-key", "key-of-others"
OURS, THEIRS = "00000000-0000-4000-8000-0000000000aa", "00000000-0000-4000-8000-0000000000bb"
SETTLING = Settling(settle_seconds=0.0, grace_seconds=60.0)


class Shop:
    """The workers over a real table, a real folder and a real service; time is ours."""

    def __init__(self, store, tmp_path, emulator, key=KEY):
        self.store, self.emulator = store, emulator
        self.now = 1_000_000.0
        self.root = tmp_path / "folder"
        self.root.mkdir(exist_ok=True)
        self.policies = {"f": Policy()}
        self.ledger = Ledger(policies=self.policies, instance=store.instance)
        self.deletions = Deletions(policies=self.policies)
        path = os.fsencode(self.root)
        store.write(lambda db: folders.note(db, "f", path, None))
        store.write(lambda db: folders.accept_part(db, "f", b"", identify(path)))
        make = partial(FilesClient, base_url=emulator.url, api_key=key, timeout_seconds=5)
        self.client = make()
        self.gate = Gate(store=store, clock=self.clock, monotonic=self.clock)
        common = {"store": store, "ledger": self.ledger, "gate": self.gate, "clock": self.clock}
        self.uploader = Uploader(
            roots={"f": SourceRoot(path, 5.0, None)},
            make_client=lambda stop: make(stop=stop),
            options=UploadOptions(workers=2, method="direct"),
            **common,
        )
        self.poller = Poller(
            client=self.client, options=PollOptions(), pause=lambda _: False, **common
        )
        self.deleter = Deleter(
            deletions=self.deletions,
            mirrored={"f": MirroredFolder(path, SETTLING.grace_seconds)},
            policies=self.policies,
            client=self.client,
            steady=self.clock,
            clocks=ClockWatch(store=store, clock=self.clock, steady=self.clock, boot="boot"),
            pause=lambda _: False,
            ask=self.poller.look,
            **common,
        )
        # The clocks are compared for the first time: every grace begins with that.
        self.deleter.step()
        self.confirmer = Confirmer(
            client=self.client, options=ConfirmOptions(), pause=lambda _: False, **common
        )
        organization_check = OrganizationCheck(
            store=store, client=self.client, gate=self.gate, mark="mark", clock=self.clock
        )
        self.reconciler = Reconciler(
            client=self.client,
            organization_check=organization_check,
            options=ReconcileOptions(),
            **common,
        )

    def clock(self):
        return self.now

    def drop(self, name, content):
        (self.root / name).write_bytes(content)
        return self.notice(name)

    def notice(self, name, seen=Seen.PRESENT):
        path = os.fsencode(name)
        mark = None
        if seen is Seen.PRESENT:
            mark = disk.Fingerprint.of((self.root / name).lstat())
        self.store.write(
            lambda db: observations.record(
                db,
                "f",
                [Observation(path, seen, mark)],
                settling=SETTLING,
                policies=self.policies,
                now=self.now,
            )
        )
        return self.file(name)

    def file(self, name):
        return self.store.read(lambda db: files.find(db, "f", os.fsencode(name)))

    def copies(self, name=None):
        if name is None:
            return self.store.read(lambda db: copies.where(db, "1 ORDER BY id"))
        file = self.file(name)
        return self.store.read(lambda db: copies.where(db, "file_id = ? ORDER BY id", (file.id,)))

    def copy(self, name):
        return self.copies(name)[-1]

    def upload(self):
        """Run the upload step, and its threads to the end of what it handed out; confirm it."""
        self.uploader.start()
        try:
            self.uploader.step()
        finally:
            self.uploader.stop(drain_seconds=30)
        self.confirmer.step()

    def prove_echo(self):
        """Have it learned that direct uploads are found by their tokens."""
        learned = echoes.Learned(echo=True, sizes=True, skew=0.0)
        for kind in ("direct", "direct video", "direct video, processed"):
            self.store.write(lambda db, kind=kind: echoes.learn(db, kind, learned))

    def echo(self):
        return self.store.read(echoes.summary)

    def holds(self):
        return [(hold.stops, hold.reason) for hold in self.store.read(holds.open_holds)]

    def refusal(self):
        return UnauthorizedError("no", operation="upload", status=401)

    def faults(self, *rules):
        url = f"{self.emulator.url}/_emulator/faults"
        urlopen(Request(url, json.dumps(rules).encode(), method="PUT"), timeout=5).close()

    def ask(self, what):
        with urlopen(f"{self.emulator.url}/_emulator/{what}", timeout=5) as answer:
            return [json.loads(line) for line in answer]

    def live(self):
        return {o["file_uuid"]: o["sha256"] for o in self.ask("objects") if o["state"] == "live"}


@pytest.fixture
def echo():
    return "name"


@pytest.fixture
def emulator(tmp_path, echo):
    keys = {KEY: OURS, OTHER_KEY: THEIRS}
    with Emulator(data=tmp_path / "emulator", api_keys=keys, echo=echo) as running:
        yield running


@pytest.fixture
def others(emulator):
    """Return a client of another organization."""
    with closing(FilesClient(base_url=emulator.url, api_key=OTHER_KEY)) as client:
        yield client


@pytest.fixture
def shop(store, tmp_path, emulator):
    shop = Shop(store, tmp_path, emulator)
    with closing(shop.client):
        yield shop


@pytest.fixture
def stop():
    return StopFlag()
