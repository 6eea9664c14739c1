"""The official client, strict about each answer, against every operation of the emulator.

Skipped where it is not installed: `pip install --no-deps aymara-ai-sdk==1.2.1 distro sniffio`.
"""

import asyncio
import ssl
import subprocess
import threading
from contextlib import contextmanager
from socketserver import StreamRequestHandler, ThreadingTCPServer
from urllib.parse import urlsplit

import httpx
import pytest
from emulator_wire import KEY, ask, dial

official = pytest.importorskip("aymara_ai")
pytestmark = pytest.mark.long


@pytest.fixture
def client(caller):
    caller.headers.clear()
    with official.AymaraAI(
        api_key=KEY,
        base_url=caller.emulator.url,
        max_retries=2,
        _strict_response_validation=True,
    ) as client:
        yield client


def test_the_official_client_parses_every_operation(client, caller, clip):
    stored = client.files.upload(file=("a/b.txt", b"one", "text/plain"))
    assert (stored.processing_status, stored.content_type) == ("completed", "text/plain")
    (reserved,) = client.files.create(files=[{"local_file_path": "a/c.csv"}]).files
    assert reserved.local_file_path == "a/c.csv"
    ask("PUT", reserved.file_url, content=b"1,2").raise_for_status()
    video = client.files.upload(file=("v.mp4", clip, "video/mp4"))
    assert video.processing_status == "pending"
    caller.headers["x-api-key"] = KEY
    caller.processed(video.file_uuid)
    assert client.files.get_status(video.file_uuid).processing_status == "completed"
    frames = client.files.get_frames(video.file_uuid)
    assert frames.frame_count == len(frames.frame_urls) == 24
    assert client.files.get(video.file_uuid).video_metadata["frame_count"] == 24
    page = client.files.list(file_type="text", limit=1, offset=0)
    assert (len(page.items), page.count) == (1, 2)
    client.files.delete(stored.file_uuid)
    with pytest.raises(official.NotFoundError):
        client.files.get(stored.file_uuid)
    raw = client.files.with_raw_response.list()
    assert raw.headers["x-request-id"]
    with client.files.with_streaming_response.get(video.file_uuid) as answer:
        assert answer.parse().file_uuid == video.file_uuid


def test_the_official_async_client_is_served(caller):
    async def use():
        async with official.AsyncAymaraAI(
            api_key=KEY, base_url=caller.emulator.url, _strict_response_validation=True
        ) as client:
            sent = [client.files.upload(file=(f"{n}.txt", b"x")) for n in range(5)]
            made = [stored.file_uuid for stored in await asyncio.gather(*sent)]
            return made, [item.file_uuid async for item in client.files.list()]

    made, listed = asyncio.run(use())
    assert sorted(made) == sorted(listed)


def test_health_needs_no_key(caller, client):
    client.health.check()
    (asked,) = caller.lines("requests")
    assert (asked["path"], asked["status"]) == ("/health/", 200)


def test_the_official_client_does_not_retry_the_frames_of_a_pending_video(run, clip):
    caller = run(processing_seconds=60)
    with official.AymaraAI(api_key=KEY, base_url=caller.emulator.url, max_retries=2) as client:
        video = client.files.upload(file=("v.mp4", clip, "video/mp4"))
        with pytest.raises(official.ConflictError):
            client.files.get_frames(video.file_uuid)
    asked = [line for line in caller.lines("requests") if line["path"].endswith("/frames")]
    assert len(asked) == 1


def test_a_file_may_have_both_a_path_and_a_uri(client, run, caller, tmp_path):
    source = run(data=tmp_path / "source", api_key=None)
    url = source.upload("a.csv", b"1,2\n", "text/csv").json()["file_url"]
    new = {"local_file_path": "b/mine.csv", "remote_uri": url, "content_type": None}
    (created,) = client.files.create(files=[new]).files
    assert (created.local_file_path, created.remote_uri) == ("b/mine.csv", url)
    caller.headers["x-api-key"] = KEY
    caller.processed(created.file_uuid)
    detail = client.files.get(created.file_uuid)
    assert detail.original_file_url == "mine.csv"
    assert ask("GET", detail.file_url).content == b"1,2\n"


def test_paging_by_the_official_client_ends_after_one_page(client):
    """This is a bug of the client, so the README recommends paging by `offset`."""
    for n in range(3):
        client.files.upload(file=(f"{n}.txt", b"x"))
    assert len(list(client.files.list(limit=2))) == 2


@contextmanager
def tls_proxy(url, folder):
    """Terminate TLS for the emulator at `url`; yield the proxy's own URL and its certificate."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-subj", "/CN=t", "-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl on this machine")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    class Handler(StreamRequestHandler):
        def handle(self):
            with dial(url) as behind:
                back = threading.Thread(target=pump, args=(behind, self.request))
                back.start()
                pump(self.request, behind)
                back.join()

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_address[1]}", cert
        finally:
            server.shutdown()
            thread.join()


def pump(source, sink):
    try:
        while piece := source.recv(65_536):
            sink.sendall(piece)
        sink.shutdown(2)
    except OSError:
        pass


def test_behind_a_tls_proxy_every_url_leads_through_the_proxy(run, tmp_path):
    emulator = run()
    with tls_proxy(emulator.emulator.url, tmp_path) as (url, cert):
        emulator.emulator.stop()
        behind = run(public_url=url + "/", port=int(urlsplit(emulator.emulator.url).port))
        trust = ssl.create_default_context(cafile=cert)
        with (
            httpx.Client(verify=trust, trust_env=False) as http,
            official.AymaraAI(
                api_key=KEY, base_url=url, http_client=http, _strict_response_validation=True
            ) as client,
        ):
            (created,) = client.files.create(files=[{"local_file_path": "a.txt"}]).files
            # As the official client's own helper sends a file.
            http.put(created.file_url, content=b"bytes", headers={"Content-Type": "text/plain"})
            detail = client.files.get(created.file_uuid)
            assert all(it.file_url.startswith(f"{url}/") for it in (created, detail))
            with httpx.Client(verify=trust, trust_env=False) as stranger:
                assert stranger.get(detail.file_url).content == b"bytes"
        assert behind.lines("objects")[0]["state"] == "live"
