import json
import time

import httpx
import pytest
from emulator_wire import FIRST_KIND_OF_TOKEN, TOKEN, ask, dial, multipart_head, read_answer

UPLOAD = "POST /v2/files/-/uploads"


def states(caller):
    return [line["state"] for line in caller.lines("objects")]


def statuses(caller, count):
    return [caller.upload().status_code for _ in range(count)]


def test_a_status_fault_is_answered_and_stores_nothing(caller):
    caller.faults({"match": UPLOAD, "action": {"status": 503, "retry_after": 2}})
    answer = caller.upload()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["error"]["code"] == "server.unavailable"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert states(caller) == []
    assert caller.get("/v2/files").status_code == 200


@pytest.mark.parametrize(("action", "stored"), [("drop_before", []), ("drop_after", ["live"])])
def test_a_dropped_connection_gives_no_answer(caller, action, stored):
    caller.faults({"match": UPLOAD, "action": action})
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        caller.upload()
    assert states(caller) == stored
    (line,) = caller.lines("requests")
    assert line["status"] is None
    with dial(caller.emulator.url) as connection:
        connection.sendall(multipart_head(9) + b"\r\n--b--\r\n")
        assert read_answer(connection) == b""
    caller.faults()
    assert caller.upload().status_code == 200


def test_a_delayed_request_is_served_after_the_delay(caller):
    caller.faults({"match": "GET /v2/files", "action": {"delay": 0.2}})
    began = time.monotonic()
    assert caller.get("/v2/files").status_code == 200
    assert 0.2 <= time.monotonic() - began < 2


def test_a_late_commit_is_answered_504_and_stored_afterwards(caller):
    caller.faults({"match": UPLOAD, "action": {"commit_late": 0.2}})
    answer = caller.upload(f"a.{TOKEN}.txt", b"x" * 300_000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "server.timeout")
    assert states(caller) == []
    deadline = time.monotonic() + 5
    while states(caller) == [] and time.monotonic() < deadline:
        time.sleep(0.02)
    (stored,) = caller.lines("objects")
    assert stored["size"] == 300_000
    assert [line["token"] for line in caller.lines("requests")] == [TOKEN]


@pytest.mark.long
def test_a_late_commit_of_a_delete_deletes_later(caller):
    file_uuid = caller.upload().json()["file_uuid"]
    caller.faults({"match": "DELETE /v2/files/{file_uuid}", "action": {"commit_late": 0.1}})
    assert caller.delete(f"/v2/files/{file_uuid}").status_code == 504
    assert states(caller) == ["live"]
    time.sleep(0.3)
    assert states(caller) == ["deleted"]


def test_garbage_is_a_200_without_json(caller):
    caller.faults({"match": UPLOAD, "action": "garbage"})
    answer = caller.upload()
    assert answer.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        answer.json()
    assert states(caller) == ["live"]


def test_a_truncated_answer_ends_halfway(caller):
    caller.faults({"match": UPLOAD, "action": "truncate"})
    with pytest.raises(httpx.RemoteProtocolError, match="peer closed connection"):
        caller.upload()
    assert states(caller) == ["live"]


def test_storage_answers_faults_with_its_own_xml(caller):
    url = caller.create({"local_file_path": "a"}).json()["files"][0]["file_url"]
    caller.faults({"match": "PUT /_storage/{file_uuid}", "times": 1, "action": {"status": 503}})
    refused = ask("PUT", url, content=b"x")
    assert refused.status_code == 503
    assert "<Code>SlowDown</Code>" in refused.text
    assert ask("PUT", url, content=b"x").status_code == 200


def test_times_hits_the_first_n_requests(caller):
    caller.faults({"match": UPLOAD, "times": 2, "action": {"status": 500}})
    assert statuses(caller, 4) == [500, 500, 200, 200]


def test_every_hits_each_nth_request(caller):
    caller.faults({"match": UPLOAD, "every": 3, "action": {"status": 500}})
    assert statuses(caller, 6) == [200, 200, 500] * 2


def test_a_seed_makes_the_probability_repeatable(caller):
    rule = {"match": UPLOAD, "probability": 0.5, "seed": 7, "action": {"status": 500}}
    caller.faults(rule)
    first = statuses(caller, 20)
    caller.faults(rule)
    assert statuses(caller, 20) == first
    assert set(first) == {200, 500}


def test_the_first_rule_that_strikes_decides(caller):
    caller.faults(
        {"match": "* /v2/files*", "times": 1, "action": {"status": 500}},
        {"match": UPLOAD, "action": {"status": 503}},
    )
    assert statuses(caller, 2) == [500, 503]


@pytest.mark.parametrize(
    ("match", "hit"),
    [
        ("GET /v2/files", False),
        ("GET /v2/files/{file_uuid}", True),
        ("GET /v2/files/*", True),
        ("GET /v2/{any}", False),
        ("* /*", True),
        ("PUT /v2/files/*", False),
    ],
)
def test_a_match_is_a_method_and_a_whole_path_with_wildcards(caller, match, hit):
    caller.faults({"match": match, "action": {"status": 418}})
    answer = caller.get("/v2/files/00000000-0000-4000-8000-000000000000")
    assert (answer.status_code == 418) == hit


