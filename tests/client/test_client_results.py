"""The client: encryption contexts, results, and one-shot calls compared with streams."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import aioencrypt
from aioencrypt import (
    AlgorithmSuite,
    CachingCMM,
    DecryptResult,
    DefaultCMM,
    EncryptionClient,
    EncryptResult,
    MessageError,
    MessageHeader,
    Offload,
    PolicyError,
    ProviderError,
    SignatureError,
    TagError,
    decrypt,
    decrypt_stream,
    encrypt,
    encrypt_stream,
)
from aioencrypt.format.batches import batch_frames
from aioencrypt.materials import DataKey, DataKeyRequest, EncryptedDataKey
from tests.support.messages import build_message, cut
from tests.support.rows import each_row
from tests.support.streaming import (
    KEY,
    SIGNED,
    UNSIGNED,
    Feed,
    assert_idle,
    client_for,
    flipped,
    in_chunks,
    on_asyncio,
    plaintext_of,
    sealed,
)
from tests.support.watching import CountingKey

pytestmark = pytest.mark.anyio

suites = pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])


# Encryption context


CONTEXTS: list[tuple[dict[Any, Any], type[Exception], str]] = [
    (
        {"aws-crypto-public-key": "x"},
        ValueError,
        "'aws-crypto-public-key' starts with the reserved 'aws-crypt",
    ),
    ({"a": "b", "aws-crypto-": "x"}, ValueError, "'aws-crypto-' starts with the reserved 'aws-crypto-'"),
    ({1: "b"}, TypeError, "^keys and values of an encryption context must be str, not int$"),
    ({b"a": "b"}, TypeError, "must be str, not bytes$"),
    ({"a": None}, TypeError, "must be str, not NoneType at 'a'$"),
    ({"a": "\ud800"}, ValueError, "at 'a' is not valid Unicode text"),
    ({"k": "x" * 65_536}, ValueError, "at 'k' is 65536 bytes long, above the 65535"),
    ({"ä" * 32_768: ""}, ValueError, "is 65536 bytes long, above the 65535"),
    ({"k": "x" * 65_529}, ValueError, "the encryption context is 65536 bytes long, above the 65535"),
]


@pytest.mark.spec("client-apis/encrypt.md#encryption-context")
@pytest.mark.parametrize(("context", "error", "text"), CONTEXTS, ids=range(len(CONTEXTS)))
async def test_contexts_that_are_refused_at_once(
    context: dict[Any, Any], error: type[Exception], text: str
) -> None:
    """encrypt.md#encryption-context, structures.md#encryption-context."""
    key = CountingKey()
    for refused in (
        lambda: encrypt_stream(b"abc", key, encryption_context=context),
        lambda: aioencrypt.open("missing", "wb", provider=key, encryption_context=context),
    ):
        with pytest.raises(error, match=text):
            refused()
    with pytest.raises(error, match=text):
        await encrypt(b"abc", key, encryption_context=context)
    if "reserved" not in text:
        with pytest.raises(error, match=text):
            decrypt_stream(b"abc", key, encryption_context=context)
    assert key.calls == []


@pytest.mark.parametrize(
    "context",
    [{}, {"": ""}, {"aws-crypto": "x", "AWS-CRYPTO-a": "x", "x-aws-crypto-": "x"}, {"ä": "ö\0", "𝄞": "🎼"}],
    ids=["none", "empty-text", "nearly-reserved", "unicode"],
)
@suites
async def test_contexts_come_back(suite: AlgorithmSuite, context: dict[str, str]) -> None:
    message, written = await encrypt(b"abc", KEY, encryption_context=context, algorithm_suite=suite)
    header = (await decrypt(message, KEY, encryption_context=context)).header
    assert header == written
    added = {"aws-crypto-public-key"} if suite.signed else set()
    assert dict(header.encryption_context) | context == dict(header.encryption_context)
    assert header.encryption_context.keys() == context.keys() | added


async def test_the_largest_context() -> None:
    """The verification key of a signed suite stands in it, too, and comes later."""
    context = {"k": "x" * 65_528}
    message, _ = await encrypt(b"abc", KEY, encryption_context=context, algorithm_suite=UNSIGNED)
    assert (await decrypt(message, KEY, encryption_context=context)).header.encryption_context == context
    counting = CountingKey()
    for key in (KEY, counting, DefaultCMM(KEY), CachingCMM(KEY, max_age=60)):
        with pytest.raises(ValueError, match=r"with the public key .* above the 65535 of the message format"):
            await encrypt(b"abc", key, encryption_context=context, algorithm_suite=SIGNED)
    assert counting.calls == []
    fits = {"k": "x" * (65_528 - 93)}
    assert (
        await encrypt(b"abc", KEY, encryption_context=fits, algorithm_suite=SIGNED)
    ).header.encryption_context


