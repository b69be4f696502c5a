"""The operations of the in-memory KMS that manage keys, and the table that dispatches to all operations."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable

import attrs

from aioencrypt.testing.kms import cryptography
from aioencrypt.testing.kms.asymmetric import ENCRYPT_DECRYPT, KEY_AGREEMENT, KEY_SPECS, SYMMETRIC_DEFAULT
from aioencrypt.testing.kms.cryptography import Answer, algorithms, authorized_key, material_id
from aioencrypt.testing.kms.errors import Refusal
from aioencrypt.testing.kms.keys import GRANTABLE, KeyRecord, KeyState, KeyStore, check_region
from aioencrypt.testing.kms.requests import Request, invalid

_MAX_ALIAS = 256
_DELETION_DAYS = (7, 30)


def perform(store: KeyStore, request: Request) -> Answer:
    """Carry a request out and return AWS's answer to it, without `ResponseMetadata`; or raise a `Refusal`."""
    operation = OPERATIONS.get(request.operation)
    if operation is None:
        raise Refusal("UnknownOperationException", f"Unknown operation {request.operation[:100]!r}")
    for name, value in request.parameters.items():
        if value is None or name in operation.parameters or name in _WITHOUT_EFFECT:
            continue
        # Half of a parameter's meaning would be worse than an error: DryRun, for one, must not do the work.
        if name not in _ONLY_VALUE or value != _ONLY_VALUE[name]:
            raise _not_served(name)
    return operation.carry_out(store, request)


def _not_served(name: str) -> Refusal:
    return Refusal("UnsupportedOperationException", f"the in-memory KMS does not serve {name} of this value")


def _managed_key(store: KeyStore, request: Request, parameter: str, permission: str) -> KeyRecord:
    """Return the key to manage, which no alias can name."""
    identifier = request.text(parameter)
    if identifier.startswith("alias/") or ":alias/" in identifier:
        raise Refusal("NotFoundException", f"Invalid keyId {identifier!r}")
    return authorized_key(store, request, parameter, permission)


# Keys


def _describe_key(store: KeyStore, request: Request) -> Answer:
    return {"KeyMetadata": _metadata(store, authorized_key(store, request, "KeyId", "DescribeKey"))}


def _create_key(store: KeyStore, request: Request) -> Answer:
    name, usage = request.optional_text("KeySpec") or SYMMETRIC_DEFAULT, request.optional_text("KeyUsage")
    multi_region = request.flag("MultiRegion")
    if name not in KEY_SPECS:
        raise _not_served("KeySpec")
    if usage not in (None, ENCRYPT_DECRYPT, KEY_AGREEMENT):
        raise _not_served("KeyUsage")
    spec = KEY_SPECS[name]
    if usage is None and name != SYMMETRIC_DEFAULT:
        raise Refusal("ValidationException", "You must specify a KeyUsage value for an asymmetric KMS key.")
    if usage not in (None, spec.usage):
        raise Refusal("ValidationException", f"KeyUsage {usage} is not compatible with KeySpec {name}.")
    record = store.create(region=request.region, multi_region=multi_region, spec=spec)
    return {"KeyMetadata": _metadata(store, record)}


def _replicate_key(store: KeyStore, request: Request) -> Answer:
    region = request.text("ReplicaRegion", 32)
    try:
        check_region(region)
    except ValueError:
        raise invalid("ReplicaRegion", "Member must be the name of a region") from None
    primary = _managed_key(store, request, "KeyId", "ReplicateKey")
    store.check_usable(primary)
    replica = store.replicate(primary, region)
    return {"ReplicaKeyMetadata": _metadata(store, replica)}


def _create_alias(store: KeyStore, request: Request) -> Answer:
    name = request.text("AliasName", _MAX_ALIAS)
    store.create_alias(name, _managed_key(store, request, "TargetKeyId", "CreateAlias"))
    return {}


def _delete_alias(store: KeyStore, request: Request) -> Answer:
    name = request.text("AliasName", _MAX_ALIAS)
    store.authorize(store.alias_target(name, request.region), "DeleteAlias", ())
    store.delete_alias(name, request.region)
    return {}


def _enable_key(store: KeyStore, request: Request) -> Answer:
    store.set_enabled(_managed_key(store, request, "KeyId", "EnableKey"), True)
    return {}


def _disable_key(store: KeyStore, request: Request) -> Answer:
    store.set_enabled(_managed_key(store, request, "KeyId", "DisableKey"), False)
    return {}


def _schedule_key_deletion(store: KeyStore, request: Request) -> Answer:
    days = request.integer("PendingWindowInDays", *_DELETION_DAYS) or _DELETION_DAYS[1]
    record = _managed_key(store, request, "KeyId", "ScheduleKeyDeletion")
    store.schedule_deletion(record, days)
    return {
        "KeyId": record.arn,
        "DeletionDate": _date(record.deletion),
        "KeyState": str(record.state),
        "PendingWindowInDays": days,
    }


def _cancel_key_deletion(store: KeyStore, request: Request) -> Answer:
    record = _managed_key(store, request, "KeyId", "CancelKeyDeletion")
    store.cancel_deletion(record)
    return {"KeyId": record.arn}


