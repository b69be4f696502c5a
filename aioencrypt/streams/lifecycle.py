"""The life of a stream: entered once, used by one task at a time, errors are final, closed whatever happens.

Streams and writers subclass `Lifecycle`. Methods that await do so inside `_exclusive` or `_shared`; leaving
`async with` and `aclose` call `_close`. All of them run in the event loop that entered the object. Worker
threads use only `OwnedFile`, which has a lock.

Invariant: the resources are closed exactly once, when the object is closed and no call runs any more. Leaving
while calls run refuses new calls; the call that ends last closes the resources. A coroutine that is closed
instead of cancelled (`coroutine.close()`, or its loop is gone) cannot wait; there, closing does the same work
at once.
"""

from __future__ import annotations

import copy
import enum
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import IO, ClassVar, Protocol, Self, TypeVar

from aioencrypt.errors import (
    EncryptionError,
    StreamBusyError,
    StreamClosedError,
    StreamError,
    StreamNotEnteredError,
)
from aioencrypt.runtime.event_loops import drop_with_loop, is_being_closed
from aioencrypt.runtime.observation import (
    MessageOperation,
    MessageWatch,
    Mode,
    Tally,
    current,
    watch_message,
)
from aioencrypt.runtime.offload import in_file_thread
from aioencrypt.runtime.threads import ThreadLock

T = TypeVar("T")


class Closable(Protocol):
    """What is closed with its owner."""

    async def aclose(self) -> None:
        """Let go of everything; under cancellation, raise after that."""
        ...


async def close_all(resources: Sequence[Closable]) -> None:
    """Close all of them, whatever the first ones raise; then raise the first error."""
    failure: BaseException | None = None
    for number, resource in enumerate(resources):
        try:
            await _close_one(resource)
        except GeneratorExit:
            await close_all(resources[number + 1 :])
            raise
        except BaseException as error:
            failure = failure or error
    if failure:
        try:
            raise failure
        finally:
            del failure


async def _close_one(resource: Closable) -> None:
    if is_being_closed():
        # Our own resources do not wait now. A caller's resource that waits is abandoned where it first waits.
        next(resource.aclose().__await__(), None)
    else:
        await resource.aclose()


