"""The network rig's parts: an authority, nginx, proxies, and a site: a daemon on a line of its own.

Each site has a network namespace, joined by a pair of veth to the one that the rig runs in. There
is no netem here, and none is needed: a wrong hardware address is a black hole, tbf a slow line.
"""

import http.server
import json
import os
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from world import Service

from syncd.report import status
from syncd.state import manifest, views

NAME = "files.test"
NOBODY = "02:00:00:00:00:99"


def run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, check=False)
    if done.returncode:
        text = done.stderr.decode(errors="replace")[-500:]
        raise RuntimeError(f"{' '.join(map(str, command))}: {text}")


def wait(condition: Callable[[], object], seconds: float, what: Callable[[], object] | str) -> None:
    over = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > over:
            raise TimeoutError(f"not within {seconds:.0f} s: {what() if callable(what) else what}")
        time.sleep(0.5)


class Authority:
    """A root, an intermediate authority beneath it, and the certificates that this one signs."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        self.place, self.root = place, place / "root.pem"
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        self._key = key
        run("openssl", "req", "-x509", *key, "-days", 20, "-subj", "/CN=test root",
            "-keyout", place / "root.key", "-out", self.root)  # fmt: skip
        self._issue("middle", "root", 20, "basicConstraints=critical,CA:TRUE")

    def _issue(self, name: str, by: str, days: int, extension: str) -> None:
        at, request = self.place / name, self.place / f"{name}.csr"
        run("openssl", "req", *self._key, "-subj", f"/CN={name}", "-addext", extension,
            "-keyout", f"{at}.key", "-out", request)  # fmt: skip
        run("openssl", "x509", "-req", "-in", request, "-CA", self.place / f"{by}.pem",
            "-CAkey", self.place / f"{by}.key", "-days", days, "-copy_extensions", "copy",
            "-out", f"{at}.pem")  # fmt: skip

    def certificate(self, name: str, extension: str, *, days: int = 20, chain: bool = True) -> Path:
        """Return a certificate with what leads to the root, and its key beside it (`.key`)."""
        self._issue(name, "middle", days, extension)
        path = self.place / f"{name}.pem"
        if chain:
            path.write_text(path.read_text() + (self.place / "middle.pem").read_text())
        return path


class Nginx:
    """An nginx with one server, which passes all on to the service."""

    def __init__(self, place: Path, upstream: str, listen: str) -> None:
        place.mkdir()
        self._place, self._upstream, self._listen = place, upstream, listen
        self._process: subprocess.Popen[bytes] | None = None

    def configure(
        self,
        server: str = "",
        *,
        certificate: Path | None = None,
        upstream: str = "",
        location: str = "",
    ) -> None:
        """Serve like this from now on: start, or reload."""
        tls = ""
        if certificate:
            key = certificate.with_suffix(".key")
            tls = f"ssl_certificate {certificate}; ssl_certificate_key {key};"
        proxied = location or (
            f"proxy_pass {upstream or self._upstream}; proxy_set_header Host $http_host; "
            "proxy_http_version 1.1;"
        )
        (self._place / "conf").write_text(
            f"pid {self._place}/pid; error_log {self._place}/error.log; worker_processes 1;\n"
            "events {} http { access_log off; client_max_body_size 0; "
            f"client_body_temp_path {self._place}/body; proxy_temp_path {self._place}/proxy; "
            f"fastcgi_temp_path {self._place}/f; uwsgi_temp_path {self._place}/u; "
            f"scgi_temp_path {self._place}/s; server {{ listen {self._listen}"
            f"{' ssl' if tls else ''}; {tls} {server} location / {{ {proxied} }} }} }}\n"
        )
        if self._process is None or self._process.poll() is not None:
            self.start()
        else:
            self.reload()

    def start(self) -> None:
        command = ["nginx", "-p", str(self._place), "-c", "conf", "-g", "daemon off; user root;"]
        with (self._place / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True
            )
        self._listens()

    def _listens(self) -> None:
        host, port = self._listen.split(":")
        wait(lambda: reaches(host, int(port)), 15, "nginx listens")

    def reload(self) -> None:
        """Take up the configuration: the workers of before end once they are idle."""
        before = self._workers()
        self._signal(signal.SIGHUP)
        wait(lambda: self._workers() - before, 15, "nginx has reloaded")
        time.sleep(0.3)

    def _workers(self) -> set[str]:
        assert self._process
        pid = self._process.pid
        with suppress(OSError):
            return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return set()

    def kill(self) -> None:
        """End master and workers at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(20)

    def _signal(self, number: int) -> None:
        assert self._process
        os.kill(self._process.pid, number)


