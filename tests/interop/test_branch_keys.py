"""Branch key stores: MPL over boto3 and ours over aiobotocore, on one table of moto, under one KMS."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import attrs
import boto3
import pytest
from aiobotocore.session import get_session
from aws_cryptographic_material_providers.keystore import models as mpl
from aws_cryptographic_material_providers.keystore.client import KeyStore
from aws_cryptographic_material_providers.keystore.config import KeyStoreConfig
from aws_cryptographic_material_providers.keystore.errors import ServiceError as MPLError

from aioencrypt import AWSConnection, ProviderError, ServiceError
from aioencrypt.branch_keys import (
    BranchKeyStore,
    KMSConfiguration,
    KMSDiscovery,
    KMSKeyArn,
    KMSMRDiscovery,
    KMSMRKeyArn,
)
from aioencrypt.testing import InMemoryKMS
from aioencrypt.testing.kms import run_in_thread
from tests.support.moto import moto_server
from tests.support.official_kms import OfficialKMS
from tests.support.streaming import on_asyncio

pytestmark = [pytest.mark.anyio, on_asyncio]

US, EU = "us-east-1", "eu-west-1"
TABLE, LOGICAL = "key-store", "the keys of all"
CONTEXT = {"tenant": "42", "größe": "ß"}
# Holds no more than the data files of botocore, which take a while to read.
SESSION = get_session()


def _official(configuration: KMSConfiguration) -> Any:
    match configuration:
        case KMSKeyArn(arn):
            return mpl.KMSConfigurationKmsKeyArn(arn)
        case KMSMRKeyArn(arn):
            return mpl.KMSConfigurationKmsMRKeyArn(arn)
        case KMSMRDiscovery(region):
            return mpl.KMSConfigurationMrDiscovery(mpl.MRDiscovery(region=region))
    return mpl.KMSConfigurationDiscovery(mpl.Discovery())


@attrs.frozen
class Services:
    """KMS and DynamoDB over HTTP, two keys, and both kinds of stores on one table."""

    kms_url: str
    dynamodb_url: str
    official_kms: OfficialKMS
    boto: Any
    key: str
    primary: str
    replica: str

    def ours(self, configuration: KMSConfiguration, logical_name: str = LOGICAL) -> BranchKeyStore:
        return BranchKeyStore(
            TABLE,
            kms_configuration=configuration,
            logical_name=logical_name,
            connection=AWSConnection(
                session=SESSION, kms=self.kms_url, dynamodb=self.dynamodb_url, region=US
            ),
        )

    def theirs(self, configuration: KMSConfiguration, logical_name: str = LOGICAL) -> Any:
        return KeyStore(
            KeyStoreConfig(
                ddb_table_name=TABLE,
                kms_configuration=_official(configuration),
                logical_key_store_name=logical_name,
                ddb_client=self.boto,
                kms_client=self.official_kms.client(configuration.region or US),
            )
        )

    def items(self, branch_key_id: str) -> list[dict[str, Any]]:
        """Return the items of a branch key as they stand in the table."""
        answer = self.boto.query(
            TableName=TABLE,
            KeyConditionExpression="#id = :id",
            ExpressionAttributeNames={"#id": "branch-key-id"},
            ExpressionAttributeValues={":id": {"S": branch_key_id}},
        )
        found: list[dict[str, Any]] = answer["Items"]
        return found


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    kms = InMemoryKMS()
    primary = kms.create_key(region=US, multi_region=True)
    with run_in_thread(kms) as kms_url, moto_server() as dynamodb_url:
        official = OfficialKMS(kms_url, "111122223333")
        boto = boto3.client("dynamodb", region_name=US, endpoint_url=dynamodb_url)
        yield Services(
            kms_url, dynamodb_url, official, boto, kms.create_key(), primary, kms.replicate_key(primary, EU)
        )
        boto.close()
        official.close()


@pytest.fixture
def table(services: Services) -> Iterator[Services]:
    """Give the services with an empty table, made by MPL."""
    services.theirs(KMSKeyArn(services.key)).create_key_store(mpl.CreateKeyStoreInput())
    yield services
    services.boto.delete_table(TableName=TABLE)


Configure = Any
CONFIGURATIONS = [
    pytest.param(lambda services: KMSKeyArn(services.primary), id="KMSKeyArn"),
    pytest.param(lambda services: KMSMRKeyArn(services.primary), id="KMSMRKeyArn"),
    pytest.param(lambda services: KMSMRKeyArn(services.replica), id="KMSMRKeyArn-replica"),
    pytest.param(lambda services: KMSDiscovery(), id="KMSDiscovery"),
    pytest.param(lambda services: KMSMRDiscovery(US), id="KMSMRDiscovery"),
    pytest.param(lambda services: KMSMRDiscovery(EU), id="KMSMRDiscovery-replica"),
]


def read_by_mpl(
    store: Any, branch_key_id: str, version: str | None = None
) -> tuple[str, bytes, dict[str, str]]:
    """Return version, key and context, of the active version unless one is named."""
    if version is None:
        answer = store.get_active_branch_key(mpl.GetActiveBranchKeyInput(branch_key_identifier=branch_key_id))
    else:
        answer = store.get_branch_key_version(
            mpl.GetBranchKeyVersionInput(branch_key_identifier=branch_key_id, branch_key_version=version)
        )
    materials = answer.branch_key_materials
    assert materials.branch_key_identifier == branch_key_id
    return materials.branch_key_version, bytes(materials.branch_key), materials.encryption_context


async def read_by_us(
    store: BranchKeyStore, branch_key_id: str, version: str | None = None
) -> tuple[str, bytes, dict[str, str]]:
    """Return version, key and context, of the active version unless one is named."""
    if version is None:
        materials = await store.active_branch_key(branch_key_id)
    else:
        materials = await store.branch_key_version(branch_key_id, version)
    assert materials.branch_key_id == branch_key_id
    return materials.version, materials.key, dict(materials.encryption_context)


def beacon_by_mpl(store: Any, branch_key_id: str) -> tuple[bytes, dict[str, str]]:
    answer = store.get_beacon_key(mpl.GetBeaconKeyInput(branch_key_identifier=branch_key_id))
    materials = answer.beacon_key_materials
    assert materials.beacon_key_identifier == branch_key_id
    return bytes(materials.beacon_key), materials.encryption_context


async def compare(
    services: Services, configuration: KMSConfiguration, branch_key_id: str, versions: int
) -> None:
    """Read everything of a branch key by both, and expect the same."""
    theirs = services.theirs(configuration)
    async with services.ours(configuration) as ours:
        active = await read_by_us(ours, branch_key_id)
        assert active == read_by_mpl(theirs, branch_key_id)
        assert active[2] == CONTEXT
        types = [item["type"]["S"] for item in services.items(branch_key_id)]
        stored = [
            text.removeprefix("branch:version:") for text in types if text.startswith("branch:version:")
        ]
        assert len(stored) == versions
        assert active[0] in stored
        keys = set()
        for version in stored:
            found = await read_by_us(ours, branch_key_id, version)
            assert found == read_by_mpl(theirs, branch_key_id, version)
            assert found[0] == version
            keys.add(found[1])
            assert (found == active) is (version == active[0])
        assert len(keys) == versions
        beacon = await ours.beacon_key(branch_key_id)
        assert (beacon.key, beacon.encryption_context) == beacon_by_mpl(theirs, branch_key_id)
        assert beacon.key not in keys


@pytest.mark.parametrize("configure", CONFIGURATIONS)
async def test_mpl_writes_and_we_read(table: Services, configure: Configure) -> None:
    writer = table.theirs(KMSKeyArn(table.primary))
    created = writer.create_key(
        mpl.CreateKeyInput(branch_key_identifier="von MPL", encryption_context=CONTEXT)
    )
    assert created.branch_key_identifier == "von MPL"
    writer.version_key(mpl.VersionKeyInput(branch_key_identifier="von MPL"))
    await compare(table, configure(table), "von MPL", versions=2)


@pytest.mark.parametrize("configure", CONFIGURATIONS)
async def test_we_write_and_mpl_reads(table: Services, configure: Configure) -> None:
    async with table.ours(KMSKeyArn(table.primary)) as writer:
        assert await writer.create_key("von uns", CONTEXT) == "von uns"
        await writer.version_key("von uns")
    await compare(table, configure(table), "von uns", versions=2)


@pytest.mark.parametrize("first", ["ours", "theirs"])
async def test_either_makes_new_versions_of_what_the_other_created(table: Services, first: str) -> None:
    theirs = table.theirs(KMSMRKeyArn(table.replica))
    asked = mpl.VersionKeyInput(branch_key_identifier="shared")
    async with table.ours(KMSMRKeyArn(table.replica)) as ours:
        if first == "ours":
            async with table.ours(KMSKeyArn(table.primary)) as writer:
                await writer.create_key("shared", CONTEXT)
            theirs.version_key(asked)
            await ours.version_key("shared")
        else:
            table.theirs(KMSKeyArn(table.primary)).create_key(
                mpl.CreateKeyInput(branch_key_identifier="shared", encryption_context=CONTEXT)
            )
            await ours.version_key("shared")
            theirs.version_key(asked)
    # The key of the store is a replica, that of the items stays the one they were created under.
    assert {item["kms-arn"]["S"] for item in table.items("shared")} == {table.primary}
    await compare(table, KMSKeyArn(table.primary), "shared", versions=3)


UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


def shape(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return items without what differs each time, in place of which stands what it is."""
    shaped = []
    for item in items:
        entry: dict[str, Any] = {}
        for name, value in item.items():
            ((kind, content),) = value.items()
            text = "" if kind == "B" else re.sub(TIME, "<time>", re.sub(UUID, "<uuid>", content))
            entry[name] = {kind: text or len(content)}
        shaped.append(entry)
    return sorted(shaped, key=lambda entry: str(entry["type"]))


