"""The service that the state belongs to: the first one that may hold something of it.

Until then, another base URL is another try: what was learned of the one before is forgotten, and
everything is tried anew.
"""

import logging
from typing import NamedTuple

from syncd.state import holds
from syncd.state.database.connection import Database
from syncd.state.facts import fact, set_fact

log = logging.getLogger(__name__)

BASE_URL, ORGANIZATION, KEY_MARK = "base_url", "organization", "key_mark"
#: Whether it is the service's sandbox, as text; older states do not say.
SANDBOX = "sandbox"
#: The facts that are learned of a service, beside those by kind of upload.
_LEARNED = (
    ORGANIZATION,
    KEY_MARK,
    "uploader",
    "sizes",
    "rollback_unchecked",
    "begins_anew",
    "rest",
)
_LEARNED_BY_KIND = ("echo *", "sample *", "probe *")


class Service(NamedTuple):
    """A service, or its sandbox: neither holds what was stored in the other."""

    base_url: str
    #: None if that is not known
    sandbox: bool | None = False

    def __str__(self) -> str:
        return f"{self.base_url} (sandbox)" if self.sandbox else self.base_url


def bind(db: Database, service: Service, now: float) -> Service:
    """Return the service that the state belongs to: `service`, where no other may hold anything.

    Those that were tried before are forgotten then.
    """
    if other := other_than(db, service):
        return other
    known = _known(db)
    if known is not None and not _is_same(known, service):
        _forget_service(db, now)
        log.info("nothing was stored at %s: the state belongs to %s now", known, service)
    set_fact(db, BASE_URL, service.base_url)
    set_fact(db, SANDBOX, str(service.sandbox))
    return service


def other_than(db: Database, service: Service) -> Service | None:
    """Return the service that the state belongs to; None if that may be `service`."""
    known = _known(db)
    is_other = known is not None and not _is_same(known, service) and has_reached(db)
    return known if is_other else None


def _known(db: Database) -> Service | None:
    base_url, sandbox = fact(db, BASE_URL), fact(db, SANDBOX)
    if base_url is None:
        return None
    return Service(base_url, None if sandbox is None else sandbox == str(True))


def _is_same(known: Service, service: Service) -> bool:
    return known.base_url == service.base_url and known.sandbox in (None, service.sandbox)


def bound_to(db: Database) -> str | None:
    """Return the service that the state belongs to; None while none may hold anything of it."""
    return fact(db, BASE_URL) if has_reached(db) else None


def has_reached(db: Database) -> bool:
    """Return whether the service may hold anything of this ledger's."""
    return holds.is_ledger_incomplete(db) or bool(
        db.value(
            "SELECT 1 FROM copies WHERE file_uuid IS NOT NULL OR status = 'sending' "
            "UNION ALL SELECT 1 FROM unanswered "
            "UNION ALL SELECT 1 FROM service WHERE key = 'probe left' OR key GLOB 'fetch *' "
            "LIMIT 1"
        )
    )


def _forget_service(db: Database, now: float) -> None:
    """Forget what was learned of a service that holds nothing of ours, and what it refused."""
    for pattern in (*_LEARNED, *_LEARNED_BY_KIND):
        db.conn.execute("DELETE FROM service WHERE key GLOB ?", (pattern,))
    for hold in holds.open_holds(db):
        if hold.reason in holds.OF_SERVICE:
            holds.release(db, stops=hold.stops, scope=hold.scope, reason=hold.reason, now=now)
    db.conn.execute(
        "UPDATE copies SET status = 'planned', due_at = :now, attempts = 0, refusals = 0, "
        "refused_at = NULL, error_status = NULL, error_code = NULL, error_message = NULL, "
        "error_request_id = NULL WHERE status IN ('planned', 'failed')",
        {"now": now},
    )
