"""Reading a message at random: damaged messages, sources that fail, lie, or are changed, and cancellation."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from aioencrypt import (
    AlgorithmSuite,
    LimitError,
    MalformedMessageError,
    MessageError,
    StreamError,
    TagError,
    TruncatedMessageError,
    open_seekable,
)
from tests.support.messages import (
    Message,
    build_message,
    example_data_key,
    example_signing_key,
    public_key_pair,
)
from tests.support.ranges import Recorded
from tests.support.streaming import (
    KEY,
    UNSIGNED,
    assert_idle,
    flipped,
    on_asyncio,
    plaintext_of,
    sealed,
    threads_at_work,
)
from tests.support.vectors import StaticDataKey

pytestmark = pytest.mark.anyio

PLAINTEXT = plaintext_of(350)
STATIC = StaticDataKey(example_data_key(UNSIGNED))
MESSAGE = build_message(UNSIGNED, PLAINTEXT, frame_length=100)
NON_FRAMED = build_message(UNSIGNED, PLAINTEXT, frame_length=None)

SIGNED = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384
# With frames of one byte the footer is as long as four frames, and 50 divides the plaintext.
each_shape = pytest.mark.parametrize(
    ("suite", "shape"),
    [(suite, shape) for suite in (UNSIGNED, SIGNED) for shape in (None, 1, 30, 50, 100, 4096)],
)


def message_of(suite: AlgorithmSuite, frame_length: int | None) -> bytes:
    context = public_key_pair(example_signing_key(suite)) if suite.signed else {}
    return build_message(suite, PLAINTEXT[:100], frame_length=frame_length, encryption_context=context).data


LARGE = plaintext_of(4_000_000)


async def large(**options: Any) -> Recorded:
    return Recorded(await sealed(LARGE, UNSIGNED, frame_length=1000), **options)


def frame_at(message: Message, position: int) -> int | None:
    """Return the number of the frame that a byte belongs to; None in the header."""
    part, _, rest = message.field_at(position).partition(".")
    return int(rest.partition(".")[0]) if part == "frame" else None


@on_asyncio
async def test_a_flipped_bit_anywhere_is_an_error_of_its_frame_alone() -> None:
    for position in range(len(MESSAGE.data)):
        frame = frame_at(MESSAGE, position)
        # One bit makes another suite a signed one.
        stream = open_seekable(flipped(MESSAGE.data, position), STATIC, accept_unverified_signature=True)
        if frame in (None, 4):
            # Header and final frame are verified on entry.
            with pytest.raises(MessageError):
                await stream.__aenter__()
            continue
        assert frame is not None
        async with stream:
            for number in range(1, 5):
                part = slice((number - 1) * 100 + 7, number * 100 - 9)
                if number == frame:
                    with pytest.raises((TagError, MalformedMessageError)):
                        await stream.read_at(part.start, part.stop - part.start)
                else:
                    assert await stream.read_at(part.start, part.stop - part.start) == PLAINTEXT[part]
            with pytest.raises((TagError, MalformedMessageError)):
                await stream.read()
            assert stream.tell() == 0


@on_asyncio
async def test_a_flipped_bit_in_a_non_framed_message_is_an_error_on_entry() -> None:
    for position in range(len(NON_FRAMED.data)):
        data = flipped(NON_FRAMED.data, position)
        with pytest.raises((MessageError, LimitError)):
            await open_seekable(data, STATIC, accept_unverified_signature=True).__aenter__()


async def enter(data: bytes, suite: AlgorithmSuite) -> None:
    provider = StaticDataKey(example_data_key(suite))
    await open_seekable(data, provider, accept_unverified_signature=True).__aenter__()


@on_asyncio
@each_shape
async def test_a_message_cut_off_anywhere_is_truncated(suite: AlgorithmSuite, shape: int | None) -> None:
    data = message_of(suite, shape)
    for length in range(len(data)):
        with pytest.raises(TruncatedMessageError):
            await enter(data[:length], suite)


@on_asyncio
@each_shape
async def test_bytes_behind_a_message_are_an_error_on_entry(suite: AlgorithmSuite, shape: int | None) -> None:
    data = message_of(suite, shape)
    for more in (*range(1, 140), 264, 5000):
        length = len(data) + more
        with pytest.raises(
            MalformedMessageError, match=f"there is no final frame where a length of {length} "
        ):
            await enter(data + bytes(more), suite)


async def test_a_dropped_frame_is_an_error_on_entry() -> None:
    start = MESSAGE.header_length
    with pytest.raises(MalformedMessageError, match="the message is cut off, or something follows it"):
        await open_seekable(MESSAGE.data[:start] + MESSAGE.data[start + 132 :], STATIC).__aenter__()


async def test_swapped_frames_are_an_error() -> None:
    start = MESSAGE.header_length
    first, second = MESSAGE.data[start : start + 132], MESSAGE.data[start + 132 : start + 264]
    data = MESSAGE.data[:start] + second + first + MESSAGE.data[start + 264 :]
    async with open_seekable(data, STATIC) as stream:
        with pytest.raises(MalformedMessageError, match="frame 2 stands where frame 1 belongs"):
            await stream.read_at(0, 10)
        assert await stream.read_at(200) == PLAINTEXT[200:]


async def test_a_body_of_another_message_with_the_same_data_key_is_an_error() -> None:
    other = build_message(UNSIGNED, PLAINTEXT, frame_length=100, message_id=bytes(32))
    data = MESSAGE.data[: MESSAGE.header_length] + other.data[other.header_length :]
    with pytest.raises(TagError, match="the final frame 4 fails authentication"):
        await open_seekable(data, STATIC).__aenter__()


async def test_a_message_that_changes_while_it_is_read_is_an_error_not_garbage() -> None:
    source = await large()
    async with open_seekable(source, KEY) as stream:
        assert await stream.read_at(50_000, 100) == LARGE[50_000:50_100]
        source.data = await sealed(LARGE[::-1], UNSIGNED, frame_length=1000)
        with pytest.raises(TagError):
            await stream.read_at(150_000, 100)


async def test_a_damaged_frame_ahead_does_not_stand_in_the_way_of_those_before_it() -> None:
    """Reads in a row fetch frames that nobody asked for yet."""
    plaintext = plaintext_of(300_000)
    message = await sealed(plaintext, UNSIGNED, frame_length=1000)
    damaged = flipped(message, len(message) - 100 * 1032)
    got = b""
    async with open_seekable(damaged, KEY) as stream:
        while stream.tell() < 200_000:
            got += await stream.read(1000)
        with pytest.raises(TagError, match=r"frame 201 fails"):
            await stream.read(1000)
        stream.seek(201_000)
        got += plaintext[200_000:201_000] + await stream.read()
    assert got == plaintext


async def test_a_source_that_fails_ahead_is_asked_for_less_the_next_time() -> None:
    def answer(data: bytes, start: int, end: int) -> bytes:
        if end > 300_000 and start < 4_000_000:
            raise Flaky("no network")
        return data[start:end]

    async with open_seekable(await large(answer=answer), KEY) as stream:
        failures = 0
        while stream.tell() < 250_000:
            try:
                await stream.read(1000)
            except Flaky:
                failures += 1
                assert failures < 250
        assert failures


# Answers


def shorter(data: bytes, start: int, end: int) -> bytes:
    return data[start : end - 1] if start >= 100_000 else data[start:end]


def longer(data: bytes, start: int, end: int) -> bytes:
    return data[start : end + 1] if start >= 100_000 else data[start:end]


def nothing(data: bytes, start: int, end: int) -> bytes:
    return b"" if start >= 100_000 else data[start:end]


def everything(data: bytes, start: int, end: int) -> bytes:
    return data if start == 0 else data[start:end]


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (
            shorter,
            TruncatedMessageError,
            r"the source gave \d+ bytes for the range \d+ to \d+, though it has",
        ),
        (nothing, TruncatedMessageError, "the source gave 0 bytes for the range"),
        (longer, MalformedMessageError, "for the range .*: does it support ranges"),
        (everything, MalformedMessageError, "for the range 0 to 8192: does it support ranges"),
    ],
)
async def test_answers_of_another_length_are_errors(answer: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        async with open_seekable(await large(answer=answer), KEY) as stream:
            await stream.read_at(3_000_000, 1000)


@pytest.mark.parametrize("n", [0, 1000, 2_000_000])
@pytest.mark.parametrize("end", [StopAsyncIteration, anyio.EndOfStream])
async def test_a_source_that_says_the_end_by_an_exception_is_an_error_and_no_end(
    n: int, end: type[Exception]
) -> None:
    def answer(data: bytes, start: int, stop: int) -> bytes:
        if 1_000_000 < start < 4_000_000:
            raise end
        return data[start:stop]

    async with open_seekable(await large(answer=answer), KEY) as stream:
        stream.seek(1_500_000)
        with pytest.raises(RuntimeError, match=f"the source raised {end.__name__}") as caught:
            await (stream.__anext__() if n == 0 else stream.read(n))
    assert isinstance(caught.value.__cause__, end)


async def test_a_source_that_says_the_end_when_asked_for_its_size_is_an_error() -> None:
    class Ended(Recorded):
        async def size(self) -> int:
            raise StopAsyncIteration

    with pytest.raises(RuntimeError, match="the source raised StopAsyncIteration"):
        await open_seekable(Ended(b""), KEY).__aenter__()


@pytest.mark.parametrize("difference", [-1, 1, -1032, 1032])
async def test_a_wrong_size_is_an_error_on_entry(difference: int) -> None:
    message = await sealed(LARGE, UNSIGNED, frame_length=1000)
    source = Recorded(message, size_said=len(message) + difference)
    with pytest.raises((TruncatedMessageError, MalformedMessageError)):
        await open_seekable(source, KEY).__aenter__()
    assert source.closed == 1


async def test_an_answer_that_is_no_bytes_is_a_type_error() -> None:
    source = await large(answer=lambda data, start, end: "x" * (end - start))
    with pytest.raises(TypeError, match="the source gives str"):
        await open_seekable(source, KEY).__aenter__()


async def test_a_buffer_that_the_source_uses_again_is_copied() -> None:
    buffer = bytearray(2_000_000)

    def into_buffer(data: bytes, start: int, end: int) -> Any:
        buffer[: end - start] = data[start:end]
        return memoryview(buffer)[: end - start]

    async with open_seekable(await large(answer=into_buffer), KEY, concurrency=4) as stream:
        assert await stream.read() == LARGE


# Sources that fail


class Flaky(Exception):
    """What a source raises."""


async def test_an_error_of_the_source_passes_through_and_the_next_read_tries_again() -> None:
    fail = True

    def answer(data: bytes, start: int, end: int) -> bytes:
        if fail and start > 100_000:
            raise Flaky("no network")
        return data[start:end]

    source = await large(answer=answer)
    fail = False
    async with open_seekable(source, KEY) as stream:
        fail = True
        stream.seek(2_000_000)
        for _ in range(2):
            with pytest.raises(Flaky, match="no network"):
                await stream.read(10)
            assert stream.tell() == 2_000_000
        # One of many ranges at once: the others are cancelled, and it is no group.
        with pytest.raises(Flaky):
            await stream.read_at(0)
        fail = False
        assert await stream.read(10) == LARGE[2_000_000:2_000_010]
        assert await stream.read_at(0) == LARGE
    assert source.running == 0
    assert_idle()


@pytest.mark.parametrize("stage", ["size", "header", "final"])
async def test_an_error_of_the_source_on_entry_passes_through(stage: str) -> None:
    source = await large(
        answer=lambda data, start, end: fail() if (stage == "header") is (start == 0) else data[start:end]
    )

    def fail() -> bytes:
        raise Flaky

    async def no_size() -> int:
        raise Flaky

    if stage == "size":
        source.size = no_size  # type: ignore[method-assign]
    with pytest.raises(Flaky):
        await open_seekable(source, KEY).__aenter__()
    assert source.closed == 1


@on_asyncio
async def test_a_source_that_cancels_itself_is_an_error_not_zeros() -> None:
    cancelled = anyio.get_cancelled_exc_class()

    def answer(data: bytes, start: int, end: int) -> bytes:
        if len(data) - 2_000_000 < start < len(data) - 5000:
            raise cancelled
        return data[start:end]

    async with open_seekable(await large(answer=answer), KEY) as stream:
        with pytest.raises(StreamError, match="a range read was cancelled, and not by its caller"):
            await stream.read_at(0)


# Cancellation


@pytest.mark.parametrize("n", [10, 3_000_000])
async def test_a_cancelled_read_leaves_nothing_running_and_the_stream_usable(n: int) -> None:
    source = await large()
    async with open_seekable(source, KEY) as stream:
        stream.seek(500_000)
        source.gate = anyio.Event()
        with anyio.move_on_after(0.01) as scope:
            await stream.read(n)
        assert scope.cancelled_caught
        assert source.running == 0
        assert stream.tell() == 500_000
        source.gate = None
        assert await stream.read(n) == LARGE[500_000 : 500_000 + n]
    assert source.closed == 1
    assert_idle()


async def test_cancelled_while_entering_the_source_is_closed() -> None:
    source = await large()
    source.gate = anyio.Event()
    with anyio.move_on_after(0.01) as scope:
        await open_seekable(source, KEY).__aenter__()
    assert scope.cancelled_caught
    assert source.closed == 1
    assert_idle()


async def test_a_file_is_closed_when_the_last_read_is_cancelled_after_the_stream_was_left(
    tmp_path: Any,
) -> None:
    path = tmp_path / "message"
    path.write_bytes(await sealed(LARGE, UNSIGNED, frame_length=1000))
    async with anyio.create_task_group() as group, open_seekable(path, KEY) as stream:
        group.start_soon(stream.read_at, 0)
        while not threads_at_work():
            await anyio.sleep(0)
        group.cancel_scope.cancel()
    # A file that is left open is a ResourceWarning, and so an error.
    assert_idle()
