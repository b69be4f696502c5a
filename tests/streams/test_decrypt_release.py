"""Decrypting: what is released when, and how a stream ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import anyio
import attrs
import pytest

from aioencrypt import (
    AlgorithmSuite,
    MalformedMessageError,
    MessageError,
    SignatureError,
    StreamError,
    TagError,
    TrailingDataError,
    TruncatedMessageError,
    UnverifiedStreamError,
)
from tests.support.messages import Message, build_message, cut, example_signing_key, public_key_pair
from tests.support.streaming import (
    Feed,
    Stalling,
    assert_idle,
    client_for,
    flipped,
    is_again,
    on_asyncio,
    plaintext_of,
)
from tests.support.watching import CountingKey

pytestmark = pytest.mark.anyio

CLIENT = client_for(AlgorithmSuite(0x0178))  # reads every suite


def message_of(suite_id: int, length: int = 35, **options: Any) -> Message:
    suite = AlgorithmSuite(suite_id)
    pairs = public_key_pair(example_signing_key(suite)) if suite.signed else {}
    options = {"frame_length": 10, **options}
    return build_message(suite, plaintext_of(length), encryption_context=pairs, **options)


KINDS = {
    "unsigned": message_of(0x0478),
    "signed": message_of(0x0578),
    "signed-1": message_of(0x0214),
    "full-final": message_of(0x0578, 40, full_final_frame=True),
    "empty-final": message_of(0x0578, 40),
    "random-ivs": message_of(0x0378, random_ivs=True),
    "empty": message_of(0x0578, 0),
    "non-framed": message_of(0x0178, frame_length=None),
    "signed-non-framed": message_of(0x0378, frame_length=None),
}
kinds = pytest.mark.parametrize("message", KINDS.values(), ids=KINDS)


def positions(message: Message) -> list[int]:
    """Return the edges of every field behind the header, and their neighbours."""
    places = [place for place in message.fields.values() if place.start >= message.header_length]
    near = {edge + d for place in places for edge in (place.start, place.stop) for d in (-1, 0, 1)}
    return sorted(p for p in near if message.header_length <= p <= len(message.data))


def released_at(message: Message, position: int) -> bytes:
    """Return the plaintext that may be released when this many bytes of the message are there.

    decrypt.md#decrypt-the-message-body: a regular frame after its tag; a final frame and a non-framed
    body after their tag or, in a signed message, after the signature.
    """
    end, signed = 0, "footer.length" in message.fields
    for name, place in message.fields.items():
        if name.endswith(".content"):
            unit = name.removesuffix("content")
            last = unit == "body." or unit + "marker" in message.fields
            complete = len(message.data) if last and signed else message.fields[unit + "tag"].stop
            end += len(place) if position >= complete else 0
    return message.plaintext[:end]


@attrs.define
class Taken:
    """What a reader got of a stream, and the error that ended it."""

    chunks: list[bytes] = attrs.field(factory=list)
    error: Exception | None = None
    verified: bool = False

    @property
    def plaintext(self) -> bytes:
        return b"".join(self.chunks)

    async def take(self, source: Any, **options: Any) -> Taken:
        stream = CLIENT.decrypt_stream(source, CountingKey(), **options)
        try:
            async with stream:
                async for chunk in stream:
                    self.chunks.append(chunk)
        except MessageError as error:
            self.error = error
        self.verified = stream.verified
        return self


async def taken_before_a_stall(*pieces: bytes) -> bytes:
    """Return what is released of these bytes, without knowing whether more will come."""
    source, taken = Stalling(*pieces), Taken()
    async with anyio.create_task_group() as group:
        group.start_soon(taken.take, source)
        await source.stalled.wait()
        group.cancel_scope.cancel()
    return taken.plaintext


# When plaintext is released


@pytest.mark.spec("client-apis/streaming.md#behavior", "client-apis/streaming.md#release")
@kinds
@on_asyncio
async def test_plaintext_is_released_as_soon_as_it_may_be_and_not_before(message: Message) -> None:
    for position in positions(message):
        released = await taken_before_a_stall(message.data[:position])
        assert released == released_at(message, position), f"at {position}"
    assert_idle()


@pytest.mark.spec("client-apis/decrypt.md#verify-the-signature")
async def test_a_signed_message_keeps_its_last_frame_until_the_last_byte() -> None:
    """decrypt.md#decrypt-the-message-body."""
    message = KINDS["signed"]
    for pieces in ([message.data[:-1]], list(cut(message.data[:-1], 1))):
        assert await taken_before_a_stall(*pieces) == message.plaintext[:30]
    assert await taken_before_a_stall(message.data) == message.plaintext
    assert await taken_before_a_stall(KINDS["signed-non-framed"].data[:-1]) == b""


