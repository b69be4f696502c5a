"""KMS keys: the official Python SDK over boto3 and ours over aiobotocore call the same server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import boto3
import pytest
from aiobotocore.session import get_session
from aws_encryption_sdk.exceptions import AWSEncryptionSDKClientError

from aioencrypt import (
    AlgorithmSuite,
    AWSConnection,
    DecryptResult,
    DiscoveryFilter,
    EncryptResult,
    KMSDiscoveryMasterKeyProvider,
    KMSMasterKeyProvider,
    MasterKeyProvider,
    MultiMasterKeyProvider,
    MultiRegion,
    ProviderError,
)
from aioencrypt.testing import InMemoryKMS
from aioencrypt.testing.kms import run_in_thread
from tests.support.moto import moto_server
from tests.support.official import Kind, aes_key, kinds, read, write
from tests.support.official_kms import OfficialKMS
from tests.support.streaming import SIGNED, UNSIGNED, client_for, in_chunks, on_asyncio, plaintext_of

pytestmark = [pytest.mark.anyio, on_asyncio]

US, EU, AP = "us-east-1", "eu-west-1", "ap-south-1"
STRANGER = "999988887777"
CONTEXT = {"größe": "ß", "tenant": "42"}
PLAINTEXT = plaintext_of(10_000)
# Data keys of 16, 24 and 32 bytes.
SUITES = [AlgorithmSuite(number) for number in (0x0014, 0x0214, 0x0346, 0x0478, 0x0578)]
# Holds no more than the data files of botocore, which take a while to read.
SESSION = get_session()


@attrs.frozen
class Server:
    """A KMS over HTTP, with a key in one region and two in another."""

    url: str
    account: str
    us: str
    eu: str
    other: str

    def strict(self, *key_ids: str, **options: Any) -> KMSMasterKeyProvider:
        return KMSMasterKeyProvider(
            key_ids, connection=AWSConnection(session=SESSION, kms=self.url), **options
        )

    def discovery(self, *accounts: str, region: str | None = None) -> KMSDiscoveryMasterKeyProvider:
        return KMSDiscoveryMasterKeyProvider(
            discovery_filter=DiscoveryFilter(accounts or [self.account]),
            region=region,
            connection=AWSConnection(session=SESSION, kms=self.url),
        )


@pytest.fixture(scope="module")
def kms() -> InMemoryKMS:
    return InMemoryKMS()


@pytest.fixture(scope="module")
def memory(kms: InMemoryKMS) -> Iterator[Server]:
    us, eu, other = (kms.create_key(region=region) for region in (US, EU, US))
    kms.create_alias("alias/app", us)
    with run_in_thread(kms) as url:
        yield Server(url, "111122223333", us, eu, other)


@pytest.fixture(scope="module")
def moto() -> Iterator[Server]:
    with moto_server() as url:
        arns = []
        for region in (US, EU, US):
            client = boto3.client("kms", region_name=region, endpoint_url=url)
            arns.append(client.create_key()["KeyMetadata"]["Arn"])
            if len(arns) == 1:
                client.create_alias(AliasName="alias/app", TargetKeyId=arns[0])
            client.close()
        yield Server(url, "123456789012", *arns)


@pytest.fixture(params=["memory", "moto"])
def server(request: pytest.FixtureRequest) -> Server:
    server: Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def official(server: Server) -> Iterator[OfficialKMS]:
    keys = OfficialKMS(server.url, server.account)
    yield keys
    keys.close()


on_memory = pytest.mark.parametrize("server", ["memory"], indirect=True)


async def encrypt(provider: MasterKeyProvider, suite: AlgorithmSuite = SIGNED) -> EncryptResult:
    async with provider:
        return await client_for(suite).encrypt(
            PLAINTEXT, provider, algorithm_suite=suite, encryption_context=CONTEXT
        )


async def decrypt(
    message: bytes, provider: MasterKeyProvider, suite: AlgorithmSuite = SIGNED
) -> DecryptResult:
    async with provider:
        return await client_for(suite).decrypt(message, provider, encryption_context=CONTEXT)


def write_under(key: dict[str, Any], suite: AlgorithmSuite = SIGNED) -> bytes:
    return write(PLAINTEXT, key, suite, encryption_context=CONTEXT)


def arns_of(result: EncryptResult | DecryptResult) -> list[str]:
    return [edk.provider_info.decode() for edk in result[1].encrypted_data_keys]


# Strict


@kinds
async def test_one_key_official_to_ours(server: Server, official: OfficialKMS, kind: Kind) -> None:
    for suite in SUITES:
        message = write_under(official.strict(kind, server.us), suite)
        async with server.strict(server.us) as provider:
            opened = await client_for(suite).decrypt(message, provider, encryption_context=CONTEXT)
            assert opened.plaintext == PLAINTEXT
            assert arns_of(opened) == [server.us]
            source = in_chunks(message, 997)
            async with client_for(suite).decrypt_stream(source, provider) as stream:
                assert await stream.read() == PLAINTEXT


@kinds
async def test_one_key_ours_to_official(server: Server, official: OfficialKMS, kind: Kind) -> None:
    for suite in SUITES:
        message = await encrypt(server.strict(server.eu), suite)
        assert arns_of(message) == [server.eu]
        opened, header = read(message.ciphertext, official.strict(kind, server.eu), suite)
        assert opened == PLAINTEXT
        assert header.encryption_context == dict(message.header.encryption_context)


@kinds
async def test_another_key_does_not_open(server: Server, official: OfficialKMS, kind: Kind) -> None:
    message = write_under(official.strict(kind, server.us))
    with pytest.raises(ProviderError, match="belongs to a master key given here") as caught:
        await decrypt(message, server.strict(server.other, server.eu))
    assert caught.value.attempts == ()
    with pytest.raises(AWSEncryptionSDKClientError):
        read(
            (await encrypt(server.strict(server.us))).ciphertext, official.strict(kind, server.other), SIGNED
        )


@kinds
async def test_keys_named_by_alias_and_id(server: Server, official: OfficialKMS, kind: Kind) -> None:
    for name in ("alias/app", server.us.rpartition("/")[2]):
        message = await encrypt(server.strict(name))
        assert arns_of(message) == [server.us]
        assert read(message.ciphertext, official.strict(kind, server.us), SIGNED)[0] == PLAINTEXT
        opened = await decrypt(write_under(official.strict(kind, name)), server.strict(server.us))
        assert opened.plaintext == PLAINTEXT


# Several keys


@kinds
async def test_several_keys_official_to_ours(server: Server, official: OfficialKMS, kind: Kind) -> None:
    message = write_under(official.strict(kind, server.us, server.eu, server.other))
    for keys in (
        [server.us],
        [server.eu],
        [server.other],
        [server.other, server.us, server.eu],
    ):
        opened = await decrypt(message, server.strict(*keys))
        assert opened.plaintext == PLAINTEXT
        assert sorted(arns_of(opened)) == sorted([server.us, server.eu, server.other])


@kinds
async def test_several_keys_ours_to_official(server: Server, official: OfficialKMS, kind: Kind) -> None:
    message = await encrypt(server.strict(server.eu, server.us, server.other))
    assert arns_of(message) == [server.eu, server.us, server.other]
    for keys in (
        [server.us],
        [server.eu],
        [server.other],
        [server.us, server.other],
    ):
        assert read(message.ciphertext, official.strict(kind, *keys), SIGNED)[0] == PLAINTEXT


@kinds
async def test_kms_and_raw_keys_in_one_message(server: Server, official: OfficialKMS, kind: Kind) -> None:
    raw = aes_key(256)
    message = await encrypt(
        MultiMasterKeyProvider(server.strict(server.us), raw.ours, server.strict(server.eu))
    )
    for key in (official.strict(kind, server.us), raw.official(kind), official.strict(kind, server.eu)):
        assert read(message.ciphertext, key, SIGNED)[0] == PLAINTEXT


# Discovery


@kinds
async def test_discovery_official_to_ours(server: Server, official: OfficialKMS, kind: Kind) -> None:
    for key in (server.us, server.eu):
        message = write_under(official.strict(kind, key))
        region = key.split(":")[3]
        for provider in (
            server.discovery(),
            server.discovery(STRANGER, server.account),
            server.discovery(region=region),
        ):
            assert (await decrypt(message, provider)).plaintext == PLAINTEXT
        for provider in (server.discovery(STRANGER), server.discovery(region=AP)):
            with pytest.raises(ProviderError) as caught:
                await decrypt(message, provider)
            assert caught.value.attempts == ()


@kinds
async def test_discovery_ours_to_official(server: Server, official: OfficialKMS, kind: Kind) -> None:
    message = (await encrypt(server.strict(server.us, server.eu))).ciphertext
    for regions in ([US], [EU], [EU, US]):
        assert read(message, official.discovery(kind, regions), SIGNED)[0] == PLAINTEXT
    with pytest.raises(AWSEncryptionSDKClientError):
        read(message, official.discovery(kind, [US], accounts=[STRANGER]), SIGNED)


# Multi-Region keys; moto's do not decrypt


@pytest.fixture(scope="module")
def replicas(kms: InMemoryKMS, memory: Server) -> tuple[str, str]:
    primary = kms.create_key(region=US, multi_region=True)
    return primary, kms.replicate_key(primary, EU)


@on_memory
@kinds
async def test_replicas_official_to_ours(
    server: Server, official: OfficialKMS, kind: Kind, replicas: tuple[str, str]
) -> None:
    for here, there in (replicas, replicas[::-1]):
        message = write_under(official.multi_region(kind, here))
        opened = await decrypt(message, server.strict(there))
        assert opened.plaintext == PLAINTEXT
        assert arns_of(opened) == [here]
        assert (await decrypt(message, server.strict(here))).plaintext == PLAINTEXT
        exact = server.strict(here, multi_region=MultiRegion.EXACT)
        assert (await decrypt(message, exact)).plaintext == PLAINTEXT
        with pytest.raises(ProviderError, match="belongs to a master key given here"):
            await decrypt(message, server.strict(there, multi_region=MultiRegion.EXACT))
        for region in (US, EU):
            assert (await decrypt(message, server.discovery(region=region))).plaintext == PLAINTEXT
        with pytest.raises(ProviderError, match="NotFoundException"):
            await decrypt(message, server.discovery(region=AP))


@on_memory
@kinds
async def test_replicas_ours_to_official(
    server: Server, official: OfficialKMS, kind: Kind, replicas: tuple[str, str]
) -> None:
    for here, there in (replicas, replicas[::-1]):
        message = (await encrypt(server.strict(here))).ciphertext
        for key in (
            official.multi_region(kind, there),
            official.multi_region(kind, here),
            official.strict(kind, here),
            official.multi_region_discovery(kind, US),
            official.multi_region_discovery(kind, EU),
        ):
            assert read(message, key, SIGNED)[0] == PLAINTEXT
        with pytest.raises(AWSEncryptionSDKClientError):
            read(message, official.strict(kind, there), SIGNED)


@on_memory
@kinds
async def test_replicas_beside_other_keys(
    server: Server, official: OfficialKMS, kind: Kind, replicas: tuple[str, str]
) -> None:
    primary, replica = replicas
    message = write_under(official.multi_region(kind, server.other, primary))
    for keys in ([replica], [server.other], [server.us, replica], [replica, server.other]):
        assert (await decrypt(message, server.strict(*keys))).plaintext == PLAINTEXT
    written = await encrypt(server.strict(replica, server.us))
    for key in (official.multi_region(kind, server.eu, primary), official.multi_region(kind, server.us)):
        assert read(written.ciphertext, key, SIGNED)[0] == PLAINTEXT


# What reaches KMS


def asked(kms: InMemoryKMS) -> list[tuple[object, ...]]:
    """Return what reached KMS since the last time, in an order that does not depend on who was faster."""
    calls = sorted(kms.calls, key=lambda call: call.operation)
    kms.reset_calls()
    return [
        (call.operation, call.region, call.key_id, dict(call.encryption_context), call.error)
        for call in calls
    ]


@on_memory
@kinds
async def test_both_sides_ask_kms_the_same(
    server: Server, official: OfficialKMS, kind: Kind, kms: InMemoryKMS, replicas: tuple[str, str]
) -> None:
    here, there = replicas
    both = (server.us, server.eu)
    single = write_under(official.strict(kind, server.eu), UNSIGNED)
    multi = write_under(official.multi_region(kind, here), UNSIGNED)
    asked(kms)

    write_under(official.strict(kind, *both), UNSIGNED)
    expected = asked(kms)
    assert expected == [
        ("Encrypt", EU, server.eu, CONTEXT, None),
        ("GenerateDataKey", US, server.us, CONTEXT, None),
    ]
    await encrypt(server.strict(*both), UNSIGNED)
    assert asked(kms) == expected

    for message, theirs, ours, key in (
        (single, official.strict(kind, *both), server.strict(*both), server.eu),
        (single, official.discovery(kind, [EU]), server.discovery(), server.eu),
        (multi, official.multi_region(kind, there), server.strict(there), there),
        (multi, official.multi_region_discovery(kind, EU), server.discovery(region=EU), there),
    ):
        read(message, theirs, UNSIGNED)
        expected = asked(kms)
        assert expected == [("Decrypt", EU, key, CONTEXT, None)]
        await decrypt(message, ours, UNSIGNED)
        assert asked(kms) == expected


async def test_the_endpoint_comes_from_the_environment(
    server: Server, official: OfficialKMS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", server.url)
    message = await encrypt(KMSMasterKeyProvider([server.us]))
    assert read(message.ciphertext, official.strict("legacy", server.us), SIGNED)[0] == PLAINTEXT
    discovery = KMSDiscoveryMasterKeyProvider(discovery_filter=None)
    assert (await decrypt(message.ciphertext, discovery)).plaintext == PLAINTEXT
