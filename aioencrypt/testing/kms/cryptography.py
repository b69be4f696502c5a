"""The operations of the in-memory KMS that use keys, one function for each.

Checks come in AWS's order: the parameters alone, which key is meant, whether the grant tokens are known,
whether the caller may, whether state, usage and spec of the key allow it, and only then the ciphertext.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import attrs

from aioencrypt.testing.kms import asymmetric, blobs
from aioencrypt.testing.kms.asymmetric import (
    ECDH,
    ENCRYPT_DECRYPT,
    ENCRYPTION_ALGORITHMS,
    KEY_AGREEMENT,
    SYMMETRIC_DEFAULT,
)
from aioencrypt.testing.kms.errors import Refusal
from aioencrypt.testing.kms.keys import KeyRecord, KeyStore
from aioencrypt.testing.kms.requests import Request, invalid

Answer = dict[str, Any]

_MAX_PLAINTEXT = 4096
_MAX_CIPHERTEXT = 6144
_MAX_DATA_KEY = 1024
_MAX_PUBLIC_KEY = 8192
_DATA_KEY_SPECS = {"AES_128": 16, "AES_256": 32}


def authorized_key(store: KeyStore, request: Request, parameter: str, permission: str) -> KeyRecord:
    """Return the key that a parameter names, if the caller may use it so."""
    identifier, tokens = request.text(parameter), request.grant_tokens()
    record = store.by_identifier(identifier, request.region)
    store.authorize(record, permission, tokens)
    return record


@attrs.frozen
class _Way:
    """How one request encrypts or decrypts."""

    algorithm: str
    context: Mapping[str, str]

    @classmethod
    def of(cls, request: Request, prefix: str = "") -> _Way:
        algorithm = request.choice(f"{prefix}EncryptionAlgorithm", ENCRYPTION_ALGORITHMS)
        context = request.context(f"{prefix}EncryptionContext")
        if context and algorithm not in (None, SYMMETRIC_DEFAULT):
            raise invalid(f"{prefix}EncryptionContext", f"Member must be empty with {algorithm}")
        return cls(algorithm or SYMMETRIC_DEFAULT, context)


def _check_fit(
    store: KeyStore, record: KeyRecord, request: Request, algorithm: str, usage: str = ENCRYPT_DECRYPT
) -> None:
    """Raise a refusal unless state, usage and spec of the key allow the operation."""
    store.check_usable(record)
    if record.spec.usage != usage:
        raise Refusal(
            "InvalidKeyUsageException",
            f"{record.arn} key usage is {record.spec.usage} which is not valid for {request.operation}.",
        )
    if algorithm not in record.spec.algorithms:
        raise Refusal(
            "InvalidKeyUsageException",
            f"Algorithm {algorithm} is incompatible with key spec {record.spec.name}.",
        )


def _encrypting_key(
    store: KeyStore, request: Request, parameter: str, permission: str, algorithm: str
) -> KeyRecord:
    """Return the key that a parameter names, if it encrypts and decrypts so, and for the caller."""
    record = authorized_key(store, request, parameter, permission)
    _check_fit(store, record, request, algorithm)
    return record


def material_id(record: KeyRecord, prefix: str = "") -> Answer:
    """Return the field for the name of the key material; key pairs have none."""
    return {f"{prefix}KeyMaterialId": record.material.material_id} if record.symmetric else {}


# Data


def encrypt(store: KeyStore, request: Request) -> Answer:
    """Encrypt."""
    plaintext, way = request.blob("Plaintext", _MAX_PLAINTEXT), _Way.of(request)
    record = _encrypting_key(store, request, "KeyId", "Encrypt", way.algorithm)
    return {
        "CiphertextBlob": _seal(record, plaintext, way),
        "KeyId": record.arn,
        "EncryptionAlgorithm": way.algorithm,
    }


def decrypt(store: KeyStore, request: Request) -> Answer:
    """Decrypt."""
    way = _Way.of(request)
    record, plaintext = _open(store, request, "KeyId", "Decrypt", way)
    return {
        "KeyId": record.arn,
        "Plaintext": plaintext,
        "EncryptionAlgorithm": way.algorithm,
        **material_id(record),
    }


def re_encrypt(store: KeyStore, request: Request) -> Answer:
    """ReEncrypt."""
    new, old = _Way.of(request, "Destination"), _Way.of(request, "Source")
    request.text("DestinationKeyId")
    source, plaintext = _open(store, request, "SourceKeyId", "ReEncryptFrom", old)
    record = _encrypting_key(store, request, "DestinationKeyId", "ReEncryptTo", new.algorithm)
    return {
        "CiphertextBlob": _seal(record, plaintext, new),
        "SourceKeyId": source.arn,
        "KeyId": record.arn,
        "SourceEncryptionAlgorithm": old.algorithm,
        "DestinationEncryptionAlgorithm": new.algorithm,
        **material_id(source, "Source"),
        **material_id(record, "Destination"),
    }


def generate_data_key(store: KeyStore, request: Request) -> Answer:
    """GenerateDataKey."""
    plaintext = os.urandom(_data_key_length(request))
    answer = _sealed_data_key(store, request, plaintext, "GenerateDataKey")
    return answer | {"Plaintext": plaintext}


def generate_data_key_without_plaintext(store: KeyStore, request: Request) -> Answer:
    """GenerateDataKeyWithoutPlaintext."""
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
    way = _Way.of(request)
    record = _encrypting_key(store, request, "KeyId", permission, way.algorithm)
    return {"CiphertextBlob": _seal(record, plaintext, way), "KeyId": record.arn, **material_id(record)}


def _seal(record: KeyRecord, plaintext: bytes, way: _Way) -> bytes:
    if way.algorithm == SYMMETRIC_DEFAULT:
        key = record.material.key
        return blobs.seal(key, record.account, record.key_id, plaintext, way.context)
    return asymmetric.encrypt(record.material.key, way.algorithm, plaintext)


def _open(
    store: KeyStore, request: Request, parameter: str, permission: str, way: _Way
) -> tuple[KeyRecord, bytes]:
    """Return key and plaintext of the blob. The key that `parameter` names, if any, must be the blob's."""
    data, tokens = request.blob("CiphertextBlob", _MAX_CIPHERTEXT), request.grant_tokens()
    if way.algorithm != SYMMETRIC_DEFAULT:  # RSA: the ciphertext does not say which key it is
        record = _encrypting_key(store, request, parameter, permission, way.algorithm)
        return record, asymmetric.decrypt(record.material.key, way.algorithm, data)
    if request.optional_text(parameter) is not None:
        record = _encrypting_key(store, request, parameter, permission, way.algorithm)
        blob = blobs.parse(data)
        if (blob.account, blob.key_id) != (record.account, record.key_id):
            raise Refusal(
                "IncorrectKeyException",
                "The key ID in the request does not identify a CMK that can perform this operation.",
            )
    else:
        blob = blobs.parse(data)
        record = store.of_blob(blob.account, blob.key_id, request.region)
        store.authorize(record, permission, tokens)
        _check_fit(store, record, request, way.algorithm)
    return record, blobs.unseal(record.material.key, blob, way.context)


