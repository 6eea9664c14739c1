"""The promises of the API's texts, asked of a live service: every kind of emulator, or any other.

SYNCD_CONTRACT_BASE_URL (with AYMARA_AI_API_KEY) points it elsewhere. It then only reads, unless
SYNCD_CONTRACT_WRITE=1 lets it make files, each of which it deletes.
"""

import asyncio
import hashlib
import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib import import_module

import pytest

from syncd.files_api import (
    AsyncFilesClient,
    FilesClient,
    ForbiddenError,
    NewFile,
    NotFoundError,
    RefusedError,
    StopFlag,
    UnauthorizedError,
    UnprocessableError,
    sent_name,
)

BASE_URL = os.environ.get("SYNCD_CONTRACT_BASE_URL")
ABSENT = "00000000-0000-4000-8000-000000000000"
KINDS = {"image", "video", "text", "document"}

may_write = pytest.mark.skipif(
    bool(BASE_URL) and os.environ.get("SYNCD_CONTRACT_WRITE") != "1",
    reason="makes files: set SYNCD_CONTRACT_WRITE=1",
)


def names_of_personalities():
    emulator = pytest.importorskip("syncd.emulator")
    return [None, *(pytest.param(name, marks=pytest.mark.long) for name in emulator.PERSONALITIES)]


@pytest.fixture(scope="module", params=[None] if BASE_URL else names_of_personalities())
def environ(request, tmp_path_factory):
    if BASE_URL:
        yield {"AYMARA_AI_BASE_URL": BASE_URL, **os.environ}
        return
    emulator = import_module("syncd.emulator")
    names = [request.param] if request.param else []
    service = emulator.Emulator(
        data=tmp_path_factory.mktemp("emulator"), api_key="contract-key", personality=names
    )
    yield {
        "AYMARA_AI_BASE_URL": service.start(),
        "AYMARA_AI_API_KEY": "contract-key",
        "ECHO": emulator.personality(*names).echo,
    }
    service.stop()


class Awaited:
    """The asynchronous client, each call of it awaited at once."""

    def __init__(self, environ, **settings):
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._make(environ, settings))

    async def _make(self, environ, settings):
        return AsyncFilesClient.from_environment(environ, **settings)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._runner.run(self._client.close())
        self._runner.close()

    def list_all(self, **query):
        async def collect():
            return [file async for file in self._client.list_all(**query)]

        return self._runner.run(collect())

    def __getattr__(self, name):
        return lambda *args, **more: self._runner.run(getattr(self._client, name)(*args, **more))


@pytest.fixture(scope="module", params=[FilesClient.from_environment, Awaited], ids=["", "async"])
def connect(request):
    return request.param


@pytest.fixture(scope="module")
def client(connect, environ):
    with connect(environ) as client:
        yield client


@pytest.fixture
def make(client, source_of):
    """Upload content; whatever was made is deleted afterwards."""
    made = []

    def make(content, name="contract.txt", content_type="text/plain"):
        stored = client.upload(source_of(content), name=name, content_type=content_type)
        made.append(stored.file_uuid)
        return stored

    make.made = made
    yield make
    for file_uuid in made:
        try:
            client.delete(file_uuid)
        except NotFoundError:
            continue


def echoed(environ, token):
    """Return what may be shown of a token; of an unknown service, it or nothing."""
    return {"none": {None}, "": {token, None}}.get(environ.get("ECHO", ""), {token})


def test_a_page_has_items_and_their_count(client):
    page = client.list(limit=5)
    assert len(page.items) <= 5
    assert page.count >= len(page.items)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_list_can_be_of_one_type(client, kind):
    assert {item.file_type for item in client.list(file_type=kind, limit=20).items} <= {kind}


def test_an_offset_beyond_the_end_is_an_empty_page(client):
    count = client.list(limit=1).count
    assert client.list(limit=5, offset=count + 1000).items == ()


def test_a_recent_look_yields_each_file_once(client):
    now, items = datetime.now(UTC), []
    client.read_listing(items.append, since=lambda: now)
    assert len({item.file_uuid for item in items}) == len(items)


def test_a_file_that_is_not_there_is_not_found(client):
    for read in (client.get, client.get_status, client.get_frames):
        with pytest.raises(NotFoundError) as caught:
            read(ABSENT)
        assert caught.value.request_id
        assert caught.value.code


def test_a_wrong_key_is_unauthorized(connect, environ):
    with (
        connect(environ, api_key="wrong", bearer_token=None) as client,
        pytest.raises(UnauthorizedError) as caught,
    ):
        client.list(limit=1)
    assert caught.value.code == "auth.invalid_key"


def test_a_limit_that_is_no_number_is_refused_as_such(client):
    with pytest.raises((UnprocessableError, RefusedError)):
        client.list(extra_query={"limit": "many"})


