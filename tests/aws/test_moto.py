"""KMS keys of moto, a stand-in for AWS that we did not write, called by us and by boto3."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import boto3
import pytest
from aiobotocore.session import get_session
from botocore.exceptions import ClientError

from aioencrypt import (
    AWSConnection,
    DiscoveryFilter,
    KMSDiscoveryMasterKeyProvider,
    KMSMasterKeyProvider,
    MessageHeader,
    MultiMasterKeyProvider,
    ProviderError,
    RawAESMasterKey,
    decrypt,
    decrypt_stream,
    encrypt,
    encrypt_stream,
)
from aioencrypt.materials import EncryptedDataKey
from aioencrypt.providers.base import make_data_key
from tests.support.kms import CONTEXT, DATA_KEY, EU, US, key_arns, request, service_error_of
from tests.support.moto import moto_server
from tests.support.streaming import assert_idle, in_chunks, on_asyncio, on_asyncio_and_uvloop, plaintext_of

pytestmark = pytest.mark.anyio

# The account of everybody in moto.
ACCOUNT = "123456789012"
PLAINTEXT = plaintext_of(100_001)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The endpoint of a server that knows all regions."""
    with moto_server() as url:
        yield url


@pytest.fixture(scope="module")
def boto(url: str) -> Iterator[dict[str, Any]]:
    """A client of boto3 for each region."""
    clients = {region: boto3.client("kms", region_name=region, endpoint_url=url) for region in (US, EU)}
    yield clients
    for client in clients.values():
        client.close()


@pytest.fixture(scope="module")
def keys(boto: dict[str, Any]) -> dict[str, str]:
    """A key in each region, named `alias/app` there."""
    made: dict[str, str] = {}
    for region, client in boto.items():
        made[region] = client.create_key()["KeyMetadata"]["Arn"]
        client.create_alias(AliasName="alias/app", TargetKeyId=made[region])
    return made


def discovery(url: str, **options: Any) -> KMSDiscoveryMasterKeyProvider:
    options = {"discovery_filter": None, "connection": AWSConnection(kms=url), **options}
    return KMSDiscoveryMasterKeyProvider(**options)


def data_key_by_boto(boto: dict[str, Any], header: MessageHeader, index: int, region: str) -> bytes:
    """Open an encrypted data key of a message with boto3."""
    encrypted = header.encrypted_data_keys[index]
    answer = boto[region].decrypt(
        KeyId=encrypted.provider_info.decode(),
        CiphertextBlob=encrypted.ciphertext,
        EncryptionContext=dict(header.encryption_context),
    )
    opened: bytes = answer["Plaintext"]
    return opened


# Ours and ours


@on_asyncio
async def test_one_key(url: str, keys: dict[str, str]) -> None:
    async with KMSMasterKeyProvider([keys[US]], connection=AWSConnection(kms=url)) as provider:
        message, header = await encrypt(PLAINTEXT, provider, encryption_context=CONTEXT)
        plaintext, read = await decrypt(message, provider, encryption_context=CONTEXT)
    assert plaintext == PLAINTEXT
    assert read == header
    assert key_arns(header) == [keys[US]]
    assert_idle()


@on_asyncio_and_uvloop
async def test_two_keys_in_two_regions_each_open_the_message(url: str, keys: dict[str, str]) -> None:
    async with KMSMasterKeyProvider([keys[EU], keys[US]], connection=AWSConnection(kms=url)) as both:
        message, header = await encrypt(PLAINTEXT, both, encryption_context=CONTEXT)
    assert key_arns(header) == [keys[EU], keys[US]]
    for region in (US, EU):
        async with KMSMasterKeyProvider([keys[region]], connection=AWSConnection(kms=url)) as one:
            assert (await decrypt(message, one)).plaintext == PLAINTEXT


@on_asyncio_and_uvloop
async def test_streams(url: str, keys: dict[str, str]) -> None:
    async with KMSMasterKeyProvider([keys[US], keys[EU]], connection=AWSConnection(kms=url)) as provider:
        source = in_chunks(PLAINTEXT, 10_000)
        async with encrypt_stream(source, provider, encryption_context=CONTEXT) as stream:
            message = b"".join([chunk async for chunk in stream])
        async with decrypt_stream(in_chunks(message, 7_777), provider) as opened:
            assert opened.header.encryption_context.items() >= CONTEXT.items()
            assert b"".join([chunk async for chunk in opened]) == PLAINTEXT


@on_asyncio
@pytest.mark.parametrize("name", [lambda arn: "alias/app", lambda arn: arn.split("/")[1],
                                  lambda arn: arn.split("key/")[0] + "alias/app"],
                         ids=["alias", "key id", "alias ARN"])  # fmt: skip
async def test_other_names_of_a_key_encrypt(
    url: str, keys: dict[str, str], name: Callable[[str], str]
) -> None:
    async with KMSMasterKeyProvider([name(keys[US])], connection=AWSConnection(kms=url)) as provider:
        message, header = await encrypt(PLAINTEXT, provider)
        with pytest.raises(ProviderError, match="belongs to a master key given here"):
            await decrypt(message, provider)
    assert key_arns(header) == [keys[US]]
    async with KMSMasterKeyProvider([keys[US]], connection=AWSConnection(kms=url)) as reader:
        assert (await decrypt(message, reader)).plaintext == PLAINTEXT


