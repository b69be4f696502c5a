"""Write an object from a stream, complete or not at all: in one request, or in parts if it is long."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from io import BytesIO
from itertools import count, repeat
from typing import Any

import anyio
import attrs

from aioencrypt.errors import ServiceError, StreamError
from aioencrypt.integrations.s3.client import UploadTarget
from aioencrypt.runtime.event_loops import BackgroundTask, call_later
from aioencrypt.runtime.offload import wait_shielded
from aioencrypt.streams.reading import ByteStream

MIN_PART_LENGTH = 5 * 1024 * 1024
MAX_PART_LENGTH = 5 * 1024 * 1024 * 1024
DEFAULT_PART_LENGTH = 8 * 1024 * 1024
_MAX_PARTS = 10_000
_PARTS_OF_A_LENGTH = 1_000
# Uploads are also aborted when their task is cancelled, within this many seconds.
_CLEAN_UP_SECONDS = 10.0

Job = Callable[[str, int], Awaitable[dict[str, Any]]]
"""Makes a part, given the id of the upload and the number of the part; returns what names it."""


@attrs.frozen(kw_only=True)
class Written:
    """The answer of S3 to the request that wrote the object."""

    etag: str
    version_id: str | None
    parts: int
    length: int

    @classmethod
    def of(cls, answer: Mapping[str, Any], parts: int, length: int) -> Written:
        """Read the answer to what wrote it."""
        version = answer.get("VersionId")
        return cls(
            etag=str(answer.get("ETag", "")),
            version_id=version if isinstance(version, str) else None,
            parts=parts,
            length=length,
        )


def part_lengths(first: int, total: int | None, *, equal: bool = False) -> Iterator[int]:
    """Yield the lengths of parts: equal ones for a known total, otherwise they double every 1,000.

    Either way 10,000 of them are enough for the longest object that S3 stores. `equal` parts never grow, so
    a stream of unknown length may need more than 10,000: the iterator ends there.
    """
    if total is None and equal:
        return repeat(first, _MAX_PARTS)
    if total is None:
        return (min(first << number // _PARTS_OF_A_LENGTH, MAX_PART_LENGTH) for number in count())
    return repeat(max(first, -(-total // (_MAX_PARTS - 1))))  # one may come before them


class PartCutter:
    """Cut a stream into parts; a short stream has one part."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._rest = memoryview(b"")
        self.ended: bool = False
        self.length: int = 0

    async def cut(self, length: int, into: BytesIO) -> BytesIO:
        """Fill a buffer with the next bytes, fewer only at the end; `ended` says whether more will come."""
        into.seek(0)
        while not self.ended:
            if not self._rest:
                self._rest = memoryview(await anext(self._stream, b""))
                self.ended = not self._rest
            missing = length - into.tell()
            if not missing:
                break
            into.write(self._rest[:missing])
            self._rest = self._rest[missing:]
        into.truncate()
        self.length += into.tell()
        into.seek(0)
        return into


async def upload(
    target: UploadTarget, stream: ByteStream, *, lengths: Iterator[int], concurrency: int
) -> Written:
    """Write a whole stream; raises the errors of the stream, and `ServiceError`."""
    cutter = PartCutter(stream)
    first = await cutter.cut(next(lengths), BytesIO())
    if cutter.ended:
        answer = await target.put(first)
        return Written.of(answer, 1, cutter.length)
    parts = MultipartUpload(target, concurrency)
    answer = await parts.write(_jobs(target, cutter, first, lengths))
    return parts.written(answer, cutter.length)


