"""Encrypting: what is known on entry, lengths, and leaving early."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import attrs
import pytest

from aioencrypt import (
    AlgorithmSuite,
    CommitmentPolicyError,
    DefaultCMM,
    EncryptionClient,
    IncompleteReadError,
    LimitError,
    MultiMasterKeyProvider,
    Offload,
    PlaintextLengthError,
    PolicyError,
    ProviderError,
    RawAESMasterKey,
    StreamNotEnteredError,
    TruncatedMessageError,
    UnverifiedStreamError,
    decrypt,
    encrypt,
    encrypt_stream,
)
from aioencrypt.format import ContentType
from aioencrypt.materials import EncryptionMaterials, EncryptionMaterialsRequest, MasterKey
from aioencrypt.providers.values import DataKey, DataKeyRequest
from tests.support.rows import each_row
from tests.support.streaming import (
    KEY,
    SIGNED,
    UNSIGNED,
    Feed,
    assert_idle,
    client_for,
    in_chunks,
    is_again,
    on_asyncio,
    opened,
    plaintext_of,
)

pytestmark = pytest.mark.anyio

FRAME = 64
EDGES = [0, 1, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME, 3 * FRAME + 1]
suites = pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])


# What is known on entry


async def test_header_and_length_are_known_on_entry_and_not_before() -> None:
    source = Feed(plaintext_of(1000))
    stream = encrypt_stream(
        source, KEY, encryption_context={"tenant": "42"}, plaintext_length=1000, frame_length=FRAME
    )
    for name in ("header", "ciphertext_length"):
        with pytest.raises(StreamNotEnteredError):
            getattr(stream, name)
    async with stream:
        assert stream.header.encryption_context["tenant"] == "42"
        assert stream.header.algorithm_suite is SIGNED
        assert stream.header.frame_length == FRAME
        assert stream.header.content_type is ContentType.FRAMED
        assert stream.header.version == 2
        assert len(stream.header.message_id) == 32
        assert len(stream.header.encrypted_data_keys) == 1
        assert source.reads == 0
        length = stream.ciphertext_length
        message = await stream.read()
    assert length == len(message)
    assert (await decrypt(message, KEY)).header == stream.header


@pytest.mark.parametrize("suite", AlgorithmSuite, ids=lambda suite: hex(suite.value))
@on_asyncio
async def test_ciphertext_length_is_exact(suite: AlgorithmSuite) -> None:
    client = client_for(suite)
    for frame_length in (1, FRAME, 4096):
        for length in (*EDGES, 4095, 4096, 4097):
            plaintext = plaintext_of(length if frame_length > 1 else length % 300)
            for source, known in ((plaintext, None), (in_chunks(plaintext, 50), len(plaintext))):
                stream = client.encrypt_stream(
                    source, KEY, algorithm_suite=suite, frame_length=frame_length, plaintext_length=known
                )
                async with stream:
                    expected = stream.ciphertext_length
                    message = await stream.read()
                assert len(message) == expected
            assert await opened(message, suite) == plaintext


async def test_ciphertext_length_of_a_source_of_unknown_length_is_none() -> None:
    async with encrypt_stream(Feed(b"abc"), KEY, plaintext_length_bound=10) as stream:
        assert stream.ciphertext_length is None
        await stream.read()


@pytest.mark.spec("client-apis/encrypt.md#construct-the-header", "data-format/message-header.md#message-id")
async def test_two_messages_differ_in_everything() -> None:
    first, second = [(await encrypt(b"the same", KEY)).header for _ in range(2)]
    assert first.message_id != second.message_id
    assert first.encrypted_data_keys != second.encrypted_data_keys


# The body


@suites
@each_row("length", EDGES)
async def test_a_message_ends_with_a_shorter_frame(suite: AlgorithmSuite, length: int) -> None:
    """encrypt.md#construct-the-body; an empty one after a multiple of the frame length."""
    client = client_for(suite)
    plaintext = plaintext_of(length)
    async with client.encrypt_stream(
        in_chunks(plaintext, 13), KEY, algorithm_suite=suite, frame_length=FRAME
    ) as stream:
        header = await anext(stream)
        body = await stream.read()
    frames = length // FRAME + 1
    assert len(body) == length + (frames - 1) * 32 + 40 + suite.footer_length
    final = body[(frames - 1) * (FRAME + 32) :]
    assert final[:8] == b"\xff\xff\xff\xff" + frames.to_bytes(4, "big")
    assert int.from_bytes(final[20:24], "big") == length - (frames - 1) * FRAME
    assert await opened(header + body, suite) == plaintext


@pytest.mark.parametrize("offload", Offload)
@pytest.mark.parametrize("frame_length", [100, 4096, 1024 * 1024, 3_000_000])
async def test_where_work_runs_changes_nothing(offload: Offload, frame_length: int) -> None:
    client = EncryptionClient(offload=offload)
    plaintext = plaintext_of(50_000 if frame_length == 100 else 3_100_000)
    async with client.encrypt_stream(plaintext, KEY, frame_length=frame_length) as stream:
        plaintext_again, header = await client.decrypt(stream, KEY)
    assert plaintext_again == plaintext
    assert header == stream.header
    assert_idle()


