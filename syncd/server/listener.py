"""The optional listener: the status page and its data, health, and metrics. It is read-only."""

import base64
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from syncd import heartbeat
from syncd.config.loading import Config
from syncd.exceptions import SyncdError
from syncd.http_thread import HttpThread, listen
from syncd.report import listing_csv, status, why
from syncd.report.folder_paths import FolderPath
from syncd.scheduler import StepReport
from syncd.server import page, page_document
from syncd.server.connections import BoundedConnection
from syncd.server.exposition import StateCollector, registry
from syncd.server.guard import Guard, own_names
from syncd.state import manifest, overview, texts, views
from syncd.state.manifest import Word

log = logging.getLogger(__name__)

JsonObject = dict[str, Any]
#: Probed without a token: the answers are a mere yes or no.
PROBES = HEALTH, READY = "/healthz", "/readyz"
METRICS = "/metrics"
#: Files on a page: the default, and the most.
PAGE, LONGEST_PAGE = 100, 1000
#: Searches at a time, and the seconds that others wait for their turn: a search may scan the whole
#: table, which takes a second or more with a million files.
LOOKS, TURN_SECONDS = 2, 5.0
#: The least age in seconds at which the document of `status` is rebuilt, and the largest part of
#: the time spent on it: counting a million files takes seconds.
FRESH_SECONDS, BUSY_PART = 1.0, 0.2


class Listener:
    """Serves a daemon's state on a TCP port."""

    def __init__(
        self, *, config: Callable[[], Config], steps: Callable[[], Iterable[StepReport]]
    ) -> None:
        """`config` returns the current configuration; the address is read once, at the start."""
        self._config = config
        self._status = _Fresh(self._document)
        self._lately = _Fresh(
            lambda: views.read(self._directory, lambda db: page_document.lately(db, time.time()))
        )
        standing = StateCollector(
            status=self._status.get,
            doubts=lambda: views.read(self._directory, overview.doubts),
            steps=steps,
            free_bytes=self._free_bytes,
        )
        self._registry = registry(standing)
        self._looks = threading.BoundedSemaphore(LOOKS)
        self._server: HttpThread | None = None
        #: why it cannot listen, for a person
        self.trouble = ""
        self.address = ""

    def start(self) -> None:
        """Listen if configured; when that fails, log an error and let the daemon go on."""
        config = self._config()
        server, token = config.server, config.server_token
        self.trouble = ""
        if not server.listen:
            return
        guard = Middleware(
            Guard,
            hosts={
                *own_names(server.host, is_loopback=server.is_loopback),
                *server.allowed_hosts,
            },
            any_address=not server.is_loopback,
            token=token.get_secret_value() if token else "",
            public=(*PROBES, METRICS) if server.metrics == "open" else PROBES,
        )
        try:
            listener = listen(server.host, server.port)
            self.address = f"{server.listen.rpartition(':')[0]}:{listener.getsockname()[1]}"
            self._server = HttpThread(
                Starlette(
                    routes=self._routes(),
                    middleware=[guard],
                    exception_handlers={SyncdError: _unavailable},
                ),
                listener,
                name="syncd-listener",
                protocol=BoundedConnection,
            )
            self._server.start()
        except OSError as error:
            self._server = None
            self.trouble = f"cannot listen on {server.listen}: {error.strerror or error}"
            log.error("%s; the next reload tries again", self.trouble)
            return
        log.info("the page, health and metrics on http://%s", self.address)

    def stop(self) -> None:
        """Stop listening; safe to call twice."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _routes(self) -> list[Route]:
        return [
            Route(page.PATH, self._page),
            Route("/page.json", self._page_json),
            Route(HEALTH, self._healthz),
            Route(READY, self._readyz),
            Route(METRICS, self._metrics),
            Route("/status.json", self._status_json),
            Route("/ls.json", self._ls_json),
            Route("/ls.csv", self._ls_csv),
            Route("/why.json", self._why_json),
        ]

    async def _page(self, _request: Request) -> Response:
        return Response(
            page.HTML,
            media_type="text/html",
            headers={"content-security-policy": page.POLICY, "cache-control": "no-cache"},
        )

    async def _healthz(self, _request: Request) -> Response:
        # On the event loop, so that a probe is answered even when all threads are busy.
        works = heartbeat.is_alive(self._directory, time.time())
        return PlainTextResponse("ok\n" if works else "hangs\n", 200 if works else 503)

    # The following run on a pool of threads, because the database may block them.

    def _readyz(self, _request: Request) -> Response:
        ready = not self._status.get()["obstacles"]
        return _AsciiJsonResponse({"ready": ready}, 200 if ready else 503)

    def _metrics(self, request: Request) -> Response:
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"content-type": media_type})

    def _status_json(self, _request: Request) -> Response:
        return _AsciiJsonResponse(status.contract(self._status.get()))

    def _page_json(self, _request: Request) -> Response:
        """Answer everything that the page shows: the document, what helps, and the last day."""
        facts = self._status.get()
        more = {
            "now": texts.timestamp(time.time()),
            "failures": page_document.failures(facts, self._config()),
        }
        return _AsciiJsonResponse(facts | self._lately.get() | more)

    def _ls_json(self, request: Request) -> Response:
        asked = request.query_params
        try:
            limit = int(asked.get("limit", PAGE))
            after = _cursor(asked["after"]) if asked.get("after") else None
            wanted = _wanted(asked)
        except ValueError:
            return _AsciiJsonResponse({"error": "after, limit or status has an invalid value"}, 400)
        if not 1 <= limit <= LONGEST_PAGE:
            return _AsciiJsonResponse({"error": f"limit must be 1 to {LONGEST_PAGE}"}, 400)
        if not self._looks.acquire(timeout=TURN_SECONDS):
            return _AsciiJsonResponse({"error": "other searches are running; try again"}, 503)
        try:
            files, last = self._look(after, limit, wanted)
        finally:
            self._looks.release()
        return _AsciiJsonResponse({"files": files, "next": _cursor_text(last) if last else None})

    def _ls_csv(self, request: Request) -> Response:
        """Answer every file as CSV, page by page: a million rows are never in memory."""
        try:
            wanted = _wanted(request.query_params)
        except ValueError:
            return _AsciiJsonResponse({"error": "status has an invalid value"}, 400)
        return StreamingResponse(
            _joined(listing_csv.lines(self._all(wanted))),
            media_type="text/csv",
            headers={"content-disposition": 'attachment; filename="syncd.csv"'},
        )

    def _all(self, wanted: dict[str, str | None]) -> Iterator[JsonObject]:
        last = None
        while True:
            with self._looks:
                files, last = self._look(last, LONGEST_PAGE, wanted)
            yield from files
            if last is None:
                return

    def _look(
        self, after: tuple[str, bytes] | None, limit: int, wanted: dict[str, str | None]
    ) -> tuple[list[JsonObject], tuple[str, bytes] | None]:
        return views.read(
            self._directory, lambda db: manifest.page(db, after=after, limit=limit, **wanted)
        )

    def _why_json(self, request: Request) -> Response:
        config, asked = self._config(), request.query_params
        try:
            path = (
                base64.b64decode(asked["path_b64"], validate=True)
                if "path_b64" in asked
                else asked.get("path", "").encode()
            )
        except ValueError:
            return _AsciiJsonResponse({"error": "path_b64 is not Base64"}, 400)
        folder = next((f for f in config.folders if f.name == asked.get("folder")), None)
        if folder is None or not path:
            return _AsciiJsonResponse({"error": "give a folder, and a path in it"}, 404)
        place = FolderPath(folder.name, folder.place, path)
        found = views.read(self._directory, lambda db: why.of_file(place, config, db, running=True))
        if found is None:
            return _AsciiJsonResponse({"error": "there is no such file"}, 404)
        return _AsciiJsonResponse(found)

    @property
    def _directory(self) -> Path:
        return self._config().state.directory

    def _document(self) -> JsonObject:
        return status.status(self._directory, base_url=self._config().api.base_url)

    def _free_bytes(self) -> int:
        disk = os.statvfs(self._directory)
        return disk.f_bavail * disk.f_frsize


class _AsciiJsonResponse(JSONResponse):
    """JSON in pure ASCII, so that no file name can send control characters to a terminal."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


