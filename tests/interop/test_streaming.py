"""Streaming on both sides, and non-framed messages, which only the official SDK writes."""

from __future__ import annotations

import pytest
from aws_encryption_sdk.exceptions import ActionNotAllowedError

from aioencrypt import AlgorithmSuite, LimitError, Limits, Release, SignaturePolicy, SignaturePolicyError
from aioencrypt.format import ContentType
from aioencrypt.streams import Source
from tests.support.official import (
    Kind,
    aes_key,
    kinds,
    official_client,
    read,
    read_in_pieces,
    suites,
    write,
    write_in_pieces,
)
from tests.support.rows import each_row
from tests.support.streaming import SIGNED, UNSIGNED, Feed, client_for, in_chunks, on_asyncio, plaintext_of

pytestmark = [pytest.mark.anyio, on_asyncio]

KEY = aes_key(256)
CONTEXT = {"größe": "ß"}
OLD_SIGNED = AlgorithmSuite.ALG_AES_128_GCM_IV12_TAG16_HKDF_SHA256_ECDSA_P256
OLD_UNSIGNED = AlgorithmSuite.ALG_AES_192_GCM_IV12_TAG16_HKDF_SHA256
PLAINTEXT = plaintext_of(200_003)
WHOLE_FRAMES = PLAINTEXT[: 3 * 65536]

some_suites = pytest.mark.parametrize(
    "suite", [SIGNED, UNSIGNED, OLD_SIGNED, OLD_UNSIGNED], ids=lambda suite: f"{suite.value:04x}"
)


async def opened_in_chunks(
    message: Source, suite: AlgorithmSuite, read: int | None = None, release: Release = Release.STREAM
) -> bytes:
    """Decrypt a stream, chunk by chunk or `read` bytes at a time."""
    async with client_for(suite).decrypt_stream(message, KEY.ours, release=release) as stream:
        if read is None:
            return b"".join([chunk async for chunk in stream])
        pieces = []
        while piece := await stream.read(read):
            pieces.append(piece)
        return b"".join(pieces)


# Framed messages


@kinds
@some_suites
@each_row("frame_length", [128, 4096, 65536])
async def test_official_streams_are_read_however_the_bytes_come(
    kind: Kind, suite: AlgorithmSuite, frame_length: int
) -> None:
    for plaintext in (PLAINTEXT, WHOLE_FRAMES):
        pieces = write_in_pieces(plaintext, KEY.official(kind), suite, frame_length=frame_length, piece=7919)
        message = b"".join(pieces)
        assert await opened_in_chunks(Feed(*pieces), suite) == plaintext
        for chunk in (61, 4099, 65537, len(message)):
            assert await opened_in_chunks(in_chunks(message, chunk), suite, read=5003) == plaintext
        spooled = await opened_in_chunks(in_chunks(message, 997), suite, release=Release.VERIFIED)
        assert spooled == plaintext


@kinds
@some_suites
async def test_a_small_official_message_comes_byte_by_byte(kind: Kind, suite: AlgorithmSuite) -> None:
    for length in (0, 1, 128, 300):
        plaintext = plaintext_of(length)
        message = write(plaintext, KEY.official(kind), suite, encryption_context=CONTEXT, frame_length=128)
        assert await opened_in_chunks(in_chunks(message, 1), suite, read=1) == plaintext


@kinds
@some_suites
@each_row("frame_length", [1, 16, 4096, 65536])
async def test_official_streams_read_ours(kind: Kind, suite: AlgorithmSuite, frame_length: int) -> None:
    plaintext = PLAINTEXT if frame_length >= 4096 else PLAINTEXT[: 1000 * frame_length]
    for length in (len(plaintext), 3 * frame_length, frame_length, 0):
        source = in_chunks(plaintext[:length], 4099 if frame_length >= 4096 else 61)
        async with client_for(suite).encrypt_stream(
            source, KEY.ours, algorithm_suite=suite, encryption_context=CONTEXT, frame_length=frame_length
        ) as stream:
            message = b"".join([chunk async for chunk in stream])
        for piece in (997, 65537):
            assert (
                b"".join(read_in_pieces(message, KEY.official(kind), suite, piece=piece))
                == plaintext[:length]
            )


