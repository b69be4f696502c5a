"""Branch key stores: what is read, what the services are asked for, and what is returned."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from aioencrypt import ProviderError
from aioencrypt.branch_keys import BeaconKeyMaterials, BranchKeyMaterials, KeyStoreInfo, KMSKeyArn
from tests.support.branch_keys import (
    ACTIVE,
    BEACON,
    CONTEXT,
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


@pytest.mark.spec(f"{STORE}#getactivebranchkey", f"{STORE}#getbranchkeyversion")
@pytest.mark.spec(f"{STORE}#branch-key-materials-from-authenticated-encryption-context")
@pytest.mark.spec(f"{STORE}#custom-encryption-context-from-authenticated-encryption-context")
@pytest.mark.spec(f"{STRUCTURES}#branch-key-version", f"{STRUCTURES}#branch-key", f"{STRUCTURES}#structure-3")
async def test_the_active_version_and_the_old_ones(world: World) -> None:
    store = world.store()
    await store.create_key("mine", CONTEXT)
    first = await store.active_branch_key("mine")
    await store.version_key("mine")
    second = await store.active_branch_key("mine")
    assert isinstance(first, BranchKeyMaterials)
    assert first.branch_key_id == second.branch_key_id == "mine"
    assert first.encryption_context == second.encryption_context == CONTEXT
    assert len(first.key) == len(second.key) == 32
    assert first.key != second.key
    assert {first.version, second.version} == world.versions("mine")
    assert re.fullmatch(UUID, first.version)
    assert await store.branch_key_version("mine", first.version) == first
    assert await store.branch_key_version("mine", second.version) == second
    item = world.items("mine")[ACTIVE]
    opened = await world.kms.client(US).decrypt(
        CiphertextBlob=item["enc"]["B"], EncryptionContext=context_of(item)
    )
    assert second.key == opened["Plaintext"]


@pytest.mark.spec(f"{STORE}#getbeaconkey", f"{STRUCTURES}#structure-4")
async def test_the_beacon_key_stays_the_same(world: World) -> None:
    store = world.store()
    await store.create_key("mine", CONTEXT)
    beacon = await store.beacon_key("mine")
    assert isinstance(beacon, BeaconKeyMaterials)
    assert (beacon.beacon_key_id, beacon.encryption_context) == ("mine", CONTEXT)
    assert len(beacon.key) == 32
    assert beacon.key != (await store.active_branch_key("mine")).key
    await store.version_key("mine")
    assert await store.beacon_key("mine") == beacon


@pytest.mark.spec(f"{STORE}#aws-kms-branch-key-decryption", f"{STORE}#getactivebranchkey")
@pytest.mark.spec(f"{STORE}#getbranchkeyversion", f"{STORE}#getbeaconkey")
@pytest.mark.parametrize("which", ["active", "version", "beacon"])
async def test_what_a_read_asks_for(world: World, which: str) -> None:
    grant = world.kms.create_grant(world.key, "Decrypt")
    await world.store().create_key("mine", CONTEXT)
    (version,) = world.versions("mine")
    kms, dynamodb = WatchedClient(world.kms.client(US)), WatchedClient(world.dynamodb.client(US))
    store = world.store(kms={US: kms}, dynamodb={US: dynamodb}, grant_tokens=[grant])
    if which == "active":
        item_type = ACTIVE
        await store.active_branch_key("mine")
    elif which == "version":
        item_type = f"branch:version:{version}"
        await store.branch_key_version("mine", version)
    else:
        item_type = BEACON
        await store.beacon_key("mine")
    item = world.items("mine")[item_type]
    key = {"branch-key-id": {"S": "mine"}, "type": {"S": item_type}}
    assert dynamodb.calls == [("get_item", {"TableName": TABLE, "Key": key, "ConsistentRead": True})]
    assert kms.calls == [
        (
            "decrypt",
            {
                "KeyId": world.key,
                "CiphertextBlob": item["enc"]["B"],
                "EncryptionContext": context_of(item),
                "GrantTokens": [grant],
            },
        )
    ]


async def test_what_is_not_there_says_so(world: World) -> None:
    store = world.store()
    await store.create_key("mine", CONTEXT)
    world.forget()
    absent = "8cbc3bdc-5b4a-4c93-9d7e-0e5f0c3f1a11"
    with pytest.raises(ProviderError) as caught:
        await store.active_branch_key("yours")
    assert (
        str(caught.value) == "the table 'branch-keys' has no item 'branch:ACTIVE' for the branch key 'yours'"
    )
    with pytest.raises(
        ProviderError, match=f"has no item 'branch:version:{absent}' for the branch key 'mine'"
    ):
        await store.branch_key_version("mine", absent)
    with pytest.raises(ProviderError, match="has no item 'beacon:ACTIVE'"):
        await store.beacon_key("yours")
    with pytest.raises(ProviderError, match="has no item 'branch:ACTIVE'"):
        await store.version_key("yours")
    assert not world.kms.calls


@pytest.mark.parametrize("name", ["active_branch_key", "beacon_key", "version_key"])
async def test_ids_are_texts(world: World, name: str) -> None:
    operation = getattr(world.store(), name)
    with pytest.raises(TypeError, match="branch_key_id must be a str, not bytes"):
        await operation(b"mine")
    with pytest.raises(ValueError, match="branch_key_id is empty"):
        await operation("")
    assert not world.dynamodb.calls


@pytest.mark.parametrize(
    "version",
    [
        "",
        "latest",
        "branch:version:8cbc3bdc-5b4a-4c93-9d7e-0e5f0c3f1a11",
        "8CBC3BDC-5B4A-4C93-9D7E-0E5F0C3F1A11",
        "8cbc3bdc5b4a4c939d7e0e5f0c3f1a11",
        "8cbc3bdc-5b4a-1c93-9d7e-0e5f0c3f1a11",
    ],
)
async def test_versions_are_uuids_of_version_4(world: World, version: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{version!r} is not a branch key version")):
        await world.store().branch_key_version("mine", version)
    with pytest.raises(TypeError, match="version must be a str, not bytes"):
        await world.store().branch_key_version("mine", version.encode())  # type: ignore[arg-type]
    assert not world.dynamodb.calls


# Materials


async def test_materials_show_neither_keys_nor_values_and_are_not_copied(world: World) -> None:
    store = world.store()
    await store.create_key("mine", CONTEXT)
    for materials in (await store.active_branch_key("mine"), await store.beacon_key("mine")):
        assert repr(materials).endswith("encryption_context=<2 pairs>)")
        with pytest.raises(TypeError, match="holds key bytes and cannot be pickled or copied"):
            pickle.dumps(materials)
        with pytest.raises(TypeError, match="holds key bytes and cannot be pickled or copied"):
            copy.copy(materials)
        with pytest.raises(TypeError):
            materials.encryption_context["tenant"] = "43"  # type: ignore[index]


@pytest.mark.spec(f"{STORE}#getkeystoreinfo", f"{STORE}#keystore-id")
async def test_the_store_tells_how_it_is_configured(world: World) -> None:
    named = world.store(store_id="the first", grant_tokens=("token",))
    info = KeyStoreInfo("the first", TABLE, LOGICAL, ("token",), KMSKeyArn(world.key))
    assert named.key_store_info() == info
    assert named.logical_name == LOGICAL
    assert "token" not in repr(info)
    drawn = [world.store().key_store_info().store_id for _ in range(2)]
    assert drawn[0] != drawn[1]
    assert all(re.fullmatch(UUID, store_id) for store_id in drawn)
