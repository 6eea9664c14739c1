"""The daemon's metrics for Prometheus: running counts, and the current state."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from syncd.metrics import HISTOGRAMS, TALLIES
from syncd.scheduler import StepReport
from syncd.state.ages import OverdueState
from syncd.state.holds import PAUSED
from syncd.state.manifest import Word

JsonObject = dict[str, Any]
API_STATES = ("ok", "unreachable", "refused", "unknown")
#: Steps that there are for each folder or hook, whose name follows: the label leaves it out.
NAMED_STEPS = ("look at", "scan", "check", "hook")


@dataclass(frozen=True, kw_only=True, eq=False)
class StateCollector(Collector):
    """Collects metrics from the document of `status`, the tallies, and the steps' reports."""

    status: Callable[[], JsonObject]
    doubts: Callable[[], int]
    steps: Callable[[], Iterable[StepReport]]
    free_bytes: Callable[[], int]

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        facts = self.status()
        limit = (facts["bandwidth"] or {}).get("bytes_per_second") or 0
        yield InfoMetricFamily("syncd_build", "The version.", {"version": facts["version"]})
        for name, about, value in (
            ("syncd_well", "1 when all is well.", facts["well"]),
            ("syncd_ready", "1 when nothing keeps syncd from its job.", not facts["obstacles"]),
            ("syncd_paused", "1 while a folder, or everything, is paused.", bool(facts["paused"])),
            ("syncd_bandwidth_limit_bytes", "Bytes a second that may leave; 0: no limit.", limit),
            ("syncd_doubts", "Uploads whose arrival is being looked up.", self.doubts()),
            ("syncd_transfers", "Uploads in flight.", len(facts["transfers"])),
            ("syncd_state_free_bytes", "Free bytes on the state's disk.", self.free_bytes()),
        ):
            yield GaugeMetricFamily(name, about, float(value))
        yield from self._folders(facts["folders"])
        yield from self._service(facts["api"])
        holds = GaugeMetricFamily("syncd_holds", "Open holds but pauses.", labels=["stops"])
        held = Counter(
            hold["stops"]
            for hold in facts["holds"]
            # A pause is what a person wants: it has a metric of its own, and no alert.
            if hold["reason"].partition(":")[0] != PAUSED
        )
        for stops in ("sending", "deletions", "folder"):
            holds.add_metric([stops], held[stops])
        yield holds
        yield self._overdue(facts)
        yield from self._step_metrics()
        yield from self._counted([folder["name"] for folder in facts["folders"]])

    def _counted(self, folders: list[str]) -> Iterator[Metric]:
        for tally in TALLIES:
            family = CounterMetricFamily(tally.name, tally.about, labels=tally.labels)
            # A counter that appears with its first event would hide that one from rate().
            known = folders if tally.labels == ("folder",) else ()
            values = {(name,): 0.0 for name in known} | dict(tally.values())
            for labels, value in values.items():
                family.add_metric(labels, value)
            yield family
        for histogram in HISTOGRAMS:
            told = HistogramMetricFamily(histogram.name, histogram.about, labels=histogram.labels)
            bounds = [*(str(float(bound)) for bound in histogram.buckets), "+Inf"]
            for labels, (counts, total) in histogram.values().items():
                told.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), total)
            yield told

    def _folders(self, folders: list[JsonObject]) -> Iterator[Metric]:
        def gauge(name: str, about: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(name, about, labels=["folder", *labels])

        files = gauge("syncd_files", "Files by their status.", "status")
        oldest = gauge("syncd_oldest_queued_seconds", "How long the oldest queued file has waited.")
        backlog = gauge(
            "syncd_backlog_bytes", "Bytes of files that wait to be sent, or are being sent."
        )
        watched = gauge("syncd_watched_directories", "Directories watched by inotify.")
        directories = gauge("syncd_directories", "Directories known.")
        coverage = gauge(
            "syncd_watch_coverage_ratio", "Part of the directories that is watched or polled."
        )
        scanned = gauge("syncd_last_scan_timestamp_seconds", "When the last scan ended.")
        event = gauge("syncd_last_event_timestamp_seconds", "When the last event arrived.")
        for folder in folders:
            name = folder["name"]
            for word in Word:
                files.add_metric([name, word.value], folder["counts"].get(word, 0))
            oldest.add_metric([name], folder["oldest_queued_seconds"] or 0.0)
            backlog.add_metric([name], folder["bytes_left"])
            seen, known = folder["watched_directories"], folder["directories"]
            watched.add_metric([name], seen)
            directories.add_metric([name], known)
            polled = folder["watch"] == "polling"
            coverage.add_metric([name], 1.0 if polled or not known else min(seen / known, 1.0))
            for family, at in ((scanned, "last_scan_at"), (event, "last_event_at")):
                if folder[at]:
                    family.add_metric([name], _seconds(folder[at]))
        yield from (files, oldest, backlog, watched, directories, coverage, scanned, event)

    def _overdue(self, facts: JsonObject) -> Metric:
        family = GaugeMetricFamily(
            "syncd_overdue_files",
            "Files that should have moved on by now, by what they are waiting for.",
            labels=["folder", "state"],
        )
        files = Counter[tuple[str, str]]()
        for entry in facts.get("overdue", ()):
            files[entry["folder"], entry["state"]] += entry["files"]
        for folder in facts["folders"]:
            for state in OverdueState:
                family.add_metric([folder["name"], state], files[folder["name"], state])
        return family

    def _service(self, api: JsonObject) -> Iterator[Metric]:
        states = GaugeMetricFamily(
            "syncd_api_state",
            "1 for the state of the Files API, as syncd sees it, and 0 for the others.",
            labels=["state"],
        )
        for state in API_STATES:
            states.add_metric([state], float(api["state"] == state))
        yield states
        contact = GaugeMetricFamily(
            "syncd_last_contact_timestamp_seconds", "When the Files API last gave a good answer."
        )
        if api["last_success_at"]:
            contact.add_metric([], _seconds(api["last_success_at"]))
        yield contact

    def _step_metrics(self) -> Iterator[Metric]:
        runs, failures, seconds = (
            CounterMetricFamily(name, about, labels=["step"])
            for name, about in (
                ("syncd_step_runs", "Runs of each step."),
                ("syncd_step_failures", "Failed runs of each step."),
                ("syncd_step_seconds", "Seconds spent in each step."),
            )
        )
        kinds: dict[str, list[float]] = {}
        for report in self.steps():
            sums = kinds.setdefault(step_kind(report.name), [0.0, 0.0, 0.0])
            sums[0] += report.runs
            sums[1] += report.failures_total
            sums[2] += report.seconds_total
        for kind, values in kinds.items():
            for family, value in zip((runs, failures, seconds), values, strict=True):
                family.add_metric([kind], value)
        yield from (runs, failures, seconds)


def step_kind(name: str) -> str:
    """Return a step's name without that of the folder or hook that it is for."""
    return next((kind for kind in NAMED_STEPS if name.startswith(f"{kind} ")), name)


def registry(standing: StateCollector) -> CollectorRegistry:
    """Return a registry of the metrics of the daemon and of its process."""
    made = CollectorRegistry()
    made.register(standing)
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    return made


def _seconds(when: str) -> float:
    return datetime.fromisoformat(when).timestamp()
