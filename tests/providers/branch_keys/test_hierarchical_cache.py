"""Branch keys in a cache: how often the store is asked, who waits, and who shares what."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Hashable
from typing import Any
from uuid import UUID

import anyio
import pytest

from aioencrypt import ProviderClosedError, ProviderError, decrypt, encrypt
from aioencrypt.branch_keys import HierarchicalMasterKey
from aioencrypt.materials import DataKey, EncryptedDataKey
from aioencrypt.runtime import arguments
from aioencrypt.runtime.cache import AsyncCache
from tests.support.hierarchical import MemoryKeyStore, key_with
from tests.support.messages import example_data_key
from tests.support.providers import SUITE, asking
from tests.support.streaming import assert_idle, on_asyncio

pytestmark = pytest.mark.anyio

PAGE = "framework/aws-kms/aws-kms-hierarchical-keyring.md"
DATA_KEY = DataKey(example_data_key(SUITE))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Gate:
    """Holds calls of a store up until it is opened."""

    def __init__(self) -> None:
        self.open = anyio.Event()

    async def __call__(self, line: str) -> None:
        await self.open.wait()


def versions_of(encrypted: list[EncryptedDataKey]) -> set[str]:
    return {str(UUID(bytes=key.ciphertext[28:44])) for key in encrypted}


async def version_used(key: HierarchicalMasterKey) -> str:
    """Encrypt, and return the version of the branch key that did it."""
    [version] = versions_of([await key.encrypt_data_key(DATA_KEY, asking())])
    return version


async def many(count: int, call: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Call that many times at once."""
    results = []

    async def one() -> None:
        results.append(await call())

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(one)
    return results


async def open_later(gate: Gate) -> None:
    await anyio.wait_all_tasks_blocked()
    gate.open.set()


# How often


@pytest.mark.spec(f"{PAGE}#onencrypt")
async def test_a_thousand_writers_on_a_cold_cache_are_one_call() -> None:
    key, store = key_with("tenant")
    gate = store.before = Gate()
    async with anyio.create_task_group() as group:
        group.start_soon(open_later, gate)
        made = await many(1000, lambda: key.generate_data_key(asking()))
    assert store.log == ["active tenant"]
    assert len({data_key.plaintext for data_key, _ in made}) == 1000
    assert versions_of([encrypted for _, encrypted in made]) == {*store.keys["tenant"]}


@pytest.mark.spec(f"{PAGE}#ondecrypt")
async def test_a_thousand_readers_on_a_cold_cache_are_one_call() -> None:
    key, store = key_with("tenant")
    encrypted = await key.encrypt_data_key(DATA_KEY, asking())
    [version] = store.keys["tenant"]
    store.log.clear()
    gate = store.before = Gate()
    async with anyio.create_task_group() as group:
        group.start_soon(open_later, gate)
        opened = await many(1000, lambda: key.decrypt_data_key(asking(encrypted)))
    assert {each.data_key for each in opened} == {DATA_KEY}
    assert store.log == [f"version tenant {version}"]


async def test_one_branch_key_does_not_wait_for_another() -> None:
    key, store = key_with("slow", "quick")
    quick = HierarchicalMasterKey(store, branch_key_id="quick", max_age=60)
    gate = Gate()

    async def only_slow(line: str) -> None:
        if line == "active slow":
            await gate(line)

    store.before = only_slow
    async with anyio.create_task_group() as group:
        group.start_soon(encrypt, b"x", key)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(10):
            await encrypt(b"x", quick)
        assert not gate.open.is_set()
        gate.open.set()
    assert store.log == ["active slow", "active quick"]


@pytest.mark.spec(f"{PAGE}#initialization")
@on_asyncio
async def test_a_cache_of_its_own_holds_a_thousand_branch_keys() -> None:
    store = MemoryKeyStore()
    names = [f"tenant-{number}" for number in range(1001)]
    for name in names:
        store.add(name)

    async def by_tenant(context: Any) -> str:
        return str(context["tenant"])

    key = HierarchicalMasterKey(store, branch_key_id_supplier=by_tenant, max_age=60)
    for name in [*names[:1000], *names[:1000]]:
        await key.encrypt_data_key(DATA_KEY, asking(context={"tenant": name}))
    assert len(store.log) == 1000
    for name in (names[1000], names[1], names[0]):
        await key.encrypt_data_key(DATA_KEY, asking(context={"tenant": name}))
    assert store.log[1000:] == ["active tenant-1000", "active tenant-0"]


