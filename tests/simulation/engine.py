"""The product, built by its own composition root, on the calling thread; and how it is killed.

What is replaced is the edge of the world alone: clocks, chance, the client's wire, the writer's
thread. Commits are handed in and shared as in the real writer, and each is a point where power may
fail.
"""

import functools
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from syncd import components as composition, mounts
from syncd.commands import obeyed
from syncd.config import loading as configuration
from syncd.disk import Fingerprint
from syncd.exceptions import StateError, StateWriteError
from syncd.files_api import FilesApiError, source
from syncd.state import attempts, echo, tokens
from syncd.state.database import schema, store as storage
from syncd.state.database.store import Store
from syncd.state.database.writer import Writer, _Job
from syncd.workers import clock_seen
from syncd.workers.poll_options import PollOptions

FOLDER = "f"
GRACE_SECONDS = 60.0
RESEND_SECONDS = 120.0


class PowerCut(BaseException):
    """The process is dead: nothing of it goes on."""


class _Later(Future):
    """The future result of a transaction: waiting for it commits what was handed in."""

    def __init__(self, commit: Callable[[], None]) -> None:
        super().__init__()
        self._commit_all = commit

    def result(self, timeout: float | None = None):
        if not self.done():
            self._commit_all()
        return super().result(0)


class InlineWriter(Writer):
    """The writer without its thread: what was handed in shares a commit when someone waits."""

    def __init__(self, path: Path, between: Callable[[str], None]) -> None:
        super().__init__(path)
        self._between = between
        self._handed_in: list[_Job] = []
        #: whether the next commit fails, and how: True if it reaches the disk all the same
        self.fails: bool | None = None
        #: the WAL's length after each commit, in bytes
        self.marks: list[int] = []

    def start(self) -> None:
        super().start()
        self._db.conn.execute("PRAGMA synchronous = OFF")
        self._db.conn.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.conn.execute("PRAGMA wal_autocheckpoint = 0")

    def submit(self, work):
        return self._take(_Job(work, _Later(self.commit)))

    def submit_all(self, work, items):
        return [self._take(_Job(work, _Later(self.commit), item)) for item in items]

    def _take(self, job):
        self._between("work handed in")
        self._handed_in.append(job)
        return job.future

    def commit(self) -> None:
        """Commit what was handed in."""
        if not self._handed_in:
            return
        self._between("before commit")
        jobs, self._handed_in = self._handed_in, []
        fails, self.fails = self.fails, None
        if fails is None:
            self._commit(jobs)
        else:
            if fails:
                self._commit([_Job(job.work, Future(), job.item) for job in jobs])
            for job in jobs:
                job.future.set_exception(StateWriteError("I/O error"))
        wal = Path(f"{self._path}-wal")
        self.marks.append(wal.stat().st_size if wal.exists() else 0)
        self._between("after commit")


class InlineReaders:
    """Reads on the writer's connection: on one thread, no transaction is ever half done then."""

    def __init__(self, writer: InlineWriter) -> None:
        self.writer = writer

    def open(self) -> None:
        """Nothing is opened."""

    def read(self, query):
        return query(self.writer._usable())

    def close(self) -> None:
        """Nothing is open."""


class _NoThread:
    """Stands for the writer's thread."""

    def start(self) -> None:
        """Nothing starts."""

    def is_alive(self) -> bool:
        return False


class SimulatedStore(Store):
    """The real store over the inline writer."""

    def __init__(self, directory: Path, between: Callable[[str], None]) -> None:
        super().__init__(directory)
        self.writer = InlineWriter(self._path, between)
        self.writer._thread = _NoThread()
        self._readers = InlineReaders(self.writer)

    def kill(self) -> None:
        """End as a killed process does: nothing more is written, the lock is free."""
        self._readers.close()
        if self.writer._db is not None:
            self.writer._db.close()
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)
            self._lock_descriptor = None


