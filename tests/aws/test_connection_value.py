"""AWSConnection: an immutable value, and the clients that providers share through it."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Iterator
from typing import Any

import aiobotocore.session
import attrs
import botocore.session
import pytest
from aiobotocore.config import AioConfig

from aioencrypt import (
    AWSConnection,
    KMSDiscoveryMasterKeyProvider,
    KMSECDHMasterKey,
    KMSEncryptionAlgorithm,
    KMSMasterKeyProvider,
    KMSRSAMasterKey,
    ProviderClosedError,
    decrypt,
)
from aioencrypt.branch_keys import BranchKeyStore, KMSKeyArn
from aioencrypt.testing import InMemoryDynamoDB, InMemoryKMS
from aioencrypt.testing.kms import run_in_thread
from tests.support.aws import WatchedSession, sealed
from tests.support.kms import EU, ID, US, arn
from tests.support.streaming import assert_idle, on_asyncio

pytestmark = pytest.mark.anyio

KEY = arn(f"key/{ID}")
SHA_256 = KMSEncryptionAlgorithm.RSAES_OAEP_SHA_256


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


@pytest.fixture
def url(kms: InMemoryKMS) -> Iterator[str]:
    with run_in_thread(kms) as url:
        yield url


async def supply(region: str | None) -> Any:
    raise NotImplementedError


# The value


def test_it_is_a_value() -> None:
    one, same = (AWSConnection(region=US, kms="http://127.0.0.1:1", timeout=5) for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    assert one != attrs.evolve(one, timeout=6)
    for copied in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
        assert copied == one
        assert copied is not one
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        one.region = EU  # type: ignore[misc]


def test_ready_clients_cannot_be_changed_afterwards(kms: InMemoryKMS) -> None:
    clients = kms.clients(US)
    connection = AWSConnection(kms=clients)
    clients[EU] = kms.client(EU)
    source: Any = connection.kms
    assert list(source) == [US]


@pytest.mark.parametrize(
    "options",
    [
        {"kms": InMemoryKMS().clients(US)},
        {"kms": {}},
        {"dynamodb": InMemoryDynamoDB().clients(US)},
        {"kms": supply},
        {"session": aiobotocore.session.get_session()},
    ],
)
@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_what_holds_clients_or_a_session_is_not_copied(options: dict[str, Any], duplicate: Any) -> None:
    with pytest.raises(TypeError, match="create it where it is used"):
        duplicate(AWSConnection(**options))


# What is refused


def blocking(service: str) -> Any:
    session = botocore.session.get_session()
    return session.create_client(
        service, region_name=US, aws_access_key_id="none", aws_secret_access_key="none"
    )


@pytest.mark.parametrize("service", ["kms", "dynamodb"])
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (blocking, "a boto3 client, which blocks the event loop: give an aiobotocore client"),
        (aiobotocore.session.get_session().create_client, "was not entered: give the client of `async"),
        (lambda service: type(blocking(service)), "the class .* is not a client of"),
        (lambda service: botocore.session.get_session(), "Session is not a client of"),
        (lambda service: aiobotocore.session.get_session(), "AioSession is not a client of"),
        (lambda service: None, "NoneType is not a client of"),
        (lambda service: blocking("s3"), "a boto3 client"),
    ],
)
def test_clients_that_cannot_work(service: str, make: Any, text: str) -> None:
    client = make(service)
    options: dict[str, Any] = {service: {US: client}}
    with pytest.raises(TypeError, match=text):
        AWSConnection(**options)
    if hasattr(client, "_coro"):
        client._coro.close()


@pytest.mark.parametrize(
    "session",
    [
        botocore.session.get_session(),
        botocore.session.Session,
        aiobotocore.session.AioSession,
        blocking("kms"),
        "profile",
    ],
    ids=lambda value: type(value).__name__,
)
def test_sessions_that_cannot_work(session: Any) -> None:
    with pytest.raises(TypeError, match=r"session must be an aiobotocore session, not .*: give aiobotocore"):
        AWSConnection(session=session)


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"region": ""}, ValueError, "region must be the name of a region, or None"),
        ({"region": b"eu"}, ValueError, "region must be the name of a region, or None"),
        ({"profile": 1}, ValueError, "profile must be the name of a profile, or None"),
        ({"timeout": 0}, ValueError, "timeout is 0; it must be more than 0 seconds, or None"),
        ({"timeout": float("nan")}, ValueError, "timeout is nan"),
        ({"timeout": "30"}, TypeError, "timeout must be a number of seconds, not str"),
        ({"timeout": True}, TypeError, "timeout must be a number of seconds, not bool"),
        ({"client_config": {}}, TypeError, "client_config must be an AioConfig of aiobotocore, not dict"),
        ({"kms": "localhost"}, ValueError, "kms is 'localhost'; write the endpoint as a URL"),
        ({"kms": 1}, TypeError, "kms must be an endpoint URL, .*, not int"),
        ({"kms": InMemoryKMS}, TypeError, "kms must be an endpoint URL, .*, not the class InMemoryKMS"),
        (
            {"dynamodb": {1: InMemoryDynamoDB().client(US)}},
            TypeError,
            "the keys of dynamodb must be region names .* int",
        ),
        (
            {"profile": "one", "session": aiobotocore.session.get_session()},
            ValueError,
            "give profile or session",
        ),
        ({"kms": {}, "dynamodb": {}, "profile": "one"}, ValueError, "have no effect"),
        ({"kms": {}, "dynamodb": supply, "client_config": AioConfig()}, ValueError, "have no effect"),
    ],
)
def test_arguments_that_are_refused(options: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        AWSConnection(**options)


# Sharing


def everything(connection: AWSConnection, key: str = KEY) -> list[Any]:
    """Return one of everything that calls AWS."""
    return [
        KMSMasterKeyProvider([key], connection=connection),
        KMSDiscoveryMasterKeyProvider(discovery_filter=None, region=US, connection=connection),
        KMSRSAMasterKey(key, encryption_algorithm=SHA_256, connection=connection),
        BranchKeyStore("keys", kms_configuration=KMSKeyArn(key), logical_name="keys", connection=connection),
    ]


def test_everything_takes_a_connection() -> None:
    for cls in (KMSMasterKeyProvider, KMSDiscoveryMasterKeyProvider, KMSRSAMasterKey, BranchKeyStore):
        assert "connection" in cls.__init__.__annotations__
    for make in (KMSECDHMasterKey.static, KMSECDHMasterKey.discovery):
        assert "connection" in make.__annotations__


@on_asyncio
async def test_one_connection_has_one_client_until_the_last_one_leaves(url: str) -> None:
    session: Any = WatchedSession()
    users = everything(AWSConnection(session=session, kms=url, dynamodb=url))
    for user in users:
        await user.__aenter__()
    for user in users:
        await user.warm_up()
    assert session.regions == [US, US], "one for KMS, one for DynamoDB"
    for number, user in enumerate(users, 1):
        await user.aclose()
        await user.aclose()  # does not leave for others
        with pytest.raises(ProviderClosedError):
            await user.warm_up()
        for other in users[number:]:
            await other.warm_up()
    assert session.regions == [US, US]
    async with users[0]:
        await users[0].warm_up()
    assert session.regions == [US, US, US]
    assert_idle()


@on_asyncio
async def test_an_equal_connection_shares_nothing(kms: InMemoryKMS, url: str) -> None:
    session: Any = WatchedSession()
    one, other = (
        everything(AWSConnection(session=session, kms=url))[0:1]
        + everything(AWSConnection(session=session, kms=url))[0:1]
    )
    async with one, other:
        await one.warm_up()
        await other.warm_up()
    assert session.regions == [US, US]


def test_each_loop_has_clients_of_its_own(kms: InMemoryKMS, url: str) -> None:
    provider = KMSMasterKeyProvider([kms.create_key()], connection=AWSConnection(kms=url))

    async def elsewhere() -> bytes:
        async with provider:
            return await sealed(provider)

    async def main() -> None:
        async with provider:
            message = await asyncio.to_thread(asyncio.run, elsewhere())
            assert (await decrypt(message, provider)).plaintext == b"x"

    asyncio.run(main())


@on_asyncio
async def test_the_region_of_the_connection_is_for_keys_without_one(kms: InMemoryKMS, url: str) -> None:
    kms.create_alias("alias/app", kms.create_key(region=EU))
    for source in (url, kms.clients(US, EU)):
        connection = AWSConnection(region=EU, kms=source)
        async with KMSMasterKeyProvider(["alias/app"], connection=connection) as provider:
            await sealed(provider)
    assert {call.region for call in kms.calls} == {EU}
