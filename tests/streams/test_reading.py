"""Reading a stream: every way, against `io.BytesIO` as the model, and what both directions forbid."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given, settings, strategies as st

from aioencrypt import (
    IncompleteReadError,
    SignatureError,
    StreamBusyError,
    StreamClosedError,
    StreamError,
    StreamNotEnteredError,
    UnverifiedStreamError,
    decrypt_stream,
    encrypt_stream,
    open_seekable,
)
from aioencrypt.streams.reading import ByteStream
from aioencrypt.streams.sources import open_source
from tests.support.rows import each_row
from tests.support.streaming import (
    KEY,
    SIGNED as SUITE,
    UNSIGNED,
    Feed,
    Stalling,
    client_for,
    flipped,
    in_chunks,
    is_again,
    plaintext_of,
    sealed,
)

PLAINTEXT = plaintext_of(10_000)
pytestmark = pytest.mark.anyio


class Chunks(ByteStream):
    """A stream of given chunks: what is tested is the reading alone."""

    def __init__(self, *chunks: bytes) -> None:
        super().__init__(open_source(b""))
        self.chunks = list(chunks)
        self.released = 0

    async def _open(self) -> None:
        await checkpoint()

    async def _next_chunk(self) -> bytes:
        await checkpoint()
        return self.chunks.pop(0) if self.chunks else b""

    def _forget(self) -> None:
        self.released += 1

    @property
    def _complete(self) -> bool:
        return not self.chunks and not self._buffer

    @property
    def _incomplete_reason(self) -> str:
        return "left too early"


# Reading


@pytest.mark.spec("client-apis/streaming.md#outputs")
@given(
    chunks=st.lists(st.binary(min_size=1, max_size=12).map(lambda data: data.replace(b"\xff", b"\n"))),
    calls=st.lists(
        st.tuples(st.sampled_from(["read", "readexactly", "readline"]), st.integers(0, 20)), max_size=12
    ),
)
@settings(deadline=None, max_examples=200)
def test_any_sequence_of_reads_gives_the_bytes_in_order(
    chunks: list[bytes], calls: list[tuple[str, int]]
) -> None:
    async def check() -> None:
        model = io.BytesIO(b"".join(chunks))
        async with Chunks(*chunks) as stream:
            for name, n in calls:
                if name == "readline":
                    assert await stream.readline() == model.readline()
                elif name == "read":
                    data = await stream.read(n)
                    assert data == model.read(len(data))
                    assert len(data) <= n
                    assert data or n == 0 or model.read(1) == b""
                elif n <= len(model.getbuffer()) - model.tell():
                    assert await stream.readexactly(n) == model.read(n)
            assert await stream.read() == model.read()
            assert await stream.read(1) == b""
            assert await stream.read() == b""

    anyio.run(check)


async def test_read_gives_what_is_there() -> None:
    async with Chunks(b"abc", b"defg") as stream:
        assert await stream.read(0) == b""
        assert await stream.read(2) == b"ab"
        assert await stream.read(100) == b"c", "what is buffered, without waiting for more"
        assert await stream.read(100) == b"defg"
        assert await stream.read(100) == b""
        assert await stream.read(100) == b""


async def test_iteration_takes_up_where_reads_left_off() -> None:
    async with Chunks(b"abc", b"def", b"ghi") as stream:
        assert await stream.read(1) == b"a"
        assert [chunk async for chunk in stream] == [b"bc", b"def", b"ghi"]
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


@pytest.mark.parametrize("n", [-1, -2])
async def test_every_negative_number_reads_all(n: int) -> None:
    async with Chunks(b"abc", b"def") as stream:
        assert await stream.read(n) == b"abcdef"


async def test_readexactly_at_the_end() -> None:
    async with Chunks(b"abc", b"def") as stream:
        assert await stream.readexactly(0) == b""
        assert await stream.readexactly(4) == b"abcd"
        with pytest.raises(ValueError, match="n is -1"):
            await stream.readexactly(-1)
        for _ in range(2):
            with pytest.raises(IncompleteReadError, match="ends 8 bytes before the 10 asked for") as caught:
                await stream.readexactly(10)
            assert (caught.value.partial, caught.value.expected) == (b"ef", 10)
        assert await stream.readexactly(2) == b"ef"
        with pytest.raises(IncompleteReadError) as caught:
            await stream.readexactly(1)
        assert caught.value.partial == b""


async def test_readline_with_a_limit() -> None:
    async with Chunks(b"ab\ncd", b"efg", b"h\n\nlast") as stream:
        assert await stream.readline(3) == b"ab\n"
        for _ in range(2):
            with pytest.raises(ValueError, match="longer than limit=6 bytes"):
                await stream.readline(6)
        assert await stream.readline(7) == b"cdefgh\n"
        assert await stream.readline() == b"\n"
        assert await stream.readline() == b"last"
        assert await stream.readline() == b""


@pytest.mark.parametrize("length", [0, 1, 254, 255, 256, 257, 767, 768, 769, 5000])
async def test_lines_of_every_length(length: int) -> None:
    lines = [b"x" * length + b"\n"] * 3
    async with Chunks(b"".join(lines)) as stream:
        assert [await stream.readline() for _ in range(4)] == [*lines, b""]


@pytest.mark.parametrize("step", [lambda s: s.read(1), lambda s: s.readexactly(1), lambda s: s.readline()])
async def test_single_bytes_from_a_buffer_let_the_loop_go_on(
    step: Callable[[ByteStream], Awaitable[bytes]],
) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await checkpoint()
            turns += 1

    async with anyio.create_task_group() as group, Chunks(b"\n" * 2000) as stream:
        group.start_soon(count)
        for _ in range(2000):
            assert await step(stream)
        assert turns >= 10
        group.cancel_scope.cancel()


async def test_iterating_again_after_the_end_is_an_error() -> None:
    """A client that sends a request a second time must not send an empty body."""
    async with Chunks(b"abc", b"def") as stream:
        async for _ in stream:
            break
        assert [chunk async for chunk in stream] == [b"def"]
        with pytest.raises(StreamError, match="iterated to its end"):
            aiter(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert await stream.read() == b""
    async with Chunks(b"abc") as stream:
        assert await stream.readexactly(3) == b"abc"
        assert [chunk async for chunk in stream] == []


async def test_leaving_hands_the_closing_to_the_call_that_still_runs() -> None:
    class Waiting(Chunks):
        async def _next_chunk(self) -> bytes:
            started.set()
            await gate.wait()
            return b""

    for error in (None, LookupError()):
        started, gate = anyio.Event(), anyio.Event()
        stream = Waiting(b"abc")
        await stream.__aenter__()
        async with anyio.create_task_group() as group:
            group.start_soon(stream.read)
            await started.wait()
            if error is None:
                with pytest.raises(UnverifiedStreamError):
                    await stream.__aexit__(None, None, None)
            else:
                await stream.__aexit__(type(error), error, None)
            assert stream.released == 0
            gate.set()
        assert stream.released == 1


async def test_errors_that_are_raised_again_have_no_longer_tracebacks() -> None:
    class Failing(Chunks):
        async def _next_chunk(self) -> bytes:
            raise SignatureError("bad")

    lengths = set()
    async with Failing(b"abc") as stream:
        with pytest.raises(SignatureError) as first:
            await stream.read()
        for _ in range(50):
            with pytest.raises(SignatureError) as again:
                await stream.read()
            lengths.add(len(again.traceback))
            assert is_again(again.value, first.value)
        stream.abandon()
    assert len(lengths) == 1


async def test_as_anyio_ends_with_an_exception() -> None:
    async with Chunks(b"abc", b"def") as stream:
        receiving = stream.as_anyio()
        with pytest.raises(ValueError, match="max_bytes is 0"):
            await receiving.receive(0)
        assert await receiving.receive(2) == b"ab"
        assert [chunk async for chunk in receiving] == [b"c", b"def"]
        for _ in range(2):
            with pytest.raises(anyio.EndOfStream):
                await receiving.receive()
    async with Chunks() as stream, stream.as_anyio():
        pass
    assert stream.released == 1


# Life


async def test_a_stream_is_entered_once() -> None:
    stream = Chunks()
    async with stream:
        with pytest.raises(StreamError, match="entered only once"):
            await stream.__aenter__()
    with pytest.raises(StreamError, match="entered only once"):
        await stream.__aenter__()
    assert stream.released == 1


async def test_use_before_entering_and_after_closing() -> None:
    stream = Chunks(b"abc")
    for use in (stream.read, stream.readline, stream.__anext__, lambda: stream.readexactly(1)):
        with pytest.raises(StreamNotEnteredError, match="use it in `async with`"):
            await use()
    async with stream:
        await stream.read()
    for use in (stream.read, stream.readline, stream.__anext__, lambda: stream.readexactly(1)):
        with pytest.raises(StreamClosedError, match="the stream is closed"):
            await use()


async def test_closing_twice_and_closing_what_was_never_entered() -> None:
    stream = Chunks(b"abc")
    async with stream:
        await stream.aclose()
        await stream.aclose()
        stream.abandon()
    assert stream.released == 1
    stream = Chunks(b"abc")
    await stream.aclose()
    assert stream.released == 1
    with pytest.raises(StreamError, match="entered only once"):
        await stream.__aenter__()


async def test_leaving_early_names_the_reason() -> None:
    with pytest.raises(UnverifiedStreamError, match="left too early"):
        async with Chunks(b"abc"):
            pass
    with pytest.raises(UnverifiedStreamError):
        async with Chunks(b"abc") as stream:
            await stream.read(1)
    async with Chunks(b"abc") as stream:
        stream.abandon()


async def test_an_exception_in_flight_is_not_masked() -> None:
    stream = Chunks(b"abc")
    with pytest.raises(ZeroDivisionError) as caught:
        async with stream:
            _ = 1 / 0
    assert caught.value.__context__ is None
    assert stream.released == 1


async def test_errors_stay() -> None:
    class Source(Chunks):
        async def _next_chunk(self) -> bytes:
            raise OSError(5, "gone")

        @property
        def _complete(self) -> bool:
            return False

    stream = Source()
    await stream.__aenter__()
    with pytest.raises(OSError, match="gone") as first:
        await stream.read()
    for use in (stream.read, stream.readline, stream.__anext__):
        with pytest.raises(StreamError, match="failed before, with OSError") as again:
            await use()
        assert again.value.__cause__ is first.value
    with pytest.raises(UnverifiedStreamError) as left:
        await stream.__aexit__(None, None, None)
    assert left.value.__cause__ is first.value


# Both directions


async def test_two_tasks_in_one_stream() -> None:
    message = await sealed(PLAINTEXT, frame_length=100)
    for start in (encrypt_stream, decrypt_stream):
        source = Stalling(message[:2000])
        async with start(source, KEY) as stream, anyio.create_task_group() as group:

            async def read(stream: ByteStream = stream) -> None:
                await stream.read()

            group.start_soon(read)
            await source.stalled.wait()
            uses = (stream.read, stream.readline, stream.__anext__, stream.aclose)
            for use in uses:
                with pytest.raises(StreamBusyError, match="another task is using this stream"):
                    await use()
            stream.abandon()
            group.cancel_scope.cancel()


async def test_the_error_of_a_second_task_does_not_hurt_the_first() -> None:
    started, go_on = anyio.Event(), anyio.Event()

    class Slow(Chunks):
        async def _next_chunk(self) -> bytes:
            started.set()
            await go_on.wait()
            return await super()._next_chunk()

    async with Slow(b"abc") as stream, anyio.create_task_group() as group:

        async def read() -> None:
            assert await stream.read() == b"abc"

        group.start_soon(read)
        await started.wait()
        with pytest.raises(StreamBusyError):
            await stream.read()
        go_on.set()


async def test_leaving_with_an_exception_while_another_task_reads() -> None:
    source = Stalling(b"abc")
    async with anyio.create_task_group() as group:

        async def use() -> None:
            async with encrypt_stream(source, KEY) as stream:
                group.start_soon(stream.read)
                await source.stalled.wait()
                _ = 1 / 0

        with pytest.raises(ZeroDivisionError) as caught:
            await use()
        assert caught.value.__context__ is None
        group.cancel_scope.cancel()


@pytest.mark.parametrize("frame_length", [1, 10, 4096])
async def test_all_ways_of_reading_agree(frame_length: int) -> None:
    """Around the edges of frames and batches, with every size of read."""
    client = client_for(SUITE)
    machine_batch = {1: 200, 10: 1990, 4096: 487_424}[frame_length]
    for length in sorted({0, 1, frame_length, frame_length + 1, machine_batch, machine_batch + 1, 7000}):
        plaintext = plaintext_of(length)
        message = await sealed(plaintext, frame_length=frame_length)
        for size in (1000, machine_batch, machine_batch + 1, 10**6):
            parts = []
            async with client.decrypt_stream(message, KEY) as stream:
                while part := await stream.read(size):
                    assert len(part) <= size
                    parts.append(part)
                assert stream.verified
            assert b"".join(parts) == plaintext
        async with client.decrypt_stream(in_chunks(message, 999), KEY) as stream:
            assert await stream.readexactly(length) == plaintext
            assert await stream.read() == b""
        async with client.decrypt_stream(Feed(message), KEY) as stream:
            chunks = [chunk async for chunk in stream]
        assert b"".join(chunks) == plaintext
        assert all(type(chunk) is bytes and chunk for chunk in chunks)


async def test_errors_of_messages_stay() -> None:
    message = flipped(await sealed(PLAINTEXT, frame_length=100), -1)
    stream = decrypt_stream(message, KEY)
    async with stream:
        errors = []
        for use in (stream.read, stream.readline, stream.__anext__, stream.read):
            with pytest.raises(SignatureError) as caught:
                await use()
            errors.append(caught.value)
        assert all(is_again(error, errors[0]) for error in errors[1:])
        stream.abandon()
    with pytest.raises(SignatureError):
        await stream.read()


SIZES: list[tuple[Callable[..., Any], Callable[[Any, Any], Any]]] = [
    (decrypt_stream, lambda stream, n: stream.read(n)),
    (decrypt_stream, lambda stream, n: stream.readexactly(n)),
    (decrypt_stream, lambda stream, n: stream.readline(n)),
    (decrypt_stream, lambda stream, n: stream.as_anyio().receive(n)),
    (open_seekable, lambda stream, n: stream.read(n)),
    (open_seekable, lambda stream, n: stream.readexactly(n)),
    (open_seekable, lambda stream, n: stream.read_at(0, n)),
    (open_seekable, lambda stream, n: stream.read_at(n)),
    (open_seekable, lambda stream, n: stream.seek(n)),
    (open_seekable, lambda stream, n: stream.seek(0, n)),
]


@each_row("wrong", [None, 1.0, float("nan"), "1", b"1", True, [1]])
@pytest.mark.parametrize("row", range(len(SIZES)))
async def test_a_size_that_is_no_int_is_refused_and_reads_nothing(row: int, wrong: Any) -> None:
    make, read = SIZES[row]
    async with make(await sealed(PLAINTEXT, UNSIGNED), KEY) as stream:
        with pytest.raises(TypeError, match=r"^\w+ must be an int, not "):
            await read(stream, wrong)
        assert await stream.read() == PLAINTEXT
