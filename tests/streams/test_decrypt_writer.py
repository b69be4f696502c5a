"""Push decryption: the message comes piece by piece, and a sink receives the plaintext."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from aioencrypt import (
    AlgorithmSuite,
    CommitmentError,
    DecryptWriter,
    EncryptionClient,
    LimitError,
    Limits,
    MalformedMessageError,
    RawAESMasterKey,
    Release,
    SignatureError,
    SignaturePolicy,
    SignaturePolicyError,
    StreamBusyError,
    StreamClosedError,
    StreamError,
    StreamNotEnteredError,
    TagError,
    TrailingDataError,
    TruncatedMessageError,
    UnverifiedStreamError,
    decrypt_stream,
    encrypt,
)
from tests.support.streaming import KEY, SIGNED, UNSIGNED, assert_idle, flipped, plaintext_of, sealed

pytestmark = pytest.mark.anyio

PLAINTEXT = plaintext_of(20_500)
OTHER_KEY = RawAESMasterKey("tests", "other", wrapping_key=bytes(32))
suites = pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
releases = pytest.mark.parametrize("release", Release, ids=lambda release: release.name)


class Sink:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []

    async def write(self, data: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        assert type(data) is bytes
        assert data
        self.chunks.append(data)

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)


def pieces(message: bytes, length: int) -> Iterator[bytes]:
    for start in range(0, len(message), length):
        yield message[start : start + length]


async def push(sink: Any, message: bytes, length: int = 1 << 20, **options: Any) -> None:
    async with DecryptWriter(sink, KEY, **options) as writer:
        for piece in pieces(message, length):
            assert await writer.write(piece) == len(piece)


@suites
@releases
@pytest.mark.parametrize("length", [1, 999, 5000, 1 << 20])
@pytest.mark.parametrize("frame_length", [1000, 4096])
async def test_pieces_of_any_length(
    suite: AlgorithmSuite, release: Release, length: int, frame_length: int
) -> None:
    message = await sealed(PLAINTEXT, suite, frame_length=frame_length)
    sink = Sink()
    await push(sink, message, length, release=release)
    assert sink.data == PLAINTEXT
    assert_idle()


@pytest.mark.parametrize("plaintext", [b"", b"a", plaintext_of(3 * 4096)])
async def test_any_plaintext(plaintext: bytes) -> None:
    sink = Sink()
    await push(sink, await sealed(plaintext))
    assert sink.data == plaintext


async def test_plaintext_is_handed_over_as_soon_as_its_frame_is_there() -> None:
    message = await sealed(PLAINTEXT, UNSIGNED, frame_length=1000)
    sink = Sink()
    async with DecryptWriter(sink.write, KEY) as writer:
        await writer.write(message[: -20_500 // 2])
        assert PLAINTEXT.startswith(sink.data)
        assert len(sink.data) >= 9000
        assert not writer.verified
        await writer.write(b"")
        await writer.write(bytearray(message[-20_500 // 2 :]))
        assert sink.data == PLAINTEXT
        assert not writer.verified
    assert writer.verified


async def test_the_header_is_known_when_it_has_arrived() -> None:
    message, expected = await encrypt(PLAINTEXT, KEY, encryption_context={"tenant": "42"})
    writer = DecryptWriter(Sink(), KEY, encryption_context={"tenant": "42"})
    with pytest.raises(StreamNotEnteredError):
        _ = writer.header
    with pytest.raises(StreamNotEnteredError):
        await writer.write(message)
    async with writer:
        await writer.write(message[:50])
        for name in ("header", "provenance"):
            with pytest.raises(StreamError, match="has not arrived"):
                getattr(writer, name)
        await writer.write(message[50:])
        assert writer.header == expected
        assert writer.provenance.keys
    assert writer.header == expected
    with pytest.raises(StreamClosedError):
        await writer.write(b"")
    with pytest.raises(StreamError, match="once"):
        await writer.__aenter__()


@suites
@releases
@pytest.mark.parametrize("kept", [0, 10, 700, 10_000, -50, -1])
async def test_leaving_before_the_end_is_an_error(suite: AlgorithmSuite, release: Release, kept: int) -> None:
    message = await sealed(PLAINTEXT, suite, frame_length=1000)
    sink = Sink()
    with pytest.raises(TruncatedMessageError):
        await push(sink, message[:kept], release=release)
    assert PLAINTEXT.startswith(sink.data)
    assert release is Release.STREAM or not sink.chunks
    assert_idle()


@pytest.mark.parametrize("at_once", [True, False])
async def test_bytes_behind_the_message_are_an_error(at_once: bool) -> None:
    message = await sealed(PLAINTEXT)
    sink = Sink()
    with pytest.raises(TrailingDataError):
        await push(sink, message + b"\0", len(message) + at_once, release=Release.VERIFIED)
    assert sink.chunks == []


async def read(message: bytes, **options: Any) -> None:
    async with decrypt_stream(message, KEY, **options) as stream:
        await stream.read()


async def push_all(writer: DecryptWriter, message: bytes) -> None:
    for piece in pieces(message, 900):
        await writer.write(piece)


SPOILED: dict[str, tuple[Callable[[bytes], bytes], dict[str, Any], type[Exception]]] = {
    "no message": (lambda message: b"\x07" + message, {}, MalformedMessageError),
    "header": (lambda message: flipped(message, 30), {}, CommitmentError),
    "frame": (lambda message: flipped(message, -5000), {}, TagError),
    "signature": (lambda message: flipped(message, -1), {}, SignatureError),
    "policy": (lambda message: message, {"signature_policy": SignaturePolicy.FORBID}, SignaturePolicyError),
    "limits": (lambda message: message, {"limits": Limits(max_plaintext_length=5000)}, LimitError),
}


@releases
@pytest.mark.parametrize("name", SPOILED)
async def test_errors_are_those_of_a_stream_and_final(name: str, release: Release) -> None:
    spoil, options, error = SPOILED[name]
    message = spoil(await sealed(PLAINTEXT, frame_length=1000))
    sink = Sink()
    with pytest.raises(error) as expected:
        await read(message, release=release, **options)
    writer = DecryptWriter(sink, KEY, release=release, **options)
    await writer.__aenter__()
    with pytest.raises(error) as caught:
        await push_all(writer, message)
    with pytest.raises(error) as again:
        await writer.write(b"")
    with pytest.raises(error):
        await writer.__aexit__(None, None, None)
    assert str(caught.value) == str(again.value) == str(expected.value)
    assert PLAINTEXT.startswith(sink.data)
    assert release is Release.STREAM or not sink.chunks
    assert_idle()


async def test_options_of_a_client() -> None:
    message = await sealed(PLAINTEXT)
    client = EncryptionClient(limits=Limits(max_plaintext_length=5000))
    for writer in (
        client.decrypt_writer(Sink(), KEY),
        DecryptWriter(Sink(), KEY, encryption_client=client),
    ):
        with pytest.raises(LimitError):
            async with writer:
                await writer.write(message)


async def test_leaving_with_an_exception_drops_the_rest() -> None:
    message = await sealed(PLAINTEXT)
    sink = Sink()
    error = ZeroDivisionError()
    async with DecryptWriter(sink, KEY, release=Release.VERIFIED) as writer:
        await writer.write(message)
        await writer.__aexit__(type(error), error, None)
    assert sink.chunks == []
    assert not writer.verified
    async with DecryptWriter(sink, KEY) as writer:
        await writer.write(message[:2000])
        await writer.abort()
    assert not writer.verified
    assert_idle()


async def test_write_waits_for_the_sink() -> None:
    message = await sealed(PLAINTEXT, UNSIGNED)
    entered, release = anyio.Event(), anyio.Event()

    async def slow(data: bytes) -> None:
        entered.set()
        await release.wait()

    async def write() -> None:
        await writer.write(message)
        written.append(True)

    written: list[bool] = []
    async with DecryptWriter(slow, KEY) as writer, anyio.create_task_group() as group:
        group.start_soon(write)
        await entered.wait()
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        assert not written
        for call in (writer.write(b""), writer.aclose(), writer.abort()):
            with pytest.raises(StreamBusyError):
                await call
        release.set()
    assert written


async def test_leaving_while_a_task_writes_drops_the_rest() -> None:
    message = await sealed(PLAINTEXT, UNSIGNED)
    entered, release = anyio.Event(), anyio.Event()

    async def slow(data: bytes) -> None:
        entered.set()
        await release.wait()

    writer = await DecryptWriter(slow, KEY).__aenter__()
    async with anyio.create_task_group() as group:
        group.start_soon(writer.write, message)
        await entered.wait()
        with pytest.raises(UnverifiedStreamError, match="another task"):
            await writer.__aexit__(None, None, None)
        release.set()
    assert not writer.verified
    assert_idle()


@releases
async def test_a_sink_that_raises(release: Release) -> None:
    message = await sealed(PLAINTEXT, UNSIGNED)
    calls = []

    async def full(data: bytes) -> None:
        calls.append(data)
        raise OSError(28, "full")

    writer = DecryptWriter(full, KEY, release=release)
    with pytest.raises(OSError, match="full"):
        async with writer:
            await writer.write(message)
    with pytest.raises(StreamError, match="failed before, with OSError"):
        await writer.write(b"")
    assert len(calls) == 1
    assert_idle()


async def test_a_cancelled_write_is_final() -> None:
    message = await sealed(PLAINTEXT, UNSIGNED)

    async def endless(data: bytes) -> None:
        await anyio.sleep_forever()

    writer = await DecryptWriter(endless, KEY).__aenter__()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await writer.write(message)
    with pytest.raises(StreamError, match="failed before"):
        await writer.__aexit__(None, None, None)
    assert_idle()


class Short(Sink):
    async def write(self, data: bytes) -> int:  # type: ignore[override]
        return len(data) - 1


@pytest.mark.parametrize(
    ("sink", "error", "text"),
    [
        (lambda data: None, TypeError, "sink returned NoneType, which cannot be awaited"),
        (Short(), StreamError, "sink took 4095 of 4096 bytes"),
    ],
)
async def test_sinks_that_lose_bytes(sink: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        await push(sink, await sealed(PLAINTEXT[:4096], UNSIGNED))


@pytest.mark.parametrize("data", ["text", 5, None, [1]])
async def test_writes_of_what_is_no_bytes_change_nothing(data: Any) -> None:
    sink = Sink()
    async with DecryptWriter(sink, KEY) as writer:
        with pytest.raises(TypeError, match="bytes-like"):
            await writer.write(data)
        await writer.write(await sealed(PLAINTEXT))
    assert sink.data == PLAINTEXT


async def test_a_function_may_return_what_it_likes() -> None:
    got = bytearray()

    async def count(data: bytes) -> int:
        got.extend(data)
        return 0

    await push(count, await sealed(PLAINTEXT))
    assert got == PLAINTEXT


async def test_writers_are_sinks_of_writers() -> None:
    sink = Sink()
    inner = await sealed(PLAINTEXT)
    async with DecryptWriter(sink, KEY) as writer:
        await push(writer, await sealed(inner, frame_length=100), 300)
    assert sink.data == PLAINTEXT
