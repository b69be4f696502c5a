"""OpenTelemetry: what the spans and metrics of messages, calls and caches say."""

from __future__ import annotations

import asyncio
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics.export import Histogram, HistogramDataPoint, NumberDataPoint, Sum
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

import aioencrypt
from aioencrypt import (
    AWSConnection,
    CachingCMM,
    KMSMasterKeyProvider,
    Provider,
    ProviderError,
    TagError,
    UnverifiedStreamError,
    decrypt,
    decrypt_stream,
    encrypt,
    encrypt_stream,
    open as open_file,
    open_seekable,
)
from aioencrypt.integrations import opentelemetry as integration
from aioencrypt.integrations.opentelemetry import instrument
from aioencrypt.runtime.observation import watch_message
from aioencrypt.testing import InMemoryKMS
from tests.support.branch_keys import LOGICAL, TABLE, World
from tests.support.kms import EU, US, provider_for, wrapped
from tests.support.streaming import (
    KEY,
    SIGNED,
    UNSIGNED,
    Feed,
    flipped,
    on_asyncio,
    plaintext_of,
    sealed,
)
from tests.support.telemetry import Telemetry, attributes_of, telemetry

pytestmark = pytest.mark.anyio


@pytest.fixture
def exported() -> Iterator[Telemetry]:
    with telemetry() as memory:
        yield memory


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


def message_attributes(**changes: object) -> dict[str, object]:
    """Return the attributes of a whole signed message, with changes (`_` for `.`)."""
    attributes: dict[str, object] = {
        "aioencrypt.operation": "encrypt",
        "aioencrypt.mode": "whole",
        "aioencrypt.outcome": "complete",
        "aioencrypt.algorithm_suite": "ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384",
        "aioencrypt.cached": False,
    }
    return attributes | {f"aioencrypt.{name}": value for name, value in changes.items()}


# Messages


async def test_a_message_is_a_span(exported: Telemetry) -> None:
    message = await sealed(plaintext_of(5000), SIGNED, frame_length=1000)
    await decrypt(message, KEY)
    for operation in ("encrypt", "decrypt"):
        span = exported.one(f"aioencrypt.{operation}")
        assert span.kind is SpanKind.INTERNAL
        assert span.status.status_code is StatusCode.UNSET
        assert (span.parent, span.events, span.links) == (None, (), ())
        assert attributes_of(span) == message_attributes(operation=operation) | {
            "aioencrypt.message.plaintext.size": 5000,
            "aioencrypt.message.ciphertext.size": len(message),
            "aioencrypt.message.frames": 6,
        }
        scope = span.instrumentation_scope
        assert scope is not None
        assert (scope.name, scope.version) == ("aioencrypt", aioencrypt.__version__)
    assert len(exported.spans) == 2


async def test_each_way_to_work_on_a_message_has_its_mode(exported: Telemetry, tmp_path: Path) -> None:
    path = tmp_path / "file"
    async with open_file(path, "wb", provider=KEY) as writer:
        await writer.write(b"12345")
    async with open_seekable(path, KEY, accept_unverified_signature=True) as seekable:
        await seekable.read_at(1, 2)
    async with encrypt_stream(Feed(b"12345"), KEY) as encrypting:
        message = await encrypting.read()
    async with decrypt_stream(Feed(message), KEY) as decrypting:
        await decrypting.read()
    await decrypt(message, KEY)
    modes = [attributes_of(span)["aioencrypt.mode"] for span in exported.spans]
    assert modes == ["file", "seekable", "stream", "stream", "whole"]
    sizes = [attributes_of(span)["aioencrypt.message.plaintext.size"] for span in exported.spans]
    assert sizes == [5, 2, 5, 5, 5]


async def test_an_unsampled_span_costs_no_metric() -> None:
    with telemetry(ALWAYS_OFF) as memory:
        await sealed(b"x", UNSIGNED)
    assert memory.spans == []
    [point] = memory.points("aioencrypt.message.duration")
    assert point.count == 1


async def leave(message: bytes) -> None:
    async with decrypt_stream(Feed(message[:1000], message[1000:]), KEY) as stream:
        await stream.read(1)


async def abandon(message: bytes) -> None:
    async with decrypt_stream(Feed(message), KEY) as stream:
        stream.abandon()


