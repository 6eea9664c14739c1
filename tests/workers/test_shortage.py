"""Out of memory, or of anything else, at any point: one file's trouble, and it heals."""

import errno
import subprocess
import sys
import threading

import pytest

from syncd import disk
from syncd.exceptions import ShortageError, StateWriteError
from syncd.files_api import FilesClient
from syncd.state.deletions import Deletions
from syncd.state.ledger import Ledger
from syncd.state.lifecycle import CopyStatus
from syncd.state.observations import Seen
from syncd.workers.preparation import UploadOptions
from syncd.workers.sending import Sending

#: The stages of an upload, from the disk to the table.
ON_THE_WAY = {
    "opening": (disk, "open_beneath"),
    "hashing": (disk, "sha256"),
    "the intent": (Ledger, "begin"),
    "sending": (FilesClient, "upload"),
    "the outcome": (Ledger, "stored"),
}


def fails(monkeypatch, owner, name, error, times=2):
    """Let a call fail; twice, for a transaction that fails is tried once more by itself."""
    real, left = getattr(owner, name), [times]

    def call(*args, **kwargs):
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)
    return lambda: left[0] < times


def heals(shop, *names):
    for _ in range(3):
        shop.now += 400
        shop.reconciler.step()
        shop.upload()
        shop.deleter.step()
    assert [shop.copy(name).status for name in names] == [CopyStatus.LIVE] * len(names)
    assert shop.live().keys() == {shop.copy(name).file_uuid for name in names}
    assert not any(copy.in_flight for copy in shop.copies())


@pytest.mark.row(49)
@pytest.mark.parametrize("where", ON_THE_WAY)
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a bug")], ids=["memory", "a bug"])
def test_an_upload_that_fails_in_any_way_takes_no_thread_and_is_made_later(
    shop, monkeypatch, where, error
):
    shop.prove_echo()
    has_failed = fails(monkeypatch, *ON_THE_WAY[where], error)
    shop.uploader._most = 1
    shop.drop("bad", b"bad")
    shop.upload()
    assert has_failed()
    shop.drop("good", b"good")
    shop.upload()
    assert not shop.uploader.busy or shop.uploader._handed_out.unknown
    heals(shop, "bad", "good")


@pytest.mark.row(50)
def test_a_shortage_that_cannot_even_be_written_down_takes_no_thread(shop, monkeypatch):
    shop.prove_echo()
    short = ShortageError(errno.EMFILE, "too many open files")
    fails(monkeypatch, disk, "open_beneath", short, times=1)
    fails(monkeypatch, Ledger, "put_off", StateWriteError("disk full"), times=4)
    shop.drop("bad", b"bad")
    shop.upload()
    assert not shop.uploader.busy
    heals(shop, "bad")


@pytest.mark.row(50)
@pytest.mark.parametrize("method", ["direct", "presigned"])
def test_a_shortage_before_the_last_byte_leaves_no_doubt(shop, monkeypatch, method):
    shop.uploader._preparation.options = UploadOptions(workers=2, method=method)
    short = ShortageError(errno.EMFILE, "too many open files")
    fails(monkeypatch, Sending, "_gatekeeper", short, times=1)
    shop.drop("bad", b"bad")
    shop.upload()
    assert shop.copies("bad")[0].status is CopyStatus.PLANNED
    shop.now += 5
    shop.upload()
    assert shop.copies("bad")[0].status is CopyStatus.LIVE


@pytest.mark.row(49)
@pytest.mark.parametrize(
    ("owner", "name"),
    [(FilesClient, "delete"), (Deletions, "deleted"), (Deletions, "begin_delete")],
)
def test_a_deletion_that_fails_in_any_way_is_made_later(shop, monkeypatch, owner, name):
    shop.drop("a", b"a")
    shop.drop("b", b"b")
    shop.upload()
    (shop.root / "a").unlink()
    shop.notice("a", Seen.MISSING)
    shop.now += 61
    with monkeypatch.context() as patch:
        fails(patch, owner, name, MemoryError())
        with pytest.raises(MemoryError):
            shop.deleter.step()
    shop.now += 61
    shop.deleter.step()
    assert shop.copy("a").status is CopyStatus.GONE
    assert shop.live().keys() == {shop.copy("b").file_uuid}
    # The path is free again.
    shop.drop("a", b"anew")
    heals(shop, "a", "b")


@pytest.mark.row(91)
def test_a_few_upload_threads_are_enough_and_none_is_said_clearly(shop, monkeypatch, caplog):
    most, started, real = 1, [], threading.Thread.start

    def start(thread):
        if thread.name.startswith("syncd-upload"):
            if len(started) >= most:
                raise RuntimeError("can't start new thread")
            started.append(thread)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    for name in "ab":
        shop.drop(name, name.encode())
    shop.upload()
    assert shop.copy("a").status is shop.copy("b").status is CopyStatus.LIVE
    assert "1 of 2 upload threads run" in caplog.text
    with pytest.raises(ShortageError, match=r"pids\.max"):
        shop.uploader.start()


_FIRST_LOOK_UP = """
import resource, socket
from syncd.files_api import network
resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
print(socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)[0][4])
"""


@pytest.mark.row(50)
def test_an_address_is_resolved_where_no_descriptor_is_free():
    done = subprocess.run(
        [sys.executable, "-c", _FIRST_LOOK_UP], capture_output=True, text=True, check=False
    )
    assert done.stdout == "('127.0.0.1', 80)\n", done.stderr
