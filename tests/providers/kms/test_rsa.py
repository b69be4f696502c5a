"""RSA keys of KMS: what they write, compared with RSA of `cryptography`.

Specification: framework/aws-kms/aws-kms-rsa-keyring.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable
from typing import Any

import pytest

from aioencrypt import (
    AlgorithmSuite,
    AWSConnection,
    KMSEncryptionAlgorithm,
    KMSMasterKeyProvider,
    KMSRSAMasterKey,
    MultiMasterKeyProvider,
    ProviderError,
    decrypt,
    encrypt,
)
from aioencrypt.materials import DataKey
from aioencrypt.testing import InMemoryKMS
from tests.support.kms import CONTEXT, DATA_KEY, SUITE, US, arn
from tests.support.kms_pairs import (
    CONTEXT_DIGEST,
    SHA_1,
    SHA_256,
    oaep,
    reading,
    rsa_entry,
    rsa_kms_key,
    rsa_master_key,
)
from tests.support.rsa_keys import public_pem, rsa_key
from tests.support.streaming import client_for, on_asyncio

pytestmark = pytest.mark.anyio

PAGE = "framework/aws-kms/aws-kms-rsa-keyring.md"
each_algorithm = pytest.mark.parametrize("algorithm", [SHA_1, SHA_256])
SIGNED = [suite for suite in AlgorithmSuite if suite.signed]
UNSIGNED = [suite for suite in AlgorithmSuite if not suite.signed]


@pytest.fixture
def kms() -> InMemoryKMS:
    return InMemoryKMS()


# Encrypting


@pytest.mark.spec(
    f"{PAGE}#onencrypt", f"{PAGE}#supported-padding-schemes", f"{PAGE}#encryption-context-digest"
)
@each_algorithm
@pytest.mark.parametrize("suite", UNSIGNED, ids=lambda suite: hex(suite.value))
@on_asyncio
async def test_what_it_writes(kms: InMemoryKMS, suite: AlgorithmSuite, algorithm: str) -> None:
    key_id = rsa_kms_key(kms)
    key = rsa_master_key(kms, key_id, algorithm)
    data_key, generated = await key.generate_data_key(reading(suite=suite))
    assert len(data_key.plaintext) == suite.data_key_length
    encrypted = await key.encrypt_data_key(data_key, reading(suite=suite))
    for written in (generated, encrypted):
        assert (written.provider_id, written.provider_info) == ("aws-kms-rsa", key_id.encode())
        opened = rsa_key().decrypt(written.ciphertext, oaep(algorithm))
        assert (opened[:48], opened[48:]) == (CONTEXT_DIGEST, data_key.plaintext)
    assert generated.ciphertext != encrypted.ciphertext


@pytest.mark.spec(f"{PAGE}#onencrypt")
async def test_the_digest_of_an_empty_context(kms: InMemoryKMS) -> None:
    """framework/structures.md#serialization: an empty context is no bytes."""
    _, written = await rsa_master_key(kms, arn("key/1")).generate_data_key(reading(context={}))
    assert rsa_key().decrypt(written.ciphertext, oaep(SHA_256))[:48] == hashlib.sha384().digest()


@pytest.mark.spec(f"{PAGE}#onencrypt")
async def test_data_keys_are_new_each_time(kms: InMemoryKMS) -> None:
    key = rsa_master_key(kms, arn("key/1"))
    assert len({(await key.generate_data_key(reading()))[0].plaintext for _ in range(20)}) == 20


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
@on_asyncio
async def test_keys_of_all_sizes(kms: InMemoryKMS, bits: int) -> None:
    pair = rsa_key("first" if bits == 2048 else "of a size", bits)
    key_id = kms.create_key(key_spec=f"RSA_{bits}", private_key=pair)
    key = KMSRSAMasterKey(
        key_id,
        encryption_algorithm=KMSEncryptionAlgorithm.RSAES_OAEP_SHA_256,
        public_key=pair.public_key(),
        connection=kms.connection(US),
    )
    data_key, encrypted = await key.generate_data_key(reading())
    assert len(encrypted.ciphertext) == bits // 8
    assert (await key.decrypt_data_key(reading(encrypted))).data_key == data_key


