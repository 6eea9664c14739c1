#!/usr/bin/env python3
"""Puts TLS, proxies and lines that fail between a daemon and its service, as they are in the field.

Each trial has a daemon in a network namespace of its own, and an nginx with certificates of a
private authority, or a tinyproxy, before the emulator. While something is wrong, `status` names its
cause and what to do; when it is mended, each file is at the service exactly once. As root; needs
nginx, tinyproxy, iproute2 and openssl.

    python tests/rigs/network_rig.py              each trial once, about three minutes
    python tests/rigs/network_rig.py --long       with the time limits of production, and more files
    python tests/rigs/network_rig.py WORD...      the trials whose names hold a word
"""

# row: 28, 29, 30, 31, 32, 43

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from network_world import NAME, Authority, Site, name_server, silent_server, tinyproxy, wait
from world import Report, Service

TOOLS = ("nginx", "tinyproxy", "iproute2", "openssl")
LANES = 14
#: Seconds within which `status` tells, and within which all is there after it healed.
LONG = "--long" in sys.argv
TOLD, HEALED = (600.0, 400.0) if LONG else (100.0, 100.0)
#: The same with a planted bug: no trial takes as long by itself.
PLANTED = 45.0

#: Yields what `status` must say while it lasts; ends it when it is resumed.
Course = Iterator[str]


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial: a course of events at a site."""

    name: str
    course: Callable[[Site], Course]


TRIALS: list[Trial] = []


def trial(name: str) -> Callable[[Callable[[Site], Course]], Callable[[Site], Course]]:
    """Have a function be a trial."""

    def known(course: Callable[[Site], Course]) -> Callable[[Site], Course]:
        TRIALS.append(Trial(name, course))
        return course

    return known


def drop(site: Site) -> None:
    """Drop files that are small, empty, equal and not small."""
    for n in range(40 if LONG else 6):
        site.write(f"small-{n}.txt", 30)
    site.write("empty.txt", b"")
    for n in range(2):
        site.write(f"equal-{n}.txt", b"the same")
    site.write("middle.bin", 300_000)


def begin(site: Site) -> None:
    drop(site)
    site.start()


# TLS


def certified(name: str, told: str, extension: str, **more: object) -> None:
    """Add a trial with a certificate that is not to be trusted, and with a good one at last."""

    @trial(f"TLS: {name}")
    def course(site: Site) -> Course:
        site.tls()
        bad = site.authority.certificate(f"bad-{site.number}", extension, **more)
        site.nginx.configure(certificate=bad)
        begin(site)
        yield told
        site.nginx.configure(certificate=good(site))


def good(site: Site) -> Path:
    return site.authority.certificate(f"good-{site.number}", f"subjectAltName=DNS:{NAME}")


@trial("TLS: a certificate of a private authority")
def _valid(site: Site) -> Course:
    site.tls()
    site.nginx.configure(certificate=good(site))
    begin(site)
    yield ""


certified("an expired certificate", "certificate has expired; have the service renew it",
          f"subjectAltName=DNS:{NAME}", days=-1)  # fmt: skip
certified("a certificate of another name", "Hostname mismatch.*; use a name in base_url",
          "subjectAltName=DNS:other.test")  # fmt: skip
certified("a missing intermediate", "local issuer.*; name its authority in .*ca_file, or have",
          f"subjectAltName=DNS:{NAME}", chain=False)  # fmt: skip


@trial("TLS: an authority that nobody knows, until ca_file names it")
def _unknown(site: Site) -> Course:
    site.tls()
    authority = site.api.pop("ca_file")
    site.nginx.configure(certificate=good(site))
    begin(site)
    yield "the certificate is not trusted: .*; name its authority in .*ca_file"
    site.configure(ca_file=authority)


@trial("TLS: a missing intermediate, until ca_file names it")
def _intermediate(site: Site) -> Course:
    site.tls()
    certificate = site.authority.certificate(
        f"bare-{site.number}", f"subjectAltName=DNS:{NAME}", chain=False
    )
    site.nginx.configure(certificate=certificate)
    begin(site)
    yield "unable to get local issuer certificate; name its authority in .*ca_file"
    site.configure(ca_file=str(site.authority.place / "middle.pem"))


@trial("TLS: a client certificate is demanded")
def _demanded(site: Site) -> Course:
    site.tls()
    server = (
        f"ssl_verify_client on; ssl_verify_depth 2; ssl_client_certificate {site.authority.root};"
    )
    site.nginx.configure(server, certificate=good(site))
    begin(site)
    yield "client_cert"
    ours = site.authority.certificate(f"client-{site.number}", "extendedKeyUsage=clientAuth")
    key = ours.with_suffix(".key")
    key.chmod(0o600)
    site.configure(client_cert=str(ours), client_key=str(key))


@trial("TLS: a client certificate that has expired is renewed in place")
def _renewed(site: Site) -> Course:
    site.tls()
    server = (
        f"ssl_verify_client on; ssl_verify_depth 2; ssl_client_certificate {site.authority.root};"
    )
    site.nginx.configure(server, certificate=good(site))
    name, purpose = f"renewed-{site.number}", "extendedKeyUsage=clientAuth"
    ours = site.authority.certificate(name, purpose, days=-1)
    key = ours.with_suffix(".key")
    key.chmod(0o600)
    site.api |= {"client_cert": str(ours), "client_key": str(key)}
    begin(site)
    yield "client_cert"
    site.authority.certificate(name, purpose)


@trial("TLS: plain HTTP where TLS should be")
def _plain(site: Site) -> Course:
    site.tls()
    site.nginx.configure()
    begin(site)
    yield "speaks no TLS"
    site.nginx.configure(certificate=good(site))


# Forward proxies


def proxied(site: Site, login: str = "", *, tls: bool = False) -> Path:
    """Have the service be called through a proxy; return the proxy's place."""
    if tls:
        site.tls()
    site.nginx.configure(certificate=good(site) if tls else None)
    site.api["proxy"] = f"http://{login + '@' if login else ''}{site.near}:3128"
    # The daemon itself need not know the name: only the proxy has to.
    site.hosts.write_text("127.0.0.1 localhost\n")
    site.api["base_url"] = site.api["base_url"].replace(NAME, site.near)
    return site.place / "proxy"


