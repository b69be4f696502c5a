"""The reading side of every sequential stream: read methods, iteration, and reads of the source."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from io import BytesIO
from time import perf_counter
from types import TracebackType
from typing import Self

from anyio import EndOfStream
from anyio.abc import ByteReceiveStream
from anyio.lowlevel import checkpoint

from aioencrypt.errors import IncompleteReadError, StreamError, UnverifiedStreamError
from aioencrypt.runtime.arguments import check_int, check_type
from aioencrypt.runtime.observation import Tally
from aioencrypt.streams.lifecycle import Closable, Lifecycle
from aioencrypt.streams.sources import Reader

# Yield to the event loop after this many reads that were served from a buffer or a source that never waits.
_READS_PER_TURN = 128
_SOURCE_READS_PER_TURN = 32
# A source that returns `_READS_AHEAD` pieces of `_WORTH_GATHERING` bytes without waiting is ahead of us: we
# gather its pieces into batches of up to `_GATHERED` bytes. If it waits after all, that delays one batch.
_READS_AHEAD = 8
_WORTH_GATHERING = 16 * 1024
# A read that took longer must have waited; otherwise it takes a few microseconds.
_WAITED_SECONDS = 50e-6
_GATHERED = 512 * 1024


class Intake:
    """Reads a source, yields to the event loop in between, and notices a source that is ahead of us."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._reads = 0
        self._ahead = 0
        # The length of the last piece, and of all pieces.
        self.last_length: int = 0
        self.taken: int = 0

    async def read(self) -> bytes:
        """Return the next piece, and ``b""`` at the end."""
        self._reads += 1
        if self._reads % _SOURCE_READS_PER_TURN == 0:
            await checkpoint()
        start = perf_counter()
        try:
            data = await self._reader.read()
        except (StopAsyncIteration, EndOfStream) as error:
            # A consumer would take these for the end of our stream (compare PEP 479).
            raise RuntimeError(f"the source raised {type(error).__name__}") from error
        waited = perf_counter() - start > _WAITED_SECONDS
        self._ahead = 0 if waited or len(data) < _WORTH_GATHERING else self._ahead + 1
        self.last_length = len(data)
        self.taken += len(data)
        return data

    def gathers(self, gathered: int) -> bool:
        """Tell whether to read another piece before working on `gathered` bytes; False if a read may wait."""
        return self._ahead >= _READS_AHEAD and gathered + self.last_length <= _GATHERED


