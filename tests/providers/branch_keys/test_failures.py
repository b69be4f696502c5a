"""Branch key stores when KMS or DynamoDB says no, says nothing, or is cut off in the middle."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
import attrs
import pytest
from anyio.lowlevel import checkpoint

from aioencrypt import EncryptionError, ServiceError
from aioencrypt.branch_keys import BranchKeyStore
from aioencrypt.testing import InMemoryDynamoDBError, InMemoryKMSError
from tests.support.branch_keys import ACTIVE, CONTEXT, LOGICAL, TABLE, US, WatchedClient, World
from tests.support.streaming import on_asyncio

pytestmark = pytest.mark.anyio

STORE = "framework/branch-key-store.md"
Operation = Callable[[BranchKeyStore], Awaitable[object]]


@pytest.fixture
async def world() -> World:
    world = await World.new().with_table()
    await world.store().create_key("mine", CONTEXT)
    world.forget()
    return world


OPERATIONS: dict[str, Operation] = {
    "create_key": lambda store: store.create_key(),
    "version_key": lambda store: store.version_key("mine"),
    "active_branch_key": lambda store: store.active_branch_key("mine"),
    "beacon_key": lambda store: store.beacon_key("mine"),
}
KMS_CALLS = {
    "create_key": ["GenerateDataKeyWithoutPlaintext", "ReEncrypt", "GenerateDataKeyWithoutPlaintext"],
    "version_key": ["ReEncrypt", "GenerateDataKeyWithoutPlaintext", "ReEncrypt"],
    "active_branch_key": ["Decrypt"],
    "beacon_key": ["Decrypt"],
}
DYNAMODB_CALLS = {
    "create_key": ["TransactWriteItems"],
    "version_key": ["GetItem", "TransactWriteItems"],
    "active_branch_key": ["GetItem"],
    "beacon_key": ["GetItem"],
}
names = pytest.mark.parametrize("name", OPERATIONS)


async def failure(world: World, name: str, **options: Any) -> EncryptionError:
    """Let an operation fail, expect that nothing was written, and return the error."""
    before = world.dynamodb.items(TABLE)
    with pytest.raises(EncryptionError) as caught, anyio.fail_after(10):
        await OPERATIONS[name](world.store(**options))
    assert world.dynamodb.items(TABLE) == before
    for value in CONTEXT.values():
        assert value not in str(caught.value)
    return caught.value


# KMS


@attrs.frozen
class Refused:
    code: str
    retryable: bool
    inject: Callable[[World], object]


KMS_REFUSALS = [
    Refused("AccessDeniedException", False, lambda world: world.kms.deny(world.key)),
    Refused("DisabledException", False, lambda world: world.kms.disable_key(world.key)),
    Refused("KMSInvalidStateException", False, lambda world: world.kms.schedule_key_deletion(world.key)),
    Refused("ExpiredTokenException", False, lambda world: world.kms.expire_credentials()),
    Refused("ThrottlingException", True, lambda world: world.kms.fail_next("ThrottlingException")),
    Refused("KMSInternalException", True, lambda world: world.kms.fail_next("KMSInternalException")),
    Refused("IncorrectKeyException", False, lambda world: world.kms.fail_next("IncorrectKeyException")),
]


@on_asyncio
@names
@pytest.mark.parametrize("refused", KMS_REFUSALS, ids=lambda refused: refused.code)
@pytest.mark.spec(f"{STORE}#createkey", f"{STORE}#versionkey")
@pytest.mark.spec(f"{STORE}#getactivebranchkey", f"{STORE}#getbeaconkey")
async def test_what_kms_refuses(world: World, name: str, refused: Refused) -> None:
    refused.inject(world)
    error = await failure(world, name)
    assert isinstance(error, ServiceError)
    assert (error.code, error.retryable) == (refused.code, refused.retryable)
    cause = error.__cause__
    assert isinstance(cause, InMemoryKMSError)
    assert error.request_id == cause.response["ResponseMetadata"]["RequestId"]
    assert world.dynamodb.call_count("TransactWriteItems") == 0
    # once: the retries are the client's
    assert len(world.kms.calls) == 1


@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name, calls in KMS_CALLS.items() for number in range(len(calls))]
)
@pytest.mark.spec(f"{STORE}#wrapped-branch-key-creation", f"{STORE}#branch-key-and-beacon-key-creation")
async def test_kms_is_cut_off_in_the_middle(world: World, name: str, number: int) -> None:
    """Each call of KMS in turn is the first that does not come through."""
    left = number

    async def around(operation: str, parameters: Mapping[str, Any], call: Callable[[], Any]) -> Any:
        nonlocal left
        if not left:
            world.kms.outage(US)
        left -= 1
        return await call()

    error = await failure(world, name, kms={US: WatchedClient(world.kms.client(US), around)})
    assert isinstance(error, ServiceError)
    assert isinstance(error.__cause__, ConnectionError)
    assert (error.code, error.retryable) == (None, True)
    assert [call.operation for call in world.kms.calls] == KMS_CALLS[name][: number + 1]
    assert world.dynamodb.call_count("TransactWriteItems") == 0


async def test_permissions_that_only_reading_needs(world: World) -> None:
    world.kms.deny(world.key, "GenerateDataKeyWithoutPlaintext", "ReEncryptFrom", "ReEncryptTo", "Encrypt")
    store = world.store()
    await store.active_branch_key("mine")
    await store.beacon_key("mine")
    world.kms.allow(world.key)
    world.kms.deny(world.key, "Decrypt")
    await store.create_key()
    await store.version_key("mine")


# DynamoDB


@on_asyncio
@names
@pytest.mark.parametrize(
    ("code", "retryable", "advice"),
    [
        ("AccessDeniedException", False, "allow the caller to use the key or the table"),
        ("ResourceNotFoundException", False, "check the table name and region, or call create_key_store()"),
        ("ProvisionedThroughputExceededException", True, ""),
        ("RequestLimitExceeded", True, ""),
        ("ThrottlingException", True, ""),
        ("TransactionInProgressException", True, ""),
        ("InternalServerError", True, ""),
        ("ExpiredTokenException", False, "renew the credentials"),
        ("ValidationException", False, ""),
    ],
)
async def test_what_dynamodb_refuses(
    world: World, name: str, code: str, retryable: bool, advice: str
) -> None:
    for operation in DYNAMODB_CALLS[name]:
        world.dynamodb.reset_calls()
        world.dynamodb.fail_next(code, operation=operation)
        error = await failure(world, name)
        assert isinstance(error, ServiceError)
        assert (error.code, error.retryable) == (code, retryable)
        assert advice in error.message
        cause = error.__cause__
        assert isinstance(cause, InMemoryDynamoDBError)
        assert error.request_id == cause.response["ResponseMetadata"]["RequestId"]
        assert world.dynamodb.call_count(operation) == 1


@names
async def test_dynamodb_is_out_of_reach(world: World, name: str) -> None:
    world.dynamodb.outage(US)
    error = await failure(world, name)
    assert isinstance(error, ServiceError)
    assert isinstance(error.__cause__, ConnectionError)
    assert (error.code, error.retryable) == (None, True)


async def test_permissions_of_the_table(world: World) -> None:
    store = world.store()
    world.dynamodb.deny(TABLE, "PutItem")
    await store.active_branch_key("mine")
    for name in ("create_key", "version_key"):
        assert (await failure(world, name)).__cause__
    world.dynamodb.allow(TABLE)
    world.dynamodb.deny(TABLE, "GetItem")
    await store.create_key()
    with pytest.raises(ServiceError, match=r"AccessDeniedException.*dynamodb:GetItem"):
        await store.active_branch_key("mine")


@pytest.mark.parametrize("name", ["create_key", "version_key"])
async def test_the_answer_to_a_transaction_is_lost(world: World, name: str) -> None:
    """It may have been carried out, but as a whole."""

    async def around(operation: str, parameters: Mapping[str, Any], call: Callable[[], Any]) -> Any:
        answer = await call()
        if operation == "transact_write_items":
            raise ConnectionError("lost")
        return answer

    store = world.store(dynamodb={US: WatchedClient(world.dynamodb.client(US), around)})
    with pytest.raises(ServiceError, match="lost") as caught:
        await OPERATIONS[name](store)
    assert caught.value.retryable
    for branch_key_id in {item["branch-key-id"]["S"] for item in world.dynamodb.items(TABLE)}:
        active = await world.store().active_branch_key(branch_key_id)
        assert active == await world.store().branch_key_version(branch_key_id, active.version)
        await world.store().beacon_key(branch_key_id)


async def test_a_retry_of_the_client_does_not_stumble_over_its_own_first_attempt(world: World) -> None:
    async def around(operation: str, parameters: Mapping[str, Any], call: Callable[[], Any]) -> Any:
        await call()
        return await call()

    store = world.store(dynamodb={US: WatchedClient(world.dynamodb.client(US), around)})
    await store.create_key("other", CONTEXT)
    await store.version_key("other")
    assert len(world.versions("other")) == 2


# Transactions that are cancelled


@on_asyncio
@pytest.mark.parametrize("name", ["create_key", "version_key"])
@pytest.mark.parametrize(
    ("reasons", "retryable"),
    [
        (["TransactionConflict", "None"], True),
        (["None", "ThrottlingError"], True),
        (["ProvisionedThroughputExceeded", "TransactionConflict"], True),
        (["ValidationError", "None"], False),
        (["TransactionConflict", "ItemCollectionSizeLimitExceeded"], False),
        (["None", "None"], False),
    ],
    ids=str,
)
async def test_a_transaction_is_cancelled(
    world: World, name: str, reasons: list[str], retryable: bool
) -> None:
    world.dynamodb.cancel_next(*reasons)
    error = await failure(world, name)
    assert isinstance(error, ServiceError)
    assert (error.code, error.retryable) == ("TransactionCanceledException", retryable)
    assert error.message == (
        "nothing was written: Transaction cancelled, please refer cancellation reasons for specific reasons "
        f"[{', '.join(reasons)}]"
    )


async def test_a_cancellation_without_reasons(world: World) -> None:
    world.dynamodb.fail_next("TransactionCanceledException", operation="TransactWriteItems")
    error = await failure(world, "version_key")
    assert isinstance(error, ServiceError)
    assert (error.code, error.retryable) == ("TransactionCanceledException", False)
    assert error.message == "nothing was written: injected by fail_next"


LOST = (
    "nothing was written: another program added a version to the branch key 'mine'; "
    "call version_key() again to add one more"
)


@pytest.mark.spec(f"{STORE}#versionkey")
async def test_somebody_else_makes_a_version_in_between(world: World) -> None:
    """The optimistic lock: the item that was read is not there any more."""

    async def around(operation: str, parameters: Mapping[str, Any], call: Callable[[], Any]) -> Any:
        if operation == "transact_write_items":
            await world.store().version_key("mine")
        return await call()

    store = world.store(dynamodb={US: WatchedClient(world.dynamodb.client(US), around)})
    with pytest.raises(ServiceError) as caught:
        await store.version_key("mine")
    assert caught.value.message == LOST
    assert (caught.value.code, caught.value.retryable) == ("TransactionCanceledException", True)
    assert isinstance(caught.value.__cause__, InMemoryDynamoDBError)
    assert len(world.versions("mine")) == 2
    assert (await world.store().active_branch_key("mine")).version in world.versions("mine")


@pytest.mark.spec(f"{STORE}#versionkey")
async def test_the_branch_key_is_deleted_in_between(world: World) -> None:
    async def around(operation: str, parameters: Mapping[str, Any], call: Callable[[], Any]) -> Any:
        if operation == "transact_write_items":
            key = {"branch-key-id": {"S": "mine"}, "type": {"S": ACTIVE}}
            await world.dynamodb.client(US).delete_item(TableName=TABLE, Key=key)
        return await call()

    store = world.store(dynamodb={US: WatchedClient(world.dynamodb.client(US), around)})
    with pytest.raises(ServiceError, match="nothing was written"):
        await store.version_key("mine")
    assert len(world.versions("mine")) == 1
    assert ACTIVE not in world.items("mine")


@pytest.mark.spec(f"{STORE}#versionkey")
async def test_twenty_tasks_make_a_version_at_once(world: World) -> None:
    store = world.store()
    lost: list[ServiceError] = []

    async def version() -> None:
        try:
            await store.version_key("mine")
        except ServiceError as error:
            lost.append(error)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(version)
    assert 0 < len(lost) < 20
    assert {error.message for error in lost} == {LOST}
    assert all(error.retryable for error in lost)
    # one for each winner, and the first
    versions = world.versions("mine")
    assert len(versions) == 1 + 20 - len(lost)
    active = await store.active_branch_key("mine")
    found = [await store.branch_key_version("mine", version) for version in versions]
    assert active in found
    assert len({materials.key for materials in found}) == len(versions)
    assert set(world.items("mine")) == {ACTIVE, "beacon:ACTIVE", *(f"branch:version:{v}" for v in versions)}


async def test_twenty_tasks_create_the_same_key(world: World) -> None:
    store = world.store()
    created: list[str] = []
    refused: list[bool] = []

    async def create(number: int) -> None:
        try:
            created.append(await store.create_key("one", {"number": str(number)}))
        except ServiceError as error:
            refused.append(error.retryable)

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(create, number)
    assert created == ["one"]
    assert refused == [False] * 19
    active = await store.active_branch_key("one")
    assert active.encryption_context == (await store.beacon_key("one")).encryption_context
    assert len(world.versions("one")) == 1


# Time


@names
@pytest.mark.parametrize("service", ["kms", "dynamodb"])
async def test_no_answer_in_time(world: World, name: str, service: str) -> None:
    if service == "kms":
        world.kms.latency = 60
    else:
        world.dynamodb.latency = 60
    before = world.dynamodb.items(TABLE) if service == "kms" else None
    with pytest.raises(ServiceError) as caught, anyio.fail_after(10):
        await OPERATIONS[name](world.store(timeout=0.01))
    assert str(caught.value) == "no answer within 0.01 seconds"
    assert (caught.value.code, caught.value.retryable) == (None, True)
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert before in (None, world.dynamodb.items(TABLE))


@names
async def test_a_caller_who_is_cancelled_leaves_nothing_half_written(world: World, name: str) -> None:
    """Cancelled at each of its calls in turn."""
    for number in range(len(KMS_CALLS[name]) + len(DYNAMODB_CALLS[name])):
        left = number
        with anyio.CancelScope() as scope:

            async def around(
                operation: str,
                parameters: Mapping[str, Any],
                call: Callable[[], Any],
                scope: anyio.CancelScope = scope,
            ) -> Any:
                nonlocal left
                if not left:
                    scope.cancel()
                    await checkpoint()
                left -= 1
                return await call()

            store = world.store(
                kms={US: WatchedClient(world.kms.client(US), around)},
                dynamodb={US: WatchedClient(world.dynamodb.client(US), around)},
            )
            await OPERATIONS[name](store)
        assert scope.cancelled_caught
        assert len(world.versions("mine")) == 1
        assert {item["branch-key-id"]["S"] for item in world.dynamodb.items(TABLE)} == {"mine"}


# The log


@pytest.mark.parametrize("value", ["a secret value"])
async def test_nothing_secret_is_logged_and_nothing_above_debug(
    world: World, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = world.store(grant_tokens=[world.kms.create_grant(world.key, "Decrypt")])
    with caplog.at_level(logging.DEBUG, "aioencrypt"):
        await store.create_key("logged", {"tenant": value})
        await store.version_key("logged")
        materials = await store.active_branch_key("logged")
        world.kms.fail_next("DisabledException")
        with pytest.raises(ServiceError):
            await store.beacon_key("logged")
    messages = [record.getMessage() for record in caplog.records if record.name == "aioencrypt"]
    assert {record.levelno for record in caplog.records if record.name == "aioencrypt"} == {logging.DEBUG}
    assert any(f"DynamoDB TransactWriteItems on {TABLE} took" in message for message in messages)
    assert any(f"KMS ReEncrypt under {world.key} took" in message for message in messages)
    text = "\n".join(messages)
    for secret in (value, materials.key.hex(), repr(materials.key), LOGICAL):
        assert secret not in text
