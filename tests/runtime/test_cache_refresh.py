"""The cache: values that are fetched anew before they expire, that callers refuse, and that owners share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio
import pytest

from aioencrypt import AsyncCache, CacheStatistics, ProviderClosedError, ProviderError
from tests.support.caching import Clock, Service, at_once, turn_until
from tests.support.cancelling import settle
from tests.support.streaming import assert_idle

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]

TTL = 60.0
AHEAD = 10.0


class Case:
    """A cache and the service that its one key is asked of."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.service = Service()
        self.cache: AsyncCache[str] = AsyncCache(clock=self.clock)

    async def get(self, **options: Any) -> tuple[str, bool]:
        return await self.cache.get("key", self.service, max_age=TTL, refresh_ahead=AHEAD, **options)


async def aged(age: float) -> Case:
    """Return a case whose value is so old."""
    case = Case()
    assert await case.get() == ("value 1", False)
    case.clock.now += age
    return case


# Ahead of expiry


@pytest.mark.parametrize(("age", "calls"), [(0, 1), (49.999, 1), (50, 2), (59.999, 2)])
async def test_a_value_is_refreshed_in_the_last_seconds_of_its_age(age: float, calls: int) -> None:
    case = await aged(age)
    assert await case.get() == ("value 1", True)
    await settle()
    assert case.service.calls == calls
    assert await case.get() == (f"value {calls}", True)
    assert case.cache.statistics == CacheStatistics(hits=2, misses=1, refreshes=calls - 1, size=1)


async def test_nobody_waits_for_a_refresh_and_there_is_one_at_a_time() -> None:
    case = await aged(55)
    case.service.held = True
    # the loop does not turn in between
    assert [await case.get() for _ in range(100)] == [("value 1", True)] * 100
    await case.service.waiting.wait()
    assert [await case.get() for _ in range(100)] == [("value 1", True)] * 100
    assert case.service.calls == 2
    case.service.release()
    await turn_until(lambda: case.service.ended == 2)
    assert await case.get() == ("value 2", True)
    assert case.cache.statistics.refreshes == 1
    # and the new value has its full age
    case.clock.now += 49
    assert await case.get() == ("value 2", True)
    assert case.service.calls == 2


async def test_who_comes_after_expiry_waits_for_the_refresh_that_is_under_way() -> None:
    case = await aged(55)
    case.service.held = True
    await case.get()
    await case.service.waiting.wait()
    case.clock.now += 5
    results: list[Any] = []

    async def wait() -> None:
        results.extend(await at_once(100, case.get))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await settle()
        case.service.release()
    assert results == [("value 2", True)] * 100
    assert case.service.calls == 2


async def test_expiry_under_load_makes_one_call_and_holds_nobody_up_who_has_a_key() -> None:
    case, other = await aged(40), Service()
    assert await case.cache.get("other", other, max_age=TTL) == ("value 1", False)
    case.clock.now += 20
    case.service.held = True
    late: list[Any] = []

    async def wait() -> None:
        late.extend(await at_once(1000, case.get))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await case.service.waiting.wait()
        assert await case.cache.get("other", other, max_age=TTL) == ("value 1", True)
        assert late == []
        case.service.release()
    assert late.count(("value 2", True)) == 999
    assert (case.service.calls, other.calls) == (2, 1)


async def test_a_value_that_nobody_uses_is_not_refreshed() -> None:
    case = await aged(70)
    await settle()
    assert case.service.calls == 1


async def test_a_refresh_runs_in_a_copy_of_the_context_of_the_call_that_starts_it() -> None:
    request: ContextVar[str] = ContextVar("request")
    case, seen = await aged(55), list[str]()

    async def fetch() -> str:
        seen.append(request.get())
        return "new"

    request.set("second")
    await case.cache.get("key", fetch, max_age=TTL, refresh_ahead=AHEAD)
    request.set("third")
    await turn_until(lambda: seen)
    assert seen == ["second"]


async def test_a_refresh_that_fails_keeps_the_value_until_it_expires(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "aioencrypt")
    case = await aged(50)
    case.service.error = ProviderError("no permission for secret things")
    attempts = []
    for tenths in range(100):
        case.clock.now = 1050 + tenths / 10
        assert await case.get() == ("value 1", True)
        await settle()
        attempts.append(case.service.calls)
    # at once, then after half of what is left of ten seconds, and again
    assert [attempts.index(number) / 10 for number in range(2, 9)] == [0, 5, 7.5, 8.8, 9.4, 9.7, 9.9]
    case.clock.now = 1060
    with pytest.raises(ProviderError, match="no permission"):
        await case.get()
    assert {record.getMessage() for record in caplog.records} == {
        "a key could not be refreshed: ProviderError"
    }
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    assert_idle()


async def test_a_refresh_that_fails_and_then_succeeds() -> None:
    case = await aged(50)
    case.service.error = ProviderError("throttled")
    await case.get()
    await settle()
    case.clock.now += 5
    case.service.error = None
    assert await case.get() == ("value 1", True)
    await settle()
    case.clock.now += 5
    assert await case.get() == ("value 3", True)


async def test_closing_ends_a_refresh() -> None:
    case = await aged(55)
    case.service.held = True
    await case.get()
    await case.service.waiting.wait()
    await case.cache.aclose()
    assert (case.service.ended, case.cache.statistics.size) == (2, 0)
    assert_idle()


