"""Hops to threads: cancellation waits for what runs, and leaves a caller's blocking read behind."""

from __future__ import annotations

import _thread
import asyncio
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aioencrypt.runtime.event_loops import loop_caller
from aioencrypt.runtime.offload import (
    LONG,
    WORKERS,
    in_file_thread,
    read_in_thread,
    run_work,
    submit,
    wait_shielded,
)
from tests.support.cancelling import Way, assert_fine, each_way, settle
from tests.support.streaming import assert_idle, on_asyncio_and_uvloop, tasks_left, threads_at_work
from tests.support.watching import watched

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]

Hop = Callable[[Callable[[], object]], Awaitable[object]]
in_pool: Hop = partial(run_work, cost=LONG)
hops = pytest.mark.parametrize("hop", [in_pool, in_file_thread], ids=["pool", "file"])


class Job:
    """Runs in a thread until it is let go; tells the loop when it has started."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.started = anyio.Event()
        self.go = threading.Event()
        self.ended = False
        self._call = loop_caller()
        self._error = error

    def __call__(self) -> str:
        self._call(self.started.set)
        assert self.go.wait(20)
        self.ended = True
        if self._error:
            raise self._error
        return "done"

    async def let_go(self) -> None:
        assert not self.ended
        self.go.set()


class Use:
    """Awaits a hop, and notes whether its thread had ended when the await did."""

    def __init__(self, hop: Hop, job: Job) -> None:
        self.hop = hop
        self.job = job
        self.ended: bool | None = None

    async def __call__(self) -> None:
        try:
            await self.hop(self.job)
        finally:
            self.ended = self.job.ended

    async def still_waits(self) -> None:
        assert self.ended is None
        assert threads_at_work() == 1
        self.job.go.set()


@hops
async def test_a_hop_gives_the_result_and_the_error_unchanged(hop: Hop) -> None:
    job = Job()
    job.go.set()
    assert await hop(job) == "done"
    error = ZeroDivisionError("of the work")
    job = Job(error)
    job.go.set()
    with pytest.raises(ZeroDivisionError) as caught:
        await hop(job)
    assert caught.value is error
    assert_idle()


@hops
@each_way
async def test_a_cancelled_hop_ends_after_its_thread(hop: Hop, way: Way) -> None:
    """A bare `to_thread.run_sync` returns at once under asyncio's own cancellation."""
    use = Use(hop, Job())
    await way.during(use.job.started, use, use.still_waits)
    assert use.ended
    await assert_fine()


@each_way
async def test_a_cancelled_hop_waits_and_does_not_spin(way: Way) -> None:
    job = Job()
    suspensions: list[int] = []

    async def use() -> None:
        await watched(in_pool(job), lambda: suspensions.append(1))

    await way.during(job.started, use, job.let_go)
    assert len(suspensions) <= 4


@each_way
async def test_the_error_of_a_cancelled_hop_gives_way_to_the_cancellation(way: Way) -> None:
    use = Use(in_pool, Job(ZeroDivisionError("nobody waits for this")))
    await way.during(use.job.started, use, use.still_waits)
    assert use.ended
    await assert_fine()


@each_way
async def test_a_hop_that_is_cancelled_at_once_still_runs_to_its_end(way: Way) -> None:
    """The work is on its way, and nobody can tell how far."""
    ran: list[int] = []
    assert await way.at(0, lambda: run_work(lambda: ran.append(1), LONG)) == (True, True)
    assert ran == [1]
    assert_idle()


@each_way
async def test_a_hop_that_is_cancelled_while_all_workers_are_taken_still_runs(way: Way) -> None:
    """Closing a file must not be dropped."""
    go, ran = threading.Event(), []
    for _ in range(WORKERS["files"]):
        submit("files", lambda: go.wait(60))
    waiting = anyio.Event()

    async def use() -> None:
        waiting.set()
        await in_file_thread(lambda: ran.append(1))

    async def let_go() -> None:
        assert ran == []
        go.set()

    try:
        await way.during(waiting, use, let_go)
    finally:
        go.set()
    assert ran == [1]
    assert_idle()


