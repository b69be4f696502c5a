"""Arguments of the KMS providers, where clients come from, and what is pickled and shown."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from aioencrypt import (
    AWSConnection,
    DiscoveryFilter,
    KMSDiscoveryMasterKeyProvider,
    KMSMasterKeyProvider,
    MasterKeyProvider,
    MultiRegion,
    ProviderError,
    ServiceError,
    decrypt,
    encrypt,
)
from aioencrypt.testing import InMemoryKMS, InMemoryKMSClient
from tests.support.aws import connected
from tests.support.kms import EU, ID, MRK, US, arn, key_arns, request

pytestmark = pytest.mark.anyio

KEY = arn(f"key/{ID}")
Make = Callable[..., MasterKeyProvider]


def strict(**options: Any) -> KMSMasterKeyProvider:
    return KMSMasterKeyProvider([KEY], **connected(options))


def discovery(**options: Any) -> KMSDiscoveryMasterKeyProvider:
    return KMSDiscoveryMasterKeyProvider(**{"discovery_filter": None, **connected(options)})


async def supplier(region: str | None) -> InMemoryKMSClient:
    raise NotImplementedError


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


# Arguments


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-keyring.md#initialization",
    "framework/aws-kms/aws-kms-mrk-keyring.md#initialization",
    "framework/aws-kms/aws-kms-multi-keyrings.md#aws-kms-multi-keyring",
    "framework/aws-kms/aws-kms-mrk-multi-keyrings.md#aws-kms-mrk-multi-keyring",
)
@pytest.mark.parametrize(
    ("key_ids", "error", "text"),
    [
        (KEY, TypeError, r"write \[key_id\]"),
        ([], ValueError, "use KMSDiscoveryMasterKeyProvider"),
        ([KEY, ""], ValueError, "'' is not a KMS key id"),
        ([None], TypeError, "must be a str, not NoneType"),
        ([KEY.encode()], TypeError, "must be a str, not bytes"),
        (["arn:aws:kms:us-east-1"], ValueError, "is not the ARN of a KMS key or alias"),
        ([KEY.replace(":kms:", ":s3:")], ValueError, "is not the ARN of a KMS key or alias"),
        ([KEY.replace(US, "")], ValueError, "is not the ARN of a KMS key or alias"),
        ([arn("key/")], ValueError, "is not the ARN of a KMS key or alias"),
        ([arn("grant/1")], ValueError, "is not the ARN of a KMS key or alias"),
        (["key/1"], ValueError, "is not a KMS key id"),
        (["kms:1"], ValueError, "is not a KMS key id"),
    ],
)
def test_key_ids_that_are_refused(key_ids: Any, error: type[Exception], text: str) -> None:
    """aws-kms-keyring.md#initialization: a valid AWS KMS identifier."""
    with pytest.raises(error, match=text):
        KMSMasterKeyProvider(key_ids, connection=AWSConnection(kms={}))


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-keyring.md#initialization",
    "framework/aws-kms/aws-kms-mrk-keyring.md#initialization",
)
@pytest.mark.parametrize("key_id", [KEY, arn(f"key/{MRK}"), ID, MRK, "alias/a/b", arn("alias/a/b")])
def test_key_ids_that_are_taken(key_id: str) -> None:
    for multi_region in MultiRegion:
        provider = KMSMasterKeyProvider(
            (key_id,), connection=AWSConnection(kms={}), multi_region=multi_region
        )
        assert repr(provider) == f"KMSMasterKeyProvider(['{key_id}'])"


@pytest.mark.parametrize("make", [strict, discovery])
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"grant_tokens": "token"}, TypeError, "a collection of grant tokens"),
        (
            {"connection": InMemoryKMS().clients(US)},
            TypeError,
            "connection must be an AWSConnection, not dict",
        ),
    ],
)
def test_arguments_that_are_refused(
    make: Make, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        make(**options)


def test_multi_region_that_is_refused() -> None:
    with pytest.raises(ValueError, match="multi_region is 'all'; it must be one of 'match', 'exact'"):
        strict(kms={}, multi_region="all")


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-mrk-discovery-keyring.md#initialization",
    "framework/aws-kms/aws-kms-multi-keyrings.md#aws-kms-discovery-multi-keyring",
    "framework/aws-kms/aws-kms-mrk-multi-keyrings.md#aws-kms-mrk-discovery-multi-keyring",
)
@pytest.mark.parametrize("region", ["", 1, b"us-east-1"])
def test_a_region_that_is_refused(region: Any) -> None:
    """aws-kms-mrk-multi-keyrings.md: a region that is an empty string must fail."""
    with pytest.raises(ValueError, match="region must be the name of a region, or None"):
        discovery(kms={}, region=region)


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-discovery-keyring.md#initialization",
    "framework/aws-kms/aws-kms-mrk-discovery-keyring.md#initialization",
)
def test_the_filter_must_be_written_out() -> None:
    with pytest.raises(TypeError, match="discovery_filter"):
        KMSDiscoveryMasterKeyProvider(connection=AWSConnection(kms={}))  # type: ignore[call-arg]


