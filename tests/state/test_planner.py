import pytest

from syncd.disk import Fingerprint
from syncd.state.copies import Copy
from syncd.state.files import File
from syncd.state.lifecycle import CopyStatus, FileStatus, Verdict
from syncd.state.planner import Act, Limits, Policy, plan

A, B = "a" * 64, "b" * 64
READY = File(
    id=1,
    folder="f",
    path=b"p",
    status=FileStatus.READY,
    fingerprint=Fingerprint(1, 1, 1, 1),
    generation=1,
    sha256=A,
    changed_at=0.0,
)
MISSING = READY._replace(status=FileStatus.MISSING, missing_since=0.0, due_at=60.0)
GONE = MISSING._replace(confirmed_at=60.0, due_at=None)


def copy(status, content=A, *, id=1, **more):
    return Copy(
        id=id,
        file_id=1,
        token="t",
        file_uuid=more.pop("uuid", "u"),
        status=CopyStatus(status),
        wanted=True,
        in_flight=more.pop("in_flight", False),
        generation=1,
        sha256=content,
        size=1,
        content_type="text/plain",
        workspace_uuid=more.pop("workspace", None),
        method="direct",
        **more,
    )


def act(file, *copies, policy=None):
    action = plan(file, copies, policy or Policy())
    return action.act, action.copy.id if action.copy else None


def test_an_unknown_content_is_hashed_first():
    assert act(READY._replace(sha256=None)) == (Act.HASH, None)


def test_new_content_is_sent():
    assert act(READY) == (Act.UPLOAD, None)
    assert act(READY, copy("planned")) == (Act.SEND, 1)


def test_content_that_is_live_for_this_path_is_not_sent_again():
    assert act(READY, copy("live")) == (Act.NOTHING, None)


@pytest.mark.row(70)
def test_a_copy_in_another_workspace_is_released_and_the_file_is_sent_to_the_new_one():
    for file in (READY, MISSING, GONE):
        for status in ("live", "failed"):
            there = copy(status, workspace="w1")
            assert act(file, there, policy=Policy("w2")) == (Act.RELEASE, 1)
    released = copy("released", workspace="w1")
    assert act(READY, released, policy=Policy("w2")) == (Act.UPLOAD, None)
    here = copy("live", workspace="w2", id=2)
    assert act(READY, released, here, policy=Policy("w2")) == (Act.NOTHING, None)
    assert act(GONE, released, policy=Policy("w2")) == (Act.NOTHING, None)


def test_a_copy_whose_file_syncd_took_away_is_never_touched_again():
    consumed = copy("released", consumed_at=1.0)
    assert act(READY, consumed) == (Act.UPLOAD, None)
    assert act(READY, consumed, copy("live", id=2)) == (Act.NOTHING, None)
    for file in (GONE, GONE._replace(verdict=Verdict.APPROVED)):
        assert act(file, consumed) == (Act.NOTHING, None)


def test_a_missing_file_that_is_kept_releases_its_copy_and_deletes_nothing():
    kept = GONE._replace(verdict=Verdict.KEPT)
    assert act(kept, copy("live")) == (Act.RELEASE, 1)
    assert act(kept, copy("processing")) == (Act.NOTHING, None)
    assert act(kept, copy("retiring", live_at=1.0)) == (Act.RELEASE, 1)
    assert act(kept, copy("retiring", live_at=1.0, delete_sent_at=2.0)) == (Act.RELEASE, 1)
    assert act(kept, copy("retiring", live_at=1.0), copy("released", id=2)) == (Act.RELEASE, 1)
    assert act(kept, copy("retiring", live_at=1.0, workspace="w")) == (Act.RELEASE, 1)
    assert act(kept, copy("released")) == (Act.NOTHING, None)
    assert act(kept, copy("planned", uuid=None)) == (Act.DROP, 1)
    assert act(kept, copy("failed", uuid=None)) == (Act.DROP, 1)
    assert act(kept, copy("failed")) == (Act.NOTHING, None)
    approved = GONE._replace(verdict=Verdict.APPROVED)
    assert act(approved, copy("released")) == (Act.RETIRE, 1)
    assert act(approved, copy("released", kept=True)) == (Act.NOTHING, None)
    assert Policy(mirror_deletions=False).keeps(kept)
    assert Policy().keeps(kept), "it went missing before deletions were mirrored"
    assert not Policy().keeps(kept._replace(hold_id=1)), "a person may think otherwise"


