"""Where work runs: in the loop, a little at a time, or in a worker thread. Nothing else decides that.

Inline work goes through the lane: at most `LANE_MICROSECONDS` in one turn of the loop, over all
streams of the loop, first come first served. A hop to a thread and back takes 100 to 200
microseconds, more than sealing fifty frames of 4 KiB, so threads are for work that cannot be cut
short (ECDSA, RSA, large frames) and for digests, which take the longest of all in a signed message
and run beside everything else.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from threading import Lock as ThreadLock, Thread
from time import perf_counter
from typing import TypeVar
from weakref import WeakKeyDictionary

from anyio import CancelScope, CapacityLimiter, Event, Lock, get_cancelled_exc_class, to_thread
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from aioencrypt.format.batches import BATCH_COST
from aioencrypt.policies import Offload
from aioencrypt.runtime.event_loops import loop_caller, running_loop

T = TypeVar("T")

# A delay seen by others is up to three of these: timer noticed, future set, task woken.
LANE_MICROSECONDS = 200
LONG = float("inf")
"""The cost of work that belongs in a thread, however long it takes."""
# Below this a hop costs more than the work.
_WORTH_A_HOP = 150
_THREAD_BATCH = 1000
# Signed bytes of one stream that may wait for their digest: enough to keep the worker busy, no more, for
# memory; and those of all streams of a loop, which is what a thousand of them share.
_PENDING_DIGEST = 2 * 1024 * 1024
_PENDING_DIGESTS = 16 * 1024 * 1024
# Up to this many bytes a digest is done at once: 50 microseconds.
_INLINE_DIGEST = 32 * 1024

_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
# More workers than free cores make everything slower: they fight for the interpreter. Threads for files
# wait for disks.
_WORKERS = {"cryptography": max(1, _CORES - 1), "digests": max(1, _CORES - 1), "files": 32}


class _Lane:
    """Takes turns with the event loop."""

    def __init__(self) -> None:
        self._lock = Lock(fast_acquire=True)
        self._spent = 0.0

    @property
    def busy(self) -> bool:
        return self._lock.statistics().tasks_waiting > 0

    async def run(self, function: Callable[[], T], cost: float) -> T:
        if not self._lock.locked() and self._spent + cost <= LANE_MICROSECONDS:
            return self._timed(function)
        # Whoever waits is woken by the one before in the turn after his: a new budget. That one task
        # waits for the next turn on behalf of all is what bounds the sum over all streams.
        waits = self._lock.locked()
        async with self._lock:
            if waits:
                self._spent = 0.0
            elif self._spent + cost > LANE_MICROSECONDS:
                await checkpoint()
                self._spent = 0.0
            return self._timed(function)

    def _timed(self, function: Callable[[], T]) -> T:
        start = perf_counter()
        try:
            return function()
        finally:
            self._spent += (perf_counter() - start) * 1e6


class _DigestBudget:
    """The bytes that wait for digests, over all streams of a loop. Whoever comes first is served first."""

    def __init__(self) -> None:
        self._lock = ThreadLock()
        self._used = 0
        self._waiting: deque[tuple[Event, Callable[[Callable[[], object]], None]]] = deque()

    async def take(self, length: int) -> None:
        while waiting := self._try(length):
            try:
                await waiting[0].wait()
            except BaseException:
                self._leave(waiting)
                raise
            self.give(0)  # there may be room for the next one, too

    def _try(self, length: int) -> tuple[Event, Callable[[Callable[[], object]], None]] | None:
        with self._lock:
            if self._used < _PENDING_DIGESTS:
                self._used += length
                return None
            self._waiting.append((Event(), loop_caller()))
            return self._waiting[-1]

    def _leave(self, waiting: tuple[Event, Callable[[Callable[[], object]], None]]) -> None:
        with self._lock:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                return
        self.give(0)

    def give(self, length: int) -> None:
        with self._lock:
            self._used -= length
            if self._used >= _PENDING_DIGESTS or not self._waiting:
                return
            event, call = self._waiting.popleft()
        call(event.set)


class _LoopState:
    """What belongs to one event loop: limiters of several loops would hang."""

    def __init__(self) -> None:
        self.lane = _Lane()
        self.digests = _DigestBudget()
        self.hops = 0
        self.reads = CapacityLimiter(40)


# A `RunVar` does the same in three microseconds, a tenth of what a small message takes.
_states: WeakKeyDictionary[object, _LoopState] = WeakKeyDictionary()


def _state() -> _LoopState:
    loop = running_loop()
    state = _states.get(loop)
    if state is None:
        state = _states[loop] = _LoopState()
    return state


@lru_cache
def _workers(kind: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_WORKERS[kind], thread_name_prefix=f"aioencrypt-{kind}")


# The threads of a pool do not survive a fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.cache_clear)


def _submit(kind: str, function: Callable[[], T]) -> Future[T]:
    """Give a function to the worker threads of a kind."""
    try:
        return _workers(kind).submit(function)
    except RuntimeError:
        # Pools end with the main thread. Loops in other threads go on, with a thread for each call.
        future: Future[T] = Future()

        def work() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        Thread(target=work).start()
        return future


async def run_work(function: Callable[[], T], cost: float, offload: Offload = Offload.AUTO) -> T:
    """Run a function whose `cost` is an estimate in microseconds, in the lane or in a thread."""
    state = _state()
    inline = cost <= LANE_MICROSECONDS
    if inline and cost >= _WORTH_A_HOP:
        spare = offload is Offload.AUTO and _CORES > 2 and state.hops < _WORKERS["cryptography"]
        inline = not (offload is Offload.THREADS or (spare and state.lane.busy))
    if inline:
        return await state.lane.run(function, cost)
    return await _hop("cryptography", function)


async def in_file_thread(function: Callable[[], T]) -> T:
    """Run a blocking operation on a file that is ours; cancellation waits for it."""
    return await _hop("files", function)


async def read_in_thread(function: Callable[[], T]) -> T:
    """Run a blocking read of a caller's file; cancellation leaves it behind and drops its result."""
    return await to_thread.run_sync(function, limiter=_state().reads, abandon_on_cancel=True)


