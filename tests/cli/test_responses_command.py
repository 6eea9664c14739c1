"""`ls --responses`, the list that an evaluation run of the official client takes."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from syncd.state.ledger import Offer

PROMPTS = [f"aaaaaaaa-0000-4000-8000-00000000000{number}" for number in range(4)]


def sync(desk, path, number, content_type):
    file = desk.see(path)
    offer = Offer(file.id, file.fingerprint, "a" * 64, content_type, "direct", vacated=())
    desk.arrive(desk.do(desk.ledger.begin, offer, desk.now), number)


@pytest.fixture
def answers(desk):
    """Files whose names are the uuids of prompts."""
    for number, (end, kind) in enumerate(
        (("txt", "text/plain"), ("png", "image/png"), ("mp4", "video/mp4")), start=1
    ):
        sync(desk, f"run/{PROMPTS[number]}.{end}".encode(), number, kind)
    return desk


@pytest.fixture
def prompts_of(syncd):
    """Return the prompts that are found, by the number of the uuid."""

    def found(said, *paths):
        code, out, _ = syncd("ls", "--responses", "--prompt-uuid", said, *paths)
        assert code == 0
        return [
            (int(r["content"]["file_uuid"].rpartition("-")[2]), r["prompt_uuid"])
            for r in json.loads(out)
        ]

    return found


def response(number, kind):
    return {
        "prompt_uuid": PROMPTS[number],
        "content_type": kind,
        "content": {
            "file_uuid": f"00000000-0000-4000-8000-{number:012d}",
            "remote_file_path": "remote",
        },
    }


EXPECTED = [response(1, "text"), response(2, "image"), response(3, "video")]


def test_each_file_is_a_response_with_its_uuid_path_type_and_prompt(answers, syncd):
    code, out, err = syncd("ls", "f/run", "--responses", "--prompt-uuid", "stem")
    assert (code, err, json.loads(out)) == (0, "", EXPECTED)


def test_where_no_file_is_meant_no_list_is_written(desk, syncd):
    desk.sync(b"x")
    code, out, err = syncd("ls", "g", "--responses", "--prompt-uuid", "stem")
    assert (code, out) == (1, "")
    assert "no list was written: there is no such file" in err


def test_a_prompt_is_told_by_directory_expression_or_csv_file(desk, prompts_of):
    for number, name in enumerate(("clip", "b", "sub/clip"), start=1):
        sync(desk, f"{PROMPTS[number]}/{name}.txt".encode(), number, "text/plain")
    every = [(1, PROMPTS[1]), (2, PROMPTS[2])]
    paths = [f"f/{PROMPTS[1]}", f"f/{PROMPTS[2]}"]
    assert prompts_of("parent", *paths) == every
    assert prompts_of(r"(?:x|([0-9a-f-]{36}))/", *paths) == every
    assert prompts_of(r"[0-9a-f-]{36}", *paths) == every
    table = desk.home / "prompts.csv"
    whole = f"{PROMPTS[1]}/clip.txt"
    one, two, three = (number * 8 + PROMPTS[0][8:] for number in "123")
    for text in (
        f"{whole},{one}\nf/{PROMPTS[2]}/b.txt, {two}\n",
        f"clip.txt,{one}\nb.txt,{two}\n{PROMPTS[3]}/sub/clip.txt,{three}\n",
        f'\ufeffPrompt_UUID,note,Path\r\n{one},"a\nb",{whole}\r\n\r\n{two},,b.txt\r\n',
        f"path;prompt_uuid\r\nclip.txt;{one}\r\nb.txt;{two}\r\n",
        f"folder\tpath\tprompt_uuid\nf\t{whole}\t{one}\nf\t{PROMPTS[2]}/b.txt\t{two}\n",
    ):
        table.write_text(text)
        assert prompts_of("prompts.csv", *paths) == [(1, one), (2, two)], text


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("(run)/", "no prompt: 'run' is not a uuid (found by '(run)/')"),
        ("p.csv", "no prompt: 'nonsense' is not a uuid (in p.csv)"),
    ],
)
def test_a_prompt_that_is_no_uuid_is_none(answers, syncd, said, words):
    (answers.home / "p.csv").write_text("file,prompt_uuid\n" + f"{PROMPTS[1]}.txt,nonsense\n")
    code, out, err = syncd("ls", f"f/run/{PROMPTS[1]}.txt", "--responses", "--prompt-uuid", said)
    assert (code, out) == (1, "")
    assert words in err


def test_a_prompt_of_two_files_and_one_without_a_file_are_warned_of(answers, syncd):
    rows = [f"{PROMPTS[1]}.txt,{PROMPTS[0]}", f"{PROMPTS[2]}.png,{PROMPTS[0]}"]
    rows += [f"{PROMPTS[3]}.mp4,{PROMPTS[3]}", f"missing.txt,{PROMPTS[1]}"]
    (answers.home / "p.csv").write_text("\n".join(rows))
    code, out, err = syncd("ls", "--responses", "--prompt-uuid", "p.csv")
    assert (code, len(json.loads(out))) == (0, 3)
    assert err.splitlines() == [
        "syncd: warning: 1 file with the same prompt as another file",
        "syncd: warning: p.csv has prompts for 1 path without a file in the list: missing.txt",
    ]


def test_each_file_that_cannot_be_a_response_is_named_and_nothing_is_written(answers, syncd):
    sync(answers, b"run/notes.txt", 4, "text/plain")
    sync(answers, f"run/{PROMPTS[0]}.bin".encode(), 5, "application/octet-stream")
    answers.see(b"run/queued.txt")
    answers.refuse(b"run/refused.txt", "too large")
    (answers.home / "f/run").mkdir()
    (answers.home / "f/run/unnoticed.txt").touch()
    code, out, err = syncd(
        "ls", "f/run", "f/run/unnoticed.txt", "--responses", "--prompt-uuid", "stem"
    )
    assert (code, out) == (1, "")
    refused = "failed, not synced: too large (status 413, file.too_large, request req-7)"
    assert err.splitlines() == [
        "syncd: f/run/unnoticed.txt: no known file (syncd why tells more)",
        f"syncd: f/run/{PROMPTS[0]}.bin: application/octet-stream is neither text, image nor video",
        "syncd: f/run/notes.txt: no prompt: 'notes' is not a uuid (its name)",
        "syncd: f/run/queued.txt: queued, not synced",
        f"syncd: f/run/refused.txt: {refused}",
        "syncd: no list was written: 4 of 7 files cannot be in it",
    ]


def test_a_changed_file_is_no_response_while_its_previous_content_is_live(answers, syncd):
    answers.see(f"run/{PROMPTS[1]}.txt".encode(), mark=2, age=50.0)
    code, _, err = syncd("ls", "--responses", "--prompt-uuid", "stem")
    assert code == 1
    assert f"f/run/{PROMPTS[1]}.txt: queued, not synced" in err


@pytest.mark.parametrize(
    ("said", "text", "words"),
    [
        ("(", None, "the expression '(' cannot be read: missing )"),
        ("none.csv", None, "cannot read none.csv: No such file or directory"),
        ("p.csv", b"\xff,p\n", "cannot read p.csv as CSV in UTF-8"),
        ("p.csv", b"path,prompt_uuid\na\n", "p.csv, row 2: a path and a prompt_uuid are needed"),
        ("p.csv", b"path,prompt_uuid\na,1\na,2\n", "p.csv, row 3: a second prompt for a"),
        ("p.csv", b"clip,prompt_uuid\na,2\n", "its first row must name the columns path and"),
        ("p.csv", b"id,name\na,2\n", "or be a path and the uuid of its prompt; it is: id, name"),
        ("p.csv", b"", "p.csv names no prompt"),
        ("p.txt", b"a,1\n", "p.txt is a file, and only a file that ends with .csv is read"),
    ],
)
def test_prompts_that_cannot_be_read_are_a_usage_error(
    tmp_path, monkeypatch, syncd, said, text, words
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNCD_STATE__DIRECTORY", str(tmp_path))
    if text is not None:
        (tmp_path / said).write_bytes(text)
    code, out, err = syncd("ls", "--responses", "--prompt-uuid", said)
    assert (code, out) == (2, "")
    assert words in err


def test_the_official_client_sends_the_list_as_it_is(answers, syncd):
    aymara_ai = pytest.importorskip("aymara_ai", reason="the official client is not installed")
    received = []

    class Service(BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers["content-length"])
            received.append((self.path, json.loads(self.rfile.read(length))))
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    _, out, _ = syncd("ls", "f/run", "--responses", "--prompt-uuid", "stem")
    with HTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        client = aymara_ai.AymaraAI(
            api_key="k", base_url=f"http://127.0.0.1:{server.server_port}", max_retries=0
        )
        client.evals.runs.create(eval_uuid=PROMPTS[0], responses=json.loads(out))
        thread.join(10)
    assert received == [("/v2/eval-runs", {"eval_uuid": PROMPTS[0], "responses": EXPECTED})]
