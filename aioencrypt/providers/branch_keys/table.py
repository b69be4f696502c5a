"""The DynamoDB table of a branch key store: its making, and the items that are read and written.

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

# A table may be named by its ARN, which is how tables of other accounts are.
_TABLE_NAME = re.compile(r"(arn:[\w-]+:dynamodb:[\w-]+:\d+:table/)?[A-Za-z0-9_.-]{3,255}")
_KEY_SCHEMA = {ID: "HASH", TYPE: "RANGE"}
_NEW = {"ConditionExpression": "attribute_not_exists(#id)", "ExpressionAttributeNames": {"#id": ID}}
# Seconds between two looks at a table that is being created.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
# Why a transaction is cancelled that may succeed when it is sent again.
_PASSING = {"ProvisionedThroughputExceeded", "ThrottlingError", "TransactionConflict"}


class BranchKeyTable:
    """A table; raises `ProviderError`, and `ServiceError` for what DynamoDB answered."""

    def __init__(self, name: str, clients: AWSClients[DynamoDBClient], region: str | None) -> None:
        if not isinstance(name, str):
            raise TypeError(f"table_name is a str, not {type(name).__name__}")
        if not _TABLE_NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is not a table name of 3 to 255 letters, digits, '_', '.' and '-', nor a table ARN"
            )
        self.name = name
        self._clients = clients
        self._region = region

    async def warm_up(self) -> None:
        """Make the client; raises `ServiceError`."""
        await self._clients.warm_up([self._region])

    async def _call(
        self, operation: str, call: Callable[[DynamoDBClient], Awaitable[Mapping[str, Any]]]
    ) -> Mapping[str, Any]:
        return await self._clients.call(operation, self.name, self._region, call)

    # The table itself

    async def create(self, wait: float) -> str:
        """Create the table unless it is there; return its ARN once it can be used."""
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
        """Check a table against what a branch key store needs; return its ARN."""
        keys = _by_name(table, "KeySchema", "KeyType")
        types = _by_name(table, "AttributeDefinitions", "AttributeType")
        if keys != _KEY_SCHEMA or any(types.get(name) != "S" for name in _KEY_SCHEMA):
            raise ProviderError(
                f"the table {self.name!r} is no branch key store, which has the partition key {ID!r} "
                f"and the sort key {TYPE!r}, both of type S; choose another table name"
            )
        arn = table.get("TableArn")
        if not isinstance(arn, str) or arn.split("table/")[-1] != self.name.split("table/")[-1]:
            raise ProviderError(f"DynamoDB answered for the table {arn!r}, not for {self.name!r}")
        return arn

    async def _until_active(self, table: Mapping[str, Any]) -> None:
        status, pause = table.get("TableStatus"), _SHORTEST_PAUSE
        while status == "CREATING":
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            # A new table may be unknown for some seconds: descriptions are eventually consistent.
            known = await self._describe_if_known()
            status = known.get("TableStatus") if known is not None else "CREATING"
        if status not in ("ACTIVE", "UPDATING"):
            raise ProviderError(f"the table {self.name!r} cannot be used, its status is {status!r}")

    # Items

    async def read(self, branch_key_id: str, item_type: str) -> BranchKeyItem:
        """Read an item and check it."""
        key = {ID: {"S": branch_key_id}, TYPE: {"S": item_type}}
        # A consistent read, because a message may follow at once on the version that it needs.
        answer = await self._call(
            "GetItem",
            lambda client: client.get_item(TableName=self.name, Key=key, ConsistentRead=True),
        )
        if not answer.get("Item"):
            raise ProviderError(
                f"the table {self.name!r} has no item {item_type!r} of a branch key {branch_key_id!r}"
            )
        return parse_item(_mapping_of(answer, "Item"), branch_key_id, item_type)

    async def add(self, *items: BranchKeyItem) -> None:
        """Write all items of a new branch key, or none if there are such."""
        name = items[0].attributes[ID]
        await self._write(
            [(item, _NEW) for item in items],
            f"there is a branch key {name!r} already; it stays as it is",
            retryable=False,
        )

    async def replace(self, active: BranchKeyItem, version: BranchKeyItem, new: BranchKeyItem) -> None:
        """Write a new version, and its active copy over the one that was read, if that is still there."""
        name = active.attributes[ID]
        unchanged = {
            "ConditionExpression": "attribute_exists(#id) AND #enc = :old",
            "ExpressionAttributeNames": {"#id": ID, "#enc": WRAPPED_KEY},
            "ExpressionAttributeValues": {":old": {"B": active.wrapped_key}},
        }
        await self._write(
            [(version, _NEW), (new, unchanged)],
            f"the branch key {name!r} got a new version from somebody else meanwhile; "
            "if it is to have one more, call version_key() again",
            retryable=True,
        )

    def _put(self, item: BranchKeyItem, condition: Mapping[str, Any]) -> dict[str, Any]:
        return {"Put": {"TableName": self.name, "Item": item.stored(), **condition}}

    async def _write(
        self, items: Sequence[tuple[BranchKeyItem, Mapping[str, Any]]], refused: str, *, retryable: bool
    ) -> None:
        """Write items on conditions, all or nothing. `refused` says that a condition does not hold."""
        # Retries of the client carry the same token, and so do not stumble over their own first attempt.
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
    """Return why a transaction was cancelled, by the shape of the exception."""
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
