"""The documents in which commands say with `--json` what they did, as types.

A key may be added at any time; none is removed or changed within a major version.
"""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from syncd.report.documents import Entry, HoldDocument, Paused, Time


class Frame(TypedDict):
    """A frame, as `frames` prints it; with --download, what became of it."""

    number: int
    url: str
    file: NotRequired[str | None]
    size: NotRequired[int]
    downloaded: NotRequired[bool]
    error: NotRequired[str | None]


class Fetched(TypedDict):
    """A URL that the service fetches, as `fetch` prints it."""

    url: str
    file_uuid: str | None
    processing_status: str | None
    known: bool
    error: str | None


class KeptDocument(TypedDict):
    """A copy that syncd does not delete."""

    file_uuid: str
    folder: str
    path: str
    path_b64: NotRequired[str]
    size: int
    status: str


class Difference(TypedDict):
    """One thing in which ledger and service differ; which keys there are depends on its kind."""

    kind: Literal["gone", "size", "undeleted", "duplicate", "foreign"]
    file_uuid: str
    size: int | None
    folder: NotRequired[str]
    path: NotRequired[str]
    path_b64: NotRequired[str]
    status: NotRequired[str]
    remote_size: NotRequired[int | None]
    token: NotRequired[str]
    remote_file_path: NotRequired[str | None]
    workspace_uuid: NotRequired[str | None]
    created_at: NotRequired[Time]
    #: a duplicate: the uuid of its original, and whether it was retired
    of: NotRequired[str]
    retired: NotRequired[bool]


class Verified(TypedDict):
    """`verify`: what differs, how often by kind, and what could not be compared."""

    listed: int
    ours: int
    compared: int
    findings: list[Difference]
    counts: dict[str, int]
    incomplete: list[str]
    unread: dict[str, int]
    kept: list[KeptDocument]
    released: int
    retiring: int
    in_doubt: int
    failed: int


class Refused(TypedDict):
    """An object that `adopt --check` left alone, and why."""

    file_uuid: str
    folder: str
    path: str
    why: str


class Adopted(TypedDict):
    """`adopt`: how many objects it compared, and in which roles it took them up."""

    instance: str
    listed: int
    known: int
    live: int
    second: int
    previous: int
    gone: int
    unknown: int
    other_instances: dict[str, int]
    unread: list[str]
    refused: list[Refused]


class NewInstance(TypedDict):
    """`adopt --new`."""

    new: Literal[True]
    instance: str


class Tried(TypedDict):
    """`retry`: how many files are tried now."""

    tried: int


class Pauses(TypedDict):
    """`pause`: every pause that is in force."""

    paused: list[Paused]


class Resumed(TypedDict):
    """`resume`: the folders that go on, null for everything; and what is paused still."""

    resumed: list[str | None]
    paused: list[Paused]


class DecisionDocument(TypedDict):
    """A hold that was decided on, and the command that takes that back.

    `files` counts those that the hold named; else those that the approved folder lacks.
    """

    id: int
    reason: str
    folder: str
    files: int
    undo: str | None


class Decisions(TypedDict):
    """`deletes approve` and `deletes reject`."""

    verdict: Literal["approved", "rejected"]
    holds: list[DecisionDocument]


class Logged(TypedDict):
    """A line of `log`; without a path it is about a whole folder, without a folder about all."""

    at: Time
    event: str
    folder: str | None
    path: str | None
    path_b64: NotRequired[str]
    file_uuid: str | None
    detail: str | None


class PassedDocument(TypedDict):
    """`once`: what the pass did, what there is now, and why it does not exit with 0."""

    exit_code: int
    reason: str | None
    sent: int
    sent_bytes: int
    replaced: int
    deleted: int
    synced: int
    waiting: int
    failed: int
    held: int
    failures: list[Entry]
    holds: list[HoldDocument]


class ForeseenDocument(TypedDict):
    """Files with which a pass would do the same."""

    files: int
    bytes: int
    first: list[str]


class ForesightDocument(TypedDict):
    """`once --dry-run`: what a pass would do, and what could not be looked at."""

    send: ForeseenDocument
    replace: ForeseenDocument
    delete: ForeseenDocument
    move: ForeseenDocument
    held: ForeseenDocument
    failed: ForeseenDocument
    processing: ForeseenDocument
    ignored: int
    holds: list[HoldDocument]
    unseen: list[str]


class Setting(TypedDict):
    """A setting in force, its value without secrets, and where it comes from."""

    setting: str
    value: Any
    source: str


class Checked(TypedDict):
    """`config check`: the file that was read, and everything that is wrong with it."""

    valid: bool
    file: str | None
    problems: list[str]
    warnings: list[str]
