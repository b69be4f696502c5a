"""The cache: age, order, capacity, one fetch for all who wait, errors.

Specification: framework/cryptographic-materials-cache.md, local-cryptographic-materials-cache.md.
"""

from __future__ import annotations

import asyncio
import copy
import pickle
import traceback
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio
import pytest

from aioencrypt import AsyncCache, CacheStatistics, ProviderError
from aioencrypt.errors import Attempt
from tests.support.caching import Clock, Service, at_once, turn_until
from tests.support.cancelling import Way, each_way, settle
from tests.support.streaming import assert_idle, on_asyncio_and_uvloop

pytestmark = pytest.mark.anyio

CMC = "framework/cryptographic-materials-cache.md"
LOCAL = "framework/local-cryptographic-materials-cache.md"
TTL = 60.0


def cache_of(clock: Clock | None = None, capacity: int = 1000) -> AsyncCache[str]:
    return AsyncCache(capacity=capacity, clock=clock or Clock())


def keys_of(cache: AsyncCache[str], *keys: str) -> list[str]:
    """Tell which keys are there, without a change to their order."""
    return [key for key in keys if key in cache._entries]


# Age


@pytest.mark.spec(f"{CMC}#overview", f"{CMC}#put-cache-entry")
async def test_what_was_fetched_is_there_the_next_time() -> None:
    cache, service = cache_of(), Service()
    assert await cache.get("key", service, max_age=TTL) == ("value 1", False)
    assert await cache.get("key", service, max_age=TTL) == ("value 1", True)
    assert await cache.get("other", service, max_age=TTL) == ("value 2", False)
    assert cache.statistics == CacheStatistics(hits=1, misses=2, refreshes=0, evictions=0, size=2)


@pytest.mark.spec(
    f"{CMC}#time-to-live-ttl", f"{CMC}#get-cache-entry", f"{CMC}#cache-entry", f"{LOCAL}#get-cache-entry"
)
@pytest.mark.parametrize(("age", "expected"), [(59.999, "value 1"), (60.0, "value 2"), (1e6, "value 2")])
async def test_a_value_is_used_until_it_expires(age: float, expected: str) -> None:
    clock, service = Clock(), Service()
    cache = cache_of(clock)
    await cache.get("key", service, max_age=TTL)
    clock.now += age
    assert await cache.get("key", service, max_age=TTL) == (expected, expected == "value 1")


async def test_the_age_of_a_value_starts_when_it_arrives_and_is_not_renewed_by_use() -> None:
    clock, service = Clock(), Service(held=True)
    cache = cache_of(clock)
    async with anyio.create_task_group() as group:
        group.start_soon(partial(cache.get, "key", service, max_age=TTL))
        await service.waiting.wait()
        clock.now += 1000
        service.release()
    for _ in range(2):
        clock.now += 29.9
        assert await cache.get("key", service, max_age=TTL) == ("value 1", True)
    clock.now += 0.2
    service.held = False
    assert await cache.get("key", service, max_age=TTL) == ("value 2", False)


@pytest.mark.spec(f"{CMC}#put-cache-entry")
async def test_a_caller_may_want_younger_values_than_the_one_that_fetched() -> None:
    clock, service = Clock(), Service()
    cache = cache_of(clock)
    await cache.get("key", service, max_age=TTL)
    clock.now += 10
    assert await cache.get("key", service, max_age=10.1) == ("value 1", True)
    assert await cache.get("key", service, max_age=10) == ("value 2", False)
    # which took the place of the old one
    assert await cache.get("key", service, max_age=TTL) == ("value 2", True)
    assert cache.statistics.size == 1


async def test_a_longer_ttl_does_not_revive_a_value() -> None:
    clock, service = Clock(), Service()
    cache = cache_of(clock)
    await cache.get("key", service, max_age=TTL)
    clock.now += TTL
    assert await cache.get("key", service, max_age=10 * TTL) == ("value 2", False)


async def test_a_value_may_live_for_ever() -> None:
    clock, service = Clock(), Service()
    cache = cache_of(clock)
    await cache.get("key", service, max_age=float("inf"))
    clock.now += 1e12
    assert await cache.get("key", service, max_age=float("inf")) == ("value 1", True)


@pytest.mark.spec(f"{LOCAL}#pruning", f"{LOCAL}#entry-pruning-tail-size", f"{LOCAL}#initialization")
async def test_any_use_drops_all_that_has_expired() -> None:
    clock, service = Clock(), Service()
    cache = cache_of(clock)
    for number in range(5):
        await cache.get(f"short {number}", service, max_age=TTL)
    await cache.get("long", service, max_age=2 * TTL)
    clock.now += TTL
    assert cache.statistics.size == 6
    await cache.get("long", service, max_age=2 * TTL)
    assert cache.statistics.size == 1


# Order and capacity


