"""A file a second for days: what each costs, and what it leaves behind in memory and on the disk.

A file lives ten minutes, so that the folder stays as large as it is while the ledger grows. Time
is simulated; the database, the scans and the files are real, and the service answers at once.
"""

import ctypes
import gc
import logging
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from syncd.disk import Fingerprint
from syncd.state import history
from syncd.state.database.schema import FILE_NAME

from .engine import Engine, fresh_state, settings, simulated
from .history import EPOCH
from .server import Service

DAY_SECONDS = 86_400
LIFE_SECONDS = 600
#: The least memory and time in which a slope is seen, and by how much it may go on growing.
MOST_BYTES_A_FILE, MOST_GROWTH = 64.0, 1.5
#: Memory that caches may take until they are full, SQLite's among them; it is not a file's cost.
CACHES_BYTES = 8 << 20
#: Every so many simulated seconds, what the daemon does so often.
EVERY = {"delete": 5, "settle": 30, "scan": 300}


@dataclass(frozen=True, slots=True)
class Sample:
    """How things stand after so many files: memory and disk in bytes, milliseconds a file.

    `backup` is the seconds that the daily backups took since the last sample.
    """

    files: int
    memory: int
    milliseconds: float
    backup: float
    database: int
    wal: int
    rows: int

    def __str__(self) -> str:
        return (
            f"{self.files:>9,} files: {self.memory / 2**20:6.1f} MiB, {self.milliseconds:5.2f} ms "
            f"a file, {self.backup:5.1f} s in backups, state {self.database / 2**20:7.1f} MiB, "
            f"WAL {self.wal / 2**20:4.1f} MiB, {self.rows:,} rows"
        )


class _Forgetful(Service):
    """The service, without memory of what was deleted."""

    def delete(self, file_uuid: str) -> None:
        super().delete(file_uuid)
        del self.objects[file_uuid]


def _fingerprint(status: os.stat_result) -> Fingerprint:
    """Have the simulated time of a file's making, which is its mtime, be its ctime, too."""
    return Fingerprint(status.st_ino, status.st_size, status.st_mtime_ns, status.st_mtime_ns)


class Soak:
    """A folder into which a file is put each second, for as long as is asked for."""

    def __init__(self, base: Path) -> None:
        self._base, self._root = base, base / "root"
        self.now = EPOCH
        self._number = 0
        #: seconds of CPU in the backups since the last sample
        self._backing_up = 0.0
        self._living: deque[str] = deque()
        self._hints: list[tuple[bytes, bool]] = []
        nothing: Callable[..., None] = lambda *_, **__: None  # noqa: E731
        self.service = _Forgetful(
            rng=random.Random(1),
            clock=lambda: self.now,
            echo=True,
            between=nothing,
            audit=nothing,
            tell=nothing,
            page_items=100,
        )

    def run(self, days: float, samples: int, round_seconds: int = 1) -> Iterator[Sample]:
        """Put so many days of files there; yield `samples` of how things stand.

        The engine makes a round every `round_seconds` of the simulated time.
        """
        self._every = dict.fromkeys(("look", "upload", "confirm"), round_seconds) | {
            step: max(seconds, round_seconds) for step, seconds in EVERY.items()
        }
        logging.disable(logging.WARNING)
        self._root.mkdir(parents=True)
        fresh_state(self._base)
        off = dict.fromkeys(("hold_files", "hold_percent", "hold_max"), "off")
        try:
            with simulated(
                rng=random.Random(2),
                clock=lambda: self.now,
                fingerprint=_fingerprint,
                service=self.service,
            ):
                engine = Engine(
                    base=self._base,
                    config=settings(self._base, "auto", **off),
                    service=self.service,
                    clock=lambda: self.now,
                    between=lambda _: None,
                    hints=self._take_hints,
                )
                try:
                    yield from self._samples(engine, int(days * DAY_SECONDS), samples)
                finally:
                    engine.store.kill()
        finally:
            logging.disable(logging.NOTSET)

    def _samples(self, engine: Engine, files: int, samples: int) -> Iterator[Sample]:
        for _ in range(samples):
            began, before, self._backing_up = time.process_time(), self._number, 0.0
            while self._number - before < files // samples:
                self._second(engine)
            # A backup costs what the state is large, and not what a file costs.
            spent = time.process_time() - began - self._backing_up
            yield self._sample(engine, spent / (self._number - before))

    def _second(self, engine: Engine) -> None:
        self.now += 1.0
        self._number += 1
        name = f"{self._number // 1000 % 10}/{self._number}.txt"
        path = self._root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"content %d" % self._number)
        os.utime(path, (self.now, self.now))
        self._living.append(name)
        self._hints.append((name.encode(), False))
        if len(self._living) > LIFE_SECONDS:
            gone = self._living.popleft()
            (self._root / gone).unlink()
            self._hints.append((gone.encode(), True))
        for step, seconds in self._every.items():
            if self._number % seconds == 0:
                engine.run(step)
        if self._number % 60 == 0:
            engine.store.remember()
            # The writer of a simulation leaves it to whoever can say that nobody reads.
            engine.store.writer._usable().conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            engine.store.writer.marks.clear()
        if self._number % DAY_SECONDS == 0:
            self._back_up(engine)
            engine.store.write(lambda db: history.prune(db, self.now, limit=1_000_000))

    def _back_up(self, engine: Engine) -> None:
        """Make the daily backup, for which a simulation's writer has to let others in."""
        conn, began = engine.store.writer._usable().conn, time.process_time()
        for mode in ("NORMAL", "EXCLUSIVE"):
            conn.execute(f"PRAGMA locking_mode = {mode}")
            # The mode changes with the next use.
            conn.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if mode == "NORMAL":
                engine.store.back_up_if_due(self.now)
        self._backing_up += time.process_time() - began

    def _take_hints(self) -> list[tuple[bytes, bool]]:
        taken, self._hints = self._hints, []
        return taken

    def _sample(self, engine: Engine, spent: float) -> Sample:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        state = self._base / "state"
        wal = state / f"{FILE_NAME}-wal"
        count = "SELECT (SELECT count(*) FROM files) + (SELECT count(*) FROM copies)"
        return Sample(
            files=self._number,
            memory=_resident(),
            milliseconds=1000 * spent,
            backup=self._backing_up,
            database=(state / FILE_NAME).stat().st_size,
            wal=wal.stat().st_size if wal.exists() else 0,
            rows=engine.store.read(lambda db: db.conn.execute(count).fetchone()[0]),
        )


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def slopes(samples: list[Sample]) -> tuple[float, float]:
    """Return the bytes of memory that a file leaves, and the last cost as a share of the first.

    Only once files are deleted as fast as they come do the costs of two samples compare.
    """
    samples = [sample for sample in samples if sample.files > 3 * LIFE_SECONDS]
    first, last = samples[0], samples[-1]
    left = max(last.memory - first.memory - CACHES_BYTES, 0) / (last.files - first.files)
    half = len(samples) // 2
    early = min(sample.milliseconds for sample in samples[:half])
    late = min(sample.milliseconds for sample in samples[half:])
    return left, late / early


def verdict(samples: list[Sample]) -> str:
    """Say what is not flat; empty where all is."""
    left, growth = slopes(samples)
    if left > MOST_BYTES_A_FILE:
        return f"each file leaves {left:.0f} bytes of memory"
    return f"a file costs {growth:.2f} times what it did" if growth > MOST_GROWTH else ""
