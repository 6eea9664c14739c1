"""Answers of the server, and how each is read. A million by SYNCD_FUZZ_EXAMPLES=1000000."""

import contextlib
import json
import os
from datetime import UTC, datetime

import httpx
import pytest
from files_api_server import (
    DETAIL,
    KEY,
    OTHER_UUID,
    UUID,
    answering,
    document,
    envelope,
    http,
)
from hypothesis import HealthCheck, given, settings, strategies as st

from syncd.files_api import (
    BadAnswerError,
    BadRequestError,
    ConflictError,
    FilesApiError,
    FilesClient,
    ForbiddenError,
    InDoubtError,
    NewFile,
    NotFoundError,
    NotSentError,
    QuotaError,
    RateLimitedError,
    RefusedError,
    ServerError,
    TooLargeError,
    UnauthorizedError,
    UnprocessableError,
    UnsupportedError,
)
from syncd.files_api.answer import retry_after

EXAMPLES = int(os.environ.get("SYNCD_FUZZ_EXAMPLES", "80"))


def client_answering(status, body, headers=None):
    def handle(_request):
        return httpx.Response(status, headers=headers, stream=httpx.ByteStream(body))

    return FilesClient(
        base_url="http://127.0.0.1", api_key=KEY, transport=httpx.MockTransport(handle)
    )


def get(status=200, body=b"", headers=None):
    return client_answering(status, body, headers).get(UUID)


@pytest.mark.row(40)
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequestError),
        (401, UnauthorizedError),
        (402, QuotaError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (407, NotSentError),
        (408, InDoubtError),
        (409, ConflictError),
        (413, TooLargeError),
        (415, UnsupportedError),
        (418, RefusedError),
        (422, UnprocessableError),
        (429, RateLimitedError),
        (500, ServerError),
        (503, ServerError),
        (304, InDoubtError),
    ],
)
def test_each_status_is_a_type_with_the_services_own_words(serve, client_of, status, kind):
    server = serve(answering(envelope(status, "some.code", "retry-after: 7", field=["x"])))
    with pytest.raises(FilesApiError) as caught:
        client_of(server).get(UUID)
    error = caught.value
    assert type(error) is kind
    assert error.status == status
    if status >= 400:
        assert (error.code, error.message) == ("some.code", "what went wrong")
        assert (error.details, error.request_id) == ({"field": ["x"]}, "req-77")
        assert error.retry_after == 7
        assert str(error) == f"get: what went wrong (status {status}, some.code, request req-77)"


def test_a_code_that_speaks_of_a_quota_is_a_quota_error():
    body = json.dumps({"error": {"code": "storage.quota_exceeded", "message": "full"}}).encode()
    with pytest.raises(QuotaError):
        get(403, body)


def test_a_storage_refusal_has_its_code(source_of):
    body = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
    client = client_answering(403, body)
    with pytest.raises(ForbiddenError) as caught:
        client.put("http://127.0.0.1/x?s=1", source_of(b""), content_type="text/plain")
    assert caught.value.code == "storage.AccessDenied"


@pytest.mark.row(36)
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after": "120"}, 120),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        (
            {
                "retry-after": "Wed, 21 Oct 2015 07:28:30 GMT",
                "date": "Wed, 21 Oct 2015 07:28:00 GMT",
            },
            30,
        ),
        ({"retry-after": "Thu, 01 Jan 2026 00:01:00 GMT"}, 60),
        ({"retry-after": "Thu, 99 Foo 2026 00:01:00 GMT"}, None),
        ({"retry-after": "1e300"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "0"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "junk", "retry-after": "3"}, 3),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_its_three_forms(headers, seconds):
    assert retry_after(headers, now=datetime(2026, 1, 1, tzinfo=UTC)) == seconds


