"""Locks between threads in a forked child, and what they guard."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import anyio
import pytest

from aioencrypt import (
    AsyncCache,
    CachingCMM,
    KMSMasterKeyProvider,
    decrypt,
    encrypt,
    encrypt_stream,
    open_seekable,
)
from aioencrypt.runtime.threads import ThreadLock, thread_locks
from aioencrypt.testing import InMemoryKMS
from tests.support.observing import observed

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    # Python 3.12 and later warn of forks while threads run, which is what these tests do.
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]


@contextmanager
def in_thread(function: Callable[[threading.Event, threading.Event], object]) -> Iterator[None]:
    """Run a function in a thread. It sets the first event when it holds a lock, and waits for the second."""
    held, go = threading.Event(), threading.Event()
    thread = threading.Thread(target=function, args=(held, go))
    thread.start()
    try:
        assert held.wait(20)
        yield
    finally:
        go.set()
        thread.join(20)


def in_child(function: Callable[[], object]) -> int:
    """Call a function in a forked child; return its exit status: 0 if the function returned in time."""
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        try:
            function()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def hold(lock: ThreadLock, held: threading.Event, go: threading.Event) -> None:
    with lock:
        held.set()
        go.wait(20)


class Guarded:
    """A value behind a lock."""

    def __init__(self) -> None:
        self.lock = ThreadLock(forget=self.forget)
        self.value = "half changed"

    def forget(self) -> None:
        self.value = "new"

    def check(self, expected: str) -> None:
        with self.lock:
            assert self.value == expected


def test_a_child_replaces_a_lock_that_another_thread_holds() -> None:
    guarded = Guarded()
    with in_thread(partial(hold, guarded.lock)):
        assert in_child(partial(guarded.check, "new")) == 0
    guarded.check("half changed")


def test_a_child_keeps_what_no_other_thread_was_changing() -> None:
    guarded = Guarded()
    assert in_child(partial(guarded.check, "half changed")) == 0
    with guarded.lock:
        assert in_child(partial(guarded.check, "half changed")) == 0


def test_a_lock_does_not_keep_its_object_alive() -> None:
    lock = Guarded().lock

    def use() -> None:
        with lock:
            pass

    with in_thread(partial(hold, lock)):
        assert in_child(use) == 0


async def _value() -> str:
    return "value"


async def _get(cache: AsyncCache[Any], key: str, **options: Any) -> tuple[str, bool]:
    return await cache.get(key, _value, max_age=60, **options)


def test_a_cache_that_another_thread_was_changing_is_empty_in_the_child_and_works() -> None:
    cache = AsyncCache[str]()
    anyio.run(_get, cache, "key")

    def change(held: threading.Event, go: threading.Event) -> None:
        def usable(value: str) -> bool:  # called while the cache is locked
            held.set()
            return go.wait(20)

        anyio.run(partial(_get, cache, "key", usable=usable))

    def check() -> None:
        assert cache.statistics.size == 0
        assert anyio.run(_get, cache, "key") == ("value", False)
        assert anyio.run(_get, cache, "key") == ("value", True)

    with in_thread(change):
        assert in_child(check) == 0
    assert cache.statistics.size == 1


def hold_all(held: threading.Event, go: threading.Event) -> None:
    with ExitStack() as stack:
        for lock in list(thread_locks):
            stack.enter_context(lock)
        held.set()
        go.wait(20)


def test_everything_works_in_a_child_while_another_thread_holds_every_lock() -> None:
    kms = InMemoryKMS()
    provider = KMSMasterKeyProvider(
        [kms.create_key(region="us-east-1")], connection=kms.connection("us-east-1")
    )
    manager = CachingCMM(provider, max_age=60)

    async def round_trip() -> None:
        message, _ = await encrypt(bytes(100_000), manager)
        assert (await decrypt(message, manager)).plaintext == bytes(100_000)
        async with encrypt_stream(bytes(3_000_000), manager) as stream:
            sealed = await stream.read()
        async with open_seekable(sealed, manager, accept_unverified_signature=True) as seekable:
            assert await seekable.read_at(1_000_000, 5) == bytes(5)

    def use() -> None:
        with observed() as notes:
            anyio.run(round_trip)
        assert notes.answers
        assert kms.create_key()

    use()
    with in_thread(hold_all):
        assert in_child(use) == 0