def _create_grant(store: KeyStore, request: Request) -> Answer:
    operations = request.texts("Operations", 100, 100)
    if not operations or not GRANTABLE.issuperset(operations):
        raise invalid("Operations", f"Member must satisfy enum value set: [{', '.join(sorted(GRANTABLE))}]")
    record = _managed_key(store, request, "KeyId", "CreateGrant")
    store.check_usable(record)
    return {"GrantToken": store.create_grant(record, operations), "GrantId": secrets.token_hex(32)}


def _metadata(store: KeyStore, record: KeyRecord) -> Answer:
    metadata: Answer = {
        "AWSAccountId": record.account,
        "KeyId": record.key_id,
        "Arn": record.arn,
        "CreationDate": _date(record.created),
        "Enabled": record.state is KeyState.ENABLED,
        "Description": "",
        "KeyUsage": record.spec.usage,
        "KeyState": str(record.state),
        "Origin": "AWS_KMS",
        "KeyManager": "CUSTOMER",
        "CustomerMasterKeySpec": record.spec.name,
        "KeySpec": record.spec.name,
        "MultiRegion": record.primary_region is not None,
        **algorithms(record),
        **material_id(record, "Current"),
    }
    if record.deletion is not None:
        metadata["DeletionDate"] = _date(record.deletion)
    if record.primary_region is not None:
        is_primary = record.primary_region == record.region
        keys = [{"Arn": other.arn, "Region": other.region} for other in store.related(record)]
        metadata["MultiRegionConfiguration"] = {
            "MultiRegionKeyType": "PRIMARY" if is_primary else "REPLICA",
            "PrimaryKey": next((key for key in keys if key["Region"] == record.primary_region), None),
            "ReplicaKeys": [key for key in keys if key["Region"] != record.primary_region],
        }
    return metadata


def _date(timestamp: float | None) -> datetime.datetime | None:
    return None if timestamp is None else datetime.datetime.fromtimestamp(timestamp, datetime.UTC)


# The table


@attrs.frozen
class _Operation:
    carry_out: Callable[[KeyStore, Request], Answer]
    parameters: frozenset[str]


def _operation(carry_out: Callable[[KeyStore, Request], Answer], *parameters: str) -> _Operation:
    return _Operation(carry_out, frozenset(parameters))


# Of no consequence for what these operations do in memory: who may is decided by denials and grants.
_WITHOUT_EFFECT = frozenset(
    {
        "BypassPolicyLockoutSafetyCheck",
        "Description",
        "GranteePrincipal",
        "Name",
        "Policy",
        "RetiringPrincipal",
        "Tags",
    }
)
_ONLY_VALUE: dict[str, object] = {
    "CustomerMasterKeySpec": SYMMETRIC_DEFAULT,
    "DryRun": False,
    "Origin": "AWS_KMS",
}
_DATA = ("KeyId", "EncryptionAlgorithm", "EncryptionContext", "GrantTokens")
_DATA_KEY = ("KeyId", "NumberOfBytes", "KeySpec", "EncryptionContext", "GrantTokens")

OPERATIONS: dict[str, _Operation] = {
    "CancelKeyDeletion": _operation(_cancel_key_deletion, "KeyId"),
    "CreateAlias": _operation(_create_alias, "AliasName", "TargetKeyId"),
    "CreateGrant": _operation(_create_grant, "KeyId", "Operations", "GrantTokens"),
    "CreateKey": _operation(_create_key, "KeySpec", "KeyUsage", "MultiRegion"),
    "Decrypt": _operation(cryptography.decrypt, "CiphertextBlob", *_DATA),
    "DeleteAlias": _operation(_delete_alias, "AliasName"),
    "DeriveSharedSecret": _operation(
        cryptography.derive_shared_secret, "KeyId", "KeyAgreementAlgorithm", "PublicKey", "GrantTokens"
    ),
    "DescribeKey": _operation(_describe_key, "KeyId", "GrantTokens"),
    "DisableKey": _operation(_disable_key, "KeyId"),
    "EnableKey": _operation(_enable_key, "KeyId"),
    "Encrypt": _operation(cryptography.encrypt, "Plaintext", *_DATA),
    "GenerateDataKey": _operation(cryptography.generate_data_key, *_DATA_KEY),
    "GenerateDataKeyWithoutPlaintext": _operation(
        cryptography.generate_data_key_without_plaintext, *_DATA_KEY
    ),
    "GetPublicKey": _operation(cryptography.get_public_key, "KeyId", "GrantTokens"),
    "ReEncrypt": _operation(
        cryptography.re_encrypt,
        "CiphertextBlob",
        "DestinationEncryptionAlgorithm",
        "DestinationEncryptionContext",
        "DestinationKeyId",
        "GrantTokens",
        "SourceEncryptionAlgorithm",
        "SourceEncryptionContext",
        "SourceKeyId",
    ),
    "ReplicateKey": _operation(_replicate_key, "KeyId", "ReplicaRegion"),
    "ScheduleKeyDeletion": _operation(_schedule_key_deletion, "KeyId", "PendingWindowInDays"),
}
