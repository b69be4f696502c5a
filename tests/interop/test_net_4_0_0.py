"""Messages of version 4.0.0 of the SDK for .NET, which departs from the specification in the header.

It left the message id out of the key derivation of suites that do not commit, and authenticated an
encryption context without required pairs as `00 00`. The published ones are in test_vectors.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag

from aioencrypt import (
    AlgorithmSuite,
    CommitmentError,
    CommitmentPolicy,
    EncryptionClient,
    MessageHeader,
    RequiredEncryptionContextCMM,
    TagError,
)
from aioencrypt.format import HeaderVerified, MessageDecryptor
from tests.support.messages import (
    Message,
    MessageWriter,
    build_message,
    example_data_key,
    example_signing_key,
    public_key_pair,
    sorted_context,
    u16,
)
from tests.support.official import suites
from tests.support.streaming import UNSIGNED, flipped, in_chunks, on_asyncio, plaintext_of
from tests.support.watching import CountingKey

pytestmark = [pytest.mark.anyio, on_asyncio]

PLAINTEXT = plaintext_of(1000)
REQUIRED = {"tenant": "42", "zone": "7"}
HKDF_V1 = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA256
NO_KDF = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_NO_KDF
ODD = b"\0\0"


class NetWriter(MessageWriter):
    """Derives keys as version 4.0.0 for .NET."""

    def _derive(self) -> tuple[bytes, bytes]:
        if self.suite.version == 1 and self.suite.kdf:
            return self._hkdf(self.suite.key_length, None, u16(self.id)), b""
        return super()._derive()


def write(
    suite: AlgorithmSuite,
    *,
    required: Mapping[str, str] | None = None,
    authenticated: bytes | None = None,
    writer: type[MessageWriter] = NetWriter,
    frame_length: int | None = 128,
) -> Message:
    """Write a message; `required` pairs are authenticated alone, `authenticated` is in their place."""
    odd = writer(suite, example_data_key(suite), frame_length=frame_length)
    context = {"a": "1"} | (public_key_pair(example_signing_key(suite)) if suite.signed else {})
    if authenticated is None:
        authenticated = sorted_context(required) if required else ODD
    odd.header(sorted_context(context), authenticated_context=authenticated)
    if frame_length is None:
        odd.non_framed_body(PLAINTEXT)
    else:
        odd.frames(PLAINTEXT)
    odd.footer()
    return odd.message(PLAINTEXT)


def client_of(suite: AlgorithmSuite, **options: Any) -> EncryptionClient:
    policy = (
        CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
        if suite.committing
        else CommitmentPolicy.REQUIRE_ENCRYPT_ALLOW_DECRYPT
    )
    return EncryptionClient(commitment_policy=policy, **options)


async def opened(client: EncryptionClient, data: bytes, **options: Any) -> MessageHeader:
    """Decrypt whole and in pieces, with one call of the key for each; returns the header."""
    key = CountingKey()
    plaintext, header = await client.decrypt(data, key, **options)
    async with client.decrypt_stream(in_chunks(data, 61), key, **options) as stream:
        assert stream.header == header
        assert await stream.read() == plaintext == PLAINTEXT
    assert key.calls == ["decrypt"] * 2
    return header


async def refused(
    client: EncryptionClient, data: bytes, error: type[Exception] = TagError, **options: Any
) -> Exception:
    """Fail to decrypt whole and in pieces, with one call of the key for each."""
    key = CountingKey()
    with pytest.raises(error) as caught:
        await client.decrypt(data, key, **options)
    assert type(caught.value) is error
    with pytest.raises(error) as streamed:
        await client.decrypt_stream(in_chunks(data, 61), key, **options).__aenter__()
    assert str(streamed.value) == str(caught.value)
    assert key.calls == ["decrypt"] * 2
    return caught.value


@suites
async def test_its_messages_are_read_unless_a_caller_forbids_it(suite: AlgorithmSuite) -> None:
    for frame_length in (128, 4096, None):
        message = write(suite, frame_length=frame_length)
        for client in (client_of(suite), client_of(suite, net_v4_0_0_retry=True)):
            header = await opened(client, message.data)
            assert header.message_id == message.message_id
            assert header.encryption_context["a"] == "1"
        error = await refused(client_of(suite, net_v4_0_0_retry=False), message.data)
        assert str(error).startswith("the header fails authentication")
        assert isinstance(error.__cause__, InvalidTag)


@suites
async def test_with_required_pairs_only_the_derivation_departs(suite: AlgorithmSuite) -> None:
    message = write(suite, required=REQUIRED)
    await opened(client_of(suite), message.data, encryption_context=REQUIRED)
    strict = client_of(suite, net_v4_0_0_retry=False)
    if suite.version == 1 and suite is not NO_KDF and suite.kdf_hash:
        await refused(strict, message.data, encryption_context=REQUIRED)
    else:
        await opened(strict, message.data, encryption_context=REQUIRED)


async def test_the_manager_that_requires_pairs_reads_them() -> None:
    message = write(HKDF_V1, required=REQUIRED)
    cmm = RequiredEncryptionContextCMM(CountingKey(), REQUIRED)
    result = await client_of(HKDF_V1).decrypt(message.data, cmm, encryption_context=REQUIRED)
    assert result.plaintext == PLAINTEXT
    assert result.provenance.keys[0].key_id == "key"


@suites
async def test_messages_by_the_specification_are_read_by_both(suite: AlgorithmSuite) -> None:
    context = {"a": "1"} | (public_key_pair(example_signing_key(suite)) if suite.signed else {})
    message = build_message(suite, PLAINTEXT, encryption_context=context, frame_length=128)
    for allowed in (True, False):
        await opened(client_of(suite, net_v4_0_0_retry=allowed), message.data)


@pytest.mark.parametrize(
    ("writer", "authenticated"),
    [
        (NetWriter, b""),
        (MessageWriter, ODD),
        (NetWriter, b"\0"),
        (NetWriter, b"\0\0\0"),
        (NetWriter, b"\0\1"),
    ],
    ids=["derivation alone", "context alone", "one byte", "three bytes", "another number"],
)
async def test_nothing_but_its_own_kind_is_read(writer: type[MessageWriter], authenticated: bytes) -> None:
    """The retry is one other header, and not a search."""
    data = write(HKDF_V1, authenticated=authenticated, writer=writer).data
    await refused(client_of(HKDF_V1), data)


async def test_a_required_pair_is_not_taken_for_none() -> None:
    data = write(HKDF_V1, authenticated=sorted_context(REQUIRED) + ODD).data
    await refused(client_of(HKDF_V1), data, encryption_context=REQUIRED)
    data = write(HKDF_V1).data
    error = await refused(client_of(HKDF_V1), data, encryption_context=REQUIRED)
    assert "the header does not have the encryption context keys 'tenant', 'zone'" in str(error)


@pytest.mark.parametrize("suite", [HKDF_V1, NO_KDF, UNSIGNED], ids=["0178", "0078", "0478"])
async def test_changed_headers_are_refused_all_the_same(suite: AlgorithmSuite) -> None:
    message = write(suite)
    for field in ("message_id", "context", "frame_length", "header_tag"):
        place = message.fields[field]
        expected = CommitmentError if suite.committing and field == "message_id" else TagError
        error = await refused(client_of(suite), flipped(message.data, place.stop - 1), expected)
        if expected is TagError:
            assert isinstance(error.__cause__, InvalidTag)


async def test_a_commitment_is_not_tried_again() -> None:
    message = write(UNSIGNED)
    data = flipped(message.data, message.fields["commitment"].start)
    error = await refused(client_of(UNSIGNED), data, CommitmentError)
    assert error.__context__ is None


@pytest.mark.parametrize("suite", [HKDF_V1, UNSIGNED], ids=["0178", "0478"])
async def test_changed_frames_are_refused(suite: AlgorithmSuite) -> None:
    message = write(suite)
    data = flipped(message.data, message.fields["frame.2.content"].start)
    with pytest.raises(TagError):
        await client_of(suite).decrypt(data, CountingKey())


async def test_it_can_be_read_at_any_place() -> None:
    message = write(HKDF_V1)
    async with client_of(HKDF_V1).open_seekable(message.data, CountingKey()) as stream:
        stream.seek(500)
        assert await stream.read(100) == PLAINTEXT[500:600]
    with pytest.raises(TagError):
        await (
            client_of(HKDF_V1, net_v4_0_0_retry=False).open_seekable(message.data, CountingKey()).__aenter__()
        )


@pytest.mark.parametrize("given", [None, 0, 1, "forbid"])
async def test_the_setting_is_true_or_false(given: Any) -> None:
    with pytest.raises(TypeError, match=rf"^net_v4_0_0_retry must be a bool, not {type(given).__name__}$"):
        EncryptionClient(net_v4_0_0_retry=given)


async def test_the_machine_reads_by_the_specification_unless_it_is_told() -> None:
    message = write(HKDF_V1)
    for options in ({}, {"net_v4_0_0_retry": False}, {"net_v4_0_0_retry": True}):
        machine = MessageDecryptor(**options)
        machine.receive(message.data)
        machine.next_event()
        if options.get("net_v4_0_0_retry"):
            machine.unlock(message.data_key)
            assert isinstance(machine.next_event(), HeaderVerified)
        else:
            with pytest.raises(TagError):
                machine.unlock(message.data_key)
