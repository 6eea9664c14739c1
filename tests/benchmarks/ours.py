"""syncd as it is shipped: its commands over a folder and a state of their own, and its ledger."""

import json
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from urllib.request import pathname2url

from tests.benchmarks.measure import BrokenError
from tests.benchmarks.process import environment, run, until

START_SECONDS = 120


class Syncd:
    """A tree of syncd beside a service; everything is default but what is given."""

    def __init__(
        self, tree, place, folder, service, *, settle_seconds=0, existing="upload", **settings
    ):
        self.tree, self.place, self.folder, self.service = tree, place, folder, service
        self.state = place / f"state{str(tree).replace('/', '-')}"
        self.settings = {
            "AYMARA_AI_API_KEY": "key-of-the-sink",
            "SYNCD_API__BASE_URL": service.url,
            "SYNCD_STATE__DIRECTORY": str(self.state),
            "SYNCD_LOG__LEVEL": "warning",
            "SYNCD_FOLDERS": json.dumps(
                [
                    {
                        "path": str(folder),
                        "name": "files",
                        "existing": existing,
                        "settle_seconds": settle_seconds,
                    }
                ]
            ),
        }
        if service.certificate:
            self.settings["SYNCD_API__CA_FILE"] = str(service.certificate)
        self.settings |= {f"SYNCD_{name.upper()}": str(value) for name, value in settings.items()}

    @property
    def env(self):
        return environment(PYTHONPATH=str(self.tree), **self.settings)

    def words(self, *words):
        return [sys.executable, "-m", "syncd", *words]

    def run(self, *words, under=(), codes=(0,)):
        """Run a command to its end."""
        return run([*under, *self.words(*words)], self.env, cwd=self.place, codes=codes)

    def anew(self):
        """Forget the state, and what the service was sent."""
        shutil.rmtree(self.state, ignore_errors=True)
        self.service.forget()
        return self

    @contextmanager
    def daemon(self, *, under=()):
        """Run the daemon until it is left; it is ready when it is lent."""
        address = f"{self.place}/notify.sock"
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
            (self.place / "daemon.log").open("w+b") as log,
        ):
            (self.place / "notify.sock").unlink(missing_ok=True)
            notified.bind(address)
            notified.settimeout(START_SECONDS)
            process = subprocess.Popen(
                [*under, *self.words("run")],
                env=self.env | {"NOTIFY_SOCKET": address},
                cwd=self.place,
                stdout=log,
                stderr=log,
            )
            try:
                while b"READY=1" not in notified.recv(4096):
                    pass
                yield process
            except TimeoutError:
                log.seek(0)
                raise BrokenError(f"the daemon did not start: {log.read()[-2000:]}") from None
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    @contextmanager
    def reads(self):
        """Lend a reader of the ledger."""
        uri = f"file:{pathname2url(str(self.state / 'state.db'))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=30)) as db:
            yield db

    def asks(self, query, *values):
        """Return the rows that a reader of the ledger finds."""
        with self.reads() as db:
            return db.execute(query, values).fetchall()

    @contextmanager
    def writes(self):
        """Lend the ledger of a stopped syncd to be written; commit it."""
        with closing(sqlite3.connect(self.state / "state.db")) as db, db:
            yield db

    def count(self, status="live"):
        """Return how many copies have a status."""
        return self.asks("SELECT count(*) FROM copies WHERE status = ?", status)[0][0]

    def audit(self, digests, *, going=None):
        """Raise BrokenError unless each file is live once, here and there, as it is on disk.

        Files that are `going` were removed, and may be live still.
        """
        going = going or {}
        self.service.expect(digests.values(), "syncd", going=going.values())
        there = {o["uuid"]: o["sha256"] for o in self.service.objects() if o["state"] == "live"}
        rows = self.asks(
            "SELECT CAST(path AS TEXT), file_uuid, copies.sha256 FROM copies "
            "JOIN files ON files.id = file_id WHERE copies.status = 'live'"
        )
        rows = [row for row in rows if row[0] not in going]
        told = {path: digest for path, uuid, digest in rows if there.get(uuid) == digest}
        if len(rows) != len(digests) or told != digests:
            raise BrokenError(f"syncd: the ledger has {len(rows)} live files of {len(digests)}")

    def survives_a_kill(self, digests, *, going=None):
        """Kill a pass where half of the bytes have arrived; make another, and audit."""
        self.settings["SYNCD_UPLOAD__RESEND_AFTER_SECONDS"] = "2"
        half = sum((self.folder / name).stat().st_size for name in digests) // 2
        before = self.service.counts()["bytes"]
        process = subprocess.Popen(
            self.words("once"), env=self.env, cwd=self.place, stderr=subprocess.DEVNULL
        )
        try:
            until(
                lambda: (
                    self.service.counts()["bytes"] - before > half or process.poll() is not None
                ),
                600,
                "half of the bytes sent",
            )
        finally:
            process.kill()
            process.wait()
        if process.returncode != -signal.SIGKILL:
            raise BrokenError(f"a pass ended with {process.returncode} before it could be killed")
        self.run("once", codes=(0, 1) if going else (0,))
        self.audit(digests, going=going)
