"""From a drop to the request of an evaluation run, as a notebook does it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.request import Request, urlopen

import pytest

EVAL = "eeeeeeee-0000-4000-8000-000000000000"


@pytest.fixture
def evaluations():
    """A service that takes evaluation runs: its URL, and the requests that it was sent."""
    received = []

    class Service(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.path, json.loads(body)))
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()
        thread.join(10)


def create_run(url, responses):
    """Ask for a run by the official client, or by the same request where it is not installed."""
    try:
        from aymara_ai import AymaraAI
    except ModuleNotFoundError:
        body = json.dumps({"eval_uuid": EVAL, "responses": responses}).encode()
        kind = {"content-type": "application/json"}
        urlopen(Request(f"{url}/v2/eval-runs", body, kind), timeout=10).close()
    else:
        client = AymaraAI(api_key="k", base_url=url, max_retries=0)
        client.evals.runs.create(eval_uuid=EVAL, responses=responses)


@pytest.mark.long
def test_what_is_dropped_becomes_the_responses_of_an_evaluation_run(machine, evaluations, video):
    prompts = [f"aaaaaaaa-0000-4000-8000-00000000000{number}" for number in range(3)]
    png = b"\x89PNG\r\n\x1a\n" + bytes(64)
    contents = {"txt": b"an answer", "png": png, "mp4": video}
    for prompt, (ending, content) in zip(prompts, contents.items(), strict=True):
        machine.write(f"run/{prompt}.{ending}", content)
    listing = ("ls", "drop/run", "--responses", "--prompt-uuid", "stem")
    assert machine.command("wait", "drop/run", "--timeout", "50").returncode == 0
    listed = machine.command(*listing)
    assert (listed.returncode, listed.stderr) == (0, "")
    url, received = evaluations
    create_run(url, json.loads(listed.stdout))
    ((path, body),) = received
    assert (path, body["eval_uuid"]) == ("/v2/eval-runs", EVAL)
    types = {item["prompt_uuid"]: item["content_type"] for item in body["responses"]}
    assert types == dict(zip(prompts, ("text", "image", "video"), strict=True))
    sent = {item["content"]["file_uuid"] for item in body["responses"]}
    assert sent == machine.objects().keys()
    assert all(item["content"]["remote_file_path"] for item in body["responses"])
    # A file that is there and was not noticed yet keeps the list from being made.
    machine.write("run/new.txt", b"one more")
    late = machine.command("ls", "drop/run/new.txt", *listing[2:])
    assert (late.returncode, late.stdout) == (1, "")
    assert "drop/run/new.txt" in late.stderr
