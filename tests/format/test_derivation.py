"""Message keys and commitments, against HKDF in one step and the official SDK."""

from __future__ import annotations

import pytest
from aws_encryption_sdk.identifiers import Algorithm
from aws_encryption_sdk.internal.crypto.data_keys import calculate_commitment_key, derive_data_encryption_key
from cryptography.exceptions import InvalidTag

from aioencrypt.errors import CommitmentError
from aioencrypt.format import AlgorithmSuite
from aioencrypt.format.derivation import derive_message_key
from tests.support.messages import MessageWriter, example_data_key, example_message_id
from tests.support.rows import each_row

each_suite = pytest.mark.parametrize("suite", AlgorithmSuite, ids=lambda suite: f"{suite.value:04x}")
COMMITTING = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
NO_KDF = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_NO_KDF


@pytest.mark.spec(
    "framework/transitive-requirements.md#hkdf-encryption-key",
    "framework/transitive-requirements.md#hkdf-commit-key",
    "framework/algorithm-suites.md#encryption-key-derivation-algorithm",
    "framework/algorithm-suites.md#commit-key-derivation-algorithm",
    "framework/algorithm-suites.md#identity-kdf",
)
@each_suite
def test_keys_are_those_of_hkdf(suite: AlgorithmSuite) -> None:
    data_key, message_id = example_data_key(suite), example_message_id(suite)
    key = derive_message_key(suite, data_key, message_id)
    expected = MessageWriter(suite, data_key, message_id=message_id)
    assert key.key == expected.key
    assert (key.commitment or b"") == expected.commitment
    assert (key.commitment is not None) is suite.committing


@pytest.mark.spec(
    "framework/transitive-requirements.md#hkdf-encryption-key", "framework/algorithm-suites.md#identity-kdf"
)
@each_suite
def test_the_message_id_is_in_the_key(suite: AlgorithmSuite) -> None:
    data_key, message_id = example_data_key(suite), example_message_id(suite)
    other = bytes(len(message_id))
    keys = {derive_message_key(suite, data_key, value).key for value in (message_id, other)}
    assert len(keys) == (1 if suite.kdf_hash is None else 2)


def test_suites_with_one_data_key_have_different_keys() -> None:
    data_key, message_id = bytes(32), bytes(32)
    signed = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384
    keys = [derive_message_key(suite, data_key, message_id) for suite in (COMMITTING, signed)]
    assert keys[0].key != keys[1].key


def test_the_key_and_its_cipher_belong_together() -> None:
    key = derive_message_key(COMMITTING, bytes(32), bytes(32))
    sealed = key.aead.encrypt(bytes(12), b"text", b"")
    assert type(key.aead)(key.key).decrypt(bytes(12), sealed, b"") == b"text"
    with pytest.raises(InvalidTag):
        key.aead.decrypt(bytes(12), sealed, b"other")


@pytest.mark.spec(
    "framework/transitive-requirements.md#hkdf-encryption-key",
    "framework/transitive-requirements.md#hkdf-commit-key",
)
@each_suite
def test_keys_are_those_of_the_official_sdk(suite: AlgorithmSuite) -> None:
    data_key, message_id = example_data_key(suite), example_message_id(suite)
    official = Algorithm.get_by_id(suite.value)
    key = derive_message_key(suite, data_key, message_id)
    assert key.key == derive_data_encryption_key(data_key, official, message_id)
    if suite.committing:
        assert key.commitment == calculate_commitment_key(data_key, official, message_id)


@pytest.mark.spec("framework/algorithm-suites.md#encryption-algorithm")
@each_row("suite", AlgorithmSuite)
@pytest.mark.parametrize("change", [-1, 1])
def test_a_data_key_of_the_wrong_length(suite: AlgorithmSuite, change: int) -> None:
    with pytest.raises(ValueError, match=f"{suite.name} needs {suite.data_key_length}"):
        derive_message_key(suite, bytes(suite.data_key_length + change), example_message_id(suite))


@pytest.mark.spec(
    "framework/transitive-requirements.md#hkdf-commit-key",
    "client-apis/decrypt.md#get-the-decryption-materials",
)
def test_check_commitment() -> None:
    key = derive_message_key(COMMITTING, bytes(32), bytes(32))
    assert key.commitment
    key.check_commitment(key.commitment)
    for wrong in (b"", bytes(32), key.commitment[:-1], bytes([key.commitment[0] ^ 1]) + key.commitment[1:]):
        with pytest.raises(CommitmentError, match="commits to"):
            key.check_commitment(wrong)


def test_a_key_without_commitment_matches_none() -> None:
    with pytest.raises(CommitmentError):
        derive_message_key(NO_KDF, bytes(32), bytes(16)).check_commitment(bytes(32))


def test_no_key_is_in_a_repr() -> None:
    data_key = b"secret-secret-secret-secret-key!"
    assert "secret" not in repr(derive_message_key(NO_KDF, data_key, bytes(16)))
