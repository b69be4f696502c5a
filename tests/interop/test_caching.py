"""The official Python SDK reads messages that share a data key, and we read those of its caching manager."""

from __future__ import annotations

import pytest
from aws_encryption_sdk import CachingCryptoMaterialsManager, LocalCryptoMaterialsCache

from aioencrypt import AlgorithmSuite, CachingCMM, RequiredEncryptionContextCMM
from tests.support.official import Kind, aes_key, kinds, read, suites, write
from tests.support.streaming import Feed, client_for, on_asyncio, plaintext_of

pytestmark = [pytest.mark.anyio, on_asyncio]

CONTEXT = {"größe": "ß", "tenant": "42"}
KEY = aes_key(256)


@kinds
@suites
async def test_the_official_sdk_reads_messages_under_cached_keys(kind: Kind, suite: AlgorithmSuite) -> None:
    cmm, client = CachingCMM(KEY.ours, max_age=60), client_for(suite)
    headers = []
    for length in (0, 100, 10_000):
        plaintext = plaintext_of(length)
        message, header = await client.encrypt(
            plaintext, cmm, algorithm_suite=suite, encryption_context=CONTEXT, frame_length=512
        )
        opened, theirs = read(message, KEY.official(kind), suite)
        assert opened == plaintext
        assert theirs.message_id == header.message_id
        headers.append(header)
    shared = suite.kdf_hash is not None
    assert len({header.encrypted_data_keys for header in headers}) == (1 if shared else 3)
    assert len({header.message_id for header in headers}) == 3


@kinds
async def test_the_official_sdk_reads_a_stream_under_a_cached_key(kind: Kind) -> None:
    cmm = CachingCMM(KEY.ours, max_age=60)
    suite = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384
    plaintext = plaintext_of(10_000)
    for _ in range(2):
        source = Feed(plaintext[:4000], plaintext[4000:])
        async with client_for(suite).encrypt_stream(source, cmm, plaintext_length_bound=20_000) as stream:
            message = await stream.read()
        assert read(message, KEY.official(kind), suite)[0] == plaintext
    assert cmm.statistics.hits == 1


@suites
async def test_messages_of_the_official_caching_manager_are_read(suite: AlgorithmSuite) -> None:
    official = CachingCryptoMaterialsManager(
        master_key_provider=KEY.legacy, cache=LocalCryptoMaterialsCache(capacity=10), max_age=60.0
    )
    messages = [
        write(plaintext_of(length), {"materials_manager": official}, suite, encryption_context=CONTEXT)
        for length in (1, 100, 10_000)
    ]
    cmm, client = CachingCMM(KEY.ours, max_age=60), client_for(suite)
    for length, message in zip((1, 100, 10_000), messages, strict=True):
        assert (await client.decrypt(message, cmm)).plaintext == plaintext_of(length)
    assert cmm.statistics.hits == (2 if suite.kdf_hash else 0)


async def test_the_official_sdk_reads_messages_without_required_pairs_under_a_cached_key() -> None:
    cmm = RequiredEncryptionContextCMM(CachingCMM(KEY.ours, max_age=60), ["tenant"])
    suite = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
    for _ in range(2):
        message, header = await client_for(suite).encrypt(
            b"plaintext", cmm, algorithm_suite=suite, encryption_context=CONTEXT
        )
        assert header.encryption_context.keys() == {"größe"}
        opened, _ = read(message, KEY.official("mpl"), suite, encryption_context={"tenant": "42"})
        assert opened == b"plaintext"
