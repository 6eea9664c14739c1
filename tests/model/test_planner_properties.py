"""What the planner promises for every file and every set of copies, not only for chosen ones.

    pytest tests/model --hypothesis-profile long --timeout 0

tries 100,000 cases of each property instead of those of an ordinary run.
"""

from itertools import product

from hypothesis import given, settings, strategies as st

from syncd.disk import Fingerprint
from syncd.state.copies import Copy
from syncd.state.files import File
from syncd.state.lifecycle import ARROWS, CopyStatus, FileStatus
from syncd.state.planner import LOCAL, Act, Policy, plan

CONTENTS = ("a" * 64, "b" * 64)
POLICY = Policy()

#: As many cases as an ordinary run has time for; more where the profile says so.
many = settings(max_examples=max(250, settings.default.max_examples))

# Drawn whole from all there are: that is much faster than to draw each column.
_files = st.sampled_from(
    [
        File(
            id=1,
            folder="f",
            path=b"p",
            status=status,
            fingerprint=Fingerprint(1, 1, 1, 1),
            generation=1,
            sha256=sha256,
            changed_at=0.0,
            confirmed_at=confirmed_at,
            due_at=5.0,
        )
        for status, sha256, confirmed_at in product(FileStatus, (None, *CONTENTS), (None, 60.0))
    ]
)
_copies = st.sampled_from(
    [
        Copy(
            id=0,
            file_id=1,
            token="t",
            file_uuid=file_uuid,
            status=status,
            wanted=True,
            in_flight=in_flight,
            generation=1,
            sha256=sha256,
            size=1,
            content_type="text/plain",
            workspace_uuid=workspace,
            method="direct",
            delete_sent_at=delete_sent_at,
            live_at=live_at,
        )
        for status, file_uuid, in_flight, sha256, workspace, delete_sent_at, live_at in product(
            [status for status in CopyStatus if status is not CopyStatus.GONE],
            (None, "u"),
            (False, False, False, True),
            CONTENTS,
            (None, None, "elsewhere"),
            (None, 1.0),
            (None, 1.0),
        )
    ]
)


def _as_a_table_has_them(copies):
    """Number the copies; one live at most, as the table's index sees to."""
    kept, live = [], False
    for copy in copies:
        if copy.status is CopyStatus.LIVE and live:
            continue
        live |= copy.status is CopyStatus.LIVE
        kept.append(copy._replace(id=len(kept) + 1))
    return kept


tables = st.lists(_copies, max_size=5).map(_as_a_table_has_them)


def apply(copies, action):
    """Do to the copies what `advance` does to the table."""
    target = {
        Act.DROP: CopyStatus.GONE,
        Act.RETIRE: CopyStatus.RETIRING,
        Act.RELEASE: CopyStatus.RELEASED,
        Act.REVIVE: CopyStatus.LIVE,
    }[action.act]
    after = []
    for copy in copies:
        status = copy.status
        if copy.id == action.copy.id:
            assert target in ARROWS[status], f"{status} -> {target}"
            status = target
        elif target is CopyStatus.LIVE and status is CopyStatus.LIVE:
            status = CopyStatus.RETIRING
        after.append(copy._replace(status=status))
    return [copy for copy in after if copy.status is not CopyStatus.GONE]


@many
@given(_files, tables)
def test_applying_what_is_planned_comes_to_an_end_along_the_arrows(file, copies):
    for _ in range(3 * len(copies) + 1):
        action = plan(file, copies, POLICY)
        if action.act not in LOCAL:
            return
        copies = apply(copies, action)
        assert sum(copy.status is CopyStatus.LIVE for copy in copies) <= 1
    raise AssertionError("it goes on for ever")


@many
@given(_files, tables)
def test_a_copy_that_is_live_retires_only_when_its_file_is_proven_missing(file, copies):
    action = plan(file, copies, POLICY)
    if action.act is Act.RETIRE and action.copy.status is CopyStatus.LIVE:
        assert file.status is FileStatus.MISSING
        assert file.confirmed_at is not None


@many
@given(_files, tables)
def test_the_only_usable_copy_of_a_present_file_is_neither_retired_nor_dropped(file, copies):
    """What was live, and may be so again, leaves a ready file only behind a live one."""
    action = plan(file, copies, POLICY)
    if file.status is FileStatus.READY and action.act in (Act.RETIRE, Act.RELEASE):
        assert any(copy.status is CopyStatus.LIVE for copy in copies if copy != action.copy)


@many
@given(_files, tables)
def test_nothing_is_decided_while_a_request_is_under_way_or_in_doubt(file, copies):
    action = plan(file, copies, POLICY)
    if any(copy.in_flight for copy in copies):
        assert action.act is Act.WAIT
    elif any(copy.in_doubt for copy in copies):
        assert action.act is Act.LOOK_UP
        assert action.copy.in_doubt


@many
@given(_files, tables)
def test_nothing_is_done_for_a_file_of_which_nothing_is_known(file, copies):
    if file.status in (FileStatus.SETTLING, FileStatus.UNREADABLE):
        assert plan(file, copies, POLICY).act in (Act.WAIT, Act.LOOK_UP)
    if file.status is FileStatus.MISSING and file.confirmed_at is None:
        assert plan(file, copies, POLICY).act in (Act.WAIT, Act.LOOK_UP, Act.LOOK_AGAIN)


@many
@given(_files, tables)
def test_only_what_a_ready_file_holds_is_sent_and_only_if_it_is_not_live(file, copies):
    action = plan(file, copies, POLICY)
    if action.act in (Act.SEND, Act.PLAN):
        assert file.status is FileStatus.READY
        assert not any(
            copy.status is CopyStatus.LIVE
            and copy.sha256 == file.sha256
            and copy.workspace_uuid == POLICY.workspace_uuid
            for copy in copies
        )
    if action.act is Act.SEND:
        assert action.copy.status is CopyStatus.PLANNED
        assert action.copy.sha256 == file.sha256
        assert action.copy.workspace_uuid == POLICY.workspace_uuid


@many
@given(_files, tables)
def test_only_what_nothing_is_stored_of_is_dropped(file, copies):
    action = plan(file, copies, POLICY)
    if action.act is Act.DROP:
        assert action.copy.status is CopyStatus.PLANNED or action.copy.file_uuid is None


@many
@given(_files, tables)
def test_what_a_delete_was_sent_for_is_never_taken_up_again(file, copies):
    action = plan(file, copies, POLICY)
    if action.act is Act.REVIVE and action.copy.status is CopyStatus.RETIRING:
        assert action.copy.delete_sent_at is None
