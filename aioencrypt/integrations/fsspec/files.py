"""Open files of the encrypted file system, for callers that block and for callers that await."""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any

from fsspec.asyn import sync

from aioencrypt.integrations.fsspec.provider import leave_to_loop
from aioencrypt.integrations.fsspec.target import TargetWriter
from aioencrypt.integrations.fsspec.types import AsyncFile, BufferedFile, Cache
from aioencrypt.runtime.threads import ThreadLock
from aioencrypt.streams.seekable import SeekableDecryptStream

READ_BLOCK_LENGTH = 64 * 1024
WRITE_BLOCK_LENGTH = 1024 * 1024
_KEPT_LENGTH = 4 * 1024 * 1024

_log = logging.getLogger(__name__)


class FrameCache(Cache):
    """Asks for what is read and no more; for a block where reads go on where the last one ended.

    A read is a hop to the event loop and back. What is fetched ahead, and kept, is decided below.
    """

    name = "frames"

    def __init__(self, blocksize: int, fetcher: Any, size: int) -> None:
        super().__init__(blocksize, fetcher, size)
        self._start = 0
        self._kept = b""
        self._next = -1

    def _fetch(self, start: int | None, stop: int | None) -> bytes:
        start = 0 if start is None else start
        end = self.size if stop is None else min(stop, self.size)
        if start >= end:
            return b""
        if not (self._start <= start and end <= self._start + len(self._kept)):
            ahead = self.blocksize if start == self._next else 0
            fetched: bytes = self.fetcher(start, min(self.size, max(end, start + ahead)))
            if len(fetched) > _KEPT_LENGTH:
                self._next = end
                return fetched[: end - start]
            self._start, self._kept = start, fetched
        self._next = end
        return self._kept[start - self._start : end - self._start]


class ReadFile(BufferedFile):
    """The plaintext of a message, for callers that block: it is decrypted on the loop of its file system."""

    def __init__(
        self,
        fs: Any,
        path: str,
        *,
        stream: SeekableDecryptStream,
        block_size: int | None,
        cache_type: str | None,
        cache_options: dict[str, Any] | None,
    ) -> None:
        self._stream = stream
        self._reading = ThreadLock()
        own = cache_type in (None, FrameCache.name)
        super().__init__(
            fs,
            path,
            block_size=block_size or READ_BLOCK_LENGTH,
            cache_type="none" if own else cache_type,
            cache_options=cache_options,
            size=stream.length,
        )
        if own:
            # Not a method of this file: without a cycle, one that nobody closes ends when it is let go.
            fetch = partial(_fetch, fs, stream, self._reading)
            self.cache = FrameCache(self.blocksize, fetch, self.size)

    def _fetch_range(self, start: int, end: int) -> bytes:
        return _fetch(self.fs, self._stream, self._reading, start, end)

    def close(self) -> None:
        if not self.closed:
            super().close()
            sync(self.fs.loop, self._stream.aclose)

    def __del__(self) -> None:
        """Do nothing: what is open is memory."""


class WriteFile(BufferedFile):
    """A message that is written by a caller who blocks; it appears when the file is closed.

    Closing the file because of an exception drops it: one that is in flight then, and was not when the
    file was opened. Most of those who close files do not say why.
    """

    def __init__(
        self, fs: Any, path: str, *, writer: TargetWriter, block_size: int | None, autocommit: bool
    ) -> None:
        self._writer = writer
        self._outer = sys.exception()
        self._finished = False
        super().__init__(fs, path, "wb", block_size or WRITE_BLOCK_LENGTH, autocommit)

    def _upload_chunk(self, final: bool = False) -> None:
        try:
            sync(self.fs.loop, write_block, self._writer, self.buffer.getvalue(), final, self.autocommit)
        except BaseException:
            self._drop()
            raise
        self._finished = final

    def _drop(self) -> None:
        self.closed = True
        sync(self.fs.loop, self._writer.discard)

    def commit(self) -> None:
        """Put the file in its place: for transactions."""
        if self._finished:  # and was not dropped
            sync(self.fs.loop, self._writer.commit)
            self.fs.invalidate_cache(self.path)

    def discard(self) -> None:
        """Drop what was written; a file that is in its place stays there."""
        if not self.closed or not self.autocommit:
            self._drop()

    def close(self) -> None:
        """Put the file in its place, or drop it: see above."""
        if self.closed:
            return
        outer, self._outer = self._outer, None
        error = sys.exception()
        if error is None or error is outer:
            super().close()
        else:
            _log.warning("%r is dropped: it was closed because of a %s", self, type(error).__name__)
            self._drop()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is not None:
            self.discard()
        self.close()

    def __del__(self) -> None:
        """Drop what was never closed; nobody may wait for a loop here."""
        if not self.closed:
            self.closed = True
            warnings.warn(f"{self!r} was not closed, and is dropped", ResourceWarning, 2, self)
            with suppress(RuntimeError):  # a forked process has no loop to leave it to, and no right
                leave_to_loop(self.fs.loop, self._writer.discard)


class AsyncReadFile(AsyncFile):
    """The plaintext of a message, for callers that await."""

    def __init__(self, fs: Any, path: str, *, stream: SeekableDecryptStream) -> None:
        self._stream = stream
        super().__init__(fs, path, cache_type="none", size=stream.length)

    async def _fetch_range(self, start: int, end: int) -> bytes:
        return await read_range(self._stream, start, end)

    async def close(self) -> None:
        await self._stream.aclose()
        await super().close()

    def __del__(self) -> None:
        """Do nothing: what is open is memory."""


class AsyncWriteFile(AsyncFile):
    """A message that is written by a caller who awaits; use it in `async with`."""

    def __init__(self, fs: Any, path: str, *, writer: TargetWriter, block_size: int | None) -> None:
        self._writer = writer
        super().__init__(fs, path, "wb", block_size or WRITE_BLOCK_LENGTH)

    async def _upload_chunk(self, final: bool = False) -> None:
        try:
            await write_block(self._writer, self.buffer.getvalue(), final, True)
        except BaseException:
            await self.discard()
            raise

    async def discard(self) -> None:
        """Drop what was written; a file that is in its place stays there."""
        if not self.closed:
            self.closed = True
            await self._writer.discard()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is not None:
            await self.discard()
        await self.close()

    def __del__(self) -> None:
        """Warn: nobody may await here."""
        if not self.closed:
            self.closed = True
            warnings.warn(f"{self!r} was not closed, and stays unfinished", ResourceWarning, 2, self)


def _fetch(fs: Any, stream: SeekableDecryptStream, reading: ThreadLock, start: int, end: int) -> bytes:
    with reading:  # some caches fetch ahead in a thread of their own
        data: bytes = sync(fs.loop, read_range, stream, start, end)
        return data


async def read_range(stream: SeekableDecryptStream, start: int, end: int) -> bytes:
    """Read a range at the position of a stream, so that reads in a row fetch ahead."""
    stream.seek(start)
    return await stream.read(end - start)


async def write_block(writer: TargetWriter, data: bytes, final: bool, autocommit: bool) -> None:
    """Write bytes, and the end after the last of them."""
    await writer.write(data)
    if final:
        await writer.finish()
        if autocommit:
            await writer.commit()
