"""The file system below: calling it, reading ranges of it, and writing it whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import TracebackType
from typing import IO, Any, Self, TypeVar

import anyio
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from aioencrypt.errors import StreamError
from aioencrypt.integrations.fsspec.types import BufferedFile
from aioencrypt.runtime.offload import in_file_thread
from aioencrypt.streams.blocking_files import is_special
from aioencrypt.streams.files import EncryptWriter, FileOutput, MessageSink

T = TypeVar("T")

# Up to this many bytes of a message wait in memory until they are uploaded.
_IN_MEMORY = 8 * 1024 * 1024
_READ_LENGTH = 4 * 1024 * 1024


def _is_async(fs: Any) -> bool:
    # A DirFileSystem says so of itself, whatever is below it.
    return bool(fs.async_impl) and (not isinstance(fs, DirFileSystem) or _is_async(fs.fs))


class TargetFileSystem:
    """A file system of any kind, called from an event loop; one that blocks runs in threads."""

    def __init__(self, fs: Any) -> None:
        self.fs = fs
        self.is_async = _is_async(fs)

    async def call(self, name: str, *args: object, **kwargs: object) -> Any:
        """Call a method by its synchronous name."""
        if self.is_async and hasattr(self.fs, f"_{name}"):
            return await getattr(self.fs, f"_{name}")(*args, **kwargs)
        return await in_file_thread(partial(getattr(self.fs, name), *args, **kwargs))

    async def read_all(self, path: str) -> bytes:
        """Return the whole file."""
        local = _local(self.fs, path)
        special = await in_file_thread(lambda: local is not None and is_special(local[1]))
        if special:
            raise OSError(errno.EINVAL, "not a regular file: read it with aioencrypt.open", path)
        data: bytes = await self.call("cat_file", path)
        return data

    async def sink(self, path: str, *, streaming: bool) -> TargetSink | LocalSink:
        """Return where to write a message; `streaming` says that its pieces come one at a time."""
        if local := _local(self.fs, path):
            return LocalSink(local[1], makes_folders=local[0].auto_mkdir)
        if not self.is_async:
            return RenameSink(self.fs, path)
        if streaming and not self.fs.asynchronous:
            file = await in_file_thread(partial(self.fs._open, path, mode="wb", autocommit=False))  # noqa: SLF001 (`open` would note it in a transaction)
            if _commits(file):
                return TransactionSink(file)
        return UploadSink(self, path)


def _local(fs: Any, path: str) -> tuple[LocalFileSystem, str] | None:
    """Return a local file system and a path in it, or None where the file system is not local."""
    while isinstance(fs, DirFileSystem):
        path, fs = f"{fs.path}/{path}", fs.fs
    return (fs, path) if isinstance(fs, LocalFileSystem) else None


def _commits(file: Any) -> bool:
    """Tell whether a file that is opened without autocommit appears with `commit` only."""
    base, kind = BufferedFile, type(file)
    if not isinstance(file, base):
        return False
    return kind.commit is not base.commit and kind.discard is not base.discard


class TargetRanges:
    """Ranges of a file of the target: a `RangeSource`."""

    def __init__(self, target: TargetFileSystem, path: str) -> None:
        self._target = target
        self._path = path

    async def size(self) -> int:
        info = await self._target.call("info", self._path)
        if info["type"] == "directory":
            raise IsADirectoryError(self._path)
        if info["type"] == "other":
            raise OSError(errno.EINVAL, "not a regular file: read it with aioencrypt.open", self._path)
        if info["size"] is None:
            raise OSError(f"the size of {self._path} is not known, so that no range of it can be read")
        return int(info["size"])

    async def read_range(self, start: int, end: int, /) -> bytes:
        data: bytes = await self._target.call("cat_file", self._path, start=start, end=end)
        return data

    async def aclose(self) -> None:
        """Do nothing: nothing is open between two reads."""


class TargetReader:
    """A file of the target from start to end, in large ranges: a source of `decrypt_stream`."""

    def __init__(self, target: TargetFileSystem, path: str) -> None:
        self._ranges = TargetRanges(target, path)
        self._position = 0
        self._size: int | None = None

    async def read(self, n: int = -1) -> bytes:
        """Return the next bytes, however many were asked for."""
        if self._size is None:
            self._size = await self._ranges.size()
        start, self._position = self._position, min(self._position + _READ_LENGTH, self._size)
        return await self._ranges.read_range(start, self._position) if start < self._position else b""


class TargetSink(MessageSink):
    """A `MessageSink` whose message is complete with `commit`, and in its place with `settle`.

    In between, a transaction of several files may wait. `release` comes last, in any case.
    """

    def create(self) -> None:
        """Do nothing: most sinks have begun."""

    def drop(self) -> None:
        """Do nothing: `release` does it."""

    @abstractmethod
    async def settle(self) -> None:
        """Put the message in its place."""

    @abstractmethod
    async def release(self) -> None:
        """Let go of everything, and of the message unless it is in its place."""


class LocalSink(FileOutput):
    """A local file, written as `aioencrypt.open` does it."""

    def __init__(self, path: str, *, makes_folders: bool) -> None:
        super().__init__(path)
        self._folder = os.path.dirname(path) if makes_folders else ""

    async def create(self) -> None:
        if self._folder:
            await in_file_thread(partial(os.makedirs, self._folder, exist_ok=True))
        await super().create()

    async def commit(self) -> None:
        await self.finish()

    async def settle(self) -> None:
        await super().commit()

    async def aclose(self) -> None:
        """Do nothing: `release` does it."""

    async def release(self) -> None:
        await super().aclose()


class RenameSink(TargetSink):
    """A file that is written beside its place, and moved there."""

    def __init__(self, fs: Any, path: str) -> None:
        self._fs = fs
        self._path = path
        folder, slash, _ = path.rpartition("/")
        self._temporary = f"{folder}{slash}.aioencrypt-{secrets.token_hex(8)}.partial"
        self._file: Any = None

    def create(self) -> None:
        if self._fs.isdir(self._path):
            raise IsADirectoryError(self._path)  # moving would put it inside
        self._file = self._fs.open(self._temporary, "wb", autocommit=True)

    def write(self, data: bytes, /) -> None:
        self._file.write(data)

    def commit(self) -> None:
        self._file.close()

    async def settle(self) -> None:
        await in_file_thread(self._move)

    def _move(self) -> None:
        self._fs.mv(self._temporary, self._path)
        self._file = None

    async def release(self) -> None:
        if self._file is not None:
            await in_file_thread(self._remove)

    def _remove(self) -> None:
        file, self._file = self._file, None
        try:
            file.close()
        finally:
            self._fs.rm_file(self._temporary)


class TransactionSink(TargetSink):
    """A file of the target that appears when it is committed: a multipart upload, mostly."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes, /) -> None:
        self._file.write(data)

    def commit(self) -> None:
        self._file.close()

    async def settle(self) -> None:
        await in_file_thread(self._file.commit)
        self._file = None

    async def release(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.closed = True  # closing would upload what is buffered
            await in_file_thread(file.discard)


class UploadSink(TargetSink):
    """A message that is kept, in memory or else in a temporary file, and uploaded in one call."""

    def __init__(self, target: TargetFileSystem, path: str) -> None:
        self._target = target
        self._path = path
        self._parts: list[bytes] = []
        self._length = 0
        self._file: IO[bytes] | None = None
        self._name = ""

    def write(self, data: bytes, /) -> None:
        self._parts.append(data)
        self._length += len(data)
        if self._length > _IN_MEMORY:
            if self._file is None:
                descriptor, self._name = tempfile.mkstemp(prefix="aioencrypt-")
                self._file = open(descriptor, "wb")
            self._file.writelines(self._parts)
            self._parts.clear()

    def commit(self) -> None:
        if self._file is not None:
            self._file.close()

    async def settle(self) -> None:
        if self._name:
            await self._target.call("put_file", self._name, self._path)
        else:
            await self._target.call("pipe_file", self._path, b"".join(self._parts))

    async def release(self) -> None:
        self._parts.clear()
        if self._file is not None:
            await in_file_thread(self._remove)

    def _remove(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
            os.unlink(self._name)


class TargetWriter:
    """One message on its way into a target, after `start`. Leaving `async with` puts it there."""

    def __init__(self, writer: EncryptWriter, sink: TargetSink | LocalSink) -> None:
        self._writer = writer
        self._sink = sink

    async def start(self) -> None:
        """Fetch the data key and write the header."""
        try:
            await self._writer.__aenter__()
        except BaseException:
            await self._sink.release()
            raise

    async def write(self, data: bytes) -> None:
        """Encrypt and write bytes."""
        await self._writer.write(data)

    async def finish(self) -> None:
        """Write the end of the message, which is not in its place yet."""
        await self._writer.aclose()

    async def commit(self) -> None:
        """Put the message in its place."""
        try:
            await self._sink.settle()
        finally:
            await self._sink.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is not None:
            await self.discard()
            return
        try:
            await self.finish()
        except BaseException:
            await self.discard()
            raise
        await self.commit()

    async def discard(self) -> None:
        """Drop the message, also while another task writes."""
        dropped = StreamError("dropped")
        try:
            await self._writer.__aexit__(StreamError, dropped, None)
        finally:  # each of these ends, and then raises, when this task is cancelled
            await self._sink.release()


async def in_order(calls: Sequence[Callable[[], Awaitable[T]]], concurrency: int) -> list[T | Exception]:
    """Make calls, a few at a time; an error stands in the place of a result."""
    results: dict[int, T | Exception] = {}
    waiting = iter(enumerate(calls))

    async def work() -> None:
        for index, call in waiting:
            try:
                results[index] = await call()
            except Exception as error:
                results[index] = error

    async with anyio.create_task_group() as group:
        for _ in range(min(concurrency, len(calls))):
            group.start_soon(work)
    return [results[index] for index in range(len(calls))]
