"""Encrypt with the public key of an RSA key in KMS, without KMS; decrypt by KMS.

    python kms_rsa_offline.py

The KMS is the in-memory one of `aioencrypt.testing`. For AWS, take the client of an aiobotocore session
to fetch the public key, leave `connection=` out, and open the key that reads with `async with`.
"""

from __future__ import annotations

import asyncio

from aioencrypt import (
    AlgorithmSuite,
    KMSEncryptionAlgorithm,
    KMSRSAMasterKey,
    ProviderError,
    decrypt,
    encrypt,
)
from aioencrypt.testing import InMemoryKMS

ALGORITHM = KMSEncryptionAlgorithm.RSAES_OAEP_SHA_256
# Everybody may have the public key, so a signature would say nothing, and suites that sign are refused.
SUITE = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY


async def main() -> None:
    kms = InMemoryKMS()
    key_arn = kms.create_key(region="eu-west-1", key_spec="RSA_3072", key_usage="ENCRYPT_DECRYPT")

    # Once, by somebody who may call KMS. The public key goes to the writers with their configuration.
    answer = await kms.client("eu-west-1").get_public_key(KeyId=key_arn)
    public_key = answer["PublicKey"]

    # A device in the field: it has no account and, for all it cares, no network.
    kms.outage("eu-west-1")
    kms.reset_calls()
    writer = KMSRSAMasterKey(key_arn, encryption_algorithm=ALGORITHM, public_key=public_key)
    message, header = await encrypt(
        b"21.5 degrees", writer, algorithm_suite=SUITE, encryption_context={"device": "7"}
    )
    [encrypted] = header.encrypted_data_keys
    print(f"encrypted under {encrypted.provider_id}: {len(message)} bytes, {kms.call_count()} calls")

    # The default suite signs.
    try:
        await encrypt(b"21.5 degrees", writer)
    except ProviderError as error:
        print(f"refused: {error}")

    # The service that collects the messages may decrypt.
    kms.recover("eu-west-1")
    reader = KMSRSAMasterKey(key_arn, encryption_algorithm=ALGORITHM, connection=kms.connection("eu-west-1"))
    plaintext, _ = await decrypt(message, reader, encryption_context={"device": "7"})
    print(f"decrypted by KMS: {plaintext!r}")


if __name__ == "__main__":
    asyncio.run(main())
