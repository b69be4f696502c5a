"""Tests of a service that encrypts under AWS KMS, without a network and without an account.

    pytest test_your_service.py

The service is `upload_service.py`. The KMS is a fixture that pytest has wherever aioencrypt is installed: it
is in memory, encrypts for real, and fails when it is told to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientPayloadError
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request
from upload_service import make_app

from aioencrypt import EncryptionContextMismatchError, KMSMasterKeyProvider, decrypt
from aioencrypt.testing import InMemoryKMS

pytestmark = pytest.mark.anyio

Client = TestClient[Request, Application]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def aioencrypt_provider(aioencrypt_kms: InMemoryKMS) -> KMSMasterKeyProvider:
    """In place of the provider with one key that the plugin has: this service writes to two regions."""
    regions = ["us-east-1", "eu-west-1"]
    keys = [aioencrypt_kms.create_key(region=region) for region in regions]
    return KMSMasterKeyProvider(keys, connection=aioencrypt_kms.connection(*regions))


@pytest.fixture
async def client(aioencrypt_provider: KMSMasterKeyProvider, tmp_path: Path) -> AsyncIterator[Client]:
    async with TestClient(TestServer(make_app(aioencrypt_provider, tmp_path))) as client:
        yield client


async def test_what_is_stored_is_encrypted(
    client: Client, aioencrypt_kms: InMemoryKMS, tmp_path: Path
) -> None:
    sent = await client.put("/files/report", data=b"quarterly figures")
    assert sent.status == 201
    assert b"quarterly" not in (tmp_path / "report").read_bytes()

    received = await client.get("/files/report")
    assert await received.read() == b"quarterly figures"
    assert [call.operation for call in aioencrypt_kms.calls] == ["GenerateDataKey", "Encrypt", "Decrypt"]


async def test_one_region_is_enough_to_read(client: Client, aioencrypt_kms: InMemoryKMS) -> None:
    await client.put("/files/report", data=b"quarterly figures")
    aioencrypt_kms.outage("us-east-1")
    received = await client.get("/files/report")
    assert await received.read() == b"quarterly figures"


async def test_every_region_is_needed_to_write(
    client: Client, aioencrypt_kms: InMemoryKMS, tmp_path: Path
) -> None:
    aioencrypt_kms.outage("eu-west-1")
    sent = await client.put("/files/report", data=b"quarterly figures")
    assert sent.status == 500
    assert names(tmp_path) == []


async def test_without_permission_there_is_an_error_before_the_status_line(
    client: Client, aioencrypt_kms: InMemoryKMS
) -> None:
    await client.put("/files/report", data=b"quarterly figures")
    for key in {call.key_id for call in aioencrypt_kms.calls if call.key_id}:
        aioencrypt_kms.deny(key, "Decrypt")
    received = await client.get("/files/report")
    assert received.status == 500


async def test_a_damaged_file_breaks_the_connection(client: Client, tmp_path: Path) -> None:
    await client.put("/files/report", data=b"quarterly figures" * 60_000)
    stored = bytearray((tmp_path / "report").read_bytes())
    stored[900_000] ^= 1
    (tmp_path / "report").write_bytes(stored)
    received = await client.get("/files/report")
    assert received.status == 200
    with pytest.raises(ClientPayloadError):
        await received.read()


async def test_a_file_is_bound_to_its_name(
    client: Client, aioencrypt_provider: KMSMasterKeyProvider, tmp_path: Path
) -> None:
    await client.put("/files/report", data=b"quarterly figures")
    message = (tmp_path / "report").read_bytes()
    with pytest.raises(EncryptionContextMismatchError):
        await decrypt(message, aioencrypt_provider, encryption_context={"name": "another"})
