"""The documents in which commands report with `--json`, as types: `schemas` lists them.

A key may be added at any time; none is removed or changed within a major version. A type that the
engine has a class for is called `...Document`; its schema leaves that suffix out.
"""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from syncd.state.manifest import Word

#: A time in UTC, as RFC 3339 has it.
Time = str


class Entry(TypedDict):
    """A file, as `ls`, `wait` and `deletes list HOLD` print it."""

    folder: str
    path: str
    #: the exact name, in Base64, where it is no UTF-8
    path_b64: NotRequired[str]
    status: Word
    size: int | None
    sha256: str | None
    file_uuid: str | None
    remote_file_path: str | None
    content_type: str | None
    processing_status: str | None
    frame_count: int | None
    attempts: int
    next_attempt_at: Time | None
    error: str | None
    synced_at: Time | None
    changed_at: Time | None


class HoldDocument(TypedDict):
    """A hold: work that is stopped on purpose; the reason is a code, then words."""

    id: int
    stops: Literal["deletions", "sending", "folder"]
    scope: str
    reason: str
    since: Time
    affects: int
    first: list[str]
    commands: list[str]


class DaemonDocument(TypedDict):
    """The daemon that holds the state."""

    running: bool
    pid: int | None
    since: Time | None


class Folder(TypedDict):
    """A watch folder; what only a running daemon knows is null without one."""

    name: str
    path: str
    watch: str | None
    watch_reason: str
    watched_directories: int
    directories: int
    last_event_at: Time | None
    last_scan_at: Time | None
    counts: dict[Word, int]
    bytes_left: int
    missing: int
    oldest_queued_seconds: float | None


class TransferDocument(TypedDict):
    """An upload under way."""

    path: str
    bytes: int
    size: int
    since: Time


class SendingDocument(TypedDict):
    """How much is left to send, how fast that goes, and how long it takes."""

    files_left: int
    bytes_left: int
    files_per_second: float
    bytes_per_second: float
    seconds_left: int | None


class Paused(TypedDict):
    """A pause by a person: of a folder, or of everything where it is null."""

    folder: str | None
    since: Time
    until: Time | None


class BandwidthDocument(TypedDict):
    """The limit on all uploads together, and who set it; null for none, or for no end."""

    bytes_per_second: int | None
    source: Literal["configuration", "timetable", "command"]
    until: Time | None


class ApiDocument(TypedDict):
    """The service, and why it is not reached."""

    base_url: str
    state: Literal["ok", "unreachable", "refused", "unknown"]
    echo: str
    last_success_at: Time | None
    cause: str | None
    next_try_at: Time | None


class Status(TypedDict):
    """`status`."""

    version: str
    well: bool
    reasons: list[str]
    daemon: DaemonDocument
    folders: list[Folder]
    counts: dict[Word, int]
    transfers: list[TransferDocument]
    sending: SendingDocument
    holds: list[HoldDocument]
    paused: list[Paused]
    bandwidth: BandwidthDocument | None
    api: ApiDocument


class Past(TypedDict):
    """One thing that was done to a path."""

    at: Time
    event: str
    file_uuid: str | None
    detail: str


class Story(TypedDict):
    """`why`: a path, and where it is a known file, the keys of `ls` and its whole story."""

    found: NotRequired[bool]
    folder: str | None
    path: str
    path_b64: NotRequired[str]
    status: Word | None
    root: str | None
    rule: str
    explanation: str
    advice: list[str]
    watched: str
    size: NotRequired[int | None]
    sha256: NotRequired[str | None]
    file_uuid: NotRequired[str | None]
    remote_file_path: NotRequired[str | None]
    content_type: NotRequired[str | None]
    processing_status: NotRequired[str | None]
    frame_count: NotRequired[int | None]
    attempts: NotRequired[int]
    next_attempt_at: NotRequired[Time | None]
    error: NotRequired[str | None]
    synced_at: NotRequired[Time | None]
    changed_at: NotRequired[Time | None]
    file: NotRequired[dict[str, Any]]
    copies: NotRequired[list[dict[str, Any]]]
    holds: NotRequired[list[HoldDocument]]
    history: NotRequired[list[Past]]
    #: beneath a directory or a glob: all files, those not at rest by status, the first of them
    files: NotRequired[int]
    open: NotRequired[dict[Word, int]]
    stories: NotRequired[list[dict[str, Any]]]


class Review(TypedDict):
    """A hold that a person decides on, or has decided on: `deletes list`."""

    id: int
    folder: str
    reason: str
    message: str
    since: Time
    affects: int
    first: list[str]
    parent: str | None
    named: bool
    verdict: Literal["approved", "rejected"] | None
    decided_at: Time | None
    commands: list[str]


class Check(TypedDict):
    """One thing that `doctor` examined; `good` is null where it could not."""

    name: str
    good: bool | None
    text: str
    fix: str


class Examination(TypedDict):
    """`doctor`."""

    well: bool
    checks: list[Check]
