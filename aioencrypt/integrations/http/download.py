"""A stored message that is decrypted into one HTTP response, whatever the framework."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from inspect import isawaitable
from typing import Any, Protocol

from aioencrypt.client import EncryptionClient, Provider
from aioencrypt.errors import PlaintextLengthError, SignaturePolicyError
from aioencrypt.format import MessageHeader
from aioencrypt.inspection import inspect_message
from aioencrypt.integrations.http.conditions import RequestHead
from aioencrypt.policies import Limits, Release, SignaturePolicy
from aioencrypt.runtime.arguments import check_choice
from aioencrypt.runtime.event_loops import BackgroundTask, call_later
from aioencrypt.runtime.offload import wait_shielded
from aioencrypt.streams.decrypt import DecryptStream
from aioencrypt.streams.ranges import RangeSource, SeekableSource, open_range_source
from aioencrypt.streams.seekable import SeekableDecryptStream
from aioencrypt.streams.sources import Source

_CHUNK_LENGTH = 256 * 1024
# What is read ahead for a response waits here, and nothing else: nobody reads twice.
_CACHE_LENGTH = 1024 * 1024
# The first piece is in memory already, since the header was read.
_PIECE_LENGTHS = (8 * 1024, 256 * 1024, 1024 * 1024)
# Sources are closed also while a task is being cancelled, but not for ever.
_CLOSING_SECONDS = 10.0

Write = Callable[[bytes], Awaitable[object]]


class OpenMessage(Protocol):
    """A message whose header is verified."""

    @property
    def header(self) -> MessageHeader: ...

    @property
    def length(self) -> int | None:
        """The length of the plaintext in bytes, where it is known."""
        ...

    @property
    def ranges(self) -> bool:
        """Whether requests for a part of it are answered with that part."""
        ...

    async def write_to(self, write: Write, start: int, end: int | None) -> None:
        """Write the plaintext from `start` up to `end`, or to the end for None."""
        ...

    def abandon(self) -> None:
        """Declare that nothing of the plaintext is wanted."""
        ...


def etag_of(message: OpenMessage) -> str:
    """Return a strong entity tag: no two messages share a message id."""
    return f'"{message.header.message_id.hex()}"'


class Download:
    """A message to be decrypted into a response, and everything that was said about it.

    Wrong arguments are `ValueError` and `TypeError` here; everything else is raised when it is opened.
    """

    def __init__(
        self,
        source: Source | SeekableSource,
        provider: Provider,
        *,
        encryption_context: Mapping[str, str] | None,
        signature_policy: SignaturePolicy,
        accept_unverified_signature: bool,
        limits: Limits | None,
        plaintext_length: int | None,
        client: EncryptionClient | None,
    ) -> None:
        self._client = client or EncryptionClient()
        self._source: Any = source
        self._provider = provider
        self._context = encryption_context
        self._policy = check_choice("signature_policy", signature_policy, SignaturePolicy)
        self._accept = accept_unverified_signature and self._policy is SignaturePolicy.ALLOW
        self._limits = limits
        self._length = plaintext_length
        self._ranged = _has_ranges(source)
        if plaintext_length is not None and self._ranged:
            raise ValueError("plaintext_length is for sources without ranges: the others know it themselves")
        # Nothing happens here, but wrong arguments are told.
        self._stream(b"" if self._ranged else source, Release.STREAM)

    @asynccontextmanager
    async def opened(self, head: RequestHead) -> AsyncIterator[OpenMessage]:
        """Open the message as a request needs it, and close it and its source in the end."""
        async with AsyncExitStack() as stack:
            yield await self._open(head, stack)

    async def _open(self, head: RequestHead, stack: AsyncExitStack) -> OpenMessage:
        if not self._ranged:
            stack.push_async_callback(_close, self._source)
            stream = self._stream(self._source, self._release(head, self._length))
            return _StreamedMessage(await stack.enter_async_context(stream), self._length, ranges=False)
        ranges = _SharedRanges(open_range_source(self._source))
        stack.push_async_callback(_close, ranges.source)
        seekable = self._client.open_seekable(
            ranges,
            self._provider,
            encryption_context=self._context,
            # Who reads everything verifies the signature, too.
            accept_unverified_signature=self._accept and head.range is not None,
            limits=self._limits,
            cache_length=_CACHE_LENGTH,
        )
        try:
            await stack.enter_async_context(seekable)
            if self._policy is not SignaturePolicy.REQUIRE:
                return _SeekableMessage(seekable)
        except SignaturePolicyError:
            pass
        length = await _plaintext_length(ranges)
        stream = self._stream(_RangeReader(ranges), self._release(head, length))
        return _StreamedMessage(await stack.enter_async_context(stream), length, ranges=self._accept)

    def _release(self, head: RequestHead, length: int | None) -> Release:
        # Without a length, the end of a connection is the end of the content in HTTP/1.0: a response cannot
        # be cut off so that the client notices.
        return Release.VERIFIED if length is None and head.version < (1, 1) else Release.STREAM

    def _stream(self, source: Any, release: Release) -> DecryptStream:
        return self._client.decrypt_stream(
            source,
            self._provider,
            encryption_context=self._context,
            signature_policy=self._policy,
            limits=self._limits,
            release=release,
        )


class _SeekableMessage:
    """A message of which only the frames are read that are asked for; its length is verified."""

    ranges = True

    def __init__(self, stream: SeekableDecryptStream) -> None:
        self._stream = stream
        self.header = stream.header
        self.length = stream.length

    async def write_to(self, write: Write, start: int, end: int | None) -> None:
        self._stream.seek(start)
        while left := (self.length if end is None else end) - self._stream.tell():
            await write(await self._stream.read(min(_CHUNK_LENGTH, left)))

    def abandon(self) -> None:
        """Do nothing: leaving early is fine."""


class _StreamedMessage:
    """A message that is read from the start to the end; its length is a claim until then."""

    def __init__(self, stream: DecryptStream, length: int | None, *, ranges: bool) -> None:
        self._stream = stream
        self.header = stream.header
        self.length = length
        self.ranges = ranges

    async def write_to(self, write: Write, start: int, end: int | None) -> None:
        written, last = 0, b""
        async for chunk in self._stream:
            written += len(chunk)
            if self.length is not None and written > self.length:
                raise PlaintextLengthError(expected=self.length, actual=written)
            if written == self.length:
                # With these bytes the client has everything, so they wait until everything is verified.
                last = chunk
            else:
                await write(chunk)
        if self.length is not None and written != self.length:
            raise PlaintextLengthError(expected=self.length, actual=written)
        if last:
            await write(last)

    def abandon(self) -> None:
        self._stream.abandon()


class _SharedRanges:
    """A source of ranges for several readers in turn: none closes it, and it keeps the first bytes."""

    def __init__(self, source: RangeSource) -> None:
        self.source = source
        self._size: int | None = None
        self._start = b""

    async def size(self) -> int:
        if self._size is None:
            self._size = await self.source.size()
        return self._size

    async def read_range(self, start: int, end: int, /) -> bytes:
        if end <= len(self._start):
            return self._start[start:end]
        data = await self.source.read_range(start, end)
        if start == 0 and not self._start:
            self._start = data
        return data

    async def aclose(self) -> None:
        """Do nothing: whoever opened the source closes it."""


class _RangeReader:
    """Reads a source of ranges from the start to the end."""

    def __init__(self, ranges: _SharedRanges) -> None:
        self._ranges = ranges
        self._position = 0
        self._lengths = iter(_PIECE_LENGTHS)

    async def read(self, n: int, /) -> bytes:
        length = next(self._lengths, _PIECE_LENGTHS[-1])
        start = self._position
        self._position = min(start + length, await self._ranges.size())
        return await self._ranges.read_range(start, self._position) if start < self._position else b""


async def _plaintext_length(ranges: _SharedRanges) -> int | None:
    """Return the length of the plaintext of a signed message as its length in all says it."""
    # The header was parsed before, within the limits of the client.
    found = await inspect_message(ranges, limits=Limits(max_header_length=None))
    footer = found.algorithm_suite.footer_length
    end = await ranges.size()
    start = max(0, end - footer)
    # Some writers make signatures of other lengths: then it is not known before the end.
    announced = int.from_bytes(await ranges.read_range(start, min(start + 2, end)), "big")
    return found.plaintext_length if announced == footer - 2 else None


def _has_ranges(source: object) -> bool:
    return isinstance(source, bytes | bytearray | memoryview | str | os.PathLike | RangeSource)


async def _close(source: Any) -> None:
    """Close a source of any kind, if it can be closed; also when this task is cancelled meanwhile."""
    close = getattr(source, "aclose", None) or getattr(source, "close", None)
    if close is None:
        return
    failures: list[Exception] = []

    async def run() -> None:
        try:
            closing = close()
            if isawaitable(closing):
                await closing
        except Exception as error:  # raised below
            failures.append(error)

    # A task of its own, because asyncio's own cancellation passes through a shield.
    task = BackgroundTask()
    task.start(run)
    forget = call_later(_CLOSING_SECONDS, task.cancel)
    try:
        await wait_shielded(task.ended)
    finally:
        forget()
    if failures:
        raise failures[0]