class _Fresh:
    """A costly value, rebuilt when it is requested and stale."""

    def __init__(self, make: Callable[[], JsonObject]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._value: JsonObject = {}
        self._until = 0.0

    def get(self) -> JsonObject:
        with self._lock:
            began = time.monotonic()
            if began >= self._until:
                self._value = self._make()
                ended = time.monotonic()
                self._until = ended + max(FRESH_SECONDS, (ended - began) / BUSY_PART)
            return self._value


def _unavailable(_request: Request, error: Exception) -> Response:
    return _AsciiJsonResponse({"error": str(error)}, 503)


def _wanted(asked: Mapping[str, str]) -> dict[str, str | None]:
    """Return what `manifest.page` is to find; raise ValueError for a status that is none."""
    status = Word(asked["status"]) if asked.get("status") else None
    return {
        "folder": asked.get("folder") or None,
        "status": status,
        "search": asked.get("search") or None,
    }


def _joined(lines: Iterator[str]) -> Iterator[str]:
    """Join some lines each: a chunk of the answer costs more than a line."""
    while some := list(islice(lines, LONGEST_PAGE)):
        yield "".join(some)


def _cursor_text(last: tuple[str, bytes]) -> str:
    folder, path = last
    parts = [folder, base64.b64encode(path).decode()]
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


def _cursor(text: str) -> tuple[str, bytes]:
    """Parse what `_cursor_text` wrote; raise ValueError for anything else."""
    try:
        folder, path = json.loads(base64.urlsafe_b64decode(text))
        return str(folder), base64.b64decode(path)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError("invalid cursor") from error
