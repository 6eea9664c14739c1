"""Shared by the rigs: a service, folders synced with it by real processes, and the audit."""

import itertools
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Self

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
JsonObject = dict[str, Any]
#: Where syncd talks to the network, or writes what has to last.
CALLS = (
    "sendto", "recvfrom", "sendmsg", "recvmsg", "write", "writev", "pwrite64", "fsync",
    "fdatasync", "ftruncate", "rename", "renameat", "renameat2", "unlink", "unlinkat",
)  # fmt: skip
MUTATIONS = ("POST", "PUT", "DELETE")
#: A token of another instance, as its objects carry it.
FOREIGN_TOKEN = "sy2-ffffffff-" + "-".join(["0" * 12] * 3) + "-" + "0" * 20
#: Where a token counts: at the end of a name, before at most one extension.
TOKEN = re.compile(r".\.(sy2(?:-[0-9a-f]+){5})(?:\.[^./]+)?$")


#: The most that a rig needs.
ROOM_BYTES = 2 << 30
#: The launcher's word on a process that it had to end.
LATE = "its time was up"


class Problem(NamedTuple):
    """Something that must never be: one of `KINDS`, and what exactly."""

    kind: str
    detail: str


#: lost, duplicate, orphan: of the synced files. placeholder: reserved and without content. foreign:
#: an object of others was touched. gap: a moment without a live copy. intent: a request without one
#: committed before it. traffic: requests with nothing to do. stuck: not done when faults are over.
KINDS = ("lost", "duplicate", "orphan", "placeholder", "foreign", "gap", "intent", "traffic",
         "stuck")  # fmt: skip


class Service:
    """`syncd emulator`, as a process of its own."""

    def __init__(self, data: Path, *options: str) -> None:
        self.data, self._options = data, options
        self._port = 0
        self.url = ""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "syncd", "emulator", "--data", str(self.data)]
        command += ["--listen", f"127.0.0.1:{self._port}", *self._options]
        with (self.data.parent / f"{self.data.name}.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        said = self._process.stdout.readline() if self._process.stdout else ""
        if not said.startswith("listening on "):
            raise RuntimeError(f"the emulator did not start: {said!r}")
        self.url = said.split()[-1]
        self._port = int(self.url.rpartition(":")[2])
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)

    def kill(self) -> None:
        """End it at once, whatever it is about."""
        self._process.kill()
        self._process.wait(20)

    def _ask(self, request: urllib.request.Request | str) -> Any:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def objects(self) -> list[JsonObject]:
        return [
            json.loads(line) for line in self._ask(f"{self.url}/_emulator/objects").splitlines()
        ]

    def requests(self) -> list[JsonObject]:
        """Return every request that was answered, or cut off, oldest first."""
        lines = self._ask(f"{self.url}/_emulator/requests").splitlines()
        return [json.loads(line) for line in lines]

    def mutations(self) -> list[JsonObject]:
        """Return every request that could change something."""
        return [r for r in self.requests() if r["method"] in MUTATIONS]

    def faults(self, *rules: JsonObject) -> None:
        body = json.dumps(rules).encode()
        self._ask(urllib.request.Request(f"{self.url}/_emulator/faults", body, method="PUT"))

    def put(self, name: str, content: bytes, workspace: str) -> str:
        """Store an object as somebody else; return its uuid."""
        body = (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n'
            b"Content-Type: text/plain\r\n\r\n%b\r\n--b--\r\n"
        ) % (name.encode(), content)
        headers = {"content-type": "multipart/form-data; boundary=b", "x-api-key": "theirs"}
        url = f"{self.url}/v2/files/-/uploads?workspace_uuid={workspace}"
        return json.loads(self._ask(urllib.request.Request(url, body, headers)))["file_uuid"]


class Ended(NamedTuple):
    """How a process ended: its exit code or the signal, how many calls the trap counted."""

    code: int | None
    signal: int | None
    calls: int
    last: str


class Launcher:
    """Starts syncd's commands, one at a time; see `launcher.py`."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, HERE / "launcher.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(60)

    def start(self, argv: Sequence[str], env: dict[str, str], log: Path, **more: Any) -> int:
        """Start a command; return its process id. `ended` must follow before the next."""
        job = {"seconds": 60, "plants": [], "trap": None} | more
        job |= {"argv": list(argv), "env": env, "log": str(log)}
        assert self._process.stdin
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(self._answer()["pid"])

    def ended(self) -> Ended:
        """Wait for the command's end."""
        return Ended(**self._answer())

    def _answer(self) -> JsonObject:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the launcher ended")
        return json.loads(line)


