"""The in-memory DynamoDB: tables, items and transactions."""

from __future__ import annotations

from typing import Any

import pytest

from aioencrypt.testing import InMemoryDynamoDB, InMemoryDynamoDBClient, InMemoryDynamoDBError
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


# Tables


async def test_a_table_is_created_described_and_deleted(dynamodb: InMemoryDynamoDB) -> None:
    client = dynamodb.client(US)
    created = await client.create_table(TableName=TABLE, BillingMode="PAY_PER_REQUEST", **SCHEMA)
    description = created["TableDescription"]
    assert description["TableArn"] == f"arn:aws:dynamodb:{US}:111122223333:table/{TABLE}"
    assert description["KeySchema"] == SCHEMA["KeySchema"]
    assert description["AttributeDefinitions"] == SCHEMA["AttributeDefinitions"]
    assert description["BillingModeSummary"] == {"BillingMode": "PAY_PER_REQUEST"}
    assert description["TableStatus"] == "ACTIVE"
    answer = await client.describe_table(TableName=TABLE)
    assert answer["Table"] == description
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    by_arn = await client.describe_table(TableName=description["TableArn"])
    assert by_arn["Table"] == description
    deleted = await client.delete_table(TableName=TABLE)
    assert deleted["TableDescription"]["TableStatus"] == "DELETING"
    assert (
        code_of(await refused(lambda: client.describe_table(TableName=TABLE))) == "ResourceNotFoundException"
    )


async def test_a_table_can_be_some_time_in_the_making() -> None:
    dynamodb = InMemoryDynamoDB(creating=2)
    client = dynamodb.client(US)
    created = await client.create_table(TableName=TABLE, **SCHEMA)
    statuses = [created["TableDescription"]["TableStatus"]]
    error = await refused(lambda: client.get_item(TableName=TABLE, Key=key("one")))
    assert code_of(error) == "ResourceNotFoundException"
    answers = [await client.describe_table(TableName=TABLE) for _ in range(3)]
    statuses += [answer["Table"]["TableStatus"] for answer in answers]
    assert statuses == ["CREATING", "CREATING", "CREATING", "ACTIVE"]
    await client.get_item(TableName=TABLE, Key=key("one"))


async def test_a_table_belongs_to_its_region_and_is_there_once(
    dynamodb: InMemoryDynamoDB, client: InMemoryDynamoDBClient
) -> None:
    assert code_of(await refused(lambda: client.create_table(TableName=TABLE, **SCHEMA))) == (
        "ResourceInUseException"
    )
    elsewhere = dynamodb.client(EU)
    for name in (TABLE, f"arn:aws:dynamodb:{US}:111122223333:table/{TABLE}"):
        error = await refused(lambda name=name: elsewhere.describe_table(TableName=name))  # type: ignore[misc]
        assert code_of(error) == "ResourceNotFoundException"
    await elsewhere.create_table(TableName=TABLE, **SCHEMA)
    await elsewhere.put_item(TableName=TABLE, Item=key("there"))
    assert dynamodb.items(TABLE) == []
    assert dynamodb.items(TABLE, region=EU) == [key("there")]
    with pytest.raises(InMemoryDynamoDBError, match="ResourceNotFoundException"):
        dynamodb.items("nothing")


@pytest.mark.parametrize(
    "changes",
    [
        {"KeySchema": []},
        {"KeySchema": [{"AttributeName": "id", "KeyType": "RANGE"}]},
        {"KeySchema": None},
        {"AttributeDefinitions": SCHEMA["AttributeDefinitions"][:1]},
        {"TableName": None},
        {"TableName": ""},
    ],
    ids=str,
)
async def test_tables_that_cannot_be(dynamodb: InMemoryDynamoDB, changes: dict[str, Any]) -> None:
    parameters = {"TableName": TABLE, **SCHEMA, **changes}
    error = await refused(lambda: dynamodb.client(US).create_table(**parameters))
    assert code_of(error) == "ValidationException"


async def test_a_table_of_numbers_and_without_a_sort_key(dynamodb: InMemoryDynamoDB) -> None:
    client = dynamodb.client(US)
    await client.create_table(
        TableName=TABLE,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "N"}],
    )
    await client.put_item(TableName=TABLE, Item={"id": {"N": "1.0"}, "n": {"N": "1E+2"}})
    assert (await client.get_item(TableName=TABLE, Key={"id": {"N": "1"}}))["Item"] == {
        "id": {"N": "1"},
        "n": {"N": "100"},
    }


