"""KMS keys that the message names: which of them are called, and where.

The sections cited are those of the specification, framework/aws-kms/.
"""

from __future__ import annotations

from typing import Any

import pytest

from aioencrypt import (
    DiscoveryFilter,
    KMSDiscoveryMasterKeyProvider,
    MultiMasterKeyProvider,
    ProviderError,
    RawAESMasterKey,
    ServiceError,
    decrypt,
    encrypt,
)
from aioencrypt.materials import EncryptedDataKey
from aioencrypt.testing import InMemoryKMS
from tests.support.kms import (
    ACCOUNT,
    AP,
    CONTEXT,
    EU,
    ID,
    US,
    arn,
    calls_of,
    encrypted_data_key,
    opened_with,
    provider_for,
    request,
)
from tests.support.streaming import on_asyncio

pytestmark = pytest.mark.anyio

OTHER = "999988887777"


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


def discovery(
    kms: InMemoryKMS, discovery_filter: DiscoveryFilter | None = None, **options: Any
) -> KMSDiscoveryMasterKeyProvider:
    return KMSDiscoveryMasterKeyProvider(
        discovery_filter=discovery_filter, connection=kms.connection(US, EU, AP), **options
    )


# aws-kms-discovery-keyring.md#onencrypt, aws-kms-mrk-discovery-keyring.md#onencrypt


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-discovery-keyring.md#onencrypt",
    "framework/aws-kms/aws-kms-mrk-discovery-keyring.md#onencrypt",
)
@pytest.mark.parametrize("region", [None, US])
async def test_it_never_encrypts(kms: InMemoryKMS, region: str | None) -> None:
    provider = discovery(kms, region=region)
    own = provider_for(kms, kms.create_key())
    for refusing in (provider, MultiMasterKeyProvider(provider, own), MultiMasterKeyProvider(own, provider)):
        with pytest.raises(ProviderError, match="cannot encrypt; use KMSMasterKeyProvider"):
            await encrypt(b"x", refusing)
    assert not kms.calls


# aws-kms-discovery-keyring.md#ondecrypt


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-discovery-keyring.md#interface",
    "framework/aws-kms/aws-kms-discovery-keyring.md#ondecrypt",
)
async def test_a_message_is_opened_by_the_first_key_that_can(kms: InMemoryKMS) -> None:
    a, b, c = (kms.create_key(region=region) for region in (US, EU, AP))
    message, _ = await encrypt(b"x", provider_for(kms, a, b, c), encryption_context=CONTEXT)
    kms.reset_calls()
    calls = [("Decrypt", US, a), ("Decrypt", EU, b), ("Decrypt", AP, c)]
    for count in (1, 2, 3):
        if count == 2:
            kms.deny(a)
        elif count == 3:
            kms.outage(EU)
        assert (await decrypt(message, discovery(kms))).plaintext == b"x"
        assert all(call.encryption_context.items() >= CONTEXT.items() for call in kms.calls)
        assert calls_of(kms) == calls[:count]
    kms.disable_key(c)
    with pytest.raises(ProviderError, match="none of the 3 encrypted data keys") as caught:
        await decrypt(message, discovery(kms))
    assert [attempt.key_id for attempt in caught.value.attempts] == [a, b, c]
    assert [getattr(attempt.error, "code", "") for attempt in caught.value.attempts] == [
        "AccessDeniedException",
        None,
        "DisabledException",
    ]


async def test_a_multi_region_key_is_called_in_its_own_region_without_region(kms: InMemoryKMS) -> None:
    primary = kms.create_key(multi_region=True)
    replica = kms.replicate_key(primary, EU)
    encrypted = await encrypted_data_key(kms, replica)
    assert await opened_with(kms, discovery(kms), encrypted) == [replica]


async def test_an_alias_that_encrypted_is_found_by_its_key(kms: InMemoryKMS) -> None:
    key = kms.create_key()
    kms.create_alias("alias/app", key)
    message, _ = await encrypt(b"x", provider_for(kms, arn("alias/app")))
    kms.reset_calls()
    await decrypt(message, discovery(kms))
    assert calls_of(kms) == [("Decrypt", US, key)]


