"""Sends one operation: builds its request, reads its answer, names its failure."""

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypedDict, cast

import httpx

from syncd.files_api.answer import Answer
from syncd.files_api.bandwidth import Bandwidth
from syncd.files_api.base_url import http_url
from syncd.files_api.body import BytesBody, FileBody
from syncd.files_api.errors import (
    OURS_REFUSED,
    PROXY_REFUSED,
    AbortedInDoubt,
    AbortedUnsent,
    FilesApiError,
    InDoubtError,
    NotSentError,
)
from syncd.files_api.exchange import DeadlinePassed, Exchange, Interrupted, StopFlag, StopSeen
from syncd.files_api.framing import header_value
from syncd.files_api.network import CERTIFICATE_REFUSED, NO_NAME, NO_TLS
from syncd.files_api.operations import Operation
from syncd.files_api.redaction import Secrets
from syncd.files_api.source import UploadSource
from syncd.files_api.storage import StorageRules
from syncd.files_api.transport import EXCHANGE

#: Headers that frame or route the request: they are the sender's alone.
_OWN_HEADERS = {"host", "content-length", "transfer-encoding", "connection", "accept-encoding"}
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]+")
_ERRNO = re.compile(r"\[Errno -?\d+\] ")
_ERROR_BYTES = _PIECE_BYTES = 1 << 20
#: Failures before a connection stood, whatever transport reports them.
_UNSENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
)


#: Called after each request with its operation, the status of its answer if any, and seconds.
Observer = Callable[[str, int | None, float], None]


class PerCall(TypedDict, total=False):
    """Options that every call takes beside its own arguments.

    `timeout_seconds` limits each wait for the network, and the whole answer; `deadline_seconds`
    limits the call in total. The extras are added to what the client sends. `on_answer` is shown
    the raw answer of a success or a failure, before it is read.
    """

    timeout_seconds: float
    deadline_seconds: float
    extra_headers: Mapping[str, str]
    extra_query: Mapping[str, str]
    extra_body: Mapping[str, Any]
    on_answer: Callable[[Answer], None]


class Sender:
    """Sends operations over a transport, one at a time."""

    def __init__(
        self,
        *,
        base: httpx.URL,
        headers: Mapping[str, str],
        secrets: Secrets,
        storage: StorageRules,
        timeout_seconds: float,
        connect_seconds: float,
        stop: StopFlag | None,
        transport: httpx.BaseTransport,
        observer: Observer | None = None,
        bandwidth: Bandwidth | None = None,
    ) -> None:
        self._bandwidth = bandwidth
        self._root = str(base).rstrip("/")
        # Made once: a copy is cheaper than what httpx makes of a dict.
        self._headers = httpx.Headers({"host": base.netloc.decode("ascii"), **headers})
        self._secrets = secrets
        self._storage = storage
        self._timeout_seconds = timeout_seconds
        self._connect_seconds = connect_seconds
        self._stop = stop
        self._transport = transport
        self._observer = observer
        self._busy = threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def send(
        self, operation: Operation[Any], source: UploadSource | None, per_call: PerCall
    ) -> Answer:
        """Return the whole answer, whatever its status; a FilesApiError if there is none."""
        secrets = self._secrets.adding(operation.url) if operation.url else self._secrets
        exchange = Exchange(
            timeout_seconds=per_call.get("timeout_seconds", self._timeout_seconds),
            deadline_seconds=per_call.get("deadline_seconds"),
            stop=self._stop,
            refuses=self._storage.unreachable if operation.url else self._learn,
        )
        request = self._request(operation, source, exchange, per_call)
        status, began = None, time.monotonic()
        try:
            with self._busy:
                answer = self._exchange(request, operation, exchange, secrets)
            status = answer.status
        except (httpx.TransportError, Interrupted) as error:
            # Not chained: the libraries' texts quote what the server sent, key and all.
            raise _failure(error, operation.name, exchange, secrets) from None
        finally:
            if self._observer is not None:
                self._observer(operation.name, status, time.monotonic() - began)
        if observe := per_call.get("on_answer"):
            observe(answer)
        return answer

    def _exchange(
        self,
        request: httpx.Request,
        operation: Operation[Any],
        exchange: Exchange,
        secrets: Secrets,
    ) -> Answer:
        exchange.check()
        exchange.released = None
        response = self._transport.handle_request(request)
        is_encoded = response.headers.get("content-encoding", "").lower() not in {"", "identity"}
        try:
            body = b"" if is_encoded else _body(response, operation, exchange)
        finally:
            response.close()
        answer = Answer(
            operation=operation.name,
            status=response.status_code,
            headers=response.headers,
            body=body[: operation.answer_bytes],
            secrets=secrets,
            where="" if response.is_success else _where(request, operation),
        )
        if response.is_success:
            if is_encoded:
                raise answer.unreadable("it is encoded, which was not asked for")
            if len(body) > operation.answer_bytes:
                raise answer.unreadable(f"it has more than {operation.answer_bytes} bytes")
            if not exchange.may_be_delivered:
                raise answer.unreadable("it came before the whole request was sent")
        return answer

    def _request(
        self,
        operation: Operation[Any],
        source: UploadSource | None,
        exchange: Exchange,
        per_call: PerCall,
    ) -> httpx.Request:
        url = self._url(operation, per_call)
        content, headers = self._content(
            operation, source, exchange, per_call.get("extra_body", {})
        )
        headers |= {**operation.headers, **_checked(per_call.get("extra_headers", {}))}
        timeout = exchange.timeout_seconds
        limits = {"connect": min(self._connect_seconds, timeout), "read": timeout}
        limits |= {"write": timeout, "pool": timeout}
        extensions = {"timeout": limits, EXCHANGE: exchange}
        request = httpx.Request(
            operation.method,
            url,
            headers=self._headers
            if operation.url is None
            else {"host": url.netloc.decode("ascii")},
            stream=content,
            extensions=extensions,
        )
        for name, value in headers.items():
            request.headers[name] = value
        return request

    def _content(
        self,
        operation: Operation[Any],
        source: UploadSource | None,
        exchange: Exchange,
        extra: Mapping[str, Any],
    ) -> tuple[httpx.SyncByteStream, dict[str, str]]:
        """Return the body of a request, and the headers that describe it."""
        if operation.frame is not None:
            if source is None:
                raise ValueError(f"{operation.name} needs a source")
            framing = operation.frame({name: str(value) for name, value in extra.items()})
            content_type, length = framing.content_type, framing.length(source.size)
            body = FileBody(source, framing, exchange, self._bandwidth)
            return body, _described(content_type, length)
        if operation.json is not None:
            text = json.dumps({**operation.json, **extra}).encode()
            return BytesBody(text, exchange), _described("application/json", len(text))
        if extra:
            raise ValueError(f"{operation.name} has no body")
        return BytesBody(b"", exchange), {}

    def _url(self, operation: Operation[Any], per_call: PerCall) -> httpx.URL:
        extra = per_call.get("extra_query", {})
        if operation.url is None:
            query = (*operation.query.items(), *extra.items())
            return _parsed(self._root + operation.path, query)
        if extra:
            raise ValueError("a presigned URL takes no further query")
        url = http_url(operation.url)
        problem = self._storage.problem(url)
        if url is None or problem:
            raise NotSentError(
                f"the presigned URL cannot be used: {problem}",
                operation=operation.name,
                code="local.bad_url",
            )
        return url

    def _learn(self, _host: str, address: str) -> None:
        """Note where the service itself is; nothing keeps us from going there."""
        self._storage.learn(address)