@pytest.mark.row(39)
@pytest.mark.parametrize("verdict", [Verdict.HELD, Verdict.FORGOTTEN])
def test_a_file_deleted_remotely_by_others_is_sent_again_only_when_it_changes(verdict):
    file = READY._replace(verdict=verdict)
    assert act(file) == (Act.NOTHING, None)
    assert act(file._replace(verdict=None)) == (Act.UPLOAD, None)


def test_changed_content_is_sent_while_the_old_copy_stays_live():
    assert act(READY, copy("live", B)) == (Act.UPLOAD, None)
    assert act(READY, copy("live", B), copy("planned", A, id=2)) == (Act.SEND, 2)


def test_a_planned_copy_of_content_that_is_no_more_is_dropped():
    assert act(READY, copy("planned", B)) == (Act.DROP, 1)


def test_a_copy_in_doubt_is_looked_up_before_anything_else():
    doubt = copy("sending", B, uuid=None)
    for file in (READY, READY._replace(sha256=None), MISSING, GONE):
        assert act(file, copy("live", B, id=2), doubt) == (Act.LOOK_UP, 1)


@pytest.mark.parametrize("status", ["sending", "retiring"])
def test_nothing_is_started_while_a_request_for_the_path_is_under_way(status):
    assert act(READY, copy(status, B, in_flight=True))[0] is Act.WAIT


def test_a_stale_copy_in_processing_goes_on_while_the_new_content_is_sent():
    assert act(READY, copy("processing", B)) == (Act.UPLOAD, None)


def test_once_the_right_content_is_live_what_else_was_on_its_way_ends():
    live = copy("live", id=9)
    assert act(READY, copy("processing", B), live) == (Act.RETIRE, 1)
    assert act(READY, copy("planned", B), live) == (Act.DROP, 1)
    assert act(READY, copy("failed", B), live) == (Act.RETIRE, 1)
    assert act(READY, copy("failed", B, uuid=None), live) == (Act.DROP, 1)


def test_a_failed_video_keeps_its_object_until_a_newer_copy_is_live():
    assert act(READY, copy("failed", B)) == (Act.UPLOAD, None)


def test_of_videos_that_failed_one_after_another_the_newest_keeps_its_object():
    first, second = copy("failed", id=1), copy("failed", id=2)
    assert act(READY, first, second) == (Act.RETIRE, 1)
    assert act(READY, copy("failed", B, id=1), second) == (Act.RETIRE, 1)
    assert act(READY, second) == (Act.NOTHING, 2)
    # A copy on its way may still succeed, and a refused one took no object.
    assert act(READY, first, copy("processing", id=2))[0] is Act.WAIT
    assert act(READY, first, copy("failed", id=2, uuid=None)) == (Act.NOTHING, 1)
    assert act(READY, copy("live", B, id=3), first, second) == (Act.RETIRE, 1)


def test_a_refused_content_is_not_sent_again_until_it_changes():
    assert act(READY, copy("failed", uuid=None))[0] is Act.NOTHING
    assert act(READY, copy("failed", B, uuid=None)) == (Act.DROP, 1)


def test_a_missing_file_keeps_its_copies_until_it_was_looked_for_twice():
    assert act(MISSING, copy("live"))[0] is Act.LOOK_AGAIN
    assert act(GONE, copy("live")) == (Act.RETIRE, 1)
    assert act(GONE, copy("processing")) == (Act.RETIRE, 1)
    assert act(GONE, copy("planned")) == (Act.DROP, 1)