class OwnedFile:
    """A file of ours that threads use. Closing never waits: the last thread that uses the file closes it."""

    def __init__(self, open_file: Callable[[], IO[bytes]]) -> None:
        self._open_file = open_file
        self._lock = ThreadLock()
        self._file: IO[bytes] | None = None
        self._users = 0
        self._closed = False

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run a function that uses the file in a thread."""
        if self._file is None:
            drop_with_loop(self)
        return await in_file_thread(function)

    @contextmanager
    def use(self) -> Iterator[IO[bytes]]:
        """Yield the file. The first use opens it; others must not begin before that one has ended."""
        with self._lock:
            if self._closed:
                raise StreamClosedError("the file is closed")
            self._users += 1
        try:
            if self._file is None:
                self._file = self._open_file()
            yield self._file
        finally:
            with self._lock:
                self._users -= 1
                self._close_unused()

    def _close_unused(self) -> None:
        if self._closed and not self._users and self._file is not None:
            file, self._file = self._file, None
            with suppress(OSError):  # closing may report a full disk again; the file is dropped anyway
                file.close()

    def drop(self) -> None:
        """Close the file, or leave that to the thread that uses it."""
        with self._lock:
            self._closed = True
            self._close_unused()

    async def aclose(self) -> None:
        """Close the file in a thread."""
        if self._file is None:
            self.drop()
        else:
            await in_file_thread(self.drop)


class Life(enum.Enum):
    NEW = enum.auto()
    OPEN = enum.auto()
    CLOSED = enum.auto()


class _Call:
    """Brackets one call. Not `@asynccontextmanager`, because every chunk enters one."""

    def __init__(
        self, begin: Callable[[], None], end: Callable[[BaseException | None], Awaitable[None]]
    ) -> None:
        self._begin = begin
        self._end = end

    async def __aenter__(self) -> None:
        self._begin()

    def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> Awaitable[None]:
        return self._end(exc)


class Lifecycle(ABC):
    """An object that is entered once. `noun` names it in errors.

    Where errors are final, every later call fails with a copy of the first error, or with a `StreamError`
    that names it. That includes a cancelled call, which may have lost bytes.
    """

    # How observers hear of it: as an operation on a message, and its mode.
    _observed_as: ClassVar[tuple[MessageOperation, Mode] | None] = None
    # Whether observers hear of the end only after the last running call: a writer's counts change until then.
    _observed_to_last_call: ClassVar[bool] = False

    def __init__(self, noun: str, *, errors_are_final: bool = True) -> None:
        self._noun = noun
        self._errors_are_final = errors_are_final
        self._life = Life.NEW
        self._busy = False
        self._running = 0
        self._released = False
        self._closed_complete = False
        # The error of a failed call. Of a cancelled call, only the type is kept.
        self._failure: Exception | None = None
        self._failed_by: type[BaseException] | None = None
        # The exception that left `async with`, for observers.
        self._left_by: type[BaseException] | None = None
        self._watch: MessageWatch | None = None

    @abstractmethod
    async def _open(self) -> None:
        """Do what `async with` does on entry."""

    @property
    @abstractmethod
    def _complete(self) -> bool:
        """Whether leaving now is no error."""

    @abstractmethod
    def _tally(self) -> Tally:
        """Return what observers are told at the end."""

    @abstractmethod
    def _resources(self) -> Sequence[Closable]:
        """Return what is closed with this object, in order."""

    def _forget(self) -> None:
        """Drop buffers, right before the resources are closed."""

    def _not_entered(self) -> StreamNotEnteredError:
        return StreamNotEnteredError(f"the {self._noun} is not open: use it in `async with`")

    async def __aenter__(self) -> Self:
        if self._life is not Life.NEW:
            raise StreamError(f"a {self._noun} can be entered only once: create another one")
        self._life = Life.OPEN
        self._watch = watch_message(*self._observed_as) if self._observed_as else None
        try:
            async with self._exclusive():
                with current(self._watch):
                    await self._open()
        except BaseException as error:
            self._failed_by = type(error)
            await self._close()
            raise
        return self

    def _check_open(self) -> None:
        if self._life is Life.NEW:
            raise self._not_entered()
        if self._failed_by and self._errors_are_final:
            self._raise_again(self._failed_by)
        if self._life is Life.CLOSED:
            raise StreamClosedError(f"the {self._noun} is closed")

    def _raise_again(self, failed_by: type[BaseException]) -> None:
        # A copy, because an exception that is raised again has a longer traceback each time.
        if isinstance(self._failure, EncryptionError):
            raise copy.copy(self._failure) from self._failure
        raise StreamError(f"the {self._noun} failed before, with {failed_by.__name__}") from self._failure

    def _check_idle(self) -> None:
        self._check_open()
        self._check_not_busy()

    def _check_not_busy(self) -> None:
        if self._busy:
            raise StreamBusyError(
                f"another task is using this {self._noun}: a {self._noun} belongs to one task at a time"
            )

    def _exclusive(self) -> _Call:
        """Guard a call that one task may make at a time."""
        self._check_idle()
        return _Call(self._begin, self._end)

    def _shared(self) -> _Call:
        """Guard a call that any number of tasks may make."""
        self._check_open()
        return _Call(self._begin_shared, self._end_shared)

    def _begin(self) -> None:
        self._busy = True
        self._running += 1

    def _end(self, error: BaseException | None) -> Awaitable[None]:
        self._busy = False
        return self._end_shared(error)

    def _begin_shared(self) -> None:
        self._running += 1

    async def _end_shared(self, error: BaseException | None) -> None:
        self._running -= 1
        kept = self._errors_are_final or isinstance(error, Exception)
        if error is not None and kept and self._life is Life.OPEN:
            self._failed_by = type(error)
            self._failure = error if isinstance(error, Exception) else None
        if self._life is Life.CLOSED:
            await self._release()

    async def _close(self, left_by: type[BaseException] | None = None) -> None:
        """Close the object; `left_by` is what observers are told."""
        if self._life is not Life.CLOSED:
            self._life = Life.CLOSED
            self._closed_complete = self._complete
            self._left_by = left_by
            if not self._running or not self._observed_to_last_call:
                self._end_watch()
        await self._release()

    async def _release(self) -> None:
        """Close the resources, unless a call still runs: that call does it when it ends."""
        if self._running or self._released:
            return
        self._released = True
        self._end_watch()
        self._forget()
        await close_all(self._resources())

    def _end_watch(self) -> None:
        if self._watch:
            self._watch.tally = self._tally()
            error = None if self._closed_complete else self._failed_by or self._left_by
            self._watch.end(error, abandoned=not self._closed_complete)
