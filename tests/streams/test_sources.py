"""Sources without a network: buffers, iterators, files and the streams of anyio."""

from __future__ import annotations

import array
import io
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import aiofiles
import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.file import FileReadStream

from aioencrypt import decrypt, encrypt, encrypt_stream
from aioencrypt.streams import Source
from aioencrypt.streams.sources import as_bytes, known_length, open_source
from tests.support.streaming import KEY, in_chunks, on_asyncio_and_uvloop, plaintext_of, sealed

PLAINTEXT = plaintext_of(300_001)

Opened = AbstractAsyncContextManager[Source]
Factory = Callable[[bytes, Path], Opened]


async def check_round_trip(make: Callable[[bytes], Opened]) -> None:
    """Encrypt from a source and decrypt from another of its kind."""
    async with make(PLAINTEXT) as source:
        message, _ = await encrypt(source, KEY)
    async with make(message) as source:
        plaintext, _ = await decrypt(source, KEY)
    assert plaintext == PLAINTEXT
    async with make(b"") as source:
        empty, _ = await encrypt(source, KEY)
    assert (await decrypt(empty, KEY)).plaintext == b""


# Buffers


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_bytes_like(kind: Callable[[bytes], bytes | bytearray | memoryview]) -> None:
    source = kind(PLAINTEXT)
    message, _ = await encrypt(source, KEY)
    assert (await decrypt(kind(message), KEY)).plaintext == PLAINTEXT
    assert bytes(source) == PLAINTEXT


@pytest.mark.anyio
@pytest.mark.parametrize(
    "view",
    [
        memoryview(array.array("I", range(5000))),
        memoryview(b"").cast("b"),
        memoryview(PLAINTEXT)[::2],
        memoryview(PLAINTEXT)[::-1],
        memoryview(bytearray(PLAINTEXT[:6])).cast("B", (2, 3)),
        memoryview(array.array("d")),
    ],
    ids=["format-I", "empty", "stride-2", "reversed", "two-dimensions", "empty-format-d"],
)
async def test_views_of_every_shape_are_their_bytes(view: memoryview) -> None:
    message, _ = await encrypt(view, KEY)
    assert (await decrypt(message, KEY)).plaintext == view.tobytes()
    async with encrypt_stream(view, KEY) as stream:
        assert stream.ciphertext_length == len(message)
        stream.abandon()


def test_known_length_is_in_bytes() -> None:
    assert known_length(memoryview(array.array("I", range(10)))) == 40
    assert known_length(memoryview(b"abcdef")[::2]) == 3
    assert known_length(b"") == 0
    assert known_length(io.BytesIO(b"abc")) is None


@pytest.mark.anyio
async def test_a_bytearray_that_changes_after_a_read_changes_nothing() -> None:
    source = bytearray(PLAINTEXT)
    async with encrypt_stream(source, KEY) as stream:
        start = await stream.readexactly(1000)
        source[:] = bytes(len(source))
        message = start + await stream.read()
    plaintext = (await decrypt(message, KEY)).plaintext
    assert plaintext[:200_000] == PLAINTEXT[:200_000]


# Asynchronous iterators


def iterators() -> dict[str, Callable[[bytes], AsyncIterator[Any]]]:
    async def with_empty_chunks(data: bytes) -> AsyncGenerator[bytes, None]:
        yield b""
        async for chunk in in_chunks(data, 10_000):
            yield b""
            yield chunk
            yield b""

    async def with_one_buffer(data: bytes) -> AsyncGenerator[bytearray, None]:
        buffer = bytearray()
        async for chunk in in_chunks(data, 7_777):
            buffer[:] = chunk
            yield buffer
        buffer[:] = bytes(len(buffer))

    async def with_views(data: bytes) -> AsyncGenerator[memoryview, None]:
        buffer = bytearray(65_536)
        file = io.BytesIO(data)
        while length := file.readinto(buffer):
            yield memoryview(buffer)[:length]

    class Iterator:
        def __init__(self, data: bytes) -> None:
            self.file = io.BytesIO(data)

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self

        async def __anext__(self) -> bytes:
            if not (chunk := self.file.read(1234)):
                raise StopAsyncIteration
            return chunk

    return {
        "generator": lambda data: in_chunks(data, 5000),
        "empty-chunks": with_empty_chunks,
        "reused-bytearray": with_one_buffer,
        "views-of-one-buffer": with_views,
        "iterator-class": Iterator,
    }


@pytest.mark.spec("client-apis/streaming.md#inputs")
@pytest.mark.anyio
@pytest.mark.parametrize("name", iterators())
async def test_asynchronous_iterators(name: str) -> None:
    @asynccontextmanager
    async def make(data: bytes) -> AsyncIterator[Source]:
        yield iterators()[name](data)

    await check_round_trip(make)


