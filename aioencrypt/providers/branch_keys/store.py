"""The branch key store: branch keys in a DynamoDB table, wrapped by KMS.

Specification: framework/branch-key-store.md.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import attrs

from aioencrypt.aws.connection import AWSClients, AWSConnection, EntersConnection
from aioencrypt.aws.errors import bytes_of, text_of
from aioencrypt.aws.protocols import DynamoDBClient, KMSClient
from aioencrypt.errors import ProviderError, ServiceError
from aioencrypt.format.context import validate_context
from aioencrypt.providers.branch_keys.items import (
    ACTIVE,
    BEACON,
    KEY_LENGTH,
    KMS_ARN,
    VERSION_PREFIX,
    BeaconKeyMaterials,
    BranchKeyItem,
    BranchKeyMaterials,
    active_copy,
    beacon_beside,
    first_version,
    is_version,
    kms_context,
    next_version,
)
from aioencrypt.providers.branch_keys.kms import KMSConfiguration
from aioencrypt.providers.branch_keys.table import BranchKeyTable
from aioencrypt.providers.kms.service import KMSService
from aioencrypt.runtime.arguments import check_type, describe_type, encode_text
from aioencrypt.runtime.secrets import SecretBytes, hides_arguments


@attrs.frozen
class KeyStoreInfo:
    """The configuration of a branch key store."""

    store_id: str
    table_name: str
    logical_name: str
    grant_tokens: tuple[str, ...] = attrs.field(repr=False)
    kms_configuration: KMSConfiguration


class BranchKeyStore(EntersConnection):
    """Branch keys and beacon keys in a DynamoDB table, each wrapped by a KMS key.

    `kms_configuration` is a `KMSKeyArn`, `KMSMRKeyArn`, `KMSDiscovery` or `KMSMRDiscovery`; the last two are
    read-only. KMS binds `logical_name` to every key: it can never change, while the table may be renamed.
    `store_id` is random by default.

    Use it inside `async with`, unless `connection` has ready clients or suppliers for both services. The
    table is in the region of the connection or, if that names none, of the KMS configuration.

    Every operation raises `ProviderError`, and `ServiceError` if KMS or DynamoDB fails.
    """

    def __init__(
        self,
        table_name: str,
        *,
        kms_configuration: KMSConfiguration,
        logical_name: str,
        store_id: str | None = None,
        connection: AWSConnection | None = None,
        grant_tokens: Sequence[str] = (),
    ) -> None:
        if not isinstance(kms_configuration, KMSConfiguration):
            raise TypeError(
                "kms_configuration must be a KMSKeyArn, KMSMRKeyArn, KMSDiscovery or KMSMRDiscovery, "
                f"not {describe_type(kms_configuration)}"
            )
        _check_name("logical_name", logical_name)
        if store_id is not None:
            _check_name("store_id", store_id)
        self._kms = KMSService(connection, grant_tokens)
        tables: AWSClients[DynamoDBClient] = AWSClients(self._kms.connection, "dynamodb")
        super().__init__(self._kms, tables)
        self._kms_region = kms_configuration.region
        # Without a region, a single ready client is used, whatever its region.
        region = self._kms.connection.region or (kms_configuration.region if tables.makes else None)
        self._table = BranchKeyTable(table_name, tables, region)
        self._configuration = kms_configuration
        self._logical_name = logical_name
        self._id = store_id or str(uuid.uuid4())

    def __repr__(self) -> str:
        return (
            f"BranchKeyStore({self._table.name!r}, kms_configuration={self._configuration!r}, "
            f"logical_name={self._logical_name!r})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return self._kms.recipe(
            type(self),
            self._table.name,
            kms_configuration=self._configuration,
            logical_name=self._logical_name,
            store_id=self._id,
        )

    @property
    def logical_name(self) -> str:
        """The name that KMS binds to every key of the store."""
        return self._logical_name

    def key_store_info(self) -> KeyStoreInfo:
        """Return the configuration of this store."""
        return KeyStoreInfo(
            self._id,
            self._table.name,
            self._logical_name,
            tuple(self._kms.grant_tokens),
            self._configuration,
        )

    async def warm_up(self) -> None:
        """Create both clients now, so that the first operation does not have to; raises `ServiceError`."""
        await self._kms.warm_up([self._kms_region])
        await self._table.warm_up()

    async def create_key_store(self, *, wait: float = 300.0) -> str:
        """Create the table if it does not exist, wait until it is active, and return its ARN.

        An existing table must have the right key schema. `wait` is in seconds; a table that takes longer
        raises `ServiceError`.
        """
        return await self._table.create(wait)

    @hides_arguments
    async def create_key(
        self, branch_key_id: str | None = None, encryption_context: Mapping[str, str] | None = None
    ) -> str:
        """Create a branch key, its first version and its beacon key; return the branch key id.

        The id is a random UUID by default; an id of your own needs an encryption context. KMS binds the
        encryption context to every version. Raises `ServiceError` if the branch key exists.
        """
        kms_arn = self._configuration.wrapping_key
        context = validate_context({} if encryption_context is None else encryption_context, reserved=True)
        if branch_key_id is None:
            branch_key_id = str(uuid.uuid4())
        elif not context:
            raise ValueError("a branch key id of your own needs an encryption context: give both or neither")
        _check_name("branch_key_id", branch_key_id)
        version = first_version(branch_key_id, kms_arn, context)
        beacon = beacon_beside(version)
        branch_key = await self._new_branch_key(version)
        await self._table.add(*branch_key, BranchKeyItem(beacon, await self._generate(beacon)))
        return branch_key_id

    async def version_key(self, branch_key_id: str) -> None:
        """Rotate a branch key: create a new version and make it active. Old versions stay readable.

        If several callers rotate the same key at once, one succeeds. The others write nothing and raise a
        retryable `ServiceError`.
        """
        # Refuse discovery before reading anything.
        _ = self._configuration.wrapping_key
        old = await self._read(branch_key_id, ACTIVE)
        # Have KMS authenticate the old item, so that the new version does not inherit forged attributes.
        await self._re_encrypt(old.wrapped_key, old.attributes, old.attributes)
        version, active = await self._new_branch_key(next_version(old))
        await self._table.replace(old, version, active)

    async def active_branch_key(self, branch_key_id: str) -> BranchKeyMaterials:
        """Return the active version of a branch key."""
        return await self._branch_key(branch_key_id, ACTIVE)

    async def branch_key_version(self, branch_key_id: str, version: str) -> BranchKeyMaterials:
        """Return one version of a branch key; `version` is a UUID as text."""
        if not is_version(check_type("version", version, str)):
            raise ValueError(f"{version!r} is not a branch key version; give a version 4 UUID")
        return await self._branch_key(branch_key_id, VERSION_PREFIX + version)

    async def beacon_key(self, branch_key_id: str) -> BeaconKeyMaterials:
        """Return the beacon key created with a branch key."""
        item = await self._read(branch_key_id, BEACON)
        return BeaconKeyMaterials(branch_key_id, item.custom_context, await self._decrypt(item))

    async def _branch_key(self, branch_key_id: str, item_type: str) -> BranchKeyMaterials:
        item = await self._read(branch_key_id, item_type)
        key = await self._decrypt(item)
        return BranchKeyMaterials(branch_key_id, item.version, item.custom_context, key)

    async def _read(self, branch_key_id: str, item_type: str) -> BranchKeyItem:
        """Read an item and check all that needs no call to KMS."""
        _check_name("branch_key_id", branch_key_id)
        item = await self._table.read(branch_key_id, item_type)
        self._configuration.key_for(item.attributes[KMS_ARN])
        return item

    async def _new_branch_key(self, version: Mapping[str, str]) -> tuple[BranchKeyItem, BranchKeyItem]:
        """Have KMS generate a branch key; return the items of its version and of its active copy."""
        wrapped_key = await self._generate(version)
        active = active_copy(version)
        active_key = await self._re_encrypt(wrapped_key, version, active)
        return BranchKeyItem(version, wrapped_key), BranchKeyItem(active, active_key)

    async def _generate(self, attributes: Mapping[str, str]) -> bytes:
        key_id = self._configuration.wrapping_key
        answer = await self._call_kms(
            "GenerateDataKeyWithoutPlaintext",
            key_id,
            lambda client: client.generate_data_key_without_plaintext(
                KeyId=key_id,
                NumberOfBytes=KEY_LENGTH,
                EncryptionContext=kms_context(attributes, self._logical_name),
                GrantTokens=self._kms.grant_tokens,
            ),
        )
        return bytes_of(answer, "CiphertextBlob")

    async def _re_encrypt(
        self, wrapped_key: bytes, source: Mapping[str, str], destination: Mapping[str, str]
    ) -> bytes:
        key_id = self._configuration.wrapping_key
        answer = await self._call_kms(
            "ReEncrypt",
            key_id,
            lambda client: client.re_encrypt(
                CiphertextBlob=wrapped_key,
                SourceKeyId=key_id,
                SourceEncryptionContext=kms_context(source, self._logical_name),
                DestinationKeyId=key_id,
                DestinationEncryptionContext=kms_context(destination, self._logical_name),
                GrantTokens=self._kms.grant_tokens,
            ),
        )
        _check_answered(answer, "SourceKeyId", key_id)
        return bytes_of(answer, "CiphertextBlob")

    async def _decrypt(self, item: BranchKeyItem) -> bytes:
        key_id = self._configuration.key_for(item.attributes[KMS_ARN])
        answer = await self._call_kms(
            "Decrypt",
            key_id,
            lambda client: client.decrypt(
                KeyId=key_id,
                CiphertextBlob=item.wrapped_key,
                EncryptionContext=kms_context(item.attributes, self._logical_name),
                GrantTokens=self._kms.grant_tokens,
            ),
        )
        key = SecretBytes(bytes_of(answer, "Plaintext"))
        if len(key) != KEY_LENGTH:
            raise ProviderError(f"the key of the item has {len(key)} bytes, not {KEY_LENGTH}")
        return key

    async def _call_kms(
        self, operation: str, key_id: str, call: Callable[[KMSClient], Awaitable[Mapping[str, Any]]]
    ) -> Mapping[str, Any]:
        try:
            answer = await self._kms.call(operation, key_id, self._kms_region, call)
        except ServiceError as error:
            if error.code != "InvalidCiphertextException":
                raise
            raise ServiceError(
                f"KMS rejected the wrapped key: the item was changed, or logical_name={self._logical_name!r} "
                "is not the name it was created with",
                code=error.code,
                request_id=error.request_id,
            ) from error.__cause__
        _check_answered(answer, "KeyId", key_id)
        return answer


def _check_name(what: str, name: str) -> None:
    if not encode_text(what, name):
        raise ValueError(f"{what} is empty")


def _check_answered(answer: Mapping[str, Any], field: str, key_id: str) -> None:
    if text_of(answer, field) != key_id:
        raise ProviderError(f"KMS answered with the {field} {answer[field]!r}, not {key_id!r}")
