from dataclasses import replace

import pytest

from syncd.disk import Fingerprint
from syncd.identity import RootIdentity
from syncd.state import attempts, copies, due, files, folders, holds, polls, reconfiguration
from syncd.state.deletions import Deletions
from syncd.state.ledger import Failure, Ledger, Offer, Stored
from syncd.state.lifecycle import FileStatus
from syncd.state.observations import Observation, Seen, Settling, record
from syncd.state.planner import Policy

A, B, C = "a" * 64, "b" * 64, "c" * 64
ANY = Policy(mirror_deletions=False, any_root=True)
SETTLING = Settling(settle_seconds=5.0, grace_seconds=60.0)


class Known:
    """Folders f and g with two synced files each."""

    def __init__(self, store):
        self.store = store
        self.policies = {"f": Policy(), "g": Policy()}
        for number, name in enumerate(self.policies):
            self.do(folders.note, name, b"/" + name.encode(), 1.0)
            self.do(folders.accept_part, name, b"", RootIdentity("uuid 1", 2))
            for part in (1, 2):
                self.sync(name, b"%d" % part, 2 * number + part)

    def do(self, verb, *args, **kwargs):
        return self.store.write(lambda db: verb(db, *args, **kwargs))

    def see(self, folder, path, seen=Seen.PRESENT, size=7):
        mark = Fingerprint(1, size, 10**9, 10**9) if seen is Seen.PRESENT else None
        observation = Observation(path, seen, mark)
        self.do(record, folder, [observation], settling=SETTLING, policies=self.policies, now=1e6)
        return self.store.read(lambda db: files.find(db, folder, path))

    @property
    def ledger(self):
        return Ledger(policies=self.policies, instance="i")

    def begin(self, folder, path, sha256=A, size=7):
        file = self.see(folder, path, size=size)
        offer = Offer(file.id, file.fingerprint, sha256, "text/plain", "direct", vacated=())
        return self.do(self.ledger.begin, offer, 1e6)

    def arrive(self, copy, number):
        stored = Stored(f"u{number}", "r", "completed")
        return self.do(self.ledger.stored, copy.id, stored, 1e6, look=1e6)

    def sync(self, folder, path, number, sha256=A, size=7):
        self.arrive(self.begin(folder, path, sha256, size), number)

    def lose(self, path):
        """Find a file of folder f missing, at two looks."""
        file = self.see("f", path, Seen.MISSING)
        self.do(Deletions(policies=self.policies).confirm_missing, [file.id], 1e6 + 60)

    def release_removed(self):
        for name in self.do(reconfiguration.removed, self.policies):
            while self.do(reconfiguration.release_removed, name, self.policies, 1e6):
                pass

    def release_moved(self):
        for name in self.do(reconfiguration.moved, self.policies):
            after = 0
            while after is not None:
                after = self.do(
                    reconfiguration.release_moved, name, self.policies, 1e6, after=after
                )

    def statuses(self, folder):
        rows = self.store.read(
            lambda db: copies.where(
                db, "file_id IN (SELECT id FROM files WHERE folder = ?) ORDER BY id", (folder,)
            )
        )
        return [str(copy.status) for copy in rows]


@pytest.fixture
def known(store):
    return Known(store)


def test_a_folder_that_is_configured_no_more_releases_its_copies(known):
    known.see("f", b"2", Seen.MISSING)
    kept = known.policies.pop("f")
    known.release_removed()
    assert known.statuses("f") == ["released", "released"]
    for name in (b"1", b"2"):
        file = known.store.read(lambda db, name=name: files.find(db, "f", name))
        assert file.status is FileStatus.INELIGIBLE
        assert (file.missing_since, file.due_at) == (None, None)
        assert file.error == reconfiguration.NOT_CONFIGURED
    assert known.statuses("g") == ["live", "live"]
    assert known.do(reconfiguration.removed, known.policies) == []
    # Configured again, what is still there is taken up without being read, once it was asked for.
    known.policies["f"] = kept
    assert known.see("f", b"1").status is FileStatus.READY
    assert known.statuses("f") == ["released", "released"]
    (asked,) = known.do(polls.due, 1e6, 10)
    ledger = Ledger(policies=known.policies, instance="i")
    facts = {"remote_file_path": None, "frame_count": None, "video_metadata": None}
    assert known.do(ledger.completed, asked.id, 1e6, **facts) == "live"
    assert known.do(polls.due, 1e6, 10) == []


def test_a_copy_that_others_deleted_while_it_was_released_is_gone_and_its_file_sent_again(known):
    kept = known.policies.pop("f")
    known.release_removed()
    known.policies["f"] = kept
    known.see("f", b"1")
    (asked,) = known.do(polls.due, 1e6, 10)
    known.do(Ledger(policies=known.policies, instance="i").gone_remotely, asked.id, 1e6)
    assert known.statuses("f") == ["gone", "released"]
    assert [file.path for file in known.do(due.uploads, 1e6, 10)] == [b"1"]


