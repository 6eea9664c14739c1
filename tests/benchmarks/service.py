"""The sink as the runner sees it: a process, and what it was sent."""

import json
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

from tests.benchmarks.measure import BrokenError, SkippedError
from tests.benchmarks.peers import found

HERE = Path(__file__).parent


class Service:
    """A running sink."""

    def __init__(self, host, scheme, port, control, certificate):
        self.url = f"{scheme}://{host}:{port}"
        self.host, self.port, self.certificate = host, port, certificate
        self._control = f"http://127.0.0.1:{control}"

    def _ask(self, method, path, document=None):
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        request = Request(f"{self._control}{path}", body, method=method)
        with urlopen(request, timeout=600) as answer:
            return answer.read()

    def behave(self, **settings):
        """Change how it behaves: `seconds` an answer takes, `hash_later`, `holds_videos`."""
        self._ask("PUT", "/settings", settings)

    def forget(self):
        """Forget everything that it was sent."""
        self._ask("DELETE", "/")

    def objects(self):
        return [json.loads(line) for line in self._ask("GET", "/objects").splitlines()]

    def counts(self):
        return Counter(json.loads(self._ask("GET", "/counts")))

    def complete(self, uuids):
        """Say of videos that they are processed."""
        self._ask("POST", "/completed", "\n".join(uuids).encode())

    def expect(self, wanted, who, *, going=()):
        """Raise BrokenError unless exactly the contents of `wanted` are there, each once.

        Those that are `going` may be there, too.
        """
        live = Counter(o["sha256"] for o in self.objects() if o["state"] == "live")
        missing, extra = Counter(wanted) - live, live - Counter(wanted) - Counter(going)
        if missing or extra or self.counts()["broken"]:
            raise BrokenError(
                f"{who}: {missing.total()} of {len(wanted)} files lost or changed, {extra.total()} "
                f"objects too many, {self.counts()['broken']} broken bodies"
            )


@contextmanager
def serving(place, *, seconds=0.0, tls=False, host="127.0.0.1"):
    """Run a sink."""
    command = [sys.executable, HERE / "sink.py", str(seconds), "--host", host]
    certificate = make_certificate(place, host) if tls else None
    command += ["--certificate", certificate] if certificate else []
    process = subprocess.Popen(
        list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        port, control = (int(process.stdout.readline()) for _ in range(2))
        yield Service(host, "https" if tls else "http", port, control, certificate)
    finally:
        process.communicate()


def make_certificate(place, host):
    """Return a certificate with its key in the same file; it is its own authority."""
    if not found("openssl"):
        raise SkippedError("openssl is missing")
    path = place / "certificate.pem"
    if not path.exists():
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-days", "2", "-subj", "/CN=sink", "-addext", f"subjectAltName=IP:{host}",
             "-keyout", path, "-out", f"{path}.crt"],
            check=True, capture_output=True,
        )  # fmt: skip
        with path.open("a") as file:
            file.write(Path(f"{path}.crt").read_text())
    return path
