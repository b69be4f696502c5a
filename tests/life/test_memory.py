"""Memory stays flat whatever the length: measured in a process of its own, as resident memory."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from aioencrypt import EncryptionClient, Limits, TruncatedMessageError, encrypt
from tests.support.message_writer import build_message
from tests.support.streaming import KEY, Feed, Stalling
from tests.support.watching import CountingKey

MIB = 1024 * 1024

# Prints how many bytes the resident memory grew, at its peak, above what it was after one message.
SCRIPT = """
import asyncio, sys
import psutil
from aioencrypt import AlgorithmSuite, EncryptionClient, Limits, RawAESMasterKey, Release

length, frame_length, suite, release, pause = sys.argv[1:]
piece = bytes(range(256)) * 1024
key = RawAESMasterKey("tests", "memory", wrapping_key=bytes(32))
client = EncryptionClient(limits=Limits(max_frame_length=None))
process = psutil.Process()
peak = 0

async def plaintext(total):
    for _ in range(total // len(piece)):
        yield piece
        await asyncio.sleep(0)

async def message(total):
    async with client.encrypt_stream(
        plaintext(total), key, frame_length=int(frame_length), algorithm_suite=AlgorithmSuite(int(suite, 0))
    ) as stream:
        async for chunk in stream:
            yield chunk

async def pass_through(total):
    global peak
    taken = 0
    async with client.decrypt_stream(message(total), key, release=Release(release)) as stream:
        async for chunk in stream:
            taken += len(chunk)
            if pause == "slow":
                await asyncio.sleep(0.001)
            peak = max(peak, process.memory_info().rss)
    assert taken == total // len(piece) * len(piece)

async def main():
    global peak
    await pass_through(8 * 2**20)
    idle, peak = process.memory_info().rss, 0
    await pass_through(int(length))
    print(peak - idle)

asyncio.run(main())
"""


def growth(
    length: int, frame_length: int, *, suite: int = 0x0578, release: str = "stream", pause: str = "none"
) -> int:
    arguments = [str(length), str(frame_length), hex(suite), release, pause]
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


@pytest.mark.slow
def test_a_gigabyte() -> None:
    assert growth(1024 * MIB, 64 * 1024) < 64 * MIB


@pytest.mark.parametrize(
    ("frame_length", "suite"), [(4096, 0x0478), (64 * 1024, 0x0478), (MIB, 0x0478), (MIB, 0x0578)]
)
def test_frames_up_to_a_mebibyte(frame_length: int, suite: int) -> None:
    assert growth(96 * MIB, frame_length, suite=suite) < 32 * MIB


def test_a_slow_consumer_holds_the_source_back() -> None:
    assert growth(64 * MIB, 64 * 1024, pause="slow") < 32 * MIB


def test_what_waits_to_be_verified_waits_on_disk() -> None:
    assert growth(128 * MIB, 64 * 1024, release="verified") < 40 * MIB


async def traced(use: Callable[[], Awaitable[object]]) -> int:
    """Return the most that was allocated meanwhile, touched or not."""
    tracemalloc.start()
    try:
        await use()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.anyio
@pytest.mark.every_loop
@pytest.mark.parametrize(
    ("frame_length", "field", "claim"),
    [
        (2**32 - 1, "frame.1.content", b""),
        (2**32 - 1, "frame.1.length", (2**32 - 1).to_bytes(4, "big")),
        (None, "body.length", (2**36 - 32).to_bytes(8, "big")),
    ],
    ids=["frame", "final frame", "non-framed body"],
)
async def test_a_claim_costs_nothing_before_the_bytes_arrive(
    frame_length: int | None, field: str, claim: bytes
) -> None:
    message = build_message(0x0478, b"abc", frame_length=frame_length)
    start = message.data[: message.fields[field].start] + claim
    if not claim:  # a regular frame, of which the beginning is there
        start = message.data[: message.header_length] + (1).to_bytes(4, "big") + (1).to_bytes(12, "big")
    client = EncryptionClient(limits=Limits(max_frame_length=None))

    async def read() -> None:
        source = Stalling(start, bytes(MIB))
        async with client.decrypt_stream(source, CountingKey()) as stream, anyio.create_task_group() as group:
            group.start_soon(stream.read)
            await source.stalled.wait()
            group.cancel_scope.cancel()
            stream.abandon()

    async def read_bytes() -> None:
        with pytest.raises(TruncatedMessageError):
            await client.decrypt(start + bytes(MIB), CountingKey())

    for use in (read, read_bytes):
        await use()  # whatever is made once
        assert await traced(use) < 5 * MIB


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_a_frame_length_costs_nothing_when_the_plaintext_is_short() -> None:
    async def write() -> None:
        message, _ = await encrypt(Feed(bytes(MIB)), KEY, frame_length=2**32 - 1)
        client = EncryptionClient(limits=Limits(max_frame_length=None))
        assert (await client.decrypt(Feed(message), KEY)).plaintext == bytes(MIB)

    await write()
    assert await traced(write) < 8 * MIB