@on_asyncio_and_uvloop
@hops
async def test_all_tasks_cancelled_at_once(hop: Hop) -> None:
    """What `asyncio.run` does at its end, and a web server when it stops: no inner task is an exception."""
    use = Use(hop, Job())
    before = asyncio.all_tasks()
    task = asyncio.create_task(use())
    await use.job.started.wait()
    try:
        for _ in range(2):
            for other in asyncio.all_tasks() - before:
                other.cancel()
            await settle()
        await use.still_waits()
    finally:
        use.job.go.set()
        await asyncio.wait([task])
    assert task.cancelled()
    assert use.ended
    assert_idle()


@hops
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_interrupted_by_the_keyboard(hop: Hop, backend: str) -> None:
    """Ctrl-C ends the program with the exception itself, after the thread."""
    log: list[str] = []
    handled = threading.Event()

    def work() -> None:
        _thread.interrupt_main()
        handled.wait(0.2)  # nobody sets it: an await that ended early would come first in the log
        log.append("thread")

    async def main() -> None:
        try:
            await hop(work)
        finally:
            log.append("await")

    # A process that was started in the background may ignore the signal.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            anyio.run(main, backend=backend)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert log == ["thread", "await"]


@hops
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_ends_the_program_is_not_wrapped(hop: Hop, error: BaseException, backend: str) -> None:
    seen: list[BaseException] = []

    def work() -> None:
        raise error

    async def main() -> None:
        try:
            await hop(work)
        except BaseException as caught:
            seen.append(caught)
            raise

    with pytest.raises(type(error)):
        anyio.run(main, backend=backend)
    assert seen == [error]


@hops
async def test_nothing_stays_open_after_a_hop(hop: Hop) -> None:
    """Otherwise a scope of the caller could not be left after it was entered before."""
    scope = anyio.CancelScope()
    with scope:
        await hop(lambda: None)
        scope.cancel()
        await checkpoint()
    assert scope.cancelled_caught
    assert tasks_left() == []


# Outlast


@each_way
async def test_outlast_waits_for_the_event(way: Way) -> None:
    done, waiting = anyio.Event(), anyio.Event()
    log: list[str] = []

    async def use() -> None:
        waiting.set()
        try:
            await wait_shielded(done)
        finally:
            log.append("await")

    async def set_it() -> None:
        log.append("event")
        done.set()

    await way.during(waiting, use, set_it)
    assert log == ["event", "await"]
    await assert_fine()


async def test_outlast_of_what_is_done_still_gives_way_to_cancellation() -> None:
    done = anyio.Event()
    done.set()
    await wait_shielded(done)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await wait_shielded(done)
        raise AssertionError("not cancelled")
    assert scope.cancelled_caught


# A caller's blocking read


@each_way
async def test_a_blocking_read_is_left_behind(way: Way) -> None:
    use = Use(read_in_thread, Job())
    try:
        await way.when(use.job.started, use)
        assert use.ended is False
        assert await read_in_thread(lambda: "another") == "another"
    finally:
        use.job.go.set()
    while threads_at_work():  # on trio the thread counts to its end
        await checkpoint()
    await assert_fine()


async def test_blocked_reads_hinder_no_other_read_and_not_the_exit() -> None:
    code = """
import threading, anyio
from aioencrypt.runtime.offload import in_file_thread, read_in_thread

async def main():
    started, forever = threading.Barrier(101), threading.Event()
    def block():
        started.wait()
        forever.wait()
    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(read_in_thread, block)
        await in_file_thread(started.wait)
        print(await read_in_thread(lambda: "read"), await in_file_thread(lambda: "file"), flush=True)
        group.cancel_scope.cancel()

anyio.run(main)
"""
    with anyio.fail_after(60):
        result = await anyio.run_process([sys.executable, "-c", code])
    assert result.stdout.split() == [b"read", b"file"]


async def test_a_blocking_read_gives_results_and_errors() -> None:
    def fail() -> None:
        raise OSError("of the file")

    assert await read_in_thread(lambda: b"data") == b"data"
    with pytest.raises(OSError, match="of the file"):
        await read_in_thread(fail)
    assert_idle()