class World:
    """A folder, its state, and a workspace of its own in which others have objects, too."""

    def __init__(
        self,
        place: Path,
        service: Service,
        launcher: Launcher,
        *,
        method: str = "auto",
        state: Path | None = None,
        **settings: str,
    ) -> None:
        self.place, self.service, self.launcher = place, service, launcher
        self.drop, self.state = place / "drop", state or place / "state"
        self.drop.mkdir(parents=True)
        self.log = place / "log"
        self.workspace = str(uuid.uuid4())
        self.plants: tuple[str, ...] = ("quicken",)
        folder = {
            "path": str(self.drop),
            "workspace_uuid": self.workspace,
            "settle_seconds": 0,
            "grace_seconds": 0.05,
            "rescan_seconds": 1,
        }
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(place),
            "AYMARA_AI_API_KEY": "ours",
            "SYNCD_API__BASE_URL": service.url,
            "SYNCD_STATE__DIRECTORY": str(self.state),
            "SYNCD_UPLOAD__METHOD": method,
            "SYNCD_UPLOAD__RESEND_AFTER_SECONDS": "0.6",
            "SYNCD_PROCESSING__FIRST_POLL_SECONDS": "0.05",
            "SYNCD_PROCESSING__POLLS_PER_SECOND": "100",
            "SYNCD_FOLDERS": json.dumps([folder]),
            **settings,
        }
        self.foreign = {
            service.put(name, content, self.workspace): sha256(content).hexdigest()
            for name, content in {
                "kept.txt": b"kept",
                "theirs.txt": b"theirs",
                f"other.{FOREIGN_TOKEN}.txt": b"of another instance",
            }.items()
        }

    def write(self, name: str, content: bytes) -> None:
        """Put a file there as a careful producer does: whole, by a rename."""
        path = self.drop / name
        path.parent.mkdir(exist_ok=True)
        new = self.place / ".new"
        new.write_bytes(content)
        new.replace(path)

    def once(self, *plants: str, **more: Any) -> Ended:
        """Make a pass to its end, or to the trap's."""
        self.start("once", "--wait-deletions", plants=plants, **more)
        return self.launcher.ended()

    def start(self, *argv: str, plants: Sequence[str] = (), **more: Any) -> int:
        chosen = [*self.plants, *plants]
        return self.launcher.start(argv, self.env, self.log, plants=chosen, **more)

    def on_disk(self) -> dict[str, str]:
        return {
            str(path.relative_to(self.drop)): sha256(path.read_bytes()).hexdigest()
            for path in self.drop.rglob("*")
            if path.is_file()
        }

    def manifest(self) -> dict[str, JsonObject]:
        """Return what `syncd ls --json` prints, by path."""
        out = self.place / "manifest"
        out.unlink(missing_ok=True)
        self.launcher.start(["ls", "--json"], self.env, out)
        self.launcher.ended()
        rows = [json.loads(line) for line in out.read_text().splitlines() if line[:1] == "{"]
        return {row["path"]: row for row in rows}

    def ledger(self) -> list[JsonObject]:
        """Return every copy with its file's path, read from the database itself."""
        with closing(sqlite3.connect(f"file:{self.state}/state.db?mode=ro", uri=True)) as db:
            db.row_factory = sqlite3.Row
            rows = db.execute(
                "SELECT copies.*, CAST(path AS TEXT) AS path FROM copies JOIN files "
                "ON files.id = file_id ORDER BY copies.id"
            )
            return [dict(row) for row in rows]

    def facts(self) -> dict[str, str]:
        """Return what the ledger keeps of itself and the service: nothing before it is made."""
        if not (self.state / "state.db").exists():
            return {}
        with closing(sqlite3.connect(f"file:{self.state}/state.db?mode=ro", uri=True)) as db:
            try:
                made = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'service'").fetchone()
            except sqlite3.OperationalError as error:
                # A transaction that makes it was cut short, and a reader cannot roll it back.
                if error.sqlite_errorname != "SQLITE_READONLY_ROLLBACK":
                    raise
                return {}
            return dict(db.execute("SELECT key, value FROM service")) if made else {}

    def tell(self) -> str:
        """Return the end of the log: what syncd said of a problem."""
        return self.log.read_text(errors="replace")[-3000:]


