"""The table of a branch key store: created if it is missing, checked if it is there."""

from __future__ import annotations

import re
from typing import Any

import anyio
import pytest

from aioencrypt import AWSConnection, ProviderError, ServiceError
from aioencrypt.branch_keys import BranchKeyStore, KMSDiscovery, KMSKeyArn
from aioencrypt.testing import InMemoryDynamoDB
from tests.support.branch_keys import EU, LOGICAL, TABLE, US, WatchedClient, World

pytestmark = pytest.mark.anyio

STORE = "framework/branch-key-store.md"
ARN = f"arn:aws:dynamodb:{US}:111122223333:table/{TABLE}"
KEYS = [
    {"AttributeName": "branch-key-id", "KeyType": "HASH"},
    {"AttributeName": "type", "KeyType": "RANGE"},
]
TYPES = [
    {"AttributeName": "branch-key-id", "AttributeType": "S"},
    {"AttributeName": "type", "AttributeType": "S"},
]


@pytest.fixture
def world() -> World:
    return World.new()


def operations(world: World) -> list[str]:
    """Return what DynamoDB was asked for, and forget it."""
    asked = [call.operation for call in world.dynamodb.calls]
    world.dynamodb.reset_calls()
    return asked


@pytest.mark.spec(f"{STORE}#createkeystore", f"{STORE}#keyschema")
async def test_a_missing_table_is_created(world: World) -> None:
    client = WatchedClient(world.dynamodb.client(US))
    assert await world.store(dynamodb={US: client}).create_key_store() == ARN
    assert client.calls == [
        ("describe_table", {"TableName": TABLE}),
        (
            "create_table",
            {
                "TableName": TABLE,
                "KeySchema": KEYS,
                "AttributeDefinitions": TYPES,
                "BillingMode": "PAY_PER_REQUEST",
            },
        ),
    ]


@pytest.mark.spec(f"{STORE}#createkeystore")
async def test_a_table_that_is_there_stays(world: World) -> None:
    await world.store().create_key_store()
    branch_key_id = await world.store().create_key()
    world.forget()
    assert await world.store(KMSDiscovery()).create_key_store() == ARN
    assert operations(world) == ["DescribeTable"]
    assert world.items(branch_key_id)
    assert not world.kms.calls


@pytest.mark.spec(f"{STORE}#createkeystore")
async def test_a_table_may_have_more(world: World) -> None:
    await world.store().create_key_store()
    more = [*TYPES, {"AttributeName": "kms-arn", "AttributeType": "S"}]
    answer = await world.dynamodb.client(US).describe_table(TableName=TABLE)
    indexed = {**answer["Table"], "AttributeDefinitions": more, "GlobalSecondaryIndexes": [{}]}
    world.dynamodb.answer_next("DescribeTable", {"Table": indexed})
    assert await world.store().create_key_store() == ARN