async def tamper(message: bytes) -> None:
    await decrypt(flipped(message, -1), KEY)


async def raise_inside(message: bytes) -> None:
    async with decrypt_stream(Feed(message), KEY):
        raise LookupError


async def cancel(message: bytes) -> None:
    with anyio.CancelScope() as scope:
        async with decrypt_stream(Feed(message), KEY):
            scope.cancel()
            await checkpoint()


@on_asyncio
@pytest.mark.parametrize(
    ("use", "raised", "outcome", "error"),
    [
        (abandon, None, "abandoned", None),
        (leave, UnverifiedStreamError, "failed", "aioencrypt.errors.UnverifiedStreamError"),
        (tamper, TagError, "failed", "aioencrypt.errors.TagError"),
        (raise_inside, LookupError, "failed", "LookupError"),
        (cancel, None, "cancelled", "asyncio.exceptions.CancelledError"),
    ],
)
async def test_a_span_says_how_its_message_ended(
    exported: Telemetry,
    use: Callable[[bytes], Any],
    raised: type[Exception] | None,
    outcome: str,
    error: str | None,
) -> None:
    message = await sealed(plaintext_of(5000), UNSIGNED)
    if raised is None:
        await use(message)
    else:
        with pytest.raises(raised):
            await use(message)
    span = exported.one("aioencrypt.decrypt")
    attributes = attributes_of(span)
    assert attributes["aioencrypt.outcome"] == outcome
    assert attributes.get("error.type") == error
    assert span.status.status_code is (StatusCode.UNSET if error is None else StatusCode.ERROR)
    assert (span.status.description, span.events) == (None, ())
    failed = attributes_of(exported.points("aioencrypt.message.duration")[1])
    assert (failed["aioencrypt.outcome"], failed.get("error.type")) == (outcome, error)


async def test_a_header_that_is_not_verified_names_no_suite(exported: Telemetry) -> None:
    message = await sealed(b"x", SIGNED)
    other = aioencrypt.RawAESMasterKey("tests", "other", wrapping_key=bytes(32))
    with pytest.raises(ProviderError):
        await decrypt(message, other)
    assert not {"aioencrypt.algorithm_suite", "aioencrypt.cached"} & set(
        attributes_of(exported.one("aioencrypt.decrypt"))
    )


# Calls


async def test_a_call_of_kms_is_a_span_by_the_conventions(exported: Telemetry, kms: InMemoryKMS) -> None:
    first, second = kms.create_key(region=US), kms.create_key(region=EU)
    await encrypt(b"x", provider_for(kms, first, second))
    for name, region, key in (("GenerateDataKey", US, first), ("Encrypt", EU, second)):
        span = exported.one(f"KMS.{name}")
        assert span.kind is SpanKind.CLIENT
        assert span.status.status_code is StatusCode.UNSET
        attributes = attributes_of(span)
        assert len(attributes.pop("aws.request_id")) == 36
        assert attributes == {
            "rpc.system": "aws-api",
            "rpc.service": "KMS",
            "rpc.method": name,
            "cloud.region": region,
            "aioencrypt.kms.key_id": key,
        }
        assert exported.parent_of(span) == "aioencrypt.encrypt"


async def test_a_call_without_a_region_names_none(exported: Telemetry, kms: InMemoryKMS) -> None:
    kms.create_alias("alias/orders", kms.create_key(region=US))
    await encrypt(b"x", KMSMasterKeyProvider(["alias/orders"], connection=kms.connection(US)))
    attributes = attributes_of(exported.one("KMS.GenerateDataKey"))
    assert "cloud.region" not in attributes
    assert attributes["aioencrypt.kms.key_id"] == "alias/orders"


