"""One schedule: a random history, the invariants after each step, and what must be at its end."""

import logging
import random
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from syncd.state.schema import FILE_NAME

from .engine import (
    ADOPTS,
    FOLDER,
    GRACE_SECONDS,
    RESEND_SECONDS,
    Engine,
    PowerCut,
    fresh_state,
    lose_commits,
    settings,
    simulated,
)
from .server import FOREIGN, Object, Service, Violation, Weather
from .world import CONTENTS, NAMES, World

EPOCH = 1_750_000_000.0
DAY_SECONDS = 86_400.0
ROUNDS = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """What a schedule is made of: which faults, how many, and how much may happen in between."""

    seed: int
    method: str = "auto"
    echo: bool = True
    steps: int = 24
    #: at each point in between: something happens to the files, power fails, a commit fails
    change: float = 0.03
    crash: float = 0.01
    commit_error: float = 0.005
    #: at each point in between: so many seconds may pass
    lapse_seconds: float = 0.5
    #: of each change on the disk: an event tells of it
    events: float = 0.7
    unmounts: bool = True
    key_trouble: bool = True
    backups: bool = False
    #: commits that a power cut takes with it (none, with synchronous=FULL)
    lost_commits: int = 0
    weather: Weather = field(default_factory=Weather)

    @property
    def tame(self) -> bool:
        """Whether nothing arrives or shows so late that waiting for it is no use."""
        weather = self.weather
        late = weather.late_seconds + weather.lag_seconds + 64 * self.lapse_seconds
        return late < RESEND_SECONDS and not weather.twice and not self.lost_commits


