"""What key pairs of the in-memory KMS are not for, and the rules that they share with all other keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aioencrypt.testing import InMemoryKMS, InMemoryKMSClient
from tests.support.kms_pairs import SHA_1, SHA_256, curve_key, der, oaep, refused, rsa_kms_key
from tests.support.rsa_keys import rsa_key

pytestmark = pytest.mark.anyio

US, EU = "us-east-1", "eu-west-1"


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


@pytest.fixture
def client(kms: InMemoryKMS) -> InMemoryKMSClient:
    return kms.client(US)


# What a key is not for


def calls(client: InMemoryKMSClient, key: str) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Return one call of each operation that uses a key, as it would be right for some key."""
    return {
        "Encrypt": lambda: client.encrypt(KeyId=key, Plaintext=b"a"),
        "Encrypt RSA": lambda: client.encrypt(KeyId=key, Plaintext=b"a", EncryptionAlgorithm=SHA_256),
        "Decrypt": lambda: client.decrypt(KeyId=key, CiphertextBlob=b"a"),
        "Decrypt RSA": lambda: client.decrypt(KeyId=key, CiphertextBlob=b"a", EncryptionAlgorithm=SHA_256),
        "GenerateDataKey": lambda: client.generate_data_key(KeyId=key, NumberOfBytes=32),
        "GenerateDataKeyWithoutPlaintext": lambda: client.generate_data_key_without_plaintext(
            KeyId=key, NumberOfBytes=32
        ),
        "ReEncrypt": lambda: client.re_encrypt(CiphertextBlob=b"a", SourceKeyId=key, DestinationKeyId=key),
        "DeriveSharedSecret": lambda: client.derive_shared_secret(
            KeyId=key, KeyAgreementAlgorithm="ECDH", PublicKey=der(curve_key())
        ),
    }


