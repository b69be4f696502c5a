"""Messages in both directions with aws-encryption-sdk 3.3.1, which refuses full final frames.

The other tests need a later version, so only `nox -s interop-old` collects this folder.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import aws_encryption_sdk
import pytest
from aws_encryption_sdk.identifiers import EncryptionKeyType, WrappingAlgorithm, __version__ as version
from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
from aws_encryption_sdk.key_providers.raw import RawMasterKeyProvider

from aioencrypt import AlgorithmSuite, CommitmentPolicy, EncryptionClient, RawAESMasterKey

pytestmark = pytest.mark.anyio

NAMESPACE, NAME, WRAPPING_KEY = "interop", "old", bytes(range(32))
FRAME = 4096
LENGTHS = [0, 1, FRAME - 1, FRAME, FRAME + 1, 2 * FRAME, 1 << 20]
KEY = RawAESMasterKey(NAMESPACE, NAME, wrapping_key=WRAPPING_KEY)

suites = pytest.mark.parametrize("suite", AlgorithmSuite, ids=lambda suite: f"{suite.value:04x}")
lengths = pytest.mark.parametrize("length", LENGTHS)


class OldProvider(RawMasterKeyProvider):  # type: ignore[misc]
    """Our raw key, as the old SDK has it."""

    provider_id = NAMESPACE

    def _get_raw_key(self, key_id: bytes) -> Any:
        return WrappingKey(
            wrapping_algorithm=WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING,
            wrapping_key=WRAPPING_KEY,
            wrapping_key_type=EncryptionKeyType.SYMMETRIC,
        )


@cache
def old_key() -> Any:
    provider = OldProvider()
    provider.add_master_key(NAME)
    return provider


def policy_of(suite: AlgorithmSuite) -> CommitmentPolicy:
    if suite.committing:
        return CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
    return CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT


def old_client(suite: AlgorithmSuite) -> Any:
    policy = aws_encryption_sdk.CommitmentPolicy[policy_of(suite).name]
    return aws_encryption_sdk.EncryptionSDKClient(commitment_policy=policy)


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_the_other_side_is_the_old_version() -> None:
    assert version == "3.3.1"


@suites
@lengths
async def test_the_old_sdk_reads_our_messages(suite: AlgorithmSuite, length: int) -> None:
    client, plaintext = EncryptionClient(commitment_policy=policy_of(suite)), bytes(length)
    message, _ = await client.encrypt(plaintext, KEY, algorithm_suite=suite, frame_length=FRAME)
    async with client.encrypt_stream(plaintext, KEY, algorithm_suite=suite, frame_length=FRAME) as stream:
        streamed = await stream.read()
    for data in (message, streamed):
        found, header = old_client(suite).decrypt(source=data, key_provider=old_key())
        assert found == plaintext
        assert header.algorithm.algorithm_id == suite.value


@suites
@lengths
async def test_we_read_messages_of_the_old_sdk(suite: AlgorithmSuite, length: int) -> None:
    client, plaintext = EncryptionClient(commitment_policy=policy_of(suite)), bytes(length)
    message, _ = old_client(suite).encrypt(
        source=plaintext,
        key_provider=old_key(),
        algorithm=aws_encryption_sdk.Algorithm.get_by_id(suite.value),
        frame_length=FRAME,
    )
    assert (await client.decrypt(message, KEY)).plaintext == plaintext
    async with client.decrypt_stream(message, KEY) as stream:
        assert await stream.read() == plaintext
    async with client.open_seekable(message, KEY, accept_unverified_signature=True) as seekable:
        assert await seekable.read() == plaintext
    ours, _ = await client.encrypt(plaintext, KEY, algorithm_suite=suite, frame_length=FRAME)
    # The old SDK signs with DER of any length.
    assert suite.signed or len(ours) == len(message)
