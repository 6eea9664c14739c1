"""Bugs for the liveness rig: each takes the mend of one kind out of the product, in one process.

`short_limits` is no bug: by it the short form need not wait ten minutes until something is overdue.
"""

from importlib import import_module
from typing import Any


def _set(place: str, value: Any) -> None:
    """Give `module:Class.name` another value; AttributeError where the product has it no longer."""
    module, _, names = place.partition(":")
    found: Any = import_module(module)
    *outer, last = names.split(".")
    for name in outer:
        found = getattr(found, name)
    getattr(found, last)
    setattr(found, last, value)


def short_limits() -> None:
    """Let things be overdue after 40 s instead of 5 or 10 minutes."""
    for name in ("DUE_SECONDS", "QUEUE_SECONDS", "TRANSFER_SECONDS"):
        _set(f"syncd.state.ages:{name}", 40.0)
    _set("syncd.pulse:SLOW_SECONDS", 40.0)


def dates_unclamped() -> None:
    """a date is written down as it is"""
    _set("syncd.disk:_clamped", lambda nanoseconds: nanoseconds)


def storage_blamed_on_files() -> None:
    """what the storage does counts for its file alone"""
    _set("syncd.workers.gate:Gate.storage_tripped", property(lambda _: False))


def refusals_are_final() -> None:
    """ten files that are refused alike are ten bad files"""
    _set("syncd.workers.refusals:ALIKE", 10**9)


def no_cause_is_kept() -> None:
    """why the service is not reached is forgotten"""
    _set("syncd.workers.gate:Gate.cause", property(lambda _: ""))


def no_scan_after_overflow() -> None:
    """lost events are counted, and nothing is scanned for them"""
    _set("syncd.daemon:STOOD_STILL_SECONDS", 1e9)
    _set("syncd.watch.observer:FolderObserver._lost",
         lambda self, _: setattr(self, "overflows", self.overflows + 1))  # fmt: skip


def no_scan_after_a_full_disk() -> None:
    """what was noticed while nothing could be written stays unknown"""
    _set("syncd.watch.hints:Hints.ask_scan", lambda *_: None)


def unreadable_is_not_polled() -> None:
    """a directory that could not be read waits for the next scan"""
    _set("syncd.watch.watched:Watched._are_polled", property(lambda _: False))


def roots_go_unchecked() -> None:
    """a root is looked at when its folder is scanned, and not between"""
    _set("syncd.watch.watched:Watched.check_all", lambda _: None)


def writers_believed() -> None:
    """the kernel is not asked whether a file is still open"""
    _set("syncd.watch.open_files:OpenFiles.has", lambda *_: False)


def one_after_the_other() -> None:
    """all folders share one thread"""
    import threading

    turn = threading.Lock()
    check = import_module("syncd.watch.watched").Watched.check_all
    look = import_module("syncd.watch.watched").Watched.look_hints
    for name, step in (("check_all", check), ("look_hints", look)):

        def in_turn(self: Any, step: Any = step) -> Any:
            with turn:
                return step(self)

        _set(f"syncd.watch.watched:Watched.{name}", in_turn)


def deaf_manager_awaited() -> None:
    """a service manager is told until it has heard"""
    import os
    import socket

    def send(message: str) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.connect(os.environ["NOTIFY_SOCKET"])
            end.send(message.encode())
        return True

    _set("syncd.sd_notify:_send", send)


#: Each bug's kind.
FOR = {
    "dates_unclamped": "a file dated 2300, one dated 1600",
    "storage_blamed_on_files": "a storage that answers 500",
    "refusals_are_final": "a validator that refuses all (400)",
    "no_cause_is_kept": "a storage that breaks off",
    "no_scan_after_overflow": "events that were lost",
    "no_scan_after_a_full_disk": "a state disk that is full",
    "unreadable_is_not_polled": "a directory that may not be read",
    "roots_go_unchecked": "a folder that is renamed away",
    "writers_believed": "a file that its writer keeps open",
    "one_after_the_other": "a FUSE folder that hangs",
    "deaf_manager_awaited": "a service manager that does not listen",
}
