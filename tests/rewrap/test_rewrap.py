"""Rewrapping as a stream: which keys open the message then, and what is made anew."""

from __future__ import annotations

from typing import Any

import pytest

from aioencrypt import (
    AlgorithmSuite,
    CachingCMM,
    DefaultCMM,
    MultiMasterKeyProvider,
    ProviderError,
    RequiredEncryptionContextCMM,
    TagError,
)
from aioencrypt.inspection import inspect_message
from aioencrypt.rewrap import rewrap_header, rewrap_stream
from tests.support.messages import build_message, context_bytes, example_data_key
from tests.support.providers import OwnKey
from tests.support.rewrapping import (
    CONTEXT,
    HEADER_ENOUGH,
    NEW,
    NEWER,
    OLD,
    OTHER,
    SIGNED_SUITES,
    UNSIGNED_SUITES,
    V1_IDENTITY,
    V1_UNSIGNED,
    each,
    message_of,
    names,
    not_other,
    opens,
    rewrapped,
    rewrapping,
)
from tests.support.rows import each_row
from tests.support.streaming import (
    SIGNED,
    UNSIGNED,
    assert_idle,
    client_for,
    in_chunks,
    plaintext_of,
)
from tests.support.vectors import StaticDataKey

pytestmark = pytest.mark.anyio

PLAINTEXT = plaintext_of(1234)


# Keys


@each(list(AlgorithmSuite))
async def test_replacing_leaves_the_new_keys_alone(suite: AlgorithmSuite) -> None:
    message = await message_of(suite, PLAINTEXT)
    async with rewrapping(message, suite, new_provider=MultiMasterKeyProvider(NEW, NEWER)) as stream:
        new = await stream.read()
        assert names(stream.header.encrypted_data_keys) == ["new", "newer"]
    for key in (NEW, NEWER):
        assert await opens(key, new, suite) == PLAINTEXT
    for key in (OLD, OTHER):
        assert await opens(key, new, suite) is None
    inspection = await inspect_message(new)
    assert inspection.algorithm_suite is suite
    assert inspection.frame_length == 100
    assert {name: inspection.unauthenticated_context[name] for name in CONTEXT} == CONTEXT
    assert_idle()


@each(UNSIGNED_SUITES)
@pytest.mark.parametrize("accept_iv_reuse", [True, False])
async def test_adding_keeps_the_old_keys_in_front(suite: AlgorithmSuite, accept_iv_reuse: bool) -> None:
    message = await message_of(suite, PLAINTEXT)
    async with rewrapping(message, suite, keep=True, accept_iv_reuse=accept_iv_reuse) as stream:
        new = await stream.read()
        assert names(stream.header.encrypted_data_keys) == ["old", "other", "new"]
    for key in (OLD, OTHER, NEW):
        assert await opens(key, new, suite) == PLAINTEXT


@each(UNSIGNED_SUITES)
@pytest.mark.parametrize("accept_iv_reuse", [True, False])
async def test_removing_leaves_the_others(suite: AlgorithmSuite, accept_iv_reuse: bool) -> None:
    message = await message_of(suite, PLAINTEXT)
    options: dict[str, Any] = {"new_provider": None, "keep": not_other, "accept_iv_reuse": accept_iv_reuse}
    async with rewrapping(message, suite, **options) as stream:
        new = await stream.read()
        assert names(stream.header.encrypted_data_keys) == ["old"]
    assert await opens(OLD, new, suite) == PLAINTEXT
    assert await opens(OTHER, new, suite) is None


async def test_some_are_replaced_and_others_stay() -> None:
    message = await message_of(UNSIGNED, PLAINTEXT)
    new = await rewrapped(message, UNSIGNED, keep=not_other)
    assert names((await inspect_message(new)).encrypted_data_keys) == ["old", "new"]


async def test_a_message_can_be_rewrapped_again_and_again() -> None:
    for suite in (UNSIGNED, V1_UNSIGNED, SIGNED):
        message = await message_of(suite, PLAINTEXT)
        for key, following in ((OLD, NEW), (NEW, NEWER), (NEWER, OLD)):
            client = client_for(suite)
            async with rewrap_stream(
                message, key, new_provider=following, encryption_client=client
            ) as stream:
                message = await stream.read()
        assert await opens(OLD, message, suite) == PLAINTEXT


