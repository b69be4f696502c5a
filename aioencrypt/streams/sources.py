"""Adapt every supported source to one reader interface.

Many readers iterate over lines, some return short reads, and some signal the end with an exception. This is
the only module that knows these differences.
"""

from __future__ import annotations

import inspect
import io
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterator,
)
from typing import Any, BinaryIO, Protocol

import anyio
from anyio.abc import ByteReceiveStream, ObjectReceiveStream

from aioencrypt.errors import StreamError
from aioencrypt.format.wire import flat_view
from aioencrypt.runtime.begun_sources import remember_begun, was_begun
from aioencrypt.runtime.event_loops import is_being_closed
from aioencrypt.streams.blocking_files import read_file_object

_READ_LENGTH = 256 * 1024
# Each read of a file costs a hop to a thread, so reads are large.
_FILE_READ_LENGTH = 1024 * 1024

_GIVES_TEXT = "the source gives str: open the file in binary mode, or encode the text"
_CUT_OFF_FORM = "the form ended before its part did"
_FILE_ADVICE = (
    'for the content of a file give what the builtin open(path, "rb") returns, '
    "or let aioencrypt.open() read and write encrypted files"
)


class AsyncReader(Protocol):
    """An object with a coroutine method `read(n)`."""

    def read(self, n: int, /) -> Awaitable[bytes]: ...


class _SyncReader(Protocol):
    def read(self, n: int, /) -> bytes: ...


class _HasIterAny(Protocol):
    def iter_any(self) -> AsyncIterable[bytes]: ...


class _HasContent(Protocol):
    # aiohttp caches `content` of a request in a descriptor whose type pyright cannot infer.
    @property
    def content(self) -> object: ...

    def read(self) -> Awaitable[bytes]: ...


class _HasReadChunk(Protocol):
    def read_chunk(self, size: int = ..., /) -> Awaitable[bytes | bytearray]: ...


class _HasAiterBytes(Protocol):
    def aiter_bytes(self) -> AsyncIterable[bytes]: ...


class _HasStream(Protocol):
    def stream(self) -> AsyncIterable[bytes]: ...


Source = (
    bytes
    | bytearray
    | memoryview
    | ByteReceiveStream
    | ObjectReceiveStream[bytes]
    | _HasIterAny
    | _HasContent
    | _HasReadChunk
    | _HasAiterBytes
    | _HasStream
    | AsyncReader
    | AsyncIterable[bytes]
    | BinaryIO
    | _SyncReader
)
"""What can be encrypted and decrypted."""


class Reader(Protocol):
    """The interface that streams read from."""

    def read(self) -> Coroutine[Any, Any, bytes]:
        """Return the next bytes, and ``b""`` at the end. It is not called again after the end."""
        ...

    async def aclose(self) -> None:
        """Close what the reader itself opened; the source stays open."""
        ...


class _Reader:
    """A read function, and the iterator that we created for it, if any."""

    def __init__(
        self,
        read: Callable[[], Coroutine[Any, Any, bytes]],
        iterator: AsyncIterator[Any] | Iterator[bytes] | None = None,
    ) -> None:
        self._read = read
        self._iterator = iterator

    def read(self) -> Coroutine[Any, Any, bytes]:
        return self._read()

    async def aclose(self) -> None:
        # The event loop would finish an abandoned generator some time later, and keep its buffer until
        # then. A closed coroutine leaves that to the loop: CPython takes the generator for running.
        if is_being_closed():
            return
        if isinstance(self._iterator, AsyncGenerator):
            await self._iterator.aclose()
        elif isinstance(self._iterator, Generator):
            self._iterator.close()


class _CheckedReader:
    """A reader that fails if its source is empty because it was read before."""

    def __init__(self, reader: Reader, source: object) -> None:
        self._reader = reader
        self._source = source
        self._begun = False

    def read(self) -> Coroutine[Any, Any, bytes]:
        return self._reader.read() if self._begun else self._read_first()

    async def _read_first(self) -> bytes:
        data = await self._reader.read()
        if not data and (was_begun(self._source) or await _position(self._source) > 0):
            raise StreamError(
                "the source has been read to its end: give another one, or seek(0) if it is a file"
            )
        self._begun = True
        if data:
            remember_begun(self._source)
        return data

    def aclose(self) -> Coroutine[Any, Any, None]:
        return self._reader.aclose()