async def _jobs(
    target: UploadTarget, cutter: PartCutter, first: BytesIO, lengths: Iterator[int]
) -> AsyncGenerator[Job, None]:
    """Yield the jobs that upload the parts of a stream, with one buffer per concurrent job."""
    free: list[BytesIO] = []

    async def job(body: BytesIO, upload_id: str, number: int) -> dict[str, Any]:
        made = await target.upload_part(body, upload_id, number)
        free.append(body)
        return made

    yield partial(job, first)
    while not cutter.ended:
        length = next(lengths, None)
        if length is None:
            raise StreamError(
                f"the object needs more than {_MAX_PARTS} equal parts, the most that S3 takes: "
                "pass a longer part_length=, or plaintext_length="
            )
        yield partial(job, await cutter.cut(length, free.pop() if free else BytesIO()))


class MultipartUpload:
    """A multipart upload, which is completed or aborted."""

    def __init__(self, target: UploadTarget, concurrency: int) -> None:
        self._target = target
        self._slots = anyio.Semaphore(concurrency, fast_acquire=True)
        self._upload_id: str | None = None
        self._failure: BaseException | None = None
        self._parts: dict[int, dict[str, Any]] = {}
        self._count = 0

    def written(self, answer: Mapping[str, Any], length: int) -> Written:
        """Read the answer that `write` gave."""
        return Written.of(answer, self._count, length)

    async def write(self, jobs: AsyncGenerator[Job, None]) -> Mapping[str, Any]:
        """Do all jobs, so many at once, and complete the upload.

        A job is asked for when there is room for it: whatever it holds is bounded, too.
        """
        async with aclosing(jobs):
            try:
                await _to_the_end(self._create)
                self._raise_failure()
                await self._do_all(jobs)
                parts = [self._parts[number] for number in sorted(self._parts)]
                return await self._target.complete(self._id, parts)
            except BaseException as error:
                if self._upload_id is not None:
                    await _to_the_end(partial(self._abort, error))
                raise

    @property
    def _id(self) -> str:
        if self._upload_id is None:
            raise StreamError("the upload was cancelled, and not by its caller")
        return self._upload_id

    def _raise_failure(self) -> None:
        # Kept here, it would keep the buffers of its traceback alive.
        failure, self._failure = self._failure, None
        try:
            if failure:
                raise failure
        finally:
            del failure

    async def _create(self) -> None:
        try:
            self._upload_id = await self._target.create()
        except Exception as error:
            self._failure = error

    async def _do_all(self, jobs: AsyncGenerator[Job, None]) -> None:
        async with anyio.create_task_group() as group:

            async def kept(function: Callable[[], Awaitable[None]]) -> None:
                try:
                    await function()
                except anyio.get_cancelled_exc_class():
                    raise
                except BaseException as error:  # raised below, outside the group, which would wrap it
                    self._failure = self._failure or error
                    group.cancel_scope.cancel()

            async def feed() -> None:
                await self._slots.acquire()
                async for job in jobs:
                    self._count += 1
                    group.start_soon(kept, partial(self._do, job, self._count))
                    await self._slots.acquire()

            await kept(feed)
        self._raise_failure()
        if len(self._parts) < self._count:
            raise StreamError("a part was cancelled, and not by the caller of the upload")

    async def _do(self, job: Job, number: int) -> None:
        self._parts[number] = await job(self._id, number)
        self._slots.release()

    async def _abort(self, error: BaseException) -> None:
        try:
            await attrs.evolve(self._target, timeout=_CLEAN_UP_SECONDS).abort(self._id)
        except ServiceError as failure:
            if failure.code != "NoSuchUpload":  # which it may be after an answer that was lost
                error.add_note(
                    f"the multipart upload {self._id} could not be aborted, and its parts are still there, "
                    f"and paid for: {failure}"
                )


async def _to_the_end(function: Callable[[], Awaitable[None]]) -> None:
    """Await a function for some seconds even if this task is cancelled; then raise the cancellation."""
    task = BackgroundTask()
    task.start(function)
    try:
        await task.ended.wait()
    except BaseException:
        stop = call_later(_CLEAN_UP_SECONDS, task.cancel)
        try:
            await wait_shielded(task.ended)
        finally:
            stop()
        raise
