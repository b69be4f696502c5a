"""Reading a message at random: what is fetched, when, and how much of it at once."""

from __future__ import annotations

import random
from typing import Any

import anyio
import pytest

from aioencrypt import MultiMasterKeyProvider, RawAESMasterKey, open_seekable
from aioencrypt.runtime.offload import loop_states
from aioencrypt.streams.seekable import FrameCache, FrameRun
from tests.support.messages import build_message, example_data_key, example_signing_key, public_key_pair
from tests.support.ranges import Recorded
from tests.support.streaming import KEY, SIGNED, UNSIGNED, client_for, plaintext_of, sealed
from tests.support.vectors import StaticDataKey

pytestmark = pytest.mark.anyio

FRAME = 64 * 1024
STRIDE = FRAME + 32
PLAINTEXT = plaintext_of(40 * FRAME + 100)


async def source_of(plaintext: bytes = PLAINTEXT, frame_length: int = FRAME, **options: Any) -> Recorded:
    return Recorded(await sealed(plaintext, UNSIGNED, frame_length=frame_length, **options))


def header_length(source: Recorded, frame_length: int = FRAME) -> int:
    """Return it from the length of everything else."""
    return len(source.data) - 40 * (frame_length + 32) - 40 - 100


# Opening


async def test_opening_reads_the_header_and_the_final_frame_each_once() -> None:
    source = await source_of()
    final = header_length(source) + 40 * STRIDE
    async with open_seekable(source, KEY):
        assert source.reads == [(0, 8192), (final, len(source.data))]
        assert source.sizes == 1


async def test_a_small_message_is_one_read() -> None:
    source = await source_of(PLAINTEXT[:5000], 1000)
    async with open_seekable(source, KEY) as stream:
        assert await stream.read() == PLAINTEXT[:5000]
        assert await stream.read_at(2500, 700) == PLAINTEXT[2500:3200]
        assert source.reads == [(0, len(source.data))]


async def test_a_long_header_takes_a_second_read_of_more() -> None:
    keys = [KEY] + [RawAESMasterKey("tests", f"{i:0100}", wrapping_key=bytes(32)) for i in range(100)]
    message = await sealed(PLAINTEXT[:1], UNSIGNED)
    from_many, _ = await client_encrypt(MultiMasterKeyProvider(*keys))
    assert len(message) < 8192 < len(from_many)
    source = Recorded(from_many)
    async with open_seekable(source, KEY) as stream:
        assert source.reads == [(0, 8192), (8192, 8192 + 256 * 1024), (len(from_many) - 140, len(from_many))]
        assert await stream.read_at(0, 10) == PLAINTEXT[:10]
        # What came with the header is not fetched again.
        assert len(source.reads) == 3


async def client_encrypt(provider: MultiMasterKeyProvider) -> tuple[bytes, object]:
    return await client_for(UNSIGNED).encrypt(
        PLAINTEXT, provider, algorithm_suite=UNSIGNED, frame_length=FRAME
    )


async def test_a_signature_of_another_length_takes_at_most_another_read() -> None:
    key = StaticDataKey(example_data_key(SIGNED))
    context = public_key_pair(example_signing_key(SIGNED))
    for length in range(300, 360):
        message = build_message(SIGNED, PLAINTEXT[:length], frame_length=50, encryption_context=context)
        # As if the signature were two bytes shorter; nobody verifies it.
        cut = message.fields["footer.length"]
        data = message.data[: cut.start] + (101).to_bytes(2, "big") + message.data[cut.stop : -2]
        async with open_seekable(Recorded(data), key, accept_unverified_signature=True) as stream:
            assert await stream.read() == PLAINTEXT[:length]


# Reading at a position


async def test_a_read_fetches_exactly_its_frames_in_one_range() -> None:
    source = await source_of()
    start = header_length(source)
    async with open_seekable(source, KEY, cache_length=0) as stream:
        for offset, n, first, stop in (
            (FRAME, FRAME, 1, 2),
            (FRAME + 1, FRAME, 1, 3),
            (FRAME - 1, 1, 0, 1),
            (FRAME - 1, 2, 0, 2),
            (7 * FRAME + 5, 3 * FRAME, 7, 11),
        ):
            await stream.read_at(20 * FRAME, 1)
            source.reads.clear()
            assert await stream.read_at(offset, n) == PLAINTEXT[offset : offset + n]
            assert source.reads == [(start + first * STRIDE, start + stop * STRIDE)]