async def test_a_context_is_that_of_the_call() -> None:
    """A change of the caller's mapping after the call is none of the stream's."""
    context = {"tenant": "42"}
    stream = encrypt_stream(b"abc", KEY, encryption_context=context)
    context["tenant"] = "other"
    async with stream:
        header: Any = stream.header
        assert header.encryption_context["tenant"] == "42"
        with pytest.raises(TypeError):
            header.encryption_context["tenant"] = "other"
        message = await stream.read()
    context["tenant"] = "42"
    opened = decrypt_stream(message, KEY, encryption_context=context)
    context["tenant"] = "other"
    async with opened:
        assert await opened.read() == b"abc"


# Results


@pytest.mark.spec("client-apis/encrypt.md#output", "client-apis/decrypt.md#output")
async def test_results_are_tuples_with_names() -> None:
    encrypted = await encrypt(b"my plaintext", KEY, encryption_context={"tenant": "my-value"})
    ciphertext, header = encrypted
    assert type(encrypted) is EncryptResult
    assert isinstance(encrypted, tuple)
    assert (encrypted.ciphertext, encrypted.header) == (ciphertext, header) == encrypted
    assert type(ciphertext) is bytes
    assert type(header) is MessageHeader

    decrypted = await decrypt(ciphertext, KEY)
    plaintext, read = decrypted
    assert type(decrypted) is DecryptResult
    assert (decrypted.plaintext, decrypted.header) == (plaintext, read) == (b"my plaintext", header)
    assert type(plaintext) is bytes
    assert len(decrypted) == 2


async def test_results_do_not_show_what_they_hold() -> None:
    encrypted = await encrypt(b"my plaintext", KEY, encryption_context={"tenant": "my-value"})
    decrypted = await decrypt(encrypted.ciphertext, KEY)
    for shown in (repr(encrypted), repr(decrypted), str(encrypted), f"{decrypted}"):
        assert "my" not in shown
        assert shown.endswith(f"{encrypted.header!r})")
    assert repr(encrypted).startswith(f"EncryptResult(<{len(encrypted.ciphertext)} bytes>, MessageHeader(")
    assert repr(decrypted).startswith("DecryptResult(<12 bytes>, MessageHeader(")
    for result, name in ((encrypted, "ciphertext"), (decrypted, "header")):
        with pytest.raises(AttributeError):
            setattr(result, name, b"")


# One-shot calls and streams


