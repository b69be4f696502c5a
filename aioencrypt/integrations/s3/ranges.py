"""Reading an object: from a position on, in spite of lost connections, and never two objects as one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from inspect import isawaitable
from typing import Any

import anyio

from aioencrypt.aws.errors import service_error
from aioencrypt.errors import ServiceError
from aioencrypt.integrations.s3.client import S3Client, call_s3

_READ_LENGTH = 256 * 1024
# What is read of the header of a message at first, so that it comes with the size.
_START_LENGTH = 8 * 1024
# Connections that may be lost in a row without a byte in between, and the pause before the second of them.
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
        self._call = partial(client.get_object, Bucket=bucket, Key=key, **arguments)
        if version_id is not None:
            self._call = partial(self._call, VersionId=version_id)
        self._bucket = bucket
        self.timeout: float | None = timeout
        self.answer: Mapping[str, Any] = {}
        self.size: int = 0

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
        try:
            self._check(answer, start)
        except BaseException:
            await close_body(answer["Body"])
            raise
        return answer["Body"]

    def _check(self, answer: Mapping[str, Any], start: int) -> None:
        found = _CONTENT_RANGE.match(str(answer.get("ContentRange", "")))
        if start != (int(found[1]) if found else 0):
            raise ServiceError("the answer of S3 is not the range that was asked for")
        if not self.answer:
            self.answer = {name: value for name, value in answer.items() if name != "Body"}
            self.size = int(found[3]) if found else int(answer["ContentLength"])
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


class ObjectReader:
    """The bytes of an object from `start` up to `end`: a `Reader`.

    A connection that is lost on the way is replaced, and reading goes on behind the last byte.
    """

    def __init__(self, stored: StoredObject, start: int = 0, end: int | None = None) -> None:
        self._stored = stored
        self._position = start
        self._end = end
        self._body: Any = None
        self._lost = 0

    async def read(self) -> bytes:
        """Return the next bytes, and ``b""`` at the end; raises `ServiceError`."""
        while not self._is_done:
            if self._body is None:
                self._body = await self._stored.get(self._position, self._end)
            try:
                chunk = await self._read_some()
            except Exception as error:
                await self.aclose()
                if not _is_lost(error):
                    raise service_error(error) from error
                await self._lose(error)
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

    async def _lose(self, error: Exception) -> None:
        self._lost += 1
        if self._lost == _LOST_CONNECTIONS:
            raise ServiceError(
                f"the connection was lost {self._lost} times at byte {self._position} of {self._stored.size}",
                retryable=True,
            ) from error
        if self._lost > 1:
            await anyio.sleep(_PAUSE * 2**self._lost)

    async def aclose(self) -> None:
        """Let the connection go."""
        body, self._body = self._body, None
        if body is not None:
            await close_body(body)


def _is_lost(error: Exception) -> bool:
    names = {cls.__name__ for cls in type(error).__mro__}
    return isinstance(error, OSError) or not names.isdisjoint(_LOST)


class ObjectRanges:
    """Ranges of an object: a `RangeSource`. The first one comes with the size, and waits here."""

    def __init__(self, stored: StoredObject) -> None:
        self._stored = stored
        self._start = b""

    async def size(self) -> int:
        try:
            self._start = await self._read(0, _START_LENGTH)
        except ServiceError as error:
            if error.code != "InvalidRange":  # of an empty object
                raise
        return self._stored.size

    async def read_range(self, start: int, end: int, /) -> bytes:
        return self._start[start:end] if end <= len(self._start) else await self._read(start, end)

    async def _read(self, start: int, end: int) -> bytes:
        reader = ObjectReader(self._stored, start, end)
        parts = []
        try:
            while chunk := await reader.read():
                parts.append(chunk)
        finally:
            await reader.aclose()
        return b"".join(parts)

    async def aclose(self) -> None:
        """Do nothing: nothing is open between two reads."""