@pytest.mark.spec("framework/branch-key-store.md#writing-branch-key-and-beacon-key-to-keystore")
@pytest.mark.spec("framework/branch-key-store.md#record-format")
async def test_the_items_are_the_same(table: Services) -> None:
    theirs = table.theirs(KMSKeyArn(table.key))
    context = {"größe": "ß", "": "no name", "tenant": "42"}
    async with table.ours(KMSKeyArn(table.key)) as ours:
        drawn = await ours.create_key(encryption_context=context)
        await ours.version_key(drawn)
    also_drawn = theirs.create_key(mpl.CreateKeyInput(encryption_context=context)).branch_key_identifier
    theirs.version_key(mpl.VersionKeyInput(branch_key_identifier=also_drawn))
    assert shape(table.items(drawn)) == shape(table.items(also_drawn))
    active, *_ = [item for item in table.items(drawn) if item["type"]["S"] == "branch:ACTIVE"]
    assert shape([active]) == [
        {
            "branch-key-id": {"S": "<uuid>"},
            "type": {"S": "branch:ACTIVE"},
            "version": {"S": "branch:version:<uuid>"},
            "create-time": {"S": "<time>"},
            "hierarchy-version": {"N": "1"},
            "kms-arn": {"S": table.key.replace(table.key.rpartition("/")[2], "<uuid>")},
            "aws-crypto-ec:größe": {"S": "ß"},
            "aws-crypto-ec:": {"S": "no name"},
            "aws-crypto-ec:tenant": {"S": "42"},
            "enc": {"B": len(active["enc"]["B"])},
        }
    ]