def through(name: str, login: str, demanded: str, told: str, *, tls: bool) -> None:
    """Add a trial with a proxy that wants a login, or none."""

    @trial(f"proxy: {name}, {'TLS in a tunnel' if tls else 'plain HTTP'}")
    def course(site: Site) -> Course:
        place, at = proxied(site, login, tls=tls), (site.near, 3128)
        if tls:
            certificate = site.authority.certificate(
                f"near-{site.number}", f"subjectAltName=IP:{site.near}"
            )
            site.nginx.configure(certificate=certificate)
        with tinyproxy(place, at, login=demanded):
            begin(site)
            yield told
            if told:
                site.configure(proxy=f"http://{demanded.replace(' ', ':')}@{site.near}:3128")
            yield "healed"


for _tls in (False, True):
    through("no login", "", "", "", tls=_tls)
    through("a login", "me:secret", "me secret", "", tls=_tls)
    through("no login where one is demanded", "", "me secret",
            "proxy refuses user and password; set them in .*proxy", tls=_tls)  # fmt: skip
# In the clear, tinyproxy answers 401 for the service: nothing tells whose word it is.
through("a wrong login", "me:wrong", "me secret", "proxy.*user and password", tls=True)


@trial("proxy: it is down, and comes up")
def _proxy_down(site: Site) -> Course:
    place = proxied(site)
    begin(site)
    yield f"{re.escape(site.near)}:3128: Connection refused"
    with tinyproxy(place, (site.near, 3128)):
        yield "healed"


@trial("proxy: it cannot reach the service")
def _proxy_blind(site: Site) -> Course:
    place = proxied(site)
    site.nginx.kill()
    with tinyproxy(place, (site.near, 3128)):
        begin(site)
        yield "unreachable|cannot|could not|50[0234]"
        site.nginx.start()
        yield "healed"


# Ways in which nginx treats connections and requests


@trial("nginx: each connection closed after one request")
def _closed(site: Site) -> Course:
    site.nginx.configure("keepalive_timeout 0;")
    begin(site)
    yield ""


@trial("nginx: each connection closed after three requests")
def _closed_after(site: Site) -> Course:
    site.nginx.configure("keepalive_requests 3;")
    begin(site)
    yield ""


@trial("nginx: 413 for what is larger than its limit")
def _too_large(site: Site) -> Course:
    site.nginx.configure("client_max_body_size 100k;")
    begin(site)
    yield "413"
    site.nginx.configure()


@trial("nginx: 502, its upstream is down")
def _bad_gateway(site: Site) -> Course:
    site.nginx.configure(upstream="http://127.0.0.1:9")
    begin(site)
    yield "502"
    site.nginx.configure()


