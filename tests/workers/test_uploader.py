import errno
import mmap
import os
from hashlib import sha256
from pathlib import Path

import pytest

from syncd import disk
from syncd.files_api import FilesClient
from syncd.state import copies
from syncd.state.lifecycle import CopyStatus, FileStatus
from syncd.workers import uploader
from syncd.workers.preparation import UploadOptions
from syncd.workers.upload_thread import FIRST_BATCH

#: How a video begins that is none further on.
BEGUN = b"\0\0\0\x10ftypisom"


def test_an_uploaded_file_is_live_with_the_bytes_that_are_on_the_disk(shop):
    shop.drop("a.txt", b"hello")
    shop.upload()
    copy = shop.copy("a.txt")
    assert copy.status is CopyStatus.LIVE
    assert shop.live() == {copy.file_uuid: sha256(b"hello").hexdigest()}
    assert shop.file("a.txt").due_at is None


def test_a_file_that_is_hashed_is_among_the_transfers(shop, monkeypatch):
    seen = []
    real = disk.sha256

    def look(descriptor, size, **more):
        digest = real(descriptor, size, **more)
        seen.extend(shop.uploader.transfers.all())
        return digest

    monkeypatch.setattr(disk, "sha256", look)
    shop.drop("a", b"x" * 300_000)
    shop.upload()
    (reading,) = seen
    assert (reading.path, reading.sent, reading.is_read) == (b"a", 300_000, True)
    assert shop.uploader.transfers.all() == []


def test_an_empty_file_is_content_like_any_other(shop):
    shop.drop("empty", b"")
    shop.upload()
    assert shop.live() == {shop.copy("empty").file_uuid: sha256(b"").hexdigest()}


@pytest.mark.parametrize("method", ["direct", "presigned"])
def test_both_ways_of_sending_store_the_same(shop, method):
    shop.uploader._preparation.options = UploadOptions(workers=2, method=method)
    content = os.urandom(700_000)
    shop.drop("b.bin", content)
    shop.upload()
    assert shop.copy("b.bin").method == method
    assert shop.live() == {shop.copy("b.bin").file_uuid: sha256(content).hexdigest()}


def test_one_file_is_sent_direct_to_learn_the_echo_and_all_others_presigned_until_then(shop):
    shop.uploader._preparation.options = UploadOptions(workers=2)
    for name in "abcd":
        shop.drop(name, name.encode())
    shop.upload()
    assert sorted(copy.method for copy in shop.copies()) == ["direct"] + 3 * ["presigned"]
    shop.reconciler.step()
    shop.drop("e", b"e")
    shop.upload()
    assert shop.copy("e").method == "direct"


@pytest.mark.parametrize("echo", ["none"])
def test_where_nothing_is_echoed_all_is_sent_presigned(shop, echo):
    shop.uploader._preparation.options = UploadOptions(workers=2)
    shop.drop("a", b"a")
    shop.upload()
    shop.reconciler.step()
    for name in "bc":
        shop.drop(name, name.encode())
        shop.upload()
    assert [copy.method for copy in shop.copies()] == ["direct", "presigned", "presigned"]


def test_a_large_file_is_not_sent_direct_before_the_echo_is_proven(shop):
    shop.uploader._preparation.options = UploadOptions(workers=2)
    shop.drop("a", bytes((1 << 20) + 1))
    shop.upload()
    assert shop.copy("a").method == "presigned"


def test_videos_are_sent_direct_only_once_a_processed_one_was_seen_to_be_echoed(shop):
    shop.uploader._preparation.options = UploadOptions(workers=2)
    shop.drop("first", b"first")
    shop.upload()
    shop.reconciler.step()
    shop.drop("a.mp4", BEGUN + b"a")
    shop.upload()
    shop.reconciler.step()
    shop.drop("b.mp4", BEGUN + b"b")
    shop.upload()
    assert [shop.copy(n).method for n in ("a.mp4", "b.mp4")] == ["direct", "presigned"]
    facts = {"remote_file_path": None, "frame_count": 1, "video_metadata": None}
    shop.store.write(lambda db: shop.ledger.completed(db, shop.copy("a.mp4").id, shop.now, **facts))
    shop.now += 60
    shop.reconciler.step()
    shop.drop("c.mp4", BEGUN + b"c")
    shop.upload()
    assert shop.copy("c.mp4").method == "direct"


def test_long_files_are_sent_presigned_and_short_ones_directly(shop):
    shop.prove_echo()
    shop.uploader._preparation.options = UploadOptions(workers=2, direct_max=1000)
    shop.drop("short", b"s" * 1000)
    shop.drop("long", b"l" * 1001)
    shop.upload()
    assert (shop.copy("short").method, shop.copy("long").method) == ("direct", "presigned")