async def test_the_operations_of_the_keys_are_those_that_are_needed() -> None:
    log: list[str] = []
    old, first, second = (OwnKey(name, log) for name in ("old", "first", "second"))
    both = MultiMasterKeyProvider(first, second)
    for suite, keep, expected in (
        # The data key stays: nothing is generated.
        (V1_UNSIGNED, False, ["encrypt first", "encrypt second"]),
        (V1_UNSIGNED, True, ["encrypt first", "encrypt second"]),
        (UNSIGNED, True, ["encrypt first", "encrypt second"]),
        # All is made anew, and nobody else needs the data key.
        (UNSIGNED, False, ["generate first", "encrypt second"]),
        (SIGNED, False, ["generate first", "encrypt second"]),
    ):
        message = await message_of(suite, PLAINTEXT, old)
        log.clear()
        async with rewrap_stream(
            message, old, new_provider=both, keep=keep, encryption_client=client_for(suite)
        ) as stream:
            await stream.read()
        # Keys that encrypt do so at once, in any order.
        assert sorted(log) == sorted(["decrypt old", *expected])


# What is made anew


@each(HEADER_ENOUGH)
@each_row("verify", [False, True])
@each_row("frame_length", [1, 100, 5000])
async def test_version_1_unsigned_only_the_header_changes(
    suite: AlgorithmSuite, verify: bool, frame_length: int
) -> None:
    message = await message_of(suite, PLAINTEXT, frame_length=frame_length)
    async with rewrapping(message, suite, verify=verify) as stream:
        new = await stream.read()
        assert not stream.reencrypted
        assert stream.rewrapped
        assert stream.rewrapped.header == stream.header
    old_length, new_length = stream.rewrapped.old_length, len(stream.rewrapped.serialized)
    assert new == stream.rewrapped.serialized + message[old_length:]
    assert old_length == (await inspect_message(message)).header_length
    assert new_length == (await inspect_message(new)).header_length
    assert (await inspect_message(new)).message_id == (await inspect_message(message)).message_id


@each(HEADER_ENOUGH)
async def test_the_new_header_of_version_1_has_an_iv_of_its_own(suite: AlgorithmSuite) -> None:
    message = await message_of(suite, PLAINTEXT)
    ivs = set()
    for _ in range(20):
        header = await rewrap_header(message, OLD, new_provider=NEW, encryption_client=client_for(suite))
        ivs.add(header.serialized[-28:-16])
    assert len(ivs) == 20
    # Frames have numbers of four bytes for IVs.
    assert all(iv[0] & 0x80 for iv in ivs)


@pytest.mark.parametrize("verify", [False, True])
async def test_version_2_unsigned_the_body_stays_where_that_is_accepted(verify: bool) -> None:
    message = await message_of(UNSIGNED, PLAINTEXT)
    async with rewrapping(message, UNSIGNED, verify=verify, accept_iv_reuse=True) as stream:
        new = await stream.read()
        assert not stream.reencrypted
        assert stream.rewrapped
    assert new == stream.rewrapped.serialized + message[stream.rewrapped.old_length :]
    before, after = await inspect_message(message), await inspect_message(new)
    assert before.message_id == after.message_id
    assert await opens(NEW, new, UNSIGNED) == PLAINTEXT


@pytest.mark.parametrize("keep", [False, True, not_other])
async def test_version_2_unsigned_is_encrypted_anew_under_another_message_id(keep: Any) -> None:
    message = await message_of(UNSIGNED, PLAINTEXT)
    async with rewrapping(message, UNSIGNED, keep=keep) as stream:
        new = await stream.read()
        assert stream.reencrypted
        assert stream.rewrapped is None
    before, after = await inspect_message(message), await inspect_message(new)
    assert before.message_id != after.message_id
    assert before.message_length
    assert new[after.header_length :] != message[before.header_length :]
    assert after.plaintext_length == len(PLAINTEXT)


async def test_encrypted_anew_with_nothing_kept_the_data_key_is_another() -> None:
    seen: list[bytes] = []

    class Seeing(OwnKey):
        async def unwrap_data_key(self, encrypted_data_key: Any, request: Any) -> Any:
            data_key = await super().unwrap_data_key(encrypted_data_key, request)
            seen.append(data_key.plaintext)
            return data_key

    key = Seeing("key")
    for suite, keep, same in (
        (UNSIGNED, False, False),
        (UNSIGNED, True, True),
        (SIGNED, False, False),
        (V1_UNSIGNED, False, True),
    ):
        message = await message_of(suite, PLAINTEXT, key)
        client = client_for(suite)
        async with rewrap_stream(
            message, key, new_provider=key, keep=keep, encryption_client=client
        ) as stream:
            new = await stream.read()
        await client.decrypt(new, key)
        assert (seen[-1] == seen[-2]) is same


