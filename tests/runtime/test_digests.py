"""The queue of digests: order, bound, what is waited for, and pools after a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import example, given, settings, strategies as st

from aioencrypt import decrypt, decrypt_stream
from aioencrypt.runtime.digests import DigestQueue
from tests.support.cancelling import Way, assert_fine, each_way, settle
from tests.support.message_writer import build_message, example_signing_key, public_key_pair
from tests.support.streaming import SIGNED, Feed, assert_idle, on_asyncio, plaintext_of
from tests.support.watching import CountingKey

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]

INLINE = 32 * 1024
LARGE = INLINE + 1
MIB = 1024 * 1024
BOUND = 2 * MIB


class Digests:
    """Digests for a queue, which note their order and thread; those that are held wait to be let go."""

    def __init__(self) -> None:
        self.queue = DigestQueue()
        self.started: list[int] = []
        self.done: list[int] = []
        self.threads: list[int] = []
        self.gates: dict[int, threading.Event] = {}

    def make(
        self, number: int, *, held: bool = False, error: BaseException | None = None
    ) -> Callable[[], None]:
        gate = self.gates[number] = threading.Event()
        if not held:
            gate.set()

        def digest() -> None:
            self.started.append(number)
            assert gate.wait(20)
            self.done.append(number)
            self.threads.append(threading.get_ident())
            if error:
                raise error

        return digest

    async def add(self, number: int, length: int, *, held: bool = False) -> None:
        await self.queue.add(self.make(number, held=held), length)

    async def add_running(self, number: int, length: int) -> None:
        """Add a digest that is held, and wait until a thread is at it."""
        await self.add(number, length, held=True)
        while number not in self.started:
            await checkpoint()

    def let_go(self, *numbers: int) -> None:
        for number in numbers or self.gates:
            self.gates[number].set()


# Order


@given(lengths=st.lists(st.sampled_from([0, 1, INLINE, LARGE, MIB, BOUND + 1]), max_size=12))
@example(lengths=[LARGE, 0])
@example(lengths=[LARGE, 0, 0, INLINE])
@settings(deadline=None, max_examples=60)
def test_digests_are_done_in_order_and_all_of_them(lengths: list[int]) -> None:
    async def check() -> None:
        digests = Digests()
        for number, length in enumerate(lengths):
            await digests.add(number, length)
        await digests.queue.join()
        assert digests.done == list(range(len(lengths)))
        await digests.queue.join()
        await digests.queue.aclose()

    anyio.run(check)


async def test_a_digest_of_no_bytes_is_waited_for_too() -> None:
    digests = Digests()
    joined = anyio.Event()

    async def join() -> None:
        await digests.queue.join()
        joined.set()

    await digests.add(0, LARGE, held=True)
    await digests.add(1, 0, held=True)
    async with anyio.create_task_group() as group:
        group.start_soon(join)
        digests.let_go(0)
        while 1 not in digests.started:
            await checkpoint()
        await settle()
        assert not joined.is_set()
        digests.let_go(1)
    assert digests.done == [0, 1]


@pytest.mark.parametrize(("length", "inline"), [(0, True), (INLINE, True), (LARGE, False)])
async def test_a_short_digest_is_done_at_once_and_a_long_one_in_a_thread(length: int, inline: bool) -> None:
    digests = Digests()
    await digests.add(0, length, held=not inline)
    assert digests.done == ([0] if inline else [])
    digests.let_go()
    await digests.queue.join()
    assert (digests.threads == [threading.get_ident()]) is inline


async def test_a_short_digest_does_not_overtake_a_long_one() -> None:
    digests = Digests()
    await digests.add(0, LARGE, held=True)
    await digests.add(1, 1)
    assert digests.done == []
    digests.let_go()
    await digests.queue.join()
    assert digests.done == [0, 1]
    await digests.add(2, 1)
    assert digests.threads[2] == threading.get_ident()


async def test_two_queues_do_not_wait_for_each_other_in_the_loop() -> None:
    first, second = Digests(), Digests()
    await first.add(0, LARGE, held=True)
    await second.add(0, 1)
    assert second.done == [0]
    await second.queue.join()
    first.let_go()
    await first.queue.join()


# Bound


async def test_add_waits_while_too_much_waits() -> None:
    digests = Digests()
    added: list[int] = []

    async def add(number: int, length: int) -> None:
        await digests.add(number, length, held=True)
        added.append(number)

    async with anyio.create_task_group() as group:
        for number, length in enumerate([MIB, MIB - 1, 1]):
            await add(number, length)
        assert added == [0, 1, 2], "exactly the bound may wait"
        group.start_soon(add, 3, MIB)
        await settle()
        assert added == [0, 1, 2]
        digests.let_go(0)
        while len(added) < 4:
            await checkpoint()
        assert digests.done == [0], "the bound is met again, and the rest still waits"
        digests.let_go()
    await digests.queue.join()
    assert digests.done == [0, 1, 2, 3]


async def test_one_digest_above_the_bound_is_waited_for() -> None:
    digests = Digests()
    added = anyio.Event()

    async def add() -> None:
        await digests.add(0, BOUND + 1, held=True)
        added.set()

    async with anyio.create_task_group() as group:
        group.start_soon(add)
        await settle()
        assert not added.is_set()
        digests.let_go()
    assert digests.done == [0]


# Join


async def test_join_waits_for_all() -> None:
    digests = Digests()
    for number in range(3):
        await digests.add(number, LARGE, held=True)
    joined = anyio.Event()

    async def join() -> None:
        await digests.queue.join()
        joined.set()

    async with anyio.create_task_group() as group:
        group.start_soon(join)
        for number in range(3):
            await settle()
            assert not joined.is_set()
            digests.let_go(number)
    assert digests.done == [0, 1, 2]


@pytest.mark.parametrize("length", [1, LARGE], ids=["inline", "thread"])
async def test_join_of_nothing_and_after_the_end_returns_at_once(length: int) -> None:
    digests = Digests()
    await digests.queue.join()
    await digests.add(0, length)
    for _ in range(2):
        await digests.queue.join()


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyboardInterrupt()], ids=repr)
async def test_the_first_failure_is_kept_and_the_rest_is_done(error: BaseException) -> None:
    digests = Digests()
    await digests.add(0, LARGE, held=True)
    await digests.queue.add(digests.make(1, error=error), LARGE)
    await digests.queue.add(digests.make(2, error=ValueError("later")), LARGE)
    await digests.add(3, LARGE)
    digests.let_go()
    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            await digests.queue.join()
        assert caught.value is error
    assert digests.done == [0, 1, 2, 3]
    await digests.queue.aclose()


async def test_a_short_digest_fails_at_once() -> None:
    digests = Digests()
    with pytest.raises(ZeroDivisionError):
        await digests.queue.add(digests.make(0, error=ZeroDivisionError()), 1)


# Close


async def test_close_drops_what_waits_and_waits_for_what_runs() -> None:
    digests = Digests()
    await digests.add_running(0, LARGE)
    for number in (1, 2):
        await digests.add(number, LARGE)
    closed: list[list[int]] = []

    async def close() -> None:
        await digests.queue.aclose()
        closed.append([*digests.done])

    async with anyio.create_task_group() as group:
        group.start_soon(close)
        await settle()
        assert closed == []
        digests.let_go()
    assert closed == [[0]]
    await digests.queue.aclose()
    await assert_fine()
    assert digests.done == [0]


@each_way
async def test_a_cancelled_close_waits_for_what_runs(way: Way) -> None:
    digests = Digests()
    await digests.add_running(0, LARGE)
    await digests.add(1, LARGE)
    closing = anyio.Event()
    closed: list[list[int]] = []

    async def close() -> None:
        closing.set()
        try:
            await digests.queue.aclose()
        finally:
            closed.append([*digests.done])

    async def let_go() -> None:
        assert closed == []
        digests.let_go()

    await way.during(closing, close, let_go)
    assert closed == [[0]]
    await assert_fine()


@each_way
@pytest.mark.parametrize("wait", ["add", "join"])
async def test_cancelled_while_waiting_for_digests(wait: str, way: Way) -> None:
    """Waiting can be cancelled at once; closing is what waits."""
    digests = Digests()
    await digests.add(0, BOUND, held=True)
    waiting = anyio.Event()

    async def use() -> None:
        waiting.set()
        await (digests.add(1, 1) if wait == "add" else digests.queue.join())

    await way.when(waiting, use)
    assert digests.done == []
    digests.let_go()
    await digests.queue.join()
    assert digests.done == ([0, 1] if wait == "add" else [0])
    await assert_fine()


# In messages, and in processes


@pytest.mark.parametrize("frame_length", [4096, 65536])
@on_asyncio
async def test_a_signed_message_with_an_empty_final_frame(frame_length: int) -> None:
    """Its digest, of nothing but the frame's overhead, comes after long ones."""
    key, plaintext = example_signing_key(SIGNED), plaintext_of(16 * 65536)
    message = build_message(
        SIGNED,
        plaintext,
        frame_length=frame_length,
        encryption_context=public_key_pair(key),
    ).data
    for _ in range(5):
        assert (await decrypt(message, CountingKey())).plaintext == plaintext
        async with decrypt_stream(Feed(message), CountingKey()) as stream:
            assert await stream.read() == plaintext
            assert stream.verified
    assert_idle()


