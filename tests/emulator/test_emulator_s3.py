"""The emulator's way to S3, as far as no store is needed: `tests/rigs/s3_rig.py` has a real one."""

import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from syncd.emulator import Emulator
from syncd.emulator.sigv4 import Credentials, presigned

s3 = pytest.importorskip("syncd.emulator.s3")

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "a-secret"}


def test_a_presigned_url_is_the_one_of_amazons_own_example():
    credentials = Credentials(
        "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1"
    )
    now = datetime(2013, 5, 24, tzinfo=UTC).timestamp()
    url = "https://examplebucket.s3.amazonaws.com/test.txt"
    assert presigned(credentials, "GET", url, now=now, seconds=86400).endswith(
        "X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


def test_a_header_and_a_token_are_signed_and_nothing_shows_the_secret():
    credentials = Credentials("key", "a-secret", "eu-west-1", "a token")
    sign = {"now": 0.0, "seconds": 60}
    plain = presigned(credentials, "PUT", "http://s3/b/a key", **sign)
    typed = presigned(
        credentials, "PUT", "http://s3/b/a key", headers={"content-type": "a/b"}, **sign
    )
    assert plain.startswith("http://s3/b/a%20key?X-Amz-Algorithm=")
    assert "X-Amz-Security-Token=a%20token" in plain
    assert "X-Amz-SignedHeaders=content-type%3Bhost" in typed
    assert plain.rpartition("=")[2] != typed.rpartition("=")[2]
    assert "a-secret" not in f"{plain} {credentials!r}"


@pytest.mark.parametrize(
    ("url", "endpoint", "environ", "said"),
    [
        ("bucket", None, KEYS, "must look like s3://bucket"),
        ("https://bucket", None, KEYS, "must look like s3://bucket"),
        ("s3://bucket", "ftp://x", KEYS, "the endpoint 'ftp://x' must look like https://host"),
        ("s3://bucket", None, {}, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_a_place_that_cannot_be_is_refused_with_what_it_should_be(url, endpoint, environ, said):
    with pytest.raises(ValueError, match=said):
        s3.s3_place(url, endpoint, environ)


def test_a_place_is_what_the_aws_variables_say():
    environ = KEYS | {"AWS_DEFAULT_REGION": "eu-west-1", "AWS_SESSION_TOKEN": "a-token"}
    place = s3.s3_place("s3://bucket/a/b/", None, environ)
    assert (place.name, place.folder) == ("bucket", "a/b/")
    assert place.endpoint == "https://s3.eu-west-1.amazonaws.com"
    assert place.credentials.session_token == "a-token"
    assert s3.s3_place("s3://b", None, KEYS | {"AWS_ENDPOINT_URL": "http://x:1/"}).folder == ""
    assert "a-secret" not in repr(place)


EMPTY = b"<ListBucketResult></ListBucketResult>"


class Answers(BaseHTTPRequestHandler):
    """Answers as a store of S3 does that is well until `broken` says how not."""

    broken: tuple[int, bytes] | None = None

    def do_GET(self):
        status, body = self.broken or (200, EMPTY)
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def place(tmp_path, monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Answers, "broken", None)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        yield {"data": tmp_path, "api_key": "ours", "s3": "s3://bucket", "s3_endpoint": endpoint}
        server.shutdown()
        thread.join()


def error_of(code):
    return f"<?xml version='1.0'?>\n<Error><Code>{code}</Code></Error>".encode()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, error_of("NoSuchBucket")), r"NoSuchBucket \(create the bucket"),
        ((403, error_of("SignatureDoesNotMatch")), r"SignatureDoesNotMatch \(check AWS_ACCESS"),
        ((404, b"<html>"), r"404 Not Found \(.* correct --s3-endpoint\)"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_named_with_what_to_do(place, answer, said):
    Answers.broken = answer
    with pytest.raises(OSError, match="cannot use s3://bucket at http://127.*: " + said):
        Emulator(**place).start()


def test_a_request_is_told_that_the_store_refuses(place):
    with Emulator(**place) as emulator:
        Answers.broken = (403, error_of("AccessDenied"))
        url = f"{emulator.url}/v2/files/-/uploads"
        answer = httpx.post(url, files={"file": b"x"}, headers={"x-api-key": "ours"})
    assert answer.status_code == 503
    assert "cannot use s3://bucket" in answer.json()["error"]["message"]
    assert "AccessDenied (check AWS_ACCESS_KEY_ID" in answer.json()["error"]["message"]


@pytest.mark.long
def test_a_store_that_does_not_answer_is_named(tmp_path, monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    emulator = Emulator(data=tmp_path, s3="s3://bucket", s3_endpoint="http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"cannot use s3:.*: Connection refused"):
        emulator.start()
