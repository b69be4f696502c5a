"""Items of a branch key store that are not what they should be: refused before KMS is called."""

from __future__ import annotations

import re
from typing import Any

import pytest

from aioencrypt import ProviderError, ServiceError
from aioencrypt.branch_keys import (
    BranchKeyStore,
    KMSConfiguration,
    KMSDiscovery,
    KMSKeyArn,
    KMSMRDiscovery,
    KMSMRKeyArn,
)
from tests.support.branch_keys import ACTIVE, BEACON, CONTEXT, EU, TABLE, US, WatchedClient, World
from tests.support.streaming import on_asyncio

pytestmark = [pytest.mark.anyio, on_asyncio]

STORE = "framework/branch-key-store.md"
OTHER = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
VERSION = "8cbc3bdc-5b4a-4c93-9d7e-0e5f0c3f1a11"


@pytest.fixture
async def world() -> World:
    world = await World.new().with_table()
    await world.store().create_key("mine", CONTEXT)
    world.forget()
    return world


async def read(store: BranchKeyStore, world: World, item_type: str) -> Any:
    """Read an item of the branch key by its type; `"branch:version"` is the one version."""
    if item_type == ACTIVE:
        return await store.active_branch_key("mine")
    if item_type == BEACON:
        return await store.beacon_key("mine")
    (version,) = world.versions("mine")
    return await store.branch_key_version("mine", version)


def type_in_table(world: World, item_type: str) -> str:
    (version,) = world.versions("mine")
    return f"branch:version:{version}" if item_type == "branch:version" else item_type


TYPES = pytest.mark.parametrize("item_type", [ACTIVE, "branch:version", BEACON])

BROKEN = [
    ({"enc": None}, "has no 'enc' of 1 to 6144 bytes"),
    ({"enc": {"S": "text"}}, "has no 'enc' of 1 to 6144 bytes"),
    ({"enc": {"B": b""}}, "has no 'enc' of 1 to 6144 bytes"),
    ({"enc": {"B": bytes(6145)}}, "has no 'enc' of 1 to 6144 bytes"),
    ({"create_time": None}, "has no 'create-time'"),
    ({"create_time": {"S": ""}}, "has no 'create-time'"),
    ({"create_time": {"N": "1"}}, "has an attribute 'create-time' that no branch key store writes"),
    ({"kms_arn": None}, "has no 'kms-arn'"),
    ({"kms_arn": {"B": b"arn"}}, "has an attribute 'kms-arn' that no branch key store writes"),
    ({"kms_arn": {"S": "nonsense"}}, "names 'nonsense', which is not the ARN of a KMS key"),
    (
        {"kms_arn": {"S": "arn:aws:kms:us-east-1:111122223333:alias/mine"}},
        "names 'arn:aws:kms:us-east-1:111122223333:alias/mine', which is not the ARN of a KMS key",
    ),
    (
        {"kms_arn": {"S": f"arn:aws:kms:us-east-1:111122223333:key/{'0' * 2010}"}},
        f"names 'arn:aws:kms:us-east-1:111122223333:key/{'0' * 161}', which is not the ARN of a KMS key",
    ),
    ({"hierarchy_version": None}, "has no 'hierarchy-version'"),
    (
        {"hierarchy_version": {"S": "1"}},
        "has an attribute 'hierarchy-version' that no branch key store writes",
    ),
    ({"hierarchy_version": {"N": "2"}}, "has the hierarchy-version 2; only 1 is supported"),
    ({"tablename": {"S": "logical name"}}, "has an attribute 'tablename' that no branch key store writes"),
    ({"expires": {"N": "1790000000"}}, "has an attribute 'expires' that no branch key store writes"),
    ({"aws_crypto_ec:tenant": {"N": "42"}}, "has an attribute 'aws-crypto-ec:tenant' that no"),
]


