"""What the tests of branch key stores share: a store in memory, and clients that are watched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs

from aioencrypt.branch_keys import BranchKeyStore, KMSConfiguration, KMSKeyArn
from aioencrypt.testing import InMemoryDynamoDB, InMemoryKMS
from tests.support.aws import connected

US, EU = "us-east-1", "eu-west-1"
TABLE, LOGICAL = "branch-keys", "logical name"
CONTEXT = {"tenant": "a value that nobody may see", "größe": "ß"}
ACTIVE, BEACON = "branch:ACTIVE", "beacon:ACTIVE"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"

Around = Callable[[str, Mapping[str, Any], Callable[[], Awaitable[Any]]], Awaitable[Any]]


async def _simply(operation: str, parameters: Mapping[str, Any], call: Callable[[], Awaitable[Any]]) -> Any:
    return await call()


class WatchedClient:
    """A client that notes each call, of which `around(operation, parameters, call)` decides what becomes."""

    def __init__(self, client: Any, around: Around = _simply) -> None:
        self._client = client
        self._around = around
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, operation: str) -> Any:
        async def call(**parameters: Any) -> Any:
            self.calls.append((operation, parameters))
            method = getattr(self._client, operation)
            return await self._around(operation, parameters, lambda: method(**parameters))

        return call

    def asked(self, operation: str) -> list[dict[str, Any]]:
        """Return the parameters of the calls of an operation."""
        return [parameters for name, parameters in self.calls if name == operation]


@attrs.frozen
class World:
    """KMS and DynamoDB in memory, with a plain key and a multi-Region key."""

    kms: InMemoryKMS
    dynamodb: InMemoryDynamoDB
    key: str
    primary: str
    replica: str

    @classmethod
    def new(cls) -> World:
        kms = InMemoryKMS()
        primary = kms.create_key(region=US, multi_region=True)
        return cls(
            kms, InMemoryDynamoDB(), kms.create_key(region=US), primary, kms.replicate_key(primary, EU)
        )

    def store(self, configuration: KMSConfiguration | None = None, **options: Any) -> BranchKeyStore:
        """Return a store over both; it needs a table."""
        options = {
            "logical_name": LOGICAL,
            "region": US,
            "kms": self.kms.clients(US, EU),
            "dynamodb": self.dynamodb.clients(US),
            **options,
        }
        options = {"kms_configuration": configuration or KMSKeyArn(self.key), **connected(options, "region")}
        return BranchKeyStore(TABLE, **options)

    async def with_table(self) -> World:
        await self.store().create_key_store()
        self.forget()
        return self

    def forget(self) -> None:
        """Forget the calls so far."""
        self.kms.reset_calls()
        self.dynamodb.reset_calls()

    def items(self, branch_key_id: str) -> dict[str, dict[str, Any]]:
        """Return the items of a branch key by type."""
        stored = self.dynamodb.items(TABLE)
        return {item["type"]["S"]: item for item in stored if item["branch-key-id"]["S"] == branch_key_id}

    def versions(self, branch_key_id: str) -> set[str]:
        """Return the versions of a branch key that stand in the table."""
        prefix = "branch:version:"
        return {name.removeprefix(prefix) for name in self.items(branch_key_id) if name.startswith(prefix)}

    async def change(self, branch_key_id: str, item_type: str, **changes: Any) -> None:
        """Change attributes of an item (`_` for `-`), past the store; None removes one."""
        item = {**self.items(branch_key_id)[item_type]}
        item |= {name.replace("_", "-"): value for name, value in changes.items()}
        await self.dynamodb.client(US).put_item(
            TableName=TABLE, Item={name: value for name, value in item.items() if value is not None}
        )
        self.dynamodb.reset_calls()


def context_of(item: Mapping[str, Mapping[str, Any]], logical_name: str = LOGICAL) -> dict[str, str]:
    """Return what KMS is to be told of an item: every attribute but the wrapped key, and the logical name."""
    texts = {name: value.get("S") or value.get("N", "") for name, value in item.items() if name != "enc"}
    return {**texts, "tablename": logical_name}