def plan_for(seed: int) -> Plan:
    """Return the plan of a seed: each with other faults, some with few."""
    rng = random.Random(f"plan {seed}")
    wild = rng.random() < 0.4
    weather = Weather(
        trouble=rng.choice((0.0, 0.05, 0.15, 0.4)),
        twice=rng.choice((0.0, 0.2)) if wild else 0.0,
        late=rng.choice((0.0, 0.1, 0.3)),
        late_seconds=rng.choice((30.0, 400.0)) if wild else 20.0,
        lag_seconds=rng.choice((0.0, 60.0, 300.0)) if wild else rng.choice((0.0, 30.0)),
        shifting=rng.choice((0.0, 0.1, 0.4)),
        miscount=rng.choice((0.0, 0.2)),
        processing_seconds=rng.choice((0.0, 100.0)),
        poison=rng.choice((0.0, 0.0, 0.1)),
    )
    echo = rng.random() < 0.85
    return Plan(
        seed=seed,
        method=rng.choice(("auto", "direct", "presigned")),
        echo=echo,
        steps=rng.choice((12, 24, 40)),
        change=rng.choice((0.0, 0.02, 0.08)),
        crash=rng.choice((0.0, 0.01, 0.03)),
        commit_error=rng.choice((0.0, 0.0, 0.01)),
        lapse_seconds=rng.choice((0.0, 0.5, 20.0)) if wild else 0.5,
        events=rng.choice((0.0, 0.7, 1.0)),
        unmounts=rng.random() < 0.3,
        key_trouble=rng.random() < 0.3,
        backups=ADOPTS and echo and rng.random() < 0.15,
        weather=weather,
    )


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
        self.cuts = 0
        self.quiet = False
        self.dead = False
        self.hints: list[tuple[bytes, bool]] = []
        #: paths that had a live copy while a file was there, and still is
        self.covered: set[str] = set()
        self.history_seen = 0
        self.was_restored = False
        self._backup: bytes | None = None
        #: what was so when everything was last checked
        self._checked: tuple[int, ...] = ()
        self.world = World(base, self.rng, self.clock, self.tell, self._hint)
        self.service = Service(
            rng=self.rng,
            clock=self.clock,
            echo=plan.echo,
            between=self.between,
            audit=self._audit,
            tell=self.tell,
            weather=replace(plan.weather),
        )
        self.config = settings(base, plan.method)
        self.engine: Engine | None = None
        self.step_event = 0

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
                )
                return
            except PowerCut:
                self.engine = None

    def _between_starting(self, point: str) -> None:
        # The store opens before there is an engine to be interrupted.
        if self.engine is not None:
            self.between(point)

    def restart(self) -> None:
        """Bury the dead engine and start another on what the disk holds."""
        self.cuts += 1
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
        self.step_event = self.world.event
        try:
            self.engine.run(name)
        except PowerCut:
            self.restart()
        self.check()

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
        kind = rng.randrange(5)
        if kind == 0:
            service.add_foreign(rng.choice(CONTENTS), rng.choice(FOREIGN_NAMES))
        elif kind == 1 and plan.unmounts:
            self.world.mount(not self.world.mounted, with_directory=rng.random() < 0.7)
        elif kind == 2 and plan.key_trouble:
            service.key = rng.choice(("good", "good", "refused", "wrong"))
            self.tell(f"the key is {service.key}")
        elif kind == 3:
            self.world.clear_links()
        elif kind == 4 and plan.backups:
            self._back_up_or_restore()

    def _back_up_or_restore(self) -> None:
        store = self.engine.store
        if self._backup is None:
            self.tell("a backup is made")
            self._backup = _copy_of(store.directory / FILE_NAME)
            return
        self.tell("the backup is put back")
        store.remember()
        store.kill()
        self.engine = None
        for path in (self.base / "state").glob("state.db*"):
            path.unlink()
        (self.base / "state" / FILE_NAME).write_bytes(self._backup)
        self._backup = None
        self.was_restored = True
        self.start()

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
        if self.was_restored:
            self.engine.adopt()
        for number in range(ROUNDS):
            self.round()
            if self._settled():
                break
            if self.rows(_HELD_UPLOADS):
                # The weaker promise: where no echo is proven, what may have arrived is held.
                raise _Held
            self.now += WAITS[number % len(WAITS)]
        else:
            raise Violation(f"liveness: not settled after {ROUNDS} rounds: {self._difference()}")
        # What arrived after its request was given up is found by a late look.
        for seconds in (601.0, 3601.0, DAY_SECONDS + 1, 7 * DAY_SECONDS + 1):
            self.now += seconds
            for _ in range(6):
                self.round()
                self.now += 65.0
                if self._settled():
                    break
        if difference := self._difference():
            raise Violation(f"liveness: {difference}")

    def _rest(self) -> None:
        """A second run over the same folder sends nothing, and reads no listing."""
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
        for name in ("scan", "look", "settle", "upload", "confirm", "poll", "delete"):
            self.run_step(name)

    # What is looked at

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        """Read what is committed."""
        return self.engine.store.read(lambda db: db.conn.execute(query, values).fetchall())

    def check(self) -> None:
        """Check what must hold at every instant."""
        moment = (self.world.event, self.service.mutations, self.cuts, self.engine_writer().commits)
        if moment == self._checked:
            return
        self._checked = moment
        here = self.world.files if self.world.mounted else {}
        live: dict[str, Object] = {}
        for row in self.rows(_LIVE):
            item = self.service.objects.get(row["file_uuid"])
            if item is None or item.owner == FOREIGN:
                raise Violation(f"I2: {row['path']!r} is live by an object that is not ours")
            if row["sha256"] and item.sha256 != row["sha256"]:
                raise Violation(f"I6: the bytes of {row['path']!r} are not what the ledger says")
            if item.there and item.body is not None:
                live[row["path"].decode()] = item
        self.covered -= self.world.vacated
        self.world.vacated.clear()
        lost = self.rows(_LOST)
        for name in () if lost else list(self.covered):
            if name in here and name not in live:
                raise Violation(f"I5: {name} was synced, is there, and has no live copy")
        self.covered |= here.keys() & live.keys()
        for row in self.rows(_NEW_HISTORY, self.history_seen):
            self.history_seen = row["id"]
            if row["event"] == "synced" and row["gone"]:
                raise Violation(f"I7: {row['path']!r} is gone, and yet a copy of it went live")

    def _audit(
        self,
        operation: str,
        *,
        name: str = "",
        item: Object | None = None,
        file_uuid: str = "",
        body: bytes | None = None,
    ) -> None:
        """Check a request that changes something, as it arrives."""
        if self.rows(_LOST):
            raise Violation(f"{operation} while the ledger is known to have lost something")
        if self.now < self.service.retry_until and not self.cuts:
            raise Violation(f"I14: {operation} before the time that the service asked for")
        if operation == "delete":
            self._audit_delete(item, file_uuid)
            return
        token = next(iter(Object("", "", name or item.name, "", 0).tokens()), None)
        known = self.rows("SELECT * FROM copies WHERE token = ? AND status = 'sending'", token)
        if not known:
            raise Violation(f"I1: {operation} without a committed intent")
        (copy,) = known
        if operation == "put" and copy["file_uuid"] != item.file_uuid:
            raise Violation("I1: bytes are sent to an object that the ledger does not know")
        if body is not None and _sha256(body) != copy["sha256"]:
            raise Violation("I6: other bytes are sent than the ledger promises")
        flying = self.rows(
            "SELECT count(*) FROM copies WHERE file_id = ? AND in_flight = 1", copy["file_id"]
        )
        if flying[0][0] != 1:
            raise Violation("I9: not exactly one request is in flight for a path")
        if self.plan.tame and operation == "upload" and self.service.stored_by_token.get(token):
            raise Violation("one version is stored twice")

    def _audit_delete(self, item: Object | None, file_uuid: str) -> None:
        known = self.rows(_DELETED, file_uuid)
        if not known or known[0]["status"] != "retiring" or known[0]["delete_sent_at"] is None:
            raise Violation("I2: a DELETE without a committed intent")
        if item is not None and item.owner == FOREIGN:
            raise Violation("I3: a DELETE of somebody else's object")
        copy = known[0]
        others = self.rows(_OTHERS, copy["file_id"])
        if copy["live_at"] is None or any(
            (other := self.service.objects.get(row["file_uuid"]))
            and other.there
            and other.body is not None
            for row in others
        ):
            return
        if copy["status_of_file"] == "missing" and self.rows(_HELD, FOLDER):
            raise Violation("I10: a missing file's copy is deleted under a hold")
        name = copy["path"].decode()
        if not self.world.was_absent(
            name, since_event=self.step_event, grace_seconds=GRACE_SECONDS
        ):
            raise Violation(f"I7: the only copy of {name} is deleted without evidence")

    def _settled(self) -> bool:
        return not self.rows(_OPEN) and not self._difference(strict=False)

    def _difference(self, *, strict: bool = True) -> str:
        """Say where remote and local differ; nothing if they are equal."""
        here = self.world.files
        rows = self.rows(_KEPT)
        live = {row["path"].decode(): row for row in rows if row["status"] == "live"}
        for name, content in here.items():
            if name not in live:
                return f"{name} has no live copy"
            item = self.service.objects[live[name]["file_uuid"]]
            if item.deleted or item.body != content:
                return f"{name} and its copy differ"
        if extra := set(live) - set(here):
            return f"copies of {sorted(extra)} are live, and there are no such files"
        if not strict:
            return ""
        known = {row["file_uuid"] for row in rows}
        settled = {
            row["token"] for row in self.rows("SELECT token FROM copies WHERE file_uuid NOT NULL")
        }
        for item in self.service.ours():
            if item.file_uuid in known:
                continue
            if not self.plan.echo and (item.body is None or self.plan.weather.twice):
                # The weaker promise: an empty record may be left, and nothing shows whose a
                # second object is.
                continue
            if item.tokens() & settled:
                continue  # made by a repetition of a request: an attempt has one object
            if self.was_restored:
                continue  # its own tokens, unknown to the ledger, are kept
            return f"{item.file_uuid[-4:]} ({item.name}) is an orphan"
        return ""