def reaches(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), 1):
        return True
    return False


@contextmanager
def tinyproxy(place: Path, listen: tuple[str, int], *, login: str = "") -> Iterator[None]:
    """Run a forward proxy, one with a user and a password where `login` is 'USER PASSWORD'."""
    place.mkdir(exist_ok=True)
    lines = [f"Listen {listen[0]}", f"Port {listen[1]}", "MaxClients 100", "Timeout 60"]
    lines += [f'LogFile "{place / "log"}"', *([f"BasicAuth {login}"] if login else [])]
    (place / "conf").write_text("\n".join(lines) + "\n")
    process = subprocess.Popen(["tinyproxy", "-d", "-c", place / "conf"], stdout=subprocess.DEVNULL)
    try:
        wait(lambda: reaches(*listen), 15, "tinyproxy listens")
        yield
    finally:
        process.kill()
        process.wait(20)


@contextmanager
def silent_server() -> Iterator[str]:
    """Serve what takes every request and answers none."""

    class Silent(http.server.BaseHTTPRequestHandler):
        def handle(self) -> None:
            while self.rfile.read1(65536):
                pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Silent) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def name_server(address: str, answer: str) -> Iterator[None]:
    """Serve DNS at `address`: each name has the one IPv4 address `answer`."""

    class Responder(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked, sock = self.request
            end = asked.index(b"\0", 12) + 5
            found = asked[end - 4 : end - 2] == b"\0\x01"
            head = asked[:2] + struct.pack(">HHHHH", 0x8180, 1, int(found), 0, 0)
            record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04" + socket.inet_aton(answer)
            sock.sendto(head + asked[12:end] + (record if found else b""), self.client_address)

    with socketserver.ThreadingUDPServer((address, 53), Responder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


class Site:
    """A daemon in a network namespace of its own, and what stands between it and the service."""

    def __init__(
        self, place: Path, number: int, service: Service, authority: Authority, stack: ExitStack
    ) -> None:
        self.place, self.service, self.authority, self.stack = place, service, authority, stack
        self.drop, self.state = place / "drop", place / "state"
        self.drop.mkdir(parents=True)
        self.number, self.workspace = number, str(uuid.uuid4())
        self.subnet = f"10.213.{number}"
        self.near = f"{self.subnet}.1"
        self._space = f"syncd-{os.getpid()}-{number}"
        self._far, self._near = f"sy{number}b", f"sy{number}a"
        self._join()
        self.hosts, self.resolv = place / "hosts", place / "resolv.conf"
        self.hosts.write_text(f"127.0.0.1 localhost\n{self.near} {NAME}\n")
        self.resolv.write_text(f"nameserver {self.subnet}.53\n")
        self.nginx = Nginx(place / "nginx", service.url, f"{self.near}:8443")
        stack.callback(self.nginx.kill)
        self.env: dict[str, str] = {}
        self.api: dict[str, Any] = {"base_url": f"http://{NAME}:8443", "allow_cleartext": True}
        self.method, self.workers, self.is_late = "auto", 4, False
        self._daemon: subprocess.Popen[bytes] | None = None

    def tls(self) -> None:
        """Have the service called by https: its presigned URLs are not, so all is sent direct."""
        self.api["base_url"] = f"https://{NAME}:8443"
        self.api["ca_file"] = str(self.authority.root)
        self.method = "direct"
        self.env["SSLKEYLOGFILE"] = str(self.place / "keylog")

    def _join(self) -> None:
        space = self._space
        run("ip", "netns", "add", space)
        self.stack.callback(run, "ip", "netns", "del", space)
        run("ip", "link", "add", self._near, "type", "veth", "peer", "name", self._far,
            "netns", space)  # fmt: skip
        run("ip", "addr", "add", f"{self.near}/24", "dev", self._near)
        run("ip", "link", "set", self._near, "up")
        for command in (f"addr add {self.subnet}.2/24 dev {self._far}", f"link set {self._far} up",
                        "link set lo up"):  # fmt: skip
            run("ip", "-n", space, *command.split())

    def link(self, word: str) -> None:
        """Set the line `up` or `down`, on the service's side."""
        run("ip", "link", "set", self._near, word)

    def black_hole(self, address: str, *, on: bool = True) -> None:
        """Have what is sent to `address` vanish."""
        change = ("replace", address, "lladdr", NOBODY) if on else ("del", address)
        run("ip", "-n", self._space, "neigh", *change, "dev", self._far,
            *(("nud", "permanent") if on else ()))  # fmt: skip

    def slow(self, rate: str) -> None:
        """Have the line carry no more than `rate` from the daemon."""
        run("tc", "-n", self._space, "qdisc", "replace", "dev", self._far, "root", "tbf",
            "rate", rate, "burst", "16kb", "latency", "400ms")  # fmt: skip

    def write(self, name: str, size: int | bytes) -> None:
        """Put a file there, whole, by a rename; its content is its own."""
        seed = sha256(f"{self.number} {name}".encode()).digest()
        content = size if isinstance(size, bytes) else (seed * (size // 32 + 1))[:size]
        new = self.place / ".new"
        new.write_bytes(content)
        new.replace(self.drop / name)

    def configure(self, **api: object) -> None:
        """Write the daemon's configuration; one that runs takes it up."""
        self.api |= api
        tables: Mapping[str, Mapping[str, object]] = {
            "api": {**self.api, "workspace_uuid": self.workspace},
            "state": {"directory": str(self.state)},
            "upload": {"method": self.method, "workers": self.workers, "resend_after_seconds": 3},
            "[folders]": {"path": str(self.drop), "settle_seconds": 0.2, "rescan_seconds": 10},
        }
        text = "".join(
            f"[{table}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items())
            for table, values in tables.items()
        )
        (self.place / "syncd.toml").write_text(text)
        if self._daemon is not None:
            os.kill(self._daemon.pid, signal.SIGHUP)

    def start(self) -> None:
        """Start the daemon."""
        self.configure()
        binds = f"mount --bind {self.hosts} /etc/hosts; mount --bind {self.resolv} /etc/resolv.conf"
        command = ["nsenter", f"--net=/run/netns/{self._space}", "unshare", "--mount", "sh", "-c",
                   f'{binds}; exec "$@"', "sh", sys.executable, "-m", "syncd",
                   "-c", str(self.place / "syncd.toml"), "run"]  # fmt: skip
        env = {"PATH": os.environ["PATH"], "HOME": str(self.place), "AYMARA_AI_API_KEY": "ours"}
        with (self.place / "log").open("ab") as log:
            self._daemon = subprocess.Popen(
                command, env=env | self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.stack.callback(self.end)

    def end(self) -> None:
        """Stop the daemon; it must end well."""
        if self._daemon is None:
            return
        daemon, self._daemon = self._daemon, None
        daemon.terminate()
        try:
            code = daemon.wait(30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait(20)
            code = None
        if code != 0:
            raise RuntimeError(f"the daemon ended with {code}: {self.log()}")

    def log(self) -> str:
        path = self.place / "log"
        return path.read_text(errors="replace")[-2500:] if path.exists() else ""

    def status(self) -> dict[str, Any]:
        return status.status(self.state, base_url=self.api["base_url"])

    def reasons(self) -> str:
        """Return what `status` says while something stands still."""
        with suppress(Exception):
            return "; ".join(map(str, self.status()["reasons"]))
        return ""

    def wrong(self) -> list[str]:
        """Compare the folder with the service, one by one: empty where each file is there once."""
        disk = {path.name: sha256(path.read_bytes()).hexdigest() for path in self.drop.iterdir()}
        mine = [o for o in self.service.objects() if o["workspace_uuid"] == self.workspace]
        live = Counter(o["sha256"] for o in mine if o["state"] == "live")
        wanted = Counter(disk.values())
        problems = [f"{name}: {live[d]} live copies" for name, d in disk.items()
                    if live[d] != wanted[d]]  # fmt: skip
        problems += [f"an object of nothing: {d}" for d in live if d not in wanted]
        # A record that comes out of a black hole late is looked for ten minutes after it was sent.
        reserved = [] if self.is_late else [o for o in mine if o["state"] == "reserved"]
        problems += [f"reserved: {o['local_file_path']}" for o in reserved]
        try:
            rows = views.read(self.state, lambda db: list(manifest.entries(db)))
        except Exception as error:
            return [*problems, f"no manifest: {error}"]
        problems += [f"{r['path']} is {r['status']}" for r in rows if r["status"] != "synced"]
        return problems

    def has_sent(self, count: int) -> Callable[[], bool]:
        """Return whether `count` more bytes have come from the daemon than until now."""

        def received() -> int:
            told = subprocess.check_output(["ip", "-s", "-j", "link", "show", self._near])
            return int(json.loads(told)[0]["stats64"]["rx"]["bytes"])

        before = received()
        return lambda: received() - before >= count