@pytest.mark.parametrize(
    ("file", "others"),
    [
        (GONE, ()),
        (READY, (copy("live", id=9),)),
    ],
    ids=["gone", "live"],
)
def test_what_is_not_needed_retires_where_something_is_stored_of_it_and_else_is_dropped(
    file, others
):
    assert act(file, copy("planned", uuid=None), *others) == (Act.DROP, 1)
    assert act(file, copy("failed", uuid=None), *others) == (Act.DROP, 1)
    assert act(file, copy("failed"), *others) == (Act.RETIRE, 1)
    assert act(file, copy("processing"), *others) == (Act.RETIRE, 1)


def test_without_a_share_of_the_files_their_number_alone_is_the_limit():
    limits = Limits(files=3, percent=0.0)
    assert [limits.are_exceeded(lost, 1_000_000) for lost in (3, 4)] == [False, True]
    assert limits.enough(4) == 4


@pytest.mark.parametrize("status", [FileStatus.SETTLING, FileStatus.UNREADABLE])
def test_a_file_that_cannot_be_judged_keeps_its_copies(status):
    assert act(READY._replace(status=status, sha256=None), copy("live"))[0] is Act.WAIT


def test_a_file_that_came_back_has_its_retiring_copy_asked_for():
    assert act(READY, copy("retiring", live_at=1.0)) == (Act.ASK, 1)


def test_a_retiring_copy_whose_delete_was_sent_is_never_taken_up_again():
    assert act(READY, copy("retiring", live_at=1.0, delete_sent_at=2.0)) == (Act.UPLOAD, None)


@pytest.mark.row(70)
def test_a_file_that_is_no_longer_mirrored_releases_its_copy_and_does_not_delete_it():
    excluded = READY._replace(status=FileStatus.INELIGIBLE)
    for status in ("live", "processing", "failed"):
        assert act(excluded, copy(status)) == (Act.RELEASE, 1)
    for status in ("planned", "failed"):
        assert act(excluded, copy(status, uuid=None)) == (Act.DROP, 1)
    assert act(excluded, copy("sending", uuid=None)) == (Act.LOOK_UP, 1)


def test_a_released_copy_is_asked_for_before_its_file_takes_it_up_again():
    assert act(READY, copy("released")) == (Act.ASK, 1)
    assert act(READY, copy("released", processing_status="failed")) == (Act.UPLOAD, None)
    assert act(READY, copy("released", B)) == (Act.UPLOAD, None)
    assert act(READY, copy("released", B), copy("live", id=2)) == (Act.RETIRE, 1)
    kept = copy("released", B, kept=True)
    assert act(READY, kept, copy("live", id=2)) == (Act.NOTHING, None)


def test_a_copy_that_retires_only_because_its_file_was_missing_is_kept_when_that_is_excluded():
    excluded = READY._replace(status=FileStatus.INELIGIBLE)
    assert act(excluded, copy("retiring", live_at=1.0)) == (Act.RELEASE, 1)
    superseded = copy("retiring", B, live_at=1.0, superseded_at=2.0)
    newer = copy("released", id=2, live_at=2.0)
    assert act(excluded, superseded, newer) == (Act.NOTHING, None)
    older = newer._replace(superseded_at=1.0)
    elsewhere = newer._replace(workspace_uuid="w")
    for other in (older, elsewhere, newer._replace(live_at=None)):
        assert act(excluded, superseded, other) == (Act.RELEASE, 1)


def test_what_retires_in_a_former_workspace_is_kept_when_its_file_is_back():
    former = copy("retiring", live_at=1.0, delete_sent_at=2.0)
    here = copy("live", id=2, workspace="w2")
    assert act(READY, former, here, policy=Policy("w2")) == (Act.RELEASE, 1)
    newer = copy("released", id=3, live_at=2.0)
    superseded = former._replace(superseded_at=2.0)
    assert act(READY, superseded, here, newer, policy=Policy("w2")) == (Act.NOTHING, None)
