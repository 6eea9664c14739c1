"""No key and no presigned URL in a log, an error or a repr, whatever the server does."""

import json
import logging
import traceback

import pytest
from files_api_server import DETAIL, KEY, OTHER_UUID, UUID, answering, document, envelope, http

from syncd.files_api import FilesApiError, FileUpload, NewFile
from syncd.files_api.redaction import Secrets

SIGNATURE = "canarysignature0123456789abcdef"
BEARER = "canary-bearer-99aa88bb"
PROXY_PASSWORD = "canary-proxy-password"
SIGNED = f"https://storage.example/bucket/o?X-Amz-Expires=1800&X-Amz-Signature={SIGNATURE}%2Fx"
CANARIES = [KEY, BEARER, SIGNATURE, PROXY_PASSWORD]
EVERYTHING = f"{KEY} {BEARER} {SIGNED} {PROXY_PASSWORD} X-Amz-Signature={SIGNATURE}"


def details(text):
    return {"echo": [text, {text: text}], "deep": [[[[[[[[[[[[text]]]]]]]]]]]]}


HOSTILE = [
    http(401, EVERYTHING.encode()),
    http(200, EVERYTHING.encode()),
    http(200, EVERYTHING.replace("/", "\\/").encode()),
    http(200, b"[" + EVERYTHING.encode() * 50),
    http(403, f"<Error><Code>AccessDenied</Code>{EVERYTHING}</Error>".encode()),
    http(302, EVERYTHING.encode(), f"location: {SIGNED}"),
    document({"detail": details(EVERYTHING)}, 422),
    document(
        {
            "error": {"code": KEY, "message": EVERYTHING, "details": details(EVERYTHING)},
            "request_id": EVERYTHING,
        },
        409,
    ),
    document({**DETAIL, "file_uuid": EVERYTHING, "created_at": EVERYTHING}),
    document({**DETAIL, "file_url": SIGNED, "original_file_url": SIGNED, "count": KEY}),
    http(500, b"", f"x-request-id: {KEY}"),
    f"HTTP/1.1 {EVERYTHING}\r\n\r\n".encode(),
    f"{EVERYTHING}\r\n\r\n".encode(),
    f"HTTP/1.1 200 OK\r\n{EVERYTHING}\r\n\r\n".encode(),
    f"HTTP/1.1 200 OK\r\ncontent-length: {EVERYTHING}\r\n\r\n".encode(),
    f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{EVERYTHING}\r\n".encode(),
    f"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n{EVERYTHING}".encode(),
]


@pytest.mark.row(53)
@pytest.mark.parametrize("proxied", [True, False])
@pytest.mark.parametrize("answer", HOSTILE)
def test_no_secret_shows_whatever_the_server_echoes(
    serve, client_of, source_of, caplog, answer, proxied
):
    for name in (None, "httpx", "httpcore", "httpcore.http11", "httpcore.connection"):
        caplog.set_level(logging.DEBUG, logger=name)

    def behave(connection):
        connection.read_request()
        connection.sock.sendall(answer)

    server = serve(behave)
    proxy = f"http://u:{PROXY_PASSWORD}@127.0.0.1:{server.port}" if proxied else None
    client = client_of(server, bearer_token=BEARER, proxy=proxy)
    url = f"{server.url}/o?X-Amz-Signature={SIGNATURE}%2Fx"
    calls = [
        lambda see: client.get(UUID, on_answer=see),
        lambda see: client.list(on_answer=see),
        lambda _see: client.create([NewFile(local_file_path="a"), NewFile(remote_uri=SIGNED)]),
        lambda _see: client.upload(source_of(b"x"), name="a", content_type="text/plain"),
        lambda _see: client.put(url, source_of(b"x"), content_type="text/plain"),
        lambda _see: client.get_frames(UUID),
    ]
    shown = [repr(client), repr(NewFile(remote_uri=SIGNED))]
    for call in calls:
        seen = []
        try:
            shown.append(repr(call(seen.append)))
        except FilesApiError as error:
            shown += [str(error), repr(error), json.dumps(error.details), str(error.code)]
            shown += [str(error.request_id), *map(repr, seen)]
            shown += traceback.format_exception(error)
    shown.append(caplog.text)
    # A proxy's password is a secret only to a client that has it.
    for canary in CANARIES if proxied else CANARIES[:-1]:
        assert canary not in "\n".join(shown)


@pytest.mark.row(53)
def test_the_canaries_do_show_where_nothing_scrubs_them(monkeypatch, serve, client_of):
    """The negative control: with a scrubber that does nothing, the search finds the key."""
    monkeypatch.setattr(Secrets, "scrub", lambda _self, text: text)
    server = serve(answering(envelope(401, "auth.invalid_key", key=KEY)))
    with pytest.raises(FilesApiError) as caught:
        client_of(server).get(UUID)
    assert KEY in repr(caught.value.details)


@pytest.mark.row(53)
def test_what_storage_says_of_a_signature_does_not_show(serve, client_of, source_of):
    body = f"<Error><SignatureProvided>{SIGNATURE}/x</SignatureProvided></Error>".encode()
    server = serve(answering(http(403, body)))
    url = f"{server.url}/o?X-Amz-Signature={SIGNATURE}%2Fx"
    with pytest.raises(FilesApiError) as caught:
        client_of(server).put(url, source_of(b"x"), content_type="text/plain")
    assert SIGNATURE not in str(caught.value)


@pytest.mark.row(53)
def test_the_http_libraries_are_quiet(serve, client_of):
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    client_of(serve(answering(document(DETAIL)))).get(UUID)
    for name in ("httpx", "httpcore", "httpcore.http11"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO)


@pytest.mark.row(53)
def test_no_repr_shows_a_presigned_url(serve, client_of):
    frames = {"file_uuid": UUID, "frame_count": 1, "frame_urls": [SIGNED]}
    detail = {**DETAIL, "file_url": SIGNED, "original_file_url": SIGNED}
    created = {"files": [{"file_uuid": OTHER_UUID, "file_url": SIGNED, "remote_uri": SIGNED}]}
    answers = [document(frames), document(detail), document(created)]
    client = client_of(serve(answering(*answers)))
    shown = [client.get_frames(UUID), client.get(UUID)]
    shown.append(client.create([NewFile(local_file_path="a")]))
    assert shown[0].frame_urls == (SIGNED,)
    assert SIGNATURE not in repr(shown)
    assert SIGNATURE not in repr(FileUpload(file_url=SIGNED))
