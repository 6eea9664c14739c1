"""The emulator's use of S3 without a real store, which `tests/rigs/s3_rig.py` has."""

import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from syncd.emulator import Emulator
from syncd.emulator.sigv4 import SigningKey, presigned

s3 = pytest.importorskip("syncd.emulator.s3")

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "a-secret"}


def test_a_presigned_url_matches_amazons_example():
    credentials = SigningKey(
        "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1"
    )
    now = datetime(2013, 5, 24, tzinfo=UTC).timestamp()
    url = "https://examplebucket.s3.amazonaws.com/test.txt"
    assert presigned(credentials, "GET", url, now=now, seconds=86400).endswith(
        "X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


def test_headers_and_tokens_are_signed_and_the_secret_is_not_shown():
    credentials = SigningKey("key", "a-secret", "eu-west-1", "a token")
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
def test_an_invalid_place_is_refused_with_the_expected_form(url, endpoint, environ, said):
    with pytest.raises(ValueError, match=said):
        s3.s3_place(url, endpoint, environ)


def test_the_aws_variables_define_the_place():
    environ = KEYS | {"AWS_DEFAULT_REGION": "eu-west-1", "AWS_SESSION_TOKEN": "a-token"}
    place = s3.s3_place("s3://bucket/a/b/", None, environ)
    assert (place.name, place.folder) == ("bucket", "a/b/")
    assert place.endpoint == "https://s3.eu-west-1.amazonaws.com"
    assert place.credentials.session_token == "a-token"
    assert s3.s3_place("s3://b", None, KEYS | {"AWS_ENDPOINT_URL": "http://x:1/"}).folder == ""
    assert "a-secret" not in repr(place)


EMPTY = b"<ListBucketResult></ListBucketResult>"


class Answers(BaseHTTPRequestHandler):
    """Answers as a healthy S3 store does, unless `broken` holds another answer."""

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
def test_an_unusable_bucket_is_reported_with_the_remedy(place, answer, said):
    Answers.broken = answer
    with pytest.raises(OSError, match="cannot use s3://bucket at http://127.*: " + said):
        Emulator(**place).start()


def test_a_refusal_by_the_store_is_answered_503_with_the_remedy(place):
    with Emulator(**place) as emulator:
        Answers.broken = (403, error_of("AccessDenied"))
        url = f"{emulator.url}/v2/files/-/uploads"
        answer = httpx.post(url, files={"file": b"x"}, headers={"x-api-key": "ours"})
    assert answer.status_code == 503
    assert "cannot use s3://bucket" in answer.json()["error"]["message"]
    assert "AccessDenied (check AWS_ACCESS_KEY_ID" in answer.json()["error"]["message"]


@pytest.mark.long
def test_an_unreachable_store_is_reported(tmp_path, monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    emulator = Emulator(data=tmp_path, s3="s3://bucket", s3_endpoint="http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"cannot use s3:.*: Connection refused"):
        emulator.start()