def test_an_empty_list_heals(caller):
    caller.faults({"match": "* /*", "action": {"status": 500}})
    assert caller.faults().json() == []
    assert caller.upload().status_code == 200


def test_the_rules_are_shown_with_their_counts(caller):
    rule = {"match": UPLOAD, "every": 2, "action": {"status": 500}}
    caller.faults(rule)
    statuses(caller, 3)
    assert caller.get("/_emulator/faults").json() == [rule | {"matched": 3, "struck": 1}]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({}, "faults: must be a list"),
        (["x"], "faults[0]: must be an object"),
        ([{"match": UPLOAD, "action": "drop_after", "sed": 1}], "unknown member: sed"),
        ([{"match": "/v2/files", "action": "drop_after"}], "faults[0].match: "),
        ([{"action": "drop_after"}], "faults[0].match: "),
        ([{"match": UPLOAD, "times": 1, "every": 2, "action": "garbage"}], "times and every"),
        ([{"match": UPLOAD, "probability": 1.1, "action": "garbage"}], "faults[0].probability: "),
        ([{"match": UPLOAD, "times": 1.5, "action": "garbage"}], "faults[0].times: "),
        ([{"match": UPLOAD, "every": 0, "action": "garbage"}], "faults[0].every: "),
        ([{"match": UPLOAD, "seed": "x", "action": "garbage"}], "faults[0].seed: "),
        ([{"match": UPLOAD}], "faults[0].action: must be one of drop_before"),
        ([{"match": UPLOAD, "action": "explode"}], "faults[0].action: must be one of"),
        ([{"match": UPLOAD, "action": {"status": 200}}], "faults[0].action.status: "),
        ([{"match": UPLOAD, "action": {"delay": -1}}], "faults[0].action.delay: "),
        ([{"match": UPLOAD, "action": {"delay": True}}], "faults[0].action.delay: "),
    ],
)
def test_an_invalid_rule_is_refused_with_a_reason_and_the_old_rules_stay(caller, rules, said):
    caller.faults({"match": "GET /v2/files", "action": {"status": 500}})
    answer = caller.put("/_emulator/faults", json=rules)
    assert answer.status_code == 422
    assert said in answer.json()["error"]["message"]
    assert caller.get("/v2/files").status_code == 500


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000])
def test_rules_that_are_not_json_are_refused(caller, body):
    assert caller.put("/_emulator/faults", content=body).status_code == 422


@pytest.mark.parametrize("seconds", [0, 0.5, 10**9])
def test_a_retry_after_is_sent_as_given(caller, seconds):
    caller.faults({"match": UPLOAD, "action": {"status": 429, "retry_after": seconds}})
    assert caller.upload().headers["retry-after"] == str(seconds)


def test_every_request_is_listed_with_the_token_of_its_name(caller):
    name = f"rel/clip.{TOKEN}.txt"
    file_uuid = caller.upload(name).json()["file_uuid"]
    url = caller.create({"local_file_path": name}).json()["files"][0]["file_url"]
    ask("PUT", url, content=b"12345")
    caller.get(f"/v2/files/{file_uuid}/status")
    caller.delete(f"/v2/files/{file_uuid}")
    caller.upload("plain.txt", f"it speaks of {TOKEN}\r\n\r\n{TOKEN}".encode())
    lines = caller.lines("requests")
    assert [(line["method"], line["status"]) for line in lines] == [
        ("POST", 200), ("POST", 200), ("PUT", 200), ("GET", 200), ("DELETE", 204), ("POST", 200),
    ]  # fmt: skip
    assert [line["token"] for line in lines] == [TOKEN] * 5 + [None]
    assert [line["bytes"] for line in lines][2:5] == [5, 0, 0]
    times = [line["time"] for line in lines]
    assert times == sorted(times)
    names = {"time", "method", "path", "status", "bytes", "token", "request_id"}
    assert {frozenset(line) for line in lines} == {frozenset(names)}


def test_the_token_is_known_even_where_nothing_was_stored(caller):
    caller.faults({"match": "* /*", "action": {"status": 503}})
    caller.upload(f"a.{TOKEN}.txt")
    caller.create({"local_file_path": f"a.{TOKEN}.txt"})
    assert [line["token"] for line in caller.lines("requests")] == [TOKEN] * 2


@pytest.mark.parametrize(
    ("name", "token"),
    [
        (f"clip.{TOKEN}", TOKEN),
        (f"clip.{TOKEN}.m\u00fcll", TOKEN),
        (f"rel/clip.{FIRST_KIND_OF_TOKEN}.txt", FIRST_KIND_OF_TOKEN),
        (f"clip.{TOKEN}.txt.bak", None),
        (f"{TOKEN}/clip.txt", None),
        (f"{TOKEN}.txt", None),
        (f"clip.{TOKEN.upper()}.txt", None),
    ],
)
def test_a_token_counts_only_at_the_end_of_a_name(caller, name, token):
    caller.upload(name)
    caller.create({"local_file_path": name})
    caller.faults({"match": "* /*", "action": {"status": 503}})
    caller.create({"local_file_path": name})
    assert [line["token"] for line in caller.lines("requests")] == [token] * 3


def test_health_needs_no_key_and_is_not_listed(caller):
    del caller.headers["x-api-key"]
    assert caller.get("/_emulator/health").text == "ok\n"
    assert caller.lines("requests") == []
