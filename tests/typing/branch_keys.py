"""Branch key stores as a type checker sees them: the rules of this file are those of `api.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, assert_type

from aioencrypt import AWSConnection
from aioencrypt.aws import DynamoDBClient
from aioencrypt.branch_keys import (
    BeaconKeyMaterials,
    BranchKeyMaterials,
    BranchKeyReader,
    BranchKeyStore,
    HierarchicalMasterKey,
    KeyStoreInfo,
    KMSConfiguration,
    KMSDiscovery,
    KMSKeyArn,
    KMSMRDiscovery,
    KMSMRKeyArn,
)
from aioencrypt.testing import DynamoDBCall, InMemoryDynamoDB, InMemoryDynamoDBClient, InMemoryKMS

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb.client import DynamoDBClient as AiobotocoreDynamoDBClient

kms_key = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def configurations() -> list[KMSConfiguration]:
    KMSKeyArn()  # type: ignore[call-arg]
    KMSMRDiscovery()  # type: ignore[call-arg]
    KMSDiscovery("us-east-1")  # type: ignore[call-arg]
    KMSConfiguration()  # type: ignore[abstract]
    assert_type(KMSKeyArn(kms_key).arn, str)
    assert_type(KMSMRDiscovery("us-east-1").region, str)
    assert_type(KMSMRDiscovery("us-east-1").wrapping_key, str)
    return [KMSKeyArn(kms_key), KMSMRKeyArn(kms_key), KMSDiscovery(), KMSMRDiscovery("us-east-1")]


def stores(kms: InMemoryKMS, dynamodb: InMemoryDynamoDB, client: AiobotocoreDynamoDBClient) -> None:
    connection = AWSConnection(region="us-east-1")
    made = BranchKeyStore(
        "keys", kms_configuration=KMSDiscovery(), logical_name="keys", connection=connection
    )
    reader: BranchKeyReader = made
    HierarchicalMasterKey(reader, branch_key_id="one", max_age=60)
    HierarchicalMasterKey(made, branch_key_id="one", max_age=60)
    for given in (dynamodb.client("us-east-1"), client):
        usable: DynamoDBClient = given
        BranchKeyStore(
            "keys",
            kms_configuration=KMSKeyArn(kms_key),
            logical_name="keys",
            connection=AWSConnection(kms=kms.clients("us-east-1"), dynamodb={"us-east-1": usable}),
        )
    BranchKeyStore("keys", kms_configuration=KMSDiscovery())  # type: ignore[call-arg]
    BranchKeyStore("keys", KMSDiscovery(), "keys")  # type: ignore[call-arg]
    BranchKeyStore("keys", kms_configuration=kms_key, logical_name="keys")  # type: ignore[arg-type]
    BranchKeyStore(
        "keys",
        kms_configuration=KMSDiscovery(),
        logical_name="keys",
        connection=AWSConnection(dynamodb=kms.clients("us-east-1")),  # type: ignore[arg-type]
    )


async def operations(store: BranchKeyStore) -> None:
    async with store as entered:
        assert_type(entered, BranchKeyStore)
        await entered.warm_up()
    assert_type(await store.create_key_store(wait=60), str)
    assert_type(await store.create_key(), str)
    assert_type(await store.create_key("one", {"a": "b"}), str)
    await store.create_key("one", {"a": 1})  # type: ignore[dict-item]
    await store.create_key(b"one")  # type: ignore[arg-type]
    await store.version_key("one")
    active = await store.active_branch_key("one")
    assert_type(active, BranchKeyMaterials)
    assert_type(await store.branch_key_version("one", active.version), BranchKeyMaterials)
    assert_type(active.key, bytes)
    assert_type(active.encryption_context, Mapping[str, str])
    active.key = b""  # type: ignore[misc]
    beacon = await store.beacon_key("one")
    assert_type(beacon, BeaconKeyMaterials)
    assert_type(beacon.beacon_key_id, str)
    info = store.key_store_info()
    assert_type(info, KeyStoreInfo)
    assert_type(info.kms_configuration, KMSConfiguration)
    assert_type(info.grant_tokens, tuple[str, ...])
    assert_type(store.logical_name, str)


def in_memory(dynamodb: InMemoryDynamoDB) -> None:
    assert_type(dynamodb.client("us-east-1"), InMemoryDynamoDBClient)
    assert_type(dynamodb.items("keys", region="us-east-1"), list[dict[str, dict[str, Any]]])
    assert_type(dynamodb.calls, list[DynamoDBCall])
    assert_type(dynamodb.calls[0].table_name, str | None)
    assert_type(dynamodb.call_count("GetItem"), int)