@pytest.mark.anyio
async def test_a_generator_of_the_caller_is_not_closed() -> None:
    generator = in_chunks(PLAINTEXT, 1000)
    async with encrypt_stream(generator, KEY) as stream:
        await stream.readexactly(5000)
        stream.abandon()
    assert await anext(generator)
    await generator.aclose()


@pytest.mark.anyio
async def test_a_generator_that_we_made_is_closed() -> None:
    class Response:
        closed = False

        async def aiter_bytes(self) -> AsyncGenerator[bytes, None]:
            try:
                while True:
                    yield bytes(1000)
            finally:
                self.closed = True

    response = Response()
    async with encrypt_stream(response, KEY) as stream:
        await stream.readexactly(5000)
        stream.abandon()
    assert response.closed


# Readers


class Reader:
    """A coroutine `read(n)`, as short as it likes."""

    def __init__(self, data: bytes, longest: int) -> None:
        self.file = io.BytesIO(data)
        self.longest = longest
        self.ended = 0

    async def read(self, n: int = -1) -> bytes:
        await anyio.sleep(0)
        data = self.file.read(min(n, self.longest))
        self.ended += not data
        return data

    def close(self) -> None:
        raise AssertionError("a source is never closed by us")

    aclose = close


@pytest.mark.anyio
@pytest.mark.parametrize("longest", [899, 10_000, 10**9])
async def test_short_reads_are_repeated(longest: int) -> None:
    @asynccontextmanager
    async def make(data: bytes) -> AsyncIterator[Source]:
        reader = Reader(data, longest)
        yield reader
        assert reader.ended == 1, "not read again after its end"

    await check_round_trip(make)


@pytest.mark.anyio
async def test_byte_by_byte() -> None:
    message = await sealed(PLAINTEXT[:700], frame_length=100)
    assert (await decrypt(Reader(message, 1), KEY)).plaintext == PLAINTEXT[:700]


@pytest.mark.anyio
async def test_a_reader_that_returns_none() -> None:
    class Reader:
        async def read(self, n: int = -1) -> bytes:
            return cast(bytes, None)

    with pytest.raises(TypeError, match="gives NoneType, which is not bytes-like"):
        await encrypt(Reader(), KEY)


# Files


@contextmanager
def file_of(data: bytes, folder: Path) -> Iterator[Path]:
    path = folder / "source"
    path.write_bytes(data)
    yield path


@asynccontextmanager
async def as_bytes_io(data: bytes, folder: Path) -> AsyncIterator[Source]:
    file = io.BytesIO(data)
    yield file
    assert not file.closed


@asynccontextmanager
async def as_buffered_file(data: bytes, folder: Path) -> AsyncIterator[Source]:
    with file_of(data, folder) as path, path.open("rb") as file:
        yield file
        assert not file.closed


@asynccontextmanager
async def as_raw_file(data: bytes, folder: Path) -> AsyncIterator[Source]:
    with file_of(data, folder) as path, path.open("rb", buffering=0) as file:
        yield cast(Source, file)
        assert not file.closed


@asynccontextmanager
async def as_anyio_file(data: bytes, folder: Path) -> AsyncIterator[Source]:
    with file_of(data, folder) as path:
        async with await anyio.open_file(path, "rb") as file:
            yield file
            assert not file.wrapped.closed


@asynccontextmanager
async def as_anyio_file_stream(data: bytes, folder: Path) -> AsyncIterator[Source]:
    with file_of(data, folder) as path:
        async with await FileReadStream.from_path(path) as stream:
            yield stream
            assert await stream.tell() == len(data)


@asynccontextmanager
async def as_aiofiles_file(data: bytes, folder: Path) -> AsyncIterator[Source]:
    with file_of(data, folder) as path:
        async with aiofiles.open(path, "rb") as file:
            yield cast(Source, file)
            assert not file.closed


@pytest.mark.anyio
@pytest.mark.parametrize(
    "factory",
    [as_bytes_io, as_buffered_file, as_raw_file, as_anyio_file, as_anyio_file_stream],
    ids=lambda factory: factory.__name__[3:],
)
async def test_files(factory: Factory, tmp_path: Path) -> None:
    await check_round_trip(lambda data: factory(data, tmp_path))


@pytest.mark.anyio
@on_asyncio_and_uvloop
async def test_aiofiles(tmp_path: Path) -> None:
    await check_round_trip(lambda data: as_aiofiles_file(data, tmp_path))


@pytest.mark.anyio
async def test_a_file_in_non_blocking_mode_says_so() -> None:
    class File:
        def read(self, n: int = -1) -> None:
            return None

    with pytest.raises(TypeError, match="non-blocking mode"):
        await encrypt(cast(Source, File()), KEY)


