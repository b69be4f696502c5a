"""The tables of the in-memory DynamoDB, and the operations on them."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import attrs

from aioencrypt.testing.dynamodb.expressions import Condition, parse_condition
from aioencrypt.testing.kms.errors import Refusal
from aioencrypt.testing.kms.requests import Request

Answer = dict[str, Any]
StoredItem = dict[str, dict[str, Any]]

_MAX_ITEM = 400 * 1024
_MAX_WRITES = 100
_TYPES: dict[str, tuple[type, ...]] = {
    "S": (str,),
    "N": (str,),
    "B": (bytes, bytearray),
    "BOOL": (bool,),
    "NULL": (bool,),
    "SS": (list,),
    "NS": (list,),
    "BS": (list,),
    "L": (list,),
    "M": (dict,),
}


class Cancelled(Refusal):
    """A transaction that was cancelled; `reasons` has an error code for each write, or `"None"`."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__(
            "TransactionCanceledException",
            "Transaction cancelled, please refer cancellation reasons for specific reasons "
            f"[{', '.join(reasons)}]",
        )
        self.reasons: list[dict[str, str]] = [
            {"Code": code} if code == "None" else {"Code": code, "Message": _REASONS.get(code, code)}
            for code in reasons
        ]


_REASONS = {
    "ConditionalCheckFailed": "The conditional request failed",
    "TransactionConflict": "Transaction is ongoing for the item",
}


def invalid(message: str) -> Refusal:
    return Refusal("ValidationException", f"One or more parameter values were invalid: {message}")


@attrs.define(eq=False)
class Table:
    """One table. `keys` are the names of the key attributes, partition key first, with their types."""

    name: str
    arn: str
    keys: dict[str, str]
    description: Answer
    items: dict[tuple[Any, ...], StoredItem] = attrs.field(factory=dict, repr=False)
    # So many descriptions still say that it is being created.
    creating: int = 0

    def key_of(self, item: StoredItem) -> tuple[Any, ...]:
        """Return the primary key of an item; a refusal where it lacks one."""
        for name, kind in self.keys.items():
            if name not in item:
                raise invalid(f"Missing the key {name} in the item")
            if kind not in item[name]:
                (actual,) = item[name]
                raise invalid(f"Type mismatch for key {name} expected: {kind} actual: {actual}")
            if not item[name][kind]:
                raise invalid(
                    f"The AttributeValue for a key attribute cannot contain an empty value. Key: {name}"
                )
        return tuple(item[name][kind] for name, kind in self.keys.items())

    def in_order(self) -> list[StoredItem]:
        """Return copies of all items, by primary key."""
        return [copy.deepcopy(self.items[key]) for key in sorted(self.items)]


@attrs.frozen
class _Write:
    """One write of a transaction, looked through but not carried out."""

    table: Table
    key: tuple[Any, ...]
    condition: Condition
    item: StoredItem | None
    changes: bool

    def holds(self) -> bool:
        return self.condition(self.table.items.get(self.key, {}))

    def carry_out(self) -> None:
        if not self.changes:
            return
        if self.item is None:
            self.table.items.pop(self.key, None)
        else:
            self.table.items[self.key] = self.item


