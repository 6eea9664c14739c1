import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

pytestmark = pytest.mark.long
TOKEN = "T0p-s3cret-token"


@pytest.fixture
def receiver():
    """A server that takes alerts and pings, and keeps them with their time."""
    seen = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            seen.append((self.command, self.path, json.loads(body) if body else None))
            self.send_response(204)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()
        thread.join()


@pytest.mark.timeout(300)
def test_a_real_outage_is_told_once_and_its_end_too(machine, emulator, receiver, tmp_path):
    url, seen = receiver
    told = tmp_path / "alerts"
    machine.settings |= {
        "SYNCD_ALERTS__WEBHOOK": f"{url}/{TOKEN}",
        "SYNCD_ALERTS__PING_URL": f"{url}/ping?{TOKEN}",
        "SYNCD_ALERTS__COMMAND": json.dumps(["sh", "-c", f"cat >> {told}; echo >> {told}"]),
        "SYNCD_ALERTS__AFTER_SECONDS": "3",
    }
    machine.start(60)
    machine.write("before", b"all is well")
    machine.until(lambda: machine.status_of("before") == "synced", 60)
    machine.until(lambda: ("GET", f"/ping?{TOKEN}", None) in seen, 60)
    emulator.stop()
    machine.write("during", b"of the outage")
    alerts = [body for method, _, body in seen if method == "POST"]
    assert alerts == []

    def heard():
        return [(body["well"], body) for method, _, body in seen if method == "POST"]

    machine.until(heard, 90)
    _, alert = heard()[0]
    assert alert["well"] is False
    assert alert["reasons"][0].startswith("the service cannot be reached: ")
    assert alert["commands"]
    assert f"{alert['host']}: {alert['reasons'][0]}" in alert["text"]
    status = machine.command("status")
    assert (status.returncode, status.stdout.count("cannot be reached")) == (1, 1)
    emulator.start()
    machine.until(lambda: len(heard()) > 1, 120)
    assert machine.status_of("during") == "synced"
    assert [well for well, _ in heard()] == [False, True]
    machine.until(lambda: told.exists() and len(told.read_text().splitlines()) == 2, 30)
    began = time.monotonic()
    assert machine.stop() == 0
    assert time.monotonic() - began < 10
    assert TOKEN not in machine.log + status.stdout
