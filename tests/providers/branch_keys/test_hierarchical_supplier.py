"""A branch key for each message: what picks it, and what becomes of its mistakes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import anyio
import attrs
import pytest

from aioencrypt import MultiMasterKeyProvider, ProviderError, RawAESMasterKey, decrypt, encrypt
from aioencrypt.branch_keys import HierarchicalMasterKey
from aioencrypt.materials import DataKey, EncryptedDataKey
from aioencrypt.runtime.cache import AsyncCache
from tests.support.hierarchical import MemoryKeyStore, wrapped
from tests.support.messages import example_data_key
from tests.support.providers import SUITE, Interruption, asking
from tests.support.streaming import on_asyncio

pytestmark = pytest.mark.anyio

PAGE = "framework/aws-kms/aws-kms-hierarchical-keyring.md"
DATA_KEY = DataKey(example_data_key(SUITE))
RAW = RawAESMasterKey("tests", "supplier", wrapping_key=bytes(32))
Supplier = Callable[[Mapping[str, str]], Awaitable[str]]


class ByTenant:
    """Picks the branch key by the tenant, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []

    async def __call__(self, context: Mapping[str, str]) -> str:
        self.asked.append(dict(context))
        await anyio.sleep(0)
        return f"tenant-{context['tenant']}"


def store_of(*tenants: str) -> MemoryKeyStore:
    store = MemoryKeyStore()
    for tenant in tenants:
        store.add(f"tenant-{tenant}")
    return store


def key_for(supplier: Supplier, store: MemoryKeyStore | None = None) -> HierarchicalMasterKey:
    return HierarchicalMasterKey(store or store_of("a", "b"), branch_key_id_supplier=supplier, max_age=60)


def entry(store: MemoryKeyStore, branch_key_id: str, context: Mapping[str, str]) -> EncryptedDataKey:
    [(version, branch_key)] = store.keys[branch_key_id].items()
    return wrapped(branch_key, branch_key_id, version, data_key=DATA_KEY.plaintext, context=context)


@pytest.mark.spec(
    f"{PAGE}#branch-key-supplier",
    f"{PAGE}#initialization",
    f"{PAGE}#onencrypt",
    f"{PAGE}#ondecrypt",
)
async def test_each_message_is_under_the_branch_key_of_its_context() -> None:
    supplier, store = ByTenant(), store_of("a", "b")
    key = key_for(supplier, store)
    for tenant in "abab":
        context = {"tenant": tenant, "more": "ü"}
        written = await encrypt(b"attack at dawn", key, encryption_context=context)
        [encrypted_data_key] = written.header.encrypted_data_keys
        assert encrypted_data_key.provider_info == f"tenant-{tenant}".encode()
        read = await decrypt(written.ciphertext, key)
        assert read.plaintext == b"attack at dawn"
        for result, operation in ((written, "generate"), (read, "decrypt")):
            [use] = result.provenance.keys
            assert (use.operation, use.provider_id) == (operation, "aws-kms-hierarchy")
            assert use.key_id == f"tenant-{tenant}"
        # Asked once to write and once to read, with all that is authenticated.
        assert supplier.asked == [dict(written.header.encryption_context)] * 2
        supplier.asked.clear()
    calls = [line.split()[:2] for line in store.log]
    assert calls == [[call, f"tenant-{tenant}"] for tenant in "ab" for call in ("active", "version")]


async def test_the_context_cannot_be_changed_by_a_supplier() -> None:
    async def supplier(context: Mapping[str, str]) -> str:
        context["tenant"] = "b"  # type: ignore[index]
        return "tenant-b"

    with pytest.raises(ProviderError, match=r"^branch_key_id_supplier raised TypeError$"):
        await encrypt(b"x", key_for(supplier), encryption_context={"tenant": "a"})


@pytest.mark.spec(f"{PAGE}#ondecrypt")
async def test_only_data_keys_under_the_branch_key_of_the_context_are_tried() -> None:
    supplier, store = ByTenant(), store_of("a", "b")
    key = key_for(supplier, store)
    context = {"tenant": "a"}
    ours, others = entry(store, "tenant-a", context), entry(store, "tenant-b", context)
    opened = await key.decrypt_data_key(asking(others, ours, others, context=context))
    assert (opened.encrypted_data_key, opened.data_key) == (ours, DATA_KEY)
    assert opened.master_key.key_id == "tenant-a"
    assert len(supplier.asked) == 1
    assert [line.split()[:2] for line in store.log] == [["version", "tenant-a"]]
    with pytest.raises(ProviderError, match="belongs to a master key given here") as caught:
        await key.decrypt_data_key(asking(others, others, context=context))
    assert (caught.value.attempts, caught.value.unclaimed) == ((), True)
    broken = attrs.evolve(ours, ciphertext=b"broken")
    with pytest.raises(ProviderError) as caught:
        await key.decrypt_data_key(asking(broken, others, broken, context=context))
    assert [attempt.key_id for attempt in caught.value.attempts] == ["tenant-a"] * 2
    with pytest.raises(ProviderError, match="is not under the branch key of this message"):
        await key.unwrap_data_key(others, asking(others, context=context))


