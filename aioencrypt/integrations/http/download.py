"""Decrypt a stored message into an HTTP response, independent of the framework."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from inspect import isawaitable
from typing import Any, Protocol

import attrs

from aioencrypt.client import EncryptionClient, Provider
from aioencrypt.errors import MalformedMessageError, PlaintextLengthError
from aioencrypt.format import MessageHeader
from aioencrypt.inspection import MessageInspection, inspect_message
from aioencrypt.integrations.http.conditions import Plan, RequestHead, plan_response
from aioencrypt.policies import Limits, Release, SignaturePolicy
from aioencrypt.runtime.arguments import check_choice, check_type
from aioencrypt.runtime.event_loops import BackgroundTask, call_later, find_loop
from aioencrypt.runtime.offload import wait_shielded
from aioencrypt.runtime.secrets import hides_arguments
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


class _MakePlan(Protocol):
    def __call__(self, *, etag: str, length: int | None, ranges: bool) -> Plan: ...


class _Message(Protocol):
    """A message whose header is verified."""

    async def write_to(self, write: Write, start: int, end: int | None) -> None:
        """Write the plaintext from `start` up to `end`, or to the end for None."""
        ...

    def abandon(self) -> None:
        """Declare that nothing of the plaintext is wanted."""
        ...


@attrs.frozen
class Answer:
    """The status and the headers of a response, and the content that follows."""

    plan: Plan
    _message: _Message

    async def write_to(self, write: Write) -> None:
        """Write the content; nothing where the response has none."""
        if self.plan.content:
            await self._message.write_to(write, self.plan.start, self.plan.end)
        else:
            self._message.abandon()


class Download:
    """A message to be decrypted into a response, and everything that was said about it.

    Wrong arguments are `ValueError` and `TypeError` here; everything else is raised when it is opened.
    """

    @hides_arguments
    def __init__(
        self,
        source: Source | SeekableSource,
        provider: Provider,
        *,
        encryption_context: Mapping[str, str] | None,
        signature_policy: SignaturePolicy,
        accept_unverified_signature: bool,
        limits: Limits | None,
        release: Release,
        plaintext_length: int | None,
        encryption_client: EncryptionClient | None,
    ) -> None:
        if isinstance(source, DecryptStream | SeekableDecryptStream):
            raise TypeError(
                f"a {type(source).__name__} gives plaintext, and the response decrypts: "
                "give the message itself, such as its path, its bytes or an S3RangeSource"
            )
        self._client = encryption_client or EncryptionClient()
        self.ranged: bool = _has_ranges(source)
        self._source: Any = source
        self._provider = provider
        self._context = encryption_context
        self._policy = check_choice("signature_policy", signature_policy, SignaturePolicy)
        check_type("accept_unverified_signature", accept_unverified_signature, bool)
        self._accept = accept_unverified_signature and self._policy is SignaturePolicy.ALLOW
        self._limits = self._client.limits if limits is None else limits
        self._release = check_choice("release", release, Release)
        self._length = plaintext_length
        if plaintext_length is not None and self.ranged:
            raise ValueError("plaintext_length is for sources without ranges: the others know it themselves")
        if accept_unverified_signature and self._release is Release.VERIFIED:
            raise ValueError(
                "accept_unverified_signature=True reads parts, and Release.VERIFIED needs everything: "
                "give one of them"
            )
        # Nothing happens here, but wrong arguments are told.
        if self.ranged:
            open_range_source(source)
        self._stream(b"" if self.ranged else source, self._release)

    @asynccontextmanager
    async def opened(
        self, head: RequestHead, headers: Iterable[tuple[str, str]], status: int
    ) -> AsyncIterator[Answer]:
        """Open the message as a request needs it, and close it and its source in the end.

        `headers` and `status` are those of a response with the whole content.
        """
        plan = partial(plan_response, head, headers=list(headers), status=status)
        async with AsyncExitStack() as stack:
            yield await self._open(head, plan, stack)

    async def _open(self, head: RequestHead, plan_for: _MakePlan, stack: AsyncExitStack) -> Answer:
        if not self.ranged:
            stack.push_async_callback(_close, self._source)
            whole = await self._enter_whole(self._source, head, self._length, stack)
            plan = plan_for(etag=_etag_of(whole.header), length=self._length, ranges=False)
            return Answer(plan, _StreamedMessage(whole, self._length))
        ranges = _SharedRanges(open_range_source(self._source))
        stack.push_async_callback(_close, ranges.source)
        found = await inspect_message(ranges, limits=self._limits)
        length = found.plaintext_length if await _is_typical(ranges, found) else None
        in_parts = self._in_parts(found.signed)
        # Only a proper part is read without its signature. What decides that is what the response says.
        plan = plan_for(etag=_etag_of(found), length=length, ranges=in_parts)
        if in_parts and (plan.partial or not found.signed):
            parts = await self._enter_parts(ranges, stack)
            plan = plan_for(etag=_etag_of(parts.header), length=parts.length, ranges=True)
            if plan.partial or not found.signed:
                return Answer(plan, _SeekableMessage(parts))
            length = parts.length
        whole = await self._enter_whole(_RangeReader(ranges), head, length, stack)
        plan = plan_for(etag=_etag_of(whole.header), length=length, ranges=in_parts)
        if plan.partial:
            raise MalformedMessageError("the message changed while it was opened")
        return Answer(plan, _StreamedMessage(whole, length))

    def _in_parts(self, signed: bool) -> bool:
        """Return whether requests for a part of a message are answered with that part."""
        if self._release is Release.VERIFIED or self._policy is SignaturePolicy.REQUIRE:
            return False
        return self._accept or not signed

    async def _enter_parts(self, ranges: _SharedRanges, stack: AsyncExitStack) -> SeekableDecryptStream:
        return await stack.enter_async_context(
            self._client.open_seekable(
                ranges,
                self._provider,
                encryption_context=self._context,
                accept_unverified_signature=self._accept,
                limits=self._limits,
                cache_length=_CACHE_LENGTH,
            )
        )

    async def _enter_whole(
        self, source: object, head: RequestHead, length: int | None, stack: AsyncExitStack
    ) -> DecryptStream:
        # Without a length, the end of a connection is the end of the content in HTTP/1.0: a response cannot
        # be cut off so that the client notices.
        unmarked = length is None and head.version < (1, 1)
        release = Release.VERIFIED if unmarked else self._release
        return await stack.enter_async_context(self._stream(source, release))

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

    def __init__(self, stream: SeekableDecryptStream) -> None:
        self._stream = stream

    async def write_to(self, write: Write, start: int, end: int | None) -> None:
        self._stream.seek(start)
        while left := (self._stream.length if end is None else end) - self._stream.tell():
            await write(await self._stream.read(min(_CHUNK_LENGTH, left)))

    def abandon(self) -> None:
        """Do nothing: leaving early is fine."""


class _StreamedMessage:
    """A message that is read from the start to the end; its length is a claim until then."""

    def __init__(self, stream: DecryptStream, length: int | None) -> None:
        self._stream = stream
        self._length = length

    async def write_to(self, write: Write, start: int, end: int | None) -> None:
        written, last = 0, b""
        async for chunk in self._stream:
            written += len(chunk)
            if self._length is not None and written > self._length:
                raise PlaintextLengthError(expected=self._length, actual=written)
            if written == self._length:
                # With these bytes the client has everything, so they wait until everything is verified.
                last = chunk
            else:
                await write(chunk)
        if self._length is not None and written != self._length:
            raise PlaintextLengthError(expected=self._length, actual=written)
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


async def _is_typical(ranges: _SharedRanges, found: MessageInspection) -> bool:
    """Return whether a message ends as its length in all was computed.

    Some writers make signatures of other lengths: then it is not known before the end.
    """
    footer = found.algorithm_suite.footer_length
    if not footer:
        return True
    end = await ranges.size()
    start = max(0, end - footer)
    announced = int.from_bytes(await ranges.read_range(start, min(start + 2, end)), "big")
    return announced == footer - 2


def _etag_of(message: MessageHeader | MessageInspection) -> str:
    """Return a strong entity tag: no two messages share a message id."""
    return f'"{message.message_id.hex()}"'


def _has_ranges(source: object) -> bool:
    return isinstance(source, bytes | bytearray | memoryview | str | os.PathLike | RangeSource)


async def _close(source: Any) -> None:
    """Close a source of any kind, if it can be closed; also when this task is cancelled meanwhile."""
    close = getattr(source, "aclose", None) or getattr(source, "close", None)
    if close is None or find_loop() is None:
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