class Engine:
    """A running syncd, between two crashes."""

    def __init__(
        self,
        *,
        base: Path,
        config: configuration.Config,
        service,
        clock: Callable[[], float],
        between: Callable[[str], None],
        hints: Callable[[], list[tuple[bytes, bool]]],
        lapse: Callable[[float], None] = lambda _seconds: None,
        listing_threshold: int = PollOptions().listing_threshold,
    ) -> None:
        """`lapse` lets the time pass for which an upload waits."""
        self._service, self._clock, self._hints = service, clock, hints
        self.store = SimulatedStore(base / "state", between)
        self.store.open(clock())
        self.parts = composition.build(config, self.store, clock=clock)
        poller = self.parts.poller
        for waiting in (poller, poller.listing, self.parts.deleter, self.parts.confirmer):
            waiting.pause = lambda _: False
        poller.options = replace(poller.options, listing_threshold=listing_threshold)
        poller.listing.options = poller.options
        stop = self.parts.uploader._stop

        def wait(seconds: float) -> bool:
            lapse(seconds)
            return stop.is_set()

        stop.wait = wait

    def steps(self) -> dict[str, Callable[[], object]]:
        """Return every step that the scheduler would repeat."""
        return {
            "scan": self._scan,
            "look": self._look,
            "settle": self.parts.reconciler.step,
            "upload": self._upload,
            "confirm": self.parts.confirmer.step,
            "poll": self._poll,
            "delete": self.parts.deleter.step,
            "take": self.parts.after_upload.step,
            "adopt": self._adopt,
        }

    def run(self, name: str) -> None:
        """Run a step, and what it handed in, to its end; an error that it tells is its end, too."""
        try:
            self.steps()[name]()
            self.store.writer.commit()
        except (StateError, FilesApiError):
            self.store.writer.commit()

    def _scan(self) -> None:
        """Scan on this thread: starting threads costs more than a scan of a few files."""
        for watched in self.parts.watch.folders.values():
            watched.scan()

    def _look(self) -> None:
        watched = self.parts.watch.folders[FOLDER]
        for path, removed in self._hints():
            watched.hints.add(path, removal_seen=removed)
        for watched in self.parts.watch.folders.values():
            watched.look_hints()
        self.parts.watch.look_due()

    def _poll(self) -> None:
        # It wants to run at once when it has found a listing to read.
        if self.parts.poller.step() == 0.0:
            self.parts.poller.step()

    def _upload(self) -> None:
        uploader = self.parts.uploader
        uploader.step()
        uploader._work()

    def _adopt(self) -> None:
        self._scan()
        for _ in obeyed(self.parts.gate, self.parts.adopter.adopt()):
            pass

    @property
    def echo_is_proven(self) -> bool:
        """Whether the ledger knows that the service echoes names."""
        return self.store.read(echo.summary) == echo.PROVEN

    @property
    def looks_for_something(self) -> bool:
        """Whether a request that got no answer is still looked for."""
        return bool(self.store.read(attempts.every))

    def shown_by_verify(self) -> set[str]:
        """Return the uuids that `verify` names."""
        *_, said = self.parts.verifier.verify()
        return {shown["file_uuid"] for shown in (*said["findings"], *said["kept"])}


@functools.cache
def settings(
    base: Path, method: str, after_upload: str = "keep", **more: object
) -> configuration.Config:
    """Return a configuration of one folder beneath `base`; `more` is the folder's."""
    folder = {"path": f"{base}/root", "name": FOLDER, "after_upload": after_upload, **more}
    if after_upload == "move":
        folder["move_to"] = f"{base}/taken"
    return configuration.load(
        config=None,
        directories=(),
        environ={
            "AYMARA_AI_API_KEY": "simulated",
            "SYNCD_API__BASE_URL": "http://127.0.0.1:1",
            "SYNCD_STATE__DIRECTORY": str(base / "state"),
            "SYNCD_UPLOAD__METHOD": method,
            "SYNCD_UPLOAD__WORKERS": "1",
            "SYNCD_UPLOAD__RESEND_AFTER_SECONDS": str(RESEND_SECONDS),
            "SYNCD_FOLDERS": json.dumps([folder]),
        },
        working_directory=base,
    )


def fresh_state(base: Path) -> None:
    """Put an empty, migrated state directory beneath `base`: made once, then copied."""
    template, state = base / "template", base / "state"
    if not template.exists():
        always = SimpleNamespace(token_hex=lambda count: "0a" * count)
        with ExitStack() as stack:
            for module in (storage, tokens):
                stack.enter_context(mock.patch.object(module, "secrets", always))
            made = Store(template)
            made.open(0.0)
            made.close()
    shutil.rmtree(state, ignore_errors=True)
    shutil.copytree(template, state)


def lose_commits(base: Path, marks: list[int], count: int) -> None:
    """Cut the last `count` commits off the WAL, as power does where they were not synced."""
    wal = base / "state" / f"{schema.FILE_NAME}-wal"
    if wal.exists() and marks:
        kept = marks[-count - 1] if len(marks) > count else 0
        os.truncate(wal, kept)


@contextmanager
def simulated(
    *,
    rng: random.Random,
    clock: Callable[[], float],
    fingerprint: Callable[[os.stat_result], Fingerprint],
    service: object,
) -> Iterator[None]:
    """Within, the product's clocks, chance, stamps and wire are the simulation's."""
    state = random.getstate()
    random.seed(rng.random())
    chance = SimpleNamespace(token_hex=lambda count: rng.randbytes(count).hex())
    ticking = SimpleNamespace(
        time=clock,
        monotonic=clock,
        sleep=lambda _: None,
        clock_gettime=lambda _: clock(),
        CLOCK_BOOTTIME=time.CLOCK_BOOTTIME,
    )
    with ExitStack() as stack:
        for target, name, value in (
            (tokens, "secrets", chance),
            (storage, "secrets", chance),
            (composition, "time", ticking),
            (clock_seen, "time", ticking),
            (composition, "make_client", lambda *_: service),
            (source, "CHUNK_BYTES", 16),
            # Nothing is mounted that matters here.
            (mounts, "mounts", lambda: iter(())),
            (Fingerprint, "of", staticmethod(fingerprint)),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        try:
            yield
        finally:
            random.setstate(state)