@trial("nginx: 504, its upstream is silent")
def _timed_out(site: Site) -> Course:
    with silent_server() as silent:
        site.nginx.configure("proxy_read_timeout 1s;", upstream=silent)
        begin(site)
        yield "504"
        site.nginx.configure()


@trial("nginx: 504, and what was sent is stored all the same")
def _stored_all_the_same(site: Site) -> Course:
    service = site.stack.enter_context(Service(site.place / "service"))
    # A record that a create makes late is looked for in ten minutes: too late for this rig.
    site.service, site.method = service, "direct"
    service.faults({"match": "POST /*", "times": 5, "action": {"commit_late": 2.0}})
    site.nginx.configure(upstream=service.url)
    begin(site)
    # It is over before anything is overdue: what counts is that each is there once.
    yield ""


def in_the_middle(name: str, told: str, harm: Callable[[Site], None],
                  mend: Callable[[Site], None], server: str = "") -> None:  # fmt: skip
    """Add a trial in which something happens in the middle of a large upload, on a slow line."""

    @trial(f"in mid-upload: {name}")
    def course(site: Site) -> Course:
        site.nginx.configure(server)
        site.api["timeout_seconds"] = 60 if LONG else 8
        site.is_late = name in ("the link goes down", "a black hole")
        site.write("large.bin", 2_000_000)
        site.slow("4mbit")
        begin(site)
        wait(site.has_sent(900_000), 60, "it is sent in part")
        harm(site)
        yield told
        mend(site)


def nothing(_site: Site) -> None:
    """Have it heal by itself."""


in_the_middle("nginx reloads", "", lambda site: site.nginx.reload(), nothing)
in_the_middle("nginx reloads, and buffers nothing", "", lambda site: site.nginx.reload(), nothing,
              "proxy_request_buffering off;")  # fmt: skip
in_the_middle("nginx is killed", "Connection refused", lambda site: site.nginx.kill(),
              lambda site: site.nginx.start())  # fmt: skip
in_the_middle("nginx is killed, and buffers nothing", "Connection refused",
              lambda site: site.nginx.kill(), lambda site: site.nginx.start(),
              "proxy_request_buffering off;")  # fmt: skip
in_the_middle("the link goes down", "timed out|No route|unreachable|resolve",
              lambda site: site.link("down"), lambda site: site.link("up"))  # fmt: skip
in_the_middle("a black hole", "timed out|took too long|no whole answer",
              lambda site: site.black_hole(site.near),
              lambda site: site.black_hole(site.near, on=False))  # fmt: skip
in_the_middle("connections are reset", "reset|closed|disconnected|no whole answer|without",
              lambda site: site.nginx.configure("lingering_close off;", location="return 444;"),
              lambda site: site.nginx.configure())  # fmt: skip


# Lines and names


@trial("line: 400 kbit a second")
def _slow(site: Site) -> Course:
    site.nginx.configure()
    site.slow("400kbit")
    begin(site)
    yield ""


@trial("names: two dead addresses before one that lives")
def _dead_addresses(site: Site) -> Course:
    for last in (7, 8):
        site.black_hole(f"{site.subnet}.{last}")
    dead = "".join(f"{site.subnet}.{last} {NAME}\n" for last in (7, 8))
    site.hosts.write_text(f"127.0.0.1 localhost\n{dead}{site.near} {NAME}\n")
    site.nginx.configure()
    begin(site)
    yield ""


@trial("names: two dead name servers, and a third that lives")
def _dead_name_servers(site: Site) -> Course:
    dead = "".join(f"nameserver {site.subnet}.{last}\n" for last in (7, 8))
    for last in (7, 8):
        site.black_hole(f"{site.subnet}.{last}")
    site.resolv.write_text(f"{dead}nameserver {site.near}\noptions timeout:4 attempts:1\n")
    site.hosts.write_text("127.0.0.1 localhost\n")
    site.nginx.configure()
    with name_server(site.near, site.near):
        begin(site)
        yield ""
        yield "healed"


@trial("names: no name server answers")
def _no_name_server(site: Site) -> Course:
    site.black_hole(f"{site.subnet}.53")
    site.hosts.write_text("127.0.0.1 localhost\n")
    site.nginx.configure()
    begin(site)
    yield f"cannot resolve {NAME}: (the name servers do not answer|Temporary failure)"
    # Written in place: it is mounted.
    site.resolv.write_text(f"nameserver {site.near}\n")
    with name_server(site.near, site.near):
        yield "healed"


