"""The client of the in-memory KMS: AWS's methods, spelled out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

_Invoke = Callable[[str, str, Mapping[str, object]], Awaitable[dict[str, Any]]]


class InMemoryKMSClient:
    """The methods of an aiobotocore KMS client, for one region; made by `InMemoryKMS.client()`.

    Parameters and answers are AWS's. Every answer has `ResponseMetadata`, and `KeyId` is the key ARN in
    this region. Every method raises `InMemoryKMSError`, which has the shape of botocore's `ClientError`,
    and `ConnectionError` in an outage. There is nothing to close.
    """

    def __init__(self, region: str, invoke: _Invoke) -> None:
        self.region = region
        self._invoke = invoke

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.region!r})"

    async def generate_data_key(
        self,
        *,
        KeyId: str,
        NumberOfBytes: int | None = None,
        KeySpec: str | None = None,
        EncryptionContext: Mapping[str, str] | None = None,
        GrantTokens: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Return `Plaintext`, `CiphertextBlob`, `KeyId`.

        Either `NumberOfBytes` is given, 1 to 1024, or `KeySpec`, `"AES_128"` or `"AES_256"`.
        """
        parameters = {
            "KeyId": KeyId,
            "NumberOfBytes": NumberOfBytes,
            "KeySpec": KeySpec,
            "EncryptionContext": EncryptionContext,
            "GrantTokens": GrantTokens,
        }
        return await self._invoke(self.region, "GenerateDataKey", parameters)

    async def generate_data_key_without_plaintext(
        self,
        *,
        KeyId: str,
        NumberOfBytes: int | None = None,
        KeySpec: str | None = None,
        EncryptionContext: Mapping[str, str] | None = None,
        GrantTokens: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Return `CiphertextBlob` and `KeyId`; the parameters are those of `generate_data_key`."""
        parameters = {
            "KeyId": KeyId,
            "NumberOfBytes": NumberOfBytes,
            "KeySpec": KeySpec,
            "EncryptionContext": EncryptionContext,
            "GrantTokens": GrantTokens,
        }
        return await self._invoke(self.region, "GenerateDataKeyWithoutPlaintext", parameters)

    async def encrypt(
        self,
        *,
        KeyId: str,
        Plaintext: bytes | bytearray | memoryview,
        EncryptionAlgorithm: str | None = None,
        EncryptionContext: Mapping[str, str] | None = None,
        GrantTokens: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Return `CiphertextBlob` and `KeyId`. The plaintext has 1 to 4096 bytes, fewer under an RSA key."""
        parameters = {
            "KeyId": KeyId,
            "Plaintext": Plaintext,
            "EncryptionAlgorithm": EncryptionAlgorithm,
            "EncryptionContext": EncryptionContext,
            "GrantTokens": GrantTokens,
        }
        return await self._invoke(self.region, "Encrypt", parameters)

    async def decrypt(
        self,
        *,
        CiphertextBlob: bytes | bytearray | memoryview,
        KeyId: str | None = None,
        EncryptionAlgorithm: str | None = None,
        EncryptionContext: Mapping[str, str] | None = None,
        GrantTokens: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Return `Plaintext` and `KeyId`. Without `KeyId` the blob says which symmetric key it is."""
        parameters = {
            "CiphertextBlob": CiphertextBlob,
            "KeyId": KeyId,
            "EncryptionAlgorithm": EncryptionAlgorithm,
            "EncryptionContext": EncryptionContext,
            "GrantTokens": GrantTokens,
        }
        return await self._invoke(self.region, "Decrypt", parameters)

    async def re_encrypt(
        self,
        *,
        CiphertextBlob: bytes | bytearray | memoryview,
        DestinationKeyId: str,
        SourceKeyId: str | None = None,
        SourceEncryptionAlgorithm: str | None = None,
        DestinationEncryptionAlgorithm: str | None = None,
        SourceEncryptionContext: Mapping[str, str] | None = None,
        DestinationEncryptionContext: Mapping[str, str] | None = None,
        GrantTokens: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Return `CiphertextBlob` under another key or context, `KeyId`, `SourceKeyId`."""
        parameters = {
            "CiphertextBlob": CiphertextBlob,
            "DestinationKeyId": DestinationKeyId,
            "SourceKeyId": SourceKeyId,
            "SourceEncryptionAlgorithm": SourceEncryptionAlgorithm,
            "DestinationEncryptionAlgorithm": DestinationEncryptionAlgorithm,
            "SourceEncryptionContext": SourceEncryptionContext,
            "DestinationEncryptionContext": DestinationEncryptionContext,
            "GrantTokens": GrantTokens,
        }
        return await self._invoke(self.region, "ReEncrypt", parameters)

    async def get_public_key(self, *, KeyId: str, GrantTokens: Sequence[str] | None = None) -> dict[str, Any]:
        """Return `PublicKey`, a DER SubjectPublicKeyInfo, `KeyId`, and what the key is for."""
        return await self._invoke(self.region, "GetPublicKey", {"KeyId": KeyId, "GrantTokens": GrantTokens})

    async def derive_shared_secret(
        self,
        *,
        KeyId: str,
        KeyAgreementAlgorithm: str,
        PublicKey: bytes | bytearray | memoryview,
        GrantTokens: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Return `SharedSecret`, the x coordinate as long as the curve has it, and `KeyId`.

        The algorithm is `"ECDH"`, the public key that of the peer, a DER SubjectPublicKeyInfo.
        """
        parameters = {
            "KeyId": KeyId,
            "KeyAgreementAlgorithm": KeyAgreementAlgorithm,
            "PublicKey": PublicKey,
            "GrantTokens": GrantTokens,
        }
        return await self._invoke(self.region, "DeriveSharedSecret", parameters)

    async def describe_key(self, *, KeyId: str, GrantTokens: Sequence[str] | None = None) -> dict[str, Any]:
        """Return `KeyMetadata`; its dates are `datetime` in UTC."""
        return await self._invoke(self.region, "DescribeKey", {"KeyId": KeyId, "GrantTokens": GrantTokens})
