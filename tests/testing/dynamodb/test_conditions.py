"""Conditions of the in-memory DynamoDB: what holds, and what is no condition."""

from __future__ import annotations

from typing import Any

import pytest

from aioencrypt.testing import InMemoryDynamoDB, InMemoryDynamoDBClient
from tests.support.dynamodb import SCHEMA, TABLE, US, code_of, key, refused

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


ITEM = {**key("one"), "n": {"N": "10"}, "text": {"S": "abc"}, "blob": {"B": b"ab"}, "yes": {"BOOL": True}}
VALUES = {
    ":ten": {"N": "10.0"},
    ":nine": {"N": "9"},
    ":abc": {"S": "abc"},
    ":ab": {"S": "ab"},
    ":blob": {"B": b"a"},
    ":yes": {"BOOL": True},
}


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("attribute_exists(text)", True),
        ("attribute_exists(nothing)", False),
        ("attribute_not_exists(nothing)", True),
        ("attribute_not_exists(#id)", False),
        ("attribute_exists(#id) AND text = :abc", True),
        ("attribute_exists(#id) and text = :ab", False),
        ("text = :ab OR n = :ten", True),
        ("text = :ab or n = :nine", False),
        ("NOT text = :ab", True),
        ("not (text = :abc OR n = :nine)", False),
        ("text = :ab AND n = :nine OR n = :ten", True),
        ("text = :ab AND (n = :nine OR n = :ten)", False),
        ("n > :nine", True),
        ("n>=:ten", True),
        ("n < :nine", False),
        ("n<=:ten", True),
        ("n <> :ten", False),
        ("nothing <> :ten", True),
        ("nothing = :ten", False),
        ("nothing < :ten", False),
        ("text > :ab", True),
        ("text > :ten", False),
        ("yes = :yes", True),
        ("yes > :yes", False),
        ("begins_with(text, :ab)", True),
        ("begins_with(blob, :blob)", True),
        ("begins_with(text, :blob)", False),
        ("begins_with(nothing, :ab)", False),
        ("begins_with(yes, :yes)", False),
    ],
)
async def test_conditions_are_evaluated(
    dynamodb: InMemoryDynamoDB, client: InMemoryDynamoDBClient, expression: str, holds: bool
) -> None:
    await client.put_item(TableName=TABLE, Item=ITEM)
    condition = {
        "ConditionExpression": expression,
        "ExpressionAttributeNames": {"#id": "id"} if "#id" in expression else None,
        "ExpressionAttributeValues": {
            name: value for name, value in VALUES.items() if f"{name} " in expression.replace(")", " ") + " "
        }
        or None,
    }
    call: Any = client.delete_item
    if holds:
        await call(TableName=TABLE, Key=key("one"), **condition)
        assert dynamodb.items(TABLE) == []
        return
    error = await refused(lambda: call(TableName=TABLE, Key=key("one"), **condition))
    assert code_of(error) == "ConditionalCheckFailedException"
    assert dynamodb.items(TABLE) == [ITEM]


@pytest.mark.parametrize(
    ("expression", "names", "values", "message"),
    [
        ("attribute_not_exists(sort-key)", None, None, 'Syntax error; token: "-"'),
        ("", None, None, 'Syntax error; token: "<EOF>"'),
        ("text =", None, None, 'Syntax error; token: "<EOF>"'),
        ("text", None, None, 'Syntax error; token: "<EOF>"'),
        ("text = text text", None, None, 'Syntax error; token: "text"'),
        ("text = AND", None, None, 'Syntax error; token: "AND"'),
        ("(text = text", None, None, "Syntax error"),
        ("text text text", None, None, 'Syntax error; token: "text"'),
        ("attribute_exists(text", None, None, "Syntax error"),
        ("attribute_missing(text)", None, None, "Invalid function name; function: attribute_missing"),
        ("begins_with(text)", None, None, "Syntax error"),
        ("text = :a", None, None, "An expression attribute value used in the document path is not defined"),
        ("#t = text", None, None, "An expression attribute name used in the document path is not defined"),
        ("text = text", {"#t": "text"}, None, "ExpressionAttributeNames unused in expressions: keys: {#t}"),
        (
            "text = text",
            None,
            {":a": {"S": ""}},
            "ExpressionAttributeValues unused in expressions: keys: {:a}",
        ),
        ("text = :a", None, {":a": "text"}, "the value of :a must have exactly one datatype"),
        (None, {"#t": "text"}, None, "no ConditionExpression"),
    ],
)
async def test_conditions_that_cannot_be(
    client: InMemoryDynamoDBClient, expression: Any, names: Any, values: Any, message: str
) -> None:
    error = await refused(
        lambda: client.put_item(
            TableName=TABLE,
            Item=ITEM,
            ConditionExpression=expression,
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=values,
        )
    )
    assert code_of(error) == "ValidationException"
    assert message in str(error)
