"""OpenTelemetry that exports into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler
from opentelemetry.trace import Tracer

from aioencrypt.integrations.opentelemetry import instrument


class Telemetry:
    """Providers of spans and metrics, and what they exported."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(sampler=sampler)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider([self._reader], exemplar_filter=AlwaysOnExemplarFilter())
        self.tracer: Tracer = self.tracer_provider.get_tracer("tests")

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that ended, in that order."""
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        """Return the spans of a name."""
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        """Return the only span of a name."""
        [span] = self.named(name)
        return span

    def parent_of(self, span: ReadableSpan) -> str | None:
        """Return the name of the parent, which must be there; None for a root."""
        if span.parent is None:
            return None
        [parent] = [other for other in self.spans if _id_of(other) == span.parent.span_id]
        return parent.name

    def metrics(self) -> dict[str, Metric]:
        """Return the metrics so far."""
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def points(self, name: str) -> list[Any]:
        """Return the points of a metric; none where there is no such metric."""
        metric = self.metrics().get(name)
        return [] if metric is None else list(metric.data.data_points)

    def exported(self) -> str:
        """Return everything that was exported, as text."""
        data = self._reader.get_metrics_data()
        spans = [span.to_json() for span in self.spans]
        return "\n".join([*spans, "" if data is None else data.to_json()])

    def shutdown(self) -> None:
        """End the providers."""
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


def _id_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def attributes_of(carrier: Any) -> dict[str, Any]:
    """Return the attributes of a span or a point."""
    attributes: Mapping[str, Any] = carrier.attributes
    return dict(attributes)


@contextmanager
def telemetry(sampler: Sampler = ALWAYS_ON) -> Iterator[Telemetry]:
    """Export what this library does in a block."""
    memory = Telemetry(sampler)
    try:
        with instrument(tracer_provider=memory.tracer_provider, meter_provider=memory.meter_provider):
            yield memory
    finally:
        memory.shutdown()
