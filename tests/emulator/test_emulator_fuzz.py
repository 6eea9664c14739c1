"""The emulator answers any request, and never with a 5xx."""

import json

import httpx
import pytest
from emulator_wire import KEY, ask
from hypothesis import HealthCheck, given, settings, strategies as st

NOBODY = "00000000-0000-4000-8000-000000000009"
PATHS = [
    "/v2/files", "/v2/files/-/uploads", "/v2/files/{}", "/v2/files/{}/status",
    "/v2/files/{}/frames", "/_storage/{}", "/openapi.json", "/_emulator/objects",
    "/_emulator/requests", "/_emulator/faults", "/_emulator/health",
]  # fmt: skip
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
# Only characters that a URL or a header can carry: invalid HTTP is up to h11 and its own tests.
SEGMENTS = st.one_of(
    st.just(NOBODY),
    st.binary(min_size=1, max_size=20).map(lambda b: "".join(f"%{c:02x}" for c in b)),
)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)
NUMBERS = st.integers() | st.floats()
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FILES = st.fixed_dictionaries(
    {},
    optional={
        # Nothing listens there, so fetching fails at once.
        "remote_uri": st.text(max_size=9).map("http://127.0.0.1:1/{}".format) | JSON,
        "local_file_path": st.text(st.characters(exclude_categories=())) | JSON,
        "content_type": VALUES | JSON,
    },
)
CREATES = st.fixed_dictionaries(
    {"files": st.lists(FILES | JSON, max_size=4) | JSON}, optional={"workspace_uuid": JSON}
)
PARTS = st.tuples(st.sampled_from(["file", "other", "", "\xff"]), VALUES, VALUES, st.binary())


def small(examples):
    return settings(
        # In proportion to the profile.
        max_examples=max(examples, settings.default.max_examples * examples // 100),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def sound(answer):
    """Check that an answer is not a 5xx and has a request id."""
    assert answer.status_code < 500, answer.text
    assert answer.headers["x-request-id"]
    return answer


@pytest.fixture(autouse=True)
def nothing_logged(caplog):
    yield
    assert [record for record in caplog.records if record.name.startswith("syncd")] == []


@pytest.mark.long
@small(50)
@given(
    method=st.sampled_from(METHODS),
    path=st.sampled_from(PATHS),
    segment=SEGMENTS,
    query=st.dictionaries(
        st.sampled_from(["workspace_uuid", "file_type", "limit", "offset", "X-Expires"]), VALUES
    ),
    headers=st.dictionaries(st.sampled_from(["content-type", "range", "authorization"]), VALUES),
    body=st.binary(max_size=50),
)
def test_any_request_is_answered(caller, method, path, segment, query, headers, body):
    headers = {name: value.strip() for name, value in headers.items()}
    sound(caller.request(method, path.format(segment), params=query, headers=headers, content=body))


@pytest.mark.long
@small(40)
@given(document=CREATES | JSON)
def test_any_create_is_answered_and_its_files_are_shown(caller, document):
    answer = sound(caller.post("/v2/files", content=json.dumps(document)))
    if answer.status_code == 200:
        for file in answer.json()["files"]:
            sound(caller.get(f"/v2/files/{file['file_uuid']}")).raise_for_status()


@pytest.mark.long
@small(30)
@given(rules=st.lists(st.fixed_dictionaries({}, optional={
    "match": st.sampled_from(["GET /v2/nothing", "* /x*", "x"]) | JSON,
    "action": st.sampled_from(["drop_after", {"status": 503, "retry_after": 1.5}]) | JSON,
    "times": JSON, "every": JSON, "probability": JSON, "seed": JSON,
}), max_size=3) | JSON)  # fmt: skip
def test_any_rules_are_answered(caller, rules):
    sound(caller.put("/_emulator/faults", content=json.dumps(rules)))
    sound(caller.get("/v2/nothing/at/all"))
    caller.faults()


@pytest.mark.long
@small(40)
@given(parts=st.lists(PARTS, max_size=3), cut=st.integers(0, 200) | st.none())
def test_any_multipart_body_is_answered_and_its_files_have_its_bytes(caller, parts, cut):
    body = b""
    for name, filename, kind, content in parts:
        head = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"'
        body += f"--b\r\n{head}\r\nContent-Type: {kind}\r\n\r\n".encode() + content + b"\r\n"
    headers = {"content-type": "multipart/form-data; boundary=b", "x-api-key": KEY}
    body = (body + b"--b--\r\n")[:cut]
    answer = sound(caller.post("/v2/files/-/uploads", content=body, headers=headers))
    if answer.status_code == 200:
        detail = caller.get(f"/v2/files/{answer.json()['file_uuid']}").json()
        # Content that contains the boundary ends there.
        contents = [content for *_, content in parts if b"--b" not in content]
        assert detail["file_size_bytes"] in map(len, contents) or len(contents) < len(parts)


@pytest.mark.long
@small(30)
@given(
    # The client removes dot segments itself, and would request another path.
    suffix=st.just("")
    | st.text("/.0aZ", max_size=9).filter(lambda text: not {".", ".."} & {*text.split("/")[1:]}),
    query=st.dictionaries(st.sampled_from(["X-Expires", "X-Signature"]), st.text(max_size=15)),
    body=st.binary(max_size=100),
)
def test_any_presigned_request_is_answered(caller, suffix, query, body):
    url = httpx.URL(caller.create({"local_file_path": "a"}).json()["files"][0]["file_url"])
    genuine = not suffix and not query
    url = url.copy_with(path=url.path + suffix, params=dict(url.params) | query)
    put, got = (sound(ask(method, url, content=body)) for method in ("PUT", "GET"))
    assert (put.status_code == 200) == genuine
    assert got.status_code in (403, 404)
