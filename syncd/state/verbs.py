"""The base of the ledger's verbs, and no verb: whose uploads these are, how a failure is kept."""

from collections.abc import Iterable
from dataclasses import dataclass

from syncd.state import echo
from syncd.state.apply_plan import Policies
from syncd.state.database.connection import Database
from syncd.state.texts import storable


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure, as the ledger keeps it."""

    message: str
    status: int | None = None
    code: str | None = None
    request_id: str | None = None

    def columns(self) -> dict[str, object]:
        """Return the columns of a copy that hold it."""
        return {
            "error_status": self.status,
            "error_code": self.code,
            "error_message": storable(self.message),
            "error_request_id": self.request_id,
        }


#: The columns of a failure that is over.
NO_FAILURE = dict.fromkeys(Failure("").columns())


@dataclass(kw_only=True, eq=False)
class Verbs:
    """The base of the ledger's verbs: what they need to know of this instance."""

    policies: Policies
    #: the instance in whose name files are sent
    instance: str

    def __post_init__(self) -> None:
        #: kinds of uploads of which nothing more is to be learned
        self._learned: set[str] = set()

    def _note_samples(self, db: Database, stored: Iterable[tuple[str, int]]) -> None:
        """Remember the last stored copy of each kind while there is something to learn from it.

        `stored` are kinds of uploads, each with the id of a copy.
        """
        for kind, copy_id in dict(stored).items():
            if kind not in self._learned and not echo.note_sample(db, kind, copy_id):
                self._learned.add(kind)