INCOMPATIBLE = "Algorithm {} is incompatible with key spec {}."
USAGE = "key usage is {} which is not valid for {}."
SYMMETRIC_ONLY = ["Encrypt", "Decrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "ReEncrypt"]
MISUSES = [
    *(("RSA_2048", name, INCOMPATIBLE.format("SYMMETRIC_DEFAULT", "RSA_2048")) for name in SYMMETRIC_ONLY),
    ("RSA_2048", "DeriveSharedSecret", USAGE.format("ENCRYPT_DECRYPT", "DeriveSharedSecret")),
    *(
        ("SYMMETRIC_DEFAULT", name, INCOMPATIBLE.format(SHA_256, "SYMMETRIC_DEFAULT"))
        for name in ("Encrypt RSA", "Decrypt RSA")
    ),
    ("SYMMETRIC_DEFAULT", "DeriveSharedSecret", USAGE.format("ENCRYPT_DECRYPT", "DeriveSharedSecret")),
    *(
        ("ECC_NIST_P256", name, USAGE.format("KEY_AGREEMENT", name.split()[0]))
        for name in (*SYMMETRIC_ONLY, "Encrypt RSA", "Decrypt RSA")
    ),
]


@pytest.mark.parametrize(("spec", "operation", "message"), MISUSES)
async def test_a_key_is_not_used_for_what_it_is_not_for(
    kms: InMemoryKMS, client: InMemoryKMSClient, spec: str, operation: str, message: str
) -> None:
    key = rsa_kms_key(kms) if spec == "RSA_2048" else kms.create_key(key_spec=spec)
    await refused(calls(client, key)[operation](), "InvalidKeyUsageException", message)


async def test_a_symmetric_key_has_no_public_key(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    await refused(
        client.get_public_key(KeyId=kms.create_key()),
        "UnsupportedOperationException",
        "key spec is SYMMETRIC_DEFAULT which is not valid for GetPublicKey.",
    )


async def test_a_blob_of_another_kms_under_the_name_of_a_key_pair(client: InMemoryKMSClient) -> None:
    there, here = InMemoryKMS(), InMemoryKMS()
    key = there.create_key(key_id="same")
    assert here.create_key(key_id="same", key_spec="ECC_NIST_P256") == key
    made = await there.client(US).encrypt(KeyId=key, Plaintext=b"a")
    await refused(here.client(US).decrypt(CiphertextBlob=made["CiphertextBlob"]), "InvalidKeyUsageException")


# Rules for all keys


def uses(kms: InMemoryKMS) -> list[tuple[str, str, Callable[[], Awaitable[Any]]]]:
    """Return permission, key and call of the operations on key pairs."""
    client, rsa_arn, curve_arn = kms.client(US), rsa_kms_key(kms), kms.create_key(key_spec="ECC_NIST_P256")
    blob = rsa_key().public_key().encrypt(b"a", oaep(SHA_256))
    return [
        (
            "Encrypt",
            rsa_arn,
            lambda: client.encrypt(KeyId=rsa_arn, Plaintext=b"a", EncryptionAlgorithm=SHA_256),
        ),
        (
            "Decrypt",
            rsa_arn,
            lambda: client.decrypt(KeyId=rsa_arn, CiphertextBlob=blob, EncryptionAlgorithm=SHA_256),
        ),
        ("GetPublicKey", rsa_arn, lambda: client.get_public_key(KeyId=rsa_arn)),
        ("GetPublicKey", curve_arn, lambda: client.get_public_key(KeyId=curve_arn)),
        (
            "DeriveSharedSecret",
            curve_arn,
            lambda: client.derive_shared_secret(
                KeyId=curve_arn, KeyAgreementAlgorithm="ECDH", PublicKey=der(curve_key())
            ),
        ),
    ]


async def test_states_and_permissions_count_for_key_pairs_too(kms: InMemoryKMS) -> None:
    for permission, key, call in uses(kms):
        await call()
        kms.deny(key, permission)
        await refused(call(), "AccessDeniedException", f"kms:{permission}")
        kms.allow(key)
        kms.disable_key(key)
        await refused(call(), "DisabledException", f"{key} is disabled.")
        kms.enable_key(key)
        kms.schedule_key_deletion(key)
        await refused(call(), "KMSInvalidStateException", f"{key} is pending deletion.")
        kms.cancel_key_deletion(key)
        kms.enable_key(key)
        await call()


async def test_grants_and_aliases_for_key_pairs(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    key = kms.create_key(key_spec="ECC_NIST_P256", private_key=curve_key())
    kms.create_alias("alias/peer", key)
    kms.deny(key, "DeriveSharedSecret", "GetPublicKey")
    tokens = [kms.create_grant(key, "DeriveSharedSecret", "GetPublicKey")]
    answer = await client.get_public_key(KeyId="alias/peer", GrantTokens=tokens)
    assert (answer["KeyId"], answer["PublicKey"]) == (key, der(curve_key()))
    secret = await client.derive_shared_secret(
        KeyId="alias/peer",
        KeyAgreementAlgorithm="ECDH",
        PublicKey=bytearray(der(curve_key())),
        GrantTokens=tokens,
    )
    assert secret["KeyId"] == key
    assert [call.grant_tokens for call in kms.calls] == [tuple(tokens)] * 2


async def test_a_replica_is_the_same_key_pair(kms: InMemoryKMS, client: InMemoryKMSClient) -> None:
    key = rsa_kms_key(kms, multi_region=True)
    replica = kms.replicate_key(key, EU)
    made = await client.encrypt(KeyId=key, Plaintext=b"secret", EncryptionAlgorithm=SHA_256)
    opened = await kms.client(EU).decrypt(
        KeyId=replica, CiphertextBlob=made["CiphertextBlob"], EncryptionAlgorithm=SHA_256
    )
    assert (opened["KeyId"], opened["Plaintext"]) == (replica, b"secret")
    metadata = (await kms.client(EU).describe_key(KeyId=replica))["KeyMetadata"]
    assert (metadata["KeySpec"], metadata["EncryptionAlgorithms"]) == ("RSA_2048", [SHA_1, SHA_256])