async def test_reading_at_random_fetches_at_most_two_frames_each_and_the_ends_once() -> None:
    source = await source_of()
    chosen = random.Random(3)
    async with open_seekable(source, KEY) as stream:
        opening = len(source.reads)
        for _ in range(200):
            offset = chosen.randrange(len(PLAINTEXT) - FRAME)
            before = len(source.reads)
            assert await stream.read_at(offset, FRAME) == PLAINTEXT[offset : offset + FRAME]
            assert sum(end - start for start, end in source.reads[before:]) <= 2 * STRIDE
        final = header_length(source) + 40 * STRIDE
        assert all(end <= final for _, end in source.reads[opening:])


async def test_reads_of_nothing_fetch_nothing() -> None:
    source = await source_of()
    async with open_seekable(source, KEY) as stream:
        source.reads.clear()
        assert await stream.read_at(5, 0) == b""
        assert await stream.read_at(len(PLAINTEXT), 10) == b""
        assert await stream.read_at(10 * len(PLAINTEXT)) == b""
        assert await stream.read(0) == b""
        assert await stream.read_at(len(PLAINTEXT) - 100) == PLAINTEXT[-100:]
        assert source.reads == []


async def test_what_is_cached_is_not_fetched_again_and_gaps_are_filled() -> None:
    source = await source_of()
    start = header_length(source)
    async with open_seekable(source, KEY, cache_length=8 * 1024 * 1024) as stream:
        await stream.read_at(3 * FRAME, FRAME)
        await stream.read_at(5 * FRAME, 2 * FRAME)
        source.reads.clear()
        assert await stream.read_at(5 * FRAME + 10, FRAME) == PLAINTEXT[5 * FRAME + 10 : 6 * FRAME + 10]
        assert source.reads == []
        assert await stream.read_at(2 * FRAME, 6 * FRAME) == PLAINTEXT[2 * FRAME : 8 * FRAME]
        frames = [((begin - start) / STRIDE, (end - start) / STRIDE) for begin, end in source.reads]
        assert frames == [(2, 3), (4, 5), (7, 8)]


async def test_long_reads_go_in_ranges_of_a_mebibyte_so_many_at_once() -> None:
    source = await source_of()
    async with open_seekable(source, KEY, concurrency=2) as stream:
        source.reads.clear()
        assert await stream.read_at(10, 39 * FRAME) == PLAINTEXT[10 : 10 + 39 * FRAME]
        assert [end - start for start, end in sorted(source.reads)] == [15 * STRIDE, 15 * STRIDE, 10 * STRIDE]
        assert source.most == 2


async def test_no_more_is_fetched_than_can_be_opened() -> None:
    """However many tasks read: what was fetched, and waits for its turn to be opened, takes memory."""
    source = await source_of()
    async with open_seekable(source, KEY, concurrency=2) as stream:
        source.reads.clear()
        lane = loop_states.get().lane
        async with anyio.create_task_group() as group:
            await lane.acquire()
            for index in range(20):
                group.start_soon(stream.read_at, index * FRAME, FRAME)
            await anyio.wait_all_tasks_blocked()
            assert len(source.reads) == 2
            lane.release()
        assert len(source.reads) == 20


async def test_frames_above_a_mebibyte_are_fetched_one_by_one() -> None:
    plaintext = plaintext_of(5_000_000)
    source = await source_of(plaintext, 1_500_000)
    async with open_seekable(source, KEY, concurrency=8) as stream:
        source.reads.clear()
        assert await stream.read() == plaintext
        assert [end - start for start, end in source.reads] == [1_500_032] * 3
        assert source.most == 3


# Reading on


async def test_reading_on_fetches_ahead_and_more_each_time() -> None:
    source = await source_of(plaintext_of(8_000_000), 4096)
    lengths = []
    async with open_seekable(source, KEY) as stream:
        while await stream.read(1000):
            if source.reads:
                lengths.append(source.fetched)
                source.reads.clear()
    # The first frame came with the header.
    opening, *ahead = lengths
    assert opening < 8_192 + 4_096 + 40
    assert [round(length / 65536) for length in ahead[:6]] == [1, 2, 4, 8, 16, 31]
    # Half of the cache is the most.
    assert max(ahead) <= 2 * 1024 * 1024 + 8_192
    assert sum(lengths) < len(source.data) + 3 * 8_192


async def test_each_frame_is_fetched_once_however_small_the_reads() -> None:
    source = await source_of(plaintext_of(500_000), 4096)
    async with open_seekable(source, KEY) as stream:
        opening = source.fetched
        while await stream.read(313):
            pass
        assert source.fetched - opening < len(source.data)


async def test_tiny_frames_are_not_fetched_twice_either() -> None:
    source = await source_of(plaintext_of(60_000), 16)
    async with open_seekable(source, KEY, cache_length=20_000) as stream:
        opening = source.fetched
        while await stream.read(100):
            pass
        assert source.fetched - opening < 1.3 * len(source.data)