def _sha256(body: bytes) -> str:
    return Object("", "", "", "", 0, body).sha256 or ""


def _copy_of(path: Path) -> bytes:
    """Return the database as one file, its WAL included."""
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(":memory:")) as target:
        source.backup(target)
        return target.serialize()


ORDERS = (
    ("scan", "look", "settle", "upload", "confirm", "poll", "delete"),
    ("scan", "upload"),
    ("look", "upload"),
    ("look", "delete"),
    ("scan", "delete", "upload"),
    ("settle", "upload"),
    ("settle",),
    ("confirm",),
    ("poll", "delete"),
)
#: Seconds between two rounds of a healed world.
WAITS = (6.0, 6.0, 65.0, 65.0, 130.0, 310.0, 3700.0)
FOREIGN_NAMES = ("theirs.txt", "a.txt", f"a.{'sy1-ffffffff-' + '0' * 28}.txt")
_LIVE = (
    "SELECT path, copies.* FROM copies JOIN files ON files.id = file_id "
    "WHERE copies.status IN ('live', 'released')"
)
_KEPT = (
    "SELECT path, copies.status, file_uuid FROM copies JOIN files ON files.id = file_id "
    "WHERE copies.status IN ('live', 'released', 'failed')"
)
_OPEN = (
    "SELECT 1 FROM copies WHERE status IN ('planned', 'sending', 'processing', 'retiring') "
    "UNION ALL "
    "SELECT 1 FROM files WHERE status = 'settling' "
    "OR (status = 'missing' AND due_at IS NOT NULL)"
)
_HELD_UPLOADS = (
    "SELECT path FROM copies JOIN files ON files.id = file_id JOIN holds ON released_at IS NULL "
    "AND scope = 'copy ' || copies.id WHERE copies.status = 'sending'"
)
_DELETED = (
    "SELECT path, files.status AS status_of_file, copies.* FROM copies "
    "JOIN files ON files.id = file_id WHERE file_uuid = ?"
)
_OTHERS = "SELECT file_uuid FROM copies WHERE file_id = ? AND status IN ('live', 'released')"
_HELD = (
    "SELECT 1 FROM holds WHERE stops = 'deletions' AND scope IN (?, '*') AND released_at IS NULL"
)
_LOST = "SELECT 1 FROM holds WHERE reason = 'state_lost' AND released_at IS NULL"
_NEW_HISTORY = (
    "SELECT history.id, event, history.path, confirmed_at IS NOT NULL AS gone FROM history "
    "LEFT JOIN files ON files.folder = history.folder AND files.path = history.path "
    "WHERE history.id > ? ORDER BY history.id"
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