async def test_calls_of_dynamodb_name_the_table(exported: Telemetry) -> None:
    world = World.new()
    async with world.store() as store:
        await store.create_key_store()
        await store.create_key()
    assert [span.name for span in exported.spans if span.name.startswith("DynamoDB")] == [
        "DynamoDB.DescribeTable",
        "DynamoDB.CreateTable",
        "DynamoDB.TransactWriteItems",
    ]
    describe = exported.one("DynamoDB.DescribeTable")
    attributes = attributes_of(describe)
    assert attributes.pop("aws.request_id")
    assert attributes == {
        "rpc.system": "aws-api",
        "rpc.service": "DynamoDB",
        "rpc.method": "DescribeTable",
        "cloud.region": "us-east-1",
        "db.system.name": "aws.dynamodb",
        "aws.dynamodb.table_names": (TABLE,),
        # There is no table yet, and that is what the call was to find out.
        "error.type": "ResourceNotFoundException",
    }
    assert describe.kind is SpanKind.CLIENT
    assert LOGICAL not in exported.exported()


@on_asyncio
@pytest.mark.parametrize(
    ("fault", "error", "answered"),
    [
        ("disabled", "DisabledException", True),
        ("outage", "aioencrypt.testing", False),
        ("timeout", "TimeoutError", False),
    ],
)
async def test_a_call_that_fails_says_why(
    exported: Telemetry, kms: InMemoryKMS, fault: str, error: str, answered: bool
) -> None:
    key = kms.create_key(region=US)
    provider = provider_for(kms, key, timeout=0.01 if fault == "timeout" else 10)
    if fault == "disabled":
        kms.disable_key(key)
    elif fault == "outage":
        kms.outage(US)
    else:
        kms.latency = 60
    with pytest.raises(ProviderError):
        await encrypt(b"x", provider)
    span = exported.one("KMS.GenerateDataKey")
    attributes = attributes_of(span)
    assert span.status.status_code is StatusCode.ERROR
    assert (span.status.description, span.events) == (None, ())
    if fault == "outage":
        error = attributes["error.type"]
        assert "Connect" in error
    assert attributes["error.type"] == error
    assert ("aws.request_id" in attributes) is answered
    [point] = exported.points("rpc.client.call.duration")
    assert attributes_of(point)["error.type"] == error
    message = exported.one("aioencrypt.encrypt")
    assert attributes_of(message)["error.type"] == "aioencrypt.errors.ProviderError"


@on_asyncio
async def test_a_call_that_is_cancelled_ends_its_span(exported: Telemetry, kms: InMemoryKMS) -> None:
    calling = anyio.Event()

    async def around(*_: Any) -> Any:
        calling.set()
        await anyio.sleep_forever()

    provider = KMSMasterKeyProvider(
        [kms.create_key(region=US)], connection=AWSConnection(kms=wrapped(kms, around, US))
    )
    task = asyncio.create_task(encrypt(b"x", provider))
    await calling.wait()
    task.cancel()
    await asyncio.wait([task])
    assert [
        (span.name, attributes_of(span)["error.type"], span.status.status_code) for span in exported.spans
    ] == [
        ("KMS.GenerateDataKey", "asyncio.exceptions.CancelledError", StatusCode.ERROR),
        ("aioencrypt.encrypt", "asyncio.exceptions.CancelledError", StatusCode.ERROR),
    ]


# Metrics


async def test_metrics_have_names_units_and_bounds(exported: Telemetry, kms: InMemoryKMS) -> None:
    await encrypt(b"x", CachingCMM(provider_for(kms, kms.create_key()), max_age=60))
    metrics = exported.metrics()
    assert {name: metric.unit for name, metric in metrics.items()} == {
        "aioencrypt.message.duration": "s",
        "aioencrypt.message.plaintext.size": "By",
        "aioencrypt.message.ciphertext.size": "By",
        "aioencrypt.message.frames": "{frame}",
        "aioencrypt.cache.answers": "{answer}",
        "rpc.client.call.duration": "s",
    }
    for name, metric in metrics.items():
        counts = name in ("aioencrypt.message.frames", "aioencrypt.cache.answers")
        assert isinstance(metric.data, Sum if counts else Histogram)
        assert metric.description
        if not counts:
            [point] = exported.points(name)
            bounds = list(point.explicit_bounds)
            assert bounds == sorted(set(bounds))
            assert bounds[0] == (0.0001 if metric.unit == "s" else 1024)


