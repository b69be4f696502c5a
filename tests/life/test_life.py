"""Where streams and providers live: fixtures, generators, exit stacks, other tasks, other loops."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import anyio
import pytest
import pytest_asyncio
from anyio.lowlevel import checkpoint

from aioencrypt import (
    AWSConnection,
    DecryptStream,
    EncryptionClient,
    EncryptStream,
    KMSMasterKeyProvider,
    Provider,
    StreamBusyError,
    decrypt,
    decrypt_stream,
    encrypt,
    encrypt_stream,
)
from aioencrypt.testing import InMemoryKMS
from aioencrypt.testing.kms import run_in_thread
from tests.support.cancelling import settle
from tests.support.streaming import (
    KEY,
    Stalling,
    assert_idle,
    in_chunks,
    on_asyncio,
    on_asyncio_and_uvloop,
    plaintext_of,
    sealed,
)

FRAME = 1000
PLAINTEXT = plaintext_of(200_000)
Stream = EncryptStream | DecryptStream
REGIONS = ("us-east-1", "eu-west-1")


@pytest.fixture(scope="module")
def kms() -> InMemoryKMS:
    return InMemoryKMS()


@pytest.fixture(scope="module")
def arns(kms: InMemoryKMS) -> list[str]:
    return [kms.create_key(region=region) for region in REGIONS]


@pytest.fixture(scope="module")
def url(kms: InMemoryKMS) -> Iterator[str]:
    with run_in_thread(kms) as url:
        yield url


# Fixtures, of which set-up and tear-down are tasks of their own


@pytest_asyncio.fixture
async def provider(arns: list[str], url: str) -> AsyncIterator[KMSMasterKeyProvider]:
    task = asyncio.current_task()
    async with KMSMasterKeyProvider(arns, connection=AWSConnection(kms=url)) as provider:
        yield provider
    assert asyncio.current_task() is not task
    assert_idle()


@pytest_asyncio.fixture
async def encrypting(provider: KMSMasterKeyProvider) -> AsyncIterator[EncryptStream]:
    async with encrypt_stream(in_chunks(PLAINTEXT, 30_000), provider, frame_length=FRAME) as stream:
        yield stream


@pytest_asyncio.fixture
async def decrypting(
    encrypting: EncryptStream, provider: KMSMasterKeyProvider
) -> AsyncIterator[DecryptStream]:
    """Reads what the other one writes."""
    async with decrypt_stream(encrypting, provider) as stream:
        yield stream


@pytest.mark.asyncio
async def test_streams_in_fixtures_are_read_to_the_end(decrypting: DecryptStream) -> None:
    assert await decrypting.read() == PLAINTEXT
    assert decrypting.verified


@pytest.mark.asyncio
async def test_streams_in_fixtures_are_abandoned(
    decrypting: DecryptStream, encrypting: EncryptStream
) -> None:
    async with asyncio.timeout(60):
        assert await decrypting.readexactly(50_000) == PLAINTEXT[:50_000]
    decrypting.abandon()
    encrypting.abandon()


@pytest.mark.asyncio
async def test_streams_in_fixtures_are_read_by_several_tasks(decrypting: DecryptStream) -> None:
    parts = [await asyncio.create_task(decrypting.readexactly(len(PLAINTEXT) // 4)) for _ in range(4)]
    assert b"".join(parts) == PLAINTEXT
    assert await asyncio.create_task(decrypting.read(1)) == b""


@pytest.fixture
async def anyio_stream(anyio_backend: Any) -> AsyncIterator[EncryptStream]:
    async with encrypt_stream(PLAINTEXT, KEY, frame_length=FRAME) as stream:
        yield stream
    assert_idle()


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_a_stream_in_a_fixture_of_anyio(anyio_stream: EncryptStream) -> None:
    assert (await decrypt(anyio_stream, KEY)).plaintext == PLAINTEXT


# Generators


class Source:
    """An async generator that notes whether it was finished."""

    def __init__(self) -> None:
        self.finished = False

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            for start in range(0, len(PLAINTEXT), 10_000):
                await checkpoint()
                yield PLAINTEXT[start : start + 10_000]
        finally:
            self.finished = True


async def encrypted(
    source: AsyncGenerator[bytes, None], streams: list[EncryptStream]
) -> AsyncGenerator[bytes, None]:
    """What people write first."""
    async with aclosing(source), encrypt_stream(source, KEY, frame_length=FRAME) as stream:
        streams.append(stream)
        async for chunk in stream:
            yield chunk


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_a_generator_that_is_closed_early() -> None:
    source, streams = Source(), list[EncryptStream]()
    async with aclosing(encrypted(source.chunks(), streams)) as chunks:
        for _ in range(5):
            await anext(chunks)
    assert source.finished
    assert_idle()


@on_asyncio_and_uvloop
@pytest.mark.anyio
async def test_a_generator_that_is_abandoned() -> None:
    """The loop finishes it in a task of its own, when it is collected."""
    source, streams = Source(), list[EncryptStream]()
    chunks = encrypted(source.chunks(), streams)
    for _ in range(5):
        await anext(chunks)
    del chunks
    gc.collect()
    while not source.finished:
        await checkpoint()
    await settle()
    assert_idle()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_generator_that_is_left_to_the_end_of_the_loop(backend: str) -> None:
    source, streams = Source(), list[EncryptStream]()
    left: list[AsyncGenerator[bytes, None]] = []

    async def main() -> None:
        left.append(encrypted(source.chunks(), streams))
        for _ in range(5):
            await anext(left[0])
        assert not source.finished

    anyio.run(main, backend=backend)
    assert source.finished
    assert streams[0]._life.name == "CLOSED"


# Exit stacks, other tasks, other scopes


@on_asyncio
@pytest.mark.anyio
async def test_an_exit_stack_that_another_task_closes(arns: list[str], url: str) -> None:
    stack = AsyncExitStack()

    async def enter() -> DecryptStream:
        provider = await stack.enter_async_context(
            KMSMasterKeyProvider(arns, connection=AWSConnection(kms=url))
        )
        await provider.warm_up()
        encrypting = await stack.enter_async_context(encrypt_stream(PLAINTEXT, provider))
        return await stack.enter_async_context(decrypt_stream(encrypting, provider))

    async def read(stream: DecryptStream) -> bytes:
        return await stream.read()

    stream = await asyncio.create_task(enter())
    assert await asyncio.create_task(read(stream)) == PLAINTEXT
    await asyncio.create_task(stack.aclose())
    assert_idle()


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_a_stream_is_entered_read_and_left_by_three_tasks() -> None:
    stream = encrypt_stream(PLAINTEXT, KEY)
    message = b""

    async def enter() -> None:
        await stream.__aenter__()

    async def read() -> None:
        nonlocal message
        message = await stream.read()

    async def leave() -> None:
        await stream.__aexit__(None, None, None)

    for step in (enter, read, leave):
        async with anyio.create_task_group() as group:
            group.start_soon(step)
    assert (await decrypt(message, KEY)).plaintext == PLAINTEXT


async def stalled_streams() -> list[tuple[Stalling, Stream]]:
    message = await sealed(PLAINTEXT, frame_length=FRAME)
    sources = [Stalling(PLAINTEXT[:5000]), Stalling(message[:5000])]
    return [(sources[0], encrypt_stream(sources[0], KEY)), (sources[1], decrypt_stream(sources[1], KEY))]


async def read_until_stalled(stream: Stream, source: Stalling) -> None:
    async with asyncio.timeout(None) as timeout, asyncio.TaskGroup() as group:

        async def expire() -> None:
            await source.stalled.wait()
            timeout.reschedule(0)

        group.create_task(expire())
        await stream.read()


@on_asyncio_and_uvloop
@pytest.mark.anyio
async def test_a_timeout_around_reads_works_and_stays_with_its_block() -> None:
    for source, stream in await stalled_streams():
        task = asyncio.current_task()
        assert task
        async with stream:
            async with asyncio.timeout(60):
                await stream.read(100)
            with pytest.raises(TimeoutError):
                await read_until_stalled(stream, source)
            assert task.cancelling() == 0
            await asyncio.sleep(0)
            stream.abandon()
        assert_idle()


@on_asyncio_and_uvloop
@pytest.mark.anyio
async def test_timeouts_and_streams_may_cross() -> None:
    """Each is left before what it was entered after."""
    message = await sealed(PLAINTEXT)
    for make in (lambda: encrypt_stream(PLAINTEXT, KEY), lambda: decrypt_stream(message, KEY)):
        stream: Stream = make()
        older, younger = asyncio.timeout(60), asyncio.timeout(60)
        await older.__aenter__()
        await stream.__aenter__()
        await stream.read(10)
        await older.__aexit__(None, None, None)
        await stream.read(10)
        await younger.__aenter__()
        await stream.read()
        await stream.__aexit__(None, None, None)
        await younger.__aexit__(None, None, None)
    assert_idle()


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_scopes_and_streams_may_cross() -> None:
    """anyio and trio refuse scopes that are not left in order, so none of ours may be open."""
    message = await sealed(PLAINTEXT)
    for make in (lambda: encrypt_stream(PLAINTEXT, KEY), lambda: decrypt_stream(message, KEY)):
        stream: Stream = make()
        older, younger = anyio.CancelScope(), anyio.fail_after(60)
        with older:
            await stream.__aenter__()
            await stream.read(10)
        with younger:
            await stream.read()
            older.cancel()
            await stream.__aexit__(None, None, None)
            await checkpoint()
    assert_idle()


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_of_two_tasks_at_once_one_gets_an_error_and_the_other_everything() -> None:
    message = await sealed(PLAINTEXT, frame_length=FRAME)
    results: list[bytes | StreamBusyError] = []

    async def read(stream: DecryptStream) -> None:
        try:
            results.append(await stream.read())
        except StreamBusyError as error:
            results.append(error)

    async with decrypt_stream(in_chunks(message, 5000), KEY) as stream:
        async with anyio.create_task_group() as group:
            group.start_soon(read, stream)
            group.start_soon(read, stream)
        assert isinstance(results[0], StreamBusyError)
        assert results[1] == PLAINTEXT
        assert stream.verified


# Loops


async def exchange(provider: Provider, client: EncryptionClient) -> None:
    """Several messages at once, with threads and digests."""

    async def one(length: int) -> None:
        async with (
            client.encrypt_stream(in_chunks(PLAINTEXT[:length], 20_000), provider) as encrypting,
            client.decrypt_stream(encrypting, provider) as stream,
        ):
            assert await stream.read() == PLAINTEXT[:length]

    async with anyio.create_task_group() as group:
        for length in (0, 1, 50_000, 100_000, 200_000):
            group.start_soon(one, length)
    assert_idle()


def test_three_loops_in_three_threads(kms: InMemoryKMS, arns: list[str], url: str) -> None:
    """They share a client, a raw key and a provider with clients of its caller; one is each loop's own."""
    shared: list[Provider] = [KEY, KMSMasterKeyProvider(arns, connection=kms.connection(*REGIONS))]
    client, together = EncryptionClient(), threading.Barrier(3)
    failures: list[BaseException] = []

    async def main(own: KMSMasterKeyProvider | None) -> None:
        for _ in range(3):
            for provider in shared:
                await exchange(provider, client)
            if own:
                async with own:
                    await exchange(own, client)

    def run(backend: str, options: dict[str, Any]) -> None:
        own = KMSMasterKeyProvider(arns, connection=AWSConnection(kms=url)) if backend == "asyncio" else None
        try:
            together.wait(20)
            anyio.run(main, own, backend=backend, backend_options=options)
        except BaseException as error:
            failures.append(error)

    loops: list[tuple[str, dict[str, Any]]] = [
        ("asyncio", {"debug": True}),
        ("asyncio", {"use_uvloop": True}),
        ("trio", {}),
    ]
    threads = [threading.Thread(target=run, args=loop) for loop in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert not any(thread.is_alive() for thread in threads)


def test_runs_in_a_row_with_the_same_objects(arns: list[str], url: str) -> None:
    """Nothing of a loop stays in a key, a provider, a client, or a stream that was not entered."""
    provider, client = KMSMasterKeyProvider(arns, connection=AWSConnection(kms=url)), EncryptionClient()
    message, _ = asyncio.run(encrypt(PLAINTEXT, KEY))
    streams = [decrypt_stream(message, KEY) for _ in range(3)]

    async def main() -> None:
        await exchange(KEY, client)
        async with provider:
            await exchange(provider, client)
        async with streams.pop() as stream:
            assert await stream.read() == PLAINTEXT

    asyncio.run(main())
    asyncio.run(main(), debug=True)
    anyio.run(main, backend_options={"use_uvloop": True})
    anyio.run(exchange, KEY, client, backend="trio")
