"""The operations of the in-memory KMS, one function for each, and the table that dispatches to them.

Checks come in AWS's order: the parameters alone, which key is meant, whether the grant tokens are known,
whether the caller may, whether the state of the key allows it, and only then the ciphertext.
"""

from __future__ import annotations

import datetime
import os
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from aioencrypt.testing import _kms_blobs
from aioencrypt.testing._kms_errors import Refusal
from aioencrypt.testing._kms_keys import (
    GRANTABLE,
    SYMMETRIC_DEFAULT,
    KeyRecord,
    KeyState,
    KeyStore,
    check_region,
)
from aioencrypt.testing._kms_requests import Request, invalid

Answer = dict[str, Any]

_MAX_PLAINTEXT = 4096
_MAX_CIPHERTEXT = 6144
_MAX_DATA_KEY = 1024
_MAX_ALIAS = 256
_DATA_KEY_SPECS = {"AES_128": 16, "AES_256": 32}
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
            raise Refusal(
                "UnsupportedOperationException", f"the in-memory KMS does not serve {name} of this value"
            )
    return operation.carry_out(store, request)


def _authorized_key(store: KeyStore, request: Request, parameter: str, permission: str) -> KeyRecord:
    identifier, tokens = request.text(parameter), request.grant_tokens()
    record = store.by_identifier(identifier, request.region)
    store.authorize(record, permission, tokens)
    return record


def _managed_key(store: KeyStore, request: Request, parameter: str, permission: str) -> KeyRecord:
    """Return the key to manage, which no alias can name."""
    identifier = request.text(parameter)
    if identifier.startswith("alias/") or ":alias/" in identifier:
        raise Refusal("NotFoundException", f"Invalid keyId {identifier!r}")
    return _authorized_key(store, request, parameter, permission)


def _usable_key(store: KeyStore, request: Request, parameter: str, permission: str) -> KeyRecord:
    record = _authorized_key(store, request, parameter, permission)
    store.check_usable(record)
    return record


# Data


def _encrypt(store: KeyStore, request: Request) -> Answer:
    plaintext, context = request.blob("Plaintext", _MAX_PLAINTEXT), request.context()
    record = _usable_key(store, request, "KeyId", "Encrypt")
    return {
        "CiphertextBlob": _seal(record, plaintext, context),
        "KeyId": record.arn,
        "EncryptionAlgorithm": SYMMETRIC_DEFAULT,
    }


def _decrypt(store: KeyStore, request: Request) -> Answer:
    record, plaintext = _open(store, request, "KeyId", request.context(), "Decrypt")
    return {
        "KeyId": record.arn,
        "Plaintext": plaintext,
        "EncryptionAlgorithm": SYMMETRIC_DEFAULT,
        "KeyMaterialId": record.material.material_id,
    }


def _re_encrypt(store: KeyStore, request: Request) -> Answer:
    context = request.context("DestinationEncryptionContext")
    request.text("DestinationKeyId")
    source, plaintext = _open(
        store, request, "SourceKeyId", request.context("SourceEncryptionContext"), "ReEncryptFrom"
    )
    record = _usable_key(store, request, "DestinationKeyId", "ReEncryptTo")
    return {
        "CiphertextBlob": _seal(record, plaintext, context),
        "SourceKeyId": source.arn,
        "KeyId": record.arn,
        "SourceEncryptionAlgorithm": SYMMETRIC_DEFAULT,
        "DestinationEncryptionAlgorithm": SYMMETRIC_DEFAULT,
        "SourceKeyMaterialId": source.material.material_id,
        "DestinationKeyMaterialId": record.material.material_id,
    }


def _generate_data_key(store: KeyStore, request: Request) -> Answer:
    plaintext = os.urandom(_data_key_length(request))
    answer = _sealed_data_key(store, request, plaintext, "GenerateDataKey")
    return answer | {"Plaintext": plaintext}


def _generate_data_key_without_plaintext(store: KeyStore, request: Request) -> Answer:
    plaintext = os.urandom(_data_key_length(request))
    return _sealed_data_key(store, request, plaintext, "GenerateDataKeyWithoutPlaintext")


def _data_key_length(request: Request) -> int:
    spec = request.choice("KeySpec", tuple(_DATA_KEY_SPECS))
    length = request.integer("NumberOfBytes", 1, _MAX_DATA_KEY)
    if length is not None and spec is None:
        return length
    if spec is not None and length is None:
        return _DATA_KEY_SPECS[spec]
    raise Refusal("ValidationException", "Please specify either number of bytes or key spec.")