def test_a_released_copy_whose_file_changed_before_it_was_found_stays_released(known):
    kept = known.policies.pop("f")
    known.release_removed()
    known.policies["f"] = kept
    file = known.see("f", b"1")
    (asked,) = known.do(polls.due, 1e6, 10)
    known.do(files.update, file.id, sha256="b" * 64)
    facts = {"remote_file_path": None, "frame_count": None, "video_metadata": None}
    ledger = Ledger(policies=known.policies, instance="i")
    assert known.do(ledger.completed, asked.id, 1e6, **facts) == "released"
    assert known.do(polls.due, 1e6, 10) == []


@pytest.mark.row(70)
@pytest.mark.parametrize("arrives", ["before", "after"])
def test_a_video_in_processing_or_in_doubt_is_released_with_its_folder(known, arrives):
    ledger = Ledger(policies=known.policies, instance="i")
    file = known.see("f", b"3")
    offer = Offer(file.id, file.fingerprint, "b" * 64, "video/mp4", "direct", vacated=())
    video = known.do(ledger.begin, offer, 1e6)
    stored = Stored("u9", "r", "pending")
    if arrives == "before":
        known.do(ledger.stored, video.id, stored, 1e6, look=1e6)
    else:
        known.do(ledger.doubt, video.id, Failure("no answer"), 1e6)
    del known.policies["f"]
    known.release_removed()
    if arrives == "after":
        known.do(ledger.stored, video.id, stored, 1e6, look=1e6)
    assert known.statuses("f") == ["released"] * 3


@pytest.mark.row(70)
def test_an_upload_in_doubt_is_released_with_its_workspace(known):
    known.release_moved()
    ledger = Ledger(policies=known.policies, instance="i")
    file = known.see("f", b"3")
    offer = Offer(file.id, file.fingerprint, "b" * 64, "text/plain", "direct", vacated=())
    late = known.do(ledger.begin, offer, 1e6)
    known.do(ledger.doubt, late.id, Failure("no answer"), 1e6)
    known.policies["f"] = replace(known.policies["f"], workspace_uuid="w")
    known.release_moved()
    known.do(ledger.stored, late.id, Stored("u9", "r", "completed"), 1e6, look=1e6)
    assert known.statuses("f") == ["released"] * 3


def test_a_new_workspace_is_a_new_folder(known):
    known.release_moved()
    assert known.do(reconfiguration.moved, known.policies) == []
    known.policies["f"] = replace(known.policies["f"], workspace_uuid="w")
    assert known.do(reconfiguration.moved, known.policies) == ["f"]
    known.release_moved()
    assert known.statuses("f") == ["released", "released"]
    file = known.see("f", b"1")
    assert file.due_at is not None, "it is sent to the new workspace"
    known.sync("f", b"1", 9)
    assert known.statuses("f") == ["released", "released", "live"]
    # And back: what is there is taken up, what is in the other one stays there.
    known.policies["f"] = replace(known.policies["f"], workspace_uuid=None)
    known.release_moved()
    known.see("f", b"1")
    assert known.statuses("f")[2] == "released"


def test_what_another_workspace_refused_is_sent_to_the_right_one(known):
    """A workspace that was written wrongly: put right, its files wait for no touch."""
    known.release_moved()
    known.policies["f"] = replace(known.policies["f"], workspace_uuid="wrong")
    known.release_moved()
    ledger = Ledger(policies=known.policies, instance="i")
    for path, uuid in ((b"1", None), (b"2", "u9")):
        file = known.see("f", path)
        offer = Offer(file.id, file.fingerprint, A, "video/mp4", "direct", vacated=())
        copy = known.do(ledger.begin, offer, 1e6)
        if uuid is None:
            known.do(ledger.refused_for_good, copy.id, Failure("no such workspace", 404), 1e6)
        else:
            known.do(ledger.stored, copy.id, Stored(uuid, "r", "pending"), 1e6, look=1e6)
            known.do(ledger.processing_failed, copy.id, Failure("no frames"), 1e6)
    known.policies["f"] = replace(known.policies["f"], workspace_uuid="right")
    known.release_moved()
    assert known.statuses("f") == ["released", "released", "gone", "released"]
    assert [file.path for file in known.do(due.uploads, 1e6, 10)] == [b"1", b"2"]
    known.sync("f", b"2", 10)
    assert known.statuses("f")[3:] == ["released", "live"]


@pytest.mark.parametrize("remote_gone", ["hold", "forget"])
def test_what_was_deleted_in_one_workspace_is_sent_to_the_next(known, remote_gone):
    """As when a workspace was deleted with all that was in it, and another takes its place."""
    known.release_moved()
    known.policies["f"] = replace(known.policies["f"], remote_gone=remote_gone)
    file = known.see("f", b"1")
    (copy,) = known.do(copies.of_file, file.id)
    ledger = Ledger(policies=known.policies, instance="i")
    known.do(ledger.gone_remotely, copy.id, 1e6)
    assert known.do(due.uploads, 1e6, 10) == []
    known.policies["f"] = replace(known.policies["f"], workspace_uuid="w")
    known.release_moved()
    assert [file.path for file in known.do(due.uploads, 1e6, 10)] == [b"1", b"2"]