# Key pairs


def get_public_key(store: KeyStore, request: Request) -> Answer:
    """GetPublicKey."""
    record = authorized_key(store, request, "KeyId", "GetPublicKey")
    store.check_usable(record)
    if record.symmetric:
        raise Refusal(
            "UnsupportedOperationException",
            f"{record.arn} key spec is {record.spec.name} which is not valid for GetPublicKey.",
        )
    return {
        "KeyId": record.arn,
        "PublicKey": asymmetric.public_key(record.material.key),
        "CustomerMasterKeySpec": record.spec.name,
        "KeySpec": record.spec.name,
        "KeyUsage": record.spec.usage,
        **algorithms(record),
    }


def algorithms(record: KeyRecord) -> Answer:
    """Return the field that lists what a key can do."""
    purpose = "KeyAgreement" if record.spec.usage == KEY_AGREEMENT else "Encryption"
    return {f"{purpose}Algorithms": list(record.spec.algorithms)}


def derive_shared_secret(store: KeyStore, request: Request) -> Answer:
    """DeriveSharedSecret."""
    peer = request.blob("PublicKey", _MAX_PUBLIC_KEY)
    if request.choice("KeyAgreementAlgorithm", (ECDH,)) is None:
        raise invalid("KeyAgreementAlgorithm", "Member must not be null")
    record = authorized_key(store, request, "KeyId", "DeriveSharedSecret")
    _check_fit(store, record, request, ECDH, KEY_AGREEMENT)
    return {
        "KeyId": record.arn,
        "SharedSecret": asymmetric.shared_secret(record.material.key, peer),
        "KeyAgreementAlgorithm": ECDH,
        "KeyOrigin": "AWS_KMS",
    }