@pytest.mark.spec(f"{LOCAL}#entry-capacity", f"{LOCAL}#put-cache-entry", f"{LOCAL}#initialization")
async def test_the_least_recently_used_makes_room() -> None:
    cache, service = cache_of(capacity=3), Service()
    for key in ("a", "b", "c", "a"):
        await cache.get(key, service, max_age=TTL)
    await cache.get("d", service, max_age=TTL)
    assert keys_of(cache, "a", "b", "c", "d") == ["a", "c", "d"]
    await cache.get("c", service, max_age=TTL)
    await cache.get("e", service, max_age=TTL)
    assert keys_of(cache, "a", "b", "c", "d", "e") == ["c", "d", "e"]
    assert cache.statistics == CacheStatistics(hits=2, misses=5, evictions=2, size=3)


async def test_a_value_that_is_fetched_anew_counts_as_used() -> None:
    clock, service = Clock(), Service()
    cache = cache_of(clock, capacity=2)
    await cache.get("a", service, max_age=TTL)
    await cache.get("b", service, max_age=TTL)
    clock.now += 2
    assert await cache.get("a", service, max_age=1) == ("value 3", False)
    await cache.get("c", service, max_age=TTL)
    assert keys_of(cache, "b", "c") == ["c"]


@pytest.mark.spec(f"{LOCAL}#entry-capacity")
async def test_a_cache_without_capacity_keeps_nothing_but_saves_calls_at_the_same_time() -> None:
    cache, service = cache_of(capacity=0), Service()
    results = await at_once(10, partial(cache.get, "key", service, max_age=TTL))
    assert sorted(map(str, results)) == ["('value 1', False)"] + ["('value 1', True)"] * 9
    assert await cache.get("key", service, max_age=TTL) == ("value 2", False)
    assert cache.statistics.size == 0


async def test_memory_stays_flat_when_keys_come_and_go() -> None:
    cache, service = cache_of(capacity=10), Service()
    for number in range(2000):
        await cache.get(number, service, max_age=TTL)
    for _ in range(2000):
        await cache.get("same", service, max_age=TTL)
        cache.drop("same")
    assert cache.statistics.size <= 10
    assert len(cache._expiries) < 100


@pytest.mark.parametrize("capacity", [-1, -1000])
def test_a_capacity_is_not_negative(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"capacity is {capacity}; it must be 0 or more"):
        AsyncCache(capacity=capacity)


def test_a_capacity_is_a_number() -> None:
    with pytest.raises(TypeError, match="capacity must be an int, not str"):
        AsyncCache(capacity="10")  # type: ignore[arg-type]


async def test_a_cache_neither_shows_nor_copies_what_it_holds() -> None:
    cache = cache_of()
    await cache.get("key", Service(), max_age=TTL)
    assert repr(cache) == "AsyncCache(capacity=1000, size=1)"
    for function in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="a cache cannot be pickled or copied: each process has its own"):
            function(cache)


# One fetch for all who wait


@pytest.mark.every_loop
async def test_a_thousand_callers_wait_for_one_fetch() -> None:
    cache, service = cache_of(), Service()
    results = await at_once(1000, partial(cache.get, "key", service, max_age=TTL))
    assert service.calls == 1
    assert results.count(("value 1", True)) == 999
    assert results.count(("value 1", False)) == 1
    assert cache.statistics == CacheStatistics(hits=999, misses=1, size=1)


@pytest.mark.every_loop
async def test_keys_do_not_wait_for_each_other() -> None:
    cache, service, quick = cache_of(), Service(held=True), Service()
    async with anyio.create_task_group() as group:
        group.start_soon(partial(cache.get, "slow", service, max_age=TTL))
        await service.waiting.wait()
        assert await cache.get("quick", quick, max_age=TTL) == ("value 1", False)
        service.release()


@each_way
async def test_cancelling_the_first_caller_fails_nobody_else(way: Way) -> None:
    cache, service = cache_of(), Service(held=True)
    others: list[Any] = []

    async def join() -> None:
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                others.append(await cache.get("key", service, max_age=TTL))

            for _ in range(10):
                group.start_soon(wait)
            await settle()
            service.release()

    await way.during(service.waiting, partial(cache.get, "key", service, max_age=TTL), join)
    assert others == [("value 1", True)] * 10
    assert service.calls == 1
    assert_idle()


@each_way
async def test_cancelling_a_caller_that_joined_fails_nobody_else(way: Way) -> None:
    cache, service = cache_of(), Service(held=True)
    first: list[Any] = []

    async def fetch() -> None:
        first.append(await cache.get("key", service, max_age=TTL))

    async with anyio.create_task_group() as group:
        group.start_soon(fetch)
        await service.waiting.wait()
        await way.when(service.waiting, partial(cache.get, "key", service, max_age=TTL))
        service.release()
    assert first == [("value 1", False)]
    assert service.calls == 1