@kinds
async def test_decrypt_unsigned_means_the_same_on_both_sides(kind: Kind) -> None:
    unsigned = (await client_for(UNSIGNED).encrypt(PLAINTEXT, KEY.ours, algorithm_suite=UNSIGNED)).ciphertext
    signed = (await client_for(SIGNED).encrypt(PLAINTEXT, KEY.ours, algorithm_suite=SIGNED)).ciphertext
    key = KEY.official(kind)
    pieces = read_in_pieces(unsigned, key, UNSIGNED, piece=65537, mode="decrypt-unsigned")
    assert b"".join(pieces) == PLAINTEXT
    with pytest.raises(ActionNotAllowedError):
        read_in_pieces(signed, key, SIGNED, piece=65537, mode="decrypt-unsigned")
    client = client_for(SIGNED)
    opened = await client.decrypt(
        write(b"secret", key, UNSIGNED), KEY.ours, signature_policy=SignaturePolicy.FORBID
    )
    assert opened.plaintext == b"secret"
    with pytest.raises(SignaturePolicyError):
        await client.decrypt(write(b"secret", key, SIGNED), KEY.ours, signature_policy=SignaturePolicy.FORBID)


@kinds
async def test_a_frame_of_megabytes_of_ours_is_read(kind: Kind) -> None:
    plaintext = plaintext_of(5 * 1024 * 1024 + 1)
    message = await client_for(SIGNED).encrypt(plaintext, KEY.ours, frame_length=4 * 1024 * 1024)
    assert read(message.ciphertext, KEY.official(kind), SIGNED)[0] == plaintext


# Non-framed messages


@kinds
@suites
async def test_non_framed_messages_are_read(kind: Kind, suite: AlgorithmSuite) -> None:
    for length in (0, 1, 15, 16, 17, 4096, 300_001):
        plaintext = plaintext_of(length)
        message = write(plaintext, KEY.official(kind), suite, encryption_context=CONTEXT, frame_length=0)
        opened, header = await client_for(suite).decrypt(message, KEY.ours, encryption_context=CONTEXT)
        assert opened == plaintext
        assert (header.content_type, header.frame_length) == (ContentType.NON_FRAMED, 0)
        assert await opened_in_chunks(in_chunks(message, max(13, length // 7)), suite) == plaintext
    assert await opened_in_chunks(in_chunks(message, 65537), suite, 997, Release.VERIFIED) == plaintext


@kinds
@pytest.mark.parametrize("suite", [SIGNED, OLD_UNSIGNED], ids=["0578", "0146"])
async def test_a_large_non_framed_message_is_read(kind: Kind, suite: AlgorithmSuite) -> None:
    """More than AES-GCM is given at once."""
    plaintext = plaintext_of(17 * 1024 * 1024 + 3)
    message = write(plaintext, KEY.official(kind), suite, frame_length=0)
    client = client_for(suite)
    assert (await client.decrypt(message, KEY.ours)).plaintext == plaintext
    assert await opened_in_chunks(in_chunks(message, 1_000_003), suite) == plaintext
    # its length counts as that of a frame
    with pytest.raises(LimitError) as caught:
        await client.decrypt(message, KEY.ours, limits=Limits(max_frame_length=len(plaintext) - 1))
    assert (caught.value.parameter, caught.value.actual) == ("max_frame_length", len(plaintext))
    exact = Limits(max_frame_length=len(plaintext))
    assert (await client.decrypt(message, KEY.ours, limits=exact)).plaintext == plaintext


async def test_an_official_stream_has_our_header_before_the_body_is_read() -> None:
    message, header = await client_for(SIGNED).encrypt(PLAINTEXT, KEY.ours, encryption_context=CONTEXT)
    with official_client(SIGNED).stream(mode="d", source=message, **KEY.official("legacy")) as stream:
        assert stream.header.encryption_context == dict(header.encryption_context)
        assert stream.header.commitment_key == header.commitment
        assert stream.read() == PLAINTEXT