@may_write
def test_an_upload_is_stored_and_found_by_its_token(environ, client, make):
    token = f"sy1-{os.urandom(4).hex()}-{os.urandom(14).hex()}"
    content = os.urandom(1000)
    started = datetime.now(UTC) - timedelta(minutes=5)
    stored = make(content, sent_name(b"contract/clip.txt", token))
    assert stored.file_uuid
    assert stored.processing_status in {None, "completed"}
    items = []
    client.read_listing(items.append, since=lambda: started)
    found = [item for item in items if item.file_uuid == stored.file_uuid]
    assert len(found) == 1
    assert found[0].token in echoed(environ, token)
    assert found[0].file_size_bytes in {None, len(content)}


@may_write
@pytest.mark.parametrize("size", [0, 1, 1 << 20])
def test_a_file_of_any_size_is_described_as_sent(client, make, size):
    detail = client.get(make(os.urandom(size)).file_uuid)
    assert detail.file_size_bytes in {None, size}
    assert detail.content_type == "text/plain"
    assert detail.created_at <= datetime.now(UTC) + timedelta(minutes=5)
    assert client.get_status(detail.file_uuid).processing_status == "completed"


@may_write
def test_a_created_file_takes_its_bytes_at_the_presigned_url(client, make, source_of):
    created = client.create([NewFile(local_file_path="contract/b.txt", content_type="text/plain")])
    (file,) = created.files
    make.made.append(file.file_uuid)
    content = os.urandom(300_000)
    digests = []
    source = source_of(content, before_last=digests.append)
    for _ in range(2):
        client.put(file.file_url, source, content_type="text/plain")
    assert digests == [hashlib.sha256(content).hexdigest()] * 2
    assert client.get(file.file_uuid).file_size_bytes in {None, len(content)}


@may_write
def test_files_are_created_in_the_order_sent(client, make):
    names = [f"contract/{number}.txt" for number in range(5)]
    created = client.create([NewFile(local_file_path=name) for name in names])
    make.made += [file.file_uuid for file in created.files]
    echoed = [file.local_file_path for file in created.files]
    # A service may keep the last segment of a path only, or not echo it.
    last = [echo and echo.rpartition("/")[2] for echo in echoed]
    assert last in ([f"{number}.txt" for number in range(5)], [None] * 5)


@may_write
def test_a_tampered_presigned_url_is_refused(client, make, source_of):
    (file,) = client.create([NewFile(local_file_path="c.txt", content_type="text/plain")]).files
    make.made.append(file.file_uuid)
    last = "0" if file.file_url[-1] != "0" else "1"
    with pytest.raises((ForbiddenError, RefusedError)):
        client.put(file.file_url[:-1] + last, source_of(b"x"), content_type="text/plain")


@may_write
def test_a_deleted_file_is_gone(client, make):
    stored = make(b"content")
    client.delete(stored.file_uuid)
    for call in (client.get, client.get_status):
        with pytest.raises(NotFoundError):
            call(stored.file_uuid)
    # A second DELETE may be answered like the first.
    with suppress(NotFoundError):
        client.delete(stored.file_uuid)


@may_write
def test_a_file_that_is_no_video_has_no_frames(client, make):
    with pytest.raises(RefusedError):
        client.get_frames(make(b"content").file_uuid)


@may_write
@pytest.mark.parametrize(
    "path", [b"a b.txt", "Übung 猫.txt".encode(), b'q"q\\\r\n\x1b\xe9.txt', b"x" * 251 + b".txt"]
)
def test_any_name_is_taken(environ, client, make, path):
    token = f"sy1-{os.urandom(4).hex()}-{os.urandom(14).hex()}"
    detail = client.get(make(b"content", sent_name(path, token)).file_uuid)
    assert detail.token in echoed(environ, token)


@may_write
def test_a_transfer_that_is_stopped_leaves_nothing(connect, environ, client, source_of):
    token = f"sy1-{os.urandom(4).hex()}-{os.urandom(14).hex()}"
    stop = StopFlag()
    source = source_of(4 << 20, before_last=lambda _digest: stop.set())
    started = datetime.now(UTC) - timedelta(minutes=5)
    with (
        connect(environ, stop=stop) as stopped,
        pytest.raises(Exception, match="stopped"),
    ):
        stopped.upload(source, name=sent_name(b"s.bin", token), content_type="text/plain")
    items = []
    client.read_listing(items.append, since=lambda: started)
    assert token not in {item.token for item in items}


@may_write
def test_all_pages_together_are_the_list(client, make):
    # More than the smallest page that a service is content with.
    made = {make(b"content").file_uuid for _ in range(23)}
    assert made <= {item.file_uuid for item in client.list_all(limit=3)}
    items = []
    listing = client.read_listing(items.append)
    if not BASE_URL:
        assert listing.complete
    assert made <= {item.file_uuid for item in items}