@on_asyncio
async def test_discovery(url: str, keys: dict[str, str]) -> None:
    async with KMSMasterKeyProvider([keys[EU], keys[US]], connection=AWSConnection(kms=url)) as both:
        message, _ = await encrypt(PLAINTEXT, both)
    async with KMSMasterKeyProvider([keys[EU]], connection=AWSConnection(kms=url)) as one:
        of_eu, _ = await encrypt(PLAINTEXT, one)
    for options in (
        {},
        {"region": US},
        {"region": EU},
        {"discovery_filter": DiscoveryFilter([ACCOUNT])},
        {"discovery_filter": DiscoveryFilter([ACCOUNT, "999988887777"]), "region": US},
    ):
        async with discovery(url, **options) as provider:
            assert (await decrypt(message, provider)).plaintext == PLAINTEXT
    for options in (
        {"discovery_filter": DiscoveryFilter(["999988887777"])},
        {"discovery_filter": DiscoveryFilter([ACCOUNT], "aws-cn")},
        {"region": US},
    ):
        async with discovery(url, **options) as provider:
            with pytest.raises(ProviderError, match="belongs to a master key given here"):
                await decrypt(of_eu, provider)


@on_asyncio
async def test_kms_beside_a_raw_key(url: str, keys: dict[str, str]) -> None:
    raw = RawAESMasterKey("raw", "key", wrapping_key=bytes(32))
    async with MultiMasterKeyProvider(
        KMSMasterKeyProvider([keys[US]], connection=AWSConnection(kms=url)), raw
    ) as provider:
        message, header = await encrypt(PLAINTEXT, provider)
    assert [key.provider_id for key in header.encrypted_data_keys] == ["aws-kms", "raw"]
    assert (await decrypt(message, raw)).plaintext == PLAINTEXT
    async with discovery(url) as reader:
        assert (await decrypt(message, reader)).plaintext == PLAINTEXT


# Ours and boto3


@on_asyncio
async def test_boto3_opens_every_encrypted_data_key_of_ours(
    url: str, boto: dict[str, Any], keys: dict[str, str]
) -> None:
    async with KMSMasterKeyProvider([keys[US], keys[EU]], connection=AWSConnection(kms=url)) as provider:
        data_key, encrypted, _ = await make_data_key(provider, request())
        _, header = await encrypt(PLAINTEXT, provider, encryption_context=CONTEXT)
    for region, key in zip((US, EU), encrypted, strict=True):
        opened = boto[region].decrypt(CiphertextBlob=key.ciphertext, EncryptionContext=CONTEXT)
        assert (opened["KeyId"], opened["Plaintext"]) == (keys[region], data_key.plaintext)
        with pytest.raises(ClientError, match="InvalidCiphertextException"):
            boto[region].decrypt(CiphertextBlob=key.ciphertext, EncryptionContext={"tenant": "43"})
    # of a signed message, whose public key stands in the context
    first, second = (data_key_by_boto(boto, header, index, region) for index, region in enumerate((US, EU)))
    assert first == second
    assert len(first) == 32


@on_asyncio
@pytest.mark.parametrize("make", ["generate", "encrypt"])
async def test_ours_opens_the_encrypted_data_keys_of_boto3(
    url: str, boto: dict[str, Any], keys: dict[str, str], make: str
) -> None:
    if make == "generate":
        answer = boto[EU].generate_data_key(KeyId=keys[EU], NumberOfBytes=32, EncryptionContext=CONTEXT)
    else:
        answer = boto[EU].encrypt(KeyId=keys[EU], Plaintext=DATA_KEY, EncryptionContext=CONTEXT)
    encrypted = EncryptedDataKey("aws-kms", answer["KeyId"].encode(), answer["CiphertextBlob"])
    expected = answer.get("Plaintext", DATA_KEY)
    for provider in (
        KMSMasterKeyProvider([keys[US], keys[EU]], connection=AWSConnection(kms=url)),
        discovery(url),
    ):
        async with provider:
            opened = await provider.decrypt_data_key(request(encrypted))
            assert opened.data_key.plaintext == expected
            assert opened.master_key.key_id == keys[EU]


# Refusals, and clients that are given


@on_asyncio
async def test_a_key_that_is_not_there(url: str, keys: dict[str, str]) -> None:
    missing = keys[US][:-12] + "0" * 12
    for key_ids in ([missing], [keys[US], missing]):
        async with KMSMasterKeyProvider(key_ids, connection=AWSConnection(kms=url)) as provider:
            with pytest.raises(ProviderError, match="check the key id, account and region") as caught:
                await encrypt(PLAINTEXT, provider)
        told = service_error_of(caught.value)
        assert told.code == "NotFoundException"
        assert isinstance(told.__cause__, ClientError)
        assert caught.value.attempts[0].key_id == missing


@on_asyncio
async def test_a_changed_data_key_and_the_next_one(url: str, keys: dict[str, str]) -> None:
    async with KMSMasterKeyProvider([keys[US], keys[EU]], connection=AWSConnection(kms=url)) as provider:
        data_key, (first, second), _ = await make_data_key(provider, request())
        changed = EncryptedDataKey("aws-kms", first.provider_info, first.ciphertext[:-1] + b"\x00\x00")
        opened = await provider.decrypt_data_key(request(changed, second))
        assert (opened.data_key, opened.master_key.key_id) == (data_key, keys[EU])
        with pytest.raises(ProviderError) as caught:
            await provider.decrypt_data_key(request(changed))
    assert service_error_of(caught.value).code == "InvalidCiphertextException"


@pytest.fixture
async def client(url: str) -> AsyncIterator[Any]:
    async with get_session().create_client("kms", region_name=US, endpoint_url=url) as client:
        yield client


@on_asyncio
async def test_a_client_in_a_fixture(client: Any, keys: dict[str, str]) -> None:
    provider = KMSMasterKeyProvider([keys[US]], connection=AWSConnection(kms={US: client}))
    message, _ = await encrypt(PLAINTEXT, provider)
    async with provider:
        assert (await decrypt(message, provider)).plaintext == PLAINTEXT
    await client.describe_key(KeyId=keys[US])
