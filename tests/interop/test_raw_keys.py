"""Messages of the official Python SDK read by us, and ours by it: suites, lengths, raw keys, contexts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from aioencrypt import (
    AlgorithmSuite,
    MessageHeader,
    MultiMasterKeyProvider,
    ProviderError,
    RawAESMasterKey,
    RSAPadding,
)
from aioencrypt.format import ContentType
from tests.support.official import (
    Kind,
    SharedKey,
    aes_key,
    all_of,
    kinds,
    read,
    rsa_key,
    write,
)
from tests.support.rows import each_row
from tests.support.streaming import SIGNED, UNSIGNED, client_for, on_asyncio, plaintext_of

pytestmark = [pytest.mark.anyio, on_asyncio]

MEGABYTE_AND_A_BIT = 1024 * 1024 + 77
CONTEXT = {"größe": "ß", "tenant": "42"}

KEYS: dict[str, Callable[[], SharedKey]] = {
    **{f"aes-{bits}": partial(aes_key, bits) for bits in (128, 192, 256)},
    **{f"rsa-{padding.value}": partial(rsa_key, padding) for padding in RSAPadding},
}
keys = pytest.mark.parametrize("name", KEYS)

# Suites with data keys of 16, 24 and 32 bytes, signed and not, and both that commit.
SOME_SUITES = [AlgorithmSuite(number) for number in (0x0014, 0x0146, 0x0378, 0x0478, 0x0578)]

CONTEXTS = {
    "empty": {},
    "one pair": {"tenant": "42"},
    "non-ASCII": {"größe": "ß", "日本": "語", "🔑": "🗝"},
    "empty key and value": {"": ""},
    # sorted as UTF-16, these two come in the other order
    "order of UTF-8": {"\U0001f511": "1", "\uff5e": "2", "a": "3", "B": "4"},
    "many": {f"key {number}": "x" * number for number in range(200)},
    "long": {"k" * 20_000: "v" * 40_000},
}
contexts = pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)


def lengths(frame_length: int) -> list[int]:
    edges = {0, 1, frame_length - 1, frame_length, frame_length + 1, 3 * frame_length}
    return sorted(edges | {MEGABYTE_AND_A_BIT} if frame_length >= 4096 else edges)


# Suites and lengths


@pytest.mark.spec("client-apis/decrypt.md#overview", "client-apis/decrypt.md#encrypted-message")
@kinds
@each_row("suite", AlgorithmSuite)
@each_row("frame_length", [128, 4096, 65536])
async def test_official_messages_are_read(kind: Kind, suite: AlgorithmSuite, frame_length: int) -> None:
    key = aes_key(256)
    for length in lengths(frame_length):
        plaintext = plaintext_of(length)
        message = write(
            plaintext, key.official(kind), suite, encryption_context=CONTEXT, frame_length=frame_length
        )
        opened = await client_for(suite).decrypt(message, key.ours, encryption_context=CONTEXT)
        assert opened.plaintext == plaintext
        header = opened.header
        assert (header.algorithm_suite, header.frame_length) == (suite, frame_length)
        assert header.content_type is ContentType.FRAMED
        assert header.encryption_context.items() >= CONTEXT.items()
        assert len(header.encryption_context) == len(CONTEXT) + suite.signed


@pytest.mark.spec("client-apis/encrypt.md#overview", "client-apis/encrypt.md#encrypted-message")
@kinds
@each_row("suite", AlgorithmSuite)
@each_row("frame_length", [1, 16, 4096, 65536])
async def test_the_official_sdk_reads_our_messages(
    kind: Kind, suite: AlgorithmSuite, frame_length: int
) -> None:
    key = aes_key(256)
    for length in lengths(frame_length):
        plaintext = plaintext_of(length)
        message, ours = await client_for(suite).encrypt(
            plaintext, key.ours, algorithm_suite=suite, encryption_context=CONTEXT, frame_length=frame_length
        )
        opened, header = read(message, key.official(kind), suite)
        assert opened == plaintext
        assert header.algorithm.algorithm_id == suite.value
        assert header.frame_length == frame_length
        assert header.message_id == ours.message_id
        assert header.encryption_context == dict(ours.encryption_context)


@kinds
async def test_the_default_suites_are_the_same(kind: Kind) -> None:
    key = aes_key(256)
    message = write(b"secret", key.official(kind), SIGNED)
    ours = (await client_for(SIGNED).encrypt(b"secret", key.ours)).ciphertext
    # version and algorithm suite
    assert message[:3] == ours[:3] == b"\x02\x05\x78"
    # and, with the public key in it, everything up to the length of the message
    assert len(ours) == len(message)


# Keys


@kinds
@keys
async def test_official_data_keys_are_opened(kind: Kind, name: str) -> None:
    key = KEYS[name]()
    for suite in SOME_SUITES:
        message = write(b"secret", key.official(kind), suite, encryption_context=CONTEXT)
        plaintext, header = await client_for(suite).decrypt(message, key.ours)
        assert plaintext == b"secret"
        assert len(header.encrypted_data_keys) == 1
        assert key.ours.owns_data_key(header.encrypted_data_keys[0])


@kinds
@keys
async def test_the_official_sdk_opens_our_data_keys(kind: Kind, name: str) -> None:
    key = KEYS[name]()
    for suite in SOME_SUITES:
        message, ours = await client_for(suite).encrypt(
            b"secret", key.ours, algorithm_suite=suite, encryption_context=CONTEXT
        )
        plaintext, header = read(message, key.official(kind), suite)
        assert plaintext == b"secret"
        (theirs,) = header.encrypted_data_keys
        (edk,) = ours.encrypted_data_keys
        assert theirs.key_provider.provider_id == edk.provider_id
        assert theirs.encrypted_data_key == edk.ciphertext


@kinds
async def test_another_wrapping_key_of_the_same_name_does_not_open(kind: Kind) -> None:
    key = aes_key(256)
    message = write(b"secret", key.official(kind), UNSIGNED)
    other = RawAESMasterKey(key.ours.provider_id, key.ours.key_id, wrapping_key=bytes(32))
    with pytest.raises(ProviderError, match="fails authentication") as caught:
        await client_for(UNSIGNED).decrypt(message, other)
    assert len(caught.value.attempts) == 1


@kinds
async def test_an_rsa_padding_that_the_writer_did_not_use_does_not_open(kind: Kind) -> None:
    message = write(b"secret", rsa_key(RSAPadding.OAEP_SHA256).official(kind), UNSIGNED)
    for padding in (RSAPadding.OAEP_SHA1, RSAPadding.OAEP_SHA384, RSAPadding.OAEP_SHA512):
        with pytest.raises(ProviderError, match="another RSA key or padding"):
            await client_for(UNSIGNED).decrypt(message, rsa_key(padding).ours)


# Several keys


def several() -> list[SharedKey]:
    return [
        aes_key(256, "first"),
        rsa_key(RSAPadding.OAEP_SHA256, "second"),
        aes_key(128, "third"),
        rsa_key(RSAPadding.PKCS1, "fourth"),
    ]


def owners(shared: list[SharedKey], header: MessageHeader) -> list[int]:
    """Return the number of the key that owns it for each encrypted data key."""
    return [[key.ours.owns_data_key(edk) for key in shared].index(True) for edk in header.encrypted_data_keys]


@kinds
async def test_each_of_several_official_keys_opens(kind: Kind) -> None:
    shared = several()
    plaintext = plaintext_of(1000)
    message = write(plaintext, all_of(kind, *shared), SIGNED, encryption_context=CONTEXT, frame_length=128)
    first, second, third, fourth = (key.ours for key in shared)
    stranger = RawAESMasterKey("interop", "stranger", wrapping_key=bytes(16))
    nested = MultiMasterKeyProvider(
        None, MultiMasterKeyProvider(stranger), MultiMasterKeyProvider(fourth, second)
    )
    everything = MultiMasterKeyProvider(first, second, third, fourth)
    for provider in (first, second, third, fourth, nested, everything):
        opened, header = await client_for(SIGNED).decrypt(message, provider)
        assert opened == plaintext
        # the official SDK keeps them in a set
        assert sorted(owners(shared, header)) == [0, 1, 2, 3]


@kinds
async def test_each_of_several_keys_of_ours_opens_officially(kind: Kind) -> None:
    shared = several()
    first, second, third, fourth = (key.ours for key in shared)
    plaintext = plaintext_of(1000)
    provider = MultiMasterKeyProvider(first, MultiMasterKeyProvider(None, second, third), fourth)
    message = await client_for(SIGNED).encrypt(
        plaintext, provider, encryption_context=CONTEXT, frame_length=100
    )
    assert owners(shared, message.header) == [0, 1, 2, 3]
    reverse = [shared[3], shared[2], shared[1], shared[0]]
    for key in (
        *(key.official(kind) for key in shared),
        all_of(kind, *shared),
        all_of(kind, *reverse),
        all_of(kind, aes_key(192, "stranger"), shared[2]),
    ):
        opened, header = read(message.ciphertext, key, SIGNED)
        assert opened == plaintext
        assert len(header.encrypted_data_keys) == 4


# Encryption contexts


@contexts
@kinds
async def test_official_contexts_are_read(kind: Kind, context: dict[str, str]) -> None:
    key = aes_key(192)
    for suite in (SIGNED, UNSIGNED, AlgorithmSuite(0x0014)):
        message = write(b"secret", key.official(kind), suite, encryption_context=context)
        opened = await client_for(suite).decrypt(message, key.ours, encryption_context=context)
        assert opened.plaintext == b"secret"
        stored = dict(opened.header.encryption_context)
        assert ("aws-crypto-public-key" in stored) is suite.signed
        stored.pop("aws-crypto-public-key", None)
        assert stored == context


@contexts
@kinds
async def test_the_official_sdk_reads_our_contexts(kind: Kind, context: dict[str, str]) -> None:
    key = aes_key(192)
    for suite in (SIGNED, UNSIGNED, AlgorithmSuite(0x0014)):
        message = await client_for(suite).encrypt(
            b"secret", key.ours, algorithm_suite=suite, encryption_context=context
        )
        opened, header = read(message.ciphertext, key.official(kind), suite)
        assert opened == b"secret"
        assert header.encryption_context == dict(message.header.encryption_context)
        assert header.encryption_context.items() >= context.items()
        if kind == "mpl" and context:
            # it compares what the caller gives with what it has verified
            assert (
                read(message.ciphertext, key.official(kind), suite, encryption_context=context)[0] == opened
            )