@TYPES
@pytest.mark.spec(f"{STORE}#record-format", f"{STORE}#encryption-context")
@pytest.mark.spec(f"{STORE}#aws-kms-branch-key-decryption", f"{STORE}#aws-key-arn-compatibility")
@pytest.mark.spec(f"{STORE}#getactivebranchkey", f"{STORE}#getbranchkeyversion", f"{STORE}#getbeaconkey")
@pytest.mark.parametrize(("changes", "message"), BROKEN)
async def test_a_broken_item_is_refused_before_kms_is_called(
    world: World, item_type: str, changes: Any, message: str
) -> None:
    stored = type_in_table(world, item_type)
    await world.change("mine", stored, **changes)
    with pytest.raises(ProviderError) as caught:
        await read(world.store(), world, item_type)
    assert str(caught.value).startswith(f"the item {stored!r} of the branch key 'mine' {message}")
    assert not world.kms.calls
    with pytest.raises(ProviderError, match=re.escape(message)):
        await read(world.store(KMSDiscovery()), world, item_type)
    assert not world.kms.calls


@pytest.mark.parametrize(
    ("item_type", "version", "message"),
    [
        (ACTIVE, None, "has no 'version'"),
        (ACTIVE, {"S": ""}, "has a version that is not 'branch:version:' and a version 4 UUID"),
        (ACTIVE, {"S": VERSION}, "has a version that is not 'branch:version:' and a version 4 UUID"),
        (ACTIVE, {"S": "branch:version:"}, "has a version that is not"),
        (ACTIVE, {"S": "branch:version:latest"}, "has a version that is not"),
        (ACTIVE, {"S": f"branch:version:{VERSION.upper()}"}, "has a version that is not"),
        (ACTIVE, {"S": "branch:version:8cbc3bdc-5b4a-1c93-9d7e-0e5f0c3f1a11"}, "has a version that is not"),
        (ACTIVE, {"S": f"beacon:version:{VERSION}"}, "has a version that is not"),
        ("branch:version", {"S": f"branch:version:{VERSION}"}, "has a 'version'"),
        (BEACON, {"S": f"branch:version:{VERSION}"}, "has a 'version'"),
    ],
)
@pytest.mark.spec(f"{STORE}#branch-key-materials-from-authenticated-encryption-context")
@pytest.mark.spec(f"{STORE}#active-encryption-context", f"{STORE}#decrypt_only-encryption-context")
@pytest.mark.spec(f"{STORE}#beacon-key-encryption-context", "framework/structures.md#branch-key-version")
async def test_versions_stand_in_active_items_only_and_are_uuids(
    world: World, item_type: str, version: Any, message: str
) -> None:
    await world.change("mine", type_in_table(world, item_type), version=version)
    with pytest.raises(ProviderError, match=f"of the branch key 'mine' {message}"):
        await read(world.store(), world, item_type)
    assert not world.kms.calls


@TYPES
@pytest.mark.parametrize("name", ["branch-key-id", "type"])
@pytest.mark.parametrize("value", [None, {"S": ""}, {"S": "another"}, {"N": "1"}])
@pytest.mark.spec(f"{STORE}#encryption-context")
async def test_an_answer_with_another_key_than_was_asked_for(
    world: World, item_type: str, name: str, value: Any
) -> None:
    item = {**world.items("mine")[type_in_table(world, item_type)], name: value}
    world.dynamodb.answer_next("GetItem", {"Item": {key: text for key, text in item.items() if text}})
    message = {
        "None": f"has no {name!r}",
        "{'S': ''}": f"has no {name!r}",
        "{'S': 'another'}": "the table returned a different item than the item",
    }.get(str(value), f"has an attribute {name!r} that no branch key store writes")
    with pytest.raises(ProviderError, match=message):
        await read(world.store(), world, item_type)
    assert not world.kms.calls


@pytest.mark.parametrize("item", ["text", [], {"enc": None}, {"enc": "B"}])
async def test_an_item_that_is_none(world: World, item: Any) -> None:
    world.dynamodb.answer_next("GetItem", {"Item": item})
    with pytest.raises(ProviderError):
        await world.store().active_branch_key("mine")
    assert not world.kms.calls


# Authenticated by KMS


