"""Files whose reads and writes may block forever: FIFOs, pipes, terminals and devices.

The event loop waits for them, so cancellation works and no shared thread is blocked. Regular files use the
shared threads.
"""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar
from weakref import finalize

from anyio import sleep, wait_readable, wait_writable
from anyio.lowlevel import checkpoint

from aioencrypt.runtime.event_loops import drop_with_loop
from aioencrypt.runtime.offload import in_file_thread, read_in_thread
from aioencrypt.runtime.threads import ThreadLock

T = TypeVar("T")
PathLike = str | os.PathLike[str]

BINARY = getattr(os, "O_BINARY", 0)
# A pipe holds no more by default, and a copy of this size does not block the event loop.
_PIECE = 64 * 1024
_SECONDS_UNTIL_READY = 0.02
# Only on Linux does poll report a FIFO that never had a writer. Elsewhere a thread waits for the writer.
_OPENS_AT_ONCE = sys.platform == "linux"


def is_special(path: PathLike) -> bool:
    """Tell whether a path names neither a regular file nor a folder. Blocks briefly."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False  # opening it says why
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _reads_may_block(status: os.stat_result) -> bool:
    # Files of /proc and /sys call themselves regular and empty. Some of them wait as a FIFO does.
    return not stat.S_ISREG(status.st_mode) or not status.st_size


@contextmanager
def errors_name(path: PathLike) -> Iterator[None]:
    """Make an `OSError` name the caller's path."""
    try:
        yield
    except OSError as error:
        error.filename = os.fspath(path)
        del error.filename2
        raise


class OpenFile:
    """A file opened by path for reading or writing, by `open` or the first read."""

    def __init__(self, path: PathLike, *, writing: bool = False) -> None:
        self._path = path
        self._writing = writing
        # Truncating matters where a regular file has taken the place of a FIFO meanwhile.
        self._flags = (os.O_WRONLY | os.O_TRUNC if writing else os.O_RDONLY) | BINARY
        self._wait = wait_writable if writing else wait_readable
        self._descriptor: _Descriptor | None = None
        self._special = self._inline = self._waits_first = self._closed = False

    async def open(self) -> None:
        """Open the file. A FIFO is opened when its other end is."""
        drop_with_loop(self)
        with errors_name(self._path):
            self._special = await in_file_thread(self._may_block)
            if not self._special:
                await in_file_thread(self._open)
            elif _OPENS_AT_ONCE:
                await self._open_at_once()
            else:
                await read_in_thread(self._open)

    def _may_block(self) -> bool:
        return self._writing or _reads_may_block(os.stat(self._path))

    async def _open_at_once(self) -> None:
        # Opening makes a new file description, even for /dev/stdin, so O_NONBLOCK affects no other process.
        self._flags |= os.O_NONBLOCK | os.O_NOCTTY
        while True:
            try:
                return self._open()
            except OSError as error:
                # The writer of a FIFO that nobody reads. There is no event to wait for.
                if error.errno != errno.ENXIO or not stat.S_ISFIFO(os.stat(self._path).st_mode):
                    raise
            await sleep(_SECONDS_UNTIL_READY)

    def _open(self) -> None:
        descriptor = _Descriptor(os.open(self._path, self._flags))
        fifo = stat.S_ISFIFO(os.fstat(descriptor.number).st_mode)
        # Without a writer, a read of a FIFO looks like the end. Some devices are never ready for writing.
        self._waits_first = not _OPENS_AT_ONCE or (fifo and self._wait is wait_readable)
        self._inline = fifo and _OPENS_AT_ONCE
        self._descriptor = descriptor
        finalize(self, descriptor.close)
        if self._closed:  # while a thread that was left behind opened it
            descriptor.close()

    async def read(self, n: int) -> bytes:
        """Return up to `n` bytes, and ``b""`` at the end."""
        if self._descriptor is None:
            await self.open()
        return await self._use(lambda number: os.read(number, min(n, _PIECE) if self._special else n))

    async def write(self, data: bytes) -> None:
        """Write all of `data`."""
        rest = memoryview(data)
        # A blocking descriptor that is ready takes PIPE_BUF bytes for sure, and perhaps no more.
        piece = _PIECE if _OPENS_AT_ONCE else getattr(select, "PIPE_BUF", _PIECE)
        while rest:
            rest = rest[await self._use(partial(_write, rest[:piece])) :]
            await checkpoint()  # with a fast reader, no write waits

    async def _use(self, function: Callable[[int], T]) -> T:
        if self._descriptor is None:
            raise ValueError("the file is not open")
        use = self._descriptor.use
        with errors_name(self._path):
            if not self._special:
                return await in_file_thread(lambda: use(function))
            if self._waits_first:
                await _ready(self._wait, self._descriptor.number)
            while True:
                try:
                    if self._inline:
                        return use(function)
                    return await read_in_thread(lambda: use(function))
                except BlockingIOError:
                    if not await _ready(self._wait, self._descriptor.number):
                        await sleep(_SECONDS_UNTIL_READY)

    @property
    def closed(self) -> bool:
        """Whether `drop` was called."""
        return self._closed

    def drop(self) -> None:
        """Close the file; a thread that still uses it closes it when it ends."""
        self._closed = True
        if self._descriptor is not None:
            self._descriptor.close()


def _write(data: memoryview, descriptor: int) -> int:
    return os.write(descriptor, data)


class _Descriptor:
    """A file descriptor that is closed once, and not while a thread uses it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._lock = ThreadLock()
        self._used = False
        self._closed = False

    def use(self, function: Callable[[int], T]) -> T:
        """Call a function with the descriptor."""
        with self._lock:
            self._used = True
            closed = self._closed
        try:
            if closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            return function(self.number)
        finally:
            with self._lock:
                self._used = False
                closes = self._closed and not closed
            if closes:
                os.close(self.number)

    def close(self) -> None:
        with self._lock:
            closes = not self._closed and not self._used
            self._closed = True
        if closes:
            os.close(self.number)


async def _ready(wait: Callable[[int], Awaitable[None]], descriptor: int) -> bool:
    """Wait until a descriptor is ready; return False if the event loop cannot wait for this kind of file."""
    if sys.platform != "win32":
        with suppress(PermissionError):  # of epoll, for devices that are always ready
            await wait(descriptor)
            return True
    return False


async def read_file_object(file: Any, n: int) -> Any:
    """Call `read` of a caller's file object. Cancellation abandons a read that may block."""
    descriptor = _descriptor_of(file)
    if isinstance(file, io.BytesIO):
        return await in_file_thread(lambda: file.read(n))
    if descriptor is not None and not _reads_may_block(os.fstat(descriptor)):
        return await in_file_thread(lambda: file.read(n))
    if descriptor is not None and os.get_blocking(descriptor) and await _ready(wait_readable, descriptor):
        # `read` would block while it holds the lock of the file, and `close` waits for that lock.
        read = file.read1 if isinstance(file, io.BufferedReader) else file.read
        return await read_in_thread(lambda: read(_PIECE))
    return await read_in_thread(lambda: file.read(n))


def _descriptor_of(file: Any) -> int | None:
    """Return the descriptor of a file object made by `open`; None for other objects."""
    raw = file.raw if type(file) is io.BufferedReader else file
    if type(raw) is not io.FileIO or raw.closed or sys.platform == "win32":
        return None
    return raw.fileno()
