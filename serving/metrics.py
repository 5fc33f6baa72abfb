"""What /metrics tells Prometheus. Each server has a registry of its own, so that two in one process don't mix."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Upper bounds of the latency histogram, in seconds.
BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.12, 0.2, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """Counters, gauges and histograms of one server. Thread-safe."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"fer_{name}", text, labels, registry=self.registry)

        #: outcome: captured, analysed, or skipped (captured, but a newer one came before there was time for it).
        self.frames = counter("frames", "Frames of the streams.", "source", "outcome")
        self.faces = counter("faces", "Faces recognised.", "origin")
        self.errors = counter("errors", "What went wrong, by kind.", "kind")
        self.reconnects = counter("reconnects", "Times that a lost source gave frames again.", "source")
        self.requests = counter("http_requests", "Requests answered.", "route", "method", "status")
        self.viewers = Gauge("fer_viewers", "Who watches now.", ("source", "kind"), registry=self.registry)
        self.recording = Gauge("fer_recording", "1 while results are recorded.", ("source",), registry=self.registry)
        self.stage_s = Histogram(
            "fer_stage_seconds",
            "Latency by stage: detect, recognize, track, draw, encode; total is from capture to the encoded picture.",
            ("stage",),
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        # Looking a labelled child up takes a lock and a dictionary; the stages are few and observed for each frame.
        self._stages = {
            name: self.stage_s.labels(name) for name in ("detect", "recognize", "track", "draw", "encode", "total", "decode")
        }

    def observe(self, stages_s: Mapping[str, float]) -> None:
        """Count seconds by stage."""
        for name, seconds in stages_s.items():
            self._stages[name].observe(seconds)

    def exposition(self) -> tuple[bytes, str]:
        """The text for Prometheus, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST
