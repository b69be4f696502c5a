"""Traces and metrics of an upload, with its calls of KMS: where the time goes, and how much went through.

    python opentelemetry_traces.py

KMS is the in-memory one of `aioencrypt.testing`, with the time that a call over the network takes. The
exporters write into memory, and a summary is printed; a service has exporters to a collector instead, and
calls `instrument()` without arguments.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aioencrypt import (
    CachingCMM,
    KMSMasterKeyProvider,
    Provider,
    ProviderError,
    decrypt,
    encrypt,
    encrypt_stream,
)
from aioencrypt.integrations.opentelemetry import instrument
from aioencrypt.testing import InMemoryKMS

exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
tracer_provider, meter_provider = TracerProvider(), MeterProvider([reader])
tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
tracer = tracer_provider.get_tracer("opentelemetry_traces.py")


async def body() -> AsyncIterator[bytes]:
    """Yield what a browser sends."""
    for _ in range(16):
        await asyncio.sleep(0)
        yield b"quarterly figures" * 4096


async def upload(provider: Provider) -> bytes:
    """Encrypt an upload, as the handler of a web service does."""
    with tracer.start_as_current_span("POST /reports"):
        async with encrypt_stream(body(), provider, encryption_context={"tenant": "42"}) as stream:
            return await stream.read()


async def main() -> None:
    kms = InMemoryKMS()
    us, eu = kms.create_key(region="us-east-1"), kms.create_key(region="eu-west-1")
    kms.latency = 0.02
    provider = KMSMasterKeyProvider([us, eu], connection=kms.connection("us-east-1", "eu-west-1"))

    with instrument(tracer_provider=tracer_provider, meter_provider=meter_provider):
        message = await upload(provider)
        async with CachingCMM(provider, max_age=300) as manager:
            for _ in range(10):
                await encrypt(b"order", manager)

        kms.disable_key(us)
        kms.disable_key(eu)
        with tracer.start_as_current_span("GET /reports"):
            try:
                await decrypt(message, provider)
            except ProviderError as error:
                print(f"refused after {len(error.attempts)} attempts\n")

    spans = exporter.get_finished_spans()
    for root in spans:
        if root.parent is None and root.name != "aioencrypt.encrypt":
            show(root, spans)
    print()
    show_metrics()


def show(span: ReadableSpan, spans: Sequence[ReadableSpan], indent: str = "") -> None:
    """Print a span and what is inside it."""
    attributes = span.attributes or {}
    told = ("cloud.region", "aioencrypt.message.plaintext.size", "aioencrypt.outcome", "error.type")
    print(f"{indent}{span.name}:", *(attributes[name] for name in told if name in attributes))
    for child in sorted(spans, key=lambda child: child.start_time or 0):
        if child.parent and span.context and child.parent.span_id == span.context.span_id:
            show(child, spans, indent + "  ")


def show_metrics() -> None:
    """Print the metrics, summed up over their attributes."""
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                total = 0.0
                for point in metric.data.data_points:
                    if isinstance(point, HistogramDataPoint):
                        total += point.sum
                    elif isinstance(point, NumberDataPoint):
                        total += point.value
                figure = f"{total:.2f}" if metric.unit == "s" else f"{total:,.0f}"
                print(f"{metric.name}: {figure} {metric.unit}")


if __name__ == "__main__":
    asyncio.run(main())
