"""The client of the in-memory DynamoDB."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

_Invoke = Callable[[str, str, Mapping[str, object]], Awaitable[dict[str, Any]]]
_Item = Mapping[str, Mapping[str, Any]]


class InMemoryDynamoDBClient:
    """A DynamoDB client for one region, created by `InMemoryDynamoDB.client()`.

    Parameters and answers are those of AWS. Every method raises `InMemoryDynamoDBError`, which has the
    shape of botocore's `ClientError`, and `ConnectionError` during an outage. The client need not be
    closed.
    """

    def __init__(self, region: str, invoke: _Invoke) -> None:
        self.region = region
        self._invoke = invoke

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.region!r})"

    async def create_table(
        self,
        *,
        TableName: str,
        KeySchema: Sequence[Mapping[str, str]],
        AttributeDefinitions: Sequence[Mapping[str, str]],
        BillingMode: str | None = None,
    ) -> dict[str, Any]:
        """Return `TableDescription`."""
        parameters = {
            "TableName": TableName,
            "KeySchema": KeySchema,
            "AttributeDefinitions": AttributeDefinitions,
            "BillingMode": BillingMode,
        }
        return await self._invoke(self.region, "CreateTable", parameters)

    async def describe_table(self, *, TableName: str) -> dict[str, Any]:
        """Return `Table`."""
        return await self._invoke(self.region, "DescribeTable", {"TableName": TableName})

    async def delete_table(self, *, TableName: str) -> dict[str, Any]:
        """Return `TableDescription`. The table is gone at once."""
        return await self._invoke(self.region, "DeleteTable", {"TableName": TableName})

    async def get_item(
        self, *, TableName: str, Key: _Item, ConsistentRead: bool | None = None
    ) -> dict[str, Any]:
        """Return `Item`, if there is one. Every read is consistent."""
        parameters = {"TableName": TableName, "Key": Key, "ConsistentRead": ConsistentRead}
        return await self._invoke(self.region, "GetItem", parameters)

    async def put_item(
        self,
        *,
        TableName: str,
        Item: _Item,
        ConditionExpression: str | None = None,
        ExpressionAttributeNames: Mapping[str, str] | None = None,
        ExpressionAttributeValues: _Item | None = None,
    ) -> dict[str, Any]:
        """Write an item."""
        parameters = {
            "TableName": TableName,
            "Item": Item,
            "ConditionExpression": ConditionExpression,
            "ExpressionAttributeNames": ExpressionAttributeNames,
            "ExpressionAttributeValues": ExpressionAttributeValues,
        }
        return await self._invoke(self.region, "PutItem", parameters)

    async def delete_item(
        self,
        *,
        TableName: str,
        Key: _Item,
        ConditionExpression: str | None = None,
        ExpressionAttributeNames: Mapping[str, str] | None = None,
        ExpressionAttributeValues: _Item | None = None,
    ) -> dict[str, Any]:
        """Delete an item, if there is one."""
        parameters = {
            "TableName": TableName,
            "Key": Key,
            "ConditionExpression": ConditionExpression,
            "ExpressionAttributeNames": ExpressionAttributeNames,
            "ExpressionAttributeValues": ExpressionAttributeValues,
        }
        return await self._invoke(self.region, "DeleteItem", parameters)

    async def query(
        self,
        *,
        TableName: str,
        KeyConditionExpression: str,
        ExpressionAttributeNames: Mapping[str, str] | None = None,
        ExpressionAttributeValues: _Item | None = None,
        ConsistentRead: bool | None = None,
    ) -> dict[str, Any]:
        """Return `Items` by their keys, all on one page."""
        parameters = {
            "TableName": TableName,
            "KeyConditionExpression": KeyConditionExpression,
            "ExpressionAttributeNames": ExpressionAttributeNames,
            "ExpressionAttributeValues": ExpressionAttributeValues,
            "ConsistentRead": ConsistentRead,
        }
        return await self._invoke(self.region, "Query", parameters)

    async def scan(
        self,
        *,
        TableName: str,
        FilterExpression: str | None = None,
        ExpressionAttributeNames: Mapping[str, str] | None = None,
        ExpressionAttributeValues: _Item | None = None,
        ConsistentRead: bool | None = None,
    ) -> dict[str, Any]:
        """Return `Items`, all on one page."""
        parameters = {
            "TableName": TableName,
            "FilterExpression": FilterExpression,
            "ExpressionAttributeNames": ExpressionAttributeNames,
            "ExpressionAttributeValues": ExpressionAttributeValues,
            "ConsistentRead": ConsistentRead,
        }
        return await self._invoke(self.region, "Scan", parameters)

    async def transact_write_items(
        self, *, TransactItems: Sequence[Mapping[str, Any]], ClientRequestToken: str | None = None
    ) -> dict[str, Any]:
        """Carry out `Put`, `Delete` and `ConditionCheck` on up to 100 items, all or none.

        A request with the token of an earlier one does nothing.
        """
        parameters = {"TransactItems": TransactItems, "ClientRequestToken": ClientRequestToken}
        return await self._invoke(self.region, "TransactWriteItems", parameters)