def tampering(message: Message) -> list[tuple[str, type[MessageError]]]:
    """Return the fields behind the header, with the error that a changed first byte of each is."""
    errors: dict[str, type[MessageError]] = {
        "marker": MalformedMessageError,
        "sequence": MalformedMessageError,
        "length": MalformedMessageError,
        "iv": TagError,
        "content": TagError,
        "tag": TagError,
        "signature": SignatureError,
    }
    return [
        (name, errors[name.rpartition(".")[2]])
        for name, place in message.fields.items()
        if place.start >= message.header_length and len(place)
    ]


@kinds
@on_asyncio
async def test_nothing_of_a_changed_frame_or_after_it_is_released(message: Message) -> None:
    """decrypt.md#authenticated-data: no unauthenticated plaintext is released."""
    for name, error_type in tampering(message):
        place = message.fields[name]
        data = flipped(message.data, place.start)
        before = released_at(message, place.start)
        by_frames = await Taken().take(Feed(*cut(data, 7)))
        whole = await Taken().take(data)
        for taken in (by_frames, whole):
            assert type(taken.error) is error_type, name
            assert not taken.verified
        assert by_frames.plaintext == before, name
        assert before.startswith(whole.plaintext)
        with pytest.raises(error_type):
            await CLIENT.decrypt(data, CountingKey())


async def test_a_wrong_signature_keeps_the_last_frame() -> None:
    """decrypt.md#verify-the-signature."""
    for name, released in (("signed", 30), ("full-final", 30), ("signed-non-framed", 0)):
        message = KINDS[name]
        taken = await Taken().take(flipped(message.data, -1))
        assert type(taken.error) is SignatureError
        assert taken.plaintext == message.plaintext[:released]


# The end of a message


@pytest.mark.spec("client-apis/streaming.md#inputs")
@kinds
@on_asyncio
async def test_a_message_that_is_cut_off_is_truncated_at_every_position(message: Message) -> None:
    """decrypt.md#behavior: input that ends before all steps are done is a failure."""
    for position in range(len(message.data)):
        with pytest.raises(TruncatedMessageError):
            await CLIENT.decrypt(message.data[:position], CountingKey())
    for position in positions(message)[:-1]:
        if position == len(message.data):
            continue
        taken = await Taken().take(Feed(message.data[:position]))
        assert type(taken.error) is TruncatedMessageError
        assert taken.plaintext == released_at(message, position)
        assert not taken.verified


@kinds
@pytest.mark.parametrize("again", [False, True], ids=["a-byte", "the-message-again"])
@on_asyncio
async def test_bytes_after_the_message_are_an_error(message: Message, again: bool) -> None:
    """decrypt.md#behavior: consumable bytes after all steps are a failure."""
    data = message.data + (message.data if again else b"\0")
    for source in (data, bytearray(data)):
        with pytest.raises(TrailingDataError, match="bytes follow the end of the message"):
            await CLIENT.decrypt(source, CountingKey())
    apart = Feed(message.data, data[len(message.data) :], b"never read")
    for feed in (data, Feed(*cut(data, 1)), apart):
        taken = await Taken().take(feed)
        assert type(taken.error) is TrailingDataError
        assert message.plaintext.startswith(taken.plaintext)
        assert not taken.verified
    assert apart.reads == 2


async def test_an_empty_input_is_truncated() -> None:
    for source in (b"", bytearray(), Feed()):
        with pytest.raises(TruncatedMessageError, match="the input ended in the header"):
            await CLIENT.decrypt(source, CountingKey())


@pytest.mark.spec("client-apis/decrypt.md#security-considerations", "client-apis/streaming.md#outputs")
async def test_verified_is_true_from_the_end_on_and_stays() -> None:
    message = KINDS["signed"]
    source = Feed(message.data)
    stream = CLIENT.decrypt_stream(source, CountingKey())
    assert not stream.verified
    async with stream:
        assert not stream.verified
        assert await stream.readexactly(35) == message.plaintext
        assert not stream.verified, "whether the input ends here is not known yet"
        assert source.reads == 1
        assert await stream.read(1) == b""
        assert stream.verified
    assert stream.verified


# Leaving


async def leave(message: Message, count: int, *, abandon: bool = False, error: bool = False) -> None:
    async with CLIENT.decrypt_stream(Feed(*cut(message.data, 20)), CountingKey()) as stream:
        await stream.readexactly(count)
        if abandon:
            stream.abandon()
        if error:
            raise ZeroDivisionError