# Items


async def test_items_are_written_read_and_deleted(client: InMemoryDynamoDBClient) -> None:
    item = {
        **key("one"),
        "text": {"S": ""},
        "blob": {"B": b"\x00\xff"},
        "list": {"L": [{"S": "x"}]},
        "yes": {"BOOL": True},
    }
    await client.put_item(TableName=TABLE, Item=item)
    found = (await client.get_item(TableName=TABLE, Key=key("one"), ConsistentRead=True))["Item"]
    assert found == item
    found["list"]["L"].append("changed")
    item["list"]["L"].append("changed")
    again = (await client.get_item(TableName=TABLE, Key=key("one")))["Item"]
    assert again["list"] == {"L": [{"S": "x"}]}
    await client.put_item(TableName=TABLE, Item={**key("one"), "text": {"S": "new"}})
    assert (await client.get_item(TableName=TABLE, Key=key("one")))["Item"] == {
        **key("one"),
        "text": {"S": "new"},
    }
    assert "Item" not in await client.get_item(TableName=TABLE, Key=key("one", "b"))
    await client.delete_item(TableName=TABLE, Key=key("one"))
    await client.delete_item(TableName=TABLE, Key=key("one"))
    assert "Item" not in await client.get_item(TableName=TABLE, Key=key("one"))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"id": {"S": "one"}}, "Missing the key sort-key in the item"),
        ({"id": {"N": "1"}, "sort-key": {"S": "a"}}, "Type mismatch for key id expected: S actual: N"),
        (key("one", ""), "cannot contain an empty value. Key: sort-key"),
        ({**key("one"), "x": "text"}, "the value of x must have exactly one datatype"),
        ({**key("one"), "x": {"S": "1", "N": "1"}}, "the value of x must have exactly one datatype"),
        ({**key("one"), "x": {"T": "1"}}, "the value of x is not of a type that DynamoDB has"),
        ({**key("one"), "x": {"S": b"1"}}, "the value of x is not of a type that DynamoDB has"),
        ({**key("one"), "x": {"N": "one"}}, "the value of x cannot be converted to a numeric value"),
        ({**key("one"), "x": {"N": "NaN"}}, "the value of x cannot be converted to a numeric value"),
        ({**key("one"), "x": {"S": "x" * 409_600}}, "Item size has exceeded the maximum allowed size"),
        (None, "Value at 'Item' must be a map"),
    ],
)
async def test_items_that_cannot_be(
    dynamodb: InMemoryDynamoDB, client: InMemoryDynamoDBClient, item: Any, message: str
) -> None:
    error = await refused(lambda: client.put_item(TableName=TABLE, Item=item))
    assert code_of(error) == "ValidationException"
    assert message in str(error)
    assert dynamodb.items(TABLE) == []


@pytest.mark.parametrize("wrong", [{"id": {"S": "one"}}, {**key("one"), "x": {"S": "y"}}, {}, None], ids=str)
async def test_keys_are_whole_and_nothing_else(client: InMemoryDynamoDBClient, wrong: Any) -> None:
    for call in (client.get_item, client.delete_item):
        error = await refused(lambda call=call: call(TableName=TABLE, Key=wrong))  # type: ignore[misc]
        assert code_of(error) == "ValidationException"


async def test_query_and_scan(dynamodb: InMemoryDynamoDB, client: InMemoryDynamoDBClient) -> None:
    for name, sort in [("two", "a"), ("one", "b:2"), ("one", "b:1"), ("one", "a")]:
        await client.put_item(TableName=TABLE, Item={**key(name, sort), "size": {"N": str(len(sort))}})
    names = {"#id": "id", "#sort": "sort-key"}
    found = await client.query(
        TableName=TABLE,
        KeyConditionExpression="#id = :id AND begins_with(#sort, :b)",
        ExpressionAttributeNames=names,
        ExpressionAttributeValues={":id": {"S": "one"}, ":b": {"S": "b:"}},
    )
    assert [item["sort-key"]["S"] for item in found["Items"]] == ["b:1", "b:2"]
    assert found["Count"] == 2
    assert len((await client.scan(TableName=TABLE, ConsistentRead=True))["Items"]) == 4
    large = await client.scan(
        TableName=TABLE,
        FilterExpression="#size > :one",
        ExpressionAttributeNames={"#size": "size"},
        ExpressionAttributeValues={":one": {"N": "1"}},
    )
    assert (large["Count"], large["ScannedCount"]) == (2, 4)
    assert [item["id"]["S"] for item in dynamodb.items(TABLE)] == ["one", "one", "one", "two"]


