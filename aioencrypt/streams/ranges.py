"""Range sources: the protocol for reading any range of bytes, implemented by bytes and files."""

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
    """A source that can read any range of its bytes, repeatedly and from several tasks at once.

    Users of a range source call `size` first and once, and `aclose` last and once.
    """

    async def size(self) -> int:
        """Return the number of bytes."""
        ...

    async def read_range(self, start: int, end: int, /) -> bytes:
        """Return all bytes from `start` up to `end`; `end` never exceeds the size.

        Any other number of bytes is an error. If the content has changed since `size`, raise an exception;
        otherwise the tags of the message fail to verify.
        """
        ...

    async def aclose(self) -> None:
        """Close what this source opened."""
        ...


SeekableSource = RangeSource | bytes | bytearray | memoryview | PathLike
"""What can be read at random: a message in memory, the path of a file, or any `RangeSource`."""


def open_range_source(source: object) -> RangeSource:
    """Return a range source; raises `TypeError` with advice for other types. Does not read yet."""
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
    """Ranges of a file. `size` opens the file; reads run in threads."""

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
    if is_special(path):  # it has no ranges, and opening it may block forever
        raise OSError(errno.EINVAL, "not a regular file: read it with open()", str(path))
    return open(path, "rb", buffering=0)


@contextmanager
def _end_as_error() -> Iterator[None]:
    """Convert exceptions that a consumer of our stream would take for its end."""
    try:
        yield
    except (StopAsyncIteration, anyio.EndOfStream) as error:
        raise RuntimeError(f"the source raised {type(error).__name__}") from error


class Ranges:
    """A range source whose results are checked for their length.

    `slots` limits concurrent reads. Create it in the event loop that uses it.
    """

    def __init__(self, source: RangeSource, concurrency: int) -> None:
        self._source = source
        self.slots: anyio.Semaphore = anyio.Semaphore(concurrency, fast_acquire=True)
        # The bytes read with the header, which may be the whole of a small message.
        self._start = bytearray()
        self.size: int = 0
        self.fetched: int = 0

    async def open(self) -> None:
        """Open the source and get its size."""
        with _end_as_error():
            self.size = await self._source.size()

    async def read_on(self, length: int) -> bytes:
        """Return up to `length` bytes after those that this method returned before, and keep them."""
        start = len(self._start)
        data = await self.read(start, min(start + length, self.size))
        self._start += data
        return data

    async def read(self, start: int, end: int) -> bytes:
        """Return a range; raises `MessageError` if the source returns fewer or more bytes."""
        if end <= len(self._start) or start >= end:
            return bytes(self._start[start:end])
        with _end_as_error():
            data = as_bytes(await self._source.read_range(start, end))
        self.fetched += len(data)
        if len(data) < end - start:
            raise TruncatedMessageError(
                f"the source gave {len(data)} bytes for the range {start} to {end}, "
                f"though it has {self.size} bytes: did it change?"
            )
        if len(data) > end - start:
            raise MalformedMessageError(
                f"the source gave {len(data)} bytes for the range {start} to {end}: does it support ranges?"
            )
        return data

    async def aclose(self) -> None:
        """Close the source."""
        self._start.clear()
        await self._source.aclose()
