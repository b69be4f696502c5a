"""The caching CMM: cache identifiers, partitions, and that nothing is handed over to whom it does not belong.

Specification: framework/caching-cmm.md#appendix-a-cache-entry-identifier-formulas.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import anyio
import attrs
import pytest
from anyio.lowlevel import checkpoint

from aioencrypt import (
    AlgorithmSuite,
    AsyncCache,
    CachingCMM,
    CommitmentPolicy,
    CommitmentPolicyError,
    EncryptionClient,
    EncryptionContextMismatchError,
    MultiMasterKeyProvider,
    ProviderError,
    RequiredEncryptionContextCMM,
    RequiredEncryptionContextError,
    decrypt,
    encrypt,
)
from aioencrypt.materials import DecryptionMaterialsRequest, EncryptedDataKey
from tests.support.caching import (
    ALLOW,
    FORBID,
    NOT_COMMITTING,
    REQUIRE,
    Below,
    CarelessCache,
    RecordingCache,
    reading,
    writing,
)
from tests.support.message_writer import sized, sorted_context
from tests.support.providers import CONTEXT, OwnKey
from tests.support.streaming import SIGNED, UNSIGNED, on_asyncio

pytestmark = pytest.mark.anyio

PAGE = "framework/caching-cmm.md"
PARTITION = "größe"
CONTEXTS: list[dict[str, str]] = [{}, CONTEXT, {"z": "1", "größe": "ß", "a": "", "": "x"}]
contexts = pytest.mark.parametrize("context", CONTEXTS, ids=ascii)


def shared(below: Any, cache: AsyncCache[Any], partition: str | None = "shared") -> CachingCMM:
    return CachingCMM(below, max_age=60, cache=cache, partition=partition)


def identifier(*parts: bytes) -> bytes:
    return hashlib.sha384(b"\0".join(parts)).digest()


# Identifiers


@pytest.mark.spec(
    f"{PAGE}#appendix-a-cache-entry-identifier-formulas",
    f"{PAGE}#resource-suffix",
    f"{PAGE}#encryption-materials-without-algorithm-suite",
    f"{PAGE}#encryption-materials-with-algorithm-suite",
)
@contexts
async def test_the_identifiers_of_encryption_materials(context: Mapping[str, str]) -> None:
    cache, partition = RecordingCache(), PARTITION.encode()
    cmm = shared(OwnKey("a"), cache, PARTITION)
    await cmm.get_encryption_materials(writing(context=context))
    await cmm.get_encryption_materials(writing(context=context, suite=UNSIGNED))
    assert [key[0] for key in cache.asked] == [
        identifier(b"\1", b"\1", partition, b"\0", sorted_context(context)),
        identifier(b"\1", b"\1", partition, b"\1", b"\x04\x78", sorted_context(context)),
    ]


def many_data_keys(count: int) -> tuple[EncryptedDataKey, ...]:
    """Return data keys of all lengths, none of them in order."""
    chance = random.Random(1)
    return tuple(
        EncryptedDataKey(
            chance.choice(["own", "aws-kms", "ß"]),
            chance.randbytes(number % 7),
            chance.randbytes(number % 11),
        )
        for number in range(count)
    )


@pytest.mark.spec(
    f"{PAGE}#appendix-a-cache-entry-identifier-formulas",
    f"{PAGE}#resource-suffix",
    f"{PAGE}#decryption-materials",
)
@contexts
@pytest.mark.parametrize("count", [1, 2, 64, 65, 200])
@on_asyncio
async def test_the_identifiers_of_decryption_materials(context: Mapping[str, str], count: int) -> None:
    cache, partition, others = RecordingCache(), PARTITION.encode(), many_data_keys(count - 1)
    below = Below()
    materials = await below.get_encryption_materials(writing(context=context, suite=UNSIGNED))
    data_keys = [*others[: count // 2], *materials.encrypted_data_keys, *others[count // 2 :]]
    cmm = shared(below, cache, PARTITION)
    asked = attrs.evolve(reading(materials), encrypted_data_keys=tuple(data_keys))
    await cmm.decrypt_materials(asked)
    entries = sorted(
        sized(key.provider_id.encode()) + sized(key.provider_info) + sized(key.ciphertext)
        for key in data_keys
    )
    assert [key[0] for key in cache.asked] == [
        identifier(b"\1", b"\2", partition, b"\x04\x78", b"".join(entries), sorted_context(context))
    ]
    # in any order of the keys
    await cmm.decrypt_materials(attrs.evolve(asked, encrypted_data_keys=tuple(reversed(data_keys))))
    assert cache.asked[0] == cache.asked[1]
    assert cache.statistics.hits == 1


async def test_a_message_under_several_keys_is_found_again() -> None:
    keys = OwnKey("a"), OwnKey("b")
    message, _ = await encrypt(b"plaintext", MultiMasterKeyProvider(*keys))
    reader = OwnKey("b")
    cmm = CachingCMM(reader, max_age=60)
    for _ in range(2):
        assert (await decrypt(message, cmm)).plaintext == b"plaintext"
    assert reader.log == ["decrypt b"]


@on_asyncio
async def test_the_loop_goes_on_while_data_keys_are_sorted() -> None:
    below, turns = Below(), 0
    materials = await below.get_encryption_materials(writing(suite=UNSIGNED))
    request = reading(materials)
    request = attrs.evolve(request, encrypted_data_keys=many_data_keys(6400) + request.encrypted_data_keys)
    cmm = shared(below, RecordingCache())

    async def turn() -> None:
        nonlocal turns
        while True:
            await checkpoint()
            turns += 1

    async with anyio.create_task_group() as group:
        group.start_soon(turn)
        await cmm._decryption_identifier(request)
        group.cancel_scope.cancel()
    assert turns >= 199


# Partitions


@pytest.mark.spec(f"{PAGE}#partition-id", f"{PAGE}#underlying-cryptographic-materials-cache")
async def test_each_manager_has_a_partition_of_its_own() -> None:
    cache, below = AsyncCache[Any](), Below()
    managers = [shared(below, cache, None) for _ in range(3)]
    materials = [await manager.get_encryption_materials(writing()) for manager in managers]
    assert len({one.data_key.plaintext for one in materials}) == 3
    for manager in managers:
        await manager.decrypt_materials(reading(materials[0]))
    assert below.calls == 6
    assert len({manager.partition for manager in managers}) == 3
    for manager in managers:
        assert str(UUID(manager.partition)) == manager.partition
        with pytest.raises(AttributeError):
            manager.partition = "another"  # type: ignore[misc]


@pytest.mark.spec(f"{PAGE}#underlying-cryptographic-materials-cache", f"{PAGE}#partition-id")
async def test_managers_of_one_partition_share_data_keys() -> None:
    cache, first, second = AsyncCache[Any](), Below(), Below()
    one, two, other = shared(first, cache), shared(second, cache), shared(second, cache, "other")
    assert one.partition == "shared"
    materials = await one.get_encryption_materials(writing())
    assert (await two.get_encryption_materials(writing())).data_key == materials.data_key
    assert (await other.get_encryption_materials(writing())).data_key != materials.data_key
    await one.decrypt_materials(reading(materials))
    await two.decrypt_materials(reading(materials))
    assert (first.calls, second.calls) == (2, 1)
    assert one.statistics == two.statistics


async def test_encryption_and_decryption_do_not_meet() -> None:
    below = Below()
    cmm = CachingCMM(below, max_age=60)
    materials = await cmm.get_encryption_materials(writing(suite=UNSIGNED, context={}))
    assert (await cmm.decrypt_materials(reading(materials))).provenance.cached is False
    assert below.calls == 2


# Commitment policies (CVE-2026-6550)


@pytest.mark.parametrize("order", [*itertools.permutations([FORBID, REQUIRE, ALLOW])])
async def test_clients_of_different_policies_share_a_cache_and_get_what_their_policy_says(
    order: tuple[CommitmentPolicy, ...],
) -> None:
    cache, key = AsyncCache[Any](), OwnKey("a")
    cmms = {policy: shared(key, cache) for policy in order}
    for _ in range(2):
        for policy in order:
            client = EncryptionClient(commitment_policy=policy)
            _, header = await client.encrypt(b"plaintext", cmms[policy])
            assert header.algorithm_suite is policy.default_suite
    assert key.log == ["generate a"] * 3


async def test_materials_of_another_policy_do_not_come_out_of_a_cache() -> None:
    """Not even of a cache that goes by the identifier of the specification alone."""
    cache, below = CarelessCache(), Below()
    cmm, other = shared(below, cache), shared(below, cache)
    materials = await cmm.get_encryption_materials(writing(policy=FORBID))
    assert materials.algorithm_suite is FORBID.default_suite
    text = "commitment policy REQUIRE_ENCRYPT_REQUIRE_DECRYPT does not allow encrypting with ALG_AES_256_"
    for manager in (cmm, other):
        with pytest.raises(CommitmentPolicyError, match=text):
            await manager.get_encryption_materials(writing(policy=REQUIRE))
        with pytest.raises(CommitmentPolicyError, match=text):
            await EncryptionClient().encrypt(b"0123456789", manager, encryption_context=CONTEXT)
    assert below.calls == 1


@pytest.mark.parametrize("cache_kind", [AsyncCache, CarelessCache])
async def test_a_message_that_a_policy_forbids_is_not_read_from_a_cache(
    cache_kind: type[AsyncCache[Any]],
) -> None:
    below, cmm = Below(), CachingCMM(below := Below(), max_age=60, cache=cache_kind())
    client = EncryptionClient(commitment_policy=ALLOW)
    message, header = await EncryptionClient(commitment_policy=FORBID).encrypt(
        b"plaintext", below, algorithm_suite=NOT_COMMITTING
    )
    assert (await client.decrypt(message, cmm)).plaintext == b"plaintext"
    text = "commitment policy REQUIRE_ENCRYPT_REQUIRE_DECRYPT does not allow decrypting"
    with pytest.raises(CommitmentPolicyError, match=text):
        await EncryptionClient(commitment_policy=REQUIRE).decrypt(message, cmm)
    with pytest.raises(CommitmentPolicyError, match=text):
        await cmm.decrypt_materials(reading(header, policy=REQUIRE))


async def test_the_manager_below_hears_of_each_policy() -> None:
    below = Below()
    cmm = CachingCMM(below, max_age=60)
    materials = await below.get_encryption_materials(writing())
    below.asked.clear()
    for policy in (ALLOW, REQUIRE, ALLOW, REQUIRE):
        await cmm.decrypt_materials(reading(materials, policy=policy))
    assert [request.commitment_policy for request in below.asked] == [ALLOW, REQUIRE]


async def test_what_the_manager_below_chose_is_checked_too() -> None:
    cmm = CachingCMM(Below(suite=AlgorithmSuite(0x0378)), max_age=60)
    for _ in range(2):
        with pytest.raises(CommitmentPolicyError, match="does not allow encrypting"):
            await cmm.get_encryption_materials(writing(policy=REQUIRE))


# Pairs that callers give on decrypt, and pairs that are not stored


async def test_a_wrong_pair_is_an_error_although_the_data_key_is_there() -> None:
    key = OwnKey("a")
    cmm = CachingCMM(key, max_age=60)
    message, _ = await encrypt(b"plaintext", key, encryption_context=CONTEXT)
    for given in ({}, CONTEXT):
        assert (await decrypt(message, cmm, encryption_context=given)).plaintext == b"plaintext"
    for _ in range(2):
        with pytest.raises(EncryptionContextMismatchError, match="'tenant'"):
            await decrypt(message, cmm, encryption_context={"tenant": "43"})
        with pytest.raises(ProviderError, match="does not have the encryption context keys 'zone'"):
            await decrypt(message, cmm, encryption_context={"zone": "7"})
    assert (await decrypt(message, cmm, encryption_context=CONTEXT)).plaintext == b"plaintext"


@pytest.mark.parametrize("inside", [True, False], ids=["required below", "required above"])
@pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
async def test_required_pairs_stay_out_of_messages_and_must_be_given(
    inside: bool, suite: AlgorithmSuite
) -> None:
    key = OwnKey("a")
    cmm: Any = (
        CachingCMM(RequiredEncryptionContextCMM(key, ["tenant"]), max_age=60)
        if inside
        else RequiredEncryptionContextCMM(CachingCMM(key, max_age=60), ["tenant"])
    )
    context = {**CONTEXT, "zone": "7"}
    for _ in range(2):
        message, header = await encrypt(b"plaintext", cmm, encryption_context=context, algorithm_suite=suite)
        assert header.encryption_context.keys() & context.keys() == {"zone"}
        assert (await decrypt(message, cmm, encryption_context=CONTEXT)).plaintext == b"plaintext"
        assert (await decrypt(message, cmm, encryption_context=CONTEXT)).plaintext == b"plaintext"
        with pytest.raises(RequiredEncryptionContextError):
            await decrypt(message, cmm, encryption_context={"zone": "7"})
        with pytest.raises(RequiredEncryptionContextError):
            await decrypt(message, cmm)
        with pytest.raises(RequiredEncryptionContextError):
            await encrypt(b"plaintext", cmm, encryption_context={"zone": "7"})
    assert key.log.count("generate a") == 1
    assert (await decrypt(message, OwnKey("a"), encryption_context=context)).plaintext == b"plaintext"


async def test_a_request_with_other_required_pairs_does_not_get_the_materials_of_one_without() -> None:
    cache, key = AsyncCache[Any](), OwnKey("a")
    plain = shared(key, cache)
    required = RequiredEncryptionContextCMM(shared(key, cache), ["tenant"])
    for _ in range(2):
        message, header = await encrypt(b"plaintext", plain, encryption_context=CONTEXT)
        assert header.encryption_context["tenant"] == "42"
        assert (await decrypt(message, plain)).plaintext == b"plaintext"
        message, header = await encrypt(b"plaintext", required, encryption_context=CONTEXT)
        assert "tenant" not in header.encryption_context
        assert (await decrypt(message, required, encryption_context=CONTEXT)).plaintext == b"plaintext"


async def test_an_order_of_javascript_in_the_header_does_not_matter() -> None:
    below = Below()
    cmm = CachingCMM(below, max_age=60)
    materials = await below.get_encryption_materials(writing(context={"b": "1", "a": "2"}, suite=UNSIGNED))
    request = reading(materials)
    backwards = attrs.evolve(request, encryption_context={"a": "2", "b": "1"})
    assert isinstance(backwards, DecryptionMaterialsRequest)
    opened = [await cmm.decrypt_materials(asked) for asked in (request, backwards)]
    assert opened[0].data_key == opened[1].data_key == materials.data_key
    assert below.calls == 2
