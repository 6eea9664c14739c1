import io
import json
import shutil
import threading
import time
from types import SimpleNamespace
from urllib.request import Request, urlopen

import pytest

from syncd.commands import COMMANDS
from syncd.emulator import Emulator
from syncd.fetching import Fetching
from syncd.files_api import FilesClient
from syncd.state import fetches

KEY = "canary-key-000111"
WORKSPACE = "00000000-0000-4000-8000-00000000000a"
URL = "https://host.example/clip.mp4"


def uuid(number):
    return f"00000000-0000-4000-8000-{number:012d}"


def created(number, status="pending"):
    file = {"file_uuid": uuid(number), "processing_status": status}
    return 200, json.dumps({"files": [file]}).encode()


def told(status, error=None, number=1):
    known = {"file_uuid": uuid(number), "processing_status": status, "error_message": error}
    return 200, json.dumps(known).encode()


def refused(status, code="request.invalid", message="no such thing"):
    return status, json.dumps({"error": {"code": code, "message": message}}).encode()


def page(*items):
    known = {"organization_uuid": uuid(99), "content_type": "video/mp4"}
    return 200, json.dumps(
        {"items": [known | item for item in items], "count": len(items)}
    ).encode()


@pytest.fixture
def alone(tmp_path, monkeypatch, service, new_state):
    """A service, and an environment without any folder or configuration file."""
    shutil.copytree(new_state, tmp_path / "state")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNCD_STATE__DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setattr("syncd.cli.fetch.FIRST_LOOK_SECONDS", 0.0)
    return service


def test_a_uuid_is_printed_for_each_url(alone, syncd, monkeypatch):
    monkeypatch.setenv("SYNCD_API__WORKSPACE_UUID", WORKSPACE)
    alone.answers = [created(1), created(2)]
    code, out, err = syncd("fetch", URL + "?signature=canary", "https://host.example/b.png")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        [uuid(1), "pending", "https://host.example/clip.mp4"],
        [uuid(2), "pending", "https://host.example/b.png"],
    ]
    asked = {"workspace_uuid": WORKSPACE, "files": [{"remote_uri": URL + "?signature=canary"}]}
    assert alone.sent[0] == asked


