"""What crosses from other threads into an event loop: the one file that names asyncio and trio."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

Call = Callable[[], object]


def running_loop() -> object:
    """Return an object that stands for the running event loop, and can be referenced weakly."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        token: object = trio.lowlevel.current_trio_token()
        return token
    return asyncio.get_running_loop()


def loop_caller() -> Callable[[Call], None]:
    """Return a function that makes the running loop call something soon, callable in any thread.

    It does not wait, unlike `anyio.from_thread.run_sync`, which would hold a worker up for a turn of
    the loop. When the loop has ended nobody can wait for the call, and it is dropped.
    """
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        schedule, ended = trio.lowlevel.current_trio_token().run_sync_soon, trio.RunFinishedError
    else:
        schedule, ended = asyncio.get_running_loop().call_soon_threadsafe, RuntimeError

    def call(function: Call) -> None:
        try:
            schedule(function)
        except ended:
            return

    return call
