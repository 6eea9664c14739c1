"""How a file's bytes leave: exact length, the gate before the last chunk, files that change."""

import hashlib
import os
import resource
import subprocess
import sys
import textwrap

import pytest
from files_api_server import KEY, UUID, answering, document, http

from syncd.exceptions import FileChangedError, UnreadableError
from syncd.files_api import CHUNK_BYTES, NewFile, NotSentError, UploadSource

STORED = document({"file_uuid": UUID})
SIZES = [0, 1, 100, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 900_001]


class GateClosedError(Exception):
    pass


@pytest.fixture(params=["upload", "put"])
def send(request):
    def send(client, server, source):
        if request.param == "put":
            return client.put(f"{server.url}/o?sig=123456", source, content_type="text/plain")
        return client.upload(source, name="a.txt", content_type="text/plain")

    return send


@pytest.mark.row(15)
@pytest.mark.parametrize("size", SIZES)
def test_exactly_the_file_arrives(serve, client_of, source_of, send, size):
    content = os.urandom(size)
    digests, progress = [], []
    server = serve(answering(STORED))
    source = source_of(content, before_last=digests.append, progress=progress.append)
    send(client_of(server), server, source)
    received = server.requests[0]
    assert received.whole
    assert content in received.body
    assert len(received.body) == int(received.headers["content-length"])
    assert digests == [hashlib.sha256(content).hexdigest()]
    assert progress == sorted(progress)
    assert progress[-1] == size


@pytest.mark.row(20)
@pytest.mark.parametrize("size", SIZES)
def test_a_closed_gate_never_lets_a_whole_request_out(serve, client_of, source_of, send, size):
    def close(_digest):
        raise GateClosedError

    server = serve(answering(STORED))
    client = client_of(server)
    with pytest.raises(GateClosedError):
        send(client, server, source_of(os.urandom(size), before_last=close))
    client.close()
    server.__exit__()
    assert not any(received.whole for received in server.requests)
    if size <= CHUNK_BYTES:
        assert not any(received.body for received in server.requests)


@pytest.mark.row(20)
def test_without_a_gate_the_same_file_arrives_whole(serve, client_of, source_of, send):
    """The negative control: what the gate test looks at does see a whole request."""
    server = serve(answering(STORED))
    send(client_of(server), server, source_of(os.urandom(CHUNK_BYTES * 2)))
    assert server.requests[0].whole


@pytest.mark.row(20)
@pytest.mark.parametrize(
    ("size", "change"),
    [(0, 1), (0, CHUNK_BYTES), (10, -1), (10, 1), (10, CHUNK_BYTES)]
    + [(CHUNK_BYTES * n, d) for n in (1, 3) for d in (-1, 1, -CHUNK_BYTES, CHUNK_BYTES)],
)
def test_a_file_of_another_length_is_never_sent_whole(
    serve, client_of, source_of, send, size, change
):
    gates = []
    server = serve(answering(STORED))
    client = client_of(server)
    source = source_of(os.urandom(size + change), size=size, before_last=gates.append)
    with pytest.raises(FileChangedError):
        send(client, server, source)
    client.close()
    server.__exit__()
    assert not any(received.whole for received in server.requests)
    assert gates == []


def test_a_descriptor_that_cannot_be_read_is_named_so(serve, client_of, send):
    server = serve(answering(STORED))
    read, write = os.pipe()
    os.close(write)
    with pytest.raises(UnreadableError):
        send(client_of(server), server, UploadSource(fd=read, size=5))
    os.close(read)


def test_a_client_goes_on_after_a_dropped_transfer(serve, client_of, source_of, send):
    server = serve(answering(STORED))
    client = client_of(server)
    with pytest.raises(FileChangedError):
        send(client, server, source_of(b"12345", size=4))
    send(client, server, source_of(b"12345"))
    assert server.requests[-1].whole


def test_a_small_upload_leaves_in_one_piece(serve, client_of, source_of):
    first = []

    def behave(connection):
        first.append(connection.sock.recv(1 << 20))
        connection.sock.sendall(STORED)
        connection.over.wait()

    client = client_of(serve(behave))
    client.upload(source_of(b"content"), name="a.txt", content_type="text/plain")
    assert first[0].endswith(b"--\r\n")