FORKING = """
import os, signal, sys
import anyio
from aioencrypt import Offload, RawAESMasterKey, EncryptionClient, decrypt
import aioencrypt

key = RawAESMasterKey("tests", "fork", wrapping_key=bytes(32))
plaintext = bytes(5_000_000)

async def round_trip():
    # Long frames are sealed in threads, their digests run in others, and files in a third kind.
    message, _ = await EncryptionClient().encrypt(plaintext, key, frame_length=4_000_000)
    assert (await decrypt(message, key)).plaintext == plaintext
    async with aioencrypt.open(sys.argv[1], "wb", provider=key) as file:
        await file.write(b"of process %d" % os.getpid())

backend = sys.argv[2]
anyio.run(round_trip, backend=backend)
child = os.fork()
if not child:
    signal.alarm(20)
    anyio.run(round_trip, backend=backend)
    os._exit(7)
assert os.waitpid(child, 0)[1] == 7 << 8, "the child did not work"
anyio.run(round_trip, backend=backend)
print("fine")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_pools_work_after_a_fork(backend: str, tmp_path: Path) -> None:
    """Threads do not survive a fork."""
    run = subprocess.run(
        [sys.executable, "-c", FORKING, str(tmp_path / "file"), backend],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "fine\n"), run.stderr


@pytest.mark.anyio
async def test_the_error_of_a_digest_is_raised_again_with_the_same_traceback() -> None:
    def fail() -> None:
        raise ValueError("no digest")

    queue = DigestQueue()
    await queue.add(fail, 10**6)
    lengths = set()
    for _ in range(3):
        with pytest.raises(ValueError, match="no digest") as caught:
            await queue.join()
        lengths.add(len(caught.traceback))
    assert len(lengths) == 1
    await queue.aclose()