def test_urls_are_read_from_standard_input(alone, syncd, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{URL}\n\n  {URL}?2  \n{URL}\n"))
    alone.answers = [created(1), created(2)]
    code, out, _ = syncd("fetch", "-", "--json")
    assert code == 0
    assert [json.loads(line)["file_uuid"] for line in out.splitlines()] == [uuid(1), uuid(2)]
    assert [one["files"][0]["remote_uri"] for one in alone.sent] == [URL, URL + "?2"]


#: Texts that are no URL to be fetched, each with a part of the message.
REFUSED = {
    "file:///etc/passwd": "URL 2 must look like https://host/path",
    "ftp://host.example/canary": "must look like",
    "gopher://canary": "must look like",
    "/srv/canary.mp4": "must look like",
    "https://host.example/canary x": "must look like",
    "https://host.example/\x1b[2Jcanary": "must look like",
    "https://host.example/" + "canary" * 2000: "must look like",
    "https://me:canary@host.example/x": "(https://host.example/x) has a user or a password",
    "https://canary@host.example/x": "has a user or a password",
}


@pytest.mark.row(59)
def test_a_url_that_is_none_or_holds_a_password_is_refused_unseen(alone, syncd):
    for url, words in REFUSED.items():
        code, out, err = syncd("fetch", URL, url)
        assert (code, out) == (2, ""), words
        assert words in err.replace("\n  ", " ")
        assert "canary" not in err
    assert alone.keys == []


def test_a_url_is_fetched_once(alone, syncd):
    alone.answers = [created(1)]
    syncd("fetch", URL)
    alone.answers = [told("processing")]
    code, out, err = syncd("fetch", URL)
    assert code == 0
    assert out.split()[:2] == [uuid(1), "processing"]
    assert "asked for at" in err
    assert "not fetched again" in err
    assert len(alone.sent) == 1
    alone.answers = [created(2)]
    assert syncd("fetch", URL, "--again")[1].split()[0] == uuid(2)
    assert len(alone.sent) == 2


@pytest.mark.parametrize("answer", [told("failed", "no video"), refused(404)])
def test_what_failed_or_is_gone_is_fetched_anew(alone, syncd, answer):
    alone.answers = [created(1)]
    syncd("fetch", URL)
    alone.answers = [answer, created(2)]
    assert syncd("fetch", URL)[:2] == (0, f"{uuid(2)}  pending     {URL}\n")


def test_two_calls_at_once_fetch_a_url_that_failed_before_once(store):
    asked = []

    class Client:
        def get_status(self, file_uuid):
            time.sleep(0.1)
            failed = file_uuid == uuid(1)
            return SimpleNamespace(processing_status="failed" if failed else "pending")

        def create(self, files, **_):
            asked.append(files)
            file = SimpleNamespace(file_uuid=uuid(2), processing_status="pending")
            return SimpleNamespace(files=(file,))

    store.write(fetches.begin, URL, None, 1.0)
    store.write(fetches.answered, URL, None, uuid(1), 1.0)
    fetching = Fetching(store=store, client=Client(), workspace=None, clock=time.time)
    calls = [threading.Thread(target=lambda: [*fetching.run([URL], again=False)]) for _ in range(2)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert len(asked) == 1


OTHERS_UNANSWERED = [(500, b"oops"), (200, b"<html>"), (302, b"")]


@pytest.mark.row(33, 37)
@pytest.mark.parametrize(
    "answer",
    [
        (200, b'{"files": [{}]}'),
        *(pytest.param(answer, marks=pytest.mark.long) for answer in OTHERS_UNANSWERED),
    ],
)
def test_a_request_without_an_answer_is_looked_for_and_not_repeated(alone, syncd, answer):
    alone.answers = [answer]
    code, out, err = syncd("fetch", URL)
    assert (code, out) == (1, "")
    assert "may be registered all the same: the same command looks it up first" in err
    alone.answer = page()
    code, out, err = syncd("fetch", URL)
    assert (code, out) == (1, "")
    assert "no file shows its URL" in err
    assert "--again" in err
    times = {"created_at": "2999-01-02T00:00:00Z"}
    alone.answer = page(
        {"file_uuid": uuid(5), "original_file_url": URL + "/other", **times},
        {"file_uuid": uuid(4), "original_file_url": URL, **times},
        {"file_uuid": uuid(3), "original_file_url": URL, "created_at": "2999-01-01T00:00:00Z"},
    )
    code, out, _ = syncd("fetch", URL)
    assert code == 0
    assert out.split()[0] == uuid(3)
    assert len(alone.sent) == 1
    alone.answers = [created(6)]
    assert syncd("fetch", URL, "--again")[0] == 0
    assert len(alone.sent) == 2


def test_what_an_earlier_call_made_is_not_taken_for_the_one_that_got_no_answer(alone, syncd):
    alone.answers = [created(1), (500, b"")]
    syncd("fetch", URL)
    syncd("fetch", URL, "--again")
    alone.answer = page(
        {"file_uuid": uuid(1), "original_file_url": URL, "created_at": "2999-01-01T00:00:00Z"}
    )
    code, out, err = syncd("fetch", URL)
    assert (code, out) == (1, "")
    assert "no file shows its URL" in err


def test_a_refusal_fails_its_url_alone_and_leaves_no_doubt(alone, syncd):
    alone.answers = [refused(422, message="not this host"), created(2)]
    code, out, _ = syncd("fetch", URL, "https://host.example/2", "--json")
    first, second = map(json.loads, out.splitlines())
    assert code == 1
    assert (first["file_uuid"], second["file_uuid"]) == (None, uuid(2))
    assert "not this host" in first["error"]
    alone.answers = [created(3)]
    assert syncd("fetch", URL)[1].split()[0] == uuid(3)


def test_a_refused_key_and_a_wait_that_is_asked_for_end_the_call(alone, syncd):
    alone.answer = refused(401, "auth.invalid_key")
    code, _, err = syncd("fetch", URL, "https://host.example/2")
    assert code == 77
    assert "syncd doctor" in err
    assert len(alone.sent) == 1
    # The uuid of the first one is not lost with the second.
    alone.answers = [created(1), (*refused(429), ("retry-after", "600"))]
    code, out, err = syncd("fetch", URL, "https://host.example/2", "https://host.example/3")
    assert code == 1
    assert out.split()[0] == uuid(1)
    assert "was not asked for" in err
    assert len(alone.sent) == 3
    code, _, err = syncd("fetch", "https://host.example/2")
    assert code == 1
    assert "asked to wait: ask again in" in err
    assert len(alone.sent) == 3


def test_a_503_that_asks_to_wait_ends_the_call_and_is_obeyed(alone, syncd):
    alone.answers = [(503, b"", ("retry-after", "600"))]
    code, _, err = syncd("fetch", URL, "https://host.example/2")
    assert code == 1
    assert "may be registered all the same" in err
    assert "was not asked for" in err
    assert len(alone.sent) == 1
    code, _, err = syncd("fetch", "https://host.example/3")
    assert code == 1
    assert "asked to wait: ask again in" in err
    assert len(alone.sent) == 1


def test_it_waits_for_the_end_of_processing(alone, syncd):
    alone.answers = [created(1), told("pending"), (503, b""), told("processing")]
    alone.answer = told("completed")
    code, out, err = syncd("fetch", URL, "--wait")
    assert (code, err) == (0, "")
    assert out.split() == [uuid(1), "completed", URL]


def test_why_processing_failed_is_told_without_urls(alone, syncd):
    alone.answers = [created(1)]
    alone.answer = told("failed", "404 of https://host.example/clip.mp4?signature=canary")
    code, out, err = syncd("fetch", URL, "--wait")
    assert code == 1
    assert out.split() == [uuid(1), "failed", URL]
    assert "404 of [url]" in err
    assert "canary" not in err


@pytest.mark.row(53)
def test_no_secret_of_a_url_is_shown_or_kept(alone, syncd, tmp_path):
    url = f"{URL}?X-Amz-Signature=canary-signature#canary-signature"
    alone.answers = [(500, url.encode()), page(), created(1)]
    shown = "".join(
        str(syncd("-v", "-v", "fetch", url, *options)) for options in ((), (), ("--again",))
    )
    kept = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())
    assert "canary-signature" not in shown
    assert b"canary-signature" not in kept
    assert b"host.example" not in kept
    assert len(alone.sent) == 2


def test_a_daemon_fetches_with_its_own_key_workspace_and_patience(store, service):
    class Gate:
        rested, failures = 0.0, []

        def seconds_resting(self):
            return self.rested

        def failed(self, error):
            self.failures.append(error.status)

    with FilesClient(base_url=service.url, api_key="the-own-key") as client:
        parts = SimpleNamespace(
            store=store, clients=[None, None, client], gate=Gate(), workspace_uuid=WORKSPACE
        )
        service.answers, service.answer = [created(1)], refused(429)
        *_, result = COMMANDS["fetch"](parts, {"urls": [URL, URL + "2"]})
    assert [file["file_uuid"] for file in result["files"]] == [uuid(1), None]
    assert service.sent[0]["workspace_uuid"] == WORKSPACE
    assert service.keys[0][1] == "the-own-key"
    assert parts.gate.failures == [429]


@pytest.mark.long
def test_a_real_url_is_fetched_and_a_lost_answer_makes_no_second_file(
    alone, syncd, tmp_path, monkeypatch
):
    alone.answer = (200, b"some text")
    with Emulator(data=tmp_path / "emulator", api_key=KEY, private_uris=True) as emulator:
        monkeypatch.setenv("SYNCD_API__BASE_URL", emulator.url)
        rule = {"match": "POST /v2/files", "times": 1, "action": "drop_after"}
        faults = Request(f"{emulator.url}/_emulator/faults", json.dumps([rule]).encode())
        faults.method = "PUT"
        urlopen(faults, timeout=5).close()
        url = f"{alone.url}/words.txt"
        assert syncd("fetch", url)[0] == 1
        code, out, _ = syncd("fetch", url, "--wait")
        assert code == 0
        assert out.split()[1:] == ["completed", url]
        with urlopen(f"{emulator.url}/_emulator/objects", timeout=5) as answer:
            (made,) = map(json.loads, answer)
    assert made["file_uuid"] == out.split()[0]
    assert made["size"] == len(b"some text")