@pytest.mark.parametrize("method", ["direct", "presigned"])
def test_a_file_that_changes_while_it_is_sent_is_never_committed_by_the_server(
    shop, monkeypatch, method
):
    shop.uploader._preparation.options = UploadOptions(workers=2, method=method)
    size = 3 * 262_144  # a multiple of the chunk: nothing odd at the end gives it away
    shop.drop("torn", b"a" * size)
    hashed = disk.sha256

    def hash_then_change(descriptor, size, **more):
        digest = hashed(descriptor, size, **more)
        with (shop.root / "torn").open("r+b") as file:
            file.seek(size // 2)
            file.write(b"changed")
        stat = (shop.root / "torn").stat()
        monkeypatch.setattr(disk, "fingerprint", lambda _: shop.file("torn").fingerprint)
        assert stat.st_size == size
        return digest

    monkeypatch.setattr(disk, "sha256", hash_then_change)
    shop.upload()
    assert shop.live() == {}
    assert shop.file("torn").status is FileStatus.SETTLING
    assert shop.copy("torn").attempts == 0


def test_a_file_that_changed_since_it_was_seen_goes_back_to_settling_and_nothing_is_sent(shop):
    shop.drop("a", b"one")
    (shop.root / "a").write_bytes(b"two two")
    shop.upload()
    assert shop.file("a").status is FileStatus.SETTLING
    assert shop.copies() == []
    assert shop.ask("requests") == []


def test_a_file_that_is_a_link_by_now_is_not_followed(shop, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    shop.drop("a", b"secret")
    (shop.root / "a").unlink()
    (shop.root / "a").symlink_to(tmp_path / "secret")
    shop.upload()
    assert shop.copies() == []


def test_content_that_is_live_for_this_path_is_not_sent_again(shop):
    shop.drop("a", b"same")
    shop.upload()
    sent = len(shop.ask("requests"))
    os.utime(shop.root / "a")
    shop.notice("a")
    shop.upload()
    assert len(shop.ask("requests")) == sent
    assert shop.file("a").due_at is None


def test_two_paths_with_equal_content_are_two_copies(shop):
    shop.drop("a", b"same")
    shop.drop("b", b"same")
    shop.upload()
    assert len(shop.live()) == 2


def test_the_new_copy_is_live_before_the_old_one_retires(shop):
    shop.drop("a", b"one")
    shop.upload()
    shop.drop("a", b"two two")
    shop.upload()
    assert [copy.status for copy in shop.copies("a")] == ["retiring", "live"]
    assert len(shop.live()) == 2, "the old one is still there until its delete"


@pytest.mark.parametrize("status", [413, 415, 422])
def test_what_is_refused_for_good_is_failed_with_the_servers_words(shop, status):
    rule = {"match": "POST /v2/files/-/uploads", "times": 1, "action": {"status": status}}
    shop.faults(rule)
    shop.drop("a", b"a")
    shop.upload()
    assert shop.copy("a").status is CopyStatus.PLANNED, "nobody else got through yet"
    shop.now += 1
    shop.drop("b", b"b")
    shop.upload()
    shop.now += 1
    shop.faults(rule)
    shop.upload()
    copy = shop.copy("a")
    assert (copy.status, copy.error_status) == (CopyStatus.FAILED, status)
    assert copy.error_request_id.startswith("req_")
    shop.now += 10_000
    sent = len(shop.ask("requests"))
    shop.upload()
    assert len(shop.ask("requests")) == sent, "no hot loop"


def test_a_request_to_wait_is_obeyed_by_every_file(shop):
    fault = {
        "match": "POST /v2/files/-/uploads",
        "times": 1,
        "action": {"status": 429, "retry_after": 30},
    }
    shop.faults(fault)
    shop.drop("a", b"a")
    shop.upload()
    assert shop.copy("a").status is CopyStatus.PLANNED
    shop.drop("b", b"b")
    shop.now += 29
    shop.upload()
    assert len(shop.ask("requests")) == 1
    shop.now += 31
    shop.upload()
    assert len(shop.live()) == 2


def test_a_refused_key_holds_all_sending_and_is_taken_back_once_it_is_accepted(shop):
    refused = {"status": 401}
    shop.faults(
        {"match": "POST /v2/files/-/uploads", "action": refused},
        {"match": "GET /v2/files", "action": refused},
    )
    shop.drop("a", b"a")
    shop.upload()
    assert shop.holds() == [("sending", "key_refused")]
    assert shop.copy("a").status is CopyStatus.PLANNED
    sent = len(shop.ask("requests"))
    shop.now += 10_000
    shop.upload()
    assert len(shop.ask("requests")) == sent
    shop.faults()
    shop.reconciler.step()
    assert shop.holds() == []
    shop.upload()
    assert len(shop.live()) == 1


def test_a_hold_on_the_key_that_outlived_its_process_ends_when_the_key_is_accepted(shop):
    from syncd.workers.gate import Gate

    shop.gate._refuse(shop.refusal())
    again = Gate(store=shop.store, clock=shop.clock, monotonic=shop.clock)
    assert again.refused
    again.succeeded()
    assert shop.holds() == []


def test_a_service_that_cannot_be_reached_leaves_no_doubt_and_is_tried_by_few(shop):
    shop.emulator.stop()
    for number in range(12):
        shop.drop(f"f{number}", b"x" * number)
    shop.upload()
    assert {copy.status for copy in shop.copies()} == {CopyStatus.PLANNED}
    assert shop.gate.state == "unreachable"
    assert not shop.gate.may_send()


@pytest.mark.parametrize("action", ["drop_after", "garbage", "truncate", {"status": 503}])
def test_an_answer_that_does_not_come_puts_the_copy_in_doubt(shop, action):
    shop.faults({"match": "POST /v2/files/-/uploads", "times": 1, "action": action})
    shop.drop("a", b"a")
    shop.upload()
    assert shop.copy("a").in_doubt


def test_a_rename_is_taken_over_without_a_request_for_it(shop):
    shop.drop("old", b"content")
    shop.upload()
    uuid = shop.copy("old").file_uuid
    sent = len(shop.ask("requests"))
    (shop.root / "old").rename(shop.root / "new")
    shop.notice("new")
    shop.upload()
    assert shop.copy("new").file_uuid == uuid
    assert len(shop.ask("requests")) == sent
    assert shop.file("old") is None


def test_a_presigned_put_that_fails_gives_its_object_up_and_keeps_its_back_off(shop):
    shop.uploader._preparation.options = UploadOptions(workers=2, method="presigned")
    shop.faults({"match": "PUT /_storage/*", "times": 1, "action": {"status": 403}})
    shop.drop("a", b"a")
    shop.upload()
    assert [copy.status for copy in shop.copies("a")] == ["planned", "retiring"]
    assert shop.copies("a")[0].error_status == 403
    shop.now += 10
    shop.upload()
    shop.deleter.step()
    assert [copy.status for copy in shop.copies("a")] == ["live", "gone"]
    assert len(shop.live()) == 1
    assert not [o for o in shop.ask("objects") if o["state"] == "reserved"]


@pytest.mark.parametrize("planted", [False, True], ids=["as it is", "planted"])
def test_an_upload_without_its_last_gate_is_seen(shop, monkeypatch, planted):
    """A negative control for row 20: what changes under an upload is committed torn."""
    shop.uploader._preparation.options = UploadOptions(workers=2, method="direct")
    size = 3 * 262_144
    path = shop.root / "torn"
    shop.drop("torn", b"a" * size)
    hashed = disk.sha256

    def hash_then_change(descriptor, length, **more):
        digest = hashed(descriptor, length, **more)
        with path.open("r+b") as file:
            file.seek(size // 2)
            file.write(b"changed")
        monkeypatch.setattr(disk, "fingerprint", lambda _: shop.file("torn").fingerprint)
        return digest

    monkeypatch.setattr(disk, "sha256", hash_then_change)
    if planted:
        monkeypatch.setattr(type(shop.uploader._sending), "_gatekeeper", lambda *_: None)
    shop.upload()
    assert bool(shop.live()) is planted
    if planted:
        assert shop.live()[shop.copy("torn").file_uuid] != shop.copy("torn").sha256


@pytest.mark.row(13)
def test_two_names_of_one_file_are_two_copies_and_both_follow_what_is_written(shop):
    (shop.root / "a").write_bytes(b"before")
    (shop.root / "b").hardlink_to(shop.root / "a")
    for name in "ab":
        shop.notice(name)
    shop.upload()
    first = {shop.copy(name).file_uuid for name in "ab"}
    assert len(first) == 2
    (shop.root / "b").write_bytes(b"afterwards")
    shop.now += 1
    for name in "ab":
        shop.notice(name)
    shop.upload()
    for _ in range(2):
        shop.deleter.step()
    assert set(shop.live().values()) == {sha256(b"afterwards").hexdigest()}
    assert len(shop.live()) == 2
    assert not first & shop.live().keys()


@pytest.mark.row(2)
def test_a_file_that_the_disk_fails_to_read_is_unreadable_and_keeps_nobody_else_waiting(
    shop, monkeypatch
):
    real = os.pread

    def pread(descriptor, count, offset):
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == "bad":
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, count, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", pread)
        shop.drop("bad", b"bad")
        shop.drop("good", b"good")
        shop.upload()
    assert shop.copy("good").status is CopyStatus.LIVE
    bad = shop.file("bad")
    assert (bad.status, bad.due_at > shop.now) == (FileStatus.UNREADABLE, True)
    assert "Input/output error" in bad.error
    shop.now = bad.due_at + 1
    shop.notice("bad")
    shop.upload()
    assert len(shop.live()) == 2


def test_few_open_files_make_small_batches(shop, monkeypatch):
    shop.prove_echo()
    monkeypatch.setattr(uploader, "_open_files", lambda: 40)
    real, promised = FilesClient.upload, []

    def upload(*args, **kwargs):
        promised.append(sum(copy.in_flight for copy in shop.copies()))
        return real(*args, **kwargs)

    monkeypatch.setattr(FilesClient, "upload", upload)
    for number in range(60):
        shop.drop(f"{number}", b"%d" % number)
    shop.upload()
    assert len(shop.live()) == 60
    assert max(promised) <= 20, "two batches of each thread take half of the open files"


@pytest.mark.row(20)
def test_a_change_that_no_stamp_tells_of_is_not_stored(shop, monkeypatch):
    """A program that maps a file writes into it, and the kernel notes the first write alone."""
    shop.prove_echo()
    shop.drop("a", b"before")
    real = FilesClient.upload
    with (shop.root / "a").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:] = b"before"
        shop.notice("a")

        def upload(*args, **kwargs):
            before = os.fstat(file.fileno())
            mapped[:] = b"after!"
            after = os.fstat(file.fileno())
            assert (after.st_mtime_ns, after.st_ctime_ns) == (
                before.st_mtime_ns,
                before.st_ctime_ns,
            )
            return real(*args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(FilesClient, "upload", upload)
            shop.upload()
        assert shop.live() == {}
    shop.now += 10
    shop.notice("a")
    shop.upload()
    assert list(shop.live().values()) == [sha256(b"after!").hexdigest()]


def test_a_batch_is_small_until_it_is_known_how_long_a_file_takes(shop, monkeypatch):
    shop.prove_echo()
    real, promised = FilesClient.upload, []

    def upload(*args, **kwargs):
        promised.append(sum(copy.in_flight for copy in shop.copies()))
        return real(*args, **kwargs)

    monkeypatch.setattr(FilesClient, "upload", upload)
    shop.uploader._queue.allow(1)
    monkeypatch.setattr(shop.uploader, "_allow", lambda: None)
    for number in range(60):
        shop.drop(f"{number}", b"%d" % number)
    shop.upload()
    assert len(shop.live()) == 60
    assert promised[0] <= 2 * FIRST_BATCH, "those that are sent, and the next"
    assert max(promised) > 2 * FIRST_BATCH


def test_the_log_has_the_name_as_it_is_shown_and_counts_in_words(shop, caplog):
    with caplog.at_level("INFO"):
        shop.drop(os.fsdecode(b"bad\xff"), b"1")
        shop.upload()
    assert "bad\\xff: live, " in caplog.text
    assert "(1 byte in " in caplog.text


def test_what_was_promised_and_is_not_sent_at_the_end_is_planned_again(shop):
    send, sent = shop.uploader._sending.send, []

    def once(*args):
        sent.append(send(*args))
        shop.uploader.hurry()
        return sent[-1]

    shop.uploader._sending.send = once
    shop.uploader._most = 1
    for number in range(20):
        shop.drop(f"{number}", b"%d" % number)
    shop.upload()
    assert len(sent) == len(shop.live()) == 1
    promised = shop.copies()
    assert 1 < len(promised) < 20, "further files were promised meanwhile"
    assert {copy.status for copy in promised} == {CopyStatus.LIVE, CopyStatus.PLANNED}
    assert not any(copy.attempts for copy in promised if copy.status is CopyStatus.PLANNED)
    assert not shop.uploader.busy


def test_no_byte_leaves_before_its_intent_is_committed(shop, monkeypatch):
    """Even while others are prepared; a negative control is in the simulation."""
    committed, upload = [], FilesClient.upload

    def check(self, source, *, name, **more):
        rows = shop.store.read(lambda db: copies.where(db, "status = 'sending' AND in_flight = 1"))
        committed.append(any(copy.token in name for copy in rows))
        return upload(self, source, name=name, **more)

    monkeypatch.setattr(FilesClient, "upload", check)
    for number in range(60):
        shop.drop(f"{number}", b"%d" % number)
    shop.upload()
    assert committed == [True] * 60
    assert len(shop.live()) == 60
