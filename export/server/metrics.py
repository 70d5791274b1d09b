"""What a server tells Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_POWERS = tuple(2**power for power in range(15))
_PARTS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)


class Metrics:
    """One server's counters; several servers in a process do not share them.

    Attributes:
        requests: answers, by route and status.
        seconds: of a request, by stage: tokenize (parsing included), queue (until its first text is in a batch),
            infer (a batch), total.
        rows: texts of a batch.
        tokens: tokens of a batch.
        padding: the part of a batch's cells that is padding.
        queued_tokens: that wait or are being computed.
        truncated: texts that were cut.
        rejected: requests that were not taken, by reason.
        ready: 1 where the server is ready.
    """

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        name = "lengthwise"
        self.requests = Counter(f"{name}_requests", "Answers", ["route", "status"], registry=registry)
        self.seconds = Histogram(f"{name}_seconds", "Seconds by stage", ["stage"], buckets=_SECONDS, registry=registry)
        self.rows = Histogram(f"{name}_batch_rows", "Texts of a batch", buckets=_POWERS, registry=registry)
        self.tokens = Histogram(f"{name}_batch_tokens", "Tokens of a batch", buckets=_POWERS, registry=registry)
        self.padding = Histogram(
            f"{name}_batch_padding_ratio", "Padding of a batch, 0 to 1", buckets=_PARTS, registry=registry
        )
        self.queued_tokens = Gauge(f"{name}_queued_tokens", "Tokens that wait or are computed", registry=registry)
        self.truncated = Counter(f"{name}_truncated_texts", "Texts that were cut", registry=registry)
        self.rejected = Counter(f"{name}_rejected_requests", "Requests not taken", ["reason"], registry=registry)
        self.ready = Gauge(f"{name}_ready", "Whether it is ready", registry=registry)
        self._stages = {stage: self.seconds.labels(stage) for stage in ("tokenize", "queue", "infer", "total")}

    def took(self, stage: str, seconds: float) -> None:
        """Note what a stage took."""
        self._stages[stage].observe(seconds)

    def batch(self, longest: int, rows: int, tokens: int, seconds: float) -> None:
        """Note a batch."""
        self.rows.observe(rows)
        self.tokens.observe(tokens)
        self.padding.observe(1 - tokens / (longest * rows))
        self.took("infer", seconds)

    def exposition(self) -> tuple[bytes, str]:
        """The text that Prometheus reads, and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
