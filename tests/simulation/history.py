"""One schedule: a random history, and what must be at its end."""

import logging
import random
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from syncd.state.database import instance
from syncd.state.database.schema import FILE_NAME

from .audit import Audit
from .colleagues import upload_under_our_name
from .engine import (
    Engine,
    PowerCut,
    fresh_state,
    lose_commits,
    settings,
    simulated,
)
from .objects import Violation
from .plan import FOREIGN_NAMES, LATE, ORDERS, ROUND, WAITS, Plan
from .server import Service
from .world import CONTENTS, NAMES, World

EPOCH = 1_750_000_000.0
ROUNDS = 200


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy of the state, and how far things were when it was made."""

    database: bytes
    instance: bytes
    requests: int


class _Held(Exception):
    """An upload is held that may have arrived: syncd waits for a person."""


class Schedule:
    """A history under way."""

    def __init__(self, plan: Plan, base: Path) -> None:
        self.plan, self.base = plan, base
        self.rng = random.Random(plan.seed)
        self.now = EPOCH
        self.trace: list[str] = []
        #: the engine's step under way
        self.doing = ""
        self.quiet = False
        self.dead = False
        self.hints: list[tuple[bytes, bool]] = []
        self._backup: Backup | None = None
        #: what was so when everything was last checked
        self._checked: tuple[int, ...] = ()
        self.world = World(base, self.rng, self.clock, self.tell, self._hint)
        self.service = Service(
            rng=self.rng,
            clock=self.clock,
            echo=plan.echo,
            traits=plan.traits,
            between=self.between,
            audit=self._audit_request,
            tell=self.tell,
            weather=replace(plan.weather),
            names_uploaders=plan.names_uploaders,
            ahead_seconds=plan.ahead_seconds,
        )
        self.audit = Audit(plan=plan, world=self.world, service=self.service, rows=self.rows)
        self.config = settings(base, plan.method, plan.after_upload)
        self.engine: Engine | None = None

    # The world's side

    def clock(self) -> float:
        return self.now

    def tell(self, what: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.now - EPOCH:11.3f}  {self.doing:7s} {what}")

    def _hint(self, path: bytes, removed: bool) -> None:
        if self.rng.random() < self.plan.events:
            self.hints.append((path, removed))

    def _take_hints(self) -> list[tuple[bytes, bool]]:
        taken, self.hints = self.hints, []
        return taken

    def between(self, point: str) -> None:
        """Something may happen between any two things that the engine does."""
        if self.dead:
            raise PowerCut(point)
        if self.quiet:
            return
        rng, plan = self.rng, self.plan
        self.now += rng.random() * plan.lapse_seconds
        if rng.random() < plan.change:
            self.tell(f"({point})")
            self._note_what_is_taken_away()
            self.world.change()
        if point == "before commit" and rng.random() < plan.commit_error:
            self.tell("a commit fails")
            self.engine_writer().fails = rng.random() < 0.5
        if rng.random() < plan.crash:
            self.tell(f"power fails ({point})")
            self.dead = True
            raise PowerCut(point)

    def engine_writer(self):
        return self.engine.store.writer

    def _audit_request(self, operation: str, **facts: object) -> None:
        self.audit.request(operation, **facts)

    # Life and death

    def start(self) -> None:
        """Start the engine; it may die of a power cut while it does."""
        while True:
            self.dead = False
            try:
                self.engine = Engine(
                    base=self.base,
                    config=self.config,
                    service=self.service,
                    clock=self.clock,
                    between=self._between_starting,
                    hints=self._take_hints,
                    lapse=self._lapse,
                    listing_threshold=self.plan.listed_from,
                )
                return
            except PowerCut:
                self.engine = None

    def _lapse(self, seconds: float) -> None:
        self.now += seconds

    def _between_starting(self, point: str) -> None:
        # The store opens before there is an engine to be interrupted.
        if self.engine is not None:
            self.between(point)

    def restart(self) -> None:
        """Bury the dead engine and start another on what the disk holds."""
        self.audit.cuts += 1
        marks = self.engine_writer().marks
        lost = self.plan.lost_commits
        if lost:
            self._cut_off(marks, self.rng.randrange(lost + 1))
        else:
            self.engine.store.kill()
        self.engine = None
        self.hints.clear()
        self.start()

    def _cut_off(self, marks: list[int], count: int) -> None:
        state = self.base / "state"
        kept = {path.name: path.read_bytes() for path in state.glob("state.db*")}
        self.engine.store.kill()
        for path in state.glob("state.db*"):
            path.unlink()
        for name, content in kept.items():
            if not name.endswith("-shm"):
                (state / name).write_bytes(content)
        if count:
            self.tell(f"{count} commits are lost")
            lose_commits(self.base, marks, count)

    def run_step(self, name: str) -> None:
        """Run one of the engine's steps, and then check everything."""
        self.doing = name
        self.audit.step_event = self.world.event
        try:
            self.engine.run(name)
        except PowerCut:
            self.restart()
        self.check()

    def check(self) -> None:
        """Check what must hold at every instant, unless nothing has changed."""
        self._note_what_is_taken_away()
        moment = (
            self.world.event,
            self.service.mutations,
            self.audit.cuts,
            self.engine_writer().version,
        )
        if moment != self._checked:
            self._checked = moment
            self.audit.check()

    def _note_what_is_taken_away(self) -> None:
        if self.plan.after_upload != "keep":
            for name, content in self.world.take_note_of_what_is_gone():
                self.audit.taken_away(name, content)

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        """Read what is committed."""
        return self.engine.store.read(lambda db: db.conn.execute(query, values).fetchall())

    # The history

    def run(self) -> None:
        """Run it to its end; Violation where an invariant does not hold."""
        self.base.mkdir(parents=True, exist_ok=True)
        fresh_state(self.base)
        self.world.begin()
        with simulated(
            rng=self.rng,
            clock=self.clock,
            fingerprint=self.world.fingerprint,
            service=self.service,
        ):
            try:
                self.start()
                for name in self.rng.sample(NAMES, self.rng.randrange(1, 4)):
                    self.world.create(name, self.world.content())
                for _ in range(self.plan.steps):
                    self._something()
                self._heal()
                with suppress(_Held):
                    self._converge()
                    self._rest()
            finally:
                if self.engine is not None:
                    self.engine.store.kill()

    def _something(self) -> None:
        rng = self.rng
        if rng.random() < self.plan.colleagues:
            # An object that `adopt` finds without ours beside it may be a colleague's copy of it.
            upload_under_our_name(self.service, rng, genuine=not self.plan.restores)
        kind = rng.random()
        if kind < 0.3:
            self.world.change()
        elif kind < 0.4:
            self._trouble()
        else:
            self.now += rng.choice((0.0, 0.0, 1.0, 6.0, 31.0, 65.0, 130.0))
            for name in rng.choice(ORDERS):
                self.run_step(name)

    def _trouble(self) -> None:
        rng, plan, service = self.rng, self.plan, self.service
        kind = rng.randrange(6)
        if kind == 0:
            service.add_foreign(rng.choice(CONTENTS), rng.choice(FOREIGN_NAMES))
        elif kind == 1 and plan.unmounts:
            self.world.mount(not self.world.mounted, with_directory=rng.random() < 0.7)
        elif kind == 2 and plan.key_trouble:
            service.key = rng.choice(("good", "good", "refused", "wrong"))
            self.tell(f"the key is {service.key}")
        elif kind == 3:
            self.world.clear_links()
        elif plan.backups or plan.put_back:
            self._back_up_or_put_back()

    # The state directory, put back

    def _back_up_or_put_back(self) -> None:
        if self.audit.is_lost():
            self._adopt()
        elif self._backup is None:
            # Before its echo is proven a service cannot show what a ledger has lost.
            if self.engine.echo_is_proven:
                self._copy_state()
        else:
            self._put_back(self._backup, whole=self.plan.put_back)

    def _copy_state(self) -> None:
        store = self.engine.store
        store.remember()
        self._backup = Backup(
            store.read(_copy_of),
            (store.directory / instance.FILE_NAME).read_bytes(),
            self.service.requests,
        )
        self.tell("a copy of the state is made")

    def _put_back(self, backup: Backup, *, whole: bool) -> None:
        self.tell(f"the copy is put back, {'the whole directory' if whole else 'the database'}")
        store, state = self.engine.store, self.base / "state"
        store.remember()
        store.kill()
        self.engine = None
        for path in state.glob("state.db*"):
            path.unlink()
        (state / FILE_NAME).write_bytes(backup.database)
        if whole:
            (state / instance.FILE_NAME).write_bytes(backup.instance)
        # Putting it back takes a while: what is stored is listed by then.
        self.now += self.service.weather.lag_seconds
        self._backup = None
        self.hints.clear()
        self.audit.put_back(backup.requests)
        self.start()
        self.audit.restart_history()

    def _adopt(self) -> None:
        """Have a person rebuild what was lost."""
        before = self.audit.known_uuids()
        self.tell("adopt")
        self.run_step("adopt")
        self.audit.adopted(before)

    # The end

    def _heal(self) -> None:
        """End every fault, for good."""
        self.tell("all faults end")
        self.quiet = True
        self.world.mount(True)
        self.world.clear_links()
        self.service.heal()
        for name, content in list(self.world.files.items()):
            if content in self.service.poisoned:
                self.world.unique += 1
                self.world.rewrite(name, f"healthy {self.world.unique:03d}of some length".encode())

    def _converge(self) -> None:
        for number in range(ROUNDS):
            self.round()
            if self.audit.is_lost():
                self._adopt()
            if self.audit.settled():
                break
            if self.rows(_HELD_UPLOADS):
                # The weaker promise: where no echo is proven, what may have arrived is held.
                raise _Held
            self.now += WAITS[number % len(WAITS)]
        else:
            raise Violation(
                f"liveness: not settled after {ROUNDS} rounds: {self.audit.difference()}"
            )
        # Objects that arrived after everybody stopped waiting are found by the late looks.
        for seconds in LATE:
            if not self.service.pending and not self.engine.looks_for_something:
                break
            self.now += seconds
            for _ in range(6):
                self.round()
                if self.audit.settled():
                    break
                self.now += 65.0
        orphan, left = self.audit.leftovers()
        if difference := self.audit.difference() or orphan:
            raise Violation(f"liveness: {difference}")
        if left:
            self._expect_shown({item.file_uuid for item in left})

    def _expect_shown(self, left: set[str]) -> None:
        shown = self.engine.shown_by_verify()
        if missing := left - shown:
            raise Violation(f"orphan: verify shows nothing of {min(missing)[-4:]}")

    def _rest(self) -> None:
        """A second run over the same folder sends nothing, and reads no listing."""
        # How the service shows the last uploads is learned first.
        self.now += 3700.0
        self.round()
        mutations, listings = self.service.mutations, self.service.listings
        for _ in range(3):
            self.round()
            self.now += 400.0
        if self.service.mutations != mutations:
            raise Violation("liveness: a quiet run still changes something")
        if self.service.listings != listings:
            raise Violation("liveness: a quiet run still reads listings")

    def round(self) -> None:
        """Run every step once."""
        for name in ROUND:
            self.run_step(name)


def _copy_of(db) -> bytes:
    """Return the database as one file, its WAL included."""
    with closing(sqlite3.connect(":memory:")) as target:
        db.conn.backup(target)
        return target.serialize()


_HELD_UPLOADS = (
    "SELECT path FROM copies JOIN files ON files.id = file_id JOIN holds ON released_at IS NULL "
    "AND scope = 'copy ' || copies.id WHERE copies.status = 'sending'"
)


def run(plan: Plan, base: Path) -> Schedule:
    """Run one schedule; Violation, with the trace so far, where it breaks an invariant."""
    logging.disable(logging.CRITICAL)
    schedule = Schedule(plan, base)
    try:
        schedule.run()
    except Violation as violation:
        violation.schedule = schedule
        raise
    finally:
        logging.disable(logging.NOTSET)
    return schedule
