"""The emulator's way to S3, as far as no store is needed: `tests/rigs/s3_rig.py` has a real one."""

from datetime import UTC, datetime

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


@pytest.mark.long
def test_a_store_that_does_not_answer_is_named(tmp_path, monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    emulator = Emulator(data=tmp_path, s3="s3://bucket", s3_endpoint="http://127.0.0.1:9")
    with pytest.raises(OSError, match="cannot use s3://bucket at http://127"):
        emulator.start()