async def test_failures_are_told_to_all_who_wait_and_not_kept() -> None:
    key, store = key_with("tenant")
    gate = Gate()

    async def fail(line: str) -> None:
        await gate(line)
        raise ProviderError("throttled")

    store.before = fail

    async def attempt() -> str:
        with pytest.raises(ProviderError) as caught:
            await encrypt(b"x", key)
        return str(caught.value)

    async with anyio.create_task_group() as group:
        group.start_soon(open_later, gate)
        messages = await many(20, attempt)
    assert {*messages} == {
        "could not generate a data key; generate under aws-kms-hierarchy tenant: throttled"
    }
    assert store.log == ["active tenant"]
    store.before = None
    await encrypt(b"x", key)
    assert store.log == ["active tenant"] * 2


# How long


@pytest.mark.spec(
    f"{PAGE}#cache-limit-ttl",
    f"{PAGE}#onencrypt",
    f"{PAGE}#query-branch-keystore-onencrypt",
)
async def test_a_new_version_is_used_when_the_old_one_has_expired() -> None:
    store, clock = MemoryKeyStore(), Clock()
    key = HierarchicalMasterKey(
        store, branch_key_id="tenant", max_age=60, refresh_ahead=0, cache=AsyncCache(clock=clock)
    )
    old = store.add("tenant")
    assert await version_used(key) == old
    new = store.add("tenant")
    clock.now += 59.9
    assert await version_used(key) == old
    assert store.log == ["active tenant"]
    clock.now += 0.1
    assert await version_used(key) == new
    assert store.log == ["active tenant"] * 2
    clock.now += 59.9
    assert await version_used(key) == new
    assert store.log == ["active tenant"] * 2


@pytest.mark.spec(f"{PAGE}#ondecrypt")
async def test_what_may_not_be_read_any_more_is_read_no_longer_than_its_time() -> None:
    key, store = key_with("tenant")
    clock = Clock()
    encrypted = await key.encrypt_data_key(DATA_KEY, asking())
    key = HierarchicalMasterKey(store, branch_key_id="tenant", max_age=60, cache=AsyncCache(clock=clock))
    await key.decrypt_data_key(asking(encrypted))
    del store.keys["tenant"]
    clock.now += 59.9
    assert (await key.decrypt_data_key(asking(encrypted))).data_key == DATA_KEY
    clock.now += 0.1
    with pytest.raises(ProviderError) as caught:
        await key.decrypt_data_key(asking(encrypted))
    assert [type(attempt.error.__cause__) for attempt in caught.value.attempts] == [KeyError]


async def settled() -> None:
    """Wait until background work has ended, or waits itself."""
    await anyio.wait_all_tasks_blocked()


@pytest.mark.parametrize(
    ("max_age", "refresh_ahead"),
    [(60, 20), (5, 0.5), (600, 599)],
)
async def test_it_is_refreshed_ahead_while_nobody_waits(max_age: float, refresh_ahead: float) -> None:
    store, clock = MemoryKeyStore(), Clock()
    cache: AsyncCache[Any] = AsyncCache(clock=clock)
    key = HierarchicalMasterKey(
        store, branch_key_id="tenant", max_age=max_age, cache=cache, refresh_ahead=refresh_ahead
    )
    old = store.add("tenant")
    assert await version_used(key) == old
    new = store.add("tenant")
    clock.now += max_age - refresh_ahead - 0.125
    assert await version_used(key) == old
    await settled()
    assert store.log == ["active tenant"]
    gate = store.before = Gate()
    clock.now += 0.125
    assert versions_of(await many(100, lambda: key.encrypt_data_key(DATA_KEY, asking()))) == {old}
    await settled()
    assert store.log == ["active tenant"] * 2
    gate.open.set()
    await settled()
    assert await version_used(key) == new
    clock.now += max_age - refresh_ahead - 0.125
    assert await version_used(key) == new
    await settled()
    assert store.log == ["active tenant"] * 2
    await cache.aclose()


