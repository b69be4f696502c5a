"""What the tests of KMS keys share: regions, requests, and clients that do something of their own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import anyio
import pytest

from aioencrypt import (
    AlgorithmSuite,
    AWSConnection,
    KMSMasterKeyProvider,
    MasterKeyProvider,
    MessageHeader,
    ProviderError,
    ServiceError,
    decrypt,
    encrypt,
)
from aioencrypt.materials import DataKeyRequest, EncryptedDataKey
from aioencrypt.testing import InMemoryKMS, InMemoryKMSClient

US, EU, AP = "us-east-1", "eu-west-1", "ap-south-1"
ACCOUNT = "111122223333"
ID, MRK = "1234abcd-12ab-34cd-56ef-1234567890ab", "mrk-4321abcd12ab34cd56ef1234567890ab"
SUITE = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
CONTEXT = {"tenant": "42", "größe": "ß"}
DATA_KEY = bytes(range(32))
OPERATIONS = {"generate": "GenerateDataKey", "encrypt": "Encrypt", "decrypt": "Decrypt"}
SECRET = "a value that nobody may see"

Call = Callable[[], Awaitable[Any]]
Around = Callable[[str, Mapping[str, Any], Call], Awaitable[Any]]


class WrappedClient:
    """A client of which `around(operation, parameters, call)` decides what becomes of each call."""

    def __init__(self, client: InMemoryKMSClient, around: Around) -> None:
        self._client = client
        self._around = around

    async def generate_data_key(self, **parameters: Any) -> Any:
        return await self._around(
            "GenerateDataKey", parameters, lambda: self._client.generate_data_key(**parameters)
        )

    async def encrypt(self, **parameters: Any) -> Any:
        return await self._around("Encrypt", parameters, lambda: self._client.encrypt(**parameters))

    async def decrypt(self, **parameters: Any) -> Any:
        return await self._around("Decrypt", parameters, lambda: self._client.decrypt(**parameters))


def wrapped(kms: InMemoryKMS, around: Around, *regions: str) -> dict[str, Any]:
    """Return such a client for each region."""
    return {region: WrappedClient(kms.client(region), around) for region in regions}


def arn(key: str, *, region: str = US, account: str = ACCOUNT, partition: str = "aws") -> str:
    return f"arn:{partition}:kms:{region}:{account}:{key}"


def provider_for(kms: InMemoryKMS, *key_ids: str, **options: Any) -> KMSMasterKeyProvider:
    """Return a provider with clients of three regions."""
    timeout = options.pop("timeout", 30.0)
    return KMSMasterKeyProvider(key_ids, connection=kms.connection(US, EU, AP, timeout=timeout), **options)


def request(*encrypted_data_keys: EncryptedDataKey, suite: AlgorithmSuite = SUITE) -> DataKeyRequest:
    """Return a request in `CONTEXT`."""
    return DataKeyRequest(
        algorithm_suite=suite, encryption_context=CONTEXT, encrypted_data_keys=encrypted_data_keys
    )


def region_of(key_arn: str) -> str:
    return key_arn.split(":")[3]


async def encrypted_data_key(
    kms: InMemoryKMS, key_arn: str, *, data_key: bytes = DATA_KEY, provider_info: str | None = None
) -> EncryptedDataKey:
    """Encrypt a data key in `CONTEXT` by a KMS key, past this library and past the log of calls."""
    calls = kms.calls
    answer = await kms.client(region_of(key_arn)).encrypt(
        KeyId=key_arn, Plaintext=data_key, EncryptionContext=CONTEXT
    )
    assert not calls, "make the encrypted data keys first"
    kms.reset_calls()
    info = key_arn if provider_info is None else provider_info
    return EncryptedDataKey("aws-kms", info.encode(), answer["CiphertextBlob"])


def calls_of(kms: InMemoryKMS) -> list[tuple[str, str, str | None]]:
    """Return operation, region and key of each request, and forget them."""
    calls = [(call.operation, call.region, call.key_id) for call in kms.calls]
    kms.reset_calls()
    return calls


def key_arns(header: MessageHeader) -> list[str]:
    """Return the names of the keys that can open a message."""
    return [key.provider_info.decode() for key in header.encrypted_data_keys]


async def opened_with(
    kms: InMemoryKMS, provider: MasterKeyProvider, *encrypted_data_keys: EncryptedDataKey
) -> list[str | None]:
    """Decrypt, and return the keys that were called; the last is the one that opened."""
    kms.reset_calls()
    opened = await provider.decrypt_data_key(request(*encrypted_data_keys))
    assert opened.data_key.plaintext == DATA_KEY
    assert opened.master_key.key_id == kms.calls[-1].key_id
    assert {call.operation for call in kms.calls} == {"Decrypt"}
    return [key for _, _, key in calls_of(kms)]


async def failure(
    operation: str, kms: InMemoryKMS, inject: Callable[[str], object], **options: Any
) -> tuple[ProviderError, str]:
    """Let `inject(key)` spoil a key and return the error of an operation under it, and the key.

    The key is the only one of the message, or, with "encrypt", the second one.
    """
    other, key = kms.create_key(region=US), kms.create_key(region=EU)
    timeout = options.pop("timeout", 30.0)
    connection = AWSConnection(kms=options.pop("clients", None) or kms.clients(US, EU), timeout=timeout)
    keys = [other, key] if operation == "encrypt" else [key]
    provider = KMSMasterKeyProvider(keys, connection=connection, **options)
    writing: Any = {"encryption_context": {"tenant": SECRET}, "algorithm_suite": SUITE}
    operate: Callable[[], Awaitable[object]] = partial(encrypt, b"x", provider, **writing)
    if operation == "decrypt":
        message, _ = await encrypt(b"x", provider_for(kms, key), **writing)
        operate = partial(decrypt, message, provider)
    inject(key)
    with pytest.raises(ProviderError) as caught, anyio.fail_after(10):
        await operate()
    error = caught.value
    assert type(error) is ProviderError
    (attempt,) = error.attempts
    assert (attempt.operation, attempt.provider_id, attempt.key_id) == (operation, "aws-kms", key)
    assert str(attempt) in str(error)
    assert str(attempt).startswith(f"{operation} under aws-kms {key}: ")
    if operation != "decrypt":
        assert error.__cause__ is attempt.error
        assert str(error).startswith(f"could not {operation} a data key; ")
    assert SECRET not in str(error)
    return error, key


def service_error_of(error: ProviderError) -> ServiceError:
    found = error.attempts[0].error
    assert isinstance(found, ServiceError)
    return found
