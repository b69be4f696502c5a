"""OpenTelemetry: spans and metrics for messages, AWS calls and caches.

Names follow the semantic conventions of OpenTelemetry where these exist. Only names, counts and types are
exported: no plaintext, keys, encryption context, or text of an exception.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.metadata import version
from types import TracebackType
from typing import Self

try:
    from opentelemetry import metrics, trace
except ImportError as _error:
    raise ImportError(
        "aioencrypt.integrations.opentelemetry needs OpenTelemetry: pip install 'aioencrypt[opentelemetry]'"
    ) from _error

from aioencrypt.runtime.observation import CacheAnswer, Message, MessageEnd, ServiceCall, ServiceEnd, observe

__all__ = ["Instrumentation", "instrument"]


def __dir__() -> list[str]:
    return __all__


Attributes = dict[str, str | bool | int | list[str]]

_SECONDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    10,
    60,
    600,
)
_BYTES = tuple(1024 * 8**power for power in range(10))


class Instrumentation:
    """Records spans and metrics of this library until `uninstrument` or the end of `with`."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop

    def uninstrument(self) -> None:
        """Stop recording. Operations in progress are still recorded when they end."""
        self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.uninstrument()


def instrument(
    *,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> Instrumentation:
    """Record spans and metrics of all operations that start from now on, in this process.

    By default, the global providers of OpenTelemetry are used. A second call with the same providers only
    logs a warning, and uninstrumenting it has no effect.
    """
    providers = (
        None if tracer_provider is trace.get_tracer_provider() else tracer_provider,
        None if meter_provider is metrics.get_meter_provider() else meter_provider,
    )
    release = version("aioencrypt")
    observer = _Observer(
        providers,
        trace.get_tracer("aioencrypt", release, tracer_provider),
        metrics.get_meter("aioencrypt", release, meter_provider),
    )
    try:
        return Instrumentation(observe(observer))
    except ValueError:
        _logger.warning("instrument() was called before with these providers, and is ignored")
        return Instrumentation(_nothing)


def _nothing() -> None:
    """Stop nothing."""


class _Instruments:
    def __init__(self, meter: metrics.Meter) -> None:
        self.message_duration = meter.create_histogram(
            "aioencrypt.message.duration",
            "s",
            "From the beginning of a message to its end, with what its caller did meanwhile.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.plaintext_size = meter.create_histogram(
            "aioencrypt.message.plaintext.size",
            "By",
            "Plaintext that was taken, or handed out.",
            explicit_bucket_boundaries_advisory=_BYTES,
        )
        self.ciphertext_size = meter.create_histogram(
            "aioencrypt.message.ciphertext.size",
            "By",
            "Ciphertext that was handed out, or taken.",
            explicit_bucket_boundaries_advisory=_BYTES,
        )
        self.frames = meter.create_counter("aioencrypt.message.frames", "{frame}", "Frames sealed or opened.")
        self.call_duration = meter.create_histogram(
            "rpc.client.call.duration",
            "s",
            "Calls of AWS, with all retries of the client.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.cache_answers = meter.create_counter(
            "aioencrypt.cache.answers", "{answer}", "Answers of the caches of keys."
        )


_Providers = tuple[trace.TracerProvider | None, metrics.MeterProvider | None]


class _Observer:
    """Two observers are equal if they record to the same providers."""

    def __init__(self, providers: _Providers, tracer: trace.Tracer, meter: metrics.Meter) -> None:
        self.providers = providers
        self._tracer = tracer
        self._instruments = _Instruments(meter)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Observer) and other.providers == self.providers

    def __hash__(self) -> int:
        return hash(self.providers)

    def message_began(self, message: Message) -> _MessageSpan:
        attributes: Attributes = {"aioencrypt.operation": message.operation, "aioencrypt.mode": message.mode}
        span = self._tracer.start_span(f"aioencrypt.{message.operation}", attributes=attributes)
        return _MessageSpan(self._instruments, span, attributes)

    def call_began(self, call: ServiceCall) -> _CallSpan:
        attributes: Attributes = {
            "rpc.system": "aws-api",
            "rpc.service": call.service,
            "rpc.method": call.operation,
        }
        if call.region is not None:
            attributes["cloud.region"] = call.region
        name = f"{call.service}.{call.operation}"
        span = self._tracer.start_span(
            name, kind=trace.SpanKind.CLIENT, attributes=attributes | _target(call)
        )
        return _CallSpan(self._instruments, span, attributes)

    def cache_answered(self, answer: CacheAnswer) -> None:
        attributes = {"aioencrypt.cache.answer": answer.answer, "aioencrypt.cache.content": answer.content}
        self._instruments.cache_answers.add(1, attributes)


_logger = logging.getLogger("aioencrypt")


def _target(call: ServiceCall) -> Attributes:
    if call.service == "DynamoDB":
        return {"db.system.name": "aws.dynamodb", "aws.dynamodb.table_names": [call.target]}
    return {"aioencrypt.kms.key_id": call.target}


class _Span:
    """A span. Its metrics share `attributes`, so these have few distinct values."""

    def __init__(self, instruments: _Instruments, span: trace.Span, attributes: Attributes) -> None:
        self._instruments = instruments
        self._span = span
        self._attributes = attributes

    def current(self) -> AbstractContextManager[object]:
        # Do not record exceptions: their text may hold anything.
        return trace.use_span(self._span, record_exception=False, set_status_on_exception=False)

    def _end(self, error: str | None, details: Attributes) -> None:
        if error is not None:
            self._attributes["error.type"] = error
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.set_attributes(self._attributes | details)
        self._span.end()


class _MessageSpan(_Span):
    def ended(self, end: MessageEnd) -> None:
        tally, instruments = end.tally, self._instruments
        self._attributes["aioencrypt.outcome"] = end.outcome
        if tally.algorithm_suite is not None:
            self._attributes["aioencrypt.algorithm_suite"] = tally.algorithm_suite.name
            self._attributes["aioencrypt.cached"] = tally.cached
        sizes: Attributes = {
            "aioencrypt.message.plaintext.size": tally.plaintext_length,
            "aioencrypt.message.ciphertext.size": tally.ciphertext_length,
            "aioencrypt.message.frames": tally.frames,
        }
        self._end(None if end.error is None else _name_of(end.error), sizes)
        # So that an example of a value names this span.
        context = trace.set_span_in_context(self._span)
        instruments.message_duration.record(end.seconds, self._attributes, context)
        instruments.plaintext_size.record(tally.plaintext_length, self._attributes, context)
        instruments.ciphertext_size.record(tally.ciphertext_length, self._attributes, context)
        instruments.frames.add(tally.frames, self._attributes, context)


class _CallSpan(_Span):
    def ended(self, end: ServiceEnd) -> None:
        error = None if end.error is None else end.code or _name_of(end.error)
        self._end(error, {} if end.request_id is None else {"aws.request_id": end.request_id})
        context = trace.set_span_in_context(self._span)
        self._instruments.call_duration.record(end.seconds, self._attributes, context)


def _name_of(error: type[BaseException]) -> str:
    name = error.__qualname__
    return name if error.__module__ == "builtins" else f"{error.__module__}.{name}"
