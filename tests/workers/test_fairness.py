import os
import threading
import time

import pytest

from syncd.disk import Fingerprint
from syncd.identity import RootIdentity
from syncd.state import due, files, folders
from syncd.state.files import File
from syncd.state.lifecycle import FileStatus
from syncd.workers.upload_queue import UploadQueue


def drop(store, folder, count, due_at):
    def work(db):
        folders.note(db, folder, os.fsencode(f"/{folder}"), 0.0)
        folders.accept_part(db, folder, b"", RootIdentity("uuid 1", 2))
        for number in range(count):
            files.insert(
                db,
                folder=folder,
                path=b"%d" % number,
                status=FileStatus.READY,
                fingerprint=Fingerprint(number, 10, 0, 0),
                changed_at=0.0,
                due_at=due_at,
            )

    store.write(work)


@pytest.mark.row(61)
def test_a_fresh_file_comes_up_at_once_beside_a_great_drop_in_another_folder(store):
    drop(store, "great", 5000, due_at=1.0)
    drop(store, "small", 1, due_at=2.0)
    found = store.read(lambda db: due.uploads(db, 10.0, 256))
    assert [file.folder for file in found].count("small") == 1
    assert len(found) == 257
    assert store.read(lambda db: due.next_upload(db, 1.5)) == 2.0


@pytest.mark.row(61)
def test_what_is_due_is_found_by_the_index_alone(store):
    drop(store, "f", 1, due_at=1.0)
    plan = store.read(
        lambda db: [
            row[3]
            for row in db.conn.execute(
                "EXPLAIN QUERY PLAN SELECT id, due_at FROM files WHERE status = 'ready' AND "
                "folder = 'f' AND due_at <= 9 ORDER BY due_at LIMIT 5"
            )
        ]
    )
    assert len(plan) == 1
    assert "USING COVERING INDEX files_due (status=? AND folder=? AND due_at<?)" in plan[0]


def a_file(number, folder, size=1):
    mark = Fingerprint(number, size, 0, 0)
    return File(number, folder, b"%d" % number, FileStatus.READY, mark, 1, None, 0.0)


def test_each_folder_has_its_turn():
    queue = UploadQueue()
    for number in range(4):
        queue.put(a_file(number, "great"))
    queue.put(a_file(9, "small"))
    assert [queue.get().id for _ in range(5)] == [0, 9, 1, 2, 3]
    assert queue.get() is None


def test_a_batch_is_of_one_folder_small_files_and_leaves_enough_for_all_threads():
    queue = UploadQueue(limit=2)
    for number in range(20):
        queue.put(a_file(number, "f", size=1 << 18))
    queue.put(a_file(20, "g"))
    first = queue.get()
    assert [file.id for file in queue.more(first, 16)] == [1, 2, 3], "a MiB together"
    assert queue.next_of("f") is None, "it is the turn of another folder"
    assert [file.id for file in queue.more(a_file(0, "f"), 2)] == [4, 5]
    assert queue.get().id == 20
    assert queue.next_of("f").id == 6
    while len(queue) > 3:
        queue.more(a_file(0, "f"), 1)
    assert queue.more(a_file(0, "f"), 16) == []
    queue.allow(3)
    assert queue.next_of("f") is None


def test_no_more_threads_are_at_work_than_may_be():
    queue = UploadQueue(limit=1)
    queue.open()
    for number in range(3):
        queue.put(a_file(number, "f"))
    got, threads = [], []
    assert queue.get().id == 0
    for _ in range(2):
        threads.append(threading.Thread(target=lambda: got.append(queue.get())))
        threads[-1].start()
    time.sleep(0.05)
    assert got == []
    queue.rest()
    threads[0].join(0.05)
    assert len(got) == 1
    queue.allow(2)
    for thread in threads:
        thread.join(5)
    assert len(got) == 2


def test_whoever_waits_is_told_of_the_end():
    queue = UploadQueue()
    queue.open()
    threads = [threading.Thread(target=queue.get) for _ in range(3)]
    for thread in threads:
        thread.start()
    queue.close()
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)


def test_few_large_files_go_at_a_time_and_small_ones_pass_them():
    queue = UploadQueue()
    for number in range(10):
        queue.put(a_file(number, "f", size=33 << 20))
    for number in range(20, 23):
        queue.put(a_file(number, "f"))
    taken = [queue.get() for _ in range(7)]
    assert sorted(file.id for file in taken) == [0, 1, 2, 3, 20, 21, 22]
    assert queue._take() is None, "four large ones are under way"
    queue.done(taken[0])
    assert queue.get().id == 4
    assert len(queue) == 5


@pytest.mark.parametrize("limit", [2, 4])
def test_large_files_leave_a_thread_to_small_ones_however_few_may_work(limit):
    queue = UploadQueue(limit=limit)
    queue.open()
    for number in range(8):
        queue.put(a_file(number, "f", size=33 << 20))
    got = [queue.get_now() for _ in range(limit)]
    assert [file is None for file in got] == [False] * (limit - 1) + [True]
    queue.put(a_file(9, "f"))
    assert queue.get_now().id == 9


def test_a_small_file_is_handed_out_though_hundreds_of_large_ones_are_due_longer(store):
    drop(store, "f", 300, due_at=1.0)
    store.write(lambda db: db.conn.execute(f"UPDATE files SET size = {33 << 20} WHERE id > 1"))
    store.write(lambda db: db.conn.execute("UPDATE files SET due_at = 5 WHERE id = 1"))
    found = store.read(lambda db: due.uploads(db, 10.0, 8))
    assert len(found) == 9
    assert 1 in [file.id for file in found]


def test_large_files_are_found_by_an_index_of_their_own(store):
    drop(store, "f", 1, due_at=1.0)
    plan = store.read(
        lambda db: [
            row[3]
            for row in db.conn.execute(
                "EXPLAIN QUERY PLAN SELECT id, due_at FROM files WHERE status = 'ready' AND "
                f"folder = 'f' AND due_at <= 9 AND files.size > {32 << 20} ORDER BY due_at LIMIT 5"
            )
        ]
    )
    assert "files_large" in plan[0]