class ByteStream(Lifecycle):
    """An asynchronous reader like `asyncio.StreamReader`, and an async iterable of chunks.

    Use it once, inside `async with`, from one task at a time. Every error is final: the next call raises it
    again. That includes a cancelled read, because an interrupted source may look as if it had ended.
    """

    def __init__(self, reader: Reader) -> None:
        super().__init__("stream")
        self._reader = reader
        self._intake = Intake(reader)
        # The rest of a chunk that a read returned in part.
        self._buffer = memoryview(b"")
        # `_next_chunk` returned no bytes.
        self._ended = False
        # Streams that return a message set this with its last bytes.
        self._finished = False
        self._iterated = False
        self._abandoned = False
        self._reads = 0
        self._given = 0

    @abstractmethod
    async def _next_chunk(self) -> bytes:
        """Return the next bytes; empty only at the end."""

    @property
    def _complete(self) -> bool:
        return self._finished and not self._buffer and not self._failure

    @property
    def _incomplete_reason(self) -> str:
        """The error text for leaving too early; this one is for streams that return a message."""
        return (
            "the stream was left before its last byte was handed out, so what was written is no message; "
            "read to the end, or call abandon() first"
        )

    def _tally(self) -> Tally:
        return Tally()

    def _resources(self) -> Sequence[Closable]:
        return [self._reader]

    def _forget(self) -> None:
        self._buffer = memoryview(b"")

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close(None if self._abandoned else exc_type or UnverifiedStreamError)
        if exc is None and not self._closed_complete and not self._abandoned:
            raise UnverifiedStreamError(self._incomplete_reason) from self._failure

    def abandon(self) -> None:
        """Declare that the rest is not needed, so that leaving `async with` does not raise."""
        self._abandoned = True

    async def aclose(self) -> None:
        """Close the stream; the source stays open. Does not raise if the stream is incomplete."""
        self._check_not_busy()
        await self._close()

    async def _chunk(self) -> bytes:
        """Return the buffered bytes, or the next chunk; empty at the end."""
        if self._buffer:
            chunk, self._buffer = bytes(self._buffer), memoryview(b"")
            return chunk
        if self._ended:
            return b""
        chunk = await self._next_chunk()
        self._ended = not chunk
        self._given += len(chunk)
        return chunk

    async def read(self, n: int = -1) -> bytes:
        """Return up to `n` bytes, or all remaining bytes if `n` is negative; ``b""`` only at the end.

        As with `asyncio.StreamReader`, fewer than `n` bytes do not mean the end. Raises `MessageError`,
        `PolicyError`, and the exceptions of the source.
        """
        check_type("n", n, int)
        async with self._exclusive():
            if n < 0:
                return await self._read_all()
            return await self._read_some(n)

    async def _read_all(self) -> bytes:
        # Grow step by step: one join at the end would block the event loop for 400 microseconds per megabyte.
        whole = BytesIO()
        # No local variable names a chunk: the first chunk of a message holds the encryption context.
        while whole.write(await self._chunk()):
            pass
        return whole.getvalue()

    async def _read_some(self, n: int) -> bytes:
        if n == 0:
            return b""
        await self._yield_sometimes()
        if not self._buffer:
            chunk = await self._chunk()
            if len(chunk) <= n:
                return chunk
            self._buffer = memoryview(chunk)
        taken, self._buffer = self._buffer[:n], self._buffer[n:]
        return bytes(taken)

    async def _yield_sometimes(self) -> None:
        self._reads += 1
        if self._buffer and self._reads % _READS_PER_TURN == 0:
            await checkpoint()

    async def readexactly(self, n: int) -> bytes:
        """Return exactly `n` bytes.

        Raises `IncompleteReadError` if the verified end comes first; the stream keeps the remaining bytes.
        """
        check_int("n", n, 0)
        async with self._exclusive():
            parts = []
            missing = n
            while missing:
                part = await self._read_some(missing)
                if not part:
                    break
                parts.append(part)
                missing -= len(part)
            data = b"".join(parts)
            if not missing:
                return data
            self._buffer = memoryview(data)
        raise IncompleteReadError(data, n)

    async def readline(self, limit: int = 65536) -> bytes:
        r"""Return the bytes up to and including the next ``\n``, or all remaining bytes; ``b""`` at the end.

        Raises `ValueError` for a line longer than `limit` bytes, of which nothing is lost.
        """
        check_int("limit", limit, 0)
        async with self._exclusive():
            await self._yield_sometimes()
            line = bytearray()
            while True:
                if not self._buffer:
                    self._buffer = memoryview(await self._chunk())
                if not self._buffer:
                    return bytes(line)
                found = _line_length(self._buffer[: limit + 1])
                end = found or len(self._buffer)
                if len(line) + end > limit:
                    self._buffer = memoryview(bytes(line) + bytes(self._buffer))
                    break
                line += self._buffer[:end]
                self._buffer = self._buffer[end:]
                if found:
                    return bytes(line)
        raise ValueError(f"a line is longer than limit={limit} bytes; read() the rest, or raise the limit")

    def tell(self) -> int:
        """Return the number of bytes that were read."""
        return self._given - len(self._buffer)

    def __aiter__(self) -> Self:
        # An HTTP client that sends its request again would send an empty body and succeed.
        if self._iterated:
            raise StreamError("the stream was iterated to its end: create another one to send it again")
        return self

    async def __anext__(self) -> bytes:
        async with self._exclusive():
            chunk = await self._chunk()
        if not chunk:
            self._iterated = True
            raise StopAsyncIteration
        return chunk

    def as_anyio(self) -> ByteReceiveStream:
        """Return this stream as an anyio byte stream, which raises `anyio.EndOfStream` at the end."""
        return _AnyioStream(self)


def _line_length(view: memoryview) -> int:
    """Return the length of the first line including its end, or 0 if there is no line end."""
    start, step = 0, 256
    while start < len(view):
        found = bytes(view[start : start + step]).find(b"\n")
        if found >= 0:
            return start + found + 1
        start, step = start + step, step * 2
    return 0


class _AnyioStream(ByteReceiveStream):
    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    async def receive(self, max_bytes: int = 65536) -> bytes:
        check_int("max_bytes", max_bytes, 1)
        data = await self._stream.read(max_bytes)
        if not data:
            raise EndOfStream
        return data

    def tell(self) -> int:
        return self._stream.tell()

    async def aclose(self) -> None:
        await self._stream.aclose()
