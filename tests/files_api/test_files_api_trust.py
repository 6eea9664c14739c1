"""Whom the client talks to: base URLs, TLS, proxies, and what the environment has no say in."""

import inspect
import pydoc
import socket
import ssl
import subprocess
import time

import httpx
import pytest
from files_api_server import DETAIL, KEY, UUID, answering, document, http

from syncd import trust
from syncd.exceptions import ConfigError
from syncd.files_api import (
    AsyncFilesClient,
    FilesClient,
    NotSentError,
    TooLargeError,
    UploadSource,
    base_url_for,
    network,
)
from syncd.files_api.environment import from_environment

ANSWER = document(DETAIL)


@pytest.mark.row(32)
def test_a_certificate_that_nobody_vouches_for_is_refused(serve, client_of, tls):
    server = serve(answering(ANSWER), tls=tls)
    with pytest.raises(NotSentError, match="the certificate is not trusted: self-signed") as caught:
        client_of(server).get(UUID)
    assert "_ssl.c" not in str(caught.value)
    assert caught.value.is_lasting, "somebody must mend it"
    assert server.requests == []


def test_a_service_that_speaks_no_tls_is_told_as_such(serve, client_of):
    server = serve(lambda connection: connection.sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    with pytest.raises(NotSentError, match="speaks no TLS: is it http, and not https"):
        client_of(f"https://127.0.0.1:{server.port}").get(UUID)


def test_a_service_that_is_not_there_is_told_with_its_address(client_of):
    with pytest.raises(NotSentError, match=r"not sent: 127\.0\.0\.1:9: Connection refused"):
        client_of("http://127.0.0.1:9").get(UUID)


@pytest.mark.row(32)
def test_a_private_authority_is_accepted_when_given(serve, client_of, tls, certificate, source_of):
    server = serve(answering(ANSWER, document({"file_uuid": UUID})), tls=tls)
    client = client_of(server, ca_file=certificate[0])
    assert client.get(UUID).file_uuid == UUID
    client.upload(source_of(2_000_000), name="a", content_type="text/plain")
    assert server.requests[1].whole
    assert server.connections == 1


@pytest.mark.row(32)
def test_a_certificate_for_another_host_is_refused(serve, client_of, tls, certificate):
    server = serve(answering(ANSWER), tls=tls)
    client = client_of(f"https://localhost:{server.port}", ca_file=certificate[0])
    with pytest.raises(NotSentError, match=r"Hostname mismatch.*; use a name in base_url"):
        client.get(UUID)


@pytest.fixture
def demanding(certificate):
    """A server's TLS that demands a client certificate, our test authority's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate[0])
    return context


@pytest.mark.row(32)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_that_is_demanded_is_asked_for_and_then_shown(
    serve, client_of, demanding, certificate, source_of, tmp_path, version
):
    demanding.maximum_version = version
    server = serve(answering(ANSWER, ANSWER), tls=demanding)
    cert, key = certificate
    with pytest.raises(NotSentError, match=r"refuses our client certificate .*client_cert") as seen:
        client_of(server, ca_file=cert).upload(source_of(b"x"), name="a", content_type="text/plain")
    assert seen.value.is_lasting
    assert server.requests == []
    both = tmp_path / "both.pem"
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    for files in ({"client_cert": cert, "client_key": key}, {"client_cert": both}):
        assert client_of(server, ca_file=cert, **files).get(UUID).file_uuid == UUID


@pytest.mark.row(32)
def test_a_client_certificate_that_is_renewed_is_taken_up(
    serve, client_of, demanding, certificate, tmp_path
):
    cert, key = certificate
    ours, its_key = tmp_path / "ours.pem", tmp_path / "ours.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-subj", "/CN=another", "-keyout", its_key, "-out", ours]
    subprocess.run(command, check=True, capture_output=True)
    server = serve(answering(ANSWER), tls=demanding)
    client = client_of(server, ca_file=cert, client_cert=ours, client_key=its_key)
    with pytest.raises(NotSentError, match="unknown ca"):
        client.get(UUID)
    ours.write_bytes(cert.read_bytes())
    with pytest.raises(NotSentError, match="unknown ca"):
        # Its key is not there yet: the old ones are shown.
        client.get(UUID)
    its_key.write_bytes(key.read_bytes())
    assert client.get(UUID).file_uuid == UUID


def test_a_page_that_wants_a_client_certificate_is_no_word_of_the_service(serve, client_of):
    page = b"<html><title>400 No required SSL certificate was sent</title></html>"
    server = serve(answering(http(400, page)))
    with pytest.raises(NotSentError, match=r"refuses our client certificate .*client_cert") as seen:
        client_of(server).delete(UUID)
    assert seen.value.is_lasting


def test_of_a_gateways_page_the_title_is_told_and_for_413_the_remedy(serve, client_of):
    page = b"<html>\r\n<title>413 Request Entity Too Large</title>" + b"<b>" * 200
    with pytest.raises(TooLargeError) as seen:
        client_of(serve(answering(http(413, page)))).delete(UUID)
    assert seen.value.message == (
        "the service answered: '413 Request Entity Too Large'; raise the limit of the proxy before "
        "it (nginx: client_max_body_size)"
    )


@pytest.mark.parametrize("content", ["", "-----BEGIN CERTIFICATE-----", "with a password"])
def test_a_client_certificate_that_cannot_be_used_is_a_configuration_error(
    client_of, certificate, tmp_path, content
):
    key = tmp_path / "key.pem"
    key.write_text(content)
    if content == "with a password":
        command = ["openssl", "ec", "-aes128", "-passout", "pass:secret", "-in", certificate[1]]
        subprocess.run([*command, "-out", key], check=True, capture_output=True)
    with pytest.raises(ConfigError, match=r"client_cert .* cannot be used: .*without a password"):
        client_of("https://127.0.0.1:1", client_cert=certificate[0], client_key=key).get(UUID)


def test_no_key_of_tls_is_written_where_the_environment_says(
    serve, client_of, tls, certificate, monkeypatch, tmp_path
):
    trust._made.cache_clear()
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    client_of(serve(answering(ANSWER), tls=tls), ca_file=certificate[0]).get(UUID)
    assert not (tmp_path / "keys").exists()


def test_a_look_up_may_take_longer_than_a_connection(serve, client_of, monkeypatch):
    def slowly(*arguments, **more):
        time.sleep(0.6)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]

    server = serve(answering(ANSWER))
    monkeypatch.setattr(network.socket, "getaddrinfo", slowly)
    client = client_of(f"http://files.test:{server.port}", connect_seconds=0.2)
    assert client.get(UUID).file_uuid == UUID
    monkeypatch.setattr(network, "LOOK_UP_SECONDS", 0.1)
    client = client_of(f"http://files.test:{server.port}", connect_seconds=0.1)
    with pytest.raises(NotSentError, match=r"cannot resolve files.test: the name servers do not"):
        client.get(UUID)


@pytest.mark.long
@pytest.mark.row(32)
def test_a_handshake_that_hangs_is_given_up(serve, client_of):
    server = serve(lambda connection: connection.over.wait())
    with pytest.raises(NotSentError):
        client_of(f"https://127.0.0.1:{server.port}", connect_seconds=0.3).get(UUID)


def test_an_authority_file_that_is_none_is_a_configuration_error(client_of, tmp_path):
    (tmp_path / "ca.pem").write_text("none")
    for path in (tmp_path / "ca.pem", tmp_path / "absent.pem"):
        with pytest.raises(ConfigError, match="ca_file"):
            client_of("https://127.0.0.1:1", ca_file=path).get(UUID)


@pytest.mark.row(43)
def test_the_environment_has_no_say(serve, client_of, monkeypatch, tmp_path, tls, certificate):
    trust._made.cache_clear()
    proxy = serve(answering(ANSWER))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv(name.upper(), proxy.url)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server = serve(answering(ANSWER))
    client_of(server).get(UUID)
    assert proxy.connections == 0
    assert "authorization" not in server.requests[0].headers
    with pytest.raises(NotSentError, match="certificate"):
        client_of(serve(answering(ANSWER), tls=tls)).get(UUID)


@pytest.mark.row(43)
def test_a_configured_proxy_is_used(serve, client_of):
    proxy = serve(answering(ANSWER))
    client = client_of(
        "http://files.invalid/prefix", proxy=f"http://me:password@127.0.0.1:{proxy.port}"
    )
    client.get(UUID)
    received = proxy.requests[0]
    assert received.head.startswith(b"GET http://files.invalid/prefix/v2/files/")
    assert received.headers["proxy-authorization"].startswith("Basic ")


@pytest.mark.long
@pytest.mark.row(43)
def test_a_tunnel_does_not_limit_the_time_of_an_upload(
    serve, client_of, tls, certificate, source_of
):
    def behave(connection):
        connection.read_head()
        connection.sock.sendall(http(200).replace(b"content-length: 0\r\n", b""))
        connection.sock = tls.wrap_socket(connection.sock, server_side=True)
        answering(document({"file_uuid": UUID}))(connection)
        connection.sock.close()

    client = client_of("https://files.test", proxy=serve(behave).url, ca_file=certificate[0])
    source = source_of(b"slow", before_last=lambda _digest: time.sleep(0.6))
    client.upload(source, name="a", content_type="text/plain", timeout_seconds=0.4)


@pytest.mark.row(43)
def test_a_proxy_tunnels_tls_and_does_not_see_the_key(serve, client_of, tls, certificate):
    tunnels = []

    def behave(connection):
        connection.read_head()
        tunnels.append(connection.received.head)
        connection.sock.sendall(http(200).replace(b"content-length: 0\r\n", b""))
        connection.sock = tls.wrap_socket(connection.sock, server_side=True)
        answering(ANSWER)(connection)
        connection.sock.close()

    proxy = serve(behave)
    client = client_of("https://files.test", proxy=proxy.url, ca_file=certificate[0])
    assert client.get(UUID).file_uuid == UUID
    assert tunnels[0].startswith(b"CONNECT files.test:443 ")
    assert KEY.encode() not in tunnels[0]


@pytest.mark.row(43)
@pytest.mark.parametrize("base_url", ["http://files.invalid", "https://files.invalid"])
def test_what_a_proxy_refuses_was_not_sent(serve, client_of, base_url, source_of):
    proxy = serve(answering(http(407)))
    client = client_of(base_url, proxy=proxy.url)
    with pytest.raises(NotSentError) as caught:
        client.upload(source_of(b"x"), name="a", content_type="text/plain")
    assert caught.value.is_lasting
    with pytest.raises(NotSentError):
        client.delete(UUID)


@pytest.mark.row(43)
@pytest.mark.parametrize(("status", "is_lasting"), [(401, True), (407, True), (403, False)])
def test_the_word_of_a_proxy_is_told_as_its_own(serve, client_of, status, is_lasting):
    client = client_of("https://files.invalid", proxy=serve(answering(http(status))).url)
    with pytest.raises(
        NotSentError, match=r"the proxy (answers: 403|refuses user and .*\[api\])"
    ) as seen:
        client.get(UUID)
    assert seen.value.is_lasting is is_lasting


@pytest.mark.row(43)
def test_what_a_proxy_drops_before_the_tunnel_stands_was_not_sent(serve, client_of):
    def behave(connection):
        connection.read_head()
        connection.reset()

    client = client_of("https://files.invalid", proxy=serve(behave).url)
    with pytest.raises(NotSentError):
        client.delete(UUID)


@pytest.mark.parametrize("proxy", ["https://p:1", "socks5://p:1", "p:1", "http://", "http://[x"])
def test_a_proxy_that_cannot_be_used_is_a_configuration_error(client_of, proxy):
    with pytest.raises(ConfigError, match="proxy"):
        client_of("http://127.0.0.1", proxy=proxy)


def test_a_path_prefix_is_kept_and_a_trailing_slash_is_not(serve, client_of):
    server = serve(answering(ANSWER))
    client = client_of(server.url + "/pre/fix/")
    client.get(UUID)
    assert server.requests[0].head.startswith(f"GET /pre/fix/v2/files/{UUID} ".encode())
    assert client.base_url == server.url + "/pre/fix"
    assert repr(client) == f"FilesClient('{client.base_url}')"


@pytest.mark.parametrize(
    "base_url",
    ["", "api.aymara.ai", "ftp://x", "http://me:pw@x", "https://x?q=1", "https://x#f", "http://["],
)
def test_a_base_url_that_cannot_be_used_is_a_configuration_error(base_url):
    with pytest.raises(ConfigError) as caught:
        FilesClient(base_url=base_url, api_key=KEY)
    assert "pw" not in str(caught.value)


def test_environments_have_names():
    assert base_url_for("production") == "https://api.aymara.ai"
    assert base_url_for("staging") == "https://staging-api.aymara.ai"
    with pytest.raises(ConfigError, match="production"):
        base_url_for("prod")


@pytest.mark.parametrize(
    ("base_url", "cleartext"),
    [
        ("https://api.aymara.ai", False),
        ("http://localhost:8000", False),
        ("http://127.0.0.9", False),
        ("http://[::1]:80", False),
        ("http://192.168.0.1", True),
        ("http://files.lan", True),
    ],
)
def test_cleartext_is_seen(base_url, cleartext):
    with FilesClient(base_url=base_url, api_key=KEY, allow_cleartext=True) as client:
        assert client.is_cleartext is cleartext
    if cleartext:
        with pytest.raises(ConfigError, match=r"in clear text.*allow_cleartext = true"):
            FilesClient(base_url=base_url, api_key=KEY)


@pytest.mark.parametrize("key", ["a b", "a\nb", "ké", "\u200b", "a\r\nx-evil: 1"])
def test_a_key_that_cannot_be_sent_is_refused_unshown(key):
    for settings in ({"api_key": key}, {"api_key": None, "bearer_token": key}):
        with pytest.raises(ConfigError) as caught:
            FilesClient(base_url="http://127.0.0.1", **settings)
        assert key not in str(caught.value)


def test_the_official_clients_variables_are_honoured(serve):
    server = serve(answering(ANSWER))
    environ = {
        "AYMARA_AI_BASE_URL": server.url,
        "AYMARA_AI_API_KEY": KEY,
        "AYMARA_AI_BEARER_TOKEN": "bearer-1",
        "AYMARA_AI_USE_SANDBOX": "true",
    }
    with FilesClient.from_environment(environ) as client:
        client.get(UUID)
    headers = server.requests[0].headers
    assert headers["x-api-key"] == KEY
    assert headers["authorization"] == "Bearer bearer-1"
    assert headers["x-use-sandbox"] == "True"


@pytest.mark.parametrize("kind", [FilesClient, AsyncFilesClient])
def test_help_for_the_client_shows_nothing_of_the_environment(kind, monkeypatch):
    monkeypatch.setenv("AYMARA_AI_API_KEY", KEY)
    shown = f"{inspect.signature(kind.from_environment)} {pydoc.render_doc(kind)}"
    assert KEY not in shown
    assert "environ" in shown


@pytest.mark.parametrize("kind", [FilesClient, AsyncFilesClient])
@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"SYNCD_API__ENVIRONMENT": "staging"}, "https://staging-api.aymara.ai"),
        ({"SYNCD_API__BASE_URL": "https://a.test"}, "https://a.test"),
        (
            {"SYNCD_API__BASE_URL": "https://a.test", "AYMARA_AI_BASE_URL": "https://b.test"},
            "https://a.test",
        ),
    ],
)
def test_the_client_goes_where_syncd_would_go(kind, environ, url):
    settings = from_environment({"AYMARA_AI_API_KEY": KEY, **environ}, {})
    assert settings["base_url"] == url
    with pytest.raises(ConfigError, match="SYNCD_API__ENVIRONMENT: "):
        kind.from_environment({"AYMARA_AI_API_KEY": KEY, "SYNCD_API__ENVIRONMENT": "stagin"})


def test_a_key_file_and_syncds_other_variables_are_honoured(serve, tmp_path):
    (tmp_path / "key").write_text(f"{KEY}\n")
    (tmp_path / "key").chmod(0o600)
    proxy = serve(answering(ANSWER))
    environ = {
        "SYNCD_API__BASE_URL": "http://files.test",
        "SYNCD_API__ALLOW_CLEARTEXT": "true",
        "SYNCD_API__PROXY": proxy.url,
        "AYMARA_AI_API_KEY_FILE": str(tmp_path / "key"),
    }
    with FilesClient.from_environment(environ) as client:
        client.get(UUID)
    assert proxy.requests[0].headers["x-api-key"] == KEY
    # Arguments win, and what cannot be used is named.
    assert from_environment(environ, {"base_url": "x", "api_key": "y"})["api_key"] == "y"
    for name, text in {"CONNECT_SECONDS": "-1", "STORAGE_HOSTS": "a", "SANDBOX": "maybe"}.items():
        with pytest.raises(ConfigError, match=f"SYNCD_API__{name}: "):
            FilesClient.from_environment(environ | {f"SYNCD_API__{name}": text})


def test_without_a_key_or_with_a_muddled_flag_there_is_no_client():
    with pytest.raises(ConfigError, match="AYMARA_AI_API_KEY"):
        FilesClient.from_environment({})
    with pytest.raises(ConfigError, match="AYMARA_AI_USE_SANDBOX"):
        FilesClient.from_environment({"AYMARA_AI_API_KEY": "k", "AYMARA_AI_USE_SANDBOX": "maybe"})


def test_a_transport_of_ones_own_is_taken(source_of):
    seen = []

    def handle(request):
        seen.append(request.read())
        return httpx.Response(200, json={"file_uuid": UUID})

    client = FilesClient(
        base_url="http://127.0.0.1", api_key=KEY, transport=httpx.MockTransport(handle)
    )
    source = source_of(b"content")
    assert isinstance(source, UploadSource)
    assert client.upload(source, name="a", content_type="text/plain").file_uuid == UUID
    assert b"content" in seen[0]
