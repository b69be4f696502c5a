"""A key for each tenant, and one call of KMS for thousands of messages.

    python hierarchical_keys.py

Each tenant has a branch key, kept in a DynamoDB table and wrapped by one KMS key. KMS and DynamoDB are the
in-memory ones of `aioencrypt.testing`. For AWS, leave `connection=` out; everything
else stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aioencrypt import AWSConnection, ProviderError, decrypt, encrypt
from aioencrypt.branch_keys import BranchKeyStore, HierarchicalMasterKey, KMSKeyArn
from aioencrypt.testing import InMemoryDynamoDB, InMemoryKMS

BRANCH_KEYS: dict[str, str] = {}


async def branch_key_of_tenant(context: Mapping[str, str]) -> str:
    """Pick the branch key of a message, to write it and to read it."""
    return BRANCH_KEYS[context["tenant"]]


async def main() -> None:
    kms, dynamodb = InMemoryKMS(), InMemoryDynamoDB()
    store = BranchKeyStore(
        "branch-keys",
        kms_configuration=KMSKeyArn(kms.create_key(region="us-east-1")),
        logical_name="branch-keys of my service",
        connection=AWSConnection(kms=kms.clients("us-east-1"), dynamodb=dynamodb.clients("us-east-1")),
    )
    async with HierarchicalMasterKey(
        store, branch_key_id_supplier=branch_key_of_tenant, max_age=600
    ) as provider:
        # Once, when the service and its tenants are set up.
        await store.create_key_store()
        for tenant in ("baker", "miller"):
            BRANCH_KEYS[tenant] = await store.create_key()

        # Every request of every tenant, at once.
        kms.reset_calls()

        async def order(number: int) -> bytes:
            context = {"tenant": "baker" if number % 2 else "miller"}
            result = await encrypt(f"order {number}".encode(), provider, encryption_context=context)
            return result.ciphertext

        messages = await asyncio.gather(*map(order, range(1000)))
        print(f"{len(messages)} messages of {len(BRANCH_KEYS)} tenants, {kms.call_count()} calls of KMS")

        plaintext, _ = await decrypt(messages[1], provider, encryption_context={"tenant": "baker"})
        print(f"the baker reads {plaintext!r}")

        # A key of one tenant does not open messages of another.
        baker = HierarchicalMasterKey(store, branch_key_id=BRANCH_KEYS["baker"], max_age=600)
        try:
            await decrypt(messages[0], baker)
        except ProviderError as error:
            print(f"refused: {error}")

        # A new version wraps from now on, when the cached one has expired; old messages stay readable.
        await store.version_key(BRANCH_KEYS["baker"])
        plaintext, _ = await decrypt(messages[1], baker)
        print(f"after a new version: {plaintext!r}")


if __name__ == "__main__":
    asyncio.run(main())