@TYPES
@pytest.mark.spec(f"{STORE}#aws-kms-branch-key-decryption", f"{STORE}#encryption-context")
@pytest.mark.spec(f"{STORE}#getactivebranchkey", f"{STORE}#getbranchkeyversion", f"{STORE}#getbeaconkey")
@pytest.mark.parametrize(
    "changes",
    [
        {"aws_crypto_ec:tenant": {"S": "43"}},
        {"aws_crypto_ec:tenant": None},
        {"aws_crypto_ec:role": {"S": "admin"}},
        {"create_time": {"S": "2023-06-03T19:03:29.358123Z"}},
        {"enc": {"B": b"something else"}},
        {"note": {"S": "anything"}},
    ],
    ids=str,
)
async def test_every_attribute_is_authenticated(world: World, item_type: str, changes: Any) -> None:
    await world.change("mine", type_in_table(world, item_type), **changes)
    with pytest.raises(ServiceError) as caught:
        await read(world.store(), world, item_type)
    assert caught.value.code == "InvalidCiphertextException"
    assert "the item was changed, or logical_name='logical name' is not the name" in str(caught.value)
    assert caught.value.request_id
    assert not caught.value.retryable


@pytest.mark.spec(f"{STORE}#logical-keystore-name")
async def test_the_logical_name_is_bound_to_every_key(world: World) -> None:
    other = world.store(logical_name="another")
    for operation in (other.active_branch_key, other.beacon_key, other.version_key):
        with pytest.raises(ServiceError, match="logical_name='another' is not the name"):
            await operation("mine")
    assert len(world.versions("mine")) == 1


async def test_items_do_not_stand_for_each_other(world: World) -> None:
    items = world.items("mine")
    version = type_in_table(world, "branch:version")
    for left, right in [(ACTIVE, BEACON), (ACTIVE, version), (version, BEACON)]:
        await world.change("mine", left, enc=items[right]["enc"])
        with pytest.raises(ServiceError, match="InvalidCiphertextException"):
            await read(world.store(), world, "branch:version" if left == version else left)


@TYPES
@pytest.mark.parametrize("length", [1, 31, 33, 64])
@pytest.mark.spec("framework/structures.md#branch-key")
async def test_a_key_of_another_length(world: World, item_type: str, length: int) -> None:
    world.kms.answer_next("Decrypt", {"Plaintext": bytes(length)})
    with pytest.raises(ProviderError, match=f"the key of the item has {length} bytes, not 32"):
        await read(world.store(), world, item_type)


# Which KMS key


def key_in_table(world: World, which: str) -> str:
    return {"key": world.key, "primary": world.primary, "replica": world.replica}[which]


CONFIGURATIONS = {
    "KMSKeyArn": KMSKeyArn,
    "KMSMRKeyArn": KMSMRKeyArn,
}


@pytest.mark.parametrize("kind", CONFIGURATIONS)
@pytest.mark.parametrize("configured", ["key", "primary", "replica"])
@pytest.mark.parametrize("stored", ["key", "primary", "replica"])
@pytest.mark.spec(f"{STORE}#aws-key-arn-compatibility", f"{STORE}#aws-kms-configuration")
@pytest.mark.spec(f"{STORE}#aws-kms-branch-key-decryption", f"{STORE}#versionkey")
async def test_which_keys_go_together(world: World, kind: str, configured: str, stored: str) -> None:
    await world.store(KMSKeyArn(key_in_table(world, stored))).create_key("other", CONTEXT)
    world.forget()
    ours = key_in_table(world, configured)
    store = world.store(CONFIGURATIONS[kind](ours))
    related = {"primary", "replica"}
    if stored == configured or (kind == "KMSMRKeyArn" and {stored, configured} <= related):
        await store.active_branch_key("other")
        await store.version_key("other")
        assert {call.key_id for call in world.kms.calls} == {ours}
        return
    message = (
        f"the item is wrapped under the KMS key '{key_in_table(world, stored)}', "
        f"but the store is configured for '{ours}'"
    )
    for operation in (store.active_branch_key, store.beacon_key, store.version_key):
        with pytest.raises(ProviderError, match=re.escape(message)):
            await operation("other")
    assert not world.kms.calls


