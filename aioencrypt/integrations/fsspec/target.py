"""The file system below: calling it, reading ranges of it, and writing it whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from io import BufferedWriter, FileIO
from typing import Any, TypeVar

import anyio
from fsspec import AbstractFileSystem
from fsspec.implementations.cached import CachingFileSystem, WholeFileCacheFileSystem
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from aioencrypt.errors import MessageError, StreamError
from aioencrypt.integrations.fsspec.arguments import checked, is_asynchronous, refuse, taken
from aioencrypt.integrations.fsspec.types import BufferedFile
from aioencrypt.runtime.event_loops import drop_with_loop
from aioencrypt.runtime.offload import in_file_thread
from aioencrypt.streams.blocking_files import is_special
from aioencrypt.streams.files import EncryptWriter, FileOutput, MessageSink
from aioencrypt.streams.lifecycle import OwnedFile

T = TypeVar("T")

# Up to this many bytes of a message wait in memory until they are uploaded.
_IN_MEMORY = 8 * 1024 * 1024
_READ_LENGTH = 4 * 1024 * 1024


# What tells one state of a file from another: the first of these that two listings of it have decides ...
_TAGS = ("ETag", "etag", "generation", "VersionId", "content_md5")
# ... or else all of these.
_TIMES = ("mtime", "modified", "ino", "LastModified", "last_modified", "updated", "created")


class FileReplacedError(StreamError, OSError):
    """A file was replaced, changed or removed while it was read: open it again."""

    def __init__(self, path: str) -> None:
        super().__init__(
            errno.EBUSY, "the file was replaced, changed or removed while it was read: open it again", path
        )


def version_of(info: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return what a listing says that changes with a file, the name and the size apart."""
    return tuple((key, str(info[key])) for key in (*_TAGS, *_TIMES) if info.get(key) is not None)


