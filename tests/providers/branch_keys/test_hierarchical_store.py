"""Branch keys from a store in DynamoDB under KMS: what both are asked for, and what goes wrong there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import anyio
import attrs
import pytest
from anyio.lowlevel import checkpoint

from aioencrypt import (
    AsyncCache,
    MultiMasterKeyProvider,
    ProviderClosedError,
    ProviderError,
    RawAESMasterKey,
    ServiceError,
    decrypt,
    encrypt,
)
from aioencrypt.branch_keys import (
    BranchKeyMaterials,
    HierarchicalMasterKey,
    KMSDiscovery,
    KMSKeyArn,
    KMSMRDiscovery,
    KMSMRKeyArn,
)
from tests.support.branch_keys import ACTIVE, CONTEXT, EU, TABLE, US, World
from tests.support.providers import SUITE, asking

pytestmark = pytest.mark.anyio

PAGE = "framework/aws-kms/aws-kms-hierarchical-keyring.md"
RAW = RawAESMasterKey("tests", "hierarchical", wrapping_key=bytes(32))


@pytest.fixture
async def world() -> World:
    world = await World.new().with_table()
    await world.store().create_key("mine", CONTEXT)
    world.forget()
    return world


def key_of(world: World, **options: Any) -> HierarchicalMasterKey:
    options = {"key_store": world.store(), "branch_key_id": "mine", "max_age": 60, **options}
    return HierarchicalMasterKey(options.pop("key_store"), **options)


def calls(world: World) -> list[str]:
    """Return what both services were asked, and forget it."""
    made = [call.operation for call in world.dynamodb.calls] + [call.operation for call in world.kms.calls]
    world.forget()
    return made


@pytest.mark.spec(
    f"{PAGE}#query-branch-keystore-onencrypt",
    f"{PAGE}#getitem-branch-keystore-ondecrypt",
)
async def test_a_thousand_messages_at_once_are_one_read_and_one_call_of_kms(world: World) -> None:
    key = key_of(world)
    messages: list[bytes] = []
    plaintexts: list[bytes] = []

    async def write(number: int) -> None:
        result = await encrypt(str(number).encode(), key, algorithm_suite=SUITE)
        messages.append(result.ciphertext)

    async def read(message: bytes) -> None:
        plaintexts.append((await decrypt(message, key)).plaintext)

    async with key:
        async with anyio.create_task_group() as group:
            for number in range(1000):
                group.start_soon(write, number)
        assert calls(world) == ["GetItem", "Decrypt"]
        async with anyio.create_task_group() as group:
            for message in messages:
                group.start_soon(read, message)
        assert calls(world) == ["GetItem", "Decrypt"]
    assert sorted(map(int, plaintexts)) == [*range(1000)]


async def test_a_new_version_reads_what_the_old_one_wrote(world: World) -> None:
    old, _ = await encrypt(b"old", key_of(world))
    await world.store().version_key("mine")
    key = key_of(world)
    new, _ = await encrypt(b"new", key)
    assert (await decrypt(old, key)).plaintext == b"old"
    assert (await decrypt(new, key)).plaintext == b"new"


@pytest.mark.parametrize(
    "configuration",
    [
        lambda world: KMSMRKeyArn(world.primary),
        lambda world: KMSMRKeyArn(world.replica),
        lambda world: KMSDiscovery(),
        lambda world: KMSMRDiscovery(EU),
    ],
    ids=["KMSMRKeyArn", "KMSMRKeyArn-replica", "KMSDiscovery", "KMSMRDiscovery"],
)
async def test_stores_of_all_configurations(world: World, configuration: Callable[[World], Any]) -> None:
    await world.store(KMSKeyArn(world.primary)).create_key("multi", CONTEXT)
    key = key_of(world, key_store=world.store(configuration(world)), branch_key_id="multi")
    message, _ = await encrypt(b"attack at dawn", key)
    assert (await decrypt(message, key)).plaintext == b"attack at dawn"


FAILURES: dict[str, tuple[Callable[[World], object], str | None, bool]] = {
    "KMS denies": (lambda world: world.kms.deny(world.key, "Decrypt"), "AccessDeniedException", False),
    "KMS key disabled": (lambda world: world.kms.disable_key(world.key), "DisabledException", False),
    "KMS key to be deleted": (
        lambda world: world.kms.schedule_key_deletion(world.key),
        "KMSInvalidStateException",
        False,
    ),
    "KMS throttles": (
        lambda world: world.kms.fail_next("ThrottlingException", times=2),
        "ThrottlingException",
        True,
    ),
    "KMS out of reach": (lambda world: world.kms.outage(US), None, True),
    "table denied": (lambda world: world.dynamodb.deny(TABLE, "GetItem"), "AccessDeniedException", False),
    "table throttled": (
        lambda world: world.dynamodb.fail_next("ProvisionedThroughputExceededException", times=2),
        "ProvisionedThroughputExceededException",
        True,
    ),
    "DynamoDB out of reach": (lambda world: world.dynamodb.outage(US), None, True),
}


@pytest.mark.spec(
    f"{PAGE}#onencrypt",
    f"{PAGE}#ondecrypt",
)
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("operation", ["generate", "decrypt"])
async def test_failures_of_the_services(world: World, operation: str, failure: str) -> None:
    """They say which key failed and why, what is cached goes on, and on decrypt the next key is tried."""
    happen, code, retryable = FAILURES[failure]
    warm = key_of(world)
    message, _ = await encrypt(b"attack at dawn", MultiMasterKeyProvider(warm, RAW))
    await decrypt(message, warm)
    happen(world)
    assert (await decrypt(message, warm)).plaintext == b"attack at dawn"
    await encrypt(b"x", warm)

    cold = key_of(world)
    call = encrypt(b"x", cold) if operation == "generate" else decrypt(message, cold)
    with pytest.raises(ProviderError) as caught:
        await call
    [attempt] = caught.value.attempts
    assert (attempt.operation, attempt.provider_id, attempt.key_id) == (
        operation,
        "aws-kms-hierarchy",
        "mine",
    )
    assert isinstance(attempt.error, ServiceError)
    assert (attempt.error.code, attempt.error.retryable) == (code, retryable)
    assert attempt.error.__cause__ is not None
    provider = MultiMasterKeyProvider(None, cold, RAW)
    assert (await decrypt(message, provider)).plaintext == b"attack at dawn"


async def test_a_branch_key_or_version_that_is_not_in_the_table(world: World) -> None:
    missing = key_of(world, branch_key_id="yours")
    with pytest.raises(ProviderError, match="has no item 'branch:ACTIVE' for the branch key 'yours'"):
        await encrypt(b"x", missing)
    other = await World.new().with_table()
    await other.store().create_key("mine", CONTEXT)
    message, _ = await encrypt(b"attack at dawn", key_of(other))
    [version] = other.versions("mine")
    with pytest.raises(
        ProviderError, match=f"has no item 'branch:version:{version}' for the branch key 'mine'"
    ):
        await decrypt(message, key_of(world))


async def test_an_item_that_was_changed_and_a_table_cut_off_in_the_middle(world: World) -> None:
    message, _ = await encrypt(b"attack at dawn", key_of(world))
    wrapped_key = world.items("mine")[ACTIVE]["enc"]["B"]
    await world.change("mine", ACTIVE, enc={"B": wrapped_key[:-1] + b"?"})
    with pytest.raises(ProviderError, match="the item was changed") as caught:
        await encrypt(b"x", key_of(world))
    [attempt] = caught.value.attempts
    assert isinstance(attempt.error, ServiceError)
    assert attempt.error.code == "InvalidCiphertextException"
    # Reading needs the item of the version only.
    assert (await decrypt(message, key_of(world))).plaintext == b"attack at dawn"
    [version] = world.versions("mine")
    await world.change("mine", f"branch:version:{version}", enc=None)
    with pytest.raises(ProviderError, match="decrypt under aws-kms-hierarchy mine"):
        await decrypt(message, key_of(world))


async def test_a_version_that_no_store_makes_is_the_failure_of_its_attempt(world: World) -> None:
    key = key_of(world)
    _, right = await key.generate_data_key(asking())
    wrong = attrs.evolve(right, ciphertext=right.ciphertext[:28] + b"\xff" * 16 + right.ciphertext[44:])
    opened = await key.decrypt_data_key(asking(wrong, right))
    assert opened.encrypted_data_key == right
    with pytest.raises(ProviderError) as caught:
        await key.decrypt_data_key(asking(wrong))
    assert [type(attempt.error) for attempt in caught.value.attempts] == [ValueError]


async def test_a_permission_that_is_withdrawn_counts_when_the_time_is_up(world: World) -> None:
    now = 0.0
    cache: AsyncCache[Any] = AsyncCache(clock=lambda: now)
    key = key_of(world, cache=cache)
    message, _ = await encrypt(b"attack at dawn", key)
    await decrypt(message, key)
    world.kms.deny(world.key, "Decrypt")
    now = 59.0
    assert (await decrypt(message, key)).plaintext == b"attack at dawn"
    now = 60.0
    for call in (lambda: decrypt(message, key), lambda: encrypt(b"x", key)):
        with pytest.raises(ProviderError, match="AccessDeniedException"):
            await call()
    await cache.aclose()


async def test_a_store_that_makes_its_clients_must_be_open(world: World) -> None:
    options = {"kms": None, "dynamodb": None}
    key = key_of(world, key_store=world.store(**options))
    with pytest.raises(ProviderClosedError, match="open it with `async with`"):
        await encrypt(b"x", key)
    with pytest.raises(ProviderClosedError, match="open it with `async with`"):
        await key.warm_up()


@dataclasses.dataclass
class OwnStore:
    """A store of a user, which is compared by value and so has no hash."""

    logical_name: str = "own"
    calls: int = 0

    async def active_branch_key(self, branch_key_id: str) -> BranchKeyMaterials:
        self.calls += 1
        await checkpoint()
        return BranchKeyMaterials(branch_key_id, "00000000-0000-4000-8000-000000000000", {}, bytes(32))

    async def branch_key_version(self, branch_key_id: str, version: str) -> BranchKeyMaterials:
        return await self.active_branch_key(branch_key_id)


async def test_a_store_without_a_hash_shares_its_fetches_too() -> None:
    store = OwnStore()
    key = HierarchicalMasterKey(store, branch_key_id="mine", max_age=60)
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(key.warm_up)
    assert store.calls == 1
    message, _ = await encrypt(b"plaintext", key)
    assert (await decrypt(message, key)).plaintext == b"plaintext"
    assert store.calls == 2
