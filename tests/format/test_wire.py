"""The byte queue against plain bytes, and the cursor."""

from __future__ import annotations

import ctypes
import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from aioencrypt.errors import LimitError
from aioencrypt.format.wire import ByteQueue, Cursor, Short, immutable
from tests.support.rows import each_row

LARGE = 5000  # above what is gathered
BLOCK = bytes(range(256)) * 300


def queue_of(*pieces: bytes) -> ByteQueue:
    queue = ByteQueue()
    for piece in pieces:
        queue.append(piece)
    return queue


def cursor_over(*pieces: bytes, limit: int | None = None) -> tuple[Cursor, ByteQueue]:
    queue = queue_of(*pieces)
    return Cursor(queue, limit, "max_header_length", "the length of the header"), queue


OPERATION = st.one_of(
    st.tuples(st.just("append"), st.one_of(st.integers(0, 20), st.integers(4000, 9000), st.just(70000))),
    st.tuples(st.sampled_from(["take", "take_pieces", "peek", "put_back"]), st.integers(0, 9000)),
)


@settings(deadline=None, max_examples=150)
@given(operations=st.lists(OPERATION, max_size=30))
def test_a_queue_is_bytes_in_and_the_same_bytes_out(operations: list[tuple[str, int]]) -> None:
    queue, model = ByteQueue(), b""
    views: list[tuple[memoryview, bytes]] = []
    start = 0
    for operation, length in operations:
        if operation == "append":
            data = BLOCK[start % 256 :][:length]
            start += length
            queue.append(data)
            model += data
            continue
        length = min(length, len(model))
        expected = model[:length]
        if operation == "peek":
            assert queue.peek(length) == expected
            continue
        if operation == "take_pieces":
            pieces = queue.take_pieces(length)
            views += [(piece, bytes(piece)) for piece in pieces]
            assert b"".join(pieces) == expected
        else:
            assert queue.take(length) == expected
        model = model[length:]
        if operation == "put_back":
            queue.put_back(expected)
            model = expected + model
    assert len(queue) == len(model)
    front = queue.front()
    assert bytes(front) == model[: len(front)]
    assert len(front) or not model
    assert queue.take(len(model)) == model
    # What was handed out never changes, whatever came in later.
    assert all(bytes(view) == copy for view, copy in views)


def test_a_large_piece_is_not_copied() -> None:
    data = BLOCK[:LARGE]
    queue = queue_of(data)
    (first,) = queue.take_pieces(100)
    (second,) = queue.take_pieces(LARGE - 100)
    assert first.obj is data
    assert second.obj is data


def test_views_are_on_immutable_bytes() -> None:
    queue = queue_of(b"small", b"pieces")
    (view,) = queue.take_pieces(7)
    queue.append(b"more")
    assert view.readonly
    assert bytes(view) == b"smallpi"
    assert queue.take(8) == b"ecesmore"


def test_pieces_that_straddle_stay_pieces() -> None:
    queue = queue_of(BLOCK[:LARGE], BLOCK[:LARGE])
    pieces = queue.take_pieces(LARGE + 1)
    assert [len(piece) for piece in pieces] == [LARGE, 1]
    assert len(queue) == LARGE - 1


def test_a_peek_over_pieces_takes_nothing() -> None:
    queue = queue_of(BLOCK[:LARGE], BLOCK[:LARGE])
    assert queue.peek(LARGE + 3) == BLOCK[:LARGE] + BLOCK[:3]
    assert len(queue) == 2 * LARGE
    assert queue.take(2 * LARGE) == BLOCK[:LARGE] * 2


def test_an_empty_queue_has_an_empty_front() -> None:
    queue = ByteQueue()
    assert not queue.front()
    assert queue.take(0) == b""
    assert queue.take_pieces(0) == ()
    queue.put_back(b"")
    assert len(queue) == 0


def test_clear() -> None:
    queue = queue_of(BLOCK[:LARGE], b"tail")
    queue.clear()
    assert len(queue) == 0
    assert not queue.front()