@pytest.mark.parametrize("discovery_filter", [{}, "", False, "111122223333", ["111122223333"]])
def test_a_filter_of_another_type_is_refused_and_never_means_any_account(discovery_filter: Any) -> None:
    with pytest.raises(TypeError, match="discovery_filter"):
        discovery(kms={}, discovery_filter=discovery_filter)


@pytest.mark.parametrize(
    ("accounts", "partition", "error", "text"),
    [
        ("111122223333", "aws", TypeError, "a collection of account ids"),
        ([111122223333], "aws", TypeError, "account"),
        ([], "aws", ValueError, "at least one account id"),
        (["111122223333", ""], "aws", ValueError, "at least one account id"),
        (["111122223333"], "", ValueError, "and a partition"),
    ],
)
def test_filters_that_are_refused(accounts: Any, partition: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        DiscoveryFilter(accounts, partition)


# Clients


@pytest.mark.parametrize("make", [strict, discovery])
async def test_given_clients_need_no_async_with_and_may_have_it(kms: InMemoryKMS, make: Make) -> None:
    kms.create_key(key_id=ID)
    message, _ = await encrypt(b"x", strict(kms=kms.clients(US)))
    provider = make(kms=kms.clients(US))
    assert (await decrypt(message, provider)).plaintext == b"x"
    async with provider as entered, provider:
        assert entered is provider
        await provider.aclose()
        await decrypt(message, provider)
    await decrypt(message, provider)


async def test_later_changes_of_the_mapping_of_clients_do_not_count(kms: InMemoryKMS) -> None:
    kms.create_key(key_id=ID)
    clients = kms.clients(US)
    provider = strict(kms=clients)
    clients.clear()
    await encrypt(b"x", provider)


async def test_a_key_without_a_region_takes_the_only_client(kms: InMemoryKMS) -> None:
    key = kms.create_key(region=EU, key_id=ID)
    kms.create_alias("alias/app", key)
    provider = KMSMasterKeyProvider(["alias/app", ID], connection=kms.connection(EU))
    assert key_arns((await encrypt(b"x", provider)).header) == [key, key]


@pytest.mark.parametrize("regions", [(), (US, EU)])
async def test_a_key_without_a_region_and_no_single_client(
    kms: InMemoryKMS, regions: tuple[str, ...]
) -> None:
    provider = KMSMasterKeyProvider(["alias/app"], connection=kms.connection(*regions))
    with pytest.raises(ProviderError, match=rf"has {len(regions)} clients; give an ARN") as caught:
        await encrypt(b"x", provider)
    assert isinstance(caught.value.__cause__, ServiceError)
    assert not kms.calls


async def test_a_region_without_a_client(kms: InMemoryKMS) -> None:
    here, there = kms.create_key(), kms.create_key(region=EU)
    provider = KMSMasterKeyProvider([here, there], connection=kms.connection(US))
    with pytest.raises(
        ProviderError, match=r"no client for the region 'eu-west-1', only for \['us-east-1'\]"
    ):
        await encrypt(b"x", provider)


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-multi-keyrings.md#aws-kms-multi-keyring",
    "framework/aws-kms/aws-kms-mrk-multi-keyrings.md#aws-kms-mrk-multi-keyring",
)
async def test_a_supplier_is_asked_by_region(kms: InMemoryKMS) -> None:
    keys = [kms.create_key(region=EU), kms.create_key(), "alias/app"]
    kms.create_alias("alias/app", keys[1])
    asked: list[str | None] = []

    async def supply(region: str | None) -> InMemoryKMSClient:
        asked.append(region)
        return kms.client(region or US)

    provider = KMSMasterKeyProvider(keys, connection=AWSConnection(kms=supply))
    await provider.warm_up()
    assert asked == [EU, US, None]
    asked.clear()
    message, _ = await encrypt(b"x", provider)
    assert (asked[0], set(asked[1:])) == (EU, {US, None})
    asked.clear()
    await decrypt(
        message, KMSDiscoveryMasterKeyProvider(discovery_filter=None, connection=AWSConnection(kms=supply))
    )
    assert asked == [EU]


@pytest.mark.parametrize("error", [KeyError("eu"), OSError("unreachable")])
async def test_a_supplier_that_fails(kms: InMemoryKMS, error: Exception) -> None:
    async def fail(region: str | None) -> InMemoryKMSClient:
        raise error

    provider = strict(kms=fail)
    with pytest.raises(ProviderError, match=f"could not generate.*{type(error).__name__}") as caught:
        await encrypt(b"x", provider)
    cause = caught.value.__cause__
    assert isinstance(cause, ServiceError)
    assert cause.__cause__ is error
    assert cause.retryable is isinstance(error, OSError)
    with pytest.raises(ServiceError) as warming:
        await provider.warm_up()
    assert warming.value.__cause__ is error


async def test_warming_up(kms: InMemoryKMS) -> None:
    clients = kms.clients(US)
    await strict(kms=clients).warm_up()
    await discovery(kms=clients).warm_up()
    await discovery(kms=clients, region=US).warm_up()
    for provider in (
        KMSMasterKeyProvider([arn("key/1", region=EU)], connection=AWSConnection(kms=clients)),
        discovery(kms=clients, region=EU),
    ):
        with pytest.raises(ServiceError, match="no client for the region 'eu-west-1'"):
            await provider.warm_up()
    assert not kms.calls