async def _position(source: Any) -> int:
    """Return the position of a source, or 0 if it has none."""
    tell = getattr(source, "tell", None) or getattr(getattr(source, "file", None), "tell", None)
    try:
        position = tell() if callable(tell) else 0
        if inspect.isawaitable(position):
            position = await position
    except (OSError, ValueError):  # a pipe has no position
        return 0
    return position if isinstance(position, int) else 0


def known_length(source: object) -> int | None:
    """Return the length of a source in bytes, or None if it is not known."""
    if isinstance(source, bytes | bytearray | memoryview):
        return memoryview(source).nbytes
    return None


def open_source(source: object) -> Reader:
    """Return the reader of a source; raises `TypeError` with advice for other types.

    Nothing is read yet. The source is never closed; that is up to its owner.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_bytes(source)
    if isinstance(source, str):
        raise TypeError(f"a str is not a source of bytes: encode text, or {_FILE_ADVICE}")
    if isinstance(source, io.TextIOBase):
        raise TypeError(_GIVES_TEXT)
    if isinstance(source, ByteReceiveStream | ObjectReceiveStream):
        return _CheckedReader(_from_receive_stream(source), source)
    content = _content_of(source)
    if content and _is_used_up(content):
        return _from_used_up(source)
    if _is_used_up(source) or (inspect.isasyncgen(source) and source.ag_frame is None):
        raise StreamError("the source has been read to its end: give another one, or the bytes themselves")
    body = content or source
    return _CheckedReader(_known_method(body) or _from_read_or_iterator(source), body)


def open_plaintext(source: object) -> Reader:
    """Return the reader of a plaintext source.

    Raises `ValueError` for a compressed body that aiohttp or httpx decompresses: neither notices a
    truncated body, so the message would hold only a part of it. Decrypting needs no such check, because
    truncated messages are detected.
    """
    unpacks = callable(getattr(source, "aiter_bytes", None)) or _content_of(source) is not None
    headers: Any = getattr(source, "headers", None)
    coding = headers.get("Content-Encoding", "") if unpacks and hasattr(headers, "get") else ""
    if coding.strip().lower() not in ("", "identity"):
        way = "aiter_bytes()" if hasattr(source, "aiter_bytes") else "content"
        raise ValueError(
            f"the body has the Content-Encoding {coding!r}, and nobody notices when such a body is cut off: "
            f"ask for Accept-Encoding: identity, or give its {way} to encrypt it all the same"
        )
    return open_source(source)


def _content_of(source: Any) -> Any:
    """Return the aiohttp stream of a request, a response or an older StreamingBody, or None."""
    if inspect.getattr_static(source, "content", None) is None:
        return None
    if callable(getattr(source, "aiter_bytes", None)):
        return None  # httpx: its `content` is the whole body, and raises before it is read
    content = source.content
    return content if callable(getattr(content, "iter_any", None)) else None


def _known_method(source: Any) -> Reader | None:
    """Return a reader that uses a method with better pieces than `read` or iteration, or None."""
    # aiohttp StreamReader: all buffered bytes, instead of lines
    if pieces := _pieces(source, "iter_any"):
        return _from_iterator(pieces, ours=True)
    # aiohttp BodyPartReader: iteration returns the whole part at once
    if callable(getattr(source, "read_chunk", None)):
        return _from_part(source)
    # httpx Response
    if pieces := _pieces(source, "aiter_bytes"):
        return _from_iterator(pieces, ours=True)
    # aiobotocore StreamingBody: iteration returns pieces of 1 KiB
    if pieces := _pieces(source, "iter_chunks", _READ_LENGTH):
        return _from_iterator(pieces, ours=True)
    # Starlette Request
    if inspect.isasyncgenfunction(getattr(source, "stream", None)):
        return _from_iterator(source.stream(), ours=True)
    return None


def _pieces(source: Any, name: str, *arguments: int) -> AsyncIterable[Any] | None:
    """Return the async iterator of a method; None if it is not async, as with boto3's bodies."""
    method = getattr(source, name, None)
    pieces = method(*arguments) if callable(method) else None
    return pieces if isinstance(pieces, AsyncIterable) else None


