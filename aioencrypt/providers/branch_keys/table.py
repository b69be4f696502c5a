"""The DynamoDB table of a branch key store: create it, read and write its items.

Specification: framework/branch-key-store.md.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio

from aioencrypt.aws.connection import AWSClients
from aioencrypt.aws.protocols import DynamoDBClient
from aioencrypt.errors import ProviderError, ServiceError
from aioencrypt.providers.branch_keys.items import ID, TYPE, WRAPPED_KEY, BranchKeyItem, parse_item
from aioencrypt.runtime.arguments import check_type

# Tables of other accounts are named by their ARN.
_TABLE_NAME = re.compile(r"(arn:[\w-]+:dynamodb:[\w-]+:\d+:table/)?[A-Za-z0-9_.-]{3,255}")
_KEY_SCHEMA = {ID: "HASH", TYPE: "RANGE"}
_NEW = {"ConditionExpression": "attribute_not_exists(#id)", "ExpressionAttributeNames": {"#id": ID}}
# Seconds between two polls of a table that is being created.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
# Cancellation reasons of a transaction that may succeed if it is sent again.
_PASSING = {"ProvisionedThroughputExceeded", "ThrottlingError", "TransactionConflict"}


class BranchKeyTable:
    """A table of branch keys. Methods raise `ProviderError`, and `ServiceError` if DynamoDB fails."""

    def __init__(self, name: str, clients: AWSClients[DynamoDBClient], region: str | None) -> None:
        if not _TABLE_NAME.fullmatch(check_type("table_name", name, str)):
            raise ValueError(
                f"{name!r} is not a table name of 3 to 255 letters, digits, '_', '.' and '-', nor a table ARN"
            )
        self.name = name
        self._clients = clients
        self._region = region

    async def warm_up(self) -> None:
        """Create the client; raises `ServiceError`."""
        await self._clients.warm_up([self._region])

    async def _call(
        self, operation: str, call: Callable[[DynamoDBClient], Awaitable[Mapping[str, Any]]]
    ) -> Mapping[str, Any]:
        return await self._clients.call(operation, self.name, self._region, call)

    # The table itself

    async def create(self, wait: float) -> str:
        """Create the table if it does not exist; return its ARN once the table is active."""
        table = await self._describe_if_known()
        if table is None:
            table = await self._create()
        arn = self._check(table)
        with anyio.move_on_after(wait):
            await self._until_active(table)
            return arn
        raise ServiceError(f"the table {self.name!r} is not active after {wait} seconds", retryable=True)

    async def _describe_if_known(self) -> Mapping[str, Any] | None:
        try:
            answer = await self._call(
                "DescribeTable", lambda client: client.describe_table(TableName=self.name)
            )
        except ServiceError as error:
            if error.code != "ResourceNotFoundException":
                raise
            return None
        return _mapping_of(answer, "Table")

    async def _create(self) -> Mapping[str, Any]:
        keys = [{"AttributeName": name, "KeyType": key_type} for name, key_type in _KEY_SCHEMA.items()]
        types = [{"AttributeName": name, "AttributeType": "S"} for name in _KEY_SCHEMA]
        answer = await self._call(
            "CreateTable",
            lambda client: client.create_table(
                TableName=self.name,
                KeySchema=keys,
                AttributeDefinitions=types,
                BillingMode="PAY_PER_REQUEST",
            ),
        )
        return _mapping_of(answer, "TableDescription")

    def _check(self, table: Mapping[str, Any]) -> str:
        """Check the key schema of a table; return its ARN."""
        keys = _by_name(table, "KeySchema", "KeyType")
        types = _by_name(table, "AttributeDefinitions", "AttributeType")
        if keys != _KEY_SCHEMA or any(types.get(name) != "S" for name in _KEY_SCHEMA):
            raise ProviderError(
                f"the table {self.name!r} is not a branch key store: the partition key must be {ID!r} "
                f"and the sort key {TYPE!r}, both of type S; choose another table name"
            )
        arn = table.get("TableArn")
        if not isinstance(arn, str) or arn.split("table/")[-1] != self.name.split("table/")[-1]:
            raise ProviderError(f"DynamoDB described the table {arn!r}, not {self.name!r}")
        return arn

    async def _until_active(self, table: Mapping[str, Any]) -> None:
        status, pause = table.get("TableStatus"), _SHORTEST_PAUSE
        while status == "CREATING":
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            # Descriptions are eventually consistent: a new table may not be found for some seconds.
            known = await self._describe_if_known()
            status = known.get("TableStatus") if known is not None else "CREATING"
        if status not in ("ACTIVE", "UPDATING"):
            raise ProviderError(f"the table {self.name!r} cannot be used: its status is {status!r}")

    # Items

    async def read(self, branch_key_id: str, item_type: str) -> BranchKeyItem:
        """Read an item and check it."""
        key = {ID: {"S": branch_key_id}, TYPE: {"S": item_type}}
        # A strongly consistent read: a message may arrive right after its branch key version was written.
        answer = await self._call(
            "GetItem",
            lambda client: client.get_item(TableName=self.name, Key=key, ConsistentRead=True),
        )
        if not answer.get("Item"):
            raise ProviderError(
                f"the table {self.name!r} has no item {item_type!r} for the branch key {branch_key_id!r}"
            )
        return parse_item(_mapping_of(answer, "Item"), branch_key_id, item_type)

    async def add(self, *items: BranchKeyItem) -> None:
        """Write all items of a new branch key, or none if the branch key exists."""
        name = items[0].attributes[ID]
        await self._write(
            [(item, _NEW) for item in items],
            f"the branch key {name!r} already exists",
            retryable=False,
        )

    async def replace(self, active: BranchKeyItem, version: BranchKeyItem, new: BranchKeyItem) -> None:
        """Write a new version and replace the active copy, if the active copy is still the one we read."""
        name = active.attributes[ID]
        unchanged = {
            "ConditionExpression": "attribute_exists(#id) AND #enc = :old",
            "ExpressionAttributeNames": {"#id": ID, "#enc": WRAPPED_KEY},
            "ExpressionAttributeValues": {":old": {"B": active.wrapped_key}},
        }
        await self._write(
            [(version, _NEW), (new, unchanged)],
            f"another program added a version to the branch key {name!r}; call version_key() again to add "
            "one more",
            retryable=True,
        )

    def _put(self, item: BranchKeyItem, condition: Mapping[str, Any]) -> dict[str, Any]:
        return {"Put": {"TableName": self.name, "Item": item.stored(), **condition}}

    async def _write(
        self, items: Sequence[tuple[BranchKeyItem, Mapping[str, Any]]], refused: str, *, retryable: bool
    ) -> None:
        """Write items in one transaction. `refused` is the message for a condition that failed."""
        # The token makes retries by the client idempotent.
        token = str(uuid.uuid4())
        try:
            await self._call(
                "TransactWriteItems",
                lambda client: client.transact_write_items(
                    TransactItems=[self._put(*item) for item in items], ClientRequestToken=token
                ),
            )
        except ServiceError as error:
            if error.code != "TransactionCanceledException":
                raise
            reasons = _reasons(error.__cause__)
            if "ConditionalCheckFailed" not in reasons:
                refused = error.message
                retryable = bool(reasons) and reasons <= _PASSING
            raise ServiceError(
                f"nothing was written: {refused}",
                code=error.code,
                request_id=error.request_id,
                retryable=retryable,
            ) from error.__cause__


def _reasons(error: object) -> set[str]:
    """Return the reasons why a transaction was cancelled."""
    response = getattr(error, "response", None)
    reasons = response.get("CancellationReasons") if isinstance(response, Mapping) else None
    codes = {reason.get("Code") for reason in reasons or () if isinstance(reason, Mapping)}
    return {code for code in codes if isinstance(code, str) and code != "None"}


def _mapping_of(answer: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = answer.get(field)
    if not isinstance(value, Mapping):
        raise ProviderError(f"the answer of DynamoDB has no {field}")
    return value


def _by_name(table: Mapping[str, Any], field: str, what: str) -> dict[Any, Any]:
    entries = table.get(field)
    if not isinstance(entries, list):
        return {}
    entries = [entry for entry in entries if isinstance(entry, Mapping)]
    return {str(entry.get("AttributeName")): entry.get(what) for entry in entries}