SOURCES: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "reader": lambda data: Feed(*cut(data, 1 + len(data) // 3)),
    "generator": lambda data: in_chunks(data, 1 + len(data) // 5),
    "file": io.BytesIO,
}


def assert_written(message: bytes, header: MessageHeader, plaintext: bytes) -> None:
    """Assert that a message of `CountingKey` is what the specification makes of these values."""
    expected = build_message(
        header.algorithm_suite,
        plaintext,
        message_id=header.message_id,
        encryption_context=header.encryption_context,
        frame_length=header.frame_length,
    )
    signed_part = expected.signed_part
    assert message[: len(signed_part)] == signed_part
    assert len(message) == len(expected.data)


@pytest.mark.parametrize("name", SOURCES)
@suites
async def test_one_shot_and_stream_write_the_same(suite: AlgorithmSuite, name: str) -> None:
    client, key = client_for(suite), CountingKey()
    for length in (0, 1, 10, 1000, 1005):
        plaintext = plaintext_of(length)
        options: dict[str, Any] = {
            "algorithm_suite": suite,
            "frame_length": 10,
            "encryption_context": {"a": "b"},
        }
        message, header = await client.encrypt(SOURCES[name](plaintext), key, **options)
        assert_written(message, header, plaintext)
        async with client.encrypt_stream(SOURCES[name](plaintext), key, **options) as stream:
            assert_written(await stream.read(), stream.header, plaintext)
        result = await client.decrypt(SOURCES[name](message), key)
        assert result == (plaintext, header)
        async with client.decrypt_stream(SOURCES[name](message), key) as opened:
            assert await opened.read() == plaintext
            assert opened.header == header
    assert_idle()


def batch_lengths(frame_length: int) -> list[int]:
    """Return plaintext lengths around the edges of one and two batches."""
    batch = batch_frames(frame_length, 10**9) * frame_length
    return [edge + d for edge in (batch, batch * 3 // 2, 2 * batch) for d in (-1, 0, 1, frame_length)]


@pytest.mark.parametrize("offload", Offload, ids=lambda offload: offload.name)
@each_row("frame_length", [1, 100, 4096, 65_536])
@suites
@on_asyncio
async def test_one_shot_calls_at_the_edges_of_batches(
    suite: AlgorithmSuite, frame_length: int, offload: Offload
) -> None:
    client, key = EncryptionClient(offload=offload), CountingKey()
    for length in batch_lengths(frame_length):
        plaintext = plaintext_of(length)
        message, header = await client.encrypt(
            plaintext, key, algorithm_suite=suite, frame_length=frame_length
        )
        assert_written(message, header, plaintext)
        assert await client.decrypt(message, key) == (plaintext, header)
    assert_idle()


@pytest.mark.spec(
    "client-apis/encrypt.md#algorithm-suite",
    "client-apis/encrypt.md#algorithm-suite-1",
    "client-apis/decrypt.md#algorithm-suite",
)
@pytest.mark.parametrize("suite", AlgorithmSuite, ids=lambda suite: hex(suite.value))
@on_asyncio
async def test_every_suite(suite: AlgorithmSuite) -> None:
    client, key = client_for(suite), CountingKey()
    for length in (0, 1, 99, 100, 101, 300, 10_000):
        plaintext = plaintext_of(length)
        message, header = await client.encrypt(plaintext, key, algorithm_suite=suite, frame_length=100)
        assert_written(message, header, plaintext)
        for feed in (message, Feed(*cut(message, 333))):
            assert await client_for(AlgorithmSuite(0x0178)).decrypt(feed, key) == (plaintext, header)


@pytest.mark.spec("client-apis/decrypt.md#behavior")
@suites
async def test_a_bad_end_gives_nothing_of_a_one_shot_call(suite: AlgorithmSuite) -> None:
    """decrypt.md#behavior: nothing is released before all steps are done."""
    message = flipped(await sealed(plaintext_of(3_000_000), suite), -1)
    for source in (message, bytearray(message), Feed(message)):
        with pytest.raises(SignatureError if suite.signed else TagError):
            await decrypt(source, KEY)
    assert_idle()


# Buffers that change


class WaitingKey(CountingKey):
    """A key that does not answer before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.answer = anyio.Event(), anyio.Event()

    async def _wait(self) -> None:
        self.asked.set()
        await self.answer.wait()

    async def generate_data_key(self, request: DataKeyRequest) -> tuple[DataKey, EncryptedDataKey]:
        await self._wait()
        return await super().generate_data_key(request)

    async def unwrap_data_key(self, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest) -> DataKey:
        await self._wait()
        return await super().unwrap_data_key(encrypted_data_key, request)


async def test_a_buffer_that_changes_during_encrypt_makes_a_message_all_the_same() -> None:
    """The signature covers what was sealed, whichever bytes that were."""
    key, source = WaitingKey(), bytearray(b"1" * 2_500_000)
    results = []

    async def run() -> None:
        results.append(await encrypt(source, key))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await key.asked.wait()
        source[:] = b"2" * len(source)
        key.answer.set()
    source[:] = b"3" * len(source)
    (result,) = results
    plaintext = (await decrypt(result.ciphertext, key)).plaintext
    assert len(plaintext) == 2_500_000
    assert set(plaintext) <= {*b"12"}


async def test_a_buffer_that_changes_after_the_call_changes_nothing() -> None:
    source = bytearray(plaintext_of(100_000))
    message, _ = await encrypt(source, KEY)
    source[:] = bytes(len(source))
    received = bytearray(message)
    result = await decrypt(received, KEY)
    received[:] = bytes(len(received))
    assert result.plaintext == plaintext_of(100_000)


async def test_a_buffer_can_be_resized_after_the_call_and_after_a_failed_one() -> None:
    class Broken(CountingKey):
        async def generate_data_key(self, request: DataKeyRequest) -> Any:
            raise OSError("no network")

    plaintext = plaintext_of(3_000_000)
    message = await sealed(plaintext)
    calls: list[tuple[Callable[[bytearray], Any], bytes, type[Exception] | None]] = [
        (lambda source: encrypt(source, KEY), plaintext, None),
        (lambda source: encrypt(source, Broken()), plaintext, ProviderError),
        (lambda source: encrypt(source, KEY, plaintext_length=5), plaintext, PolicyError),
        (lambda source: decrypt(source, KEY), message, None),
        (lambda source: decrypt(source, KEY), flipped(message, 2_000_000), MessageError),
        (lambda source: decrypt(source, KEY), flipped(message, 0), MessageError),
        (lambda source: decrypt(source, CountingKey()), message, ProviderError),
    ]
    for call, data, error in calls:
        source = bytearray(data)
        if error is None:
            await call(source)
        else:
            with pytest.raises(error):
                await call(source)
        source.extend(b"more")
        source.clear()
