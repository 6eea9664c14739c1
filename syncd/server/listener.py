"""The optional listener: the status page and what it reads, health, metrics. It changes nothing."""

import base64
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from syncd import document, story, vitals
from syncd.config import Config
from syncd.exceptions import SyncdError
from syncd.metrics import UPLOADED_LAST_HOUR
from syncd.scheduler import StepReport
from syncd.server import page
from syncd.server.exposition import Standing, registry
from syncd.server.guard import Guard, own_names
from syncd.server.http_thread import HttpThread
from syncd.state import manifest, overview, texts, views
from syncd.state.manifest import Word
from syncd.story import Place

log = logging.getLogger(__name__)

JsonObject = dict[str, Any]
#: What probes ask, without a token: the answer is yes or no. What Prometheus asks.
PROBES = HEALTH, READY = "/healthz", "/readyz"
METRICS = "/metrics"
#: Files on a page: what is given, and the most that is asked for.
PAGE, LONGEST_PAGE = 100, 1000
#: A page may have to be looked for in the whole table, for which a million files take a second and
#: more: so many are looked for at once, and others wait for their turn so many seconds.
LOOKS, TURN_SECONDS = 2, 5.0
#: The document of `status` is made anew at most so often, in seconds, and in so small a part of
#: the time: counting a million files takes seconds.
FRESH_SECONDS, BUSY_PART = 1.0, 0.2


class Listener:
    """Serves what it reads of a daemon's state on a TCP port."""

    def __init__(
        self, *, config: Callable[[], Config], steps: Callable[[], Iterable[StepReport]]
    ) -> None:
        """`config` returns the one that holds now; where it listens is read of it at the start."""
        self._config = config
        self._status = _Fresh(self._document)
        standing = Standing(
            status=self._status.get,
            doubts=lambda: views.read(self._directory, overview.doubts),
            steps=steps,
            free_bytes=self._free_bytes,
        )
        self._registry = registry(standing)
        self._looks = threading.BoundedSemaphore(LOOKS)
        self._server: HttpThread | None = None
        #: what keeps it from listening, for a person
        self.trouble = ""
        self.address = ""

    def start(self) -> None:
        """Listen, if it is wanted; where that cannot be, the daemon goes on, and says so."""
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
            listener = _listen(server.host, server.port)
            self.address = f"{server.listen.rpartition(':')[0]}:{listener.getsockname()[1]}"
            self._server = HttpThread(
                Starlette(
                    routes=self._routes(),
                    middleware=[guard],
                    exception_handlers={SyncdError: _unavailable},
                ),
                listener,
                name="listener",
                bounded=True,
            )
            self._server.start()
        except OSError as error:
            self._server = None
            self.trouble = f"cannot listen on {server.listen}: {error.strerror or error}"
            log.error("%s; the next reload tries again", self.trouble)
            return
        log.info("the page, health and metrics on http://%s", self.address)

    def stop(self) -> None:
        """Listen no more; safe to call twice."""
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
            Route("/why.json", self._why_json),
        ]

    async def _page(self, _request: Request) -> Response:
        return Response(
            page.HTML,
            media_type="text/html",
            headers={"content-security-policy": page.POLICY, "cache-control": "no-cache"},
        )

    async def _healthz(self, _request: Request) -> Response:
        # Not on a thread: however many others wait for one, a probe is answered.
        works = vitals.is_alive(self._directory, time.time())
        return PlainTextResponse("ok\n" if works else "hangs\n", 200 if works else 503)

    # Each of these runs on a thread of a pool, for the table may make it wait.

    def _readyz(self, _request: Request) -> Response:
        ready = not self._status.get()["obstacles"]
        return _Json({"ready": ready}, 200 if ready else 503)

    def _metrics(self, request: Request) -> Response:
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"content-type": media_type})

    def _status_json(self, _request: Request) -> Response:
        return _Json(document.contract(self._status.get()))

    def _page_json(self, _request: Request) -> Response:
        """Answer with all that the page shows: the document, failures, and the last hour."""
        facts = self._status.get()
        return _Json(
            facts | {"now": texts.timestamp(time.time()), "hour": UPLOADED_LAST_HOUR.minutes()}
        )

    def _ls_json(self, request: Request) -> Response:
        asked = request.query_params
        try:
            limit = int(asked.get("limit", PAGE))
            after = _cursor(asked["after"]) if asked.get("after") else None
            status = Word(asked["status"]) if asked.get("status") else None
        except ValueError:
            return _Json({"error": "after, limit or status: no such value"}, 400)
        if not 1 <= limit <= LONGEST_PAGE:
            return _Json({"error": f"limit must be 1 to {LONGEST_PAGE}"}, 400)
        if not self._looks.acquire(timeout=TURN_SECONDS):
            return _Json({"error": "others are searching; try again"}, 503)
        try:
            files, last = views.read(
                self._directory,
                lambda db: manifest.page(
                    db,
                    after=after,
                    limit=limit,
                    folder=asked.get("folder") or None,
                    status=status,
                    search=asked.get("search") or None,
                ),
            )
        finally:
            self._looks.release()
        return _Json({"files": files, "next": _cursor_text(last) if last else None})

    def _why_json(self, request: Request) -> Response:
        config, asked = self._config(), request.query_params
        try:
            path = (
                base64.b64decode(asked["path_b64"], validate=True)
                if "path_b64" in asked
                else asked.get("path", "").encode()
            )
        except ValueError:
            return _Json({"error": "path_b64 is not Base64"}, 400)
        folder = next((f for f in config.folders if f.name == asked.get("folder")), None)
        if folder is None or not path:
            return _Json({"error": "name a folder and a path in it"}, 404)
        place = Place(folder.name, folder.place, path)
        told = views.read(
            self._directory, lambda db: story.of_file(place, config, db, running=True)
        )
        if told is None:
            return _Json({"error": "there is no such file"}, 404)
        return _Json(told)

    # What they read

    @property
    def _directory(self) -> Path:
        return self._config().state.directory

    def _document(self) -> JsonObject:
        return document.status(self._directory, base_url=self._config().api.base_url)

    def _free_bytes(self) -> int:
        disk = os.statvfs(self._directory)
        return disk.f_bavail * disk.f_frsize


class _Json(JSONResponse):
    """JSON in ASCII alone: of a name, nothing is left that a terminal would obey."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


class _Fresh:
    """A costly value, made anew when it is asked for and old."""

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
    return _Json({"error": str(error)}, 503)


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; OSError. Its protocol is named, for asyncio's TCP_NODELAY."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    return listener


def _cursor_text(last: tuple[str, bytes]) -> str:
    folder, path = last
    parts = [folder, base64.b64encode(path).decode()]
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


def _cursor(text: str) -> tuple[str, bytes]:
    """Return what `_cursor_text` wrote; ValueError for anything else."""
    try:
        folder, path = json.loads(base64.urlsafe_b64decode(text))
        return str(folder), base64.b64decode(path)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError("not a cursor of ours") from error