async def test_it_is_not_asked_about_messages_of_other_keys() -> None:
    async def supplier(context: Mapping[str, str]) -> str:
        raise AssertionError("asked")

    message, _ = await encrypt(b"attack at dawn", RAW)
    key = key_for(supplier)
    assert (await decrypt(message, MultiMasterKeyProvider(None, key, RAW))).plaintext == b"attack at dawn"
    with pytest.raises(ProviderError, match="belongs to a master key given here") as caught:
        await decrypt(message, key)
    assert (caught.value.attempts, caught.value.unclaimed) == ((), True)


async def test_each_branch_key_has_the_times_of_the_key() -> None:
    now = 0.0
    cache: AsyncCache[Any] = AsyncCache(clock=lambda: now)
    store = store_of("a")
    key = HierarchicalMasterKey(
        store, branch_key_id_supplier=ByTenant(), max_age=60, refresh_ahead=20, cache=cache
    )
    calls = {0.0: 1, 39.0: 1, 40.0: 2, 79.0: 2, 139.0: 3}
    for now, expected in calls.items():
        await encrypt(b"x", key, encryption_context={"tenant": "a"})
        await anyio.wait_all_tasks_blocked()
        assert len(store.log) == expected, now
    await cache.aclose()


async def test_beside_another_key_in_one_message() -> None:
    key = key_for(ByTenant())
    for provider in (MultiMasterKeyProvider(RAW, key), MultiMasterKeyProvider(key, RAW)):
        written = await encrypt(b"attack at dawn", provider, encryption_context={"tenant": "b"})
        assert {use.key_id for use in written.provenance.keys} == {"supplier", "tenant-b"}
        for reader in (key, RAW, provider):
            assert (await decrypt(written.ciphertext, reader)).plaintext == b"attack at dawn"


async def test_the_key_itself_does_what_its_branch_keys_do() -> None:
    supplier = ByTenant()
    key = key_for(supplier)
    request = asking(context={"tenant": "a"})
    data_key, encrypted = await key.generate_data_key(request)
    assert encrypted.provider_info == b"tenant-a"
    assert await key.unwrap_data_key(encrypted, request) == data_key
    again = await key.encrypt_data_key(data_key, request)
    assert again.ciphertext != encrypted.ciphertext
    assert await key.unwrap_data_key(again, request) == data_key
    assert len(supplier.asked) == 4


@pytest.mark.parametrize(
    ("provider_id", "info", "owned"),
    [
        ("aws-kms-hierarchy", b"tenant-a", True),
        ("aws-kms-hierarchy", b"anything", True),
        ("aws-kms", b"tenant-a", False),
        ("", b"tenant-a", False),
    ],
)
def test_it_may_own_whatever_is_under_a_branch_key(provider_id: str, info: bytes, owned: bool) -> None:
    assert key_for(ByTenant()).owns_data_key(EncryptedDataKey(provider_id, info, b"")) is owned


def test_what_it_says_of_itself() -> None:
    key = key_for(ByTenant())
    assert (key.provider_id, key.key_id) == ("aws-kms-hierarchy", "as branch_key_id_supplier says")
    assert repr(key) == "HierarchicalMasterKey(MemoryKeyStore('store'), branch_key_id_supplier=...)"


async def test_warming_up_cannot_know_the_branch_key() -> None:
    supplier, store = ByTenant(), store_of("a")
    await key_for(supplier, store).warm_up()
    assert (supplier.asked, store.log) == ([], [])


# Suppliers of all kinds


async def in_region(region: str, context: Mapping[str, str]) -> str:
    return f"{region}-{context['tenant']}"


async def test_callables_of_all_kinds() -> None:
    class Tenants:
        async def pick(self, context: Mapping[str, str]) -> str:
            return await in_region("tenant", context)

    def passing_on(context: Mapping[str, str]) -> Awaitable[str]:
        return in_region("tenant", context)

    suppliers: list[Supplier] = [
        ByTenant(),
        partial(in_region, "tenant"),
        Tenants().pick,
        passing_on,
        lambda context: in_region("tenant", context),
    ]
    for supplier in suppliers:
        key = key_for(supplier)
        message, header = await encrypt(b"x", key, encryption_context={"tenant": "a"})
        assert header.encrypted_data_keys[0].provider_info == b"tenant-a"
        assert (await decrypt(message, key)).plaintext == b"x"