def _sealed_data_key(store: KeyStore, request: Request, plaintext: bytes, permission: str) -> Answer:
    context = request.context()
    record = _usable_key(store, request, "KeyId", permission)
    return {
        "CiphertextBlob": _seal(record, plaintext, context),
        "KeyId": record.arn,
        "KeyMaterialId": record.material.material_id,
    }


def _seal(record: KeyRecord, plaintext: bytes, context: Mapping[str, str]) -> bytes:
    return _kms_blobs.seal(record.material.key, record.account, record.key_id, plaintext, context)


def _open(
    store: KeyStore, request: Request, parameter: str, context: Mapping[str, str], permission: str
) -> tuple[KeyRecord, bytes]:
    """Return key and plaintext of the blob. The key that `parameter` names, if any, must be the blob's."""
    data, tokens = request.blob("CiphertextBlob", _MAX_CIPHERTEXT), request.grant_tokens()
    if request.optional_text(parameter) is not None:
        record = _usable_key(store, request, parameter, permission)
        blob = _kms_blobs.parse(data)
        if (blob.account, blob.key_id) != (record.account, record.key_id):
            raise Refusal(
                "IncorrectKeyException",
                "The key ID in the request does not identify a CMK that can perform this operation.",
            )
    else:
        blob = _kms_blobs.parse(data)
        record = store.of_blob(blob.account, blob.key_id, request.region)
        store.authorize(record, permission, tokens)
        store.check_usable(record)
    return record, _kms_blobs.unseal(record.material.key, blob, context)


# Keys


def _describe_key(store: KeyStore, request: Request) -> Answer:
    return {"KeyMetadata": _metadata(store, _authorized_key(store, request, "KeyId", "DescribeKey"))}


def _create_key(store: KeyStore, request: Request) -> Answer:
    record = store.create(
        region=request.region, account=None, multi_region=request.flag("MultiRegion"), key_id=None
    )
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
        "KeyUsage": record.key_usage,
        "KeyState": str(record.state),
        "Origin": "AWS_KMS",
        "KeyManager": "CUSTOMER",
        "CustomerMasterKeySpec": record.key_spec,
        "KeySpec": record.key_spec,
        "EncryptionAlgorithms": [SYMMETRIC_DEFAULT],
        "MultiRegion": record.primary_region is not None,
        "CurrentKeyMaterialId": record.material.material_id,
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
    "DestinationEncryptionAlgorithm": SYMMETRIC_DEFAULT,
    "DryRun": False,
    "EncryptionAlgorithm": SYMMETRIC_DEFAULT,
    "KeySpec": SYMMETRIC_DEFAULT,
    "KeyUsage": "ENCRYPT_DECRYPT",
    "Origin": "AWS_KMS",
    "SourceEncryptionAlgorithm": SYMMETRIC_DEFAULT,
}
_DATA_KEY = ("KeyId", "NumberOfBytes", "KeySpec", "EncryptionContext", "GrantTokens")

OPERATIONS: dict[str, _Operation] = {
    "CancelKeyDeletion": _operation(_cancel_key_deletion, "KeyId"),
    "CreateAlias": _operation(_create_alias, "AliasName", "TargetKeyId"),
    "CreateGrant": _operation(_create_grant, "KeyId", "Operations", "GrantTokens"),
    "CreateKey": _operation(_create_key, "MultiRegion"),
    "Decrypt": _operation(_decrypt, "CiphertextBlob", "KeyId", "EncryptionContext", "GrantTokens"),
    "DeleteAlias": _operation(_delete_alias, "AliasName"),
    "DescribeKey": _operation(_describe_key, "KeyId", "GrantTokens"),
    "DisableKey": _operation(_disable_key, "KeyId"),
    "EnableKey": _operation(_enable_key, "KeyId"),
    "Encrypt": _operation(_encrypt, "KeyId", "Plaintext", "EncryptionContext", "GrantTokens"),
    "GenerateDataKey": _operation(_generate_data_key, *_DATA_KEY),
    "GenerateDataKeyWithoutPlaintext": _operation(_generate_data_key_without_plaintext, *_DATA_KEY),
    "ReEncrypt": _operation(
        _re_encrypt,
        "CiphertextBlob",
        "DestinationEncryptionContext",
        "DestinationKeyId",
        "GrantTokens",
        "SourceEncryptionContext",
        "SourceKeyId",
    ),
    "ReplicateKey": _operation(_replicate_key, "KeyId", "ReplicaRegion"),
    "ScheduleKeyDeletion": _operation(_schedule_key_deletion, "KeyId", "PendingWindowInDays"),
}
