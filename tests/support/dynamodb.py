"""What the tests of the in-memory DynamoDB share: a table, its keys, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aioencrypt.testing import InMemoryDynamoDBError

US, EU = "us-east-1", "eu-west-1"
TABLE = "things"
SCHEMA: dict[str, Any] = {
    "KeySchema": [
        {"AttributeName": "id", "KeyType": "HASH"},
        {"AttributeName": "sort-key", "KeyType": "RANGE"},
    ],
    "AttributeDefinitions": [
        {"AttributeName": "id", "AttributeType": "S"},
        {"AttributeName": "sort-key", "AttributeType": "S"},
    ],
}


def key(name: str, sort: str = "a") -> dict[str, Any]:
    return {"id": {"S": name}, "sort-key": {"S": sort}}


async def refused(call: Callable[[], Any]) -> InMemoryDynamoDBError:
    with pytest.raises(InMemoryDynamoDBError) as caught:
        await call()
    error = caught.value
    assert str(error).startswith(f"An error occurred ({error.response['Error']['Code']}) when calling the ")
    assert error.operation_name in str(error)
    assert error.response["ResponseMetadata"]["RequestId"]
    return error


def code_of(error: InMemoryDynamoDBError) -> str:
    code: str = error.response["Error"]["Code"]
    return code


def put(name: str, condition: str | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {"TableName": TABLE, "Item": key(name)}
    return {"Put": entry if condition is None else {**entry, "ConditionExpression": condition}}