@pytest.mark.spec("framework/branch-key-store.md#keyschema")
@pytest.mark.spec("framework/branch-key-store.md#createkeystore")
async def test_the_tables_are_the_same(services: Services) -> None:
    def table() -> dict[str, Any]:
        described = services.boto.describe_table(TableName=TABLE)["Table"]
        names = ("KeySchema", "AttributeDefinitions", "BillingModeSummary", "TableArn", "TableStatus")
        return {name: described[name] for name in names}

    theirs = services.theirs(KMSKeyArn(services.key))
    async with services.ours(KMSKeyArn(services.key)) as ours:
        arn = await ours.create_key_store()
        made_by_us = table()
        # either takes the other's table for its own
        assert theirs.create_key_store(mpl.CreateKeyStoreInput()).table_arn == arn
        services.boto.delete_table(TableName=TABLE)
        assert theirs.create_key_store(mpl.CreateKeyStoreInput()).table_arn == arn
        assert table() == made_by_us
        assert await ours.create_key_store() == arn
    services.boto.delete_table(TableName=TABLE)


async def test_another_logical_name_is_another_store_to_both(table: Services) -> None:
    async with table.ours(KMSKeyArn(table.key)) as ours, table.ours(KMSKeyArn(table.key), "other") as other:
        branch_key_id = await ours.create_key()
        with pytest.raises(ServiceError, match="logical_name='other'") as caught:
            await other.active_branch_key(branch_key_id)
        assert caught.value.code == "InvalidCiphertextException"
        with pytest.raises(MPLError):
            read_by_mpl(table.theirs(KMSKeyArn(table.key), "other"), branch_key_id)