@trial("names: the only address is dead")
def _dead_address(site: Site) -> Course:
    site.black_hole(site.near)
    site.nginx.configure()
    begin(site)
    yield f"{NAME}:8443: timed out"
    site.black_hole(site.near, on=False)


#: Bugs, and the trials that must fail with them.
PLANTS = {
    "TLS: a certificate of a private authority": (
        "the keys of TLS are written where the environment says",
        """
import ssl, types, syncd.trust as trust
trust.ssl = types.SimpleNamespace(**vars(ssl))
trust.ssl.SSLContext = lambda _: ssl.create_default_context()
""",
    ),
    "TLS: a client certificate that has expired is renewed in place": (
        "a certificate is read once",
        "import syncd.trust as trust\ntrust._stamp = lambda name, path: None\n",
    ),
    "names: two dead name servers, and a third that lives": (
        "a name has no longer than a connection",
        "import syncd.files_api.network as network\nnetwork.LOOK_UP_SECONDS = 0.0\n",
    ),
}


# The course of a trial


def hold(one: Trial, site: Site, healed: float) -> tuple[list[str], str]:
    """Run a trial; return what is wrong, and what it said."""
    course, said = one.course(site), "synced all along"
    told = next(course)
    if told:
        seen: list[str] = []

        def is_told() -> bool:
            seen.append(site.reasons())
            return re.search(told, seen[-1]) is not None

        wait(is_told, TOLD, lambda: f"{told!r}, but {seen[-1]!r}")
        said = seen[-1]
        next(course, None)
    began = time.monotonic()
    wait(lambda: not site.wrong(), healed, lambda: f"{site.wrong()[:6]}; {site.reasons()}")
    wait(lambda: site.status()["well"], healed, lambda: f"well, but {site.reasons()}")
    took = time.monotonic() - began
    site.end()
    problems = site.wrong()
    if (site.place / "keylog").exists():
        problems.append("the keys of TLS were written to SSLKEYLOGFILE")
    for _ in course:
        pass
    return problems, f"{took:.0f} s; {said}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--long", action="store_true", help="the time limits of production")
    parser.add_argument("words", nargs="*", metavar="WORD")
    chosen = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("it makes network namespaces: run it as root")
    in_own_network()
    trials = [t for t in TRIALS if all(word in t.name for word in chosen.words)]
    report, lock = Report(), threading.Lock()
    with tempfile.TemporaryDirectory(prefix="syncd-network-") as scratch, ExitStack() as stack:
        place = Path(scratch)
        service = stack.enter_context(Service(place / "service"))
        authority = Authority(place / "authority")

        def one(numbered: tuple[int, Trial, str, str]) -> None:
            number, this, bug, code = numbered
            problems, said, log = [], "", ""
            try:
                with ExitStack() as ends:
                    site = Site(place / f"site-{number}", number, service, authority, ends)
                    try:
                        if bug:
                            (site.place / "sitecustomize.py").write_text(code)
                            site.env["PYTHONPATH"] = str(site.place)
                        problems, said = hold(this, site, PLANTED if bug else HEALED)
                    finally:
                        log = site.log()
            except Exception as error:
                problems = [f"{type(error).__name__}: {error}", *log.splitlines()[-12:]]
            with lock:
                if bug:
                    report.check(f"caught: {bug}", well=bool(problems))
                    said = problems[0] if problems else said
                else:
                    report.check(this.name, problems)
                if said:
                    print(f"      {said[:230]}", flush=True)

        with ThreadPoolExecutor(LANES) as lanes:
            # Those at the end wait the longest.
            work = [(this, "", "") for this in reversed(trials)]
            work += [(this, *PLANTS[this.name]) for this in trials if this.name in PLANTS]
            list(lanes.map(one, [(n, *planned) for n, planned in enumerate(work, 1)]))
    return report.end()


def in_own_network() -> None:
    """Install what is needed, and go on in a network and mounts of this rig's own."""
    if os.environ.get("SYNCD_RIG_NETWORK"):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return
    if subprocess.run(["dpkg", "--status", *TOOLS], capture_output=True, check=False).returncode:
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        install = ["apt-get", "install", "--yes", "--no-install-recommends", *TOOLS]
        for command in (["apt-get", "update"], install):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    os.environ["SYNCD_RIG_NETWORK"] = "yes"
    apart = ["unshare", "--net", "--mount", "--propagation", "private"]
    os.execvp(apart[0], [*apart, sys.executable, *sys.argv])


if __name__ == "__main__":
    sys.exit(main())
