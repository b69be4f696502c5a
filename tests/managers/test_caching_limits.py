"""The caching CMM: how much one data key encrypts, and what is never kept.

Specification: framework/caching-cmm.md#limit-bytes, #limit-messages, #usage-stats.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import anyio
import pytest

from aioencrypt import (
    AlgorithmSuite,
    AsyncCache,
    CacheStatistics,
    CachingCMM,
    CommitmentPolicyError,
    ProviderError,
    decrypt,
    encrypt,
)
from aioencrypt.materials import EncryptionMaterials
from tests.support.caching import (
    FORBID,
    NOT_COMMITTING,
    REQUIRE,
    WITHOUT_KDF,
    Below,
    Clock,
    at_once,
    reading,
    turn_until,
    writing,
)
from tests.support.cancelling import settle
from tests.support.providers import OwnKey
from tests.support.streaming import UNSIGNED, Feed, client_for, on_asyncio

pytestmark = pytest.mark.anyio

PAGE = "framework/caching-cmm.md"


def caching(below: Any, **options: Any) -> CachingCMM:
    return CachingCMM(below, max_age=60, **options)


async def data_keys(cmm: CachingCMM, *lengths: int | None) -> list[int]:
    """Write messages of these lengths; return the number of the data key that each had."""
    seen: dict[bytes, int] = {}
    numbers = []
    for length in lengths:
        materials = await cmm.get_encryption_materials(writing(length))
        numbers.append(seen.setdefault(materials.data_key.plaintext, len(seen) + 1))
    return numbers


# Messages


@pytest.mark.spec(f"{PAGE}#limit-messages", f"{PAGE}#usage-stats")
@pytest.mark.parametrize(
    ("maximum", "expected"),
    [(1, [1, 2, 3, 4, 5, 6]), (2, [1, 1, 2, 2, 3, 3]), (5, [1, 1, 1, 1, 1, 2]), (6, [1] * 6)],
)
async def test_a_data_key_encrypts_so_many_messages(maximum: int, expected: list[int]) -> None:
    assert await data_keys(caching(Below(), max_messages=maximum), *[10] * 6) == expected


@on_asyncio
@pytest.mark.spec(f"{PAGE}#limit-messages", f"{PAGE}#limit-bytes")
async def test_without_limits_there_are_those_of_the_specification() -> None:
    cmm = caching(Below())
    assert (cmm._max_messages, cmm._max_bytes) == (2**32, 2**63 - 1)
    assert await data_keys(cmm, 2**62, 2**62 - 2, 1, 1) == [1, 1, 1, 2]
    caching(Below(), max_messages=2**32, max_bytes=2**63 - 1)


@pytest.mark.parametrize("maximum", [1, 7, 40, 100])
async def test_messages_are_counted_exactly_by_many_tasks(maximum: int) -> None:
    below = Below()
    cmm = caching(below, max_messages=maximum)
    materials = await at_once(100, partial(cmm.get_encryption_materials, writing()))
    counts = Counter(one.data_key.plaintext for one in materials if isinstance(one, EncryptionMaterials))
    assert counts.total() == 100
    assert max(counts.values()) == maximum
    assert below.calls == len(counts) == -(-100 // maximum)


async def test_messages_that_share_nothing_do_not_wait_for_each_other() -> None:
    below = Below()
    below.gate.held = True
    cmm = caching(below, max_messages=1)
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(cmm.get_encryption_materials, writing())
        await turn_until(lambda: below.calls == 5)
        below.gate.release()
    assert cmm.statistics == CacheStatistics()


# Bytes


@pytest.mark.spec(f"{PAGE}#limit-bytes", f"{PAGE}#usage-stats")
@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([100, 0, 0], [1, 1, 1]),
        ([99, 1, 1], [1, 1, 2]),
        ([50, 50, 50], [1, 1, 2]),
        # what does not fit gets a new data key, which then serves the next ones
        ([60, 50, 40, 10], [1, 2, 2, 2]),
        # longer than the limit: a data key of its own, and the one in the cache stays
        ([50, 101, 50], [1, 2, 1]),
        ([101, 101], [1, 2]),
    ],
)
async def test_a_data_key_encrypts_so_many_bytes(lengths: list[int], expected: list[int]) -> None:
    assert await data_keys(caching(Below(), max_bytes=100), *lengths) == expected


async def test_no_bytes_leave_empty_messages() -> None:
    assert await data_keys(caching(Below(), max_bytes=0), 0, 0, 1, 1, 0) == [1, 1, 2, 3, 1]


async def test_a_length_that_is_not_known_has_a_data_key_of_its_own() -> None:
    below = Below()
    cmm = caching(below)
    assert await data_keys(cmm, 10, None, None, 10) == [1, 2, 3, 1]
    assert below.asked[1] == writing(None)
    assert cmm.statistics == CacheStatistics(hits=1, misses=1, size=1)


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        ({}, 4),
        ({"plaintext_length": 9}, 1),
        ({"plaintext_length_bound": 25}, 1),
        ({"plaintext_length_bound": 26}, 2),
        ({"plaintext_length_bound": 100}, 4),
        ({"plaintext_length_bound": 101}, 4),
        ({"plaintext_length": 9, "plaintext_length_bound": 101}, 1),
    ],
)
async def test_a_bound_makes_streams_of_unknown_length_share_and_counts(
    options: dict[str, int], calls: int
) -> None:
    below = Below()
    cmm = caching(below, max_bytes=100)
    for _ in range(4):
        message, _ = await encrypt(Feed(b"plaintext"), cmm, **options)  # type: ignore[arg-type]
    assert below.calls == calls
    assert (await decrypt(message, below)).plaintext == b"plaintext"


async def test_bytes_are_counted_exactly_by_many_tasks() -> None:
    below = Below()
    cmm = caching(below, max_bytes=1000)
    materials = await at_once(100, partial(cmm.get_encryption_materials, writing(33)))
    counts = Counter(one.data_key.plaintext for one in materials if isinstance(one, EncryptionMaterials))
    assert sorted(counts.values()) == [10, 30, 30, 30]


async def test_decryption_is_limited_by_age_only() -> None:
    below = Below()
    cmm = caching(below, max_messages=1, max_bytes=0)
    materials = await below.get_encryption_materials(writing())
    below.asked.clear()
    for _ in range(10):
        await cmm.decrypt_materials(reading(materials))
    assert below.calls == 1


async def test_managers_that_share_a_data_key_count_together_each_to_its_limit() -> None:
    below, cache = Below(), AsyncCache[Any]()
    few, many = (caching(below, max_messages=limit, partition="shared", cache=cache) for limit in (3, 6))
    first = [await manager.get_encryption_materials(writing()) for manager in (many, few, many)]
    assert len({materials.data_key.plaintext for materials in first}) == 1
    assert (await few.get_encryption_materials(writing())).data_key != first[0].data_key
    assert below.calls == 2


async def test_a_refreshed_data_key_has_not_been_used() -> None:
    below, clock = Below(), Clock()
    cmm = caching(below, clock=clock, refresh_ahead=10, max_messages=3)
    await cmm.get_encryption_materials(writing())
    clock.now += 50
    await cmm.get_encryption_materials(writing())
    await settle()
    assert below.calls == 2
    assert await data_keys(cmm, 1, 1, 1, 1) == [1, 1, 1, 2]


# What is never kept


@pytest.mark.spec(f"{PAGE}#get-encryption-materials")
@pytest.mark.parametrize("suite", WITHOUT_KDF, ids=lambda suite: f"{suite.value:04x}")
async def test_suites_without_key_derivation_encrypt_under_their_own_data_keys(
    suite: AlgorithmSuite,
) -> None:
    below = Below()
    cmm = caching(below)
    request = writing(suite=suite, policy=FORBID)
    materials = await at_once(20, partial(cmm.get_encryption_materials, request))
    keys = [one.data_key.plaintext for one in materials if isinstance(one, EncryptionMaterials)]
    assert len(set(keys)) == 20
    assert below.asked == [request] * 20
    assert cmm.statistics == CacheStatistics()


@pytest.mark.spec(f"{PAGE}#decrypt-materials")
@pytest.mark.parametrize("suite", WITHOUT_KDF, ids=lambda suite: f"{suite.value:04x}")
async def test_suites_without_key_derivation_are_decrypted_each_time(suite: AlgorithmSuite) -> None:
    below, client = Below(), client_for(suite)
    cmm = caching(below)
    message, header = await client.encrypt(b"plaintext", below, algorithm_suite=suite)
    below.asked.clear()
    for _ in range(3):
        assert (await client.decrypt(message, cmm)).plaintext == b"plaintext"
    assert below.asked == [reading(header, policy=FORBID)] * 3
    assert cmm.statistics == CacheStatistics()


@pytest.mark.spec(f"{PAGE}#get-encryption-materials")
@pytest.mark.parametrize("suite", WITHOUT_KDF, ids=lambda suite: f"{suite.value:04x}")
async def test_a_suite_without_key_derivation_that_the_manager_below_chose_is_not_kept(
    suite: AlgorithmSuite,
) -> None:
    below = Below(suite=suite)
    cmm = caching(below)
    request = writing(policy=FORBID)
    materials = [
        *await at_once(20, partial(cmm.get_encryption_materials, request)),
        await cmm.get_encryption_materials(request),
    ]
    keys = [one.data_key.plaintext for one in materials if isinstance(one, EncryptionMaterials)]
    assert len(set(keys)) == 21
    assert below.asked.count(request) == 21
    assert cmm.statistics.size == 0


async def test_an_error_after_that_is_told_alone() -> None:
    below = Below(suite=WITHOUT_KDF[0])
    cmm = caching(below)

    below.errors = [None, ValueError("refused")]
    with pytest.raises(ProviderError, match=r"^Below\.get_encryption_materials raised ValueError$") as caught:
        await cmm.get_encryption_materials(writing(policy=FORBID))
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.__cause__.__context__ is None
    assert below.calls == 2


# Arguments


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"max_age": 0}, ValueError, "max_age is 0; it must be more than 0 seconds, and finite"),
        ({"max_age": -1.5}, ValueError, "max_age is -1.5;"),
        ({"max_age": float("nan")}, ValueError, "max_age is nan;"),
        ({"max_age": float("inf")}, ValueError, "max_age is inf;"),
        ({"max_age": None}, TypeError, "max_age must be a number of seconds, not NoneType"),
        ({"refresh_ahead": -1}, ValueError, "refresh_ahead is -1; it must be at least 0"),
        (
            {"refresh_ahead": 60},
            ValueError,
            "refresh_ahead is 60; it must be at least 0 and less than max_age=60",
        ),
        ({"refresh_ahead": float("nan")}, ValueError, "refresh_ahead is nan;"),
        ({"refresh_ahead": "10"}, TypeError, "refresh_ahead must be a number of seconds, not str"),
        ({"max_messages": 0}, ValueError, "max_messages is 0; it must be 1 to 4294967296"),
        ({"max_messages": 2**32 + 1}, ValueError, "max_messages is 4294967297"),
        ({"max_messages": 1.5}, TypeError, "max_messages must be an int, not float"),
        ({"max_bytes": -1}, ValueError, "max_bytes is -1; it must be 0 to 9223372036854775807"),
        ({"max_bytes": 2**63}, ValueError, "max_bytes is 9223372036854775808"),
        ({"max_bytes": "1"}, TypeError, "max_bytes must be an int, not str"),
        ({"capacity": -1}, ValueError, "capacity is -1; it must be 0 or more"),
        ({"partition": ""}, ValueError, "partition must be a name without NUL characters"),
        ({"partition": "a\0b"}, ValueError, "partition must be a name without NUL characters"),
        ({"partition": "\ud800"}, ValueError, "surrogates not allowed"),
        ({"partition": b"a"}, TypeError, "partition must be a str, not bytes"),
        ({"cache": {}}, TypeError, "cache must be an AsyncCache, not dict"),
        ({"cache": AsyncCache(), "capacity": 5}, ValueError, "belong to the cache"),
        ({"cache": AsyncCache(), "clock": Clock()}, ValueError, "belong to the cache"),
    ],
)
@pytest.mark.spec(f"{PAGE}#cache-limit-ttl")
def test_wrong_arguments(options: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        CachingCMM(OwnKey("a"), **{"max_age": 60, **options})


@pytest.mark.spec(f"{PAGE}#initialization", f"{PAGE}#cache-limit-ttl")
def test_the_age_must_be_said() -> None:
    with pytest.raises(TypeError, match="max_age"):
        CachingCMM(OwnKey("a"))  # type: ignore[call-arg]


async def test_a_message_that_a_policy_forbids_takes_nothing() -> None:
    below = Below()
    cmm = caching(below, max_messages=2)
    await cmm.get_encryption_materials(writing(suite=UNSIGNED))
    with pytest.raises(CommitmentPolicyError):
        await cmm.get_encryption_materials(writing(suite=NOT_COMMITTING, policy=REQUIRE))
    await cmm.get_encryption_materials(writing(suite=UNSIGNED))
    assert below.calls == 2
