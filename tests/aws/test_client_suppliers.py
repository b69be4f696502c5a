"""Client suppliers: a client for each region, and regions that get none."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from aioencrypt import (
    AWSConnection,
    KMSDiscoveryMasterKeyProvider,
    KMSMasterKeyProvider,
    ProviderClosedError,
    ProviderError,
    ServiceError,
    decrypt,
    encrypt,
)
from aioencrypt.aws import ClientSupplier, KMSClient, KMSClientFactory, exclude_regions, limit_regions
from aioencrypt.testing import InMemoryKMS
from aioencrypt.testing.kms import run_in_thread
from tests.support.aws import WatchedSession, sealed
from tests.support.kms import AP, EU, US, arn, calls_of
from tests.support.streaming import assert_idle, collected, on_asyncio

pytestmark = pytest.mark.anyio
collect_what_a_test_left = pytest.fixture(autouse=True)(collected)

MULTI = "framework/aws-kms/aws-kms-multi-keyrings.md"


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


@pytest.fixture
def url(kms: InMemoryKMS) -> Iterator[str]:
    with run_in_thread(kms) as url:
        yield url


def supplier_of(kms: InMemoryKMS) -> ClientSupplier:
    """Return a supplier of clients in memory, with US as the default region."""

    async def supply(region: str | None) -> KMSClient:
        return kms.client(region or US)

    return supply


# A factory


@on_asyncio
async def test_a_factory_makes_one_client_for_each_region_of_all_its_providers(
    kms: InMemoryKMS, url: str
) -> None:
    session: Any = WatchedSession()
    keys = [kms.create_key(region=region) for region in (US, EU, US)]
    async with KMSClientFactory(connection=AWSConnection(session=session, kms=url)) as factory:
        providers = [
            KMSMasterKeyProvider(given, connection=AWSConnection(kms=factory)) for given in (keys, keys[1:])
        ]
        discovery = KMSDiscoveryMasterKeyProvider(
            discovery_filter=None, connection=AWSConnection(kms=factory)
        )
        assert session.regions == []
        messages = await asyncio.gather(*(sealed(provider) for provider in providers * 5))
        for message in messages:
            assert (await decrypt(message, discovery)).plaintext == b"x"
        # entering a provider opens nothing, and leaving it closes nothing
        async with providers[0] as provider:
            await provider.warm_up()
        assert sorted(session.regions) == [EU, US]
        assert await factory(US) is await factory(US)
        assert await factory(US) is not await factory(EU)
    assert_idle()


@on_asyncio
async def test_a_factory_knows_the_default_region(
    kms: InMemoryKMS, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", EU)
    kms.create_alias("alias/app", kms.create_key(region=EU))
    async with KMSClientFactory(connection=AWSConnection(kms=url)) as factory:
        await sealed(KMSMasterKeyProvider(["alias/app"], connection=AWSConnection(kms=factory)))
    assert calls_of(kms) == [("GenerateDataKey", EU, "alias/app")]


@on_asyncio
async def test_a_factory_merges_a_configuration(kms: InMemoryKMS, url: str) -> None:
    config = AioConfig(user_agent_extra="mine", retries={"total_max_attempts": 2})
    async with KMSClientFactory(connection=AWSConnection(kms=url, client_config=config)) as factory:
        client: Any = await factory(US)
        assert client.meta.config.user_agent_extra == "mine"
        assert client.meta.config.retries == {"mode": "standard", "total_max_attempts": 2}
        assert client.meta.config.max_pool_connections == 50


@on_asyncio
async def test_a_factory_is_used_inside_async_with(kms: InMemoryKMS, url: str) -> None:
    key = kms.create_key()
    factory = KMSClientFactory(connection=AWSConnection(kms=url))
    provider = KMSMasterKeyProvider([key], connection=AWSConnection(kms=factory))
    for use in (lambda: factory(US), lambda: sealed(provider), provider.warm_up):
        with pytest.raises(ProviderClosedError, match=r"^the KMSClientFactory is not open: open it with"):
            await use()
    async with factory:
        async with factory as again:
            assert again is factory
        message = await sealed(provider)  # left once, entered twice
        await factory.aclose()
        # it is the end of a call, and not one key's failure
        with pytest.raises(ProviderClosedError):
            await decrypt(message, provider)
    async with factory:
        assert (await decrypt(message, provider)).plaintext == b"x"
    assert_idle()


@pytest.mark.parametrize(
    "duplicate", [lambda factory: pickle.loads(pickle.dumps(factory)), copy.copy, copy.deepcopy]
)
@on_asyncio
async def test_a_factory_is_copied_as_its_configuration(
    kms: InMemoryKMS, url: str, duplicate: Callable[[KMSClientFactory], KMSClientFactory]
) -> None:
    async with KMSClientFactory(connection=AWSConnection(kms=url)) as factory:
        copied = duplicate(factory)
        with pytest.raises(ProviderClosedError):
            await copied(US)
        async with copied:
            await sealed(KMSMasterKeyProvider([kms.create_key()], connection=AWSConnection(kms=copied)))
    with pytest.raises(TypeError, match="create it where it is used"):
        duplicate(KMSClientFactory(connection=AWSConnection(session=get_session())))


# Regions


@pytest.mark.parametrize(
    ("limit", "refused"), [([US], [EU, AP]), ([US, EU], [AP]), (("ap-south-1",), [US, EU])]
)
async def test_only_the_regions_of_a_limit_get_clients(
    kms: InMemoryKMS, limit: list[str], refused: list[str]
) -> None:
    supply = limit_regions(supplier_of(kms), limit)
    for region in (US, EU, AP):
        if region in refused:
            with pytest.raises(ServiceError) as caught:
                await supply(region)
            assert str(caught.value) == (
                f"the region '{region}' is not one of the allowed regions, {sorted(limit)}; "
                "add it to limit_regions, or use a key in one of them"
            )
            assert not caught.value.retryable
        else:
            assert (await supply(region)).region == region  # type: ignore[attr-defined]


@pytest.mark.parametrize("excluded", [[], [US], [US, AP], {US, EU, AP}])
async def test_excluded_regions_get_no_clients(kms: InMemoryKMS, excluded: list[str]) -> None:
    supply = exclude_regions(supplier_of(kms), excluded)
    for region in (US, EU, AP):
        if region in excluded:
            with pytest.raises(ServiceError) as caught:
                await supply(region)
            assert str(caught.value) == (
                f"the region '{region}' is excluded; "
                "remove it from exclude_regions, or use a key in another region"
            )
        else:
            assert (await supply(region)).region == region  # type: ignore[attr-defined]


@pytest.mark.parametrize("restrict", [limit_regions, exclude_regions])
async def test_the_default_region_is_never_known_to_be_allowed(kms: InMemoryKMS, restrict: Any) -> None:
    kms.create_alias("alias/app", kms.create_key())
    provider = KMSMasterKeyProvider(
        ["alias/app"], connection=AWSConnection(kms=restrict(supplier_of(kms), [US, EU]))
    )
    with pytest.raises(ProviderError, match=r"the key id has no region, .* give the key ARN") as caught:
        await encrypt(b"x", provider)
    assert [type(attempt.error) for attempt in caught.value.attempts] == [ServiceError]
    assert kms.calls == []


@pytest.mark.spec(f"{MULTI}#aws-kms-discovery-multi-keyring")
@pytest.mark.parametrize(
    "restrict",
    [lambda supply: limit_regions(supply, [EU]), lambda supply: exclude_regions(supply, [US, AP])],
    ids=["limit", "exclude"],
)
async def test_a_region_that_is_not_allowed_is_that_keys_failure_and_the_next_is_tried(
    kms: InMemoryKMS, restrict: Callable[[ClientSupplier], ClientSupplier]
) -> None:
    keys = [kms.create_key(region=region) for region in (US, EU, AP)]
    message = await sealed(KMSMasterKeyProvider(keys, connection=AWSConnection(kms=supplier_of(kms))))
    kms.reset_calls()
    supply = restrict(supplier_of(kms))
    for provider in (
        KMSMasterKeyProvider(keys, connection=AWSConnection(kms=supply)),
        KMSDiscoveryMasterKeyProvider(discovery_filter=None, connection=AWSConnection(kms=supply)),
    ):
        result = await decrypt(message, provider)
        assert [use.key_id for use in result.provenance.keys] == [keys[1]]
        assert calls_of(kms) == [("Decrypt", EU, keys[1])]
        kms.deny(keys[1])
        with pytest.raises(ProviderError) as caught:
            await decrypt(message, provider)
        assert [attempt.key_id for attempt in caught.value.attempts] == keys
        codes = [getattr(attempt.error, "code", "") for attempt in caught.value.attempts]
        assert codes == [None, "AccessDeniedException", None]
        kms.allow(keys[1])
        kms.reset_calls()


async def test_encrypting_needs_every_region(kms: InMemoryKMS) -> None:
    keys = [kms.create_key(region=region) for region in (US, EU)]
    for region, operation in ((US, "encrypt"), (EU, "generate")):
        provider = KMSMasterKeyProvider(
            keys, connection=AWSConnection(kms=limit_regions(supplier_of(kms), [region]))
        )
        with pytest.raises(ProviderError, match=f"could not {operation} a data key") as caught:
            await encrypt(b"x", provider)
        assert [attempt.operation for attempt in caught.value.attempts] == [operation]
        assert isinstance(caught.value.__cause__, ServiceError)


async def test_limits_stand_over_each_other(kms: InMemoryKMS) -> None:
    supply = exclude_regions(limit_regions(supplier_of(kms), [US, EU]), [EU])
    assert (await supply(US)).region == US  # type: ignore[attr-defined]
    with pytest.raises(ServiceError, match="is excluded"):
        await supply(EU)
    with pytest.raises(ServiceError, match="not one of the allowed"):
        await supply(AP)


async def test_limits_stand_over_each_other_as_often_as_you_like(kms: InMemoryKMS) -> None:
    supplier = supplier_of(kms)
    for _ in range(1000):
        supplier = exclude_regions(limit_regions(supplier, [US, EU]), [AP])
    assert (await supplier(US)).region == US  # type: ignore[attr-defined]
    with pytest.raises(ServiceError, match="excluded"):
        await limit_regions(supplier, [AP])(AP)


async def test_what_a_supplier_raises_passes_the_limit(kms: InMemoryKMS) -> None:
    async def broken(region: str | None) -> KMSClient:
        raise LookupError(f"nothing for {region}")

    for supply in (limit_regions(broken, [US]), exclude_regions(broken, [EU])):
        with pytest.raises(LookupError, match="nothing for us-east-1"):
            await supply(US)
        key = arn("key/1234")
        with pytest.raises(ProviderError) as caught:
            await encrypt(b"x", KMSMasterKeyProvider([key], connection=AWSConnection(kms=supply)))
        assert isinstance(caught.value.attempts[0].error, ServiceError)
        assert isinstance(caught.value.attempts[0].error.__cause__, LookupError)


@on_asyncio
async def test_a_factory_behind_a_limit_makes_no_client_for_a_region_that_is_not_allowed(
    kms: InMemoryKMS, url: str
) -> None:
    session: Any = WatchedSession()
    keys = [kms.create_key(), kms.create_key(region=EU)]
    message = await sealed(KMSMasterKeyProvider(keys, connection=AWSConnection(kms=supplier_of(kms))))
    async with KMSClientFactory(connection=AWSConnection(session=session, kms=url)) as factory:
        supply = limit_regions(factory, [EU])
        provider = KMSDiscoveryMasterKeyProvider(discovery_filter=None, connection=AWSConnection(kms=supply))
        assert (await decrypt(message, provider)).plaintext == b"x"
    assert session.regions == [EU]


# Arguments


@pytest.mark.parametrize("restrict", [limit_regions, exclude_regions])
@pytest.mark.parametrize(
    ("regions", "text"),
    [
        (US, r"^regions must be a collection of regions, not str: write \[region\]$"),
        ([None], "^each region must be a str, not NoneType$"),
        ([US, ""], "^regions has an empty name: name AWS regions$"),
        ([US.encode()], "^each region must be a str, not bytes$"),
    ],
)
def test_regions_that_are_refused(kms: InMemoryKMS, restrict: Any, regions: Any, text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        restrict(supplier_of(kms), regions)


@pytest.mark.parametrize("restrict", [limit_regions, exclude_regions])
def test_a_supplier_that_is_none(kms: InMemoryKMS, restrict: Any) -> None:
    with pytest.raises(
        TypeError, match=r"^a client supplier must be an async function of a region, not dict$"
    ):
        restrict(kms.clients(US), [US])


def test_a_limit_without_regions_is_refused(kms: InMemoryKMS) -> None:
    with pytest.raises(ValueError, match=r"^regions is empty: name at least one"):
        limit_regions(supplier_of(kms), [])


async def test_regions_of_an_iterator_are_kept(kms: InMemoryKMS) -> None:
    limited = limit_regions(supplier_of(kms), iter([US]))
    excluding = exclude_regions(supplier_of(kms), iter([EU]))
    for _ in range(2):
        await limited(US)
        with pytest.raises(ServiceError):
            await excluding(EU)
