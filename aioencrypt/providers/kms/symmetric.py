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
from aioencrypt.materials import DataKey, DataKeyRequest
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
from aioencrypt.runtime.arguments import check_choice


class MultiRegion(enum.Enum):
    """How multi-Region keys are matched on decrypt.

    MATCH: a replica opens what another replica of the same key encrypted. EXACT: only the key named
    in the message does.
    """

    MATCH = "match"
    EXACT = "exact"


def _account_set(accounts: Sequence[str]) -> frozenset[str]:
    if isinstance(accounts, str):
        raise TypeError("accounts is a sequence of account ids, not one str")
    if not all(isinstance(account, str) for account in accounts):
        raise TypeError("an account id is a str: numbers lose their leading zeros")
    return frozenset(accounts)


@attrs.frozen
class DiscoveryFilter:
    """The accounts, and the partition (``aws``, ``aws-cn``, ...), whose keys discovery may call."""

    accounts: frozenset[str] = attrs.field(converter=_account_set)
    partition: str = "aws"

    def __attrs_post_init__(self) -> None:
        if not self.accounts or not all(self.accounts) or not self.partition:
            raise ValueError("a discovery filter needs at least one account id, and a partition")

    def allows(self, arn: KeyArn) -> bool:
        """Tell whether a key may be called."""
        return arn.partition == self.partition and arn.account in self.accounts


class KMSMasterKey(MasterKey):
    """One KMS key. `KMSMasterKeyProvider` makes these."""

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
        """The region of the key; None is the default region of the client."""
        return self._region

    def owns_data_key(self, encrypted_data_key: EncryptedDataKey) -> bool:
        if encrypted_data_key.provider_id != KMS_PROVIDER_ID:
            return False
        stored = _stored_arn(encrypted_data_key)
        return stored is not None and self.opens(stored)

    def opens(self, stored: KeyArn) -> bool:
        """Tell whether this key opens what the key of an ARN encrypted."""
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
            raise ProviderError(f"KMS answered for the key {answer['KeyId']!r}, not for {self._key_id!r}")
        return DataKey(bytes_of(answer, "Plaintext"))


def _stored_arn(encrypted_data_key: EncryptedDataKey) -> KeyArn | None:
    """Return the key ARN in an encrypted data key of KMS, None where there is none."""
    return parse_key_arn(encrypted_data_key.provider_info.decode("utf-8", "replace"))


def _encrypted_data_key(answer: Mapping[str, Any]) -> EncryptedDataKey:
    arn = text_of(answer, "KeyId")
    if parse_key_arn(arn) is None:
        raise ProviderError(f"KMS answered with the key id {arn[:200]!r}, which is not a key ARN")
    ciphertext = bytes_of(answer, "CiphertextBlob")
    try:
        encrypted = EncryptedDataKey(KMS_PROVIDER_ID, arn.encode(), ciphertext)
        encrypted.serialize()
    except ValueError as error:
        raise ProviderError(f"the answer of KMS does not fit into a message: {error}") from error
    return encrypted


class _KMSProvider(EntersConnection, MasterKeyProvider):
    """What both KMS providers are: a user of clients."""

    _keys: tuple[KMSMasterKey, ...] = ()

    def __init__(self, service: KMSService, preferred_region: str | None) -> None:
        super().__init__(service)
        check_name("preferred_region", preferred_region)
        self._service = service
        self._preferred_region = preferred_region

    @abstractmethod
    def _keys_for(self, stored: KeyArn) -> Sequence[KMSMasterKey]:
        """Return the keys to call for a data key that the key of an ARN encrypted."""

    async def decrypt_data_key(self, request: DataKeyRequest) -> DecryptedDataKey:
        preferred: list[tuple[EncryptedDataKey, KeyArn]] = []
        others: list[tuple[EncryptedDataKey, KeyArn]] = []
        for index, encrypted_data_key in enumerate(request.encrypted_data_keys):
            await checkpoint_every(index)
            if encrypted_data_key.provider_id == KMS_PROVIDER_ID:
                stored = _stored_arn(encrypted_data_key)
                if stored is None:
                    # aws-kms-keyring.md#ondecrypt: such a message fails here, before any call.
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
        advice = ""
        if (preferred or others) and any(parse_key_arn(key.key_id) is None for key in self._keys):
            advice = "; only a key ARN decrypts: name the key by its key ARN"
        raise no_data_key(request, attempts, self._keys, advice)

    def _prefers(self, stored: KeyArn) -> bool:
        # The region that would be called counts: of a multi-Region key it may be another than the stored one.
        region = self._preferred_region
        return region is not None and any(key.region == region for key in self._keys_for(stored))

    def _master_key(self, key_id: str, multi_region: MultiRegion) -> KMSMasterKey:
        return KMSMasterKey(key_id, self._service, multi_region=multi_region)


class KMSMasterKeyProvider(_KMSProvider):
    """One or several KMS keys, in one or several regions.

    `key_ids` are key ARNs, alias ARNs, or key ids and alias names in the default region; the first
    generates data keys. Only keys named by their key ARN decrypt. Related multi-Region keys are
    refused with `MultiRegion.MATCH`. On decrypt, keys of the `preferred_region` are tried first, and
    otherwise the order is that of the message.

    Use it inside `async with`, unless the `connection` has ready clients or a supplier for KMS. A timeout
    is a failure of that key.
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
        if isinstance(key_ids, str):
            raise TypeError("key_ids is a sequence of key ids: write [key_id]")
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
    """Decrypts under whichever KMS keys the message names; it never encrypts.

    `discovery_filter` limits the accounts; None, any account, must be written out. `region` None calls
    each key in its own region. With a `region`, only that region is called: for its own keys, and for
    its replicas of the multi-Region keys that the message names. With a `preferred_region` the keys of
    that region are tried first. The other arguments are those of `KMSMasterKeyProvider`.
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
            raise TypeError(f"discovery_filter is a DiscoveryFilter, or None for any account, not {kind}")
        check_name("region", region)
        if region is not None and preferred_region is not None:
            raise ValueError("with region no other one is called: leave preferred_region out, or region")
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
        raise ProviderError("a discovery provider only decrypts; encrypt with KMSMasterKeyProvider")

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