@pytest.mark.row(35)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<!doctype html><title>Welcome</title>",
        b"null",
        b"[]",
        b'{"file_uuid": null}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 5_000,
        json.dumps({**DETAIL, "file_uuid": "../../etc/passwd"}).encode(),
        json.dumps({**DETAIL, "file_uuid": OTHER_UUID}).encode(),
        json.dumps({**DETAIL, "file_size_bytes": -1}).encode(),
        json.dumps({**DETAIL, "file_size_bytes": True}).encode(),
        json.dumps({**DETAIL, "file_size_bytes": 1.5}).encode(),
        json.dumps({**DETAIL, "file_size_bytes": 1 << 80}).encode(),
        json.dumps({**DETAIL, "created_at": "yesterday"}).encode(),
        json.dumps({**DETAIL, "created_at": 5}).encode(),
        json.dumps({**DETAIL, "created_at": "0001-01-01T00:00:00+23:00"}).encode(),
        json.dumps({**DETAIL, "content_type": ["text/plain"]}).encode(),
        json.dumps({**DETAIL, "remote_file_path": "\ud800"}).encode(),
        json.dumps({**DETAIL, "video_metadata": "fps"}).encode(),
        json.dumps({**DETAIL, "video_metadata": {"fps": float("nan")}}).encode(),
        json.dumps({**DETAIL, "video_metadata": {"fps": 0}}).replace(": 0}", ": 1e999}").encode(),
        json.dumps(DETAIL).replace("{", '{"file_uuid": "x", ', 1).encode(),
        json.dumps({**DETAIL, "x": 0}).replace("0}", "9" * 5000 + "}").encode(),
    ],
)
def test_a_success_that_is_not_as_described_is_a_typed_error(body):
    with pytest.raises(BadAnswerError) as caught:
        get(200, body, {"x-request-id": "req-9"})
    assert caught.value.request_id == "req-9"
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_unknown_members_are_ignored_and_absent_ones_are_none():
    lean = {name: DETAIL[name] for name in ("file_uuid", "organization_uuid", "created_at")}
    detail = get(200, json.dumps({**lean, "news": {"deep": ["found"]}}).encode())
    assert detail.content_type is None
    assert detail.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_create_answers_as_many_files_as_were_sent():
    client = client_answering(200, json.dumps({"files": [{}]}).encode())
    assert len(client.create([NewFile(local_file_path="a")]).files) == 1
    with pytest.raises(BadAnswerError):
        client.create([NewFile(local_file_path="a"), NewFile(remote_uri="http://x/y")])


def sent_as(digit):
    """A sent name with a token; two digits make two."""
    return f"a.sy2-{digit * 8}-{digit * 12}-{digit * 12}-{digit * 12}-{digit * 20}.txt"


@pytest.mark.parametrize(
    ("named", "is_ours"),
    [
        ({}, True),
        ({"local_file_path": sent_as("1")}, True),
        ({"local_file_path": "a.txt", "remote_file_path": f"files/x/{sent_as('1')}"}, True),
        # A service may keep nothing of the name, or a part of it.
        ({"local_file_path": "a.txt"}, True),
        ({"local_file_path": sent_as("2")}, False),
        ({"remote_file_path": f"files/x/{sent_as('2')}"}, False),
    ],
)
def test_an_answer_that_names_another_upload_is_not_believed(source_of, named, is_ours):
    source = source_of(b"content")
    answer = {"file_uuid": UUID, "file_url": "https://storage/x", **named}

    def direct(body):
        client_answering(200, json.dumps(body).encode()).upload(
            source, name=sent_as("1"), content_type="text/plain"
        )

    def reserved(body):
        client_answering(200, json.dumps({"files": [body]}).encode()).create(
            [NewFile(local_file_path=sent_as("1"))]
        )

    for call in (direct, reserved):
        if is_ours:
            call(answer)
            continue
        with pytest.raises(InDoubtError, match="another file"):
            call(answer)


@pytest.mark.row(35)
@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
def test_an_encoded_answer_is_refused_unread(encoding):
    with pytest.raises(BadAnswerError):
        get(200, b"\x1f\x8b" + b"\0" * 100, {"content-encoding": encoding})
    with pytest.raises(UnauthorizedError):
        get(401, b"\x1f\x8b" + b"\0" * 100, {"content-encoding": encoding})


@pytest.mark.row(35)
def test_an_endless_answer_is_dropped_at_its_bound(serve, client_of):
    sent = []

    def behave(connection):
        connection.read_request()
        connection.sock.sendall(http(200).replace(b"length: 0", b"length: 1000000000"))
        with contextlib.suppress(OSError):
            while not connection.over.is_set():
                sent.append(connection.sock.send(b" " * 65536))

    with pytest.raises(BadAnswerError):
        client_of(serve(behave)).get(UUID)
    assert sum(sent) < 16 << 20