class Remote(NamedTuple):
    """One world's objects at the service, and the requests for it."""

    objects: dict[str, JsonObject]
    requests: list[JsonObject]


def remote(world: World) -> Remote:
    """Return the objects of the world's workspace, and the requests that concern them."""
    found = {
        o["file_uuid"]: o
        for o in world.service.objects()
        if o["workspace_uuid"] == world.workspace and o["file_uuid"] not in world.foreign
    }
    uuids, ours = {*found, *world.foreign}, f"sy2-{world.facts().get('instance', '?')}-"
    requests = [
        r
        for r in world.service.mutations()
        if (r["token"] or "").startswith(ours)
        or (r["token"] is None and r["path"].split("/")[-1] in uuids)
    ]
    return Remote(found, requests)


def token_of(stored: JsonObject) -> str | None:
    found = TOKEN.search(stored["local_file_path"] or "")
    return found and found[1]


#: Files, each by the names it may go by, and the contents of which one must be live.
Promised = Sequence[tuple[Sequence[str], Sequence[bytes]]]


def gaps(world: World, promised: Promised) -> Iterator[Problem]:
    """See that each file that is `promised` has a live copy now, and that the ledger knows it."""
    copies = world.ledger() if promised else []
    live = {u: o for u, o in remote(world).objects.items() if o["state"] == "live"}
    for paths, contents in promised:
        digests = {sha256(content).hexdigest() for content in contents}
        mine = [c["file_uuid"] for c in copies if c["path"] in paths and c["sha256"] in digests]
        if not any(live[u]["sha256"] in digests for u in mine if u in live):
            yield Problem("gap", f"{paths[0]} has no live copy")


def audit(world: World, *, steady: Sequence[str] = ()) -> list[Problem]:
    """Compare path, uuid and SHA-256 one by one: disk, ledger, service. Empty where all is well.

    `steady` names files that were there all the time: none of their copies may have gone before
    its successor had arrived.
    """
    copies = world.ledger()
    there = remote(world)
    return [
        *_contents(world, copies, there.objects),
        *_foreign(world),
        *_intents(copies, there, last_attempt=int(world.facts().get("attempt", 0))),
        *_order(copies, there, steady),
    ]


def _contents(
    world: World, copies: list[JsonObject], objects: dict[str, JsonObject]
) -> Iterator[Problem]:
    disk, rows = world.on_disk(), world.manifest()
    known = {copy["file_uuid"]: copy for copy in copies if copy["status"] == "live"}
    claimed = set()
    for path, digest in disk.items():
        row = rows.get(path)
        if row is None or row["status"] != "synced":
            yield Problem("lost", f"{path} is {row and row['status']}: {row and row['error']}")
            continue
        mine, held = known.get(row["file_uuid"]), objects.get(row["file_uuid"])
        claimed.add(row["file_uuid"])
        if mine is None or mine["path"] != path:
            yield Problem("lost", f"{path}: `ls` and the ledger name other copies")
        elif held is None or held["state"] != "live":
            yield Problem("lost", f"{path}: {row['file_uuid']} is {held and held['state']}")
        elif {row["sha256"], held["sha256"], mine["sha256"]} != {digest}:
            yield Problem("lost", f"{path}: {row['file_uuid']} holds other bytes")
    for path, row in rows.items():
        if path not in disk and row["file_uuid"]:
            yield Problem("orphan", f"{path} is gone here, and listed as {row['status']}")
    for path, number in Counter(copy["path"] for copy in known.values()).items():
        if number > 1:
            yield Problem("duplicate", f"{path} has {number} live copies in the ledger")
    contents = set(disk.values())
    for file_uuid, o in objects.items():
        if o["state"] == "reserved":
            yield Problem("placeholder", f"{file_uuid} for {o['local_file_path']}")
        elif o["state"] == "live" and file_uuid not in claimed:
            kind = "duplicate" if o["sha256"] in contents else "orphan"
            yield Problem(kind, f"{file_uuid} for {o['local_file_path']}")


def _foreign(world: World) -> Iterator[Problem]:
    now = {o["file_uuid"]: o for o in world.service.objects() if o["file_uuid"] in world.foreign}
    for file_uuid, digest in world.foreign.items():
        o = now[file_uuid]
        if (o["state"], o["sha256"]) != ("live", digest):
            yield Problem("foreign", f"{o['local_file_path']} is {o['state']}")


