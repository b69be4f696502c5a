"""The preferred region: its keys are tried first on decrypt."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import pytest

from aioencrypt import (
    DiscoveryFilter,
    KMSDiscoveryMasterKeyProvider,
    KMSMasterKeyProvider,
    MultiMasterKeyProvider,
    MultiRegion,
    ProviderError,
    RawAESMasterKey,
    decrypt,
    encrypt,
)
from aioencrypt.materials import EncryptedDataKey
from aioencrypt.testing import InMemoryKMS
from tests.support.kms import (
    ACCOUNT,
    AP,
    DATA_KEY,
    EU,
    US,
    arn,
    encrypted_data_key,
    opened_with,
    provider_for,
    region_of,
    request,
)

pytestmark = pytest.mark.anyio

# One key for each, two of them in one region.
REGIONS = (US, EU, AP, EU)


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


def discovery(kms: InMemoryKMS, **options: Any) -> KMSDiscoveryMasterKeyProvider:
    given = {"discovery_filter": None, "connection": kms.connection(US, EU, AP)}
    return KMSDiscoveryMasterKeyProvider(**given | options)


async def all_tried(
    kms: InMemoryKMS, provider: KMSMasterKeyProvider | KMSDiscoveryMasterKeyProvider, edks: Any
) -> list[str]:
    """Return the keys in the order in which they are tried, when none of them opens."""
    broken = [EncryptedDataKey(edk.provider_id, edk.provider_info, b"broken") for edk in edks]
    kms.reset_calls()
    with pytest.raises(ProviderError) as caught:
        await provider.decrypt_data_key(request(*broken))
    tried = [attempt.key_id for attempt in caught.value.attempts]
    assert tried == [call.key_id for call in kms.calls]
    return tried


@pytest.mark.parametrize("preferred", [None, US, EU, AP, "sa-east-1"])
@pytest.mark.parametrize("kind", ["strict", "discovery"])
async def test_keys_of_the_region_come_first_and_the_order_is_otherwise_that_of_the_message(
    kms: InMemoryKMS, preferred: str | None, kind: str
) -> None:
    keys = [kms.create_key(region=region) for region in REGIONS]
    edks = [await encrypted_data_key(kms, key) for key in keys]
    provider = (
        provider_for(kms, *keys, preferred_region=preferred)
        if kind == "strict"
        else discovery(kms, preferred_region=preferred)
    )
    for order in itertools.permutations(range(4)):
        in_message = [keys[index] for index in order]
        expected = sorted(in_message, key=lambda key: region_of(key) != preferred)
        shuffled = [edks[index] for index in order]
        assert await all_tried(kms, provider, shuffled) == expected
        assert await opened_with(kms, provider, *shuffled) == expected[:1]


async def test_a_key_that_fails_leaves_the_others_in_their_order(kms: InMemoryKMS) -> None:
    keys = [kms.create_key(region=region) for region in REGIONS]
    edks = [await encrypted_data_key(kms, key) for key in keys]
    provider = provider_for(kms, *keys, preferred_region=EU)
    kms.deny(keys[1])
    assert await opened_with(kms, provider, *edks) == [keys[1], keys[3]]
    kms.outage(EU)
    calls = await opened_with(kms, provider, *edks)
    assert calls[-1] == keys[0]
    assert list(dict.fromkeys(calls)) == [keys[1], keys[3], keys[0]]


async def test_a_replica_of_the_region_comes_first_whatever_replica_encrypted(kms: InMemoryKMS) -> None:
    """The region that is called counts."""
    primary = kms.create_key(region=US, multi_region=True)
    replica, other = kms.replicate_key(primary, EU), kms.create_key(region=AP)
    edks = [await encrypted_data_key(kms, key) for key in (other, primary)]
    provider = provider_for(kms, other, replica, preferred_region=EU)
    assert await opened_with(kms, provider, *edks) == [replica]
    provider = provider_for(kms, other, replica, preferred_region=US)
    assert await opened_with(kms, provider, *edks) == [other]
    exact = provider_for(kms, other, primary, replica, preferred_region=EU, multi_region=MultiRegion.EXACT)
    assert await opened_with(kms, exact, *edks) == [other]
    assert await opened_with(kms, discovery(kms, preferred_region=EU), *edks) == [other]
    assert await opened_with(kms, discovery(kms, preferred_region=US), *edks) == [primary]


async def test_keys_of_others_are_not_called(kms: InMemoryKMS) -> None:
    foreign = arn("key/1", region=EU, account="999988887777")
    keys = [kms.create_key(region=region) for region in REGIONS]
    edks = [await encrypted_data_key(kms, key) for key in keys]
    odd = EncryptedDataKey("aws-kms", foreign.encode(), DATA_KEY)
    own = discovery(kms, preferred_region=EU, discovery_filter=DiscoveryFilter([ACCOUNT]))
    assert await opened_with(kms, own, odd, *edks) == [keys[1]]
    assert await opened_with(kms, provider_for(kms, *keys, preferred_region=EU), odd, *edks) == [keys[1]]


async def test_an_encrypted_data_key_without_a_key_arn_still_fails_the_message(kms: InMemoryKMS) -> None:
    key = kms.create_key(region=EU)
    edk = await encrypted_data_key(kms, key)
    odd = EncryptedDataKey("aws-kms", b"alias/app", b"x")
    for provider in (provider_for(kms, key, preferred_region=EU), discovery(kms, preferred_region=EU)):
        with pytest.raises(ProviderError, match="does not name a KMS key ARN"):
            await provider.decrypt_data_key(request(edk, odd))
    assert kms.calls == []


async def test_it_changes_nothing_when_encrypting(kms: InMemoryKMS) -> None:
    keys = [kms.create_key(region=region) for region in (US, EU)]
    provider = provider_for(kms, *keys, preferred_region=EU)
    result = await encrypt(b"x", provider)
    assert [(use.operation, use.key_id) for use in result.provenance.keys] == [
        ("generate", keys[0]),
        ("encrypt", keys[1]),
    ]
    assert [key.provider_info.decode() for key in result.header.encrypted_data_keys] == keys
    read = await decrypt(result.ciphertext, provider)
    assert [use.key_id for use in read.provenance.keys] == [keys[1]]


async def test_it_orders_within_its_provider_alone(kms: InMemoryKMS) -> None:
    raw = RawAESMasterKey("raw", "key", wrapping_key=bytes(32))
    keys = [kms.create_key(region=region) for region in (US, EU)]
    provider = MultiMasterKeyProvider(
        raw, provider_for(kms, keys[0], preferred_region=EU), provider_for(kms, keys[1], preferred_region=EU)
    )
    message, _ = await encrypt(b"x", provider)
    read = await decrypt(message, MultiMasterKeyProvider(None, *provider.providers[1:]))
    assert [use.key_id for use in read.provenance.keys] == [keys[0]]


@pytest.mark.parametrize("region", ["", 1, b"us-east-1"])
def test_a_preferred_region_that_is_refused(kms: InMemoryKMS, region: Any) -> None:
    text = r"^preferred_region must be the name of a region, or None$"
    with pytest.raises(ValueError, match=text):
        provider_for(kms, arn("key/1"), preferred_region=region)
    with pytest.raises(ValueError, match=text):
        discovery(kms, preferred_region=region)


def test_a_preference_beside_the_only_region_is_refused(kms: InMemoryKMS) -> None:
    for preferred in (US, EU):
        with pytest.raises(ValueError, match="give region or preferred_region, not both"):
            discovery(kms, region=US, preferred_region=preferred)


@pytest.mark.parametrize(
    "duplicate", [lambda provider: pickle.loads(pickle.dumps(provider)), copy.copy, copy.deepcopy]
)
async def test_it_is_pickled_and_copied(duplicate: Any) -> None:
    for provider in (
        KMSMasterKeyProvider([arn("key/1")], preferred_region=EU),
        KMSDiscoveryMasterKeyProvider(discovery_filter=None, preferred_region=EU),
    ):
        remake, _ = duplicate(provider).__reduce__()
        assert (remake.func, remake.keywords["preferred_region"]) == (type(provider), EU)