# Transactions


async def test_a_transaction_is_carried_out_whole_or_not_at_all(
    dynamodb: InMemoryDynamoDB, client: InMemoryDynamoDBClient
) -> None:
    new = "attribute_not_exists(id)"
    await client.transact_write_items(TransactItems=[put("one", new), put("two", new)])
    assert dynamodb.items(TABLE) == [key("one"), key("two")]
    error = await refused(
        lambda: client.transact_write_items(TransactItems=[put("three", new), put("two", new)])
    )
    assert code_of(error) == "TransactionCanceledException"
    assert "specific reasons [None, ConditionalCheckFailed]" in str(error)
    assert error.response["CancellationReasons"] == [
        {"Code": "None"},
        {"Code": "ConditionalCheckFailed", "Message": "The conditional request failed"},
    ]
    assert dynamodb.items(TABLE) == [key("one"), key("two")]


async def test_a_transaction_deletes_and_checks(
    dynamodb: InMemoryDynamoDB, client: InMemoryDynamoDBClient
) -> None:
    await client.transact_write_items(TransactItems=[put("one"), put("two")])
    delete = {"Delete": {"TableName": TABLE, "Key": key("one")}}
    check = {
        "ConditionCheck": {
            "TableName": TABLE,
            "Key": key("two"),
            "ConditionExpression": "attribute_exists(id)",
        }
    }
    await client.transact_write_items(TransactItems=[delete, check])
    assert dynamodb.items(TABLE) == [key("two")]


@pytest.mark.parametrize(
    ("writes", "code", "message"),
    [
        ([], "ValidationException", "between 1 and 100"),
        ([put(str(number)) for number in range(101)], "ValidationException", "between 1 and 100"),
        ([put("one"), put("one")], "ValidationException", "multiple operations on one item"),
        ([{"Update": {"TableName": TABLE}}], "UnsupportedOperationException", "does not serve Update"),
        (
            [{"Put": {"TableName": "no", "Item": key("a")}}],
            "ResourceNotFoundException",
            "Table: no not found",
        ),
    ],
    ids=["none", "many", "twice", "update", "table"],
)
async def test_transactions_that_cannot_be(
    dynamodb: InMemoryDynamoDB, client: InMemoryDynamoDBClient, writes: Any, code: str, message: str
) -> None:
    error = await refused(lambda: client.transact_write_items(TransactItems=writes))
    assert code_of(error) == code
    assert message in str(error)
    assert dynamodb.items(TABLE) == []
    assert dynamodb.calls[-1].error == code


async def test_the_same_token_is_the_same_transaction(
    dynamodb: InMemoryDynamoDB, client: InMemoryDynamoDBClient
) -> None:
    writes = [put("one", "attribute_not_exists(id)")]
    for _ in range(2):
        await client.transact_write_items(TransactItems=writes, ClientRequestToken="token")
    error = await refused(
        lambda: client.transact_write_items(TransactItems=[put("two")], ClientRequestToken="token")
    )
    assert code_of(error) == "IdempotentParameterMismatchException"
    assert code_of(await refused(lambda: client.transact_write_items(TransactItems=writes))) == (
        "TransactionCanceledException"
    )
    assert dynamodb.items(TABLE) == [key("one")]


async def test_cancel_next(dynamodb: InMemoryDynamoDB, client: InMemoryDynamoDBClient) -> None:
    dynamodb.cancel_next("TransactionConflict", "None")
    error = await refused(lambda: client.transact_write_items(TransactItems=[put("one"), put("two")]))
    assert error.response["CancellationReasons"][0]["Code"] == "TransactionConflict"
    assert dynamodb.items(TABLE) == []
    await client.transact_write_items(TransactItems=[put("one"), put("two")])
    with pytest.raises(ValueError, match="at least one reason"):
        dynamodb.cancel_next()
