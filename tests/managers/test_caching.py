"""The caching CMM: one data key for many messages. Specification: framework/caching-cmm.md."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import attrs
import pytest

from aioencrypt import (
    AlgorithmSuite,
    AsyncCache,
    CacheStatistics,
    CachingCMM,
    DefaultCMM,
    KMSMasterKeyProvider,
    ProviderError,
    decrypt,
    decrypt_stream,
    encrypt,
    encrypt_stream,
)
from aioencrypt.format.derivation import derive_message_key
from aioencrypt.materials import EncryptionMaterials, EncryptionMaterialsRequest
from aioencrypt.testing import InMemoryKMS
from tests.support.caching import ALLOW, FORBID, REQUIRE, Below, Clock, at_once, reading, turn_until, writing
from tests.support.cancelling import Way, each_way, settle
from tests.support.providers import CONTEXT, OwnKey
from tests.support.streaming import SIGNED, UNSIGNED, Feed, assert_idle, client_for, in_chunks, on_asyncio

pytestmark = pytest.mark.anyio

PAGE = "framework/caching-cmm.md"
MAX_AGE = 60.0


def caching(below: Any, clock: Clock | None = None, **options: Any) -> CachingCMM:
    return CachingCMM(below, max_age=MAX_AGE, clock=clock or Clock(), **options)


# Sharing data keys


@pytest.mark.spec(f"{PAGE}#get-encryption-materials", f"{PAGE}#decrypt-materials", f"{PAGE}#initialization")
@pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
async def test_messages_share_a_data_key_and_are_read_by_everybody(suite: AlgorithmSuite) -> None:
    key, client = OwnKey("a"), client_for(suite)
    cmm = caching(key)
    results = [
        await client.encrypt(b"plaintext", cmm, algorithm_suite=suite, encryption_context=CONTEXT)
        for _ in range(3)
    ]
    assert key.log == ["generate a"]
    headers = [result.header for result in results]
    assert len({header.message_id for header in headers}) == 3
    assert len({header.encrypted_data_keys for header in headers}) == 1
    # signing key pairs are kept with the data key
    assert headers[0].encryption_context == headers[1].encryption_context == headers[2].encryption_context
    assert ("aws-crypto-public-key" in headers[0].encryption_context) is suite.signed
    for message, _ in results:
        assert (await client.decrypt(message, OwnKey("a"))).plaintext == b"plaintext"
        assert (await client.decrypt(message, cmm)).plaintext == b"plaintext"
    assert key.log == ["generate a", "decrypt a"]
    assert cmm.statistics == CacheStatistics(hits=4, misses=2, size=2)


async def test_streams_share_a_data_key_too() -> None:
    key = OwnKey("a")
    cmm = caching(key)
    messages = []
    for _ in range(3):
        async with encrypt_stream(Feed(b"plain", b"text"), cmm, plaintext_length=9) as stream:
            messages.append(await stream.read())
    for message in messages:
        async with decrypt_stream(in_chunks(message, 100), cmm) as opened:
            assert await opened.read() == b"plaintext"
    assert key.log == ["generate a", "decrypt a"]


async def test_what_is_handed_out_is_what_came_from_below() -> None:
    below = Below()
    cmm = caching(below)
    first = await cmm.get_encryption_materials(writing())
    again = await cmm.get_encryption_materials(writing())
    assert not first.provenance.cached
    assert again.provenance == attrs.evolve(first.provenance, cached=True)
    assert attrs.evolve(again, provenance=first.provenance) == first
    assert again.signer is first.signer is not None
    opened = await cmm.decrypt_materials(reading(first))
    reopened = await cmm.decrypt_materials(reading(first))
    assert opened.data_key == first.data_key
    assert not opened.provenance.cached
    assert reopened == attrs.evolve(opened, provenance=attrs.evolve(opened.provenance, cached=True))
    # and what is handed out is not changed later
    assert not first.provenance.cached
    assert below.calls == 2


async def test_the_manager_below_is_not_told_the_length_of_the_first_message() -> None:
    below = Below()
    cmm = caching(below)
    request = writing(77, suite=UNSIGNED, required=["tenant"])
    await cmm.get_encryption_materials(request)
    assert below.asked == [attrs.evolve(request, plaintext_length=None)]


@pytest.mark.spec(f"{PAGE}#initialization")
async def test_results_say_whether_a_cache_answered() -> None:
    cmm = caching(OwnKey("a"))
    results = [await encrypt(b"plaintext", cmm) for _ in range(2)]
    assert [result.provenance.cached for result in results] == [False, True]
    assert results[0].provenance.keys == results[1].provenance.keys
    assert [use.operation for use in results[1].provenance.keys] == ["generate"]
    opened = [await decrypt(results[0].ciphertext, cmm) for _ in range(2)]
    assert [result.provenance.cached for result in opened] == [False, True]
    assert [use.operation for use in opened[1].provenance.keys] == ["decrypt"]


@pytest.mark.parametrize("kind", ["key", "provider", "default manager", "own manager", "caching manager"])
@pytest.mark.spec(f"{PAGE}#initialization")
async def test_what_it_takes(kind: str) -> None:
    key = OwnKey("a")
    below: Any = {
        "key": key,
        "provider": key,
        "default manager": DefaultCMM(key),
        "own manager": Below(key),
        "caching manager": caching(key),
    }[kind]
    cmm = caching(below)
    for _ in range(2):
        await cmm.get_encryption_materials(writing())
    assert key.log == ["generate a"]


@pytest.mark.parametrize("wrong", [None, "key", b"key", object(), OwnKey, [OwnKey("a")]])
def test_what_it_does_not_take(wrong: Any) -> None:
    with pytest.raises(TypeError, match="is neither a master key, nor a provider, nor a CMM"):
        caching(wrong)


# What has data keys of its own

OTHERS: dict[str, EncryptionMaterialsRequest] = {
    "context": writing(context={"tenant": "43"}),
    "one pair more": writing(context={**CONTEXT, "zone": "7"}),
    "no context": writing(context={}),
    "named suite": writing(suite=SIGNED),
    "another suite": writing(suite=UNSIGNED),
    "required keys": writing(required=["tenant"]),
    "policy with another suite": writing(policy=FORBID),
    "policy with the same suite": writing(policy=ALLOW),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
async def test_what_differs_has_a_data_key_of_its_own(other: EncryptionMaterialsRequest) -> None:
    below = Below()
    cmm = caching(below)
    first = await cmm.get_encryption_materials(writing())
    second = await cmm.get_encryption_materials(other)
    assert first.data_key != second.data_key
    assert second.required_encryption_context_keys == other.required_encryption_context_keys
    assert second.encryption_context.items() >= other.encryption_context.items()
    for request, materials in ((writing(), first), (other, second)):
        assert (await cmm.get_encryption_materials(request)).data_key == materials.data_key
    assert below.calls == 2


async def test_the_order_of_the_context_does_not_matter() -> None:
    below = Below()
    cmm = caching(below)
    await cmm.get_encryption_materials(writing(context={"a": "1", "b": "2"}))
    await cmm.get_encryption_materials(writing(context={"b": "2", "a": "1"}))
    assert below.calls == 1


@on_asyncio
@pytest.mark.parametrize("suite", [UNSIGNED, AlgorithmSuite(0x0178)], ids=["version 2", "version 1"])
async def test_ten_thousand_messages_have_ids_and_keys_of_their_own(suite: AlgorithmSuite) -> None:
    below, client = Below(), client_for(suite)
    cmm = caching(below)
    ids, keys = set(), set()
    for _ in range(10_000):
        message, header = await client.encrypt(b"", cmm, algorithm_suite=suite)
        ids.add(header.message_id)
    materials = await cmm.get_encryption_materials(
        writing(suite=suite, context={}, policy=client.commitment_policy)
    )
    assert below.calls == 1
    keys = {derive_message_key(suite, materials.data_key.plaintext, message_id).key for message_id in ids}
    assert (len(ids), len(keys)) == (10_000, 10_000)
    assert (await client.decrypt(message, below)).plaintext == b""


# Age


@pytest.mark.spec(f"{PAGE}#cache-limit-ttl", f"{PAGE}#get-encryption-materials", f"{PAGE}#decrypt-materials")
@pytest.mark.parametrize(("age", "calls"), [(59.999, 1), (60, 2)])
async def test_a_data_key_is_used_until_its_age_is_reached(age: float, calls: int) -> None:
    below, clock = Below(), Clock()
    cmm = caching(below, clock)
    materials = await cmm.get_encryption_materials(writing())
    clock.now += age
    again = await cmm.get_encryption_materials(writing())
    assert (again.data_key == materials.data_key) is (calls == 1)
    assert below.calls == calls

    below.asked.clear()
    await cmm.decrypt_materials(reading(materials))
    clock.now += age
    await cmm.decrypt_materials(reading(materials))
    assert below.calls == calls


async def test_a_data_key_is_refreshed_ahead_and_nobody_waits() -> None:
    below, clock = Below(), Clock()
    cmm = caching(below, clock, refresh_ahead=10)
    old = await cmm.get_encryption_materials(writing())
    await cmm.decrypt_materials(reading(old))
    clock.now += 50
    below.gate.held = True
    for _ in range(3):
        assert (await cmm.get_encryption_materials(writing())).data_key == old.data_key
        assert (await cmm.decrypt_materials(reading(old))).data_key == old.data_key
    await turn_until(lambda: below.calls == 4)
    await settle()
    below.gate.release()
    await turn_until(lambda: below.gate.ended == 4)
    await settle()
    clock.now += 10
    assert (await cmm.get_encryption_materials(writing())).data_key != old.data_key
    assert (await cmm.decrypt_materials(reading(old))).data_key == old.data_key
    assert below.calls == 4
    assert cmm.statistics.refreshes == 2


async def test_the_least_recently_used_data_key_makes_room() -> None:
    below = Below()
    cmm = caching(below, capacity=2)
    for tenant in "1213":
        await cmm.get_encryption_materials(writing(context={"tenant": tenant}))
    assert cmm.statistics == CacheStatistics(hits=1, misses=3, evictions=1, size=2)
    await cmm.get_encryption_materials(writing(context={"tenant": "1"}))
    assert below.calls == 3
    await cmm.get_encryption_materials(writing(context={"tenant": "2"}))
    assert below.calls == 4


# Many at once


async def test_a_thousand_messages_on_a_cold_cache_make_one_call() -> None:
    below = Below()
    cmm = caching(below)
    written = await at_once(1000, partial(cmm.get_encryption_materials, writing()))
    assert below.calls == 1
    materials = [one for one in written if isinstance(one, EncryptionMaterials)]
    assert len({one.data_key.plaintext for one in materials}) == 1
    assert sorted(one.provenance.cached for one in materials) == [False] + [True] * 999
    await at_once(1000, partial(cmm.decrypt_materials, reading(materials[0])))
    assert below.calls == 2


@each_way
async def test_cancelling_the_first_fails_nobody_else(way: Way) -> None:
    below = Below()
    below.gate.held = True
    cmm = caching(below)
    others: list[Any] = []

    async def join() -> None:
        async def wait() -> None:
            others.extend(await at_once(20, partial(cmm.get_encryption_materials, writing())))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await settle()
            below.gate.release()

    await way.during(below.gate.waiting, partial(cmm.get_encryption_materials, writing()), join)
    assert {type(one) for one in others} == {EncryptionMaterials}
    assert (len(others), below.calls) == (20, 1)
    assert_idle()


async def test_an_error_goes_to_all_and_is_not_kept() -> None:
    key = OwnKey("a", error=OSError("unreachable"))
    cmm = caching(key)
    errors = await at_once(20, partial(cmm.get_encryption_materials, writing()))
    assert key.log == ["generate a"]
    assert len(set(map(id, errors))) == 20
    for error in errors:
        assert type(error) is ProviderError
        assert str(error) == str(errors[0])
        assert [str(attempt.error) for attempt in error.attempts] == [
            "OwnKey.generate_data_key raised OSError"
        ]
        assert error.__cause__ is error.attempts[0].error
    key.error = None
    assert not (await cmm.get_encryption_materials(writing())).provenance.cached
    assert cmm.statistics == CacheStatistics(misses=2, size=1)


async def test_three_hundred_messages_under_kms_make_one_call_each_way() -> None:
    kms = InMemoryKMS()
    arn = kms.create_key()
    kms.latency = 0.02
    provider = KMSMasterKeyProvider([arn], connection=kms.connection("us-east-1"))
    cmm = CachingCMM(provider, max_age=300)
    results = await at_once(300, partial(encrypt, b"plaintext", cmm, algorithm_suite=UNSIGNED))
    messages = [result[0] for result in results if isinstance(result, tuple)]
    assert len(set(messages)) == 300
    assert kms.call_count("GenerateDataKey") == 1
    assert (await decrypt(messages[0], provider)).plaintext == b"plaintext"
    kms.reset_calls()
    opened = await at_once(300, partial(decrypt, messages[1], cmm))
    assert {result[0] for result in opened if isinstance(result, tuple)} == {b"plaintext"}
    assert kms.call_count("Decrypt") == 1


async def test_a_cache_that_is_given_is_used() -> None:
    cache: AsyncCache[Any] = AsyncCache()
    cmm = CachingCMM(OwnKey("a"), max_age=MAX_AGE, cache=cache)
    await cmm.get_encryption_materials(writing(policy=REQUIRE))
    assert cmm.statistics == cache.statistics == CacheStatistics(misses=1, size=1)
