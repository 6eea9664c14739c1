"""The daemon's metrics in Prometheus's words: what was counted, and how things stand right now."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    StateSetMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from syncd.metrics import TALLIES
from syncd.scheduler import StepReport
from syncd.state.ages import Waiting
from syncd.state.manifest import Word

JsonObject = dict[str, Any]
API_STATES = ("ok", "unreachable", "refused", "unknown")


class Standing(Collector):
    """Collects from the document of `status`, the counts, and the steps' reports."""

    def __init__(
        self,
        *,
        status: Callable[[], JsonObject],
        doubts: Callable[[], int],
        steps: Callable[[], Iterable[StepReport]],
        free_bytes: Callable[[], int],
    ) -> None:
        self._status = status
        self._doubts = doubts
        self._steps = steps
        self._free_bytes = free_bytes

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        facts = self._status()
        yield InfoMetricFamily("syncd_build", "The version.", {"version": facts["version"]})
        yield GaugeMetricFamily("syncd_well", "1 when all is well.", float(facts["well"]))
        yield GaugeMetricFamily(
            "syncd_ready", "1 when nothing keeps syncd from its job.", float(not facts["obstacles"])
        )
        yield from self._folders(facts["folders"])
        yield from self._service(facts["api"])
        holds = GaugeMetricFamily("syncd_holds", "Open holds.", labels=["stops"])
        for stops in ("sending", "deletions", "folder"):
            held = sum(hold["stops"] == stops for hold in facts["holds"])
            holds.add_metric([stops], held)
        yield holds
        yield self._overdue(facts)
        yield GaugeMetricFamily(
            "syncd_doubts", "Uploads whose arrival is being looked up.", self._doubts()
        )
        yield GaugeMetricFamily(
            "syncd_transfers", "Uploads in flight.", float(len(facts["transfers"]))
        )
        yield GaugeMetricFamily(
            "syncd_state_free_bytes", "Free bytes on the state's disk.", float(self._free_bytes())
        )
        yield from self._of_steps()
        for tally in TALLIES:
            family = CounterMetricFamily(tally.name, tally.about, labels=tally.labels)
            for labels, value in tally.values().items():
                family.add_metric(labels, value)
            yield family

    def _folders(self, folders: list[JsonObject]) -> Iterator[Metric]:
        def gauge(name: str, about: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(name, about, labels=["folder", *labels])

        files = gauge("syncd_files", "Files by their status.", "status")
        oldest = gauge("syncd_oldest_queued_seconds", "How long the oldest queued file waits.")
        watched = gauge("syncd_watched_directories", "Directories watched by inotify.")
        directories = gauge("syncd_directories", "Directories known.")
        coverage = gauge(
            "syncd_watch_coverage_ratio", "Part of the directories that is watched or polled."
        )
        scanned = gauge("syncd_last_scan_timestamp_seconds", "When the last scan ended.")
        event = gauge("syncd_last_event_timestamp_seconds", "When the last event came.")
        for folder in folders:
            name = folder["name"]
            for word in Word:
                files.add_metric([name, word.value], folder["counts"].get(word, 0))
            oldest.add_metric([name], folder["oldest_queued_seconds"] or 0.0)
            seen, known = folder["watched_directories"], folder["directories"]
            watched.add_metric([name], seen)
            directories.add_metric([name], known)
            polled = folder["watch"] == "polling"
            coverage.add_metric([name], 1.0 if polled or not known else min(seen / known, 1.0))
            for family, at in ((scanned, "last_scan_at"), (event, "last_event_at")):
                if folder[at]:
                    family.add_metric([name], _seconds(folder[at]))
        yield from (files, oldest, watched, directories, coverage, scanned, event)

    def _overdue(self, facts: JsonObject) -> Metric:
        family = GaugeMetricFamily(
            "syncd_overdue_files",
            "Files that should have moved on by now, by what they wait for.",
            labels=["folder", "state"],
        )
        files = Counter[tuple[str, str]]()
        for entry in facts.get("overdue", ()):
            files[entry["folder"], entry["state"]] += entry["files"]
        for folder in facts["folders"]:
            for state in Waiting:
                family.add_metric([folder["name"], state], files[folder["name"], state])
        return family

    def _service(self, api: JsonObject) -> Iterator[Metric]:
        yield StateSetMetricFamily(
            "syncd_api_state",
            "How the Files API is seen.",
            {state: api["state"] == state for state in API_STATES},
        )
        contact = GaugeMetricFamily(
            "syncd_last_contact_timestamp_seconds", "When the Files API last gave a good answer."
        )
        if api["last_success_at"]:
            contact.add_metric([], _seconds(api["last_success_at"]))
        yield contact

    def _of_steps(self) -> Iterator[Metric]:
        runs = CounterMetricFamily("syncd_step_runs", "Runs of each step.", labels=["step"])
        failures = CounterMetricFamily(
            "syncd_step_failures", "Failed runs of each step.", labels=["step"]
        )
        seconds = CounterMetricFamily(
            "syncd_step_seconds", "Seconds spent in each step.", labels=["step"]
        )
        for report in self._steps():
            runs.add_metric([report.name], report.runs)
            failures.add_metric([report.name], report.failures_total)
            seconds.add_metric([report.name], report.seconds_total)
        yield from (runs, failures, seconds)


def registry(standing: Standing) -> CollectorRegistry:
    """Return a registry of the daemon's metrics and its process's."""
    made = CollectorRegistry()
    made.register(standing)
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    return made


def _seconds(when: str) -> float:
    return datetime.fromisoformat(when).timestamp()