def _differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two listings of a file are of two states of it."""
    first, second = dict(version_of(one)), dict(version_of(other))
    for tag in _TAGS:
        if tag in first and tag in second:
            return first[tag] != second[tag]
    times = first.keys() & second.keys()
    return one["size"] != other["size"] or any(first[key] != second[key] for key in times)


class TargetFileSystem:
    """A file system of any kind, called from an event loop; one that blocks runs in threads."""

    def __init__(self, fs: Any) -> None:
        self.fs = fs
        self.is_async: bool = is_asynchronous(fs)
        self.is_cache: bool = isinstance(fs, CachingFileSystem)

    async def call(
        self, name: str, *args: object, given: Mapping[str, Any] | None = None, **kwargs: object
    ) -> Any:
        """Call a method by its synchronous name.

        `given` are arguments of a caller: `TypeError` for those that the method does not take.
        """
        if given:
            [given] = await checked(self.fs, given, name)
            kwargs = {**given, **kwargs}
        if self.is_async and hasattr(self.fs, f"_{name}"):
            return await getattr(self.fs, f"_{name}")(*args, **kwargs)
        return await in_file_thread(partial(getattr(self.fs, name), *args, **kwargs))

    async def check_regular(self, path: str) -> None:
        """Raise `OSError` for a pipe or a device, which has no end or is gone once it is read."""
        local = _local(self.fs, path)
        if await in_file_thread(lambda: local is not None and is_special(local[1])):
            raise OSError(errno.EINVAL, "not a regular file: read it with aioencrypt.open", path)

    async def sink(self, path: str, *, streaming: bool, given: Mapping[str, Any]) -> TargetSink | LocalSink:
        """Return where to write a message; `streaming` says that its pieces come one at a time."""
        if local := _local(self.fs, path):
            await checked(self.fs, given, "_open")
            return LocalSink(local[1], makes_folders=local[0].auto_mkdir)
        if self.is_cache and not isinstance(self.fs, WholeFileCacheFileSystem):
            return await TargetFileSystem(self.fs.fs).sink(path, streaming=streaming, given=given)
        if not self.is_async and not self.is_cache and _moves(self.fs):
            [given] = await checked(self.fs, given, "_open")
            return RenameSink(self.fs, path, given)
        if self.is_async and streaming and not self.fs.asynchronous:
            taken_by_open = await taken(self.fs, "_open", given)
            file = await in_file_thread(
                partial(self.fs._open, path, mode="wb", autocommit=False, **taken_by_open)  # noqa: SLF001 (`open` would note it in a transaction)
            )
            if _commits(file):
                sink = TransactionSink(file)
                try:
                    refuse(self.fs, ["_open"], given.keys() - taken_by_open.keys())
                except TypeError:
                    await sink.release()
                    raise
                return sink
        piping, putting = await checked(uncached(self.fs), given, "pipe_file", "put_file")
        refuse(self.fs, ["pipe_file", "put_file"], piping.keys() ^ putting.keys())
        return UploadSink(self, path, piping)


def uncached(fs: Any) -> Any:
    """Return what is below a cache, which would fetch whole files to say something of them."""
    return uncached(fs.fs) if isinstance(fs, CachingFileSystem) else fs


def _local(fs: Any, path: str) -> tuple[LocalFileSystem, str] | None:
    """Return a local file system and a path in it, or None where the file system is not local."""
    while isinstance(fs, DirFileSystem):
        path, fs = f"{fs.path}/{path}", fs.fs
    return (fs, path) if isinstance(fs, LocalFileSystem) else None


def _moves(fs: Any) -> bool:
    """Tell whether files can be moved. An archive cannot even remove one."""
    while isinstance(fs, DirFileSystem):
        fs = fs.fs
    base, kind = AbstractFileSystem, type(fs)
    return kind.mv is not base.mv or kind.cp_file is not base.cp_file


def _commits(file: Any) -> bool:
    """Tell whether a file that is opened without autocommit appears with `commit` only."""
    base, kind = BufferedFile, type(file)
    if not isinstance(file, base):
        return False
    return kind.commit is not base.commit and kind.discard is not base.discard


class TargetRanges:
    """Ranges of a file of the target: a `RangeSource`.

    `given` are arguments of a caller for the methods `info` and `cat_file` of the target. `info` is what
    a listing said of the file. It is a hint, as its size is: `is_replaced` asks again, past all caches.
    """

    def __init__(
        self,
        target: TargetFileSystem,
        path: str,
        given: Mapping[str, Any] | None = None,
        *,
        info: dict[str, Any] | None = None,
    ) -> None:
        self._target = target
        self._path = path
        self._given: Mapping[str, Any] = given or {}
        self._reading: dict[str, Any] = {}
        self.info: dict[str, Any] | None = info

    async def size(self) -> int:
        if self._target.is_cache:
            # Its copy may be an older state than any listing tells of.
            [self._reading] = await checked(self._target.fs, self._given, "cat_file")
            return await in_file_thread(self._copied_size)
        looking, self._reading = await checked(self._target.fs, self._given, "info", "cat_file")
        info = self.info = self.info or await self._target.call("info", self._path, **looking)
        if info["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self._path)
        if info["type"] == "other":
            raise OSError(errno.EINVAL, "not a regular file: read it with aioencrypt.open", self._path)
        if info["size"] is None:
            raise OSError(
                errno.ENOTSUP,
                "the size of the file is not known, so no range of it can be read: "
                "read it whole, with cat_file or get_file",
                self._path,
            )
        return int(info["size"])

    def _copied_size(self) -> int:
        with self._target.fs.open(self._path, "rb") as file:
            return int(file.seek(0, os.SEEK_END))

    async def read_range(self, start: int, end: int, /) -> bytes:
        data: bytes = await self._target.call("cat_file", self._path, start=start, end=end, **self._reading)
        if len(data) > end - start:
            raise OSError(
                errno.ENOTSUP,
                f"the {type(self._target.fs).__name__} below, or its server, ignores ranges: it sent "
                f"{len(data)} bytes for the {end - start} from {start} on. "
                "Read the file whole, with cat_file or get_file",
                self._path,
            )
        return data

    async def read_all(self) -> bytes:
        """Return the whole file."""
        await self._target.check_regular(self._path)
        data: bytes = await self._target.call("cat_file", self._path, given=self._given)
        return data

    async def is_replaced(self) -> bool:
        """Ask the target, past its caches, whether the file is another one than when it was first asked.

        If it is, reading may begin anew. Raises `FileNotFoundError` for a file that is gone.
        """
        before, self.info = self.info, None
        self._target.fs.invalidate_cache(self._path)
        if before is None:
            return False
        looking = await taken(self._target.fs, "info", self._given)
        self.info = await self._target.call("info", self._path, **looking)
        return _differ(before, self.info or before)

    async def anew(self, read: Callable[[], Awaitable[T]]) -> T:
        """Await a read, and once more if it failed because a cached listing spoke of another file."""
        try:
            return await read()
        except FileNotFoundError:
            raise
        except (MessageError, OSError):
            known = self.info is not None
            if not await self.is_replaced() and known:
                raise
        async with self.watched():
            return await read()

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Raise `FileReplacedError` for an error whose cause is that the file is another one by now."""
        try:
            yield
        except (MessageError, OSError) as error:
            if await self._is_another():
                raise FileReplacedError(self._path) from error
            raise

    async def _is_another(self) -> bool:
        try:
            return await self.is_replaced()
        except OSError as error:  # nothing is known then, unless the file is gone
            return isinstance(error, FileNotFoundError)

    async def aclose(self) -> None:
        """Do nothing: nothing is open between two reads."""