def _intents(copies: list[JsonObject], there: Remote, *, last_attempt: int) -> Iterator[Problem]:
    # Each request has a token of its own, and the ledger keeps the last: the others are known by
    # their place and content, and by their number, which is committed with the intent.
    since: dict[str, float] = {}
    for copy in copies:
        place = place_of(copy["token"])
        since[place] = min(since.get(place, copy["created_at"]), copy["created_at"])
    by_uuid = {copy["file_uuid"]: copy for copy in copies if copy["file_uuid"]}
    for request in there.requests:
        at, last = when(request), request["path"].split("/")[-1]
        what = f"{request['method']} {request['path']} ({request['token']})"
        match request["method"]:
            case "POST":
                is_counted = int(request["token"].split("-")[4], 16) <= last_attempt
                if not is_counted or since.get(place_of(request["token"]), at + 1) > at:
                    yield Problem("intent", f"{what}: its token is not in the ledger")
            case "PUT":
                if last not in by_uuid:
                    yield Problem("intent", f"{what}: its uuid is not in the ledger")
            case "DELETE":
                copy = by_uuid.get(last)
                if copy is None or copy["status"] not in ("retiring", "gone"):
                    yield Problem("intent", f"{what}: the ledger holds no retiring copy")
                elif (copy["delete_sent_at"] or at + 1) > at:
                    yield Problem("intent", f"{what}: no intent to delete")


def place_of(token: str) -> str:
    """Return what a token says of path and content."""
    return token.rsplit("-", 2)[0]


def _order(copies: list[JsonObject], there: Remote, steady: Sequence[str]) -> Iterator[Problem]:
    arrived = {u: datetime.fromisoformat(o["created_at"]) for u, o in there.objects.items()}
    for request in there.requests:
        if request["method"] == "PUT" and (request["status"] or 0) < 400:
            # A presigned object is made before its bytes come.
            arrived[request["path"].split("/")[-1]] = datetime.fromisoformat(request["time"])
    for path in steady:
        mine = [c["file_uuid"] for c in copies if c["path"] == path and c["file_uuid"] in arrived]
        for gone in mine:
            o = there.objects[gone]
            if o["sha256"] is None or o["deleted_at"] is None:
                continue
            at = datetime.fromisoformat(o["deleted_at"])
            others = [there.objects[u] for u in mine if u != gone and arrived[u] < at]
            if not any(
                other["sha256"]
                and (not other["deleted_at"] or datetime.fromisoformat(other["deleted_at"]) > at)
                for other in others
            ):
                yield Problem("gap", f"{path}: {gone} went before another copy had arrived")


def when(request: JsonObject) -> float:
    """Return when a request began, in seconds since the epoch."""
    return datetime.fromisoformat(request["time"]).timestamp()


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """Lend a directory, in memory where there is room, because it is synced often."""
    memory = Path("/dev/shm")
    fits = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM_BYTES
    with tempfile.TemporaryDirectory(
        prefix=f"syncd-{name}-", dir=memory if fits else None, ignore_cleanup_errors=True
    ) as place:
        yield Path(place)


class Progress:
    """A line that counts, on a terminal; nothing elsewhere."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._done = itertools.count(1)
        self._lock = threading.Lock()
        self._shown = 0.0

    def step(self) -> None:
        done = next(self._done)
        if not sys.stderr.isatty():
            return
        with self._lock:
            if time.monotonic() - self._shown > 0.1 or done >= self._total:
                self._shown = time.monotonic()
                end = "\n" if done >= self._total else ""
                sys.stderr.write(f"\r  {self._what}: {done} of {self._total}{end}")
                sys.stderr.flush()


class Report:
    """Checks, told as they come; its end is the last line that `.ci/rigs` reads."""

    def __init__(self) -> None:
        self.passed = self.failed = 0

    def check(self, what: str, problems: Sequence[object] = (), *, well: bool = True) -> None:
        """Count one check; `problems` are shown where there are some."""
        if well and not problems:
            self.passed += 1
            print(f"ok    {what}", flush=True)
            return
        self.failed += 1
        print(f"FAIL  {what}", flush=True)
        for problem in problems[:20]:
            print(f"      | {problem}", flush=True)

    def end(self) -> int:
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        return 1 if self.failed else 0
