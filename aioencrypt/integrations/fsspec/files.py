"""Open files of the encrypted file system, for callers that block and for callers that await."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from io import IOBase
from types import TracebackType
from typing import Any

import attrs
from fsspec.asyn import sync

from aioencrypt.integrations.fsspec.target import TargetRanges, TargetWriter
from aioencrypt.integrations.fsspec.types import AsyncFile, BufferedFile, Cache
from aioencrypt.runtime.event_loops import start_in_loop
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


class OpenMessage:
    """The plaintext of a message in a file of the target, which somebody may replace meanwhile."""

    def __init__(self, stream: SeekableDecryptStream, ranges: TargetRanges) -> None:
        self._stream = stream
        self._ranges = ranges
        self.length: int = stream.length

    async def read_on(self, start: int, end: int) -> bytes:
        """Read a range at the position of the stream, so that reads in a row fetch ahead."""
        async with self._ranges.watched():
            # Whoever reads by the offsets of an array has integers of NumPy.
            self._stream.seek(int(start))
            return await self._stream.read(int(end - start))

    async def read_part(self, start: int | None, end: int | None) -> bytes:
        """Read what a slice of these bounds has: negative ones count from the end."""
        first, stop, _ = slice(start, end).indices(self.length)
        async with self._ranges.watched():
            return await self._stream.read_at(first, max(0, stop - first))

    async def aclose(self) -> None:
        """Let go of everything."""
        await self._stream.aclose()


class ReadFile(BufferedFile):
    """The plaintext of a message, for callers that block: it is decrypted on the loop of its file system."""

    def __init__(
        self,
        fs: Any,
        path: str,
        *,
        message: OpenMessage,
        block_size: int | None,
        cache_type: str | None,
        cache_options: dict[str, Any] | None,
        given: Mapping[str, Any],
    ) -> None:
        self._message = message
        self._reading = ThreadLock()
        # Where lines are taken from: a block of the plaintext, and where it starts.
        self._block = b""
        self._block_start = 0
        own = cache_type in (None, FrameCache.name)
        super().__init__(
            fs,
            path,
            block_size=block_size or READ_BLOCK_LENGTH,
            cache_type="none" if own else cache_type,
            cache_options=cache_options,
            size=message.length,
            **given,  # for a copy that another process opens
        )
        if own:
            # Not a method of this file: without a cycle, one that nobody closes ends when it is let go.
            fetch = partial(_fetch, fs, message, self._reading)
            self.cache: Any = FrameCache(self.blocksize, fetch, self.size)

    def _fetch_range(self, start: int, end: int) -> bytes:
        return _fetch(self.fs, self._message, self._reading, start, end)

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return a line with its end, or `size` bytes of it; it comes from a block that many lines share."""
        limit = self.size if size is None or size < 0 else size
        parts, wanted = [], limit
        while wanted > 0 and (part := self._line_in_block(wanted)):
            parts.append(part)
            wanted -= len(part)
            if part.endswith(b"\n"):
                break
        return b"".join(parts)

    def _line_in_block(self, limit: int) -> bytes:
        offset = self.loc - self._block_start
        if not 0 <= offset < len(self._block) or self.closed:
            self._block_start, offset = self.loc, 0
            self._block = self.read(self.blocksize)
        end = self._block.find(b"\n", offset) + 1 or len(self._block)
        part = self._block[offset : min(end, offset + limit)]
        self.loc: int = self._block_start + offset + len(part)
        return part

    def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        return IOBase.readlines(self, -1 if hint is None else hint)

    @property
    def details(self) -> dict[str, Any]:
        """What `info` says of the version that is open."""
        return {**self.fs.info(self.path, **self.kwargs), "size": self.size}

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._block = b""
            sync(self.fs.loop, self._message.aclose)

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

    def seekable(self) -> bool:
        """Say yes at the start of an empty file: there text may begin with a byte order mark.

        `TextIOWrapper` asks this and `tell` only. `seek` is an error: a message is written in order.
        """
        return self.writable() and self.loc == 0

    def _upload_chunk(self, final: bool = False) -> None:
        try:
            sync(self.fs.loop, self._writer.write_block, self.buffer.getvalue(), final, self.autocommit)
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
            self.closed: bool = True
            warnings.warn(f"{self!r} was not closed, and is dropped", ResourceWarning, 2, self)
            with suppress(RuntimeError):  # a forked process has no loop to leave it to, and no right
                start_in_loop(self.fs.loop, self._writer.discard)


@attrs.frozen
class WaitingFile:
    """A file that is written, and waits for the end of a transaction to be put in its place."""

    _loop: Any
    _writer: TargetWriter
    path: str

    def commit(self) -> None:
        """Put the file in its place."""
        sync(self._loop, self._writer.commit)

    def discard(self) -> None:
        """Drop what was written."""
        sync(self._loop, self._writer.discard)


class AsyncReadFile(AsyncFile):
    """The plaintext of a message, for callers that await."""

    def __init__(self, fs: Any, path: str, *, message: OpenMessage) -> None:
        self._message = message
        super().__init__(fs, path, cache_type="none", size=message.length)

    async def _fetch_range(self, start: int, end: int) -> bytes:
        return await self._message.read_on(start, end)

    async def close(self) -> None:
        await self._message.aclose()
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
            await self._writer.write_block(self.buffer.getvalue(), final, True)
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
            self.closed: bool = True
            warnings.warn(f"{self!r} was not closed, and stays unfinished", ResourceWarning, 2, self)


def _fetch(fs: Any, message: OpenMessage, reading: ThreadLock, start: int, end: int) -> bytes:
    with reading:  # some caches fetch ahead in a thread of their own
        data: bytes = sync(fs.loop, message.read_on, start, end)
        return data
