"""Encrypt bytes in memory under a local key, and decrypt them again."""

from __future__ import annotations

import asyncio
import secrets

from aioencrypt import EncryptionContextMismatchError, RawAESMasterKey, decrypt, encrypt


async def main() -> None:
    # Namespace and name stand in every message. Keep them with the key: who loses one cannot decrypt.
    wrapping_key = secrets.token_bytes(32)
    provider = RawAESMasterKey("my-service", "key-2026", wrapping_key=wrapping_key)

    # The context is authenticated, and stored in the clear: it is no place for secrets.
    context = {"tenant": "42", "kind": "invoice"}
    message, header = await encrypt(b"attack at dawn", provider, encryption_context=context)
    print(f"{len(message)} bytes, {header.algorithm_suite.name}, message id {header.message_id.hex()}")

    # Say what you expect. A message of another tenant is refused before any key is used.
    plaintext, _ = await decrypt(message, provider, encryption_context={"tenant": "42"})
    print(plaintext)
    try:
        await decrypt(message, provider, encryption_context={"tenant": "43"})
    except EncryptionContextMismatchError as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    asyncio.run(main())
