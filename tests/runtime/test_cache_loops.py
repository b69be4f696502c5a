"""The cache: values are dropped when they expire, and one cache serves loops after and beside each other."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aioencrypt import AsyncCache
from aioencrypt.runtime.event_loops import running_loop
from tests.support.caching import Clock, Service
from tests.support.streaming import on_asyncio_and_uvloop, tasks_left

BACKENDS: list[tuple[str, dict[str, Any]]] = [
    ("asyncio", {"debug": True}),
    ("asyncio", {"use_uvloop": True}),
    ("trio", {}),
]
each_backend = pytest.mark.parametrize(("backend", "options"), BACKENDS, ids=["asyncio", "uvloop", "trio"])
TTL = 60.0
SOON = 0.03


class Value:
    """Stands for a key: tells when nobody has it any more."""

    def __init__(self, gone: Callable[[], object]) -> None:
        weakref.finalize(self, gone).atexit = False


def giving(gone: Callable[[], object]) -> Callable[[], Awaitable[Value]]:
    async def fetch() -> Value:
        return Value(gone)

    return fetch


async def comes(event: anyio.Event) -> None:
    with anyio.fail_after(20):
        await event.wait()


# Timers


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_a_value_is_dropped_when_it_expires_although_nobody_uses_the_cache() -> None:
    cache, gone = AsyncCache[Value](), anyio.Event()
    await cache.get("key", giving(gone.set), max_age=SOON)
    assert cache.statistics.size == 1
    await comes(gone)
    assert cache.statistics.size == 0


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_each_value_is_dropped_at_its_own_time() -> None:
    cache, last = AsyncCache[Value](), anyio.Event()
    order: list[str] = []

    async def add(name: str, max_age: float) -> None:
        def gone() -> None:
            order.append(name)
            if len(order) == 3:
                last.set()

        await cache.get(name, giving(gone), max_age=max_age)

    await add("stays", TTL)
    await add("long", 4 * SOON)
    await add("short", SOON)
    await add("middle", 2 * SOON)
    await comes(last)
    assert order == ["short", "middle", "long"]
    assert cache.statistics.size == 1


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_whoever_has_a_value_keeps_it() -> None:
    cache, gone = AsyncCache[Value](capacity=1), list[str]()
    value, _ = await cache.get("key", giving(lambda: gone.append("key")), max_age=TTL)
    await cache.get("other", giving(lambda: None), max_age=TTL)
    cache.clear()
    await cache.aclose()
    assert gone == []
    del value
    assert gone == ["key"]


@pytest.mark.anyio
@pytest.mark.every_loop
@pytest.mark.parametrize(
    "drop",
    [
        pytest.param(lambda cache: cache.drop("key"), id="drop"),
        pytest.param(lambda cache: cache.clear(), id="clear"),
        pytest.param(lambda cache: cache.aclose(), id="aclose"),
        pytest.param(lambda cache: cache.get("new", giving(lambda: None), max_age=TTL), id="evicted"),
        pytest.param(lambda cache: cache.get("key", giving(lambda: None), max_age=0), id="replaced"),
    ],
)
async def test_a_value_that_is_no_longer_kept_is_gone_at_once(drop: Callable[[Any], Any]) -> None:
    cache, gone = AsyncCache[Value](capacity=1), list[str]()
    await cache.get("key", giving(lambda: gone.append("key")), max_age=TTL)
    dropped = drop(cache)
    if dropped is not None:
        await dropped
    gc.collect()
    assert gone == ["key"]


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_a_cache_that_nobody_has_drops_its_values_at_once() -> None:
    cache, gone = AsyncCache[Value](), list[str]()
    await cache.get("key", giving(lambda: gone.append("key")), max_age=TTL)
    del cache
    gc.collect()
    assert gone == ["key"]


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_a_timer_that_comes_early_is_set_again() -> None:
    """As when the clock stands still in between: here it does until it is told otherwise."""
    clock, gone = Clock(), anyio.Event()
    looks: list[float] = []

    def look() -> float:
        looks.append(clock.now)
        return clock.now

    cache = AsyncCache[Value](clock=look)
    await cache.get("key", giving(gone.set), max_age=SOON)
    seen = len(looks)
    with anyio.fail_after(20):
        while len(looks) < seen + 6:
            await anyio.sleep(SOON / 4)
    assert not gone.is_set()
    clock.now += SOON
    await comes(gone)


@on_asyncio_and_uvloop
@pytest.mark.anyio
async def test_a_timer_is_no_task() -> None:
    cache = AsyncCache[str]()
    await cache.get("key", Service(), max_age=TTL)
    assert tasks_left() == []


# Loops one after another


@each_backend
def test_one_cache_serves_loops_one_after_another(
    backend: str, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    cache = AsyncCache[Any]()
    calls: list[str] = []
    loops: list[weakref.ref[object]] = []

    async def fetch() -> str:
        calls.append("call")
        await checkpoint()
        return "value"

    async def main() -> None:
        loops.append(weakref.ref(running_loop()))
        answered = (await cache.get("key", fetch, max_age=TTL))[1]
        assert answered is (len(loops) > 1)
        # and with a fetch in each
        await cache.get(len(loops), fetch, max_age=TTL)

    for _ in range(4):
        anyio.run(main, backend=backend, backend_options=options)
    assert len(calls) == 5
    gc.collect()
    assert [loop() for loop in loops] == [None] * 4
    assert len(cache._loops) == 0
    assert caplog.records == []


@each_backend
@pytest.mark.parametrize("waits", [True, False], ids=["waiters", "no waiters"])
def test_a_fetch_ends_with_its_loop_and_holds_up_no_other(
    backend: str, options: dict[str, Any], waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    cache = AsyncCache[str]()
    ended: list[str] = []

    async def never() -> str:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("first")
        return ""

    async def get() -> None:
        await cache.get("key", never, max_age=TTL)

    async def first() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(get)
            await anyio.wait_all_tasks_blocked()
            if waits:
                group.start_soon(get)
                await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        assert ended == []

    async def second() -> None:
        assert await cache.get("key", Service(), max_age=TTL) == ("value 1", False)

    anyio.run(first, backend=backend, backend_options=options)
    assert ended == ["first"]
    anyio.run(second, backend=backend, backend_options=options)
    gc.collect()
    assert caplog.records == []


@each_backend
def test_values_of_a_loop_that_has_ended_are_dropped_by_the_next(
    backend: str, options: dict[str, Any]
) -> None:
    cache, gone = AsyncCache[Any](), threading.Event()

    async def first() -> None:
        await cache.get("key", giving(gone.set), max_age=SOON)
        await cache.get("other", Service(), max_age=TTL)

    async def second() -> None:
        # Enough of a use: this one is in the cache.
        assert (await cache.get("other", Service(), max_age=TTL))[1]
        with anyio.fail_after(20):
            while not gone.is_set():
                await anyio.sleep(SOON / 4)

    anyio.run(first, backend=backend, backend_options=options)
    anyio.run(second, backend=backend, backend_options=options)


# Loops beside each other


def in_loops(
    number: int, backend: str, options: dict[str, Any], main: Callable[[int], Awaitable[None]]
) -> None:
    """Run a function in several loops at once, each in a thread."""
    failures: list[BaseException] = []

    def run(index: int) -> None:
        try:
            anyio.run(main, index, backend=backend, backend_options=options)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert not any(thread.is_alive() for thread in threads)


@each_backend
def test_loops_in_several_threads_share_values_and_count_uses_exactly(
    backend: str, options: dict[str, Any]
) -> None:
    loops, tasks, rounds, uses = 4, 5, 50, 100
    cache = AsyncCache[int](capacity=2)
    counts, results = Counter[int](), list[int]()
    numbers = iter(range(10**6))
    begin = threading.Barrier(loops)

    async def fetch() -> int:
        await checkpoint()
        return next(numbers)

    def take(value: int) -> bool:
        if counts[value] >= uses:
            return False
        counts[value] += 1
        return True

    async def one(key: str) -> None:
        for _ in range(rounds):
            value, _ = await cache.get(key, fetch, max_age=TTL, usable=take)
            results.append(value)
            await checkpoint()

    async def main(index: int) -> None:
        begin.wait(20)
        async with anyio.create_task_group() as group:
            for task in range(tasks):
                group.start_soon(one, f"key {task % 3}")

    in_loops(loops, backend, options, main)
    assert len(results) == loops * tasks * rounds
    assert Counter(results) == counts
    assert max(counts.values()) <= uses


@each_backend
def test_a_fetch_belongs_to_a_loop_and_its_value_to_all(backend: str, options: dict[str, Any]) -> None:
    cache = AsyncCache[str]()
    fetching, stored = threading.Barrier(2), threading.Event()
    results: dict[int, tuple[str, bool]] = {}

    async def main(index: int) -> None:
        async def fetch() -> str:
            fetching.wait(20)  # both do, or nobody gets on
            return f"value of {index}"

        results[index] = await cache.get("key", fetch, max_age=TTL)
        if index == 0:
            await cache.get("later", fetch_later, max_age=TTL)
            stored.set()
        else:
            assert stored.wait(20)
            results[index] = await cache.get("later", fetch_later, max_age=TTL)

    async def fetch_later() -> str:
        return "later"

    in_loops(2, backend, options, main)
    assert results == {0: ("value of 0", False), 1: ("later", True)}


@each_backend
def test_closing_in_one_loop_leaves_the_fetches_of_others_to_those_who_wait(
    backend: str, options: dict[str, Any]
) -> None:
    cache = AsyncCache[str]()
    fetching, closed = threading.Event(), threading.Event()

    async def main(index: int) -> None:
        if index == 0:
            assert fetching.wait(20)
            await cache.aclose()
            closed.set()
            return

        async def fetch() -> str:
            fetching.set()
            assert closed.wait(20)
            return "value"

        assert await cache.get("key", fetch, max_age=TTL) == ("value", False)
        assert cache.statistics.size == 0

    in_loops(2, backend, options, main)