async def test_expiry_under_load_is_one_call() -> None:
    """With no refresh ahead, for the worst: all wait for the same call."""
    store, clock = MemoryKeyStore(), Clock()
    key = HierarchicalMasterKey(
        store, branch_key_id="tenant", max_age=60, refresh_ahead=0, cache=AsyncCache(clock=clock)
    )
    store.add("tenant")
    await version_used(key)
    new = store.add("tenant")
    clock.now += 60
    gate = store.before = Gate()
    async with anyio.create_task_group() as group:
        group.start_soon(open_later, gate)
        made = await many(1000, lambda: key.encrypt_data_key(DATA_KEY, asking()))
    assert versions_of(made) == {new}
    assert store.log == ["active tenant"] * 2


async def test_a_refresh_that_fails_hurts_nobody_before_expiry() -> None:
    store, clock = MemoryKeyStore(), Clock()
    key = HierarchicalMasterKey(
        store, branch_key_id="tenant", max_age=60, refresh_ahead=20, cache=AsyncCache(clock=clock)
    )
    old = store.add("tenant")
    await version_used(key)

    async def fail(line: str) -> None:
        raise ProviderError("throttled")

    store.before = fail
    clock.now += 45
    for _ in range(10):
        assert await version_used(key) == old
        await settled()
    clock.now += 14.9
    assert await version_used(key) == old
    await settled()
    clock.now += 0.1
    with pytest.raises(ProviderError, match="throttled"):
        await version_used(key)
    store.before = None
    assert await version_used(key) == old


# Cancelling


@pytest.mark.parametrize("cancelled", [1, 2])
async def test_cancelling_who_fetches_fails_nobody_else(cancelled: int) -> None:
    key, store = key_with("tenant")
    gate = store.before = Gate()
    results: list[str] = []

    async def use(scope: anyio.CancelScope) -> None:
        with scope:
            results.append(await version_used(key))

    scopes = [anyio.CancelScope() for _ in range(5)]
    async with anyio.create_task_group() as group:
        for scope in scopes:
            group.start_soon(use, scope)
        await anyio.wait_all_tasks_blocked()
        for scope in scopes[:cancelled]:
            scope.cancel()
        await anyio.wait_all_tasks_blocked()
        gate.open.set()
    assert results == [*store.keys["tenant"]] * (5 - cancelled)
    assert store.log == ["active tenant"]


async def test_what_all_gave_up_waiting_for_is_there_the_next_time() -> None:
    key, store = key_with("tenant")
    gate = store.before = Gate()
    with anyio.move_on_after(0):
        await version_used(key)
    await settled()
    gate.open.set()
    await settled()
    await version_used(key)
    assert store.log == ["active tenant"]


# Who shares what


