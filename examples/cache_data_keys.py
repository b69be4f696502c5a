"""A data key for many messages: what that saves, and where it ends.

    python cache_data_keys.py

KMS is the in-memory one of `aioencrypt.testing`, with the time that a call over the network takes. For
AWS, leave `connection=` out; everything else stays.
"""

from __future__ import annotations

import asyncio
import time

from aioencrypt import CachingCMM, KMSMasterKeyProvider, Provider, decrypt, encrypt
from aioencrypt.testing import InMemoryKMS

MESSAGES = 200


async def write(provider: Provider) -> list[bytes]:
    """Encrypt the orders of two tenants, twenty at a time."""
    limiter = asyncio.Semaphore(20)

    async def order(number: int) -> bytes:
        async with limiter:
            context = {"tenant": "baker" if number % 2 else "miller"}
            result = await encrypt(f"order {number}".encode(), provider, encryption_context=context)
            return result.ciphertext

    return await asyncio.gather(*map(order, range(MESSAGES)))


async def main() -> None:
    kms = InMemoryKMS()
    key = kms.create_key()
    kms.latency = 0.02
    provider = KMSMasterKeyProvider([key], connection=kms.connection("us-east-1"))

    start = time.perf_counter()
    await write(provider)
    print(f"without a cache: {kms.call_count()} calls, {time.perf_counter() - start:.2f} s")

    kms.reset_calls()
    async with CachingCMM(provider, max_age=300, max_messages=50, refresh_ahead=30) as manager:
        start = time.perf_counter()
        messages = await write(manager)
        print(f"with a cache: {kms.call_count()} calls, {time.perf_counter() - start:.2f} s")

        kms.reset_calls()
        plaintexts = [(await decrypt(message, manager)).plaintext for message in messages]
        print(f"{plaintexts[0]!r} to {plaintexts[-1]!r}: {kms.call_count('Decrypt')} calls to read them")
        print(manager.statistics)

        # What a cache gives away: a key that is disabled is still in use, until its age is reached.
        kms.disable_key(key)
        await decrypt(messages[-1], manager)
        print("the key is disabled, and the data key in the cache is not")
    print(f"after the end: {manager.statistics.size} data keys")


if __name__ == "__main__":
    asyncio.run(main())
