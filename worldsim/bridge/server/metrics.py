"""Counters of a server, for Prometheus and for ``info``."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

__all__ = ["ServerMetrics"]

_LATENCIES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_SUMMARY_BATCHES = 512


class ServerMetrics:
    """Counters of one server; cheap enough for every request."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._started = time.monotonic()
        self._batches: deque[tuple[int, float]] = deque(maxlen=_SUMMARY_BATCHES)
        self._requests = _LabelledCounter("worldsim_requests", "Requests by operation.", "op", registry)
        self._errors = _LabelledCounter(
            "worldsim_request_errors", "Requests answered with an error, by code.", "code", registry
        )
        self._malformed = Counter("worldsim_malformed_messages", "Malformed messages.", registry=registry)
        self._frames = Counter("worldsim_frames", "Frames imagined.", registry=registry)
        self._step = _histogram("step_seconds", "Time of a batch.", _LATENCIES, registry)
        self._wait = _histogram("queue_seconds", "From arrival to engine.", _LATENCIES, registry)
        self._observe = _histogram("observe_seconds", "Time of an observation.", _LATENCIES, registry)
        self._batch_size = _histogram("batch_size", "Sessions of a batch.", _BATCH_SIZES, registry)

    def add_gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is read on each scrape."""
        Gauge(f"worldsim_{name}", text, registry=self._registry).set_function(value)

    def count_request(self, op: str) -> None:
        """Count a request by operation."""
        self._requests.add(op)

    def count_error(self, code: str) -> None:
        """Count an error reply by code."""
        self._errors.add(code)

    def count_malformed(self) -> None:
        """Count a malformed message."""
        self._malformed.inc()

    def record_batch(self, sessions: int, seconds: float, waits: Iterable[float]) -> None:
        """Record a batch; ``waits`` are the queue times of its requests in seconds."""
        self._batches.append((sessions, seconds))
        self._frames.inc(sessions)
        self._step.observe(seconds)
        self._batch_size.observe(sessions)
        for wait in waits:
            self._wait.observe(wait)

    def record_observation(self, seconds: float, wait: float) -> None:
        """Record an observed frame; ``wait`` is the queue time of its request in seconds."""
        self._observe.observe(seconds)
        self._wait.observe(wait)

    def summary(self) -> dict[str, Any]:
        """Return mean batch size and latency percentiles of the last batches, for ``info``."""
        batches = list(self._batches)
        sizes = [size for size, _ in batches]
        times = np.array([seconds for _, seconds in batches]) * 1000
        p50, p99 = np.percentile(times, (50, 99)).round(3).tolist() if batches else (None, None)
        return {
            "batch_mean": round(float(np.mean(sizes)), 3) if batches else None,
            "step_p50_ms": p50,
            "step_p99_ms": p99,
            "uptime_s": round(time.monotonic() - self._started, 3),
        }

    def render(self) -> bytes:
        """Return the page in Prometheus' text format."""
        return generate_latest(self._registry)


class _LabelledCounter(Collector):
    """Labelled counter for one writing thread; unlike the library's own it takes no lock."""

    def __init__(self, name: str, text: str, label: str, registry: CollectorRegistry) -> None:
        self._name, self._text, self._label = name, text, label
        self._counts: dict[str, int] = {}
        registry.register(self)

    def add(self, label: str) -> None:
        self._counts[label] = self._counts.get(label, 0) + 1

    def collect(self) -> Iterable[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._text, labels=[self._label])
        for label, count in list(self._counts.items()):
            family.add_metric([label], count)
        yield family


def _histogram(name: str, text: str, buckets: Sequence[float], registry: CollectorRegistry) -> Histogram:
    return Histogram(f"worldsim_{name}", text, buckets=buckets, registry=registry)