def test_single_bytes_cost_no_object_each() -> None:
    queue = ByteQueue()
    tracemalloc.start()
    try:
        for _ in range(200_000):
            queue.append(b"x")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(queue) == 200_000
    assert peak < 600_000


def test_a_cursor_takes_fields() -> None:
    cursor, queue = cursor_over(b"\x07\x00\x01\x00\x03abcrest")
    assert cursor.number(1) == 7
    assert cursor.number(2) == 1
    assert cursor.sized() == b"abc"
    assert cursor.taken(without=0) == b"\x07\x00\x01\x00\x03abc"
    assert cursor.taken(without=2) == b"\x07\x00\x01\x00\x03a"
    cursor.finish()
    assert queue.take(len(queue)) == b"rest"


def test_a_short_field_says_how_many_bytes_are_missing_and_is_taken_again_later() -> None:
    cursor, queue = cursor_over(b"\x01\x00\x05ab")
    assert cursor.number(1) == 1
    cursor.commit()
    for piece in (b"c", b"d"):
        with pytest.raises(Short) as caught:
            cursor.sized()
        assert caught.value.missing == 3 - (piece == b"d")
        cursor.roll_back()
        queue.append(piece)
    queue.append(b"e!")
    assert cursor.sized() == b"abcde"
    cursor.commit()
    cursor.finish()
    assert queue.take(1) == b"!"


def test_a_cursor_pulls_no_more_than_it_needs_of_a_long_piece() -> None:
    cursor, queue = cursor_over(BLOCK)
    cursor.take(10)
    assert len(queue) > len(BLOCK) - LARGE
    cursor.finish()
    assert queue.take(len(queue)) == BLOCK[10:]


def test_a_limit_is_met_before_the_bytes_are_there() -> None:
    cursor, _ = cursor_over(b"ab", limit=10)
    cursor.take(2)
    with pytest.raises(LimitError) as caught:
        cursor.take(9)
    assert (caught.value.parameter, caught.value.limit, caught.value.actual) == ("max_header_length", 10, 11)


def test_a_limit_holds_for_bytes_that_are_there() -> None:
    cursor, _ = cursor_over(BLOCK, limit=10)
    cursor.take(10)
    with pytest.raises(LimitError, match="max_header_length=10"):
        cursor.take(1)


def test_a_limit_may_be_reached() -> None:
    cursor, _ = cursor_over(b"0123456789", limit=10)
    assert cursor.take(10) == b"0123456789"


BUFFERS: dict[str, Callable[[bytearray], Any]] = {
    "bytearray": lambda data: data,
    "view": memoryview,
    "read-only view": lambda data: memoryview(data).toreadonly(),
    "part of a view": lambda data: memoryview(data).toreadonly()[:],
    "view of a view": lambda data: memoryview(memoryview(memoryview(data).toreadonly())),
    "cast view": lambda data: memoryview(data).cast("H").toreadonly(),
    "view of two dimensions": lambda data: memoryview(data).cast("B", (2, len(data) // 2)).toreadonly(),
    "view with steps": lambda data: memoryview(data).toreadonly()[::2],
    "pickle buffer": lambda data: memoryview(pickle.PickleBuffer(data)).toreadonly(),
    "ctypes array": lambda data: memoryview((ctypes.c_char * len(data)).from_buffer(data)).toreadonly(),
}


@pytest.mark.parametrize("kind", BUFFERS)
@each_row("length", [2, 100, 100_000])
def test_what_may_change_later_is_copied(kind: str, length: int) -> None:
    data = bytearray(range(1, 3)) * (length // 2)
    view = BUFFERS[kind](data)
    before = memoryview(view).tobytes()
    kept = immutable(view)
    machine = ByteQueue()
    machine.append(kept)
    data[:] = bytes(len(data))
    assert bytes(kept) == before
    assert machine.take(len(before)) == before


def test_bytes_and_views_on_them_are_not_copied() -> None:
    data = bytes(100)
    assert immutable(data) is data
    for view in (memoryview(data), memoryview(memoryview(data))[10:], memoryview(data).cast("H")):
        kept = immutable(view)
        assert isinstance(kept, memoryview)
        assert kept.obj is data