def _is_used_up(content: Any) -> bool:
    """Tell whether a body of aiohttp had bytes, or is a part of a form, and was read to its end before."""
    at_eof = getattr(content, "at_eof", None)
    # A part counts no bytes, but one that nobody has read is never at its end.
    length = 1 if callable(getattr(content, "read_chunk", None)) else getattr(content, "total_bytes", 0)
    return callable(at_eof) and bool(at_eof()) and length > 0


def _from_used_up(source: Any) -> Reader:
    """Return the bytes that aiohttp caches of a body that was read with `read()`."""
    rest: list[bytes] = []
    started = False

    async def read() -> bytes:
        nonlocal started
        if not started:
            started = True
            if not (kept := as_bytes(await source.read())):
                raise StreamError("the source has been read, and nothing is left: give the bytes themselves")
            rest.append(kept)
        return rest.pop() if rest else b""

    return _Reader(read)


def _from_read_or_iterator(source: Any) -> Reader:
    read = getattr(source, "read", None)
    if inspect.iscoroutinefunction(read):
        return _from_sized_read(read)
    if hasattr(source, "__aiter__"):
        return _from_iterator(source, ours=False)
    if callable(read):
        return _from_file(source)
    advice = "give bytes, an async reader, an async iterable of bytes or a binary file object"
    if isinstance(source, os.PathLike):
        advice = _FILE_ADVICE
    raise TypeError(f"{type(source).__name__} is not a source of bytes: {advice}")


def as_bytes(chunk: Any) -> bytes:
    """Return a chunk as immutable bytes; raises `TypeError` if it is not bytes-like.

    Mutable buffers are copied, because a generator may reuse them.
    """
    if isinstance(chunk, bytes):
        return chunk
    if isinstance(chunk, str):
        raise TypeError(_GIVES_TEXT)
    try:
        return bytes(memoryview(chunk))
    except TypeError:
        raise TypeError(f"the source gives {type(chunk).__name__}, which is not bytes-like") from None


def _from_bytes(source: bytes | bytearray | memoryview) -> Reader:
    whole = [source] if isinstance(source, bytes) else _copies(flat_view(memoryview(source)))
    pieces = iter(whole)

    async def read() -> bytes:
        return next(pieces, b"")

    return _Reader(read, pieces)


def _copies(view: memoryview) -> Iterator[bytes]:
    for start in range(0, len(view), _FILE_READ_LENGTH):
        yield bytes(view[start : start + _FILE_READ_LENGTH])


def _from_receive_stream(stream: ByteReceiveStream | ObjectReceiveStream[Any]) -> Reader:
    async def read() -> bytes:
        while True:
            try:
                if isinstance(stream, ByteReceiveStream):
                    chunk = as_bytes(await stream.receive(_READ_LENGTH))
                else:
                    chunk = as_bytes(await stream.receive())
            except anyio.EndOfStream:
                return b""
            if chunk:
                return chunk

    return _Reader(read)


def _from_iterator(iterable: AsyncIterable[Any], *, ours: bool) -> Reader:
    iterator: AsyncIterator[Any] = aiter(iterable)

    async def read() -> bytes:
        while True:
            try:
                chunk = as_bytes(await anext(iterator))
            except StopAsyncIteration:
                return b""
            # An empty chunk is not the end: Starlette ends a body with one, others yield them in between.
            if chunk:
                return chunk

    return _Reader(read, iterator if ours else None)


def _from_sized_read(read_some: Callable[[int], Awaitable[Any]]) -> Reader:
    async def read() -> bytes:
        return as_bytes(await read_some(_READ_LENGTH))

    return _Reader(read)


def _from_part(part: Any) -> Reader:
    async def read() -> bytes:
        try:
            chunk = as_bytes(await part.read_chunk(_READ_LENGTH))
        except AssertionError as error:  # of aiohttp up to 3.13
            raise EOFError(_CUT_OFF_FORM) from error
        # A form that ends without the boundary of its part looks like the end of the part.
        if not chunk and callable(getattr(part, "at_eof", None)) and not part.at_eof():
            raise EOFError(_CUT_OFF_FORM)
        return chunk

    return _Reader(read)


def _from_file(file: Any) -> Reader:
    async def read() -> bytes:
        chunk = await read_file_object(file, _FILE_READ_LENGTH)
        if inspect.isawaitable(chunk):
            chunk = await chunk
        if chunk is None:
            raise TypeError("the file is in non-blocking mode and has no bytes now; give an async reader")
        return as_bytes(chunk)

    return _Reader(read)
