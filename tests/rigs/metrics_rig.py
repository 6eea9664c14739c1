#!/usr/bin/env python3
"""Runs each query of the dashboard and of the alert rules on a real Prometheus.

It scrapes a real daemon that uploads both ways, has videos processed, and deletes. Every expression
must parse and yield data; those of the rules without their limits, because nothing is wrong.
Prometheus is taken from the distribution.

    python tests/rigs/metrics_rig.py          less than a minute
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from math import isnan
from pathlib import Path
from typing import Any

import yaml
from world import ROOT, Report, Service, scratch

DASHBOARD = ROOT / "systemd" / "grafana.json"
RULES = ROOT / "systemd" / "syncd.rules.yml"
#: In Grafana's words, what stands for all.
VARIABLES = {"$__rate_interval": "5m", "$instance": ".*", "$folder": ".*"}
#: The comparison at the end of a rule's expression.
LIMIT = re.compile(r"\s*(==|>|<)[^=<>]+$")
PATIENCE_SECONDS = 60.0
#: The ways in which files are sent.
METHODS = ("direct", "presigned")


def prometheus(place: Path) -> Path:
    """Return the program, taken from the distribution without the service that comes with it."""
    if found := shutil.which("prometheus"):
        return Path(found)
    kept = Path(os.environ.get("SYNCD_RIG_CACHE") or place) / "promtool"
    program = kept / "usr" / "bin" / "prometheus"
    if not program.exists():
        kept.mkdir(parents=True, exist_ok=True)
        download = "apt-get -q download prometheus"
        script = f"{download} || {{ apt-get -q update && {download}; }}"
        subprocess.run(["sh", "-ec", script + "; dpkg -x prometheus_*.deb ."], cwd=kept, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
    return program


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return server.getsockname()[1]


@contextmanager
def running(command: list[str], log: Path, env: dict[str, str] | None = None) -> Iterator[None]:
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=env)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def until(done: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            if done():
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.3)


class Site:
    """A service, a daemon that serves its metrics, and a Prometheus that scrapes them."""

    def __init__(self, place: Path, service: Service, program: Path, stack: ExitStack) -> None:
        self.drop = place / "drop"
        self.drop.mkdir()
        listen, asked = free_port(), free_port()
        self.daemon_url = f"http://127.0.0.1:{listen}"
        self.url = f"http://127.0.0.1:{asked}"
        folder = {"path": str(self.drop), "settle_seconds": 0, "grace_seconds": 1}
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(place),
            "AYMARA_AI_API_KEY": "ours",
            "SYNCD_API__BASE_URL": service.url,
            "SYNCD_STATE__DIRECTORY": str(place / "state"),
            "SYNCD_SERVER__LISTEN": f"127.0.0.1:{listen}",
            "SYNCD_UPLOAD__DIRECT_MAX": "64KiB",
            "SYNCD_PROCESSING__FIRST_POLL_SECONDS": "0.3",
            "SYNCD_FOLDERS": json.dumps([folder | {"rescan_seconds": 2}]),
        }
        stack.enter_context(running([sys.executable, "-m", "syncd", "run"], place / "run.log", env))
        until(lambda: urllib.request.urlopen(f"{self.daemon_url}/healthz", timeout=5), "the daemon")
        target = {"job_name": "syncd", "static_configs": [{"targets": [f"127.0.0.1:{listen}"]}]}
        settings = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [target],
        }
        (place / "prometheus.yml").write_text(json.dumps(settings))
        command = [str(program), f"--config.file={place}/prometheus.yml"]
        command += [f"--storage.tsdb.path={place}/tsdb", f"--web.listen-address=127.0.0.1:{asked}"]
        stack.enter_context(running(command, place / "prometheus.log"))
        until(lambda: urllib.request.urlopen(f"{self.url}/-/ready", timeout=5), "Prometheus")

    def ask(self, path: str, **query: str) -> Any:
        """Return the data of an answer of Prometheus; raise ValueError for an error."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error)["error"]) from None

    def values(self, expr: str) -> list[float]:
        """Return the numbers that an expression yields now."""
        found = [float(one["value"][1]) for one in self.ask("query", query=expr)["result"]]
        return [value for value in found if not isnan(value)]


def exercise(site: Site) -> None:
    """Have the daemon do one of each, with scrapes between, so that rates have what to tell."""
    # A counter tells what it gained since the first scrape.
    until(lambda: site.values("syncd_well"), "a scrape")
    video = (ROOT / "syncd" / "workers" / "service_probe.mp4").read_bytes()
    for turn in range(3):
        (site.drop / f"small-{turn}.json").write_bytes(b"%d" % turn)
        (site.drop / f"large-{turn}.bin").write_bytes(os.urandom(200_000))
        # A video of its own each time: equal content is not sent twice.
        (site.drop / f"clip-{turn}.mp4").write_bytes(video + b"\0\0\0\x08free" * turn)
        time.sleep(2.5)
    until(lambda: site.values('sum(syncd_files{status="synced"})') == [9.0], "nine files")
    (site.drop / "small-0.json").unlink()
    until(lambda: site.values("sum(syncd_deleted_files_total)") == [1.0], "the deletion")
    for method in METHODS:
        counted = f'sum(syncd_upload_seconds_count{{method="{method}"}})'
        until(lambda counted=counted: site.values(counted)[0] >= 1, f"uploads: {method}")
    until(lambda: site.values("syncd_processing_seconds_count")[0] >= 3, "processed videos")


def dashboard() -> Iterator[tuple[str, str]]:
    """Yield the title of each panel and variable, and its expression."""
    document = json.loads(DASHBOARD.read_text())
    for panel in document["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in document["templating"]["list"]:
        if found := re.fullmatch(r"label_values\((.+), \w+\)", variable.get("definition", "")):
            yield f"variable {variable['name']}", found[1]


def rules() -> Iterator[tuple[str, str]]:
    """Yield the name of each alert, and its expression without the limit."""
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", LIMIT.sub("", rule["expr"])


def replaced(expr: str) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    return expr


def main() -> int:
    report = Report()
    with scratch("metrics") as place, Service(place / "service") as service, ExitStack() as stack:
        site = Site(place, service, prometheus(place), stack)
        exercise(site)
        for title, expr in (*dashboard(), *rules()):
            try:
                problems = [] if site.values(replaced(expr)) else [f"{expr}: no data"]
            except ValueError as error:
                problems = [f"{expr}: {error}"]
            report.check(f"{title}: it yields data", problems)
        groups = site.ask("rules")["groups"]
        bad = [rule for group in groups for rule in group["rules"] if rule["health"] != "ok"]
        report.check("Prometheus evaluates each rule", bad, well=bool(groups))
        firing = [alert["labels"]["alertname"] for alert in site.ask("alerts")["alerts"]]
        report.check("no alert is about to fire while all is well", firing)
        (target,) = site.ask("targets")["activeTargets"]
        report.check(
            "each scrape is understood", [target["lastError"]] if target["lastError"] else []
        )
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