@pytest.mark.parametrize("cache_length", [0, 100])
async def test_without_a_cache_the_frames_read_last_are_still_there(cache_length: int) -> None:
    source = await source_of()
    async with open_seekable(source, KEY, cache_length=cache_length) as stream:
        opening = source.fetched
        stream.seek(FRAME)
        while stream.tell() < 5 * FRAME:
            await stream.read(1000)
        assert source.fetched - opening == 5 * STRIDE


async def test_a_jump_ends_fetching_ahead() -> None:
    source = await source_of()
    async with open_seekable(source, KEY) as stream:
        for _ in range(20):
            await stream.read(FRAME)
        source.reads.clear()
        stream.seek(35 * FRAME)
        await stream.read(10)
        assert [end - start for start, end in source.reads] == [STRIDE]
        assert await stream.read(FRAME) == PLAINTEXT[35 * FRAME + 10 : 36 * FRAME + 10]
        # And it begins anew: one frame that is wanted and 64 KiB more.
        assert [end - start for start, end in source.reads] == [STRIDE, 2 * STRIDE]


async def test_nothing_is_fetched_behind_the_end() -> None:
    source = await source_of()
    async with open_seekable(source, KEY) as stream:
        stream.seek(30 * FRAME)
        for _ in range(30):
            await stream.read(FRAME // 2)
        assert stream.tell() == len(PLAINTEXT)
        assert max(end for _, end in source.reads[2:]) <= header_length(source) + 40 * STRIDE


# The cache


def run_of(first: int, stop: int, length: int = 1000) -> FrameRun:
    return FrameRun(first, stop, bytes((stop - first) * length))


async def test_the_cache_drops_what_was_not_used_for_the_longest_time() -> None:
    cache = FrameCache(3 * 1128)
    a, b, c, d = (run_of(i, i + 1) for i in range(4))
    for run in (a, b, c):
        cache.add(run)
    assert cache.get(0) is a
    cache.add(d)
    assert [index in cache for index in range(4)] == [True, False, True, True]
    assert cache.get(1) is None


async def test_the_cache_counts_what_a_frame_costs_besides_its_content() -> None:
    cache = FrameCache(10_000)
    for first in range(0, 1000, 10):
        cache.add(run_of(first, first + 10, 1))
    assert sum(index in cache for index in range(1000)) == 70


async def test_the_cache_keeps_the_last_run_however_long() -> None:
    cache = FrameCache(0)
    cache.add(run_of(0, 4))
    assert 3 in cache
    cache.add(run_of(4, 5))
    assert 3 not in cache
    assert 4 in cache


async def test_frames_that_two_tasks_fetched_are_dropped_with_the_newer() -> None:
    cache = FrameCache(3 * 1128)
    older, newer = run_of(0, 2), run_of(1, 2)
    cache.add(older)
    cache.add(newer)
    cache.add(run_of(5, 6))
    assert 0 not in cache
    assert cache.get(1) is newer
    cache.clear()
    assert 1 not in cache


async def test_overlapping_runs_are_put_together_right() -> None:
    source = await source_of(plaintext_of(50_000), 1000)
    async with open_seekable(source, KEY) as stream:
        source.gate = anyio.Event()
        async with anyio.create_task_group() as group:
            for start, stop in ((20, 24), (22, 28), (23, 25), (26, 30)):
                group.start_soon(stream.read_at, start * 1000, (stop - start) * 1000)
            await anyio.wait_all_tasks_blocked()
            source.gate.set()
        for start in range(19_500, 31_000, 500):
            for n in (1, 700, 5000, 9000):
                assert await stream.read_at(start, n) == plaintext_of(50_000)[start : start + n]


# Turns of the loop


@pytest.mark.parametrize("frame_length", [FRAME, 8 * 1024 * 1024])
async def test_copying_what_is_cached_lets_the_loop_go_on(frame_length: int) -> None:
    plaintext = bytes(32 * 1024 * 1024)
    source = await source_of(plaintext, frame_length)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await anyio.sleep(0)
            turns += 1

    async with open_seekable(source, KEY, cache_length=64 * 1024 * 1024) as stream:
        await stream.read_at(0)
        reads = len(source.reads)
        async with anyio.create_task_group() as group:
            group.start_soon(count)
            await anyio.sleep(0)
            turns = 0
            for start in range(0, len(plaintext) // 2, 256 * 1024):
                await stream.read_at(start, 256 * 1024)
            in_parts, turns = turns, 0
            assert await stream.read_at(0) == plaintext
            group.cancel_scope.cancel()
        at_once = turns
        assert len(source.reads) == reads
    # 16 and 32 MiB, 200 microseconds of copying in each turn, and no memory is faster than 30 GB/s.
    assert in_parts > 1
    assert at_once > 3
