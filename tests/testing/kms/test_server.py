"""The in-memory KMS over HTTP, called by boto3, by aiobotocore, and by clients that speak nonsense."""

from __future__ import annotations

import asyncio
import importlib
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, closing
from datetime import datetime
from typing import Any

import aiohttp
import boto3
import pytest
import pytest_asyncio
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from aioencrypt.testing import InMemoryKMS
from aioencrypt.testing.kms import KMSServer, run_in_thread
from tests.support.kms_pairs import oaep

US, EU = "us-east-1", "eu-west-1"
AUTHORIZATION = (
    "AWS4-HMAC-SHA256 Credential=anybody/20260101/us-east-1/kms/aws4_request, SignedHeaders=host, Signature=0"
)


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


@pytest.fixture
def url(kms: InMemoryKMS) -> Iterator[str]:
    with run_in_thread(kms) as url:
        yield url


@pytest.fixture
def connect(url: str) -> Iterator[Callable[..., Any]]:
    """A function that makes boto3 clients for a region."""
    clients = []

    def connect(region: str = US, **config: Any) -> Any:
        config = {"retries": {"mode": "standard", "total_max_attempts": 1}, **config}
        client = boto3.client(
            "kms",
            endpoint_url=url,
            region_name=region,
            aws_access_key_id="anybody",
            aws_secret_access_key="anything",
            config=Config(**config),
        )
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.close()


def code(error: ClientError) -> str:
    text: str = error.response["Error"]["Code"]
    return text


# boto3


def test_data_keys(kms: InMemoryKMS, connect: Callable[..., Any]) -> None:
    key, client = kms.create_key(), connect()
    context = {"größe": "ß"}
    made = client.generate_data_key(KeyId=key, NumberOfBytes=32, EncryptionContext=context)
    assert (made["KeyId"], len(made["Plaintext"])) == (key, 32)
    opened = client.decrypt(KeyId=key, CiphertextBlob=made["CiphertextBlob"], EncryptionContext=context)
    assert (opened["KeyId"], opened["Plaintext"]) == (key, made["Plaintext"])
    with pytest.raises(client.exceptions.InvalidCiphertextException) as caught:
        client.decrypt(KeyId=key, CiphertextBlob=made["CiphertextBlob"])
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert len(caught.value.response["ResponseMetadata"]["RequestId"]) == 36
    assert len(client.generate_data_key(KeyId=key, KeySpec="AES_128")["Plaintext"]) == 16
    assert "Plaintext" not in client.generate_data_key_without_plaintext(KeyId=key, NumberOfBytes=8)


def test_encrypt_and_re_encrypt(kms: InMemoryKMS, connect: Callable[..., Any]) -> None:
    old, new, client = kms.create_key(), kms.create_key(), connect()
    blob = client.encrypt(KeyId=old, Plaintext=b"secret")["CiphertextBlob"]
    moved = client.re_encrypt(CiphertextBlob=blob, SourceKeyId=old, DestinationKeyId=new)
    assert (moved["SourceKeyId"], moved["KeyId"]) == (old, new)
    assert client.decrypt(CiphertextBlob=moved["CiphertextBlob"])["Plaintext"] == b"secret"
    with pytest.raises(client.exceptions.IncorrectKeyException):
        client.decrypt(CiphertextBlob=moved["CiphertextBlob"], KeyId=old)


