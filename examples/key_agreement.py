"""Encrypt between two parties that know each other's public keys: one has its key in KMS, one in a file.

    python key_agreement.py

The KMS is the in-memory one of `aioencrypt.testing`. For AWS, take the client of an aiobotocore session
to fetch the public key, leave `connection=` out, and open the keys of KMS with `async with`.
"""

from __future__ import annotations

import asyncio

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from aioencrypt import AWSConnection, KMSECDHMasterKey, ProviderError, RawECDHMasterKey, decrypt, encrypt
from aioencrypt.testing import InMemoryKMS


async def main() -> None:
    # The bank keeps its key in KMS, the shop in a file. They exchange public keys, once.
    kms = InMemoryKMS()
    clients = kms.clients("eu-west-1")
    bank_arn = kms.create_key(region="eu-west-1", key_spec="ECC_NIST_P384", key_usage="KEY_AGREEMENT")
    bank_public = (await kms.client("eu-west-1").get_public_key(KeyId=bank_arn))["PublicKey"]
    shop_private = ec.generate_private_key(ec.SECP384R1())
    shop_public = shop_private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    bank = KMSECDHMasterKey.static(bank_arn, shop_public, connection=AWSConnection(kms=clients))
    shop = RawECDHMasterKey.static(private_key=shop_private, recipient_public_key=bank_public)
    order, header = await encrypt(b"pay 10 to the baker", shop, encryption_context={"order": "1"})
    print(f"under {header.encrypted_data_keys[0].provider_id}: {(await decrypt(order, bank)).plaintext!r}")
    receipt, header = await encrypt(b"paid", bank, encryption_context={"order": "1"})
    print(f"under {header.encrypted_data_keys[0].provider_id}: {(await decrypt(receipt, shop)).plaintext!r}")

    # A stranger has the bank's public key, like everybody. The bank can read him, too, if it wants to,
    # but not with the key that it shares with the shop.
    stranger = RawECDHMasterKey.ephemeral(recipient_public_key=bank_public)
    letter, _ = await encrypt(b"pay 10,000 to me", stranger, encryption_context={"order": "1"})
    try:
        await decrypt(letter, bank)
    except ProviderError as error:
        print(f"refused: {error}")
    letterbox = KMSECDHMasterKey.discovery(bank_arn, connection=AWSConnection(kms=clients))
    print(f"from anybody: {(await decrypt(letter, letterbox)).plaintext!r}")

    # What he wrote he cannot read.
    try:
        await decrypt(letter, stranger)
    except ProviderError as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    asyncio.run(main())
