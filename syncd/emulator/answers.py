"""The error envelope, and the refusals that carry it."""

import secrets
from collections.abc import Mapping
from typing import Any, ClassVar

from starlette.responses import JSONResponse, Response

_XML = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    "<Error><Code>{}</Code><Message>{}</Message><RequestId>{}</RequestId></Error>"
)


class Refusal(Exception):  # noqa: N818 - an answer, raised where the request turns out wrong
    """A request that is answered with an error."""

    codes: ClassVar = {
        400: "request.invalid",
        401: "auth.invalid_key",
        403: "auth.forbidden",
        404: "file.not_found",
        405: "request.method_not_allowed",
        409: "file.conflict",
        413: "file.too_large",
        415: "file.unsupported",
        422: "request.validation_error",
        429: "request.rate_limited",
        500: "server.error",
        503: "server.unavailable",
        504: "server.timeout",
    }

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code or self.codes.get(status, "request.refused")
        self.details = dict(details or {})
        self.headers = dict(headers or {})

    def answer(self, request_id: str) -> Response:
        """Return the API's envelope."""
        error = {"code": self.code, "message": str(self), "details": self.details}
        envelope = {"error": error, "request_id": request_id}
        return JSONResponse(envelope, self.status, headers=self.headers)


class StorageRefusal(Refusal):
    """A presigned request that the storage host answers with an error of its own, in XML."""

    codes: ClassVar = {
        403: "AccessDenied",
        404: "NoSuchKey",
        405: "MethodNotAllowed",
        500: "InternalError",
        503: "SlowDown",
    }

    def answer(self, request_id: str) -> Response:
        """Return the storage host's error."""
        text = _XML.format(self.code, self, request_id)
        return Response(text, self.status, headers=self.headers, media_type="application/xml")


def invalid(where: str, problem: str) -> Refusal:
    """Return the 422 for one field."""
    return Refusal(422, f"{where}: {problem}", details={"fields": [{where: problem}]})


def too_large(limit: int) -> Refusal:
    """Return the 413 for a body of more than `limit` bytes."""
    return Refusal(413, f"the body is larger than {limit} bytes", details={"limit": limit})


def new_request_id() -> str:
    """Return an id for one request."""
    return f"req_{secrets.token_hex(12)}"