@pytest.mark.spec("framework/aws-kms/aws-kms-discovery-keyring.md#ondecrypt")
async def test_keys_of_other_providers_are_passed_over(kms: InMemoryKMS) -> None:
    key = kms.create_key()
    good = await encrypted_data_key(kms, key)
    theirs = [
        EncryptedDataKey(name, good.provider_info, good.ciphertext) for name in ("aws-kms-hierarchy", "raw")
    ]
    assert await opened_with(kms, discovery(kms), *theirs, good) == [key]
    wanted = rf"they come from the providers 'aws-kms-hierarchy' \('{key}'\), 'raw' \('{key}'\)$"
    with pytest.raises(ProviderError, match=wanted) as caught:
        await discovery(kms).decrypt_data_key(request(*theirs))
    assert caught.value.attempts == ()
    assert not kms.calls


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-discovery-keyring.md#ondecrypt",
    "framework/aws-kms/aws-kms-mrk-discovery-keyring.md#ondecrypt",
)
@on_asyncio
@pytest.mark.parametrize(
    "info", ["", ID, "alias/app", arn("alias/app"), arn("key/"), f"arn:aws:kms:{US}:{ACCOUNT}"]
)
@pytest.mark.parametrize("region", [None, US])
async def test_malformed_provider_info_in_a_message_fails_without_a_call(
    kms: InMemoryKMS, info: str, region: str | None
) -> None:
    """`aws-kms` with anything but the ARN of a key: "OnDecrypt MUST fail"."""
    good = await encrypted_data_key(kms, kms.create_key())
    malformed = EncryptedDataKey("aws-kms", info.encode(), b"blob")
    for message in ([malformed], [malformed, good], [good, malformed]):
        with pytest.raises(ProviderError, match="does not name a KMS key ARN"):
            await discovery(kms, region=region).decrypt_data_key(request(*message))
    assert not kms.calls
    # only this provider fails: framework/multi-keyring.md#ondecrypt
    raw = RawAESMasterKey("raw", "key", wrapping_key=bytes(32))
    data_key, encrypted = await raw.generate_data_key(request())
    both = MultiMasterKeyProvider(discovery(kms, region=region), raw)
    assert (await both.decrypt_data_key(request(malformed, encrypted))).data_key == data_key


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-discovery-keyring.md#ondecrypt",
    "framework/aws-kms/aws-kms-mrk-discovery-keyring.md#ondecrypt",
)
@on_asyncio
@pytest.mark.parametrize(
    ("accounts", "partition", "called"),
    [
        ([ACCOUNT], "aws", True),
        ([OTHER, ACCOUNT], "aws", True),
        ([OTHER], "aws", False),
        ([ACCOUNT], "aws-cn", False),
        ([ACCOUNT[:-1]], "aws", False),
    ],
)
@pytest.mark.parametrize("region", [None, US])
async def test_a_filter_asks_for_account_and_partition(
    kms: InMemoryKMS, accounts: list[str], partition: str, called: bool, region: str | None
) -> None:
    key = kms.create_key()
    encrypted = await encrypted_data_key(kms, key)
    provider = discovery(kms, DiscoveryFilter(accounts, partition), region=region)
    if called:
        assert await opened_with(kms, provider, encrypted) == [key]
        return
    with pytest.raises(ProviderError, match="belongs to a master key given here") as caught:
        await provider.decrypt_data_key(request(encrypted))
    assert caught.value.attempts == ()
    assert not kms.calls


@pytest.mark.spec("framework/aws-kms/aws-kms-discovery-keyring.md#ondecrypt")
async def test_a_filter_passes_over_keys_and_goes_on(kms: InMemoryKMS) -> None:
    theirs, ours = kms.create_key(account=OTHER), kms.create_key(region=EU)
    encrypted = [await encrypted_data_key(kms, key) for key in (theirs, ours)]
    assert await opened_with(kms, discovery(kms, DiscoveryFilter([ACCOUNT])), *encrypted) == [ours]
    assert await opened_with(kms, discovery(kms, DiscoveryFilter([OTHER])), *encrypted) == [theirs]
    assert await opened_with(kms, discovery(kms), *encrypted) == [theirs]


@pytest.mark.spec("framework/aws-kms/aws-kms-discovery-keyring.md#ondecrypt")
async def test_grant_tokens_go_with_the_calls(kms: InMemoryKMS) -> None:
    key = kms.create_key()
    encrypted = await encrypted_data_key(kms, key)
    kms.deny(key)
    provider = discovery(kms, grant_tokens=[kms.create_grant(key, "Decrypt")])
    assert await opened_with(kms, provider, encrypted) == [key]


@pytest.mark.spec("framework/aws-kms/aws-kms-discovery-keyring.md#ondecrypt")
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"KeyId": arn(f"key/{ID}")}, f"KMS used the key '{arn(f'key/{ID}')}', not 'arn:"),
        ({"KeyId": None}, "the answer of KMS has no KeyId"),
        ({"Plaintext": bytes(31)}, "the data key has 31 bytes; the suite needs 32"),
    ],
)
async def test_answers_are_checked_and_the_next_key_is_tried(
    kms: InMemoryKMS, changes: dict[str, object], text: str
) -> None:
    a, b = kms.create_key(), kms.create_key(region=EU)
    encrypted = [await encrypted_data_key(kms, key) for key in (a, b)]
    kms.answer_next("Decrypt", changes)
    assert await opened_with(kms, discovery(kms), *encrypted) == [a, b]
    kms.answer_next("Decrypt", changes, times=2)
    with pytest.raises(ProviderError) as caught:
        await discovery(kms).decrypt_data_key(request(*encrypted))
    first, second = caught.value.attempts
    assert text in str(first.error)
    assert (first.key_id, second.key_id) == (a, b)