# Values that callers refuse


async def test_a_value_that_is_refused_is_fetched_anew_and_replaced() -> None:
    case = await aged(0)
    asked: list[str] = []

    def usable(value: str) -> bool:
        asked.append(value)
        return value != "value 1"

    assert await case.get(usable=usable) == ("value 2", False)
    assert await case.get(usable=usable) == ("value 2", True)
    assert asked == ["value 1", "value 2", "value 2"]
    assert case.cache.statistics == CacheStatistics(hits=1, misses=2, size=1)


async def test_what_a_call_fetched_itself_is_returned_in_any_case() -> None:
    case = Case()
    for number in (1, 2):
        assert await case.get(usable=lambda value: False) == (f"value {number}", False)


def taking(uses: int, counts: dict[str, int]) -> Callable[[str], bool]:
    """Return a function that lets each value be used so often, and counts."""

    def take(value: str) -> bool:
        if counts.get(value, 0) >= uses:
            return False
        counts[value] = counts.get(value, 0) + 1
        return True

    return take


@pytest.mark.parametrize(("uses", "calls"), [(1, 50), (7, 8), (10, 5), (50, 1), (51, 1)])
async def test_uses_are_counted_exactly(uses: int, calls: int) -> None:
    case, counts = Case(), dict[str, int]()
    results = await at_once(50, partial(case.get, usable=taking(uses, counts)))
    values = [result[0] for result in results if isinstance(result, tuple)]
    assert len(values) == 50
    assert case.service.calls == calls
    assert {value: values.count(value) for value in values} == counts
    assert max(counts.values()) <= uses


async def test_a_caller_that_left_has_had_its_use() -> None:
    case, counts = Case(), dict[str, int]()
    case.service.held = True
    async with anyio.create_task_group() as group:
        group.start_soon(partial(case.get, usable=taking(2, counts)))
        await case.service.waiting.wait()
        group.cancel_scope.cancel()
    case.service.release()
    await turn_until(lambda: case.service.ended)
    assert counts == {"value 1": 1}


async def test_a_refresh_uses_nothing_of_the_new_value() -> None:
    case, counts = Case(), dict[str, int]()
    usable = taking(5, counts)
    await case.get(usable=usable)
    case.clock.now += 55
    assert await case.get(usable=usable) == ("value 1", True)
    await turn_until(lambda: case.service.ended == 2)
    assert counts == {"value 1": 2}


async def test_an_error_of_the_check_is_the_callers() -> None:
    case = Case()

    def usable(value: str) -> bool:
        raise ValueError(value)

    for number in (1, 2):
        with pytest.raises(ValueError, match=f"value {number}"):
            await case.get(usable=usable)
    assert await case.get() == ("value 3", False)
    with pytest.raises(ValueError, match="value 3"):
        await case.get(usable=usable)
    assert await case.get() == ("value 3", True)


# Owners


async def test_owners_share_values_but_not_fetches() -> None:
    case, other = Case(), Service()
    case.service.held = other.held = True
    results: list[Any] = []

    async def get(owner: str, service: Service) -> None:
        results.append((owner, await case.cache.get("key", service, max_age=TTL, owner=owner)))

    async with anyio.create_task_group() as group:
        group.start_soon(get, "a", case.service)
        group.start_soon(get, "b", other)
        await case.service.waiting.wait()
        await other.waiting.wait()
        case.service.release()
        await turn_until(lambda: results)
        # b waits for what it fetches itself; who comes now need not
        await get("b", other)
        other.release()
    assert sorted(results) == [
        ("a", ("value 1", False)),
        ("b", ("value 1", False)),
        ("b", ("value 1", True)),
    ]
    assert (case.service.calls, other.calls) == (1, 1)


async def test_owners_do_not_share_errors() -> None:
    case, broken = Case(), Service(held=True, error=ProviderError("no permission"))
    failures: list[Any] = []

    async def fails() -> None:
        failures.extend(await at_once(1, partial(case.cache.get, "key", broken, max_age=TTL, owner="b")))

    async with anyio.create_task_group() as group:
        group.start_soon(fails)
        await broken.waiting.wait()
        assert await case.get(owner="a") == ("value 1", False)
        broken.release()
    assert [str(error) for error in failures] == ["no permission"]
    assert await case.get(owner="b") == ("value 1", True)


async def test_closing_for_an_owner_leaves_the_others_alone() -> None:
    case, other = Case(), Service()
    cache = case.cache
    await cache.get("of a", case.service, max_age=TTL, owner="a")
    await cache.get("of b", other, max_age=TTL, owner="b")
    case.service.held = other.held = True
    results: dict[str, Any] = {}

    async def get(owner: str, service: Service) -> None:
        [results[owner]] = await at_once(1, partial(cache.get, "key", service, max_age=TTL, owner=owner))

    async with anyio.create_task_group() as group:
        group.start_soon(get, "a", case.service)
        group.start_soon(get, "b", other)
        await case.service.waiting.wait()
        await other.waiting.wait()
        await cache.aclose(owner="a")
        assert (case.service.ended, other.ended) == (2, 1)
        other.release()
    assert type(results["a"]) is ProviderClosedError
    assert results["b"] == ("value 2", False)
    assert await cache.get("of b", other, max_age=TTL, owner="a") == ("value 1", True)
    assert cache.statistics.size == 2
    assert_idle()
