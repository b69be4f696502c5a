"""Symmetric AWS KMS keys.

Specification: framework/aws-kms/aws-kms-keyring.md, aws-kms-mrk-keyring.md,
aws-kms-discovery-keyring.md, aws-kms-mrk-discovery-keyring.md and the multi-keyrings over them.
"""

from __future__ import annotations

import enum
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NoReturn

import attrs

from aioencrypt.aws.connection import AWSConnection, EntersConnection, check_name
from aioencrypt.aws.errors import bytes_of, text_of
from aioencrypt.aws.protocols import KMSClient
from aioencrypt.errors import AttemptLog, ProviderError
from aioencrypt.format import EncryptedDataKey
from aioencrypt.providers.base import (
    DecryptedDataKey,
    MasterKey,
    MasterKeyProvider,
    checkpoint_every,
    no_data_key,
    try_decrypt,
)
from aioencrypt.providers.kms.arn import (
    KeyArn,
    check_identifier,
    check_unrelated,
    matches_for_decrypt,
    parse_key_arn,
)
from aioencrypt.providers.kms.service import KMSService
from aioencrypt.providers.raw.names import KMS_PROVIDER_ID
from aioencrypt.providers.values import DataKey, DataKeyRequest
from aioencrypt.runtime.arguments import check_choice, check_texts, check_type


class MultiRegion(enum.Enum):
    """How multi-Region keys are matched on decrypt.

    MATCH: a replica decrypts what another replica of the same key encrypted. EXACT: only the key named
    in the message decrypts it.
    """

    MATCH = "match"
    EXACT = "exact"


def _account_set(accounts: Sequence[str]) -> frozenset[str]:
    return frozenset(check_texts("accounts", accounts, "account id", ": a number loses leading zeros"))


@attrs.frozen
class DiscoveryFilter:
    """The accounts and the partition (``aws``, ``aws-cn``, ...) whose keys discovery may use."""

    accounts: frozenset[str] = attrs.field(converter=_account_set)
    partition: str = "aws"

    def __attrs_post_init__(self) -> None:
        check_type("partition", self.partition, str)
        if not self.accounts or not all(self.accounts) or not self.partition:
            raise ValueError("a discovery filter needs at least one account id and a partition")

    def allows(self, arn: KeyArn) -> bool:
        """Tell whether the filter allows a key."""
        return arn.partition == self.partition and arn.account in self.accounts


class KMSMasterKey(MasterKey):
    """One KMS key, created by a KMS provider."""

    def __init__(
        self,
        key_id: str,
        service: KMSService,
        *,
        multi_region: MultiRegion,
    ) -> None:
        arn = check_identifier(key_id)
        self._key_id = key_id
        self._region = arn.region if arn else None
        self._service = service
        self._multi_region = multi_region

    def __repr__(self) -> str:
        return f"KMSMasterKey({self._key_id!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a KMSMasterKey cannot be pickled or copied, as it shares clients; create its provider instead"
        )

    @property
    def provider_id(self) -> str:
        return KMS_PROVIDER_ID

    @property
    def key_id(self) -> str:
        return self._key_id

    @property
    def region(self) -> str | None:
        """The region of the key; None means the default region."""
        return self._region

    def owns_data_key(self, encrypted_data_key: EncryptedDataKey) -> bool:
        if encrypted_data_key.provider_id != KMS_PROVIDER_ID:
            return False
        stored = _stored_arn(encrypted_data_key)
        return stored is not None and self.opens(stored)

    def opens(self, stored: KeyArn) -> bool:
        """Tell whether this key can decrypt what the key `stored` encrypted."""
        if self._multi_region is MultiRegion.EXACT:
            return str(stored) == self._key_id
        return matches_for_decrypt(self._key_id, str(stored))

    async def _call(
        self, operation: str, call: Callable[[KMSClient], Awaitable[Mapping[str, Any]]]
    ) -> Mapping[str, Any]:
        return await self._service.call(operation, self._key_id, self._region, call)

    async def generate_data_key(self, request: DataKeyRequest) -> tuple[DataKey, EncryptedDataKey]:
        answer = await self._call(
            "GenerateDataKey",
            lambda client: client.generate_data_key(
                KeyId=self._key_id,
                NumberOfBytes=request.algorithm_suite.data_key_length,
                EncryptionContext=dict(request.encryption_context),
                GrantTokens=self._service.grant_tokens,
            ),
        )
        return DataKey(bytes_of(answer, "Plaintext")), _encrypted_data_key(answer)

    async def encrypt_data_key(self, data_key: DataKey, request: DataKeyRequest) -> EncryptedDataKey:
        answer = await self._call(
            "Encrypt",
            lambda client: client.encrypt(
                KeyId=self._key_id,
                Plaintext=data_key.plaintext,
                EncryptionContext=dict(request.encryption_context),
                GrantTokens=self._service.grant_tokens,
            ),
        )
        return _encrypted_data_key(answer)

    async def unwrap_data_key(self, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest) -> DataKey:
        answer = await self._call(
            "Decrypt",
            lambda client: client.decrypt(
                KeyId=self._key_id,
                CiphertextBlob=encrypted_data_key.ciphertext,
                EncryptionContext=dict(request.encryption_context),
                GrantTokens=self._service.grant_tokens,
            ),
        )
        if text_of(answer, "KeyId") != self._key_id:
            raise ProviderError(f"KMS used the key {answer['KeyId']!r}, not {self._key_id!r}")
        return DataKey(bytes_of(answer, "Plaintext"))


