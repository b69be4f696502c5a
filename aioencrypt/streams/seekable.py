"""Reading a message at random: only the frames that are asked for are fetched and opened.

`SeekableDecryptStream` reads from a `RangeSource`, whose contract stands in `streams/ranges.py`: `size()`
first, then `read_range(start, end)` from several tasks at once, `aclose()` last. Opening takes the header
and the final frame, each once; the final frame authenticates the length. After that every frame is
fetched when it is wanted, and its tag verified before anything of it is handed out.

The signature of a message covers all of it, so nobody who reads a part can verify it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Self

from anyio.lowlevel import checkpoint

from aioencrypt.errors import (
    MessageError,
    SignaturePolicyError,
    StreamBusyError,
    StreamClosedError,
    StreamError,
    StreamNotEnteredError,
    TruncatedMessageError,
)
from aioencrypt.format import MessageHeader
from aioencrypt.materials import Provenance
from aioencrypt.runtime.event_loops import Call, loop_caller
from aioencrypt.runtime.observation import MessageWatch, Tally, current, watch_message
from aioencrypt.streams.decrypt import DecryptOptions
from aioencrypt.streams.driver import read_header_at
from aioencrypt.streams.frames import FrameReader, open_frame_reader
from aioencrypt.streams.ranges import Ranges, RangeSource

# A second read in a row fetches so much more than it was asked for, and each one after it twice as much.
_FIRST_AHEAD = 64 * 1024
_MOST_AHEAD = 4 * 1024 * 1024
_CHUNK_LENGTH = 256 * 1024
# A caller who takes single bytes from the cache lets the loop go on every so many reads.
_READS_PER_TURN = 128


class SeekableDecryptStream:
    """The plaintext of a message, as a file that can be read anywhere.

    Entering `async with` reads the header, fetches the data key, verifies the header and opens the
    final frame: every error of header, policy or key comes from there, and `header` and `length` are
    known after it. Leaving early is fine. An error is no end: the next read is a new attempt.

    `read`, `seek` and `tell` are for one task. `read_at` knows no position, and any number of tasks
    may call it at once.
    """

    def __init__(
        self,
        source: RangeSource,
        options: DecryptOptions,
        *,
        accept_unverified_signature: bool,
        cache_length: int,
        concurrency: int,
    ) -> None:
        self._source = source
        self._options = options
        self._accept_unverified_signature = accept_unverified_signature
        self._cache_length = cache_length
        self._concurrency = concurrency
        self._ranges: Ranges | None = None
        self._frames: FrameReader | None = None
        self._header: MessageHeader | None = None
        self._provenance: Provenance | None = None
        self._entered = False
        self._closed = False
        self._released = False
        self._running = 0
        self._busy = False
        self._position = 0
        self._expected = -1
        self._ahead = 0
        self._reads = 0
        self._given = 0
        self._watch: MessageWatch | None = None
        self._call_soon: Callable[[Call], None] | None = None
        self._failed_by: type[BaseException] | None = None

    async def __aenter__(self) -> Self:
        if self._entered:
            raise StreamError("a stream is entered once: make another one")
        self._entered = True
        self._watch = watch_message("decrypt", "seekable")
        if self._watch:
            self._call_soon = loop_caller()
        try:
            with current(self._watch):
                await self._open()
        except BaseException as error:
            self._failed_by = type(error)
            await self.aclose()
            raise
        return self

    async def _open(self) -> None:
        ranges = self._ranges = Ranges(self._source, self._concurrency)
        await ranges.open()
        machine = self._options.machine()
        start = await read_header_at(machine, ranges)
        self._check_signature(start.header)
        materials = await self._options.unlock(machine, start.header)
        machine.next_event()  # HeaderVerified
        self._header, self._provenance = start.header, materials.provenance
        self._frames = await open_frame_reader(
            ranges,
            machine,
            self._options.limits,
            cache_length=self._cache_length,
            concurrency=self._concurrency,
            offload=self._options.offload,
        )

    def _check_signature(self, header: MessageHeader) -> None:
        suite = header.algorithm_suite
        if suite.signed and not self._accept_unverified_signature:
            raise SignaturePolicyError(
                f"the message is signed ({suite.name}), and reading parts of it verifies no signature: "
                "read it with decrypt_stream, or give accept_unverified_signature=True "
                "if the tags of its frames are enough"
            )

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of everything. Reads of other tasks end as they would, and then the source is let go."""
        self._closed = True
        if not self._running and not self._released:
            self._released = True
            if self._frames:
                self._frames.clear()
            if self._watch:
                self._watch.tally = self._tally()
                self._watch.end(self._failed_by)
            await (self._ranges or self._source).aclose()

    def __del__(self) -> None:
        """Tell observers of the end: some who are given a file never close it."""
        if self._watch and self._call_soon and not self._released:
            self._watch.tally = self._tally()
            # Observers take locks, and whoever holds them now may be interrupted by this.
            self._call_soon(partial(self._watch.end, self._failed_by))

    def _tally(self) -> Tally:
        return Tally.of(
            self._header,
            self._provenance,
            plaintext_length=self._given,
            ciphertext_length=self._ranges.fetched if self._ranges else 0,
            frames=self._frames.opened if self._frames else 0,
        )

    @property
    def header(self) -> MessageHeader:
        """The header, verified; raises `StreamNotEnteredError` before `async with`."""
        if self._header is None:
            raise _not_entered()
        return self._header

    @property
    def provenance(self) -> Provenance:
        """Which key opened the data key; raises `StreamNotEnteredError` before `async with`."""
        if self._provenance is None:
            raise _not_entered()
        return self._provenance

    @property
    def length(self) -> int:
        """The length of the plaintext in bytes, verified; `StreamNotEnteredError` before `async with`."""
        if self._frames is None:
            raise _not_entered()
        return self._frames.length

    async def read_at(self, offset: int, n: int = -1) -> bytes:
        """Return `n` bytes from a position on, fewer only at the end; all the rest for a negative `n`.

        Any number of tasks may call this at once. Raises `MessageError` and what the source raises.
        """
        frames = self._open_frames()
        if offset < 0:
            raise ValueError(f"offset is {offset}; it must be 0 or more")
        end = frames.length if n < 0 else min(offset + n, frames.length)
        return await self._read(frames, offset, end, end)

    async def _read(self, frames: FrameReader, start: int, end: int, ahead: int) -> bytes:
        self._running += 1
        try:
            self._reads += 1
            if self._reads % _READS_PER_TURN == 0:
                await checkpoint()
            data = await frames.read(start, end, ahead)
            self._given += len(data)
            return data
        except Exception as error:
            self._failed_by = type(error)
            raise
        finally:
            self._running -= 1
            if self._closed:
                await self.aclose()

    def _open_frames(self) -> FrameReader:
        if self._frames is None:
            raise _not_entered()
        if self._closed:
            raise StreamClosedError("the stream is closed")
        return self._frames

    async def read(self, n: int = -1) -> bytes:
        """Return `n` bytes, fewer only at the end; all the rest for a negative `n`.

        Reading on where the last read ended fetches ahead, more each time. After an error the position
        is where it was. Raises `MessageError` and what the source raises.
        """
        with self._cursor() as frames:
            return await self._read_on(frames, n)

    async def _read_on(self, frames: FrameReader, n: int) -> bytes:
        start = self._position
        end = frames.length if n < 0 else min(start + n, frames.length)
        ahead = self._fetch_up_to(frames, start, end)
        self._expected = -1  # after an error there is no row
        try:
            data = await self._read(frames, start, end, ahead)
        except MessageError:
            if ahead == end:
                raise
            # Perhaps only frames are damaged that nobody asked for yet.
            self._ahead = 0
            data = await self._read(frames, start, end, end)
        self._position = self._expected = start + len(data)
        return data

    def _fetch_up_to(self, frames: FrameReader, start: int, end: int) -> int:
        """Return up to where to fetch frames, so that reads in a row find theirs already there."""
        if start != self._expected:
            self._ahead = 0
        elif start < end and not frames.has(end - 1):
            self._ahead = min(max(2 * self._ahead, _FIRST_AHEAD), _MOST_AHEAD, frames.most_ahead)
        else:
            return end
        return min(end + self._ahead, frames.length)

    @contextmanager
    def _cursor(self) -> Iterator[FrameReader]:
        frames = self._open_frames()
        if self._busy:
            raise StreamBusyError("another task is using the position of this stream: use read_at() instead")
        self._busy = True
        try:
            yield frames
        finally:
            self._busy = False

    async def readexactly(self, n: int) -> bytes:
        """Return exactly `n` bytes; raises `TruncatedMessageError` where fewer are left, and stays there."""
        if n < 0:
            raise ValueError(f"n is {n}; it must be 0 or more")
        with self._cursor() as frames:
            missing = self._position + n - frames.length
            if n and missing > 0:
                raise TruncatedMessageError(f"the stream ends {missing} bytes before the {n} asked for")
            return await self._read_on(frames, n)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position, as `io.IOBase.seek` does, and return it; nothing is read.

        It may be moved behind the end, where reads return ``b""``.
        """
        with self._cursor() as frames:
            if whence not in (io.SEEK_SET, io.SEEK_CUR, io.SEEK_END):
                raise ValueError(f"whence is {whence}; it must be 0, 1 or 2")
            position = offset + (0, self._position, frames.length)[whence]
            if position < 0:
                raise ValueError(f"the position would be {position}; it must be 0 or more")
            self._position = position
            return position

    def tell(self) -> int:
        """Return the position."""
        with self._cursor():
            return self._position

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self.read(_CHUNK_LENGTH)
        if not chunk:
            raise StopAsyncIteration
        return chunk


def _not_entered() -> StreamNotEnteredError:
    return StreamNotEnteredError("the stream is not open: use it in `async with`")
