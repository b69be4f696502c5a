"""Permissions, faults and the log of the in-memory DynamoDB."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import anyio
import pytest

from aioencrypt.aws import DynamoDBClient
from aioencrypt.testing import DynamoDBCall, InMemoryDynamoDB, InMemoryDynamoDBClient, InMemoryDynamoDBError
from tests.support.dynamodb import EU, SCHEMA, TABLE, US, code_of, key, put, refused

pytestmark = pytest.mark.anyio


@pytest.fixture
def dynamodb() -> InMemoryDynamoDB:
    return InMemoryDynamoDB()


@pytest.fixture
async def client(dynamodb: InMemoryDynamoDB) -> InMemoryDynamoDBClient:
    """Give a client of a region with one table."""
    client = dynamodb.client(US)
    await client.create_table(TableName=TABLE, **SCHEMA)
    dynamodb.reset_calls()
    return client


# Permissions


async def test_deny_and_allow(dynamodb: InMemoryDynamoDB, client: InMemoryDynamoDBClient) -> None:
    dynamodb.deny(TABLE, "PutItem")
    for call in (
        lambda: client.put_item(TableName=TABLE, Item=key("one")),
        lambda: client.transact_write_items(TransactItems=[put("one")]),
    ):
        error = await refused(call)
        assert code_of(error) == "AccessDeniedException"
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 400
        assert (
            "is not authorized to perform: dynamodb:PutItem on resource: "
            f"arn:aws:dynamodb:{US}:111122223333:table/{TABLE}"
        ) in str(error)
    await client.get_item(TableName=TABLE, Key=key("one"))
    dynamodb.allow(TABLE, "PutItem")
    await client.put_item(TableName=TABLE, Item=key("one"))
    dynamodb.deny(TABLE)
    assert code_of(await refused(lambda: client.describe_table(TableName=TABLE))) == "AccessDeniedException"
    dynamodb.allow(TABLE)
    dynamodb.allow("another")
    await client.describe_table(TableName=TABLE)


async def test_a_table_that_is_not_there_yet_can_be_denied(dynamodb: InMemoryDynamoDB) -> None:
    dynamodb.deny(TABLE, "CreateTable")
    error = await refused(lambda: dynamodb.client(US).create_table(TableName=TABLE, **SCHEMA))
    assert code_of(error) == "AccessDeniedException"


@pytest.mark.parametrize(
    "misspelt",
    [
        lambda dynamodb: dynamodb.deny(TABLE, "getitem"),
        lambda dynamodb: dynamodb.deny(TABLE, "TransactWriteItems"),
        lambda dynamodb: dynamodb.allow(TABLE, "getitem"),
        lambda dynamodb: dynamodb.fail_next("X", operation="getitem"),
        lambda dynamodb: dynamodb.answer_next("getitem", {}),
        lambda dynamodb: dynamodb.call_count("getitem"),
        lambda dynamodb: dynamodb.fail_next("X", times=0),
        lambda dynamodb: dynamodb.outage("us_east_1"),
        lambda dynamodb: dynamodb.client("us_east_1"),
        lambda dynamodb: InMemoryDynamoDB(latency=-1),
        lambda dynamodb: InMemoryDynamoDB(latency=float("nan")),
    ],
)
def test_what_would_match_nothing_is_refused(
    dynamodb: InMemoryDynamoDB, misspelt: Callable[[InMemoryDynamoDB], object]
) -> None:
    with pytest.raises(ValueError, match=r"is none of|at least 1|region|number of seconds"):
        misspelt(dynamodb)


# Faults


@pytest.mark.parametrize(
    ("code", "status"),
    [("ThrottlingException", 400), ("InternalServerError", 500), ("ServiceUnavailable", 503)],
)
async def test_fail_next(
    dynamodb: InMemoryDynamoDB, client: InMemoryDynamoDBClient, code: str, status: int
) -> None:
    dynamodb.fail_next(code, times=2, operation="GetItem", region=US, message="why not")
    await client.describe_table(TableName=TABLE)
    for _ in range(2):
        error = await refused(lambda: client.get_item(TableName=TABLE, Key=key("one")))
        assert error.response["Error"] == {"Code": code, "Message": "why not"}
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == status
    await client.get_item(TableName=TABLE, Key=key("one"))


async def test_an_outage_is_that_of_a_region(
    dynamodb: InMemoryDynamoDB, client: InMemoryDynamoDBClient
) -> None:
    dynamodb.outage(US)
    with pytest.raises(ConnectionError, match="the in-memory DynamoDB is out of reach in us-east-1"):
        await client.describe_table(TableName=TABLE)
    await dynamodb.client(EU).create_table(TableName=TABLE, **SCHEMA)
    dynamodb.recover(US)
    await client.describe_table(TableName=TABLE)
    assert [call.error for call in dynamodb.calls] == ["ConnectionError", None, None]


async def test_an_answer_is_altered_once(dynamodb: InMemoryDynamoDB, client: InMemoryDynamoDBClient) -> None:
    await client.put_item(TableName=TABLE, Item=key("one"))
    dynamodb.answer_next("GetItem", {"Item": key("two")})
    found = [(await client.get_item(TableName=TABLE, Key=key("one")))["Item"] for _ in range(2)]
    assert found == [key("two"), key("one")]


async def test_a_request_arrives_before_its_answer_is_waited_for(
    dynamodb: InMemoryDynamoDB, client: InMemoryDynamoDBClient
) -> None:
    dynamodb.latency = 60
    with anyio.move_on_after(0.01) as scope:
        await client.put_item(TableName=TABLE, Item=key("one"))
    assert scope.cancelled_caught
    assert dynamodb.items(TABLE) == [key("one")]
    assert dynamodb.call_count("PutItem") == 1


# The log


async def test_calls_are_noted(dynamodb: InMemoryDynamoDB, client: InMemoryDynamoDBClient) -> None:
    await client.get_item(TableName=TABLE, Key=key("one"))
    await client.transact_write_items(TransactItems=[put("one")])
    await refused(lambda: client.describe_table(TableName="other"))
    first, second, third = dynamodb.calls
    assert isinstance(first, DynamoDBCall)
    assert (first.operation, first.region, first.table_name, first.error) == ("GetItem", US, TABLE, None)
    assert dict(first.parameters) == {"TableName": TABLE, "Key": key("one")}
    assert "parameters" not in repr(first)
    assert (second.operation, second.table_name) == ("TransactWriteItems", TABLE)
    assert (third.table_name, third.error) == ("other", "ResourceNotFoundException")
    assert dynamodb.call_count() == 3
    assert dynamodb.call_count("GetItem") == 1
    dynamodb.calls.clear()
    assert dynamodb.call_count() == 3
    dynamodb.reset_calls()
    assert dynamodb.calls == []


async def test_an_error_is_collected_with_its_traceback(client: InMemoryDynamoDBClient) -> None:
    async def fail() -> weakref.ref[InMemoryDynamoDBError]:
        try:
            await client.describe_table(TableName="other")
        except InMemoryDynamoDBError as error:
            return weakref.ref(error)
        raise AssertionError

    gc.disable()
    try:
        gone = await fail()
        assert gone() is None
    finally:
        gc.enable()


def test_a_client_shows_its_region_and_fits_the_protocol(dynamodb: InMemoryDynamoDB) -> None:
    client: DynamoDBClient = dynamodb.client(EU)
    assert repr(client) == "InMemoryDynamoDBClient('eu-west-1')"