@each(SIGNED_SUITES)
async def test_signed_messages_are_signed_anew(suite: AlgorithmSuite) -> None:
    message = await message_of(suite, PLAINTEXT)
    async with rewrapping(message, suite) as stream:
        new = await stream.read()
        assert stream.reencrypted
    before, after = await inspect_message(message), await inspect_message(new)
    name = "aws-crypto-public-key"
    assert before.unauthenticated_context[name] != after.unauthenticated_context[name]
    assert before.message_id != after.message_id
    assert await opens(NEW, new, suite) == PLAINTEXT


@pytest.mark.parametrize("suite", [UNSIGNED, SIGNED, V1_UNSIGNED], ids=["v2", "signed", "v1"])
@each_row("length", [0, 1, 99, 100, 101, 500_000])
async def test_messages_of_every_length_are_rewrapped_from_pieces(suite: AlgorithmSuite, length: int) -> None:
    plaintext = plaintext_of(length)
    message = await message_of(suite, plaintext, frame_length=100 if length < 1000 else 4096)
    for verify in (False, True):
        source = in_chunks(message, 7 if length < 1000 else 70_001)
        new = await rewrapped(source, suite, verify=verify)
        assert await opens(NEW, new, suite) == plaintext


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("accept_iv_reuse", [False, True])
async def test_non_framed_messages_are_rewrapped(verify: bool, accept_iv_reuse: bool) -> None:
    message = build_message(UNSIGNED, PLAINTEXT, frame_length=None).data
    key = StaticDataKey(example_data_key(UNSIGNED))
    async with rewrap_stream(
        message, key, new_provider=NEW, verify=verify, accept_iv_reuse=accept_iv_reuse
    ) as stream:
        new = await stream.read()
    assert (await client_for(UNSIGNED).decrypt(new, NEW)).plaintext == PLAINTEXT
    assert (await inspect_message(new)).frame_length == (0 if accept_iv_reuse else 4096)


async def test_the_context_stays_in_the_order_of_its_writer() -> None:
    pairs = [("b", "1"), ("a", "2")]
    message = build_message(V1_IDENTITY, PLAINTEXT, encryption_context=context_bytes(pairs)).data
    key = StaticDataKey(example_data_key(V1_IDENTITY))
    client = client_for(V1_IDENTITY)
    header = await rewrap_header(message, key, new_provider=NEW, encryption_client=client)
    assert context_bytes(pairs) in header.serialized
    new = header.serialized + message[header.old_length :]
    assert (await client.decrypt(new, NEW)).plaintext == PLAINTEXT


async def test_required_pairs_stay_required_and_absent() -> None:
    required = {"tenant": "42"}
    for suite in (UNSIGNED, SIGNED, V1_UNSIGNED):
        client = client_for(suite)
        cmm = RequiredEncryptionContextCMM(OLD, ["tenant"])
        message, _ = await client.encrypt(
            PLAINTEXT, cmm, encryption_context={"a": "b", **required}, algorithm_suite=suite
        )
        for options in ({}, {"accept_iv_reuse": True}):
            async with rewrap_stream(
                message,
                OLD,
                new_provider=NEW,
                encryption_context=required,
                encryption_client=client,
                **options,
            ) as stream:
                new = await stream.read()
                assert "tenant" not in stream.header.encryption_context
            result = await client.decrypt(new, NEW, encryption_context=required)
            assert result.plaintext == PLAINTEXT
            with pytest.raises((ProviderError, TagError)):
                await client.decrypt(new, NEW)
        with pytest.raises((ProviderError, TagError)):
            await rewrap_stream(message, OLD, new_provider=NEW, encryption_client=client).__aenter__()


async def test_a_cmm_may_open_the_message() -> None:
    message = await message_of(UNSIGNED, PLAINTEXT)
    async with CachingCMM(OLD, max_age=60.0) as caching:
        for cmm in (DefaultCMM(OLD), caching, caching):
            async with rewrap_stream(message, cmm, new_provider=NEW) as stream:
                assert await opens(NEW, await stream.read(), UNSIGNED) == PLAINTEXT
