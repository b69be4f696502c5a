"""Managers and client suppliers as a type checker sees them: the rules of this file are those of `api.py`."""

from __future__ import annotations

from typing import assert_type

from aioencrypt import (
    AWSConnection,
    EncryptionClient,
    KMSDiscoveryMasterKeyProvider,
    KMSMasterKeyProvider,
    Provenance,
    Provider,
    RawAESMasterKey,
    RequiredEncryptionContextCMM,
    RequiredEncryptionContextError,
    decrypt,
    decrypt_stream,
    encrypt,
    encrypt_stream,
    open,
)
from aioencrypt.aws import ClientSupplier, KMSClient, KMSClientFactory, exclude_regions, limit_regions
from aioencrypt.materials import DecryptionMaterials, EncryptionMaterials, KeyUse

key = RawAESMasterKey("tests", "typing", wrapping_key=bytes(32))
kms_key = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


async def provenance(written: EncryptionMaterials, read: DecryptionMaterials) -> None:
    assert_type((await encrypt(b"", key)).provenance, Provenance)
    assert_type((await decrypt(b"", key)).provenance, Provenance)
    async with encrypt_stream(b"", key) as sealing, decrypt_stream(b"", key) as opening:
        assert_type(sealing.provenance, Provenance)
        assert_type(opening.provenance, Provenance)
    async with open("file", "wb", provider=key) as writer:
        assert_type(writer.provenance, Provenance)
    assert_type(written.provenance, Provenance)
    assert_type(read.provenance.keys, tuple[KeyUse, ...])
    assert_type(read.provenance.cached, bool)
    use = KeyUse("decrypt", "ns", "name")
    assert_type((use.provider_id, use.key_id), tuple[str, str])
    KeyUse("unwrap", "ns", "name")  # type: ignore[arg-type]
    use.key_id = "other"  # type: ignore[misc]
    (await decrypt(b"", key)).provenance = Provenance()  # type: ignore[misc]


async def required_context() -> None:
    cmm = RequiredEncryptionContextCMM(key, ["tenant"])
    provider: Provider = RequiredEncryptionContextCMM(cmm, {"tenant", "zone"})
    async with cmm as entered:
        assert_type(entered, RequiredEncryptionContextCMM)
    await encrypt(b"", provider, encryption_context={"tenant": "42"})
    RequiredEncryptionContextCMM(key)  # type: ignore[call-arg]
    RequiredEncryptionContextCMM("key", ["tenant"])  # type: ignore[arg-type]
    RequiredEncryptionContextCMM(key, [1])  # type: ignore[list-item]
    error = RequiredEncryptionContextError(["tenant"])
    assert_type(error.keys, tuple[str, ...])


async def suppliers() -> None:
    async with KMSClientFactory(connection=AWSConnection(kms="http://127.0.0.1:1")) as factory:
        assert_type(factory, KMSClientFactory)
        assert_type(await factory("us-east-1"), KMSClient)
        assert_type(await factory(None), KMSClient)
        limited = limit_regions(factory, ["us-east-1"])
        assert_type(limited, ClientSupplier)
        assert_type(exclude_regions(limited, {"eu-west-1"}), ClientSupplier)
        KMSMasterKeyProvider([kms_key], connection=AWSConnection(kms=factory), preferred_region="us-east-1")
        KMSDiscoveryMasterKeyProvider(
            discovery_filter=None, connection=AWSConnection(kms=limited), preferred_region=None
        )
    limit_regions(factory, [None])  # type: ignore[list-item]
    limit_regions({}, ["us-east-1"])  # type: ignore[arg-type]
    KMSClientFactory(AWSConnection())  # type: ignore[call-arg]


def settings() -> None:
    EncryptionClient(net_v4_0_0_retry=False)
    EncryptionClient(net_v4_0_0_retry="forbid")  # type: ignore[arg-type]