async def failures(supplier: Any) -> list[ProviderError]:
    """Return the errors of writing, and of reading alone and before another key."""
    store = store_of("a")
    key = key_for(supplier, store)
    context = {"tenant": "a"}
    with pytest.raises(ProviderError) as writing:
        await encrypt(b"x", key, encryption_context=context)
    provider = MultiMasterKeyProvider(key_for(ByTenant(), store), RAW)
    message, _ = await encrypt(b"x", provider, encryption_context=context)
    with pytest.raises(ProviderError) as reading:
        await decrypt(message, key)
    both = MultiMasterKeyProvider(None, key, RAW)
    assert (await decrypt(message, both)).plaintext == b"x", "the next key is tried"
    with pytest.raises(ProviderError) as collected:
        await decrypt(message, MultiMasterKeyProvider(None, key))
    [attempt] = collected.value.attempts
    assert (attempt.operation, attempt.provider_id) == ("decrypt", "HierarchicalMasterKey")
    assert isinstance(attempt.error, ProviderError)
    return [writing.value, reading.value, attempt.error]


async def test_a_supplier_that_raises() -> None:
    """Its words are not repeated: a KeyError says the value that was looked up."""
    errors = []

    async def supplier(context: Mapping[str, str]) -> str:
        errors.append(KeyError(context["tenant"] + " a value that nobody may see"))
        raise errors[-1]

    for error in await failures(supplier):
        assert str(error) == "branch_key_id_supplier raised KeyError"
        assert any(error.__cause__ is cause for cause in errors)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (None, "branch_key_id_supplier returned NoneType, not str"),
        (b"tenant-a", "branch_key_id_supplier returned bytes, not str"),
        (7, "branch_key_id_supplier returned int, not str"),
        (
            "",
            "branch_key_id_supplier gave no branch key id: the branch key id has 0 bytes; "
            "it may have 1 to 65535",
        ),
        (
            "a" * 65536,
            "branch_key_id_supplier gave no branch key id: the branch key id has 65536 bytes; "
            "it may have 1 to 65535",
        ),
        (
            "\ud800",
            "branch_key_id_supplier gave no branch key id: "
            "branch_key_id is not valid Unicode text: surrogates not allowed",
        ),
    ],
    ids=lambda value: ascii(value)[:20],
)
async def test_a_supplier_that_answers_wrongly(answer: Any, text: str) -> None:
    async def supplier(context: Mapping[str, str]) -> Any:
        return answer

    assert {str(error) for error in await failures(supplier)} == {text}


async def test_a_supplier_that_is_no_async_function() -> None:
    """It might hold up the loop; it is never taken, so that nobody relies on it."""
    expected = "branch_key_id_supplier returned str, which is not awaited: is it an async function?"
    assert {str(error) for error in await failures(lambda context: "tenant-a")} == {expected}


async def test_a_branch_key_that_does_not_exist() -> None:
    with pytest.raises(ProviderError) as caught:
        await encrypt(b"x", key_for(ByTenant()), encryption_context={"tenant": "c"})
    [attempt] = caught.value.attempts
    assert (attempt.operation, attempt.provider_id) == ("generate", "aws-kms-hierarchy")
    assert attempt.key_id == "tenant-c"
    assert type(attempt.error.__cause__) is KeyError


@pytest.mark.parametrize("operation", ["encrypt", "decrypt"])
async def test_interruptions_pass_through(operation: str) -> None:
    store = store_of("a")

    async def supplier(context: Mapping[str, str]) -> str:
        raise Interruption

    key = key_for(supplier, store)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "encrypt": lambda: encrypt(b"x", key),
        "decrypt": lambda: key.decrypt_data_key(asking(entry(store, "tenant-a", {}), context={})),
    }
    with pytest.raises(Interruption):
        await calls[operation]()


async def test_a_supplier_can_be_cancelled() -> None:
    reached = []

    async def supplier(context: Mapping[str, str]) -> str:
        reached.append("waiting")
        await anyio.sleep_forever()
        return "tenant-a"

    async with anyio.create_task_group() as group:
        group.start_soon(encrypt, b"x", key_for(supplier))
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert reached == ["waiting"]


@on_asyncio
async def test_a_header_full_of_other_keys_does_not_hold_the_loop_up() -> None:
    other = EncryptedDataKey("other", b"", b"")
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.sleep(0)

    async with anyio.create_task_group() as group:
        group.start_soon(count)
        with pytest.raises(ProviderError, match="none of the 65535 encrypted data keys"):
            await key_for(ByTenant()).decrypt_data_key(asking(*[other] * 65535))
        group.cancel_scope.cancel()
    assert turns > 500
