"""Protocols of AWS clients. aiobotocore's clients have these methods; so may any other object."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol


class KMSClient(Protocol):
    """The methods that we call of an asynchronous KMS client.

    Symmetric keys use the first three, RSA keys `decrypt`, branch key stores `decrypt` and the next two,
    ECDH keys the last two.
    """

    async def generate_data_key(
        self,
        *,
        KeyId: str,
        NumberOfBytes: int,
        EncryptionContext: Mapping[str, str],
        GrantTokens: Sequence[str],
    ) -> Mapping[str, Any]: ...

    async def encrypt(
        self,
        *,
        KeyId: str,
        Plaintext: bytes,
        EncryptionContext: Mapping[str, str],
        GrantTokens: Sequence[str],
    ) -> Mapping[str, Any]: ...

    async def decrypt(
        self,
        *,
        KeyId: str,
        CiphertextBlob: bytes,
        EncryptionContext: Mapping[str, str] = ...,
        EncryptionAlgorithm: Any = ...,
        GrantTokens: Sequence[str],
    ) -> Mapping[str, Any]: ...

    async def generate_data_key_without_plaintext(
        self,
        *,
        KeyId: str,
        NumberOfBytes: int,
        EncryptionContext: Mapping[str, str],
        GrantTokens: Sequence[str],
    ) -> Mapping[str, Any]: ...

    async def re_encrypt(
        self,
        *,
        CiphertextBlob: bytes,
        SourceKeyId: str,
        SourceEncryptionContext: Mapping[str, str],
        DestinationKeyId: str,
        DestinationEncryptionContext: Mapping[str, str],
        GrantTokens: Sequence[str],
    ) -> Mapping[str, Any]: ...

    async def get_public_key(self, *, KeyId: str, GrantTokens: Sequence[str]) -> Mapping[str, Any]: ...

    async def derive_shared_secret(
        self, *, KeyId: str, KeyAgreementAlgorithm: Any, PublicKey: bytes, GrantTokens: Sequence[str]
    ) -> Mapping[str, Any]: ...


class DynamoDBClient(Protocol):
    """The methods that we call of an asynchronous DynamoDB client."""

    async def describe_table(self, *, TableName: str) -> Mapping[str, Any]: ...

    async def create_table(
        self,
        *,
        TableName: str,
        KeySchema: Sequence[Any],
        AttributeDefinitions: Sequence[Any],
        BillingMode: Any,
    ) -> Mapping[str, Any]: ...

    async def get_item(
        self, *, TableName: str, Key: Mapping[str, Any], ConsistentRead: bool = ...
    ) -> Mapping[str, Any]: ...

    async def transact_write_items(
        self, *, TransactItems: Sequence[Any], ClientRequestToken: str = ...
    ) -> Mapping[str, Any]: ...


ClientSupplier = Callable[[str | None], Awaitable[KMSClient]]
"""Returns the client for a region; for None, the client for the default region."""
