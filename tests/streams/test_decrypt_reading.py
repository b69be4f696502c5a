"""Decrypting: every way of reading, every size of frame, batches and threads."""

from __future__ import annotations

import pytest

from aioencrypt import (
    AlgorithmSuite,
    EncryptionClient,
    IncompleteReadError,
    Offload,
    TruncatedMessageError,
    decrypt_stream,
)
from aioencrypt.format.batches import batch_frames
from tests.support.rows import each_row
from tests.support.streaming import (
    KEY,
    SIGNED,
    UNSIGNED,
    assert_idle,
    in_chunks,
    on_asyncio,
    plaintext_of,
    sealed,
)

pytestmark = pytest.mark.anyio

suites = pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])


# Reading


@each_row("feed", [1, 45, 10**6])
@each_row("length", [0, 30, 33])
@suites
@on_asyncio
async def test_read_of_any_size(suite: AlgorithmSuite, length: int, feed: int) -> None:
    message = await sealed(plaintext_of(length), suite, frame_length=10)
    for n in (*range(1, 12), 29, 30, 31, 32, 33, 34, 10**6) if feed > 1 else (1, 9, 10, 11, 34):
        parts = []
        async with decrypt_stream(in_chunks(message, feed), KEY) as stream:
            while part := await stream.read(n):
                parts.append(part)
            assert stream.verified
            assert await stream.read(n) == b""
        assert b"".join(parts) == plaintext_of(length)
        assert all(len(part) <= n and type(part) is bytes for part in parts)


@suites
async def test_every_way_of_reading(suite: AlgorithmSuite) -> None:
    lines = [b"first\n", b"\n", b"third line, longer than a frame\n", b"last"]
    message = await sealed(b"".join(lines), suite, frame_length=10)
    async with decrypt_stream(in_chunks(message, 1), KEY) as stream:
        assert [await stream.readline() for _ in range(5)] == [*lines, b""]
    async with decrypt_stream(in_chunks(message, 1), KEY) as stream:
        assert [await stream.readexactly(len(line)) for line in lines] == lines
        assert not stream.verified, "that nothing follows is not known yet"
        assert await stream.read() == b""
        assert stream.verified
    async with decrypt_stream(in_chunks(message, 1), KEY) as stream:
        assert b"".join([chunk async for chunk in stream]) == b"".join(lines)
    async with decrypt_stream(in_chunks(message, 1), KEY) as stream:
        assert b"".join([chunk async for chunk in stream.as_anyio()]) == b"".join(lines)
    async with decrypt_stream(in_chunks(message, 1), KEY) as stream:
        with pytest.raises(IncompleteReadError, match="ends 1 bytes before") as caught:
            await stream.readexactly(sum(map(len, lines)) + 1)
        assert caught.value.partial == b"".join(lines)
        assert stream.verified
    async with decrypt_stream(in_chunks(message[:-1], 1), KEY) as stream:
        with pytest.raises(TruncatedMessageError):
            await stream.readexactly(sum(map(len, lines)) + 1)
        stream.abandon()


# Frames, batches and threads


def batch_edges(frame_length: int) -> list[int]:
    """Return plaintext lengths around the edges of one batch of frames, and of a little more than one."""
    least = batch_frames(frame_length, 10**9)
    most = next(n for n in range(least, 10**6) if batch_frames(frame_length, n + 1) < n + 1)
    frames = {1, least, least + 1, most, most + 1}
    return sorted({0, *(n * frame_length + d for n in frames for d in (-1, 0, 1))})


@pytest.mark.parametrize("offload", Offload, ids=lambda offload: offload.name)
@each_row("frame_length", [1, 7, 4096, 65_536, 3_000_000])
@suites
@on_asyncio
async def test_frames_at_the_edges_of_batches(
    suite: AlgorithmSuite, frame_length: int, offload: Offload
) -> None:
    client = EncryptionClient(offload=offload)
    lengths = batch_edges(frame_length) if frame_length < 10**6 else [2_999_999, 3_000_000, 3_000_001]
    for length in lengths:
        plaintext = plaintext_of(length)
        message = await sealed(plaintext, suite, frame_length=frame_length)
        assert (await client.decrypt(message, KEY)).plaintext == plaintext
        assert (await client.decrypt(in_chunks(message, 300_007), KEY)).plaintext == plaintext
    assert_idle()
