"""Receipts: written after the commit, at least once, over nobody's file, and in nobody's way."""

import json
import os
from dataclasses import replace

import pytest

from syncd import relocation
from syncd.state import receipts as table
from syncd.state.observations import Seen
from syncd.workers import after_upload as taking
from syncd.workers.after_upload import AfterUpload
from syncd.workers.emptied_folder import EmptiedFolder
from syncd.workers.receipts import ReceiptFolder, Receipts


@pytest.fixture
def desk(shop, tmp_path):
    """A shop that keeps its files, and writes receipts into a directory."""
    shop.target = tmp_path / "receipts"
    shop.receipts = receipts_of(shop, is_beside=False, replaces=True)
    shop.receipts.begin(forget=True)
    return shop


@pytest.fixture
def emptied(shop, tmp_path):
    """A shop that moves its files, and writes receipts beside them."""
    shop.target = tmp_path / "sent"
    shop.policies["f"] = replace(shop.policies["f"], after_upload="move")
    shop.after_upload = AfterUpload(
        store=shop.store,
        ledger=shop.ledger,
        client=shop.client,
        gate=shop.gate,
        emptied={"f": EmptiedFolder(os.fsencode(shop.root), os.fsencode(shop.target))},
        policies=shop.policies,
        clock=shop.clock,
    )
    shop.receipts = receipts_of(shop, is_beside=True, replaces=False)
    shop.receipts.begin(forget=True)
    return shop


def receipts_of(shop, **how):
    folders = {"f": ReceiptFolder(os.fsencode(shop.target), **how)}
    return Receipts(store=shop.store, folders=folders, clock=shop.clock)


def written(shop):
    """Return the receipts beneath the target by name, and their uuids."""
    found = shop.target.rglob("*.json") if shop.target.exists() else ()
    return {
        str(path.relative_to(shop.target)): json.loads(path.read_text())["file_uuid"]
        for path in found
    }


def obstacle(shop):
    return shop.store.read(table.obstacles).get("f", "")


def test_a_receipt_tells_what_is_synced_and_a_newer_one_replaces_it(desk):
    (desk.root / "a").mkdir()
    desk.drop("a/clip.txt", b"one")
    desk.receipts.step()
    assert written(desk) == {}, "no receipt comes before the outcome"
    desk.upload()
    desk.receipts.step()
    copy = desk.copy("a/clip.txt")
    (path,) = desk.target.rglob("*.json")
    assert path == desk.target / "a/clip.txt.receipt.json"
    assert json.loads(path.read_text()) == {
        "folder": "f",
        "path": "a/clip.txt",
        "file_uuid": copy.file_uuid,
        "remote_file_path": copy.remote_file_path,
        "sha256": copy.sha256,
        "size": 3,
        "synced_at": "1970-01-12T13:46:40.000Z",
    }
    desk.drop("a/clip.txt", b"other")
    desk.upload()
    desk.receipts.step()
    assert written(desk) == {"a/clip.txt.receipt.json": desk.copy("a/clip.txt").file_uuid}
    assert [path for path in desk.target.rglob("*") if path.is_file()] == [path]


def test_a_receipt_stands_beside_the_moved_file_whatever_name_that_got(emptied):
    emptied.target.mkdir()
    (emptied.target / "a.txt").write_bytes(b"somebody's")
    for name in ("a.txt", os.fsdecode(b"\xff.txt")):
        emptied.drop(name, name.encode(errors="replace"))
    emptied.upload()
    emptied.receipts.step()
    assert written(emptied) == {}
    emptied.after_upload.step()
    emptied.receipts.step()
    assert written(emptied) == {
        "a-2.txt.receipt.json": emptied.copy("a.txt").file_uuid,
        os.fsdecode(b"\xff.txt.receipt.json"): emptied.copy(os.fsdecode(b"\xff.txt")).file_uuid,
    }
    assert (emptied.target / "a-2.txt").read_bytes() == b"a.txt"


def test_nobodys_file_is_overwritten(desk):
    desk.target.mkdir()
    (desk.target / "a.receipt.json").write_text('{"file_uuid": "mine"}')
    desk.drop("a", b"one")
    desk.upload()
    desk.receipts.step()
    uuid = desk.copy("a").file_uuid
    assert written(desk) == {"a.receipt.json": "mine", "a.receipt-2.json": uuid}
    # Somebody wrote into a receipt: it is theirs.
    (desk.target / "a.receipt-2.json").unlink()
    (desk.target / "a.receipt.json").write_bytes(b'{"file_uuid": "' + uuid.encode() + b'"}')
    desk.drop("a", b"two")
    desk.upload()
    desk.receipts.step()
    newest = desk.copy("a").file_uuid
    assert written(desk) == {"a.receipt.json": uuid, "a.receipt-2.json": newest}


