"""Decide where work runs: in the event loop, a little at a time, or in a worker thread.

Work in the loop goes through the lane: at most `LANE_MICROSECONDS` in one loop iteration, over all streams
of the loop, first come, first served. A hop to a thread and back takes 100 to 200 microseconds, more than
sealing fifty frames of 4 KiB. So threads are for work that cannot be divided (ECDSA, RSA, large frames),
for files, and for digests, the slowest part of a signed message.

Streams, keys and signers call `run_work`, `in_file_thread` and `read_in_thread` from tasks of an event loop.
Only that loop touches its `LoopState` and `Lane`. Any thread may call `submit`.

Invariant: a call returns or raises only when its function has ended, so the caller's buffers are free again.
The exception is `read_in_thread`, which abandons its function when it is cancelled.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from contextvars import copy_context
from functools import lru_cache, partial
from queue import SimpleQueue
from threading import Thread
from time import perf_counter
from typing import TypeVar

from anyio import CancelScope, Event, get_cancelled_exc_class
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from aioencrypt.format.batches import BATCH_COST
from aioencrypt.policies import Offload
from aioencrypt.runtime.event_loops import LoopLocal, is_being_closed, loop_caller

T = TypeVar("T")

# Other tasks wait for up to three of these: until the timer is noticed, the future is set, the task is woken.
LANE_MICROSECONDS = 200
LONG = float("inf")
"""The cost of work that always runs in a thread."""
# Below this a hop costs more than the work.
_WORTH_A_HOP = 150
_THREAD_BATCH = 1000

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
# More workers than free cores make everything slower: they compete for the GIL. Threads for files wait for
# disks.
WORKERS = {"cryptography": max(1, CORES - 1), "digests": max(1, CORES - 1), "files": 32}


class Lane:
    """Runs short work in the event loop, at most `LANE_MICROSECONDS` of it in one loop iteration.

    Only tasks of one loop use it, so it needs no thread lock. `spent` counts microseconds since the budget
    was last renewed; an estimate admits the work, the measured time is charged. One task at a time holds
    the lane while it waits for the next iteration, and hands it to the one that waits longest. `anyio.Lock`
    would do, but its owner must release it in its own task, which a coroutine that is being closed cannot.
    """

    def __init__(self) -> None:
        self.spent: float = 0.0
        self.held: bool = False
        self._waiting: deque[Event] = deque()

    @property
    def busy(self) -> bool:
        """Whether a task waits for the lane."""
        return bool(self._waiting)

    async def run(self, function: Callable[[], T], cost: float) -> T:
        """Run a function when the budget allows its cost."""
        if not self.held and self.spent + cost <= LANE_MICROSECONDS:
            return self._timed(function)
        # Waiters form a chain: each wakes the next one loop iteration later, and that iteration starts with
        # a full budget. Only the head of the chain yields to the loop, so the lane stays within one budget
        # per iteration, however many streams share it.
        waited = await self.acquire()
        try:
            if waited:
                self.spent = 0.0
            elif self.spent + cost > LANE_MICROSECONDS:
                await checkpoint()
                self.spent = 0.0
            return self._timed(function)
        finally:
            self.release()

    async def acquire(self) -> bool:
        """Take the lane, first come, first served. Returns whether this had to wait."""
        if not self.held:
            self.held = True
            return False
        turn = Event()
        self._waiting.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self.release()
            else:
                self._waiting.remove(turn)
            raise
        return True

    def release(self) -> None:
        """Hand the lane to the next task, or leave it free."""
        self.held = bool(self._waiting)
        if self.held:
            # A closed loop wakes nobody: the tasks that wait there end as this one does.
            with suppress(RuntimeError):
                self._waiting.popleft().set()

    def _timed(self, function: Callable[[], T]) -> T:
        start = perf_counter()
        try:
            return function()
        finally:
            self.spent += (perf_counter() - start) * 1e6


class LoopState:
    """What offloading keeps for one event loop. Only that loop reads and writes it.

    Limiters belong to a loop, because one that several loops share would hang.
    """

    def __init__(self) -> None:
        self.lane: Lane = Lane()
        # Hops that this loop waits for now, and all hops that it ever began.
        self.hops = 0
        self.hops_begun = 0
        # Reads that may block for ever, and that this loop waits for now.
        self.reads = 0


loop_states: LoopLocal[LoopState] = LoopLocal(LoopState)


@lru_cache
def _workers(kind: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(WORKERS[kind], thread_name_prefix=f"aioencrypt-{kind}")


# The threads of a pool do not survive a fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.cache_clear)


def submit(kind: str, function: Callable[[], T]) -> Future[T]:
    """Give a function to the worker threads of a kind, which all loops share. Any thread may call this."""
    try:
        return _workers(kind).submit(function)
    except RuntimeError:
        # Pools end with the main thread. Loops in other threads go on, with a thread for each call.
        future: Future[T] = Future()
        Thread(target=_settle, args=(future, function)).start()
        return future


def _settle(future: Future[T], function: Callable[[], T]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
        del future  # the traceback of the error leads here


# Daemon threads that are free to read. A program that exits does not wait for them.
_free_readers: deque[SimpleQueue[Callable[[], object]]] = deque()
_MOST_FREE_READERS = 32

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_readers.clear)


def _start_reader(function: Callable[[], object]) -> None:
    """Run a function in a daemon thread that nothing else waits for."""
    try:
        queue = _free_readers.pop()
    except IndexError:
        queue = SimpleQueue()
        Thread(target=_run_reader, args=(queue,), name="aioencrypt-reads", daemon=True).start()
    queue.put(function)


def _run_reader(queue: SimpleQueue[Callable[[], object]]) -> None:
    while True:
        queue.get()()
        if len(_free_readers) >= _MOST_FREE_READERS:
            return
        _free_readers.append(queue)


async def run_work(
    function: Callable[[], T], cost: float, offload: Offload = Offload.AUTO, state: LoopState | None = None
) -> T:
    """Run a function in the lane or in a thread. `cost` estimates its time in microseconds.

    A stream passes the `state` of its loop, so that no batch looks it up. A coroutine that is being closed
    runs the function at once.
    """
    if sys.exception() is not None and is_being_closed():
        return function()
    state = state or loop_states.get()
    inline = cost <= LANE_MICROSECONDS
    if inline and cost >= _WORTH_A_HOP:
        spare = offload is Offload.AUTO and CORES > 2 and state.hops < WORKERS["cryptography"]
        inline = not (offload is Offload.THREADS or (spare and state.lane.busy))
    if inline:
        return await state.lane.run(function, cost)
    return await _hop("cryptography", function)


async def in_file_thread(function: Callable[[], T]) -> T:
    """Run a blocking operation on a file that this library opened. Cancellation waits for it."""
    return await _hop("files", function)


async def read_in_thread(function: Callable[[], T]) -> T:
    """Run a read that may block for ever, in a daemon thread of its own, and in the caller's context.

    Cancellation abandons the read and drops its result.
    """
    state = loop_states.get()
    done, call = Event(), loop_caller()
    future: Future[T] = Future()
    future.add_done_callback(lambda _: call(done.set))
    state.reads += 1
    try:
        _start_reader(partial(copy_context().run, _settle, future, function))
        await done.wait()
        return future.result()
    finally:
        state.reads -= 1
        del future  # an error would hold it, and it the error


async def _hop(kind: str, function: Callable[[], T]) -> T:
    """Run a function in a thread and wait until it has ended, even if this task is cancelled.

    The thread uses the caller's buffers, so the caller must not get them back earlier. `to_thread.run_sync`
    returns at once under asyncio's own cancellation. A child task would, too, where a program cancels all
    tasks of a loop.

    A coroutine that is being closed cannot wait for the loop. It blocks until the function has ended.
    """
    if is_being_closed():
        return function()
    state = loop_states.get()
    done = Event()
    call = loop_caller()
    state.hops += 1
    state.hops_begun += 1
    try:
        future = submit(kind, function)
        future.add_done_callback(lambda _: call(done.set))
        await wait_shielded(done)
    except GeneratorExit:
        wait([future])
        raise
    finally:
        state.hops -= 1
    return future.result()


async def wait_shielded(*events: Event) -> None:
    """Wait for events. A cancellation of this task takes effect when all of them are set.

    A coroutine that is being closed cannot wait, and continues.
    """
    if is_being_closed():
        return
    cancellation: BaseException | None = None
    for done in events:
        while not done.is_set():
            try:
                # No scope before it is needed: anyio keeps tasks alive that were abandoned inside one.
                with nullcontext() if cancellation is None else CancelScope(shield=True):
                    await done.wait()
            except GeneratorExit:  # there may be no loop any more
                raise
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
    """Return the microseconds that a batch of frames may take: in a thread, many times those of a hop."""
    return _THREAD_BATCH if offload is Offload.THREADS else BATCH_COST