async def test_another_key_is_refused_by_both(table: Services) -> None:
    async with table.ours(KMSKeyArn(table.primary)) as ours:
        branch_key_id = await ours.create_key()
    for other in (KMSKeyArn(table.key), KMSKeyArn(table.replica), KMSMRKeyArn(table.key)):
        async with table.ours(other) as ours:
            with pytest.raises(ProviderError, match="the store is configured for"):
                await ours.active_branch_key(branch_key_id)
        with pytest.raises(MPLError):
            read_by_mpl(table.theirs(other), branch_key_id)


async def test_what_dynamodb_itself_says(table: Services) -> None:
    """Conditions, transactions and errors by botocore's own shapes."""
    async with table.ours(KMSKeyArn(table.key)) as ours:
        await ours.create_key("one", {"a": "b"})
        before = table.items("one")
        with pytest.raises(ServiceError, match="the branch key 'one' already exists") as caught:
            await ours.create_key("one", {"a": "c"})
        assert (caught.value.code, caught.value.retryable) == ("TransactionCanceledException", False)
        assert table.items("one") == before
        with pytest.raises(ProviderError, match="has no item 'branch:ACTIVE' for the branch key 'two'"):
            await ours.active_branch_key("two")


class _Between:
    """A DynamoDB client that lets something happen before a transaction."""

    def __init__(self, client: Any, happen: Any) -> None:
        self._client = client
        self._happen = happen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def transact_write_items(self, **parameters: Any) -> Any:
        self._happen()
        return await self._client.transact_write_items(**parameters)


async def test_mpl_makes_a_version_in_between(table: Services) -> None:
    """MPL 1.11 has no lock and overwrites; ours tells, by botocore's own cancellation reasons."""
    theirs = table.theirs(KMSKeyArn(table.key))
    theirs.create_key(mpl.CreateKeyInput(branch_key_identifier="shared", encryption_context=CONTEXT))

    def version() -> None:
        theirs.version_key(mpl.VersionKeyInput(branch_key_identifier="shared"))

    async with SESSION.create_client("dynamodb", region_name=US, endpoint_url=table.dynamodb_url) as client:
        ours = BranchKeyStore(
            TABLE,
            kms_configuration=KMSKeyArn(table.key),
            logical_name=LOGICAL,
            connection=AWSConnection(
                session=SESSION, kms=table.kms_url, dynamodb={US: _Between(client, version)}
            ),
        )
        async with ours:
            with pytest.raises(ServiceError, match="another program added a version") as caught:
                await ours.version_key("shared")
    assert (caught.value.code, caught.value.retryable) == ("TransactionCanceledException", True)
    await compare(table, KMSKeyArn(table.key), "shared", versions=2)


async def test_a_table_that_is_not_there(services: Services) -> None:
    async with services.ours(KMSKeyArn(services.key)) as ours:
        with pytest.raises(ServiceError, match="or call create_key_store") as caught:
            await ours.active_branch_key("one")
    assert (caught.value.code, caught.value.retryable) == ("ResourceNotFoundException", False)


@pytest.mark.spec("framework/branch-key-store.md#keyschema")
async def test_a_table_of_another_kind(services: Services) -> None:
    services.boto.create_table(
        TableName=TABLE,
        KeySchema=[{"AttributeName": "branch-key-id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "branch-key-id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    try:
        async with services.ours(KMSKeyArn(services.key)) as ours:
            with pytest.raises(ProviderError, match="is not a branch key store"):
                await ours.create_key_store()
        with pytest.raises(MPLError):
            services.theirs(KMSKeyArn(services.key)).create_key_store(mpl.CreateKeyStoreInput())
    finally:
        services.boto.delete_table(TableName=TABLE)
