"""The alert rules and the dashboard ask for what is served, and promtool fires each alert."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from syncd import metrics
from syncd.scheduler import StepReport
from syncd.server.exposition import StateCollector, registry

ROOT = Path(__file__).parent.parent
RULES = ROOT / "systemd" / "syncd.rules.yml"
DASHBOARD = ROOT / "systemd" / "grafana.json"
STEP = StepReport("upload", 1, 0, 0.0, None, 1.0, 0)
FOLDER = {
    "name": "drop",
    "counts": {},
    "oldest_queued_seconds": None,
    "missing": 0,
    "bytes_left": 0,
    "watched_directories": 1,
    "directories": 1,
    "watch": "native",
    "last_scan_at": "2026-01-01T00:00:00Z",
    "last_event_at": None,
}
STATUS = {
    "version": "1",
    "well": True,
    "obstacles": [],
    "folders": [FOLDER],
    "holds": [],
    "paused": [],
    "bandwidth": None,
    "transfers": [],
    "api": {"state": "ok", "last_success_at": None},
}
promtool = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(promtool is None, reason="promtool is not installed")


def served(status=STATUS):
    """Return what /metrics answers once something of each kind has happened."""
    metrics.REQUESTS.add("put", "200")
    metrics.REQUEST_SECONDS.add("put", by=0.1)
    standing = StateCollector(
        status=lambda: status, doubts=lambda: 0, steps=lambda: [STEP], free_bytes=lambda: 1
    )
    return generate_latest(registry(standing)).decode()


def test_every_metric_and_label_of_the_dashboard_is_served():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    told = served()
    labels = dict.fromkeys(re.findall(r"^((?:syncd|process)_\w+)", told, re.MULTILINE), "")
    for name, found in re.findall(r"^((?:syncd|process)_\w+)\{(.*)\}", told, re.MULTILINE):
        labels[name] += found
    exprs = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(exprs) > 30
    for expr in exprs:
        asked = re.findall(r"\b((?:syncd|process)_\w+)\{(.*?)\}", expr)
        assert asked, expr
        for name, matchers in asked:
            assert name in labels, name
            for label, value in re.findall(r'(\w+)!?=~?"(.*?)"', matchers):
                if label not in ("instance", "job"):
                    assert f'{label}="' in labels[name], (name, label)
                if value.isalpha() and label != "job":
                    assert f'{label}="{value}"' in labels[name], (name, value)
        for grouped in re.findall(r"by \((.*?)\)", expr):
            for label in set(grouped.split(", ")) - {"instance"}:
                assert any(f'{label}="' in labels[name] for name, _ in asked), (expr, label)


def test_every_metric_and_label_of_the_rules_is_served():
    told = served()
    asked = re.findall(r"\b(syncd_[a-z_]+)(?:\{(\w+)=\"(\w+)\"\})?", RULES.read_text())
    exprs = [line for line in RULES.read_text().splitlines() if line.strip().startswith("expr:")]
    assert len(exprs) == 10
    for name, label, value in asked:
        selector = f'{label}="{value}"' if label else ""
        assert re.search(rf"^{name}(\{{[^}}]*{selector}[^}}]*\}})? ", told, re.MULTILINE), name


@pytest.mark.parametrize("reason", ["root_replaced: another one", "paused: by me", "paused"])
def test_a_replaced_folder_counts_as_held_and_a_pause_does_not(reason):
    hold = {"stops": "folder", "scope": "drop", "reason": reason}
    told = served(STATUS | {"holds": [hold]})
    assert f'syncd_holds{{stops="folder"}} {float(reason[0] == "r")}' in told


def test_the_alert_on_what_is_held_asks_for_folders_too():
    rule = RULES.read_text().partition("SyncdDeletionsHeld")[2].partition("- alert")[0]
    stops = re.search(r'syncd_holds\{stops=~"([a-z|]+)"\}', rule)
    assert set(stops[1].split("|")) == {"deletions", "folder"}


@needs_promtool
def test_promtool_accepts_the_rules():
    subprocess.run([promtool, "check", "rules", RULES], check=True, capture_output=True)


@needs_promtool
def test_each_alert_fires_and_heals(tmp_path):
    tests = (ROOT / "tests" / "rigs" / "alerts.yml").read_text().replace("RULES", str(RULES))
    (tmp_path / "alerts.yml").write_text(tests)
    done = subprocess.run(
        [promtool, "test", "rules", tmp_path / "alerts.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rules = set(re.findall(r"alert: (\w+)", RULES.read_text()))
    assert rules == set(re.findall(r"alertname: (\w+)", tests))
