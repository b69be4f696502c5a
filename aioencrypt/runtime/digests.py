"""Compute digests of signed messages: in order within a stream, in worker threads, in bounded memory.

`Driver` and `Sealer` reserve memory and add digests in the event loop; worker threads compute them.

Invariants: at most one digest of a stream runs at any time, and `join` returns only when all have ended.
The bytes that wait for their digest are bounded for each stream, which needs no more to keep a worker busy,
and for all streams of an event loop together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from types import TracebackType

from anyio import Event

from aioencrypt.runtime.event_loops import LoopLocal, is_being_closed, loop_caller
from aioencrypt.runtime.offload import run_work, submit, wait_shielded
from aioencrypt.runtime.threads import ThreadLock

# Bytes that may wait for their digest: of one stream, and of all streams of a loop.
STREAM_BOUND = 2 * 1024 * 1024
LOOP_BOUND = 16 * 1024 * 1024
# The loop itself digests up to this many bytes: 50 microseconds.
INLINE_LENGTH = 32 * 1024
_BYTES_PER_MICROSECOND = 600

_Waiter = tuple[Event, Callable[[Callable[[], object]], None]]


class DigestBudget:
    """The bytes that wait for digests, over all streams of an event loop.

    Tasks of the loop take, in the order in which they come. The loop and worker threads give back. `_lock`
    guards `used` and `_waiting`; nobody awaits while holding it. A waiter leaves the queue when it is
    woken, so at most one waiter is awake for each wake-up, and each one wakes the next when there is still
    room.
    """

    def __init__(self) -> None:
        self._lock = ThreadLock()
        self.used: int = 0
        self._waiting: deque[_Waiter] = deque()

    async def take(self, length: int) -> None:
        """Wait until fewer than `LOOP_BOUND` bytes are taken, then take `length`."""
        while waiting := self._try(length):
            try:
                await waiting[0].wait()
            except BaseException:
                self._leave(waiting)
                raise
            self.give(0)  # there may be room for the next waiter, too

    def _try(self, length: int) -> _Waiter | None:
        """Take `length`, or join the queue and return the place in it."""
        with self._lock:
            if self.used < LOOP_BOUND:
                self.used += length
                return None
            self._waiting.append((Event(), loop_caller()))
            return self._waiting[-1]

    def _leave(self, waiting: _Waiter) -> None:
        """Give up a place in the queue. A waiter that was woken already passes the wake-up on."""
        with self._lock:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                return
        self.give(0)

    def give(self, length: int) -> None:
        """Give bytes back, and wake the first waiter if there is room. Any thread may call this."""
        with self._lock:
            self.used -= length
            if self.used >= LOOP_BOUND or not self._waiting:
                return
            event, call = self._waiting.popleft()
        call(event.set)


digest_budgets: LoopLocal[DigestBudget] = LoopLocal(DigestBudget)


class DigestQueue:
    """The digests of one stream: in order, in a worker thread, while the loop does other work.

    The task that uses the stream calls the methods, one at a time. A worker thread runs `_next`, at most
    one at any time: `add` submits it when nothing is pending, and it submits itself while digests wait.
    `_lock` guards `_waiting`, `_pending` and `_wake`. `_failure` is written by the worker before it lowers
    `_pending`, and read by the task after `_pending` is 0.
    """

    def __init__(self) -> None:
        self._lock = ThreadLock()
        # Each digest, its length, and what it took of the budget.
        self._waiting: deque[tuple[Callable[[], None], int, int]] = deque()
        # The bytes that wait or are being digested.
        self._pending = 0
        self._budget: DigestBudget | None = None
        # What the next digest has taken of the budget.
        self._reserved = 0
        self._wake: Callable[[], None] | None = None
        self._wake_below = 0
        self._failure: BaseException | None = None
        # Raised again with the traceback of the worker only, which would grow with each time otherwise.
        self._traceback: TracebackType | None = None
        # The last job that was given to a worker.
        self._job: Future[None] | None = None

    @property
    def pending(self) -> int:
        """The bytes that wait for their digest, or are being digested."""
        return self._pending

    async def reserve(self, length: int) -> None:
        """Wait until the loop may keep `length` more bytes for a digest. Call this before they exist."""
        if self._pending or length > INLINE_LENGTH:
            self._budget = digest_budgets.get()
            await self._budget.take(length)
            self._reserved = length

    def _give_back(self, length: int) -> None:
        if self._budget and length:
            self._budget.give(length)

    async def add(self, digest: Callable[[], None], length: int) -> None:
        """Queue a digest over the reserved bytes. Waits while more than `STREAM_BOUND` bytes are pending."""
        reserved, self._reserved = self._reserved, 0
        # `_pending` is 0 only if nothing is pending: a digest of no bytes counts as one byte.
        length = max(1, length)
        if not self._pending and length <= INLINE_LENGTH:
            self._give_back(reserved)
            await run_work(digest, length / _BYTES_PER_MICROSECOND)
            return
        with self._lock:
            self._waiting.append((digest, length, reserved))
            self._pending += length
            if self._pending == length:
                self._job = submit("digests", self._next)
        if event := self._event_below(STREAM_BOUND):
            await event.wait()

    async def join(self) -> None:
        """Wait until all digests are done. Raises the first error that one of them raised."""
        if event := self._event_below(0):
            await event.wait()
        if self._failure:
            raise self._failure.with_traceback(self._traceback)

    async def aclose(self) -> None:
        """Drop the digests that wait, and wait for the one that runs, even if this task is cancelled."""
        if not self._pending and not self._reserved:
            return
        reserved, self._reserved = self._reserved, 0
        with self._lock:
            for _, length, kept in self._waiting:
                self._pending -= length
                reserved += kept
            self._waiting.clear()
        self._give_back(reserved)
        if is_being_closed():
            # Nothing waits any more, so this job is the last one.
            if self._job:
                wait([self._job])
        elif event := self._event_below(0):
            await wait_shielded(event)

    def _event_below(self, below: int) -> Event | None:
        """Return an event that is set when at most `below` bytes are pending, or None if that holds now."""
        if self._pending <= below:
            return None
        event = Event()
        call = loop_caller()
        with self._lock:
            if self._pending <= below:
                return None
            self._wake_below = below
            self._wake = lambda: call(event.set)
        return event

    def _next(self) -> None:
        """Compute one digest, in a worker thread. The next one queues behind those of other streams."""
        with self._lock:
            if not self._waiting:
                return
            digest, length, reserved = self._waiting.popleft()
        try:
            digest()
        except BaseException as error:
            if self._failure is None:
                self._failure, self._traceback = error, error.__traceback__
        # The task that waits may resize the buffer that the digest has a view on.
        del digest
        self._give_back(reserved)
        with self._lock:
            self._pending -= length
            if self._wake and self._pending <= self._wake_below:
                self._wake()
                self._wake = None
            if self._waiting:
                self._job = submit("digests", self._next)
