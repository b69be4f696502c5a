"""Multi-Region keys: which replica opens what another one encrypted, and which is called.

The sections cited are those of the specification, framework/aws-kms/.
"""

from __future__ import annotations

import pytest

from aioencrypt import AWSConnection, KMSMasterKeyProvider, MultiRegion, ProviderError, decrypt, encrypt
from aioencrypt.materials import EncryptedDataKey
from aioencrypt.testing import InMemoryKMS
from tests.support.kms import (
    EU,
    ID,
    MRK,
    US,
    arn,
    calls_of,
    encrypted_data_key,
    key_arns,
    opened_with,
    provider_for,
    request,
)
from tests.support.streaming import on_asyncio

pytestmark = pytest.mark.anyio


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


# Multi-Region keys: aws-kms-mrk-match-for-decrypt.md#implementation


@pytest.mark.spec("framework/aws-kms/aws-kms-mrk-keyring.md#ondecrypt")
async def test_a_replica_opens_what_its_primary_encrypted(kms: InMemoryKMS) -> None:
    primary = kms.create_key(multi_region=True)
    replica = kms.replicate_key(primary, EU)
    for ours, theirs in ((primary, replica), (replica, primary)):
        encrypted = await encrypted_data_key(kms, theirs)
        for multi_region, called in ((MultiRegion.MATCH, ours), (MultiRegion.EXACT, None)):
            provider = provider_for(kms, ours, multi_region=multi_region)
            if called:
                # the configured key is called, in its own region
                assert await opened_with(kms, provider, encrypted) == [called]
                continue
            with pytest.raises(ProviderError, match="belongs to a master key given here"):
                await provider.decrypt_data_key(request(encrypted))
        assert not kms.calls
        own = await encrypted_data_key(kms, ours)
        assert await opened_with(kms, provider_for(kms, ours, multi_region=MultiRegion.EXACT), own) == [ours]


@pytest.mark.spec("framework/aws-kms/aws-kms-mrk-keyring.md#ondecrypt")
@on_asyncio
@pytest.mark.parametrize(
    ("configured", "stored"),
    [
        (arn(f"key/{MRK}"), arn(f"key/{MRK}", region=EU, account="999988887777")),
        (arn(f"key/{MRK}"), arn(f"key/{MRK}", region=EU, partition="aws-cn")),
        (arn(f"key/{MRK}"), arn(f"key/{MRK}0", region=EU)),
        (arn(f"key/{ID}"), arn(f"key/{ID}", region=EU)),
        (arn("key/MRK-1"), arn("key/MRK-1", region=EU)),
        (arn("alias/mrk-1"), arn("key/mrk-1", region=EU)),
        (MRK, arn(f"key/{MRK}")),
    ],
)
async def test_what_is_no_replica_is_not_called(kms: InMemoryKMS, configured: str, stored: str) -> None:
    with pytest.raises(ProviderError, match="belongs to a master key given here"):
        await provider_for(kms, configured).decrypt_data_key(
            request(EncryptedDataKey("aws-kms", stored.encode(), b"blob"))
        )
    assert not kms.calls


# Related keys: aws-kms-mrk-multi-keyrings.md#aws-kms-mrk-multi-keyring, aws-kms-mrk-are-unique.md


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-mrk-multi-keyrings.md#aws-kms-mrk-multi-keyring",
    "framework/aws-kms/aws-kms-mrk-are-unique.md#implementation",
)
@pytest.mark.parametrize(
    ("related", "others"),
    [
        ([arn(f"key/{MRK}"), arn(f"key/{MRK}", region=EU)], [arn("key/mrk-1"), arn(f"key/{ID}")]),
        ([arn(f"key/{MRK}"), arn(f"key/{MRK}", region=EU), arn("key/mrk-1"), "mrk-1"], [ID, "alias/mrk-1"]),
        ([arn(f"key/{MRK}"), MRK], []),
        ([arn(f"key/{MRK}"), arn(f"key/{MRK}", account="999988887777")], []),
        ([arn(f"key/{MRK}"), arn(f"key/{MRK}")], []),
        ([MRK, MRK], []),
    ],
)
def test_related_multi_region_keys_are_refused_all_by_name(related: list[str], others: list[str]) -> None:
    with pytest.raises(ValueError, match=r"give only one of them, or use MultiRegion\.EXACT") as caught:
        KMSMasterKeyProvider([*others, *related], connection=AWSConnection(kms={}))
    assert all(key in str(caught.value) for key in related)
    assert not any(f"{key}," in str(caught.value) or f"{key};" in str(caught.value) for key in others)
    KMSMasterKeyProvider(
        [*others, *related], connection=AWSConnection(kms={}), multi_region=MultiRegion.EXACT
    )


@pytest.mark.spec("framework/aws-kms/aws-kms-mrk-multi-keyrings.md#aws-kms-mrk-multi-keyring")
@pytest.mark.parametrize(
    "key_ids",
    [
        [arn(f"key/{MRK}"), arn("key/mrk-2", region=EU)],
        [arn(f"key/{ID}"), arn(f"key/{ID}", region=EU)],
        [arn("alias/mrk-1"), arn("alias/mrk-1", region=EU), "alias/mrk-1"],
        [arn("alias/mrk-1"), arn("key/mrk-1")],
    ],
)
def test_unrelated_keys_are_not_refused(key_ids: list[str]) -> None:
    KMSMasterKeyProvider(key_ids, connection=AWSConnection(kms={}))


async def test_related_keys_with_exact_are_two_keys(kms: InMemoryKMS) -> None:
    primary = kms.create_key(multi_region=True)
    replica = kms.replicate_key(primary, EU)
    provider = provider_for(kms, primary, replica, multi_region=MultiRegion.EXACT)
    message, header = await encrypt(b"x", provider)
    assert key_arns(header) == [primary, replica]
    kms.outage(US)
    kms.reset_calls()
    assert (await decrypt(message, provider)).plaintext == b"x"
    assert calls_of(kms) == [("Decrypt", US, primary), ("Decrypt", EU, replica)]
