"""OpenTelemetry as a type checker sees it: the rules of this file are those of `api.py`."""

from __future__ import annotations

from typing import assert_type

from opentelemetry import metrics, trace

from aioencrypt.integrations.opentelemetry import Instrumentation, instrument


def instrumentations() -> None:
    assert_type(instrument(), Instrumentation)
    instrument(
        tracer_provider=trace.get_tracer_provider(), meter_provider=metrics.get_meter_provider()
    ).uninstrument()
    instrument(tracer_provider=None, meter_provider=None)
    with instrument() as instrumentation:
        assert_type(instrumentation, Instrumentation)
    assert_type(instrumentation.uninstrument(), None)
    instrument(trace.get_tracer_provider())  # type: ignore[call-arg]
    instrument(tracer_provider=trace.get_tracer("a tracer"))  # type: ignore[arg-type]
