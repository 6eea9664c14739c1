"""To which presigned URLs a file is sent, and to which never."""

import socket

import httpx
import pytest
from files_api_server import KEY, answering, http

from syncd.files_api import NotSentError
from syncd.files_api.storage import StorageRules

PUBLIC = "https://api.example"


@pytest.fixture
def names(monkeypatch):
    """Names that lead to addresses of the test's choice."""
    known, look_up = {}, socket.getaddrinfo

    def resolve(host, port, *args, **kwargs):
        return look_up(known.get(host, host), port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return known


@pytest.fixture
def put(client_of, source_of):
    """Send a file to a presigned URL; return the client's refusal, None where it was sent."""

    def put(url, base=PUBLIC, **settings):
        client = client_of(base, connect_seconds=1, **settings)
        try:
            client.put(url, source_of(b"secret"), content_type="text/plain")
        except NotSentError as error:
            return error
        return None

    return put


@pytest.mark.row(59)
@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:{}/v1/kv", "https://127.0.0.1:{}/", "https://127.1:{}/"),
        *("https://2130706433:{}/", "https://0.0.0.0:{}/", "https://[::1]:{}/", "https://[::]:{}/"),
        *("https://localhost:{}/", "https://a.localhost:{}/", "https://[::ffff:127.0.0.1]:{}/"),
        *("https://169.254.169.254/latest", "https://[fe80::1]/", "https://10.1.2.3/"),
        *(
            "https://192.168.0.1/",
            "https://172.16.0.1/",
            "https://100.64.0.1/",
            "https://[fd00::1]/",
        ),
        *("https://[64:ff9b::7f00:1]/", "https://[2002:7f00:1::]/", "https://224.0.0.1/"),
        *("http://storage.example/", "https://me:pw@storage.example/", "file:///etc/passwd", ""),
    ],
)
def test_nothing_is_sent_to_a_presigned_url_within_our_own_network(serve, put, url):
    server = serve(answering(http(200)))
    refusal = put(url.format(server.port) + "?X-Amz-signature=abc")
    assert "the presigned URL cannot be used: it " in str(refusal)
    assert "signature" not in str(refusal)
    assert server.connections == 0


@pytest.mark.row(59)
@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "10.0.0.1"])
def test_the_address_is_judged_when_connecting_and_not_the_name_alone(serve, put, names, address):
    names["storage.example"] = address
    server = serve(answering(http(200)))
    refusal = put(f"https://storage.example:{server.port}/bucket?signature=1")
    assert "address (storage.example); if that is the service's storage" in str(refusal)
    assert server.connections == 0


def test_a_host_that_is_named_may_be_anywhere_and_speak_http(serve, put, names):
    names["minio.lan"] = "127.0.0.1"
    server = serve(answering(http(200)))
    assert put(f"http://minio.lan:{server.port}/x", storage_hosts=["MinIO.lan"]) is None
    assert server.requests[0].head.startswith(b"PUT /x ")
    assert KEY.encode() not in server.requests[0].head


def test_where_the_service_is_on_this_machine_its_storage_may_be_too(serve, put):
    server = serve(answering(http(200)))
    assert put(f"http://localhost:{server.port}/x", base=server.url) is None


def test_a_service_within_our_network_may_have_its_storage_there(serve, put, names):
    # The client has not spoken to the service yet, as where it downloads alone.
    names |= {"service.lan": "127.0.0.1", "storage.lan": "127.0.0.1"}
    server = serve(answering(http(200)))
    base = f"http://service.lan:{server.port}"
    assert put(f"http://storage.lan:{server.port}/x", base=base) is None
    names["service.lan"] = "192.0.2.1"
    assert put(f"http://storage.lan:{server.port}/x", base=base) is not None


@pytest.mark.parametrize(
    ("base", "url", "allowed"),
    [
        ("https://10.0.0.1", "https://192.168.0.9", True),
        ("https://10.0.0.1", "https://127.0.0.1", False),
        ("https://10.0.0.1", "https://169.254.169.254", False),
        ("https://127.0.0.1", "https://10.0.0.1", True),
        ("https://127.0.0.1", "https://169.254.169.254", False),
        ("https://127.0.0.1", "http://127.0.0.1", False),
        ("https://[::1]", "https://127.0.0.1", True),
        ("https://api.example", "https://8.8.8.8", True),
        ("https://api.example", "https://[64:ff9b::808:808]", True),
    ],
)
def test_an_address_is_allowed_where_the_service_is_at_one_of_its_kind(base, url, allowed):
    problem = StorageRules(httpx.URL(base)).problem(httpx.URL(url))
    assert (problem is None) is allowed


@pytest.mark.row(43)
def test_a_proxy_may_be_within_our_network_and_the_text_is_judged_all_the_same(serve, put):
    proxy = serve(answering(http(502)))
    assert "502" in str(put("https://storage.example/x", proxy=proxy.url))
    assert proxy.connections == 1
    assert "loopback" in str(put("https://127.1/x", proxy=proxy.url))
    assert proxy.connections == 1