def test_what_arrives_for_a_folder_that_is_not_worked_on_now_stays_its_copy(known):
    """As `syncd once DIR` meets it: other folders of the same state are left as they are."""
    known.policies["f"] = replace(known.policies["f"], workspace_uuid="w")
    known.release_moved()
    ledger = Ledger(policies=known.policies, instance="i")
    file = known.see("f", b"1")
    offer = Offer(file.id, file.fingerprint, A, "video/mp4", "direct", vacated=())
    video = known.do(ledger.begin, offer, 1e6)
    known.do(ledger.stored, video.id, Stored("u9", "r", "pending"), 1e6, look=1e6)
    del known.policies["f"]
    facts = {"remote_file_path": None, "frame_count": 1, "video_metadata": None}
    assert known.do(ledger.completed, video.id, 1e6, **facts) == "live"


@pytest.mark.row(21)
def test_mirroring_turned_on_late_deletes_nothing_that_was_gone_before_the_first_whole_scan(known):
    scan = {"at": 1e6, "seconds": 1.0, "directories": 1}
    known.do(folders.note_scan, "f", **scan, mirrored=False)
    assert known.see("f", b"1", Seen.MISSING).verdict == "kept"
    known.do(folders.note_scan, "f", **scan, mirrored=None)
    assert known.see("f", b"2", Seen.MISSING).verdict == "kept"
    known.do(folders.note_scan, "f", **scan, mirrored=True)
    known.see("f", b"2")
    assert known.see("f", b"2", Seen.MISSING).verdict is None


@pytest.mark.row(70)
def test_files_of_an_earlier_root_are_kept_when_the_root_has_to_be_the_known_one_again(known):
    known.policies["f"] = ANY
    known.do(reconfiguration.release_all, "f", 1e6)
    known.sync("f", b"1", 9, B, 8)
    known.policies["f"] = Policy()
    known.sync("f", b"1", 10, C, 9)
    assert known.statuses("f") == ["released", "released", "retiring", "live"]


@pytest.mark.row(70)
def test_an_upload_that_arrives_after_its_root_was_swapped_is_kept_beside_the_new_content(known):
    known.policies["f"] = ANY
    late = known.begin("f", b"3", B)
    known.do(known.ledger.doubt, late.id, Failure("no answer"), 1e6)
    known.do(reconfiguration.release_all, "f", 1e6)
    known.see("f", b"3", size=8)
    assert known.arrive(late, 9) == "live"
    known.sync("f", b"3", 10, C, 8)
    assert known.statuses("f") == ["released"] * 3 + ["live"]


@pytest.mark.row(70)
def test_an_upload_that_is_found_late_after_its_root_was_swapped_is_kept(known):
    known.policies["f"] = ANY
    late = known.begin("f", b"3", B)
    known.do(known.ledger.doubt, late.id, Failure("no answer"), 1e6)
    known.do(known.ledger.absent, late, 1e6)
    known.do(reconfiguration.release_all, "f", 1e6)
    known.sync("f", b"3", 10, C, 8)
    (attempt,) = known.store.read(attempts.every)
    found = Stored("u9", "r", "completed")
    arrived = known.do(known.ledger.found_late, attempt, found, 1e6, whole=True, look=1e6)
    assert arrived == "released"


@pytest.mark.row(70)
def test_the_copies_of_a_folder_that_was_emptied_are_kept_when_its_files_stay_again(known):
    known.policies["f"] = Policy(after_upload="move")
    known.sync("f", b"1", 9, B, 8)
    known.policies["f"] = Policy()
    known.sync("f", b"1", 10, C, 9)
    assert known.statuses("f") == ["released", "live", "retiring", "live"]


@pytest.mark.row(21)
def test_what_was_kept_of_a_missing_file_stays_beside_new_content_when_deletions_are_mirrored(
    known,
):
    known.policies["f"] = Policy(mirror_deletions=False)
    known.lose(b"1")
    known.policies["f"] = Policy()
    known.sync("f", b"1", 9, B, 8)
    assert known.statuses("f") == ["released", "live", "live"]
    known.sync("f", b"1", 10, C, 9)
    assert known.statuses("f") == ["released", "live", "retiring", "live"]


@pytest.mark.parametrize("reason", ["root_missing", "root_replaced", "many_missing"])
def test_holds_on_a_folder_that_is_configured_no_more_end(known, reason):
    for name in ("f", "g"):
        hold = {"stops": "deletions", "scope": name, "reason": reason, "message": "m"}
        known.do(holds.place, **hold, now=1e6)
    known.do(
        holds.place, stops="sending", scope="folder f", reason="remote_gone", message="m", now=1.0
    )
    del known.policies["f"]
    known.release_removed()
    assert [hold.scope for hold in known.store.read(holds.open_holds)] == ["g"]
    assert known.do(reconfiguration.removed, known.policies) == []


def test_a_hold_on_a_folder_without_files_ends_with_it(known):
    known.do(folders.note, "h", b"/h", None)
    hold = {"stops": "deletions", "scope": "h", "reason": "root_missing", "message": "m"}
    known.do(holds.place, **hold, now=1e6)
    known.release_removed()
    assert known.store.read(holds.open_holds) == []
