"""What the tests of rewrapping share: keys, and a client and a message for each suite."""

from __future__ import annotations

from typing import Any

import pytest

from aioencrypt import (
    AlgorithmSuite,
    MasterKeyProvider,
    MultiMasterKeyProvider,
    ProviderError,
    RawAESMasterKey,
)
from aioencrypt.materials import EncryptedDataKey
from aioencrypt.rewrap import RewrapStream, rewrap_stream
from aioencrypt.streams import Source
from tests.support.streaming import client_for

OLD, OTHER, NEW, NEWER = (
    RawAESMasterKey("rewrap", name, wrapping_key=bytes([number]) * 32)
    for number, name in enumerate(("old", "other", "new", "newer"))
)
CONTEXT = {"tenant": "42", "größe": "ß"}

# By what must be made anew.
V1_UNSIGNED = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA256
V1_IDENTITY = AlgorithmSuite.ALG_AES_128_GCM_IV12_TAG16_NO_KDF
V1_SIGNED = AlgorithmSuite.ALG_AES_128_GCM_IV12_TAG16_HKDF_SHA256_ECDSA_P256
HEADER_ENOUGH = [suite for suite in AlgorithmSuite if suite.version == 1 and not suite.signed]
SIGNED_SUITES = [suite for suite in AlgorithmSuite if suite.signed]
UNSIGNED_SUITES = [suite for suite in AlgorithmSuite if not suite.signed]


def suite_id(suite: AlgorithmSuite) -> str:
    return f"{suite.value:04x}"


def each(suites: list[AlgorithmSuite]) -> pytest.MarkDecorator:
    """Parametrize over suites."""
    return pytest.mark.parametrize("suite", suites, ids=suite_id)


async def message_of(
    suite: AlgorithmSuite, plaintext: bytes, provider: MasterKeyProvider | None = None, **options: Any
) -> bytes:
    """Write a message, by default under OLD and OTHER."""
    changed: dict[str, Any] = {"frame_length": 100, "encryption_context": CONTEXT} | options
    keys = provider or MultiMasterKeyProvider(OLD, OTHER)
    return (await client_for(suite).encrypt(plaintext, keys, algorithm_suite=suite, **changed)).ciphertext


async def opens(key: MasterKeyProvider, message: bytes, suite: AlgorithmSuite) -> bytes | None:
    """Return the plaintext, or None where the key does not open the message."""
    try:
        return (await client_for(suite).decrypt(message, key, encryption_context=CONTEXT)).plaintext
    except ProviderError:
        return None


def names(keys: tuple[EncryptedDataKey, ...]) -> list[str]:
    """Name the keys of encrypted data keys, in order."""
    return [key.provider_info[:-20].decode() for key in keys]


def rewrapping(message: Source, suite: AlgorithmSuite, **options: Any) -> RewrapStream:
    """Rewrap what OLD opens, by default for NEW."""
    changed: dict[str, Any] = {"new_provider": NEW, "encryption_client": client_for(suite)} | options
    return rewrap_stream(message, OLD, **changed)


async def rewrapped(message: Source, suite: AlgorithmSuite, **options: Any) -> bytes:
    """Return the whole new message."""
    async with rewrapping(message, suite, **options) as stream:
        return await stream.read()


def not_other(key: EncryptedDataKey) -> bool:
    """Keep all encrypted data keys but those of OTHER."""
    return not OTHER.owns_data_key(key)
