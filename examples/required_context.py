"""Medical reports that only open for who knows whose they are; the name stands in none of them.

    python required_context.py

The name of the patient is authenticated with every report, and not stored. Readers give it again, and
then see which key opened the report.
"""

from __future__ import annotations

import asyncio
import secrets

from aioencrypt import (
    EncryptionError,
    MultiMasterKeyProvider,
    RawAESMasterKey,
    RequiredEncryptionContextCMM,
    decrypt,
    encrypt,
)


async def main() -> None:
    """Write a report under two keys, and read it with and without the right name."""
    clinic = RawAESMasterKey("clinic", "reports-2026", wrapping_key=secrets.token_bytes(32))
    archive = RawAESMasterKey("archive", "safe-1", wrapping_key=secrets.token_bytes(32))
    writer = RequiredEncryptionContextCMM(MultiMasterKeyProvider(clinic, archive), ["patient"])
    reader = RequiredEncryptionContextCMM(archive, ["patient"])

    result = await encrypt(
        b"in good health", writer, encryption_context={"patient": "Ada Lovelace", "kind": "report"}
    )
    print("stored:", sorted(key for key in result.header.encryption_context if not key.startswith("aws-")))
    for use in result.provenance.keys:
        print(f"{use.operation} under {use.provider_id} {use.key_id}")

    for context in ({}, {"patient": "Grace Hopper"}, {"patient": "Ada Lovelace"}):
        try:
            opened = await decrypt(result.ciphertext, reader, encryption_context=context)
        except EncryptionError as error:
            print(f"refused, {type(error).__name__}: {error}")
        else:
            (use,) = opened.provenance.keys
            print(f"{opened.plaintext.decode()}, opened by {use.provider_id} {use.key_id}")


if __name__ == "__main__":
    asyncio.run(main())
