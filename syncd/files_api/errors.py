"""The errors of a call, told apart by the one question that matters: did it arrive.

FilesApiError
├── NotSentError            certainly not sent: nothing of it can have been stored
├── InDoubtError            possibly delivered: look before anything is sent again
│   ├── BadAnswerError      a success that cannot be read, or cannot be true
│   └── ServerError         5xx
├── RefusedError            the service said no
│   ├── BadRequestError     400
│   ├── UnauthorizedError   401
│   ├── QuotaError          402, or a code that speaks of a quota
│   ├── ForbiddenError      403
│   ├── NotFoundError       404
│   ├── ConflictError       409
│   ├── TooLargeError       413
│   ├── UnsupportedError    415
│   ├── UnprocessableError  422
│   └── RateLimitedError    429
└── Aborted                 the stop flag was set
    ├── AbortedUnsent       and a NotSentError
    └── AbortedInDoubt      and an InDoubtError

Not sent means that the last byte of the request never left this process: connecting failed, or the
connection broke or was dropped while bytes were still held. A 408 and a redirect are in doubt.
"""

from collections.abc import Mapping

from syncd.exceptions import SyncdError


class FilesApiError(SyncdError):
    """A call failed. Its text names the operation and never shows a key or a presigned URL.

    `code`, `message` and `details` are the service's own words where it had any (its error
    envelope), scrubbed of secrets; failures on this side have codes that begin with `local.`.
    `retry_after` is in seconds, positive, as asked for and not clamped. `enveloped` says that the
    answer was the service's own error envelope and not a gateway's page. `where` is the method and
    the URL of the request, without a query; of a storage only its host.
    """

    def __init__(
        self,
        message: str,
        *,
        operation: str,
        code: str | None = None,
        details: Mapping[str, object] | None = None,
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        enveloped: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.operation = operation
        self.code = code
        self.details = dict(details or {})
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after
        self.enveloped = enveloped
        self.where = ""

    @property
    def is_lasting(self) -> bool:
        """Whether this does not mend itself: somebody must change a setting or a certificate."""
        return self.code in LASTING or self.status == 407

    @property
    def is_the_services(self) -> bool:
        """Whether the service itself said so, in its error envelope, and no proxy before it."""
        return self.code is not None and not self.code.startswith(("local.", "storage."))

    def __str__(self) -> str:
        return f"{self.operation}: {self.text}"

    @property
    def text(self) -> str:
        """The failure in words, without the name of the operation."""
        # Codes of our own tell a person nothing that the message does not.
        facts = [
            f"status {self.status}" if self.status is not None else None,
            None if self.code and self.code.startswith("local.") else self.code,
            f"request {self.request_id}" if self.request_id else None,
        ]
        known = ", ".join(fact for fact in facts if fact)
        return self.message + (f" ({known})" if known else "")


class NotSentError(FilesApiError):
    """Certainly not sent: the request's last byte never left this process."""


class InDoubtError(FilesApiError):
    """Possibly delivered: the request may have been carried out, now or later."""


class BadAnswerError(InDoubtError):
    """A success that cannot be read: no JSON, a wrong type, too long, or untrue."""


class ServerError(InDoubtError):
    """5xx: the service failed, before or after it did what was asked."""


class RefusedError(FilesApiError):
    """The service said no; nothing was stored."""


class BadRequestError(RefusedError):
    """400."""


class UnauthorizedError(RefusedError):
    """401: the key is refused."""

    exit_code = 77


class QuotaError(RefusedError):
    """402, or any refusal whose code speaks of a quota."""


class ForbiddenError(RefusedError):
    """403: the key is good, and not for this."""


class NotFoundError(RefusedError):
    """404."""


class ConflictError(RefusedError):
    """409."""


class TooLargeError(RefusedError):
    """413."""


class UnsupportedError(RefusedError):
    """415."""


class UnprocessableError(RefusedError):
    """422: the request was understood and is not valid."""


class RateLimitedError(RefusedError):
    """429: not before `retry_after`, if it is given."""


class Aborted(FilesApiError):  # noqa: N818 - an outcome that was asked for, no error of anyone's
    """The stop flag was set while the call was in flight."""


class AbortedUnsent(Aborted, NotSentError):  # noqa: N818 - likewise
    """Stopped before the last byte was released."""


class AbortedInDoubt(Aborted, InDoubtError):  # noqa: N818 - likewise
    """Stopped after the last byte was released and before the answer was whole."""


#: Codes of failures that last until somebody mends their cause.
LASTING = frozenset({"local.certificate", "local.no_tls", "local.proxy_refused", "local.bad_url"})
#: The messages that more than one place gives.
OURS_REFUSED = "the service refuses our client certificate"
CERTIFICATE_REMEDY = "set [api] client_cert and client_key to one that it accepts"
PROXY_REFUSED = (
    "the proxy refuses user and password; set them in [api] proxy, as user:password@ before its "
    "host, with special characters percent-encoded"
)
#: The refusals with a status of their own; any other 4xx is a plain RefusedError.
REFUSALS: Mapping[int, type[RefusedError]] = {
    400: BadRequestError,
    401: UnauthorizedError,
    402: QuotaError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    413: TooLargeError,
    415: UnsupportedError,
    422: UnprocessableError,
    429: RateLimitedError,
}