async def test_messages_are_counted_by_what_they_have_in_common(exported: Telemetry) -> None:
    lengths = [0, 1, 1000, 1001]
    messages = [await sealed(plaintext_of(length), SIGNED, frame_length=1000) for length in lengths]
    [size] = exported.points("aioencrypt.message.plaintext.size")
    assert (size.count, size.sum) == (4, 2002)
    assert attributes_of(size) == message_attributes()
    [size] = exported.points("aioencrypt.message.ciphertext.size")
    assert (size.count, size.sum) == (4, sum(map(len, messages)))
    [frames] = exported.points("aioencrypt.message.frames")
    assert frames.value == 1 + 1 + 2 + 2
    [duration] = exported.points("aioencrypt.message.duration")
    assert (duration.count, attributes_of(duration)) == (4, message_attributes())
    assert duration.sum > 0
    await sealed(b"x", UNSIGNED)
    unsigned = message_attributes(algorithm_suite=UNSIGNED.name)
    assert [attributes_of(point) for point in exported.points("aioencrypt.message.duration")] == [
        message_attributes(),
        unsigned,
    ]


async def test_bytes_of_messages_that_were_left_count_too(exported: Telemetry) -> None:
    message = await sealed(plaintext_of(50_000), UNSIGNED, frame_length=1000)
    async with decrypt_stream(Feed(message[:20_000]), KEY) as stream:
        given = len(await stream.read(10**6))
        stream.abandon()
    _, size = exported.points("aioencrypt.message.plaintext.size")
    assert size.sum == given > 0
    _, size = exported.points("aioencrypt.message.ciphertext.size")
    assert size.sum == 20_000
    _, frames = exported.points("aioencrypt.message.frames")
    assert frames.value == given / 1000


async def test_answers_of_caches_are_counted(exported: Telemetry, kms: InMemoryKMS) -> None:
    async with CachingCMM(provider_for(kms, kms.create_key()), max_age=60) as manager:
        for _ in range(5):
            await encrypt(b"x", manager)
        statistics = manager.statistics
    answers = {
        attributes_of(point)["aioencrypt.cache.answer"]: (point.value, attributes_of(point))
        for point in exported.points("aioencrypt.cache.answers")
    }
    assert answers == {
        answer: (count, {"aioencrypt.cache.answer": answer, "aioencrypt.cache.content": "data keys"})
        for answer, count in {"miss": 1, "hit": 4}.items()
    }
    assert (statistics.misses, statistics.hits) == (1, 4)
    cached = [attributes_of(span)["aioencrypt.cached"] for span in exported.named("aioencrypt.encrypt")]
    assert cached == [False, True, True, True, True]


async def test_calls_are_timed(exported: Telemetry, kms: InMemoryKMS) -> None:
    provider = provider_for(kms, kms.create_key(region=US))
    for _ in range(3):
        await decrypt((await encrypt(b"x", provider)).ciphertext, provider)
    points = {attributes_of(p)["rpc.method"]: p for p in exported.points("rpc.client.call.duration")}
    assert {name: point.count for name, point in points.items()} == {"GenerateDataKey": 3, "Decrypt": 3}
    assert attributes_of(points["Decrypt"]) == {
        "rpc.system": "aws-api",
        "rpc.service": "KMS",
        "rpc.method": "Decrypt",
        "cloud.region": US,
    }


async def test_examples_of_values_name_the_span(exported: Telemetry, kms: InMemoryKMS) -> None:
    await encrypt(b"x", CachingCMM(provider_for(kms, kms.create_key()), max_age=60))
    metrics = exported.metrics()
    for name, span in (
        ("aioencrypt.message.duration", "aioencrypt.encrypt"),
        ("aioencrypt.message.plaintext.size", "aioencrypt.encrypt"),
        ("aioencrypt.message.ciphertext.size", "aioencrypt.encrypt"),
        ("aioencrypt.message.frames", "aioencrypt.encrypt"),
        ("aioencrypt.cache.answers", "aioencrypt.encrypt"),
        ("rpc.client.call.duration", "KMS.GenerateDataKey"),
    ):
        context = exported.one(span).get_span_context()
        assert context is not None
        [point] = metrics[name].data.data_points
        assert isinstance(point, NumberDataPoint | HistogramDataPoint)
        assert [example.span_id for example in point.exemplars] == [context.span_id], name


# Instrumentation


