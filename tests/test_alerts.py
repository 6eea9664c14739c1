"""The alert rules: every metric in them is one that is served, and promtool fires each."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from syncd.server.exposition import Standing, registry

ROOT = Path(__file__).parent.parent
RULES = ROOT / "systemd" / "syncd.rules.yml"
FOLDER = {
    "name": "drop",
    "counts": {},
    "oldest_queued_seconds": None,
    "missing": 0,
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
    "transfers": [],
    "api": {"state": "ok", "last_success_at": None},
}
promtool = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(promtool is None, reason="promtool is not installed")


def test_every_metric_and_label_of_the_rules_is_served():
    standing = Standing(status=lambda: STATUS, doubts=lambda: 0, steps=list, free_bytes=lambda: 1)
    served = generate_latest(registry(standing)).decode()
    asked = re.findall(r"\b(syncd_[a-z_]+)(?:\{(\w+)=\"(\w+)\"\})?", RULES.read_text())
    exprs = [line for line in RULES.read_text().splitlines() if line.strip().startswith("expr:")]
    assert len(exprs) == 10
    for name, label, value in asked:
        selector = f'{label}="{value}"' if label else ""
        assert re.search(rf"^{name}(\{{[^}}]*{selector}[^}}]*\}})? ", served, re.MULTILINE), name


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
