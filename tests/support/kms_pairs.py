"""What the tests of key pairs in KMS share."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from aioencrypt import AlgorithmSuite, KMSEncryptionAlgorithm, KMSRSAMasterKey
from aioencrypt.materials import DataKeyRequest, EncryptedDataKey
from aioencrypt.testing import InMemoryKMS, InMemoryKMSError
from tests.support.aws import connected
from tests.support.kms import AP, CONTEXT, DATA_KEY, EU, SUITE, US
from tests.support.message_writer import sorted_context
from tests.support.providers import asking
from tests.support.rsa_keys import public_pem, rsa_key

SHA_1, SHA_256 = "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"
CURVES: dict[str, ec.EllipticCurve] = {
    "ECC_NIST_P256": ec.SECP256R1(),
    "ECC_NIST_P384": ec.SECP384R1(),
    "ECC_NIST_P521": ec.SECP521R1(),
}
CONTEXT_DIGEST = hashlib.sha384(sorted_context(CONTEXT)).digest()
_HASHES: dict[str, hashes.HashAlgorithm] = {SHA_1: hashes.SHA1(), SHA_256: hashes.SHA256()}


def oaep(algorithm: str) -> padding.OAEP:
    """Return the padding that AWS calls so."""
    return padding.OAEP(padding.MGF1(_HASHES[algorithm]), _HASHES[algorithm], None)


def curve_key(spec: str = "ECC_NIST_P256", number: int = 7) -> ec.EllipticCurvePrivateKey:
    """Return the same private key for a curve and a number."""
    return ec.derive_private_key(number, CURVES[spec])


def der(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """Return the public half as KMS gives it."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def rsa_kms_key(kms: InMemoryKMS, **options: Any) -> str:
    """Make the first RSA key a key of KMS."""
    return kms.create_key(key_spec="RSA_2048", private_key=rsa_key(), **options)


async def refused(call: Awaitable[Any], code: str, message: str = "") -> None:
    """Await a call that the in-memory KMS refuses."""
    with pytest.raises(InMemoryKMSError) as caught:
        await call
    error = caught.value.response["Error"]
    assert (error["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]) == (code, 400)
    assert message in error["Message"]


def rsa_master_key(
    kms: InMemoryKMS, key_id: str, algorithm: str = SHA_256, *, public: bool = True, **options: Any
) -> KMSRSAMasterKey:
    """Make a key that has the first RSA key, and clients of three regions unless others are given."""
    options.setdefault("clients", kms.clients(US, EU, AP))
    return KMSRSAMasterKey(
        key_id,
        encryption_algorithm=KMSEncryptionAlgorithm(algorithm),
        public_key=public_pem(rsa_key()) if public else None,
        **connected(options),
    )


def rsa_entry(
    key_id: str,
    *,
    plaintext: bytes = CONTEXT_DIGEST + DATA_KEY,
    algorithm: str = SHA_256,
    provider_id: str = "aws-kms-rsa",
    pair: str = "first",
) -> EncryptedDataKey:
    """Return an encrypted data key as some other program writes it."""
    ciphertext = rsa_key(pair).public_key().encrypt(plaintext, oaep(algorithm))
    return EncryptedDataKey(provider_id, key_id.encode(), ciphertext)


def reading(
    *encrypted_data_keys: EncryptedDataKey,
    suite: AlgorithmSuite = SUITE,
    context: Mapping[str, str] = CONTEXT,
) -> DataKeyRequest:
    """Return a request in the context of these entries."""
    return asking(*encrypted_data_keys, suite=suite, context=context)