class Tables:
    """All tables of one account, in all regions. Not thread-safe."""

    def __init__(self, account: str, partition: str) -> None:
        self._account = account
        self._partition = partition
        self._tables: dict[tuple[str, str], Table] = {}
        self._tokens: dict[str, Any] = {}
        self.denied: dict[str, set[str]] = {}
        self.creating = 0

    def table(self, region: str, name: str) -> Table:
        """Return a table; a refusal (ResourceNotFoundException) where there is none."""
        table = self._tables.get((region, name.rpartition("/")[2]))
        if table is None or (name != table.name and name != table.arn):
            raise Refusal(
                "ResourceNotFoundException", f"Requested resource not found: Table: {name} not found"
            )
        return table

    def perform(self, request: Request) -> Answer:
        """Carry a request out and return AWS's answer, without `ResponseMetadata`; or raise a `Refusal`."""
        for name, permission in _permissions(request):
            if permission in self.denied.get(name, ()):
                raise Refusal(
                    "AccessDeniedException",
                    f"User: arn:{self._partition}:iam::{self._account}:user/caller is not authorized "
                    f"to perform: dynamodb:{permission} on resource: {self._arn(request.region, name)}",
                )
        return OPERATIONS[request.operation](self, request)

    def _arn(self, region: str, name: str) -> str:
        return f"arn:{self._partition}:dynamodb:{region}:{self._account}:table/{name.rpartition('/')[2]}"

    # Tables

    def create_table(self, request: Request) -> Answer:
        name = request.text("TableName", 255)
        if (request.region, name) in self._tables:
            raise Refusal("ResourceInUseException", f"Table already exists: {name}")
        schema = _entries(request, "KeySchema", "KeyType")
        types = _entries(request, "AttributeDefinitions", "AttributeType")
        if [*schema.values()] not in (["HASH"], ["HASH", "RANGE"]):
            raise invalid("Invalid KeySchema: the first element is HASH, the second one RANGE")
        if schema.keys() != types.keys():
            raise invalid("Number of attributes in KeySchema does not exactly match AttributeDefinitions")
        arn = self._arn(request.region, name)
        description: Answer = {
            "TableName": name,
            "TableArn": arn,
            "TableId": str(uuid.uuid4()),
            "KeySchema": [{"AttributeName": key, "KeyType": kind} for key, kind in schema.items()],
            "AttributeDefinitions": [
                {"AttributeName": key, "AttributeType": kind} for key, kind in types.items()
            ],
            "BillingModeSummary": {"BillingMode": request.parameters.get("BillingMode") or "PROVISIONED"},
        }
        keys = {key: types[key] for key in schema}
        table = Table(name, arn, keys, description, creating=self.creating)
        self._tables[request.region, name] = table
        return {"TableDescription": _described(table, "CREATING" if table.creating else "ACTIVE")}

    def describe_table(self, request: Request) -> Answer:
        table = self._named(request)
        if table.creating:
            table.creating -= 1
            return {"Table": _described(table, "CREATING")}
        return {"Table": _described(table, "ACTIVE")}

    def delete_table(self, request: Request) -> Answer:
        table = self._named(request)
        del self._tables[request.region, table.name]
        return {"TableDescription": _described(table, "DELETING")}

    def _named(self, request: Request) -> Table:
        return self.table(request.region, request.text("TableName", 1024))

    def _ready(self, region: str, parameters: Mapping[str, Any]) -> Table:
        table = self._named(Request("", region, parameters))
        if table.creating:
            raise Refusal("ResourceNotFoundException", "Requested resource not found")
        return table

    # Items

    def get_item(self, request: Request) -> Answer:
        table = self._ready(request.region, request.parameters)
        found = table.items.get(_primary_key(table, request.parameters))
        return {} if found is None else {"Item": copy.deepcopy(found)}

    def put_item(self, request: Request) -> Answer:
        return self._alone(request, "Put")

    def delete_item(self, request: Request) -> Answer:
        return self._alone(request, "Delete")

    def _alone(self, request: Request, kind: str) -> Answer:
        write = self._write(request.region, kind, request.parameters)
        if not write.holds():
            raise Refusal("ConditionalCheckFailedException", "The conditional request failed")
        write.carry_out()
        return {}

    def query(self, request: Request) -> Answer:
        table = self._ready(request.region, request.parameters)
        return _found(table, _condition(request.parameters, "KeyConditionExpression"))

    def scan(self, request: Request) -> Answer:
        table = self._ready(request.region, request.parameters)
        return _found(table, _condition(request.parameters, "FilterExpression"))

    def transact_write_items(self, request: Request) -> Answer:
        writes = [self._write(request.region, kind, parameters) for kind, parameters in _transaction(request)]
        targets = [(write.table.name, write.key) for write in writes]
        if len(set(targets)) < len(targets):
            raise Refusal(
                "ValidationException", "Transaction request cannot include multiple operations on one item"
            )
        token = request.optional_text("ClientRequestToken", 36)
        before = self._tokens.get(token) if token else None
        if before is not None and before != request.parameters["TransactItems"]:
            raise Refusal(
                "IdempotentParameterMismatchException",
                "The token was used before, with another payload",
            )
        if before is not None:
            return {}
        reasons = ["None" if write.holds() else "ConditionalCheckFailed" for write in writes]
        if set(reasons) != {"None"}:
            raise Cancelled(reasons)
        for write in writes:
            write.carry_out()
        if token:
            self._tokens[token] = copy.deepcopy(request.parameters["TransactItems"])
        return {}

    def _write(self, region: str, kind: str, parameters: Mapping[str, Any]) -> _Write:
        table = self._ready(region, parameters)
        condition = _condition(parameters, "ConditionExpression")
        if kind != "Put":
            return _Write(table, _primary_key(table, parameters), condition, None, changes=kind == "Delete")
        item = _checked(parameters.get("Item"), "Item")
        if (size := sum(map(_size, item.items()))) > _MAX_ITEM:
            raise Refusal(
                "ValidationException",
                f"Item size has exceeded the maximum allowed size: {size} bytes of {_MAX_ITEM}",
            )
        return _Write(table, table.key_of(item), condition, item, changes=True)