async def test_a_region_without_a_client_is_a_failed_attempt(kms: InMemoryKMS) -> None:
    a, b = kms.create_key(region=EU), kms.create_key(region=US)
    encrypted = [await encrypted_data_key(kms, key) for key in (a, b)]
    provider = KMSDiscoveryMasterKeyProvider(discovery_filter=None, connection=kms.connection(US))
    assert await opened_with(kms, provider, *encrypted) == [b]
    with pytest.raises(
        ProviderError, match=r"no client for the region 'eu-west-1', only for \['us-east-1'\]"
    ) as e:
        await provider.decrypt_data_key(request(encrypted[0]))
    assert isinstance(e.value.attempts[0].error, ServiceError)


# aws-kms-mrk-discovery-keyring.md#ondecrypt


@pytest.mark.spec("framework/aws-kms/aws-kms-mrk-discovery-keyring.md#ondecrypt")
async def test_with_a_region_only_that_region_is_called(kms: InMemoryKMS) -> None:
    here, there = kms.create_key(), kms.create_key(region=EU)
    # the same id in the region is no replica
    kms.create_key(region=US, key_id=there.rpartition("/")[2])
    encrypted = [await encrypted_data_key(kms, key) for key in (there, here)]
    assert await opened_with(kms, discovery(kms, region=US), *encrypted) == [here]
    with pytest.raises(ProviderError, match="belongs to a master key given here"):
        await discovery(kms, region=US).decrypt_data_key(request(encrypted[0]))
    assert not kms.calls


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-mrk-discovery-keyring.md#interface",
    "framework/aws-kms/aws-kms-mrk-discovery-keyring.md#ondecrypt",
)
async def test_with_a_region_its_replica_is_called(kms: InMemoryKMS) -> None:
    primary = kms.create_key(multi_region=True, account=OTHER)
    replica = kms.replicate_key(primary, EU)
    encrypted = await encrypted_data_key(kms, primary)
    for region, called in ((EU, replica), (US, primary)):
        assert await opened_with(kms, discovery(kms, region=region), encrypted) == [called]
        filtered = discovery(kms, DiscoveryFilter([OTHER]), region=region)
        assert await opened_with(kms, filtered, encrypted) == [called]
    # no replica there: the service says so
    with pytest.raises(ProviderError, match="NotFoundException") as caught:
        await discovery(kms, region=AP).decrypt_data_key(request(encrypted))
    assert calls_of(kms) == [("Decrypt", AP, primary.replace(US, AP))]
    assert caught.value.attempts[0].key_id == primary.replace(US, AP)


@pytest.mark.spec("framework/aws-kms/aws-kms-mrk-discovery-keyring.md#ondecrypt")
async def test_with_a_region_the_answer_must_be_of_the_replica(kms: InMemoryKMS) -> None:
    primary = kms.create_key(multi_region=True)
    kms.replicate_key(primary, EU)
    encrypted = await encrypted_data_key(kms, primary)
    kms.answer_next("Decrypt", {"KeyId": primary})
    with pytest.raises(ProviderError, match=f"KMS used the key '{primary}', not"):
        await discovery(kms, region=EU).decrypt_data_key(request(encrypted))


# aws-kms-mrk-multi-keyrings.md#aws-kms-mrk-discovery-multi-keyring


@pytest.mark.spec(
    "framework/aws-kms/aws-kms-multi-keyrings.md#aws-kms-discovery-multi-keyring",
    "framework/aws-kms/aws-kms-mrk-multi-keyrings.md#aws-kms-mrk-discovery-multi-keyring",
)
async def test_several_regions_are_several_providers_tried_in_order(kms: InMemoryKMS) -> None:
    primary = kms.create_key(region=AP, multi_region=True)
    in_eu = kms.replicate_key(primary, EU)
    single = kms.create_key(region=US)
    encrypted = [await encrypted_data_key(kms, key) for key in (primary, single)]
    provider = MultiMasterKeyProvider(None, *(discovery(kms, region=region) for region in (EU, US)))
    assert await opened_with(kms, provider, *encrypted) == [in_eu]
    kms.deny(in_eu)
    assert await opened_with(kms, provider, *encrypted) == [in_eu, primary.replace(AP, US), single]
