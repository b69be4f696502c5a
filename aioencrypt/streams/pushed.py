"""Decrypt a message that the caller pushes piece by piece; a sink receives the plaintext."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aioencrypt.errors import StreamError
from aioencrypt.runtime.arguments import describe_type
from aioencrypt.runtime.observation import MessageWatch, Tally, current
from aioencrypt.runtime.secrets import hides_arguments
from aioencrypt.streams.decrypt import DecryptOptions, Opener
from aioencrypt.streams.lifecycle import Closable
from aioencrypt.streams.reading import Intake
from aioencrypt.streams.sources import Reader, open_source


class AsyncWriter(Protocol):
    """An object with a coroutine method `write(data)`, as most have."""

    def write(self, data: bytes, /) -> Awaitable[object]: ...


PlaintextSink = Callable[[bytes], Awaitable[object]] | AsyncWriter
"""What receives plaintext: an async function, or an object with an async `write`."""


class _NothingPushed(Exception):
    """All pushed bytes are consumed, and the caller may push more."""


class _Pushed:
    """A reader of the pushed bytes. Where others wait for more, it raises `_NothingPushed`."""

    def __init__(self) -> None:
        self._data: Reader = open_source(b"")
        self.ended = False

    def push(self, data: bytes | memoryview) -> None:
        self._data = open_source(data)

    async def read(self) -> bytes:
        data = await self._data.read()
        if not data and not self.ended:
            raise _NothingPushed
        return data

    async def aclose(self) -> None:
        self.push(b"")


class PushedMessage:
    """One message that the caller pushes piece by piece, and the sink of its plaintext."""

    def __init__(self, sink: PlaintextSink, options: DecryptOptions) -> None:
        # An object with `write` may report a short write. The result of a function means nothing.
        self._reports_length = hasattr(sink, "write")
        self._sink: Any = getattr(sink, "write", sink)
        if not callable(self._sink):
            raise TypeError(
                f"sink must be an async function or have an async write(), not {describe_type(sink)}"
            )
        self._pushed = _Pushed()
        self._intake = Intake(self._pushed)
        self._given = 0
        self.opener: Opener = Opener(options, self._intake.read)

    async def push(self, data: bytes | memoryview, watch: MessageWatch | None) -> None:
        """Take bytes, and pass the plaintext that they release to the sink."""
        self._pushed.push(data)
        await self._release(watch)

    async def end(self, watch: MessageWatch | None) -> None:
        """Pass the rest to the sink. Raises `TruncatedMessageError` if the message is not complete."""
        self._pushed.ended = True
        await self._release(watch)

    async def _release(self, watch: MessageWatch | None) -> None:
        try:
            if self.opener.header is None:
                with current(watch):
                    await self.opener.open()
            while await self._hand_over(await self.opener.next_chunk()):
                pass
        except _NothingPushed:
            return

    @hides_arguments
    async def _hand_over(self, chunk: bytes) -> bool:
        """Await the sink; returns False for an empty chunk."""
        if not chunk:
            return False
        answer = self._sink(chunk)
        if not inspect.isawaitable(answer):
            raise TypeError(
                f"sink returned {describe_type(answer)}, which cannot be awaited: "
                "give an async function, or an object with an async write()"
            )
        taken = await answer
        if self._reports_length and isinstance(taken, int) and taken < len(chunk):
            raise StreamError(f"sink took {taken} of {len(chunk)} bytes: give one that takes all of them")
        self._given += len(chunk)
        return True

    def tally(self) -> Tally:
        """Return what observers are told."""
        return self.opener.tally(self._given, self._intake.taken)

    @property
    def resources(self) -> list[Closable]:
        """What is closed with the message, in order."""
        return [*self.opener.resources, self._pushed]
