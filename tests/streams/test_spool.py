"""The spool: order, its edge, and what can be seen on disk."""

from __future__ import annotations

import os
import sys
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from aioencrypt import StreamError
from aioencrypt.streams.spool import SPOOL_LENGTH, Spool
from tests.support.streaming import assert_idle, on_asyncio, on_asyncio_and_uvloop, plaintext_of
from tests.support.watching import cancelled_at, file_size_limit, resource

pytestmark = pytest.mark.anyio

FULL = bytes(SPOOL_LENGTH)
CHUNK = plaintext_of(100_000)


async def filled(*chunks: bytes) -> Spool:
    spool = Spool()
    for chunk in chunks:
        await spool.write(chunk)
    return spool


async def drained(spool: Spool) -> list[bytes]:
    chunks = []
    while chunk := await spool.read():
        chunks.append(chunk)
    assert await spool.read() == b""
    return chunks


def on_disk(spool: Spool) -> bytes:
    """Return the bytes of the temporary file."""
    assert spool._file
    spool._file.seek(0)
    return spool._file.read()


async def test_an_empty_spool_is_at_its_end() -> None:
    spool = Spool()
    assert await spool.read() == b""
    await spool.aclose()


@given(
    gap=st.integers(0, 50),
    chunks=st.lists(st.binary(min_size=1, max_size=30), max_size=12),
    large=st.integers(0, 12),
)
@settings(deadline=None, max_examples=40)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_chunks_come_back_in_order_wherever_they_were(
    gap: int, chunks: list[bytes], large: int
) -> None:
    """Chunks before the edge, over it and, small enough for the rest of memory, after it."""
    everything = [FULL[: SPOOL_LENGTH - gap], *chunks]
    everything.insert(large, CHUNK)
    spool = await filled(*everything)
    assert await drained(spool) == everything
    await spool.aclose()


@pytest.mark.parametrize(
    ("chunks", "in_memory"),
    [
        ([FULL], 1),
        ([FULL[:-10], b"x" * 10], 2),
        ([FULL[:-10], b"x" * 11], 1),
        ([FULL[:-10], b"x" * 11, b"y"], 1),
        ([FULL, b"x"], 1),
        ([FULL + b"x"], 0),
    ],
    ids=["full", "just-full", "over", "small-after-over", "one-more", "one-too-long"],
)
@on_asyncio
async def test_the_edge_of_memory(chunks: list[bytes], in_memory: int) -> None:
    spool = await filled(*chunks)
    assert (spool._file is None) is (in_memory == len(chunks))
    assert len(spool._memory) == in_memory
    assert await drained(spool) == chunks
    await spool.aclose()


async def test_nothing_on_disk_can_be_read() -> None:
    spool = await filled(FULL, CHUNK, CHUNK)
    stored = on_disk(spool)
    length = len(CHUNK) + 16
    assert len(stored) == 2 * length
    for start in range(0, len(CHUNK), 997):
        assert CHUNK[start : start + 8] not in stored
    assert stored[:length] != stored[length:], "the same chunk twice is not the same on disk"
    other = await filled(FULL, CHUNK)
    assert on_disk(other) != stored[:length], "every spool has its own key"
    await spool.aclose()
    await other.aclose()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows names every file")
async def test_the_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spool = await filled(FULL, CHUNK)
    assert spool._file
    status = os.fstat(spool._file.fileno())
    assert status.st_nlink == 0
    assert status.st_dev == tmp_path.stat().st_dev
    assert list(tmp_path.iterdir()) == []
    await spool.aclose()


@pytest.mark.parametrize("position", [0, 50_000, len(CHUNK) + 15, len(CHUNK) + 16])
async def test_a_changed_file_is_refused(position: int) -> None:
    spool = await filled(FULL, CHUNK, CHUNK)
    changed = bytearray(on_disk(spool))
    changed[position] ^= 1
    assert spool._file
    spool._file.seek(0)
    spool._file.write(changed)
    assert await spool.read() == FULL
    if position > len(CHUNK) + 15:
        assert await spool.read() == CHUNK
    with pytest.raises(StreamError, match="was changed on disk"):
        await spool.read()
    await spool.aclose()


async def test_closing_drops_everything_once() -> None:
    spool = await filled(b"abc", FULL, CHUNK)
    file = spool._file
    assert file
    await spool.aclose()
    assert file.closed
    assert await spool.read() == b""
    await spool.aclose()
    assert_idle()


async def check_cancelled_everywhere(*, by_task: bool) -> None:
    """Whatever is cancelled at whichever await: closing closes the file, itself cancelled or not."""
    for part in ("use", "aclose"):
        number, cancelled = 0, True
        while cancelled:
            spool = await filled(FULL, CHUNK)
            file = spool._file

            async def use(spool: Spool = spool) -> None:
                await spool.write(CHUNK)
                await drained(spool)

            cancelled = await cancelled_at(
                number, use() if part == "use" else spool.aclose(), by_task=by_task
            )
            if part == "use":
                await spool.aclose()
            assert file
            assert file.closed
            assert_idle()
            number += 1
        assert number > 1


async def test_the_file_is_closed_when_the_call_is_cancelled() -> None:
    await check_cancelled_everywhere(by_task=False)


@on_asyncio_and_uvloop
async def test_the_file_is_closed_when_the_task_is_cancelled() -> None:
    await check_cancelled_everywhere(by_task=True)


@pytest.mark.skipif(resource is None, reason="Windows has no limit on the size of a file")
@on_asyncio
async def test_closing_on_a_full_disk_raises_nothing() -> None:
    spool = await filled(FULL, b"few")
    file = spool._file
    assert file
    with file_size_limit(5):
        await spool.aclose()
    assert file.closed


@on_asyncio
async def test_tiny_chunks_cost_little_more_than_their_bytes() -> None:
    spool = await filled(*[b"ab"] * 100_000)
    assert len(spool._memory) < 2000
    assert b"".join(await drained(spool)) == b"ab" * 100_000
    await spool.aclose()


@on_asyncio
async def test_many_chunks_on_disk_cost_a_bounded_memory() -> None:
    """The objects of two-byte frames, and their lengths, would cost more than the message."""
    spool = await filled(FULL)
    chunks = [bytes([n % 256, n // 256 % 256]) for n in range(200_000)]
    tracemalloc.start()
    try:
        for chunk in chunks[:70_000]:
            await spool.write(chunk)
        before, _ = tracemalloc.get_traced_memory()
        for chunk in chunks[70_000:]:
            await spool.write(chunk)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 1024 * 1024
    assert b"".join(await drained(spool)) == FULL + b"".join(chunks)
    await spool.aclose()


@on_asyncio
async def test_long_chunks_after_many_short_ones_stay_in_order() -> None:
    chunks = [FULL, *[b"ab"] * 1100, CHUNK * 9, b"c", CHUNK, CHUNK[:1]]
    spool = await filled(*chunks)
    assert b"".join(await drained(spool)) == b"".join(chunks)
    await spool.aclose()
    spool = await filled(*chunks)
    await spool.aclose()
    assert await spool.read() == b""
