import errno
import mmap
import os
from dataclasses import replace
from hashlib import sha256

import pytest

from syncd import disk, lease, relocation
from syncd.state import after_upload, folders, holds
from syncd.state.lifecycle import CopyStatus, FileStatus
from syncd.state.observations import Seen
from syncd.workers import after_upload as worker
from syncd.workers.after_upload import DAY_SECONDS, AfterUpload
from syncd.workers.emptied_folder import EmptiedFolder


@pytest.fixture(params=["move", "delete"])
def emptied(request, shop, tmp_path):
    shop.target = tmp_path / "sent"
    shop.policies["f"] = replace(shop.policies["f"], after_upload=request.param)
    target = os.fsencode(shop.target) if request.param == "move" else None
    shop.after_upload = AfterUpload(
        store=shop.store,
        ledger=shop.ledger,
        client=shop.client,
        gate=shop.gate,
        emptied={"f": EmptiedFolder(os.fsencode(shop.root), target)},
        policies=shop.policies,
        clock=shop.clock,
    )
    return shop


def sent(shop):
    """Return the moved files by name; deleting leaves nothing to compare."""
    found = shop.target.rglob("*") if shop.target.exists() else ()
    return {str(path.relative_to(shop.target)): path.read_bytes() for path in found}


def quiet(shop):
    """A day goes by; whatever could still be deleted is."""
    for _ in range(4):
        shop.now += 20_000
        shop.deleter.step()


def test_a_live_file_is_taken_away_and_its_copy_stays_for_good(emptied):
    emptied.drop("a", b"one")
    emptied.after_upload.step()
    assert (emptied.root / "a").exists(), "nothing is taken that is not live"
    emptied.upload()
    emptied.after_upload.step()
    assert not (emptied.root / "a").exists()
    assert emptied.file("a").status is FileStatus.CONSUMED
    assert emptied.copy("a").status is CopyStatus.RELEASED
    emptied.notice("a", Seen.MISSING)
    quiet(emptied)
    assert len(emptied.live()) == 1
    if emptied.policies["f"].after_upload == "move":
        assert sent(emptied) == {"a": b"one"}


