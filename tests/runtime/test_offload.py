"""Where work runs: the lane and its turns, the pool, and what belongs to one loop."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aioencrypt import EncryptionClient, Offload
from aioencrypt.format.batches import batch_frames, frame_cost
from aioencrypt.runtime.offload import (
    CORES,
    LANE_MICROSECONDS,
    LONG,
    WORKERS,
    batch_cost,
    in_file_thread,
    loop_states,
    read_in_thread,
    run_work,
)
from tests.support.cancelling import Way, each_way, settle
from tests.support.streaming import KEY, UNSIGNED, assert_idle, comes_true, threads_at_work

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]


class Turns:
    """Counts turns of the loop, as another task sees them."""

    def __init__(self) -> None:
        self.count = 0

    async def tick(self) -> None:
        while True:
            await checkpoint()
            self.count += 1

    @asynccontextmanager
    async def counted(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(self.tick)
            while not self.count:
                await checkpoint()
            yield
            group.cancel_scope.cancel()


@asynccontextmanager
async def occupied_lane() -> AsyncIterator[anyio.abc.TaskGroup]:
    """Let another task wait for its turn in the lane meanwhile; gives a group for those behind it."""
    left = anyio.Event()

    async def hold() -> None:
        lane = loop_states.get().lane
        await lane.acquire()
        try:
            await left.wait()
        finally:
            lane.release()

    async with anyio.create_task_group() as group:
        group.start_soon(hold)
        await settle()
        try:
            yield group
        finally:
            left.set()


def spin(microseconds: float) -> None:
    end = perf_counter() + microseconds / 1e6
    while perf_counter() < end:
        pass


# Lane or pool


@pytest.mark.parametrize(
    ("cost", "offload", "in_thread"),
    [
        (0, Offload.AUTO, False),
        (149, Offload.THREADS, False),
        (150, Offload.THREADS, True),
        (200, Offload.THREADS, True),
        (200, Offload.INLINE, False),
        (200, Offload.AUTO, False),
        *((cost, offload, True) for cost in (201, 1000, LONG) for offload in Offload),
    ],
)
async def test_cost_decides_between_lane_and_pool(cost: float, offload: Offload, in_thread: bool) -> None:
    assert (await run_work(threading.get_ident, cost, offload) != threading.get_ident()) is in_thread
    assert_idle()


async def test_auto_takes_the_pool_while_others_wait_and_a_core_is_free() -> None:
    lane = loop_states.get().lane
    idents: dict[str, int] = {}

    async def use(name: str, offload: Offload, cost: float) -> None:
        idents[name] = await run_work(threading.get_ident, cost, offload)

    async with occupied_lane() as group:
        assert not lane.busy
        group.start_soon(use, "waiting", Offload.AUTO, 1)
        await settle()
        assert lane.busy
        group.start_soon(use, "auto", Offload.AUTO, 200)
        group.start_soon(use, "short", Offload.AUTO, 149)
        group.start_soon(use, "inline", Offload.INLINE, 200)
        await settle()
    here = threading.get_ident()
    # More workers than free cores would make everything slower.
    assert (idents.pop("auto") != here) is (CORES > 2)
    assert idents == {"waiting": here, "short": here, "inline": here}
    assert not lane.busy


@pytest.mark.parametrize("cost", [1, LONG], ids=["lane", "pool"])
async def test_results_and_errors_come_through_unchanged(cost: float) -> None:
    error = ZeroDivisionError("of the work")

    def fail() -> None:
        raise error

    result = object()
    assert await run_work(lambda: result, cost) is result
    with pytest.raises(ZeroDivisionError) as caught:
        await run_work(fail, cost)
    assert caught.value is error
    assert caught.value.__context__ is None
    assert_idle()


# The lane


async def test_the_lane_is_first_come_first_served() -> None:
    order: list[str] = []

    async def use(name: str) -> None:
        for _ in range(4):
            await run_work(lambda: order.append(name), LANE_MICROSECONDS)

    # Trio shuffles what is ready in one turn, so it starts one by one.
    async with occupied_lane() as group:
        for name in "abcde":
            group.start_soon(use, name)
            await settle()
    assert "".join(order) == "abcde" * 4


async def test_whole_budgets_take_a_turn_each() -> None:
    turns, seen = Turns(), []

    async def use() -> None:
        for _ in range(5):
            await run_work(lambda: seen.append(turns.count), LANE_MICROSECONDS)

    async with turns.counted(), anyio.create_task_group() as users:
        for _ in range(4):
            users.start_soon(use)
    # The counter runs before or after the work of its turn, so two may see the same count.
    assert len(seen) == 20
    assert max(map(seen.count, seen)) <= 2
    assert seen[-1] - seen[0] <= 22, "a turn each, and no more"


async def test_a_turn_takes_what_was_spent_into_account() -> None:
    """Four works of 65 microseconds are over the budget, estimated at nothing each."""
    turns, seen = Turns(), []

    def work() -> None:
        seen.append(turns.count)
        spin(65)

    async def use() -> None:
        for _ in range(20):
            await run_work(work, 0)

    async with turns.counted(), anyio.create_task_group() as users:
        await use()
        for _ in range(3):
            users.start_soon(use)
    assert len(seen) == 80
    assert max(map(seen.count, seen)) <= 2 * 4


async def test_work_within_the_budget_does_not_wait() -> None:
    turns = Turns()
    async with turns.counted():
        loop_states.get().lane.spent = 0
        before = turns.count
        for _ in range(10):
            await run_work(lambda: None, 1)
        assert turns.count == before


@each_way
async def test_cancelled_while_waiting_for_the_lane(way: Way) -> None:
    ran = []
    waiting = anyio.Event()

    async def use() -> None:
        waiting.set()
        await run_work(lambda: ran.append("cancelled"), 1)

    async def younger() -> None:
        await run_work(lambda: ran.append("younger"), 1)

    async with occupied_lane() as group:
        await way.when(waiting, use)
        group.start_soon(younger)
        await settle()
    assert ran == ["younger"]
    assert_idle()


async def test_work_that_fails_is_paid_for_too() -> None:
    lane = loop_states.get().lane
    lane.spent = 0

    def fail() -> None:
        spin(50)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run_work(fail, 1)
    assert lane.spent >= 50


# The pool


@pytest.mark.parametrize(
    ("kind", "hop"), [("cryptography", partial(run_work, cost=LONG)), ("files", in_file_thread)]
)
async def test_no_more_threads_than_workers(kind: str, hop: Callable[..., Coroutine[Any, Any, None]]) -> None:
    """For cryptography one less than there are cores: the loop needs one."""
    workers = WORKERS[kind]
    all_run = threading.Barrier(workers + 1)
    running: list[int] = []

    def work() -> None:
        running.append(threading.get_ident())
        all_run.wait(20)

    async with anyio.create_task_group() as group:
        for _ in range(2 * workers):
            group.start_soon(hop, work)
        for started in (workers, 2 * workers):
            while len(running) < started:
                await checkpoint()
            assert len(running) == started
            all_run.wait(20)
    assert WORKERS["cryptography"] == max(1, CORES - 1)
    assert_idle()


async def test_files_do_not_wait_for_cryptography() -> None:
    go = threading.Event()
    async with anyio.create_task_group() as group:
        try:
            for _ in range(WORKERS["cryptography"] + 1):
                group.start_soon(run_work, lambda: go.wait(60), LONG)
            await settle()
            assert await in_file_thread(lambda: "file") == "file"
            assert await read_in_thread(lambda: "read") == "read"
            assert threads_at_work() == WORKERS["cryptography"] + 1
        finally:
            go.set()
    assert_idle()


@pytest.mark.parametrize("offload", Offload)
async def test_an_idle_worker_does_not_keep_the_work_alive(offload: Offload) -> None:
    class Buffer:
        pass

    buffer = Buffer()
    gone = weakref.ref(buffer)

    def work(buffer: object = buffer) -> None:
        pass

    await run_work(work, LONG, offload)
    del work, buffer
    assert comes_true(lambda: gone() is None)


# What belongs to a loop


@pytest.mark.parametrize(
    ("backend", "options"), [("asyncio", {}), ("asyncio", {"use_uvloop": True}), ("trio", {})]
)
def test_state_belongs_to_a_loop_and_goes_with_it(backend: str, options: dict[str, object]) -> None:
    gc.collect()
    before = len(loop_states)
    states: list[object] = []

    async def main() -> None:
        await run_work(lambda: None, LONG)
        await read_in_thread(lambda: None)
        assert loop_states.get() is loop_states.get()
        states.append(loop_states.get())

    for _ in range(3):
        anyio.run(main, backend=backend, backend_options=options)
    assert len(set(map(id, states))) == 3
    states.clear()
    assert comes_true(lambda: len(loop_states) <= before)


def test_several_loops_share_the_pool() -> None:
    """An asynchronous limiter that several loops share would hang."""
    start = threading.Barrier(3)
    done: list[str] = []

    async def main(name: str) -> None:
        start.wait(20)
        async with anyio.create_task_group() as group:
            for _ in range(30):
                for hop in (partial(run_work, cost=LONG), in_file_thread, read_in_thread):
                    group.start_soon(hop, lambda: done.append(name))
        assert_idle()

    threads = [
        threading.Thread(target=anyio.run, args=(main, backend), kwargs={"backend": backend})
        for backend in ("asyncio", "trio", "asyncio")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(done) == ["asyncio"] * 180 + ["trio"] * 90


@pytest.mark.parametrize("frame_length", [1024, 4096, 65536, 1024 * 1024])
def test_batches_are_short_in_the_lane_and_worth_a_hop_in_threads(frame_length: int) -> None:
    def longest(offload: Offload) -> float:
        cost = batch_cost(offload)
        return batch_frames(frame_length, 10**6, cost) * frame_cost(frame_length)

    assert longest(Offload.AUTO) == longest(Offload.INLINE) <= LANE_MICROSECONDS
    assert 500 < longest(Offload.THREADS) <= 1000


LENGTH = 8 * 1024 * 1024


async def test_streams_take_the_batches_of_their_client() -> None:
    """Seen in what is handed out: a chunk is a batch."""
    lengths = {}
    for offload in (Offload.INLINE, Offload.THREADS):
        client = EncryptionClient(offload=offload)
        async with client.encrypt_stream(
            bytes(LENGTH), KEY, algorithm_suite=UNSIGNED, plaintext_length=LENGTH
        ) as stream:
            chunks = [chunk async for chunk in stream]
        async with client.decrypt_stream(b"".join(chunks), KEY) as opening:
            opened = [chunk async for chunk in opening]
        assert b"".join(opened) == bytes(LENGTH)
        lengths[offload] = (max(map(len, chunks)), max(map(len, opened)))
    for inline, threads in zip(*lengths.values(), strict=True):
        assert threads > 4 * inline
