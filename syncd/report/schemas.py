"""The documents that commands print with `--json`, by command: `syncd schema` derives schemas."""

from typing import Any

from syncd.report.documents import BandwidthDocument, Entry, Examination, Review, Status, Story
from syncd.report.results import (
    Adopted,
    Checked,
    Decisions,
    Fetched,
    ForesightDocument,
    Frame,
    Logged,
    NewInstance,
    PassedDocument,
    Pauses,
    Resumed,
    Setting,
    Tried,
    Verified,
)

#: The type of each document, by the command, and by an option with which it prints another one.
DOCUMENTS: dict[str, Any] = {
    "status": Status,
    "ls": Entry,
    "wait": Entry,
    "why": Story,
    "deletes list": list[Review],
    "deletes list HOLD": Entry,
    "doctor": Examination,
    "frames": Frame,
    "fetch": Fetched,
    "verify": Verified,
    "adopt": Adopted,
    "adopt --new": NewInstance,
    "retry": Tried,
    "pause": Pauses,
    "resume": Resumed,
    "limit": BandwidthDocument,
    "deletes approve": Decisions,
    "deletes reject": Decisions,
    "log": Logged,
    "once": PassedDocument,
    "once --dry-run": ForesightDocument,
    "config check": Checked,
    "config show": list[Setting],
}