def test_rsa_keys(connect: Callable[..., Any]) -> None:
    client = connect()
    key = client.create_key(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")["KeyMetadata"]["Arn"]
    algorithm = "RSAES_OAEP_SHA_256"
    answer = client.get_public_key(KeyId=key)
    assert algorithm in answer["EncryptionAlgorithms"]
    public = load_der_public_key(answer["PublicKey"])
    assert isinstance(public, RSAPublicKey)
    blob = public.encrypt(b"secret", oaep(algorithm))
    opened = client.decrypt(KeyId=key, CiphertextBlob=blob, EncryptionAlgorithm=algorithm)
    assert (opened["KeyId"], opened["Plaintext"]) == (key, b"secret")
    with pytest.raises(client.exceptions.InvalidKeyUsageException):
        client.generate_data_key(KeyId=key, NumberOfBytes=32)


def test_key_agreement(connect: Callable[..., Any]) -> None:
    client = connect()
    made = [client.create_key(KeySpec="ECC_NIST_P384", KeyUsage="KEY_AGREEMENT") for _ in range(2)]
    keys = [answer["KeyMetadata"]["Arn"] for answer in made]
    public = [client.get_public_key(KeyId=key)["PublicKey"] for key in keys]
    secrets = [
        client.derive_shared_secret(KeyId=key, KeyAgreementAlgorithm="ECDH", PublicKey=peer)["SharedSecret"]
        for key, peer in zip(keys, reversed(public), strict=True)
    ]
    assert secrets[0] == secrets[1]
    assert len(secrets[0]) == 48


def test_the_region_is_that_of_the_signature(kms: InMemoryKMS, connect: Callable[..., Any]) -> None:
    here, there = connect(US), connect(EU)
    key = there.create_key(Description="mine")["KeyMetadata"]["Arn"]
    assert key.startswith("arn:aws:kms:eu-west-1:111122223333:key/")
    blob = there.encrypt(KeyId=key, Plaintext=b"secret")["CiphertextBlob"]
    with pytest.raises(here.exceptions.NotFoundException, match="Invalid arn eu-west-1"):
        here.decrypt(CiphertextBlob=blob, KeyId=key)
    with pytest.raises(ClientError, match="AccessDeniedException"):
        here.decrypt(CiphertextBlob=blob)
    assert [call.region for call in kms.calls] == [EU, EU, US, US]


def test_multi_region_keys(connect: Callable[..., Any]) -> None:
    here, there = connect(US), connect(EU)
    primary = here.create_key(MultiRegion=True)["KeyMetadata"]
    assert primary["MultiRegionConfiguration"]["MultiRegionKeyType"] == "PRIMARY"
    replica = here.replicate_key(KeyId=primary["Arn"], ReplicaRegion=EU)["ReplicaKeyMetadata"]
    assert replica["KeyId"] == primary["KeyId"]
    assert replica["MultiRegionConfiguration"]["MultiRegionKeyType"] == "REPLICA"
    made = here.generate_data_key(KeyId=primary["Arn"], KeySpec="AES_256")
    opened = there.decrypt(CiphertextBlob=made["CiphertextBlob"], KeyId=replica["Arn"])
    assert (opened["KeyId"], opened["Plaintext"]) == (replica["Arn"], made["Plaintext"])
    with pytest.raises(here.exceptions.AlreadyExistsException):
        here.replicate_key(KeyId=primary["KeyId"], ReplicaRegion=EU)
    with pytest.raises(there.exceptions.UnsupportedOperationException):
        there.replicate_key(KeyId=replica["Arn"], ReplicaRegion="ap-south-1")


def test_aliases(connect: Callable[..., Any]) -> None:
    client = connect()
    key = client.create_key()["KeyMetadata"]["Arn"]
    client.create_alias(AliasName="alias/app", TargetKeyId=key)
    assert client.generate_data_key(KeyId="alias/app", KeySpec="AES_256")["KeyId"] == key
    with pytest.raises(client.exceptions.AlreadyExistsException):
        client.create_alias(AliasName="alias/app", TargetKeyId=key)
    client.delete_alias(AliasName="alias/app")
    with pytest.raises(client.exceptions.NotFoundException):
        client.describe_key(KeyId="alias/app")


def test_key_states(connect: Callable[..., Any]) -> None:
    client = connect()
    key = client.create_key()["KeyMetadata"]["Arn"]
    client.disable_key(KeyId=key)
    with pytest.raises(client.exceptions.DisabledException):
        client.encrypt(KeyId=key, Plaintext=b"secret")
    client.enable_key(KeyId=key)
    client.encrypt(KeyId=key, Plaintext=b"secret")
    scheduled = client.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    assert (scheduled["KeyState"], scheduled["PendingWindowInDays"]) == ("PendingDeletion", 7)
    assert isinstance(scheduled["DeletionDate"], datetime)
    with pytest.raises(client.exceptions.KMSInvalidStateException):
        client.encrypt(KeyId=key, Plaintext=b"secret")
    assert client.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "PendingDeletion"
    assert client.cancel_key_deletion(KeyId=key)["KeyId"] == key
    assert client.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Disabled"


def test_denials_and_grants(kms: InMemoryKMS, connect: Callable[..., Any]) -> None:
    client = connect()
    key = client.create_key()["KeyMetadata"]["Arn"]
    principal = "arn:aws:iam::111122223333:user/me"
    grant = client.create_grant(KeyId=key, GranteePrincipal=principal, Operations=["Encrypt"])
    kms.deny(key, "Encrypt")
    with pytest.raises(ClientError, match="AccessDeniedException"):
        client.encrypt(KeyId=key, Plaintext=b"secret")
    client.encrypt(KeyId=key, Plaintext=b"secret", GrantTokens=[grant["GrantToken"]])
    with pytest.raises(client.exceptions.InvalidGrantTokenException):
        client.encrypt(KeyId=key, Plaintext=b"secret", GrantTokens=["bogus"])


def test_expired_credentials(kms: InMemoryKMS, connect: Callable[..., Any]) -> None:
    kms.expire_credentials()
    with pytest.raises(ClientError, match="ExpiredTokenException"):
        connect().create_key()


def test_throttles_are_retried_and_every_attempt_is_logged(
    kms: InMemoryKMS, connect: Callable[..., Any]
) -> None:
    key = kms.create_key()
    client = connect(retries={"mode": "standard", "total_max_attempts": 3})
    kms.fail_next("ThrottlingException", times=2)
    assert client.describe_key(KeyId=key)["ResponseMetadata"]["RetryAttempts"] == 2
    assert [call.error for call in kms.calls] == ["ThrottlingException", "ThrottlingException", None]
    kms.reset_calls()
    kms.fail_next("KMSInternalException", times=3)
    with pytest.raises(client.exceptions.KMSInternalException) as caught:
        client.describe_key(KeyId=key)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    assert kms.call_count("DescribeKey") == 3


def test_an_outage_drops_the_connection(kms: InMemoryKMS, connect: Callable[..., Any]) -> None:
    here, there = connect(US), connect(EU)
    kms.outage(EU)
    with pytest.raises(ConnectionClosedError):
        there.create_key()
    here.create_key()
    kms.recover(EU)
    there.create_key()


def test_latency_and_a_client_that_does_not_wait(kms: InMemoryKMS, connect: Callable[..., Any]) -> None:
    client = connect()
    kms.latency = 0.1
    started = time.monotonic()
    client.create_key()
    assert time.monotonic() - started >= 0.1
    kms.latency = 3600
    with pytest.raises(ReadTimeoutError):
        connect(read_timeout=0.5).create_key()
    assert kms.call_count("CreateKey") == 2


def test_altered_answers(kms: InMemoryKMS, connect: Callable[..., Any]) -> None:
    key, client = kms.create_key(), connect()
    kms.answer_next("GenerateDataKey", {"Plaintext": b"short", "KeyId": None})
    altered = client.generate_data_key(KeyId=key, NumberOfBytes=32)
    assert altered["Plaintext"] == b"short"
    assert "KeyId" not in altered


# aiobotocore, and the server on the loop of its clients


@pytest_asyncio.fixture
async def server(kms: InMemoryKMS) -> AsyncIterator[KMSServer]:
    async with KMSServer(kms) as server:
        yield server


@pytest_asyncio.fixture
async def clients(server: KMSServer) -> AsyncIterator[dict[str, Any]]:
    async with AsyncExitStack() as stack:
        config = AioConfig(retries={"mode": "standard", "total_max_attempts": 3})
        made = {}
        for region in (US, EU):
            client = get_session().create_client(
                "kms",
                endpoint_url=server.url,
                region_name=region,
                aws_access_key_id="anybody",
                aws_secret_access_key="anything",
                config=config,
            )
            made[region] = await stack.enter_async_context(client)
        yield made


@pytest.mark.asyncio
async def test_aiobotocore(kms: InMemoryKMS, clients: dict[str, Any]) -> None:
    primary = kms.create_key(multi_region=True)
    replica = kms.replicate_key(primary, EU)
    made = await clients[US].generate_data_key(KeyId=primary, NumberOfBytes=32, EncryptionContext={"a": "1"})
    opened = await clients[EU].decrypt(
        KeyId=replica, CiphertextBlob=made["CiphertextBlob"], EncryptionContext={"a": "1"}
    )
    assert (opened["KeyId"], opened["Plaintext"]) == (replica, made["Plaintext"])
    with pytest.raises(ClientError) as caught:
        await clients[EU].decrypt(KeyId=primary, CiphertextBlob=made["CiphertextBlob"])
    assert code(caught.value) == "NotFoundException"
    kms.disable_key(replica)
    with pytest.raises(ClientError, match="DisabledException"):
        await clients[EU].decrypt(KeyId=replica, CiphertextBlob=made["CiphertextBlob"])
    kms.deny(primary, "GenerateDataKey")
    with pytest.raises(ClientError, match="AccessDeniedException"):
        await clients[US].generate_data_key(KeyId=primary, NumberOfBytes=32)


@pytest.mark.asyncio
async def test_aiobotocore_retries_throttles(kms: InMemoryKMS, clients: dict[str, Any]) -> None:
    key = kms.create_key()
    kms.fail_next("ThrottlingException", times=2)
    await clients[US].describe_key(KeyId=key)
    assert [call.error for call in kms.calls] == ["ThrottlingException", "ThrottlingException", None]


@pytest.mark.asyncio
async def test_aiobotocore_in_an_outage(kms: InMemoryKMS, clients: dict[str, Any]) -> None:
    key = kms.create_key()
    kms.outage(US)
    with pytest.raises(ConnectionClosedError):
        await clients[US].describe_key(KeyId=key)
    assert [call.error for call in kms.calls] == ["ConnectionError"] * 3
    kms.recover(US)
    await clients[US].describe_key(KeyId=key)


@pytest.mark.asyncio
async def test_aiobotocore_cancelled(kms: InMemoryKMS, clients: dict[str, Any]) -> None:
    key = kms.create_key()
    kms.latency = 3600
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await clients[US].describe_key(KeyId=key)
    kms.latency = 0
    await clients[US].describe_key(KeyId=key)


# The server itself


@pytest.mark.asyncio
async def test_life_of_a_server(kms: InMemoryKMS) -> None:
    server = KMSServer(kms)
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.url
    for _ in range(2):
        async with server as entered:
            assert entered is server
            assert server.url.startswith("http://127.0.0.1:")
            with pytest.raises(RuntimeError, match="running already"):
                await server.__aenter__()
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.url


@pytest.mark.asyncio
async def test_a_port_in_use(kms: InMemoryKMS) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port: int = taken.getsockname()[1]
        server = KMSServer(kms, port=port)
        with pytest.raises(OSError, match="address already in use"):
            await server.__aenter__()
    async with server:
        assert server.url == f"http://127.0.0.1:{port}"


@pytest.mark.asyncio
async def test_requests_under_way_do_not_hold_the_server_up(kms: InMemoryKMS) -> None:
    kms.latency = 3600
    async with aiohttp.ClientSession() as session:
        async with KMSServer(kms) as server:
            headers = {"X-Amz-Target": "TrentService.CreateKey", "Authorization": AUTHORIZATION}
            waiting = asyncio.create_task(session.post(server.url, data=b"{}", headers=headers))
            while not kms.call_count():
                await asyncio.sleep(0.005)
            started = time.monotonic()
        assert time.monotonic() - started < 5
        with pytest.raises(aiohttp.ClientError):
            await waiting


@pytest.mark.asyncio
async def test_ipv6(kms: InMemoryKMS) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    async with KMSServer(kms, host="::1") as server, aiohttp.ClientSession() as session:
        assert server.url.startswith("http://[::1]:")
        async with session.get(f"{server.url}/_calls") as response:
            assert await response.json() == {"count": 0, "calls": []}


def test_several_servers_in_threads(kms: InMemoryKMS) -> None:
    with run_in_thread(kms) as one, run_in_thread(kms) as two:
        assert one != two


def test_without_aiohttp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "aioencrypt.testing.kms.server")
    with pytest.raises(ImportError, match=r"pip install 'aioencrypt\[testing\]'"):
        importlib.import_module("aioencrypt.testing.kms.server")
