"""The cache: keys that are dropped, caches that are closed, and fetches that are under way then."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aioencrypt import AsyncCache, ProviderClosedError
from tests.support.caching import Clock, Service, at_once, turn_until
from tests.support.cancelling import Way, each_way, settle
from tests.support.streaming import assert_idle

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]

CMC = "framework/cryptographic-materials-cache.md"
TTL = 60.0


def cache_of() -> AsyncCache[str]:
    return AsyncCache(clock=Clock())


@pytest.mark.spec(f"{CMC}#delete-cache-entry")
async def test_a_key_that_is_dropped_is_fetched_again() -> None:
    cache, service = cache_of(), Service()
    cache.drop("key")
    for key in ("key", "other"):
        await cache.get(key, service, max_age=TTL)
    cache.drop("key")
    assert await cache.get("other", service, max_age=TTL) == ("value 2", True)
    assert await cache.get("key", service, max_age=TTL) == ("value 3", False)
    cache.clear()
    assert cache.statistics.size == 0
    assert await cache.get("other", service, max_age=TTL) == ("value 4", False)


@pytest.mark.parametrize("forget", [lambda cache: cache.drop("key"), lambda cache: cache.clear()])
async def test_a_fetch_that_began_before_the_key_was_dropped_is_not_kept(forget: Any) -> None:
    cache, service = cache_of(), Service(held=True)
    results: list[Any] = []

    async def get() -> None:
        results.append(await cache.get("key", service, max_age=TTL))

    async with anyio.create_task_group() as group:
        group.start_soon(get)
        await service.waiting.wait()
        forget(cache)
        group.start_soon(get)  # does not join a fetch from before
        await turn_until(lambda: service.calls == 2)
        cache.drop("something else")
        service.release()
    assert sorted(results) == [("value 1", False), ("value 2", False)]
    assert await cache.get("key", service, max_age=TTL) == ("value 2", True)


async def test_closing_ends_the_fetches_and_forgets_the_keys() -> None:
    cache, service = cache_of(), Service()
    await cache.get("kept", service, max_age=TTL)
    service.held = True
    results: list[Any] = []

    async def get() -> None:
        results.extend(await at_once(5, partial(cache.get, "key", service, max_age=TTL)))

    async with anyio.create_task_group() as group:
        group.start_soon(get)
        await service.waiting.wait()
        await cache.aclose()
        assert service.ended == 2
    assert [(type(error), str(error)) for error in results] == [
        (ProviderClosedError, "closed while a key was being fetched")
    ] * 5
    assert len(set(map(id, results))) == 5
    assert cache.statistics.size == 0
    assert_idle()
    service.held = False
    assert await cache.get("key", service, max_age=TTL) == ("value 3", False)


@pytest.mark.parametrize("answers", [True, False], ids=["a value", "an error"])
async def test_what_a_fetch_makes_of_being_closed_does_not_count(answers: bool) -> None:
    cache, started = cache_of(), anyio.Event()

    async def fetch() -> str:
        started.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            if not answers:
                raise OSError("closed in the middle") from None
        return "late"

    async def get() -> None:
        [error] = await at_once(1, partial(cache.get, "key", fetch, max_age=TTL))
        assert (type(error), str(error)) == (ProviderClosedError, "closed while a key was being fetched")

    async with anyio.create_task_group() as group:
        group.start_soon(get)
        await started.wait()
        await cache.aclose()
    assert cache.statistics.size == 0


async def test_leaving_the_cache_closes_it() -> None:
    service = Service()
    async with cache_of() as cache:
        await cache.get("key", service, max_age=TTL)
        assert cache.statistics.size == 1
    assert cache.statistics.size == 0


@each_way
async def test_closing_waits_for_the_fetches_when_it_is_cancelled(way: Way) -> None:
    cache = cache_of()
    ended, closing, gate = list[str](), anyio.Event(), anyio.Event()

    async def fetch() -> str:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                closing.set()
                await gate.wait()
            ended.append("fetch")
        return ""

    async def close() -> None:
        try:
            await cache.aclose()
        finally:
            ended.append("close")

    async def get() -> None:
        with pytest.raises(ProviderClosedError):
            await cache.get("key", fetch, max_age=TTL)

    async def let_go() -> None:
        await checkpoint()
        gate.set()

    async with anyio.create_task_group() as group:
        group.start_soon(get)
        await settle()
        await way.during(closing, close, let_go)
    assert ended == ["fetch", "close"]
    assert_idle()
