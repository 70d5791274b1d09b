"""Metrics of a server in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from lengthwise.encoder.state_cache import StateCache

_SECONDS_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_POWERS_OF_TWO = tuple(2**power for power in range(15))
_FRACTION_BUCKETS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)


class Metrics:
    """Metrics of one server, in a registry of its own.

    Attributes:
        requests: answers by route and status.
        seconds: durations by stage: tokenize (parsing included), queue (until the request's first text is in a batch),
            infer (one batch), total.
        rows: texts per batch.
        tokens: tokens per batch.
        padding: the fraction of a batch's cells that is padding.
        queued_tokens: tokens that are reserved, queued or being computed.
        truncated: truncated texts.
        rejected: requests that were not accepted, by reason.
        connections: open connections.
        closed_connections: connections that the server closed or refused, by reason.
        ready: 1 if the server is ready, else 0.
    """

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        name = "lengthwise"
        self.requests = Counter(f"{name}_requests", "Answers", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            f"{name}_seconds", "Seconds by stage", ["stage"], buckets=_SECONDS_BUCKETS, registry=registry
        )
        self.rows = Histogram(f"{name}_batch_rows", "Texts per batch", buckets=_POWERS_OF_TWO, registry=registry)
        self.tokens = Histogram(f"{name}_batch_tokens", "Tokens per batch", buckets=_POWERS_OF_TWO, registry=registry)
        self.padding = Histogram(
            f"{name}_batch_padding_ratio",
            "Fraction of a batch that is padding",
            buckets=_FRACTION_BUCKETS,
            registry=registry,
        )
        self.queued_tokens = Gauge(
            f"{name}_queued_tokens", "Tokens reserved, queued or being computed", registry=registry
        )
        self.truncated = Counter(f"{name}_truncated_texts", "Truncated texts", registry=registry)
        self.rejected = Counter(f"{name}_rejected_requests", "Requests not accepted", ["reason"], registry=registry)
        self.connections = Gauge(f"{name}_connections", "Open connections", registry=registry)
        self.closed_connections = Counter(
            f"{name}_closed_connections", "Connections closed for a limit", ["reason"], registry=registry
        )
        self.ready = Gauge(f"{name}_ready", "Whether the server is ready", registry=registry)
        self._stages = {stage: self.seconds.labels(stage) for stage in ("tokenize", "queue", "infer", "total")}

    def watch_states(self, cache: StateCache) -> None:
        """Expose what a cache of states counts."""
        self._registry.register(_StateCollector(cache))

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Record the duration of a stage."""
        self._stages[stage].observe(seconds)

    def observe_batch(self, longest: int, rows: int, tokens: int, seconds: float) -> None:
        """Record a batch."""
        self.rows.observe(rows)
        self.tokens.observe(tokens)
        self.padding.observe(1 - tokens / (longest * rows))
        self.observe_stage("infer", seconds)

    def exposition(self) -> tuple[bytes, str]:
        """The exposition format, and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


class _StateCollector(Collector):
    """Reads the counts of a cache of states when they are asked for."""

    def __init__(self, cache: StateCache) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        """One metric per count."""
        cache, name = self._cache, "lengthwise_state_cache"
        yield GaugeMetricFamily(f"{name}_bytes", "Bytes of kept states and their ids", cache.nbytes)
        yield CounterMetricFamily(f"{name}_hits", "Texts that began at a kept state, per direction", cache.hits)
        yield CounterMetricFamily(f"{name}_saved_steps", "Steps that were not computed", cache.saved)
        yield CounterMetricFamily(f"{name}_steps", "Steps of all texts and directions", cache.steps)
