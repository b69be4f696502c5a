"""Arguments of branch key stores, where their clients come from, and what is pickled and shown."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from aioencrypt import AWSConnection, ProviderClosedError, ServiceError
from aioencrypt.branch_keys import (
    BranchKeyStore,
    KMSConfiguration,
    KMSDiscovery,
    KMSKeyArn,
    KMSMRDiscovery,
    KMSMRKeyArn,
)
from aioencrypt.testing.kms import run_in_thread
from tests.support.aws import connected
from tests.support.branch_keys import CONTEXT, EU, LOGICAL, TABLE, US, World
from tests.support.kms import ID, MRK, arn
from tests.support.moto import moto_server
from tests.support.streaming import on_asyncio

pytestmark = pytest.mark.anyio

STORE = "framework/branch-key-store.md"
KEY, ALIAS = arn(f"key/{ID}"), arn("alias/mine")
SESSION = get_session()


def store(**options: Any) -> BranchKeyStore:
    options = {"kms_configuration": KMSKeyArn(KEY), "logical_name": LOGICAL, **options}
    return BranchKeyStore(options.pop("table_name", TABLE), **connected(options, "region"))


# KMS configurations


@pytest.mark.parametrize("kind", [KMSKeyArn, KMSMRKeyArn])
@pytest.mark.parametrize("value", [ALIAS, ID, "alias/mine", "", "arn:aws:kms:us-east-1::key/1", f"{KEY}:1"])
@pytest.mark.spec(f"{STORE}#aws-kms-configuration")
def test_a_key_is_named_by_its_key_arn(kind: Any, value: str) -> None:
    with pytest.raises(ValueError, match=f"is not the ARN of a KMS key; {kind.__name__} takes neither"):
        kind(value)


@pytest.mark.parametrize("kind", [KMSKeyArn, KMSMRKeyArn])
@pytest.mark.parametrize("key", [KEY, arn(f"key/{MRK}", region=EU)])
@pytest.mark.spec(f"{STORE}#aws-kms-configuration")
def test_either_takes_both_kinds_of_keys(kind: Any, key: str) -> None:
    configuration = kind(key)
    assert (configuration.arn, configuration.region) == (key, key.split(":")[3])
    assert configuration == pickle.loads(pickle.dumps(configuration))
    assert repr(configuration) == f"{kind.__name__}(arn={key!r})"


@pytest.mark.parametrize("kind", [KMSKeyArn, KMSMRKeyArn])
def test_an_arn_is_text(kind: Any) -> None:
    with pytest.raises(TypeError, match=f"the key ARN of {kind.__name__} must be a str, not bytes"):
        kind(KEY.encode())


@pytest.mark.parametrize("region", ["", None, 42])
@pytest.mark.spec(f"{STORE}#aws-kms-configuration")
def test_multi_region_discovery_needs_a_region(region: Any) -> None:
    with pytest.raises(ValueError, match="KMSMRDiscovery takes the name of a region, not"):
        KMSMRDiscovery(region)
    with pytest.raises(TypeError, match="region"):
        KMSMRDiscovery()  # type: ignore[call-arg]


def test_discovery_takes_nothing() -> None:
    assert KMSDiscovery() == KMSDiscovery()
    assert KMSDiscovery().region is None
    with pytest.raises(TypeError):
        KMSDiscovery(US)  # type: ignore[call-arg]


# Arguments


@pytest.mark.spec(f"{STORE}#initialization")
def test_name_configuration_and_logical_name_are_needed() -> None:
    make: Any = BranchKeyStore
    needed = {"table_name": TABLE, "kms_configuration": KMSDiscovery(), "logical_name": LOGICAL}
    for missing in needed:
        with pytest.raises(TypeError, match=f"missing 1 required .*'{missing}'"):
            make(**{name: value for name, value in needed.items() if name != missing})


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"kms_configuration": KEY},
            TypeError,
            "KMSKeyArn, KMSMRKeyArn, KMSDiscovery or KMSMRDiscovery, not str",
        ),
        ({"kms_configuration": KMSDiscovery}, TypeError, "not the class KMSDiscovery"),
        ({"logical_name": ""}, ValueError, "logical_name is empty"),
        ({"logical_name": None}, TypeError, "logical_name must be a str, not NoneType"),
        ({"store_id": ""}, ValueError, "store_id is empty"),
        ({"store_id": 1}, TypeError, "store_id must be a str, not int"),
        ({"table_name": 1}, TypeError, "table_name must be a str, not int"),
        ({"table_name": "ab"}, ValueError, "'ab' is not a table name of 3 to 255 letters"),
        ({"table_name": "x" * 256}, ValueError, "is not a table name"),
        ({"table_name": "a table"}, ValueError, "is not a table name"),
        ({"table_name": "table\n"}, ValueError, "is not a table name"),
        ({"table_name": KEY}, ValueError, "is not a table name"),
        ({"grant_tokens": "token"}, TypeError, "grant_tokens must be a collection of grant tokens"),
        ({"connection": {}}, TypeError, "connection must be an AWSConnection, not dict"),
    ],
)
def test_arguments_that_cannot_be(options: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        store(**options)


@pytest.mark.parametrize(
    "name", ["abc", "A-b_c.1", "x" * 255, f"arn:aws:dynamodb:{US}:111122223333:table/keys"]
)
def test_names_of_tables(name: str) -> None:
    assert store(table_name=name).key_store_info().table_name == name


@pytest.mark.parametrize("extra", [{"session": SESSION}, {"client_config": AioConfig()}])
def test_nothing_is_given_that_has_no_use(extra: Any) -> None:
    world = World.new()
    with pytest.raises(ValueError, match="have no effect if both services have ready clients"):
        world.store(**extra)
    # of use for the other one
    world.store(kms=None, **extra)
    world.store(dynamodb=None, **extra)


# Shown and pickled


def test_a_store_shows_its_names_only() -> None:
    shown = repr(store(grant_tokens=["token"], kms="http://user:secret@host"))
    assert shown == (
        f"BranchKeyStore({TABLE!r}, kms_configuration=KMSKeyArn(arn={KEY!r}), logical_name={LOGICAL!r})"
    )


@pytest.mark.parametrize(
    "configuration", [KMSKeyArn(KEY), KMSMRKeyArn(KEY), KMSDiscovery(), KMSMRDiscovery(EU)], ids=str
)
def test_a_store_is_pickled_as_its_configuration(configuration: KMSConfiguration) -> None:
    original = store(
        kms_configuration=configuration,
        store_id="the first",
        region=EU,
        grant_tokens=["token"],
        timeout=7,
        kms="http://127.0.0.1:1",
        dynamodb="http://127.0.0.1:2",
    )
    for copied in (pickle.loads(pickle.dumps(original)), copy.copy(original)):
        assert copied.key_store_info() == original.key_store_info()
        assert copied.__reduce__()[0].keywords == original.__reduce__()[0].keywords
        assert copied.__reduce__()[0].keywords["connection"] == AWSConnection(
            region=EU, timeout=7, kms="http://127.0.0.1:1", dynamodb="http://127.0.0.1:2"
        )


def test_a_store_with_clients_of_its_caller_is_not_pickled() -> None:
    world = World.new()
    for options in ({}, {"kms": None}, {"dynamodb": None}, {"kms": None, "session": SESSION}):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            pickle.dumps(world.store(**options))


# Clients that are given


async def test_given_clients_need_no_async_with_and_it_does_nothing() -> None:
    world = await World.new().with_table()
    outside = world.store()
    branch_key_id = await outside.create_key()
    async with outside as entered:
        assert entered is outside
        await entered.warm_up()
        await entered.active_branch_key(branch_key_id)
    await outside.active_branch_key(branch_key_id)
    await outside.aclose()


async def test_a_supplier_is_asked_for_the_region_of_the_key() -> None:
    world = await World.new().with_table()
    asked: list[str | None] = []

    async def supply(region: str | None) -> Any:
        asked.append(region)
        return world.kms.client(region or US)

    replica = world.store(KMSMRKeyArn(world.replica), kms=supply)
    await replica.create_key()
    assert set(asked) == {EU}
    asked.clear()
    (branch_key_id,) = {item["branch-key-id"]["S"] for item in world.dynamodb.items(TABLE)}
    await world.store(KMSMRDiscovery(US), kms=supply).beacon_key(branch_key_id)
    nowhere = world.store(KMSDiscovery(), kms=supply, region=None)
    with pytest.raises(ServiceError, match="NotFoundException"):
        await nowhere.beacon_key(branch_key_id)
    assert asked == [US, None]


# Clients that are made


class Session:
    """A session of aiobotocore that notes the clients it makes."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str | None]] = []

    def create_client(self, service: str, **options: Any) -> Any:
        self.made.append((service, options["region_name"]))
        return SESSION.create_client(service, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(SESSION, name)


@pytest.fixture(scope="module")
def dynamodb_url() -> Iterator[str]:
    with moto_server() as url:
        yield url


@on_asyncio
@pytest.mark.parametrize(
    ("configuration", "region", "kms_region", "table_region"),
    [
        (lambda world: KMSKeyArn(world.replica), None, EU, EU),
        (lambda world: KMSKeyArn(world.replica), US, EU, US),
        (lambda world: KMSMRKeyArn(world.replica), None, EU, EU),
        (lambda world: KMSMRDiscovery(EU), None, EU, EU),
        (lambda world: KMSMRDiscovery(EU), US, EU, US),
        (lambda world: KMSDiscovery(), None, None, None),
        (lambda world: KMSDiscovery(), EU, EU, EU),
    ],
)
@pytest.mark.spec(f"{STORE}#dynamodb-client", f"{STORE}#kms-client")
async def test_the_region_of_clients_that_are_made(
    configuration: Any, region: str | None, kms_region: str | None, table_region: str | None
) -> None:
    session = Session()
    world = World.new()
    made = store(kms_configuration=configuration(world), region=region, session=session)
    with pytest.raises(ProviderClosedError, match="open it with `async with`"):
        await made.active_branch_key("mine")
    assert session.made == []
    async with made:
        assert session.made == []
        await made.warm_up()
        assert session.made == [("kms", kms_region), ("dynamodb", table_region)]
    with pytest.raises(ProviderClosedError):
        await made.active_branch_key("mine")


@on_asyncio
@pytest.mark.spec(f"{STORE}#dynamodb-client", f"{STORE}#kms-client", f"{STORE}#operations")
async def test_a_store_that_makes_its_own_clients_does_everything(dynamodb_url: str) -> None:
    world = World.new()
    with run_in_thread(world.kms) as kms_url:
        made = store(
            kms_configuration=KMSKeyArn(world.key),
            kms=kms_url,
            dynamodb=dynamodb_url,
            client_config=AioConfig(retries={"max_attempts": 1}),
        )
        async with made, made:
            await made.create_key_store()
            await made.create_key("mine", CONTEXT)
            await made.version_key("mine")
            active = await made.active_branch_key("mine")
            assert await made.branch_key_version("mine", active.version) == active
            assert (await made.beacon_key("mine")).encryption_context == CONTEXT
            copied = pickle.loads(pickle.dumps(made))
        async with copied:
            assert await copied.active_branch_key("mine") == active


@on_asyncio
async def test_one_client_is_given_and_the_other_made(dynamodb_url: str) -> None:
    world = World.new()
    async with world.store(dynamodb=dynamodb_url, session=SESSION) as made:
        await made.create_key_store()
        branch_key_id = await made.create_key()
        with run_in_thread(world.kms) as kms_url:
            create = partial(SESSION.create_client, "dynamodb", region_name=US, endpoint_url=dynamodb_url)
            async with create() as client:
                other = world.store(session=SESSION, kms=kms_url, dynamodb={US: client})
                async with other:
                    ours = await other.active_branch_key(branch_key_id)
        assert ours == await made.active_branch_key(branch_key_id)


@on_asyncio
async def test_what_was_opened_is_closed_if_the_rest_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()
    made = store(session=session)
    _, tables = made._entered
    monkeypatch.setattr(tables, "enter", broken)
    with pytest.raises(ZeroDivisionError):
        await made.__aenter__()
    with pytest.raises(ProviderClosedError):
        await made.warm_up()
    assert session.made == []


async def broken() -> None:
    raise ZeroDivisionError
