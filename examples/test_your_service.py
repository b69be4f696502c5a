"""Tests of a service that encrypts under AWS KMS, without a network and without an account.

    pytest test_your_service.py

The service is `upload_service.py`; the KMS is in memory, encrypts for real, and fails when it is told to.
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
def kms() -> InMemoryKMS:
    return InMemoryKMS()


@pytest.fixture
def provider(kms: InMemoryKMS) -> KMSMasterKeyProvider:
    keys = [kms.create_key(region="us-east-1"), kms.create_key(region="eu-west-1")]
    return KMSMasterKeyProvider(keys, clients=kms.clients("us-east-1", "eu-west-1"))


@pytest.fixture
async def client(provider: KMSMasterKeyProvider, tmp_path: Path) -> AsyncIterator[Client]:
    async with TestClient(TestServer(make_app(provider, tmp_path))) as client:
        yield client


async def test_what_is_stored_is_encrypted(client: Client, kms: InMemoryKMS, tmp_path: Path) -> None:
    sent = await client.put("/files/report", data=b"quarterly figures")
    assert sent.status == 201
    assert b"quarterly" not in (tmp_path / "report").read_bytes()

    received = await client.get("/files/report")
    assert await received.read() == b"quarterly figures"
    assert [call.operation for call in kms.calls] == ["GenerateDataKey", "Encrypt", "Decrypt"]


async def test_one_region_is_enough_to_read(client: Client, kms: InMemoryKMS) -> None:
    await client.put("/files/report", data=b"quarterly figures")
    kms.outage("us-east-1")
    received = await client.get("/files/report")
    assert await received.read() == b"quarterly figures"


async def test_every_region_is_needed_to_write(client: Client, kms: InMemoryKMS, tmp_path: Path) -> None:
    kms.outage("eu-west-1")
    sent = await client.put("/files/report", data=b"quarterly figures")
    assert sent.status == 500
    assert names(tmp_path) == []


async def test_without_permission_there_is_an_error_before_the_status_line(
    client: Client, kms: InMemoryKMS
) -> None:
    await client.put("/files/report", data=b"quarterly figures")
    for key in {call.key_id for call in kms.calls if call.key_id}:
        kms.deny(key, "Decrypt")
    received = await client.get("/files/report")
    assert received.status == 500


async def test_a_damaged_file_breaks_the_connection(client: Client, tmp_path: Path) -> None:
    await client.put("/files/report", data=b"quarterly figures" * 1000)
    stored = bytearray((tmp_path / "report").read_bytes())
    stored[-1] ^= 1
    (tmp_path / "report").write_bytes(stored)
    received = await client.get("/files/report")
    assert received.status == 200
    with pytest.raises(ClientPayloadError):
        await received.read()


async def test_a_file_is_bound_to_its_name(
    client: Client, provider: KMSMasterKeyProvider, tmp_path: Path
) -> None:
    await client.put("/files/report", data=b"quarterly figures")
    message = (tmp_path / "report").read_bytes()
    with pytest.raises(EncryptionContextMismatchError):
        await decrypt(message, provider, encryption_context={"name": "another"})
