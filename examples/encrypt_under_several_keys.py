"""Encrypt under keys of which each one alone can decrypt: two KMS regions and an offline RSA key.

    python encrypt_under_several_keys.py

The KMS is the in-memory one of `aioencrypt.testing`. For AWS, leave `connection=` out and open the
provider with `async with`; everything else stays.
"""

from __future__ import annotations

import asyncio

from cryptography.hazmat.primitives.asymmetric import rsa

from aioencrypt import (
    KMSMasterKeyProvider,
    MultiMasterKeyProvider,
    ProviderError,
    RawRSAMasterKey,
    RSAPadding,
    decrypt,
    encrypt,
)
from aioencrypt.testing import InMemoryKMS


async def main() -> None:
    kms = InMemoryKMS()
    keys = [kms.create_key(region="us-east-1"), kms.create_key(region="eu-west-1")]
    regions = KMSMasterKeyProvider(keys, connection=kms.connection("us-east-1", "eu-west-1"))

    # The private half lies in a safe. The service that encrypts has the public one only.
    recovery_key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    recovery = RawRSAMasterKey(
        "my-company", "recovery-2026", padding=RSAPadding.OAEP_SHA256, public_key=recovery_key.public_key()
    )

    # The first key generates the data key; then all others encrypt it at the same time.
    provider = MultiMasterKeyProvider(regions, recovery)
    message, header = await encrypt(b"attack at dawn", provider, encryption_context={"tenant": "42"})
    for key in header.encrypted_data_keys:
        print(f"encrypted under {key.provider_id}: {key.provider_info.decode()}")

    # A region is down: the next key is tried.
    kms.outage("us-east-1")
    plaintext, _ = await decrypt(message, regions)
    print(f"without us-east-1: {plaintext!r}")

    # AWS is gone altogether: the error says what was tried, and the safe is opened.
    kms.outage("eu-west-1")
    try:
        await decrypt(message, regions)
    except ProviderError as error:
        for attempt in error.attempts:
            print(f"failed: {attempt}")
    safe = RawRSAMasterKey(
        "my-company", "recovery-2026", padding=RSAPadding.OAEP_SHA256, private_key=recovery_key
    )
    plaintext, _ = await decrypt(message, safe)
    print(f"with the recovery key: {plaintext!r}")


if __name__ == "__main__":
    asyncio.run(main())