def _stored_arn(encrypted_data_key: EncryptedDataKey) -> KeyArn | None:
    """Return the key ARN of an encrypted data key, or None if its provider info is not a key ARN."""
    return parse_key_arn(encrypted_data_key.provider_info.decode("utf-8", "replace"))


def _encrypted_data_key(answer: Mapping[str, Any]) -> EncryptedDataKey:
    arn = text_of(answer, "KeyId")
    if parse_key_arn(arn) is None:
        raise ProviderError(f"KMS returned the key id {arn[:200]!r}, which is not a key ARN")
    ciphertext = bytes_of(answer, "CiphertextBlob")
    try:
        encrypted = EncryptedDataKey(KMS_PROVIDER_ID, arn.encode(), ciphertext)
        encrypted.serialize()
    except ValueError as error:
        raise ProviderError(f"the answer of KMS does not fit into a message: {error}") from error
    return encrypted


class _KMSProvider(EntersConnection, MasterKeyProvider):
    """Base class of the KMS providers: decrypts with the keys that a subclass selects."""

    _keys: tuple[KMSMasterKey, ...] = ()

    def __init__(self, service: KMSService, preferred_region: str | None) -> None:
        super().__init__(service)
        check_name("preferred_region", preferred_region)
        self._service = service
        self._preferred_region = preferred_region

    @abstractmethod
    def _keys_for(self, stored: KeyArn) -> Sequence[KMSMasterKey]:
        """Return the keys that may decrypt a data key encrypted under `stored`."""

    @property
    def named_keys(self) -> Sequence[MasterKey]:
        return self._keys

    async def decrypt_data_key(self, request: DataKeyRequest) -> DecryptedDataKey:
        preferred: list[tuple[EncryptedDataKey, KeyArn]] = []
        others: list[tuple[EncryptedDataKey, KeyArn]] = []
        for index, encrypted_data_key in enumerate(request.encrypted_data_keys):
            await checkpoint_every(index)
            if encrypted_data_key.provider_id == KMS_PROVIDER_ID:
                stored = _stored_arn(encrypted_data_key)
                if stored is None:
                    # aws-kms-keyring.md#ondecrypt: fail before any call.
                    raise ProviderError("an encrypted data key of KMS does not name a KMS key ARN")
                ours = preferred if self._prefers(stored) else others
                ours.append((encrypted_data_key, stored))
        attempts = AttemptLog()
        for index, (encrypted_data_key, stored) in enumerate(preferred + others):
            await checkpoint_every(index)
            for key in self._keys_for(stored):
                opened = await try_decrypt(key, encrypted_data_key, request, attempts)
                if opened:
                    return opened
        raise no_data_key(request, attempts, self)

    def _prefers(self, stored: KeyArn) -> bool:
        # Compare the region to be called: for a multi-Region key it may differ from the stored one.
        region = self._preferred_region
        return region is not None and any(key.region == region for key in self._keys_for(stored))

    def _master_key(self, key_id: str, multi_region: MultiRegion) -> KMSMasterKey:
        return KMSMasterKey(key_id, self._service, multi_region=multi_region)