@pytest.mark.spec("client-apis/decrypt.md#security-considerations")
@pytest.mark.parametrize("count", [0, 1, 30, 34, 35])
@pytest.mark.parametrize("name", ["signed", "unsigned"])
async def test_leaving_before_the_end_is_verified_raises(name: str, count: int) -> None:
    """streaming.md#outputs: no success before the end of the output is indicated."""
    with pytest.raises(UnverifiedStreamError, match="may be cut short or forged; read to the end, or call"):
        await leave(KINDS[name], count)
    with pytest.raises(ZeroDivisionError) as caught:
        await leave(KINDS[name], count, error=True)
    assert caught.value.__context__ is None
    await leave(KINDS[name], count, abandon=True)
    with pytest.raises(ZeroDivisionError):
        await leave(KINDS[name], count, abandon=True, error=True)
    assert_idle()


async def test_leaving_after_an_error_that_was_caught_raises_with_that_cause() -> None:
    data = flipped(KINDS["signed"].data, -1)
    stream = CLIENT.decrypt_stream(data, CountingKey())
    await stream.__aenter__()
    with pytest.raises(SignatureError) as caught:
        await stream.read()
    with pytest.raises(UnverifiedStreamError) as left:
        await stream.__aexit__(None, None, None)
    assert left.value.__cause__ is caught.value


# Sources that fail


class Gone(Exception):
    pass


class Stop(BaseException):
    pass


class Failing:
    """A reader that gives pieces and then raises, once; after that it says that it has ended."""

    def __init__(self, pieces: Sequence[bytes], error: BaseException) -> None:
        self.steps: list[bytes | BaseException] = [*pieces, error]

    async def read(self, n: int = -1) -> bytes:
        step = self.steps.pop(0) if self.steps else b""
        if isinstance(step, BaseException):
            raise step
        return step


ERRORS = [Gone("client left"), OSError(5, "gone"), EOFError(), TruncatedMessageError("another's"), Stop()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("pieces", [0, 1, 2, 3], ids=["at-once", "in-header", "in-body", "at-end"])
@pytest.mark.parametrize("name", ["signed", "unsigned"])
@on_asyncio
async def test_an_error_of_the_source_passes_through_and_stays(
    name: str, pieces: int, error: BaseException
) -> None:
    message = KINDS[name]
    head, middle = message.header_length - 5, message.fields["frame.3.content"].start
    given = [message.data[:head], message.data[head:middle], message.data[middle:]][:pieces]
    with pytest.raises(type(error)) as caught:
        await CLIENT.decrypt(Failing(given, error), CountingKey())
    assert caught.value is error
    stream = CLIENT.decrypt_stream(Failing(given, error), CountingKey())

    async def read_all() -> bytes:
        if pieces in (0, 1):
            await stream.__aenter__()
        else:
            async with stream:
                await stream.read()
        return b""

    with pytest.raises(type(error)) as caught:
        await read_all()
    assert caught.value is error
    with pytest.raises(StreamError if not isinstance(error, MessageError) else MessageError) as again:
        await stream.read()
    if isinstance(error, MessageError):
        assert is_again(again.value, error)
    else:
        assert f"the stream failed before, with {type(error).__name__}" in str(again.value)
        assert again.value.__cause__ is (error if isinstance(error, Exception) else None)
    assert not stream.verified


@pytest.mark.parametrize("error", [StopAsyncIteration(), anyio.EndOfStream()], ids=["iteration", "anyio"])
async def test_an_error_that_means_the_end_elsewhere_is_an_error_here(error: Exception) -> None:
    message = KINDS["unsigned"]
    for as_anyio in (False, True):
        source = Failing([message.data[: message.fields["frame.3.content"].start]], error)
        async with CLIENT.decrypt_stream(source, CountingKey()) as stream:
            chunks: AsyncIterator[bytes] = stream.as_anyio() if as_anyio else stream
            assert await anext(chunks) == message.plaintext[:20]
            with pytest.raises(RuntimeError, match=f"the source raised {type(error).__name__}") as caught:
                await anext(chunks)
            assert caught.value.__cause__ is error
            stream.abandon()


async def test_a_cancelled_read_fails_the_stream_for_good() -> None:
    """The generator that was cancelled says that it has ended: it must not be asked again."""
    message = KINDS["unsigned"]
    waiting = anyio.Event()

    async def source() -> AsyncGenerator[bytes, None]:
        yield message.data[: message.fields["frame.3.content"].start]
        waiting.set()
        await anyio.sleep_forever()

    async with CLIENT.decrypt_stream(source(), CountingKey()) as stream:
        assert await stream.readexactly(20) == message.plaintext[:20]
        async with anyio.create_task_group() as group:
            group.start_soon(stream.read)
            await waiting.wait()
            group.cancel_scope.cancel()
        for _ in range(2):
            with pytest.raises(StreamError, match="the stream failed before, with Cancelled"):
                await stream.read()
        stream.abandon()
    assert not stream.verified
    assert_idle()