# Pickling and repr


def configuration(provider: MasterKeyProvider) -> Mapping[str, Any]:
    """Return what a provider is rebuilt from, with the options of a config in place of the object."""
    reduced: Any = provider.__reduce__()
    arguments = dict(reduced[0].keywords)
    connection = arguments.pop("connection")
    config = connection.client_config and connection.client_config._user_provided_options
    return {**arguments, "kms": connection.kms, "timeout": connection.timeout, "config": config}


SHARED = {"kms": None, "grant_tokens": (), "timeout": 30.0, "config": None, "preferred_region": None}
PICKLED: list[tuple[MasterKeyProvider, dict[str, object]]] = [
    (KMSMasterKeyProvider([KEY, "alias/app"]), {**SHARED, "multi_region": MultiRegion.MATCH}),
    (
        KMSMasterKeyProvider(
            [arn(f"key/{MRK}"), arn(f"key/{MRK}", region=EU)],
            multi_region=MultiRegion.EXACT,
            connection=AWSConnection(
                client_config=AioConfig(read_timeout=3, retries={"total_max_attempts": 2}),
                kms="http://127.0.0.1:1",
                timeout=None,
            ),
            grant_tokens=["one", "two"],
            preferred_region=EU,
        ),
        {
            "preferred_region": EU,
            "multi_region": MultiRegion.EXACT,
            "config": {"read_timeout": 3, "retries": {"total_max_attempts": 2}},
            "kms": "http://127.0.0.1:1",
            "grant_tokens": ("one", "two"),
            "timeout": None,
        },
    ),
    (
        KMSDiscoveryMasterKeyProvider(discovery_filter=None),
        {**SHARED, "discovery_filter": None, "region": None},
    ),
    (
        KMSDiscoveryMasterKeyProvider(
            discovery_filter=DiscoveryFilter(["1", "2"], "aws-cn"),
            region=EU,
            grant_tokens=["one"],
            connection=AWSConnection(timeout=1.5),
        ),
        {
            **SHARED,
            "discovery_filter": DiscoveryFilter(["2", "1"], "aws-cn"),
            "region": EU,
            "grant_tokens": ("one",),
            "timeout": 1.5,
        },
    ),
]


@pytest.mark.parametrize(("provider", "expected"), PICKLED)
@pytest.mark.parametrize(
    "duplicate", [lambda provider: pickle.loads(pickle.dumps(provider)), copy.copy, copy.deepcopy]
)
def test_a_provider_is_pickled_and_copied_as_its_configuration(
    provider: MasterKeyProvider,
    expected: dict[str, object],
    duplicate: Callable[[MasterKeyProvider], MasterKeyProvider],
) -> None:
    made = duplicate(provider)
    assert type(made) is type(provider)
    assert made is not provider
    assert repr(made) == repr(provider)
    assert configuration(made) == expected


@pytest.mark.parametrize("make", [strict, discovery])
@pytest.mark.parametrize(
    "options",
    [
        {"kms": InMemoryKMS().clients(US)},
        {"kms": {}},
        {"kms": supplier},
        {"session": get_session()},
    ],
)
@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_what_holds_clients_refuses_to_be_pickled_and_copied(
    make: Make, options: dict[str, Any], duplicate: Callable[[object], object]
) -> None:
    with pytest.raises(TypeError, match="create it where it is used"):
        duplicate(make(**options))


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
async def test_a_kms_master_key_refuses_to_be_pickled_and_copied(
    duplicate: Callable[[object], object],
) -> None:
    for options in ({}, {"clients": InMemoryKMS().clients(US)}):
        (key,) = await strict(**options).encryption_keys(request())
        with pytest.raises(TypeError, match="create its provider"):
            duplicate(key)


async def test_what_is_shown(kms: InMemoryKMS) -> None:
    options: dict[str, Any] = {"connection": kms.connection(US), "grant_tokens": ["secret"]}
    provider = KMSMasterKeyProvider([KEY, "alias/app"], **options)
    assert repr(provider) == f"KMSMasterKeyProvider(['{KEY}', 'alias/app'])"
    named, alias = await provider.encryption_keys(request())
    assert (repr(named), repr(alias)) == (f"KMSMasterKey('{KEY}')", "KMSMasterKey('alias/app')")
    assert (named.provider_id, named.key_id) == ("aws-kms", KEY)
    assert (getattr(named, "region", ""), getattr(alias, "region", "")) == (US, None)
    assert repr(discovery(**options)) == ("KMSDiscoveryMasterKeyProvider(discovery_filter=None, region=None)")
    assert repr(discovery(discovery_filter=DiscoveryFilter(["1"]), region=US, **options)) == (
        "KMSDiscoveryMasterKeyProvider(discovery_filter=DiscoveryFilter(accounts=frozenset({'1'}), "
        "partition='aws'), region='us-east-1')"
    )
