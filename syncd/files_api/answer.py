"""An answer as it came, and the error that it stands for where it is no success."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from syncd.files_api.document import MalformedError, Reader, parse
from syncd.files_api.errors import (
    CERTIFICATE_REMEDY,
    LASTING,
    OURS_REFUSED,
    PROXY_REFUSED,
    REFUSALS,
    BadAnswerError,
    FilesApiError,
    InDoubtError,
    NotSentError,
    QuotaError,
    RefusedError,
    ServerError,
)
from syncd.files_api.redaction import Secrets

#: A wait longer than this (30 years) is junk, like NaN and infinity.
_LONGEST_SECONDS = 1e9
#: Storage answers in XML of its own; its code is worth having ("AccessDenied": the URL expired).
_STORAGE_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,80})</Code>")
#: nginx tells by a page, and no alert, what is wrong with the certificate that a client shows.
_WANTS_CERTIFICATE = re.compile(rb"(No required SSL|The SSL) certificate (was sent|error)")
#: The title of a gateway's page tells a person most.
_TITLE = re.compile(rb"<title>\s*([^<]{1,200}?)\s*</title>", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A whole answer: status, headers by lower-case name, body. The raw response, for who asks."""

    operation: str
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    secrets: Secrets = field(default_factory=Secrets, repr=False)
    #: method and URL of the request, without what is secret in it
    where: str = ""

    @property
    def request_id(self) -> str | None:
        """The server's name for this exchange, from a header; an error's body may know better."""
        named = self.headers.get("x-request-id") or self.headers.get("x-amz-request-id")
        return self.secrets.shown(named) if named else None

    @property
    def date(self) -> datetime | None:
        """The service's time when it answered; None if it does not tell."""
        return _date(self.headers.get("date"))

    def document(self) -> Reader:
        """The body as a JSON object; raises BadAnswerError."""
        try:
            return Reader(parse(self.body), "the answer")
        except MalformedError as error:
            raise self.unreadable(str(error)) from None

    def unreadable(self, why: str) -> BadAnswerError:
        """The error for a success that cannot be read, with the start of the body."""
        return BadAnswerError(
            f"cannot read the answer: {why}: {self.secrets.excerpt(self.body)!r}",
            operation=self.operation,
            code="local.bad_answer",
            status=self.status,
            request_id=self.request_id,
        )

    def failure(self) -> FilesApiError | None:
        """The error that the status stands for; None for a success."""
        if 200 <= self.status < 300:
            return None
        code, message, details, request_id, enveloped = self._envelope()
        error = _kind(self.status, code)(
            message,
            operation=self.operation,
            code=code,
            details=details,
            status=self.status,
            request_id=request_id or self.request_id,
            retry_after=retry_after(self.headers),
            enveloped=enveloped,
        )
        error.where = self.where
        return error

    def _envelope(self) -> tuple[str | None, str, dict[str, Any], str | None, bool]:
        """Return code, message, details and request id from the body, as far as it has them.

        The last value says whether the body is the service's own error envelope.
        """
        storage = _STORAGE_CODE.search(self.body)
        code = f"storage.{storage[1].decode()}" if storage else None
        if self.status < 400:
            target = urlsplit(self.headers.get("location", ""))
            # Its path and query may hold a secret.
            host = self.secrets.shown(f" to {target.hostname} by {target.scheme}")
            words = f"the service redirects{host if target.hostname else ''}"
            return None, f"{words}, which is never followed", {}, None, False
        try:
            whole = parse(self.body)
        except MalformedError:
            own, words = self._page()
            return own or code, words, {}, None, False
        members = whole if isinstance(whole, dict) else {}
        error = members.get("error")
        if not isinstance(error, dict):
            # A framework in front of the API has its own shape for a refused request.
            detail = self._shown({"detail": members.get("detail")})
            return code, self._page()[1], detail, None, False
        return (
            self._text(error.get("code")),
            self._text(error.get("message")) or self._page()[1],
            self._shown(error.get("details")),
            self._text(members.get("request_id")),
            True,
        )

    def _page(self) -> tuple[str | None, str]:
        """Return a code of our own, and words, for an answer that is not the service's."""
        if self.status == 407:
            return "local.proxy_refused", PROXY_REFUSED
        if self.status == 400 and (page := _WANTS_CERTIFICATE.search(self.body)):
            said = page[0].decode().lower()
            return "local.certificate", f"{OURS_REFUSED} ({said}); {CERTIFICATE_REMEDY}"
        if not self.body:
            return None, "the service gave no reason"
        title = _TITLE.search(self.body)
        if self.status == 401:
            return None, "it is refused, and not in the service's own words: by a proxy?"
        words = f"the service answered: {self.secrets.excerpt(title[1] if title else self.body)!r}"
        if self.status == 413:
            words += "; raise the limit of the proxy before it (nginx: client_max_body_size)"
        return None, words

    def _text(self, value: object) -> str | None:
        return self.secrets.shown(value, 500) if isinstance(value, str) and value else None

    def _shown(self, value: object) -> dict[str, Any]:
        shown = self.secrets.scrub_all(value)
        return {k: v for k, v in shown.items() if v is not None} if isinstance(shown, dict) else {}


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return the seconds that the server asks to wait, or None; it may say a date.

    A date counts from the answer's own Date, so that a wrong clock on either side does not matter.
    What is past, not finite or beyond 30 years is ignored; the caller clamps the rest.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None and (wait := _sane(milliseconds / 1000)):
        return wait
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None:
        return _sane(seconds)
    until = _date(text)
    if until is None:
        return None
    since = _date(headers.get("date")) or now or datetime.now(UTC)
    return _sane((until - since).total_seconds())


def _kind(status: int, code: str | None) -> type[FilesApiError]:
    if status >= 500:
        return ServerError
    if status == 407 or code in LASTING:
        return NotSentError
    if status == 408 or status < 400:
        return InDoubtError
    if code and "quota" in code.lower():
        return QuotaError
    return REFUSALS.get(status, RefusedError)


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _sane(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) and 0 < seconds <= _LONGEST_SECONDS else None


def _date(text: str | None) -> datetime | None:
    try:
        when = parsedate_to_datetime(text or "")
        return when.replace(tzinfo=UTC) if when.tzinfo is None else when
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
