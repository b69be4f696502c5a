"""The caching CMM: entering and leaving, what is dropped then, caches of several managers, copies, loops."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aioencrypt import (
    AsyncCache,
    CachingCMM,
    KMSMasterKeyProvider,
    ProviderClosedError,
    RawAESMasterKey,
    decrypt,
    encrypt,
)
from aioencrypt.materials import DecryptionMaterials, EncryptionMaterials
from tests.support.caching import Below, Clock, at_once, reading, turn_until, writing
from tests.support.cancelling import Way, each_way, settle
from tests.support.providers import CONTEXT, Interruption, OwnKey, OwnProvider
from tests.support.streaming import assert_idle

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]

SECRET = "nobody may see this"


def caching(below: Any, **options: Any) -> CachingCMM:
    return CachingCMM(below, max_age=60, **options)


# Entering and leaving


async def test_it_enters_and_leaves_what_it_was_given() -> None:
    provider = OwnProvider("p", OwnKey("a"))
    cmm = caching(provider)
    async with cmm as entered:
        assert entered is cmm
        async with cmm:
            await cmm.get_encryption_materials(writing())
        assert provider.entries == 1
        # the keys stay until the last one has left
        assert (await cmm.get_encryption_materials(writing())).provenance.cached
    assert provider.log == ["enter p", "enter p", "leave p", "leave p"]
    assert cmm.statistics.size == 0
    async with cmm:
        assert not (await cmm.get_encryption_materials(writing())).provenance.cached
    assert cmm.statistics.size == 0


async def test_a_manager_without_a_life_is_not_entered() -> None:
    cmm = caching(Below())
    async with cmm:
        await cmm.get_encryption_materials(writing())
    assert cmm.statistics.size == 0


async def test_a_caching_manager_below_is_entered_too() -> None:
    provider = OwnProvider("p", OwnKey("a"))
    async with caching(caching(provider)):
        assert provider.entries == 1
    assert provider.entries == 0


async def test_an_error_on_entry_leaves_it_unentered() -> None:
    provider = OwnProvider("p", OwnKey("a"), on_enter=OSError("no"))
    cmm = caching(provider)
    with pytest.raises(OSError, match="no"):
        await cmm.__aenter__()
    provider.on_enter = None
    async with cmm:
        await cmm.get_encryption_materials(writing())
    assert cmm.statistics.size == 0


async def test_the_provider_hears_of_the_exception_that_leaves() -> None:
    provider = OwnProvider("p", OwnKey("a"))
    with pytest.raises(Interruption):
        async with caching(provider):
            raise Interruption("stop")
    assert provider.log == ["enter p", "leave p with stop"]


async def test_without_entering_it_works_with_what_needs_none() -> None:
    cmm = caching(OwnKey("a"))
    message, _ = await encrypt(b"plaintext", cmm)
    assert (await decrypt(message, cmm)).plaintext == b"plaintext"


async def test_a_provider_that_is_not_open_says_so() -> None:
    cmm = caching(KMSMasterKeyProvider(["arn:aws:kms:us-east-1:111122223333:key/1"]))
    for _ in range(2):
        with pytest.raises(ProviderClosedError):
            await cmm.get_encryption_materials(writing())


async def test_who_waits_for_a_key_when_it_is_left_gets_an_error() -> None:
    provider = OwnProvider("p", OwnKey("a"))
    below = Below(provider)
    below.gate.held = True
    cmm = caching(below)
    results: list[Any] = []

    async def wait() -> None:
        results.extend(await at_once(5, partial(cmm.get_encryption_materials, writing())))

    async with anyio.create_task_group() as group:
        async with cmm:
            group.start_soon(wait)
            await below.gate.waiting.wait()
        # the fetch has ended before the provider is left
        assert below.gate.ended == 1
    assert [type(error) for error in results] == [ProviderClosedError] * 5
    assert_idle()


async def test_a_refresh_ends_before_the_provider_is_left() -> None:
    log: list[str] = []
    clock = Clock()

    class Slow(OwnKey):
        async def act(self, operation: str) -> None:
            await super().act(operation)
            if self.log.count("generate a") == 2:
                try:
                    await anyio.sleep_forever()
                finally:
                    self.log.append("refresh ended")

    provider = OwnProvider("p", Slow("a", log), log=log)
    async with caching(provider, refresh_ahead=10, clock=clock) as cmm:
        await cmm.get_encryption_materials(writing())
        clock.now += 55
        await cmm.get_encryption_materials(writing())
        await turn_until(lambda: log.count("generate a") == 2)
    assert log == ["enter p", "generate a", "generate a", "refresh ended", "leave p"]
    assert_idle()


@each_way
async def test_the_provider_is_left_although_leaving_is_cancelled(way: Way) -> None:
    ending, gate, log = anyio.Event(), anyio.Event(), list[str]()

    class Stubborn(OwnKey):
        async def act(self, operation: str) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    ending.set()
                    await gate.wait()
                self.log.append("fetch ended")

    cmm = caching(OwnProvider("p", Stubborn("a", log), log=log))
    await cmm.__aenter__()

    async def get() -> None:
        with pytest.raises(ProviderClosedError):
            await cmm.get_encryption_materials(writing())

    async def let_go() -> None:
        await checkpoint()
        gate.set()

    async with anyio.create_task_group() as group:
        group.start_soon(get)
        await settle()
        await way.during(ending, lambda: cmm.__aexit__(None, None, None), let_go)
    assert [line.partition(" with")[0] for line in log] == ["enter p", "fetch ended", "leave p"]
    assert_idle()


async def test_who_would_fetch_again_when_it_is_left_gets_an_error_and_keeps_nothing() -> None:
    """The first caller uses the data key up and leaves; the second one learns of both only then."""
    cmm = caching(Below(), max_bytes=10)
    refused = anyio.Event()

    async def second() -> None:
        with pytest.raises(ProviderClosedError):
            await cmm.get_encryption_materials(writing(10))
        refused.set()

    async with anyio.create_task_group() as group:
        async with cmm:
            group.start_soon(second)
            await cmm.get_encryption_materials(writing(10))
        await refused.wait()
    assert cmm.statistics.size == 0
    assert_idle()


async def test_leaving_once_too_often_does_not_stop_later_leaving() -> None:
    cmm = caching(Below())
    await cmm.__aexit__(None, None, None)
    async with cmm:
        await cmm.get_encryption_materials(writing())
        assert cmm.statistics.size == 1
    assert cmm.statistics.size == 0


# Data keys that nobody has any more


@pytest.mark.parametrize("direction", ["encryption", "decryption"])
async def test_data_keys_are_dropped_at_their_age_and_on_leaving(direction: str) -> None:
    below = Below()

    async def data_key(cmm: CachingCMM) -> weakref.ref[Any]:
        written = await below.get_encryption_materials(writing())
        got: EncryptionMaterials | DecryptionMaterials
        if direction == "encryption":
            got = await cmm.get_encryption_materials(writing())
        else:
            got = await cmm.decrypt_materials(reading(written))
        return weakref.ref(got.data_key)

    async with CachingCMM(below, max_age=0.03) as short, CachingCMM(below, max_age=60) as long:
        dropped, kept = await data_key(short), await data_key(long)
        with anyio.fail_after(20):
            while dropped() is not None:
                await anyio.sleep(0.01)
                gc.collect()
        assert kept() is not None
        assert (short.statistics.size, long.statistics.size) == (0, 1)
    gc.collect()
    assert kept() is None


# A cache of several managers


async def test_leaving_one_manager_drops_what_it_fetched_and_nothing_else() -> None:
    cache, below = AsyncCache[Any](), Below()
    one = caching(below, cache=cache, partition="shared")
    two = caching(below, cache=cache, partition="shared")
    async with two:
        async with one:
            first = await one.get_encryption_materials(writing())
            second = await two.get_encryption_materials(writing(context={"tenant": "43"}))
            assert (await two.get_encryption_materials(writing())).data_key == first.data_key
        assert cache.statistics.size == 1
        again = await two.get_encryption_materials(writing(context={"tenant": "43"}))
        assert again.data_key == second.data_key
    assert cache.statistics.size == 0


async def test_leaving_one_manager_does_not_fail_who_waits_at_another() -> None:
    cache, first, second = AsyncCache[Any](), Below(), Below()
    first.gate.held = second.gate.held = True
    one = caching(first, cache=cache, partition="shared")
    two = caching(second, cache=cache, partition="shared")
    results: dict[str, Any] = {}

    async def get(name: str, cmm: CachingCMM) -> None:
        [results[name]] = await at_once(1, partial(cmm.get_encryption_materials, writing()))

    async with anyio.create_task_group() as group:
        async with one:
            group.start_soon(get, "one", one)
            group.start_soon(get, "two", two)
            await first.gate.waiting.wait()
            await second.gate.waiting.wait()
        second.gate.release()
    assert type(results["one"]) is ProviderClosedError
    assert type(results["two"]) is EncryptionMaterials


# Copies, and what is shown


@pytest.mark.parametrize("function", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_is_neither_pickled_nor_copied(function: Any) -> None:
    with pytest.raises(TypeError, match="a CachingCMM holds data keys and cannot be pickled or copied"):
        function(caching(OwnKey("a")))


async def test_it_shows_no_key_and_no_context() -> None:
    cmm = caching(RawAESMasterKey("ns", "name", wrapping_key=bytes(32)), max_messages=5, max_bytes=6)
    context = {"secret": SECRET}
    materials = await cmm.get_encryption_materials(writing(5, context=context))
    await cmm.decrypt_materials(reading(materials, given=context))
    assert repr(cmm) == (
        "CachingCMM(DefaultCMM(RawAESMasterKey('ns', 'name')), max_age=60, max_messages=5, max_bytes=6)"
    )
    cache = cmm._cache
    assert SECRET not in repr(cache)
    # the context itself is not kept in the keys of the cache
    assert SECRET not in repr(list(cache._entries))
    assert SECRET not in repr([entry.value for entry in cache._entries.values()])


# Loops


SHARED = CachingCMM(RawAESMasterKey("ns", "name", wrapping_key=bytes(32)), max_age=3600)


@pytest.mark.parametrize("turn", [1, 2, 3])
async def test_a_manager_of_a_module_serves_every_loop(turn: int) -> None:
    message, _ = await encrypt(b"plaintext", SHARED, encryption_context=CONTEXT)
    assert (await decrypt(message, SHARED)).plaintext == b"plaintext"
    assert SHARED.statistics.misses == 2
