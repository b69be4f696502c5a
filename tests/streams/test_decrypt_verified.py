"""Decrypting with `Release.VERIFIED`: nothing is handed out before everything is verified."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from aioencrypt import (
    AlgorithmSuite,
    DecryptStream,
    EncryptionClient,
    EncryptionError,
    MessageError,
    Offload,
    Release,
    SignatureError,
    StreamError,
    TagError,
    TrailingDataError,
    TruncatedMessageError,
    UnverifiedStreamError,
    decrypt_stream,
)
from aioencrypt.streams.spool import SPOOL_LENGTH
from tests.support.messages import cut
from tests.support.streaming import (
    KEY,
    SIGNED,
    UNSIGNED,
    Feed,
    Stalling,
    assert_idle,
    flipped,
    is_again,
    on_asyncio,
    on_asyncio_and_uvloop,
    plaintext_of,
    sealed,
)
from tests.support.watching import cancelled_at, file_size_limit, resource

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
SHORT, LONG = (2000, 100), (SPOOL_LENGTH + 3 * MIB, MIB)
suites = pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
sizes = pytest.mark.parametrize("size", [SHORT, LONG], ids=["in-memory", "in-a-file"])
PLAINTEXT = plaintext_of(LONG[0])


async def message_of(size: tuple[int, int], suite: AlgorithmSuite) -> bytes:
    length, frame_length = size
    return await sealed(PLAINTEXT[:length], suite, frame_length=frame_length)


def verified_stream(source: Any, **options: Any) -> DecryptStream:
    return decrypt_stream(source, KEY, release=Release.VERIFIED, **options)


@suites
@sizes
async def test_nothing_is_handed_out_before_the_input_has_ended(
    suite: AlgorithmSuite, size: tuple[int, int]
) -> None:
    message = await message_of(size, suite)
    for missing in (0, 1, 150, len(message) // 2):
        source = Stalling(message[: len(message) - missing])
        handed_out: list[bytes] = []

        async def take(source: Stalling = source, handed_out: list[bytes] = handed_out) -> None:
            async with verified_stream(source) as stream:
                assert stream.header.algorithm_suite is suite
                handed_out.append(await stream.read(1))

        async with anyio.create_task_group() as group:
            group.start_soon(take)
            await source.stalled.wait()
            await anyio.wait_all_tasks_blocked()
            assert handed_out == []
            group.cancel_scope.cancel()
    assert_idle()


@suites
@sizes
async def test_what_is_handed_out_is_verified_whole_and_in_order(
    suite: AlgorithmSuite, size: tuple[int, int]
) -> None:
    message = await message_of(size, suite)
    source = Feed(*cut(message, 300_000))
    stream = verified_stream(source)
    async with stream:
        assert not stream.verified
        first = await anext(stream)
        assert stream.verified
        assert source.pieces == []
        chunks = [first, *[chunk async for chunk in stream]]
    assert b"".join(chunks) == PLAINTEXT[: size[0]]
    assert all(type(chunk) is bytes and chunk for chunk in chunks)
    assert stream.verified
    assert_idle()


BAD_ENDS: dict[str, tuple[Callable[[bytes], bytes], type[MessageError], type[MessageError]]] = {
    # what is done to the end; the error of a signed and of an unsigned message
    "flipped": (lambda message: flipped(message, -1), SignatureError, TagError),
    "cut": (lambda message: message[:-1], TruncatedMessageError, TruncatedMessageError),
    "extended": (lambda message: message + b"\0", TrailingDataError, TrailingDataError),
}
READS: list[Callable[[DecryptStream], Awaitable[bytes]]] = [
    lambda stream: stream.read(1),
    lambda stream: stream.read(),
    lambda stream: stream.readexactly(1),
    lambda stream: stream.readline(),
    lambda stream: anext(stream),
    lambda stream: stream.as_anyio().receive(),
]


@pytest.mark.parametrize("name", BAD_ENDS)
@suites
@sizes
@on_asyncio
async def test_a_bad_end_hands_out_nothing(suite: AlgorithmSuite, size: tuple[int, int], name: str) -> None:
    change, signed_error, unsigned_error = BAD_ENDS[name]
    expected = signed_error if suite.signed else unsigned_error
    message = change(await message_of(size, suite))
    reads = READS if size is SHORT else READS[:2]
    for first in reads:
        stream = verified_stream(Feed(*cut(message, 250_000)))
        async with stream:
            errors = []
            for read in (first, *READS):
                with pytest.raises(expected) as caught:
                    await read(stream)
                errors.append(caught.value)
            assert all(is_again(error, errors[0]) for error in errors[1:])
            stream.abandon()
        assert not stream.verified
    assert_idle()


@sizes
async def test_an_error_of_the_source_at_the_very_end_hands_out_nothing(size: tuple[int, int]) -> None:
    error = OSError(5, "gone")

    class Source:
        def __init__(self, message: bytes) -> None:
            self.rest = [message]

        async def read(self, n: int = -1) -> bytes:
            if self.rest:
                return self.rest.pop()
            raise error

    stream = verified_stream(Source(await message_of(size, SIGNED)))
    async with stream:
        with pytest.raises(OSError, match="gone") as caught:
            await stream.read(1)
        assert caught.value is error
        with pytest.raises(StreamError, match="failed before, with OSError"):
            await stream.read(1)
        stream.abandon()
    assert not stream.verified


@sizes
async def test_leaving_early(size: tuple[int, int]) -> None:
    """Only before the first chunk: what is handed out is verified."""
    message = await message_of(size, SIGNED)
    with pytest.raises(UnverifiedStreamError):
        async with verified_stream(message):
            pass
    async with verified_stream(message) as stream:
        await stream.read(1)
    async with verified_stream(message) as stream:
        stream.abandon()
    assert_idle()


@pytest.mark.parametrize("offload", Offload, ids=lambda offload: offload.name)
@pytest.mark.parametrize("difference", [-1, 0, 1])
@on_asyncio
async def test_around_the_edge_of_memory(difference: int, offload: Offload) -> None:
    plaintext = PLAINTEXT[: SPOOL_LENGTH + difference]
    client = EncryptionClient(offload=offload)
    message = await sealed(plaintext, UNSIGNED, frame_length=65_536)
    async with client.decrypt_stream(message, KEY, release=Release.VERIFIED) as stream:
        assert await stream.read() == plaintext


@pytest.mark.parametrize("size", [(LONG[0], LONG[0]), (100, 100), (0, 100)], ids=["long", "short", "empty"])
@suites
@on_asyncio
async def test_a_message_of_one_frame(suite: AlgorithmSuite, size: tuple[int, int]) -> None:
    message = await message_of(size, suite)
    async with verified_stream(message) as stream:
        assert await stream.read() == PLAINTEXT[: size[0]]
        assert stream.verified


@pytest.mark.skipif(resource is None, reason="Windows has no limit on the size of a file")
@on_asyncio
async def test_a_full_disk_hands_out_nothing() -> None:
    message = await message_of(LONG, SIGNED)
    with file_size_limit(MIB):
        async with verified_stream(message) as stream:
            with pytest.raises(OSError, match="too large") as caught:
                await stream.read(1)
            assert caught.value.errno == errno.EFBIG
            with pytest.raises(EncryptionError, match="failed before, with OSError"):
                await stream.read(1)
            stream.abandon()
    assert not stream.verified
    assert_idle()


async def check_cancelled_everywhere(*, by_task: bool) -> None:
    size = (LONG[0], 4 * MIB)
    message, handed_out = await message_of(size, SIGNED), b""
    number, stream = 0, verified_stream(message)

    async def use(stream: DecryptStream) -> None:
        nonlocal handed_out
        async with stream:
            async for chunk in stream:
                handed_out += chunk

    while await cancelled_at(number, use(stream), by_task=by_task):
        assert PLAINTEXT.startswith(handed_out)
        assert stream.verified or not handed_out
        assert stream._opener._spool is not None
        assert stream._opener._spool._file is None
        digests = stream._opener._driver._digests
        assert digests is None or not digests.pending
        assert_idle()
        number, stream, handed_out = number + 1, verified_stream(message), b""
    assert handed_out == PLAINTEXT
    assert number > 5


async def test_cancelled_at_any_await_nothing_is_left() -> None:
    await check_cancelled_everywhere(by_task=False)


@on_asyncio_and_uvloop
async def test_cancelled_by_its_task_at_any_await_nothing_is_left() -> None:
    await check_cancelled_everywhere(by_task=True)