class KMSMasterKeyProvider(_KMSProvider):
    """Wrap data keys under one or several KMS keys, in one or several regions.

    `key_ids` are key ARNs, alias ARNs, or key ids and alias names in the default region; the first key
    generates data keys. Only keys given by key ARN can decrypt. With `MultiRegion.MATCH`, replicas of the
    same key raise `ValueError`. Decrypting tries keys in the `preferred_region` first, and otherwise follows
    the order in the message.

    Use it inside `async with`, unless `connection` has ready clients or a supplier for KMS. A call that times
    out counts as a failed attempt of that key.
    """

    def __init__(
        self,
        key_ids: Sequence[str],
        *,
        multi_region: MultiRegion = MultiRegion.MATCH,
        preferred_region: str | None = None,
        connection: AWSConnection | None = None,
        grant_tokens: Sequence[str] = (),
    ) -> None:
        key_ids = check_texts("key_ids", key_ids, "KMS key id")
        if not key_ids:
            raise ValueError("key_ids is empty; to decrypt under any key, use KMSDiscoveryMasterKeyProvider")
        super().__init__(KMSService(connection, grant_tokens), preferred_region)
        self._multi_region = check_choice("multi_region", multi_region, MultiRegion)
        self._keys = tuple(self._master_key(key_id, self._multi_region) for key_id in key_ids)
        if self._multi_region is MultiRegion.MATCH:
            check_unrelated([key.key_id for key in self._keys])

    def __repr__(self) -> str:
        return f"KMSMasterKeyProvider({[key.key_id for key in self._keys]})"

    def __reduce__(self) -> tuple[Any, ...]:
        return self._service.recipe(
            type(self),
            [key.key_id for key in self._keys],
            multi_region=self._multi_region,
            preferred_region=self._preferred_region,
        )

    async def encryption_keys(self, request: DataKeyRequest) -> Sequence[MasterKey]:
        return self._keys

    def _keys_for(self, stored: KeyArn) -> Sequence[KMSMasterKey]:
        return [key for key in self._keys if key.opens(stored)]

    async def warm_up(self) -> None:
        await self._service.warm_up([key.region for key in self._keys])


class KMSDiscoveryMasterKeyProvider(_KMSProvider):
    """Decrypt with the KMS keys that the message names; cannot encrypt.

    `discovery_filter` restricts the accounts; pass None explicitly to allow any account. By default, each key
    is called in its own region. `region` restricts calls to one region: its own keys, and its replicas of
    multi-Region keys. `preferred_region` only changes the order. The other arguments are those of
    `KMSMasterKeyProvider`.
    """

    def __init__(
        self,
        *,
        discovery_filter: DiscoveryFilter | None,
        region: str | None = None,
        preferred_region: str | None = None,
        connection: AWSConnection | None = None,
        grant_tokens: Sequence[str] = (),
    ) -> None:
        if not isinstance(discovery_filter, DiscoveryFilter | None):
            kind = type(discovery_filter).__name__
            raise TypeError(
                f"discovery_filter must be a DiscoveryFilter, or None for any account, not {kind}"
            )
        check_name("region", region)
        if region is not None and preferred_region is not None:
            raise ValueError(
                "give region or preferred_region, not both: with region, no other region is called"
            )
        super().__init__(KMSService(connection, grant_tokens), preferred_region)
        self._filter = discovery_filter
        self._region = region

    def __repr__(self) -> str:
        return f"KMSDiscoveryMasterKeyProvider(discovery_filter={self._filter!r}, region={self._region!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return self._service.recipe(
            type(self),
            discovery_filter=self._filter,
            region=self._region,
            preferred_region=self._preferred_region,
        )

    async def encryption_keys(self, request: DataKeyRequest) -> Sequence[MasterKey]:
        raise ProviderError("a discovery provider cannot encrypt; use KMSMasterKeyProvider")

    def _keys_for(self, stored: KeyArn) -> Sequence[KMSMasterKey]:
        if self._filter is not None and not self._filter.allows(stored):
            return ()
        if self._region and stored.region != self._region:
            if not stored.multi_region:
                return ()
            stored = attrs.evolve(stored, region=self._region)
        return (self._master_key(str(stored), MultiRegion.EXACT),)

    async def warm_up(self) -> None:
        if self._region:
            await self._service.warm_up([self._region])