def _described(table: Table, status: str) -> Answer:
    return {**copy.deepcopy(table.description), "TableStatus": status, "ItemCount": len(table.items)}


def _found(table: Table, condition: Condition) -> Answer:
    items = [item for item in table.in_order() if condition(item)]
    return {"Items": items, "Count": len(items), "ScannedCount": len(table.items)}


def _entries(request: Request, name: str, what: str) -> dict[str, str]:
    entries = request.parameters.get(name)
    if not isinstance(entries, Sequence):
        raise Refusal("ValidationException", f"Value at '{name}' must be a list")
    return {entry["AttributeName"]: entry[what] for entry in entries}


def _condition(parameters: Mapping[str, Any], what: str) -> Condition:
    text = parameters.get(what)
    values = parameters.get("ExpressionAttributeValues")
    values = None if values is None else _checked(values, "ExpressionAttributeValues")
    names = parameters.get("ExpressionAttributeNames")
    if text is None:
        if names or values:
            raise Refusal("ValidationException", f"Names or values of expressions, but no {what}")
        return lambda item: True
    return parse_condition(what, text, names, values)


def _primary_key(table: Table, parameters: Mapping[str, Any]) -> tuple[Any, ...]:
    key = _checked(parameters.get("Key"), "Key")
    if key.keys() != table.keys.keys():
        raise Refusal("ValidationException", "The provided key element does not match the schema")
    return table.key_of(key)


def _checked(attributes: Any, what: str) -> StoredItem:
    """Return a copy of attributes, numbers as DynamoDB writes them; a refusal for what is none."""
    if not isinstance(attributes, Mapping):
        raise Refusal("ValidationException", f"Value at '{what}' must be a map")
    checked: StoredItem = {}
    for name, value in attributes.items():
        if not isinstance(value, Mapping) or len(value) != 1:
            raise invalid(f"the value of {name} must have exactly one datatype")
        ((kind, content),) = value.items()
        if kind not in _TYPES or not isinstance(content, _TYPES[kind]):
            raise invalid(f"the value of {name} is not of a type that DynamoDB has")
        if kind == "N":
            content = _number(name, content)
        checked[name] = {kind: bytes(content) if kind == "B" else copy.deepcopy(content)}
    return checked


def _number(name: str, text: Any) -> str:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise invalid(f"the value of {name} cannot be converted to a numeric value") from None
    if not number.is_finite():
        raise invalid(f"the value of {name} cannot be converted to a numeric value")
    return f"{number.normalize():f}"


def _size(pair: tuple[str, Mapping[str, Any]]) -> int:
    name, value = pair
    ((_, content),) = value.items()
    return len(name.encode()) + len(content if isinstance(content, bytes) else str(content).encode())


# Transactions

_WRITES = {"Put": "PutItem", "Delete": "DeleteItem", "ConditionCheck": "ConditionCheckItem"}


def _transaction(request: Request) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the writes of a transaction: their kinds and parameters."""
    writes = request.parameters.get("TransactItems")
    if not isinstance(writes, Sequence) or not 1 <= len(writes) <= _MAX_WRITES:
        raise Refusal(
            "ValidationException", f"Member must have length between 1 and {_MAX_WRITES}: TransactItems"
        )
    for write in writes:
        ((kind, parameters),) = write.items()
        if kind not in _WRITES:
            raise Refusal(
                "UnsupportedOperationException",
                f"the in-memory DynamoDB does not serve {kind} in transactions",
            )
        yield kind, parameters


def _permissions(request: Request) -> Iterator[tuple[str, str]]:
    """Yield each table of a request with the permission that is needed on it."""
    if request.operation == "TransactWriteItems":
        for kind, parameters in _transaction(request):
            yield str(parameters.get("TableName")).rpartition("/")[2], _WRITES[kind]
    else:
        yield str(request.parameters.get("TableName")).rpartition("/")[2], request.operation


OPERATIONS: dict[str, Callable[[Tables, Request], Answer]] = {
    "CreateTable": Tables.create_table,
    "DeleteItem": Tables.delete_item,
    "DeleteTable": Tables.delete_table,
    "DescribeTable": Tables.describe_table,
    "GetItem": Tables.get_item,
    "PutItem": Tables.put_item,
    "Query": Tables.query,
    "Scan": Tables.scan,
    "TransactWriteItems": Tables.transact_write_items,
}
PERMISSIONS = frozenset({*OPERATIONS, *_WRITES.values()} - {"TransactWriteItems"})