async def _hop(kind: str, function: Callable[[], T]) -> T:
    """Run a function in a thread, to its end: nobody gets its buffers back before.

    `to_thread.run_sync` would return at once under asyncio's own cancellation, and so would a child
    task in which it runs, where all tasks of a loop are cancelled.
    """
    state = _state()
    done = Event()
    call = loop_caller()
    state.hops += 1
    try:
        future = _submit(kind, function)
        future.add_done_callback(lambda _: call(done.set))
        await wait_shielded(done)
    finally:
        state.hops -= 1
    return future.result()


async def wait_shielded(done: Event) -> None:
    """Wait for an event, also when this task is cancelled meanwhile; then the cancellation goes on."""
    cancellation: BaseException | None = None
    while not done.is_set():
        try:
            with CancelScope(shield=True):
                await done.wait()
        except (get_cancelled_exc_class(), KeyboardInterrupt) as error:
            # asyncio's own cancellation passes through a shield, and so does Ctrl-C under trio.
            cancellation = error
    if cancellation:
        try:
            raise cancellation
        finally:
            del cancellation
    await checkpoint_if_cancelled()


def batch_cost(offload: Offload) -> float:
    """Return the microseconds that a batch of frames may take: a hop should carry many times its own cost."""
    return _THREAD_BATCH if offload is Offload.THREADS else BATCH_COST


class DigestQueue:
    """The digests of one stream: in order, in a worker thread, beside whatever else happens."""

    def __init__(self) -> None:
        self._lock = ThreadLock()
        self._waiting: deque[tuple[Callable[[], None], int, int]] = deque()
        self._pending = 0
        self._budget: _DigestBudget | None = None
        self._reserved = 0
        self._wake: Callable[[], None] | None = None
        self._wake_below = 0
        self._failure: BaseException | None = None

    async def reserve(self, length: int) -> None:
        """Wait until `length` bytes more may wait for their digest: before they are made, or taken."""
        if self._pending or length > _INLINE_DIGEST:
            self._budget = _state().digests
            await self._budget.take(length)
            self._reserved = length

    def _give_back(self, length: int) -> None:
        if self._budget and length:
            self._budget.give(length)

    async def add(self, digest: Callable[[], None], length: int) -> None:
        """Queue a digest over the bytes that were reserved; waits while too many of this stream wait."""
        reserved, self._reserved = self._reserved, 0
        # What is pending also says whether anything is: a digest of no bytes counts as one.
        length = max(1, length)
        with self._lock:
            idle = not self._pending
            if not idle or length > _INLINE_DIGEST:
                self._waiting.append((digest, length, reserved))
                self._pending += length
                if idle:
                    _submit("digests", self._next)
                idle = False
        if idle:
            self._give_back(reserved)
            await run_work(digest, length / 600)
        elif event := self._watch(_PENDING_DIGEST):
            await event.wait()

    async def join(self) -> None:
        """Wait until all digests are done; raises what one of them raised."""
        if event := self._watch(0):
            await event.wait()
        if self._failure:
            raise self._failure

    async def aclose(self) -> None:
        """Drop what waits, and wait for what runs, whatever happens."""
        if not self._pending and not self._reserved:
            return
        reserved, self._reserved = self._reserved, 0
        with self._lock:
            for _, length, kept in self._waiting:
                self._pending -= length
                reserved += kept
            self._waiting.clear()
        self._give_back(reserved)
        if event := self._watch(0):
            await wait_shielded(event)

    def _watch(self, below: int) -> Event | None:
        """Return an event that is set when no more than this is pending; None where that is so now."""
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
        """Do one digest; the next one queues behind those of other streams."""
        with self._lock:
            if not self._waiting:
                return
            digest, length, reserved = self._waiting.popleft()
        try:
            digest()
        except BaseException as error:
            self._failure = self._failure or error
        # Whoever waits may want to finish the buffer that the digest has a view on.
        del digest
        self._give_back(reserved)
        with self._lock:
            self._pending -= length
            if self._wake and self._pending <= self._wake_below:
                self._wake()
                self._wake = None
            if self._waiting:
                _submit("digests", self._next)