async def test_chunks_are_bytes_and_never_empty() -> None:
    async with encrypt_stream(in_chunks(plaintext_of(5000), 10), KEY, frame_length=FRAME) as stream:
        chunks = [chunk async for chunk in stream]
    assert all(type(chunk) is bytes and chunk for chunk in chunks)
    assert (await decrypt(b"".join(chunks), KEY)).plaintext == plaintext_of(5000)


@pytest.mark.spec("client-apis/encrypt.md#construct-the-body")
async def test_no_more_is_read_than_is_needed() -> None:
    source = Feed(plaintext_of(1000), plaintext_of(1000), plaintext_of(1000))
    async with encrypt_stream(source, KEY, frame_length=FRAME) as stream:
        await stream.read(1)
        assert source.reads == 0, "the header needs no plaintext"
        await stream.readexactly(len(stream.header.serialize_body()) + 30)
        assert source.reads == 1
        stream.abandon()


# Lengths


async def chunk_lengths(**options: Any) -> tuple[int, Exception]:
    """Read 300 bytes of plaintext in threes; return how many bytes came out before the error."""
    count = 0
    stream = encrypt_stream(
        Feed(*(plaintext_of(100) for _ in range(3))), KEY, frame_length=1, algorithm_suite=UNSIGNED, **options
    )
    try:
        async with stream:
            await anext(stream)  # the header
            async for chunk in stream:
                count += len(chunk)
    except PolicyError as error:
        return count, error
    raise AssertionError("no error")


async def test_plaintext_that_is_too_long_is_refused_before_it_is_sealed() -> None:
    count, error = await chunk_lengths(plaintext_length=250)
    assert isinstance(error, PlaintextLengthError)
    assert (error.expected, error.actual) == (250, 300)
    assert "the source has more bytes than plaintext_length=250" in str(error)
    assert count == 200 * 33, "the frames of 200 bytes, and nothing of the third hundred"


async def test_plaintext_that_is_too_short_has_no_final_frame() -> None:
    count, error = await chunk_lengths(plaintext_length=301)
    assert isinstance(error, PlaintextLengthError)
    assert (error.expected, error.actual) == (301, 300)
    assert "ended after 300 bytes, not at plaintext_length=301" in str(error)
    assert count == 300 * 33


@pytest.mark.spec(
    "client-apis/encrypt.md#plaintext-length-bound", "client-apis/encrypt.md#construct-the-body"
)
async def test_a_bound_that_is_exceeded_is_refused_before_it_is_sealed() -> None:
    """encrypt.md#plaintext-length-bound."""
    count, error = await chunk_lengths(plaintext_length_bound=299)
    assert isinstance(error, LimitError)
    assert (error.parameter, error.limit, error.actual) == ("plaintext_length_bound", 299, 300)
    assert count == 200 * 33
    message, _ = await encrypt(Feed(b"abc"), KEY, plaintext_length_bound=3)
    assert (await decrypt(message, KEY)).plaintext == b"abc"


@pytest.mark.spec("client-apis/encrypt.md#input")
async def test_a_bound_on_a_known_length_is_ignored() -> None:
    """encrypt.md#input: the bound MUST be ignored."""
    assert (await encrypt(b"abc", KEY, plaintext_length_bound=1)).ciphertext
    assert (await encrypt(Feed(b"abc"), KEY, plaintext_length=3, plaintext_length_bound=1)).ciphertext


@pytest.mark.parametrize("length", [99, 101])
async def test_a_wrong_length_of_bytes(length: int) -> None:
    with pytest.raises(PlaintextLengthError):
        await encrypt(bytes(100), KEY, plaintext_length=length)


async def test_a_length_that_needs_too_many_frames_fails_on_entry() -> None:
    source = Feed(b"abc")
    stream = encrypt_stream(source, KEY, frame_length=1, plaintext_length=2**32 - 1)
    with pytest.raises(PolicyError, match=f"needs {2**32} frames of 1 bytes"):
        await stream.__aenter__()
    async with encrypt_stream(source, KEY, frame_length=1, plaintext_length=2**32 - 2) as stream:
        stream.abandon()


# What fails on entry


@pytest.mark.spec("client-apis/encrypt.md#behavior")
async def test_a_provider_that_fails_does_so_on_entry_and_the_source_is_not_read() -> None:
    class Broken(RawAESMasterKey):
        async def generate_data_key(self, request: DataKeyRequest) -> Any:
            raise OSError("no network")

    source = Feed(b"abc")
    key: MasterKey = Broken("tests", "broken", wrapping_key=bytes(32))
    stream = encrypt_stream(source, key)
    with pytest.raises(ProviderError, match=r"Broken\.generate_data_key raised OSError") as caught:
        await stream.__aenter__()
    assert source.reads == 0
    with pytest.raises(ProviderError) as again:
        await stream.read()
    assert is_again(again.value, caught.value)


