"""Keep branch keys in DynamoDB: make the table, a key for each tenant, and new versions of them.

    python create_branch_keys.py

Those who create keys need not be able to read them. KMS and DynamoDB are the in-memory ones of
`aioencrypt.testing`. For AWS, leave `connection=` out and open the stores with
`async with`; everything else stays.
"""

from __future__ import annotations

import asyncio

from aioencrypt import AWSConnection, ProviderError, ServiceError
from aioencrypt.branch_keys import BranchKeyStore, KMSConfiguration, KMSDiscovery, KMSKeyArn
from aioencrypt.testing import InMemoryDynamoDB, InMemoryKMS

TENANTS = ["the-baker", "the-butcher"]


async def main() -> None:
    kms, dynamodb = InMemoryKMS(), InMemoryDynamoDB()
    kms_key = kms.create_key(region="us-east-1")

    def store(configuration: KMSConfiguration) -> BranchKeyStore:
        return BranchKeyStore(
            "branch-keys",
            kms_configuration=configuration,
            logical_name="branch keys of my service",
            connection=AWSConnection(kms=kms.clients("us-east-1"), dynamodb=dynamodb.clients("us-east-1")),
        )

    # The deployment makes table and keys, and does no harm when it is run again.
    deployment = store(KMSKeyArn(kms_key))
    print(f"table {await deployment.create_key_store()}")
    for _ in range(2):
        for tenant in TENANTS:
            try:
                await deployment.create_key(tenant, {"tenant": tenant})
                print(f"created {tenant}")
            except ServiceError as error:
                print(f"left alone: {error.message}")

    # The service reads, under whichever key stands in the table, and can do nothing else.
    service = store(KMSDiscovery())
    before = await service.active_branch_key("the-baker")
    try:
        await service.version_key("the-baker")
    except ProviderError as error:
        print(f"refused: {error}")

    # Two rotate at once, by mistake: one of them wins, and the key is as it should be.
    outcomes = await asyncio.gather(
        deployment.version_key("the-baker"), deployment.version_key("the-baker"), return_exceptions=True
    )
    print(f"rotated by {outcomes.count(None)} of {len(outcomes)}")
    after = await service.active_branch_key("the-baker")
    old = await service.branch_key_version("the-baker", before.version)
    print(f"a new key: {after.key != before.key}; the old one is still there: {old == before}")


if __name__ == "__main__":
    asyncio.run(main())
