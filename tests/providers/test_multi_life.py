"""Entering and leaving a multi provider: what it was given, all of it, and the right number of times."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import anyio
import pytest

from aioencrypt import MultiMasterKeyProvider, RawAESMasterKey
from aioencrypt.materials import MasterKey
from tests.support.providers import Interruption, OwnProvider

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]

Multi = MultiMasterKeyProvider


def nested(log: list[str]) -> tuple[MultiMasterKeyProvider, list[OwnProvider]]:
    parts = [OwnProvider(name, log=log) for name in "abcd"]
    return Multi(parts[0], Multi(None, parts[1], parts[2]), parts[3]), parts


async def test_it_enters_in_order_and_leaves_in_reverse() -> None:
    log: list[str] = []
    multi, parts = nested(log)
    async with multi as entered:
        assert entered is multi
        assert [part.entries for part in parts] == [1] * 4
        assert log == ["enter a", "enter b", "enter c", "enter d"]
    assert log[4:] == ["leave d", "leave c", "leave b", "leave a"]
    assert [part.entries for part in parts] == [0] * 4


async def test_nothing_is_entered_before() -> None:
    log: list[str] = []
    nested(log)
    assert log == []


async def test_entries_nest_and_come_again() -> None:
    log: list[str] = []
    multi, parts = nested(log)
    for _ in range(2):
        async with multi:
            async with multi:
                assert [part.entries for part in parts] == [2] * 4
            assert [part.entries for part in parts] == [1] * 4
        assert [part.entries for part in parts] == [0] * 4


async def test_entries_of_several_tasks_may_cross() -> None:
    log: list[str] = []
    multi, parts = nested(log)
    inside, left = anyio.Event(), anyio.Event()

    async def first() -> None:
        async with multi:
            await inside.wait()
        left.set()

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await anyio.wait_all_tasks_blocked()
        async with multi:
            inside.set()
            await left.wait()
            assert [part.entries for part in parts] == [1] * 4
    assert [part.entries for part in parts] == [0] * 4


async def test_a_child_that_is_used_twice_is_entered_twice() -> None:
    part = OwnProvider("a")
    async with Multi(part, part, Multi(part)):
        assert part.entries == 3
    assert part.entries == 0


async def test_a_child_that_others_use_stays_open() -> None:
    part = OwnProvider("a")
    async with part, Multi(part):
        async with Multi(part):
            assert part.entries == 3
        assert part.entries == 2


@pytest.mark.parametrize("failing", range(4))
@pytest.mark.parametrize("kind", [OSError, Interruption])
async def test_an_entry_that_fails_leaves_what_was_entered(failing: int, kind: type[BaseException]) -> None:
    log: list[str] = []
    multi, parts = nested(log)
    error = parts[failing].on_enter = kind("no entry")
    with pytest.raises(kind) as caught:
        async with multi:
            pytest.fail("entered")
    assert caught.value is error
    entered = "abcd"[:failing]
    assert log[: failing + 1] == [f"enter {name}" for name in "abcd"[: failing + 1]]
    assert log[failing + 1 :] == [f"leave {name} with no entry" for name in reversed(entered)]
    assert [part.entries for part in parts] == [0] * 4
    parts[failing].on_enter = None
    async with multi:
        assert [part.entries for part in parts] == [1] * 4
    assert [part.entries for part in parts] == [0] * 4


async def test_an_inner_entry_that_fails_leaves_the_outer_one_alone() -> None:
    log: list[str] = []
    multi, parts = nested(log)
    async with multi:
        parts[3].on_enter = OSError("no entry")
        with pytest.raises(OSError, match="no entry"):
            await multi.__aenter__()
        assert [part.entries for part in parts] == [1] * 4
    assert [part.entries for part in parts] == [0] * 4


async def test_an_entry_that_is_cancelled_leaves_what_was_entered() -> None:
    class Slow(OwnProvider):
        async def __aenter__(self) -> Slow:
            await anyio.sleep_forever()
            return self

    first = OwnProvider("a")
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(Multi(first, Slow("b")).__aenter__)
            await anyio.wait_all_tasks_blocked()
            assert first.entries == 1
            scope.cancel()
    assert scope.cancelled_caught
    assert first.entries == 0


@pytest.mark.parametrize("failing", range(4))
async def test_an_exit_that_fails_leaves_the_others_too(failing: int) -> None:
    log: list[str] = []
    multi, parts = nested(log)
    error = parts[failing].on_leave = OSError("no exit")
    with pytest.raises(OSError, match="no exit") as caught:
        async with multi:
            pass
    assert caught.value is error
    assert [part.entries for part in parts] == [0] * 4
    parts[failing].on_leave = None
    async with multi:
        assert [part.entries for part in parts] == [1] * 4


async def test_an_exception_in_flight_is_shown_to_all_and_goes_on() -> None:
    log: list[str] = []
    multi, _ = nested(log)
    error = ZeroDivisionError("in flight")
    with pytest.raises(ZeroDivisionError) as caught:
        async with multi:
            raise error
    assert caught.value is error
    assert log[4:] == [f"leave {name} with in flight" for name in "dcba"]


async def test_aclose_leaves_everything() -> None:
    log: list[str] = []
    multi, parts = nested(log)
    await multi.__aenter__()
    await multi.__aenter__()
    await multi.aclose()
    assert [part.entries for part in parts] == [0] * 4
    await multi.aclose()
    assert [part.entries for part in parts] == [0] * 4


@pytest.mark.parametrize("error", [None, ZeroDivisionError("in flight")])
async def test_aclose_inside_async_with(error: Exception | None) -> None:
    multi, parts = nested([])
    caught: Exception | None = None
    try:
        async with multi:
            await multi.aclose()
            if error:
                raise error
    except Exception as raised:
        caught = raised
    assert caught is error
    assert [part.entries for part in parts] == [0] * 4


async def test_it_warms_up_what_it_was_given() -> None:
    log: list[str] = []
    multi, _ = nested(log)
    await multi.warm_up()
    assert log == ["warm up a", "warm up b", "warm up c", "warm up d"]


COPIES: dict[str, Callable[[MultiMasterKeyProvider], MultiMasterKeyProvider]] = {
    "pickle": lambda multi: pickle.loads(pickle.dumps(multi)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
async def test_a_copy_is_not_entered(
    duplicate: Callable[[MultiMasterKeyProvider], MultiMasterKeyProvider],
) -> None:
    multi = Multi(OwnProvider("a"), Multi(None, OwnProvider("b")))
    async with multi:
        other = duplicate(multi)
        assert repr(other) == repr(multi)
        before = [part.entries for part in parts_of(other)]
        await other.aclose()
        assert [part.entries for part in parts_of(other)] == before
        assert [part.entries for part in parts_of(multi)] == [1, 1]


def parts_of(multi: MultiMasterKeyProvider) -> list[OwnProvider]:
    parts: list[OwnProvider] = []
    for provider in multi.providers:
        if isinstance(provider, OwnProvider):
            parts.append(provider)
        elif isinstance(provider, MultiMasterKeyProvider):
            parts += parts_of(provider)
    return parts


@pytest.mark.parametrize("duplicate", [COPIES["pickle"], COPIES["deepcopy"]], ids=["pickle", "deepcopy"])
def test_keys_inside_are_not_copied(
    duplicate: Callable[[MultiMasterKeyProvider], MultiMasterKeyProvider],
) -> None:
    key: MasterKey = RawAESMasterKey("raw", "aes", wrapping_key=bytes(32))
    with pytest.raises(TypeError, match="RawAESMasterKey holds key bytes and cannot be pickled or copied"):
        duplicate(Multi(None, Multi(key)))