async def test_nothing_is_recorded_before_and_after() -> None:
    memory = Telemetry()
    providers: Any = {"tracer_provider": memory.tracer_provider, "meter_provider": memory.meter_provider}
    await sealed(b"")
    with instrument(**providers) as instrumentation:
        await sealed(b"")
    await sealed(b"")
    assert len(memory.spans) == 1
    instrumentation.uninstrument()
    assert watch_message("encrypt", "whole") is None
    again = instrument(**providers)
    await sealed(b"")
    again.uninstrument()
    await sealed(b"")
    assert len(memory.spans) == 2
    memory.shutdown()


async def test_a_stream_that_began_before_the_end_is_recorded() -> None:
    memory = Telemetry()
    message = await sealed(b"x")
    with instrument(tracer_provider=memory.tracer_provider, meter_provider=memory.meter_provider):
        stream = await decrypt_stream(message, KEY).__aenter__()
    assert memory.spans == []
    await stream.read()
    await stream.aclose()
    assert attributes_of(memory.one("aioencrypt.decrypt"))["aioencrypt.outcome"] == "complete"
    memory.shutdown()


async def test_two_instrumentations_do_not_know_each_other(exported: Telemetry) -> None:
    with telemetry() as other:
        await sealed(b"")
    await sealed(b"")
    assert (len(exported.spans), len(other.spans)) == (2, 1)


async def test_a_second_instrumentation_is_ignored_with_a_warning(
    exported: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    providers: Any = {"tracer_provider": exported.tracer_provider, "meter_provider": exported.meter_provider}
    second = instrument(**providers)
    [record] = caplog.records
    assert (record.name, record.levelname) == ("aioencrypt", "WARNING")
    assert record.getMessage() == "instrument() was called before with these providers, and is ignored"
    await sealed(b"")
    assert len(exported.spans) == 1
    [point] = exported.points("aioencrypt.message.duration")
    assert point.count == 1
    second.uninstrument()
    await sealed(b"")
    assert len(exported.spans) == 2


async def test_an_end_that_is_said_twice_is_not_that_of_the_next_one() -> None:
    memory = Telemetry()
    providers: Any = {"tracer_provider": memory.tracer_provider, "meter_provider": memory.meter_provider}
    first = instrument(**providers)
    first.uninstrument()
    with instrument(**providers):
        first.uninstrument()
        with instrument(**providers):
            await sealed(b"")
        await sealed(b"")
    assert len(memory.spans) == 2
    memory.shutdown()


@pytest.mark.parametrize("named", [False, True])
async def test_the_global_providers_are_the_same_however_they_are_given(
    named: bool, caplog: pytest.LogCaptureFixture
) -> None:
    providers: Any = {}
    if named:
        providers = {
            "tracer_provider": trace.get_tracer_provider(),
            "meter_provider": metrics.get_meter_provider(),
        }
    with instrument(), instrument(**providers):
        assert len(caplog.records) == 1
    assert watch_message("encrypt", "whole") is None


async def test_without_an_sdk_it_does_nothing() -> None:
    provider: Provider = KEY
    with instrument():
        message, _ = await encrypt(b"x", provider)
        assert (await decrypt(message, provider)).plaintext == b"x"


def test_global_providers_are_used_where_none_is_given() -> None:
    code = """
import anyio
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from aioencrypt import RawAESMasterKey, encrypt
from aioencrypt.integrations.opentelemetry import instrument

instrument()
exporter, reader, tracers = InMemorySpanExporter(), InMemoryMetricReader(), TracerProvider()
tracers.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(tracers)
metrics.set_meter_provider(MeterProvider([reader]))
anyio.run(encrypt, b"x", RawAESMasterKey("tests", "key", wrapping_key=bytes(32)))
print([span.name for span in exporter.get_finished_spans()])
[resource] = reader.get_metrics_data().resource_metrics
print(len(resource.scope_metrics[0].metrics))
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.splitlines() == ["['aioencrypt.encrypt']", "4"]


def test_without_opentelemetry_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ImportError, match=r"pip install 'aioencrypt\[opentelemetry\]'") as caught:
        runpy.run_path(integration.__file__)
    assert isinstance(caught.value.__cause__, ImportError)


def test_the_package_does_not_import_the_sdk() -> None:
    code = (
        "import sys, aioencrypt.integrations.opentelemetry; "
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
