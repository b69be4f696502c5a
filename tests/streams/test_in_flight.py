"""A batch in flight when its stream is cancelled or abandoned: nothing is kept, nothing is written later."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from aioencrypt import AlgorithmSuite, decrypt_stream, encrypt_stream
from aioencrypt.streams.reading import ByteStream
from tests.support.streaming import KEY, SIGNED, UNSIGNED, Feed, assert_idle, plaintext_of, sealed
from tests.support.watching import cancelled_at

MIB = 1024 * 1024
# Sealing a frame of this length takes longer than a turn of the loop, so it goes to a thread.
FRAME = 4 * MIB
PLAINTEXT = plaintext_of(FRAME + MIB)

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]
suites = pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])


@asynccontextmanager
async def nothing_kept() -> AsyncIterator[None]:
    """Assert that what was allocated in the block is gone after it."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield
        kept = MIB
        with anyio.move_on_after(10):
            # The loop itself keeps its last step, and a thread drops its work after it said that it is done.
            while kept >= MIB:
                await anyio.sleep(0.001)
                gc.collect()
                kept = tracemalloc.get_traced_memory()[0] - before
        assert kept < MIB
    finally:
        tracemalloc.stop()


def pieces(data: bytes) -> Feed:
    return Feed(*(data[start : start + MIB] for start in range(0, len(data), MIB)))


async def read_all(stream: ByteStream, given: list[tuple[bytes, bytes]]) -> None:
    """Keep each chunk, and a copy of it."""
    while chunk := await stream.read(FRAME):
        given.append((chunk, bytes(memoryview(chunk))))


@suites
async def test_cancelled_at_any_await(suite: AlgorithmSuite) -> None:
    message = await sealed(PLAINTEXT, suite, frame_length=FRAME)
    number, cancelled = 0, True
    while cancelled:
        given: list[tuple[bytes, bytes]] = []

        async def use(given: list[tuple[bytes, bytes]] = given) -> None:
            plaintext = pieces(PLAINTEXT)
            async with (
                encrypt_stream(plaintext, KEY, algorithm_suite=suite, frame_length=FRAME) as writing,
                decrypt_stream(pieces(message), KEY) as reading,
            ):
                await read_all(writing, given)
                await read_all(reading, given)

        async with nothing_kept():
            cancelled = await cancelled_at(number, use())
            assert_idle()
            assert all(chunk == copy for chunk, copy in given), "what was handed out is not written to"
            given.clear()
        number += 1
    assert number > 6


@suites
async def test_abandoned_after_any_chunk(suite: AlgorithmSuite) -> None:
    message = await sealed(PLAINTEXT, suite, frame_length=FRAME)
    for number in range(4):
        async with nothing_kept():
            for stream in (
                encrypt_stream(pieces(PLAINTEXT), KEY, algorithm_suite=suite, frame_length=FRAME),
                decrypt_stream(pieces(message), KEY),
            ):
                async with stream:
                    given = [await stream.read(2 * FRAME) for _ in range(number)]
                    copies = [bytes(memoryview(chunk)) for chunk in given]
                    stream.abandon()
                assert_idle()
                assert given == copies
            del stream, given, copies
