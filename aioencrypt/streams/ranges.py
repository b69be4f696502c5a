"""What can read a range of its bytes: the protocol, and bytes and files as sources of ranges."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Protocol, runtime_checkable

import anyio

from aioencrypt.errors import MalformedMessageError, TruncatedMessageError
from aioencrypt.format.wire import flat_view
from aioencrypt.runtime.threads import ThreadLock
from aioencrypt.streams.blocking_files import PathLike, is_special
from aioencrypt.streams.lifecycle import OwnedFile
from aioencrypt.streams.sources import as_bytes


@runtime_checkable
class RangeSource(Protocol):
    """Bytes of which any range can be read, as often as one likes, by several tasks at once.

    Whoever takes a range source calls `size` first, once, and `aclose` last, once.
    """

    async def size(self) -> int:
        """Return the number of bytes."""
        ...

    async def read_range(self, start: int, end: int, /) -> bytes:
        """Return the bytes from `start` up to `end`, all of them; `end` is never above the size.

        Any other number of bytes is taken for an error. Where the bytes have changed since `size`,
        raise, or let the tags of the message find out.
        """
        ...

    async def aclose(self) -> None:
        """Let go of what this source itself opened."""
        ...


SeekableSource = RangeSource | bytes | bytearray | memoryview | PathLike
"""What can be read at random: a message in memory, the path of a file, or any `RangeSource`."""


def open_range_source(source: object) -> RangeSource:
    """Return a source of ranges; raises `TypeError` with advice for what is none. Nothing is read yet."""
    if isinstance(source, bytes | bytearray | memoryview):
        return BytesRangeSource(source)
    if isinstance(source, str | os.PathLike):
        return FileRangeSource(source)
    if isinstance(source, RangeSource) and not isinstance(source, type):
        return source
    raise TypeError(
        f"{type(source).__name__} is not a source of ranges: give bytes, the path of a file, "
        "or an object with size(), read_range(start, end) and aclose()"
    )


class BytesRangeSource:
    """Ranges of bytes in memory."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._view = flat_view(memoryview(data))

    async def size(self) -> int:
        return len(self._view)

    async def read_range(self, start: int, end: int, /) -> bytes:
        return bytes(self._view[start:end])

    async def aclose(self) -> None:
        """Do nothing: the bytes are the caller's."""


class FileRangeSource(OwnedFile):
    """Ranges of a file, which is opened when its size is asked for. Reads run in threads."""

    def __init__(self, path: PathLike) -> None:
        super().__init__(lambda: _open_regular(path))
        self._seeking = ThreadLock()

    async def size(self) -> int:
        return await self.in_thread(self._size)

    def _size(self) -> int:
        with self.use() as file:
            return os.fstat(file.fileno()).st_size

    async def read_range(self, start: int, end: int, /) -> bytes:
        return await self.in_thread(lambda: self._read(start, end))

    def _read(self, start: int, end: int) -> bytes:
        if self._file is None:
            raise ValueError("read_range() before size() or after aclose()")
        parts = []
        with self.use() as file:
            while start < end and (part := self._read_some(file, start, end - start)):
                parts.append(part)
                start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_some(self, file: IO[bytes], start: int, length: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(file.fileno(), length, start)
        with self._seeking:  # Windows
            file.seek(start)
            return file.read(length)


def _open_regular(path: PathLike) -> IO[bytes]:
    if is_special(path):  # it has no ranges, and opening it may block for ever
        raise OSError(errno.EINVAL, "not a regular file: read it with open()", str(path))
    return open(path, "rb", buffering=0)


@contextmanager
def _no_end() -> Iterator[None]:
    """Let no exception through that whoever iterates over our stream would take for its end."""
    try:
        yield
    except (StopAsyncIteration, anyio.EndOfStream) as error:
        raise RuntimeError(f"the source raised {type(error).__name__}") from error


class Ranges:
    """A source of ranges whose answers are as long as was asked for.

    `slots` are for whoever reads several ranges at once. Made in the event loop that uses it.
    """

    def __init__(self, source: RangeSource, concurrency: int) -> None:
        self._source = source
        self.slots: anyio.Semaphore = anyio.Semaphore(concurrency, fast_acquire=True)
        # The beginning is not read again: a small message may be in it as a whole.
        self._start = bytearray()
        self.size: int = 0
        self.fetched: int = 0

    async def open(self) -> None:
        """Ask for the size."""
        with _no_end():
            self.size = await self._source.size()

    async def read_on(self, length: int) -> bytes:
        """Return up to so many bytes behind what this method returned before, and keep them."""
        start = len(self._start)
        data = await self.read(start, min(start + length, self.size))
        self._start += data
        return data

    async def read(self, start: int, end: int) -> bytes:
        """Return a range; raises `MessageError` where the source gives fewer or more bytes."""
        if end <= len(self._start) or start >= end:
            return bytes(self._start[start:end])
        with _no_end():
            data = as_bytes(await self._source.read_range(start, end))
        self.fetched += len(data)
        if len(data) < end - start:
            raise TruncatedMessageError(
                f"the source gave {len(data)} bytes for the range {start} to {end}, "
                f"though it has {self.size} bytes: did it change?"
            )
        if len(data) > end - start:
            raise MalformedMessageError(
                f"the source gave {len(data)} bytes for the range {start} to {end}: does it know ranges?"
            )
        return data

    async def aclose(self) -> None:
        """Let the source go."""
        self._start.clear()
        await self._source.aclose()
