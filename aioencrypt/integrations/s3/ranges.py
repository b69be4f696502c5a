"""Read one version of an object in bounded ranges, and retry a range after its connection was lost.

No reader holds a connection while its caller does something else: a range is read to its end first. So a
program may read and write with one client whose pool has a single connection.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from inspect import isawaitable
from typing import Any

import anyio

from aioencrypt.aws.client_checks import check_client
from aioencrypt.aws.errors import service_error
from aioencrypt.errors import ServiceError, StreamError
from aioencrypt.integrations.s3.client import S3Client, call_s3, required
from aioencrypt.runtime.event_loops import BackgroundTask
from aioencrypt.runtime.offload import wait_shielded

_READ_LENGTH = 256 * 1024
# What is read of the header of a message at first, so that it comes with the size.
_START_LENGTH = 8 * 1024
# A whole object is read in ranges that double up to a limit, so that small objects take one request and long
# ones few. `_RANGES_AHEAD` of them are fetched in the background, which hides the latency of a request.
_FIRST_RANGE = 1024 * 1024
_LONGEST_RANGE = 4 * 1024 * 1024
_RANGES_AHEAD = 2
# A ranged read fails after this many lost connections in a row without a byte in between. The first retry
# follows at once; before retry n (from 2 on), the reader sleeps for `_PAUSE * 2**n` seconds.
_LOST_CONNECTIONS = 4
_PAUSE = 0.05
_CLOSING_SECONDS = 10.0
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
# Families of errors of aiobotocore, aiohttp and httpx; built-in timeouts and resets are `OSError`.
_LOST = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionError",
    "HTTPClientError",
    "IncompleteReadError",
    "TransportError",
}


class StoredObject:
    """One state of one object. The first answer says which; every later one is of the same, or an error."""

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        key: str,
        *,
        version_id: str | None,
        arguments: Mapping[str, Any],
        timeout: float | None,
    ) -> None:
        check_client(client, "S3", ["get_object"])
        self._call = partial(client.get_object, Bucket=bucket, Key=key, **arguments)
        if version_id is not None:
            self._call = partial(self._call, VersionId=version_id)
        self._bucket = bucket
        self.timeout: float | None = timeout
        self.answer: Mapping[str, Any] = {}
        self.size: int = 0
        self.knows_ranges: bool = False

    @property
    def etag(self) -> str | None:
        """The entity tag, once there was an answer."""
        etag = self.answer.get("ETag")
        return etag if isinstance(etag, str) else None

    async def get(self, start: int, end: int | None) -> Any:
        """Return the body with the bytes from `start` up to `end`; raises `ServiceError`."""
        call = self._call
        if start or end is not None:
            call = partial(call, Range=f"bytes={start}-" if end is None else f"bytes={start}-{end - 1}")
        if self.etag:
            call = partial(call, IfMatch=self.etag)
        answer = await call_s3("GetObject", self._bucket, call, self.timeout)
        body = answer.get("Body")
        if not callable(getattr(body, "read", None)):
            raise ServiceError("the answer of S3 has no Body")
        try:
            self._check(answer, start)
        except BaseException:
            await close_body(body)
            raise
        return body

    def _check(self, answer: Mapping[str, Any], start: int) -> None:
        found = _CONTENT_RANGE.match(str(answer.get("ContentRange", "")))
        if start != (int(found[1]) if found else 0):
            raise ServiceError("the answer of S3 is not the range that was asked for")
        if not self.answer:
            self.answer = {name: value for name, value in answer.items() if name != "Body"}
            self.knows_ranges = found is not None
            self.size = int(found[3]) if found else required(answer, "ContentLength", int)
        elif answer.get("ETag") != self.answer.get("ETag"):
            # A store that does not know IfMatch.
            raise ServiceError(
                "the object was changed since it was opened: open it again", code="PreconditionFailed"
            )


async def close_body(body: Any) -> None:
    """Let a body and its connection go, also when this task is cancelled."""
    with anyio.move_on_after(_CLOSING_SECONDS, shield=True):
        # Bodies of httpx are closed with aclose(), older ones of aiohttp in close().
        closing = (getattr(body, "aclose", None) or body.close)()
        if isawaitable(closing):
            await closing


class _RangeReader:
    """Read the bytes from `start` up to `end` over one connection.

    A lost connection is replaced; reading continues after the last byte received.
    """

    def __init__(self, stored: StoredObject, start: int, end: int | None) -> None:
        self._stored = stored
        self._position = start
        self._end = end
        self._body: Any = None
        self._lost = 0

    async def open(self) -> None:
        """Ask for the bytes from the current position; raises `ServiceError`."""
        self._body = await self._stored.get(self._position, self._end)

    async def read(self) -> bytes:
        """Return the next bytes, and ``b""`` at the end; raises `ServiceError`."""
        while not self._is_done:
            if self._body is None:
                await self.open()
            try:
                chunk = await self._read_some()
            except Exception as error:
                await self.aclose()
                if not _is_lost(error):
                    raise service_error(error) from error
                await self._before_retry(error)
            else:
                self._lost = 0
                self._position += len(chunk)
                return chunk
        await self.aclose()
        return b""

    @property
    def _is_done(self) -> bool:
        """Whether nothing is left. At its end a body checks itself, so that it is asked once more."""
        stored = self._stored
        if self._end is not None and self._position >= self._end:
            return True
        return self._body is None and bool(stored.answer) and self._position >= stored.size

    async def _read_some(self) -> bytes:
        with anyio.fail_after(self._stored.timeout):
            chunk = bytes(await self._body.read(_READ_LENGTH))
        if not chunk and self._position < self._stored.size:
            raise ConnectionError(f"the body ended at byte {self._position}")
        # A store that does not know ranges gives everything.
        return chunk if self._end is None else chunk[: self._end - self._position]

    async def _before_retry(self, error: Exception) -> None:
        """Count a lost connection and pause; raises `ServiceError` after too many in a row."""
        self._lost += 1
        if self._lost == _LOST_CONNECTIONS:
            raise ServiceError(
                f"the connection was lost {self._lost} times at byte {self._position} of {self._stored.size}",
                retryable=True,
            ) from error
        if self._lost > 1:
            await anyio.sleep(_PAUSE * 2**self._lost)

    def read_on(self) -> None:
        """Read up to the end of the object, over the same connection."""
        self._end = None

    async def aclose(self) -> None:
        """Close the connection."""
        body, self._body = self._body, None
        if body is not None:
            await close_body(body)


def _is_lost(error: Exception) -> bool:
    names = {cls.__name__ for cls in type(error).__mro__}
    return isinstance(error, OSError) or not names.isdisjoint(_LOST)


async def _read_range(stored: StoredObject, start: int, end: int) -> deque[bytes]:
    """Read a range to its end and close the connection; returns the pieces as they came."""
    reader = _RangeReader(stored, start, end)
    try:
        return await _pieces(reader)
    finally:
        await reader.aclose()


async def _pieces(reader: _RangeReader) -> deque[bytes]:
    pieces: deque[bytes] = deque()
    while piece := await reader.read():
        pieces.append(piece)
    return pieces


class _Fetch:
    """A range that is read in the background."""

    def __init__(self, stored: StoredObject, start: int, end: int) -> None:
        self._range = (stored, start, end)
        self._task = BackgroundTask()
        self._read: deque[bytes] | None = None
        self._failure: Exception | None = None
        self._task.start(self._run)

    async def _run(self) -> None:
        try:
            self._read = await _read_range(*self._range)
        except Exception as error:
            self._failure = error

    async def pieces(self) -> deque[bytes]:
        """Wait for the range; raises what reading it raised."""
        await self._task.ended.wait()
        failure, self._failure = self._failure, None
        if failure:
            raise failure
        if self._read is None:
            raise StreamError("a range read was cancelled, and not by its caller")
        return self._read

    async def aclose(self) -> None:
        """Cancel the read and wait until its connection is closed."""
        self._task.cancel()
        await wait_shielded(self._task.ended)


class ObjectReader:
    """Read a whole object from start to end: a `Reader`.

    At most `_RANGES_AHEAD` ranges wait in memory beside the one that is handed out.
    """

    def __init__(self, stored: StoredObject) -> None:
        self._stored = stored
        self._pieces: deque[bytes] = deque()
        self._fetches: deque[_Fetch] = deque()
        self._asked = 0
        self._length = _FIRST_RANGE
        self._streamed: _RangeReader | None = None

    async def read(self) -> bytes:
        """Return the next bytes, and ``b""`` at the end; raises `ServiceError`."""
        if self._streamed:
            return await self._streamed.read()
        if not self._asked:
            self._pieces = await self._read_first()
        else:
            self._fetch_ahead()
            if not self._pieces and self._fetches:
                self._pieces = await self._fetches[0].pieces()
                self._fetches.popleft()
        return self._pieces.popleft() if self._pieces else b""

    async def _read_first(self) -> deque[bytes]:
        reader = _RangeReader(self._stored, 0, self._take_range())
        try:
            await reader.open()
            if self._stored.size > self._asked and not self._stored.knows_ranges:
                # The store ignores ranges, so the object has to come over this one connection.
                reader.read_on()
                self._streamed = reader
                return deque([await reader.read()])
            return await _pieces(reader)
        except ServiceError as error:
            if error.code != "InvalidRange":  # an empty object
                raise
            return deque()
        finally:
            if self._streamed is None:
                await reader.aclose()

    def _take_range(self) -> int:
        """Return where the next range ends."""
        self._asked += self._length
        self._length = min(2 * self._length, _LONGEST_RANGE)
        return self._asked

    def _fetch_ahead(self) -> None:
        while self._asked < self._stored.size and len(self._fetches) < _RANGES_AHEAD:
            start = self._asked
            self._fetches.append(_Fetch(self._stored, start, min(self._take_range(), self._stored.size)))

    async def aclose(self) -> None:
        """Cancel what is fetched ahead and close the connections."""
        self._pieces.clear()
        # Each of these ends, and then raises, when this task is cancelled.
        async with AsyncExitStack() as stack:
            if self._streamed:
                stack.push_async_callback(self._streamed.aclose)
            while self._fetches:
                stack.push_async_callback(self._fetches.pop().aclose)


class ObjectRanges:
    """Ranges of an object: a `RangeSource`. The first range brings the size, and waits here."""

    def __init__(self, stored: StoredObject) -> None:
        self._stored = stored
        self._start = b""

    async def size(self) -> int:
        try:
            self._start = await self._read(0, _START_LENGTH)
        except ServiceError as error:
            if error.code != "InvalidRange":  # an empty object
                raise
        return self._stored.size

    async def read_range(self, start: int, end: int, /) -> bytes:
        return self._start[start:end] if end <= len(self._start) else await self._read(start, end)

    async def _read(self, start: int, end: int) -> bytes:
        return b"".join(await _read_range(self._stored, start, end))

    async def aclose(self) -> None:
        """Do nothing: no connection stays open between two reads."""
