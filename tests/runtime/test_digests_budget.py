"""What all streams of a loop may have waiting for digests, together."""

from __future__ import annotations

import threading
from functools import partial

import anyio
import pytest

from aioencrypt.runtime.digests import DigestQueue
from tests.support.cancelling import Way, assert_fine, each_way, settle

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]

MIB = 1024 * 1024
BOUND = 16 * MIB


def until(gate: threading.Event) -> None:
    """Be a digest that takes until somebody opens the gate."""
    assert gate.wait(20)


class Filled:
    """Queues that hold all that may wait, until they are let go."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.queues = [DigestQueue() for _ in range(BOUND // MIB)]

    async def __aenter__(self) -> Filled:
        for queue in self.queues:
            await queue.reserve(MIB)
            await queue.add(partial(until, self.gate), MIB)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gate.set()
        for queue in self.queues:
            await queue.aclose()


async def test_who_comes_when_all_is_taken_waits_until_something_is_done() -> None:
    late = DigestQueue()
    reserved = anyio.Event()

    async def reserve() -> None:
        await late.reserve(MIB)
        reserved.set()

    async with Filled() as filled, anyio.create_task_group() as group:
        group.start_soon(reserve)
        await settle()
        assert not reserved.is_set()
        filled.gate.set()
        with anyio.fail_after(20):
            await reserved.wait()
        await late.aclose()


async def test_what_is_dropped_makes_room() -> None:
    late = DigestQueue()
    reserved = anyio.Event()

    async def reserve() -> None:
        await late.reserve(MIB)
        reserved.set()

    busy = DigestQueue()
    gate = threading.Event()
    await busy.reserve(MIB)
    await busy.add(partial(until, gate), MIB)
    for _ in range(BOUND // MIB - 1):
        # What waits behind the first one is dropped when the queue is closed.
        await busy.reserve(MIB)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await busy.add(lambda: None, MIB)
    async with anyio.create_task_group() as group:
        group.start_soon(reserve)
        await settle()
        assert not reserved.is_set()
        group.start_soon(busy.aclose)
        with anyio.fail_after(20):
            await reserved.wait()
        gate.set()
    await late.aclose()


async def test_small_digests_of_a_stream_that_has_nothing_waiting_need_no_room() -> None:
    small = DigestQueue()
    done: list[int] = []
    async with Filled():
        with anyio.fail_after(20):
            await small.reserve(32 * 1024)
            await small.add(lambda: done.append(1), 32 * 1024)
        assert done == [1]


async def test_room_that_was_reserved_and_not_used_is_given_back() -> None:
    unused = [DigestQueue() for _ in range(BOUND // MIB)]
    for queue in unused:
        await queue.reserve(MIB)
    for queue in unused:
        await queue.aclose()
    with anyio.fail_after(20):
        async with Filled():
            pass


@each_way
async def test_one_who_is_cancelled_while_waiting_for_room_leaves_it_to_the_next(way: Way) -> None:
    first, second = DigestQueue(), DigestQueue()
    waiting, reserved = anyio.Event(), anyio.Event()

    async def cancelled() -> None:
        waiting.set()
        await first.reserve(MIB)

    async def reserve() -> None:
        await second.reserve(MIB)
        reserved.set()

    async with Filled() as filled, anyio.create_task_group() as group:
        await way.when(waiting, cancelled)
        group.start_soon(reserve)
        await settle()
        assert not reserved.is_set()
        filled.gate.set()
        with anyio.fail_after(20):
            await reserved.wait()
        await second.aclose()
    await assert_fine()


async def test_one_who_is_cancelled_after_he_was_woken_wakes_the_next() -> None:
    first, second = DigestQueue(), DigestQueue()
    reserved = anyio.Event()

    async def reserve() -> None:
        await second.reserve(MIB)
        reserved.set()

    async with Filled() as filled, anyio.create_task_group() as group:
        async with anyio.create_task_group() as inner:
            inner.start_soon(first.reserve, MIB)
            await settle()
            group.start_soon(reserve)
            await settle()
            filled.gate.set()
            # Both happen before the loop turns: he is woken, and cancelled.
            while filled.queues[0].pending:
                threading.Event().wait(0.001)
            inner.cancel_scope.cancel()
        with anyio.fail_after(20):
            await reserved.wait()
        await second.aclose()


async def test_a_thousand_waiters_all_get_their_turn() -> None:
    queues = [DigestQueue() for _ in range(1000)]
    done: list[int] = []

    async def one(number: int) -> None:
        await queues[number].reserve(MIB)
        await queues[number].add(lambda: done.append(number), MIB)
        await queues[number].join()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number in range(1000):
                group.start_soon(one, number)
    assert sorted(done) == list(range(1000))
