"""The planner keeps its promises for every file and every set of copies.

An ordinary run tries thousands of cases that chance draws, and some that Hypothesis searches for;

    pytest tests/model --hypothesis-profile long --timeout 0

lets it search 100,000 for each property.
"""

import random
from functools import cache, wraps
from itertools import product

from hypothesis import given, settings, strategies as st

from syncd.disk import Fingerprint
from syncd.state.copies import Copy
from syncd.state.files import File
from syncd.state.lifecycle import ARROWS, CopyStatus, FileStatus
from syncd.state.planner import LOCAL, Act, Policy, plan

CONTENTS = ("a" * 64, "b" * 64)
POLICY = Policy()

#: Cases of each property in an ordinary run, and how many Hypothesis searches for: it needs a
#: hundred times as long for one, and can make the one that fails small.
DRAWN, SEARCHED = 4000, max(100, settings.default.max_examples)

# Drawn whole from all there are: that is much faster than to draw each column.
_FILES = [
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
_COPIES = [
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


def _as_a_table_has_them(copies):
    """Number the copies; one live at most, as the table's index sees to."""
    kept, live = [], False
    for copy in copies:
        if copy.status is CopyStatus.LIVE and live:
            continue
        live |= copy.status is CopyStatus.LIVE
        kept.append(copy._replace(id=len(kept) + 1))
    return kept


tables = st.lists(st.sampled_from(_COPIES), max_size=5).map(_as_a_table_has_them)


@cache
def drawn():
    """Return the same cases each time."""
    chance = random.Random(0)
    return [
        (
            chance.choice(_FILES),
            _as_a_table_has_them(chance.choices(_COPIES, k=chance.randrange(6))),
        )
        for _ in range(DRAWN)
    ]


def promised(holds):
    """Make a test of a property that `holds` for every file and all of its copies."""
    searched = settings(max_examples=SEARCHED)(given(st.sampled_from(_FILES), tables)(holds))

    @wraps(holds)
    def test():
        for case in drawn():
            holds(*case)
        searched()

    del test.__wrapped__
    return test


def apply(copies, action):
    """Do to the copies what `advance` does to the table."""
    target = {
        Act.DROP: CopyStatus.GONE,
        Act.RETIRE: CopyStatus.RETIRING,
        Act.RELEASE: CopyStatus.RELEASED,
    }[action.act]
    after = []
    for copy in copies:
        status = copy.status
        if copy.id == action.copy.id:
            assert target in ARROWS[status], f"{status} -> {target}"
            status = target
        after.append(copy._replace(status=status))
    return [copy for copy in after if copy.status is not CopyStatus.GONE]


@promised
def test_applying_what_is_planned_comes_to_an_end_along_the_arrows(file, copies):
    for _ in range(3 * len(copies) + 1):
        action = plan(file, copies, POLICY)
        if action.act not in LOCAL:
            return
        copies = apply(copies, action)
        assert sum(copy.status is CopyStatus.LIVE for copy in copies) <= 1
    raise AssertionError("it goes on for ever")


@promised
def test_a_copy_that_is_live_retires_only_when_its_file_is_proven_missing(file, copies):
    action = plan(file, copies, POLICY)
    if action.act is Act.RETIRE and action.copy.status is CopyStatus.LIVE:
        assert file.status is FileStatus.MISSING
        assert file.confirmed_at is not None


@promised
def test_the_only_usable_copy_of_a_present_file_is_neither_retired_nor_dropped(file, copies):
    """A copy that was live, and may be again, leaves a ready file only behind a live one."""
    action = plan(file, copies, POLICY)
    if action.act is Act.RELEASE and action.copy.workspace_uuid != POLICY.workspace_uuid:
        return  # it is kept in the workspace that the folder had before
    if file.status is FileStatus.READY and action.act in (Act.RETIRE, Act.RELEASE):
        assert any(copy.status is CopyStatus.LIVE for copy in copies if copy != action.copy)


@promised
def test_nothing_is_decided_while_a_request_is_under_way_or_in_doubt(file, copies):
    action = plan(file, copies, POLICY)
    if any(copy.in_flight for copy in copies):
        assert action.act is Act.WAIT
    elif any(copy.in_doubt for copy in copies):
        assert action.act is Act.LOOK_UP
        assert action.copy.in_doubt


@promised
def test_nothing_is_done_for_a_file_of_which_nothing_is_known(file, copies):
    # A copy in another workspace is another folder's, whatever is known here.
    copies = [copy for copy in copies if copy.workspace_uuid == POLICY.workspace_uuid]
    if file.status in (FileStatus.SETTLING, FileStatus.UNREADABLE):
        assert plan(file, copies, POLICY).act in (Act.WAIT, Act.LOOK_UP)
    if file.status is FileStatus.MISSING and file.confirmed_at is None:
        assert plan(file, copies, POLICY).act in (Act.WAIT, Act.LOOK_UP, Act.LOOK_AGAIN)


@promised
def test_only_what_a_ready_file_holds_is_sent_and_only_if_it_is_not_live(file, copies):
    action = plan(file, copies, POLICY)
    if action.act in (Act.SEND, Act.UPLOAD):
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


@promised
def test_only_what_nothing_is_stored_of_is_dropped(file, copies):
    action = plan(file, copies, POLICY)
    if action.act is Act.DROP:
        assert action.copy.status is CopyStatus.PLANNED or action.copy.file_uuid is None


@promised
def test_what_a_delete_was_sent_for_is_never_taken_up_again(file, copies):
    action = plan(file, copies, POLICY)
    if action.act is Act.ASK and action.copy.status is CopyStatus.RETIRING:
        assert action.copy.delete_sent_at is None


@promised
def test_nothing_is_left_to_do_only_where_the_content_is_live_or_was_refused(file, copies):
    while (action := plan(file, copies, POLICY)).act in LOCAL:
        copies = apply(copies, action)
    if file.status is FileStatus.READY and action.act is Act.NOTHING:
        assert any(
            copy.status in (CopyStatus.LIVE, CopyStatus.FAILED)
            and copy.sha256 == file.sha256
            and copy.workspace_uuid == POLICY.workspace_uuid
            for copy in copies
        )