async def test_encrypting_needs_neither_kms_nor_anything_open() -> None:
    key = KMSRSAMasterKey(
        arn("key/1"),
        encryption_algorithm=KMSEncryptionAlgorithm.RSAES_OAEP_SHA_256,
        public_key=public_pem(rsa_key()),
    )
    result = await encrypt(b"x", key, algorithm_suite=SUITE, encryption_context=CONTEXT)
    kms = InMemoryKMS()
    assert rsa_kms_key(kms, key_id="1") == key.key_id
    opened = await decrypt(result.ciphertext, rsa_master_key(kms, key.key_id, public=False))
    assert opened.plaintext == b"x"
    assert [call.operation for call in kms.calls] == ["Decrypt"]


@pytest.mark.spec(f"{PAGE}#onencrypt", f"{PAGE}#initialization")
async def test_without_a_public_key_it_only_decrypts(kms: InMemoryKMS) -> None:
    key_id = rsa_kms_key(kms)
    key = rsa_master_key(kms, key_id, public=False)
    text = "this KMS RSA key has no public_key, so it cannot encrypt"
    with pytest.raises(ProviderError, match=text):
        await key.generate_data_key(reading())
    with pytest.raises(ProviderError, match=text):
        await key.encrypt_data_key(DataKey(DATA_KEY), reading())
    assert (await key.decrypt_data_key(reading(rsa_entry(key_id)))).data_key.plaintext == DATA_KEY


# Suites that sign


REFUSAL = (
    "because anyone with its public key can write messages; "
    "use a suite without ECDSA, such as ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY"
)


@pytest.mark.spec(f"{PAGE}#onencrypt")
@pytest.mark.parametrize("suite", SIGNED, ids=lambda suite: hex(suite.value))
@on_asyncio
async def test_it_encrypts_for_no_suite_that_signs(kms: InMemoryKMS, suite: AlgorithmSuite) -> None:
    key = rsa_master_key(kms, arn("key/1"))
    calls: list[Awaitable[Any]] = [
        key.generate_data_key(reading(suite=suite)),
        key.encrypt_data_key(DataKey(bytes(suite.data_key_length)), reading(suite=suite)),
    ]
    for call in calls:
        with pytest.raises(ProviderError) as caught:
            await call
        assert str(caught.value) == f"a KMS RSA key does not allow the signed suite {suite.name}, {REFUSAL}"


async def test_the_default_suite_signs(kms: InMemoryKMS) -> None:
    key_id = rsa_kms_key(kms)
    with pytest.raises(ProviderError) as caught:
        await encrypt(b"x", rsa_master_key(kms, key_id))
    assert str(caught.value).startswith(
        f"could not generate a data key; generate under aws-kms-rsa {key_id}: "
    )
    assert str(caught.value).endswith(REFUSAL)


# With others


async def test_beside_a_symmetric_key(kms: InMemoryKMS) -> None:
    symmetric, key_id = kms.create_key(), rsa_kms_key(kms)
    clients = kms.clients(US)
    generator = KMSMasterKeyProvider([symmetric], connection=AWSConnection(kms=clients))
    both = MultiMasterKeyProvider(generator, rsa_master_key(kms, key_id))
    result = await encrypt(b"x", both, algorithm_suite=SUITE, encryption_context=CONTEXT)
    assert [key.provider_id for key in result.header.encrypted_data_keys] == ["aws-kms", "aws-kms-rsa"]
    for provider in (both, generator, rsa_master_key(kms, key_id, public=False)):
        assert (await decrypt(result.ciphertext, provider)).plaintext == b"x"
    with pytest.raises(ProviderError, match="could not encrypt a data key; encrypt under aws-kms-rsa"):
        await encrypt(b"x", both)


async def test_a_stream_there_and_back(kms: InMemoryKMS) -> None:
    key = rsa_master_key(kms, rsa_kms_key(kms))
    client = client_for(SUITE)
    async with client.encrypt_stream(b"x" * 10_000, key, algorithm_suite=SUITE) as writing:
        message = await writing.read()
    async with key, client.decrypt_stream(message, key) as stream:
        assert await stream.read() == b"x" * 10_000