@pytest.mark.spec(f"{STORE}#createkeystore", f"{STORE}#keyschema")
@pytest.mark.parametrize(
    "changes",
    [
        {"KeySchema": KEYS[:1]},
        {"KeySchema": [KEYS[0], {"AttributeName": "sort", "KeyType": "RANGE"}]},
        {"KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}, KEYS[1]]},
        {"KeySchema": [{**KEYS[0], "KeyType": "RANGE"}, {**KEYS[1], "KeyType": "HASH"}]},
        {"AttributeDefinitions": [TYPES[0], {"AttributeName": "type", "AttributeType": "B"}]},
        {"AttributeDefinitions": [{"AttributeName": "branch-key-id", "AttributeType": "N"}, TYPES[1]]},
        {"AttributeDefinitions": TYPES[:1]},
        {"KeySchema": None},
        {"KeySchema": "text"},
        {"AttributeDefinitions": None},
        {"AttributeDefinitions": ["text"]},
        {"AttributeDefinitions": [{"AttributeName": ["a"]}]},
    ],
    ids=str,
)
async def test_a_table_of_another_kind_is_refused(world: World, changes: dict[str, Any]) -> None:
    await world.store().create_key_store()
    answer = await world.dynamodb.client(US).describe_table(TableName=TABLE)
    world.dynamodb.answer_next("DescribeTable", {"Table": {**answer["Table"], **changes}})
    with pytest.raises(ProviderError) as caught:
        await world.store().create_key_store()
    assert str(caught.value) == (
        "the table 'branch-keys' is not a branch key store: the partition key must be 'branch-key-id' and "
        "the sort key 'type', both of type S; choose another table name"
    )


@pytest.mark.parametrize("arn", [None, 42, ARN.replace(TABLE, "another"), f"{ARN}-2"])
async def test_an_answer_for_another_table(world: World, arn: Any) -> None:
    await world.store().create_key_store()
    answer = await world.dynamodb.client(US).describe_table(TableName=TABLE)
    world.dynamodb.answer_next("DescribeTable", {"Table": {**answer["Table"], "TableArn": arn}})
    with pytest.raises(ProviderError, match=re.escape(f"described the table {arn!r}, not 'branch-keys'")):
        await world.store().create_key_store()


@pytest.mark.spec(f"{STORE}#createkeystore")
@pytest.mark.parametrize(
    ("operation", "code", "retryable"),
    [
        ("DescribeTable", "AccessDeniedException", False),
        ("DescribeTable", "ThrottlingException", True),
        ("CreateTable", "AccessDeniedException", False),
        ("CreateTable", "LimitExceededException", True),
        ("CreateTable", "ResourceInUseException", True),
    ],
)
async def test_what_dynamodb_refuses(world: World, operation: str, code: str, retryable: bool) -> None:
    world.dynamodb.fail_next(code, operation=operation)
    with pytest.raises(ServiceError) as caught:
        await world.store().create_key_store()
    assert (caught.value.code, caught.value.retryable) == (code, retryable)
    assert operations(world)[-1] == operation


async def test_the_table_is_waited_for(world: World) -> None:
    dynamodb = InMemoryDynamoDB(creating=3)
    store = world.store(dynamodb=dynamodb.clients(US))
    assert await store.create_key_store() == ARN
    asked = [call.operation for call in dynamodb.calls]
    assert asked == ["DescribeTable", "CreateTable", *["DescribeTable"] * 4]
    await store.create_key()


async def test_a_new_table_may_be_unknown_for_a_while(world: World) -> None:
    dynamodb = InMemoryDynamoDB(creating=1)
    dynamodb.fail_next("ResourceNotFoundException", operation="DescribeTable", times=3)
    assert await world.store(dynamodb=dynamodb.clients(US)).create_key_store() == ARN
    errors = [(call.operation, call.error is not None) for call in dynamodb.calls]
    assert errors == [
        ("DescribeTable", True),
        ("CreateTable", False),
        ("DescribeTable", True),
        ("DescribeTable", True),
        ("DescribeTable", False),
        ("DescribeTable", False),
    ]


async def test_a_table_that_fails_while_it_is_waited_for(world: World) -> None:
    async def around(operation: str, parameters: Any, call: Any) -> Any:
        answer = await call()
        if operation == "create_table":
            dynamodb.fail_next("ThrottlingException", operation="DescribeTable")
        return answer

    dynamodb = InMemoryDynamoDB(creating=1)
    store = world.store(dynamodb={US: WatchedClient(dynamodb.client(US), around)})
    with pytest.raises(ServiceError, match="ThrottlingException") as caught:
        await store.create_key_store()
    assert caught.value.retryable


async def test_a_table_that_somebody_else_is_creating_is_waited_for(world: World) -> None:
    dynamodb = InMemoryDynamoDB(creating=2)
    client = dynamodb.client(US)
    await client.create_table(TableName=TABLE, KeySchema=KEYS, AttributeDefinitions=TYPES)
    assert await world.store(dynamodb={US: client}).create_key_store() == ARN
    assert dynamodb.call_count("CreateTable") == 1
    assert dynamodb.call_count("DescribeTable") == 3


async def test_waiting_has_an_end(world: World) -> None:
    dynamodb = InMemoryDynamoDB(creating=1_000_000)
    store = world.store(dynamodb=dynamodb.clients(US))
    with pytest.raises(ServiceError) as caught, anyio.fail_after(10):
        await store.create_key_store(wait=0.01)
    assert str(caught.value) == "the table 'branch-keys' is not active after 0.01 seconds"
    assert (caught.value.code, caught.value.retryable) == (None, True)


@pytest.mark.parametrize("status", ["DELETING", "ARCHIVED", "INACCESSIBLE_ENCRYPTION_CREDENTIALS", None])
async def test_a_table_that_cannot_be_used(world: World, status: Any) -> None:
    await world.store().create_key_store()
    answer = await world.dynamodb.client(US).describe_table(TableName=TABLE)
    world.dynamodb.answer_next("DescribeTable", {"Table": {**answer["Table"], "TableStatus": status}})
    with pytest.raises(ProviderError, match=f"'branch-keys' cannot be used: its status is {status!r}"):
        await world.store().create_key_store()


async def test_a_table_that_is_being_updated_can_be_used(world: World) -> None:
    await world.store().create_key_store()
    answer = await world.dynamodb.client(US).describe_table(TableName=TABLE)
    world.dynamodb.answer_next("DescribeTable", {"Table": {**answer["Table"], "TableStatus": "UPDATING"}})
    assert await world.store().create_key_store() == ARN


async def test_a_table_goes_by_its_arn_too(world: World) -> None:
    await world.store().create_key_store()
    named = BranchKeyStore(
        ARN,
        kms_configuration=KMSKeyArn(world.key),
        logical_name=LOGICAL,
        connection=AWSConnection(kms=world.kms.clients(US), dynamodb=world.dynamodb.clients(US)),
    )
    assert await named.create_key_store() == ARN
    branch_key_id = await named.create_key()
    assert await named.active_branch_key(branch_key_id) == await world.store().active_branch_key(
        branch_key_id
    )
    elsewhere = world.store(dynamodb=world.dynamodb.clients(EU))
    with pytest.raises(ServiceError, match="no client for the region 'us-east-1'"):
        await elsewhere.active_branch_key(branch_key_id)
    elsewhere = world.store(dynamodb=world.dynamodb.clients(EU), region=None)
    with pytest.raises(ServiceError, match="ResourceNotFoundException"):
        await elsewhere.active_branch_key(branch_key_id)
