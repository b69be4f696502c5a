"""Frame arithmetic: counts, lengths, IVs, batches, and the count of frames with the expected header."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from aioencrypt.errors import PolicyError
from aioencrypt.format import AlgorithmSuite, batches, ciphertext_length, frames
from tests.support.messages import MessageWriter, example_data_key, u32

SUITE = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
LAST = 2**32 - 1
GIB = 1 << 30
# What the lane of an event loop takes in one turn, in microseconds.
LANE = 200


@pytest.mark.spec(
    "data-format/message-body.md#framed-data", "framework/algorithm-suites.md#encryption-algorithm-mode"
)
def test_lengths_of_the_specification() -> None:
    assert (frames.FRAME_OVERHEAD, frames.FINAL_OVERHEAD) == (4 + 12 + 16, 4 + 4 + 12 + 4 + 16)
    assert (frames.FRAME_HEADER_LENGTH, frames.FINAL_HEADER_LENGTH) == (16, 24)
    assert frames.NON_FRAMED_HEADER_LENGTH == 20
    assert frames.MAX_FRAMES == LAST
    assert frames.MAX_NON_FRAMED_LENGTH == 2**36 - 32
    assert frames.FINAL_MARKER == b"\xff" * 4


@pytest.mark.parametrize(
    ("plaintext_length", "frame_length", "count"),
    [
        (0, 1, 1),
        (0, 4096, 1),
        (0, LAST, 1),
        (1, 1, 2),
        (2, 1, 3),
        (4095, 4096, 1),
        (4096, 4096, 2),
        (4097, 4096, 2),
        (3 * 4096 - 1, 4096, 3),
        (3 * 4096, 4096, 4),
        (LAST - 1, 1, LAST),
        (LAST, 1, LAST + 1),
        (LAST - 1, LAST, 1),
        (LAST, LAST, 2),
        (LAST * 4096 - 1, 4096, LAST),
        (LAST * 4096, 4096, LAST + 1),
        (LAST * LAST - 1, LAST, LAST),
        (LAST * LAST, LAST, LAST + 1),
    ],
)
def test_counts_and_lengths(plaintext_length: int, frame_length: int, count: int) -> None:
    shape: dict[str, Any] = {"header_length": 100, "frame_length": frame_length, "signature": None}
    if count > LAST:
        with pytest.raises(PolicyError, match="raise frame_length"):
            ciphertext_length(plaintext_length, **shape)
        return
    length = ciphertext_length(plaintext_length, **shape)
    assert length == 100 + plaintext_length + 32 * (count - 1) + 40
    assert frames.plaintext_length(length, **shape) == plaintext_length


@pytest.mark.spec("data-format/message-body.md#iv-1", "data-format/message-body.md#iv-2")
@pytest.mark.parametrize("number", [1, 255, 256, 65536, LAST - 1, LAST])
def test_the_iv_is_the_number(number: int) -> None:
    assert frames.iv(number) == bytes(8) + u32(number)


def test_the_cost_of_a_frame_grows_with_its_length() -> None:
    costs = [batches.frame_cost(length) for length in (0, 1, 4096, 1 << 20, GIB, LAST)]
    assert costs == sorted(costs)
    assert costs[0] > 0
    # A million empty frames are a lot of work, and so is a gigabyte.
    assert costs[0] * 1e6 > 100_000
    assert costs[4] > 50_000


FRAME_LENGTHS = st.one_of(st.integers(1, 1 << 20), st.integers(1, LAST))


@settings(deadline=None, max_examples=200)
@given(frame_length=FRAME_LENGTHS, available=st.one_of(st.integers(0, 1000), st.integers(0, LAST)))
def test_a_batch_fits_into_a_turn_of_the_loop(frame_length: int, available: int) -> None:
    count = batches.batch_frames(frame_length, available)
    assert (1 if available else 0) <= count <= available
    assert count <= 1 or count * batches.frame_cost(frame_length) <= LANE
    # And nothing is cut up that would fit twice over.
    assert count == available or (count + 1) * batches.frame_cost(frame_length) > LANE / 4


@pytest.mark.parametrize("frame_length", [1, 4096, 65536, 1 << 20, LAST])
def test_a_little_more_than_a_batch_is_one_batch(frame_length: int) -> None:
    full = batches.batch_frames(frame_length, LAST)
    assert batches.batch_frames(frame_length, full) == full
    most = max(n for n in range(full, 3 * full + 1) if batches.batch_frames(frame_length, n) == n)
    assert full <= most < 2 * full
    assert batches.batch_frames(frame_length, most + 1) == full


@pytest.mark.parametrize(
    ("frame_length", "least"), [(1, 100), (4096, 50), (65536, 8), (1 << 20, 1), (LAST, 1)]
)
def test_batches_are_worth_it(frame_length: int, least: int) -> None:
    """A call for each frame of a few kilobytes would be half as fast."""
    assert batches.batch_frames(frame_length, 10_000) >= least


def test_a_batch_takes_what_is_there() -> None:
    assert [batches.batch_frames(4096, n) for n in (0, 1, 2, 50)] == [0, 1, 2, 50]
    assert [batches.batch_frames(LAST, n) for n in (0, 1, 2, LAST)] == [0, 1, 1, 1]


def regular(count: int, length: int, first: int, *, random_ivs: bool = False) -> bytearray:
    writer = MessageWriter(SUITE, example_data_key(SUITE), random_ivs=random_ivs)
    for number in range(first, first + count):
        writer.regular_frame(number, bytes(length))
    return writer.data


def count_of(data: bytes | bytearray, length: int, first: int, cuts: Sequence[int] = ()) -> int:
    view = memoryview(bytes(data))
    pieces = [view[start:stop] for start, stop in pairwise([0, *cuts, len(view)])]
    return batches.count_regular(pieces, length, first)


@pytest.mark.parametrize("length", [1, 5, 4096])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_frames_in_order_are_counted(count: int, length: int) -> None:
    for first in (1, 2, 250, 65530, LAST - count):
        data = regular(count, length, first)
        assert count_of(data, length, first) == count
        assert count_of(data, length, first + 1) == 0
        assert count_of(data, length, 1) == (count if first == 1 else 0)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_byte_of_a_header_ends_the_count(count: int) -> None:
    data = regular(count, 5, 1)
    for bad in range(count):
        for position in range(16):
            changed = bytearray(data)
            changed[bad * 37 + position] ^= 1
            assert count_of(changed, 5, 1) == bad


def test_frames_that_straddle_are_counted() -> None:
    """Six frames of 37 bytes in three pieces: good ones, and one with a bad header."""
    data = regular(6, 5, 300)
    places = range(0, len(data) + 1, 3)
    for cuts in combinations(places, 2):
        assert count_of(data, 5, 300, cuts) == 6
    for bad in range(6):
        changed = bytearray(data)
        changed[bad * 37 + bad * 3] ^= 1
        for cuts in combinations(places[::2], 2):
            assert count_of(changed, 5, 300, cuts) == bad
    assert count_of(data, 5, 300, range(len(data))) == 6


def test_content_and_tag_do_not_matter_to_the_count() -> None:
    data = regular(3, 5, 1)
    for frame in range(3):
        for position in range(16, 37):
            data[frame * 37 + position] ^= 0xFF
    assert count_of(data, 5, 1) == 3


def test_the_final_frame_ends_the_count() -> None:
    writer = MessageWriter(SUITE, example_data_key(SUITE), frame_length=20)
    writer.frames(bytes(80), full_final_frame=True)
    whole = len(writer.data) // 52 * 52
    assert whole == 4 * 52
    assert count_of(writer.data[:whole], 20, 1) == 3


def test_frames_out_of_order_end_the_count() -> None:
    one, two, three = (bytes(regular(1, 5, number)) for number in (1, 2, 3))
    assert count_of(one + three + two, 5, 1) == 1
    assert count_of(one + one + two, 5, 1) == 1
    assert count_of(two + one, 5, 1) == 0


def test_frames_with_ivs_of_their_own_do_not_count() -> None:
    assert count_of(regular(3, 5, 1, random_ivs=True), 5, 1) == 0
    assert count_of(regular(1, 5, 1) + regular(1, 5, 2, random_ivs=True) + regular(1, 5, 3), 5, 1) == 1


def test_the_longest_frame_costs_nothing_before_it_is_there() -> None:
    assert count_of(b"", LAST, 1) == 0
    assert count_of(b"", LAST, LAST) == 0
    assert batches.batch_frames(LAST, 0) == 0