@each_way
async def test_a_fetch_goes_on_when_everybody_has_left(way: Way) -> None:
    cache, service = cache_of(), Service(held=True)
    await way.when(service.waiting, partial(cache.get, "key", service, max_age=TTL))
    assert service.ended == 0
    service.release()
    await turn_until(lambda: service.ended)
    assert await cache.get("key", service, max_age=TTL) == ("value 1", True)
    assert_idle()


REQUEST: ContextVar[str] = ContextVar("REQUEST")


@pytest.mark.every_loop
async def test_a_fetch_runs_in_a_copy_of_the_context_of_the_first_caller() -> None:
    cache = cache_of()
    seen: list[str] = []

    async def fetch() -> str:
        seen.append(REQUEST.get())
        REQUEST.set("changed")
        return "value"

    async def call(name: str) -> None:
        REQUEST.set(name)
        await cache.get("key", fetch, max_age=TTL)
        assert REQUEST.get() == name

    async with anyio.create_task_group() as group:
        group.start_soon(call, "first")
        await turn_until(lambda: seen)
        group.start_soon(call, "second")
    assert seen == ["first"]


# Errors


def refused() -> ProviderError:
    cause = OSError("no route")
    error = ProviderError("could not", [Attempt("generate", "aws-kms", "key", cause)])
    error.__cause__ = cause
    return error


@pytest.mark.every_loop
async def test_an_error_goes_to_all_who_wait_each_its_own() -> None:
    error = refused()
    cache, service = cache_of(), Service(error=error)
    errors = await at_once(100, partial(cache.get, "key", service, max_age=TTL))
    assert service.calls == 1
    assert len({id(raised) for raised in errors}) == 100
    for raised in errors:
        assert type(raised) is ProviderError
        assert str(raised) == str(error)
        assert raised.attempts == error.attempts
        assert raised.__cause__ is error.__cause__
        assert raised.__suppress_context__
        lines = [frame.name for frame in traceback.extract_tb(raised.__traceback__)]
        # who called, and what raised; nothing of the others
        assert (lines[0], lines[-1], lines.count("get")) == ("one", "__call__", 1)


@pytest.mark.every_loop
async def test_an_error_that_cannot_be_copied_goes_to_all_who_wait() -> None:
    class OddError(Exception):
        def __init__(self, a: int, b: int) -> None:
            super().__init__(f"{a} {b}")

    error = OddError(1, 2)
    cache, service = cache_of(), Service(error=error)
    assert await at_once(100, partial(cache.get, "key", service, max_age=TTL)) == [error] * 100
    assert len(traceback.extract_tb(error.__traceback__)) < 10


@pytest.mark.every_loop
async def test_an_error_is_not_kept() -> None:
    cache, service = cache_of(), Service(error=refused())
    for _ in range(2):
        with pytest.raises(ProviderError, match="could not"):
            await cache.get("key", service, max_age=TTL)
    service.error = None
    assert await cache.get("key", service, max_age=TTL) == ("value 3", False)
    assert cache.statistics == CacheStatistics(misses=3, size=1)


@pytest.mark.every_loop
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
async def test_what_ends_a_program_reaches_the_caller_as_it_is(kind: type[BaseException]) -> None:
    cache, service = cache_of(), Service(error=kind("end"))
    with pytest.raises(kind, match="end"):
        await cache.get("key", service, max_age=TTL)
    assert_idle()


@on_asyncio_and_uvloop
async def test_a_fetch_that_is_cancelled_by_others_is_an_error() -> None:
    cache = cache_of()

    async def fetch() -> str:
        raise asyncio.CancelledError

    with pytest.raises(ProviderError, match="the fetch was cancelled, and not by its caller"):
        await cache.get("key", fetch, max_age=TTL)
    assert cache.statistics == CacheStatistics(misses=1)
    assert_idle()


@on_asyncio_and_uvloop
@pytest.mark.parametrize("steps", [0, 1, 5], ids=lambda steps: f"after {steps} turns")
async def test_a_fetch_whose_task_somebody_cancels_is_an_error_and_is_not_in_the_way(steps: int) -> None:
    cache, service = cache_of(), Service(held=True)
    before = asyncio.all_tasks()
    waiting = asyncio.ensure_future(at_once(1, partial(cache.get, "key", service, max_age=TTL)))

    def new() -> set[asyncio.Task[Any]]:
        return {task for task in asyncio.all_tasks() - before if "BackgroundTask" in repr(task)}

    while not new():
        await asyncio.sleep(0)
    for _ in range(steps):
        await asyncio.sleep(0)
    [fetching] = new()
    fetching.cancel()
    [error] = await waiting
    assert (type(error), str(error)) == (ProviderError, "the fetch was cancelled, and not by its caller")
    service.held = False
    assert (await cache.get("key", service, max_age=TTL))[1] is False
    assert_idle()
