"""Tokens: each request that can store something carries one in its name, so that it is found.

`sy2-INSTANCE-PATH-CONTENT-ATTEMPT-MAC`: PATH is a digest of folder and path, CONTENT the beginning
of the SHA-256, ATTEMPT a number that only grows. MAC has two halves, made with a secret of this
instance: one over the rest of the token, one over that and the size. Tokens of the first kind,
`sy1-INSTANCE-PATHCONTENTCHANCE`, are still read.
"""

import hmac
import secrets
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

from syncd.state.database.connection import Database
from syncd.state.facts import fact, facts, set_fact

#: The facts of this module: the secret, the attempts below which another one was in use, and the
#: last attempt.
SECRET, SECRET_SINCE, ATTEMPT = "token_secret", "token_secret_since", "attempt"
#: Numbers left out after a ledger was rebuilt: attempts that it knows nothing of.
UNSEEN_ATTEMPTS = 1000
_MAC_DIGITS = 10
_MOST_ATTEMPTS = (1 << 48) - 1 - (1 << 40)


class Token(NamedTuple):
    """The parts of a token; digits are hexadecimal text."""

    instance: str
    #: of folder and path: 12 digits, 8 in the first kind
    path: str
    #: the beginning of the content's SHA-256: 12 digits
    content: str
    #: None in the first kind
    attempt: int | None = None


def read(token: str) -> Token:
    """Return what a token says; `syncd.files_api.token_of` finds tokens."""
    kind, instance, *rest = token.split("-")
    if kind == "sy1":
        return Token(instance, rest[0][:8], rest[0][8:20])
    path, content, attempt, _mac = rest
    return Token(instance, path, content, int(attempt, 16))


class Request(NamedTuple):
    """The subject of a token: a file, the SHA-256 of its content, its size, and when."""

    folder: str
    path: bytes
    content: str
    size: int
    now: float


def issue_all(db: Database, instance: str, requests: Iterable[Request]) -> list[str]:
    """Return a token for each of some more requests, and count them."""
    known = facts(db, SECRET, SECRET_SINCE, ATTEMPT)
    secret = known.get(SECRET, "")
    attempt = max(int(known.get(ATTEMPT, 0)), int(known.get(SECRET_SINCE, 0)))
    issued = []
    for request in requests:
        clock = min(max(int(request.now * 1000), 0), _MOST_ATTEMPTS)
        attempt = max(attempt + 1, clock)
        place = place_digest(request.folder, request.path)
        head = f"sy2-{instance}-{place}-{request.content[:12]}-{attempt:012x}"
        issued.append(f"{head}-{_name_mac(secret, head)}{_size_mac(secret, head, request.size)}")
    set_fact(db, ATTEMPT, str(attempt))
    return issued


def issue(
    db: Database, *, instance: str, folder: str, path: bytes, content: str, size: int, now: float
) -> str:
    """Return a token for one more request, and count it; `content` is the SHA-256."""
    return issue_all(db, instance, [Request(folder, path, content, size, now)])[0]


def last_attempt(db: Database) -> int:
    """Return the number of the last attempt; 0 before the first."""
    return int(fact(db, ATTEMPT) or 0)


def skip_attempts(db: Database, seen: int) -> None:
    """Raise the next attempt far above all previous ones, and above `seen`."""
    attempt = max(last_attempt(db), seen) + UNSEEN_ATTEMPTS
    set_fact(db, ATTEMPT, str(attempt))
    set_fact(db, SECRET_SINCE, str(min(_secret_since(db), attempt)))


def is_genuine(db: Database, token: str) -> bool:
    """Return whether this ledger's secret made `token`; any object may carry it now."""
    head, _, mac = token.rpartition("-")
    return token.startswith("sy2-") and hmac.compare_digest(
        mac[:_MAC_DIGITS], _name_mac(_secret(db), head)
    )


def is_of_size(db: Database, token: str, size: int) -> bool:
    """Return whether this ledger's secret made `token` for content of `size` bytes."""
    head, _, mac = token.rpartition("-")
    return is_genuine(db, token) and hmac.compare_digest(
        mac[_MAC_DIGITS:], _size_mac(_secret(db), head, size)
    )


def distrust(db: Database) -> None:
    """Stop verifying the existing tokens, because another secret made them."""
    set_fact(db, SECRET_SINCE, str(_MOST_ATTEMPTS))


def is_verifiable(db: Database, token: Token) -> bool:
    """Return whether a token of this instance was made with the present secret."""
    return token.attempt is not None and token.attempt > _secret_since(db)


def keep_secret(db: Database, known: str | None, now: float) -> str:
    """Return the secret, `known` from the instance file or made now where the ledger has none."""
    secret = fact(db, SECRET)
    if secret is None:
        secret = known or secrets.token_hex(16)
        set_fact(db, SECRET, secret)
        if known is None:
            # Tokens that were sent before cannot be verified.
            set_fact(db, SECRET_SINCE, str(max(int(now * 1000) - 1, last_attempt(db))))
    return secret


def place_digest(folder: str, path: bytes) -> str:
    """Return the 12 digits that stand in a token for a folder's name and a path."""
    return sha256(folder.encode() + b"\0" + path).hexdigest()[:12]


def _secret(db: Database) -> str:
    return fact(db, SECRET) or ""


def _secret_since(db: Database) -> int:
    return int(fact(db, SECRET_SINCE) or 0)


def _name_mac(secret: str, head: str) -> str:
    return hmac.digest(secret.encode(), head.encode(), "sha256").hex()[:_MAC_DIGITS]


def _size_mac(secret: str, head: str, size: int) -> str:
    return _name_mac(secret, f"{head}-{size}")