class TargetReader:
    """A file of the target from start to end: a source of `decrypt_stream`.

    It is read in large ranges, or all at once where the target knows no size or no ranges.
    """

    def __init__(self, ranges: TargetRanges) -> None:
        self._ranges = ranges
        self._position = 0
        self._size: int | None = None

    async def read(self, n: int = -1) -> bytes:
        """Return the next bytes, however many were asked for."""
        return await (self._read_first() if self._size is None else self._read_on(self._size))

    async def _read_first(self) -> bytes:
        try:
            self._size = await self._ranges.size()
            return await self._read_on(self._size)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
        data = await self._ranges.read_all()
        self._size = self._position = len(data)
        return data

    async def _read_on(self, size: int) -> bytes:
        start, self._position = self._position, min(self._position + _READ_LENGTH, size)
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

    def __init__(self, fs: Any, path: str, given: Mapping[str, Any]) -> None:
        self._fs = fs
        self._path = path
        self._given = given
        folder, slash, _ = path.rpartition("/")
        self._temporary = f"{folder}{slash}.aioencrypt-{secrets.token_hex(8)}.partial"
        self._file: Any = None

    def create(self) -> None:
        if self._fs.isdir(self._path):
            raise IsADirectoryError(self._path)  # moving would put it inside
        self._file = self._fs.open(self._temporary, "wb", autocommit=True, **self._given)

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


class _NamedFile(FileIO):
    """A temporary file that has a name until it is closed."""

    def __init__(self) -> None:
        self._process = os.getpid()
        descriptor, path = tempfile.mkstemp(prefix="aioencrypt-")
        super().__init__(descriptor, "wb")
        self.name = path

    def close(self) -> None:
        removes = not self.closed and self._process == os.getpid()
        super().close()
        if removes:
            os.unlink(self.name)


class UploadSink(TargetSink):
    """A message that is kept, in memory or else in a temporary file, and uploaded in one call."""

    def __init__(self, target: TargetFileSystem, path: str, given: Mapping[str, Any]) -> None:
        self._target = target
        self._path = path
        self._given = given
        self._parts: list[bytes] = []
        self._length = 0
        self._file = OwnedFile(lambda: BufferedWriter(_NamedFile()))
        self._name = ""
        drop_with_loop(self._file)

    def write(self, data: bytes, /) -> None:
        self._parts.append(data)
        self._length += len(data)
        if self._length > _IN_MEMORY:
            with self._file.use() as file:
                self._name = file.name
                file.writelines(self._parts)
            self._parts.clear()

    def commit(self) -> None:
        if self._name:
            with self._file.use() as file:
                file.flush()

    async def settle(self) -> None:
        if self._target.is_cache:
            await in_file_thread(self._copy)
        elif self._name:
            await self._target.call("put_file", self._name, self._path, **self._given)
        else:
            await self._target.call("pipe_file", self._path, b"".join(self._parts), **self._given)

    def _copy(self) -> None:
        """Write through a cache: its `put_file` would leave the copy of the old message in it."""
        file = self._target.fs._open(self._path, mode="wb", **self._given)  # noqa: SLF001 (as in `TargetFileSystem.sink`)
        file.autocommit = False
        try:
            if self._name:
                with open(self._name, "rb") as kept:
                    shutil.copyfileobj(kept, file, _READ_LENGTH)
            file.writelines(self._parts)
            file.close()
            file.commit()
        except BaseException:
            file.discard()
            raise

    async def release(self) -> None:
        self._parts.clear()
        await self._file.aclose()


class TargetWriter:
    """One message on its way into a target, after `start`. `placed` is called when it is in its place."""

    def __init__(
        self, writer: EncryptWriter, sink: TargetSink | LocalSink, placed: Callable[[], object]
    ) -> None:
        self._writer = writer
        self._sink = sink
        self._placed = placed

    async def start(self) -> None:
        """Fetch the data key and write the header."""
        try:
            await self._writer.__aenter__()
        except BaseException:
            await self._sink.release()
            raise

    async def write(self, data: bytes | memoryview) -> None:
        """Encrypt and write bytes."""
        await self._writer.write(data)

    async def write_block(self, data: bytes, final: bool, autocommit: bool) -> None:
        """Write bytes, and the end after the last of them."""
        await self.write(data)
        if final:
            await self.finish()
            if autocommit:
                await self.commit()

    async def finish(self) -> None:
        """Write the end of the message, which is not in its place yet."""
        await self._writer.aclose()

    async def commit(self) -> None:
        """Put the message in its place."""
        try:
            await self._sink.settle()
        finally:
            await self._sink.release()
        self._placed()

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
    failures: list[BaseException] = []
    waiting = iter(enumerate(calls))

    async def work() -> None:
        for index, call in waiting:
            try:
                results[index] = await call()
            except anyio.get_cancelled_exc_class():
                raise
            except Exception as error:
                results[index] = error
            except BaseException as error:  # raised below, outside the group, which would wrap it
                failures.append(error)
                group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for _ in range(min(concurrency, len(calls))):
            group.start_soon(work)
    if failures:
        raise failures[0]
    if len(results) < len(calls):
        raise StreamError("a call was cancelled, and not by its caller")
    return [results[index] for index in range(len(calls))]
