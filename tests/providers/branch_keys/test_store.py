"""Branch key stores: what is written, and what the services are asked for."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from aioencrypt import ProviderError, ServiceError
from aioencrypt.branch_keys import KMSConfiguration, KMSDiscovery, KMSKeyArn, KMSMRDiscovery, KMSMRKeyArn
from tests.support.branch_keys import (
    ACTIVE,
    BEACON,
    CONTEXT,
    EU,
    LOGICAL,
    TABLE,
    US,
    UUID,
    WatchedClient,
    World,
    context_of,
)

pytestmark = pytest.mark.anyio

STORE = "framework/branch-key-store.md"
STRUCTURES = "framework/structures.md"


@pytest.fixture
async def world() -> World:
    return await World.new().with_table()


# Creating


@pytest.mark.spec(f"{STORE}#createkey")
async def test_an_id_is_drawn(world: World) -> None:
    store = world.store()
    first, second = await store.create_key(), await store.create_key()
    assert re.fullmatch(UUID, first)
    assert first != second
    assert set(world.items(first)) == {
        ACTIVE,
        BEACON,
        *(f"branch:version:{v}" for v in world.versions(first)),
    }
    assert (await store.active_branch_key(first)).encryption_context == {}


@pytest.mark.spec(f"{STORE}#createkey")
async def test_an_id_of_our_own_needs_a_context(world: World) -> None:
    store = world.store()
    nothing: list[dict[str, str] | None] = [None, {}]
    assert await store.create_key("mine", CONTEXT) == "mine"
    for context in nothing:
        with pytest.raises(ValueError, match="of your own needs an encryption context"):
            await store.create_key("other", context)
    with pytest.raises(ValueError, match="branch_key_id is empty"):
        await store.create_key("", CONTEXT)
    assert world.items("other") == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((42, CONTEXT), "branch_key_id must be a str, not int"),
        (("mine", ["a"]), "a mapping of str to str, not list"),
        (("mine", {"a": 1}), "keys and values of an encryption context must be str"),
    ],
)
async def test_arguments_of_another_type(world: World, arguments: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        await world.store().create_key(*arguments)
    assert not world.kms.calls


async def test_a_context_may_come_without_an_id(world: World) -> None:
    drawn = await world.store().create_key(encryption_context=CONTEXT)
    assert re.fullmatch(UUID, drawn)
    assert (await world.store().active_branch_key(drawn)).encryption_context == CONTEXT


@pytest.mark.spec(f"{STORE}#branch-key-and-beacon-key-creation", f"{STORE}#wrapped-branch-key-creation")
@pytest.mark.spec(f"{STORE}#encryption-context", f"{STORE}#custom-encryption-context")
@pytest.mark.spec(f"{STORE}#active-encryption-context", f"{STORE}#decrypt_only-encryption-context")
@pytest.mark.spec(f"{STORE}#beacon-key-encryption-context", f"{STORE}#logical-keystore-name")
@pytest.mark.spec(f"{STRUCTURES}#branch-key")
async def test_what_kms_is_asked_for_when_a_key_is_created(world: World) -> None:
    grant = world.kms.create_grant(world.key, "Decrypt")
    kms = WatchedClient(world.kms.client(US))
    store = world.store(kms={US: kms}, grant_tokens=[grant])
    await store.create_key("mine", CONTEXT)
    items = world.items("mine")
    (version,) = world.versions("mine")
    old, active, beacon = (context_of(items[name]) for name in (f"branch:version:{version}", ACTIVE, BEACON))
    shared = {
        "branch-key-id": "mine",
        "create-time": old["create-time"],
        "tablename": LOGICAL,
        "kms-arn": world.key,
        "hierarchy-version": "1",
        "aws-crypto-ec:tenant": CONTEXT["tenant"],
        "aws-crypto-ec:größe": "ß",
    }
    assert old == {**shared, "type": f"branch:version:{version}"}
    assert active == {**shared, "type": ACTIVE, "version": f"branch:version:{version}"}
    assert beacon == {**shared, "type": BEACON}
    assert kms.calls == [
        (
            "generate_data_key_without_plaintext",
            {"KeyId": world.key, "NumberOfBytes": 32, "EncryptionContext": old, "GrantTokens": [grant]},
        ),
        (
            "re_encrypt",
            {
                "CiphertextBlob": items[f"branch:version:{version}"]["enc"]["B"],
                "SourceKeyId": world.key,
                "SourceEncryptionContext": old,
                "DestinationKeyId": world.key,
                "DestinationEncryptionContext": active,
                "GrantTokens": [grant],
            },
        ),
        (
            "generate_data_key_without_plaintext",
            {"KeyId": world.key, "NumberOfBytes": 32, "EncryptionContext": beacon, "GrantTokens": [grant]},
        ),
    ]
    # What is stored is what KMS answered: each opens under its own context only.
    client = world.kms.client(US)
    opened = [
        (await client.decrypt(CiphertextBlob=item["enc"]["B"], EncryptionContext=context_of(item)))[
            "Plaintext"
        ]
        for item in (items[f"branch:version:{version}"], items[ACTIVE], items[BEACON])
    ]
    assert opened[0] == opened[1] != opened[2]


@pytest.mark.spec(f"{STORE}#writing-branch-key-and-beacon-key-to-keystore", f"{STORE}#record-format")
@pytest.mark.spec(f"{STORE}#createkey", f"{STORE}#branch-key-and-beacon-key-creation")
async def test_what_is_written_when_a_key_is_created(world: World) -> None:
    before = datetime.now(UTC)
    await world.store().create_key("mine", CONTEXT)
    after = datetime.now(UTC)
    (call,) = world.dynamodb.calls
    assert call.operation == "TransactWriteItems"
    puts = [entry["Put"] for entry in call.parameters["TransactItems"]]
    (version,) = world.versions("mine")
    assert [put["Item"]["type"]["S"] for put in puts] == [f"branch:version:{version}", ACTIVE, BEACON]
    for put in puts:
        assert put["TableName"] == TABLE
        assert put["ConditionExpression"] == "attribute_not_exists(#id)"
        assert put["ExpressionAttributeNames"] == {"#id": "branch-key-id"}
        item = put["Item"]
        assert item == world.items("mine")[item["type"]["S"]]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", item["create-time"]["S"])
        assert before <= datetime.fromisoformat(item["create-time"]["S"]) <= after
        assert {name for name, value in item.items() if "S" not in value} == {"enc", "hierarchy-version"}
        assert item["hierarchy-version"] == {"N": "1"}
        assert item["aws-crypto-ec:größe"] == {"S": "ß"}
        assert ("version" in item) is (item["type"]["S"] == ACTIVE)
    assert len({put["Item"]["create-time"]["S"] for put in puts}) == 1
    assert puts[1]["Item"]["version"] == {"S": f"branch:version:{version}"}


async def test_what_a_key_id_is_there_for_already_stays(world: World) -> None:
    store = world.store()
    await store.create_key("mine", CONTEXT)
    before = world.items("mine")
    with pytest.raises(ServiceError) as caught:
        await store.create_key("mine", {"another": "context"})
    assert caught.value.message == ("nothing was written: the branch key 'mine' already exists")
    assert (caught.value.code, caught.value.retryable) == ("TransactionCanceledException", False)
    cause: Any = caught.value.__cause__
    assert cause.response["ResponseMetadata"]["RequestId"] == caught.value.request_id
    assert [reason["Code"] for reason in cause.response["CancellationReasons"]] == [
        "None",
        "ConditionalCheckFailed",
        "ConditionalCheckFailed",
    ]
    assert world.items("mine") == before


# New versions


@pytest.mark.spec(f"{STORE}#versionkey", f"{STORE}#authenticating-a-keystore-item")
@pytest.mark.spec(f"{STORE}#custom-encryption-context", f"{STORE}#wrapped-branch-key-creation")
async def test_what_a_new_version_asks_for(world: World) -> None:
    grant = world.kms.create_grant(world.key, "Decrypt")
    await world.store().create_key("mine", CONTEXT)
    before = world.items("mine")
    world.forget()
    kms, dynamodb = WatchedClient(world.kms.client(US)), WatchedClient(world.dynamodb.client(US))
    store = world.store(kms={US: kms}, dynamodb={US: dynamodb}, grant_tokens=[grant])
    assert await store.version_key("mine") is None  # type: ignore[func-returns-value]
    after = world.items("mine")
    (new,) = after.keys() - before.keys()
    assert re.fullmatch(f"branch:version:{UUID}", new)
    assert after[ACTIVE] == {
        **before[ACTIVE],
        "version": {"S": new},
        "create-time": after[new]["create-time"],
        "enc": after[ACTIVE]["enc"],
    }
    assert {**after[ACTIVE], "type": {"S": new}, "enc": after[new]["enc"]} == {
        **after[new],
        "version": {"S": new},
    }
    assert after[ACTIVE]["create-time"]["S"] > before[ACTIVE]["create-time"]["S"]
    assert {name: item for name, item in after.items() if name not in (ACTIVE, new)} == {
        name: item for name, item in before.items() if name != ACTIVE
    }
    old, version, active = (context_of(item) for item in (before[ACTIVE], after[new], after[ACTIVE]))
    same = {"SourceKeyId": world.key, "DestinationKeyId": world.key, "GrantTokens": [grant]}
    assert kms.calls == [
        (
            "re_encrypt",
            {
                "CiphertextBlob": before[ACTIVE]["enc"]["B"],
                "SourceEncryptionContext": old,
                "DestinationEncryptionContext": old,
                **same,
            },
        ),
        (
            "generate_data_key_without_plaintext",
            {"KeyId": world.key, "NumberOfBytes": 32, "EncryptionContext": version, "GrantTokens": [grant]},
        ),
        (
            "re_encrypt",
            {
                "CiphertextBlob": after[new]["enc"]["B"],
                "SourceEncryptionContext": version,
                "DestinationEncryptionContext": active,
                **same,
            },
        ),
    ]
    (read,), (written,) = dynamodb.asked("get_item"), dynamodb.asked("transact_write_items")
    assert [name for name, _ in dynamodb.calls] == ["get_item", "transact_write_items"]
    assert read["Key"] == {"branch-key-id": {"S": "mine"}, "type": {"S": ACTIVE}}
    assert written["TransactItems"] == [
        {
            "Put": {
                "TableName": TABLE,
                "Item": after[new],
                "ConditionExpression": "attribute_not_exists(#id)",
                "ExpressionAttributeNames": {"#id": "branch-key-id"},
            }
        },
        {
            "Put": {
                "TableName": TABLE,
                "Item": after[ACTIVE],
                "ConditionExpression": "attribute_exists(#id) AND #enc = :old",
                "ExpressionAttributeNames": {"#id": "branch-key-id", "#enc": "enc"},
                "ExpressionAttributeValues": {":old": before[ACTIVE]["enc"]},
            }
        },
    ]
    assert re.fullmatch(UUID, written["ClientRequestToken"])


@pytest.mark.spec(f"{STORE}#versionkey")
async def test_the_key_of_the_items_stays_under_a_replica(world: World) -> None:
    await world.store(KMSKeyArn(world.primary)).create_key("mine", CONTEXT)
    store = world.store(KMSMRKeyArn(world.replica))
    world.forget()
    await store.version_key("mine")
    assert {item["kms-arn"]["S"] for item in world.items("mine").values()} == {world.primary}
    assert {call.key_id for call in world.kms.calls} == {world.replica}
    assert {call.region for call in world.kms.calls} == {EU}
    by_replica = await store.active_branch_key("mine")
    assert by_replica == await world.store(KMSKeyArn(world.primary)).active_branch_key("mine")


@pytest.mark.spec(f"{STORE}#authenticating-a-keystore-item", f"{STORE}#versionkey")
@pytest.mark.parametrize(
    "changes",
    [
        {"aws_crypto_ec:tenant": {"S": "43"}},
        {"aws_crypto_ec:more": {"S": ""}},
        {"create_time": {"S": "2023-06-03T19:03:29.358123Z"}},
        {"enc": {"B": b"something else"}},
        {"unknown": {"S": "attribute"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_an_item_that_was_changed_gets_no_new_version(world: World, changes: Any) -> None:
    await world.store().create_key("mine", CONTEXT)
    await world.change("mine", ACTIVE, **changes)
    before = world.items("mine")
    with pytest.raises(ServiceError) as caught:
        await world.store().version_key("mine")
    assert caught.value.code == "InvalidCiphertextException"
    assert caught.value.message == (
        "KMS rejected the wrapped key: the item was changed, or logical_name='logical name' "
        "is not the name it was created with"
    )
    assert caught.value.__cause__ is not None
    assert world.items("mine") == before
    assert world.kms.calls[-1].operation == "ReEncrypt"


@pytest.mark.spec(f"{STORE}#createkey", f"{STORE}#versionkey")
@pytest.mark.parametrize("configuration", [KMSDiscovery(), KMSMRDiscovery(US)], ids=str)
async def test_discovery_writes_nothing(world: World, configuration: KMSConfiguration) -> None:
    await world.store().create_key("mine", CONTEXT)
    world.forget()
    store = world.store(configuration)
    message = f"with {type(configuration).__name__} is read-only; configure it with KMSKeyArn or KMSMRKeyArn"
    with pytest.raises(ProviderError, match=message):
        await store.create_key()
    with pytest.raises(ProviderError, match=message):
        await store.version_key("mine")
    assert (world.kms.calls, world.dynamodb.calls) == ([], [])
