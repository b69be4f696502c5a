"""Clients of callers that cannot work are refused before they are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio
import botocore.session
import pytest

from aioencrypt import AWSConnection, KMSMasterKeyProvider, ProviderError, ServiceError, encrypt
from aioencrypt.aws import KMSClientFactory
from aioencrypt.branch_keys import BranchKeyStore, HierarchicalMasterKey, KMSKeyArn
from aioencrypt.testing import InMemoryDynamoDB, InMemoryKMS
from tests.support.kms import US
from tests.support.streaming import on_asyncio

pytestmark = pytest.mark.anyio

BLOCKING = (
    "this is a boto3 client, which blocks the event loop: give an aiobotocore client, "
    "or leave it out to have one created"
)


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


def blocking_client(service: str = "kms") -> Any:
    """Return a client that nothing has been asked of: a call would go to AWS."""
    session = botocore.session.get_session()
    client = session.create_client(
        service, region_name=US, aws_access_key_id="none", aws_secret_access_key="none"
    )
    client.meta.events.register("before-call", lambda **_: pytest.fail("called"))
    return client


def test_clients_of_boto3_are_refused_at_once(kms: InMemoryKMS) -> None:
    key = kms.create_key()
    with pytest.raises(TypeError) as caught:
        KMSMasterKeyProvider([key], connection=AWSConnection(kms={US: blocking_client()}))
    assert str(caught.value) == BLOCKING
    options: dict[str, Any] = {"kms_configuration": KMSKeyArn(key), "logical_name": "store"}
    with pytest.raises(TypeError) as caught:
        BranchKeyStore("store", connection=AWSConnection(kms={US: blocking_client()}), **options)
    assert str(caught.value) == BLOCKING
    with pytest.raises(TypeError) as caught:
        BranchKeyStore(
            "store",
            connection=AWSConnection(kms=kms.clients(US), dynamodb={US: blocking_client("dynamodb")}),
            **options,
        )
    assert str(caught.value) == BLOCKING


async def test_a_client_of_boto3_from_a_supplier_is_not_called(kms: InMemoryKMS) -> None:
    async def supply(region: str | None) -> Any:
        return blocking_client()

    provider = KMSMasterKeyProvider([kms.create_key()], connection=AWSConnection(kms=supply))
    with pytest.raises(ProviderError) as caught:
        await encrypt(b"", provider)
    [attempt] = caught.value.attempts
    assert isinstance(attempt.error, ServiceError)
    assert attempt.error.message == f"TypeError: {BLOCKING}"


@on_asyncio
async def test_a_client_of_aiobotocore_is_taken(kms: InMemoryKMS) -> None:
    factory = KMSClientFactory(connection=AWSConnection(kms="http://127.0.0.1:1"))
    async with factory:
        KMSMasterKeyProvider([kms.create_key()], connection=AWSConnection(kms={US: await factory(US)}))


@pytest.mark.parametrize("make", [lambda kms: kms.client(US), lambda kms: [kms.client(US)]])
def test_what_is_no_mapping_of_clients(kms: InMemoryKMS, make: Callable[[InMemoryKMS], Any]) -> None:
    wrong = make(kms)
    text = rf"^kms must be an endpoint URL, .* client, not {type(wrong).__name__}: write {{region: client}}$"
    with pytest.raises(TypeError, match=text):
        KMSMasterKeyProvider([kms.create_key()], connection=AWSConnection(kms=wrong))


class Synchronous:
    """A client of another SDK, whose methods wait."""

    def generate_data_key(self, **parameters: Any) -> Mapping[str, Any]:
        return {}

    def get_item(self, **parameters: Any) -> Mapping[str, Any]:
        return {}


NOT_AWAITED = "which is not awaited: is it an async function?"


async def test_a_client_whose_methods_are_not_asynchronous(kms: InMemoryKMS) -> None:
    client: Any = Synchronous()
    with pytest.raises(ProviderError) as caught:
        await encrypt(
            b"", KMSMasterKeyProvider([kms.create_key()], connection=AWSConnection(kms={US: client}))
        )
    [attempt] = caught.value.attempts
    text = f"Synchronous, asked for GenerateDataKey, returned dict, {NOT_AWAITED}"
    assert str(attempt.error) == text


async def test_a_table_client_whose_methods_are_not_asynchronous(kms: InMemoryKMS) -> None:
    client: Any = Synchronous()
    store = BranchKeyStore(
        "store",
        kms_configuration=KMSKeyArn(kms.create_key()),
        logical_name="store",
        connection=AWSConnection(kms=kms.clients(US), dynamodb={US: client}),
    )
    with pytest.raises(ProviderError) as caught:
        await encrypt(b"", HierarchicalMasterKey(store, branch_key_id="a", max_age=1))
    [attempt] = caught.value.attempts
    assert str(attempt.error) == f"Synchronous, asked for GetItem, returned dict, {NOT_AWAITED}"


async def test_a_supplier_that_is_not_asynchronous(kms: InMemoryKMS) -> None:
    supplier: Any = kms.client
    with pytest.raises(ProviderError) as caught:
        await encrypt(
            b"",
            KMSMasterKeyProvider([kms.create_key()], connection=AWSConnection(kms=lambda _: supplier(US))),
        )
    [attempt] = caught.value.attempts
    assert str(attempt.error) == f"the supplier in kms= returned InMemoryKMSClient, {NOT_AWAITED}"
    assert kms.calls == []


def test_own_clients_need_asyncio() -> None:
    async def main() -> None:
        provider = KMSMasterKeyProvider(["alias/a"])
        with pytest.raises(
            ProviderError, match=r"does not run on trio: use asyncio, or give ready clients or a supplier"
        ):
            async with provider:
                pytest.fail("entered")

    anyio.run(main, backend="trio")


@pytest.mark.parametrize("regions", [([US],), (US, None)])
def test_regions_of_the_fakes_are_named_one_by_one(kms: InMemoryKMS, regions: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match=r"^a region must be a str, not (list|NoneType)$"):
        kms.clients(*regions)


def test_the_region_of_a_table_in_memory_is_text() -> None:
    with pytest.raises(TypeError, match=r"^a region must be a str, not list$"):
        InMemoryDynamoDB().client([US])  # type: ignore[arg-type]