@pytest.mark.parametrize(
    ("configuration", "stored", "called"),
    [
        (KMSDiscovery(), "key", (US, "key")),
        (KMSDiscovery(), "primary", (US, "primary")),
        (KMSMRDiscovery(US), "key", (US, "key")),
        (KMSMRDiscovery(US), "replica", (US, "primary")),
        (KMSMRDiscovery(EU), "primary", (EU, "replica")),
        (KMSMRDiscovery(EU), "replica", (EU, "replica")),
    ],
    ids=str,
)
@pytest.mark.spec(f"{STORE}#aws-kms-branch-key-decryption", f"{STORE}#aws-kms-configuration")
async def test_discovery_calls_what_the_item_names(
    world: World, configuration: KMSConfiguration, stored: str, called: tuple[str, str]
) -> None:
    writer = world.store(KMSKeyArn(key_in_table(world, stored)))
    await writer.create_key("other", CONTEXT)
    world.forget()
    materials = await world.store(configuration).active_branch_key("other")
    (call,) = world.kms.calls
    region, key = called
    assert (call.operation, call.region, call.key_id) == ("Decrypt", region, key_in_table(world, key))
    assert call.encryption_context["kms-arn"] == key_in_table(world, stored)
    assert materials == await writer.active_branch_key("other")


@pytest.mark.parametrize(
    ("configuration", "stored"), [(KMSDiscovery(), "replica"), (KMSMRDiscovery(EU), "key")], ids=str
)
async def test_discovery_does_not_follow_a_key_into_another_region(
    world: World, configuration: KMSConfiguration, stored: str
) -> None:
    await world.store(KMSKeyArn(key_in_table(world, stored))).create_key("other", CONTEXT)
    world.forget()
    with pytest.raises(ServiceError) as caught:
        await world.store(configuration).active_branch_key("other")
    assert caught.value.code == "NotFoundException"
    (call,) = world.kms.calls
    assert (call.region, call.key_id) == (configuration.region or US, key_in_table(world, stored))


# Answers of KMS that do not fit


@pytest.mark.parametrize(
    ("operation", "answer", "message"),
    [
        ("GenerateDataKeyWithoutPlaintext", {"CiphertextBlob": None}, "has no CiphertextBlob"),
        ("GenerateDataKeyWithoutPlaintext", {"CiphertextBlob": b""}, "has no CiphertextBlob"),
        ("GenerateDataKeyWithoutPlaintext", {"KeyId": None}, "has no KeyId"),
        ("GenerateDataKeyWithoutPlaintext", {"KeyId": OTHER}, f"answered with the KeyId '{OTHER}', not '"),
        ("ReEncrypt", {"CiphertextBlob": None}, "has no CiphertextBlob"),
        ("ReEncrypt", {"KeyId": OTHER}, f"answered with the KeyId '{OTHER}', not '"),
        ("ReEncrypt", {"SourceKeyId": None}, "has no SourceKeyId"),
        ("ReEncrypt", {"SourceKeyId": OTHER}, f"answered with the SourceKeyId '{OTHER}', not '"),
    ],
)
@pytest.mark.spec(f"{STORE}#wrapped-branch-key-creation", f"{STORE}#branch-key-and-beacon-key-creation")
async def test_nothing_is_written_after_an_answer_that_does_not_fit(
    world: World, operation: str, answer: Any, message: str
) -> None:
    before = world.dynamodb.items(TABLE)
    store = world.store()
    for call in (store.create_key, lambda: store.version_key("mine")):
        world.kms.answer_next(operation, answer)
        with pytest.raises(ProviderError, match=message):
            await call()
        assert world.dynamodb.items(TABLE) == before
    assert world.dynamodb.call_count("TransactWriteItems") == 0


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"Plaintext": None}, "has no Plaintext"),
        ({"KeyId": None}, "has no KeyId"),
        ({"KeyId": OTHER}, f"answered with the KeyId '{OTHER}', not '"),
    ],
)
async def test_no_key_comes_from_an_answer_that_does_not_fit(world: World, answer: Any, message: str) -> None:
    world.kms.answer_next("Decrypt", answer)
    with pytest.raises(ProviderError, match=message):
        await world.store().active_branch_key("mine")


@pytest.mark.parametrize("answer", [None, [], "text"], ids=str)
async def test_answers_that_are_none(world: World, answer: Any) -> None:
    async def instead(operation: str, parameters: Any, call: Any) -> Any:
        return answer

    store = world.store(dynamodb={US: WatchedClient(world.dynamodb.client(US), instead)})
    with pytest.raises(ProviderError, match=r"asked for GetItem, returned \w+, not Mapping"):
        await store.active_branch_key("mine")
    with pytest.raises(ProviderError, match=r"asked for DescribeTable, returned \w+, not Mapping"):
        await store.create_key_store()