@pytest.mark.anyio
async def test_a_function_that_returns_an_awaitable_is_awaited() -> None:
    class Reader:
        def __init__(self) -> None:
            self.inner = iter([b"one ", b"two"])

        def read(self, n: int = -1) -> Any:
            async def piece() -> bytes:
                return next(self.inner, b"")

            return piece()

    message, _ = await encrypt(cast(Source, Reader()), KEY)
    assert (await decrypt(message, KEY)).plaintext == b"one two"


# anyio


@asynccontextmanager
async def as_socket(data: bytes) -> AsyncIterator[Source]:
    async with AsyncExitStack() as stack:
        listeners = await stack.enter_async_context(await anyio.create_tcp_listener(local_host="127.0.0.1"))
        listener = cast(anyio.abc.SocketListener, listeners.listeners[0])

        async def serve() -> None:
            async with await listener.accept() as connection:
                await connection.send(data)

        group = await stack.enter_async_context(anyio.create_task_group())
        group.start_soon(serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            yield stream


@asynccontextmanager
async def as_buffered_socket(data: bytes) -> AsyncIterator[Source]:
    async with as_socket(data) as stream:
        buffered = BufferedByteReceiveStream(cast(anyio.abc.ByteReceiveStream, stream))
        buffered.feed_data(b"")
        yield buffered


@asynccontextmanager
async def as_objects(data: bytes) -> AsyncIterator[Source]:
    send, receive = anyio.create_memory_object_stream[bytes]()

    async def feed() -> None:
        with send:
            async for chunk in in_chunks(data, 20_000):
                await send.send(b"")
                await send.send(chunk)

    async with anyio.create_task_group() as group:
        group.start_soon(feed)
        yield receive
        assert receive.statistics().open_receive_streams == 1
        receive.close()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "make", [as_socket, as_buffered_socket, as_objects], ids=lambda factory: factory.__name__[3:]
)
async def test_anyio_streams(make: Callable[[bytes], Opened]) -> None:
    await check_round_trip(make)


@pytest.mark.anyio
async def test_our_streams_are_sources() -> None:
    async with encrypt_stream(in_chunks(PLAINTEXT, 10_000), KEY) as stream:
        assert (await decrypt(stream, KEY)).plaintext == PLAINTEXT
    async with encrypt_stream(in_chunks(PLAINTEXT, 10_000), KEY) as stream:
        assert (await decrypt(stream.as_anyio(), KEY)).plaintext == PLAINTEXT


# What is none


@pytest.mark.spec("client-apis/encrypt.md#plaintext")
@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("a str", r'a str is not a source of bytes: encode text, or for the .* builtin open\(path, "rb"\)'),
        (
            Path("a path"),
            r'Path is not a source of bytes: for the .* builtin open\(path, "rb"\) .* aioencrypt.open\(\)',
        ),
        (42, "int is not a source of bytes"),
        (None, "NoneType is not a source of bytes"),
        ([b"a", b"list"], "list is not a source of bytes"),
        (object(), "object is not a source of bytes"),
    ],
    ids=["str", "path", "int", "none", "list", "object"],
)
def test_what_is_no_source_is_refused_at_once(source: Any, error: str) -> None:
    with pytest.raises(TypeError, match=error):
        open_source(source)
    with pytest.raises(TypeError, match=error):
        encrypt_stream(source, KEY)


@pytest.mark.anyio
async def test_text_files_are_refused_with_advice(tmp_path: Path) -> None:
    with file_of(b"text", tmp_path) as path, path.open() as file:
        with pytest.raises(TypeError, match="gives str: open the file in binary mode"):
            await encrypt(cast(Source, file), KEY)
        assert not file.closed
    with pytest.raises(TypeError, match="gives str"):
        await encrypt(cast(Source, io.StringIO("text")), KEY)


@pytest.mark.parametrize("take", [open_source, lambda file: encrypt_stream(file, KEY)])
def test_text_files_are_refused_before_their_first_read(take: Callable[[Any], object]) -> None:
    read_end, write_end = os.pipe()
    binary = pytest.raises(TypeError, match="gives str: open the file in binary mode")
    with open(read_end) as file, open(write_end, "wb"), binary:  # a read would wait for ever
        take(file)


@pytest.mark.anyio
async def test_a_generator_of_something_else() -> None:
    async def numbers() -> AsyncGenerator[int, None]:
        yield 42

    with pytest.raises(TypeError, match="gives int, which is not bytes-like"):
        await encrypt(cast(Source, numbers()), KEY)


def test_as_bytes_copies_what_can_change() -> None:
    frozen, growing = b"abc", bytearray(b"abc")
    assert as_bytes(frozen) is frozen
    copy = as_bytes(growing)
    growing[0] = 0
    assert copy == b"abc"
    assert as_bytes(array.array("H", [1])) == array.array("H", [1]).tobytes()
