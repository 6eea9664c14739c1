"""Folders of files that are all live in the ledger, for benchmarks of what comes after."""

import os
import time
from pathlib import Path

from syncd.state.binding import BASE_URL
from syncd.state.database.store import Store
from syncd.state.planner import Policy
from syncd.watch.folder import WatchFolder
from syncd.watch.watched import Watched

IN_DIRECTORY = 100
#: Nothing answers there.
NOWHERE = "http://127.0.0.1:9"
_LIVE = (
    "INSERT INTO copies (file_id, token, file_uuid, status, generation, sha256, size, "
    "content_type, method, created_at, sent_at, stored_at, live_at) SELECT id, 't' || id, "
    "printf('%08x-0000-4000-8000-000000000000', id), 'live', generation, "
    "printf('%064x', id), size, 'text/plain', 'direct', :now, :now, :now, :now FROM files"
)


def make_files(root: Path, files: int) -> None:
    """Make files of one byte, 100 a directory."""
    for number in range(files):
        directory = root / f"{number // IN_DIRECTORY // 100}" / f"{number // IN_DIRECTORY}"
        if number % IN_DIRECTORY == 0:
            directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / str(number), os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(descriptor, b"x")
        os.close(descriptor)


def watched(store: Store, name: str, root: Path, **more) -> Watched:
    """Return a folder to scan; its files are old enough not to settle."""
    return Watched(
        store=store,
        folder=WatchFolder(name, os.fsencode(root), **more),
        policies={name: Policy()},
        wake=lambda: None,
        clock=lambda: time.time() + 60,
        monotonic=time.monotonic,
        stopped=lambda: False,
    )


def make_ledger(state: Path, roots: dict[str, Path]) -> None:
    """Fill a ledger with the files of these folders, each with a live copy."""
    store = Store(state)
    store.open(time.time())
    try:
        store.set_fact(BASE_URL, NOWHERE)
        for name, root in roots.items():
            watched(store, name, root).scan()
        store.write(lambda db: db.conn.execute(_LIVE, {"now": time.time()}))
        store.write(
            lambda db: db.conn.execute(
                "UPDATE files SET sha256 = printf('%064x', id), due_at = NULL"
            )
        )
    finally:
        store.close()


def environment(state: Path, roots: dict[str, Path]) -> dict[str, str]:
    """Return the settings of a syncd that watches these folders."""
    folders = ", ".join(f'{{"name": "{name}", "path": "{root}"}}' for name, root in roots.items())
    return {
        "AYMARA_AI_API_KEY": "benchmark",
        "SYNCD_API__BASE_URL": NOWHERE,
        "SYNCD_STATE__DIRECTORY": str(state),
        "SYNCD_LOG__LEVEL": "error",
        "SYNCD_FOLDERS": f"[{folders}]",
    }


def installed(scratch: Path, tree: str | None) -> dict[str, str]:
    """Return an environment with byte code, as an installation has it, perhaps of another tree."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    kept["PYTHONPYCACHEPREFIX"] = str(scratch / "byte-code")
    return kept | ({"PYTHONPATH": tree} if tree else {})