@pytest.mark.parametrize("cut", ["before the file", "before the note"])
def test_a_receipt_that_a_crash_kept_back_is_written_at_the_next_start(desk, monkeypatch, cut):
    desk.drop("a", b"one")
    desk.upload()

    class KilledError(Exception):
        pass

    def killed(*_args, **_more):
        raise KilledError

    with monkeypatch.context() as at:
        if cut == "before the file":
            at.setattr(relocation.os, "fsync", killed)
            at.setattr(relocation.os, "unlink", lambda *_args, **_more: None)
        else:
            at.setattr(table, "note", killed)
        with pytest.raises(KilledError):
            desk.receipts.step()
    again = receipts_of(desk, is_beside=False, replaces=True)
    again.begin(forget=True)
    again.step()
    assert written(desk) == {"a.receipt.json": desk.copy("a").file_uuid}
    assert len(list(desk.target.iterdir())) == 1, "what the crash left is gone"


def test_a_file_whose_move_a_crash_cut_short_gets_its_receipt_beside_it(emptied, monkeypatch):
    emptied.target.mkdir()
    (emptied.target / "a").write_bytes(b"somebody's")
    emptied.drop("a", b"one")
    emptied.upload()

    class KilledError(Exception):
        pass

    def killed(*_args, **_more):
        raise KilledError

    with monkeypatch.context() as at:
        at.setattr(taking.after_upload, "done", killed)
        with pytest.raises(KilledError):
            emptied.after_upload.step()
    emptied.now += 61
    emptied.after_upload.step()
    emptied.receipts.step()
    assert written(emptied) == {"a-2.receipt.json": emptied.copy("a").file_uuid}


def test_a_directory_that_takes_no_receipt_is_named_and_holds_up_no_other(desk, tmp_path):
    desk.target.mkdir()
    (desk.target / "bad").write_bytes(b"a file where a directory is needed")
    for name in ("bad/a", "good/a"):
        (desk.root / name).parent.mkdir()
        desk.drop(name, name.encode())
    desk.upload()
    wait = desk.receipts.step()
    assert written(desk) == {"good/a.receipt.json": desk.copy("good/a").file_uuid}
    assert obstacle(desk) == f"{desk.target}/bad: Not a directory"
    (desk.target / "bad").unlink()
    desk.drop("bad/b", b"b")
    desk.upload()
    desk.receipts.step()
    assert "bad/b.receipt.json" not in written(desk), "it is left alone for a while"
    desk.now += wait + 1
    desk.receipts.step()
    uuids = {f"{name}.receipt.json": desk.copy(name).file_uuid for name in ("bad/a", "bad/b")}
    assert uuids.items() <= written(desk).items()
    assert obstacle(desk) == ""


def test_only_our_own_receipt_of_earlier_content_is_replaced_under_whatever_name(desk):
    desk.target.mkdir()
    (desk.target / "a.receipt.json").write_text('{"file_uuid": "mine"}')
    for content in (b"one", b"two", b"three"):
        desk.drop("a", content)
        desk.upload()
        desk.receipts.step()
    newest = desk.copy("a").file_uuid
    assert written(desk) == {"a.receipt.json": "mine", "a.receipt-2.json": newest}


def test_an_obstacle_at_a_path_that_is_not_utf_8_can_be_told(desk):
    path = os.fsdecode(b"/srv/\xff")
    desk.store.write(
        table.note, "f", table.ReceiptProgress(0, (), f"{path}: Read-only file system")
    )
    assert obstacle(desk).endswith("Read-only file system")


def test_a_write_of_which_the_disk_takes_a_part_is_gone_on_with(desk, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:10]))
    desk.drop("a", b"one")
    desk.upload()
    desk.receipts.step()
    assert written(desk) == {"a.receipt.json": desk.copy("a").file_uuid}


def test_receipts_begin_with_what_is_synced_once_they_are_wanted(desk):
    desk.receipts = receipts_of(desk, is_beside=False, replaces=True)
    Receipts(store=desk.store, folders={}, clock=desk.clock).begin(forget=True)
    desk.drop("before", b"1")
    desk.upload()
    desk.receipts.begin(forget=True)
    desk.drop("after", b"2")
    desk.upload()
    desk.receipts.step()
    assert set(written(desk)) == {"after.receipt.json"}


def test_a_renamed_file_has_a_receipt_under_its_new_name(desk):
    desk.drop("old", b"one")
    desk.upload()
    (desk.root / "old").rename(desk.root / "new")
    desk.notice("old", Seen.MISSING)
    desk.notice("new")
    desk.upload()
    desk.receipts.step()
    assert written(desk)["new.receipt.json"] == desk.copy("new").file_uuid


def test_a_long_name_is_shortened(desk):
    name = "\u00fc" * 127
    desk.drop(name, b"one")
    desk.upload()
    desk.receipts.step()
    assert set(written(desk)) == {"\u00fc" * 115 + ".receipt.json"}