async def test_too_many_encrypted_data_keys_of_a_provider() -> None:
    client = EncryptionClient(max_encrypted_data_keys=1)
    with pytest.raises(LimitError, match="max_encrypted_data_keys=1"):
        await client.encrypt(b"abc", MultiMasterKeyProvider(KEY, KEY))


@attrs.define
class ChangingCMM:
    """A CMM whose materials are not those that were asked for."""

    changes: dict[str, Any]
    inner: DefaultCMM = attrs.field(factory=lambda: DefaultCMM(KEY))

    async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
        return attrs.evolve(await self.inner.get_encryption_materials(request), **self.changes)

    async def decrypt_materials(self, request: Any) -> Any:
        return attrs.evolve(await self.inner.decrypt_materials(request), **self.changes)


async def test_the_suite_of_a_cmm_is_checked() -> None:
    suite = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA256
    with pytest.raises(CommitmentPolicyError, match="does not allow encrypting"):
        await encrypt(b"abc", ChangingCMM({"algorithm_suite": suite}))
    message, _ = await encrypt(b"abc", KEY)
    with pytest.raises(CommitmentPolicyError, match="does not allow decrypting"):
        await decrypt(message, ChangingCMM({"algorithm_suite": suite}))
    with pytest.raises(ProviderError, match="returned materials for"):
        await decrypt(message, ChangingCMM({"algorithm_suite": UNSIGNED}))


async def test_what_the_format_refuses_of_a_cmm_is_an_error_on_entry() -> None:
    with pytest.raises(ProviderError, match="returned no signer"):
        await encrypt(b"abc", ChangingCMM({"signer": None}))
    with pytest.raises(ProviderError, match="data key"):
        await encrypt(b"abc", ChangingCMM({"data_key": DataKey(b"short")}))


async def test_required_keys_of_a_cmm_are_authenticated_and_not_stored() -> None:
    cmm = ChangingCMM({"required_encryption_context_keys": frozenset({"secret"})})
    message, header = await encrypt(b"abc", cmm, encryption_context={"secret": "x", "open": "y"})
    assert set(header.encryption_context) == {"open", "aws-crypto-public-key"}
    assert (await decrypt(message, KEY, encryption_context={"secret": "x"})).plaintext == b"abc"
    with pytest.raises(ProviderError, match="fails authentication"):
        await decrypt(message, KEY)
    with pytest.raises(ProviderError, match="does not have the encryption context keys 'secret'"):
        await decrypt(message, KEY, encryption_context={"secret": "z"})


# Leaving early


async def leave_after(length: int, suite: AlgorithmSuite) -> int:
    """Read so many bytes of a message and leave; return the length of the message."""
    client = client_for(suite)
    async with client.encrypt_stream(
        plaintext_of(300), KEY, algorithm_suite=suite, frame_length=FRAME
    ) as stream:
        total = stream.ciphertext_length or 0
        await stream.readexactly(length if length >= 0 else total + length)
    return total


@pytest.mark.spec("client-apis/streaming.md#outputs")
@suites
@each_row("length", [0, 1, 400, 500, -200, -130, -1])
async def test_leaving_before_the_last_byte_was_handed_out_raises(suite: AlgorithmSuite, length: int) -> None:
    with pytest.raises(UnverifiedStreamError, match="before its last byte was handed out"):
        await leave_after(length, suite)


@suites
async def test_leaving_after_the_last_byte_raises_nothing(suite: AlgorithmSuite) -> None:
    client = client_for(suite)
    async with client.encrypt_stream(bytes(300), KEY, algorithm_suite=suite, frame_length=FRAME) as stream:
        total = stream.ciphertext_length or 0
        assert len(await stream.readexactly(total)) == total


@suites
async def test_asking_for_more_than_there_is_leaves_the_message_to_be_read(suite: AlgorithmSuite) -> None:
    """The stream keeps the bytes, so that leaving now is leaving too early."""
    client = client_for(suite)
    stream = client.encrypt_stream(bytes(300), KEY, algorithm_suite=suite)
    await stream.__aenter__()
    with pytest.raises(IncompleteReadError):
        await stream.readexactly(10**6)
    with pytest.raises(UnverifiedStreamError):
        await stream.__aexit__(None, None, None)


async def test_abandon_leaves_quietly_and_without_a_final_frame() -> None:
    source = Feed(*(plaintext_of(1000) for _ in range(3)))
    async with encrypt_stream(source, KEY, frame_length=FRAME) as stream:
        await stream.readexactly(1000)
        stream.abandon()
    assert source.reads < 3
    assert_idle()


async def test_the_error_of_a_source_passes_through_unchanged() -> None:
    class Gone(Exception):
        pass

    async def source() -> AsyncGenerator[bytes, None]:
        yield plaintext_of(100)
        raise Gone("client left")

    taken = b""
    stream = encrypt_stream(source(), KEY, frame_length=FRAME)

    async def take() -> None:
        nonlocal taken
        async with stream:
            async for chunk in stream:
                taken += chunk

    with pytest.raises(Gone, match="client left"):
        await take()
    with pytest.raises(TruncatedMessageError):
        await decrypt(taken, KEY)