def _described(content_type: str, length: int) -> dict[str, str]:
    return {"content-type": content_type, "content-length": str(length)}


@lru_cache(maxsize=16)
def _parsed(url: str, query: tuple[tuple[str, str], ...]) -> httpx.URL:
    # Uploads all go to one URL, and parsing it costs a tenth of a small one.
    return httpx.URL(url, params=query or None)


def _body(response: httpx.Response, operation: Operation[Any], exchange: Exchange) -> bytes:
    """Return the body, at most a little longer than allowed; of a failure, as much as came."""
    if response.is_success and not operation.reads_body:
        return b""
    if response.is_success and operation.take is not None:
        _hand_on(response, operation.take, exchange)
        return b""
    limit = operation.answer_bytes if response.is_success else _ERROR_BYTES
    body = bytearray()
    try:
        for part in cast("httpx.SyncByteStream", response.stream):
            body += part
            if len(body) > limit:
                break
    except (httpx.TransportError, DeadlinePassed):
        if response.is_success:
            raise
    return bytes(body[: limit + 1])


def _hand_on(response: httpx.Response, take: Callable[[bytes], object], exchange: Exchange) -> None:
    """Hand a body on as it comes; each `_PIECE_BYTES` of it have the time of a whole answer."""
    left = _PIECE_BYTES
    for part in cast("httpx.SyncByteStream", response.stream):
        take(part)
        left -= len(part)
        if left <= 0:
            left = _PIECE_BYTES
            exchange.go_on_answering()


def _where(request: httpx.Request, operation: Operation[Any]) -> str:
    """Return method and URL for a person: a presigned URL's path and query are secret."""
    path = "" if operation.url is not None else request.url.path
    return f"{request.method} {request.url.scheme}://{request.url.netloc.decode('ascii')}{path}"


def _checked(extra: Mapping[str, str]) -> dict[str, str]:
    headers = {name.lower(): header_value(value) for name, value in extra.items()}
    for name in headers:
        if not _HEADER_NAME.fullmatch(name) or name in _OWN_HEADERS:
            raise ValueError(f"not a header to be set: {name!r}")
    return headers


#: Texts of failed connections, and the code that each stands for.
_CONNECTING = {
    CERTIFICATE_REFUSED: "local.certificate",
    OURS_REFUSED: "local.certificate",
    NO_TLS: "local.no_tls",
    NO_NAME: "local.dns",
}


def _code_of_connecting(what: str) -> str:
    found = (code for words, code in _CONNECTING.items() if words in what)
    return next(found, "local.connect")


def _failure(
    error: Exception, operation: str, exchange: Exchange, secrets: Secrets
) -> FilesApiError:
    unsent = isinstance(error, _UNSENT) or not exchange.may_be_delivered
    if isinstance(error, StopSeen):
        kind: type[FilesApiError] = AbortedUnsent if unsent else AbortedInDoubt
        return kind("stopped", operation=operation, code="local.stopped")
    what = _ERRNO.sub("", secrets.shown(str(error) or type(error).__name__))
    if isinstance(error, DeadlinePassed):
        code, what = "local.deadline", "it took too long"
    elif isinstance(error, httpx.UnsupportedProtocol):
        code, what = "local.bad_url", f"the presigned URL cannot be used: {what}"
    elif isinstance(error, httpx.ProxyError):
        # Some say 401 of a wrong password; no service is asked yet.
        refused = what.startswith(("401 ", "407 "))
        code = "local.proxy_refused" if refused else "local.proxy"
        what = PROXY_REFUSED if refused else f"the proxy answers: {what}"
    elif isinstance(error, _UNSENT):
        code = _code_of_connecting(what)
    elif isinstance(error, httpx.TimeoutException):
        code = "local.timeout"
    else:
        code = "local.network"
    if unsent:
        return NotSentError(f"not sent: {what}", operation=operation, code=code)
    return InDoubtError(f"no whole answer: {what}", operation=operation, code=code)
