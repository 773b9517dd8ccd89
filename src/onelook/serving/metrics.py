"""What Prometheus reads at /metrics. Every application has a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_MODEL = ("model", "version")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The server's counters. Labels come from loaded models and known routes only, never from a request's text."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self.requests = Counter(
            "onelook_requests", "Requests that were answered.", ("route", "status", *_MODEL), registry=registry
        )
        self.rejected = Counter(
            "onelook_rejected", "Requests that were refused because the queue was full.", _MODEL, registry=registry
        )
        self.queue = Gauge(
            "onelook_queue_images", "Images that were admitted and are not finished.", _MODEL, registry=registry
        )
        self.batch = Histogram(
            "onelook_batch_size",
            "Images in a run of the network.",
            _MODEL,
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.seconds = Histogram(
            "onelook_stage_seconds",
            "Latency of a stage: decode, queue, inference, total.",
            ("stage", *_MODEL),
            buckets=_SECONDS,
            registry=registry,
        )
        self.ready = Gauge("onelook_model_ready", "1 for a model that serves.", _MODEL, registry=registry)
        self.loads = Counter("onelook_model_loads", "Loads of a model.", (*_MODEL, "outcome"), registry=registry)

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)
