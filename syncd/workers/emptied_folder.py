"""A folder whose files are taken away after their upload, and which of them have to wait."""

from dataclasses import dataclass

from syncd import relocation
from syncd.state.database.store import Store
from syncd.state.facts import set_fact
from syncd.state.texts import shown


@dataclass(frozen=True, slots=True)
class EmptiedFolder:
    """A folder's path, and the destination of its files."""

    path: bytes
    #: None if they are deleted
    move_to: bytes | None = None
    #: whether files are taken away at all; if not, a half-taken file goes back
    takes: bool = True
    #: a file beneath it that proves the right folder is there
    marker: bytes = b""


@dataclass(slots=True)
class Later:
    """Why something could not be taken away, how often in a row, and when to try again."""

    message: str
    failures: int
    again_at: float


class WaitingFiles:
    """The waiting files of one folder: single files by id, whole directories by path."""

    def __init__(self) -> None:
        self.files: dict[int, Later] = {}
        #: None stands for the whole folder
        self.parents: dict[bytes | None, Later] = {}
        #: why no file can be taken away
        self.obstacle = ""
        self.quiet_until = 0.0

    def blocked(self, now: float) -> set[bytes | None]:
        """Return the directories that wait; None stands for the whole folder."""
        return {path for path, known in self.parents.items() if known.again_at > now}

    def forget(self, now: float) -> None:
        """Drop the entries whose wait is over and which have not failed again."""
        self.files = {key: known for key, known in self.files.items() if known.again_at > now}
        self.parents = {key: known for key, known in self.parents.items() if known.again_at > now}

    def text(self) -> str:
        """Return why files are not taken away, or an empty text."""
        every = (*self.parents.values(), *self.files.values())
        return self.obstacle or next((known.message for known in every if known.message), "")


def known_mount(store: Store, target: bytes | None) -> bytes | None:
    """Return where a target was mounted before, and record a new mount."""
    if target is None:
        return None
    key, now = f"mount of {shown(target)}", relocation.mount_point(target)
    known = store.fact(key)
    if known is None or len(now) > len(bytes.fromhex(known)):
        store.write(set_fact, key, now.hex())
    return None if known is None else bytes.fromhex(known)