class Recording(AsyncCache[Any]):
    """Remembers which keys it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Hashable] = []

    async def get(self, key: Hashable, *args: Any, **options: Any) -> tuple[Any, bool]:
        self.asked.append(key)
        return await super().get(key, *args, **options)


def identifier(*fields: bytes) -> bytes:
    return hashlib.sha384(b"\0".join(fields)).digest()


@pytest.mark.spec(
    f"{PAGE}#appendix-a-cache-entry-identifier-formulas",
    f"{PAGE}#encryption-materials",
    f"{PAGE}#decryption-materials",
    f"{PAGE}#resource-suffix",
    f"{PAGE}#partition-id",
    f"{PAGE}#partition-id-1",
    f"{PAGE}#logical-key-store-name",
)
@pytest.mark.parametrize(
    ("partition", "field"),
    [
        ("pärtition", "pärtition".encode()),
        (UUID("a8098c1a-f86e-4da3-9d1a-0011223344ff"), b"a8098c1a-f86e-4da3-9d1a-0011223344ff"),
        (None, b"a8098c1a-f86e-4da3-9d1a-0011223344ff"),
    ],
)
async def test_cache_identifiers(
    partition: str | UUID | None, field: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = UUID("a8098c1a-f86e-4da3-9d1a-0011223344ff")
    assert drawn.version == 4
    monkeypatch.setattr(arguments, "uuid4", lambda: drawn)
    store, cache = MemoryKeyStore("größe"), Recording()
    version = store.add("tenant-é")
    key = HierarchicalMasterKey(store, branch_key_id="tenant-é", max_age=60, cache=cache, partition=partition)
    encrypted = await key.encrypt_data_key(DATA_KEY, asking())
    await key.decrypt_data_key(asking(encrypted))
    shared = (field, "größe".encode(), "tenant-é".encode())
    assert cache.asked == [
        identifier(b"\x02", b"\x01", *shared),
        identifier(b"\x02", b"\x02", *shared, version.encode()),
    ]


@pytest.mark.spec(
    f"{PAGE}#shared-cache-considerations",
    f"{PAGE}#logical-key-store-name",
)
@pytest.mark.parametrize(
    ("partitions", "names", "shared"),
    [
        (("a", "a"), ("store", "store"), True),
        (("a", "b"), ("store", "store"), False),
        (("a", "a"), ("store", "other"), False),
        ((None, None), ("store", "store"), False),
        (("a", None), ("store", "store"), False),
        (("a8098c1a-f86e-4da3-9d1a-0011223344ff", UUID(int=1)), ("store", "store"), False),
        (("00000000-0000-0000-0000-000000000001", UUID(int=1)), ("store", "store"), True),
    ],
    ids=str,
)
async def test_who_shares_a_branch_key(
    partitions: tuple[str | UUID | None, ...], names: tuple[str, str], shared: bool
) -> None:
    cache: AsyncCache[Any] = AsyncCache()
    stores = [MemoryKeyStore(str(name)) for name in names]
    for partition, store in zip(partitions, stores, strict=True):
        store.add("tenant")
        key = HierarchicalMasterKey(
            store, branch_key_id="tenant", max_age=60, cache=cache, partition=partition
        )
        encrypted = await key.encrypt_data_key(DATA_KEY, asking())
        assert (await key.decrypt_data_key(asking(encrypted))).data_key == DATA_KEY
    assert [len(store.log) for store in stores] == ([2, 0] if shared else [2, 2])


async def test_who_shares_a_branch_key_does_not_share_a_store_in_trouble() -> None:
    cache: AsyncCache[Any] = AsyncCache()
    stores = MemoryKeyStore(), MemoryKeyStore()
    slow, quick = (
        HierarchicalMasterKey(store, branch_key_id="tenant", max_age=60, cache=cache, partition="p")
        for store in stores
    )
    for store in stores:
        store.add("tenant")
    gate = Gate()

    async def fail(line: str) -> None:
        await gate(line)
        raise ProviderError("denied")

    stores[0].before = fail

    async def use() -> None:
        with pytest.raises(ProviderError, match="denied"):
            await version_used(slow)

    async with anyio.create_task_group() as group:
        group.start_soon(use)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(10):
            await version_used(quick)
        gate.open.set()
    assert [store.log for store in stores] == [["active tenant"]] * 2


async def test_another_branch_key_is_another_entry() -> None:
    """Also where ids begin like one another, or look like an id and a version."""
    cache: AsyncCache[Any] = AsyncCache()
    store = MemoryKeyStore()
    ids = ["tenant", "tenant2", "tenant\0" + store.add("tenant")]
    for branch_key_id in ids[1:]:
        store.add(branch_key_id)
    for branch_key_id in ids:
        key = HierarchicalMasterKey(
            store, branch_key_id=branch_key_id, max_age=60, cache=cache, partition="all"
        )
        encrypted = await key.encrypt_data_key(DATA_KEY, asking())
        assert (await key.decrypt_data_key(asking(encrypted))).data_key == DATA_KEY
    assert len(store.log) == 6


@pytest.mark.spec(
    f"{PAGE}#onencrypt",
    f"{PAGE}#ondecrypt",
    f"{PAGE}#cache-limit-ttl",
)
@pytest.mark.parametrize("operation", ["encrypt", "decrypt"])
async def test_each_key_keeps_to_its_own_time(operation: str) -> None:
    store, clock = MemoryKeyStore(), Clock()
    store.add("tenant")
    cache: AsyncCache[Any] = AsyncCache(clock=clock)
    long, short = (
        HierarchicalMasterKey(
            store, branch_key_id="tenant", max_age=max_age, cache=cache, partition="p", refresh_ahead=0
        )
        for max_age in (100, 10)
    )
    encrypted = await key_with("tenant")[0].encrypt_data_key(DATA_KEY, asking())

    async def calls(key: HierarchicalMasterKey) -> int:
        if operation == "encrypt":
            await key.encrypt_data_key(DATA_KEY, asking())
        else:
            await key.decrypt_data_key(asking(encrypted))
        return len(store.log)

    assert await calls(long) == 1
    clock.now += 9.75
    assert await calls(short) == 1
    clock.now += 0.25
    assert await calls(short) == 2, "too old for this key"
    assert await calls(long) == 2
    clock.now += 9.75
    assert await calls(long) == 2
    clock.now += 0.25
    assert await calls(long) == 3, "whoever fetched it said how long it is kept"
    clock.now += 99.75
    assert await calls(long) == 3


# Entering and leaving


class OpenedStore(MemoryKeyStore):
    """Logs that it is entered and left."""

    async def __aenter__(self) -> OpenedStore:
        self.log.append("enter")
        return self

    async def __aexit__(self, exc_type: Any, exc: Any, traceback: Any) -> None:
        self.log.append(f"leave with {exc}")


async def test_it_enters_and_leaves_the_store() -> None:
    store = OpenedStore()
    store.add("tenant")
    key = HierarchicalMasterKey(store, branch_key_id="tenant", max_age=60)

    async def use() -> None:
        async with key as entered:
            assert entered is key
            async with key:
                await version_used(key)
            await version_used(key)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await use()
    await key.aclose()
    assert store.log == ["enter", "enter", "active tenant", "leave with None", "leave with mine"]
    await key.__aenter__()
    await key.aclose()
    assert store.log[5:] == ["enter", "leave with None"]


async def test_a_store_that_cannot_be_entered() -> None:
    class Broken(OpenedStore):
        async def __aenter__(self) -> OpenedStore:
            raise OSError("no table")

    store = Broken()
    key = HierarchicalMasterKey(store, branch_key_id="tenant", max_age=60)
    with pytest.raises(OSError, match="no table"):
        await key.__aenter__()
    await key.aclose()
    assert store.log == []


async def test_the_last_to_leave_forgets_the_branch_keys() -> None:
    key, store = key_with("tenant")
    async with key:
        async with key:
            await version_used(key)
        await version_used(key)
        assert len(store.log) == 1
    await version_used(key)
    assert len(store.log) == 2
    await key.aclose()
    await version_used(key)
    assert len(store.log) == 3


async def test_a_given_cache_is_not_emptied() -> None:
    store = MemoryKeyStore()
    store.add("tenant")
    cache: AsyncCache[Any] = AsyncCache()
    key = HierarchicalMasterKey(store, branch_key_id="tenant", max_age=60, cache=cache)
    async with key:
        await version_used(key)
    await key.aclose()
    await version_used(key)
    assert len(store.log) == 1
    assert cache.statistics.size == 1


async def test_leaving_ends_a_fetch_under_way() -> None:
    key, store = key_with("tenant")
    store.before = Gate()

    async def use() -> None:
        with pytest.raises(ProviderClosedError, match="closed while a key was being fetched"):
            await encrypt(b"x", key)

    async with anyio.create_task_group() as group, key:
        group.start_soon(use)
        await anyio.wait_all_tasks_blocked()
    assert_idle()


async def test_the_first_request_finds_what_warm_up_fetched() -> None:
    key, store = key_with("tenant")
    async with key:
        await key.warm_up()
        assert store.log == ["active tenant"]
        await encrypt(b"x", key)
        assert store.log == ["active tenant"]


def test_one_loop_after_the_other() -> None:
    key, store = key_with("tenant")

    async def round_trip() -> None:
        message, _ = await encrypt(b"attack at dawn", key)
        assert (await decrypt(message, key)).plaintext == b"attack at dawn"

    async def give_up() -> None:
        store.before = Gate()
        with anyio.move_on_after(0):
            await version_used(key)

    asyncio.run(give_up())
    store.before = None
    for _ in range(2):
        asyncio.run(round_trip())
    assert [line.split()[0] for line in store.log[-2:]] == ["active", "version"]
    assert len(store.log) <= 3