@pytest.mark.parametrize("bad", ["", "../x", UUID + "/", UUID + "\n", UUID[:-1], "x" * 36])
def test_what_is_no_uuid_is_never_put_in_a_url(bad):
    client = client_answering(204, b"")
    for call in (client.get, client.delete, client.get_status, client.get_frames):
        with pytest.raises(ValueError):
            call(bad)
    with pytest.raises(ValueError):
        client.list(workspace_uuid=bad)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([UUID, "../" + UUID, "2026-01-01T00:00:00Z", "pending", "99999-01-01"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*DETAIL, "files", "items", "error", "x"]), inner)
    ),
    max_leaves=12,
)
documents = st.dictionaries(
    st.sampled_from(
        [*DETAIL, "items", "files", "count", "frame_count", "frame_urls", "video_metadata", "error"]
    ),
    json_values,
).flatmap(lambda changes: st.sampled_from([changes, {**DETAIL, **changes}]))
bodies = st.one_of(
    st.binary(max_size=300),
    documents.map(lambda d: json.dumps(d).encode()),
    documents.flatmap(lambda d: st.integers(0, 400).map(lambda cut: json.dumps(d).encode()[:cut])),
)
header_texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)


@pytest.mark.long
@pytest.mark.row(35)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    call=st.sampled_from(
        [
            lambda client: client.get(UUID),
            lambda client: client.get_status(UUID),
            lambda client: client.get_frames(UUID),
            lambda client: client.delete(UUID),
            lambda client: client.list(limit=3),
            lambda client: client.create([NewFile(local_file_path="a")]),
        ]
    ),
    status=st.one_of(st.sampled_from([200, 204, 401, 409, 422, 429, 503]), st.integers(200, 599)),
    body=bodies,
    headers=st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "date", "x-request-id"]), header_texts
    ),
)
def test_no_answer_raises_anything_but_a_files_api_error(call, status, body, headers):
    client = client_answering(status, body, headers)
    with contextlib.suppress(FilesApiError):
        repr(call(client))


@pytest.mark.long
@pytest.mark.row(35)
@settings(max_examples=min(EXAMPLES, 100_000), deadline=None)
@given(answer=st.binary(max_size=120) | st.binary(max_size=80).map(lambda b: http(200)[:17] + b))
def test_no_bytes_on_the_wire_raise_anything_but_a_files_api_error(answer):
    wire_answer[0] = answer
    with contextlib.suppress(FilesApiError):
        wire_client[0].delete(UUID)


wire_answer = [b""]
wire_client = []


@pytest.fixture(autouse=True, scope="module")
def _wire():
    from files_api_server import RawServer

    def behave(connection):
        connection.read_request()
        connection.sock.sendall(wire_answer[0])

    with (
        RawServer(behave) as server,
        FilesClient(base_url=server.url, api_key=KEY, timeout_seconds=2) as client,
    ):
        wire_client.append(client)
        yield
        wire_client.clear()


def test_the_raw_answer_can_be_had(serve, client_of):
    server = serve(answering(document(DETAIL, 200, "x-request-id: req-5")))
    seen = []
    client = client_of(server)
    client.get(UUID, on_answer=seen.append)
    assert (seen[0].status, seen[0].request_id) == (200, "req-5")
    assert json.loads(seen[0].body) == DETAIL


def test_a_call_takes_headers_query_and_body_of_its_own(serve, client_of):
    server = serve(answering(document({"files": [{}]})))
    client_of(server).create(
        [NewFile(local_file_path="a")],
        extra_headers={"X-Trace": "1"},
        extra_query={"debug": "a b"},
        extra_body={"note": "n"},
    )
    received = server.requests[0]
    assert received.head.startswith(b"POST /v2/files?debug=a+b ") or b"debug=a%20b" in received.head
    assert received.headers["x-trace"] == "1"
    assert json.loads(received.body)["note"] == "n"


@pytest.mark.parametrize("name", ["Host", "Content-Length", "transfer-encoding", "a b", "x\r\ny"])
def test_framing_headers_are_not_the_callers(client_of, name):
    with pytest.raises(ValueError):
        client_of("http://127.0.0.1:1").get(UUID, extra_headers={name: "1"})
