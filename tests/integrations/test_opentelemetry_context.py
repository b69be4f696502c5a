"""OpenTelemetry: which span is inside which, and that nothing stays current where it does not belong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan

from aioencrypt import (
    AWSConnection,
    CachingCMM,
    KMSMasterKeyProvider,
    ProviderError,
    decrypt,
    decrypt_stream,
    encrypt,
    encrypt_stream,
    open_seekable,
)
from aioencrypt.testing import InMemoryKMS
from tests.support.caching import Clock
from tests.support.cancelling import settle
from tests.support.kms import US, Call, provider_for, wrapped
from tests.support.streaming import KEY, Feed, Stalling, on_asyncio, on_asyncio_and_uvloop, plaintext_of
from tests.support.telemetry import Telemetry, attributes_of, telemetry

pytestmark = pytest.mark.anyio


@pytest.fixture
def exported(caplog: pytest.LogCaptureFixture) -> Iterator[Telemetry]:
    """Export, and see that nothing is left current, and that OpenTelemetry has nothing to complain of."""
    before = trace.get_current_span()
    with telemetry() as memory:
        yield memory
    assert trace.get_current_span() is before
    complaints = [record for record in caplog.records if record.name.startswith("opentelemetry")]
    assert [record for record in complaints if record.levelno >= logging.WARNING] == []


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


def id_of(span: ReadableSpan) -> int:
    found = span.get_span_context()
    assert found is not None
    return found.span_id


def parents(exported: Telemetry, name: str) -> list[str | None]:
    return [exported.parent_of(span) for span in exported.named(name)]


async def test_spans_are_children_of_the_callers_span(exported: Telemetry, kms: InMemoryKMS) -> None:
    provider = provider_for(kms, kms.create_key(), kms.create_key())
    with exported.tracer.start_as_current_span("request") as request:
        message, _ = await encrypt(b"x", provider)
        async with decrypt_stream(Feed(message), provider) as stream:
            assert trace.get_current_span() is request
            await stream.read()
            assert trace.get_current_span() is request
        assert trace.get_current_span() is request
    assert parents(exported, "aioencrypt.encrypt") == ["request"]
    assert parents(exported, "aioencrypt.decrypt") == ["request"]
    assert parents(exported, "KMS.GenerateDataKey") == ["aioencrypt.encrypt"]
    assert parents(exported, "KMS.Encrypt") == ["aioencrypt.encrypt"]
    assert parents(exported, "KMS.Decrypt") == ["aioencrypt.decrypt"]
    traces = {span.get_span_context().trace_id for span in exported.spans}  # type: ignore[union-attr]
    assert len(traces) == 1


async def test_a_call_of_the_providers_own_is_a_child_of_the_callers_span(
    exported: Telemetry, kms: InMemoryKMS
) -> None:
    provider = provider_for(kms, kms.create_key())
    message, _ = await encrypt(b"x", provider)
    with exported.tracer.start_as_current_span("request"):
        async with open_seekable(message, provider, accept_unverified_signature=True) as stream:
            with exported.tracer.start_as_current_span("read"):
                await stream.read_at(0, 1)
    assert parents(exported, "KMS.Decrypt") == ["aioencrypt.decrypt"]
    assert parents(exported, "aioencrypt.decrypt") == ["request"]


async def test_a_message_inside_another_is_a_sibling(exported: Telemetry, kms: InMemoryKMS) -> None:
    provider = provider_for(kms, kms.create_key())
    message, _ = await encrypt(plaintext_of(20_000), provider)
    with exported.tracer.start_as_current_span("request"):
        async with (
            decrypt_stream(Feed(message), provider) as outer,
            encrypt_stream(outer, provider) as inner,
        ):
            async for _ in inner:
                await encrypt(b"x", provider)
    assert set(parents(exported, "aioencrypt.decrypt")) == {"request"}
    assert set(parents(exported, "aioencrypt.encrypt")[1:]) == {"request"}


async def test_the_client_sees_the_call_as_current_and_the_callers_baggage(
    exported: Telemetry, kms: InMemoryKMS
) -> None:
    seen = []

    async def around(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        # as the instrumentation of an HTTP client would
        with exported.tracer.start_as_current_span("POST"):
            seen.append(baggage.get_baggage("tenant"))
            return await call()

    provider = KMSMasterKeyProvider(
        [kms.create_key(region=US)], connection=AWSConnection(kms=wrapped(kms, around, US))
    )
    token = context.attach(baggage.set_baggage("tenant", "42"))
    try:
        await encrypt(b"x", provider)
    finally:
        context.detach(token)
    assert parents(exported, "POST") == ["KMS.GenerateDataKey"]
    assert seen == ["42"]


async def test_concurrent_tasks_nest_on_their_own(exported: Telemetry, kms: InMemoryKMS) -> None:
    arrived = 0
    all_there = anyio.Event()

    async def around(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        nonlocal arrived
        arrived += 1
        if arrived == 20:
            all_there.set()
        await all_there.wait()
        return await call()

    async def request(number: int) -> None:
        with exported.tracer.start_as_current_span(f"request {number}") as span:
            async with encrypt_stream(Feed(b"x" * number), provider) as stream:
                assert trace.get_current_span() is span
                await stream.read()

    provider = KMSMasterKeyProvider(
        [kms.create_key(region=US)], connection=AWSConnection(kms=wrapped(kms, around, US))
    )
    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(request, number)
    spans = {id_of(span): span for span in exported.spans}
    seen = set()
    for call in exported.named("KMS.GenerateDataKey"):
        assert call.parent is not None
        message = spans[call.parent.span_id]
        assert message.parent is not None
        request_span = spans[message.parent.span_id]
        size = attributes_of(message)["aioencrypt.message.plaintext.size"]
        assert request_span.name == f"request {size}"
        seen.add(size)
    assert seen == set(range(20))


# Background work


async def test_one_fetch_for_many_is_inside_the_first_message(exported: Telemetry, kms: InMemoryKMS) -> None:
    calling, go = anyio.Event(), anyio.Event()

    async def around(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        calling.set()
        await go.wait()
        return await call()

    async def request(number: int) -> None:
        with exported.tracer.start_as_current_span(f"request {number}"):
            await encrypt(b"x", manager)

    provider = KMSMasterKeyProvider(
        [kms.create_key(region=US)], connection=AWSConnection(kms=wrapped(kms, around, US))
    )
    async with CachingCMM(provider, max_age=60) as manager, anyio.create_task_group() as group:
        group.start_soon(request, 0)
        await calling.wait()
        for number in range(1, 10):
            group.start_soon(request, number)
        await settle()
        go.set()
    call = exported.one("KMS.GenerateDataKey")
    messages = {id_of(span): span for span in exported.named("aioencrypt.encrypt")}
    assert call.parent is not None
    assert exported.parent_of(messages[call.parent.span_id]) == "request 0"
    assert len(messages) == 10


async def test_a_fetch_outlives_its_first_message_and_is_still_inside_it(
    exported: Telemetry, kms: InMemoryKMS
) -> None:
    calling, go = anyio.Event(), anyio.Event()

    async def around(operation: str, parameters: Mapping[str, Any], call: Call) -> Any:
        calling.set()
        await go.wait()
        return await call()

    provider = KMSMasterKeyProvider(
        [kms.create_key(region=US)], connection=AWSConnection(kms=wrapped(kms, around, US))
    )
    async with CachingCMM(provider, max_age=60) as manager:
        async with anyio.create_task_group() as group:
            group.start_soon(encrypt, b"x", manager)
            await calling.wait()
            group.cancel_scope.cancel()
        assert attributes_of(exported.one("aioencrypt.encrypt"))["aioencrypt.outcome"] == "cancelled"
        go.set()
        assert (await encrypt(b"x", manager)).provenance.cached is True
    assert parents(exported, "KMS.GenerateDataKey") == ["aioencrypt.encrypt"]
    first, second = exported.named("aioencrypt.encrypt")
    call = exported.one("KMS.GenerateDataKey")
    assert call.parent is not None
    assert call.parent.span_id == id_of(first) != id_of(second)
    assert "error.type" not in attributes_of(call)


async def test_a_refresh_is_inside_the_message_that_found_it_due(
    exported: Telemetry, kms: InMemoryKMS
) -> None:
    clock = Clock()
    provider = provider_for(kms, kms.create_key())
    async with CachingCMM(provider, max_age=100, refresh_ahead=10, clock=clock) as manager:
        await encrypt(b"x", manager)
        clock.now += 95
        await encrypt(b"x", manager)
        await settle()
        await encrypt(b"x", manager)
    messages = [id_of(span) for span in exported.named("aioencrypt.encrypt")]
    fetched_by = [span.parent.span_id for span in exported.named("KMS.GenerateDataKey") if span.parent]
    assert fetched_by == messages[:2]
    answers = {
        attributes_of(point)["aioencrypt.cache.answer"]: point.value
        for point in exported.points("aioencrypt.cache.answers")
    }
    assert answers == {"miss": 1, "refresh": 1, "hit": 1}


# Lives of streams


@on_asyncio_and_uvloop
async def test_a_stream_may_be_left_by_another_task(exported: Telemetry) -> None:
    stack = AsyncExitStack()
    message = await encrypt(b"x", KEY)

    async def enter() -> Any:
        with exported.tracer.start_as_current_span("request"):
            return await stack.enter_async_context(decrypt_stream(Feed(message.ciphertext), KEY))

    async def leave() -> None:
        await stream.read()
        await stack.aclose()

    stream = await asyncio.create_task(enter())
    await asyncio.create_task(leave())
    assert parents(exported, "aioencrypt.decrypt") == ["request"]
    assert attributes_of(exported.one("aioencrypt.decrypt"))["aioencrypt.outcome"] == "complete"


async def test_a_stream_lives_in_a_generator(exported: Telemetry) -> None:
    message, _ = await encrypt(plaintext_of(100_000), KEY)

    async def download() -> AsyncIterator[bytes]:
        async with decrypt_stream(Feed(message), KEY) as stream:
            async for chunk in stream:
                yield chunk

    with exported.tracer.start_as_current_span("request") as span:
        async for _ in download():
            assert trace.get_current_span() is span
    assert parents(exported, "aioencrypt.decrypt") == ["request"]


async def test_a_generator_that_is_closed_ends_its_span(exported: Telemetry) -> None:
    message, _ = await encrypt(plaintext_of(100_000), KEY)

    async def download() -> Any:
        async with decrypt_stream(Feed(message), KEY) as stream:
            yield await stream.read(1)

    generator = download()
    assert await anext(generator) == plaintext_of(1)
    await generator.aclose()
    attributes = attributes_of(exported.one("aioencrypt.decrypt"))
    assert attributes["aioencrypt.outcome"] == "cancelled"
    assert attributes["error.type"] == "GeneratorExit"


async def test_entry_that_is_cancelled_leaves_nothing_current(exported: Telemetry) -> None:
    source = Stalling(b"\x02\x05")
    async with anyio.create_task_group() as group:

        async def enter() -> None:
            async with decrypt_stream(source, KEY):
                raise AssertionError

        group.start_soon(enter)
        await source.stalled.wait()
        group.cancel_scope.cancel()
    span = exported.one("aioencrypt.decrypt")
    assert attributes_of(span)["aioencrypt.outcome"] == "cancelled"


@on_asyncio
async def test_a_loop_that_ends_with_a_call_under_way_ends_its_spans(exported: Telemetry) -> None:
    kms = InMemoryKMS()
    key = kms.create_key(region=US)

    async def main() -> None:
        async def around(*_: Any) -> Any:
            calling.set()
            await asyncio.sleep(3600)

        calling = asyncio.Event()
        provider = KMSMasterKeyProvider([key], connection=AWSConnection(kms=wrapped(kms, around, US)))
        tasks.append(asyncio.create_task(encrypt(b"x", provider)))
        await calling.wait()

    tasks: list[Any] = []
    await asyncio.to_thread(asyncio.run, main())
    assert {span.name for span in exported.spans} == {"KMS.GenerateDataKey", "aioencrypt.encrypt"}


async def test_a_provider_that_fails_leaves_nothing_current(exported: Telemetry, kms: InMemoryKMS) -> None:
    key = kms.create_key(region=US)
    kms.disable_key(key)
    provider = provider_for(kms, key)
    with exported.tracer.start_as_current_span("request") as span:
        for _ in range(2):
            with pytest.raises(ProviderError):
                await encrypt(b"x", provider)
            assert trace.get_current_span() is span
            await checkpoint()
    assert parents(exported, "aioencrypt.encrypt") == ["request", "request"]
    # What failed inside is not an event of the caller's span either.
    assert exported.one("request").events == ()


async def test_decrypting_under_several_keys_shows_each_attempt(
    exported: Telemetry, kms: InMemoryKMS
) -> None:
    first, second = kms.create_key(region=US), kms.create_key(region=US)
    provider = provider_for(kms, first, second)
    message, _ = await encrypt(b"x", provider)
    kms.disable_key(first)
    await decrypt(message, provider)
    attempts = [
        (attributes_of(span)["aioencrypt.kms.key_id"], attributes_of(span).get("error.type"))
        for span in exported.named("KMS.Decrypt")
    ]
    assert attempts == [(first, "DisabledException"), (second, None)]
    assert attributes_of(exported.one("aioencrypt.decrypt"))["aioencrypt.outcome"] == "complete"