def test_a_step_asks_for_the_next_one_only_where_it_may_have_left_something(emptied, monkeypatch):
    monkeypatch.setattr("syncd.workers.after_upload.BATCH", 1)
    for name in ("a", "b"):
        emptied.drop(name, name.encode())
    emptied.upload()
    assert [emptied.after_upload.step() for _ in range(3)] == [0.0, 0.0, None]
    assert list(emptied.root.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize("second", [b"two", b"one"], ids=["other content", "the same content"])
def test_a_new_drop_of_that_name_is_a_new_copy_beside_the_old(emptied, second):
    emptied.drop("a", b"one")
    emptied.upload()
    emptied.after_upload.step()
    emptied.drop("a", second)
    emptied.upload()
    quiet(emptied)
    assert len(emptied.live()) == 2
    emptied.after_upload.step()
    emptied.notice("a", Seen.MISSING)
    quiet(emptied)
    assert len(emptied.live()) == 2
    assert [c.status for c in emptied.copies("a")] == [CopyStatus.RELEASED] * 2


def test_what_a_person_deletes_before_it_is_taken_away_is_kept_remotely(emptied):
    emptied.drop("a", b"one")
    emptied.upload()
    emptied.after_upload.step()
    emptied.drop("a", b"two")
    emptied.upload()
    (emptied.root / "a").unlink()
    emptied.notice("a", Seen.MISSING)
    quiet(emptied)
    assert [c.status for c in emptied.copies("a")] == [CopyStatus.RELEASED, CopyStatus.RELEASED]
    assert len(emptied.live()) == 2


def test_newer_content_stands_beside_the_old_that_was_not_taken_away_yet(emptied):
    """Nothing remote is ever deleted where files are taken away."""
    emptied.drop("a", b"half")
    emptied.upload()
    emptied.drop("a", b"whole")
    emptied.upload()
    assert [c.status for c in emptied.copies("a")] == [CopyStatus.RELEASED, CopyStatus.LIVE]
    emptied.after_upload.step()
    quiet(emptied)
    assert not (emptied.root / "a").exists()
    assert [c.status for c in emptied.copies("a")] == [CopyStatus.RELEASED, CopyStatus.RELEASED]
    assert len(emptied.live()) == 2


def test_a_file_that_is_no_longer_what_was_sent_stays(emptied):
    emptied.drop("a", b"one")
    emptied.upload()
    (emptied.root / "a").write_bytes(b"two")
    emptied.after_upload.step()
    assert (emptied.root / "a").read_bytes() == b"two"
    assert emptied.copy("a").status is CopyStatus.LIVE


def test_the_same_size_and_time_do_not_pass_for_the_same_bytes(emptied, monkeypatch):
    """A filesystem whose stamps say nothing: only reading the file tells."""
    emptied.drop("a", b"one")
    emptied.upload()
    mark = emptied.file("a").fingerprint
    (emptied.root / "a").write_bytes(b"two")
    monkeypatch.setattr("syncd.disk.fingerprint", lambda _: mark)
    emptied.after_upload.step()
    assert (emptied.root / "a").read_bytes() == b"two"


def test_what_others_deleted_since_is_looked_for_and_its_file_stays(emptied):
    """The folder may have been synced long before it was to be emptied."""
    for name in ("a", "b"):
        emptied.drop(name, name.encode())
    emptied.upload()
    emptied.client.delete(emptied.copy("a").file_uuid)
    emptied.after_upload.step()
    assert (emptied.root / "a").read_bytes() == b"a"
    assert emptied.copy("a").status is CopyStatus.GONE
    assert emptied.holds() == [("sending", "remote_gone")]
    assert not (emptied.root / "b").exists()


@pytest.mark.long
@pytest.mark.parametrize("status", [401, 403, 404, 503])
def test_where_nobody_can_tell_whether_a_copy_is_still_there_its_file_stays(
    emptied, status, monkeypatch
):
    monkeypatch.setattr(worker, "BATCH", 5)
    for number in range(12):
        emptied.drop(f"{number}", b"a")
    emptied.upload()
    emptied.faults({"match": "GET /v2/*", "action": {"status": status}})
    while emptied.after_upload.step() == 0.0:
        pass
    emptied.faults()
    assert len(list(emptied.root.iterdir())) == 12
    assert all(copy.status is CopyStatus.LIVE for copy in emptied.copies())
    emptied.gate.try_now()
    emptied.gate.succeeded()
    emptied.now += 3600
    while emptied.after_upload.step() == 0.0:
        pass
    assert list(emptied.root.iterdir()) == []


def test_the_service_is_asked_before_a_file_is_taken_away_and_once_for_many(emptied):
    for number in range(6):
        emptied.drop(f"{number}", b"a")
    emptied.upload()
    before = len(emptied.ask("requests"))
    emptied.after_upload.step()
    assert list(emptied.root.iterdir()) == []
    asked = emptied.ask("requests")[before:]
    assert [(request["method"], request["path"]) for request in asked] == [("GET", "/v2/files")]


@pytest.mark.row(30)
def test_nothing_is_taken_away_while_the_ledger_has_lost_something(emptied):
    """A copy that it calls live may have been deleted since the backup that it comes from."""
    emptied.drop("a", b"one")
    emptied.upload()
    lost = {"stops": "sending", "scope": holds.EVERYWHERE, "reason": holds.STATE_LOST}
    emptied.store.write(lambda db: holds.place(db, **lost, message="", now=emptied.now))
    emptied.after_upload.step()
    assert (emptied.root / "a").exists()
    emptied.store.write(lambda db: holds.release(db, **lost, now=emptied.now))
    emptied.after_upload.step()
    assert not (emptied.root / "a").exists()


@pytest.mark.long
@pytest.mark.parametrize("cut", ["before it is set aside", "aside", "after"])
def test_a_cut_before_or_after_the_file_is_taken_away_ends_the_same(emptied, monkeypatch, cut):
    emptied.drop("a", b"one")
    emptied.upload()
    verb = "move" if emptied.policies["f"].after_upload == "move" else "delete"
    place, name = {
        "before it is set aside": (relocation, "set_aside"),
        "aside": (relocation.Aside, "is_whole"),
        "after": (relocation.Aside, verb),
    }[cut]
    honest = getattr(place, name)

    def cutting(*args, **kwargs):
        if cut == "after":
            honest(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(place, name, cutting)
    with pytest.raises(KeyboardInterrupt):
        emptied.after_upload.step()
    monkeypatch.undo()
    assert emptied.file("a").status is FileStatus.CONSUMED
    assert emptied.copy("a").status is CopyStatus.RELEASED
    # A scan in the meantime changes nothing.
    emptied.notice("a", Seen.PRESENT if cut == "before it is set aside" else Seen.MISSING)
    emptied.now += 61
    emptied.after_upload.step()
    emptied.now += 61
    emptied.after_upload.step()
    assert list(emptied.root.iterdir()) == []
    assert (emptied.copy("a").due_at, emptied.copy("a").aside) == (None, None)
    quiet(emptied)
    assert len(emptied.live()) == 1
    if verb == "move":
        assert sent(emptied) == {"a": b"one"}


def test_without_the_intent_a_cut_would_delete_the_copy_of_what_was_taken(emptied, monkeypatch):
    """The negative control: taken away first, told later."""
    emptied.drop("a", b"one")
    emptied.upload()
    begin = after_upload.begin

    def untold(db, file_id, fingerprint, aside, now):
        db.conn.execute("SAVEPOINT trial")
        may = begin(db, file_id, fingerprint, aside, now)
        db.conn.execute("ROLLBACK TO trial")
        db.conn.execute("RELEASE trial")
        return may

    monkeypatch.setattr(after_upload, "begin", untold)
    monkeypatch.setattr(after_upload, "done", lambda *_, **__: None)
    emptied.after_upload.step()
    # In such a folder nothing is ever deleted remotely; only where that is undone, it shows.
    emptied.policies["f"] = replace(emptied.policies["f"], after_upload="keep")
    emptied.notice("a", Seen.MISSING)
    quiet(emptied)
    assert emptied.live() == {}


def refused(*_, **__):
    raise OSError(errno.EROFS, "Read-only file system")


def obstacle(shop):
    return shop.store.read(folders.obstacles).get("f", "")


@pytest.mark.parametrize("emptied", ["move"], indirect=True)
@pytest.mark.parametrize("elsewhere", ["watch folder", "another place"])
def test_a_target_that_became_a_link_takes_nothing_until_that_is_undone(emptied, elsewhere):
    emptied.drop("a", b"one")
    emptied.upload()
    emptied.after_upload.step()
    was, there = emptied.target.with_name("was"), emptied.target.with_name("there")
    emptied.target.rename(was)
    there.mkdir()
    emptied.target.symlink_to(emptied.root if elsewhere == "watch folder" else there)
    emptied.drop("b", b"two")
    emptied.upload()
    emptied.after_upload.step()
    assert [path.name for path in emptied.root.iterdir()] == ["b"]
    assert not any(there.iterdir())
    assert "is a link to another place" in obstacle(emptied)
    emptied.target.unlink()
    was.rename(emptied.target)
    emptied.now += 1000
    emptied.after_upload.step()
    assert sent(emptied) == {"a": b"one", "b": b"two"}
    assert obstacle(emptied) == ""


@pytest.mark.long
@pytest.mark.parametrize("step", ["set aside", "moved or deleted"])
def test_a_file_that_cannot_be_taken_away_stays_mirrored_and_says_why(emptied, monkeypatch, step):
    emptied.drop("a", b"one")
    emptied.upload()
    if step == "set aside":
        monkeypatch.setattr(relocation, "set_aside", refused)
    else:
        monkeypatch.setattr(relocation.Aside, "move", refused)
        monkeypatch.setattr(relocation.Aside, "delete", refused)
    emptied.after_upload.step()
    assert [path.name for path in emptied.root.iterdir()] == ["a"]
    assert emptied.file("a").status is FileStatus.READY
    assert "Read-only file system" in obstacle(emptied)
    assert emptied.copy("a").status is CopyStatus.LIVE
    monkeypatch.undo()
    emptied.notice("a")
    emptied.upload()
    emptied.after_upload.step()
    assert (emptied.root / "a").exists(), "it is not tried again at once"
    emptied.now += 1000
    emptied.after_upload.step()
    assert not (emptied.root / "a").exists()
    assert obstacle(emptied) == ""


def test_where_nothing_can_be_taken_away_nothing_is_read_or_written_for_it(emptied, monkeypatch):
    """A day on a folder that refuses: said once, and no file is read for it."""
    for number in range(5):
        emptied.drop(f"{number}", b"a" * 1000)
    emptied.upload()
    monkeypatch.setattr(relocation, "is_writable", lambda *_: False)
    emptied.after_upload.step()
    assert "may not take files out of" in obstacle(emptied)
    read, sha256 = [], disk.sha256
    monkeypatch.setattr(disk, "sha256", lambda *a, **k: read.append(a) or sha256(*a, **k))
    commits, asked = emptied.store.writer.version, len(emptied.ask("requests"))
    for _ in range(24):
        emptied.now += 3600
        emptied.after_upload.step()
    assert read == []
    assert emptied.store.writer.version == commits
    assert len(emptied.ask("requests")) == asked


@pytest.mark.row(69)
def test_a_file_that_somebody_still_writes_to_stays_and_its_next_words_are_sent(emptied):
    """It was quiet for long enough to be sent; its writer just paused."""
    path = emptied.root / "recording.log"
    with path.open("ab") as writer:
        writer.write(b"first part")
        writer.flush()
        emptied.notice("recording.log")
        emptied.upload()
        emptied.after_upload.step()
        assert path.read_bytes() == b"first part"
        assert obstacle(emptied) == ""
        writer.write(b", second part")
    emptied.notice("recording.log")
    emptied.now += 1000
    emptied.upload()
    emptied.after_upload.step()
    assert list(emptied.root.iterdir()) == []
    wanted = sha256(b"first part, second part").hexdigest()
    assert wanted in emptied.live().values()


@pytest.mark.row(69)
def test_a_memory_map_counts_as_a_writer(emptied):
    """Writes through it change neither time nor size, and cause no event."""
    path = emptied.root / "a"
    path.write_bytes(b"a" * 4096)
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 4096)
    emptied.notice("a")
    emptied.upload()
    emptied.after_upload.step()
    mapped[0] = ord("b")
    assert path.read_bytes()[:1] == b"b"
    mapped.close()


@pytest.mark.row(69)
@pytest.mark.parametrize("moment", ["begin", "set_aside"])
def test_a_file_that_is_renamed_over_in_the_last_moment_is_left_alone(emptied, monkeypatch, moment):
    """The checked file is taken away, whatever has its name by then."""
    emptied.drop("a", b"sent")
    emptied.upload()
    place = after_upload if moment == "begin" else relocation
    honest = getattr(place, moment)

    def swapping(*args):
        (emptied.root / "new").write_bytes(b"never sent")
        (emptied.root / "new").rename(emptied.root / "a")
        return honest(*args)

    monkeypatch.setattr(place, moment, swapping)
    emptied.after_upload.step()
    assert (emptied.root / "a").read_bytes() == b"never sent"
    assert [path.name for path in emptied.root.iterdir()] == ["a"]
    assert sent(emptied) == {}


@pytest.mark.row(69)
def test_without_a_lease_a_file_is_set_aside_and_unlinked_a_day_later(emptied, monkeypatch):
    monkeypatch.setattr(lease, "is_open_for_writing", lambda _: None)
    monkeypatch.setattr(relocation.Aside, "is_beside", lambda *_: False)
    path = emptied.root / "a"
    for late in (b"", b", and what was said late"):
        path.write_bytes(b"one" + late)
        with path.open("ab") as writer:
            emptied.notice("a")
            emptied.now += 1000
            emptied.upload()
            emptied.after_upload.step()
            assert not path.exists()
            (private,) = emptied.root.iterdir()
            assert (private / "a").read_bytes() == b"one" + late
            writer.write(late)
        emptied.now += DAY_SECONDS - 10
        emptied.after_upload.step()
        assert private.exists()
        emptied.now += 20
        emptied.after_upload.step()
    assert path.read_bytes() == b"one" + late + late, "it was written to while it was aside"
    assert [found.name for found in emptied.root.iterdir()] == ["a"]
    assert emptied.file("a").status is FileStatus.READY


def test_a_new_drop_of_the_name_does_not_harm_what_is_set_aside(emptied, monkeypatch):
    monkeypatch.setattr(lease, "is_open_for_writing", lambda _: None)
    monkeypatch.setattr(relocation.Aside, "is_beside", lambda *_: False)
    emptied.drop("a", b"old")
    emptied.upload()
    emptied.after_upload.step()
    emptied.drop("a", b"new")
    emptied.upload()
    emptied.now += DAY_SECONDS + 10
    monkeypatch.setattr(lease, "is_open_for_writing", lambda _: False)
    emptied.after_upload.step()
    assert len(emptied.live()) == 2
    assert list(emptied.root.iterdir()) == []


def test_what_is_aside_goes_back_where_files_are_to_stay_from_now_on(emptied, monkeypatch):
    monkeypatch.setattr(lease, "is_open_for_writing", lambda _: None)
    monkeypatch.setattr(relocation.Aside, "is_beside", lambda *_: False)
    emptied.drop("a", b"old")
    emptied.upload()
    emptied.after_upload.step()
    emptied.after_upload.emptied["f"] = EmptiedFolder(os.fsencode(emptied.root), takes=False)
    emptied.now += DAY_SECONDS + 10
    emptied.after_upload.step()
    assert (emptied.root / "a").read_bytes() == b"old"
    assert emptied.copy("a").status is CopyStatus.LIVE


@pytest.mark.row(65)
def test_nothing_is_taken_away_beneath_another_root(emptied, monkeypatch):
    emptied.drop("a", b"one")
    emptied.upload()
    monkeypatch.setattr(worker, "is_right_root", lambda *_: False)
    emptied.after_upload.step()
    assert (emptied.root / "a").exists()


@pytest.mark.row(69)
def test_a_file_with_an_open_writer_is_not_even_set_aside(emptied, monkeypatch):
    emptied.drop("a", b"one")
    emptied.upload()
    monkeypatch.setattr(relocation, "set_aside", lambda *_: pytest.fail("it was set aside"))
    with (emptied.root / "a").open("ab"):
        emptied.after_upload.step()
    assert emptied.copy("a").status is CopyStatus.LIVE


@pytest.mark.row(69)
def test_a_writer_that_comes_in_the_last_moment_gets_its_file_back(emptied, monkeypatch):
    emptied.drop("a", b"one")
    emptied.upload()
    set_aside, writers = relocation.set_aside, []

    def late(*args):
        writers.append((emptied.root / "a").open("ab"))
        return set_aside(*args)

    monkeypatch.setattr(relocation, "set_aside", late)
    emptied.after_upload.step()
    with writers[0] as writer:
        writer.write(b", and more")
    assert (emptied.root / "a").read_bytes() == b"one, and more"
    assert [path.name for path in emptied.root.iterdir()] == ["a"]
    assert emptied.copy("a").status is CopyStatus.LIVE


@pytest.mark.row(68)
@pytest.mark.parametrize("told", [{"file_size_bytes": 2}, {"file_size_bytes": None}])
def test_nothing_is_taken_away_that_the_service_does_not_hold_whole(emptied, monkeypatch, told):
    emptied.drop("a", b"one")
    emptied.upload()
    get = emptied.client.get
    monkeypatch.setattr(
        emptied.client, "get", lambda uuid: replace(get(uuid), file_url=None, **told)
    )
    for _ in range(3):
        emptied.now += 1000
        emptied.after_upload.step()
    assert (emptied.root / "a").exists()
    assert obstacle(emptied)
    monkeypatch.undo()
    emptied.now += 1000
    emptied.after_upload.step()
    assert not (emptied.root / "a").exists()
    assert obstacle(emptied) == ""


def test_a_size_that_only_the_download_tells_is_enough(emptied, monkeypatch):
    for name, content in (("a", b"one"), ("empty", b"")):
        emptied.drop(name, content)
    emptied.upload()
    get = emptied.client.get
    monkeypatch.setattr(
        emptied.client, "get", lambda uuid: replace(get(uuid), file_size_bytes=None)
    )
    emptied.after_upload.step()
    assert list(emptied.root.iterdir()) == []


def test_the_intent_is_not_committed_for_a_file_that_has_moved_on_meanwhile(emptied):
    """The due row was read a while ago: only the row as it is now counts."""

    def begin(mark=None):
        mark = mark or emptied.file("a").fingerprint
        return emptied.store.write(
            lambda db: after_upload.begin(db, emptied.file("a").id, mark, "aside", emptied.now)
        )

    emptied.drop("a", b"one")
    assert not begin(), "nothing of it is live"
    emptied.upload()
    live = emptied.file("a").fingerprint
    assert not begin(live._replace(size=4)), "the disk holds something else"
    emptied.notice("a", Seen.UNREADABLE)
    assert not begin(), "nobody can say what it holds"
    emptied.drop("a", b"other")
    assert not begin(live), "the table knows of something else"
    assert not begin(), "its new content is not known yet"
    emptied.store.write(
        lambda db: db.conn.execute("UPDATE files SET sha256 = ?", ("b" * 64,)).rowcount
    )
    assert not begin(), "its new content is not live yet"
    assert emptied.copy("a").status is CopyStatus.LIVE