@pytest.mark.row(41)
def test_a_presigned_put_carries_the_content_type_and_nothing_of_ours(serve, client_of, source_of):
    server = serve(answering(http(200, b"", "set-cookie: a=b")))
    client = client_of(server, bearer_token="canary-bearer", sandbox=True)
    for _ in range(2):
        client.put(f"{server.url}/o?X-Sig=abc%2Fdef", source_of(b"x"), content_type="video/mp4")
    received = server.requests[0]
    assert received.head.startswith(b"PUT /o?X-Sig=abc%2Fdef HTTP/1.1")
    assert set(received.headers) == {"host", "content-type", "content-length"}
    assert received.headers["content-type"] == "video/mp4"
    assert KEY.encode() not in received.head


@pytest.mark.parametrize(
    ("status", "headers", "length"),
    [
        (206, ["content-range: bytes 0-0/1234"], 1234),
        (200, [], 8 << 20),
        (416, ["content-range: bytes */0"], 0),
        (206, ["content-range: bytes 0-0/*"], None),
    ],
)
def test_a_download_url_tells_its_length_and_is_shown_no_key(
    serve, client_of, status, headers, length
):
    body = b"x" * (8 << 20) if status == 200 else b"x"
    server = serve(answering(http(status, body, *headers)))
    assert client_of(server).length(f"{server.url}/o?X-Sig=abc") == length
    received = server.requests[0]
    assert received.head.startswith(b"GET /o?X-Sig=abc HTTP/1.1")
    assert received.headers["range"] == "bytes=0-0"
    assert KEY.encode() not in received.head


@pytest.mark.parametrize(
    "url", ["", "ftp://host/x", "/relative", "http://user:pw@127.0.0.1/x", "http://[bad", "a\nb"]
)
def test_a_presigned_url_that_is_none_is_not_used(client_of, source_of, url):
    with pytest.raises(NotSentError):
        client_of("http://127.0.0.1:1").put(url, source_of(b"x"), content_type="text/plain")


def test_a_presigned_url_may_not_leave_tls(client_of, source_of):
    with pytest.raises(NotSentError) as caught:
        client_of("https://127.0.0.1:1").put(
            "http://storage.example/x?sig=1", source_of(b"x"), content_type="text/plain"
        )
    assert caught.value.code == "local.bad_url"


@pytest.mark.row(62)
@pytest.mark.parametrize("bad", ["text/plain\r\nx-evil: 1", "té/xt", "", " text/plain"])
def test_a_content_type_cannot_split_a_header(client_of, source_of, bad):
    client = client_of("http://127.0.0.1:1")
    with pytest.raises(ValueError):
        client.upload(source_of(b"x"), name="a", content_type=bad)
    with pytest.raises(ValueError):
        client.put("http://127.0.0.1:1/x", source_of(b"x"), content_type=bad)


@pytest.mark.row(11)
def test_a_filename_cannot_split_a_header(serve, client_of, source_of):
    server = serve(answering(STORED))
    name = 'a\r\nX-Evil: 1\r\n\r\n"; filename="b\x00\x1b.txt'
    client_of(server).upload(source_of(b"x"), name=name, content_type="text/plain")
    head = server.requests[0].body.partition(b"\r\n\r\n")[0]
    assert len(head.split(b"\r\n")) == 3
    assert head.count(b'"') == 4


def test_a_new_file_has_a_path_or_a_url_or_both():
    with pytest.raises(ValueError, match="needs a local_file_path or a remote_uri"):
        NewFile()
    both = {"local_file_path": "a", "remote_uri": "https://host/b"}
    assert NewFile(**both).members() == both


@pytest.mark.long
@pytest.mark.row(14)
def test_memory_stays_flat_while_200_mb_are_sent(serve, tmp_path):
    def behave(connection):
        if connection.read_head():
            left = int(connection.received.headers["content-length"]) - len(connection._rest)
            while left > 0 and (data := connection.sock.recv(1 << 20)):
                left -= len(data)
            connection.sock.sendall(document({"file_uuid": UUID}, 200, "connection: close"))

    server = serve(behave)
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 200_000_000)
    script = f"""
        import os, resource
        from syncd.files_api import FilesClient, UploadSource
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        client = FilesClient(base_url={server.url!r}, api_key=None)
        def send(size):
            fd = os.open({str(path)!r}, os.O_RDONLY)
            client.upload(UploadSource(fd=fd, size=size), name="a", content_type="text/plain")
        os.truncate({str(path)!r}, 1_000_000)
        send(1_000_000)
        before = peak()
        os.truncate({str(path)!r}, 200_000_000)
        send(200_000_000)
        print(peak() - before)
    """
    grown = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, check=True, text=True
    )
    assert int(grown.stdout) * resource.getpagesize() // 4096 < 6_000
