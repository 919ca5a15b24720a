"""What this process counts and measures, for ``/metrics`` and for ``/monitoring/stats``: one mechanism for both.

Where several worker processes serve, ``settings.share_metrics`` names a folder through which they share their
values, and whichever worker is asked answers for all; the counts of :meth:`Metrics.read` stay this process's own.
"""

import os
import re
import threading
from datetime import datetime
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

disable_created_metrics()  # a second time series for each, which nobody reads

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_ROWS = tuple(2**n for n in range(15))
_COUNTS = {
    "requests": ("prediction_requests", "Requests for predictions that were answered"),
    "predictions": ("predictions", "Rows that were answered"),
    "positive_predictions": ("positive_predictions", "Rows that were predicted positive"),
    "predictions_with_warnings": ("predictions_with_warnings", "Rows answered with a warning"),
    "labels": ("labels", "Labels taken"),
    "refused_requests": ("refused_requests", "Requests refused, status 4xx"),
    "unavailable_answers": ("unavailable_answers", "Requests failed, status 5xx"),
}


class Metrics:
    """Counters, histograms and gauges of one application. Safe to share between threads.

    Args:
        started_at: when the process began to serve, naive UTC.
        shared: folder of ``settings.share_metrics`` where several processes serve.
    """

    def __init__(self, started_at: datetime, shared: Path | None = None) -> None:
        self.started_at = started_at
        self.registry = CollectorRegistry()  # its own: a process may hold several applications
        self._shared = shared
        self._mutex = threading.Lock()
        self._counters: dict[str, Counter] = {}
        self._bound: dict[tuple[str, int], Histogram] = {}
        for name in _COUNTS:
            self.add(name, 0)
        self._requests = Histogram(
            "selfheal_request_seconds",
            "Time from a request's headers to its whole answer",
            ["route", "status"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._group_rows = self._histogram("group_rows", "Rows that shared one write to the log", _ROWS)
        self._append = self._histogram("log_append_seconds", "Time to make a group durable", _SECONDS)
        self._queue = self._gauge("queued_requests", "Requests that wait behind the group in work", "livesum")
        self._version = self._gauge("champion_version", "Version that answers; 0 is none", "mostrecent")
        self._age = self._gauge(
            "champion_age_seconds", "Time since the champion's training data ends", "mostrecent"
        )
        if shared is None:
            ProcessCollector(registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"selfheal_{name}", text, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, text: str, mode: str) -> Gauge:
        return Gauge(f"selfheal_{name}", text, registry=self.registry, multiprocess_mode=mode)  # pyright: ignore[reportArgumentType]

    def add(self, name: str, count: int = 1) -> None:
        """Count something. A name that is not declared above becomes a counter of that name."""
        counter = self._counters.get(name) or self._counter(name)
        if count:
            counter.inc(count)

    def _counter(self, name: str) -> Counter:
        with self._mutex:
            if name not in self._counters:
                metric, text = _COUNTS.get(name, (name, name.replace("_", " ").capitalize()))
                self._counters[name] = Counter(f"selfheal_{metric}", text, registry=self.registry)
            return self._counters[name]

    def request(self, route: str, status: int, seconds: float) -> None:
        """Observe one answered request."""
        bound = self._bound.get((route, status))
        if bound is None:
            bound = self._bound[route, status] = self._requests.labels(route, str(status))
        bound.observe(seconds)

    def group(self, rows: int, waiting: int) -> None:
        """Observe one group that is taken into work, and how many requests wait behind it."""
        self._group_rows.observe(rows)
        self._queue.set(waiting)

    def appended(self, seconds: float) -> None:
        """Observe how long the log took to make one group durable."""
        self._append.observe(seconds)

    def champion(self, version: int, age_s: float) -> None:
        """Note which version answers, and how old its training data is; 0 and NaN where there is none."""
        self._version.set(version)
        self._age.set(age_s)

    def read(self) -> dict[str, int]:
        """This process's counts by name."""
        return {name: int(_value(counter)) for name, counter in sorted(self._counters.items())}

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Everything in Prometheus' text format, and its media type, for an ``Accept`` header."""
        encode, media_type = choose_encoder(accept)
        if self._shared is None:
            return encode(self.registry), media_type
        _forget_the_dead(self._shared)
        of_all = CollectorRegistry()
        MultiProcessCollector(of_all, path=str(self._shared))
        return encode(of_all), media_type


def _value(counter: Counter) -> float:
    (metric,) = counter.collect()
    return next(s.value for s in metric.samples if s.name.endswith("_total"))


def _forget_the_dead(folder: Path) -> None:
    """Drop what only a living process may tell: the queue of a worker that died waits for nobody."""
    for path in folder.glob("gauge_live*.db"):
        process = re.fullmatch(r"gauge_\w+?_(\d+)\.db", path.name)
        if process and not _lives(int(process[1])):
            mark_process_dead(int(process[1]), str(folder))


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
