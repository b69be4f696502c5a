"""Text from an unauthenticated header cannot forge lines or colours in what people read."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from aioencrypt import (
    AlgorithmSuite,
    AWSConnection,
    EncryptionError,
    KMSDiscoveryMasterKeyProvider,
    KMSMasterKeyProvider,
    MultiMasterKeyProvider,
    RawAESMasterKey,
    decrypt,
    encrypt,
)
from aioencrypt.branch_keys import HierarchicalMasterKey
from aioencrypt.errors import Attempt
from aioencrypt.inspection import inspect_message
from aioencrypt.integrations.s3 import open_encrypted, put_encrypted
from aioencrypt.materials import DataKey, DataKeyRequest, EncryptedDataKey
from aioencrypt.testing import InMemoryKMS
from tests.support.hierarchical import MemoryKeyStore
from tests.support.memory_s3 import MemoryS3
from tests.support.secrets import errors_of
from tests.support.streaming import on_asyncio
from tests.support.telemetry import telemetry

pytestmark = [pytest.mark.anyio, on_asyncio]

FORGED = "\n2026-11-30 ERROR forged \x1b[31m\u202e"
ARN = f"arn:aws:kms:us-east-1:111122223333:key/1234{FORGED}"
UNSIGNED = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
NO_KEY = RawAESMasterKey("tests", "none", wrapping_key=bytes(32))


class Stranger(RawAESMasterKey):
    """Writes what it likes where messages name their keys."""

    def __init__(self, written_id: str, info: bytes) -> None:
        super().__init__("tests", "stranger", wrapping_key=bytes(32))
        self.written = (written_id, info)

    async def encrypt_data_key(self, data_key: DataKey, request: DataKeyRequest) -> EncryptedDataKey:
        return EncryptedDataKey(*self.written, bytes(60))


def assert_readable(*texts: str) -> None:
    for text in texts:
        assert text.isprintable(), repr(text)


@pytest.mark.parametrize(
    ("provider_id", "info"),
    [
        ("aws-kms", ARN.encode()),
        ("aws-kms-rsa", ARN.encode()),
        ("aws-kms-hierarchy", f"name{FORGED}".encode()),
        (f"tests{FORGED}", f"name{FORGED}".encode()),
        ("raw-ecdh", FORGED.encode()),
    ],
)
async def test_headers_forge_nothing(provider_id: str, info: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "aioencrypt")
    stranger = Stranger(provider_id, info)
    message, header = await encrypt(b"text", stranger, encryption_context={f"key{FORGED}": FORGED})
    kms = InMemoryKMS()
    discovery = KMSDiscoveryMasterKeyProvider(discovery_filter=None, connection=kms.connection("us-east-1"))
    branches = HierarchicalMasterKey(MemoryKeyStore(), branch_key_id="name", max_age=60)
    with pytest.raises(Exception) as caught:  # noqa: PT011 (several)
        await decrypt(message, MultiMasterKeyProvider(None, discovery, branches, NO_KEY))
    assert kms.call_count() == 0
    for error in errors_of(caught.value):
        assert_readable(str(error), repr(error))
    assert_readable(*caplog.messages, repr(header), *map(repr, header.encrypted_data_keys))
    inspection = await inspect_message(message)
    assert_readable(repr(inspection), *(str(key) for key in inspection.keys))
    assert inspection.key_arns == ()


async def test_other_contexts_forge_nothing() -> None:
    message, _ = await encrypt(
        b"text", NO_KEY, encryption_context={f"key{FORGED}": "a"}, algorithm_suite=UNSIGNED
    )
    with pytest.raises(Exception) as caught:  # noqa: PT011 (several)
        await decrypt(message, NO_KEY, encryption_context={f"key{FORGED}": "b"})
    assert_readable(str(caught.value), repr(caught.value))


async def test_attempts_forge_nothing() -> None:
    failed = Attempt("decrypt", f"own{FORGED}", f"key{FORGED}", ValueError(FORGED))
    assert_readable(str(failed), repr(failed))


class Refused(Exception):
    """An error of a client, in the shape of botocore's, of which a stranger wrote every text."""

    def __init__(self) -> None:
        super().__init__(FORGED)
        self.response = {
            "Error": {"Code": FORGED, "Message": FORGED},
            "ResponseMetadata": {"RequestId": FORGED, "HTTPStatusCode": FORGED},
        }


class ForgingClient:
    """A KMS client that raises and answers forged texts."""

    async def generate_data_key(self, **options: Any) -> Any:
        raise Refused

    async def decrypt(self, **options: Any) -> Any:
        return {"KeyId": FORGED, "Plaintext": bytes(32), "ResponseMetadata": {"RequestId": FORGED}}


async def test_services_forge_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "aioencrypt")
    client: Any = ForgingClient()
    region = f"us-east-1{FORGED}"
    kms = AWSConnection(region=region, kms={region: client, "us-east-1": client})
    asked, _ = await encrypt(b"", Stranger("aws-kms", ARN.removesuffix(FORGED).encode()))
    with telemetry() as exported:
        for use in (
            lambda: encrypt(b"", KMSMasterKeyProvider(["alias/name"], connection=kms)),
            lambda: decrypt(asked, KMSMasterKeyProvider([ARN.removesuffix(FORGED)], connection=kms)),
        ):
            with pytest.raises(EncryptionError) as caught:
                await use()
            for error in errors_of(caught.value):
                assert isinstance(error, Refused) or str(error).isprintable()
    assert exported.named("KMS.GenerateDataKey")
    assert exported.named("KMS.Decrypt")
    for span in exported.spans:
        for value in (span.attributes or {}).values():
            assert_readable(*map(str, value if isinstance(value, tuple) else [value]))
    assert_readable(*caplog.messages)


async def test_names_of_objects_forge_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "aioencrypt")
    for call in (
        put_encrypted(MemoryS3(), f"bucket{FORGED}", f"key{FORGED}", b"", NO_KEY),
        open_encrypted(MemoryS3(), f"bucket{FORGED}", f"key{FORGED}", NO_KEY).__aenter__(),
    ):
        with pytest.raises(EncryptionError) as caught:
            await call
        assert_readable(str(caught.value), *caplog.messages)
    assert len(caplog.messages) == 2
